"""Randomness as a function: a generator is made from a key of integers, never kept.

A training draw's key is (seed, stream, step), an image's (seed, stream, image index); so a resumed
run repeats itself, and no result depends on batch sizes or on the number of ranks.
"""

import numpy as np
import torch

TRAIN, DROPOUT, SAMPLE, LABEL = range(4)  # streams: keys that differ here never meet

WORDS = slice(3, 3 + 624)  # where the state of a CPU generator (uint64) holds its Mersenne Twister
FIRST_WORD = 1 << 31  # as in init_by_array of Matsumoto and Nishimura: never a state of zeros


def seed_of(*key: int) -> int:
    """A 63-bit seed, well mixed from non-negative integers (NumPy's SeedSequence)."""
    return int(_mixed(key).generate_state(1, np.uint64)[0] >> 1)


def generator(*key: int, device="cpu") -> torch.Generator:
    """A new generator on `device`, seeded by the key."""
    return fill(torch.Generator(device), *key)


def seed_all(*key: int) -> None:
    """Seed every device's default generator, which dropout uses, and new layers."""
    torch.manual_seed(seed_of(*key))
    fill(torch.default_generator, *key)


def fill(generator: torch.Generator, *key: int) -> torch.Generator:
    """Seed a generator by the key; returns it.

    On a CPU, `manual_seed` uses 32 bits of a seed, so that two in 100,000 images are often the
    same one; there the whole state of the Mersenne Twister is filled from the key.
    """
    generator.manual_seed(seed_of(*key))
    if generator.device.type == "cpu":
        state = generator.get_state()
        words = state.numpy().view(np.uint64)[WORDS]
        words[:] = _mixed(key).generate_state(WORDS.stop - WORDS.start)
        words[0] = FIRST_WORD
        generator.set_state(state)
    return generator


def _mixed(key: tuple[int, ...]) -> np.random.SeedSequence:
    """Of the key and its length, since NumPy takes (1, 2) and (1, 2, 0) for the same."""
    return np.random.SeedSequence((len(key), *key))
