"""A test for copies: a sampler that copies is caught, a fair one is not."""

import numpy as np
import pytest
import scipy.stats
import torch

from flatdiff.judge.memorization import copying, memorization, nearest

RNG = np.random.default_rng(3)
CENTRES = 4 * RNG.standard_normal((3, 6))


def draw(number, rng=RNG):
    """Points of three clusters in six dimensions."""
    return torch.from_numpy(
        CENTRES[rng.integers(3, size=number)] + rng.standard_normal((number, 6))
    )


def test_a_copying_sampler_is_caught_and_a_fair_one_is_not():
    train, held_out, fair = draw(500), draw(300), draw(400)
    copies = train[torch.from_numpy(RNG.integers(500, size=400))]
    copied = memorization(train, held_out, copies + 0.1 * torch.randn(400, 6).double())
    assert copied["share"] > 0.95 and copied["C_T"] < -10
    told = memorization(train, held_out, fair)
    assert abs(told["share"] - 0.5) < 3 * told["error"] and abs(told["C_T"]) < 3
    half = memorization(train, held_out, torch.cat([copies[:200], fair[:200]]))
    assert half["share"] == pytest.approx(0.75, abs=0.06) and half["C_T"] < -3
    far = memorization(train, held_out, fair + 3)
    assert far["share"] < 0.2 and far["C_T"] > 3


def test_the_share_is_mann_and_whitneys_and_ties_count_half():
    train = torch.zeros(20, 1).double()
    held_out, samples = torch.arange(20.0)[:, None].double(), torch.arange(40.0)[:, None].double()
    found = memorization(train, held_out, samples)
    u = scipy.stats.mannwhitneyu(np.arange(20), np.arange(40)).statistic
    assert found["share"] == pytest.approx(u / 800)


def test_the_error_is_the_scatter_over_samples_and_held_out_images():
    rng = np.random.default_rng(8)
    train = draw(300, rng)
    found = [memorization(train, draw(60, rng), draw(90, rng)) for _ in range(40)]
    shares, errors, statistics = (
        np.array([f[k] for f in found]) for k in ("share", "error", "C_T")
    )
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(shares.std(ddof=1), rel=0.3)
    covered = np.abs(shares - shares.mean()) < 1.96 * errors
    assert covered.mean() > 0.85
    assert statistics.std(ddof=1) == pytest.approx(1, rel=0.3)  # of one cell


def test_the_nearest_is_found_in_any_block(monkeypatch):
    x, train = draw(50), draw(70)
    expected = torch.cdist(x, train).amin(1)
    monkeypatch.setattr("flatdiff.judge.memorization.BLOCK", 16)
    assert torch.allclose(nearest(x, train), expected, atol=1e-7)


def test_cells_with_few_points_do_not_count():
    near, far = np.arange(60.0), np.arange(60.0) + 0.5
    cells = np.repeat([0, 1], [40, 20])
    alone = copying(near[:40], far[:40], cells[:40], cells[:40])
    assert copying(near, far, cells, np.where(cells, 2, 0)) == pytest.approx(alone)
    assert np.isnan(copying(near[:5], far[:5], cells[:5], cells[:5]))


def test_too_few_images_and_other_widths_are_refused():
    with pytest.raises(ValueError, match="19 held-out images; a test for copies needs 20 or more"):
        memorization(draw(30), draw(19), draw(30))
    with pytest.raises(ValueError, match="measure both by the same network"):
        memorization(draw(30), draw(30)[:, :2], draw(30))
