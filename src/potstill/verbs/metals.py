"""transfer and grow: other metals than the one that was distilled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill import tables
from potstill.config import Config
from potstill.errors import ConfigError
from potstill.transferring import grow as grow_one
from potstill.transferring import read_source, table_rows, table_text
from potstill.transferring import transfer as transfer_all
from potstill.verbs.given import Overrides, Tell, merged, settings_of, silent


class Transferred:
    """What came of transferring to some metals.

    Attributes
    ----------
    rows : list of dict
        One a target: crystal, labels, errors, coverage, verdict; or ``failed``, why.
    path : Path
        The folder, with a run's directory for each target.
    """

    def __init__(self, rows: list[dict[str, Any]], path: Path) -> None:
        self.rows, self.path = rows, path

    def __repr__(self) -> str:
        return "\n".join([table_text(self.rows), *self._failed])

    def _repr_html_(self) -> str:
        return tables.html(" ".join([str(self.path), *self._failed]), table_rows(self.rows))

    @property
    def _failed(self) -> list[str]:
        return [f"{r['target']}: {r['failed']}" for r in self.rows if "failed" in r]


def transfer(
    source: str | Path = "",
    to: Sequence[str] | str | None = None,
    *,
    out: str | Path,
    reference: str | Mapping[str, str] | None = None,
    config: Config | str | Path | None = None,
    seed: int | None = None,
    overrides: Overrides = (),
    tell: Tell = silent,
    **settings: Any,
) -> Transferred:
    """Scale configurations of one metal to others, label them anew, learn and judge; nothing is sampled.

    Parameters
    ----------
    source : path
        ``foundation``, or a file of distilled frames; empty: the configuration's ``transfer.source``.
    to : str or sequence of str
        Metals, as Nb, and alloys, as Ni3Al or Ni-Al.
    out : path
        A folder; what it has of an earlier call is not done again.
    reference : str or mapping
        Recipe of the potential that labels, or one for each target.
    config, overrides, tell
        See :mod:`potstill.verbs`.
    seed : int | None
        Decides everything that is drawn at random.
    **settings
        Other keys of ``[transfer]``: ``budget``, ``judge``, ``warm``, ``top_up``, ``source_volume``.

    Raises
    ------
    ConfigError
        If there is nothing to transfer, or a setting is wrong. What fails for one target is told in its row.
    """
    flags = {f"transfer.{k}": v for k, v in settings.items()}
    flags |= {"transfer.source": str(source) or None, "transfer.to": [to] if isinstance(to, str) else to, "seed": seed}
    flags["transfer.references" if isinstance(reference, Mapping) else "label.reference"] = reference
    how = settings_of(config, merged(flags, overrides), 1)
    if not how.transfer.source:
        raise ConfigError("Transfer needs something to transfer: give foundation, or a file of distilled frames.")
    return Transferred(transfer_all(how, None, Path(out), tell), Path(out))


def grow(
    element: str,
    reference: str,
    *,
    out: str | Path,
    budget: int = 150,
    judge: int | None = None,
    source: str | Path = "foundation",
    config: Config | str | Path | None = None,
    seed: int | None = None,
    overrides: Overrides = (),
    tell: Tell = silent,
) -> Transferred:
    """Grow a potential for a metal that has none: the model's own runs say which labels it lacks.

    Parameters
    ----------
    element : str
        Chemical symbol.
    reference : str
        Recipe of the potential that labels, such as ``espresso``, ``gpaw`` or ``lammps:FILE``.
    out : path
        A run's directory; what it has of an earlier call is not done again.
    budget : int
        Labels to learn from.
    judge : int | None
        Labels to judge by.
    source : path
        Where it begins: ``foundation``, or a file of frames.
    config, seed, overrides, tell
        As for :func:`transfer`.

    Returns
    -------
    Transferred
        Of one row, with its ``generations``.

    Raises
    ------
    PotstillError
        If the reference does not make the metal, or its ground state does not relax.
    """
    how = settings_of(
        config, merged({"label.reference": reference, "transfer.judge": judge, "seed": seed}, overrides), 1
    )
    t = how.transfer
    start = read_source(str(source), t.source_volume, tell, most_atoms=t.most_atoms)
    return Transferred([grow_one(how, start, element, budget, Path(out), tell)], Path(out))
