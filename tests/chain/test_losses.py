"""The bound's two terms against torch.distributions, closed forms and the golden numbers."""

import pytest
import torch
from chains import GOLDEN, X_START, assert_golden
from torch.distributions import Normal, kl_divergence

from flatdiff.chain.losses import (
    approx_standard_normal_cdf,
    discretized_gaussian_log_likelihood,
    normal_kl,
)


def test_kl_is_that_of_normals():
    m1, v1, m2, v2 = torch.randn(4, 50, dtype=torch.float64)
    expected = kl_divergence(Normal(m1, (0.5 * v1).exp()), Normal(m2, (0.5 * v2).exp()))
    torch.testing.assert_close(normal_kl(m1, v1, m2, v2), expected)


def test_kl_takes_numbers_and_broadcasts():
    mean, log_variance = torch.randn(3, 1), torch.randn(1, 4)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(normal_kl(mean, log_variance, 0.0, 0.0), expected)
    torch.testing.assert_close(normal_kl(0.0, 0.0, mean, 0.0), (mean**2) / 2)
    with pytest.raises(ValueError, match="needs a tensor"):
        normal_kl(0.0, 0.0, 1.0, 0.0)


def test_cdf_is_within_its_error():
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    assert (approx_standard_normal_cdf(x) - torch.special.ndtr(x)).abs().max() < 2e-4


def test_the_256_values_share_all_of_the_mass():
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, log_scale in [(0.0, -1.0), (0.9, -2.0), (-1.2, 0.5), (0.3, -5.0)]:
        mean, log_scale = torch.full((256,), mean).double(), torch.full((256,), log_scale).double()
        found = discretized_gaussian_log_likelihood(values, means=mean, log_scales=log_scale)
        assert found.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_likelihood_is_guided_diffusions():
    log_scales = torch.full_like(X_START, -2.0)
    found = discretized_gaussian_log_likelihood(X_START, means=0.9 * X_START, log_scales=log_scales)
    assert_golden(found, GOLDEN["disc_gauss_ll"])


def test_likelihood_has_a_floor():
    values = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    log_scales = torch.full_like(values, -3.0)
    found = discretized_gaussian_log_likelihood(values, means=0 * values, log_scales=log_scales)
    torch.testing.assert_close(found, torch.tensor(GOLDEN["disc_gauss_ll_edges"]))
