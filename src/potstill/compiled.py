"""Loops whose machine code is always read from the disk, so that a first run gives the digits of all later ones.

A process that compiles a numba function also holds the functions which it calls as machine code of their own, and links
to those; a process that reads it from the disk has the copies that came with it, which the compiler fused otherwise.
The two agree to rounding, and a long trajectory or training makes two results of that. So whatever is not on the disk
yet is compiled by a process of its own. Where that cannot be, as without a place to write to, it is compiled here.
"""

from __future__ import annotations

import base64
import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import numba as nb
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

_COMPILES = "POTSTILL_COMPILES"  # set in the environment of the process that does
_LONGEST = 600.0  # s
_CHILD = "from potstill.compiled import compile_here; compile_here()"


class _Elsewhere(FunctionCache):  # type: ignore[misc]
    """numba's files of a function, made by another process where they are missing."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        super().__init__(function)
        self._where = (function.__module__, name)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the machine code for a signature; None where it has to be compiled here."""
        found = super().load_overload(sig, target_context)
        if found is not None or os.environ.get(_COMPILES):
            return found
        with alone(Path(self.cache_path) / f"{'.'.join(self._where)}.lock"):
            found = super().load_overload(sig, target_context)  # another process may just have compiled it
            if found is not None:
                return found
            try:
                subprocess.run(  # noqa: S603
                    [sys.executable, "-c", _CHILD],
                    input=base64.b64encode(pickle.dumps((*self._where, sig))),  # types of our own functions
                    env={**os.environ, _COMPILES: "1"},
                    capture_output=True,
                    timeout=_LONGEST,
                    check=True,
                )
            except (OSError, subprocess.SubprocessError, pickle.PicklingError):
                return None
        return super().load_overload(sig, target_context)


def on_disk(function: Any) -> bool:
    """Whether machine code of a function that is :func:`kept` is there, for whatever arguments."""
    return Path(function._cache._cache_file._index_path).exists()  # noqa: SLF001 - numba has no other door


def place_of(function: Any) -> Path:
    """Return the folder of the machine code of a function that is :func:`kept`."""
    return Path(function._cache.cache_path)  # noqa: SLF001 - likewise


@contextmanager
def alone(file: Path, *, wait: bool = True) -> Iterator[bool]:
    """Wait until no other process is within, or else say whether one is; where locks do not exist, go on."""
    with ExitStack() as stack:
        mine = True
        try:
            import fcntl

            file.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(file.open("w")), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            mine = False
        except (OSError, ModuleNotFoundError):
            pass
        yield mine


def compile_here() -> None:
    """Compile what standard input names: what the other process runs."""
    module, name, sig = pickle.loads(base64.b64decode(sys.stdin.buffer.read()))  # noqa: S301 - from our own parent
    found = getattr(importlib.import_module(module), name)
    if isinstance(found, FunctionType):
        kept_c(sig)(found)
    elif not isinstance(found, CFunc):  # those were compiled when their module was imported
        found.compile(sig)


def kept(name: str = "", **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Be ``numba.njit(cache=True)`` with machine code that another process has compiled.

    Parameters
    ----------
    name : str
        Of the result in its module, where it is not the function's.
    **options
        Of ``numba.njit``.
    """

    def wrap(function: Callable[..., Any]) -> Any:
        made = nb.njit(**options)(function)
        made._cache = _Elsewhere(function, name or function.__name__)  # noqa: SLF001 - numba has no other door
        return made

    return wrap


def kept_c(signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Be ``numba.cfunc(cache=True)`` likewise, for a function of a module.

    With options, it has to decorate the function.
    """

    def wrap(function: Callable[..., Any]) -> Any:
        made: Any = CFunc(function, (tuple(signature.args), signature.return_type), locals={}, options=options)
        made._cache = _Elsewhere(function, function.__name__)  # noqa: SLF001
        made.compile()
        return made

    return wrap
