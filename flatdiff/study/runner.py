"""Runs the jobs of a study: here, a few at a time, or on a cluster through submitit.

A job is a process, `[mpirun -n N] flatdiff study --job FILE`, so that one that fails or is killed
costs itself alone. A training is a job; so are all measurements of one model, which wait for it.
What is left to do is read from the disk.
"""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from ..store import checkpoint
from ..world import dist_util
from .board import Board
from .jobs import write
from .matrix import Cell, Model
from .submission import Cluster

FLATDIFF = [sys.executable, "-m", "flatdiff"]
POLL = 0.5  # seconds


@dataclasses.dataclass
class Job:
    """Cells that one process does. `cost`: how long it may take, against others of its kind."""

    name: str
    kind: str
    cells: list[Cell]
    after: "Job | None" = None
    cost: float = 1.0
    state: str = "left"  # running, done, failed
    seconds: float = 0.0
    log: str = ""

    def finished(self) -> bool:
        return all(cell.result() is not None for cell in self.cells)


def prepare(flags):
    """The flags with a log_dir, and with the digits of --preset digits where no data was given."""
    if dist_util.world_size() > 1:
        raise ValueError("a study starts its ranks itself: run it without mpirun, with --ranks N")
    log_dir = flags.run.log_dir or os.environ.get("OPENAI_LOGDIR")
    if not log_dir:
        raise ValueError("no --log_dir: give the folder of the study, to go on with it later")
    data_dir = flags.data.data_dir
    if not data_dir and "digits" in flags.presets:
        data_dir = os.path.join(log_dir, "data")
        making = [*FLATDIFF, "data", "digits", "--out_dir", data_dir, "--split", "train"]
        subprocess.run(making, check=True)
    if not data_dir:
        raise ValueError("no data: give --data_dir, or --preset digits, which brings its own")
    return SimpleNamespace(
        **vars(flags)
        | {
            "run": dataclasses.replace(flags.run, log_dir=checkpoint.absolute(log_dir)),
            "data": dataclasses.replace(flags.data, data_dir=checkpoint.absolute(data_dir)),
        }
    )


def jobs_of(models: list[Model]) -> list[Job]:
    """Trainings first, seed by seed, so that an early report has something of each kind."""
    trainings, measures = {}, []
    for model in sorted(models, key=lambda m: m.training.seed):
        t = model.training
        name = model.name.replace(f" {model.average}, seed", ", seed")
        train = trainings.setdefault(
            t.cell.key, Job(f"train {name}", "train", [t.cell], cost=t.cost)
        )
        cells = list(model.cells.values())
        measures.append(Job(f"measure {model.name}", "measure", cells, after=train))
    jobs = [*trainings.values(), *measures]
    for job in jobs:
        job.state = "done" if job.finished() else "left"
    return jobs


def table_of_jobs(models: list[Model]) -> str:
    """What a study would do: each job, whether it is done, and where its results are."""
    jobs = jobs_of(models)
    lines = [
        f"{job.state:>4}  {job.name}  ({os.path.basename(job.cells[0].folder)})" for job in jobs
    ]
    done = sum(job.state == "done" for job in jobs)
    return "\n".join([*lines, f"{len(jobs)} jobs, {done} done"])


def run(models: list[Model], flags) -> str:
    """Do all jobs that are not done; returns a sentence about those that failed, or ""."""
    jobs = jobs_of(models)
    folder = os.path.join(flags.run.log_dir, "jobs")
    for job in jobs:
        path = os.path.join(folder, f"{job.cells[0].kind}-{job.cells[0].key}")
        job.log = f"{path}.log"
        write(job.cells, job.name, f"{path}.json")
    commands = {id(job): (command_of(job, flags), job.log) for job in jobs}
    with _place(flags.study, folder) as place, Board(jobs, place.slots) as board:
        _work_through(jobs, commands, place, board)
    return _what_failed(jobs)


def _place(s, folder: str):
    return Cluster(s.cluster, s.cluster_options, folder) if s.cluster else Local(s.jobs, s.ranks)


def _work_through(jobs: list[Job], commands: dict, place, board: Board) -> None:
    running: dict[int, tuple[Job, object, float]] = {}
    while True:
        free = place.slots - len(running)
        ready = [j for j in jobs if j.state == "left" and (not j.after or j.after.state == "done")]
        ready = ready[:free]
        for job, handle in zip(ready, place.submit([commands[id(job)] for job in ready])):
            job.state = "running"
            running[id(job)] = job, handle, time.monotonic()
        if not running:
            return
        board.show()
        time.sleep(POLL)
        for job, handle, start in list(running.values()):
            code = handle.poll()
            job.seconds = time.monotonic() - start
            if code is not None:
                del running[id(job)]
                job.state = "done" if code == 0 and job.finished() else "failed"
                board.tell(job)


def _what_failed(jobs: list[Job]) -> str:
    failed = [job for job in jobs if job.state == "failed"]
    if not failed:
        return ""
    waiting = sum(job.state == "left" for job in jobs)
    names = "; ".join(f"{job.name} (see {job.log})" for job in failed)
    skipped = f", and {waiting} that wait for them were not begun" if waiting else ""
    return f"{len(failed)} jobs failed{skipped}: {names}. The same command tries them again"


def command_of(job: Job, flags) -> list[str]:
    """What a shell would be told."""
    path = job.log.removesuffix(".log") + ".json"
    call = [*FLATDIFF, "study", "--job", path]
    if flags.study.ranks == 1:
        return call
    beside = Path(sys.executable).parent / "mpirun"
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if not mpirun:
        raise ValueError('--ranks needs mpirun: pip install -e ".[mpi]", or give --ranks 1')
    return [mpirun, "-n", str(flags.study.ranks), *call]


class Local:
    """Processes of this machine, `slots` at a time, which end with the study."""

    def __init__(self, slots: int, ranks: int):
        self.slots = slots
        self.started: list[subprocess.Popen] = []
        own = {}
        if slots * ranks > 1:  # torch takes all cores in each process
            own["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // (slots * ranks)))
        self.environment = {**own, **os.environ}

    def submit(self, commands: list[tuple[list[str], str]]) -> list[subprocess.Popen]:
        return [self._start(*each) for each in commands]

    def _start(self, command: list[str], log: str) -> subprocess.Popen:
        with open(log, "a") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=self.environment
            )
        self.started.append(process)
        return process

    def __enter__(self):
        """SIGTERM ends the processes too, as Ctrl-C does; of kill -9 they learn nothing."""
        self.before = signal.signal(signal.SIGTERM, _stop)
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGTERM, self.before)
        running = [p for p in self.started if p.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _stop(*_):
    raise SystemExit(128 + signal.SIGTERM)
