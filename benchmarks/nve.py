"""Whether energy is conserved: microcanonical MD of 256 nickel atoms with a trained committee.

    python benchmarks/nve.py MODEL [PICOSECONDS]

Velocity Verlet with 2 fs from a crystal at twice 1,500 K, half of which goes into the springs. The total energy is read
every picosecond; its drift is the slope of a straight line through it, times the length of the run.
"""

from __future__ import annotations

import sys

import numpy as np
from ase import units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

from potstill import Committee

STEP = 2.0  # fs
KELVIN = 3300.0


def main() -> None:
    """Run and print."""
    length = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    atoms = bulk("Ni", cubic=True, a=3.55).repeat((4, 4, 4))
    rng = np.random.default_rng(1)
    momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * KELVIN)[:, None]
    atoms.set_momenta(momenta - momenta.mean(0))
    atoms.calc = Committee.load(sys.argv[1]).calculator()
    md = VelocityVerlet(atoms, STEP * units.fs)
    md.run(500)
    energy, kelvin = [], []
    for _ in range(length + 1):
        energy.append(1e3 * atoms.get_total_energy() / len(atoms))
        kelvin.append(atoms.get_temperature())
        md.run(500)
    slope = np.polyfit(np.arange(length + 1), energy, 1)[0]
    print(f"{len(atoms)} atoms, {length} ps of {STEP:g} fs, {np.mean(kelvin):.0f} K")
    print(f"drift {slope * length:+.4f} meV/atom, fluctuation {np.std(energy):.4f} meV/atom")


if __name__ == "__main__":
    main()
