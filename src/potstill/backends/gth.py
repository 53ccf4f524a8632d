"""Goedecker–Teter–Hutter pseudopotentials of CP2K's tables, tabulated for pw.x as UPF (unified pseudopotential format).

The table holds a few numbers for an element (Goedecker, Teter and Hutter, Phys. Rev. B 54, 1703, 1996; Hartwigsen,
Goedecker and Hutter, Phys. Rev. B 58, 3641, 1998; Krack, Theor. Chem. Acc. 114, 145, 2005): the local part's radius and
coefficients, and for each angular momentum a radius and the upper triangle of a matrix h. In atomic units, with
x = r/r_loc,

    V(r)   = −Z/r erf(x/√2) + exp(−x²/2) Σ_k C_k x^(2k − 2)
    p_i(r) = √2 r^(l + 2i − 2) exp(−(r/r_l)²/2) / (r_l^(l + 2i − 1/2) √Γ(l + 2i − 1/2))
    V_nl   = Σ_lm Σ_ij |p_i Y_lm⟩ h_ij ⟨p_j Y_lm|

pw.x also reads such numbers as they are (ABINIT's code 10), but the off-diagonal components of its stress (6.7) are
then not the energy's derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from potstill.data import Array
from potstill.errors import BackendError
from potstill.store import digest

TABLE = Path("/usr/share/cp2k/POTENTIAL_UZH")
DEFAULT = "GTH-PBE"
STEP, REACH = 0.01, 12.0  # Bohr, of the tabulation; pw.x itself integrates to 10
RYDBERG = 2.0  # to a Hartree


@dataclass(frozen=True)
class Numbers:
    """What the table says of an element, in atomic units.

    Attributes
    ----------
    valence : int
        Electrons, Z.
    radius, local : float, tuple of float
        r_loc and the C_k.
    channels : tuple of (float, ndarray)
        r_l and h, symmetric, by angular momentum.
    """

    valence: int
    radius: float
    local: tuple[float, ...]
    channels: tuple[tuple[float, Array], ...]

    @classmethod
    def read(cls, lines: Iterable[str]) -> Numbers:
        """Read an element's lines but its first."""
        rows = iter(lines)
        valence = sum(int(n) for n in next(rows).split())
        radius, count, *local = next(rows).split()
        channels = []
        for _ in range(int(next(rows).split()[0])):
            reach, size, *first = next(rows).split()
            n = int(size)
            h = np.zeros((n, n))
            for i in range(n):
                row = first[:n] if i == 0 else next(rows).split()[: n - i]
                h[i, i:] = h[i:, i] = [float(x) for x in row]
            channels.append((float(reach), h))
        return cls(valence, float(radius), tuple(float(c) for c in local[: int(count)]), tuple(channels))

    def potential(self, r: Array) -> Array:
        """Return V(r), Hartree, for r from 0 on."""
        from scipy.special import erf

        x = r / self.radius
        with np.errstate(invalid="ignore", divide="ignore"):
            tail = np.where(r > 0, erf(x / math.sqrt(2)) / r, math.sqrt(2 / math.pi) / self.radius)
        return np.asarray(
            -self.valence * tail + np.exp(-(x**2) / 2) * sum(c * x ** (2 * k) for k, c in enumerate(self.local))
        )

    def projectors(self, r: Array) -> list[tuple[int, Array]]:
        """Return l and r p_i(r) of each projector, by l and then i."""
        found = []
        for l, (reach, h) in enumerate(self.channels):
            for i in range(len(h)):
                power = l + 2 * i
                norm = math.sqrt(2) / (reach ** (power + 1.5) * math.sqrt(math.gamma(power + 1.5)))
                found.append((l, norm * r ** (power + 1) * np.exp(-((r / reach) ** 2) / 2)))
        return found

    @property
    def content(self) -> str:
        """What two machines agree upon of a tabulation, whose last digits they may not."""
        return digest([STEP, REACH, self.valence, self.radius, self.local, [(r, h.tolist()) for r, h in self.channels]])

    @property
    def strengths(self) -> Array:
        """Of all projectors with each other, Hartree: the matrices h along the diagonal."""
        from scipy.linalg import block_diag

        return np.asarray(block_diag(*(h for _, h in self.channels)))


def find(element: str, name: str = DEFAULT, table: Path = TABLE) -> tuple[str, Numbers] | None:
    """Return the full name of an element's pseudopotential, and its numbers; None where the table has none.

    Parameters
    ----------
    element : str
        Chemical symbol.
    name : str
        As in the table, ``GTH-PBE-q3``; ``GTH-PBE`` is the table's first of these, with the fewest electrons.
    table : path
        CP2K's file.

    Raises
    ------
    BackendError
        If the table is not what it should be.
    """
    if not table.is_file():
        return None
    lines = table.read_text(encoding="utf-8").splitlines()
    for k, line in enumerate(lines):
        words = line.split()
        if words[:1] == [element] and (name in words[1:] or words[1].startswith(f"{name}-q")):
            try:
                return words[1], Numbers.read(lines[k + 1 :])
            except (ValueError, IndexError, StopIteration) as error:
                raise BackendError(
                    f"{table}, line {k + 1}: the pseudopotential {name} of {element} is broken: {error}."
                ) from None
    return None


def tabulated(element: str, name: str, numbers: Numbers) -> str:
    """Return a UPF file's text."""
    from ase.data import atomic_numbers, covalent_radii
    from ase.units import Bohr

    r = STEP * np.arange(round(REACH / STEP) + 1, dtype=float)
    projectors = numbers.projectors(r)
    # Where pw.x begins with its density, which it finds itself: all valence electrons in a Gaussian of the atom's size.
    spread = covalent_radii[atomic_numbers[element]] / Bohr / 2
    density = numbers.valence * math.sqrt(2 / math.pi) * r**2 / spread**3 * np.exp(-((r / spread) ** 2) / 2)
    header = {
        "generated": f"{name}, CP2K", "author": "", "date": "", "comment": "", "element": element, "pseudo_type": "NC",
        "relativistic": "scalar", "is_ultrasoft": "F", "is_paw": "F", "is_coulomb": "F", "has_so": "F", "has_wfc": "F",
        "has_gipaw": "F", "paw_as_gipaw": "F", "core_correction": "F", "functional": name.split("-")[1],
        "z_valence": numbers.valence, "total_psenergy": 0.0, "wfc_cutoff": 0.0, "rho_cutoff": 0.0,
        "l_max": max(len(numbers.channels) - 1, 0), "l_max_rho": 0, "l_local": -1, "mesh_size": len(r),
        "number_of_wfc": 0, "number_of_proj": len(projectors),
    }  # fmt: skip
    mesh = {"mesh": len(r), "dx": STEP, "xmin": 0.0, "rmax": REACH, "zmesh": atomic_numbers[element]}
    betas = [
        _array(f"PP_BETA.{k}", beta, index=k, angular_momentum=l, cutoff_radius_index=len(r), cutoff_radius=REACH)
        for k, (l, beta) in enumerate(projectors, 1)
    ]
    parts = [
        '<UPF version="2.0.1">',
        "<PP_INFO>",
        f"{name} of {element}, tabulated",
        "</PP_INFO>",
        f"<PP_HEADER {_attributes(header)}/>",
        f"<PP_MESH {_attributes(mesh)}>",
        _array("PP_R", r),
        _array("PP_RAB", np.full(len(r), STEP)),
        "</PP_MESH>",
        _array("PP_LOCAL", RYDBERG * numbers.potential(r)),
        "<PP_NONLOCAL>",
        *betas,
        *([_array("PP_DIJ", RYDBERG * numbers.strengths.ravel())] if projectors else []),
        "</PP_NONLOCAL>",
        "<PP_PSWFC>",
        "</PP_PSWFC>",
        _array("PP_RHOATOM", density),
        "</UPF>",
    ]
    return "\n".join(parts) + "\n"


def _attributes(values: Mapping[str, Any]) -> str:
    return "\n".join(f'{key}="{value}"' for key, value in values.items())  # pw.x reads lines of 256 characters


def _array(tag: str, values: Array, **attributes: Any) -> str:
    about = _attributes({"type": "real", "size": len(values), "columns": 4, **attributes})
    rows = (" ".join(f"{x:.14E}" for x in values[k : k + 4]) for k in range(0, len(values), 4))
    return "\n".join([f"<{tag} {about}>", *rows, f"</{tag}>"])
