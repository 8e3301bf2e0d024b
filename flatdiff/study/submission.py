"""The jobs of a study that run here: a few at a time, each with GPUs of its own."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..flags.parse import parts

Begin = Callable[[list[tuple]], list[Any]]  # of (command, log, whether it is done): handles


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
        for slot, (command, log, *_) in zip(free, commands):
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
