"""``potstill labels``: what a label store holds, and its way out, in, and back to the beginning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from potstill.errors import ConfigError, DataError, StoreError

if TYPE_CHECKING:
    from potstill.store import Entry, LabelStore

SHOWN = 20  # failures that are printed; --export and the files themselves have all


def labels(
    store: Annotated[str, typer.Argument(help="A run directory, a folder of labels, or postgresql://user@host/name.")],
    source: Annotated[str, typer.Option(help="Only references whose fingerprint contains this.")] = "",
    element: Annotated[str, typer.Option(help="Only structures with this element.")] = "",
    atoms: Annotated[str, typer.Option(help="Only structures of so many atoms: N, or LEAST:MOST.")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="Only labels that failed.")] = False,
    export: Annotated[Path | None, typer.Option(help="Write the labelled structures here, extended XYZ.")] = None,
    take: Annotated[
        Path | None,
        typer.Option("--import", help="Put the labels of this file into the store first; their source is the file's."),
    ] = None,
    forget_failures: Annotated[
        bool, typer.Option("--forget-failures", help="Delete the failures shown, so that they are tried again.")
    ] = False,
) -> None:
    """List what a label store holds: by reference, and why labels failed."""
    from potstill.data import Dataset, Failure
    from potstill.store import LabelStore

    inside = Path(store) / "labels"
    where = LabelStore(inside if inside.is_dir() else store)
    if take is not None:
        _import(take, where)
    elif "://" not in store and not Path(store).is_dir():
        raise StoreError(f"Expected a run directory or a folder of labels, but {store} is neither.")
    sizes = _sizes(atoms)
    found = [
        e
        for e in where.entries()
        if source in e.result.source
        and (not element or element in e.frame.atoms.get_chemical_symbols())
        and sizes[0] <= e.frame.n_atoms <= sizes[1]
        and (not failed or isinstance(e.result, Failure))
    ]
    for line in _told(found):
        typer.echo(line)
    for aside in where.set_aside:
        typer.echo(f"a broken entry was set aside: {aside}", err=True)
    if export is not None:
        good = Dataset(e.frame for e in found if e.frame.labels is not None)
        good.save(export)
        typer.echo(f"{len(good)} labelled structures: {export}")
    if forget_failures:
        gone = [e for e in found if isinstance(e.result, Failure)]
        for entry in gone:
            where.forget(entry)
        typer.echo(f"{len(gone)} failures forgotten: they are tried again when they are asked for")


def _told(found: list[Entry]) -> Iterator[str]:
    """Yield a line for each reference, and the first failures with what the reference said."""
    from potstill.data import Failure

    bad = [(e, e.result) for e in found if isinstance(e.result, Failure)]
    made = Counter(e.result.source for e in found if not isinstance(e.result, Failure))
    lost = Counter(result.source for _, result in bad)
    for name in dict.fromkeys([*made, *lost]):
        atoms = [e.frame.n_atoms for e in found if e.result.source == name]
        span = f"{min(atoms)} atoms" if min(atoms) == max(atoms) else f"{min(atoms)} to {max(atoms)} atoms"
        yield f"{made[name]} labels, {lost[name]} failures, {span}: {name}"
    if not found:
        yield "no entry"
    for entry, result in bad[:SHOWN]:
        formula = entry.frame.atoms.get_chemical_formula()
        yield f"failed: {formula} {entry.frame.key}: {result.reason} after {result.attempts} attempts: {result.message}"
    if len(bad) > SHOWN:
        yield f"... and {len(bad) - SHOWN} more"


def _sizes(text: str) -> tuple[int, int]:
    least, colon, most = text.partition(":")
    try:
        low = int(least) if least else 1
        return low, (int(most) if most else 10**9) if colon or not text else low
    except ValueError:
        raise ConfigError(f"--atoms is a number, or LEAST:MOST, but {text!r} was given.") from None


def _import(file: Path, store: LabelStore) -> None:
    from potstill.data import read_pool

    frames, _ = read_pool(file)
    labelled = [(frame, frame.labels) for frame in frames if frame.labels is not None]
    if not labelled:
        raise DataError(f"{file}: expected labelled frames (energy and forces), but none of {len(frames)} has both.")
    for frame, known in labelled:
        store.put(frame, known)
    typer.echo(f"{len(labelled)} labels of {file} are in the store")
