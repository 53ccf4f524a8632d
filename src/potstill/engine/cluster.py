"""Work on a batch system's nodes, through parsl: Slurm, PBS, LSF, Kubernetes, or jobs on this machine.

Workers, not the driver, write what they find into the store, so a job that ends (walltime, ``scancel``, a broken node)
costs the tasks in flight, which are sent again; and a driver that dies costs those too, because its jobs end with it.
Babuji et al., HPDC '19 (2019), for parsl.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from potstill.config import ClusterConfig, seconds
from potstill.engine.local import Places, cores, end_with, given_up
from potstill.errors import BackendError

Item = TypeVar("Item")
Result = TypeVar("Result")

LOST_JOBS = 10  # times that a task is sent again because its job ended; its own doing after that
AHEAD = 2  # tasks sent for each place, so that none waits for the driver
ONE_THREAD = [f"export {v}_NUM_THREADS=1" for v in ("OMP", "OPENBLAS", "MKL", "NUMBA")]
INTERCHANGE = Path(__file__).with_name("interchange.py")


@dataclass(frozen=True)
class Cluster:
    """A batch system.

    Attributes
    ----------
    settings : ClusterConfig
        What a job asks for.
    folder : path
        Of parsl's logs and the jobs' scripts; nodes must see it.
    longest : float
        s that one task takes at most, where that is known; a job begins none later than so long before its end.
    heartbeat : int
        s after which silence means that a job is gone.
    """

    settings: ClusterConfig
    folder: Path
    longest: float = 0.0
    heartbeat: int = 60

    @property
    def places(self) -> int:
        """Tasks that run at a time at most; nodes of unknown size count as one of this machine's."""
        s = self.settings
        return s.jobs * s.nodes * max(1, (s.cores or cores()) // s.cores_per_label)

    def each(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        crash: Callable[[Item], Result] | None = None,
    ) -> Iterator[tuple[Item, Result]]:
        """Run ``work`` on every item and yield results as they come, as :func:`potstill.engine.each` does.

        Raises
        ------
        BackendError
            If parsl is not installed, or the batch system takes no job.
        """
        try:
            from parsl.concurrent import ParslPoolExecutor
            from parsl.executors.errors import BadStateException
            from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
            from parsl.jobs.errors import TooManyJobFailuresError
        except ModuleNotFoundError:
            raise BackendError("The section [cluster] needs parsl: pip install 'potstill[cluster]'.") from None
        queue = iter(items)
        first = next(queue, None)
        if first is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        flying: dict[Future[Any], tuple[Item, int]] = {}
        done: SimpleQueue[Future[Any]] = SimpleQueue()  # wait() would look at all that fly for each that lands
        with _logged(self.folder / "parsl.log"), _ended(ParslPoolExecutor(config=self._parsl())) as pool:

            def send(item: Item, lost: int) -> None:
                future = pool.submit(_in_place, work, item)
                flying[future] = item, lost
                future.add_done_callback(done.put)

            send(first, 0)
            while flying:
                while len(flying) < AHEAD * self.places and (item := next(queue, None)) is not None:
                    send(item, 0)
                future = done.get()
                item, lost = flying.pop(future)
                error = future.exception()
                if isinstance(error, (BadStateException, TooManyJobFailuresError)):
                    said = " ".join(str(error).partition("Error 2:")[0].split())  # they are alike
                    raise BackendError(
                        f"The batch system ran no job for potstill. It said: {said[:500]}. The jobs' scripts and "
                        f"output are in {self.folder}."
                    ) from None
                if isinstance(error, (ManagerLost, WorkerLost)) and lost < LOST_JOBS:
                    send(item, lost + 1)
                elif isinstance(error, (ManagerLost, WorkerLost)) or isinstance(future.result(), _Gone):
                    yield item, given_up(item, crash)
                else:
                    yield item, future.result()

    def _parsl(self) -> Any:
        """Return parsl's configuration."""
        from parsl import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.jobs.error_handlers import windowed_error_handler

        s = self.settings
        drain: int | None = s.seconds_to_work
        if s.drain and not seconds(s.drain):
            drain = None
        elif self.longest and not s.drain:
            drain = max(60, seconds(s.walltime) - int(self.longest) - 60)
        executor = HighThroughputExecutor(
            label="potstill",
            provider=self._provider(),
            address=s.address or ("127.0.0.1" if s.provider == "local" else _address()),
            interchange_launch_cmd=[sys.executable, str(INTERCHANGE)],
            cores_per_worker=s.cores_per_label,
            max_workers_per_node=max(1, s.cores // s.cores_per_label) if s.cores else None,
            drain_period=drain,
            heartbeat_period=max(1, self.heartbeat // 4),
            heartbeat_threshold=self.heartbeat,
            block_error_handler=windowed_error_handler,
        )
        return Config(
            executors=[executor],
            run_dir=str(self.folder),
            initialize_logging=False,
            strategy="htex_auto_scale",
            max_idletime=30.0,
            retries=0,
        )

    def _provider(self) -> Any:
        from parsl import launchers, providers

        s = self.settings
        programs = shlex.quote(str(Path(sys.executable).parent))  # which nobody need have activated
        begin = "\n".join([*ONE_THREAD, f"export PATH={programs}:$PATH"])
        common: dict[str, Any] = {"init_blocks": 0, "min_blocks": 0, "max_blocks": s.jobs, "worker_init": begin}
        if s.provider == "local":
            return providers.LocalProvider(**common)
        if s.provider == "kubernetes":
            size: dict[str, Any] = {"init_cpu": s.cores, "max_cpu": s.cores}
            if s.memory:
                size |= {"init_mem": f"{s.memory}Gi", "max_mem": f"{s.memory}Gi"}
            place = {"namespace": s.partition or "default", "image": s.image}
            return providers.KubernetesProvider(**common, **place, **size, nodes_per_block=s.nodes)
        common |= {"walltime": s.walltime, "nodes_per_block": s.nodes}
        many = s.nodes > 1
        if s.provider == "slurm":
            return providers.SlurmProvider(
                **common,
                partition=s.partition or None,
                account=s.account or None,
                qos=s.qos or None,
                constraint=s.constraint or None,
                cores_per_node=s.cores or None,
                mem_per_node=s.memory or None,
                exclusive=not s.cores,
                cmd_timeout=120,
                launcher=launchers.SrunLauncher() if many else launchers.SingleNodeLauncher(),
            )
        common["launcher"] = launchers.MpiExecLauncher() if many else launchers.SingleNodeLauncher()
        if s.provider == "pbs":
            return providers.PBSProProvider(
                **common,
                queue=s.partition or None,
                account=s.account or None,
                cpus_per_node=s.cores,
                select_options=f"mem={s.memory}gb" if s.memory else "",
                scheduler_options="#PBS -V",  # the driver's environment, as the others do by themselves
            )
        return providers.LSFProvider(
            **common, queue=s.partition or None, project=s.account or None, cores_per_node=s.cores
        )


@contextmanager
def _ended(pool: Any) -> Iterator[Any]:
    """End jobs with the work, however that ends; parsl by itself would wait for tasks that nobody wants any more."""
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)


@contextmanager
def _logged(file: Path) -> Iterator[None]:
    """Keep what parsl has to say in a file, and out of the terminal."""
    log = logging.getLogger("parsl")
    before = log.propagate, log.level
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.propagate = before[0]
        log.setLevel(before[1])
        log.removeHandler(handler)
        handler.close()


@cache
def _place(_pid: int) -> Places:
    """Return the process in which a node's worker has its tasks done."""
    end_with(os.getppid())
    return Places(1)


class _Gone:
    """What stands for the result of a task that took its process with it, twice."""

    def __init__(self, _item: object) -> None: ...


def _in_place(work: Callable[[Item], Result], item: Item) -> Result | _Gone:
    """Do a task on a node, in a process beside parsl's worker.

    A worker that dies may hold the lock of the pipe that all workers of its node send results through, and then none of
    them is heard of again.
    """
    outcome: Callable[[Item], Result | _Gone] = work
    [(_, result)] = _place(os.getpid()).run(outcome, iter([item]), _Gone)
    return result


def _address() -> str:
    """Return the address of the interface that leads out; no packet is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation
        except OSError:
            return socket.gethostbyname(socket.gethostname())
        name: str = probe.getsockname()[0]
        return name
