"""What the page tells of an extended ensemble, drawn from values like a run's."""

import copy
import re

import numpy as np
import pytest

from potstill.reporting import figures
from potstill.reporting.page import _sampling
from potstill.sampling.bias import KB
from potstill.sampling.thermodynamics import Series, analysis

T0 = 1700.0


@pytest.fixture(scope="module")
def run():
    """Return a melting crystal of normally distributed energies, sampled flat in its phase, as the stage writes it."""
    rng = np.random.default_rng(1)
    shape = (4, 2000)
    crystal = np.cumsum(rng.random(shape) > 0.97, axis=1) % 2 == 1
    energy = 32 * np.where(crystal, -4.2, -4.1) + 1.2 * rng.standard_normal(shape)
    volume = 32 * np.where(crystal, 12.0, 12.6) + 5 * rng.standard_normal(shape)
    order = np.where(crystal, 0.8, 0.2) + 0.05 * rng.standard_normal(shape)
    order += 0.3 * (rng.random(shape) < 0.01) * np.where(crystal, -1, 1)
    scale = 1 + 0.3 * rng.uniform(-1, 1, shape)
    series = Series(energy, volume, order, 0 * energy, scale, 1 / (KB * T0), 0.0, 32, 0.25, 0.65)
    told = analysis(series, np.linspace(1500, 1900, 5), np.array([0.0, 1.0]))
    return {
        **told,
        "ensemble": "multiorder-multithermal",
        "n_atoms": 32,
        "temperature": [1500.0, 1900.0],
        "pressure": [0.0, 1.0],
    }


@pytest.fixture(scope="module")
def compared():
    rng = np.random.default_rng(2)

    def pool(n):
        columns = {"energy_per_atom": rng.normal(-4, 0.1, n), "volume_per_atom": rng.normal(12, 1, n)}
        columns |= {"order": rng.uniform(0, 1, n)}
        told = {name: column.tolist() for name, column in columns.items()}
        return {"n_frames": n, **told, "cells_visited": n // 2, "covered_by_other": 0.5}

    pools = {"multiorder-multithermal": pool(300), "npt-ladder": pool(200)}
    return {"md_steps": 1_000_000, "pools": pools, "measure": "How it is measured."}


def words(figure):
    with figures.style():
        svg = figure.svg()
    assert svg.startswith("<svg")
    svg = re.sub(r'"data:[^"]*"', "", svg)  # pictures of many points
    assert not re.search(r"\bnan\b", svg, re.IGNORECASE)
    assert figures.INK not in svg  # every ink is the page's own
    return " ".join(re.findall(r"<text[^>]*>([^<]*)", svg))


def test_the_visited_states_are_drawn_by_phase(run):
    told = words(figures.visited(run))
    for word in ("liquid", "crystal", "between", "temperature that the bias amounts to (K)", "order parameter"):
        assert word in told
    assert "volume (Å³/atom)" in told


def test_points_without_a_temperature_or_a_phase_are_left_out(run):
    other = copy.deepcopy(run)
    other["points"]["effective_temperature"][0] = None
    other["points"]["order"] = [0.9] * len(other["points"]["order"])
    told = words(figures.visited(other))
    assert "crystal" in told
    assert "between" not in told


def test_reweighted_averages_have_a_line_for_each_phase(run):
    figure = figures.reweighted(run)
    told = words(figure)
    for word in ("all", "liquid", "crystal", "potential energy (eV/atom)", "volume (Å³/atom)"):
        assert word in told
    rows = [r for r in run["table"] if r["phase"] == "crystal" and r["pressure"] == 0.0 and r["energy"] is not None]
    drawn = figure.axes[0].containers[-1].lines[0].get_xydata()
    assert drawn.tolist() == [[r["temperature"], r["energy"]] for r in rows]


def test_states_that_were_not_visited_leave_a_gap(run):
    other = copy.deepcopy(run)
    for row in other["table"]:
        row.update(dict.fromkeys(("energy", "energy_error", "heat_capacity", "heat_capacity_error")))
    told = words(figures.reweighted(other))
    assert "volume (Å³/atom)" in told


def test_the_balance_names_the_cell_s_equal_weight_and_not_a_melting_point(run):
    figure = figures.balance(run)
    told = words(figure)
    equal = run["equal_weight"][0]
    assert equal["temperature"] is not None
    assert f"0 GPa: equal weight of this cell at {equal['temperature']:.0f} ± {equal['error']:.0f} K" in told
    assert "1 GPa" in told
    assert "crystal less liquid (meV/atom)" in told
    assert "melting" not in told
    first = next(r for r in run["free_energy"] if r["value"] is not None)
    drawn = figure.axes[0].containers[0].lines[0].get_xydata()[0]
    assert drawn.tolist() == pytest.approx([first["temperature"], 1e3 * first["value"] / 32])


def test_without_differences_there_is_no_balance_and_without_a_root_no_temperature(run):
    other = copy.deepcopy(run)
    for equal in other["equal_weight"]:
        equal.update({"temperature": None, "error": None, "note": "the crystal has more weight"})
    assert "equal weight" not in words(figures.balance(other))
    for row in other["free_energy"]:
        row["value"] = None
    assert figures.balance(other) is None


def test_two_pools_are_drawn_over_each_other(compared):
    figure = figures.pools(compared)
    told = words(figure)
    for word in ("npt-ladder", "multiorder-multithermal", "volume (Å³/atom)", "order parameter"):
        assert word in told
    assert sorted(len(c.get_offsets()) for c in figure.axes[1].collections) == [200, 300]


def test_a_run_without_these_files_has_nothing_of_them(tmp_path):
    assert _sampling(tmp_path) == ([], None)
