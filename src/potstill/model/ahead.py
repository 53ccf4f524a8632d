"""The loops of training and inference, compiled side by side before they are called: a shorter wait at the first run.

Compiling them takes a core a minute or more, once an installation. Each would be compiled when it is first called,
while the caller waits; instead a process in the background calls each on next to nothing, first those that are needed
last.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from potstill.compiled import alone, on_disk, place_of
from potstill.model import gradients, kernels, network
from potstill.model.descriptor import Descriptor
from potstill.model.neighbours import Geometry

_NICE = 5  # what the caller itself compiles goes before


def _lone_atom() -> tuple[Descriptor, Geometry]:
    row, short = np.zeros(1, np.int64), np.zeros(1, np.int32)
    ends = np.array([0, 1])
    x = np.zeros((1, 3))
    geometry = Geometry(np.zeros(2, np.int64), np.zeros(0, np.int32), x, short, short, row, x, ends, ends)
    return Descriptor(("H",)), geometry


def _infer() -> None:
    d, g = _lone_atom()
    F = d.n_features
    weights = [(np.zeros((1, 1, F, 8)), np.zeros((1, 1, 8))), (np.zeros((1, 1, 8, 1)), np.zeros((1, 1, 1)))]
    net = network.pack(np.zeros((1, 1)), np.zeros((1, 1, F)), weights)
    network.infer(g, d.shape, net, network.no_wall(1), apart=False)


def _pull(*, back: bool = False) -> None:
    d, g = _lone_atom()
    frames, edges = np.zeros(1, np.int64), (g.first, g.second, g.x, g.owner, g.kinds, g.centre)
    C, by_g = np.zeros(kernels.coefficients(d.shape), np.float32), np.zeros((1, 1, d.n_features), np.float32)
    forces, virial = np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 6), np.float32)
    if back:
        gradients.batch_push(frames, g.atoms, g.atoms, *edges, d.shape, C, forces, virial, by_g)
    else:
        gradients.batch_pull(frames, g.atoms, g.atoms, *edges, d.shape, by_g, C, forces, virial)


def _push() -> None:
    _pull(back=True)


def _design() -> None:
    d, g = _lone_atom()
    d.design(g)


def _describe() -> None:
    d, g = _lone_atom()
    d.compute(g)


CALLS: Mapping[str, tuple[object, Callable[[], None]]] = {  # by whose machine code it is; last needed first
    "infer": (network._in_slabs, _infer),  # noqa: SLF001
    "push": (gradients.batch_push, _push),
    "pull": (gradients.batch_pull, _pull),
    "design": (gradients.design, _design),
    "describe": (gradients.describe_atoms, _describe),
}


def missing() -> list[str]:
    """Return the calls whose machine code is not on the disk."""
    return [name for name, (loop, _) in CALLS.items() if not on_disk(loop)]


def call(name: str) -> None:
    """Make one of the calls."""
    CALLS[name][1]()


def work() -> None:
    """Make the calls that are missing, side by side, with a core left for the caller: the process of :func:`start`.

    Of many callers, one has it made.
    """
    os.nice(_NICE)
    cores = len(os.sched_getaffinity(0))
    with (
        alone(place_of(gradients.design) / "ahead.lock", wait=False) as mine,
        ThreadPoolExecutor(max(1, cores - 1)) as pool,
    ):
        if mine:
            list(pool.map(lambda name: _python(f"call({name!r})").wait(), missing()))


@lru_cache(maxsize=1)  # once a process
def start() -> subprocess.Popen[bytes] | None:
    """Compile in the background what is not on the disk yet; None where all is, or where no process can be started."""
    try:
        return _python("work()") if missing() else None
    except OSError:
        return None


def _python(what: str) -> subprocess.Popen[bytes]:
    script = f"from potstill.model import ahead; ahead.{what}"
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
