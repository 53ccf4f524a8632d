"""DeePMD-kit: the descriptor se_e2_a by its TensorFlow backend. See harness.py for the verbs.

Network, first rate and prefactors are those of the library's manual, in single precision; virials weigh as energies do.
Its own graph, batches and optimiser are driven step by step, because its schedule counts steps and a budget counts
seconds: the rate, on which the prefactors depend, falls by the same exponential to the end of the budget. Models are
timed compressed, as the manual advises for MD; errors are those of the model as trained.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
for _name in ("DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS"):
    os.environ[_name] = str(harness.THREADS)

from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import read
from deepmd.calculator import DP
from deepmd.tf.entrypoints.compress import compress
from deepmd.tf.entrypoints.freeze import freeze_graph
from deepmd.tf.entrypoints.train import update_sel
from deepmd.tf.env import tf
from deepmd.tf.train.run_options import RunOptions
from deepmd.tf.train.trainer import DPTrainer
from deepmd.tf.utils.argcheck import normalize
from deepmd.utils import random as dp_random
from deepmd.utils.data_system import DeepmdDataSystem, get_data

CUTOFF = 5.0  # Å
RATE, LAST_RATE = 1e-3, 1e-5
LOSS = {
    "start_pref_e": 0.02,
    "limit_pref_e": 1.0,
    "start_pref_f": 1000.0,
    "limit_pref_f": 1.0,
    "start_pref_v": 0.02,
    "limit_pref_v": 1.0,
}


def write_systems(frames: Sequence[Atoms], folder: Path) -> list[str]:
    """Write frames as the library's arrays, a folder for each composition, and return the folders."""
    groups: dict[str, list[Atoms]] = {}
    for frame in frames:
        groups.setdefault(str(frame.symbols), []).append(frame)
    for name, some in groups.items():
        arrays = folder / name / "set.000"
        arrays.mkdir(parents=True, exist_ok=True)
        symbols = sorted(set(some[0].symbols))
        (folder / name / "type_map.raw").write_text("\n".join(symbols), encoding="utf-8")
        np.savetxt(folder / name / "type.raw", [symbols.index(s) for s in some[0].symbols], fmt="%d")
        labels = [f.calc.results for f in some]
        virials = [-f.get_volume() * f.get_stress(voigt=False) for f in some]
        for what, values in (
            ("coord", [f.positions for f in some]),
            ("box", [np.array(f.cell) for f in some]),
            ("energy", [r["energy"] for r in labels]),
            ("force", [r["forces"] for r in labels]),
            ("virial", virials),
        ):
            np.save(arrays / f"{what}.npy", np.reshape(values, (len(some), -1)).astype(float))
    return [str(folder / name) for name in groups]


def settings(symbols: Sequence[str], systems: Sequence[str], out: Path, seed: int) -> dict[str, Any]:
    """Return the library's input."""
    return {
        "model": {
            "type_map": list(symbols),
            "descriptor": {
                "type": "se_e2_a",
                "rcut": CUTOFF,
                "rcut_smth": 0.5,
                "sel": "auto",
                "neuron": [25, 50, 100],
                "axis_neuron": 16,
                "precision": "float32",
                "seed": seed,
            },
            "fitting_net": {"neuron": [240, 240, 240], "resnet_dt": True, "precision": "float32", "seed": seed},
        },
        "learning_rate": {"type": "exp", "start_lr": RATE, "stop_lr": LAST_RATE},
        "optimizer": {"type": "Adam"},
        "loss": LOSS,
        "training": {
            "training_data": {"systems": list(systems), "batch_size": "auto"},
            "numb_steps": 1_000_000,  # never reached
            "disp_file": str(out / "lcurve.out"),
            "seed": seed,
        },
    }


@contextlib.contextmanager
def fit(given: Mapping[str, Any]) -> Iterator[tuple[DPTrainer, DeepmdDataSystem]]:
    """Give an untrained model with its session and its data, in a graph of its own."""
    with tf.Graph().as_default():
        full = update_sel(normalize(json.loads(json.dumps(given))))
        # the library's compression looks for it in the model
        tf.constant(json.dumps(full), name="train_attr/training_script", dtype=tf.string)
        trainer = DPTrainer(full, RunOptions(log_level=3))
        dp_random.seed(full["training"]["seed"])
        data = get_data(full["training"]["training_data"], CUTOFF, full["model"]["type_map"], None)
        data.add_data_requirements(trainer.data_requirements)
        trainer.build(data, full["training"]["numb_steps"])
        trainer._init_session()  # noqa: SLF001 - otherwise its loop of steps does it
        yield trainer, data
        trainer.sess.close()


def freeze(trainer: DPTrainer, path: Path) -> Path:
    """Write the model as it is now."""
    graph = trainer.sess.graph.as_graph_def()
    freeze_graph(trainer.sess, graph, [n.name for n in graph.node], "ener", None, str(path))
    return path


class DeePMD:
    """Deep potential, two-body embedding with full information."""

    name = "deepmd"
    packages = ("deepmd-kit", "tensorflow-cpu")

    def train(self, data: Path, clock: harness.Clock, out: Path, options: Mapping[str, str]) -> None:
        """Train on energies, forces and virials until the budget is spent."""
        out = out.resolve()
        frames = read(data, index=":")
        symbols = sorted({s for f in frames for s in f.symbols})
        given = settings(symbols, write_systems(frames, out / "systems"), out, int(options.get("seed", "1")))
        seen = 0
        with fit(given) as (trainer, batches):

            def judge(name: str) -> None:
                clock.judge(DP(freeze(trainer, out / name)), epochs=round(seen / len(frames), 2))

            while clock.spent < clock.budget:
                batch = batches.get_batch()
                feed = trainer.get_feed_dict(batch, is_training=True)
                feed[trainer.learning_rate] = RATE * (LAST_RATE / RATE) ** min(1.0, clock.spent / clock.budget)
                trainer.sess.run(trainer.train_op, feed)
                seen += len(batch["box"])
                if clock.due:
                    judge("now.pb")
            judge("model.pb")
            weights = {v.name: trainer.sess.run(v) for v in tf.global_variables()}
        for part in ("descriptor", "fitting_net"):
            given["model"][part]["precision"] = "float64"
        with fit(given) as (trainer, _):
            for v in tf.global_variables():
                v.load(weights[v.name].astype(v.dtype.as_numpy_dtype), trainer.sess)
            freeze(trainer, out / "double.pb")
        with contextlib.chdir(out):  # it leaves files where it runs
            compress(
                input="model.pb",
                output="compressed.pb",
                extrapolate=5,
                step=0.01,
                frequency="-1",
                checkpoint_folder="model-compression",
                training_script=None,
                mpi_log="master",
                log_path=None,
                log_level=3,
            )

    def calculator(self, model: Path, options: Mapping[str, str], *, double: bool) -> Calculator:  # noqa: ARG002
        """Return the library's own calculator."""
        return DP(model / ("double.pb" if double else "compressed.pb"))


if __name__ == "__main__":
    harness.main(DeePMD())
