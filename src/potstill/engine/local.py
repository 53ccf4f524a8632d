"""Work on this machine: behind ``concurrent.futures.Executor``, one process a place."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from potstill.errors import BackendError

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read when a library is loaded


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_worker() -> None:
    """End this worker, and every program that it has started, at once."""
    os.killpg(0, signal.SIGKILL)


def end_with(parent: int) -> None:
    """Lead a group of processes of its own, and end with the parent: a killed driver must not leave workers behind."""
    os.setpgid(0, 0)  # so that what a worker starts ends with it; and Ctrl-C is the driver's to understand

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        end_worker()

    threading.Thread(target=watch, daemon=True).start()


def _begin(parent: int) -> None:
    """Begin a worker: it ends with its parent, and numba has one thread in it.

    That is not asked for by the parent's environment, which numba looks at whenever it compiles, and where it bears no
    change once its threads run.
    """
    end_with(parent)
    os.environ["NUMBA_NUM_THREADS"] = "1"
    if numba := sys.modules.get("numba"):  # what the driver's script imports is imported here before
        numba.config.reload_config()
        numba.set_num_threads(1)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that start within it compute with one thread."""
    saved = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))  # read by the children when they start
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _processes(n: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(n, mp_context=context, initializer=_begin, initargs=(os.getpid(),))


@contextmanager
def local_processes(workers: int = 0) -> Iterator[Executor]:
    """Yield a pool of processes with one thread each.

    Parameters
    ----------
    workers : int
        Processes; 0 means one a core.
    """
    with _one_thread_each():
        pool = _processes(workers or cores())
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def each(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 0,
    crash: Callable[[Item], Result] | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Run ``work`` on every item in worker processes and yield results as they come.

    A worker may die: a crash inside compiled code, the kernel's memory killer. Each has a place of its own, so that its
    death costs nobody else anything; its item is tried once more by a fresh worker, and then ``crash`` says what to
    make of it.

    Parameters
    ----------
    work : picklable callable
        Its exceptions end the loop and reach the caller.
    items : iterable
        Pulled as places come free, so it may be long.
    workers : int
        Processes; 0 means one a core.
    crash : callable | None
        Makes a result of an item that killed two workers; None makes it a ``BackendError``.
    """
    queue = iter(items)
    with _one_thread_each():
        places = Places(workers or cores())
        try:
            yield from places.run(work, queue, crash)
        finally:
            places.close()


class Places:
    """Executors of one process each, and what flies in them.

    Parameters
    ----------
    n : int
        Processes; each starts with its first item and stays for the next.
    """

    def __init__(self, n: int) -> None:
        self.idle = [_processes(1) for _ in range(n)]
        self.flying: dict[Future[Any], tuple[ProcessPoolExecutor, Any, int]] = {}

    def run(
        self, work: Callable[[Item], Result], queue: Iterator[Item], crash: Callable[[Item], Result] | None
    ) -> Iterator[tuple[Item, Result]]:
        """Keep every place busy until the queue is empty, as :func:`each` does."""
        while True:
            while self.idle:
                try:
                    item = next(queue)
                except StopIteration:
                    break
                self._send(self.idle.pop(), work, item, 1)
            if not self.flying:
                return
            for future in wait(self.flying, return_when=FIRST_COMPLETED)[0]:
                place, item, attempt = self.flying.pop(future)
                died = isinstance(future.exception(), BrokenProcessPool)
                if died:
                    place.shutdown(wait=False)
                    place = _processes(1)
                if died and attempt == 1:
                    self._send(place, work, item, 2)
                    continue
                self.idle.append(place)
                yield item, given_up(item, crash) if died else future.result()

    def _send(self, place: ProcessPoolExecutor, work: Callable[[Item], Result], item: Item, attempt: int) -> None:
        try:
            future = place.submit(work, item)
        except BrokenProcessPool:  # its worker died while it had nothing to do
            place.shutdown(wait=False)
            place = _processes(1)
            future = place.submit(work, item)
        self.flying[future] = place, item, attempt

    def close(self) -> None:
        """End the processes."""
        for place in [*self.idle, *(place for place, _, _ in self.flying.values())]:
            place.shutdown(wait=True, cancel_futures=True)


def given_up(item: Item, crash: Callable[[Item], Result] | None) -> Result:
    """Return what to make of an item that killed two workers."""
    if crash is None:
        raise BackendError("A worker died twice on the same task: a crash in compiled code, or not enough memory.")
    return crash(item)
