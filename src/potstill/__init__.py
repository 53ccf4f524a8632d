"""potstill distils the data that a neural-network interatomic potential needs.

The public names load when they are first used, so that importing the package costs nothing. The verbs are functions of
the modules that bear their names: ``from potstill.distil import distil``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.backends import resolve
    from potstill.checks import errors_on, validate
    from potstill.config import Config, load_config
    from potstill.data import Dataset, Failure, Frame, Labels, Origin, read_frames
    from potstill.errors import PotstillError
    from potstill.model import Committee
    from potstill.pipeline import run
    from potstill.select import selector
    from potstill.store import LabelStore

_HOME = {
    "Committee": "model",
    "Config": "config",
    "Dataset": "data",
    "Failure": "data",
    "Frame": "data",
    "LabelStore": "store",
    "Labels": "data",
    "Origin": "data",
    "PotstillError": "errors",
    "errors_on": "checks",
    "load_config": "config",
    "read_frames": "data",
    "resolve": "backends",
    "run": "pipeline",
    "selector": "select",
    "validate": "checks",
}

__all__ = [
    "Committee",
    "Config",
    "Dataset",
    "Failure",
    "Frame",
    "LabelStore",
    "Labels",
    "Origin",
    "PotstillError",
    "errors_on",
    "load_config",
    "read_frames",
    "resolve",
    "run",
    "selector",
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
