"""run: the whole path."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from potstill import tables
from potstill.config import Config
from potstill.data import Dataset
from potstill.model import Committee
from potstill.store import read_json
from potstill.verbs.given import Overrides, Tell, settings_of, silent


class Run:
    """A finished run, as its directory has it.

    Attributes
    ----------
    path : Path
        The directory; ``report.html`` there is its page.
    ran : bool
        Whether anything had to be done.
    """

    def __init__(self, path: Path, ran: bool) -> None:
        self.path, self.ran = path, ran

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Every number of the page."""
        found: dict[str, Any] = read_json(self.path / "summary.json")
        return found

    @cached_property
    def committee(self) -> Committee:
        """The potential."""
        return Committee.load(self.path / "2-distil" / "model")

    @cached_property
    def distilled(self) -> Dataset:
        """The frames that it learnt from, labelled."""
        return Dataset.load(self.path / "2-distil" / "distilled.extxyz")

    def __repr__(self) -> str:
        return "\n".join([*self.summary["headline"], f"The page: {self.path / 'report.html'}"])

    def _repr_html_(self) -> str:
        rows = [("check", "result", "finding")]
        rows += [(v["check"], v["result"], v["text"]) for v in self.summary["verdict"]]
        return tables.html(" ".join(self.summary["headline"]), rows)


def run(config: Config | str | Path, out: str | Path, *, overrides: Overrides = (), tell: Tell = silent) -> Run:
    """Do the whole path: sample, distil, validate, report. What ``out`` has already is not done again.

    Parameters
    ----------
    config : Config | path
        What to do; a TOML file, or what :func:`potstill.load_config` gave.
    out : path
        The run's directory.
    overrides, tell
        See :mod:`potstill.verbs`.

    Raises
    ------
    PotstillError
        Of the class that fits; what was finished stays, and the same call goes on from there.
    """
    from potstill.pipeline import run as run_all

    return Run(Path(out), run_all(settings_of(config, overrides), out, tell))
