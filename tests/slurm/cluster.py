"""A SLURM of one machine in a folder: Debian's packages, unpacked there, and nothing of the system.

    python tests/slurm/cluster.py FOLDER    # prints what to `source`; ends with Ctrl-C

Has two partitions, `low` and `high`, whose jobs preempt those of `low`; no accounting; no GPUs. All
daemons are this user's, who needs no root.
"""

import contextlib
import getpass
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libmunge2 libhwloc15"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
CONF = """\
ClusterName=flatdiff
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
PluginDir={libraries}/slurm-wlm
SlurmctldPort={port}
SlurmdPort={port_of_node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=5
ReturnToService=2
MpiDefault=none
KillWait=10
MinJobAge=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=8000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10
"""


class Cluster:
    """`environment`: where sbatch, squeue and the others are found, and know this cluster."""

    def __init__(self, folder: Path, cores: int):
        self.folder, self.root = folder, folder / "root"
        libraries = self.root / LIBRARIES
        paths = [self.root / "usr/bin", self.root / "usr/sbin", os.environ["PATH"]]
        self.environment = {
            "PATH": ":".join(map(str, paths)),
            "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'slurm-wlm'}",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        about = {"folder": folder, "host": os.uname().nodename.partition(".")[0]}
        about |= {"user": getpass.getuser(), "libraries": libraries, "cores": cores}
        about["port"] = 20000 + os.getpid() % 20000 * 2
        about["port_of_node"] = about["port"] + 1
        self.conf = CONF.format(**about)

    def install(self) -> None:
        """Download the packages, unless that was done, and unpack them."""
        debs = self.folder / "debs"
        if self.root.exists():
            return
        debs.mkdir(parents=True, exist_ok=True)
        self.run("apt-get", "download", *PACKAGES.split(), cwd=debs)
        for deb in debs.glob("*.deb"):
            self.run("dpkg", "-x", deb, self.root)

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(exist_ok=True)
        (self.folder / "slurm.conf").write_text(self.conf)
        key = self.folder / "munge.key"
        if not key.exists():
            key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self.folder.chmod(0o700)
        files = ("socket=munge.sock", "key-file=munge.key", "pid-file=munge.pid")
        files += ("log-file=munge.log", "seed-file=munge.seed")
        told = [f"--{name}={self.folder / file}" for name, file in (f.split("=") for f in files)]
        self.run("munged", "--force", *told)
        self.run("slurmctld-wlm", "-i")
        self.run("slurmd-wlm", "-d", self.root / "usr/sbin/slurmstepd-wlm")
        for _ in range(100):
            if "idle" in self.run("sinfo", "--noheader", "--format=%t"):
                return
            time.sleep(0.2)
        raise RuntimeError(f"the node is not idle: see {self.folder}/slurmctld.log")

    def stop(self) -> None:
        """End all jobs, and the daemons."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.run("scancel", "--me", "--state=pending,running")
            for _ in range(100):
                if not self.jobs():
                    break
                time.sleep(0.2)
        for daemon in ("slurmd", "slurmctld", "munge"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / f"{daemon}.pid").read_text()), signal.SIGTERM)

    def run(self, *command, cwd=None) -> str:
        """What the command prints. Its output goes through a file: daemons hold a pipe for ever."""
        with (self.folder / "said").open("w+") as said:
            words = list(map(str, command))
            env = os.environ | self.environment
            done = subprocess.run(words, env=env, cwd=cwd, stdout=said, stderr=said, timeout=120)
            said.seek(0)
            text = said.read()
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, words, text)
        return text

    def jobs(self) -> dict[str, dict[str, str]]:
        """The jobs in the queue, by name: their id, state, and how often they were requeued."""
        known = {}
        told = self.run(
            "squeue", "--me", "--noheader", "--Format=JobID:|,Name:|,State:|,RestartCnt:|"
        )
        for line in told.splitlines():
            number, name, state, restarts = line.split("|")[:4]
            assert name not in known, f"{name} is in the queue twice"
            known[name] = {"id": number, "state": state, "restarts": int(restarts)}
        return known


@contextlib.contextmanager
def running(folder: Path, cores: int = 2):
    """A Cluster for as long as the block runs."""
    cluster = Cluster(folder.absolute(), cores)
    folder.mkdir(parents=True, exist_ok=True)
    cluster.install()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


if __name__ == "__main__":
    with running(Path(sys.argv[1])) as cluster, contextlib.suppress(KeyboardInterrupt):
        for name, value in cluster.environment.items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        signal.pause()
