"""Density and trace against the eigenvalues of dense matrices, and against hessian-eigenthings."""

import numpy as np
import pytest
import torch
from hessian_eigenthings import HessianOperator, lanczos
from scipy import stats
from torch import nn

from flatdiff.weights import density, hessian


@pytest.fixture(scope="module")
def problem():
    """(net, (x, y), weights, dense Hessian) of 151 weights, float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 4))
    net = net.double()
    x, y = torch.randn(30, 6).double(), torch.randn(30, 4).double()
    weights = list(net.parameters())
    names = [name for name, _ in net.named_parameters()]

    def loss_at(*values):
        out = torch.func.functional_call(net, dict(zip(names, values)), (x,))
        return ((out - y) ** 2).mean()

    rows = torch.autograd.functional.hessian(loss_at, tuple(w.detach() for w in weights))
    flat = [
        torch.cat([b.reshape(w.numel(), -1) for b in row], dim=1) for w, row in zip(weights, rows)
    ]
    return net, (x, y), weights, torch.cat(flat)


def product(problem):
    net, (x, y), weights, _ = problem
    return lambda v: hessian.hessian_vector_product(lambda: ((net(x) - y) ** 2).mean(), weights, v)


def probes(of, size, count, steps):
    return [density.quadrature(of, size, steps, 0, k) for k in range(count)]


def test_the_spectrum_is_that_of_the_dense_hessian_within_two_percent(problem):
    """Wasserstein-1, of the range of the eigenvalues; and each probe's moments up to
    the ninth, v'H^k v."""
    dense = problem[-1].numpy()
    exact, size = np.linalg.eigvalsh(dense), len(dense)
    found = probes(product(problem), size, 10, 30)
    nodes, weights = (np.concatenate([p[i] for p in found]) for i in (0, 1))
    off = stats.wasserstein_distance(exact, nodes, v_weights=weights)
    assert off < 0.02 * np.ptp(exact)
    few = probes(product(problem), size, 2, 5)
    for k, (x, w, trace) in enumerate(few):
        v = hessian.signs(size, 0, k).numpy() / size**0.5
        moments = [v @ np.linalg.matrix_power(dense, p) @ v for p in range(10)]
        np.testing.assert_allclose([w @ x**p for p in range(10)], moments, rtol=1e-8)
        assert trace == pytest.approx(size * moments[1])


def test_trace_and_top_eigenvalue_agree_with_hessian_eigenthings(problem):
    net, batch, _, dense = problem
    operator = HessianOperator(net, [batch], lambda m, b: ((m(b[0]) - b[1]) ** 2).mean())
    (top,) = lanczos(operator, k=1, max_iter=60, which="LA", seed=0).eigenvalues
    size = len(dense)
    ours = max(float(p[0].max()) for p in probes(product(problem), size, 1, 40))
    assert ours == pytest.approx(float(top), rel=1e-4)
    # of all columns of the sketch, the trace is exact: theirs, a unit vector at a time
    theirs = sum(float(operator.matvec(e)[i]) for i, e in enumerate(torch.eye(size).double()))
    inner, rests = density.hutch(product(problem), size, size, 0)
    assert inner + float(rests.mean()) == pytest.approx(theirs, rel=1e-4)


def test_hutchs_sketch_takes_what_is_large_out_of_the_error():
    """Of a matrix of rank 3 nothing is left; of a decaying spectrum the interval covers, and is
    narrower than Hutchinson's of as many products."""
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(200, 200, dtype=torch.float64))[0]
    low = q[:, :3] * torch.tensor([5.0, 3.0, -1.0]).double() @ q[:, :3].T
    inner, rests = density.hutch(lambda v: low @ v, 200, 4, 0)
    assert inner == pytest.approx(7, rel=1e-9) and float(rests.abs().max()) < 1e-9
    decaying = q * torch.arange(1, 201).double() ** -2 @ q.T
    inside, ours, theirs = 0, [], []
    for seed in range(20):
        inner, rests = density.hutch(lambda v: decaying @ v, 200, 6, seed)
        error = float(rests.std() / 6**0.5)
        inside += abs(inner + float(rests.mean()) - float(decaying.trace())) < 2.571 * error
        ours.append(inner + float(rests.mean()))
        z = [hessian.signs(200, seed, k) for k in range(18)]
        theirs.append(np.mean([float(v @ decaying @ v) for v in z]))
    assert inside >= 17  # 19 expected of Student's 95 %
    assert np.std(ours) < np.std(theirs) / 3


def test_smoothed_is_a_density():
    x = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    nodes, weights = torch.tensor([-1.0, 2.0]).double(), torch.tensor([0.25, 0.75]).double()
    y = density.smoothed(nodes, weights, x, 0.3).numpy()
    expected = 0.25 * stats.norm.pdf(x, -1, 0.3) + 0.75 * stats.norm.pdf(x, 2, 0.3)
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_one_node_of_a_multiple_of_the_identity():
    (found,) = probes(lambda v: 3 * v, 50, 1, 10)
    assert found[0].tolist() == pytest.approx([3]) and found[1].tolist() == [1]
    assert found[2] == pytest.approx(150)
