"""MACE, small: 16 scalar channels, one layer or two (``--option layers=2``). See harness.py for the verbs.

The library's own graphs, losses and optimiser settings (AMSGrad, weight decay on the linear parts, running average of
the weights, and its two stages: forces first, energies in the last quarter). Its training script counts epochs; this
loop counts seconds, and lets the rate fall with a cosine to the end of the first stage. Single precision.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import harness
import numpy as np

warnings.filterwarnings("ignore")  # e3nn's and torch's, about each other's age
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # e3nn keeps its constants in a pickle, as old as that

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import read
from e3nn import o3
from mace import data as mace_data
from mace import modules, tools
from mace.calculators import MACECalculator
from mace.tools import torch_geometric
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.set_num_threads(harness.THREADS)

CUTOFF = 5.0  # Å, the library's default
BATCH = 10
RATE, LAST_RATE = 0.01, 0.001
WEIGHT_DECAY = 5e-7
AVERAGE = 0.99
SECOND_STAGE = 0.75  # of the budget
LOSSES = ({"energy_weight": 1.0, "stress_weight": 1.0}, {"energy_weight": 1000.0, "stress_weight": 10.0})
FORCES_WEIGHT = 100.0


def graph(atoms: Atoms, table: tools.AtomicNumberTable) -> mace_data.AtomicData:
    """Return a labelled frame as the library's graph."""
    labels = atoms.calc.results
    properties = {name: labels[name] for name in harness.PROPERTIES if name in labels}
    weights = {name: float(name in labels) for name in harness.PROPERTIES}
    config = mace_data.Configuration(
        atoms.numbers, atoms.positions, properties, weights, cell=np.array(atoms.cell), pbc=tuple(atoms.pbc)
    )
    return mace_data.AtomicData.from_config(config, z_table=table, cutoff=CUTOFF)


def network(loader: torch_geometric.dataloader.DataLoader, numbers: Sequence[int], level: float, layers: int):
    """Return an untrained model, scaled by the data's forces."""
    energies = np.full((1, len(numbers)), level)
    mean, spread = modules.compute_mean_rms_energy_forces(loader, energies)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=layers,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps("16x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=energies,
        avg_num_neighbors=modules.compute_avg_num_neighbors(loader),
        atomic_numbers=list(numbers),
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=spread,
        atomic_inter_shift=mean,
    )


def groups(model: torch.nn.Module) -> list[dict]:
    """Return the parameters, with decay where the library has it."""
    decays = {n for n, _ in model.named_parameters() if "linear.weight" in n or "skip_tp" in n or "products" in n}
    named = dict(model.named_parameters())
    return [
        {"params": [p for n, p in named.items() if n in decays], "weight_decay": WEIGHT_DECAY},
        {"params": [p for n, p in named.items() if n not in decays], "weight_decay": 0.0},
    ]


class MACE:
    """MACE 16x0e."""

    name = "mace"
    packages = ("mace-torch", "e3nn", "torch")

    def train(self, data: Path, clock: harness.Clock, out: Path, options: Mapping[str, str]) -> None:
        """Train on energies, forces and stresses until the budget is spent."""
        torch.manual_seed(int(options.get("seed", "1")))
        torch.set_default_dtype(torch.float32)
        frames = read(data, index=":")
        table = tools.get_atomic_number_table_from_zs(z for f in frames for z in f.numbers)
        level = float(np.mean([f.calc.results["energy"] / len(f) for f in frames]))
        graphs = [graph(f, table) for f in frames]
        loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=BATCH, shuffle=True, drop_last=True)
        model = network(loader, table.zs, level, int(options.get("layers", "1")))
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
        optimiser = torch.optim.Adam(groups(model), RATE, amsgrad=True)
        losses = [modules.WeightedEnergyForcesStressLoss(forces_weight=FORCES_WEIGHT, **w) for w in LOSSES]

        def judge(step: int) -> None:
            judged = MACECalculator(models=average.module, default_dtype="float32")
            clock.judge(judged, epochs=round(step * BATCH / len(graphs), 2))
            for p in average.module.parameters():
                p.requires_grad = True  # the calculator takes it away

        step = 0
        while clock.spent < clock.budget:
            for batch in loader:
                second = clock.spent >= SECOND_STAGE * clock.budget
                way = min(1.0, clock.spent / clock.budget / SECOND_STAGE)
                rate = LAST_RATE + 0.5 * (RATE - LAST_RATE) * (1 + math.cos(math.pi * way))
                for group in optimiser.param_groups:
                    group["lr"] = rate
                predicted = model(batch.to_dict(), training=True, compute_force=True, compute_stress=True)
                optimiser.zero_grad()
                losses[second](pred=predicted, ref=batch).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
                optimiser.step()
                average.update_parameters(model)
                step += 1
                if clock.spent >= clock.budget:
                    break
                if clock.due:
                    judge(step)
        torch.save(average.module, out / "mace.pt")
        judge(step)

    def calculator(self, model: Path, options: Mapping[str, str], *, double: bool) -> Calculator:  # noqa: ARG002
        """Return the library's own calculator."""
        kind = "float64" if double else "float32"
        saved = torch.load(model / "mace.pt", weights_only=False)  # a file that this program wrote
        return MACECalculator(models=saved, default_dtype=kind)


if __name__ == "__main__":
    harness.main(MACE())
