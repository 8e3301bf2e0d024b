"""What the chain's tests share: the golden file's inputs and toy network, and chains to try."""

import json
from pathlib import Path

import numpy as np
import torch

from flatdiff.chain.gaussian_diffusion import (
    LossType,
    ModelMeanType,
    ModelVarType,
    get_named_beta_schedule,
)
from flatdiff.chain.respace import SpacedDiffusion, space_timesteps

GOLDEN = json.loads((Path(__file__).parent / "golden" / "guided_diffusion.json").read_text())
X_START = torch.cos(torch.arange(96.0)).view(2, 3, 4, 4)
NOISE = torch.sin(1.3 * torch.arange(96.0)).view(2, 3, 4, 4)


def toy(x, t):
    """The golden file's network: predicted noise, and a learned variance."""
    t = t.view(-1, 1, 1, 1) / 1000
    return torch.cat([0.8 * x + 0.1 * torch.cos(3 * t), 0.5 * torch.sin(2 * x + t)], dim=1)


def toy_eps(x, t):
    """The same without the variance."""
    return toy(x, t)[:, : x.shape[1]]


def toy_cond(x, t):
    """The golden file's classifier gradient."""
    return 0.2 * torch.sin(x) * (1 + t.view(-1, 1, 1, 1) / 1000)


def chain(
    respacing="",
    mean=ModelMeanType.EPSILON,
    var=ModelVarType.LEARNED_RANGE,
    loss=LossType.MSE,
    schedule="cosine",
    steps=1000,
    **knobs,
):
    return SpacedDiffusion(
        space_timesteps(steps, respacing),
        betas=get_named_beta_schedule(schedule, steps),
        model_mean_type=mean,
        model_var_type=var,
        loss_type=loss,
        **knobs,
    )


def assert_golden(tensor, expected):
    """A tensor against the golden file's sum, sum of magnitudes and first values."""
    values = tensor.double().flatten()
    found = [values.sum(), values.abs().sum(), *values[: len(expected["first"])]]
    wanted = [expected["sum"], expected["abs"], *expected["first"]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)
