"""Jobs of SLURM, with programs in its place; a real one is in tests/slurm."""

import os
import signal
import sys
import threading
import time

import pytest

from flatdiff.flags.config import StudyFlags
from flatdiff.study import cluster

pytest.importorskip("submitit")

# man sbatch, --time: "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours",
# "days-hours:minutes" and "days-hours:minutes:seconds"
TIMES = {"90": 90, "4:30": 5, "4:00:00": 240, "1-12": 2160, "1-12:30": 2190, "2-0:00:30": 2881}


@pytest.mark.parametrize(("text", "minutes"), TIMES.items())
def test_a_time_limit_is_read_as_sbatch_reads_it(text, minutes):
    assert cluster.minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "4h", "0", "1", "1-", "-3", "1:2:3:4", "9.5"])
def test_what_is_no_time_limit_is_refused(text):
    with pytest.raises(
        ValueError, match="expected a time limit of 2 minutes or more, as sbatch has it"
    ):
        cluster.minutes_of(text)


def test_without_submitit_a_cluster_is_refused_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match="pip install submitit"):
        cluster.check(StudyFlags(cluster="local"))


def test_options_are_names_and_values():
    found = cluster.options("slurm_partition=gpu, timeout_min=600")
    assert found == {"slurm_partition": "gpu", "timeout_min": 600}
    with pytest.raises(ValueError, match="expected name=value"):
        cluster.options("gpu")


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """Programs with SLURM's names: jobs.txt is the queue, submitted.txt what sbatch was told."""
    place = tmp_path / "bin"
    place.mkdir()
    programs = {
        "srun": "exit 1",
        "sbatch": f"cat $1 >> {tmp_path}/submitted.txt; echo Submitted batch job 7",
        "squeue": f"cat {tmp_path}/jobs.txt",
    }
    for name, body in programs.items():
        (place / name).write_text(f"#!/bin/sh\n{body}\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "LOOK", 0)
    monkeypatch.setattr(cluster, "GRACE", 0)
    (tmp_path / "jobs.txt").write_text("")
    return tmp_path


def test_a_job_asks_for_what_its_flags_say(slurm):
    options = "account=lab,slurm_signal_delay_s=300"
    study = StudyFlags(
        cluster="slurm", ranks=2, gpus=True, partition="gpu", time="1-0", mem="32G",
        cluster_options=options,
    )  # fmt: skip
    cluster.beginner(study, 3, str(slurm))([(["true"], f"{slurm}/train-1.log", bool)])
    asked = (slurm / "submitted.txt").read_text()
    for line in (
        *("gpus-per-node=2", "cpus-per-task=8", "partition=gpu", "time=1440", "mem=32G"),
        *("account=lab", "requeue", "signal=USR2@300"),
    ):
        assert f"#SBATCH --{line}\n" in asked


def test_what_is_in_the_queue_is_not_submitted_again(slurm, capsys):
    log, job = f"{slurm}/train-1.log", f"{cluster.name_of(f'{slurm}/train-1.log')}\n"
    begin = cluster.beginner(StudyFlags(cluster="slurm"), 0, str(slurm))
    begin([(["true"], log, bool)])
    first = (slurm / "submitted.txt").read_text()
    assert f"job-name={job}" in first
    (slurm / "jobs.txt").write_text(f"another|6|None\n{job.strip()}|7|Priority\n")
    again = cluster.beginner(StudyFlags(cluster="slurm"), 0, str(slurm))
    (handle,) = again([(["true"], log, bool)])
    assert (slurm / "submitted.txt").read_text() == first and handle.poll() is None
    assert "is in SLURM's queue already" in capsys.readouterr().out
    other = cluster.name_of(f"{slurm}/other/train-1.log")
    assert other.startswith("train-1-") and other != job.strip()


def test_a_job_is_over_when_it_has_left_the_queue(slurm, capsys):
    done, log = [], f"{slurm}/train-1.log"
    (slurm / "jobs.txt").write_text(f"{cluster.name_of(log)}|7|launch failed requeued held\n")
    begin = cluster.beginner(StudyFlags(cluster="slurm"), 0, str(slurm))
    (killed,), (good,) = (begin([(["true"], log, lambda: bool(done))]) for _ in range(2))
    assert killed.poll() is good.poll() is None
    (slurm / "jobs.txt").unlink()  # SLURM does not answer
    assert killed.poll() is good.poll() is None
    said = capsys.readouterr().err
    assert said.count("squeue fails") == 1 and said.count("`scontrol release 7`") == 1
    (slurm / "jobs.txt").write_text("")
    assert killed.poll() is None and killed.poll() == 1
    done.append(True)
    assert good.poll() == 0


def test_what_sbatch_refuses_is_told_in_its_words(slurm):
    (slurm / "bin/sbatch").write_text(
        "#!/bin/sh\necho invalid partition specified: gpu >&2; exit 1"
    )
    begin = cluster.beginner(StudyFlags(cluster="slurm", partition="gpu"), 0, str(slurm))
    with pytest.raises(ValueError, match="invalid partition specified: gpu.*--partition, --time"):
        begin([(["true"], f"{slurm}/train-1.log", bool)])
    with pytest.raises(ValueError, match="--cluster_options timeout_min=x"):
        cluster.check(StudyFlags(cluster="slurm", cluster_options="timeout_min=x"))


def of(code, log):
    return [sys.executable, "-c", code], str(log)


SAVES = """
import signal, sys, time
def stop(*_):
    time.sleep(0.3); print("saved"); sys.exit(75)
signal.signal(signal.SIGUSR2, stop)
print("begun", flush=True)
while True: time.sleep(0.01)
"""


def test_a_job_at_its_limit_saves_and_is_requeued(tmp_path):
    """As SLURM does: the signal goes to the process and to what submitit runs it with."""
    task, told = cluster.Task(1), []
    call = of(SAVES, tmp_path / "log")

    def requeue(*_):
        told.append(task.checkpoint(*call))
        sys.exit(-1)

    def both():
        while "begun" not in (tmp_path / "log").read_text():
            time.sleep(0.01)
        task.process.send_signal(signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, requeue)
    (tmp_path / "log").touch()
    threading.Thread(target=both).start()
    try:
        with pytest.raises(SystemExit):
            task(*call)
    finally:
        signal.signal(signal.SIGUSR2, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert (tmp_path / "log").read_text().endswith("saved\n")
    (again,) = told
    assert type(again.function) is cluster.Task and again.args == call


def test_how_a_process_ended(tmp_path):
    """Its own clock asks submitit to requeue; SIGTERM, of SLURM, does not; a failure is one."""
    log, asked = tmp_path / "log", []
    before = signal.signal(signal.SIGUSR2, lambda *_: asked.append(True))
    stopped = "import os, signal, time; {}; raise SystemExit(75)"
    ask = "os.kill(os.getppid(), signal.SIGTERM); time.sleep(0.1)"
    try:
        with pytest.raises(SystemExit):
            cluster.Task(1)(*of(stopped.format("0"), log))
        assert asked == [True]
        with pytest.raises(SystemExit):
            cluster.Task(1)(*of(stopped.format(ask), log))
        assert asked == [True]
    finally:
        signal.signal(signal.SIGUSR2, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(RuntimeError, match=f"exit code 3: see {log}"):
        cluster.Task(1)(*of("raise SystemExit(3)", log))


def test_ranks_are_started_without_srun_and_share_the_cores(monkeypatch):
    for name in ("OMP_NUM_THREADS", "HYDRA_BOOTSTRAP", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    assert cluster.Task(2)._environment().items() >= {"HYDRA_BOOTSTRAP": "fork"}.items()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert cluster.Task(2)._environment()["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cluster.Task(2)._environment()["OMP_NUM_THREADS"] == "1"
