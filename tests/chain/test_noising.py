"""Schedules and q against guided-diffusion's numbers, single steps of noise, and Bayes."""

import math

import numpy as np
import pytest
import torch
from chains import GOLDEN, NOISE, X_START, assert_golden, chain

from flatdiff.chain import gaussian_diffusion as gd
from flatdiff.chain.gaussian_diffusion import LossType, ModelMeanType, ModelVarType

T = torch.tensor([0, 500])
FIXED = {"var": ModelVarType.FIXED_LARGE}


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("sched_")])
def test_schedules_are_guided_diffusions(name):
    _, schedule, steps = name.split("_")
    steps = int(steps)
    diffusion = chain(schedule=schedule, steps=steps)
    middle = [0, 1, steps // 2, steps - 2, steps - 1]
    ends = [0, 1, steps // 2, steps - 1]
    for table, key, entries in [
        (diffusion.betas, "beta", middle),
        (diffusion.alphas_cumprod, "abar", middle),
        (diffusion.posterior_variance, "post_var", ends),
        (diffusion.posterior_log_variance_clipped, "post_logvar_clipped", ends),
        (diffusion.posterior_mean_coef1, "c1", [0, steps // 2, steps - 1]),
        (diffusion.posterior_mean_coef2, "c2", [0, steps // 2, steps - 1]),
    ]:
        assert table.dtype == np.float64 and table.shape == (steps,)
        np.testing.assert_allclose(table[entries], GOLDEN[name][key], rtol=1e-12, atol=0)
    assert (diffusion.alphas_cumprod_prev == [1, *diffusion.alphas_cumprod[:-1]]).all()
    assert (diffusion.alphas_cumprod_next == [*diffusion.alphas_cumprod[1:], 0]).all()


@pytest.mark.parametrize(
    ("schedule", "steps", "words"),
    [
        ("linear", 19, "19 .*21 or more"),
        ("linear", 20, "cosine"),
        ("sine", 100, "'sine'.*'cosine'"),
    ],
)
def test_impossible_schedules_are_refused(schedule, steps, words):
    with pytest.raises(ValueError, match=words):
        gd.get_named_beta_schedule(schedule, steps)


@pytest.mark.parametrize(
    "betas", [[], [0.1], [0.1, 1.0], [0.0, 0.1], [[0.1, 0.2]], [0.1, math.nan]]
)
def test_betas_must_make_a_chain(betas):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        gd.GaussianDiffusion(
            betas=betas,
            model_mean_type=ModelMeanType.EPSILON,
            model_var_type=ModelVarType.FIXED_LARGE,
            loss_type=LossType.MSE,
        )


def test_q_is_what_its_single_steps_make():
    diffusion = chain("20")
    mean, variance = 1.0, 0.0
    for beta in diffusion.betas[:6]:
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    sixth = torch.tensor([5, 5])
    found = diffusion.q_mean_variance(X_START, sixth)
    torch.testing.assert_close(found[0], mean * X_START)
    torch.testing.assert_close(found[1], torch.full_like(X_START, variance))
    torch.testing.assert_close(found[2], torch.full_like(X_START, math.log(variance)))
    sample = mean * X_START + math.sqrt(variance) * NOISE
    torch.testing.assert_close(diffusion.q_sample(X_START, sixth, NOISE), sample)


def test_q_posterior_is_bayes():
    diffusion = chain("20")
    t = torch.tensor([7, 13])
    x_t = diffusion.q_sample(X_START, t, NOISE)
    mean, variance, log_variance = diffusion.q_posterior_mean_variance(X_START, x_t, t)
    for i, step in enumerate(t.tolist()):  # q(x_{t-1} | x_0) q(x_t | x_{t-1}), as precisions
        abar, beta = diffusion.alphas_cumprod[step - 1], diffusion.betas[step]
        precision = 1 / (1 - abar) + (1 - beta) / beta
        pull = math.sqrt(abar) * X_START[i] / (1 - abar) + math.sqrt(1 - beta) * x_t[i] / beta
        torch.testing.assert_close(mean[i], pull / precision)
        torch.testing.assert_close(variance[i], torch.full_like(x_t[i], 1 / precision))
        torch.testing.assert_close(log_variance[i], torch.full_like(x_t[i], -math.log(precision)))


def test_q_sample_is_guided_diffusions():
    found = chain("100").q_sample(X_START, torch.tensor([0, 50]), NOISE)
    assert_golden(found, GOLDEN["q_sample_r100_t0_50"])
