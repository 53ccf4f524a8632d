"""Two codes' dynamics of one potential visit the same states."""

import numpy as np

from potstill.backends import resolve
from potstill.crystals import supercell
from potstill.protocols import State
from potstill.sampling.dynamics import _ase_dynamics, dynamics

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])


def volumes(run):
    return np.array([atoms.get_volume() / len(atoms) for _, _, atoms in run])


def standard_error(x, blocks=8):
    return np.std([b.mean() for b in np.array_split(x, blocks)], ddof=1) / np.sqrt(blocks)


def test_pressure_compresses_and_heat_expands():
    start = supercell("fcc", "Ni", 10.9, 32)

    def mean(temperature, pressure):
        state = State(temperature, pressure)
        return volumes(dynamics(EAM, start, [(state, 1000, 0), (state, 3000, 20)], timestep=2.0, seed=2)).mean()

    assert mean(300, 40) < mean(300, 15) < mean(300, 0) < mean(1200, 0)


def test_the_same_seed_gives_the_same_trajectory_and_another_does_not():
    start, state = supercell("fcc", "Ni", 10.9, 32), State(700.0, 0.0)

    def last(seed):
        *_, (_, _, atoms) = dynamics(EAM, start, [(state, 400, 100)], timestep=2.0, seed=seed)
        return atoms.positions

    assert np.array_equal(last(5), last(5))
    assert not np.allclose(last(5), last(6))


def test_native_and_ase_dynamics_agree_under_pressure_on_volume_and_on_potential_energy():
    """The potential energy is the thermometer: 10 K are 1.3 meV/atom, and four errors at most 12."""
    start, state = supercell("fcc", "Ni", 10.4, 32), State(600.0, 15.0)
    calculator = EAM.calculator()

    def visited(run):
        values = []
        for _, _, atoms in run:
            atoms.calc = calculator
            values.append((atoms.get_volume() / 32, atoms.get_potential_energy() / 32))
        return np.array(values).T

    native = visited(dynamics(EAM, start, [(state, 1000, 0), (state, 12000, 20)], timestep=2.0, seed=3))
    slow = visited(_ase_dynamics(EAM, start, [(state, 600, 0), (state, 2400, 20)], 2.0, 3))
    for ours, theirs, enough in zip(native, slow, (0.03, 0.003), strict=True):
        error = np.hypot(standard_error(ours), standard_error(theirs))
        assert abs(ours.mean() - theirs.mean()) < 4 * error
        assert error < enough, "the bound above would prove nothing"
    assert native[0].mean() < 10.6, "15 GPa take 0.9 of 11.2 Å³ away"
