"""torchani: ANI, as the method that the seed paper took, for one metal. See harness.py for the verbs.

Batches of any cells go through the library's own descriptors at once: its lists of pairs are made once a frame, and
frames stand side by side as one structure without pairs between them. It learns from energies and forces, as ANI is
published. The rate falls with a cosine to the end of the budget, and the running average of the weights is judged.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import harness
import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import read
from ase.units import Hartree
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchani.aev import ANIAngular, ANIRadial
from torchani.arch import ANI, Assembler
from torchani.neighbors import Neighbors
from torchani.nn import ANINetworks

torch.set_num_threads(harness.THREADS)

NEAREST = 1.6  # Å; no two metal atoms of the data come closer
RADIAL, ANGULAR = 5.2, 3.5  # Å, the cutoffs
WIDTHS = (160, 128, 96)
BATCH = 16
RATE = 2e-3
ENERGY, FORCE = 0.004, 0.05  # eV/atom, eV/Å: errors of this size cost alike
AVERAGE = 0.99


def network(symbol: str, energy: float) -> ANI:
    """Return an untrained model whose atoms begin at ``energy`` eV."""
    assembler = Assembler([symbol], neighborlist="adaptive")
    assembler.set_global_cutoff_fn("cosine")
    assembler.set_aev_computer(
        radial=ANIRadial.cover_linearly(start=NEAREST, cutoff=RADIAL, eta=16.0, num_shifts=16),
        angular=ANIAngular.cover_linearly(
            start=NEAREST, cutoff=ANGULAR, eta=8.0, zeta=32.0, num_shifts=4, num_sections=8
        ),
    )
    widths = {"dims": {symbol: WIDTHS}, "activation": "celu", "bias": True}
    assembler.set_atomic_networks(ANINetworks, "build", widths)
    assembler.set_self_energies({symbol: energy / Hartree})
    return assembler.assemble()


def exported(model: ANI) -> ANI:
    """Return a copy whose network gives Hartree, as the library's calculator expects; training is in eV."""
    found = copy.deepcopy(model)
    last = found.neural_networks.atomics[found.symbols[0]].final_layer
    with torch.no_grad():
        last.weight /= Hartree
        last.bias /= Hartree
    return found


@dataclass(frozen=True)
class Example:
    """A frame with its pairs: ``pairs`` (2, P), ``shifts`` (P, 3), labels in eV."""

    positions: torch.Tensor
    pairs: torch.Tensor
    shifts: torch.Tensor
    energy: float
    forces: torch.Tensor

    @classmethod
    def of(cls, atoms: Atoms, model: ANI) -> Example:
        """Find the pairs by the library's own list."""
        x = torch.tensor(atoms.positions, dtype=torch.float64)
        species = torch.zeros(1, len(atoms), dtype=torch.long)
        cell, pbc = torch.tensor(np.array(atoms.cell)), torch.tensor(atoms.pbc)
        found = model.neighborlist(RADIAL, species, x[None], cell, pbc)
        shifts = found.diff_vectors - (x[found.indices[0]] - x[found.indices[1]])
        labels = atoms.calc.results
        forces = torch.tensor(labels["forces"], dtype=torch.float32)
        return cls(x.float(), found.indices, shifts.float(), float(labels["energy"]), forces)


def predict(model: ANI, level: float, batch: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return energies (B,) and forces (all atoms, 3) in eV and eV/Å, differentiable by the weights."""
    sizes = torch.tensor([len(e.positions) for e in batch])
    first = torch.cumsum(sizes, 0) - sizes
    x = torch.cat([e.positions for e in batch]).requires_grad_()
    pairs = torch.cat([e.pairs + n for e, n in zip(batch, first, strict=True)], dim=1)
    vectors = x[pairs[0]] - x[pairs[1]] + torch.cat([e.shifts for e in batch])
    neighbors = Neighbors(pairs, vectors.norm(dim=-1), vectors)
    species = torch.zeros(1, len(x), dtype=torch.long)
    aev = model.aev_computer.compute_from_neighbors(species, x[None], neighbors)
    atomic = model.neural_networks(species, aev, atomic=True)[0] + level
    frame = torch.repeat_interleave(torch.arange(len(batch)), sizes)
    energy = torch.zeros(len(batch)).index_add(0, frame, atomic)
    return energy, -torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


class TorchANI:
    """ANI on one element."""

    name = "torchani"
    packages = ("torchani", "torch")

    def train(self, data: Path, clock: harness.Clock, out: Path, options: Mapping[str, str]) -> None:
        """Train on energies and forces until the budget is spent."""
        torch.manual_seed(int(options.get("seed", "1")))
        rng = np.random.default_rng(1)
        frames = read(data, index=":")
        symbol = frames[0].symbols[0]
        level = float(np.mean([f.calc.results["energy"] / len(f) for f in frames]))
        model = network(symbol, level)
        examples = [Example.of(f, model) for f in frames]
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
        optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-6)
        step = 0
        while clock.spent < clock.budget:
            order = rng.permutation(len(examples))
            for some in np.array_split(order, max(1, len(order) // BATCH)):
                rate = RATE * min(1.0, (step + 1) / 100)
                rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, clock.spent / clock.budget))) + 1e-3
                optimiser.param_groups[0]["lr"] = rate
                batch = [examples[k] for k in some]
                energy, forces = predict(model, level, batch)
                sizes = torch.tensor([len(e.positions) for e in batch])
                off_energy = (energy - torch.tensor([e.energy for e in batch])) / (sizes * ENERGY)
                off_forces = (forces - torch.cat([e.forces for e in batch])) / FORCE
                optimiser.zero_grad()
                (off_energy.square().mean() + off_forces.square().mean()).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
                optimiser.step()
                average.update_parameters(model)
                step += 1
                if clock.spent >= clock.budget:
                    break
                if clock.due:
                    clock.judge(exported(average.module).ase(), epochs=round(step * BATCH / len(examples), 2))
        torch.save({"symbol": symbol, "level": level, "weights": exported(average.module).state_dict()}, out / "ani.pt")
        clock.judge(exported(average.module).ase(), epochs=round(step * BATCH / len(examples), 2))

    def calculator(self, model: Path, options: Mapping[str, str], *, double: bool) -> Calculator:
        """Return the library's own calculator; ``jit=1`` compiles the model by TorchScript."""
        saved = torch.load(model / "ani.pt")
        found = network(saved["symbol"], saved["level"])
        found.load_state_dict(saved["weights"])
        kind = options.get("stress", "scaling")
        return (found.double() if double else found.float()).ase(stress_kind=kind, jit=options.get("jit") == "1")


if __name__ == "__main__":
    harness.main(TorchANI())
