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


def shared(rng, kinds=3, seeds=3, averages=3, effect=0.0):
    """LPF and loss to rounding of a study: what kinds, seeds and trainings have in common."""
    kind = np.repeat(rng.normal(size=kinds), seeds)
    seed = np.tile(np.arange(seeds), kinds)
    x = kind + rng.normal(size=seeds)[seed] + 0.3 * rng.normal(size=kinds * seeds)
    y = rng.normal(size=kinds * seeds) + rng.normal(size=seeds)[seed] + effect * x
    own = 0.2 * rng.normal(size=(2, len(x), averages))
    shift = rng.normal(size=(2, 1, averages))  # of an average, in all trainings
    return x[:, None] + own[0] + shift[0], y[:, None] + own[1] + shift[1], seed


def test_without_an_effect_one_study_in_twenty_is_decided():
    """Where models share trainings and seeds; as many independent models would be taken in."""
    rng = np.random.default_rng(0)
    trials = [shared(rng) for _ in range(600)]
    decided = np.mean([significance.by_training(*t).p < 0.05 for t in trials])
    naive = np.mean([stats.pearsonr(t[0].ravel(), t[1].ravel()).pvalue < 0.05 for t in trials])
    assert 0.02 < decided < 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(trials))
    assert naive > 0.2


def test_an_effect_is_found():
    rng = np.random.default_rng(1)
    found = [significance.by_training(*shared(rng, kinds=5, effect=3.0)) for _ in range(20)]
    assert np.mean([f.p < 0.05 for f in found]) > 0.8 and all(f.r > 0 for f in found)
    assert {f.trainings for f in found} == {15}


def test_the_permutations_are_those_of_brute_force():
    x, y, seed = shared(np.random.default_rng(2), kinds=3, seeds=2)
    blocks = [np.flatnonzero(seed == s) for s in (0, 1)]
    r = []
    for orders in itertools.product(*(itertools.permutations(block) for block in blocks)):
        order = np.empty(len(x), int)
        for block, new in zip(blocks, orders):
            order[block] = new
        r.append(stats.pearsonr(x.ravel(), y[order].ravel()).statistic)
    found = significance.by_training(x, y, seed)
    own = stats.pearsonr(x.ravel(), y.ravel()).statistic
    r = np.array(r)
    p = min(1, 2 * min((r <= own + 1e-9).mean(), (r >= own - 1e-9).mean()))
    assert (found.r, found.p, found.least) == pytest.approx((own, p, 2 / 36))


def test_many_orders_are_drawn_at_random_and_agree_with_all(monkeypatch):
    trials = [shared(np.random.default_rng(i), kinds=4, seeds=2, effect=0.5) for i in range(3)]
    exact = [significance.by_training(*trial).p for trial in trials]
    monkeypatch.setattr(significance, "MOST", 500)  # of 576
    drawn = [significance.by_training(*trial).p for trial in trials]
    assert drawn == pytest.approx(exact, abs=0.1) and drawn != exact
    assert drawn == [significance.by_training(*trial).p for trial in trials]


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
