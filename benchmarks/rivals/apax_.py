"""apax: a Gaussian moment neural network as by its default. See harness.py for the verbs.

The library's own data pipeline, losses, step and optimiser, with the settings of its template. Its training counts
epochs; this loop counts seconds, and the rates fall in a straight line to the end of the budget, as by default. As
there, the weights with the lowest loss on frames held out are kept. Single precision, but for positions, energies of
atoms and sums, which are always in double.

Stress is neither learnt nor judged: in every training, and where a cell is shorter than two cutoffs, the library adds
the cell's shifts unstrained to strained vectors between atoms, so what it calls stress is not the derivative of its
energy (0.14.0; ``check`` says by how much). In larger cells it is, and is timed as with the others.
"""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from collections.abc import Mapping, Sequence
from pathlib import Path

import harness

if harness.THREADS == 1:
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import math
import shutil
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from apax.config import parse_config
from apax.data.input_pipeline import CachedInMemoryDataset
from apax.data.statistics import compute_scale_shift_parameters
from apax.md.ase_calc import ASECalculator
from apax.optimizer import get_opt
from apax.train.checkpoints import create_params, create_train_state
from apax.train.metrics import initialize_metrics
from apax.train.run import initialize_loss_fn
from apax.train.trainer import make_step_fns
from apax.utils.random import seed_py_np_tf
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, compare_atoms
from ase.io import read

BATCH, VALID_BATCH = 4, 100  # of the template
HELD_OUT = 100  # frames, at most a tenth, to choose the weights by
NEVER = 10**6  # epochs, or steps, that no budget has
LOSSES = (
    {"name": "energy"},
    {"name": "forces", "weight": 4.0},
)


def settings(out: Path, data: Path, seed: int) -> dict[str, Any]:
    """Return what the library's configuration needs besides its defaults, cutoff of 5 Å included."""
    return {
        "n_epochs": NEVER,
        "seed": seed,
        "data": {
            "directory": str(out.parent),
            "experiment": out.name,
            "data_path": str(data),
            "batch_size": BATCH,
            "valid_batch_size": VALID_BATCH,
        },
        "model": {"name": "gmnn", "calc_stress": True},
        "loss": list(LOSSES),
    }


class Apart(ASECalculator):
    """The library's own calculator, told what has changed.

    The yardstick says that all has, and the library then compiles anew.
    """

    def calculate(
        self, atoms: Atoms, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """Compute energy, forces and stress."""
        super().calculate(atoms, properties, [c for c in compare_atoms(self.atoms, atoms) if c in system_changes])


class Apax:
    """The default network of apax."""

    name = "apax"
    packages = ("apax", "jax", "tensorflow")

    def train(self, data: Path, clock: harness.Clock, out: Path, options: Mapping[str, str]) -> None:
        """Train on energies and forces until the budget is spent."""
        config = parse_config(settings(out, data, int(options.get("seed", "1"))))
        config.dump_config(out)
        seed_py_np_tf(config.seed)
        frames = read(data, index=":")
        order = np.random.default_rng(config.seed).permutation(len(frames))
        n_held = min(HELD_OUT, len(frames) // 10)
        with TemporaryDirectory(dir=out) as cache:

            def pipeline(chosen: np.ndarray, batch: int) -> CachedInMemoryDataset:
                some = [frames[k] for k in chosen]
                return CachedInMemoryDataset(some, config.model.basis.r_max, batch, NEVER, cache_path=cache)

            learn = pipeline(order[n_held:], BATCH)
            held = pipeline(order[:n_held], VALID_BATCH)
            self._loop(config, learn, held, clock, out)

    def _loop(
        self, config: Any, learn: CachedInMemoryDataset, held: CachedInMemoryDataset, clock: harness.Clock, out: Path
    ) -> None:
        data = config.data
        sample, box = learn.init_input()
        statistics = compute_scale_shift_parameters(
            learn.inputs, learn.labels, data.shift_method, data.scale_method, data.shift_options, data.scale_options
        )
        network = {**config.model.model_dump(), "calc_stress": False}
        model = config.model.get_builder()(network).build_energy_derivative_model(
            scale=statistics.elemental_scale, shift=statistics.elemental_shift, apply_mask=True, init_box=box
        )
        parameters, _ = create_params(model, jax.random.PRNGKey(config.seed), sample, 1)
        rates = config.optimizer.model_dump()
        rates["schedule"]["transition_begin"] = NEVER  # this loop lets them fall instead
        optimiser = optax.chain(
            get_opt(parameters, NEVER, learn.steps_per_epoch(), **rates),
            optax.inject_hyperparams(optax.scale)(step_size=1.0),
        )
        state = create_train_state(jax.vmap(model.apply, in_axes=(None, 0, 0, 0, 0, 0)), parameters, optimiser)
        metrics = initialize_metrics(config.metrics).empty()
        train_step, valid_step = make_step_fns(
            initialize_loss_fn(config.loss), type(metrics), model=state.apply_fn, is_ensemble=False
        )
        batches, held_batches = learn.shuffle_and_batch(), held.batch()
        best, lowest, step = parameters, math.inf, 0

        def choose() -> None:
            nonlocal best, lowest
            n = held.steps_per_epoch()
            found = sum(float(valid_step(state.params, next(held_batches), metrics)[0]) for _ in range(n)) / n
            if found < lowest:
                best, lowest = state.params, found

        def tell() -> None:
            shutil.rmtree(out / "best", ignore_errors=True)
            with ocp.CheckpointManager((out / "best").resolve(), options=ocp.CheckpointManagerOptions(1)) as kept:
                kept.save(step, args=ocp.args.StandardSave({"model": {"params": best}, "epoch": step}))
            judged = Apart(out)
            judged.model_config.model.calc_stress = False
            clock.judge(judged, epochs=round(step / learn.steps_per_epoch(), 2))

        while clock.spent < clock.budget:
            state.opt_state[1].hyperparams["step_size"] = np.float32(max(0.0, 1 - clock.spent / clock.budget))
            (state, _), loss = train_step((state, metrics), next(batches))
            loss.block_until_ready()
            step += 1
            if step % learn.steps_per_epoch() == 0:
                choose()
            if clock.due:
                choose()
                tell()
        choose()
        tell()

    def calculator(self, model: Path, options: Mapping[str, str], *, double: bool) -> Calculator:
        """Return the library's own calculator, with its list of neighbours and its skin."""
        found = Apart(model, dr_threshold=float(options.get("skin", "0.5")))
        if double:
            kinds = found.model_config.model
            kinds.descriptor_dtype = kinds.readout_dtype = "fp64"
            found.params = jax.tree.map(lambda p: p.astype(np.float64), found.params)
        return found


if __name__ == "__main__":
    harness.main(Apax())
