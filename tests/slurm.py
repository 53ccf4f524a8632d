"""A Slurm of one node on this machine's loopback, for tests: munged, slurmctld, slurmd, and nothing of the system's."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

CONF = """ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={d}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.socket
CredType=cred/munge
StateSaveLocation={state}/state
SlurmdSpoolDir={state}/spool
SlurmctldPidFile={state}/ctld.pid
SlurmdPidFile={state}/d.pid
SlurmctldLogFile={state}/ctld.log
SlurmdLogFile={state}/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SchedulerType=sched/backfill
KillWait=2
OverTimeLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=p Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""
PATIENCE = 60.0  # s


def there() -> str:
    """Say what is missing; empty where Slurm can run."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    path = os.environ["PATH"] + ":/usr/sbin"
    absent = [p for p in ("munged", "mungekey", "slurmctld", "slurmd", "sbatch") if shutil.which(p, path=path) is None]
    return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge)" if absent else ""


def _free() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Slurm:
    """Daemons of its own ports and folders."""

    def __init__(self, state: Path) -> None:
        self.state, self.daemons = state, []
        self.env = {**os.environ, "SLURM_CONF": str(state / "slurm.conf"), "PATH": os.environ["PATH"] + ":/usr/sbin"}
        for name in ("state", "spool"):
            (state / name).mkdir(parents=True)
        state.chmod(0o755)
        host = socket.gethostname().partition(".")[0]
        conf = CONF.format(host=host, state=state, ctld=_free(), d=_free(), cpus=os.cpu_count())
        (state / "slurm.conf").write_text(conf)
        key = state / "munge.key"
        subprocess.run(["mungekey", "-c", "-k", key], check=True, env=self.env)
        files = [f"--{what}={state}/munge.{end}" for what, end in (("socket", "socket"), ("pid-file", "pid"))]
        files += [f"--key-file={key}", f"--log-file={state}/munge.log", f"--seed-file={state}/munge.seed"]
        self._start("munged", "-F", "--force", *files)
        self._until((state / "munge.socket").exists, "munged")
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D", "-N", host)
        self._until(lambda: "idle" in self("sinfo", "-h", "-o", "%t", check=False), "a node")

    def _start(self, *command) -> None:
        with (self.state / f"{command[0]}.out").open("wb") as out:
            self.daemons.append(subprocess.Popen(command, env=self.env, stdout=out, stderr=out))

    def _until(self, holds, what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > end:
                told = {f.name: f.read_text()[-2000:] for f in self.state.glob("*.*") if f.suffix in {".log", ".out"}}
                raise RuntimeError(f"{what} did not come up: {told}")
            time.sleep(0.2)

    def __call__(self, *command, check=True) -> str:
        """Run a command of Slurm's and return what it says."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=check).stdout

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        self("scancel", "--user=root", check=False)
        time.sleep(1)
        for daemon in reversed(self.daemons):
            daemon.kill()
            daemon.wait()
