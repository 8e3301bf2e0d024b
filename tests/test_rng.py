"""Keys give generators: NumPy's own Mersenne Twister is the truth, and no two keys may meet."""

import ast
import collections
from pathlib import Path

import numpy as np
import pytest
import torch

import flatdiff
from flatdiff import rng
from flatdiff.rng import FIRST_WORD, SAMPLE, fill, generator, seed_all, seed_of

KEY = (3, SAMPLE, 17)


def words(*key):
    """What NumPy's generator says when it is filled with the words of the key."""
    state = np.random.SeedSequence((len(key), *key)).generate_state(624)
    state[0] = FIRST_WORD
    twister = np.random.RandomState()
    twister.set_state(("MT19937", state, 624))
    return twister.randint(0, 2**32, size=2000, dtype=np.uint32)


def test_a_cpu_generator_is_the_twister_of_the_whole_key():
    drawn = torch.empty(2000).random_(0, 2**24, generator=generator(*KEY))
    assert np.array_equal(drawn.numpy(), words(*KEY) % 2**24)


def test_keys_that_agree_in_32_bits_of_their_seeds_give_other_numbers():
    """manual_seed reads 32 bits: among 250,000 images some would be the same (a birthday)."""
    low = np.array([seed_of(0, SAMPLE, i) & 0xFFFFFFFF for i in range(250_000)])
    order = np.argsort(low, kind="stable")
    same = np.flatnonzero(np.diff(low[order]) == 0)
    assert len(same), "the test needs two images whose seeds share 32 bits"
    for k in same:
        a, b = (torch.randn(4, generator=generator(0, SAMPLE, int(i))) for i in order[k : k + 2])
        assert not torch.equal(a, b)


def test_a_used_generator_filled_again_is_a_new_one():
    used = torch.Generator()
    torch.randn(7, generator=used)  # leaves half a pair of normals in its state
    torch.randn(1, dtype=torch.float64, generator=used)
    assert torch.equal(
        torch.randn(33, generator=fill(used, *KEY)), torch.randn(33, generator=generator(*KEY))
    )


@pytest.mark.parametrize("key", [(1, 2, 0), (1, 2, 0, 0), (0, 1, 2), (2**64,), (2**64 + 1,)])
def test_trailing_zeros_and_long_seeds_are_keys_of_their_own(key):
    assert seed_of(*key) != seed_of(1, 2)
    assert not torch.equal(
        torch.randn(4, generator=generator(*key)), torch.randn(4, generator=generator(1, 2))
    )


def test_the_default_generator_is_filled_from_the_whole_key_too():
    seed_all(*KEY)
    assert torch.equal(torch.randn(5), torch.randn(5, generator=generator(*KEY)))


def test_normals_have_the_moments_of_normals():
    firsts = torch.stack([torch.randn(3, generator=generator(0, SAMPLE, i)) for i in range(20_000)])
    assert firsts.mean(dim=0).abs().max() < 4 / 20_000**0.5
    assert (firsts.var(dim=0) - 1).abs().max() < 4 * (2 / 20_000) ** 0.5


BEHIND = {"PROBE": ("ORDER", "JITTER", "MATCH", "NOISE"), "HESSIAN": ("START", "SIGNS", "SKETCH")}
OF_NUMPY = ("EPOCH", "CROP")


def test_no_two_streams_are_the_same():
    named = {k: v for k, v in vars(rng).items() if k.isupper() and type(v) is int}
    del named["FIRST_WORD"]
    for names in (*BEHIND.values(), OF_NUMPY):
        numbers = [named.pop(name) for name in names]
        assert len(set(numbers)) == len(numbers), names
    twice = [n for n, count in collections.Counter(named.values()).items() if count > 1]
    assert len(named) == 12 and not twice, {k: v for k, v in named.items() if v in twice}


def test_streams_come_from_the_table():
    """Whatever makes a generator names its stream, and has the name from here."""
    makers = {"generator", "of_numpy", "seed_all", "fill"}
    for path in Path(flatdiff.__file__).parent.rglob("*.py"):
        tree, found = ast.parse(path.read_text()), set()
        for node in ast.walk(tree):
            name = getattr(node, "func", None)
            if getattr(name, "id", getattr(name, "attr", "")) in makers:
                found |= {a.id for a in node.args if isinstance(a, ast.Name) and a.id.isupper()}
                assert not any(isinstance(a, ast.Constant) for a in node.args), path
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "rng"
            for alias in node.names
        }
        assert found <= imported, path
