"""The scale of fp16's losses grows, halves on an overflow, and gives up at last."""

import pytest

from flatdiff.train.train_util import LossScale


def test_loss_scale_halves_on_overflow_and_gives_up_at_last():
    scale = LossScale(growth=0.5, lg=2.0)
    assert scale.update(True) and scale.factor == 2**2.5
    assert not scale.update(False) and scale.lg == 1.5
    with pytest.raises(FloatingPointError, match="stay infinite"):
        for _ in range(30):
            scale.update(False)
