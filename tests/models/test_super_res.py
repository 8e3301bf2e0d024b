"""What is no npz of small images is refused in a sentence with its path."""

import numpy as np
import pytest
import torch

from flatdiff.models import super_res
from flatdiff.models.super_res import BaseSamples

IMAGES = np.zeros((2, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4 half", {}, {"arr_0": IMAGES[:0]}, {"arr_0": IMAGES / 2}, None]
)
def test_base_samples_that_are_none(content, tmp_path):
    path = tmp_path / "base.npz"
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(ValueError, match="base.npz"):
        BaseSamples(str(path), 8)


def test_low_res_is_the_mean_over_areas():
    x = torch.arange(2 * 3 * 64.0).view(2, 3, 8, 8)
    assert torch.equal(super_res.shrink(x, 4), x.view(2, 3, 4, 2, 4, 2).mean((3, 5)))
