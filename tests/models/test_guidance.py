"""Guidance without a classifier: one batched call, linear in what is predicted; normals."""

import math

import numpy as np
import pytest
import small
import torch

from flatdiff.chain import samplers, solvers
from flatdiff.chain.levels import Levels
from flatdiff.flags import config
from flatdiff.models import generate, networks
from flatdiff.models.factories import create_model
from flatdiff.models.guidance import guided
from flatdiff.nets.unet import SuperResModel


@pytest.fixture
def model():
    net, _ = small.network(class_cond=True, num_classes=3, class_dropout=0.1)
    return net.eval()


def test_the_output_goes_beyond_that_with_the_label(model):
    x, t, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 5, 20, 39]), torch.tensor([0, 2, 1, 2])
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        told, untold = (model(x, t, y=labels) for labels in (y, torch.full_like(y, 3)))
        calls.clear()
        found = guided(model, 2.5)(x, t, y=y)
    assert len(calls) == 1
    wanted = untold[:, :3] + 2.5 * (told[:, :3] - untold[:, :3])
    torch.testing.assert_close(found[:, :3], wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, 3:], told[:, 3:], rtol=1e-4, atol=1e-4)
    assert guided(model, 1) is model


class Normals:
    """Two classes, N(-m, s^2) and N(m, s^2), and both together without a label, by one normal."""

    num_classes, null_label = 2, True
    spread, means = 0.3, torch.tensor([-0.4, 0.4, 0.0])

    def __init__(self, chain):
        self.chain = chain

    def __call__(self, seen, times, y):
        c, t = (
            self.chain,
            torch.tensor([int(np.abs(self.chain.times - float(i)).argmin()) for i in times]),
        )
        x = seen / c._at("x_scale", t, seen)
        alpha, sigma = (c._at(name, t, x) for name in ("alphas", "sigmas"))
        mean = self.means[y].view(-1, 1, 1, 1)
        x_start = mean + alpha * self.spread**2 / (alpha**2 * self.spread**2 + sigma**2) * (
            x - alpha * mean
        )
        eps = (x - alpha * x_start) / sigma
        return c._at("to_x", t, x) * x_start + c._at("to_eps", t, x) * eps


@pytest.mark.parametrize(
    ("path", "predicts"), [("vp", "eps"), ("vp", "v"), ("flow", "v"), ("edm", "F")]
)
@pytest.mark.parametrize("step", [samplers.ddim_sample, solvers.heun_sample, samplers.p_sample])
def test_guided_normals_are_normals_of_a_further_mean(path, predicts, step):
    """Of equal spreads, untold + w (told - untold) is the guess for the mean w m."""
    chain = Levels(np.linspace(10, -10, 120), path, predicts)
    x = samplers.begun(chain, torch.randn(1000, 1, 2, 2))
    given = {"clip_denoised": False, "model_kwargs": {"y": torch.ones(1000, dtype=int)}}
    network = guided(Normals(chain), 1.5)
    found = samplers.last(samplers.walk(chain, step, network, x.shape, x, **given))
    assert found.mean() == pytest.approx(0.6, abs=4 * 0.3 / math.sqrt(4000) + 0.01)
    assert found.std() == pytest.approx(0.3, abs=0.015)


def test_networks_that_cannot_be_guided_are_refused():
    for flags in ({}, {"class_cond": True, "num_classes": 3}):
        net, _ = small.network(**flags)
        with pytest.raises(ValueError, match="--guidance_scale 2 .* --class_dropout"):
            guided(net, 2)
        assert guided(net, 1.0) is net


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_of_labels_is_one(share):
    with pytest.raises(ValueError, match="expected a share of the labels"):
        create_model(8, 32, 1, channel_mult="1", class_cond=True, class_dropout=share)
    with pytest.raises(ValueError, match="above 0 only with class_cond True"):
        create_model(8, 32, 1, channel_mult="1", class_dropout=0.1)


def test_the_null_label_is_a_row_more_and_nothing_else():
    plain, told = (
        networks.build(*small.groups(class_cond=True, num_classes=3, class_dropout=share))[0]
        for share in (0.0, 0.2)
    )
    shapes = [{k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (plain, told)]
    assert {k for k in shapes[0] if shapes[0][k] != shapes[1][k]} == {"label_emb.weight"}
    assert shapes[1]["label_emb.weight"][0] == 4 and told.num_classes == 3


@pytest.mark.parametrize("kind", ["unet", "vit", SuperResModel])
def test_every_network_has_a_null_label(kind):
    how = {"channel_mult": "1", "network": kind, "num_layers": 1, "num_heads": 4}
    net = create_model(8, 32, 1, **how, class_cond=True, num_classes=3, class_dropout=0.1)
    assert net.null_label and net.label_emb.weight.shape[0] == 4
    given = {"low_res": torch.randn(2, 3, 4, 4)} if kind is SuperResModel else {}
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([3, 7]), torch.tensor([0, 2])
    assert guided(net.eval(), 2.0)(x, t, y=y, **given).shape == x.shape


def test_a_network_without_the_argument_is_refused(monkeypatch):
    class Plain(torch.nn.Module):
        def __init__(self, num_classes=None):
            super().__init__()

    with pytest.raises(ValueError, match="Plain has no null_label: leave it at 0"):
        create_model(8, 32, 1, network=Plain, class_cond=True, class_dropout=0.1)


def test_images_are_drawn_with_guidance_by_the_flag(model):
    model.classes = ()
    _, chain = small.network(timestep_respacing="5")
    groups = {"sample": config.SampleFlags, "run": config.RunFlags, "model": config.ModelFlags}
    images = {}
    for scale in ("1", "3"):
        flags = config.parse("", ["--guidance_scale", scale, "--class_labels", "0,2"], **groups)
        images[scale], y = generate.sampler(model, chain, flags)(range(4))
        assert y.tolist() == [0, 2, 0, 2]
    assert (images["1"] != images["3"]).mean() > 0.3
