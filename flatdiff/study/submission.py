"""Where the jobs of a study run: here, or on a cluster by submitit.

Both are functions of (command, log) pairs that return a handle each, whose `poll` is the exit code.
"""

import contextlib
import functools
import os
import subprocess
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch

from ..flags.parse import parts

Begin = Callable[[list[tuple[list[str], str]]], list[Any]]


@contextlib.contextmanager
def here(slots: int, ranks: int) -> Iterator[Begin]:
    """Processes of this machine, `slots` of so many ranks at a time, which end with the block: they
    are asked to, and save. Of kill -9 they learn nothing."""
    running: list[subprocess.Popen | None] = [None] * slots
    environment = dict(os.environ)
    if slots * ranks > 1:  # torch takes all cores in each process
        cores = max(1, (os.cpu_count() or 1) // (slots * ranks))
        environment.setdefault("OMP_NUM_THREADS", str(cores))

    def begin(commands):
        free = [slot for slot, job in enumerate(running) if not job or job.poll() is not None]
        for slot, (command, log) in zip(free, commands):
            own = environment | (gpus_of(slot, ranks, gpus()) if slots > 1 else {})
            with open(log, "a") as file:
                how = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
                running[slot] = subprocess.Popen(command, env=own, **how)
        return [running[slot] for slot in free[: len(commands)]]

    try:
        yield begin
    finally:
        jobs = list(filter(None, running))
        for job in jobs:
            job.terminate()
        for job in jobs:
            job.wait()


def gpus() -> list[str]:
    """The GPUs that this process sees, by the names that CUDA_VISIBLE_DEVICES has for them. Of
    counting them the driver makes no context."""
    count = torch.cuda.device_count()
    named = parts(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return (named or [str(i) for i in range(count)])[:count]


def gpus_of(slot: int, ranks: int, gpus: list[str]) -> dict[str, str]:
    """The environment by which the job of a slot sees GPUs of its own, one a rank; slots share them
    where there are not enough, and without any it is empty."""
    own = [gpus[(slot * ranks + rank) % len(gpus)] for rank in range(ranks) if gpus]
    return {"CUDA_VISIBLE_DEVICES": ",".join(dict.fromkeys(own))} if own else {}


def cluster(kind: str, text: str, folder: str) -> Begin:
    """Jobs of a cluster, of the `options` in the text; those that begin together are one array.
    They go on after the study was stopped: the same command finds what they did."""
    try:
        import submitit
    except ImportError as error:
        raise ValueError(
            "--cluster needs submitit: pip install submitit, or leave it out to run here"
        ) from error
    executor = submitit.AutoExecutor(folder=folder, cluster=kind)
    executor.update_parameters(**options(text))

    def begin(commands):
        with executor.batch() if commands else contextlib.nullcontext():
            jobs = [executor.submit(call, *each) for each in commands]
        return [SimpleNamespace(poll=functools.partial(_code, job)) for job in jobs]

    return begin


def _code(job) -> int | None:
    if not job.done():
        return None
    return 1 if job.exception() else job.result()


def call(command: list[str], log: str) -> int:
    """Runs the job as a process, on the cluster; returns its exit code."""
    with open(log, "a") as file:
        return subprocess.run(command, stdout=file, stderr=file).returncode


def options(text: str) -> dict:
    """Text as slurm_partition=gpu,timeout_min=600 -> values by name, whole numbers as such."""
    pairs = [part.partition("=") for part in parts(text)]
    if not all(name and value for name, _, value in pairs):
        raise ValueError(f"--cluster_options is {text!r}; expected name=value separated by commas")
    return {name.strip(): int(v) if v.isdigit() else v for name, _, v in pairs}
