"""Where work runs: behind ``concurrent.futures.Executor``, local processes by default."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from potstill.errors import BackendError

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _die_with(parent: int) -> None:
    """End this worker once its driver is gone: a killed driver must not leave workers behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def local_processes(workers: int = 0) -> Iterator[Executor]:
    """Yield a pool of processes with one thread each.

    Parameters
    ----------
    workers : int
        Processes; 0 means one a core.
    """
    saved = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))  # read by the children when they start
    pool = ProcessPoolExecutor(
        workers or cores(),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_die_with,
        initargs=(os.getpid(),),
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def each(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 0,
    crash: Callable[[Item], Result] | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Run ``work`` on every item in worker processes and yield results as they come.

    A worker that dies (a crash inside compiled code, the kernel's memory killer) takes the whole pool with it. What was
    in flight then is run again one by one, each alone in a fresh pool, so that the item at fault is found; ``crash``
    says what to make of it.

    Parameters
    ----------
    work : picklable callable
        Its exceptions end the loop and reach the caller.
    items : iterable
        Pulled as places come free, so it may be long.
    workers : int
        Processes; 0 means one a core.
    crash : callable | None
        Makes a result of an item that killed its worker; None makes it a ``BackendError``.
    """
    queue = iter(items)
    while True:
        suspects: list[Item] = []
        with local_processes(workers) as pool:
            yield from _flights(pool, work, queue, 2 * (workers or cores()), suspects)
        if not suspects:
            return
        for item in suspects:
            yield item, _alone(work, item, crash)


def _flights(
    pool: Executor, work: Callable[[Item], Result], queue: Iterator[Item], width: int, suspects: list[Item]
) -> Iterator[tuple[Item, Result]]:
    """Keep ``width`` items in flight until the queue is empty, or the pool breaks: then fill ``suspects``."""
    flying: dict[Future[Result], Item] = {}
    while not suspects:
        for item in islice(queue, width - len(flying)):
            try:
                flying[pool.submit(work, item)] = item
            except BrokenProcessPool:
                suspects.append(item)
        if not flying:
            return
        done, _ = wait(flying, return_when=FIRST_COMPLETED)
        for future in done:
            item = flying.pop(future)
            try:
                yield item, future.result()
            except BrokenProcessPool:
                suspects.append(item)
    suspects.extend(flying.values())


def _alone(work: Callable[[Item], Result], item: Item, crash: Callable[[Item], Result] | None) -> Result:
    with local_processes(1) as pool:
        try:
            return pool.submit(work, item).result()
        except BrokenProcessPool:
            if crash is None:
                raise BackendError(
                    "A worker died twice on the same task: a crash in compiled code, or not enough memory."
                ) from None
            return crash(item)
