"""Samples at moved weights of a linear denoiser of Gaussian data, in closed form; and the judge."""

import math

import numpy as np
import pytest
import torch
from chains import chain
from exact import MEAN, VARIANCE

from flatdiff.chain.gaussian_diffusion import ModelVarType
from flatdiff.data.image_datasets import to_uint8
from flatdiff.judge import evaluate
from flatdiff.judge.features import Features
from flatdiff.judge.frechet import statistics
from flatdiff.measure import moves, perturbed_samples
from flatdiff.measure.chains import of_chain
from flatdiff.measure.finished import Finished
from flatdiff.measure.found import measured
from flatdiff.measure.perturbed_samples import PERTURBED, Sampled
from flatdiff.models import generate

SIDE, N, BATCH, SEED = 6, 200, 80, 4
SHAPE = (3, SIDE, SIDE)
CHAIN = chain(steps=100, var=ModelVarType.FIXED_SMALL)
SHORT = chain("8", steps=100, var=ModelVarType.FIXED_SMALL)
ENDS = {"average_path": "another.pt", "num_draws": 1}


class Exact(torch.nn.Module):
    """The best guess of the noise of `exact.Exact`, with its scale and its mean as weights."""

    image_size, num_classes = SIDE, None

    def __init__(self, scale=1.0, mean=MEAN):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([scale, mean]))
        self.abar = torch.from_numpy(CHAIN.alphas_cumprod)

    def forward(self, x, t):
        abar = self.abar[t].view(-1, 1, 1, 1).float()
        signal = abar.sqrt() * self.weights[1]
        slope = (1 - abar).sqrt() / (abar * VARIANCE + 1 - abar)
        return self.weights[0] * slope * (x - signal)


class Moments(torch.nn.Module):
    """The means of channels, and those of the pixels of two quarters."""

    dim = 5

    def forward(self, images):
        x = images.float() / 100
        parts = [x.mean((2, 3)), x[:, :1, :3, :3].mean((2, 3)), x[:, 2:, 3:].mean((2, 3))]
        return {"pool": torch.cat(parts, dim=1)}


FEATURES = Features("means", Moments(), "")


def data(seed, count=100):
    generator = torch.Generator().manual_seed(seed)
    return MEAN + VARIANCE**0.5 * torch.randn(count, *SHAPE, generator=generator)


def sampled(net, others=None, batch_size=BATCH):
    images = data(1), {}, 100
    subject = of_chain("exact", "", net, CHAIN, images, seed=SEED, batch_size=50)
    subject.hidden = True
    start = moves.Start(subject, others)

    def walk(indices):
        how = {"seed": SEED, "sampler": "ddim", "clip_denoised": False}
        return (out["sample"] for out in generate.walks(net, SHORT, indices, SHAPE, **how))

    pool = Moments()(to_uint8(data(2, 1000)).permute(0, 3, 1, 2))["pool"]
    return Sampled(start, walk, N, batch_size, FEATURES, statistics(pool), "key")


def found_of(subject, measure):
    with Finished("", hidden=True) as finished:
        return measured(measure, subject, finished)


OTHERS = [torch.tensor([1.3, 0.5])]


@pytest.fixture(scope="module")
def found():
    measure = PERTURBED(moves="towards share=0.5,towards share=1,climb", **ENDS)
    return found_of(sampled(Exact().eval(), OTHERS), measure)[0]


def path_of(scale, mean, x):
    """x_{t-1} at t = T-1 .. 0 of DDIM, float64: linear in x (Song et al. 2020, equation 12)."""
    found = []
    for abar, before in zip(SHORT.alphas_cumprod[::-1], SHORT.alphas_cumprod_prev[::-1]):
        eps = scale * math.sqrt(1 - abar) / (abar * VARIANCE + 1 - abar)
        eps = eps * (x - math.sqrt(abar) * mean)
        x_start = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        x = math.sqrt(before) * x_start + math.sqrt(1 - before) * eps
        found.append(x)
    return np.stack(found)


def x_T():
    noise = generate.ImageNoise(SEED, range(N), "cpu")(torch.empty(N, *SHAPE))
    return noise.double().numpy()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_divergence_is_the_closed_form_along_the_chain(found, share):
    start, end = np.array([1.0, MEAN]), np.array([1.3, 0.5])
    moved = (1 - share) * start + share * end
    noise = x_T()
    off = path_of(*moved, noise) - path_of(*start, noise)
    rms = np.sqrt((off**2).mean(axis=(2, 3, 4)))  # [T, N]
    (move,) = [m for m in found["moves"] if m["kind"] == "towards" and m["size"] == share]
    assert move["distance"] == pytest.approx(np.linalg.norm(moved - start), rel=1e-5)
    np.testing.assert_allclose(move["path"]["value"], rms.mean(axis=1), rtol=2e-4)
    error = rms.std(axis=1, ddof=1) / math.sqrt(N)
    np.testing.assert_allclose(move["path"]["error"], error, rtol=2e-3)
    assert move["divergence"]["value"] == pytest.approx(rms[-1].mean(), rel=2e-4)
    # of noise of which nothing is known: a x_T + b has the mean square a^2 + b^2
    a, b = (path_of(*moved, np.array(v)) - path_of(*start, np.array(v)) for v in (1.0, 0.0))
    expected = math.sqrt((a[-1] - b[-1]) ** 2 + b[-1] ** 2)
    assert move["divergence"]["value"] == pytest.approx(expected, rel=0.02)


def test_distances_are_the_judges_and_losses_those_of_the_subject(found):
    real = to_uint8(data(2, 1000)).numpy()
    pictures = {}
    for name, weights in (("w", (1.0, MEAN)), ("moved", (1.3, 0.5))):
        x = path_of(*weights, x_T())[-1]
        pictures[name] = to_uint8(torch.from_numpy(x).float()).numpy()
    metrics = {
        name: evaluate.evaluate(real, images, FEATURES, cache_dir="")["metrics"]["FD-means"]
        for name, images in pictures.items()
    }
    (move,) = [m for m in found["moves"] if m["kind"] == "towards" and m["size"] == 1]
    assert found["fd"] == pytest.approx(metrics["w"], rel=5e-3)
    assert move["fd"] == pytest.approx(metrics["moved"], rel=5e-3)
    assert move["fd_rise"] == pytest.approx(move["fd"] - found["fd"], abs=1e-12)
    other = sampled(Exact(1.3, 0.5).eval()).start.subject
    own = sampled(Exact().eval()).start.subject
    rises = other.own[:1] - own.own[:1]
    assert move["rise"] == pytest.approx(float(own.means(rises)[0, 0]), rel=1e-5)
    assert move["rise_error"] == pytest.approx(float(own.errors_of(rises)[0, 0]), rel=1e-4)


def test_batches_make_no_difference_but_to_how_many_paths_are_kept(found, monkeypatch):
    monkeypatch.setattr(perturbed_samples, "ALONG", 60)
    measure = PERTURBED(moves="towards share=1", **ENDS)
    other = found_of(sampled(Exact().eval(), OTHERS, batch_size=33), measure)[0]["moves"][0]
    (move,) = [m for m in found["moves"] if m["kind"] == "towards" and m["size"] == 1]
    for name in ("fd_rise", "fd_rise_error", "rise"):
        assert other[name] == pytest.approx(move[name], rel=1e-4)
    assert other["divergence"]["value"] == pytest.approx(move["divergence"]["value"], rel=1e-5)
    off = path_of(1.3, 0.5, x_T()[:66]) - path_of(1.0, MEAN, x_T()[:66])
    rms = np.sqrt((off**2).mean(axis=(2, 3, 4))).mean(axis=1)
    np.testing.assert_allclose(other["path"]["value"], rms, rtol=2e-4)


def test_the_number_is_of_all_moves_and_of_all_networks():
    measure = PERTURBED(moves="gaussian,climb,descent", **ENDS)
    models = [found_of(sampled(Exact(s).eval()), measure)[0] for s in (1.0, 1.1)]
    each = [m["correlation"] for m in models]
    both = measure.overall(0)
    assert [c["moves"] for c in each] == [9, 9] and both["moves"] == 18 and both["kinds"] == 3
    shown = PERTURBED.shown(models[0])
    climbs = [m["fd_rise"] for m in models[0]["moves"] if m["kind"] == "climb"]
    assert shown["correlation"] == each[0]["spearman"]
    assert shown["climb"] == pytest.approx(np.mean(climbs))
    lines = PERTURBED.lines(models[0])
    assert [line.title for line in lines] == ["gaussian", "climb", "descent"]
    assert all(line.x == sorted(line.x) for line in lines)


def test_a_network_that_diverges_is_told():
    subject = sampled(Exact().eval())
    subject.walk = lambda indices: iter([torch.full((len(indices), *SHAPE), math.nan)])
    with pytest.raises(ValueError, match="pixels of exact at w"):
        subject.walked("w")
