"""The rank correlation of two effects: against SciPy, in closed forms, and that intervals cover."""

import numpy as np
import pytest
from scipy import stats

from flatdiff.measure import association
from flatdiff.measure.association import Effect, correlation

KINDS = [f"kind {i % 6}" for i in range(30)]


def effect(values, errors, parts=40, seed=0):
    """Deviations with these errors; half of each variance is shared by all moves."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(1, parts)) + rng.normal(size=(len(values), parts))
    rows *= errors / np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return Effect(np.asarray(values, float), rows)


def test_it_is_spearmans_and_pearsons_of_scipy():
    rng = np.random.default_rng(1)
    x = np.exp(rng.normal(size=30))
    y = np.round(x * np.exp(0.5 * rng.normal(size=30)), 1) - 0.1  # ties, and some below 0
    found = correlation(effect(x, 1e-3), effect(y, 1e-3), KINDS)
    assert found["spearman"] == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
    up = (x > 0) & (y > 0)
    assert found["pearson"] == pytest.approx(stats.pearsonr(np.log(x[up]), np.log(y[up]))[0])
    assert (found["moves"], found["kinds"], found["positive"]) == (30, 6, up.sum())
    assert found["low"] <= found["spearman"] <= found["high"]


def test_errors_and_draws_have_the_covariance_of_the_deviations():
    known = effect([1.0, 2.0, 3.0], 0.5)
    np.testing.assert_allclose(known.errors, 0.5)
    drawn = known.drawn(np.random.default_rng(0), 40000)
    np.testing.assert_allclose(drawn.mean(axis=0), known.values, atol=0.01)
    np.testing.assert_allclose(np.cov(drawn.T), known.deviations @ known.deviations.T, atol=0.01)


def test_without_errors_the_interval_is_a_point_and_that_of_kinds_is_not():
    x = np.arange(30.0)
    y = np.random.default_rng(3).permutation(x) + x
    found = correlation(effect(x, 0.0), effect(y, 0.0), KINDS)
    assert found["low"] == pytest.approx(found["spearman"]) == found["high"]
    assert found["low_kinds"] < found["spearman"] < found["high_kinds"]


def test_the_interval_covers():
    """Effects whose true ranks are known, seen with errors: 88 to 99 % of 150 intervals."""
    rng, hits = np.random.default_rng(5), []
    x = np.geomspace(0.01, 3, 30)
    y = x * np.exp(1.0 * rng.normal(size=30))
    true = stats.spearmanr(x, y)[0]
    for seed in range(150):
        seen = []
        for values, errors in ((x, 0.03 * x[:, None] ** 0.5), (y, 0.1 * y[:, None] ** 0.5)):
            deviations = effect(values, errors, seed=seed).deviations
            noise = deviations @ rng.normal(size=deviations.shape[1])
            seen.append(Effect(values + noise, deviations))
        found = correlation(*seen, ["a"] * 30, seed)
        hits.append(found["low"] <= true <= found["high"])
    assert 0.88 <= np.mean(hits) <= 0.99


@pytest.mark.parametrize(("count", "kinds"), [(2, 2), (5, 2)])
def test_what_is_too_few_has_none(count, kinds):
    names = [f"kind {i % kinds}" for i in range(count)]
    x = effect(np.arange(1.0, count + 1), 0.1)
    found = correlation(x, x, names)
    assert (found["spearman"] is None) == (count < 3)
    assert found.get("low_kinds") is None


def test_equal_effects_have_no_ranks():
    assert np.isnan(association.spearman(np.ones(4), np.arange(4.0)))
