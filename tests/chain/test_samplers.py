"""Walks from noise to images against closed forms, another library and the golden numbers."""

import math

import pytest
import torch
from chains import GOLDEN, NOISE, X_START, assert_golden, chain, toy, toy_cond, toy_eps
from diffusers import DPMSolverMultistepScheduler

from flatdiff.chain.gaussian_diffusion import (
    GaussianDiffusion,
    LossType,
    ModelMeanType,
    ModelVarType,
    get_named_beta_schedule,
)
from flatdiff.script_util import create_gaussian_diffusion

T = torch.tensor([0, 50])
LOOPS = ["p_sample_loop", "ddim_sample_loop", "dpmpp_sample_loop"]
MEAN, STD = 0.3, 0.5  # of the normal data, whose every denoiser is known


def knowing(steps):
    """A chain, and the network that knows p(x_{t-1} | x_t) when pixels are N(MEAN, STD^2)."""
    diffusion = GaussianDiffusion(
        betas=get_named_beta_schedule("cosine", steps),
        model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.LEARNED,
        loss_type=LossType.MSE,
    )
    abar = diffusion.alphas_cumprod
    spread = STD**2 / (abar * STD**2 + 1 - abar)
    variance = diffusion.posterior_variance
    variance = variance + diffusion.posterior_mean_coef1**2 * spread * (1 - abar)

    def network(x, t):
        a, k, v = (torch.tensor(c)[t].view(-1, 1, 1, 1) for c in (abar, spread, variance))
        x_start = MEAN + a.sqrt() * k * (x - a.sqrt() * MEAN)
        eps = (x - a.sqrt() * x_start) / (1 - a).sqrt()
        return torch.cat([eps, v.log().expand_as(x)], dim=1)

    return diffusion, network


def flow(diffusion, x):
    """Where the probability-flow equation takes x_T of such data."""
    abar = diffusion.alphas_cumprod[-1]
    spread = math.sqrt(abar * STD**2 + 1 - abar)
    return MEAN + STD * (x - math.sqrt(abar) * MEAN) / spread


def test_ddim_is_guided_diffusions():
    diffusion = chain("100")
    x_t = diffusion.q_sample(X_START, T, NOISE)
    for name, out in [
        ("ddim_sample_eta0", diffusion.ddim_sample(toy, x_t, T)),
        ("ddim_reverse", diffusion.ddim_reverse_sample(toy, x_t, T)),
    ]:
        assert out.keys() == GOLDEN[name].keys()
        for key, expected in GOLDEN[name].items():
            assert_golden(out[key], expected)


def test_ddim_loop_is_guided_diffusions():
    found = chain("ddim20").ddim_sample_loop(toy, X_START.shape, noise=NOISE)
    assert_golden(found, GOLDEN["ddim_loop20_from_noise"])


def test_guidance_is_guided_diffusions():
    diffusion = chain("100")
    x_t = diffusion.q_sample(X_START, T, NOISE)
    p = diffusion.p_mean_variance(toy, x_t, T)
    assert_golden(diffusion.condition_mean(toy_cond, p, x_t, T, {}), GOLDEN["condition_mean"])
    score = diffusion.condition_score(toy_cond, p, x_t, T, {})
    assert score.keys() == p.keys()
    for key, expected in GOLDEN["condition_score"].items():
        assert_golden(score[key], expected)


def test_ancestral_samples_have_the_datas_moments():
    diffusion, network = knowing(30)
    torch.manual_seed(0)
    shape = (10000, 1, 2, 2)
    sample = diffusion.p_sample_loop(network, shape, clip_denoised=False, device="cpu")
    # The last step gives the mean of x_0, so lacks x_0's variance given x_1.
    abar = diffusion.alphas_cumprod[0]
    variance = STD**4 * abar / (STD**2 * abar + 1 - abar)
    error = 1 / math.sqrt(sample.numel())
    assert abs(sample.mean().item() - MEAN) < 4 * STD * error
    assert abs(sample.var().item() / variance - 1) < 4 * math.sqrt(2) * error


@pytest.mark.parametrize(("loop", "tolerance"), [(LOOPS[1], 0.02), (LOOPS[2], 0.002)])
def test_deterministic_samples_follow_the_flow(loop, tolerance):
    diffusion, network = knowing(100)
    x = torch.linspace(-2, 2, 16).view(4, 1, 2, 2)
    sample = getattr(diffusion, loop)(network, x.shape, noise=x, clip_denoised=False)
    torch.testing.assert_close(sample, flow(diffusion, x).to(sample), rtol=0, atol=tolerance)


@pytest.mark.parametrize("respacing", ["10", "50", "ddim25"])
def test_dpmpp_is_that_of_diffusers(respacing):
    whole, spaced = chain(), chain(respacing)
    scheduler = DPMSolverMultistepScheduler(
        trained_betas=whole.betas,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
        final_sigmas_type="zero",
        prediction_type="epsilon",
    )
    scheduler.set_timesteps(timesteps=spaced.timestep_map[::-1])
    expected = 0.5 * NOISE
    outs = spaced.dpmpp_sample_loop_progressive(
        toy, NOISE.shape, noise=expected, clip_denoised=False
    )
    for t, out in zip(scheduler.timesteps, outs, strict=True):
        expected = scheduler.step(toy_eps(expected, t.expand(2)), t, expected).prev_sample
        error = (out["sample"] - expected).abs().max()
        assert error < 3e-5 * expected.abs().max()  # diffusers keeps its tables in float32


def test_ddim_with_all_its_noise_is_ancestral():
    """Song et al. 2020: at eta 1 the two are one, with the posterior's variance."""
    diffusion = chain("50", var=ModelVarType.FIXED_SMALL)
    given = {"noise": NOISE, "randn": torch.cos}
    ancestral = diffusion.p_sample_loop(toy_eps, NOISE.shape, **given)
    ddim = diffusion.ddim_sample_loop(toy_eps, NOISE.shape, eta=1.0, **given)
    torch.testing.assert_close(ancestral, ddim, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("respacing", ["2", "3", "6", "8"])
def test_ddim_with_all_its_noise_is_ancestral_in_few_steps(respacing):
    """Where all of a step's variance is noise, but for rounding."""
    kwargs = {"noise_schedule": "cosine", "sigma_small": True, "timestep_respacing": respacing}
    diffusion = create_gaussian_diffusion(steps=1000, **kwargs)
    given = {"noise": NOISE, "randn": torch.cos}
    ancestral = diffusion.p_sample_loop(toy_eps, NOISE.shape, **given)
    ddim = diffusion.ddim_sample_loop(toy_eps, NOISE.shape, eta=1.0, **given)
    torch.testing.assert_close(ancestral, ddim, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_more_noise_than_ddpms_or_less_than_none_is_refused(eta):
    with pytest.raises(ValueError, match="expected 0, which adds no noise, to 1"):
        chain("50").ddim_sample(toy_eps, NOISE, T[:1].expand(len(NOISE)), eta=eta)


def test_guidance_moves_the_mean_by_the_variance():
    diffusion = chain("100")
    given = {"clip_denoised": False, "randn": torch.cos, "model_kwargs": {"y": 3}}

    def network(x, t, y):
        return toy(x, t) + y

    p = diffusion.p_mean_variance(network, X_START, T, model_kwargs={"y": 3})
    plain = diffusion.p_sample(network, X_START, T, **given)
    guided = diffusion.p_sample(network, X_START, T, cond_fn=lambda x, t, y: y * x, **given)
    shift = 3 * p["variance"] * X_START
    torch.testing.assert_close(guided["sample"], plain["sample"] + shift)


@pytest.mark.parametrize("sampler", ["ddim_sample", "dpmpp_sample"])
def test_guidance_moves_the_noise_by_the_gradient(sampler):
    diffusion = chain("100")

    def moved(x, t):
        eps, values = toy(x, t).split(3, dim=1)
        sigma = torch.tensor(diffusion.sqrt_one_minus_alphas_cumprod)[T].view(-1, 1, 1, 1)
        return torch.cat([eps - sigma.float() * toy_cond(x, t), values], dim=1)

    step = getattr(diffusion, sampler)
    found = step(toy, X_START, T, clip_denoised=False, cond_fn=toy_cond)
    expected = step(moved, X_START, T, clip_denoised=False)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5)


def test_ddim_goes_back_the_way_it_came():
    diffusion, network = knowing(200)
    x = X_START
    for t in range(199):
        step = torch.tensor([t, t])
        x = diffusion.ddim_reverse_sample(network, x, step, clip_denoised=False)["sample"]
    reverse = flow(diffusion, x)
    torch.testing.assert_close(reverse, X_START.to(reverse), rtol=0, atol=0.02)
    back = diffusion.ddim_sample_loop(network, x.shape, noise=x, clip_denoised=False)
    torch.testing.assert_close(back, X_START.to(back), rtol=0, atol=0.03)
    with pytest.raises(ValueError, match="eta is 0.5"):
        diffusion.ddim_reverse_sample(network, x, T, eta=0.5)


@pytest.mark.parametrize("cond_fn", [None, toy_cond])
@pytest.mark.parametrize("sampler", ["p_sample", "ddim_sample", "dpmpp_sample"])
def test_eps_is_scaled_once(sampler, cond_fn):
    """Scaled sampling is sampling from a network that is divided by hand."""
    scaled, plain = chain("100", eps_scaler=1.1, eps_scaler_slope=0.003), chain("100")

    def divided(x, t):
        eps, values = toy(x, t).split(3, dim=1)
        steps = torch.searchsorted(torch.tensor(plain.timestep_map), t)
        return torch.cat([eps / (1.1 + 0.003 * steps).view(-1, 1, 1, 1), values], dim=1)

    x_t = plain.q_sample(X_START, T, NOISE)
    more = {"randn": torch.cos} if sampler != "dpmpp_sample" else {"previous_xstart": X_START}
    more |= {"cond_fn": cond_fn, "clip_denoised": False}
    found = getattr(scaled, sampler)(toy, x_t, T, **more)
    expected = getattr(plain, sampler)(divided, x_t, T, **more)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-6, atol=1e-6)
    unscaled = getattr(plain, sampler)(toy, x_t, T, **more)
    assert not torch.allclose(found["sample"], unscaled["sample"], rtol=1e-3)


def test_eps_is_scaled_on_the_way_back_too():
    def longer(x, t):
        return toy(x, t) * torch.tensor([1.1] * 3 + [1.0] * 3).view(-1, 1, 1)

    scaled, plain = chain("100", eps_scaler=1.1), chain("100")
    found = scaled.ddim_reverse_sample(longer, X_START, T, clip_denoised=False)
    expected = plain.ddim_reverse_sample(toy, X_START, T, clip_denoised=False)
    torch.testing.assert_close(found["sample"], expected["sample"])


@pytest.mark.parametrize("loop", LOOPS[:2])
def test_noise_is_drawn_in_guided_diffusions_order(loop):
    """x_T by randn, then one randn_like a step, also where it counts for nothing."""
    diffusion = chain("10")
    torch.manual_seed(3)
    sample = getattr(diffusion, loop)(toy, (2, 3, 4, 4), device="cpu")
    state = torch.get_rng_state()

    torch.manual_seed(3)
    x = torch.randn(2, 3, 4, 4)
    step = diffusion.p_sample if loop == "p_sample_loop" else diffusion.ddim_sample
    for t in reversed(range(10)):
        noise = torch.randn(2, 3, 4, 4)
        x = step(toy, x, torch.tensor([t, t]), randn=lambda x: noise)["sample"]  # noqa: B023
    assert torch.equal(sample, x) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_image_can_have_its_own_generator(loop):
    def walk(images):
        generators = [torch.Generator().manual_seed(i) for i in images]

        def randn(x):
            return torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])

        noise = randn(torch.empty(len(images), 3, 4, 4))
        return getattr(chain("10"), loop)(toy, noise.shape, noise=noise, randn=randn)

    torch.testing.assert_close(walk([0, 1, 2])[1:], walk([1, 2]))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_yields_its_steps(loop):
    diffusion, weight = chain("10"), torch.nn.Parameter(torch.ones(()))

    def network(x, t):
        return weight * toy(x, t)

    outs = []
    walk = getattr(diffusion, f"{loop}_progressive")
    for out in walk(network, X_START.shape, noise=NOISE, randn=torch.cos):
        assert torch.is_grad_enabled() and not out["sample"].requires_grad
        assert out["pred_xstart"].abs().max() <= 1
        outs.append(out)
    assert len(outs) == 10
    last = getattr(diffusion, loop)(network, X_START.shape, noise=NOISE, randn=torch.cos)
    assert torch.equal(outs[-1]["sample"], last)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_runs_where_the_network_is_and_never_waits_for_it(loop):
    """A meta tensor has no values: reading one on the host, as .item() does, is an error."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3, device="meta"))

        def forward(self, x, t):
            assert x.device.type == t.device.type == "meta" and t.shape == (2,)
            return torch.cat([x, x], dim=1)

    sample = getattr(chain("10"), loop)(Network(), (2, 3, 4, 4), cond_fn=lambda x, t: x)
    assert sample.device.type == "meta"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_progress_bar_counts_the_steps(loop, capsys):
    getattr(chain("10"), loop)(toy, X_START.shape, noise=NOISE, progress=True)
    assert "10/10" in capsys.readouterr().err
