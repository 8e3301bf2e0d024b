"""Batches from processes that decode images, also where shared memory is small.

A process ends with its parent, and not before: a launcher's or a terminal's signals reach it too,
while the step that it works for is to end and to be saved. Knows nothing of what is in a batch.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..world import logger

FULL = (
    "warning: /dev/shm is too small for the batches of --num_workers {}, which come through pipes "
    "instead, slower: make it larger (docker run --shm-size 1g), or give --num_workers 0"
)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def batches(made: Any, start: int, num_workers: int) -> Iterator[tuple]:
    """made[start], made[start + 1], ... without end: pairs (tensor, dict of tensors), pinned where
    there is CUDA. An error in the making is raised here; ChildProcessError where a process ended.
    """
    how = {"batch_size": None, "num_workers": num_workers, "collate_fn": _as_it_is}
    how |= {"pin_memory": torch.cuda.is_available(), "worker_init_fn": _outlive}
    loader, warned = DataLoader(_OrError(made), sampler=range(start, sys.maxsize), **how), False
    with _deaf():
        items = iter(loader)
    while True:
        with _naming(num_workers):
            item = next(items)
        if isinstance(item, Exception):
            raise item
        first, others = item
        if isinstance(first, np.ndarray):
            warned = warned or not logger.warn(FULL.format(num_workers))
            first = torch.from_numpy(first)
            others = {name: torch.from_numpy(value) for name, value in others.items()}
        yield first, others


def _as_it_is(item: Any) -> Any:
    """An item is a batch already."""
    return item


class _OrError:
    """Batches, or the error in their place, of which DataLoader would tell a traceback.

    They are arrays where there is no shared memory for tensors: of that the process would tell
    nobody, and who waits for the batch would wait for ever.
    """

    def __init__(self, made: Any):
        self.made = made

    def __getitem__(self, step: int) -> tuple | Exception:
        try:
            first, others = self.made[step]
        except (ValueError, OSError, MemoryError) as error:
            return error
        try:
            for tensor in (first, *others.values()):
                tensor.share_memory_()
        except RuntimeError:
            return first.numpy(), {name: value.numpy() for name, value in others.items()}
        return first, others


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes that begin here have SIGNALS blocked from their first moment on: a thread that a
    library begins in one before `_outlive` would take a signal, and end it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlive(worker: int) -> None:
    """Signals that ask a run to end, ask its main process, which ends this one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


@contextlib.contextmanager
def _naming(num_workers: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        raise ChildProcessError(
            f"one of --num_workers {num_workers} processes that decode images has ended ({error}): "
            "it was killed, as for want of memory, or /dev/shm is full; give fewer, or 0"
        ) from error
