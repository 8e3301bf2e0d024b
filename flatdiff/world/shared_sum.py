"""The sum of a tensor over a few ranks of one host, through memory that all of them see.

Each rank writes its tensor, waits for the others, and adds all of them up: less than half of the
time that gloo takes to send them through sockets. The ranks are added in their order, so all get
the same bits.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

MEMORY = Path("/dev/shm")
MOST_RANKS = 4  # everyone reads everything: with more, gloo's ring moves less


def suits(num_ranks: int, one_host: bool) -> bool:
    """Whether these ranks can have a SharedSum."""
    return one_host and 1 < num_ranks <= MOST_RANKS and MEMORY.is_dir()


class SharedSum:
    """`shared_sum(tensor)` sums in place over ranks; every rank calls it for the same tensors.

    barrier: returns when every rank has come to it. gather: an object -> those of all ranks, in
    their order; collective too. Takes as much memory as the largest tensor, for each rank.
    """

    def __init__(self, rank: int, num_ranks: int, barrier: Callable, gather: Callable):
        self.rank, self.num_ranks = rank, num_ranks
        self.barrier, self.gather = barrier, gather
        self.slots: dict[torch.dtype, torch.Tensor] = {}  # [num_ranks, numbers]

    def __call__(self, tensor: torch.Tensor) -> bool:
        """Sums over ranks. False, on all of them and with nothing done, without enough memory.

        tensor: contiguous, on the CPU.
        """
        numbers = tensor.view(-1)
        if not self._reserve(len(numbers), tensor.dtype):
            return False
        slots = self.slots[tensor.dtype][:, : len(numbers)]
        slots[self.rank].copy_(numbers)
        self.barrier()
        torch.add(slots[0], slots[1], out=numbers)
        for slot in slots[2:]:
            numbers.add_(slot)
        self.barrier()  # nobody writes again before all have read
        return True

    def _reserve(self, count: int, dtype: torch.dtype) -> bool:
        """Room for so many numbers of each rank; all ranks agree on whether there is."""
        if dtype in self.slots and self.slots[dtype].shape[1] >= count:
            return True
        size = self.num_ranks * count
        path = _new_file(size * dtype.itemsize) if self.rank == 0 else None
        path, mapped = self.gather(path)[0], None
        if path:
            with contextlib.suppress(OSError, RuntimeError):  # a file of another container
                mapped = torch.from_file(path, shared=True, size=size, dtype=dtype)
        everyone = all(self.gather(mapped is not None))
        if path and self.rank == 0:
            os.unlink(path)  # it lives while it is mapped, and leaves nothing behind
        if everyone:
            self.slots[dtype] = mapped.view(self.num_ranks, count)
        return everyone


def mean_of_buckets(num_ranks: int, all_reduce: Callable) -> Callable:
    """DistributedDataParallel's hook for a SharedSum: each bucket of gradients, averaged.

    all_reduce: sums a tensor in place over ranks, where there is not enough shared memory.
    """

    def hook(shared_sum, bucket):
        gradients = bucket.buffer().div_(num_ranks)
        if not shared_sum(gradients):
            all_reduce(gradients)
        done = torch.futures.Future()
        done.set_result(gradients)
        return done

    return hook


def _new_file(size: int) -> str | None:
    """A file in memory, with all its bytes: writing to more than there is kills a process."""
    with contextlib.suppress(OSError):
        handle, path = tempfile.mkstemp(prefix="flatdiff_", dir=MEMORY)
        try:
            os.posix_fallocate(handle, 0, size)
            return path
        except OSError:
            os.unlink(path)
        finally:
            os.close(handle)
    return None
