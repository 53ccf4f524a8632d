"""One file a code behind one recipe language: ``CODE:WHAT`` names a potential.

``lammps:FILE``
    A potential file from LAMMPS's own folder, or a path. The pair style follows from the name's ending;
    ``lammps:STYLE:FILE`` names it.
``ase:NAME``
    Any calculator that ASE knows by name, with keywords as JSON behind it: ``ase:lj {"sigma": 2.2}``.
``espresso``
    Quantum ESPRESSO's pw.x with the settings of the section ``[espresso]``.
``gpaw``
    GPAW with the settings of the section ``[gpaw]``.
``DIR``
    A committee that ``potstill train`` wrote, of either kind.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from potstill.config import Config
from potstill.errors import BackendError, DataError
from potstill.freshness import forget_stale
from potstill.protocols import Committee, Potential

forget_stale(Path(__file__).parent, Path(__file__).parents[1] / "memory.py")  # nothing compiled has been called yet

WANTS_ELEMENTS = ("espresso", "gpaw")  # recipes that must know the elements before anything else
MAX_HEADER_BYTES = 2**20
SERIALISED = (".model", ".pt", ".pth")  # endings of torch's files of Python objects


def load_model(folder: str | Path) -> Committee:
    """Read a trained committee of the kind that its ``model.json`` names.

    Raises
    ------
    DataError
        If a file is missing or broken, or of a kind that this potstill does not know.
    BackendError
        If the kind needs a package that is not installed.
    """
    from potstill.model import Committee as Own

    file = Path(folder) / "model.json"
    try:
        if file.stat().st_size > MAX_HEADER_BYTES:
            raise DataError(f"{file} is larger than {MAX_HEADER_BYTES >> 20} MiB, which no model's header is.")
        kind = json.loads(file.read_text(encoding="utf-8")).get("kind", "potstill committee")
    except (OSError, AttributeError):
        return Own.load(folder)  # it says what is missing
    except (ValueError, RecursionError) as error:
        raise DataError(f"The model in {folder} is broken: {error}. Train it again, or copy it again.") from None
    if kind == "potstill committee":
        return Own.load(folder)
    if kind == "mace committee":
        from potstill.backends.mace import MaceCommittee

        return MaceCommittee.load(folder)
    raise DataError(
        f"The model in {folder} is of kind {str(kind)[:60]!r}, but this potstill reads 'potstill committee' and 'mace "
        "committee'. A newer potstill may have written it."
    )


def resolve(recipe: str, elements: Sequence[str] = (), settings: Config | None = None) -> Potential:
    """Turn a recipe into a potential.

    Parameters
    ----------
    recipe : str
        See the module's text.
    elements : sequence of str
        Elements that it must know; checked here, before any work starts.
    settings : Config | None
        Whose sections a density-functional code takes its settings from; the defaults otherwise.

    Raises
    ------
    BackendError
        If nothing answers to the recipe: the message lists what exists.
    DataError
        If a trained model is broken.
    """
    code, colon, what = recipe.partition(":")
    potential: Potential
    if colon and code == "lammps":
        from potstill.backends.lammps import LammpsPotential

        potential = LammpsPotential.find(what, tuple(elements))
    elif recipe == "espresso":
        from potstill.backends.espresso import EspressoPotential

        potential = EspressoPotential.find(tuple(elements), (settings or Config()).espresso)
    elif recipe == "gpaw":
        from potstill.backends.gpaw import GpawPotential

        potential = GpawPotential.find(tuple(elements), (settings or Config()).gpaw)
    elif colon and code == "ase":
        from potstill.backends.ase_named import AsePotential

        potential = AsePotential.parse(what)
    elif (Path(recipe) / "model.json").is_file():
        potential = load_model(recipe)
    elif Path(recipe).suffix in SERIALISED and Path(recipe).is_file():
        raise BackendError(
            f"{recipe} holds serialised Python objects: to read it is to run whatever program is in it, so potstill "
            "does not. If you trust where it comes from, load it yourself with torch (weights_only=False), and keep it "
            "as numbers: potstill.backends.mace.MaceCommittee.of(model).save(DIR). Then give DIR."
        )
    else:
        raise BackendError(
            f"Expected a potential such as 'lammps:NiAlH_jea.eam.alloy' or 'ase:emt', or a folder that holds a trained "
            f"model, but found {recipe!r}."
        )
    missing = sorted(set(elements) - set(potential.elements))
    if missing:
        raise BackendError(
            f"The potential {recipe!r} knows {', '.join(potential.elements)}, but not {', '.join(missing)}."
        )
    return potential
