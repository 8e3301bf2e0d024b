"""Networks trained for diffusers' schedulers, against loops by those schedulers' own functions."""

import copy
import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from foreign import CLOSE, dit, ours, squares, text_unet, unet

from flatdiff.exchange.diffusers_schedulers import read
from flatdiff.exchange.families import family
from flatdiff.exchange.schedules import Chain, Flow, LogNormal

T = torch.tensor([0, 250, 500, 740, 990])


@pytest.fixture
def draws():
    torch.manual_seed(1)
    return torch.rand(5, 3, 8, 8) * 2 - 1, torch.randn(5, 3, 8, 8)


def chain_by_hand(net, scheduler, x, noise, **kwargs):
    """A training loop's errors, and those of the x_0 of the scheduler's own steps."""
    x_t = scheduler.add_noise(x, noise, T)
    output = net(x_t, T, **kwargs).sample[:, :3]
    velocity = scheduler.get_velocity(x, noise, T)
    wanted = {"epsilon": noise, "sample": x, "v_prediction": velocity}
    errors = squares(output - wanted[scheduler.config.prediction_type])
    scheduler.set_timesteps(1000)
    steps = (scheduler.step(*args) for args in zip(output, T, x_t))
    return errors, squares(torch.stack([s.pred_original_sample for s in steps]) - x)


CHAINS = {
    "ddpm-eps": (unet, DDPMScheduler, {}),
    "ddpm-x": (unet, DDPMScheduler, {"prediction_type": "sample"}),
    "ddpm-v": (unet, DDPMScheduler, {"prediction_type": "v_prediction"}),
    "ddpm-cosine": (unet, DDPMScheduler, {"beta_schedule": "squaredcos_cap_v2"}),
    "ddim": (unet, DDIMScheduler, {"beta_schedule": "scaled_linear"}),
    "ddpm-text": (text_unet, DDPMScheduler, {}),
    "ddpm-dit": (dit, DDPMScheduler, {}),
}


@pytest.mark.parametrize("name", CHAINS)
@torch.no_grad()
def test_a_chain_is_diffusers_own_loop(name, draws):
    make, scheduler, how = CHAINS[name]
    net, scheduler = make(), scheduler(clip_sample=False, **how)
    kwargs = {"encoder_hidden_states": torch.randn(5, 4, 12)} if make is text_unet else {}
    kwargs |= {"class_labels": torch.tensor([3, 0, 999, 7, 7])} if make is dit else {}
    power = scheduler.alphas_cumprod[T].double().numpy()
    found, found_x = ours(family(scheduler), net, np.log(power / (1 - power)), *draws, **kwargs)
    wanted, wanted_x = chain_by_hand(net, scheduler, *draws, **kwargs)
    torch.testing.assert_close(found, wanted, **CLOSE)
    torch.testing.assert_close(found_x, wanted_x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_eulers_scaled_input_is_the_chains(predicts, draws):
    """x_0 + sigma eps, scaled, is what a network sees that was trained on the chain."""
    net, (x, noise) = unet(), draws
    scheduler = EulerDiscreteScheduler(prediction_type=predicts, timestep_spacing="linspace")
    found, wanted = [], []
    for i, t in enumerate(T.float()):
        scheduler.set_timesteps(1000)
        x_t = scheduler.add_noise(x[i : i + 1], noise[i : i + 1], t[None])
        output = net(scheduler.scale_model_input(x_t, t), t).sample
        wanted.append(squares(scheduler.step(output, t, x_t).pred_original_sample - x[i]))
        power = scheduler.alphas_cumprod[T[i]].item()
        asked = [math.log(power / (1 - power))]
        found.append(ours(family(scheduler), net, asked, x[i : i + 1], noise[i : i + 1])[1])
    torch.testing.assert_close(torch.cat(found), torch.cat(wanted), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_betas_of_zero_terminal_snr(draws):
    net = unet()
    how = {"rescale_betas_zero_snr": True, "clip_sample": False}
    scheduler = DDPMScheduler(prediction_type="v_prediction", **how)
    known = family(scheduler)
    assert np.isfinite(known.limits).all() and len(known.timesteps) == 1000
    t = torch.tensor([0, 500, 998, 999, 999])
    levels, _ = known.levels(known.timesteps[t])
    assert levels.alphas[-1] == 0
    x, noise = draws
    found = levels.training_losses(known.network(net), x, torch.arange(5), noise=noise)["mse"]
    x_t, velocity = scheduler.add_noise(x, noise, t), scheduler.get_velocity(x, noise, t)
    torch.testing.assert_close(found, squares(net(x_t, t).sample - velocity), **CLOSE)
    with pytest.raises(ValueError, match="ends where alpha is 0.*one that predicts x or v"):
        family(DDPMScheduler(**how))


@pytest.mark.parametrize("scheduler", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_edm_is_diffusers_preconditioning(scheduler, predicts, draws):
    net, (x, noise) = unet(), draws
    scheduler = scheduler(prediction_type=predicts, sigma_data=0.4)
    sigmas = torch.tensor([0.01, 0.2, 0.5, 2.0, 20.0])
    sigma = sigmas.view(-1, 1, 1, 1)
    x_t = x + sigma * noise
    output = net(scheduler.precondition_inputs(x_t, sigma), scheduler.precondition_noise(sigmas))
    wanted = squares(scheduler.precondition_outputs(x_t, output.sample, sigma) - x)
    known = family(scheduler)
    asked = -2 * np.log(sigmas.double().numpy())
    torch.testing.assert_close(ours(known, net, asked, x, noise)[1], wanted, **CLOSE)
    np.testing.assert_allclose(known.limits, -2 * np.log([80, 0.002]))


@pytest.mark.parametrize(
    "scheduler", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler]
)
@torch.no_grad()
def test_flow_matching_is_diffusers_own_loop(scheduler, draws):
    net, (x, noise) = unet(), draws
    scheduler = scheduler(shift=3.0)
    picked = torch.tensor([5, 300, 600, 900, 995])
    t, s = scheduler.timesteps[picked], scheduler.sigmas[picked].double().numpy()
    fresh = (copy.deepcopy(scheduler) for _ in x)  # Heun's keeps the first step that it is told
    x_t = torch.cat([f.scale_noise(a[None], b[None], c) for f, a, b, c in zip(fresh, x, t, noise)])
    wanted = squares(net(x_t, t).sample - (noise - x))
    asked = 2 * np.log((1 - s) / s)
    found, found_x = ours(family(scheduler), net, asked, x, noise)
    torch.testing.assert_close(found, wanted, **CLOSE)
    squared = torch.tensor(s).float() ** 2
    torch.testing.assert_close(found_x, wanted * squared, rtol=1e-5, atol=1e-6)


SAMPLERS = (
    "DDPM DDIM PNDM DEISMultistep DPMSolverMultistep DPMSolverSinglestep EulerDiscrete "
    "EulerAncestralDiscrete HeunDiscrete KDPM2Discrete KDPM2AncestralDiscrete LCM LMSDiscrete "
    "UniPCMultistep"
)


@pytest.mark.parametrize("name", SAMPLERS.split())
def test_samplers_of_one_chain_are_read_alike(name):
    make = getattr(diffusers, f"{name}Scheduler")
    told = read(make(beta_schedule="linear", beta_start=1e-4, beta_end=0.02))
    assert isinstance(told.schedule, Chain) and told.predicts == "eps" and told.times is None
    power = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(told.schedule.alphas, np.sqrt(power), rtol=1e-5)
    assert read(make(prediction_type="v_prediction")).predicts == "v"


def test_what_networks_of_the_others_are_told():
    edm = read(EDMEulerScheduler(sigma_data=0.4, sigma_min=0.01, sigma_max=50.0))
    assert edm.schedule == LogNormal(sigmas=(0.01, 50.0)) and edm.sigma_data == 0.4
    sigmas = np.array([0.1, 3.0])
    np.testing.assert_allclose(edm.times(sigmas), np.log(sigmas) / 4)
    assert edm.predicts == "F"
    assert read(EDMEulerScheduler(prediction_type="v_prediction")).predicts == "-F"
    flow = read(FlowMatchEulerDiscreteScheduler(shift=3.0, num_train_timesteps=500))
    assert flow.schedule == Flow(3.0) and flow.predicts == "v"
    np.testing.assert_allclose(flow.times(np.array([0.25])), [125])
    how = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 2.0}
    for make in (diffusers.UniPCMultistepScheduler, diffusers.DPMSolverMultistepScheduler):
        assert read(make(**how)).schedule == Flow(2.0)
    assert read(FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)).schedule == (
        Flow(1.0)
    )


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.ScoreSdeVeScheduler(), "ScoreSdeVeScheduler is no scheduler that can be read"),
        (diffusers.CMStochasticIterativeScheduler(), "neither alphas_cumprod"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "counts its noise backwards"),
        (
            EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
            "timestep_type 'continuous'.*expected 'discrete'",
        ),
        (
            EulerDiscreteScheduler(prediction_type="noise"),
            "prediction_type of EulerDiscreteScheduler is 'noise'; expected epsilon, sample",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(scheduler, message):
    with pytest.raises(ValueError, match=message):
        read(scheduler)
