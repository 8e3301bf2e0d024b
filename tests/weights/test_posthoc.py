"""Profiles against integration and a Beta's deviation; averages made afterwards against those made
along the way."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from flatdiff.weights import posthoc
from flatdiff.weights.averaging import EMA, Power

WIDTHS = [0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.28]
STEPS, EVERY = 600, 20


@pytest.mark.parametrize("sigma_rel", [0.001, *WIDTHS, 0.2886])
def test_the_width_is_the_deviation_of_a_beta(sigma_rel):
    gamma = posthoc.gamma_of(sigma_rel)
    assert stats.beta(gamma + 1, 1).std() == pytest.approx(sigma_rel, rel=1e-9)
    assert posthoc.sigma_rel_of(gamma) == pytest.approx(sigma_rel, rel=1e-9)
    assert posthoc.sigma_rel_of(0) == pytest.approx(posthoc.WIDEST) == stats.uniform.std()


@pytest.mark.parametrize("sigma_rel", [0, -0.1, 0.2887, 1, float("nan")])
def test_a_width_out_of_range(sigma_rel):
    with pytest.raises(ValueError, match=r"above 0 and below 0\.2887"):
        posthoc.gamma_of(sigma_rel)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.2])
def test_a_profile_is_the_integral_of_its_density(sigma_rel):
    n, gamma = 70, posthoc.gamma_of(sigma_rel)
    profile = posthoc.power(sigma_rel, n)
    for t in (10, 50, 69.5):
        share = integrate.quad(lambda u: (gamma + 1) * u**gamma / n ** (gamma + 1), 0, t)[0]
        assert profile(t) == pytest.approx(share, rel=1e-6)
    assert profile(np.array([70, 90])).tolist() == [1, 1]
    assert posthoc.width(profile, n) == pytest.approx(sigma_rel, rel=1e-4)


def test_the_width_of_an_ema_is_its_time_constant():
    """Of a long training: 1 / -log(rate) updates, those of an exponential density."""
    wide = posthoc.width(posthoc.exponential(0.99, 3000), 3000)
    assert wide == pytest.approx(-1 / np.log(0.99) / 3000, rel=1e-3)


def test_the_residual_is_what_a_random_walk_misses():
    """Its root mean square over many walks, as a share of the average's from their ends."""
    n, rng = 200, np.random.default_rng(0)
    known = [(posthoc.power(s, t), t) for t in (50, 100, 150, 200) for s in posthoc.TRACKS]
    wanted, t = posthoc.power(0.02, n), np.arange(n + 1)
    found = posthoc.fit(known, wanted, n)
    assert found.shares.sum() == pytest.approx(1)
    walks = rng.standard_normal((n + 1, 4000)).cumsum(0)
    made = sum(x * np.diff(p(t), prepend=0) for x, (p, _) in zip(found.shares, known)) @ walks
    right = np.diff(wanted(t), prepend=0) @ walks
    missed = np.linalg.norm(made - right) / np.linalg.norm(right - walks[-1])
    assert found.residual == pytest.approx(missed, rel=0.15)


def test_a_known_average_is_found_alone():
    known = [(posthoc.power(s, t), t) for t in (50, 100) for s in posthoc.TRACKS]
    found = posthoc.fit(known, posthoc.power(0.1, 100), 100)
    assert found.shares == pytest.approx([0, 0, 0, 1], abs=1e-9) and found.residual < 1e-9


@pytest.fixture(scope="module")
def walked():
    """Averages along a random walk: the online ones, and snapshots of two tracks."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(3000, generator=g)
    online = {f"power {s}": Power([w], s) for s in WIDTHS}
    online |= {f"ema {rate}": EMA([w], rate) for rate in (0.9, 0.97, 0.98, 0.99)}
    tracks, snapshots = [Power([w], s) for s in posthoc.TRACKS], []
    for step in range(1, STEPS + 1):
        w += 0.01 * torch.randn(3000, generator=g)
        for average in [*online.values(), *tracks]:
            average.update([w])
        if step % EVERY == 0:
            snapshots += [(t.sigma_rel, step, t.weights[0].clone()) for t in tracks]
    return {name: average.weights[0] for name, average in online.items()}, snapshots


@pytest.mark.parametrize(
    "name", [*(f"power {s}" for s in WIDTHS), "ema 0.9", "ema 0.97", "ema 0.98", "ema 0.99"]
)
def test_any_length_is_that_of_the_online_average(walked, name):
    """Within 1e-3, relative l2; exponential ones have forgotten the first weights."""
    online, snapshots = walked
    kind, length = name.split()
    profile = {"power": posthoc.power, "ema": posthoc.exponential}[kind](float(length), STEPS)
    known = [(posthoc.power(sigma_rel, step), step) for sigma_rel, step, _ in snapshots]
    found = posthoc.fit(known, profile, STEPS)
    parts = ((x, {"w": w}) for x, (_, _, w) in zip(found.shares, snapshots))
    made, right = posthoc.combined(parts)["w"], online[name].double()
    assert float((made - right).norm() / right.norm()) < 1e-3
