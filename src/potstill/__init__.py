"""potstill distils the data that a neural-network interatomic potential needs.

The verbs of the command line are functions here, ``potstill.distil("pool.extxyz", 100, out="distilled")``, and their
results can be looked at. Public names load when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.backends import resolve
    from potstill.checks import errors_on
    from potstill.config import Config, load_config
    from potstill.data import Dataset, Failure, Frame, Labels, Origin, read_frames
    from potstill.errors import PotstillError
    from potstill.model import Committee
    from potstill.relaxing import How
    from potstill.reporting import report
    from potstill.selecting import selector
    from potstill.store import LabelStore
    from potstill.verbs.judged import Verdict, evaluate, validate
    from potstill.verbs.learnt import Comparison, Distillation, compare, distil, label, train
    from potstill.verbs.metals import Transferred, grow, transfer
    from potstill.verbs.pools import Pool, sample, select
    from potstill.verbs.proposed import Relaxation, propose, relax
    from potstill.verbs.runs import Run, run

_HOME = {
    "Committee": "model",
    "Comparison": "verbs.learnt",
    "Config": "config",
    "Dataset": "data",
    "Distillation": "verbs.learnt",
    "Failure": "data",
    "Frame": "data",
    "How": "relaxing",
    "LabelStore": "store",
    "Labels": "data",
    "Origin": "data",
    "Pool": "verbs.pools",
    "PotstillError": "errors",
    "Relaxation": "verbs.proposed",
    "Run": "verbs.runs",
    "Transferred": "verbs.metals",
    "Verdict": "verbs.judged",
    "compare": "verbs.learnt",
    "distil": "verbs.learnt",
    "errors_on": "checks",
    "evaluate": "verbs.judged",
    "grow": "verbs.metals",
    "label": "verbs.learnt",
    "load_config": "config",
    "propose": "verbs.proposed",
    "read_frames": "data",
    "relax": "verbs.proposed",
    "report": "reporting",
    "resolve": "backends",
    "run": "verbs.runs",
    "sample": "verbs.pools",
    "select": "verbs.pools",
    "selector": "selecting",
    "train": "verbs.learnt",
    "transfer": "verbs.metals",
    "validate": "verbs.judged",
}

__all__ = [
    "Committee",
    "Comparison",
    "Config",
    "Dataset",
    "Distillation",
    "Failure",
    "Frame",
    "How",
    "LabelStore",
    "Labels",
    "Origin",
    "Pool",
    "PotstillError",
    "Relaxation",
    "Run",
    "Transferred",
    "Verdict",
    "compare",
    "distil",
    "errors_on",
    "evaluate",
    "grow",
    "label",
    "load_config",
    "propose",
    "read_frames",
    "relax",
    "report",
    "resolve",
    "run",
    "sample",
    "select",
    "selector",
    "train",
    "transfer",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("potstill")
    if name in _HOME:
        return getattr(import_module(f"potstill.{_HOME[name]}"), name)
    raise AttributeError(f"module 'potstill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
