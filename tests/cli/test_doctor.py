"""`potstill doctor` on this machine, and on one where things are missing."""

import os
import subprocess
import sys
from pathlib import Path

from potstill.backends import doctor
from potstill.errors import BackendError

POTSTILL = str(Path(sys.executable).with_name("potstill"))


def call(*words, **env):
    return subprocess.run(
        [POTSTILL, "doctor", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **env},
    )


def test_what_works_has_computed_an_atom(tmp_path):
    done = call("--reference", "lammps:Al_zhou.eam.alloy", "--reference", "ase:emt")
    assert done.returncode == 0, done.stderr
    assert "works    lammps:Al_zhou.eam.alloy   lammps-" in done.stdout
    assert "one Al atom -3.577 eV" in done.stdout  # its published cohesive energy is 3.58


def test_what_does_not_work_says_what_to_install_and_fails_if_it_was_asked_for(tmp_path):
    done = call("--reference", "espresso", PATH=str(tmp_path), HOME=str(tmp_path))
    assert done.returncode == BackendError.exit_code
    assert "missing  espresso" in done.stdout
    assert "apt-get install quantum-espresso" in done.stdout
    assert "espresso cannot be used here" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_code_that_breaks_in_any_way_is_a_finding(monkeypatch):
    def broken(*_words):
        raise RuntimeError("a library is gone")

    monkeypatch.setattr(doctor, "resolve", broken)
    assert doctor.reference("ase:emt") == doctor.Finding("ase:emt", works=False, told="RuntimeError: a library is gone")


def test_batch_systems_are_found_by_their_programs(monkeypatch, tmp_path):
    program = tmp_path / "sbatch"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {f.name: f for f in doctor.others()}
    assert found["submitting jobs"] == doctor.Finding("submitting jobs", works=True, told="slurm (sbatch)")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert not {f.name: f for f in doctor.others()}["submitting jobs"].works
