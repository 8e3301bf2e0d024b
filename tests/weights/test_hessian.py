"""Lanczos and Hutchinson against torch's dense Hessian, and against hessian-eigenthings."""

import math

import pytest
import torch
from hessian_eigenthings import HessianOperator, lanczos
from torch import nn

from flatdiff import script_util
from flatdiff.weights import hessian
from flatdiff.weights.basis import Place


@pytest.fixture(scope="module")
def problem():
    """(net, (x, y), loss, weights, dense Hessian [n, n]) of a small net in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Conv2d(4, 6, 3),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(24, 2),
    ).double()
    x, y = torch.randn(8, 1, 4, 4).double(), torch.randn(8, 2).double()
    weights = list(net.parameters())
    names = [name for name, _ in net.named_parameters()]

    def loss_at(*values):
        out = torch.func.functional_call(net, dict(zip(names, values)), (x,))
        return ((out - y) ** 2).mean()

    rows = torch.autograd.functional.hessian(loss_at, tuple(w.detach() for w in weights))
    dense = torch.cat(
        [
            torch.cat([block.reshape(w.numel(), -1) for block in row], dim=1)
            for w, row in zip(weights, rows)
        ]
    )
    return net, (x, y), lambda: loss_at(*weights), weights, dense


def product(problem):
    _, _, loss, weights, _ = problem
    return lambda vector: hessian.hessian_vector_product(loss, weights, vector)


def test_products_are_those_of_the_dense_hessian(problem):
    dense = problem[-1]
    vector = torch.randn(len(dense), dtype=torch.float64)
    torch.testing.assert_close(product(problem)(vector), dense @ vector)


def test_products_through_the_whole_u_net_are_differences_of_gradients():
    torch.manual_seed(0)
    model = script_util.create_model(
        8, 32, 1, channel_mult="1,1", attention_resolutions="8", use_checkpoint=True
    ).double()
    weights = list(model.parameters())
    for w in weights:
        w.data += 0.05 * torch.randn_like(w)
    x, t = torch.randn(2, 3, 8, 8).double(), torch.tensor([3, 700])

    def loss():
        return (model(x, t) ** 2).mean()

    size = sum(w.numel() for w in weights)
    vector = torch.randn(size, dtype=torch.float64)
    found = hessian.hessian_vector_product(loss, weights, vector)
    step, gradients = 1e-5, []
    for sign in (1, -1):
        nn.utils.vector_to_parameters(
            nn.utils.parameters_to_vector(weights).detach() + sign * step * vector, weights
        )
        gradients.append(nn.utils.parameters_to_vector(torch.autograd.grad(loss(), weights)))
        nn.utils.vector_to_parameters(
            nn.utils.parameters_to_vector(weights).detach() - sign * step * vector, weights
        )
    expected = (gradients[0] - gradients[1]) / (2 * step)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_top_eigenvalues_are_those_of_the_dense_hessian(problem):
    dense = problem[-1]
    exact = torch.linalg.eigvalsh(dense).flip(0)
    assert exact[-1] < 0  # so largest is not largest in magnitude by chance
    values, residuals, _ = hessian.top_eigenvalues(product(problem), len(dense), 5, 0, 60, 1e-8)
    torch.testing.assert_close(values, exact[:5], rtol=1e-9, atol=0)
    assert (residuals < 1e-7 * exact[0]).all()


def test_an_early_end_is_told_by_the_residuals(problem):
    dense = problem[-1]
    exact = torch.linalg.eigvalsh(dense)
    values, residuals, _ = hessian.top_eigenvalues(product(problem), len(dense), 4, 0, 6)
    assert residuals.max() > 1e-2
    for value, residual in zip(values, residuals):
        assert (exact - value).abs().min() <= residual


def test_residuals_are_those_of_the_vectors(problem):
    """With one step the vector is the start, which the first product shows."""
    dense = problem[-1]
    starts = []

    def watched(vector):
        starts.append(vector.clone())
        return dense @ vector

    (value,), (residual,), (vector,) = hessian.top_eigenvalues(watched, len(dense), 1, 0, 1)
    v = starts[0]
    assert value == pytest.approx(float(v @ dense @ v)) and torch.equal(vector, v)
    assert residual == pytest.approx(float((dense @ v - value * v).norm()))


def test_an_exhausted_space_ends_the_search():
    matrix = torch.diag(torch.tensor([3.0, 3.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    values, residuals, _ = hessian.top_eigenvalues(lambda v: matrix @ v, 5, 3, 0, 5)
    torch.testing.assert_close(values, torch.tensor([3.0, 1.0, 0.0]).double(), atol=1e-9, rtol=0)
    assert residuals.max() < 1e-9


def test_a_known_spectrum_is_found_with_a_basis_in_fp32():
    """40 eigenvalues 1 / i, in directions of no axis: a reflection of a diagonal matrix."""
    size = 20_000
    spectrum = torch.zeros(size, dtype=torch.float64)
    spectrum[:40] = 1 / torch.arange(1, 41)
    mirror = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mirror /= mirror.norm()

    def reflect(v):
        return v - 2 * mirror * (mirror @ v)

    def exact(v):
        return reflect(spectrum * reflect(v.double()))

    found = [
        hessian.top_eigenvalues(exact, size, 3, 0, 40, 1e-4, Place(dtype=dtype))
        for dtype in (torch.float32, torch.float64)
    ]
    for values, residuals, vectors in found:
        assert ((values - spectrum[:3]).abs() <= residuals).all() and residuals.max() < 1e-4
        torch.testing.assert_close(values, spectrum[:3], rtol=1e-6, atol=0)
        assert abs(float(reflect(vectors[0].double())[0])) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-7, atol=0)
    assert found[0][2].dtype == torch.float32


def test_rounding_of_the_products_is_in_the_residuals():
    """Noise of a thousandth of the largest eigenvalue, as differences have it, anew each time."""
    spectrum = torch.cat([torch.tensor([5.0, 3.0, 1.0]), torch.zeros(997)]).double()
    noise, draw = 5e-3, torch.Generator().manual_seed(0)

    def product(v):
        z = torch.randn(1000, dtype=torch.float64, generator=draw)
        return spectrum * v + noise * z / z.norm()

    values, residuals, _ = hessian.top_eigenvalues(product, 1000, 2, 0, 30)
    assert ((values - spectrum[:2]).abs() <= residuals).all()
    assert (residuals > 0.9 * noise).all() and (residuals < 3 * noise).all()


def test_eigenvalues_agree_with_hessian_eigenthings(problem):
    net, batch, _, weights, _ = problem
    operator = HessianOperator(net, [batch], lambda m, b: ((m(b[0]) - b[1]) ** 2).mean())
    theirs = lanczos(operator, k=3, max_iter=40, which="LA", seed=0).eigenvalues
    size = sum(w.numel() for w in weights)
    ours, _, _ = hessian.top_eigenvalues(product(problem), size, 3, 0, 40)
    torch.testing.assert_close(ours, torch.as_tensor(theirs).double(), rtol=1e-4, atol=0)


def test_trace_is_that_of_the_dense_hessian(problem):
    dense = problem[-1]
    samples = torch.tensor(
        [float(z @ dense @ z) for z in (hessian.signs(len(dense), 0, k) for k in range(2000))],
        dtype=torch.float64,
    )
    error = samples.std() / math.sqrt(len(samples))
    assert abs(samples.mean() - dense.trace()) < 4 * error
    # Rademacher's variance: twice the squares off the diagonal (Hutchinson 1989)
    off_diagonal = dense - dense.diag().diag()
    assert samples.std() == pytest.approx(float((2 * off_diagonal.square().sum()).sqrt()), rel=0.1)


def test_curvatures_are_those_of_each_image_and_sum_to_the_whole(problem):
    net, (x, y), _, weights, dense = problem
    vector = torch.randn(len(dense), dtype=torch.float64)

    def each():
        return ((net(x) - y) ** 2).mean(dim=1)

    found = hessian.curvatures(each, weights, vector)
    assert float(found.mean()) == pytest.approx(float(vector @ dense @ vector), rel=1e-9)
    for i in range(len(x)):
        alone = hessian.hessian_vector_product(lambda i=i: each()[i], weights, vector)
        assert float(found[i]) == pytest.approx(float(vector @ alone), rel=1e-9)


@pytest.mark.parametrize("count", [0, 7])
def test_more_eigenvalues_than_steps_are_refused(count):
    with pytest.raises(ValueError, match=f"num_eigenvalues is {count}"):
        hessian.top_eigenvalues(lambda v: v, 9, count, 0, 6)
