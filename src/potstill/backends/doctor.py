"""What this machine can do: a one-atom calculation by each reference, and what to install for those that cannot."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from potstill.backends import resolve
from potstill.config import parse_config
from potstill.errors import PotstillError

QUICK = {  # settings under which one atom takes seconds; its energy means nothing
    "espresso": {"cutoff": 16.0, "small_k_spacing": 1.0, "width": 0.05},
    "gpaw": {"cutoff": 200.0, "small_k_spacing": 1.0, "width": 0.5},
}
REFERENCES = ("lammps:Al_zhou.eam.alloy", "ase:emt", "espresso", "gpaw")
SCHEDULERS = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "kubernetes": "kubectl"}


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes
    ----------
    name : str
        A reference's recipe, or what else was looked for.
    works : bool
        Whether it can be used.
    told : str
        What it said of itself, or what to do.
    """

    name: str
    works: bool
    told: str


def reference(recipe: str, element: str = "Al") -> Finding:
    """Let a reference compute one atom of an element's crystal."""
    from ase.build import bulk

    began = time.perf_counter()
    calculator: Any = None
    try:
        code = recipe.partition(":")[0]
        potential = resolve(recipe, [element], parse_config({code: QUICK[code]} if code in QUICK else {}))
        atoms = bulk(element)
        atoms.calc = calculator = potential.calculator()
        energy = atoms.get_potential_energy()
        atoms.get_forces()
    except PotstillError as error:
        return Finding(recipe, works=False, told=str(error))
    except Exception as error:  # noqa: BLE001 - a foreign code may raise anything, and to say so is what this is for
        return Finding(recipe, works=False, told=f"{type(error).__name__}: {error}")
    finally:
        if hasattr(calculator, "close"):
            calculator.close()
    seconds = time.perf_counter() - began
    source = potential.fingerprint.partition(":")[0]
    return Finding(recipe, works=True, told=f"{source}, one {element} atom {energy:.3f} eV in {seconds:.1f} s")


def others() -> Iterator[Finding]:
    """Look for what stores and batch systems need; nothing is connected to."""
    extras = {
        "PostgreSQL stores": ("psycopg", "postgres"),
        "batch systems": ("parsl", "cluster"),
        "MACE models": ("mace", "mace"),
    }
    for name, (module, extra) in extras.items():
        there = find_spec(module) is not None
        yield Finding(name, there, f"{module} is installed" if there else f"pip install 'potstill[{extra}]'")
    found = [f"{name} ({program})" for name, program in SCHEDULERS.items() if shutil.which(program)]
    yield Finding("submitting jobs", bool(found), ", ".join(found) or "neither sbatch, qsub, bsub nor kubectl is here")


def machine() -> str:
    """Say in a line what there is to compute with."""
    import platform

    from potstill.engine import cores

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores()} cores, {memory:.0f} GiB of memory, Python {platform.python_version()} on {platform.platform()}"
