"""Chains by --objective: their levels, densities and targets, and flags that they refuse."""

import dataclasses

import numpy as np
import pytest
import torch

from flatdiff.chain.gaussian_diffusion import GaussianDiffusion, ModelMeanType
from flatdiff.chain.levels import Levels
from flatdiff.flags import config
from flatdiff.models.factories import create_chain
from flatdiff.models.objectives import predicts_of


def made(**flags):
    return create_chain(vars(config.DiffusionFlags(**flags)))


def test_the_default_is_guided_diffusions_chain():
    chain = made()
    assert isinstance(chain, GaussianDiffusion) and chain.num_timesteps == 1000
    assert chain.density is None and chain.prior_std == 1
    theirs = {k: v for k, v in vars(config.DiffusionFlags()).items() if k not in ("objective",)}
    del theirs["predicts"], theirs["noise_levels"], theirs["sigma_data"]
    for flags in (theirs, {"diffusion_steps": 1000}):  # a dict of guided-diffusion's, or less
        assert (create_chain(flags).betas == chain.betas).all()


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ({}, "EPSILON"),
        ({"predicts": "eps"}, "EPSILON"),
        ({"predict_xstart": True}, "START_X"),
        ({"predicts": "x"}, "START_X"),
        ({"predict_xstart": True, "predicts": "x"}, "START_X"),
        ({"predicts": "v", "learn_sigma": True}, "VELOCITY"),
    ],
)
def test_what_a_chain_of_betas_predicts(flags, kind):
    assert made(**flags).model_mean_type is ModelMeanType[kind]


def test_a_flow_is_of_straight_lines():
    chain = made(objective="flow", diffusion_steps=50)
    assert isinstance(chain, Levels) and (chain.path, chain.predicts) == ("flow", "v")
    s = (np.arange(50) + 0.5) / 50
    np.testing.assert_allclose(chain.sigmas, s)
    np.testing.assert_allclose(chain.alphas, 1 - s)
    np.testing.assert_allclose(chain.times, 1000 * s)
    assert chain.density is None and chain.prior_std == pytest.approx(0.99)
    short = made(objective="flow", diffusion_steps=50, timestep_respacing="5", predicts="x")
    assert short.predicts == "x"
    np.testing.assert_allclose(short.times, 1000 * s[[0, 12, 24, 37, 49]])


def test_edm_is_the_papers():
    chain = made(objective="edm", sigma_data=0.4)
    assert (chain.path, chain.predicts, chain.sigma_data) == ("edm", "F", 0.4)
    assert chain.sigmas[[0, -1]] == pytest.approx([0.002, 80])
    assert chain.prior_std == pytest.approx(80)
    np.testing.assert_allclose(np.diff(chain.sigmas ** (1 / 7), 2), 0, atol=1e-12)
    np.testing.assert_allclose(chain.times, np.log(chain.sigmas) / 4)
    mean = (chain.density * np.log(chain.sigmas)).sum()
    spread = (chain.density * (np.log(chain.sigmas) - mean) ** 2).sum()
    assert (mean, spread**0.5) == pytest.approx((-1.2, 1.2), abs=5e-3)
    other = made(objective="edm sigma_max=20 rho=3", diffusion_steps=10)
    np.testing.assert_allclose(other.sigmas[-1], 20)
    np.testing.assert_allclose(np.diff(other.sigmas ** (1 / 3), 2), 0, atol=1e-12)


@pytest.mark.parametrize("objective", ["ddpm", "flow", "edm"])
def test_levels_are_visited_as_asked(objective):
    chain = made(objective=objective, noise_levels="lognormal p_mean=0.5 p_std=0.3")
    u = np.log(chain.sigmas / chain.alphas)
    share = chain.density / chain.density.sum()
    mean = (share * u).sum()
    assert mean == pytest.approx(0.5, abs=0.01)
    assert (share * (u - mean) ** 2).sum() ** 0.5 == pytest.approx(0.3, abs=0.01)
    kept = made(objective=objective, noise_levels="lognormal", timestep_respacing="100")
    assert len(kept.density) == 100
    assert made(objective=objective, noise_levels="uniform").density is None


@pytest.mark.parametrize("objective", ["ddpm", "flow"])
def test_edms_grid_of_any_chain(objective):
    chain = made(objective=objective, timestep_respacing="edm10")
    assert chain.num_timesteps == 10
    ratio = (chain.sigmas / chain.alphas)[1:] ** (1 / 7)
    np.testing.assert_allclose(np.diff(ratio), np.diff(ratio).mean(), rtol=0.05)


REFUSED = [
    *({"objective": o, "learn_sigma": True} for o in ("flow", "edm")),
    *({"objective": o, "noise_schedule": "cosine"} for o in ("flow", "edm")),
    *({"objective": o, "use_kl": True} for o in ("flow", "edm")),
    {"objective": "flow", "rescale_timesteps": True},
    {"objective": "edm rho=5", "rescale_learned_sigmas": True},
    {"objective": "flow", "sigma_data": 0.4},
    {"sigma_data": 0.4},
    {"objective": "edm", "predicts": "v"},
    {"objective": "edm", "predict_xstart": True},
]


@pytest.mark.parametrize("flags", REFUSED)
def test_what_an_objective_does_not_listen_to_is_refused(flags):
    *_, name = flags
    objective = flags.get("objective", "ddpm").split()[0]
    with pytest.raises(ValueError, match=f"--{name} .* is not for --objective {objective}: leave"):
        made(**flags)


def test_flags_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="--predict_xstart True is --predicts x, and contradicts"):
        made(predict_xstart=True, predicts="v")
    with pytest.raises(ValueError, match="act on predicted noise, and this network predicts v"):
        made(objective="flow", eps_scaler=1.01)
    assert made(objective="flow", predicts="eps", eps_scaler=1.01).scales_eps
    with pytest.raises(ValueError, match="flow has no knob 'rho'"):
        made(objective="flow rho=5")
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        made(objective="edm sigma_min=100")
    with pytest.raises(ValueError, match="diffusion_steps is 1;"):
        made(objective="flow", diffusion_steps=1)


@pytest.mark.parametrize("objective", ["flow", "edm"])
def test_a_walk_has_noise_at_its_start(objective):
    """One level alone would be the least noise, where no image begins."""
    whole = made(objective=objective)
    assert made(objective=objective, timestep_respacing="2").prior_std == whole.prior_std
    for steps in "01":
        with pytest.raises(ValueError, match="expected two noise levels or more"):
            made(objective=objective, timestep_respacing=steps)


def test_every_flag_of_the_chain_is_listened_to_or_refused():
    """A knob that is silently without effect is worse than none."""
    aside = {"objective", "diffusion_steps", "timestep_respacing", "noise_levels", "predicts"}
    other = {"eps_scaler": 1.1, "eps_scaler_slope": 0.01, "input_pertub": 0.1, "sigma_data": 0.4}
    other |= {"noise_schedule": "cosine"}
    for objective in ("flow", "edm"):
        for field in dataclasses.fields(config.DiffusionFlags):
            if field.name in aside:
                continue
            value = other.get(field.name, True)
            try:
                chain = made(objective=objective, **{field.name: value})
            except ValueError:
                continue
            heard = value == getattr(chain, field.name, None)
            assert heard or (field.name == "predict_xstart" and chain.predicts == "x"), field.name


def test_the_loss_in_v_of_a_perfect_denoiser_is_known():
    """For N(0, s^2) data: that of x_0 over sigma^2, s^2 / (alpha^2 s^2 + sigma^2)."""
    chain, s = made(predicts="v", noise_schedule="cosine", diffusion_steps=20), 0.5
    t = torch.arange(20).repeat_interleave(2000)
    x_start, noise = s * torch.randn(len(t), 1, 2, 2), torch.randn(len(t), 1, 2, 2)
    alpha, sigma = (chain._at(n, t, x_start) for n in ("alphas", "sigmas"))

    def guess(x, _):
        share = (1 - s**2) / (alpha**2 * s**2 + sigma**2)
        return alpha * sigma * share * x

    mse = chain.training_losses(guess, x_start, t, noise=noise)["mse"].double()
    wanted = s**2 / (chain.alphas**2 * s**2 + chain.sigmas**2)
    np.testing.assert_allclose(mse.view(20, -1).mean(dim=1), wanted, rtol=0.1)
    np.testing.assert_allclose(chain.x_factor, chain.sigmas**2)


def test_what_is_predicted_has_a_name():
    flags = vars(config.DiffusionFlags())
    assert predicts_of(flags) == "" and predicts_of(flags | {"predicts": "v"}) == "v"
    assert predicts_of(flags | {"predict_xstart": True}) == "x"
