"""The descriptor in plain torch, for accelerators: the same formula as the compiled kernels, derivatives by autograd.

On a processor the kernels are many times faster; on a GPU this is what trains. Both are tested equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from potstill.model.kernels import Shape
from potstill.model.neighbours import Geometry


@dataclass(frozen=True)
class Edges:
    """Edges of some frames as tensors: D (n_edges, 3), both atoms, and the element of the second."""

    D: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    kind: torch.Tensor

    @classmethod
    def of(cls, geometry: Geometry, device: torch.device) -> Edges:
        """Move a geometry's edges to a device."""
        first = np.repeat(np.arange(len(geometry.centre)), np.diff(geometry.first))
        D = geometry.x[geometry.second] - geometry.x[geometry.centre[first]]

        def put(values: NDArray[np.generic], kind: torch.dtype) -> torch.Tensor:
            return torch.as_tensor(values).to(device=device, dtype=kind)

        return cls(
            put(D, torch.float32),
            put(first, torch.int64),
            put(geometry.owner[geometry.second], torch.int64),
            put(geometry.kinds[geometry.second], torch.int64),
        )

    def take(self, edges: torch.Tensor, atom: torch.Tensor) -> Edges:
        """Return some edges, their atoms renumbered by ``atom``."""
        return Edges(self.D[edges], atom[self.first[edges]], atom[self.second[edges]], self.kind[edges])


def _radial(r: torch.Tensor, cutoff: float, n: int) -> torch.Tensor:
    """Return R_n(r), shape (n_edges, n)."""
    k = torch.arange(1, n + 1, device=r.device, dtype=r.dtype)
    x = (r / cutoff).clamp(max=1.0)
    return torch.sin(k * math.pi * x[:, None]) / r[:, None] * ((1 - x * x) ** 3)[:, None]


def _harmonics(u: torch.Tensor, s: Shape) -> torch.Tensor:
    """Return Y_lm(u), shape (n_edges, (l_max + 1)²), by the recursion of the kernels."""
    x, y, z = u.unbind(1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    q: dict[tuple[int, int], torch.Tensor] = {(0, 0): one}
    for l in range(1, s.l_max + 1):
        q[l, l] = -(2 * l - 1) * q[l - 1, l - 1]
        q[l, l - 1] = -z * q[l, l]
        for m in range(l - 2, -1, -1):
            q[l, m] = ((2 * l - 1) * z * q[l - 1, m] - (l + m - 1) * q[l - 2, m]) / (l - m)
    rows: dict[int, torch.Tensor] = {l * l + l: s.norms[l * l + l] * q[l, 0] for l in range(s.l_max + 1)}
    c, sn = one, zero
    for m in range(1, s.l_max + 1):
        c, sn = x * c - y * sn, x * sn + y * c
        for l in range(m, s.l_max + 1):
            norm = s.norms[l * l + l + m]
            rows[l * l + l + m], rows[l * l + l - m] = norm * q[l, m] * c, norm * q[l, m] * sn
    return torch.stack([rows[k] for k in range((s.l_max + 1) ** 2)], dim=1)


def describe(D: torch.Tensor, edges: Edges, n_atoms: int, s: Shape) -> torch.Tensor:
    """Return descriptors (n_atoms, n_features) as a differentiable function of the edges' vectors D."""
    r = torch.linalg.norm(D, dim=1)
    Z, na, n_lm = s.n_kinds, s.n_angular, (s.l_max + 1) ** 2
    row = edges.first * Z + edges.kind
    A = D.new_zeros(n_atoms * Z, s.n_radial).index_add(0, row, _radial(r, s.cutoff, s.n_radial))
    b, Y = _radial(r, s.angular_cutoff, na), _harmonics(D / r[:, None], s)
    C = D.new_zeros(n_atoms * Z, na, n_lm).index_add(0, row, b[:, :, None] * Y[:, None, :])
    C = C.view(n_atoms, Z * na, n_lm)
    c, d = torch.triu_indices(Z * na, Z * na, device=D.device)
    parts = [
        (C[:, c, l * l : (l + 1) ** 2] * C[:, d, l * l : (l + 1) ** 2]).sum(2) * float(s.scale[l])
        for l in range(s.l_max + 1)
    ]
    return torch.cat([A.view(n_atoms, -1), torch.stack(parts, dim=2).flatten(1)], dim=1)


def pull(
    g: torch.Tensor, edges: Edges, frame: torch.Tensor, n_frames: int, s: Shape
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn ∂E/∂G (M, n, F) into −∂E/∂r (M, n, 3) and ∂E/∂ε (M, n_frames, 6), differentiable with respect to g."""
    M, n, _ = g.shape
    D = edges.D.detach().requires_grad_(True)
    with torch.enable_grad():
        G = describe(D, edges, n, s)
    forces, virial = [], []
    for m in range(M):
        (F,) = torch.autograd.grad(G, D, g[m], create_graph=torch.is_grad_enabled(), retain_graph=True)
        zero = F.new_zeros(n, 3)
        forces.append(zero.index_add(0, edges.first, F) - zero.index_add(0, edges.second, F))
        pairs = torch.stack([F[:, a] * edges.D[:, b] for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], 1)
        virial.append(F.new_zeros(n_frames, 6).index_add(0, frame[edges.first], pairs))
    return torch.stack(forces), torch.stack(virial)
