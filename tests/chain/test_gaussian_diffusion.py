"""q against Bayes, p and the losses against guided-diffusion's numbers and closed forms."""

import math

import numpy as np
import pytest
import torch
from chains import GOLDEN, NOISE, X_START, assert_golden, chain, toy, toy_eps
from torch.distributions import Normal, kl_divergence

from flatdiff.chain import gaussian_diffusion as gd
from flatdiff.chain.gaussian_diffusion import LossType, ModelMeanType, ModelVarType

T = torch.tensor([0, 500])
FIXED = {"var": ModelVarType.FIXED_LARGE}


@pytest.mark.parametrize(("name", "clip"), [("pmv_r100_clip", True), ("pmv_r100_noclip", False)])
def test_p_is_guided_diffusions(name, clip):
    diffusion = chain("100")
    t = torch.tensor([0, 50])
    x_t = diffusion.q_sample(X_START, t, NOISE)
    found = diffusion.p_mean_variance(toy, x_t, t, clip_denoised=clip)
    assert found.keys() == GOLDEN[name].keys()
    for key, expected in GOLDEN[name].items():
        assert_golden(found[key], expected)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("loss_mse_fixedlarge", FIXED),
        ("loss_mse_learn", {}),
        ("loss_rescaled_mse_learn", {"loss": LossType.RESCALED_MSE}),
        ("loss_kl_learn", {"loss": LossType.RESCALED_KL}),
        ("loss_kl_fixedlarge", {"loss": LossType.RESCALED_KL, **FIXED}),
        ("loss_xstart_learn", {"mean": ModelMeanType.START_X}),
        ("loss_learn_rescale_t", {"rescale_timesteps": True}),
        ("loss_resp100_rescaled", {"respacing": "100", "loss": LossType.RESCALED_MSE}),
    ],
)
def test_losses_are_guided_diffusions(name, settings):
    expected = GOLDEN[name]
    seen = []

    def network(x, t):
        seen.append([str(t.dtype), t.tolist()])
        return (toy_eps if "fixed" in name else toy)(x, t)

    t = torch.tensor(expected["t"])
    # In fp32 terms of order 1 cancel to a KL of 1e-3, whose sixth digit is the processor's; where
    # the golden number is not itself such a rounding, fp64 has it to the sixth digit everywhere.
    exact = {"loss_mse_learn", "loss_rescaled_mse_learn", "loss_kl_learn", "loss_learn_rescale_t"}
    rounded = 1e-5 if name in exact | {"loss_xstart_learn"} else 1e-6
    for dtype, rtol in [(torch.float32, rounded)] + [(torch.float64, 1e-6)] * (name in exact):
        x_start, noise = X_START.to(dtype), NOISE.to(dtype)
        terms = chain(**settings).training_losses(network, x_start, t, noise=noise)
        assert terms.keys() == expected.keys() - {"t", "t_seen"}
        for key, term in terms.items():
            np.testing.assert_allclose(term, expected[key], rtol=rtol if key != "mse" else 1e-6)
        assert seen.pop() == expected["t_seen"] and not seen


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_prior_bpd_is_guided_diffusions(schedule):
    diffusion = chain("", schedule=schedule)
    found = diffusion._prior_bpd(X_START)
    np.testing.assert_allclose(found, GOLDEN[f"prior_bpd_{schedule}1000"], rtol=1e-6)


def test_plain_kl_is_the_rescaled_one_over_steps():
    plain, rescaled = (
        chain(loss=loss).training_losses(toy, X_START, T, noise=NOISE)["loss"]
        for loss in (LossType.KL, LossType.RESCALED_KL)
    )
    torch.testing.assert_close(1000 * plain, rescaled)


def test_rescaled_timesteps_without_respacing():
    diffusion = gd.GaussianDiffusion(
        betas=gd.get_named_beta_schedule("cosine", 4000),
        model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.FIXED_LARGE,
        loss_type=LossType.MSE,
        rescale_timesteps=True,
    )
    seen = []
    diffusion.training_losses(lambda x, t: seen.append(t) or x, X_START, torch.tensor([0, 2002]))
    torch.testing.assert_close(seen[0], torch.tensor([0.0, 500.5]))


def test_variances_lie_where_their_types_say():
    t = torch.tensor([0, 50])

    def log_variance(var, values=None):
        def network(x, t):
            return x if values is None else torch.cat([x, torch.full_like(x, values)], dim=1)

        p = chain("100", var=var).p_mean_variance(network, X_START, t)
        torch.testing.assert_close(p["log_variance"], p["variance"].log())
        return p["log_variance"][:, 0, 0, 0]

    tables = chain("100")
    small = tables.posterior_log_variance_clipped[t]
    large = np.log(tables.betas[t])
    for found, expected in [
        (log_variance(ModelVarType.LEARNED_RANGE, -1.0), small),
        (log_variance(ModelVarType.LEARNED_RANGE, 1.0), large),
        (log_variance(ModelVarType.LEARNED_RANGE, 0.0), (small + large) / 2),
        (log_variance(ModelVarType.LEARNED, -0.7), [-0.7, -0.7]),
        (log_variance(ModelVarType.FIXED_LARGE), [small[0], large[1]]),
    ]:
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    small_p = chain("100", var=ModelVarType.FIXED_SMALL).p_mean_variance(toy_eps, X_START, t)
    np.testing.assert_allclose(small_p["variance"][:, 0, 0, 0], tables.posterior_variance[t])
    np.testing.assert_allclose(small_p["log_variance"][:, 0, 0, 0], small, rtol=1e-6)


@pytest.mark.parametrize("mean", list(ModelMeanType))
def test_a_network_that_knows_the_image_is_read_right(mean):
    diffusion = chain("100", mean=mean, var=ModelVarType.FIXED_SMALL)
    t = torch.tensor([3, 50])
    x_t = diffusion.q_sample(X_START, t, NOISE)
    posterior = diffusion.q_posterior_mean_variance(X_START, x_t, t)[0]
    abar = torch.from_numpy(diffusion.alphas_cumprod)[t].float().view(-1, 1, 1, 1)
    velocity = abar.sqrt() * NOISE - (1 - abar).sqrt() * X_START
    answers = {"PREVIOUS_X": posterior, "START_X": X_START, "EPSILON": NOISE, "VELOCITY": velocity}
    answer = answers[mean.name]
    p = diffusion.p_mean_variance(lambda x, t: answer, x_t, t)
    torch.testing.assert_close(p["pred_xstart"], X_START, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(p["mean"], posterior, rtol=1e-4, atol=1e-5)
    terms = diffusion.training_losses(lambda x, t: answer, X_START, t, noise=NOISE)
    assert (terms["loss"] < 1e-9).all()


def test_denoised_fn_comes_before_the_clamp():
    diffusion = chain("100")
    p = diffusion.p_mean_variance(
        toy, X_START, torch.tensor([3, 50]), denoised_fn=lambda x_0: x_0 + 3
    )
    assert (p["pred_xstart"] == 1).all()


def test_vb_is_the_kl_of_the_two_posteriors():
    diffusion = chain("100", loss=LossType.KL)
    t = torch.tensor([1, 50])
    x_t = diffusion.q_sample(X_START, t, NOISE)
    mean, variance, _ = diffusion.q_posterior_mean_variance(X_START, x_t, t)
    p = diffusion.p_mean_variance(toy, x_t, t, clip_denoised=False)
    q, p = Normal(mean, variance.sqrt()), Normal(p["mean"], p["variance"].sqrt())
    expected = kl_divergence(q, p).mean(dim=(1, 2, 3)) / math.log(2)
    found = diffusion.training_losses(toy, X_START, t, noise=NOISE)["loss"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_vb_leaves_the_mean_alone():
    mean, values = (torch.ones_like(X_START, requires_grad=True) for _ in range(2))
    terms = chain().training_losses(
        lambda x, t: torch.cat([mean * x, values], dim=1), X_START, T, noise=NOISE
    )
    of_vb = torch.autograd.grad(terms["vb"].sum(), [mean, values], retain_graph=True)
    of_mse = torch.autograd.grad(terms["mse"].sum(), [mean, values])
    assert (of_vb[0] == 0).all() and (of_vb[1] != 0).any()
    assert (of_mse[0] != 0).any() and (of_mse[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_ends_at_the_network(dtype):
    def half(x, t):
        return toy(x, t).to(dtype)

    terms = chain().training_losses(half, X_START, T, noise=NOISE)
    expected = chain().training_losses(lambda x, t: half(x, t).float(), X_START, T, noise=NOISE)
    for key, term in terms.items():
        assert term.dtype == torch.float32 and torch.equal(term, expected[key])


def test_a_network_of_other_width_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\) where \(2, 6, 4, 4\).*learn_sigma"):
        chain().training_losses(toy_eps, X_START, T)
    with pytest.raises(ValueError, match=r"\(2, 6, 4, 4\) where \(2, 3, 4, 4\).*FIXED_LARGE"):
        chain(**FIXED).p_mean_variance(toy, X_START, T)


def test_input_perturbation_moves_the_input_and_not_the_target():
    diffusion, xi = chain(input_pertub=0.15, **FIXED), torch.cos(2.1 * NOISE)
    seen = []

    def network(x, t):
        seen.append(x)
        return 0.5 * x

    terms = diffusion.training_losses(network, X_START, T, noise=NOISE, input_noise=xi)
    x_t = diffusion.q_sample(X_START, T, NOISE + 0.15 * xi)
    assert torch.equal(seen[0], x_t)
    torch.testing.assert_close(terms["mse"], ((NOISE - 0.5 * x_t) ** 2).mean(dim=(1, 2, 3)))

    torch.manual_seed(1)
    drawn = diffusion.training_losses(network, X_START, T)["loss"]
    torch.manual_seed(1)
    noise, xi = torch.randn_like(X_START), torch.randn_like(X_START)
    given = diffusion.training_losses(network, X_START, T, noise=noise, input_noise=xi)["loss"]
    assert torch.equal(drawn, given)


def test_input_perturbation_reaches_the_bound():
    xi, t = torch.cos(2.1 * NOISE), torch.tensor([3, 50])
    perturbed = chain("100", loss=LossType.KL, input_pertub=0.15)
    plain = chain("100", loss=LossType.KL)
    found = perturbed.training_losses(toy, X_START, t, noise=NOISE, input_noise=xi)
    expected = plain.training_losses(toy, X_START, t, noise=NOISE + 0.15 * xi)
    assert torch.equal(found["loss"], expected["loss"])


def test_knobs_that_are_off_change_and_draw_nothing():
    off = chain(eps_scaler=1.0, eps_scaler_slope=0.0, input_pertub=0.0)
    torch.manual_seed(0)
    expected = chain().training_losses(toy, X_START, T)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    found = off.training_losses(toy, X_START, T, input_noise=NOISE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    torch.manual_seed(0)
    torch.randn_like(X_START)
    assert torch.equal(torch.get_rng_state(), state)


def test_eps_scaler_touches_neither_training_nor_bounds():
    plain, scaled = chain("20"), chain("20", eps_scaler=1.02, eps_scaler_slope=0.01)
    t = torch.tensor([0, 10])
    for evaluate in (
        lambda d: d.training_losses(toy, X_START, t, noise=NOISE),
        lambda d: d.p_mean_variance(toy, X_START, t),
        lambda d: d.calc_bpd_loop(toy, X_START, randn=lambda x: NOISE),
    ):
        expected, found = evaluate(plain), evaluate(scaled)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"eps_scaler": 0.0}, "eps_scaler 0.0 .*above 0"),
        ({"eps_scaler_slope": -0.1}, "by -0.9.* at some step of 0 .. 19"),
        ({"input_pertub": -0.1}, "input_pertub is -0.1"),
        ({"eps_scaler": 1.01, "mean": ModelMeanType.START_X}, "predicts START_X"),
        ({"eps_scaler_slope": 0.01, "mean": ModelMeanType.PREVIOUS_X}, "predicts PREVIOUS_X"),
    ],
)
def test_bad_knobs_are_refused(knobs, words):
    with pytest.raises(ValueError, match=words):
        chain("20", **knobs)
    chain("20", mean=ModelMeanType.START_X)


def test_bpd_of_a_network_that_knows_the_image():
    diffusion = chain("50", mean=ModelMeanType.START_X, var=ModelVarType.FIXED_SMALL)
    images = torch.randint(1, 255, X_START.shape) / 127.5 - 1
    terms = diffusion.calc_bpd_loop(lambda x, t: images, images)
    abar, nearly = diffusion.alphas_cumprod[-1], diffusion.posterior_variance[1]
    last = Normal(math.sqrt(abar) * images.double(), math.sqrt(1 - abar))
    prior = kl_divergence(last, Normal(0.0, 1.0)).mean(dim=(1, 2, 3)) / math.log(2)
    torch.testing.assert_close(terms["prior_bpd"], prior.float(), rtol=1e-4, atol=1e-9)
    assert (terms["vb"][:, :-1].abs() < 1e-5).all()
    mass = math.erf(1 / 255 / math.sqrt(2 * nearly))
    torch.testing.assert_close(
        terms["vb"][:, -1], torch.full((2,), -math.log2(mass)), rtol=1e-3, atol=0
    )
    assert (terms["xstart_mse"] == 0).all() and (terms["mse"] < 1e-5).all()


@pytest.mark.parametrize("at_once", [1, 6])
def test_bpd_counts_down_and_adds_up(at_once):
    diffusion = chain("ddim20", loss=LossType.KL)  # it ends well before pure noise
    noises = [torch.randn_like(X_START) for _ in range(20)]
    queue = iter(noises)
    given = {"clip_denoised": False, "randn": lambda x: next(queue), "at_once": at_once}
    terms = diffusion.calc_bpd_loop(toy, X_START, **given)
    for column, noise in enumerate(noises):
        t = torch.full((2,), 19 - column)
        expected = diffusion.training_losses(toy, X_START, t, noise=noise)["loss"]
        assert torch.equal(terms["vb"][:, column], expected)
    total = terms["vb"].sum(dim=1) + terms["prior_bpd"]
    assert torch.equal(terms["total_bpd"], total) and (terms["prior_bpd"] > 1e-3).all()
    assert terms["mse"].shape == terms["xstart_mse"].shape == (2, 20)


def test_training_never_waits_for_the_device():
    """A meta tensor has no values: reading one on the host, as .item() does, is an error."""
    x_start, t = torch.empty(2, 3, 4, 4, device="meta"), torch.zeros(2, dtype=int, device="meta")
    terms = chain("100", input_pertub=0.1).training_losses(toy, x_start, t)
    assert terms["loss"].shape == (2,) and terms["loss"].device.type == "meta"


def test_training_works_after_inference_mode():
    diffusion, weight = chain(), torch.ones((), requires_grad=True)
    with torch.inference_mode():
        diffusion.training_losses(toy, X_START, T)
    diffusion.training_losses(lambda x, t: weight * toy(x, t), X_START, T)["loss"].sum().backward()
    assert weight.grad.isfinite()


def test_losses_are_fit_for_functional_derivatives():
    direction = {"scale": torch.tensor(1.0)}

    def loss(weights):
        terms = chain().training_losses(
            lambda x, t: weights["scale"] * toy(x, t), X_START, T, noise=NOISE
        )
        return terms["loss"].sum()

    gradient = torch.func.grad(loss)(direction)["scale"]
    _, tangent = torch.func.jvp(loss, (direction,), (direction,))
    torch.testing.assert_close(gradient, tangent)
