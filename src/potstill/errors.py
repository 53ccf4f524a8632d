"""What can go wrong, one class a kind, one exit code a class.

A message is one paragraph: what was expected, what was found, where, and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class PotstillError(Exception):
    """Base of every error that potstill raises on purpose.

    Attributes
    ----------
    exit_code : int
        What the command line returns for this class (2 belongs to wrong command-line usage).
    """

    exit_code: ClassVar[int] = 1


class ConfigError(PotstillError):
    """The configuration cannot mean what the user intends."""

    exit_code = 3


class DataError(PotstillError):
    """A structure, label or model file is broken, missing or not what it should be."""

    exit_code = 4


class BackendError(PotstillError):
    """A potential or a code behind it is missing or refuses to work."""

    exit_code = 5


class ConvergenceError(PotstillError):
    """A calculation ended without the quality that was asked for."""

    exit_code = 6


class StoreError(PotstillError):
    """A run directory or label store is locked, damaged or of another format."""

    exit_code = 7
