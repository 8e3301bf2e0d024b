"""Freed memory is kept: the system is asked for the pages of a tensor once, not at every step."""

import sys

import pytest
import torch
from launch import run

from flatdiff.world import allocator

STEPS = """
import resource, sys, torch
from flatdiff.world import allocator
if sys.argv[1] == "keep":
    assert allocator.keep_freed_memory()
for _ in range(20):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how):
    done = run([sys.executable, "-c", STEPS, how], MALLOC_ARENA_MAX="1")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_pages_are_asked_for_once():
    start = faults("keep")
    assert faults("by default") - start > 20 * 10_000_000 * 4 / 4096 / 2


def test_the_peak_grows_by_what_is_written_and_does_not_fall():
    device, size = torch.device("cpu"), 256 << 20
    torch.ones(size, dtype=torch.uint8)
    before = allocator.peak(device)
    block = torch.ones(2 * size, dtype=torch.uint8)
    there = allocator.peak(device)
    del block
    assert there >= before + 0.9 * size and allocator.peak(device) >= there - 2**20
