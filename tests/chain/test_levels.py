"""Levels of any family: against guided-diffusion's chain, and against what Gaussian data imply."""

import numpy as np
import pytest
import torch

from flatdiff.chain import samplers
from flatdiff.chain.levels import PATHS, PREDICTS, Levels
from flatdiff.script_util import create_gaussian_diffusion

FAMILIES = [(path, predicts) for path in PATHS for predicts in PREDICTS[path]]
LOG_SNR = np.linspace(9, -9, 40)


def network(x, t):
    return torch.sin(3 * x) + t.view(-1, 1, 1, 1) / 1000


@pytest.fixture
def draws():
    x_start = torch.randn(6, 3, 4, 4)
    return x_start, torch.tensor([0, 1, 10, 30, 48, 49]), torch.randn_like(x_start)


@pytest.mark.parametrize("predict_xstart", [False, True])
def test_a_vp_path_is_guided_diffusions_chain(draws, predict_xstart):
    how = {"steps": 1000, "noise_schedule": "cosine", "predict_xstart": predict_xstart}
    chain = create_gaussian_diffusion(**how, sigma_small=True, timestep_respacing="50")
    kept = chain.timestep_map
    log_snr = create_gaussian_diffusion(**how).log_snr
    ours = Levels(log_snr, "vp", "x" if predict_xstart else "eps", use_timesteps=kept)
    ours.times = np.array(kept)
    x_start, t, noise = draws
    x_t = chain.q_sample(x_start, t, noise)
    torch.testing.assert_close(ours.q_sample(x_start, t, noise), x_t)
    p, wanted = (c.p_mean_variance(network, x_t, t) for c in (ours, chain))
    torch.testing.assert_close(p, wanted, rtol=1e-5, atol=1e-6)
    mse, wanted = (
        c.training_losses(network, *draws[:2], noise=noise)["mse"] for c in (ours, chain)
    )
    torch.testing.assert_close(mse, wanted)
    np.testing.assert_allclose(ours.x_factor, chain.x_factor, rtol=1e-9)


@pytest.mark.parametrize("step", ["p_sample", "ddim_sample", "dpmpp_sample"])
def test_a_vp_path_is_walked_as_guided_diffusions_chain(step):
    chain = create_gaussian_diffusion(steps=50, noise_schedule="cosine", sigma_small=True)
    ours = Levels(chain.log_snr, "vp", "eps")
    knobs = {"eta": 0.5} if step == "ddim_sample" else {}
    noise, found = torch.randn(4, 3, 4, 4), []
    for each in (ours, chain):
        torch.manual_seed(1)
        walk = samplers.walk(each, getattr(samplers, step), network, noise.shape, noise, **knobs)
        found.append(samplers.last(walk))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def perfect(levels, mean, variance):
    """The best guess of the target for data N(mean, variance I), in each parametrization."""

    def guess(seen, times):
        t = torch.tensor([int(np.abs(levels.times - float(x)).argmin()) for x in times])
        x_t = seen / levels._at("x_scale", t, seen)
        alpha, sigma = (levels._at(name, t, x_t) for name in ("alphas", "sigmas"))
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        x_start = mean + gain * (x_t - alpha * mean)
        eps = (x_t - alpha * x_start) / sigma
        return levels._at("to_x", t, x_t) * x_start + levels._at("to_eps", t, x_t) * eps

    return guess


@pytest.mark.parametrize(("path", "predicts"), FAMILIES)
def test_the_error_in_x_of_gaussian_data_is_the_posteriors_variance(path, predicts):
    levels, variance = Levels(LOG_SNR, path, predicts), 0.3
    t = torch.arange(40).repeat_interleave(400)
    x_start = 0.2 + variance**0.5 * torch.randn(len(t), 3, 4, 4)
    given = x_start, t, None, torch.randn_like(x_start)
    terms = levels.training_losses(perfect(levels, 0.2, variance), *given)
    found = terms["mse"].double().view(40, 400).mean(dim=1).numpy() * levels.x_factor
    wanted = variance / (1 + variance * np.exp(LOG_SNR))  # whatever the parametrization
    np.testing.assert_allclose(found, wanted, rtol=0.05)
    weighted = levels.loss_weight[t] * terms["mse"].double().numpy()
    np.testing.assert_allclose(terms["loss"], weighted, rtol=1e-5)


@pytest.mark.parametrize(("path", "predicts"), FAMILIES)
@pytest.mark.parametrize("step", ["p_sample", "ddim_sample", "dpmpp_sample"])
def test_perfect_guesses_lead_from_noise_to_the_data(path, predicts, step):
    levels, variance = Levels(np.linspace(10, -10, 400), path, predicts), 0.3
    noise = levels.prior_std * torch.randn(2000, 1, 2, 2)
    guess = perfect(levels, 0.2, variance)
    walk = samplers.walk(
        levels, getattr(samplers, step), guess, noise.shape, noise, clip_denoised=False
    )
    found = samplers.last(walk)
    assert abs(found.mean() - 0.2) < 0.03
    assert abs(found.var() - variance) < 0.02


@pytest.mark.parametrize("step", ["p_sample", "ddim_sample"])
def test_one_step_ends_at_the_image_that_was_guessed(step):
    levels = Levels(LOG_SNR, "flow", "x", use_timesteps=[39])
    noise, image = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    walk = samplers.walk(levels, getattr(samplers, step), lambda *_: image, noise.shape, noise)
    assert torch.allclose(samplers.last(walk), image)


def test_edms_preconditioning_is_the_papers(draws):
    """Karras et al. 2022, table 1, with sigma_data 0.5."""
    levels = Levels(-2 * np.log([0.01, 0.5, 20.0]), "edm", "F")
    x_start, t, noise = (v[:3] for v in draws)
    t = t.new_tensor([0, 1, 2])
    seen = {}

    def network(x, times):
        seen.update(x=x, times=times)
        return torch.tanh(x)

    x_t = x_start + levels._at("sigmas", t, x_start) * noise
    p = levels.p_mean_variance(network, x_t, t, clip_denoised=False)
    sigma = torch.tensor([0.01, 0.5, 20.0]).view(-1, 1, 1, 1)
    total = sigma**2 + 0.25
    torch.testing.assert_close(seen["x"], x_t / total.sqrt())
    torch.testing.assert_close(seen["times"], sigma.flatten().log() / 4, check_dtype=False)
    wanted = 0.25 / total * x_t + sigma * 0.5 / total.sqrt() * torch.tanh(seen["x"])
    torch.testing.assert_close(p["pred_xstart"], wanted)
    denoiser = lambda x, times: wanted  # noqa: E731
    loss = levels.training_losses(network, x_start, t, noise=noise)["loss"]
    plain = Levels(levels.log_snr, "edm", "x").training_losses(denoiser, x_start, t, noise=noise)
    torch.testing.assert_close(loss, plain["loss"], rtol=1e-4, atol=0)


def test_an_x_predicting_flows_loss_is_that_of_its_velocity(draws):
    x_start, t, noise = (v[:3] for v in draws)
    log_snr, t = [4.0, 0.0, -4.0], torch.tensor([0, 1, 2])
    flow = Levels(log_snr, "flow", "x")
    x_t = flow.q_sample(x_start, t, noise)
    guess = torch.tanh(x_t)
    velocity = (x_t - guess) / flow._at("sigmas", t, x_t)
    loss = flow.training_losses(lambda x, t: guess, x_start, t, noise=noise)["loss"]
    torch.testing.assert_close(loss, ((velocity - (noise - x_start)) ** 2).mean(dim=(1, 2, 3)))


def test_levels_that_are_kept_keep_what_they_are():
    whole = Levels(LOG_SNR, "flow", "v", density=np.arange(40))
    kept = Levels(LOG_SNR, "flow", "v", density=np.arange(40), use_timesteps=[39, 0, 10])
    assert kept.timestep_map == [0, 10, 39] and kept.num_timesteps == 3
    assert kept.original_num_steps == 40
    for name in ("alphas", "sigmas", "times", "density", "log_snr"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(whole, name)[[0, 10, 39]])


def test_scales_stand_instead_of_the_paths(draws):
    x_start, t, noise = (v[:3] for v in draws)
    t = torch.tensor([0, 1, 2])
    alphas, sigmas = np.array([1.1, 0.7, 0.0]), np.array([0.2, 0.5, 1.0])
    levels = Levels([3.0, 0.0, -9.0], "any", "x", scales=(alphas, sigmas))
    alpha, sigma = (torch.tensor(v).float().view(-1, 1, 1, 1) for v in (alphas, sigmas))
    x_t = levels.q_sample(x_start, t, noise)
    torch.testing.assert_close(x_t, alpha * x_start + sigma * noise)
    v = Levels([3.0, 0.0, -9.0], "vp", "v", scales=(alphas, sigmas))
    np.testing.assert_allclose(v.x_factor, [(0.2 / 1.25) ** 2, (0.5 / 0.74) ** 2, 1.0])


@pytest.mark.parametrize("predicts", ["F", "noise"])
def test_what_no_network_of_a_path_predicts_is_refused(predicts):
    with pytest.raises(ValueError, match=f"'{predicts}' on 'flow'.*flow: v, x, eps"):
        Levels(LOG_SNR, "flow", predicts)


def test_a_learned_variance_is_refused(draws):
    levels = Levels(LOG_SNR, "flow", "v")
    with pytest.raises(ValueError, match="has no variance to learn"):
        levels.training_losses(lambda x, t: torch.cat([x, x], dim=1), draws[0], torch.arange(6))
    with pytest.raises(ValueError, match="act on predicted noise, and this network predicts v"):
        Levels(LOG_SNR, "flow", "v", eps_scaler=1.01)
