"""Randomness as a function: a generator is made from a key of integers, never kept.

A training draw's key is (seed, stream, step), an image's (seed, stream, image index); so a resumed
run repeats itself, and no result depends on batch sizes or on the number of ranks.
"""

import numpy as np
import torch

# The streams: what a key is for. Keys (seed, stream, ...) that differ in it never meet
TRAIN, DROPOUT, SAMPLE, LABEL = range(4)  # a step's draw and masks; an image's noise and class
PERTURB = 1000  # weight noise
PROBE = 2000  # images that losses are measured on; behind it
ORDER, JITTER, MATCH, NOISE = range(4)  # which they are, their timesteps in two parts, their noise
HESSIAN = 3000  # behind it
START, SIGNS, SKETCH = range(3)  # first vectors of Lanczos, probes of the trace, its sketches
INT8 = 5000  # what integer arithmetic is tried on
VALIDATE = 6000  # a classifier's draws on images that it does not learn
BOUND = 7000  # which images have their bits per dimension measured
CLIMB = 8000  # a step's random climb
CALIBRATE = 9000  # images by whose activations rounding is calibrated
# and those of NumPy's generators, whose keys NumPy mixes otherwise
EPOCH, CROP = range(2)  # an epoch's order and mirroring; the crop of an image

WORDS = slice(3, 3 + 624)  # where the state of a CPU generator (uint64) holds its Mersenne Twister
FIRST_WORD = 1 << 31  # as in init_by_array of Matsumoto and Nishimura: never a state of zeros


def seed_of(*key: int) -> int:
    """A 63-bit seed, well mixed from non-negative integers (NumPy's SeedSequence)."""
    return int(_mixed(key).generate_state(1, np.uint64)[0] >> 1)


def generator(*key: int, device="cpu") -> torch.Generator:
    """A new generator on `device`, seeded by the key."""
    return fill(torch.Generator(device), *key)


def of_numpy(*key: int) -> np.random.Generator:
    """NumPy's new generator of the key."""
    return np.random.default_rng(key)


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
    """A hash of the key and its length, since NumPy takes (1, 2) and (1, 2, 0) for the same."""
    return np.random.SeedSequence((len(key), *key))
