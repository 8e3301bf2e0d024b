"""Triton's kernels where there is no GPU: by its interpreter, in a process of its own.

In one process Triton either interprets or compiles, as was decided when it was imported.
"""

import atexit
import functools
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata

import torch


def _version() -> tuple[int, ...]:
    try:
        return tuple(map(int, metadata.version("triton").split(".")[:2]))
    except metadata.PackageNotFoundError:
        return (0,)


OLD = _version() < (3, 5)  # as that of torch 2.6, or none


def call(function: Callable, *args, **kwargs):
    """function(*args, **kwargs) in that process; it stands in flatdiff, or beside this module."""
    return _process().submit(function, *args, **kwargs).result()


def value_and_gradients(function: Callable, dy: torch.Tensor, **inputs) -> list[torch.Tensor]:
    """function(**inputs), and what it makes of dy: the gradient of each input."""
    leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    y = function(**leaves)
    return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), dy)]


@functools.cache
def _process() -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    process = ProcessPoolExecutor(1, spawn, _interpret)
    atexit.register(process.shutdown)
    return process


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
