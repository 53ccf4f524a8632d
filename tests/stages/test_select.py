"""The contract of every way to choose frames, and what each way promises besides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from potstill.data import Dataset, Frame
from potstill.distilling.beside import most_telling
from potstill.errors import ConfigError, DataError
from potstill.protocols import Committee, Selection, Spread
from potstill.selecting import SELECTORS, checked, farthest_points, selector
from potstill.selecting.gradients import largest_clusters
from potstill.selecting.linear import Information, greedy
from potstill.selecting.plain import CommitteeSpread, FarthestPoint

N_POOL = 24
ROUND_OFF = 1e-12

points = st.integers(1, 12).flatmap(lambda n: arrays(float, (n, 2), elements=st.floats(-10, 10)))


class Toy:
    """Describes a frame by where its first two atoms stand."""

    def describe(self, frames: Sequence[Frame]) -> np.ndarray:
        return np.array([f.atoms.positions[:2].ravel() for f in frames]).reshape(len(frames), 6)

    def surroundings(self, frames: Sequence[Frame]) -> list[np.ndarray]:
        return [f.atoms.positions.astype(np.float32) for f in frames]

    def equations(self, frames: Sequence[Frame]) -> np.ndarray:
        return np.array([f.atoms.positions[:4].T for f in frames], dtype=np.float32).reshape(len(frames), 3, 4)


@dataclass(frozen=True)
class ToyCommittee(Toy):
    """Doubts frames by how far their last atom has gone up."""

    fingerprint: str = "toy:1"
    elements: tuple[str, ...] = ("Ni",)
    members: int = 3

    def calculator(self, workdir=None):
        raise NotImplementedError

    def spread(self, frames: Sequence[Frame]) -> Spread:
        doubt = np.array([abs(f.atoms.positions[-1, 2]) for f in frames])
        return Spread(doubt / 10, doubt, 2 * doubt)

    def last_layer(self, frames: Sequence[Frame]) -> np.ndarray:
        return np.array([f.atoms.positions[2:4].ravel() for f in frames]).reshape(len(frames), 6)


class OnlyVectors:
    """Describes a frame by one vector, and knows nothing else."""

    def describe(self, frames: Sequence[Frame]) -> np.ndarray:
        return Toy().describe(frames)


DESCRIBERS = {"before learning": Toy(), "with a committee": ToyCommittee()}


@pytest.fixture
def pool(nickel) -> Dataset:
    return nickel(N_POOL)


def choose(name: str, pool: Dataset, n: int, *, describer=DESCRIBERS["with a committee"], known=None, seed=0):
    return selector(name).select(
        pool,
        n,
        known=Dataset() if known is None else known,
        committee=describer,
        rng=np.random.default_rng(seed),
    )


def covering_radius(X: np.ndarray, chosen: np.ndarray) -> float:
    """Distance of the row of X that is farthest from all chosen ones."""
    return np.linalg.norm(X[:, None] - X[chosen][None], axis=-1).min(axis=1).max()


def clusters(rng: np.random.Generator) -> np.ndarray:
    """One crowd and nine lonely pairs far away, as a trajectory that mostly sits in one basin."""
    far = 10.0 * np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])
    return np.vstack([rng.normal(0, 0.1, (200, 2)), *(c + rng.normal(0, 0.1, (2, 2)) for c in far)])


# --- the contract ---


def test_the_toys_are_what_selectors_are_promised():
    assert isinstance(ToyCommittee(), Committee)
    assert not isinstance(Toy(), Committee)


@pytest.mark.parametrize("known", [0, 3], ids=["nothing known", "some known"])
@pytest.mark.parametrize("n", [0, 1, 5, N_POOL - 1, N_POOL, N_POOL + 7])
@pytest.mark.parametrize("describer", DESCRIBERS)
@pytest.mark.parametrize("name", SELECTORS)
def test_a_selection_is_unique_in_range_and_as_long_as_can_be(nickel, pool, name, describer, n, known):
    have = nickel(known, seed=99) if known else Dataset()
    found = choose(name, pool, n, describer=DESCRIBERS[describer], known=have)
    assert len(found.indices) == min(n, N_POOL)
    assert len(found.scores) == len(found.indices)
    assert len(set(found.indices.tolist())) == len(found.indices)
    assert np.issubdtype(found.indices.dtype, np.integer)
    assert all(0 <= i < N_POOL for i in found.indices)
    assert not np.isnan(found.scores).any()
    assert checked(found, pool, n) is found


@pytest.mark.parametrize("describer", DESCRIBERS)
@pytest.mark.parametrize("name", SELECTORS)
def test_a_selection_is_decided_by_its_seed(pool, name, describer):
    first, again = (choose(name, pool, 8, describer=DESCRIBERS[describer], seed=4) for _ in range(2))
    assert np.array_equal(first.indices, again.indices)
    assert np.array_equal(first.scores, again.scores)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_pool_of_equal_descriptions_is_no_trouble(nickel, name):
    class Blind(ToyCommittee):
        def describe(self, frames):
            return np.ones((len(frames), 3))

        last_layer = describe

        def surroundings(self, frames):
            return [np.ones((f.n_atoms, 3), np.float32) for f in frames]

        def equations(self, frames):
            return np.ones((len(frames), 3, 2), np.float32)

    found = choose(name, nickel(10), 6, describer=Blind())
    assert len(set(found.indices.tolist())) == 6


@pytest.mark.parametrize("name", SELECTORS)
def test_selecting_changes_neither_pool_nor_known(nickel, pool, name):
    known = nickel(2, seed=99)
    before = pool.keys, known.keys, DESCRIBERS["before learning"].describe(list(pool))
    choose(name, pool, 5, known=known)
    assert (pool.keys, known.keys) == before[:2]
    assert np.array_equal(DESCRIBERS["before learning"].describe(list(pool)), before[2])


def test_a_selector_is_found_by_its_name_and_others_are_refused():
    assert {type(selector(name)) for name in SELECTORS} == set(SELECTORS.values())
    assert all(selector(name).name == name for name in SELECTORS)
    with pytest.raises(ConfigError, match="potstill, random, fps, committee"):
        selector("best")


def test_the_configuration_offers_exactly_the_registered_selectors():
    from typing import get_args

    from potstill.config import DistilConfig

    assert set(get_args(DistilConfig.model_fields["selector"].annotation)) == set(SELECTORS)


# --- what each promises ---


def test_random_differs_by_seed_and_prefers_nobody(pool):
    draws = [choose("random", pool, 6, seed=seed).indices for seed in range(400)]
    assert len({tuple(d) for d in draws}) == len(draws)
    counts = np.bincount(np.concatenate(draws), minlength=N_POOL)
    expected = 400 * 6 / N_POOL
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_fps_takes_the_frames_farthest_from_all_that_is_known(pool):
    known = pool.take([0, 1, 2])
    left = pool.without(known)
    found = choose("fps", left, 4, known=known)
    X, covered = Toy().describe(list(left)), Toy().describe(list(known))
    for k, i in enumerate(found.indices):
        seen = np.vstack([covered, X[found.indices[:k]]])
        distances = np.linalg.norm(X[:, None] - seen[None], axis=-1).min(axis=1)
        assert i == np.argmax(distances)
        assert found.scores[k] == pytest.approx(distances[i], rel=ROUND_OFF)


def test_committee_is_fps_before_there_is_a_committee(pool):
    known = pool.take([5])
    left = pool.without(known)
    one, other = (choose(name, left, 6, describer=Toy(), known=known) for name in ("committee", "fps"))
    assert np.array_equal(one.indices, other.indices)


@pytest.mark.parametrize("n", [2, 6])
def test_committee_chooses_among_the_most_doubted_and_scores_by_doubt(pool, n):
    found = choose("committee", pool, n)
    doubt = ToyCommittee().spread(list(pool)).force
    share = max(2 * n, round(CommitteeSpread.SHARE * N_POOL))
    assert set(found.indices) <= set(np.argsort(-doubt)[:share])
    assert np.array_equal(found.scores, doubt[found.indices])


def test_committee_spreads_its_choice_among_the_doubted(pool):
    found = choose("committee", pool, 3)
    doubted = np.argsort(-ToyCommittee().spread(list(pool)).force)[:6]
    fps = FarthestPoint().select(pool.take(doubted), 3, known=Dataset(), committee=Toy(), rng=np.random.default_rng(0))
    assert np.array_equal(found.indices, doubted[fps.indices])


@pytest.mark.parametrize("name", ["leverage", "entropy", "cover"])
def test_selectors_that_look_into_frames_say_so_where_the_model_cannot(pool, name):
    with pytest.raises(ConfigError, match=f"'{name}' looks into frames.*random, fps or committee"):
        choose(name, pool, 3, describer=OnlyVectors())


def information(A: np.ndarray) -> float:
    """The logarithm of det(I + Σ A Aᵀ)."""
    return np.linalg.slogdet(np.eye(A.shape[1]) + np.einsum("npr,nqr->pq", A, A))[1]


@pytest.mark.parametrize(("describer", "name"), [(ToyCommittee(), "leverage"), (OnlyVectors(), "committee")])
def test_the_default_draws_half_and_chooses_half_beside_it(pool, describer, name):
    known = pool.take([3, 8])
    left = pool.without(known)
    found = choose("potstill", left, 7, describer=describer, known=known)
    assert len(set(found.indices.tolist())) == 7
    chosen, drawn = found.indices[:4], found.indices[4:]
    have = Dataset([*known, *(left[int(k)] for k in drawn)])
    rest = left.without(left.take(drawn))
    other = choose(name, rest, 4, describer=describer, known=have)
    assert [left[int(k)].key for k in chosen] == [rest[int(k)].key for k in other.indices]
    again = choose("potstill", left, 7, describer=describer, known=known)
    assert np.array_equal(again.indices, found.indices)


def test_leverage_takes_the_frame_that_adds_most_information_each_time(pool):
    known = pool.take([3, 7])
    left = pool.without(known)
    found = choose("leverage", left, 6, known=known)
    A, have = (Toy().equations(list(data)).astype(float) for data in (left, known))
    taken = list(have)
    for k, i in enumerate(found.indices):
        before = information(np.array(taken))
        gains = [information(np.array([*taken, a])) - before for a in A]
        gains = [-np.inf if j in found.indices[:k] else g for j, g in enumerate(gains)]
        assert i == np.argmax(gains)
        assert found.scores[k] == pytest.approx(max(gains), rel=1e-6)
        taken.append(A[i])


@given(st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_lazy_greedy_is_greedy(seed, n):
    A = np.random.default_rng(seed).normal(size=(9, 3, 2))
    lazy = Information(3)
    indices, gains = greedy(9, n, lambda k: lazy.gain(A[k]), lambda k: lazy.add(A[k]))
    plain, left = Information(3), list(range(9))
    for i, gain in zip(indices, gains, strict=True):
        every = plain.gain(A[left])
        assert gain == pytest.approx(every.max(), rel=1e-9)
        assert i == left[int(np.argmax(every))]
        left.remove(i)
        plain.add(A[i])


@given(st.integers(0, 2**32 - 1))
def test_information_keeps_the_inverse(seed):
    A = np.random.default_rng(seed).normal(size=(4, 5, 3))
    M = Information(5)
    for a in A:
        M.add(a)
    np.testing.assert_allclose(M.inverse @ (np.eye(5) + np.einsum("npr,nqr->pq", A, A)), np.eye(5), atol=1e-9)


def test_the_most_telling_frames_lower_the_variance_of_what_is_asked_most():
    rng = np.random.default_rng(0)
    A, targets = rng.normal(size=(12, 4, 2)), rng.normal(size=(2, 4))
    indices, gains = most_telling(A, 3, targets, Information(4))

    def variance(taken: Sequence[int]) -> float:
        M = np.eye(4) + np.einsum("npr,nqr->pq", A[list(taken)], A[list(taken)])
        return float(np.einsum("tp,tp->", targets, np.linalg.solve(M, targets.T).T))

    first = min(range(12), key=lambda k: variance([k]))
    assert indices[0] == first
    assert gains[0] == pytest.approx(variance([]) - variance([first]), rel=1e-9)
    assert variance(indices) < np.mean([variance(rng.permutation(12)[:3]) for _ in range(50)])


def grouped(nickel, per_group: int) -> tuple[Dataset, np.ndarray]:
    """Frames in four groups far from each other, and the group of each."""
    frames = list(nickel(4 * per_group))
    group = np.repeat(np.arange(4), per_group)
    rng = np.random.default_rng(0)
    moved = []
    for frame, g in zip(frames, group, strict=True):
        atoms = frame.atoms.copy()
        atoms.positions += 20.0 * g + rng.normal(0, 0.01, atoms.positions.shape)
        moved.append(Frame.of(atoms))
    return Dataset(moved), group


@pytest.mark.parametrize("name", ["direct", "cover", "entropy", "fps", "last-layer"])
def test_what_wants_diversity_takes_one_of_each_group_first(nickel, name):
    pool, group = grouped(nickel, 6)
    found = choose(name, pool, 4)
    assert sorted(group[found.indices]) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["direct", "cover", "entropy", "fps", "last-layer"])
def test_what_wants_diversity_leaves_alone_what_is_known(nickel, name):
    pool, group = grouped(nickel, 6)
    known = pool.take([0, 6, 12])  # of the first three groups
    left = pool.without(known)
    group = np.delete(group, [0, 6, 12])
    assert group[choose(name, left, 1, known=known).indices[0]] == 3


def test_cover_scores_the_share_of_surroundings_that_are_new(nickel):
    pool, _ = grouped(nickel, 6)
    scores = choose("cover", pool, 4).scores
    assert scores[:4] == pytest.approx(np.ones(4))


def test_last_layer_is_fps_before_there_are_networks(pool):
    one, other = (choose(name, pool, 6, describer=Toy()) for name in ("last-layer", "fps"))
    assert np.array_equal(one.indices, other.indices)


@given(points, st.integers(0, 14), points | st.just(np.empty((0, 2))))
def test_largest_clusters_choose_each_row_once(X, n, known):
    chosen, distances = largest_clusters(X, n, known)
    assert len(chosen) == len(distances) == min(n, len(X))
    assert len(set(chosen.tolist())) == len(chosen)
    assert np.isfinite(distances).all()


# --- farthest points ---


@given(points, st.integers(0, 14), points | st.just(np.empty((0, 2))))
def test_farthest_points_are_a_cover_as_fine_as_their_last_distance(X, n, known):
    chosen, distances = farthest_points(X, n, known)
    assert len(chosen) == len(distances) == min(n, len(X))
    assert len(set(chosen.tolist())) == len(chosen)
    assert np.all(np.diff(distances) <= 0)
    if len(chosen):
        everything = np.vstack([X[chosen], known])
        radius = np.linalg.norm(X[:, None] - everything[None], axis=-1).min(axis=1).max()
        assert radius <= distances[-1] + ROUND_OFF


@given(st.permutations(range(30)), st.integers(1, 30))
def test_farthest_points_do_not_depend_on_the_order_of_the_pool_where_something_is_known(order, n):
    rng = np.random.default_rng(3)
    X, known = rng.normal(size=(30, 4)), rng.normal(size=(2, 4))
    chosen, distances = farthest_points(X, n, known)
    shuffled, same = farthest_points(X[order], n, known)
    assert np.array_equal(np.array(order)[shuffled], chosen)
    np.testing.assert_allclose(same, distances, rtol=ROUND_OFF)


def test_farthest_points_begin_at_the_start_or_next_to_the_mean():
    X = np.array([[0.0], [4.0], [5.0], [10.0]])
    none = np.empty((0, 1))
    assert farthest_points(X, 3, none)[0].tolist() == [2, 0, 3]
    assert farthest_points(X, 3, none, start=3)[0].tolist() == [3, 0, 2]
    assert np.isinf(farthest_points(X, 1, none)[1][0])
    assert farthest_points(X, 1, np.array([[1.0]]), start=0)[0].tolist() == [3]


def test_farthest_points_cover_better_than_any_of_a_hundred_random_draws():
    rng = np.random.default_rng(0)
    X = clusters(rng)
    chosen, _ = farthest_points(X, 9, np.empty((0, 2)))
    drawn = [covering_radius(X, rng.permutation(len(X))[:9]) for _ in range(100)]
    assert covering_radius(X, chosen) < 1.0
    assert covering_radius(X, chosen) < min(drawn)


# --- selectors that cheat ---


@pytest.mark.parametrize(
    "indices",
    [[0, 1, 1], [0, -1], [0, N_POOL], [0, 1, 2, 3]],
    ids=["repeats", "negative", "outside", "too many"],
)
def test_a_selector_that_cheats_is_refused(pool, indices):
    selection = Selection(np.array(indices), np.zeros(len(indices)))
    with pytest.raises(DataError, match=f"asked for 3 of {N_POOL}"):
        checked(selection, pool, 3)


@pytest.mark.parametrize("indices", [[], [5], [2, 0, 1]])
def test_an_honest_selection_passes_unchanged(pool, indices):
    selection = Selection(np.array(indices, dtype=int), np.zeros(len(indices)))
    assert checked(selection, pool, 3) is selection
