"""Critical sharpness of quadratics and powers, whose crossing is known, within six passes."""

import math

import pytest
import torch

from flatdiff.weights.curvature import along_step, search


class Counted:
    def __init__(self, phi):
        self.phi, self.passes = phi, 0

    def __call__(self, c):
        self.passes += 1
        return self.phi(c)


def quadratic():
    """(hessian, w, loss of a list of weights) of w'Hw / 2 in fp64."""
    g = torch.Generator().manual_seed(0)
    root = torch.randn(10, 10, generator=g).double()
    return root @ root.T, torch.randn(10, generator=g).double()


@pytest.mark.parametrize("crossing", [0.3, 0.9, 1.0, 1.5, 2.0, 7.0, 60.0])
def test_along_a_step_of_gradient_descent_on_a_quadratic(crossing):
    """c* of -lr P g is 2 g'Pg / (lr g'PHPg): chosen by lr; P is any preconditioner."""
    hessian, w = quadratic()
    scale = torch.linspace(0.5, 2, 10).double()
    g = hessian @ w
    d = scale * g
    lr = float(2 * g @ d / (d @ hessian @ d)) / crossing
    before, weights = list(w.split([6, 4])), list((w - lr * d).split([6, 4]))
    weights = [x.clone() for x in weights]
    kept = [x.clone() for x in weights]

    def value(_=None):
        x = torch.cat(weights)
        return float(x @ hessian @ x / 2)

    loss = Counted(lambda _: value())
    found = along_step(lambda: loss(0), weights, before, lr)
    assert loss.passes <= 6
    assert all(map(torch.equal, weights, kept))
    assert found["critical_step"] == pytest.approx(crossing, rel=1e-6)
    sharpness = float(d @ hessian @ d / (g @ d))
    assert found["critical_sharpness"] == pytest.approx(sharpness, rel=1e-6)
    curvature = float(d @ hessian @ d / (d @ d))
    assert found["update_curvature"] == pytest.approx(curvature, rel=1e-5)


@pytest.mark.parametrize("power", [1.5, 3.0, 4.0])
@pytest.mark.parametrize("crossing", [0.4, 3.0, 20.0])
def test_a_loss_that_is_no_quadratic(power, crossing):
    """-c + c^p / c*^(p - 1) is 0 at c*: found within 5 %."""
    phi = Counted(lambda c: 5 - c + c**power / crossing ** (power - 1))
    found, second = search(phi)
    assert found == pytest.approx(crossing, rel=0.05) and phi.passes <= 6
    exact = 2**power / crossing ** (power - 1) - 2 / crossing ** (power - 1)
    assert second == pytest.approx(exact)


def test_the_first_of_two_crossings():
    """Of -c (1 - c/3) (1 - c/40): up at 3, down again at 40."""
    found, _ = search(lambda c: -c * (1 - c / 3) * (1 - c / 40))
    assert found == pytest.approx(3, rel=0.02)


def test_a_loss_that_overflows_beyond_its_crossing():
    found, _ = search(lambda c: c**2 / 30 - c if c < 33 else math.inf)
    assert found == pytest.approx(30, rel=0.1)


@pytest.mark.parametrize(
    "phi", [lambda c: c, lambda c: -c, lambda c: 1.0, lambda c: math.nan if c else 1.0]
)
def test_where_there_is_no_crossing_there_is_none(phi):
    phi = Counted(phi)
    assert search(phi)[0] is None and phi.passes == 6


def test_a_step_of_nothing_says_nothing():
    """Also one that is not finite, and one at a rate of 0; and no pass is spent on it."""
    w = [torch.ones(3)]
    for before, lr in (([torch.ones(3)], 0.1), ([torch.zeros(3)], 0.0), ([w[0] * math.nan], 0.1)):
        assert along_step(pytest.fail, w, before, lr) == {}
