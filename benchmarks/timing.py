"""Clocks: contenders take turns, so that whatever else the machine does meets all of them alike.

Ratios are taken turn by turn; a median and its quartiles say more than a mean on a shared machine.
"""

import statistics
import time
from collections.abc import Callable, Iterable

import torch

Calls = dict[str, Callable[[], float]]  # each returns the seconds that its work took


def interleave(calls: Calls, repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each call, turn by turn: A B C A B C ...; the first `warmup` turns are dropped."""
    seconds = {name: [] for name in calls}
    for turn in range(warmup + repeats):
        for name, call in calls.items():
            taken = call()
            if turn >= warmup:
                seconds[name].append(taken)
    return seconds


def ratios(over: list[float], under: list[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """(lower quartile, median, upper quartile)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peaks(device: str, dtypes: Iterable[str]) -> dict[str, float]:
    """FLOP/s of the machine in each dtype: the best of some large matrix products.

    float32 on CUDA is tf32 here, which convolutions take by default.
    """
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # in this process, which trains nothing
    return {dtype: _peak(device, getattr(torch, dtype)) for dtype in dtypes}


def _peak(device, dtype):
    size = 8192 if device == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(12):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, a)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
