"""The jobs of a study on a cluster, through submitit.

A job that SLURM preempts, or that nears its time limit, is requeued and goes on. What is submitted
is known by SLURM's queue alone: a study that is begun again waits for what is in it.
"""

import contextlib
import hashlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ..flags import idle, parse
from ..world import stopping

REQUEUES = 1000  # of a job at its time limit
LOOK = 5.0  # seconds between two looks at the queue
GRACE = 30.0  # seconds until what a job has written is seen on another machine
EARLY = 90  # seconds before the time limit at which a job is told, or a quarter of it
TIMES = "as sbatch has it: minutes, hours:minutes:seconds or days-hours, as 90, 4:00:00 or 2-12"

Submission = tuple[list[str], str, Callable[[], bool]]  # command, log, whether it is done


def check(study) -> None:
    """Raise ValueError for flags of a cluster that cannot be."""
    if study.cluster:
        executor_of(study, 0, os.devnull)


def beginner(study, num_workers: int, folder: str) -> Callable[[list[Submission]], list]:
    """Return the function that submits jobs, and returns a handle each, whose `poll` is an exit
    code. They go on after the study was stopped."""
    executor = executor_of(study, num_workers, folder)
    queue = Queue() if study.cluster == "slurm" else None

    def begin(jobs):
        return [_begun(executor, queue, study.ranks, *job) for job in jobs]

    return begin


def _begun(executor, queue, ranks, command, log, finished):
    name = name_of(log)
    if queue and name in queue.names():
        print(f"{name} is in SLURM's queue already", flush=True)
        return queue.handle(name, finished)
    executor.update_parameters(name=name)
    try:
        job = executor.submit(Task(ranks), command, log)
    except RuntimeError as error:  # submitit's, around what sbatch printed
        told = " ".join(str(error).split())
        raise ValueError(
            f"SLURM does not take the job {name}: {told}. It asks for what "
            f"--{', --'.join(idle.OF_CLUSTER.split())} say"
        ) from None
    return queue.handle(name, finished) if queue else SimpleNamespace(poll=lambda: _code(job))


def _code(job) -> int | None:
    """The exit code of one of submitit's stand-ins for a cluster."""
    if not job.done():
        return None
    return 1 if job.exception() else 0


def name_of(log: str) -> str:
    """Name a job in the queue: by its log, and a hash of where that is."""
    stem = os.path.abspath(log).removesuffix(".log")
    return f"{os.path.basename(stem)}-{hashlib.sha256(stem.encode()).hexdigest()[:6]}"


class Queue:
    """SLURM's queue: this user's jobs that are pending, running or ending, by name."""

    def __init__(self):
        self.known, self.held = set(), set()
        self.seen, self.silent = -math.inf, False

    def names(self) -> set[str]:
        """Look, unless that was just done; while SLURM does not answer, nothing changes."""
        if time.monotonic() < self.seen + LOOK:
            return self.known
        asked = ["squeue", "--me", "--noheader", "--format=%j|%i|%r"]
        answer = subprocess.run(asked, capture_output=True, text=True)
        if answer.returncode == 0:
            jobs = [line.split("|") for line in answer.stdout.splitlines()]
            self.known = {name for name, *_ in jobs}
            self._tell_held([job for job in jobs if "held" in job[-1].lower()])
        elif not self.silent:
            told = answer.stderr.strip().partition("\n")[0]
            print(f"warning: squeue fails, and is asked again: {told}", file=sys.stderr, flush=True)
        self.silent, self.seen = answer.returncode != 0, time.monotonic()
        return self.known

    def _tell_held(self, jobs: list[list[str]]) -> None:
        """Say once of each what SLURM waits for: a person."""
        for name, number, why in (job for job in jobs if job[0] not in self.held):
            told = f"warning: SLURM holds {name} ({why}): `scontrol release {number}` lets it run"
            print(told, file=sys.stderr, flush=True)
            self.held.add(name)

    def handle(self, name: str, finished: Callable[[], bool]) -> SimpleNamespace:
        """Return the handle of a job that is in the queue: it is over when it is not there any
        more, by whatever end."""
        self.known.add(name)
        self.seen, gone = -math.inf, []

        def poll():
            if name in self.names():
                gone.clear()
            elif finished():
                return 0
            elif not gone:
                gone.append(time.monotonic())
            elif time.monotonic() > gone[0] + GRACE:
                return 1
            return None

        return SimpleNamespace(poll=poll)


class Task:
    """What submitit runs on the cluster: the process of a job, which may be stopped and go on."""

    def __init__(self, ranks: int):
        self.ranks = ranks

    def __call__(self, command: list[str], log: str) -> None:
        """Run the job's process; RuntimeError if it fails, SystemExit if it was stopped."""
        ended = []  # by SLURM, which then knows itself whether the job comes back
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
        with open(log, "a") as file:
            how = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
            self.process = subprocess.Popen(command, env=self._environment(), **how)
        code = self.process.wait()
        if code == stopping.CODE and not ended:  # by its own clock: submitit's signal requeues it
            early = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
            signal.raise_signal(signal.Signals[f"SIG{early}"])
        if ended or code == stopping.CODE:
            sys.exit(code)
        if code:
            raise RuntimeError(f"exit code {code}: see {log}")

    def checkpoint(self, command: list[str], log: str) -> Any:
        """Wait until the process, which was told too, has saved; return what goes on.

        `wait` is interrupted by this, and holds its lock: the process is left for it to collect.
        """
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return _submitit().helpers.DelayedSubmission(Task(self.ranks), command, log)

    def _environment(self) -> dict[str, str]:
        """MPICH starts the ranks itself: its srun, inside a step of SLURM, would wait for ever."""
        own = {"HYDRA_BOOTSTRAP": "fork"}
        if cores := os.environ.get("SLURM_CPUS_PER_TASK"):
            own["OMP_NUM_THREADS"] = str(max(1, int(cores) // self.ranks))
        return own | os.environ


def executor_of(study, num_workers: int, folder: str) -> Any:
    """Return submitit's executor with what the flags ask for; ValueError for what it does not
    know."""
    submitit, slurm = _submitit(), study.cluster == "slurm"
    try:
        how = {"cluster": study.cluster, "slurm_max_num_timeout": REQUEUES}
        executor = submitit.AutoExecutor(folder=folder, **how)
    except RuntimeError as error:
        raise ValueError(f"--cluster {study.cluster}: {error}") from error
    known = {f"slurm_{name}" for name in submitit.SlurmExecutor._valid_parameters()}
    known |= {f"slurm_{name}" for name in executor._valid_parameters()}
    known |= executor._valid_parameters()
    asked = options(study.cluster_options)
    own = {name: value for name, value in asked.items() if name in known}
    own = asked_for(study, num_workers) | own
    if slurm:
        more = {name: value for name, value in asked.items() if name not in known}
        own["slurm_additional_parameters"] = {"requeue": True} | more
    try:
        executor.update_parameters(**own)
    except (AssertionError, NameError, TypeError, ValueError) as error:
        told = str(error).partition("\n")[0]
        raise ValueError(f"--cluster_options {study.cluster_options}: {told}") from None
    return executor


def asked_for(study, num_workers: int) -> dict[str, Any]:
    """Return submitit's parameters, by what the flags ask for a job."""
    minutes = minutes_of(study.time)
    found = {
        "timeout_min": minutes,
        "cpus_per_task": study.cpus_per_task or study.ranks * (1 + num_workers),
        "slurm_signal_delay_s": min(EARLY, 60 * minutes // 4),
    }
    texts = {"slurm_partition": study.partition, "slurm_mem": study.mem}
    found |= {name: text for name, text in texts.items() if text}
    return found | ({"gpus_per_node": study.ranks} if study.gpus else {})


def minutes_of(text: str) -> int:
    """Read a time limit: "90", "4:00:00", "2-12" -> minutes; ValueError for what is none."""
    days, dash, clock = text.rpartition("-")
    fields = clock.split(":")
    if all(field.isdigit() for field in [*fields, days if dash else "0"]) and len(fields) <= 3:
        units = (60, 1, 1 / 60)[0 if dash or len(fields) == 3 else 1 :]
        minutes = 1440 * int(days or 0) + sum(int(n) * unit for n, unit in zip(fields, units))
        if minutes >= 2:  # SLURM tells a job of its end up to a minute early
            return math.ceil(minutes)
    raise ValueError(f"--time is {text!r}; expected a time limit of 2 minutes or more, {TIMES}")


def options(text: str) -> dict[str, Any]:
    """Text as account=lab,timeout_min=600 -> values by name, whole numbers as such."""
    pairs = [part.partition("=") for part in parse.parts(text)]
    if not all(name and value for name, _, value in pairs):
        raise ValueError(f"--cluster_options is {text!r}; expected name=value separated by commas")
    return {name.strip(): int(v) if v.isdigit() else v for name, _, v in pairs}


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ValueError(
            "--cluster needs submitit: pip install submitit, or leave it out to run here"
        ) from error
    return submitit
