"""A folder of small PNG files, so that reading them can be timed."""

import os

import numpy as np
from PIL import Image

COUNT, SIZE = 20_000, 32


def write(parent: str) -> tuple[str, int]:
    """(the folder, the sum of all pixels). Smooth images, which compress as photographs do."""
    folder, checksum = os.path.join(parent, "pngs"), 0
    os.makedirs(folder)
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        image = small.resize((SIZE, SIZE), Image.BICUBIC)
        image.save(os.path.join(folder, f"{i:05d}.png"))
        checksum += int(np.asarray(image).sum(dtype=np.int64))
    return folder, checksum
