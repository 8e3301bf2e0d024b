"""Networks of every family against loops written by hand, and against closed forms."""

import importlib.util
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from foreign import CLOSE, ours, squares
from torch import nn

from flatdiff.exchange.families import family
from flatdiff.models.factories import create_gaussian_diffusion


class Preconditioned(nn.Module):
    """A denoiser of images around a network, as in Karras et al. 2022, equation 7."""

    def __init__(self, sigma_data=0.5):
        super().__init__()
        self.inside, self.sigma_data = nn.Conv2d(3, 3, 3, padding=1), sigma_data

    def forward(self, x, sigma):
        sigma = sigma.view(-1, 1, 1, 1)
        total = sigma**2 + self.sigma_data**2
        inner = torch.tanh(self.inside(x / total.sqrt()) + sigma.log() / 4)
        return self.sigma_data**2 / total * x + sigma * self.sigma_data / total.sqrt() * inner


@torch.no_grad()
def test_a_denoiser_of_edm():
    torch.manual_seed(0)
    net, x, noise = Preconditioned(), torch.randn(5, 3, 8, 8), torch.randn(5, 3, 8, 8)
    sigmas = torch.tensor([0.01, 0.2, 0.5, 2.0, 20.0])
    x_t = x + sigmas.view(-1, 1, 1, 1) * noise
    wanted = squares(net(x_t, sigmas) - x)
    asked = -2 * np.log(sigmas.double().numpy())
    torch.testing.assert_close(ours(family("edm", "x"), net, asked, x, noise)[1], wanted, **CLOSE)


class Vectors(nn.Module):
    """A velocity of vectors [N, 7], told s or a multiple of it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 7))

    def forward(self, x, s):
        return self.layers(torch.cat([x, s[:, None]], dim=1))


@torch.no_grad()
def test_flow_matching_on_vectors():
    torch.manual_seed(0)
    net, x, noise = Vectors(), torch.randn(5, 7), torch.randn(5, 7)
    s = torch.tensor([0.01, 0.3, 0.5, 0.9, 0.99])
    x_t = (1 - s[:, None]) * x + s[:, None] * noise
    asked = 2 * np.log((1 - s.double().numpy()) / s.double().numpy())
    found = ours(family("flow", "v"), net, asked, x, noise)[0]
    torch.testing.assert_close(found, squares(net(x_t, s) - (noise - x)), **CLOSE)
    found = ours(family("flow", "v", times=lambda s: 10 * s), net, asked, x, noise)[0]
    torch.testing.assert_close(found, squares(net(x_t, 10 * s) - (noise - x)), **CLOSE)
    towards_x = family(lambda t: (t, 1 - t), "v")  # t = 1 is the image, the velocity x - noise
    found = ours(towards_x, net, asked, x, noise)[0]
    torch.testing.assert_close(found, squares(net(x_t, 1 - s) - (x - noise)), **CLOSE)


@pytest.mark.parametrize("noise_schedule", ["linear", "cosine"])
@torch.no_grad()
def test_a_network_that_learns_its_variance_is_guided_diffusions(noise_schedule):
    torch.manual_seed(0)
    layer, x, noise = nn.Conv2d(3, 6, 3, padding=1), *torch.randn(2, 5, 3, 8, 8)
    net = lambda x, t: layer(x) + t.view(-1, 1, 1, 1) / 1000  # noqa: E731
    chain = create_gaussian_diffusion(learn_sigma=True, noise_schedule=noise_schedule)
    t = torch.tensor([0, 250, 500, 740, 999])
    wanted = chain.training_losses(net, x, t, noise=noise)["mse"]
    known = family(noise_schedule, "eps")
    torch.testing.assert_close(ours(known, net, chain.log_snr[t], x, noise)[0], wanted, **CLOSE)


class VP:
    """azula's VPSchedule."""

    def __call__(self, t):
        alpha = torch.exp(math.log(1e-3) * t**2)
        return alpha, torch.sqrt(1 - alpha**2 + 1e-6)


class Denoiser(nn.Module):
    """azula's protocol: (x_t, t, **kwargs) -> an object with the mean of x, and a schedule."""

    def __init__(self, backbone, schedule):
        super().__init__()
        self.backbone, self.schedule = backbone, schedule

    def forward(self, x_t, t, **kwargs):
        alpha, sigma = (v.view(-1, 1) for v in self.schedule(t))
        total = alpha**2 + sigma**2
        output = self.backbone(x_t / total.sqrt(), (sigma / alpha).log().flatten(), **kwargs)
        return SimpleNamespace(mean=alpha / total * x_t + sigma / total.sqrt() * output)


def denoisers():
    torch.manual_seed(0)
    found = [Denoiser(Vectors(), VP())]
    if importlib.util.find_spec("azula"):  # it needs torchvision, which needs its own torch
        from azula.denoise import KarrasDenoiser, SimpleDenoiser
        from azula.noise import CosineSchedule, DecaySchedule, RectifiedSchedule, VESchedule

        schedules = CosineSchedule(), DecaySchedule(), RectifiedSchedule(), VESchedule(1e-2, 50.0)
        found += [KarrasDenoiser(Vectors(), schedule) for schedule in schedules]
        found += [SimpleDenoiser(Vectors(), VP())]
    return found


@torch.no_grad()
def test_denoisers_of_azula():
    torch.manual_seed(1)
    x, noise, t = torch.randn(5, 7), torch.randn(5, 7), torch.tensor([0.0, 0.1, 0.4, 0.8, 1.0])
    for net in denoisers():
        alpha, sigma = (v[:, None] for v in net.schedule(t))
        wanted = squares(net(alpha * x + sigma * noise, t).mean - x)
        exact = (v.numpy() for v in net.schedule(t.double()))
        asked = 2 * np.subtract(*np.log(np.stack(list(exact))))
        torch.testing.assert_close(ours(family(net), net, asked, x, noise)[0], wanted, **CLOSE)


M, V = 0.2, 0.3  # mean and variance of Gaussian data


def x_of(x_t, alpha, sigma):
    """E[x_0 | x_t]."""
    return M + alpha * V / (alpha**2 * V + sigma**2) * (x_t - alpha * M)


def gaussian(name):
    """A family, and its best network for N(M, V): by what the network is told, and by hand."""
    betas = np.linspace(1e-4, 0.02, 1000)
    power = torch.tensor(np.cumprod(1 - betas))
    angle = lambda t: (torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2))  # noqa: E731

    def chain(seen, t, predicts):
        alpha, sigma = (v[:, None].float() for v in (power[t].sqrt(), (1 - power[t]).sqrt()))
        x = x_of(seen, alpha, sigma)
        eps = (seen - alpha * x) / sigma
        return {"eps": eps, "x": x, "v": alpha * eps - sigma * x}[predicts]

    def flow(seen, s):
        s = s[:, None]
        return (seen - x_of(seen, 1 - s, s)) / s

    def inside(seen, told):
        sigma = torch.exp(4 * told)[:, None]
        total = sigma**2 + 0.25
        x_t = total.sqrt() * seen
        return (x_of(x_t, 1, sigma) - 0.25 / total * x_t) * total.sqrt() / (sigma * 0.5)

    def circle(seen, t):
        alpha, sigma = angle(t[:, None])
        x = x_of(seen, alpha, sigma)
        return alpha * (seen - alpha * x) / sigma - sigma * x

    return {
        "linear": (family("linear", "eps"), lambda x, t: chain(x, t, "eps")),
        "chain-x": (family(power.numpy(), "x"), lambda x, t: chain(x, t, "x")),
        "chain-v": (family(power, "v"), lambda x, t: chain(x, t, "v")),
        "flow": (family("flow", "v"), flow),
        "backwards": (family(lambda t: (t, 1 - t), "v"), lambda x, t: -flow(x, 1 - t)),
        "edm": (family("edm", "x"), lambda x, s: x_of(x, 1, s[:, None])),
        "edm-F": (family("edm", "F"), inside),
        "circle": (family(angle, "v"), circle),
        "denoiser": (
            family(Denoiser(None, VP())),
            lambda x, t: SimpleNamespace(mean=x_of(x, *(v[:, None] for v in VP()(t)))),
        ),
    }[name]


@pytest.mark.parametrize(
    "name", "linear chain-x chain-v flow backwards edm edm-F circle denoiser".split()
)
def test_perfect_networks_of_gaussian_data_err_alike_at_every_log_snr(name):
    """By V / (1 + V e^lambda). The error is linear in x - M and eps: four points are a Gaussian."""
    known, net = gaussian(name)
    low, high = known.limits
    asked = np.linspace(max(low, -9), min(high, 9), 50)
    levels, taken = known.levels(asked)
    assert np.abs(taken - asked).max() < (0.3 if known.timesteps is not None else 1e-9)
    x = M + V**0.5 * torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(50)[:, None]
    noise = torch.tensor([1.0, -1.0, 1.0, -1.0]).repeat(50)[:, None]
    t = torch.arange(50).repeat_interleave(4)
    errors = levels.training_losses(known.network(net), x, t, noise=noise)["mse"]
    found = errors.double().view(50, 4).mean(dim=1).numpy() * levels.x_factor
    np.testing.assert_allclose(found, V / (1 + V * np.exp(taken)), rtol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "predicts", "message"),
    [
        ("sigmoid", "eps", "schedule is 'sigmoid'; expected one of linear, cosine, flow, edm, al"),
        (None, "eps", "schedule is None; expected one of"),
        ("flow", 3, "no network predicts '3' on 'flow'"),
        ("flow", "F", "no network predicts 'F' on 'flow'.*flow: v, x, eps"),
        ("linear", None, "predicts is missing: expected eps, x, v, or F"),
        ([0.5, 0.9], "eps", "alphas_cumprod is .*of shape .2,.; expected three or more"),
        (lambda t: (2 - t, t), "v", "no network predicts 'v' on 'any'.*any: x, eps"),
    ],
)
def test_what_is_no_family_is_refused(schedule, predicts, message):
    with pytest.raises(ValueError, match=message):
        family(schedule, predicts)


def test_a_family_says_the_rest_itself():
    known = family("edm", "-F")
    assert family(known) is not known and family(known).times([1.0]) == known.times([1.0])
    assert family(known, "x").predicts == "x" and family(known).predicts == "-F"
    told = family(family("flow", "v"), times=lambda s: 1000 * s)
    assert told.levels([0.0])[0].times == [500] and told.predicts == "v"
    backwards = family(lambda t: (t, 1 - t), "v")
    assert family(backwards).predicts == backwards.predicts == "-v"


def test_times_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"times gives \(\) for \(2,\) noise levels"):
        family("flow", "v", times=lambda s: s.mean()).levels([0.0, 1.0])
    with pytest.raises(ValueError, match=r"the schedule Vectors fails on a float64 tensor"):
        family(Vectors(), "v")


X = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    "give",
    [
        lambda x: x,
        lambda x: SimpleNamespace(sample=x),
        lambda x: SimpleNamespace(mean=x),
        lambda x: (x, None),
        lambda x: torch.cat([x, x + 1], dim=1),
        lambda x: (SimpleNamespace(sample=x).sample,),
    ],
)
def test_what_networks_give_is_unwrapped(give):
    network = family("flow", "v").network(lambda x, t: give(x + t.view(-1, 1, 1, 1)))
    assert torch.equal(network(X, torch.tensor([1.0, 2.0]))[:, 0, 0, 0], torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda x: None, "the network gives a NoneType; expected a tensor, an object with"),
        (lambda x: (), "gives a tuple"),
        (lambda x: {"a": x}, "gives a dict"),
        (lambda x: x[:, :, 1:], r"gives \(2, 3, 3, 4\) for \(2, 3, 4, 4\); expected the same, or"),
        (lambda x: x.mean(), r"gives \(\) for"),
        (lambda x: x.expand(4, 2, 3, 4, 4), r"gives \(4, 2, 3, 4, 4\) for"),
    ],
)
def test_what_is_no_guess_is_refused(give, message):
    network = family("flow", "v").network(lambda x, t: give(x))
    with pytest.raises(ValueError, match=message):
        network(X, torch.zeros(2))


def test_a_timestep_is_given_by_its_name():
    def forward(sample, encoder_hidden_states=None, timestep=None):
        return sample + timestep.view(-1, 1, 1, 1) * encoder_hidden_states

    network = family("flow", "v").network(forward)
    found = network(X, torch.tensor([1.0, 2.0]), encoder_hidden_states=torch.tensor(3.0))
    assert found[:, 0, 0, 0].tolist() == [3.0, 6.0]
