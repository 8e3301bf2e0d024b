"""Runs the jobs of a study: here, a few at a time, or on a cluster through submitit.

A job is a process, `[mpirun -n N] flatdiff study --job FILE`, so that one that fails or is killed
costs itself alone: a training, or all measurements of one model, which wait for its training.
"""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from ..store import checkpoint, lock
from ..world import dist_util, stopping
from . import cluster, objectives, submission
from .board import Board
from .jobs import write
from .matrix import Cell, Model

FLATDIFF = [sys.executable, "-m", "flatdiff"]
POLL = 0.5  # seconds
ANY = 10**6  # slots of a cluster, which has its own queue


@dataclasses.dataclass
class Job:
    """Cells that one process does. `cost`: how long it may take, against others of its kind."""

    name: str
    kind: str
    cells: list[Cell]
    after: "Job | None" = None
    cost: float = 1.0
    state: str = "left"  # running, done, failed, stopped
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
    if flags.study.cluster == "slurm" and flags.run.dtype == "auto":
        raise ValueError(
            "--dtype auto is decided on the machine that starts a study, and --cluster slurm "
            "trains on others: give --dtype fp32 or bf16"
        )
    if not flags.study.dry_run:  # which only looks
        lock.take(checkpoint.absolute(log_dir), "study")
    cluster.check(flags.study)
    data_dir = flags.data.data_dir
    if not data_dir and "digits" in flags.presets:
        data_dir = os.path.join(log_dir, "data")
        making = [*FLATDIFF, "data", "digits", "--out_dir", data_dir, "--split", "train"]
        subprocess.run(making, check=True)
    if not data_dir:
        raise ValueError("no data: give --data_dir, or --preset digits, which brings its own")
    if told := objectives.told(flags):
        print(told)
    run = dataclasses.replace(flags.run, log_dir=checkpoint.absolute(log_dir))
    data = dataclasses.replace(flags.data, data_dir=checkpoint.absolute(data_dir))
    return SimpleNamespace(**vars(flags) | {"run": run, "data": data})


def jobs_of(models: list[Model]) -> list[Job]:
    """Trainings first, seed by seed, so that an early report has something of each kind."""
    trainings, measures = {}, []
    for model in sorted(models, key=lambda m: m.training.seed):
        t = model.training
        name = model.name.replace(f" {model.average}, seed", ", seed")
        train = Job(f"train {name}", "train", [t.cell], cost=t.cost)
        train = trainings.setdefault(t.cell.key, train)
        cells = list(model.cells.values())
        measures.append(Job(f"measure {model.name}", "measure", cells, after=train))
    jobs = [*trainings.values(), *measures]
    for job in jobs:
        job.state = "done" if job.finished() else "left"
    return jobs


def table_of_jobs(models: list[Model]) -> str:
    """What a study would do: each job, whether it is done, and where its results are."""
    jobs = jobs_of(models)
    lines = [f"{j.state:>4}  {j.name}  ({os.path.basename(j.cells[0].folder)})" for j in jobs]
    done = sum(job.state == "done" for job in jobs)
    return "\n".join([*lines, f"{len(jobs)} jobs, {done} done"])


def run(models: list[Model], flags) -> str:
    """Do all jobs that are not done; returns a sentence about those that failed, or ""."""
    jobs, study = jobs_of(models), flags.study
    folder = os.path.join(flags.run.log_dir, "jobs")
    for job in jobs:
        path = os.path.join(folder, f"{job.cells[0].kind}-{job.cells[0].key}")
        job.log = f"{path}.log"
        write(job.cells, job.name, f"{path}.json")
    commands = {id(job): (command_of(job, flags), job.log, job.finished) for job in jobs}
    slots, place = study.jobs, submission.here(study.jobs, study.ranks)
    if study.cluster:
        begin = cluster.beginner(study, flags.data.num_workers, folder)
        slots, place = ANY, contextlib.nullcontext(begin)
    with place as begin, Board(jobs, slots) as board:
        _work_through(jobs, commands, begin, board)
        failed = _what_failed(jobs)
        if not failed and any(job.state == "stopped" for job in jobs):
            stopping.leave("the end of some jobs, which were asked to")
    return failed


def _work_through(jobs: list[Job], commands: dict, begin: submission.Begin, board: Board) -> None:
    running: dict[int, tuple[Job, object, float]] = {}
    while True:
        ready = [j for j in jobs if j.state == "left" and (not j.after or j.after.state == "done")]
        ready = ready[: board.slots - len(running)]
        for job, handle in zip(ready, begin([commands[id(job)] for job in ready])):
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
                job.state = "stopped" if code == stopping.CODE else job.state
                board.tell(job)


def _what_failed(jobs: list[Job]) -> str:
    failed = [job for job in jobs if job.state == "failed"]
    waiting = sum(job.state == "left" for job in jobs)
    names = "; ".join(f"{job.name} (see {job.log})" for job in failed)
    skipped = f", and {waiting} that wait for them were not begun" if waiting else ""
    told = f"{len(failed)} jobs failed{skipped}: {names}. The same command tries them again"
    return told if failed else ""


def command_of(job: Job, flags) -> list[str]:
    """What a shell would be told."""
    call = [*FLATDIFF, "study", "--job", job.log.removesuffix(".log") + ".json"]
    if flags.study.ranks == 1:
        return call
    beside = Path(sys.executable).parent / "mpirun"
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if not mpirun:
        raise ValueError('--ranks needs mpirun: pip install -e ".[mpi]", or give --ranks 1')
    return [mpirun, "-n", str(flags.study.ranks), *call]
