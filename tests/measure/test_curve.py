"""LPF and MC on quadratics, where both are known, and the error bars that they come with."""

import math

import pytest
import quadratics
import torch

import flatdiff
from flatdiff.measure import curve
from flatdiff.weights import perturb

SHAPES = [(4, 3, 2), (5,), (3, 4)]
KINDS = {"LPF": curve.LPF.noise, "MC": curve.MC.noise}
SIZE = sum(math.prod(shape) for shape in SHAPES)


class Quadratic:
    """loss = 1/2 w.H w + g.w + cubic * sum(w^3) of all weights in one vector."""

    def __init__(self, slope=1.0, cubic=0.0):
        g = torch.Generator().manual_seed(0)
        root = torch.randn(SIZE, SIZE, generator=g, dtype=torch.float64)
        self.hessian = root @ root.T / SIZE
        self.gradient = slope * torch.randn(SIZE, generator=g, dtype=torch.float64)
        self.cubic = cubic
        self.weights = [torch.randn(s, generator=g, dtype=torch.float64) for s in SHAPES]

    def loss(self):
        w = torch.cat([w.flatten() for w in self.weights])
        return w @ self.hessian @ w / 2 + self.gradient @ w + self.cubic * (w**3).sum()

    def at(self, perturbation, measure=None):
        with perturb.at(self.weights, perturbation) as distance:
            return (measure or self.loss)(), distance

    def rises(self, kind, size, num_draws, filterwise=False, seed=0):
        values = [
            self.at(curve.perturbation(KINDS[kind], size, seed, draw, filterwise))
            for draw in range(num_draws)
        ]
        losses = torch.stack([loss for loss, _ in values])
        return losses - self.loss(), [float(distance) for _, distance in values]


@pytest.mark.parametrize("sigma", [0.01, 0.3])
def test_lpf_of_a_quadratic_is_half_the_trace(sigma):
    quadratic = Quadratic()
    mean, error = curve.mean_and_error(curve.pairs(quadratic.rises("LPF", sigma, 400)[0]))
    assert abs(mean - sigma**2 * quadratic.hessian.trace() / 2) < 4 * error
    # the variance of z.H z is 2 tr(H^2), and the gradient's part is gone
    expected = sigma**2 * math.sqrt((quadratic.hessian**2).sum() / 2 / 200)
    assert error == pytest.approx(float(expected), rel=0.25)


@pytest.mark.parametrize("radius", [0.01, 3.0])
def test_mc_of_a_quadratic_is_the_mean_eigenvalue(radius):
    quadratic = Quadratic()
    rises, distances = quadratic.rises("MC", radius, 400)
    mean, error = curve.mean_and_error(curve.pairs(rises))
    exact = radius**2 * quadratic.hessian.trace() / (2 * SIZE)
    assert abs(mean - exact) < 4 * error < 0.5 * exact
    assert distances == pytest.approx([radius] * 400, rel=1e-5)


def test_noise_in_proportion_to_filters():
    quadratic = Quadratic()
    mean, error = curve.mean_and_error(
        curve.pairs(quadratic.rises("LPF", 0.2, 400, filterwise=True)[0])
    )
    # each filter's noise is uniform on a sphere of radius sigma ||filter||
    scales = []
    for w in quadratic.weights:
        filters = w.flatten(1) if w.ndim > 1 else w[None]
        scales += [row.square().mean().expand(len(row)) for row in filters]
    exact = 0.2**2 * (quadratic.hessian.diag() * torch.cat(scales)).sum() / 2
    assert abs(mean - exact) < 4 * error < 0.5 * exact


@pytest.mark.parametrize("kind", ["LPF", "MC"])
def test_odd_terms_cancel_in_mirrored_pairs(kind):
    plain, tilted = Quadratic(slope=0.0), Quadratic(slope=100.0, cubic=3.0)
    for w, v in zip(tilted.weights, plain.weights):
        w.zero_()  # where the cubic has no second derivative
        v.zero_()
    size = 0.1
    even = curve.pairs(plain.rises(kind, size, 8)[0])
    torch.testing.assert_close(curve.pairs(tilted.rises(kind, size, 8)[0]), even)
    assert tilted.rises(kind, size, 8)[0].abs().mean() > 10 * even.max()


@pytest.mark.parametrize("scale", ["absolute", "filter", "weight"])
def test_a_radius_is_told_as_a_length_of_weights_only_where_it_is_one(scale):
    how = {"noise_scale": scale, "radius": [2.0], "num_draws": 4, "progress": False}
    found = flatdiff.flatness(quadratics.subject(), "MC", **how)
    (row,) = found.rows
    assert (row["distance"] == pytest.approx(2.0)) == (scale != "weight")
    for told in (
        found.plot().axes[0].get_xlabel(),
        found.measures["MC"].text(found.records["MC"]).splitlines()[0],
    ):
        assert told.startswith("radius, length of the direction")
        assert ("(l2 over all weights)" in told) == (scale != "weight")


def test_error_bars_cover_the_truth():
    """In 100 studies of 10 pairs, the truth is within one standard error in about two thirds."""
    quadratic, sigma = Quadratic(), 0.1
    exact = sigma**2 * quadratic.hessian.trace() / 2
    hits = 0
    for seed in range(100):
        rises, _ = quadratic.rises("LPF", sigma, 20, seed=seed)
        mean, error = curve.mean_and_error(curve.pairs(rises))
        hits += abs(mean - exact) < error
    assert 50 < hits < 80  # 66 expected of Student's t with 9 degrees of freedom


def test_draws_are_common_to_networks_and_repeatable():
    a, b = Quadratic(), Quadratic()
    b.hessian = a.hessian * 1.01
    first, _ = a.rises("LPF", 0.1, 40)
    assert torch.equal(first, a.rises("LPF", 0.1, 40)[0])
    assert not torch.equal(first, a.rises("LPF", 0.1, 40, seed=1)[0])
    _, error = curve.mean_and_error(curve.pairs(first))
    second, _ = b.rises("LPF", 0.1, 40)
    difference, paired = curve.mean_and_error(curve.pairs(second - first))
    assert abs(difference - 0.1**2 * 0.01 * a.hessian.trace() / 2) < 4 * paired < 0.1 * error


def test_weights_come_back_bit_for_bit_also_after_an_interruption():
    quadratic = Quadratic()
    before = [w.clone() for w in quadratic.weights]

    def interrupted():
        assert not torch.equal(quadratic.weights[0], before[0])
        raise KeyboardInterrupt

    for kind in KINDS:
        perturbation = curve.perturbation(KINDS[kind], 0.1, seed=0, draw=0)
        quadratic.at(perturbation)
        assert all(map(torch.equal, quadratic.weights, before))
        with pytest.raises(KeyboardInterrupt):
            quadratic.at(perturbation, interrupted)
        assert all(map(torch.equal, quadratic.weights, before))


@pytest.mark.parametrize("num_draws", [1, 2, 5])
def test_too_few_draws_for_an_error_bar_are_refused(num_draws):
    with pytest.raises(ValueError, match=f"num_draws is {num_draws}"):
        curve.pairs(torch.zeros(num_draws))
