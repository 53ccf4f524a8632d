"""What a driver spends on a label that lands among many in flight: by wait() over all of them, and by a queue.

    python benchmarks/futures.py            seconds

Labels land one at a time, as they do while a driver keeps up. engine/cluster.py did it the first way, and does it the
second now; 10,000 workers have 20,000 labels in flight.
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from queue import SimpleQueue

from common import announce, keep

FLYING = (200, 2_000, 20_000)
LANDINGS = 200


def by_wait(n: int) -> float:
    """Return seconds a landing, each found among n futures by wait()."""
    flying = {Future() for _ in range(n)}
    began = time.perf_counter()
    for _ in range(LANDINGS):
        next(iter(flying)).set_result(None)
        (done,) = wait(flying, return_when=FIRST_COMPLETED)[0]
        flying.remove(done)
        flying.add(Future())
    return (time.perf_counter() - began) / LANDINGS


def by_queue(n: int) -> float:
    """Return seconds a landing, each future putting itself into a queue when it is done."""
    landed: SimpleQueue[Future[None]] = SimpleQueue()

    def sent() -> Future[None]:
        future: Future[None] = Future()
        future.add_done_callback(landed.put)
        return future

    flying = {sent() for _ in range(n)}
    began = time.perf_counter()
    for _ in range(LANDINGS):
        next(iter(flying)).set_result(None)
        flying.remove(landed.get())
        flying.add(sent())
    return (time.perf_counter() - began) / LANDINGS


def main() -> None:
    """Measure and print."""
    about, rows = announce("futures"), []
    print(f"{'in flight':>10s} {'wait(), ms':>11s} {'queue, ms':>10s}")
    for n in FLYING:
        row = {"name": f"{n} in flight", "flying": n, "wait": by_wait(n), "queue": by_queue(n)}
        rows.append(row)
        print(f"{n:10,d} {1e3 * row['wait']:11.3f} {1e3 * row['queue']:10.3f}", flush=True)
    keep("futures", about, rows)


if __name__ == "__main__":
    main()
