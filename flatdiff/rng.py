"""Randomness as a function: a generator is made from a key of integers, never kept.

A training draw's key is (seed, stream, step), an image's (seed, stream, image index); so a resumed
run repeats itself, and no result depends on batch sizes or on the number of ranks.
"""

import numpy as np
import torch

TRAIN, DROPOUT, SAMPLE, LABEL = range(4)  # streams: keys that differ here never meet


def seed_of(*key: int) -> int:
    """A 63-bit seed, well mixed from non-negative integers (NumPy's SeedSequence)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def generator(*key: int, device="cpu") -> torch.Generator:
    """A new generator on `device`, seeded by the key."""
    return torch.Generator(device).manual_seed(seed_of(*key))
