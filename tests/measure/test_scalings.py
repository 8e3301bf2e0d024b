"""The scaling that two criteria find: lines and parabolas in closed form, and its error."""

import numpy as np
import pytest

from flatdiff.judge import jackknife
from flatdiff.measure.scalings import agreement, least, zero

SCAN = np.array([0.96, 0.98, 1.0, 1.02, 1.04])


def test_a_line_and_a_parabola_are_found_exactly():
    assert zero(SCAN, 3 * (SCAN - 1.013)) == pytest.approx(1.013)
    assert zero(SCAN, -3 * (SCAN - 0.95)) == pytest.approx(0.95)
    assert least(SCAN, 40 * (SCAN - 1.013) ** 2 + 0.5) == pytest.approx(1.013)
    assert zero(SCAN, (SCAN - 0.99) * (SCAN - 2)) == pytest.approx(0.99)
    assert zero(SCAN, -((SCAN - 1.02) ** 2) - 0.01) == pytest.approx(1.02)  # nearest to 0
    for nowhere in (zero(SCAN, SCAN + 5), least(SCAN, -((SCAN - 1) ** 2)), zero(SCAN, 0 * SCAN)):
        assert np.isnan(nowhere)


def without_each(x):
    """Means of all rows, and without each group."""
    groups = [g.numpy() for g in jackknife.groups(len(x))]
    return np.stack([x.mean(0), *(np.delete(x, g, axis=0).mean(0) for g in groups)])


def found(rng, apart):
    """Of 100 images whose gap and distance scatter about criteria that differ by `apart`."""
    shared = rng.standard_normal((100, 1))
    gaps = 3 * (SCAN - 0.99) + 0.2 * shared
    distances = 40 * (SCAN - 0.99 - apart) ** 2 + (SCAN - 1) * rng.standard_normal((100, 1))
    return agreement(SCAN, without_each(gaps), without_each(distances))


@pytest.mark.parametrize(("apart", "share"), [(0.0, 0.05), (0.03, 1.0)])
def test_intervals_cover_and_disagreement_is_seen(apart, share):
    rng = np.random.default_rng(2)
    many = [found(rng, apart) for _ in range(200)]
    for name, truth in (("norm", 0.99), ("distance", 0.99 + apart), ("difference", apart)):
        covered = np.mean([f[name]["low"] <= truth <= f[name]["high"] for f in many])
        assert covered == pytest.approx(0.95, abs=0.04), name
    assert np.mean([f["verdict"] == "they differ" for f in many]) == pytest.approx(share, abs=0.04)


def test_a_distance_without_groups_decides_nothing():
    """Of fewer than 20 images, the distance has no error, nor has its difference from the norm."""
    gaps = without_each(3 * (SCAN - 0.99) + 0.001 * np.arange(15)[:, None])
    told = agreement(SCAN, gaps, 40 * (SCAN[None] - 1.05) ** 2)
    assert told["norm"]["error"] > 0 and told["distance"]["error"] is None
    assert told["difference"]["value"] == pytest.approx(1.05 - told["norm"]["value"])
    assert [told["difference"][k] for k in ("error", "low", "high", "seen")] == [None] * 4
    assert told["verdict"] == "undecided"


def test_without_a_least_nothing_is_decided():
    flat = np.ones((11, 5))
    told = agreement(SCAN, np.tile(3 * (SCAN - 1), (11, 1)), flat - SCAN**2)
    assert told["distance"]["value"] is None and told["verdict"] == "undecided"
    assert told["norm"]["value"] == pytest.approx(1)
