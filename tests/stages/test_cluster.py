"""Labels on the nodes of a batch system: a real Slurm of one node; jobs cancelled, timed out, drivers killed."""

import os
from pathlib import Path

import pytest

import slurm as one_node
from counting import Counting, Run, die_if_seven, frames, identity, sleep_unless_zero, threads
from potstill.config import ClusterConfig, parse_config
from potstill.engine.cluster import Cluster
from potstill.errors import BackendError, ConfigError
from potstill.labelling import label
from potstill.store import LabelStore

pytest.importorskip("parsl")

DRIVER = """
import sys
from pathlib import Path
from counting import Counting
from parsl.providers import SlurmProvider
from potstill.config import ClusterConfig
from potstill.data import Dataset
from potstill.engine.cluster import Cluster
from potstill.labelling import label
from potstill.store import LabelStore

SlurmProvider.status_polling_interval = 5  # s, not a minute

if __name__ == "__main__":
    root, walltime, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    settings = ClusterConfig(provider="slurm", walltime=walltime, cores=2, drain="00:00:00", address="127.0.0.1")
    cluster = Cluster(settings, root / "cluster", heartbeat=8)
    frames = list(Dataset.load(root / "frames.extxyz"))
    found = label(frames, Counting(root, pause), LabelStore(root / "labels"), cluster=cluster, tell=print)
    print("labelled", len(found.data))
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if missing := one_node.there():
        assert not os.environ.get("CI"), f"{missing}, and CI must not go without"
        pytest.skip(missing)
    cluster = one_node.Slurm(tmp_path_factory.mktemp("slurm") / "of-one")
    yield cluster
    cluster.stop()


def scripts(root) -> list[str]:
    return sorted(
        str(file) for file in (root / "cluster").rglob("parsl.potstill.block-*") if not file.suffix[1:].isalpha()
    )


def test_a_job_cancelled_and_a_driver_killed_cost_what_is_in_flight(slurm, tmp_path):
    run = Run(tmp_path, DRIVER, 60, slurm.env)
    driver = run.begin("00:05:00", 0.2)
    run.until(10)
    slurm("scancel", "--user=root")
    run.until(25)
    driver.kill()
    driver.wait()
    run.finish("00:05:00", 0.2)
    run.judge()


def test_a_job_that_runs_out_of_time_is_followed_by_another(slurm, tmp_path):
    run = Run(tmp_path, DRIVER, 140, slurm.env)  # Slurm looks at limits twice a minute
    run.finish("00:01:00", 1.6)
    run.judge()
    assert len(scripts(tmp_path)) >= 2
    assert any("DUE TO TIME LIMIT" in file.read_text() for file in (tmp_path / "cluster").rglob("*.stderr"))


def test_a_partition_that_does_not_exist_is_told(slurm, tmp_path, monkeypatch):
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.env[name])
    cluster = Cluster(ClusterConfig(provider="slurm", partition="nowhere", address="127.0.0.1"), tmp_path)
    with pytest.raises(BackendError, match=r"ran no job.*[Ii]nvalid partition"):
        list(cluster.each(identity, range(3)))


# --- jobs on this machine: the same way without a batch system ---


@pytest.fixture
def local(tmp_path, monkeypatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where a job finds what it is to do
    return Cluster(ClusterConfig(provider="local", cores=2), tmp_path, heartbeat=10)


def test_work_comes_back_and_has_a_thread_a_task(local):
    assert sorted(local.each(identity, range(20))) == [(k, k) for k in range(20)]
    assert {result for _, result in local.each(threads, range(2))} == {"1"}
    assert list(local.each(identity, [])) == []


def test_a_task_that_kills_its_workers_is_given_up_and_the_others_are_done(local):
    found = dict(local.each(die_if_seven, range(12), crash=lambda k: -k))
    assert found == {**{k: k for k in range(12)}, 7: -7}


def test_a_label_that_hangs_in_a_job_is_a_failure_and_the_others_are_made(local, tmp_path):
    asked = frames(6)
    potential = Counting(tmp_path, 0.0, {asked[2].key: "hang"})
    found = label(list(asked), potential, LabelStore(tmp_path / "labels"), timeout=3.0, cluster=local)
    assert [f.reason for f in found.failures] == ["time-out"]
    assert len(found.data) == 5


def test_who_stops_asking_does_not_wait_for_what_still_runs(local):
    coming = local.each(sleep_unless_zero, [0, 3600])
    assert next(coming) == (0, 0)
    coming.close()  # as Ctrl-C does; the limit of time of this test is shorter than the sleep


# --- what jobs ask for ---

SECTIONS = {
    "slurm": {"account": "m1", "qos": "debug", "constraint": "cpu", "memory": 64},
    "pbs": {"account": "m1", "cores": 64},
    "lsf": {"account": "m1", "cores": 64},
}


@pytest.mark.parametrize("provider", SECTIONS)
def test_what_a_job_asks_for_is_in_its_request(provider, tmp_path):
    settings = ClusterConfig(provider=provider, partition="batch", walltime="01:30:00", nodes=2, **SECTIONS[provider])
    made = Cluster(settings, tmp_path)._provider()
    options = made.scheduler_options
    assert made.nodes_per_block == 2
    assert made.walltime == "01:30:00"
    text = f"{options} {getattr(made, 'queue', '')} {getattr(made, 'account', '')} {getattr(made, 'project', '')}"
    assert "batch" in text
    assert "m1" in text
    assert "OMP_NUM_THREADS=1" in made.worker_init


def test_places_and_the_time_in_which_labels_begin(tmp_path):
    settings = ClusterConfig(provider="slurm", jobs=3, nodes=2, cores=64, cores_per_label=16, walltime="01:00:00")
    assert Cluster(settings, tmp_path).places == 24
    assert Cluster(settings, tmp_path)._parsl().executors[0].drain_period == 3240
    assert Cluster(settings, tmp_path, longest=600)._parsl().executors[0].drain_period == 2940


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"provider": "slurm", "partition": "a\n#SBATCH --uid=0"}, "partition"),
        ({"provider": "slurm", "account": "$(reboot)"}, "account"),
        ({"provider": "kubernetes", "cores": 4}, "image"),
        ({"provider": "pbs"}, "cores"),
        ({"provider": "slurm", "walltime": "2 hours"}, "walltime"),
        ({"provider": "slurm", "walltime": "00:10:00", "drain": "00:20:00"}, "drain"),
        ({"provider": "slurm", "cores": 4, "cores_per_label": 8}, "cores_per_label"),
        ({"provider": "slurm", "setup": "module load evil"}, "setup"),
    ],
)
def test_what_no_job_may_ask_for_is_refused(given, told):
    with pytest.raises(ConfigError, match=told):
        parse_config({"cluster": given})
