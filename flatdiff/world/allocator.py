"""glibc's memory allocator, told to keep what is freed.

By default a tensor above 32 MB, and whatever is freed at the top of the heap, goes back to the
system and is then faulted in anew, page by page, at every step: a large part of it on a CPU.
"""

import ctypes
import resource
import sys

import torch

# malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tensors allocated from now on reuse the memory of freed ones; whether this system can.

    Only glibc has this setting: elsewhere, and with another allocator loaded, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    never, pad = 2**31 - 1, 64 << 20  # bytes
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: never, M_TOP_PAD: pad}
    return all(mallopt(name, value) for name, value in settings.items())


def peak(device: torch.device) -> int:
    """The most bytes that tensors took on this GPU so far, or this process of the CPU's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        with open("/proc/self/status") as file:  # what getrusage says may be the parent's
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1024 if sys.platform == "linux" else 1
        )
