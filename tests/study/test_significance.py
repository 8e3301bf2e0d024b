"""Intervals, power, permutations and many claims at once: scipy, simulations, brute force."""

import itertools

import numpy as np
import pytest
from scipy import stats

from flatdiff.study import significance


def test_the_interval_and_p_are_those_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 0.2, 5), rng.normal(2, 0.2, 5)
    found, expected = significance.mean_of(list(x - y)), stats.ttest_rel(x, y)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)
    assert significance.half_width(x - y) == pytest.approx((interval.high - interval.low) / 2)
    assert significance.half_width([1.0]) is None


def test_differences_that_are_all_alike_need_no_scatter():
    assert significance.mean_of([2.0] * 3) == (2, 2, 2, 0, 0)
    assert significance.mean_of([0.0] * 3).p == 1


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_smallest_effect_is_found_in_four_of_five_studies(n):
    """By simulation: its own formula is scipy's noncentral t."""
    rng = np.random.default_rng(n)
    effect = significance.seen_in_errors(n) / np.sqrt(n)
    draws = rng.normal(effect, 1, (20_000, n))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / len(draws)))
    errors = significance.mean_of(list(draws[0]))
    assert errors.seen == pytest.approx(effect * np.sqrt(n) * stats.sem(draws[0]))


def shared(rng, kinds=5, seeds=3, averages=3, effect=0.0):
    """LPF and loss to rounding of a study [kinds, seeds, averages]: what kinds, seeds and trainings
    have in common. A kind loses what it loses by `effect`, and for reasons of its own."""
    x = rng.normal(size=(kinds, 1)) + 0.3 * rng.normal(size=(kinds, seeds))
    y = rng.normal(size=(kinds, 1)) + 0.3 * rng.normal(size=(kinds, seeds)) + effect * x
    x, y = (v + 0.3 * rng.normal(size=(1, seeds)) for v in (x, y))
    own = 0.2 * rng.normal(size=(2, kinds, seeds, averages))
    shift = rng.normal(size=(2, 1, 1, averages))  # of an average, in all trainings
    return x[..., None] + own[0] + shift[0], y[..., None] + own[1] + shift[1]


def within_seeds(rng, x, y):
    """The p of trainings that change places within their seed."""
    x, y = (v - v.mean((0, 1)) for v in (x, y))
    orders = [
        rng.permuted(np.arange(len(x))[:, None].repeat(x.shape[1], 1), axis=0) for _ in range(200)
    ]
    r = [(x * np.take_along_axis(y, o[..., None], 0)).sum() for o in orders]
    return 2 * min(np.mean(r <= (x * y).sum()), np.mean(r >= (x * y).sum()))


def test_without_an_effect_one_study_in_twenty_is_decided():
    """Where kinds lose for reasons of their own; permuting trainings would be taken in, and more
    seeds would make that worse. Of 5 kinds' 120 orders a p below 0.05 is 5 in 120 at most."""
    rng = np.random.default_rng(0)
    trials = [shared(rng, seeds=8) for _ in range(600)]
    decided = np.mean([significance.by_kind(*t).p < 0.05 for t in trials])
    naive = np.mean([within_seeds(rng, *t) < 0.05 for t in trials[:150]])
    assert 0.015 < decided < 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(trials))
    assert naive > 0.2


def test_an_effect_is_found():
    rng = np.random.default_rng(1)
    found = [significance.by_kind(*shared(rng, kinds=8, effect=3.0)) for _ in range(20)]
    assert np.mean([f.p < 0.05 for f in found]) > 0.8 and all(f.r > 0 for f in found)
    assert {f.kinds for f in found} == {8}


def test_the_permutations_are_those_of_brute_force():
    x, y = shared(np.random.default_rng(2), kinds=4, seeds=2)
    orders = itertools.permutations(range(4))
    r = np.array([stats.pearsonr(x.ravel(), y[list(o)].ravel()).statistic for o in orders])
    own = stats.pearsonr(x.ravel(), y.ravel()).statistic
    p = min(1, 2 * min((r <= own + 1e-9).mean(), (r >= own - 1e-9).mean()))
    found = significance.by_kind(x, y)
    assert (found.r, found.p, found.least) == pytest.approx((own, p, 2 / 24))


def test_many_orders_are_drawn_at_random_and_agree_with_all(monkeypatch):
    trials = [shared(np.random.default_rng(i), kinds=6, effect=0.5) for i in range(3)]
    exact = [significance.by_kind(*trial).p for trial in trials]
    monkeypatch.setattr(significance, "MOST", 700)  # of 720
    drawn = [significance.by_kind(*trial).p for trial in trials]
    assert drawn == pytest.approx(exact, abs=0.1) and drawn != exact
    assert drawn == [significance.by_kind(*trial).p for trial in trials]


def test_correlation_is_pearsons():
    x, y = np.random.default_rng(3).normal(size=(2, 12))
    assert significance.correlation(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert significance.correlation(x[:3], y[:3]) is None
    assert significance.correlation(x, np.ones(12)) is None


def test_holms_correction():
    # Holm 1979 by hand: 0.01 x 4, 0.02 x 3, 0.03 x 2, and 0.04 no lower than those before it
    assert significance.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert significance.holm([0.6, 0.9]) == [1.0, 1.0] and significance.holm([]) == []


def test_holm_keeps_a_family_without_effects_undecided():
    p = np.random.default_rng(4).uniform(size=(2000, 25))
    decided = np.mean([min(significance.holm(family)) < 0.05 for family in p])
    assert decided == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 2000))
    assert np.mean(p.min(axis=1) < 0.05) > 0.65
