"""One yardstick for every library: how errors fall while it trains, and how long energy, forces and stress take.

    PYTHON torchani_.py train --data learn.extxyz --test judge.extxyz --seconds 180 --threads 1 --out folder
    PYTHON torchani_.py infer --model folder --structure a.extxyz b.extxyz --threads 1
    PYTHON torchani_.py check --model folder --structure a.extxyz

Each verb prints JSON, a line a result. PYTHON is that of the library; this file needs numpy and ase only, and a library
adds a :class:`Library`. Units: eV, Å; stress has ASE's sign.
"""

from __future__ import annotations

import os
import sys

THREADS = int(sys.argv[sys.argv.index("--threads") + 1]) if "--threads" in sys.argv else 1
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = str(THREADS)
# The last cores, since the first ones serve the machine's interrupts; before numerics start their threads.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-THREADS:])
# JAX sizes its pool of threads by the cores that it may use, so the line above holds for it too.

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import read

BLOCKS = 5
LONGEST_BLOCK = 40  # MD steps; a list of neighbours lasts about as long in a liquid
FIRST_JUDGEMENT = 15.0  # s; the next ones follow at twice the time each
AMPLITUDE = 0.05  # Å, root mean square of an atom's displacement along an axis: nickel at about 300 K
PERIOD = 200.0  # fs, of nickel's phonons
TIMESTEP = 2.0  # fs
STRAIN = 1e-4
DISPLACEMENT = 1e-3  # Å
PROPERTIES = ("energy", "forces", "stress")


class Library(Protocol):
    """What a library adds: its training and its calculator.

    Attributes
    ----------
    name : str
        How it is called in tables.
    packages : sequence of str
        Whose versions are printed.
    """

    name: str
    packages: Sequence[str]

    def train(self, data: Path, clock: Clock, out: Path, options: Mapping[str, str]) -> None:
        """Learn from a file of labelled frames until ``clock.spent`` reaches ``clock.budget``; save a model in ``out``.

        Calls ``clock.judge`` with an ASE calculator, at the end and, where it can, when ``clock.due``.
        """
        ...

    def calculator(self, model: Path, options: Mapping[str, str], *, double: bool) -> Calculator:
        """Return a saved model as an ASE calculator, in double precision or in what the library takes for MD."""
        ...


@dataclass(frozen=True)
class Errors:
    """Errors on labelled frames; virials (stress × volume, 6 components a cell) where both sides have them."""

    energy_rmse_mev_per_atom: float
    energy_mae_mev_per_atom: float
    force_rmse_mev_per_angstrom: float
    force_mae_mev_per_angstrom: float
    virial_rmse_mev: float | None


def errors(calculator: Calculator, frames: Sequence[Atoms]) -> Errors:
    """Evaluate a calculator on labelled frames."""
    energy, force, virial = [], [], []
    for frame in frames:
        atoms = frame.copy()
        atoms.calc = calculator
        labels = frame.calc.results
        wanted = [name for name in PROPERTIES if name != "stress" or atoms.pbc.all()]
        calculator.calculate(atoms, wanted)
        energy.append((calculator.results["energy"] - labels["energy"]) / len(atoms))
        force.append((calculator.results["forces"] - labels["forces"]).ravel())
        if "stress" in labels and "stress" in calculator.results:
            off = voigt(calculator.results["stress"]) - voigt(labels["stress"])
            virial.append(off * atoms.get_volume())
    of_energy, of_force = 1e3 * np.array(energy), 1e3 * np.concatenate(force)
    return Errors(
        float(np.sqrt(np.mean(of_energy**2))),
        float(np.mean(np.abs(of_energy))),
        float(np.sqrt(np.mean(of_force**2))),
        float(np.mean(np.abs(of_force))),
        1e3 * float(np.sqrt(np.mean(np.square(virial)))) if virial else None,
    )


def voigt(stress: np.ndarray) -> np.ndarray:
    """Return the 6 components of a stress that comes with 6 or with 3 × 3."""
    stress = np.asarray(stress, dtype=float)
    if stress.shape == (6,):
        return stress
    s = 0.5 * (stress.reshape(3, 3) + stress.reshape(3, 3).T)
    return s[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


class Clock:
    """Seconds of training since ``start``, those of judging left out."""

    def __init__(self, budget: float, test: Sequence[Atoms], tell: Callable[[Mapping[str, Any]], None]) -> None:
        self.budget = budget
        self._test, self._tell = test, tell
        self.start()

    def start(self) -> None:
        """Begin: what came before, such as machine code that is made once an installation, does not count."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._next = FIRST_JUDGEMENT

    @property
    def spent(self) -> float:
        """Wall seconds of training."""
        return time.perf_counter() - self._wall

    @property
    def due(self) -> bool:
        """Whether a judgement before the end is due."""
        return self.spent >= self._next and self.spent < 0.9 * self.budget

    def judge(self, calculator: Calculator, **notes: object) -> Errors:
        """Tell seconds and errors."""
        wall, cpu = time.perf_counter(), time.process_time()
        spent = {"seconds": round(wall - self._wall, 2), "cpu_seconds": round(cpu - self._cpu, 2)}
        while self._next <= wall - self._wall:
            self._next *= 2
        found = errors(calculator, self._test)
        self._tell({**spent, **vars(found), **notes, "rss_mib": rss()})
        self._wall += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu
        return found


def rss() -> int:
    """Return the most memory that this process has held, MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def check(calculator: Calculator, atoms: Atoms) -> dict[str, float]:
    """Compare forces and stress with central differences of the energy, and a cell with eight of it.

    Returns
    -------
    dict
        Largest deviations: ``force`` in meV/Å, ``virial`` in meV a cell, ``supercell`` in meV/atom.
    """

    def energy(positions: np.ndarray, cell: np.ndarray) -> float:
        moved = atoms.copy()
        moved.set_cell(cell)
        moved.positions = positions
        moved.calc = calculator
        return float(moved.get_potential_energy())

    at = atoms.copy()
    at.calc = calculator
    forces, E, cell, x = at.get_forces(), float(at.get_potential_energy()), np.array(at.cell), at.positions.copy()
    virial = at.get_stress(voigt=False) * at.get_volume()
    rng = np.random.default_rng(1)
    off_force, off_virial = 0.0, 0.0
    for k in rng.choice(x.size, size=6, replace=False):
        step = np.zeros(x.size)
        step[k] = DISPLACEMENT
        step = step.reshape(x.shape)
        slope = (energy(x + step, cell) - energy(x - step, cell)) / (2 * DISPLACEMENT)
        off_force = max(off_force, abs(slope + forces.ravel()[k]))
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[i, j] += 0.5 * STRAIN
        strain[j, i] += 0.5 * STRAIN
        up, down = np.eye(3) + strain, np.eye(3) - strain
        slope = (energy(x @ up, cell @ up) - energy(x @ down, cell @ down)) / (2 * STRAIN)
        off_virial = max(off_virial, abs(slope - virial[i, j]))
    eight = at.repeat((2, 2, 2))
    eight.calc = calculator
    off_eight = abs(float(eight.get_potential_energy()) / len(eight) - E / len(at))
    return {"force": 1e3 * off_force, "virial": 1e3 * off_virial, "supercell": 1e3 * off_eight}


class Motion:
    """An Einstein crystal: atoms swing about their places as at room temperature, a step of MD at a time."""

    def __init__(self, atoms: Atoms, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.atoms, self._places, self._step = atoms.copy(), atoms.positions.copy(), 0
        self._phase = rng.uniform(0, 2 * np.pi, atoms.positions.shape)
        self.advance()

    def advance(self) -> Atoms:
        """Move the atoms on by a step, in place."""
        angle = 2 * np.pi * self._step * TIMESTEP / PERIOD
        self.atoms.positions = self._places + np.sqrt(2) * AMPLITUDE * np.cos(angle + self._phase)
        self._step += 1
        return self.atoms


def infer(calculator: Calculator, atoms: Atoms, seconds: float, wanted: Sequence[str]) -> dict[str, float]:
    """Time calls of a calculator on moving atoms, neighbour list included.

    Returns
    -------
    dict
        ``us_per_atom``: a step of MD, the median of five blocks of up to forty steps; ``cpu_us_per_atom``: the same in
        processor time, which a busy machine lengthens less; ``cpu_share``: this over that. ``first_us_per_atom``: the
        first call on a structure of which the calculator has seen no more than the size. ``cold_seconds``: the very
        first call.
    """

    def call(motion: Motion) -> np.ndarray:
        moved = motion.advance()
        began = np.array([time.perf_counter(), time.process_time()])
        calculator.calculate(moved, list(wanted), ["positions"])
        return np.array([time.perf_counter(), time.process_time()]) - began

    motion = Motion(atoms, 1)
    cold = call(motion)[0]
    for _ in range(2 if cold < seconds else 0):  # TorchScript looks at two calls before it settles
        call(motion)
    strained = atoms.copy()
    strained.set_cell(1.01 * np.array(strained.cell), scale_atoms=True)
    motion = Motion(strained, 2)
    first = call(motion)[0]
    warm = min(call(motion)[0] for _ in range(2))
    blocks = int(np.clip(2 * seconds / warm, 2, BLOCKS))
    steps = int(np.clip(seconds / blocks / warm, 1, LONGEST_BLOCK))
    times = np.array([np.mean([call(motion) for _ in range(steps)], axis=0) for _ in range(blocks)])
    wall, cpu = np.median(times, axis=0)
    n = len(atoms)
    return {
        "us_per_atom": 1e6 * wall / n,
        "cpu_us_per_atom": 1e6 * cpu / n,
        "first_us_per_atom": 1e6 * first / n,
        "cold_seconds": cold,
        "steps": blocks * steps,
        "cpu_share": round(cpu / wall / THREADS, 2),
    }


def main(library: Library) -> None:
    """Serve the command line of one library."""
    parser = argparse.ArgumentParser(description=f"Train and time {library.name}.")
    parser.add_argument("verb", choices=["train", "infer", "check"])
    parser.add_argument("--data", type=Path, help="train: labelled frames to learn from")
    parser.add_argument("--test", type=Path, help="train: labelled frames to judge by")
    parser.add_argument("--out", type=Path, help="train: where the model goes")
    parser.add_argument("--model", type=Path, help="infer, check: a folder that train wrote")
    parser.add_argument("--structure", type=Path, nargs="+", default=[], help="infer, check: structures")
    parser.add_argument("--seconds", type=float, default=180.0, help="budget of a training, or of the time of one size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=float, default=12.0, help="GiB that the process may hold")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the library")
    given = parser.parse_args()
    options = dict(word.split("=", 1) for word in given.option)
    limit = int(given.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # not the machine's memory: others use it too

    def tell(values: Mapping[str, Any]) -> None:
        print(json.dumps({"library": library.name, **options, **values}), flush=True)

    tell({"versions": {p: metadata.version(p) for p in library.packages}, "threads": THREADS})
    if given.verb == "train":
        test = read(given.test, index=":")
        given.out.mkdir(parents=True, exist_ok=True)
        library.train(given.data, Clock(given.seconds, test, tell), given.out, options)
        tell({"check": check(library.calculator(given.out, options, double=True), test[0])})
        return
    for path in given.structure:
        atoms = read(path)
        double = given.verb == "check"
        wanted = (*PROPERTIES, *filter(None, options.get("also", "").split(",")))
        try:
            calculator = library.calculator(given.model, options, double=double)
            found = {"check": check(calculator, atoms)} if double else infer(calculator, atoms, given.seconds, wanted)
        except (MemoryError, RuntimeError) as error:
            # torch and XLA say that memory ran out by their own classes, all of them RuntimeErrors
            found = {"failed": str(error).strip().splitlines()[0][:200] if str(error) else type(error).__name__}
        tell({"atoms": len(atoms), **found, "rss_mib": rss()})
