"""Euler's and Heun's walks against those of diffusers, and against what Gaussian data imply."""

import math

import diffusers
import numpy as np
import pytest
import torch

from flatdiff.chain import samplers, solvers
from flatdiff.chain.levels import PREDICTS, Levels
from flatdiff.chain.respace import edm_grid
from flatdiff.script_util import create_gaussian_diffusion

FAMILIES = [(path, predicts) for path, known in PREDICTS.items() for predicts in known]
NOISE = torch.sin(1.3 * torch.arange(96.0)).view(2, 3, 4, 4)
MEAN, STD = 0.2, 0.5  # of data whose every denoiser is known


def network(x, t):
    """Nonlinear in x and t."""
    return torch.tanh(1.5 * x + 0.3) - 0.4 * torch.sin(3 * t.float()).view(-1, 1, 1, 1) * x


def walked(chain, step, noise, model=network):
    walk = samplers.walk(chain, step, model, noise.shape, noise, clip_denoised=False)
    return [out["sample"] for out in walk]


def ends(scheduler, x, evaluate):
    """Where diffusers' scheduler leads from x; evaluate(x, t): the model's output."""
    for t in scheduler.timesteps:
        x = scheduler.step(evaluate(x, t), t, x).prev_sample
    return x


def told(scheduler, sigmas, times):
    """The scheduler with these noise levels, most noise first, in the order of its calls."""
    sigmas, times = (torch.tensor(np.array(v)[::-1].copy()).float() for v in (sigmas, times))
    scheduler.set_timesteps(len(sigmas))
    sigmas = torch.cat([sigmas, torch.zeros(1)])
    if "Heun" in type(scheduler).__name__:
        times = torch.cat([times[:1], times[1:].repeat_interleave(2)])
        sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler.sigmas, scheduler.timesteps = sigmas, times
    return scheduler


@pytest.mark.parametrize("kind", ["Euler", "Heun"])
def test_a_flow_is_walked_as_by_diffusers(kind):
    s = np.linspace(0.05, 0.97, 12)
    chain = Levels(2 * np.log((1 - s) / s), "flow", "v")
    scheduler = told(getattr(diffusers, f"FlowMatch{kind}DiscreteScheduler")(), s, s)
    expected = ends(scheduler, NOISE, lambda x, t: network(x, t.expand(2)))
    found = walked(chain, getattr(solvers, f"{kind.lower()}_sample"), NOISE)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["Euler", "Heun"])
@pytest.mark.parametrize(("predicts", "theirs"), [("eps", "epsilon"), ("v", "v_prediction")])
def test_a_chain_of_betas_is_walked_as_by_diffusers(kind, predicts, theirs):
    chain = create_gaussian_diffusion(timestep_respacing="12", predicts=predicts)
    ratio, times = chain.sigmas / chain.alphas, np.array(chain.timestep_map, float)
    kind_of = getattr(diffusers, f"{kind}DiscreteScheduler")
    scheduler = told(kind_of(prediction_type=theirs), ratio, times)

    def evaluate(x, t):
        return network(scheduler.scale_model_input(x, t), t.expand(2))

    expected = ends(scheduler, NOISE / float(chain.alphas[-1]), evaluate)
    found = walked(chain, getattr(solvers, f"{kind.lower()}_sample"), NOISE)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_edm_is_walked_as_by_diffusers():
    sigmas = edm_grid(18)
    chain = Levels(-2 * np.log(sigmas), "edm", "F")
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(18)
    torch.testing.assert_close(scheduler.sigmas[:-1].flip(0), torch.tensor(sigmas).float())

    def evaluate(x, t):
        return network(scheduler.scale_model_input(x, t), t.expand(2))

    expected = ends(scheduler, 80 * NOISE, evaluate)
    found = walked(chain, solvers.euler_sample, 80 * NOISE)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("path", "predicts"), FAMILIES)
def test_eulers_step_is_ddims_without_noise(path, predicts):
    chain = Levels(np.linspace(6, -6, 15), path, predicts)
    found, expected = (
        walked(chain, s, NOISE) for s in (solvers.euler_sample, samplers.ddim_sample)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def perfect(chain):
    """The x_0 of Gaussian data, best guessed."""

    def guess(x, t):
        t = t.long()
        alpha, sigma = (chain._at(name, t, x) for name in ("alphas", "sigmas"))
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return guess


def error(path, steps, step):
    """How far a walk of so many steps ends from the exact flow of Gaussian data, in float64."""
    ends = {"vp": (9, -7), "flow": (9, -9), "edm": (12, -8.8)}[path]
    u = np.linspace(*(math.exp(-lam / 14) for lam in ends), steps)  # EDM's grid, in sigma / alpha
    chain = Levels(-14 * np.log(u), path, "eps", times=np.arange(steps))
    x = chain.prior_std * torch.linspace(-2, 2, 9).double().view(9, 1, 1, 1)
    alpha, sigma = chain.alphas[-1], chain.sigmas[-1]
    least = chain.alphas[0], chain.sigmas[0]  # the last step, to x_0, is Euler's: leave it out
    spread = [math.sqrt(a**2 * STD**2 + s**2) for a, s in ((alpha, sigma), least)]
    exact = least[0] * MEAN + spread[1] * (x - alpha * MEAN) / spread[0]
    chain._table = lambda name, device: torch.as_tensor(getattr(chain, name))  # float64
    guess = perfect(chain)

    def network(x, t):
        return chain._predict_eps_from_xstart(x, t, guess(x, t))

    return (walked(chain, step, x, network)[-2] - exact).abs().max().item()


@pytest.mark.parametrize("path", ["vp", "flow", "edm"])
def test_heun_is_of_second_order_and_euler_of_first(path):
    for step, order in ((solvers.euler_sample, 1), (solvers.heun_sample, 2)):
        coarse, fine = (error(path, steps, step) for steps in (80, 160))
        assert abs(math.log2(coarse / fine) - order) < 0.15
    assert error(path, 40, solvers.heun_sample) < error(path, 80, solvers.euler_sample) / 3


@pytest.mark.parametrize(("path", "predicts"), FAMILIES)
@pytest.mark.parametrize("step", [solvers.euler_sample, solvers.heun_sample])
def test_perfect_guesses_lead_to_the_data(path, predicts, step):
    levels = Levels(np.linspace(10, -10, 200), path, predicts, times=np.arange(200))
    inner, noise = perfect(levels), torch.randn(2000, 1, 2, 2)

    def guess(seen, t):
        x = seen / levels._at("x_scale", t, seen)
        x_start = inner(x, t)
        eps = levels._predict_eps_from_xstart(x, t, x_start)
        return levels._at("to_x", t, x) * x_start + levels._at("to_eps", t, x) * eps

    found = walked(levels, step, samplers.begun(levels, noise), guess)[-1]
    assert abs(found.mean() - MEAN) < 0.03 and abs(found.var() - STD**2) < 0.02


def test_heun_asks_twice_a_step_but_at_the_ends():
    """The first step of a cosine chain leads from sigma / alpha of 20,000 to one of 5."""
    for schedule, at_first in (("cosine", 1), ("linear", 2)):
        chain = create_gaussian_diffusion(noise_schedule=schedule, timestep_respacing="10")
        calls = []

        def counted(x, t):
            calls.append(t[0].item())  # noqa: B023
            return network(x, t)

        walked(chain, solvers.heun_sample, NOISE, counted)
        assert len(calls) == 17 + at_first and calls[-1] == 0
        assert calls.count(888) == at_first


def test_heun_asks_no_slope_of_an_image_at_little_noise():
    """There the error of a guessed x_0 would come back a thousand times as large."""
    s = np.linspace(0.0005, 0.9995, 8)
    for predicts, at_last in (("x", 1), ("v", 2)):
        chain = Levels(2 * np.log((1 - s) / s), "flow", predicts)
        calls = []
        walked(chain, solvers.heun_sample, NOISE, lambda x, t: calls.append(t[0]) or x)  # noqa: B023
        assert len(calls) == 13 + at_last


def test_epsilon_scaling_and_guidance_reach_both_slopes():
    how = {"noise_schedule": "linear", "timestep_respacing": "10"}
    scaled = create_gaussian_diffusion(**how, eps_scaler=1.1)
    plain = create_gaussian_diffusion(**how)
    found = walked(scaled, solvers.heun_sample, NOISE)
    expected = walked(plain, solvers.heun_sample, NOISE, lambda x, t: network(x, t) / 1.1)
    torch.testing.assert_close(found, expected)
    guided = samplers.walk(
        plain, solvers.heun_sample, network, NOISE.shape, NOISE, False, cond_fn=lambda x, t: x
    )

    def moved(x, t):
        kept = torch.tensor([plain.timestep_map.index(int(i)) for i in t])
        return network(x, t) - plain._at("sigmas", kept, x) * x

    expected = walked(plain, solvers.heun_sample, NOISE, moved)
    torch.testing.assert_close(samplers.last(guided), expected[-1], rtol=1e-4, atol=1e-4)


def test_a_clamp_holds_at_the_last_step():
    chain = Levels(np.linspace(6, -6, 15), "flow", "v")
    for step in (solvers.euler_sample, solvers.heun_sample):
        walk = samplers.walk(chain, step, lambda x, t: 3 * network(x, t), NOISE.shape, 4 * NOISE)
        assert samplers.last(walk).abs().max() <= 1
