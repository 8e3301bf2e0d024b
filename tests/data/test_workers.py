"""Processes that make batches: errors, signals, and too little shared memory."""

import os
import signal
import sys
import threading
import time

import pytest
import torch

from flatdiff.data import workers
from flatdiff.world import logger


class Made:
    """Batches whose tensors do not fit shared memory from step `full` on, and which break at
    `broken`."""

    def __init__(self, full=99, broken=99):
        self.full, self.broken = full, broken

    def __getitem__(self, step):
        if step == self.broken:
            raise FileNotFoundError("7.png")
        first = torch.full((4,), float(step))
        if step >= self.full:

            def fail():
                raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>")

            first.share_memory_ = fail
        return first, {"y": torch.tensor([step]), "pid": torch.tensor([os.getpid()])}


def test_batches_come_also_where_shared_memory_is_full_and_that_is_told_once(monkeypatch):
    told = []
    monkeypatch.setattr(logger, "warn", told.append)
    batches = workers.batches(Made(full=2), 0, 2)
    for step in range(6):
        first, others = next(batches)
        assert first.tolist() == [step] * 4 and others["y"].tolist() == [step]
        assert len(told) == (step >= 2)
    assert "/dev/shm is too small" in told[0] and "--num_workers 2" in told[0]
    batches.close()


def test_an_error_in_a_process_is_raised_here():
    batches = workers.batches(Made(broken=1), 0, 1)
    next(batches)
    with pytest.raises(FileNotFoundError, match=r"^7\.png$"):
        next(batches)


THREADED = []  # whether a process has another thread from its first moment on, as of a library
os.register_at_fork(after_in_child=lambda: THREADED and threading.Timer(60, print).start())


def test_a_process_outlives_what_asks_a_run_to_end_and_one_that_is_killed_is_told(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "THREADED", [True])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    batches = workers.batches(Made(), 0, 1)
    worker = next(batches)[1]["pid"].item()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        os.kill(worker, number)
    os.system(f"kill -TERM {worker}")  # of another process than the parent
    for step in range(1, 6):
        first, others = next(batches)
        assert first[0] == step and others["pid"].item() == worker
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="--num_workers 1 processes that decode images"):
        for _ in range(9):
            next(batches)


def test_processes_end_with_their_parent_at_once(monkeypatch):
    """DataLoader waits for each as long as it is told to, and then kills it."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 60.0)
    batches = workers.batches(Made(), 0, 2)
    pids = {next(batches)[1]["pid"].item() for _ in range(4)}
    start = time.monotonic()
    batches.close()
    assert len(pids) == 2 and time.monotonic() - start < 50
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
