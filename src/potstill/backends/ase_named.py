"""Any calculator that ASE knows by name: ``ase:NAME``, or ``ase:NAME {"keyword": value, …}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from potstill.errors import BackendError
from potstill.store import digest

PROGRAMS = {"command", "profile", "directory", "label"}  # keywords that say what is executed, and where files go


@dataclass(frozen=True)
class AsePotential:
    """A calculator's name and its keywords.

    The fingerprint holds ASE's version and the keywords, not the version of a program that the calculator starts: name
    that in a keyword, or keep one store a version.

    Attributes
    ----------
    name : str
        One of ``ase.calculators.names``.
    keywords : str
        A JSON object.
    """

    name: str
    keywords: str = "{}"

    @classmethod
    def parse(cls, what: str) -> AsePotential:
        """Read what follows ``ase:`` in a recipe.

        Raises
        ------
        BackendError
            If ASE has no such calculator, or the keywords are no JSON object.
        """
        from ase.calculators.calculator import names

        name, _, rest = what.partition("{")
        name = name.strip()
        if name not in names:
            raise BackendError(f"ASE has no calculator {name!r}. It has {', '.join(sorted(names))}.")
        try:
            keywords = json.loads("{" + rest) if rest else {}
        except (ValueError, RecursionError) as error:
            raise BackendError(
                f"After ase:{name} come keywords as a JSON object, as in 'ase:lj {{\"sigma\": 2.2}}', but "
                f"{'{' + rest!r} is none: {error}."
            ) from None
        if named := ", ".join(sorted(PROGRAMS & set(keywords))):
            raise BackendError(
                f"The recipe ase:{name} must not say which program runs and where ({named}), "
                "because recipes stand in configurations that others may have written. ASE's own configuration file, "
                "~/.config/ase/config.ini, says it."
            )
        return cls(name, json.dumps(keywords, sort_keys=True))

    @cached_property
    def fingerprint(self) -> str:
        """ASE's version, the name, and a hash of the keywords."""
        import ase

        return f"ase-{ase.__version__}:{self.name}:{digest(self._options())}"

    @property
    def elements(self) -> tuple[str, ...]:
        """All of them: which ones a calculator knows, only it can say, and a frame of another becomes a failure."""
        from ase.data import chemical_symbols

        return tuple(chemical_symbols[1:])

    def _options(self) -> Mapping[str, Any]:
        options: Mapping[str, Any] = json.loads(self.keywords)
        return options

    def calculator(self, workdir: Path | None = None) -> Any:
        """Return a fresh calculator.

        Raises
        ------
        BackendError
            If it does not take the keywords, or needs something that is not installed.
        """
        from ase.calculators.calculator import get_calculator_class

        place = {} if workdir is None else {"directory": str(workdir)}
        try:
            return get_calculator_class(self.name)(**self._options(), **place)
        except Exception as error:
            raise BackendError(f"ASE's calculator {self.name!r} cannot be made: {error}.") from error
