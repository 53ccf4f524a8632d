"""A label store on PostgreSQL: the same entries, bit for bit, from any number of processes."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from potstill.backends import resolve
from potstill.data import Failure, Labels
from potstill.errors import ConfigError, StoreError
from potstill.labelling import label
from potstill.store import LabelStore, shelves

EAM = "lammps:NiAlH_jea.eam.alloy"
finite = st.floats(allow_nan=False, allow_infinity=False)


def program(name: str) -> str | None:
    """Find a program of PostgreSQL's server, which Debian keeps out of the path."""
    return next((str(p) for p in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), shutil.which(name))


@pytest.fixture(scope="module")
def server():
    """A server of our own in a temporary folder, on a free port."""
    made = program("initdb"), program("pg_ctl")
    if None in made:
        assert not os.environ.get("CI"), "PostgreSQL is missing, and CI must not go without"
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="potstill-postgres-"))  # pytest's own folders are closed to other users
    as_whom = []
    if os.getuid() == 0:  # the server refuses to be root
        shutil.chown(folder, "postgres")
        as_whom = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"

    def run(*words: str) -> None:
        subprocess.run([*as_whom, *words], check=True, cwd="/", stdout=subprocess.DEVNULL)

    run(made[0], "-D", str(data), "-A", "trust", "-U", "still", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    run(made[1], "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    yield (
        f"postgresql://still@127.0.0.1:{port}/postgres",
        lambda: run(made[1], "-D", str(data), "-m", "fast", "restart"),
    )
    run(made[1], "-D", str(data), "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture
def database(server):
    """An empty store on it."""
    store = LabelStore(server[0])
    for key in list(store.shelf):
        store.shelf.delete(key)
    return store


@given(energy=finite, forces=arrays(float, (4, 3), elements=finite), stress=arrays(float, (3, 3), elements=finite))
def test_a_label_is_the_same_from_a_folder_and_from_a_database(
    server, tmp_path_factory, nickel_frame, energy, forces, stress
):
    known = Labels(energy, forces, stress, "dft:1")
    back = []
    for store in (LabelStore(server[0]), LabelStore(tmp_path_factory.mktemp("folder"))):
        store.put(nickel_frame, known)
        back.append(store.get(nickel_frame, "dft:1"))
    for labels in back:
        assert np.float64(labels.energy).tobytes() == np.float64(energy).tobytes()
        assert labels.forces.tobytes() == forces.tobytes()
        assert labels.stress.tobytes() == stress.tobytes()


def test_a_database_does_all_that_a_folder_does(database, nickel, server):
    good, bad = nickel(2)
    assert database.get(good, "dft:1") is None
    database.put(good, Labels(-1.0, np.zeros((4, 3)), None, "dft:1"))
    failure = Failure(bad.key, "error", "it said 'no'; DROP TABLE potstill_labels", "dft:1", 3)
    database.put(bad, failure)
    assert LabelStore(server[0]).get(bad, "dft:1") == failure
    assert {e.frame.key for e in database.entries()} == {good.key, bad.key}
    assert len(database) == 2
    key = next(iter(database.shelf))
    database.shelf.write(key, b'{"format": 1, "ener')
    assert len(list(database.entries())) == 1
    assert len(database.set_aside) == 1
    assert len(database) == 1


def test_workers_commit_to_a_database_and_nothing_is_computed_twice(database, nickel):
    frames, reference = list(nickel(6)), resolve(EAM)
    first = label(frames, reference, database, workers=2)
    assert (len(first.data), first.computed) == (6, 6)
    again = label(frames, reference, database, workers=2)
    assert (again.computed, again.reused) == (0, 6)


def test_a_database_that_restarts_is_waited_for(database, nickel_frame, server):
    database.put(nickel_frame, Labels(-1.0, np.zeros((4, 3)), None, "dft:1"))
    server[1]()  # our connection is cut
    assert database.get(nickel_frame, "dft:1").energy == -1.0


def test_a_database_that_is_not_there_is_a_sentence(monkeypatch, nickel_frame):
    monkeypatch.setattr(shelves, "PATIENCE", (0.0, 0.0))
    with pytest.raises(StoreError, match=r"postgresql://still@127\.0\.0\.1:9/x cannot be reached"):
        LabelStore("postgresql://still@127.0.0.1:9/x").get(nickel_frame, "dft:1")


def test_a_password_is_refused_where_it_would_be_recorded():
    with pytest.raises(ConfigError, match="PGPASSWORD"):
        LabelStore("postgresql://still:secret@127.0.0.1/x")
