"""What two pools cover, side by side: an extended ensemble and the ladder at the same number of MD steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.config import ModelConfig
from potstill.data import Dataset
from potstill.model import Descriptor, FrameFeatures, Whitening
from potstill.model.features import nearest
from potstill.protocols import Potential
from potstill.sampling.eam import list_pairs, neighbours
from potstill.sampling.order import Order, order_parameter, order_scratch

F64 = NDArray[np.float64]

MOST = 1000  # frames of each pool that are compared
CELL_ENERGY, CELL_VOLUME, CELL_ORDER = 0.02, 0.25, 0.1  # eV/atom, Å³/atom, –: of the map that visits are counted on
MEASURE = (
    f"Of each pool up to {MOST} frames, evenly spaced. Cells visited: of a map in steps of {CELL_ENERGY} eV/atom, "
    f"{CELL_VOLUME} Å³/atom and {CELL_ORDER} of the order parameter. Covered by the other: the share of frames whose "
    "nearest frame in the other pool, by the descriptors' mean and spread over atoms, is no farther than the median "
    "distance to the nearest frame in their own pool, times two."
)


def order_of(frames: Dataset, order: Order) -> F64:
    """Return the structure factor of each frame whose number of atoms fits the Bragg vectors."""
    out = []
    for frame in frames:
        n, h = frame.n_atoms, np.ascontiguousarray(frame.atoms.cell.array)
        inverse = np.linalg.inv(h)
        found = neighbours(n, n * 250)
        x, volume = frame.atoms.positions.copy(), float(abs(np.linalg.det(h)))
        list_pairs(x, h, inverse, (4 * volume / n) ** (1 / 3), found)
        scratch = order_scratch(n, order.hkl, n * 40)
        out.append(order_parameter(x, inverse, volume, found, order, scratch, np.zeros((n, 3))))
    return np.array(out)


def compare(pools: dict[str, Dataset], orders: dict[int, Order], potential: Potential, md_steps: int) -> dict[str, Any]:
    """Measure two pools of the same cells.

    Parameters
    ----------
    pools : dict of Dataset
        Two, by name.
    orders : dict
        The order parameter for each number of atoms.
    potential : Potential
        Says the energies.
    md_steps : int
        That each took.

    Returns
    -------
    dict
        JSON values: points, cells visited, share covered by the other, and the sentence that explains them.
    """
    thin = {name: pool.take(np.unique(np.linspace(0, len(pool) - 1, MOST).astype(int))) for name, pool in pools.items()}
    s = ModelConfig()
    elements = next(iter(thin.values())).elements
    descriptor = Descriptor(elements, s.cutoff, s.angular_cutoff, s.n_radial, s.n_angular, s.l_max)
    everything = [f for pool in thin.values() for f in pool]
    features = FrameFeatures(descriptor, Whitening.fit(descriptor, everything[:: max(1, len(everything) // 500)]))
    vectors = {name: features.describe(list(pool)) for name, pool in thin.items()}
    calculator = potential.calculator()
    out: dict[str, Any] = {}
    for name, pool in thin.items():
        other = next(v for k, v in vectors.items() if k != name)
        own = nearest(vectors[name], vectors[name], itself=True)
        energy = np.array([calculator.get_potential_energy(f.atoms) / f.n_atoms for f in pool])
        volume = np.array([(f.volume or 0.0) / f.n_atoms for f in pool])
        order = np.concatenate([order_of(Dataset([f]), orders[f.n_atoms]) for f in pool])
        cells = np.floor(np.stack([energy / CELL_ENERGY, volume / CELL_VOLUME, order / CELL_ORDER], axis=1))
        out[name] = {
            "n_frames": len(pools[name]),
            "energy_per_atom": np.round(energy, 5).tolist(),
            "volume_per_atom": np.round(volume, 4).tolist(),
            "order": np.round(order, 4).tolist(),
            "cells_visited": len(np.unique(cells, axis=0)),
            "covered_by_other": float((nearest(vectors[name], other) <= 2 * np.median(own)).mean()),
        }
    return {"md_steps": md_steps, "pools": out, "measure": MEASURE}
