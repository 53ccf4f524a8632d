"""The ladder of NPT runs: every temperature × pressure × cell size, from the crystal and from the melt.

The plain way to broad coverage, and the baseline for extended ensembles. Crystals start with a small random strain
that the isotropic barostat keeps, so that shear is in the data; melts are made by heating the crystal at the highest
temperature of the ladder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill import crystals
from potstill.config import SampleConfig
from potstill.data import Dataset, Frame, Origin
from potstill.engine import each
from potstill.errors import ConvergenceError
from potstill.protocols import Potential, State
from potstill.sampling.dynamics import dynamics
from potstill.sampling.metal import LADDER_PRESSURES, Metal
from potstill.store import Units, digest, read_json

if TYPE_CHECKING:
    from ase import Atoms

STRIDE = 100  # MD steps between kept frames, where nothing else is asked for
STRAIN = 0.02  # standard deviation of the components of a crystal's starting strain


@dataclass(frozen=True)
class Rung:
    """One trajectory of the ladder, a :class:`~potstill.protocols.Sampler`.

    Attributes
    ----------
    start : str
        ``crystal`` or ``melt``.
    temperature, pressure : float
        K, GPa.
    n_atoms : int
        Asked for; the nearest supercell is taken.
    melt_temperature : float
        K, where a melt is made; that of the rung itself for a crystal.
    steps, equilibration, melting, stride : int
        MD steps.
    timestep : float
        fs.
    """

    start: str
    temperature: float
    pressure: float
    n_atoms: int
    melt_temperature: float
    steps: int
    equilibration: int
    melting: int
    stride: int
    timestep: float

    @property
    def name(self) -> str:
        """The trajectory's name."""
        return f"{self.start}-{self.n_atoms}-{self.temperature:g}K-{self.pressure:g}GPa"

    def sample(self, start: Atoms, potential: Potential, *, rng: np.random.Generator) -> Iterator[Frame]:
        """Yield the kept frames.

        Raises
        ------
        ConvergenceError
            If the run evaporates or explodes; frames yielded before stay valid.
        """
        state = State(self.temperature, self.pressure)
        stages = [(state, self.equilibration, 0), (state, self.steps, self.stride)]
        begin = start.copy()
        if self.start == "melt":
            stages.insert(0, (State(self.melt_temperature, self.pressure), self.melting, 0))
        else:
            noise = rng.normal(0.0, STRAIN, (3, 3))
            strain = 0.5 * (noise + noise.T)
            begin.set_cell(begin.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        seed = int(rng.integers(1, 2**31 - 1))
        for _, step, atoms in dynamics(potential, begin, stages, timestep=self.timestep, seed=seed):
            origin = Origin("npt-ladder", self.name, self.temperature, self.pressure, step)
            yield Frame.of(atoms, origin)


def rungs(settings: SampleConfig, metal: Metal) -> list[Rung]:
    """List the trajectories of a ladder; what is not set of its rungs follows from the metal's cohesion."""
    temperatures = settings.temperature or metal.ladder_temperatures()
    return [
        Rung(
            start,
            temperature,
            pressure,
            n_atoms,
            max(temperatures) if start == "melt" else temperature,
            settings.steps,
            settings.equilibration,
            settings.melting if start == "melt" else 0,
            settings.stride or STRIDE,
            settings.timestep,
        )
        for n_atoms in settings.atoms
        for start in settings.start
        for pressure in settings.pressure or metal.pressures(LADDER_PRESSURES)
        for temperature in temperatures
    ]


def _run(
    rung: Rung, *, crystal: str, element: str, volume: float, potential: Potential, seed: int, folder: Path
) -> Any:
    """Run one rung and store its frames; a rung that breaks down keeps what it has."""
    what = {"rung": asdict(rung), "crystal": crystal, "element": element, "volume": volume, "seed": seed}
    what["potential"] = potential.fingerprint
    name = digest(what)
    file = folder / f"{name}.extxyz"

    note = folder / f"{name}.json"  # written after the frames; without them it is worth nothing
    if note.exists() and not file.exists() and read_json(note)["value"]["n_frames"]:
        note.unlink()

    def compute() -> dict[str, Any]:
        rng = np.random.default_rng(int(name, 16))
        start = crystals.supercell(crystal, element, volume, rung.n_atoms)
        frames: list[Frame] = []
        stopped = ""
        try:
            frames.extend(rung.sample(start, potential, rng=rng))
        except ConvergenceError as error:
            stopped = str(error)
        if frames:
            Dataset(frames).save(file)
        return {"file": file.name, "n_frames": len(frames), "stopped": stopped}

    return Units(folder).get(what, compute)


def climb(
    settings: SampleConfig,
    metal: Metal,
    potential: Potential,
    *,
    seed: int,
    folder: Path,
    workers: int,
    tell: Callable[[str], None],
) -> tuple[Dataset, dict[str, Any]]:
    """Run the whole ladder in parallel; finished rungs in ``folder`` are not run again.

    Returns
    -------
    pool : Dataset
        Frames of all rungs, in the ladder's order.
    summary : dict
        Counts, and what stopped early.

    Raises
    ------
    ConvergenceError
        If no rung gave a frame.
    """
    ladder = rungs(settings, metal)
    tell(f"sample: npt-ladder of {len(ladder)} trajectories")
    work = partial(
        _run,
        crystal=metal.crystal,
        element=settings.element,
        volume=metal.volume,
        potential=potential,
        seed=seed,
        folder=folder / "trajectories",
    )
    notes: dict[Rung, Any] = {}
    for rung, note in each(work, ladder, workers=workers):
        notes[rung] = note
        if note["stopped"]:
            tell(f"sample: {rung.name} stopped early with {note['n_frames']} frames: {note['stopped']}")
        if len(notes) % max(1, len(ladder) // 8) == 0 or len(notes) == len(ladder):
            total = sum(n["n_frames"] for n in notes.values())
            tell(f"sample: {len(notes)}/{len(ladder)} trajectories, {total} frames")
    frames: list[Frame] = []
    for rung in ladder:
        if notes[rung]["n_frames"]:
            frames.extend(Dataset.load(folder / "trajectories" / notes[rung]["file"]))
    if not frames:
        raise ConvergenceError(
            "No trajectory of the ladder gave a frame: "
            + "; ".join(sorted({n["stopped"] for n in notes.values()}))
            + ". Check that the potential describes this metal, and lower the temperatures."
        )
    pool = Dataset(frames)
    summary = {
        "n_frames": len(pool),
        "n_trajectories": len(ladder),
        "stopped_early": {r.name: notes[r]["stopped"] for r in ladder if notes[r]["stopped"]},
        "atoms": sorted({f.n_atoms for f in pool}),
        "md_steps": sum(r.steps + r.equilibration + (r.melting if r.start == "melt" else 0) for r in ladder),
    }
    return pool, summary
