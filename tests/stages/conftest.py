"""What several files of tests share: cells of nickel, and a small committee that relaxes structures."""

import numpy as np
import pytest
from ase.build import bulk

from potstill import crystals
from potstill.backends import resolve
from potstill.config import ModelConfig, TrainConfig
from potstill.data import Dataset, Frame, Origin
from potstill.labelling import compute
from potstill.training import train


@pytest.fixture(scope="session")
def strained():
    """Maker of n warm crystals of nickel, eight atoms each, one a little larger than the other, six to a trajectory."""

    def make(n: int, *, by: float, shaken: float) -> Dataset:
        rng = np.random.default_rng(3)
        frames = []
        for k in range(n):
            atoms = bulk("Ni", "fcc", a=3.52 * (0.97 + by * k), cubic=True).repeat((2, 1, 1))
            atoms.positions += rng.normal(0, shaken, atoms.positions.shape)
            frames.append(Frame.of(atoms, Origin("npt", f"run-{k // 6}", 300.0, 0.0, k)))
        return Dataset(frames)

    return make


@pytest.fixture(scope="session")
def lessons():
    """Labelled nickel, what is learnt and what is held out: shaken and strained crystals, fcc and hcp, nothing else."""
    reference = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
    rng = np.random.default_rng(0)
    frames = []
    for k in range(48):
        lattice = ("fcc", "hcp")[k % 2]
        atoms = crystals.supercell(lattice, "Ni", 10.9 * rng.uniform(0.85, 1.2), 8)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.12 * rng.random(), atoms.positions.shape)
        frames.append(Frame.of(atoms, Origin("made", f"run-{k % 6}")))
    known = Dataset(f.labelled(compute(f, reference)) for f in frames)
    return tuple(Dataset(f for f in known if (f.origin.trajectory == "run-5") == held) for held in (False, True))


@pytest.fixture(scope="session")
def model(lessons):
    """A committee that learnt the first of them."""
    small = ModelConfig(n_radial=12, n_angular=4, l_max=3, hidden=(16, 16))
    return train(lessons[0], small, TrainConfig(members=3, steps=400), seed=1, calibrate_on=lessons[1])
