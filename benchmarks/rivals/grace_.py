"""GRACE by tensorpotential: ``--option preset=FS`` or ``preset=GRACE_1LAYER_latest``. See harness.py for the verbs.

The library's own models in their small size, batches and losses, and the settings that its wizard proposes (Huber
losses, Adam with clipped gradients, running average of the weights, a cosine to a twelfth of the rate). Its training
script counts updates; this loop counts seconds. Weights are in single precision, geometry in double, as it advises.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import harness
import numpy as np

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(harness.THREADS)
tf.config.threading.set_inter_op_parallelism_threads(harness.THREADS)

import pandas as pd
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import read
from tensorpotential import TensorPotential, constants
from tensorpotential.calculator import TPCalculator
from tensorpotential.cli.prepare import construct_model, construct_model_functions
from tensorpotential.data.databuilder import (
    GeometricalDataBuilder,
    ReferenceEnergyForcesStressesDataBuilder,
    construct_batches,
)
from tensorpotential.potentials import get_preset_settings
from tensorpotential.tpmodel import TPModel

logging.getLogger().setLevel(logging.ERROR)

CUTOFF = 5.0  # Å; the presets have 6 or 7
BATCH = 4  # the wizard proposes 16, of which a core does too few in a few minutes
RATE = 0.008
LAST = 1 / 12  # of the rate
HUBER = {"type": "huber", "delta": 0.01}
FIT = {
    "loss": {
        "energy": {"weight": 16, **HUBER},
        "forces": {"weight": 32, **HUBER},
        "stress": {"weight": 128.0, **HUBER},
    },
    "optimizer": "Adam",
    "opt_params": {"learning_rate": RATE, "use_ema": True, "ema_momentum": 0.99, "weight_decay": None, "clipnorm": 1.0},
}


def instructions(preset: str, symbols: Sequence[str], facts: Mapping[str, float]) -> object:
    """Return an untrained model of the library's small size; ``facts`` are those of the data."""
    elements = {symbol: k for k, symbol in enumerate(symbols)}
    small = {name: value for name, value in get_preset_settings(preset)["small"].items() if name != "rcut"}
    return construct_model(
        {"preset": preset, "kwargs": small},
        elements,
        CUTOFF,
        avg_n_neigh=facts["neighbours"],
        constant_out_scale=facts["scale"],
        atomic_shift_map=dict.fromkeys(elements.values(), facts["level"]),
    )[0]


def table(frames: Sequence[Atoms]) -> pd.DataFrame:
    """Return labelled frames as the library reads them."""
    labels = [f.calc.results for f in frames]
    return pd.DataFrame(
        {
            "ase_atoms": frames,
            "energy_corrected": [r["energy"] for r in labels],
            "forces": [r["forces"] for r in labels],
            "stress": [harness.voigt(r["stress"]) for r in labels],
        }
    )


class GRACE:
    """A small GRACE of one preset."""

    name = "grace"
    packages = ("tensorpotential", "tensorflow-cpu")

    def train(self, data: Path, clock: harness.Clock, out: Path, options: Mapping[str, str]) -> None:
        """Train on energies, forces and stresses until the budget is spent."""
        seed = int(options.get("seed", "1"))
        tf.keras.utils.set_random_seed(seed)
        rng = np.random.default_rng(seed)
        frames = read(data, index=":")
        symbols = sorted({s for f in frames for s in f.symbols})
        builders = [
            GeometricalDataBuilder({s: k for k, s in enumerate(symbols)}, cutoff=CUTOFF, is_fit_stress=True),
            ReferenceEnergyForcesStressesDataBuilder(False, False, is_fit_stress=True),
        ]
        batches = construct_batches(
            table(frames), builders, BATCH, max_n_buckets=int(options.get("buckets", "1")), verbose=False
        )
        real = [
            sum(int(b[name]) for b in batches) for name in (constants.N_NEIGHBORS_REAL, constants.N_ATOMS_BATCH_REAL)
        ]
        facts = {
            "neighbours": real[0] / real[1],
            "scale": max(0.1, float(np.sqrt(np.mean(np.concatenate([f.get_forces() for f in frames]) ** 2)))),
            "level": float(np.mean([f.get_potential_energy() / len(f) for f in frames])),
        }
        preset = options.get("preset", "FS")
        functions = construct_model_functions(FIT)
        fit = TensorPotential(
            instructions(preset, symbols, facts),
            FIT,
            BATCH,
            loss_function=functions.loss_fn,
            compute_metrics=functions.metrics_fn,
            model_compute_function=functions.compute_fn,
            model_train_function=functions.train_fn,
            jit_compile=options.get("jit", "1") == "1",
            seed=seed,
        )
        kinds = {name: spec.dtype for name, spec in fit.get_model_grad_signatures().items()}
        tensors = [{name: tf.convert_to_tensor(b[name], kind) for name, kind in kinds.items()} for b in batches]
        fit.model.decorate_compute_function()
        judged = TPCalculator(fit.model)
        step = 0
        while clock.spent < clock.budget:
            for k in rng.permutation(len(tensors)):
                way = min(1.0, clock.spent / clock.budget)
                fit.optimizer.learning_rate.assign(RATE * (LAST + 0.5 * (1 - LAST) * (1 + math.cos(math.pi * way))))
                fit.distributed_train_step([tensors[k]])
                step += 1
                if clock.spent >= clock.budget:
                    break
                if clock.due:
                    with fit.ema_scope():
                        clock.judge(judged, epochs=round(step / len(tensors), 2))
        with fit.ema_scope():
            np.save(out / "weights.npy", fit.model.get_flat_trainable_variables().numpy())
            about = {"preset": preset, "symbols": symbols, "facts": facts}
            (out / "model.json").write_text(json.dumps(about), encoding="utf-8")
            clock.judge(judged, epochs=round(step / len(tensors), 2))

    def calculator(self, model: Path, options: Mapping[str, str], *, double: bool) -> Calculator:  # noqa: ARG002
        """Return the library's own calculator."""
        about = json.loads((model / "model.json").read_text(encoding="utf-8"))
        found = TPModel(instructions(about["preset"], about["symbols"], about["facts"]))
        found.build(tf.float64 if double else tf.float32)
        found.get_flat_trainable_variables()  # where each begins
        found.set_flat_trainable_variables(np.load(model / "weights.npy", allow_pickle=False))
        found.decorate_compute_function()
        return TPCalculator(found)


if __name__ == "__main__":
    harness.main(GRACE())
