"""What --dtype auto is: bf16 where this device is quick at it, which is measured on a CPU.

    CUDA    bf16 from compute capability 8.0 on, whose tensor cores have it
    CPU     bf16 if a residual block, forward and backward, takes 1 / 1.3 of fp32's time or less

With AMX it takes a third; with other instructions, or none, bf16 is no faster than our fp32.
"""

import dataclasses
import statistics
import time

import torch

from ..nets.blocks import ResBlock
from ..world import dist_util, logger
from .networks import casting, place

GAIN = 1.3  # of fp32's time over bf16's, at least: a resumed run should find the same
WIDTH, SIDE, IMAGES, TURNS = 128, 32, 4, 5
OF_MEASURES = "fp32", "what is measured is the network, and not how it is rounded"


def decided(flags, dtype="", why=""):
    """The RunFlags with "auto" replaced by `dtype`, by default `fastest`, the same on all ranks.

    A line of the log says what it is, and why.
    """
    if flags.dtype != "auto":
        return flags
    dtype, why = (dtype, why) if dtype else dist_util.broadcast_object(fastest(dist_util.dev()))
    logger.log(f"--dtype auto: {dtype}, since {why}")
    return dataclasses.replace(flags, dtype=dtype)


def fastest(device) -> tuple[str, str]:
    """("bf16" or "fp32", why) for networks on the device."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        has = "has" if major >= 8 else "has no"
        why = f"a GPU of compute capability {major}.{minor} {has} tensor cores for bf16"
        return ("bf16" if major >= 8 else "fp32"), why
    gain = _gain()
    return ("bf16" if gain >= GAIN else "fp32"), (
        f"on this processor a residual block of {WIDTH} channels takes {1 / gain:.2f} of fp32's "
        f"time in bf16 ({1 / GAIN:.2f} or less is wanted)"
    )


def _gain() -> float:
    """How many times as long as in bf16 a residual block takes in fp32, the median of some turns.

    On one thread and in its own time, so that whatever else the machine does changes nothing: a
    study's trainings should not differ in it. Takes half a second; generator and threads are left.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _gain_of_a_thread()
    finally:
        torch.set_num_threads(threads)


def _gain_of_a_thread() -> float:
    with torch.random.fork_rng(devices=[]):
        block = place(ResBlock(WIDTH, 4 * WIDTH, dropout=0.0))
        x = torch.randn(IMAGES, WIDTH, SIDE, SIDE).to(memory_format=torch.channels_last)
        emb = torch.randn(IMAGES, 4 * WIDTH)
    x.requires_grad_()

    def seconds(dtype):
        start = time.thread_time()
        with casting(dtype, x.device)():
            y = block(x, emb)
        torch.autograd.backward(y, torch.ones_like(y))
        return time.thread_time() - start

    turns = [{dtype: seconds(dtype) for dtype in ("fp32", "bf16")} for _ in range(1 + TURNS)]
    return statistics.median(turn["fp32"] / turn["bf16"] for turn in turns[1:])
