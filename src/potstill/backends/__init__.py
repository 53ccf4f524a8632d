"""One file a code behind one recipe language: ``CODE:WHAT`` names a potential.

``lammps:FILE``
    A potential file from LAMMPS's own folder, or a path. The pair style follows from the name's ending;
    ``lammps:STYLE:FILE`` names it.
``DIR``
    A committee that ``potstill train`` wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from potstill.errors import BackendError
from potstill.protocols import Potential


def resolve(recipe: str, elements: Sequence[str] = ()) -> Potential:
    """Turn a recipe into a potential.

    Parameters
    ----------
    recipe : str
        See the module's text.
    elements : sequence of str
        Elements that it must know; checked here, before any work starts.

    Raises
    ------
    BackendError
        If nothing answers to the recipe: the message lists what exists.
    """
    code, colon, what = recipe.partition(":")
    potential: Potential
    if colon and code == "lammps":
        from potstill.backends.lammps import LammpsPotential

        potential = LammpsPotential.find(what, tuple(elements))
    elif (Path(recipe) / "model.json").is_file():
        from potstill.model import Committee

        potential = Committee.load(recipe)
    else:
        raise BackendError(
            f"Expected a potential such as 'lammps:NiAlH_jea.eam.alloy', or a folder that holds a trained model, but "
            f"found {recipe!r}."
        )
    missing = sorted(set(elements) - set(potential.elements))
    if missing:
        raise BackendError(
            f"The potential {recipe!r} knows {', '.join(potential.elements)}, but not {', '.join(missing)}."
        )
    return potential
