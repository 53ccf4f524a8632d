"""graph-pes: its PaiNN as by default, or another of its networks (``--option model=TensorNet``). See harness.py.

The library's own graphs, fit before the training, losses and optimiser, with the weights of its full example. Its
training script counts epochs; this loop counts seconds, and lets the rate fall with a cosine to the end of the budget.
As in that script, the weights with the lowest loss on frames held out are kept. Single precision.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import harness

warnings.filterwarnings("ignore")  # e3nn's and torch's, about each other's age
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # e3nn keeps its constants in a pickle, as old as that

import torch
from ase.calculators.calculator import Calculator
from ase.io import read
from graph_pes import AtomicGraph, GraphPESModel, models
from graph_pes.data.loader import GraphDataLoader
from graph_pes.models import AdditionModel, LearnableOffset
from graph_pes.training.loss import PerAtomEnergyLoss, PropertyLoss, TotalLoss
from graph_pes.training.opt import Optimizer
from graph_pes.utils.logger import set_log_level

torch.set_num_threads(harness.THREADS)
set_log_level("ERROR")  # standard output is for JSON

CUTOFF = 5.0  # Å, the library's default
BATCH = 4  # the library's default
RATE, LAST_RATE = 3e-3, 3e-5
FORCES_WEIGHT, STRESS_WEIGHT = 3.0, 10.0  # to an energy's, per atom, of one; all of them root mean squares
HELD_OUT = 32  # frames, at most a tenth, to choose the weights by


def network(name: str) -> GraphPESModel:
    """Return an untrained model: an energy of each element, and what atoms do to each other."""
    return AdditionModel(offset=LearnableOffset(), network=getattr(models, name)(cutoff=CUTOFF))


class GraphPES:
    """A network of graph-pes."""

    name = "graph-pes"
    packages = ("graph-pes", "torch")

    def train(self, data: Path, clock: harness.Clock, out: Path, options: Mapping[str, str]) -> None:
        """Train on energies, forces and stresses until the budget is spent."""
        torch.manual_seed(int(options.get("seed", "1")))
        graphs = [AtomicGraph.from_ase(f, CUTOFF) for f in read(data, index=":")]
        order = torch.randperm(len(graphs)).tolist()
        n_held = min(HELD_OUT, len(graphs) // 10)
        learn = [graphs[k] for k in order[n_held:]]
        loader = GraphDataLoader(learn, BATCH, shuffle=True)
        held = GraphDataLoader([graphs[k] for k in order[:n_held]], BATCH)
        name = options.get("model", "PaiNN")
        model = network(name)
        model.pre_fit_all_components(learn)
        optimiser = Optimizer("AdamW", lr=RATE)(model)
        total = TotalLoss(
            [
                PerAtomEnergyLoss(),
                PropertyLoss("forces", weight=FORCES_WEIGHT),
                PropertyLoss("stress", weight=STRESS_WEIGHT),
            ]
        )
        best, lowest, step = model, math.inf, 0

        def loss(batch: AtomicGraph) -> torch.Tensor:
            return total(model, batch, model.predict(batch, list(harness.PROPERTIES))).loss_value

        def judge() -> None:
            nonlocal best, lowest
            model.eval()
            found = sum(float(loss(batch)) for batch in held) / max(1, len(held))
            model.train()
            if found < lowest:
                best, lowest = copy.deepcopy(model), found

        def tell() -> None:
            clock.judge(best.ase_calculator(skin=0.0), epochs=round(step * BATCH / len(learn), 2))

        model.train()
        while clock.spent < clock.budget:
            for batch in loader:
                way = min(1.0, clock.spent / clock.budget)
                for group in optimiser.param_groups:
                    group["lr"] = LAST_RATE + 0.5 * (RATE - LAST_RATE) * (1 + math.cos(math.pi * way))
                optimiser.zero_grad()
                loss(batch).backward()
                optimiser.step()
                step += 1
                if clock.spent >= clock.budget:
                    break
                if clock.due:
                    judge()
                    tell()
            judge()
        torch.save({"model": name, "weights": best.state_dict()}, out / "graph-pes.pt")
        tell()

    def calculator(self, model: Path, options: Mapping[str, str], *, double: bool) -> Calculator:
        """Return the library's own calculator, with its list of neighbours and its skin."""
        saved = torch.load(model / "graph-pes.pt", weights_only=True)
        torch.set_default_dtype(torch.float64 if double else torch.float32)  # of the graphs that it makes
        found = network(saved["model"])
        found.load_state_dict(saved["weights"])
        return found.to(torch.get_default_dtype()).ase_calculator(skin=float(options.get("skin", "1.0")))


if __name__ == "__main__":
    harness.main(GraphPES())
