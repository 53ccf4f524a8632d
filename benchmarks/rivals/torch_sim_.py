"""Relax structures by torch-sim's batched FIRE with our own model behind its interface.

PYTHON torch_sim_.py --model folder --file structures.extxyz
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from ase.io import read
from torch_sim.models.interface import ModelInterface

from potstill.data import Frame
from potstill.model import Committee

TOLERANCE, STEPS = 0.01, 500


class Ours(ModelInterface):
    """A committee's mean, as torch-sim wants it."""

    def __init__(self, committee: Committee) -> None:
        super().__init__()
        self.committee = committee
        self._device, self._dtype = torch.device("cpu"), torch.float64
        self._compute_stress = self._compute_forces = True

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        """Return energies (n_systems,), forces (n_atoms, 3) and stresses (n_systems, 3, 3)."""
        if isinstance(state, dict):
            state = ts.SimState(**state, masses=torch.ones_like(state["positions"][:, 0]), pbc=True)
        owner, positions = state.system_idx.numpy(), state.positions.detach().numpy()
        numbers, cells = state.atomic_numbers.numpy(), state.cell.detach().numpy()
        frames = [
            Frame(Atoms(numbers[owner == k], positions[owner == k], cell=cells[k].T, pbc=True))
            for k in range(len(cells))
        ]
        found = self.committee.predict(frames, mean=True)
        volumes = np.abs(np.linalg.det(cells))
        return {
            "energy": torch.tensor([float(p.energy[0]) for p in found], dtype=torch.float64),
            "forces": torch.tensor(np.concatenate([p.forces[0] for p in found])),
            "stress": torch.tensor(np.array([p.virial[0] / v for p, v in zip(found, volumes, strict=True)])),
        }


def main() -> None:
    """Time the relaxation of all, once what is compiled is compiled."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    given = parser.parse_args()
    model, structures = Ours(Committee.load(given.model)), read(given.file, index=":")
    how = {
        "optimizer": ts.frechet_cell_fire,
        "convergence_fn": ts.generate_force_convergence_fn(TOLERANCE),
    }
    ts.optimize(structures[:2], model, max_steps=5, **how)
    began = time.perf_counter()
    final = ts.optimize(structures, model, max_steps=STEPS, **how)
    seconds = time.perf_counter() - began
    atoms = torch.bincount(final.system_idx).numpy()
    rested = ts.generate_force_convergence_fn(TOLERANCE)(final, None).numpy()
    energies = (final.energy.numpy() / atoms).tolist()
    print(
        json.dumps(
            {
                "seconds": seconds,
                "per_minute": 60 * len(energies) / seconds,
                "n": len(energies),
                "converged": int(rested.sum()),
                "versions": {p: metadata.version(p) for p in ("torch-sim-atomistic", "torch")},
                "energies": [e if r and np.isfinite(e) else None for e, r in zip(energies, rested, strict=True)],
            }
        )
    )


if __name__ == "__main__":
    main()
