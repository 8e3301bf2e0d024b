"""Gauss-Newton products against J'AJ of a dense Jacobian."""

import pytest
import torch
from torch import nn

from flatdiff.weights import gauss_newton


@pytest.fixture
def problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(7, 4).double(), torch.randn(7, 3).double()
    weights, names = list(net.parameters()), [n for n, _ in net.named_parameters()]
    factors = torch.rand(7, 1).double()

    def outputs(*values):
        return torch.func.functional_call(net, dict(zip(names, values)), (x,))

    rows = torch.autograd.functional.jacobian(outputs, tuple(w.detach() for w in weights))
    jacobian = torch.cat([part.flatten(2) if part.ndim > 3 else part for part in [
        r.reshape(7, 3, -1) for r in rows]], dim=2)  # fmt: skip
    dense = 2 * torch.einsum("n,nka,nkb->ab", factors[:, 0], jacobian, jacobian)

    def evaluate():
        f = net(x)
        return f, (factors * (f - y) ** 2).sum()

    return net, weights, evaluate, dense


def test_products_are_those_of_the_dense_matrix(problem):
    _, weights, evaluate, dense = problem
    v = torch.randn(len(dense), dtype=torch.float64)
    torch.testing.assert_close(gauss_newton.product(evaluate, weights, v), dense @ v)


def test_differences_are_off_by_their_third_order_alone(problem):
    _, weights, evaluate, dense = problem
    v = torch.randn(len(dense), dtype=torch.float64)
    found = gauss_newton.change(evaluate, weights, 1e-5 * v) / 2e-5
    torch.testing.assert_close(found, dense @ v, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "loss", [lambda f: (f**4).mean(), lambda f: f.sum(), lambda f: f.exp().sum()]
)
def test_what_is_no_squared_error_is_refused(problem, loss):
    net, weights, _, dense = problem
    x = torch.randn(7, 4).double()

    def evaluate():
        f = net(x)
        return f, loss(f)

    for apply in (gauss_newton.product, gauss_newton.change):
        with pytest.raises(ValueError, match="no squared error"):
            apply(evaluate, weights, torch.ones(len(dense)).double())
