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
    "--save_interval 200 --keep_last 0 --num_workers 0 --seeds 1 --end_step 1200 "
    "--gradient adam,adam-sam --matched False --average none,ema --features digits "
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


def in_state(cluster, state, kind="train"):
    return {n: j for n, j in cluster.jobs().items() if n.startswith(kind) and j["state"] == state}


def steps_of(folder, name) -> int:
    """The newest step that a training's job has saved."""
    stem = name.rpartition("-")[0]
    files = (folder / "cells" / stem).glob("state*.pt")
    return max((int(path.stem.removeprefix("state")) for path in files), default=0)


def process_of(word) -> list[int]:
    """Ids of the processes with this word in their command line."""
    found = subprocess.run(["pgrep", "-f", word], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split() if int(pid) != os.getpid()]


def rows(folder):
    with open(folder / "study.csv") as file:
        return [{k: v for k, v in row.items() if k not in PACED} for row in csv.DictReader(file)]


def test_a_study_through_all_that_a_cluster_does(cluster, data, here, tmp_path):
    args = "--cluster", "slurm", "--partition", "low"
    begin = lambda *more: Study(data, tmp_path, *args, *more, **cluster.environment)  # noqa: E731

    study = begin()
    first, _ = until(lambda: len(found := in_state(cluster, "RUNNING")) == 2 and list(found), study)

    # requeued by hand: SIGTERM, and again from what it saved
    until(lambda: steps_of(tmp_path, first), study)
    cluster.run("scontrol", "requeue", cluster.jobs()[first]["id"])
    until(lambda: cluster.jobs()[first]["restarts"] == 1, study)

    # a study that is killed and begun again submits nothing twice (`jobs` looks at that)
    study.process.kill()
    study.ended(20)
    before = cluster.jobs()
    study = begin()
    until(lambda: "is in SLURM's queue already" in study.log.read_text(), study)
    time.sleep(10)
    assert set(cluster.jobs()) <= set(before)

    # preempted by a partition of higher priority
    running = until(lambda: len(found := in_state(cluster, "RUNNING")) == 2 and found, study)
    cluster.run("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 5")
    for name, job in running.items():
        until(lambda: cluster.jobs()[name]["restarts"] > job["restarts"], study)  # noqa: B023

    # killed, and cancelled: both are noticed, without accounting
    running = until(lambda: len(found := in_state(cluster, "RUNNING")) == 2 and found, study)
    killed, cancelled = running
    stem = killed.rpartition("-")[0]
    until(lambda: process_of(f"study --job .*{stem}.json"), study)
    for pid in process_of(f"submitit.core._submit {tmp_path}"):
        job = Path(f"/proc/{pid}/environ").read_bytes()
        if f"SLURM_JOB_ID={running[killed]['id']}\0".encode() in job:
            os.kill(pid, signal.SIGKILL)
    cluster.run("scancel", running[cancelled]["id"])
    assert study.ended(900) == 1
    said = study.log.read_text()
    assert "2 jobs failed" in said, study.said()
    assert all(name.rpartition("-")[0] in said for name in (killed, cancelled))

    # what is left, and at a time limit that no training keeps: requeued by itself
    for name in (killed, cancelled):
        assert not (tmp_path / "cells" / name.rpartition("-")[0] / "result.json").exists()
    study = begin("--time", "2")
    assert study.ended(1800) == 0, study.said()
    same(here, tmp_path)


def same(here, there):
    """The table, and all weights, bit by bit."""
    assert rows(there) == rows(here)
    trained = sorted(path.name for path in (here / "cells").glob("train-*"))
    assert trained == sorted(path.name for path in (there / "cells").glob("train-*")) and trained
    for name in trained:
        for file in ("model001200.pt", "ema_0.99_001200.pt"):
            a, b = (torch.load(f / "cells" / name / file, weights_only=True) for f in (here, there))
            assert all(torch.equal(a[key], b[key]) for key in a), (name, file)
