"""potstill by its public interface, on the same yardstick as the libraries in rivals/. See rivals/harness.py.

``--option members=4`` and ``--option steps=4000`` are the training's, which takes as many steps as ``potstill train``
does where none are given; ``infer --option also=force_spread`` asks for the members' disagreement too. A training's
time holds everything from the frames to the saved model: descriptors, their Jacobians, the ridge start, the steps.
Before the clock starts, two frames go through once, because numba keeps machine code on disk and makes it once an
installation.
"""

from __future__ import annotations

from rivals import harness

# isort: split
# above numpy, because it sets threads and cores

from collections.abc import Mapping
from pathlib import Path

from ase.calculators.calculator import Calculator

from potstill import Committee, Dataset
from potstill.config import ModelConfig, TrainConfig
from potstill.training import full_steps, train


class Potstill:
    """A committee of networks."""

    name = "potstill"
    packages = ("potstill", "numba", "torch")

    def train(self, data: Path, clock: harness.Clock, out: Path, options: Mapping[str, str]) -> None:
        """Train with the package's own settings, whatever the budget."""
        import torch

        torch.set_num_threads(harness.THREADS)
        settings = {name: int(options[name]) for name in ("members", "steps") if name in options}
        train(Dataset.load(data)[:2], ModelConfig(), TrainConfig(steps=1), seed=1)
        clock.start()
        frames = Dataset.load(data)
        how = TrainConfig(**settings)
        if "steps" not in options:
            how = how.model_copy(update={"steps": full_steps(how, len(frames))})
        committee = train(frames, ModelConfig(), how, seed=int(options.get("seed", "1")))
        committee.save(out)
        clock.judge(committee.calculator(), frames=len(frames), steps=how.steps)

    def calculator(self, model: Path, options: Mapping[str, str], *, double: bool) -> Calculator:  # noqa: ARG002
        """Return the committee's calculator, which has one precision."""
        return Committee.load(model).calculator()


if __name__ == "__main__":
    harness.main(Potstill())
