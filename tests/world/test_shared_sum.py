"""Sums through shared memory, by threads that play the ranks: values, bits, growth, no memory."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from flatdiff.world import shared_sum
from flatdiff.world.shared_sum import SharedSum


class Ranks:
    """Threads that meet: `run(f)` is f(SharedSum, rank) on each of them, in their order."""

    def __init__(self, count):
        self.count, self.meeting, self.box = count, threading.Barrier(count), [None] * count
        self.sums = [
            SharedSum(rank, count, self.meeting.wait, lambda x, rank=rank: self.gather(x, rank))
            for rank in range(count)
        ]

    def gather(self, thing, rank):
        self.box[rank] = thing
        self.meeting.wait()
        things = list(self.box)
        self.meeting.wait()
        return things

    def run(self, function):
        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(function, self.sums, range(self.count)))


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """A folder in place of /dev/shm, which must be empty at the end."""
    monkeypatch.setattr(shared_sum, "MEMORY", tmp_path)
    yield tmp_path
    assert not list(tmp_path.iterdir())


def tensors(rank, shapes=((3, 5), (1000,), (7,), (2, 600)), dtype=torch.float32):
    draw = torch.Generator().manual_seed(rank)
    return [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_rank_gets_the_sum(memory, count, dtype):
    def work(shared, rank):
        mine = tensors(rank, dtype=dtype)
        assert all(shared(t) for t in mine)
        return mine

    results = Ranks(count).run(work)
    for i, parts in enumerate(zip(*(tensors(rank, dtype=dtype) for rank in range(count)))):
        exact = torch.stack(parts).double().sum(0)
        for result in results:
            torch.testing.assert_close(result[i].double(), exact, rtol=1e-6, atol=1e-6)
            assert torch.equal(result[i], results[0][i])


def test_nobody_overtakes_a_slow_rank(memory):
    """Ranks of different speed, many times over: the sums stay those of one turn."""

    def work(shared, rank):
        sums = []
        for turn in range(50):
            if turn % 3 == rank:
                threading.Event().wait(0.002)
            t = torch.full((300,), float(turn * 10**rank))
            shared(t)
            sums.append(t)
        return sums

    for sums in Ranks(3).run(work):
        assert all((s == 111 * turn).all() for turn, s in enumerate(sums))


def test_without_memory_all_ranks_say_so(memory, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    def work(shared, rank):
        mine = tensors(rank)
        return [shared(t) for t in mine], mine

    for rank, (done, mine) in enumerate(Ranks(2).run(work)):
        assert done == [False] * 4
        assert all(torch.equal(a, b) for a, b in zip(mine, tensors(rank)))


def test_a_rank_that_does_not_see_the_file_holds_all_back(memory, monkeypatch):
    from_file, calls = torch.from_file, []

    def sometimes(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("unable to open file")
        return from_file(*args, **kwargs)

    monkeypatch.setattr(torch, "from_file", sometimes)
    results = Ranks(2).run(lambda shared, rank: shared(torch.ones(10)))
    assert results == [False, False]


def test_for_whom_it_is():
    assert shared_sum.suits(2, True) == shared_sum.MEMORY.is_dir()
    assert not shared_sum.suits(1, True) and not shared_sum.suits(5, True)
    assert not shared_sum.suits(2, False)


@pytest.mark.parametrize("shared", [True, False])
def test_without_shared_memory_gradients_are_averaged_all_the_same(shared):
    """Two ranks of equal gradients, whose sum is twice each; the sum is taken once."""
    gradients = torch.tensor([3.0, -4.0])
    bucket = SimpleNamespace(buffer=lambda: gradients)
    hook = shared_sum.mean_of_buckets(2, lambda tensor: tensor.mul_(2))
    done = hook(lambda tensor: shared and bool(tensor.mul_(2).any()), bucket)
    assert done.wait().tolist() == gradients.tolist() == [3, -4]
