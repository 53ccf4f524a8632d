"""The repulsive wall below the shortest bonds that were learnt.

A network that never saw two atoms closer than 2 Å knows nothing below, and dynamics that gets there once falls into
whatever hole it has. So for each pair of elements a screened nuclear repulsion is added that begins somewhat below the
shortest learnt bond, or right there where the network does not rise inwards by itself. It changes nothing that was
learnt; it is as strong as it must be for the energy of a pair, alone and
in the middle of learnt surroundings, to rise all the way in.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from potstill.data import Array, Dataset, Frame
from potstill.model import network
from potstill.model.network import Wall

if TYPE_CHECKING:
    from potstill.model.committee import Weights
    from potstill.model.descriptor import Descriptor

DEEPEST = 0.35  # of the shortest bond: no collision at a few thousand K comes nearer
SETTLED = 0.9  # of the shortest bond: from here on inwards, the energy has to rise; the wall begins softly
PROBES = 24
STANDOFF_PROBES = 6
UNSEEN = 0.9  # of the sum of the covalent radii, where a pair never met
STANDOFF = 0.9  # of the shortest bond: so far inwards a network that rises is trusted, and the wall begins there
STRENGTHS = tuple(2.0**k for k in range(13))
FRAMES = 500  # that are looked at for the shortest bond


def fit_wall(descriptor: Descriptor, weights: Weights, frames: Dataset) -> Wall:
    """Return the wall for trained weights and the frames that they learnt from."""
    from ase.data import atomic_numbers, covalent_radii

    numbers = [atomic_numbers[e] for e in descriptor.elements]
    Z = len(numbers)
    charge = np.array(numbers, dtype=np.float64)
    reach = UNSEEN * (covalent_radii[numbers][:, None] + covalent_radii[numbers][None, :])
    closest, to_images = _shortest_bonds(descriptor, frames)
    net = network.pack(weights.shift, weights.linear, list(weights.layers))

    def energies(scan: list[Frame]) -> Array:
        """Return every member's energy of some frames of one size, (n_frames, n_members)."""
        of_atoms, _, _ = network.infer(
            descriptor.geometry(scan), descriptor.shape, net, network.no_wall(Z), apart=False
        )
        return np.asarray(of_atoms.reshape(len(scan), -1, of_atoms.shape[1]).sum(1))

    for pair, (distance, frame, bond) in closest.items():
        near = energies(_pressed(frame, bond, distance * np.linspace(1.0, STANDOFF, STANDOFF_PROBES)))
        rises = bool((np.diff(near, axis=0) > 0).all())
        reach[pair] = reach[pair[::-1]] = distance * (STANDOFF if rises else 1.0)
    of_own = np.diag_indices(Z)
    reach[of_own] = np.minimum(reach[of_own], to_images)
    strength = np.ones((Z, Z))
    for a, b in itertools.combinations_with_replacement(range(Z), 2):
        inwards = reach[a, b] * np.linspace(SETTLED, DEEPEST, PROBES)
        scans = [_dimers(descriptor, (a, b), inwards)]
        if (a, b) in closest:
            scans.append(_pressed(*closest[a, b][1:], inwards))
        wall = np.array([network.repulsion(r, reach[a, b], 1.0, (charge[a], charge[b]))[0] for r in inwards])
        needed = 1.0
        for scan in scans:
            needed = max(needed, _needed(energies(scan), wall))
        strength[a, b] = strength[b, a] = needed
    return Wall(reach, strength, charge)


def _needed(energy: Array, wall: Array) -> float:
    """Return the least strength with which every member's energy (n_probes, members) rises from probe to probe."""
    for strength in STRENGTHS:
        if (np.diff(energy + strength * wall[:, None], axis=0) > 0).all():
            return strength
    return STRENGTHS[-1]


def _shortest_bonds(
    descriptor: Descriptor, frames: Dataset
) -> tuple[dict[tuple[int, int], tuple[float, Frame, Array]], Array]:
    """Find, for each pair of elements that meets, the shortest distance, its frame, and (both atoms, vector between).

    Bonds of atoms to their own images, which cannot be pressed alone, are apart: the shortest one of each element.
    """
    found: dict[tuple[int, int], tuple[float, Frame, Array]] = {}
    to_images = np.full(len(descriptor.elements), np.inf)
    for frame in frames[:: max(1, len(frames) // FRAMES)]:
        g = descriptor.geometry([frame])
        first = np.repeat(np.arange(frame.n_atoms), np.diff(g.first))
        distance = np.linalg.norm(g.x[g.second] - g.x[g.centre[first]], axis=1)
        species = g.species
        own = np.flatnonzero(g.owner[g.second] == first)
        np.minimum.at(to_images, species[first[own]], distance[own])
        for a, b in itertools.combinations_with_replacement(range(len(descriptor.elements)), 2):
            mine = np.flatnonzero((species[first] == a) & (g.kinds[g.second] == b) & (g.owner[g.second] != first))
            if len(mine):
                e = mine[np.argmin(distance[mine])]
                if distance[e] < found.get((a, b), (np.inf,))[0]:
                    i, j = int(first[e]), int(g.owner[g.second[e]])
                    found[a, b] = float(distance[e]), frame, np.array([i, j, *(g.x[g.second[e]] - g.x[g.centre[i]])])
    return found, to_images


def _dimers(descriptor: Descriptor, pair: tuple[int, int], distances: Array) -> list[Frame]:
    """Return two atoms alone, at these distances."""
    from ase import Atoms

    symbols = [descriptor.elements[k] for k in pair]
    return [Frame(Atoms(symbols, [(0.0, 0.0, 0.0), (r, 0.0, 0.0)])) for r in distances]


def _pressed(frame: Frame, bond: Array, distances: Array) -> list[Frame]:
    """Return a frame with one bond (first atom, second, vector between) pressed to these lengths."""
    j, between = int(bond[1]), bond[2:]
    pressed = []
    for r in distances:
        atoms = frame.atoms.copy()
        atoms.positions[j] += between * (r / np.linalg.norm(between) - 1.0)
        pressed.append(Frame(atoms))
    return pressed
