"""Differences against closed forms, and against double backward in float64."""

import copy

import networks
import pytest
import torch

from flatdiff.weights import differences, hessian


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


@pytest.fixture(scope="module")
def problem():
    """(losses of each image, weights) of a tiny network in fp32, and the same in float64."""
    model = networks.tiny().eval()
    with torch.no_grad():  # so small that no direction is curved like all others together
        for w in model.parameters():
            w.add_(0.03 * torch.randn_like(w))
    x, t = networks.batch()
    targets = torch.randn(2, 3, 8, 8)

    def of(network, dtype):
        def losses():
            return (network(x.to(dtype), t) - targets.to(dtype)).square().mean((1, 2, 3))

        return losses, list(network.parameters())

    return of(model, torch.float32), of(copy.deepcopy(model).double(), torch.float64)


def products(losses, weights, count=None):
    """H v of the mean loss by differences; `count` is given each step."""

    def change(step):
        if count is not None:
            count.append(float(step.norm()))
        return differences.of_gradients(lambda: losses().mean(), weights, step)

    return differences.product(change, float(losses().mean().detach()), weights)


def test_fourth_powers_have_differences_in_closed_form():
    """L = a.w^4 / 12: g(w + d) - g(w - d) = 2 a (w^2 d + d^3 / 3), and v.Hv has no sixth order."""
    a, w, d = torch.randn(3, 50, dtype=torch.float64)
    weights = [w.clone().requires_grad_()]

    def losses():
        return a * weights[0] ** 4 / 12

    found = differences.of_gradients(lambda: losses().sum(), weights, d)
    torch.testing.assert_close(found, 2 * a * (w**2 * d + d**3 / 3))
    torch.testing.assert_close(differences.curvatures(losses, weights, d), a * w**2 * d**2)
    assert torch.equal(weights[0], w)


def test_products_are_those_of_double_backward(problem):
    """To a ten-thousandth of the largest: of a random vector, and of what ten powers make of it."""
    (losses, weights), (exact, doubles) = problem
    product, vector = products(losses, weights), torch.randn(sum(w.numel() for w in weights))
    for _ in range(10):
        vector = product(vector / vector.norm())
    largest = float(vector.norm())
    unit = vector / vector.norm()
    for v in (unit, torch.randn_like(unit) / len(unit) ** 0.5):
        truth = hessian.hessian_vector_product(lambda: exact().mean(), doubles, v.double())
        assert float((product(v) - truth).norm()) < 5e-4 * largest
        assert float(v.double() @ (product(v) - truth)) == pytest.approx(0, abs=2e-4 * largest)


def test_products_are_as_exact_as_their_type(problem):
    losses, weights = problem[1]
    vector = torch.randn(sum(w.numel() for w in weights), dtype=torch.float64)
    truth = hessian.hessian_vector_product(lambda: losses().mean(), weights, vector)
    found = products(losses, weights)(vector)
    assert float((found - truth).norm()) < 1e-8 * float(truth.norm())


def test_a_product_does_not_depend_on_the_length(problem):
    losses, weights = problem[0]
    vector = torch.randn(sum(w.numel() for w in weights))
    one, thousand = (products(losses, weights)(s * vector) for s in (1, 1024))
    assert torch.equal(1024 * one, thousand)
    nothing = products(losses, weights)(0 * vector)
    assert not nothing.any()


def test_a_step_too_long_is_taken_again_and_then_kept(problem):
    losses, weights = problem[0]
    steps, vector = [], torch.randn(sum(w.numel() for w in weights))
    product = products(losses, weights, steps)
    product(vector)
    first = len(steps)
    assert 1 < first < 6 and steps == sorted(steps, reverse=True)
    for _ in range(3):
        product(vector)
    assert len(steps) == first + 3 and len({round(s, 9) for s in steps[first:]}) == 1


def test_a_loss_without_curvature_has_none():
    weights = [torch.ones(3, requires_grad=True)]
    line = torch.tensor([1.0, 2.0, 3.0])

    def losses():
        return weights[0] * line

    assert not products(losses, weights)(line).any()
    assert differences.step_along(losses, weights, line) > 0
    assert differences.curvatures(losses, weights, 0.125 * line).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["random", "gradient"])
def test_curvatures_of_each_image_are_those_of_double_backward(problem, kind):
    (losses, weights), (exact, doubles) = problem
    vector = flat(torch.autograd.grad(losses().sum(), weights))
    if kind == "random":
        vector = torch.randn_like(vector)
    factor = differences.step_along(losses, weights, vector)
    found = differences.curvatures(losses, weights, factor * vector) / factor**2
    truth = hessian.curvatures(exact, doubles, vector.double())
    torch.testing.assert_close(found, truth, rtol=5e-3, atol=0)


def test_what_has_no_second_derivative_has_one_here():
    """x^2, whose derivative is a formula that autograd does not see."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, dy):
            return 2 * ctx.saved_tensors[0] * dy

    weights = [torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)]
    v = torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64)

    def losses():
        return Square.apply(weights[0])

    with pytest.raises(RuntimeError, match="does not require grad"):
        hessian.hessian_vector_product(lambda: losses().sum(), weights, v)
    change = differences.of_gradients(lambda: losses().sum(), weights, 1e-3 * v)
    torch.testing.assert_close(change / 2e-3, 2 * v)
