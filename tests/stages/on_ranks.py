"""What a process does in the tests of models in LAMMPS: ``mpiexec -n N python on_ranks.py FOLDER``."""

import sys
from pathlib import Path

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from ase.io import read

from potstill.backends.in_lammps import attach, open_lammps
from potstill.backends.lammps import BAR
from potstill.errors import ConvergenceError
from potstill.model import Committee

QUIET = ("-log", "none", "-screen", "none", "-nocite")


def lammps_of(atoms, symbols, *first):
    """A LAMMPS instance that holds some atoms; the cell has to be lower triangular."""
    lmp = open_lammps(QUIET)
    (x, _, _), (xy, y, _), (xz, yz, z) = atoms.cell.array.tolist()
    boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
    lmp.commands_list(
        [
            *(first or ["units metal"]),
            "atom_modify map array",
            f"boundary {boundary}",
            "box tilt large",
            f"region cell prism 0 {x!r} 0 {y!r} 0 {z!r} {xy!r} {xz!r} {yz!r}",
            f"create_box {len(symbols)} cell",
            *(f"mass {k} {atomic_masses[atomic_numbers[s]]}" for k, s in enumerate(symbols, 1)),
        ]
    )
    types = [symbols.index(s) + 1 for s in atoms.get_chemical_symbols()]
    inside = atoms.copy()
    inside.wrap()
    n = len(atoms)
    lmp.create_atoms(n, list(range(1, n + 1)), types, inside.positions.ravel().tolist())
    return lmp


def measure(attached):
    """Energy, forces, energies of atoms, and the stress (3, 3) of a LAMMPS instance at rest."""
    lmp = attached.lmp
    lmp.commands_list(["compute stress all pressure NULL virial", "compute atoms all pe/atom"])
    lmp.command("thermo_style custom step temp pe etotal c_stress[1]")
    attached.command("run 0 post no")
    xx, yy, zz, xy, xz, yz = -BAR * np.array(lmp.extract_compute("stress", 0, 1)[:6])
    return {
        "energy": lmp.get_thermo("pe"),
        "forces": np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3),
        "energies": np.array(lmp.gather("c_atoms", 1, 1)),
        "stress": np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]),
    }


def dynamics(attached, steps):
    """Run some hot steps, in which atoms change their rank; return what became of energy and positions."""
    lmp = attached.lmp
    lmp.commands_list(["velocity all create 6000 1 loop all", "fix dynamics all nve", "timestep 0.002"])
    attached.command("run 0 post no")
    before = lmp.get_thermo("etotal")
    attached.command(f"run {steps} pre no post no")
    places = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)
    return {"before": before, "after": lmp.get_thermo("etotal"), "positions": places}


def main(folder):
    atoms, committee = read(folder / "atoms.extxyz"), Committee.load(folder / "model")
    lmp = lammps_of(atoms, list(committee.elements))
    attached = attach(lmp, committee, list(committee.elements))
    found = measure(attached)
    found |= dynamics(attached, 10)
    rank = lmp.extract_setting("world_rank")
    if rank == 0:
        np.savez(folder / "found.npz", **found)
        lmp.numpy.extract_atom("x")[0, 1] = np.nan  # on one rank; all have to hear of it
    try:
        attached.command("run 3 pre no")
    except ConvergenceError as error:
        (folder / f"error-{rank}").write_text(str(error))
    lmp.finalize()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
