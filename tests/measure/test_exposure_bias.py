"""Both curves of networks that know their data exactly, against closed forms."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exact import (
    MEAN,
    SHAPE,
    VARIANCE,
    D,
    Exact,
    N,
    T,
    batch,
    chi_mean,
    gaussian_data,
    guess_factor,
    measured,
    moments,
    sampling_curve,
    steps,
    training_curve,
)
from scipy import special

from flatdiff.chain.gaussian_diffusion import ModelMeanType
from flatdiff.chain.levels import Levels
from flatdiff.measure import exposure_bias as eb


def assert_within_error(estimate, expected, errors=4):
    assert np.shape(estimate.value) == np.shape(expected)
    assert (np.abs(estimate.value - expected) < errors * estimate.error).all()


# Curves of the norm


@pytest.mark.parametrize("scale", [1.0, 1.1])
def test_both_curves_are_those_of_a_gaussian(scale):
    d = steps()
    model, data = Exact(d, scale=scale), gaussian_data()
    training, _ = eb.norms(eb.noised(model, d, data))
    sampling, _ = eb.norms(eb.walked(model, d, data, clip_denoised=False))
    assert training.shape == sampling.shape == (N, T) and training.dtype == torch.float64
    assert_within_error(eb.mean(training), training_curve(d, scale))
    assert_within_error(eb.mean(sampling), sampling_curve(d, scale))
    gap = eb.mean(sampling - training)
    assert_within_error(gap, sampling_curve(d, scale) - training_curve(d, scale))
    assert gap.error[-1] < 0.1 * gap.error[0]  # begun at the same noise


def test_an_exact_network_has_no_gap_in_many_small_steps():
    d = steps(400)
    model, data = Exact(d), gaussian_data()
    training, _ = eb.norms(eb.noised(model, d, data))
    sampling, _ = eb.norms(eb.walked(model, d, data, clip_denoised=False))
    assert_within_error(eb.mean(sampling - training), np.zeros(400))
    np.testing.assert_allclose(sampling_curve(d), training_curve(d), rtol=0.02)


def test_epsilon_scaling_undoes_a_wrong_scale_of_the_network():
    plain, scaled = steps(200), steps(200, eps_scaler=1.1)
    model, data = Exact(plain, scale=1.1), gaussian_data()
    training, _ = eb.norms(eb.noised(model, plain, data))
    assert torch.equal(training, eb.norms(eb.noised(model, scaled, data))[0])

    def gap(d):
        return eb.mean(eb.norms(eb.walked(model, d, data, clip_denoised=False))[0] - training)

    # Too much noise is taken away, so what is left is too little ...
    assert (gap(plain).value[:100] < -10 * gap(plain).error[:100]).all()
    # ... and with the divisor just as much as is right.
    assert_within_error(gap(scaled), sampling_curve(scaled, 1.1, 1.1) - training_curve(scaled, 1.1))
    assert (np.abs(gap(scaled).value) < 0.02 * training_curve(scaled, 1.1)).all()


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp"])
def test_without_noise_on_the_way_a_point_keeps_its_eps(sampler):
    d = steps()
    model, data = Exact(d, mean=0.3, variance=0.0), batch(torch.full((5, *SHAPE), 0.3))
    sampling, image = eb.norms(eb.walked(model, d, data, sampler))
    abar = d.alphas_cumprod[-1]
    noise = data.stream()(data.x_start).double()
    expected = ((noise - 0.3 * abar**0.5) / (1 - abar) ** 0.5).flatten(1).norm(dim=1)
    torch.testing.assert_close(sampling, expected[:, None].expand(5, T), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(image, data.x_start, atol=1e-5, rtol=0)
    training, _ = eb.norms(eb.noised(model, d, data))
    torch.testing.assert_close(
        training, noise.flatten(1).norm(dim=1)[:, None].expand(5, T), rtol=1e-5, atol=1e-5
    )


def test_a_network_that_predicts_the_image_implies_the_same_noise():
    whole = steps(1000)
    eps = Exact(whole)

    def image(x, t):
        abar = torch.from_numpy(whole.alphas_cumprod)[t].view(-1, 1, 1, 1)
        return ((x - (1 - abar).sqrt() * eps(x, t)) / abar.sqrt()).float()

    data, kind = gaussian_data(4), ModelMeanType.START_X
    for watch in (eb.noised, partial(eb.walked, clip_denoised=False)):
        wanted, last = eb.norms(watch(eps, steps(1000, respacing="10"), data))
        found, image_last = eb.norms(watch(image, steps(1000, respacing="10", mean=kind), data))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert last is None or torch.allclose(last, image_last, atol=1e-4)


@pytest.mark.parametrize("path", ["flow", "edm"])
def test_the_same_eps_on_another_path_has_the_same_exposure(path):
    """Without noise on the way, x / alpha is the same whatever the path."""
    whole = steps(1000)
    theirs, every = steps(1000, respacing="10"), Levels(whole.log_snr, path, "x")
    kept = {"times": np.arange(1000), "use_timesteps": theirs.timestep_map}
    ours = Levels(whole.log_snr, path, "x", **kept)
    eps, data = Exact(whole), gaussian_data(4)
    shrink, abars = whole.alphas / every.alphas, whole.alphas_cumprod

    def image(x, t):
        t = t.long()
        scale, abar = (torch.from_numpy(v)[t].view(-1, 1, 1, 1) for v in (shrink, abars))
        x = x * scale
        return ((x - (1 - abar).sqrt() * eps(x, t)) / abar.sqrt()).float()

    how = {"clip_denoised": False, "sampler": "euler"}
    for watch in (eb.noised, partial(eb.walked, **how), partial(eb.walked, prior=None, **how)):
        wanted, _ = eb.norms(watch(eps, theirs, data))
        found, _ = eb.norms(watch(image, ours, data))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        eb.forgetful_delta(data.x_start, ours) / ours.powers[1],
        eb.forgetful_delta(data.x_start, theirs) / theirs.powers[1],
        rtol=1e-6,
    )


def test_a_step_that_asks_twice_is_read_where_it_begins():
    d, data = steps(20), gaussian_data(4)
    model = Exact(d)
    for i, step in zip(range(20)[::-1], eb.walked(model, d, data, "heun", clip_denoised=False)):
        expected = model(step.x_t, torch.full((4,), i))
        torch.testing.assert_close(step.eps, expected.float(), rtol=1e-4, atol=1e-4)


def test_labels_reach_the_network():
    d, y = steps(5), torch.tensor([3, 1])

    def model(x, t, y):
        return 0.1 * y.view(-1, 1, 1, 1) * torch.ones_like(x)

    data = replace(batch(torch.zeros(2, *SHAPE)), model_kwargs={"y": y})
    for chain_of in (eb.noised, eb.walked, partial(eb.walked, prior=None)):
        found, _ = eb.norms(chain_of(model, d, data))
        expected = (0.1 * y * D**0.5)[:, None].expand(2, 5).double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# delta_t


def spread_and_delta(model, d, data, **how):
    m = measured(model, d, [data], priors=[], **how)
    return eb.left_out(lambda std: std, m.std, m.std_parts), eb.delta(m, d)


def test_delta_of_an_exact_network_is_zero_on_data_of_one_point():
    d, data = steps(), batch(torch.full((N, *SHAPE), 0.3))
    std, delta = spread_and_delta(Exact(d, mean=0.3, variance=0.0), d, data)
    # The mean of D standard deviations, each of N normal numbers, is known to 1 / sqrt(2 N D).
    sigma = d.sqrt_one_minus_alphas_cumprod
    np.testing.assert_allclose(std.error, sigma / np.sqrt(2 * N * D), rtol=0.15)
    assert_within_error(std, sigma)
    assert (delta.value < 25 * std.error**2).all()
    np.testing.assert_allclose(eb.forgetful_delta(data.x_start, d), 0, atol=1e-20)


def test_delta_of_an_exact_network_on_gaussian_data():
    def expected(d):
        abar = d.alphas_cumprod
        _, variance, cov = moments(d, 0.0, 1.0, cov=abar[-1] ** 0.5 * VARIANCE)[:, 1:]
        return np.sqrt(variance - 2 * abar**0.5 * cov + abar * VARIANCE)

    d, data = steps(), gaussian_data()
    std, delta = spread_and_delta(Exact(d), d, data, clip_denoised=False)
    assert_within_error(std, expected(d))
    exact = (expected(d) - d.sqrt_one_minus_alphas_cumprod) ** 2
    assert_within_error(delta, exact, errors=5)

    fine = steps(1000)  # whose chain is as good as perfect
    exact = (expected(fine) - fine.sqrt_one_minus_alphas_cumprod) ** 2
    found = eb.forgetful_delta(data.x_start, fine)
    np.testing.assert_allclose(found, exact, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("s", [1.0, 1.05, 0.7])
def test_delta_of_few_chains_has_no_bias(s):
    """Of 64 drifts N(0, s^2), where (std - 1)^2 itself is too large by the variance of std."""
    repeats, d = 2000, SimpleNamespace(sigmas=1.0)
    drifts = torch.randn(repeats, 64, 2, generator=torch.Generator().manual_seed(0)) * s
    found, plain = [], []
    for drift in drifts:
        std, parts = eb.spread(drift)
        found.append(eb.delta(eb.Measured(None, std, parts, {}), d))
        plain.append((std - 1) ** 2)
    values, errors = np.array(found).T
    exact = (s - 1) ** 2
    assert abs(values.mean() - exact) < 4 * values.std() / repeats**0.5
    if s >= 1:
        assert np.mean(plain) - exact > 10 * np.std(plain) / repeats**0.5
    assert 0.8 < np.sqrt(np.mean(errors**2)) / values.std() < 1.7
    assert np.mean(np.abs(values - exact) > 2.5 * errors) < 0.04  # at 0 by chance, too


def test_forgetful_delta_counts_what_differs_within_a_class():
    d = steps(3)
    x = torch.tensor([0.0, 0.2, 0.7, 0.5]).view(4, 1, 1, 1)
    v, abar = 0.02, d.alphas_cumprod  # 0.1^2 + 0.1^2 in both classes, over one degree each
    expected = (np.sqrt(1 - abar + 2 * abar * v) - np.sqrt(1 - abar)) ** 2
    labels = torch.tensor([5, 5, 2, 2])
    np.testing.assert_allclose(eb.forgetful_delta(x, d, labels), expected, rtol=1e-6)


# A shifted prior


def test_a_shifted_prior_goes_through_the_chain_as_it_must():
    d, data, prior = steps(), gaussian_data(), (0.3, 1.2)
    values, x = eb.norms(eb.walked(Exact(d), d, data, clip_denoised=False, prior=prior))
    mean, variance, _ = moments(d, prior[0], prior[1] ** 2)
    offset = (mean[1:] - d.sqrt_alphas_cumprod * MEAN) / np.sqrt(variance[1:])
    expected = guess_factor(d) * np.sqrt(variance[1:]) * chi_mean(offset)
    assert_within_error(eb.mean(values), expected)
    found = {name: value.numpy() for name, value in eb.image_statistics(x).items()}
    assert_within_error(eb.mean(found["mean"]), np.full(3, mean[0]))
    std = eb.channel_std(found["mean"], found["square"])
    assert_within_error(std, np.full(3, variance[0] ** 0.5))
    np.testing.assert_allclose(std.error, (variance[0] / (2 * N * 16)) ** 0.5, rtol=0.2)
    tail = special.erfc((1 - mean[0]) / np.sqrt(2 * variance[0])) / 2
    tail += special.erfc((1 + mean[0]) / np.sqrt(2 * variance[0])) / 2
    assert_within_error(eb.mean(found["clipped"]), tail)


def test_the_loss_under_a_shifted_prior():
    d, (mu, s), n = steps(), (0.3, 1.2), 4000
    data = gaussian_data(n)
    for t in (0, 20, 39):
        here = replace(data, t=torch.full((n,), t))
        abar, factor = d.alphas_cumprod[t], guess_factor(d)[t]
        expected = factor**2 * abar * VARIANCE
        expected += (factor * (1 - abar) ** 0.5 - 1) ** 2 * (mu**2 + s**2)
        assert_within_error(eb.mean(eb.noise_losses(Exact(d), d, here, (mu, s))), expected)


# Everything at once


def test_batches_change_nothing():
    d, whole = steps(6), gaussian_data(8)
    priors = [eb.NORMAL, (0.2, 1.1)]

    def part(rows):
        def stream():
            randn = whole.stream()
            return lambda x: randn(whole.x_start)[rows]

        return replace(whole, x_start=whole.x_start[rows], stream=stream, t=whole.t[rows])

    parts = [part(slice(i, i + 2)) for i in range(0, 8, 2)]
    alone = measured(Exact(d), d, parts, priors)
    together = measured(Exact(d), d, [whole], priors)
    for name in ("training", "std", "std_parts"):
        np.testing.assert_allclose(getattr(alone, name), getattr(together, name), rtol=1e-5)
    assert list(alone.begun) == priors
    for prior in priors:
        assert alone.begun[prior].keys() == {"norms", "loss", *eb.STATISTICS}
        for name, values in alone.begun[prior].items():
            np.testing.assert_allclose(values, together.begun[prior][name], rtol=1e-5, atol=1e-7)


# Statistics


def test_the_jackknife_leaves_one_image_out():
    z = np.random.default_rng(0).normal(0.5, 2.0, (7, 2, 3))
    whole, parts = eb.spread(torch.from_numpy(z))
    assert whole == pytest.approx(z.std(axis=0, ddof=1).mean())
    expected = [np.delete(z, i, axis=0).std(axis=0, ddof=1).mean() for i in range(7)]
    np.testing.assert_allclose(parts, expected)

    found = eb.image_statistics(torch.from_numpy(z).view(7, 2, 3, 1))
    std = eb.channel_std(found["mean"].numpy(), found["square"].numpy())
    expected = [np.delete(z, i, axis=0).std(axis=(0, 2)) for i in range(7)]
    np.testing.assert_allclose(std.value, 7 * z.std(axis=(0, 2)) - 6 * np.mean(expected, axis=0))
    np.testing.assert_allclose(std.error, np.std(expected, axis=0) * 6**0.5)


def test_the_jackknife_makes_a_variance_unbiased():
    """Exactly: of the mean square about the mean it makes the sum of squares over N - 1."""
    z = np.random.default_rng(0).normal(0.5, 2.0, 9)
    found = eb.left_out(lambda x: x, z.var(), np.array([np.delete(z, i).var() for i in range(9)]))
    assert found.value == pytest.approx(z.var(ddof=1), rel=1e-12)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.arange(5.0)
    assert eb.mean(values) == (2.0, pytest.approx(0.5**0.5))
    found = eb.left_out(lambda m: 3 * m, 2.0, (values.sum() - values) / 4)
    assert found == (6.0, pytest.approx(3 * 0.5**0.5))


def test_clipped_values_are_counted():
    x = torch.tensor([[-1.0, 0.5, 1.0, 1.5], [0.0, 0.1, -0.2, 0.99]]).view(2, 1, 2, 2)
    assert eb.image_statistics(x)["clipped"].tolist() == [0.75, 0.0]
