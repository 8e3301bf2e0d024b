"""A study of digits on a real SLURM, through what a cluster does to jobs, against one done here.

`make test-slurm` runs it, or pytest on this file, which needs the network and a Debian or Ubuntu;
15 minutes. FLATDIFF_SLURM is where the packages stay (default: runs/slurm).
"""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from launch import ROOT

sys.path.insert(0, str(Path(__file__).parent))
import cluster as slurm

TINY = (
    "--preset digits --num_channels 32 --channel_mult 1 --num_res_blocks 1 --diffusion_steps 50 "
    "--attention_resolutions 8 --save_interval 100 --keep_last 0 --num_workers 0 --seeds 2 "
    "--end_step 400 --gradient adam,adam-sam --matched False --average ema --features digits "
    "--num_samples 20 --num_images 6 --num_draws 4 --sampling_steps 3 --bits 4 --sigma 0.01 "
    "--filter_sigma 0.05 --radius 1"
).split()
PACED = ("processor_seconds", "seconds")  # columns of study.csv that time makes
THREADS = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def cluster():
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("SLURM is taken from Debian, and there is no apt-get here")
    folder = Path(os.environ.get("FLATDIFF_SLURM", ROOT / "runs/slurm"))
    with slurm.running(folder) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    making = [sys.executable, ROOT / "datasets/digits.py", "--out_dir", folder, "--split", "train"]
    subprocess.run(making, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def here(data, tmp_path_factory):
    """The folder of the study as this machine does it alone."""
    folder = tmp_path_factory.mktemp("here")
    process = Study(data, folder, "--jobs", 2)
    assert process.ended(1800) == 0, process.said()
    return folder


class Study:
    """`study.py` in a process, whose output goes into a file of its folder."""

    def __init__(self, data, folder, *more, **env):
        self.folder, self.log = folder, folder / f"said-{time.monotonic_ns()}"
        words = [sys.executable, ROOT / "scripts/study.py", *TINY]
        words += ["--data_dir", data, "--log_dir", folder, *more]
        with self.log.open("w") as file:
            how = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
            env = os.environ | THREADS | {"PYTHONPATH": str(ROOT)} | env
            self.process = subprocess.Popen(list(map(str, words)), env=env, **how)

    def ended(self, timeout: float) -> int:
        return self.process.wait(timeout)

    def said(self) -> str:
        logs = (path.read_text()[-2000:] for path in self.folder.glob("jobs/*.log"))
        return "\n".join([self.log.read_text(), *logs])


def until(ready, study=None, timeout=300):
    """What `ready` returns, once it is true."""
    end = time.monotonic() + timeout
    while not (found := ready()):
        assert time.monotonic() < end, study and study.said()
        assert study is None or study.process.poll() is None, study.said()
        time.sleep(0.3)
    return found


def process_of(word) -> list[int]:
    """Ids of the processes with this word in their command line."""
    found = subprocess.run(["pgrep", "-f", word], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split() if int(pid) != os.getpid()]


def rows(folder):
    with open(folder / "study.csv") as file:
        return [{k: v for k, v in row.items() if k not in PACED} for row in csv.DictReader(file)]


def trainings(cluster) -> dict[str, dict]:
    """The trainings that are running, by name."""
    found = cluster.jobs().items()
    return {n: j for n, j in found if n.startswith("train-") and j["state"] == "RUNNING"}


def requeued(cluster, study, act):
    """Does `act` to a training that runs, until one came back from it, and not by its end."""

    def again():
        for name, job in trainings(cluster).items():
            act(job["id"])
            for _ in range(50):
                now = cluster.jobs().get(name)
                if not now or now["restarts"] > job["restarts"]:
                    break
                time.sleep(0.3)
            if now and now["restarts"] > job["restarts"]:
                return True
        return False

    until(again, study)


def test_a_study_through_what_a_cluster_does_to_jobs(cluster, data, here, tmp_path):
    args = "--cluster", "slurm", "--partition", "low", "--time", "2"

    def begin():
        return Study(data, tmp_path, *args, **cluster.environment)

    study = begin()
    until(lambda: len(trainings(cluster)) == 2 and len(cluster.jobs()) == 4, study)
    requeued(cluster, study, lambda job: cluster.run("scontrol", "requeue", job))

    # a study that is killed and begun again submits nothing twice, which `jobs` looks at
    study.process.kill()
    study.ended(20)
    before = cluster.run("squeue", "--me", "--noheader", "--format=%i").split()
    study = begin()
    until(lambda: study.log.read_text().count("is in SLURM's queue already"), study)
    left = {name: job for name, job in cluster.jobs().items() if name.startswith("train-")}
    assert left and all(job["id"] in before for job in left.values())

    # told early, as at its time limit; and preempted by a partition of higher priority
    requeued(cluster, study, lambda job: cluster.run("scancel", "--signal=USR2", job))
    urgent = "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"
    requeued(cluster, study, lambda job: cluster.run("sbatch", *urgent))

    # killed, and cancelled: both are noticed, without accounting
    killed, gone = until(lambda: len(trainings(cluster)) == 2 and trainings(cluster), study).items()
    for pid in process_of(f"submitit.core._submit {tmp_path}"):
        if f"SLURM_JOB_ID={killed[1]['id']}" in Path(f"/proc/{pid}/environ").read_text().split(
            "\0"
        ):
            os.kill(pid, signal.SIGKILL)
    cluster.run("scancel", gone[1]["id"])
    assert study.ended(1800) == 1, study.said()
    said = study.log.read_text()
    assert "2 jobs failed, and 2 that wait for them were not begun" in said, study.said()
    assert all(name.rpartition("-")[0] in said for name, _ in (killed, gone))

    study = begin()
    assert study.ended(1800) == 0, study.said()
    assert study.log.read_text().count(" done ") >= 4
    same(here, tmp_path)


def test_two_ranks_of_a_job(cluster, data, tmp_path):
    """MPICH starts them in the job's step; and what SLURM does not have is refused in its words."""
    few = "--seeds", 1, "--end_step", 5, "--gradient", "adam", "--ranks", 2
    few += "--cluster", "slurm"
    study = Study(data, tmp_path, *few, "--gpus", True, **cluster.environment)
    assert study.ended(300) == 1 and "SLURM does not take the job train-" in study.said()
    assert "Traceback" not in study.said()
    study = Study(data, tmp_path, *few, **cluster.environment)
    job = until(lambda: [j for n, j in cluster.jobs().items() if n.startswith("train-")], study)[0]
    assert "NumCPUs=2" in cluster.run("scontrol", "show", "job", job["id"])
    assert study.ended(900) == 0, study.said()
    (log,) = tmp_path.glob("jobs/train-*.log")
    assert "2 ranks x 32" in log.read_text() and "1 thread" in log.read_text()


def same(here, there):
    """The table, and all weights, bit by bit."""
    assert rows(there) == rows(here)
    trained = sorted(path.name for path in (here / "cells").glob("train-*"))
    assert trained == sorted(path.name for path in (there / "cells").glob("train-*")) and trained
    for name in trained:
        for file in ("model000400.pt", "ema_0.99_000400.pt"):
            a, b = (torch.load(f / "cells" / name / file, weights_only=True) for f in (here, there))
            assert all(torch.equal(a[key], b[key]) for key in a), (name, file)
