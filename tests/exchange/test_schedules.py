"""Schedules of noise against draws of training itself, and closed forms."""

import math

import numpy as np
import pytest
import torch

from flatdiff.exchange.schedules import Chain, Curve, Flow, LogNormal

CUMPROD = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def azulas(t):
    """VPSchedule of azula, alpha_min and sigma_min 1e-3."""
    alpha = torch.exp(t**2 * math.log(1e-3))
    return alpha, torch.sqrt(1 - alpha**2 + 1e-6)


def of(alpha, sigma):
    return np.log(alpha**2 / sigma**2)


def flows(shift):
    def draw(rng, n):
        u = rng.random(n)
        s = shift * u / (1 + (shift - 1) * u)
        return of(1 - s, s)

    return draw


DRAWN = {  # a schedule, and log-SNRs as a training loop draws them
    "chain": (Chain(CUMPROD), lambda rng, n: of(*_chain(rng.integers(1000, size=n)))),
    "flow": (Flow(), flows(1)),
    "shifted": (Flow(3.0), flows(3)),
    "edm": (LogNormal(), lambda rng, n: -2 * rng.normal(-1.2, 1.2, n)),
    "curve": (
        Curve(azulas),
        lambda rng, n: of(*(v.numpy() for v in azulas(torch.rand(n).double()))),
    ),
    "rising": (Curve(lambda t: (t, 1 - t)), flows(1)),
}


def _chain(t):
    return np.sqrt(CUMPROD[t]), np.sqrt(1 - CUMPROD[t])


@pytest.mark.parametrize("name", DRAWN)
def test_the_density_is_that_of_trainings_own_draws(name):
    schedule, draw = DRAWN[name]
    torch.manual_seed(0)
    n, (low, high) = 200_000, schedule.limits
    log_snr = draw(np.random.default_rng(0), n)
    edges = np.linspace(low, high, 21)
    fine = np.linspace(low, high, 20 * 5000 + 1)
    fine = (fine[1:] + fine[:-1]) / 2
    wanted = schedule.density(fine).reshape(20, 5000).mean(axis=1) * (edges[1] - edges[0])
    counts = np.histogram(log_snr, edges)[0]
    cell = 1 / 1000 if name == "chain" else 0  # a timestep may stand astride an edge
    assert np.all(np.abs(counts / n - wanted) < 5 * np.sqrt(wanted / n) + cell)
    u = (np.arange(n) + 0.5) / n
    ours = np.histogram(schedule.trained(u), edges)[0]
    assert np.all(np.abs(ours / n - wanted) < 1e-4 + cell)
    assert wanted.sum() > 0.997


@pytest.mark.parametrize("name", DRAWN)
def test_levels_are_where_they_are_asked_for(name):
    schedule = DRAWN[name][0]
    asked = np.array([4.0, -7.0, 0.0, 2.5])
    found = schedule.at(asked)
    np.testing.assert_allclose(of(found.alphas, found.sigmas), found.log_snr, atol=1e-9)
    np.testing.assert_allclose(found.log_snr, asked, atol=0.03 if name == "chain" else 1e-9)


def test_what_a_network_is_told():
    asked = np.array([3.0, -1.0])
    s = 1 / (1 + np.exp(asked / 2))
    np.testing.assert_allclose(Flow(3.0).at(asked).times, s)  # the shift moves draws alone
    np.testing.assert_allclose(LogNormal().at(asked).times, np.exp(-asked / 2))
    np.testing.assert_allclose(Curve(lambda t: (1 - t, t)).at(asked).times, s, rtol=1e-12)
    np.testing.assert_allclose(Curve(lambda t: (t, 1 - t)).at(asked).times, 1 - s, rtol=1e-12)
    t = Chain(CUMPROD).at(of(*_chain(np.array([0, 437, 999])))).times
    assert t.tolist() == [0, 437, 999] and t.dtype == np.int64


@pytest.mark.parametrize(
    ("path", "scales"),
    {
        "flow": lambda t: (t, 1 - t),
        "edm": lambda t: (1, 0.01 * torch.exp(9 * t)),
        "vp": lambda t: (torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)),
        "any": lambda t: (2 - t, t + 0.01),
    }.items(),
)
def test_a_path_is_known_by_its_scales(path, scales):
    assert Curve(scales).path == path


def test_limits_are_finite():
    s = 1e-3
    np.testing.assert_allclose(Flow().limits, [of(s, 1 - s), of(1 - s, s)])
    np.testing.assert_allclose(LogNormal().limits, -2 * np.log([80, 0.002]))
    cosine = Curve(lambda t: (torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)))
    angle = s * math.pi / 2  # at t = 1, alpha is 6e-17
    np.testing.assert_allclose(
        cosine.limits, [2 * np.log(np.tan(angle)), -2 * np.log(np.tan(angle))]
    )
    np.testing.assert_allclose(Curve(azulas).limits, [of(1e-3, 1.0), of(1.0, 1e-3)], atol=1e-5)
    beyond = Curve(azulas).at(np.array([-50.0, 50.0]))
    np.testing.assert_allclose(beyond.times, [1, 0], atol=1e-9)
    endless = Curve(lambda t: (1 - t, t)).at(np.array([30.0, -30.0]))  # beyond the limits, not it
    np.testing.assert_allclose(endless.log_snr, [30, -30], atol=1e-6)


def test_a_chain_that_ends_in_noise_alone():
    chain = Chain([0.9, 0.5, 0.1, 0.0])
    assert chain.ends_in_noise and chain.alphas[-1] == 0 and chain.sigmas[-1] == 1
    np.testing.assert_allclose(chain.log_snr[:3], np.log([9, 1, 1 / 9]))
    np.testing.assert_allclose(chain.log_snr[3], 2 * np.log(1 / 9))
    assert chain.at(np.array([-1e9])).times == [3]


@pytest.mark.parametrize("power", [[0.5, 0.6, 0.1], [1.0, 0.5, 0.1], [0.5, 0.1], [[0.5, 0.1, 0]]])
def test_numbers_that_are_no_chain_are_refused(power):
    with pytest.raises(ValueError, match=r"alphas_cumprod is .* expected three or more numbers"):
        Chain(power)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (lambda t: (1, 0.1 + t * (1 - t)), "neither falls nor rises throughout.*at t 0, 0.5 and 1"),
        (lambda t: (t - 2, t), "neither falls nor rises"),
        (lambda t: 1 - t, "fails on a float64 tensor of 1001 times.*gives .alpha"),
        (lambda t: (math.cos(t), t), "fails on a float64 tensor of 1001 times"),
    ],
)
def test_functions_that_are_no_schedule_are_refused(scales, message):
    with pytest.raises(ValueError, match=message):
        Curve(scales)
