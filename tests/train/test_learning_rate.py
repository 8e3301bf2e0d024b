"""Rates of steps by hand: guided-diffusion's ramp, and the cycles of SWA."""

import pytest

from flatdiff.train.train_util import learning_rate


def test_learning_rates():
    ramp = [learning_rate(s, lr=1.0, anneal_steps=4) for s in range(5)]
    assert ramp == [1.0, 1.0, 0.75, 0.5, 0.25]  # guided-diffusion sets the rate after the step
    cycle = dict(lr=1.0, anneal_steps=1, window=4, start=2, lr_min=0.2)
    rates = [learning_rate(s, **cycle) for s in range(2, 11)]
    assert rates == pytest.approx([0.8, 0.6, 0.4, 0.2] * 2 + [0.8])
    assert learning_rate(1, **cycle) == 1.0
    assert learning_rate(10**6, lr=0.5) == 0.5
    assert learning_rate(9, lr=0.5, window=4, start=0) == 0.5  # no cycle without anneal_steps
