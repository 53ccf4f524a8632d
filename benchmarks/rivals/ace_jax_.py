"""ace-jax: linear ACE by Bayesian regression. See harness.py for the verbs.

One fit, whose noise levels and prior follow from the evidence; the basis is set by ``--option order=3 degree=10``, so a
budget cannot be given: the program says what it took, compilation by XLA included, since each run compiles anew.
"""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"

from collections.abc import Mapping
from pathlib import Path

import harness

if harness.THREADS == 1:
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax

jax.config.update("jax_enable_x64", True)  # fits need it, and refuse to run without

from ace_jax import ACECalculator
from ace_jax.basis.model import BasisSpec
from ace_jax.fit.pipeline import FitConfig, fit, load_fit_data, save_model
from ase.calculators.calculator import Calculator
from ase.io import read


def quiet(_line: object) -> None:
    """Say nothing: standard output is for JSON."""


class ACE:
    """Linear ACE."""

    name = "ace-jax"
    packages = ("ace-jax", "jax")

    def train(self, data: Path, clock: harness.Clock, out: Path, options: Mapping[str, str]) -> None:
        """Fit energies, forces and virials."""
        basis = BasisSpec(int(options.get("order", "3")), int(options.get("degree", "10")))
        config = FitConfig(
            basis,
            arm="linear",
            m_per_species=0,
            stress_key="stress",
            e0="lsq",
            r0=None,
            batch=8,
            predict_train=False,
            predict_stats="auto",
            row_precision=options.get("rows", "float64"),
            map_polish="off",  # the readout no longer moves, and the Hessian is compiled for long
        )
        # the pipeline predicts for a test set of its own, and for all that it learnt from where it gets none
        frames = load_fit_data(config, train=str(data), test=read(data, index=":2"), log=quiet)
        result = fit(config, frames, log=quiet)
        save_model(result, out, log=quiet)
        clock.judge(self.calculator(out, options, double=True), functions=int(result.built.gpcfg.len_readout))

    def calculator(self, model: Path, options: Mapping[str, str], *, double: bool) -> Calculator:
        """Return the library's own calculator, with its Verlet list and, in single precision, its tabulated radials."""
        if double:
            return ACECalculator(model / "model.npz")
        return ACECalculator(model / "model.npz", dtype="float32", radial_table=options.get("table", "1") == "1")


if __name__ == "__main__":
    harness.main(ACE())
