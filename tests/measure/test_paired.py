"""Differences, paired or not, and their intervals."""

import math
from types import SimpleNamespace

import pytest
import torch

from flatdiff.chain.probe import Plan
from flatdiff.measure import paired
from flatdiff.measure.subject import Axis, alike


def test_an_interval_is_students_over_draws_and_a_normal_over_examples():
    draws = paired.interval(1.0, 0.1, 10, 0.0)  # t of 9 degrees of freedom: 2.262157
    assert draws["high"] - 1 == pytest.approx(0.2262157) and draws["error"] == 0.1
    examples = paired.interval(1.0, 0.0, 10, 0.3)
    assert 1 - examples["low"] == pytest.approx(0.3 * 1.959964) and examples["error"] == 0.3
    both = paired.interval(1.0, 0.1, 10, 0.3)
    assert both["high"] - 1 == pytest.approx(math.hypot(0.2262157, 0.5879892))
    assert math.isnan(paired.interval(1.0, 0.1, 10, math.nan)["low"])


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of 2,000 differences of 0 with both errors, 95 % (known to 0.5 %) are in their intervals."""
    generator, inside = torch.Generator().manual_seed(0), 0
    for _ in range(2000):
        draws = torch.randn(10, generator=generator).double()
        shift = 0.3 * float(torch.randn(1, generator=generator))
        error = float(draws.std() / 10**0.5)
        row = paired.interval(float(draws.mean()) + shift, error, 10, 0.3)
        inside += row["low"] < 0 < row["high"]
    assert 0.935 < inside / 2000 < 0.97


def test_pairs_have_the_error_of_their_differences():
    ours, theirs = torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 2, 6])
    difference, error, count = paired.over_draws(ours, theirs, True)
    assert (difference, count) == (-1, 3) and error == pytest.approx(1)
    _, apart, _ = paired.over_draws(ours, theirs, False)
    assert apart == pytest.approx(math.hypot(1, math.sqrt(7)) / math.sqrt(3))
    assert paired.over_draws(ours, torch.ones(5), True)[1:] == (pytest.approx(3**-0.5), 3)


def subject(weight=1.0, drawn="a"):
    axis = alike(4)
    plan = Plan(axis.plan.t, axis.plan.weight * weight, axis.plan.stratum, axis.plan.image)

    def errors_of(values, terms):
        return torch.tensor([Axis(plan, axis.parts).of("errors", v) for v in values])

    return SimpleNamespace(axes={"mse": Axis(plan, axis.parts)}, drawn=drawn, errors_of=errors_of)


def test_only_what_was_drawn_alike_is_paired_in_examples():
    ours, theirs = torch.tensor([[1.0, 2, 3, 4], [1.5, 2.5, 3.5, 4.5]]).double()
    assert paired.over_examples(subject(), subject(), ours, theirs, "mse") == 0
    apart = math.hypot(*[math.sqrt(5 / 3 / 4)] * 2)
    for other in (subject(drawn="b"), subject(weight=2.0), subject(drawn="")):
        assert paired.over_examples(subject(), other, ours, theirs, "mse") == pytest.approx(apart)
    nothing = subject(drawn="")
    assert not paired.alike(nothing, nothing, "mse")


def test_the_error_of_the_image_is_compared_over_one_range_alone():
    def over(told):
        axis = Axis(None, {"all": (told, torch.ones(1).bool())})
        return SimpleNamespace(axes={"x_mse": axis, "mse": axis})

    whole, less = over("log-SNR -8..8"), over("log-SNR 1..8")
    assert paired.same_range(whole, over("log-SNR -8..8"), "x_mse")
    assert not paired.same_range(whole, less, "x_mse") and paired.same_range(whole, less, "mse")
