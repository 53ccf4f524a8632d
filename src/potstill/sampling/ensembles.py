"""Extended ensembles: which states are mixed, and the bias that the learning starts from.

Method: Jung, Lee, Choi, arXiv:2308.08098 and arXiv:2311.05407.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from potstill.data import Frame
from potstill.protocols import Potential
from potstill.sampling.bias import GPA, GRID, KB, OPES, SAMS, WANG_LANDAU, Bias, refresh, with_states
from potstill.sampling.order import Q6, STRUCTURE_FACTOR

if TYPE_CHECKING:
    from ase import Atoms

F64 = NDArray[np.float64]

METHODS = {"sams": SAMS, "opes": OPES, "wang-landau": WANG_LANDAU}
ORDERS = {"structure-factor": STRUCTURE_FACTOR, "q6": Q6}
LOW, HIGH = 0.25, 0.65  # of the perfect crystal's order parameter: liquid below, crystal above, hysteresis between
LOWEST_CENTRE, SIGMA = 0.08, 0.035  # umbrellas on s: the first, and both their width and their distance
OVERLAP = 1.0  # distance of neighbouring temperatures and pressures in units that their fluctuations set
STIFFNESS = 100.0  # k_B T₀ per atomic volume: a metal's bulk modulus, for the distance of pressures only
DECORRELATED = 0.1  # of the forces' autocorrelation: frames so far apart count as new
EXPANSION = 1e-4  # 1/K, of a metal's volume, for the ends of the histogram only
GRID_FIRST, GRID_SECOND = 24, 24  # intervals of the Wang–Landau histogram


@dataclass(frozen=True)
class ExtendedEnsemble:
    """An extended ensemble with every number decided; a :class:`~potstill.protocols.Sampler`.

    Attributes
    ----------
    name : str
        ``multithermal``, ``multibaric-multithermal`` or ``multiorder-multithermal``.
    method : str
        ``sams``, ``wang-landau`` or ``opes``.
    order : str
        ``structure-factor`` or ``q6``; where the name has no order in it, it is watched and not biased.
    temperature : (float, float)
        K. The reference temperature T₀ is their geometric mean, which keeps the force's scale nearest to 1.
    pressure : tuple of float
        GPa, rising; P₀ is the middle one.
    walls : (float, float)
        Å³/atom. The volume is held between them.
    flexible : bool
        The cell changes its shape too.
    walkers, learning_steps : int
        How many, and the steps of each in which the bias is learnt.
    stride : int
        Steps between kept frames; 0 takes it from the autocorrelation of the forces.
    timestep : float
        fs.
    prepare : int
        Steps of each walker in which half of them melt, and as many in which all settle, before the bias is learnt.
    """

    name: str
    method: str
    order: str
    temperature: tuple[float, float]
    pressure: tuple[float, ...]
    walls: tuple[float, float]
    flexible: bool
    walkers: int
    learning_steps: int
    stride: int
    timestep: float
    prepare: int

    @property
    def T0(self) -> float:
        """K."""
        return math.sqrt(self.temperature[0] * self.temperature[1])

    @property
    def P0(self) -> float:
        """GPa."""
        return self.pressure[len(self.pressure) // 2]

    def temperatures(self, n_atoms: int) -> F64:
        """Return the grid of temperatures: neighbours overlap in energy, whose spread grows as √(3N/2) k_B T."""
        ratio = self.temperature[1] / self.temperature[0]
        n = 1 + math.ceil(math.log(ratio) * math.sqrt(1.5 * n_atoms) / OVERLAP)
        return np.geomspace(*self.temperature, max(n, 2))

    def sample(self, start: Atoms, potential: Potential, *, rng: np.random.Generator) -> Iterator[Frame]:
        """Yield frames of all walkers without end; ``start`` is the perfect crystal that fills the cell.

        Raises
        ------
        ConvergenceError
            If no walker is left that has not exploded.
        """
        from concurrent.futures import ThreadPoolExecutor

        from potstill.sampling.campaign import Campaign

        campaign = Campaign(self, potential, start, int(rng.integers(2**31)), None)
        with ThreadPoolExecutor(1) as pool:
            for state in campaign.rounds(pool):
                yield from campaign.frames_of(state)

    def first_bias(self, base: Bias, n_atoms: int, records: F64) -> Bias:
        """Make the bias that learning starts from.

        Liquid and crystal have each its own energy and volume, the states between lie between, and the energy of all
        rises by 3/2 k_B an atom: what is left to learn is the free energy along s at one temperature.

        Parameters
        ----------
        base : Bias
            The walls at T₀, P₀.
        n_atoms : int
        records : ndarray (n_walkers, n, 6)
            Unbiased, at T₀ and P₀; see :class:`potstill.sampling.loop.Output`.
        """
        U, V, s = (records[..., k] for k in range(3))
        T, P = np.meshgrid(self.temperatures(n_atoms), self._pressures(float(V.mean()), n_atoms) * GPA, indexing="ij")
        beta, pressure = 1.0 / (KB * T.ravel()), P.ravel()
        centres, sigma = np.zeros(1), 0.0
        if self.ordered:
            means = s.mean(axis=1)
            solid = means[means > HIGH]  # of each walker that is still, or again, a crystal
            hot = float(solid.max()) if len(solid) else 0.85
            # vibrations take from s about in proportion to T: the coldest crystal's is the last centre
            top = float(np.clip(1.0 - (1.0 - hot) * self.temperature[0] / self.T0, 0.7, 0.95))
            centres, sigma = np.linspace(LOWEST_CENTRE, top, 1 + round((top - LOWEST_CENTRE) / SIGMA)), SIGMA
        U_s, V_s = (_between(s.ravel(), q.ravel(), centres) for q in (U, V))
        c = 1.5 * n_atoms
        f = np.outer(beta - base.beta0, U_s - c / base.beta0) + np.outer(beta * pressure - base.beta0 * base.p0, V_s)
        f += c * np.log(beta / base.beta0)[:, None]
        states = with_states(base, beta, pressure, centres, sigma, f - f.mean())
        if self.method == "opes":
            return _opes_start(states, U.ravel(), V.ravel(), s.ravel())
        if self.method == "wang-landau":
            return self._grid(states, n_atoms, U.mean(axis=1), V.mean(axis=1))
        return states

    @property
    def ordered(self) -> bool:
        """Whether the order parameter is biased, not only watched."""
        return self.name == "multiorder-multithermal"

    def _pressures(self, volume: float, n_atoms: int) -> F64:
        """Return the grid of pressures: neighbours overlap in volume, whose spread is √(k_B T V / bulk modulus)."""
        low, high = self.pressure[0], self.pressure[-1]
        step = 3.0 * OVERLAP * KB * self.T0 * math.sqrt(STIFFNESS * n_atoms) / volume
        n = 1 + math.ceil((high - low) * GPA / step)
        return np.union1d(np.linspace(low, high, n), self.pressure)

    def _grid(self, states: Bias, n_atoms: int, U: F64, V: F64) -> Bias:
        """Lay the Wang–Landau histogram over what lies between the lowest and the highest temperature.

        ``U`` and ``V`` are means of walkers at T₀, the crystals and the melts.
        """
        low, high = self.temperature
        baric = self.name == "multibaric-multithermal"
        heat = 1.5 * n_atoms * KB  # eV/K
        x = U if baric else U + states.p0 * V
        first = (float(x.min()) - heat * (self.T0 - low), float(x.max()) + 1.2 * heat * (high - self.T0))
        # without a second variable one endless interval: nothing depends on s then
        m, second = 1, (0.0, 1e30)
        if self.ordered:
            m, second = GRID_SECOND, (0.0, 1.0)
        elif baric:
            stiffness = STIFFNESS * KB * self.T0 * n_atoms / float(V.mean())
            squeezed, relaxed = ((p - self.P0) * GPA / stiffness for p in (self.pressure[-1], self.pressure[0]))
            warm, cold = EXPANSION * (high - self.T0), EXPANSION * (self.T0 - low)
            m, second = GRID_SECOND, (float(V.min()) * (1 - squeezed - cold), float(V.max()) * (1 - relaxed + warm))
        step = np.array([(first[1] - first[0]) / GRID_FIRST, (second[1] - second[0]) / m])
        return states._replace(
            form=GRID,
            grid=np.zeros((GRID_FIRST + 3, m + 3)),
            origin=np.array([first[0], second[0]]),
            step=step,
            second_is_volume=baric,
        )


def _between(s: F64, quantity: F64, centres: F64) -> F64:
    """Return a quantity at each centre, on the straight line through its means in the liquid and in the crystal."""
    low, high = s < (LOW + HIGH) / 2, s >= (LOW + HIGH) / 2
    if len(centres) == 1 or min(low.sum(), high.sum()) < 0.02 * len(s):
        return np.full(len(centres), quantity.mean())
    at = [float(s[low].mean()), float(s[high].mean())]
    return np.interp(centres, at, [float(quantity[low].mean()), float(quantity[high].mean())])


def _opes_start(states: Bias, U: F64, V: F64, s: F64) -> Bias:
    """Begin OPES with unbiased records, each of weight one."""
    thermal = np.outer(states.beta - states.beta0, U) + np.outer(states.beta_p - states.beta0 * states.p0, V)
    umbrella = states.stiffness * (s[None, :] - states.centres[:, None]) ** 2
    for i, k in np.ndindex(states.f.shape):
        du = thermal[i] + umbrella[k]
        states.sums[i, k] = np.logaddexp.reduce(-du)
    states.total[0] = math.log(len(U))
    states.f[:] = states.total[0] - states.sums
    refresh(states)
    return states


def decorrelation(traces: list[F64], every: int) -> int:
    """Return the steps after which the autocorrelation of the forces stays below a tenth, 10 at least.

    Parameters
    ----------
    traces : list of ndarray (n, n_atoms, 3)
        Forces, eV/Å, one array a walker.
    every : int
        Steps between entries.
    """
    longest = min(len(t) for t in traces) // 2
    total = np.zeros(longest)
    for t in traces:
        flat = t.reshape(len(t), -1)
        spectrum = np.abs(np.fft.rfft(flat, 2 * len(flat), axis=0)) ** 2
        total += np.fft.irfft(spectrum.sum(axis=1))[:longest] / (len(flat) - np.arange(longest))
    above = np.flatnonzero(np.abs(total / total[0]) > DECORRELATED)
    return int(max(10, every * min(longest, above[-1] + 1)))
