"""Tabulated embedded-atom potentials of one metal: files read as LAMMPS reads them, energy and forces compiled.

The energy is Σ_i F(ρ_i) + Σ_{i<j} φ(r_ij) with ρ_i = Σ_j f(r_ij) (Daw and Baskes, Phys. Rev. B 29, 6443, 1984). Three
formats hold the functions as tables: ``funcfl`` (pair style ``eam``), ``setfl`` (``eam/alloy``) and its Finnis–Sinclair
kin (``eam/fs``). Between two knots LAMMPS interpolates by a cubic whose slopes at the knots are finite differences of
fourth order; we do the same, so that both agree to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from potstill.errors import BackendError
from potstill.freshness import forget_stale

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

_HERE = Path(__file__).parent
forget_stale(_HERE, _HERE.parent / "model", _HERE.parent / "memory.py")  # before anything is compiled or read back

STYLES = ("eam", "eam/alloy", "eam/fs")
LARGEST_FILE = 200_000_000  # bytes; the largest of LAMMPS's own tables has 7 million
MOST_KNOTS = 1_000_000
MOST_IMAGES = 1331  # five on each side: the cutoff is at most five times the cell's least height
HARTREE_BOHR = 27.2 * 0.529  # eV Å, rounded as in LAMMPS, whose numbers are the reference


class Tables(NamedTuple):
    """What the compiled loop reads.

    Attributes
    ----------
    pair : ndarray (n_r, 8)
        Cubic coefficients of r·φ(r) in eV Å, then of f(r), in the fraction of the way to the next knot.
    embed : ndarray (n_rho, 4)
        The same of F(ρ) in eV.
    per_r, per_rho : float
        Knots per Å, and per unit of density.
    rho_max : float
        Where the table of F ends; it goes on as a straight line.
    cutoff : float
        Å.
    """

    pair: F64
    embed: F64
    per_r: float
    per_rho: float
    rho_max: float
    cutoff: float


@dataclass(frozen=True)
class Eam:
    """One element's tables, and its mass in atomic units as the file has it."""

    tables: Tables
    mass: float


def _cubics(values: F64) -> F64:
    """Return the four coefficients for each interval between knots, shape (n, 4); the last row is constant."""
    n = len(values)
    slope = np.empty(n)
    slope[0] = values[1] - values[0]
    slope[1] = 0.5 * (values[2] - values[0])
    slope[-2] = 0.5 * (values[-1] - values[-3])
    slope[-1] = values[-1] - values[-2]
    slope[2:-2] = (values[:-4] - values[4:] + 8.0 * (values[3:-1] - values[1:-3])) / 12.0
    step = np.diff(values)
    out = np.zeros((n, 4))
    out[:, 0] = values
    out[:, 1] = slope
    out[:-1, 2] = 3.0 * step - 2.0 * slope[:-1] - slope[1:]
    out[:-1, 3] = slope[:-1] + slope[1:] - 2.0 * step
    return out


class _Numbers:
    """The numbers of a file after its header, taken in order."""

    def __init__(self, path: Path, words: list[str]) -> None:
        self.path, self.words, self.at = path, words, 0

    def skip(self, n: int) -> list[str]:
        self.at += n
        return self.words[self.at - n : self.at]

    def take(self, n: int) -> F64:
        if self.at + n > len(self.words):
            raise BackendError(
                f"{self.path}: expected {n} numbers after the {self.at}th of the tables, but the file ends there. It "
                "is cut short, or is not a file for the pair style that was asked for."
            )
        try:
            values = np.array([w.replace("D", "E").replace("d", "e") for w in self.skip(n)], dtype=float)
        except ValueError as error:
            raise BackendError(f"{self.path}: expected numbers in the tables, but found a word ({error}).") from None
        if not np.isfinite(values).all():
            raise BackendError(f"{self.path}: the tables hold values that are not finite.")
        return values


def read_eam(path: Path, style: str, element: str) -> Eam:
    """Read one element's functions from a table.

    Parameters
    ----------
    path : Path
        The file.
    style : str
        LAMMPS's pair style: ``eam``, ``eam/alloy`` or ``eam/fs``.
    element : str
        Chemical symbol; must be in the file, except for ``eam``, whose file has one element.

    Raises
    ------
    BackendError
        If the file is cut short, is of another kind, or does not have the element.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise BackendError(f"{path}: a table of more than {LARGEST_FILE // 10**6} MB is not read.")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        return _read_funcfl(path, lines) if style == "eam" else _read_setfl(path, lines, style, element)
    except (IndexError, ValueError) as error:
        raise BackendError(f"{path}: does not begin like a file for pair style {style} ({error}).") from None


def _sizes(path: Path, line: str) -> tuple[int, float, int, float, float]:
    words = line.replace("D", "E").split()
    n_rho, drho, n_r, dr, cutoff = int(words[0]), float(words[1]), int(words[2]), float(words[3]), float(words[4])
    if not (8 <= n_rho <= MOST_KNOTS and 8 <= n_r <= MOST_KNOTS and drho > 0 and dr > 0 and 0 < cutoff < 50):
        raise BackendError(f"{path}: expected sizes and steps of the tables, but found '{line.strip()}'.")
    return n_rho, drho, n_r, dr, cutoff


def _read_funcfl(path: Path, lines: list[str]) -> Eam:
    mass = float(lines[1].split()[1])
    n_rho, drho, n_r, dr, cutoff = _sizes(path, lines[2])
    numbers = _Numbers(path, " ".join(lines[3:]).split())
    embed, charge, density = numbers.take(n_rho), numbers.take(n_r), numbers.take(n_r)
    # LAMMPS leaves the last knot of this format out.
    return _tabulate(embed[:-1], density[:-1], HARTREE_BOHR * charge[:-1] ** 2, dr, drho, cutoff, mass)


def _read_setfl(path: Path, lines: list[str], style: str, element: str) -> Eam:
    names = lines[3].split()[1:]
    if element not in names:
        raise BackendError(f"{path} knows {', '.join(names)}, not {element}.")
    n_rho, drho, n_r, dr, cutoff = _sizes(path, lines[4])
    mine, count = names.index(element), len(names)
    numbers = _Numbers(path, " ".join(lines[5:]).split())
    embed, density, mass = np.empty(0), np.empty(0), 0.0
    for k in range(count):
        head = numbers.skip(4)
        functions = numbers.take(n_rho + n_r * (count if style == "eam/fs" else 1))
        if k == mine:
            mass = float(head[1])
            first = n_rho + (n_r * k if style == "eam/fs" else 0)
            embed, density = functions[:n_rho], functions[first : first + n_r]
    numbers.take(n_r * (mine * (mine + 1) // 2 + mine))  # the pairs before ours, in rows of a lower triangle
    return _tabulate(embed, density, numbers.take(n_r), dr, drho, cutoff, mass)


def _tabulate(embed: F64, density: F64, pair: F64, dr: float, drho: float, cutoff: float, mass: float) -> Eam:
    both = np.ascontiguousarray(np.hstack([_cubics(pair), _cubics(density)]))
    return Eam(Tables(both, _cubics(embed), 1.0 / dr, 1.0 / drho, (len(embed) - 1) * drho, cutoff), mass)


# --- compiled ---


class Neighbours(NamedTuple):
    """A half list with images: each pair once. ``first[i]:first[i + 1]`` are those of atom i.

    Attributes
    ----------
    first : ndarray (n + 1,)
    other, image : ndarray (capacity,)
        Index of the other atom, and row of ``shifts``.
    span : ndarray (3,)
        Images run from −span to span along each cell vector.
    shifts : ndarray (most images, 3)
        Their shifts for the present cell, Å, the last vector's count fastest.
    """

    first: I32
    other: I32
    image: I32
    span: I32
    shifts: F64


class Scratch(NamedTuple):
    """Work space of the energy: a row a pair within the cutoff."""

    d: F64  # (4, capacity): dx, dy, dz, r²
    g: F64  # (4, capacity): 1/r, φ', f', f
    i: I32
    j: I32
    rho: F64  # (n,)


def neighbours(n: int, capacity: int) -> Neighbours:
    """Return an empty list for ``n`` atoms and ``capacity`` pairs."""
    return Neighbours(
        np.zeros(n + 1, np.int32),
        np.zeros(capacity, np.int32),
        np.zeros(capacity, np.int32),
        np.zeros(3, np.int32),
        np.zeros((MOST_IMAGES, 3)),
    )


def work_space(n: int, capacity: int) -> Scratch:
    """Return scratch for ``n`` atoms and ``capacity`` pairs."""
    return Scratch(
        np.zeros((4, capacity)),
        np.zeros((4, capacity)),
        np.zeros(capacity, np.int32),
        np.zeros(capacity, np.int32),
        np.zeros(n),
    )


@nb.njit(fastmath=True)
def place_images(nl: Neighbours, h: F64) -> None:
    """Recompute the shifts after the cell ``h`` (rows are vectors, Å) has changed."""
    m, s = nl.span, nl.shifts
    row = 0
    for a in range(-m[0], m[0] + 1):
        for b in range(-m[1], m[1] + 1):
            for c in range(-m[2], m[2] + 1):
                for k in range(3):
                    s[row, k] = a * h[0, k] + b * h[1, k] + c * h[2, k]
                row += 1


@nb.njit(fastmath=True)
def list_pairs(  # noqa: C901 - one loop, compiled as one
    x: F64, h: F64, inverse: F64, reach: float, nl: Neighbours
) -> int:
    """Wrap the atoms into the cell and list all pairs nearer than ``reach`` (Å), images of small cells included.

    ``inverse`` is the inverse of the cell ``h``. Returns the number of pairs, or −1 where the capacity is too small.
    All pairs of atoms are looked at: meant for cells of some hundred atoms, hardly larger than the cutoff.
    """
    n = x.shape[0]
    frac = np.empty((n, 3))
    width = np.empty(3)  # the reach in units of the distance between opposite faces of the cell
    images = 1
    for k in range(3):
        width[k] = reach * math.sqrt(inverse[0, k] ** 2 + inverse[1, k] ** 2 + inverse[2, k] ** 2)
        nl.span[k] = math.ceil(width[k])
        images *= 2 * nl.span[k] + 1
    if images > nl.shifts.shape[0]:
        return -1
    place_images(nl, h)
    for i in range(n):
        for k in range(3):
            f = x[i, 0] * inverse[0, k] + x[i, 1] * inverse[1, k] + x[i, 2] * inverse[2, k]
            frac[i, k] = f - math.floor(f)
        for k in range(3):
            x[i, k] = frac[i, 0] * h[0, k] + frac[i, 1] * h[1, k] + frac[i, 2] * h[2, k]
    reach2 = reach * reach
    shifts = nl.shifts
    m0, m1, m2 = nl.span[0], nl.span[1], nl.span[2]
    n1, n2 = 2 * m1 + 1, 2 * m2 + 1
    own = images // 2  # the row of the cell itself; of an atom's own images those after it are kept
    count = 0
    for i in range(n):
        nl.first[i] = count
        for j in range(i, n):
            if count + images > nl.other.shape[0]:
                return -1
            bx, by, bz = x[j, 0] - x[i, 0], x[j, 1] - x[i, 1], x[j, 2] - x[i, 2]
            fa, fb, fc = frac[j, 0] - frac[i, 0], frac[j, 1] - frac[i, 1], frac[j, 2] - frac[i, 2]
            for a in range(max(-m0, math.ceil(-width[0] - fa)), min(m0, math.floor(width[0] - fa)) + 1):
                for b in range(max(-m1, math.ceil(-width[1] - fb)), min(m1, math.floor(width[1] - fb)) + 1):
                    for c in range(max(-m2, math.ceil(-width[2] - fc)), min(m2, math.floor(width[2] - fc)) + 1):
                        row = ((a + m0) * n1 + b + m1) * n2 + c + m2
                        if i == j and row <= own:
                            continue
                        dx, dy, dz = bx + shifts[row, 0], by + shifts[row, 1], bz + shifts[row, 2]
                        nl.other[count] = j
                        nl.image[count] = row
                        count += dx * dx + dy * dy + dz * dz < reach2
    nl.first[n] = count
    return count


@nb.njit(fastmath=True)
def energy_forces(x: F64, nl: Neighbours, tables: Tables, work: Scratch, f: F64) -> float:
    """Return the energy (eV) and fill the forces ``f`` (eV/Å)."""
    n = x.shape[0]
    d, g, wi, wj, rho = work.d, work.g, work.i, work.j, work.rho
    cut2 = tables.cutoff * tables.cutoff
    count = 0
    for i in range(n):
        rho[i] = 0.0
        xi, yi, zi = x[i, 0], x[i, 1], x[i, 2]
        for p in range(nl.first[i], nl.first[i + 1]):
            j, a = nl.other[p], nl.image[p]
            dx = x[j, 0] - xi + nl.shifts[a, 0]
            dy = x[j, 1] - yi + nl.shifts[a, 1]
            dz = x[j, 2] - zi + nl.shifts[a, 2]
            r2 = dx * dx + dy * dy + dz * dz
            d[0, count] = dx
            d[1, count] = dy
            d[2, count] = dz
            d[3, count] = r2
            wi[count] = i
            wj[count] = j
            count += r2 < cut2
    per_r, pair = tables.per_r, tables.pair
    last = pair.shape[0] - 2
    energy = 0.0
    for p in range(count):
        r = math.sqrt(d[3, p])
        inverse = 1.0 / r
        t = r * per_r
        m = min(int(t), last)
        t = min(t - m, 1.0)
        z = pair[m, 0] + t * (pair[m, 1] + t * (pair[m, 2] + t * pair[m, 3]))
        dz = (pair[m, 1] + t * (2.0 * pair[m, 2] + t * 3.0 * pair[m, 3])) * per_r
        density = pair[m, 4] + t * (pair[m, 5] + t * (pair[m, 6] + t * pair[m, 7]))
        phi = z * inverse
        energy += phi
        g[0, p] = inverse
        g[1, p] = (dz - phi) * inverse
        g[2, p] = (pair[m, 5] + t * (2.0 * pair[m, 6] + t * 3.0 * pair[m, 7])) * per_r
        g[3, p] = density
    for p in range(count):
        rho[wi[p]] += g[3, p]
        rho[wj[p]] += g[3, p]
    embed, per_rho = tables.embed, tables.per_rho
    last = embed.shape[0] - 2
    for i in range(n):
        t = rho[i] * per_rho
        m = max(0, min(int(t), last))
        t = min(t - m, 1.0)
        slope = (embed[m, 1] + t * (2.0 * embed[m, 2] + t * 3.0 * embed[m, 3])) * per_rho
        energy += embed[m, 0] + t * (embed[m, 1] + t * (embed[m, 2] + t * embed[m, 3]))
        if rho[i] > tables.rho_max:
            energy += slope * (rho[i] - tables.rho_max)
        rho[i] = slope
        f[i, 0] = 0.0
        f[i, 1] = 0.0
        f[i, 2] = 0.0
    for p in range(count):
        i, j = wi[p], wj[p]
        s = (g[1, p] + (rho[i] + rho[j]) * g[2, p]) * g[0, p]
        fx, fy, fz = s * d[0, p], s * d[1, p], s * d[2, p]
        f[i, 0] += fx
        f[i, 1] += fy
        f[i, 2] += fz
        f[j, 0] -= fx
        f[j, 1] -= fy
        f[j, 2] -= fz
    return energy
