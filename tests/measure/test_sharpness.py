"""The largest rise in a ball, where it is known: of linear and of quadratic losses."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn

import flatdiff
from flatdiff.measure.sharpness import SHARPNESS, _gain, slope
from flatdiff.measure.subject import Subject

SCALES = ["absolute", "filter", "weight"]
SIZE = 6


class Weights(nn.Module):
    """Two filters of three weights, float64."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(2, 3, generator=g, dtype=torch.float64))


def units_of(scale):
    w = Weights().w.detach().numpy()
    norms = np.repeat(np.linalg.norm(w, axis=1), 3)
    return {"absolute": np.ones(SIZE), "filter": norms, "weight": abs(w.flatten())}[scale]


def subject(hessian, gradient):
    """Its loss is g . d + d.H d / 2 for the weights' move d, of two examples that differ."""
    net = Weights().eval()
    start, h, g = net.w.detach().clone(), *map(torch.from_numpy, (hessian, gradient))

    def loss(net, draws):
        d = (net.w - start).flatten()
        return draws * (g @ d + d @ h @ d / 2) + 1

    return flatdiff.subject(net, loss=loss, draws=torch.tensor([0.5, 1.5], dtype=torch.float64))


def found(of: Subject, measure):
    return measure.result(of, [task() for task in measure.tasks(of).values()])


@pytest.mark.parametrize("scale", SCALES)
def test_a_linear_loss_rises_by_the_dual_norm_of_its_gradient(scale):
    """In one step: rho || J g ||, as Kwon et al. say of their ball."""
    gradient = np.random.default_rng(0).standard_normal(SIZE)
    of = subject(np.zeros((SIZE, SIZE)), gradient)
    np.testing.assert_allclose(slope(of), gradient)
    m = found(of, SHARPNESS(noise_scale=scale, rho=0.3, steps=1))
    expected = 0.3 * np.linalg.norm(units_of(scale) * gradient)
    assert m["sharpness"] == pytest.approx(expected)
    assert m["error_images"] == pytest.approx(expected / 2)  # of 0.5 and 1.5 times it
    assert m["distance"] == pytest.approx(
        0.3 * np.linalg.norm(units_of(scale) ** 2 * gradient) / (expected / 0.3)
    )


@pytest.mark.parametrize("scale", SCALES)
def test_a_quadratic_rises_as_far_as_the_secular_equation_says(scale):
    """max b.u + u.M u / 2 over ||u|| = rho: (mu - M) u = b, mu beyond all eigenvalues."""
    draw = np.random.default_rng(1)
    root = draw.standard_normal((SIZE, SIZE))
    hessian, gradient, rho = root @ root.T, draw.standard_normal(SIZE), 0.5
    j = units_of(scale)
    m, b = j[:, None] * hessian * j, j * gradient
    at = lambda mu: np.linalg.solve(mu * np.eye(SIZE) - m, b)  # noqa: E731
    top = np.linalg.eigvalsh(m)[-1]
    mu = brentq(lambda mu: np.linalg.norm(at(mu)) - rho, top * (1 + 1e-9), top + 1e3)
    u = at(mu)
    told = found(subject(hessian, gradient), SHARPNESS(noise_scale=scale, rho=rho, steps=60))
    assert told["sharpness"] == pytest.approx(b @ u + u @ m @ u / 2, rel=1e-3)
    assert np.all(np.diff(told["rises"]) > -1e-12)  # no step goes down
    assert _gain(told["rises"]) < 0.01 < _gain(told["rises"][:2])


def test_at_the_door():
    of = subject(np.eye(SIZE), np.ones(SIZE))
    f = flatdiff.flatness(of, "SHARPNESS rho=0.2", noise_scale="weight", progress=False)
    (row,) = f.rows
    assert (row["kind"], row["size"], row["term"]) == ("SHARPNESS", 0.2, "loss")
    assert (
        row["value"] > 0
        and f.plot().axes
        and "gain" in f.measures["SHARPNESS"].text(f.records["SHARPNESS"])
    )
    (less,) = f.compare(f)
    assert less["difference"] == less["error"] == 0
    other = flatdiff.flatness(of, "SHARPNESS", noise_scale="absolute", progress=False)
    with pytest.raises(ValueError, match="nothing was measured of both"):
        f.compare(other)
    with pytest.raises(ValueError, match="Weights has no residual block"):
        flatdiff.flatness(of, "SHARPNESS", noise_scale="canonical", progress=False)
    for bad in ("rho=-1", "rho=inf", "steps=0"):
        with pytest.raises(ValueError, match="expected a radius"):
            flatdiff.flatness(of, f"SHARPNESS {bad}", progress=False)
