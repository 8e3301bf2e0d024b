"""The gradient at the ridge: closed forms, autograd written out, exact return, loss scales."""

import math
import weakref

import pytest
import torch
from torch import nn

from flatdiff.weights.sam import msam_gradient, sam_gradient


def quadratic(dtype=torch.float64):
    """(weights, H as a function, closure) of L = w'Hw / 2 over two tensors."""
    g = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(s, generator=g).to(dtype)) for s in ((2, 3), (4,))]
    root = torch.randn(10, 10, generator=g).to(dtype)
    hessian = root @ root.T

    def closure():
        w = torch.cat([w.flatten() for w in weights])
        loss = w @ hessian @ w / 2
        loss.backward()
        return loss.detach()

    return weights, hessian, closure


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def noting_distance(closure, weights):
    """(the closure, list): at each pass, how far the weights then are from where they are now."""
    start, distances = flat(weights), []

    def noting():
        distances.append((flat(weights) - start).norm().item())
        return closure()

    return noting, distances


def grads(weights):
    return flat([w.grad for w in weights])


def test_sam_on_a_quadratic():
    """The gradient at the ridge is H (w + rho g / ||g||)."""
    weights, hessian, closure = quadratic()
    w = flat(weights)
    g = hessian @ w
    closure, distances = noting_distance(closure, weights)
    loss = sam_gradient(closure, weights, rho=0.3)
    assert distances == pytest.approx([0, 0.3])
    torch.testing.assert_close(grads(weights), hessian @ (w + 0.3 * g / g.norm()))
    torch.testing.assert_close(loss, w @ g / 2)
    assert torch.equal(flat(weights), w)


def test_asam_on_a_quadratic():
    """eps = rho w^2 g / || |w| g ||."""
    weights, hessian, closure = quadratic()
    w = flat(weights)
    g = hessian @ w
    eps = 0.3 * w**2 * g / (w.abs() * g).norm()
    closure, distances = noting_distance(closure, weights)
    sam_gradient(closure, weights, rho=0.3, adaptive=True)
    assert distances == pytest.approx([0, eps.norm().item()])
    torch.testing.assert_close(grads(weights), hessian @ (w + eps))


def test_msam_on_a_quadratic():
    """The gradient at w - rho m / ||m||, from one pass; the momenta stay."""
    weights, hessian, closure = quadratic()
    w = flat(weights)
    momenta = [torch.full_like(p, 2.0 + i) for i, p in enumerate(weights)]
    m = flat(momenta)
    closure, distances = noting_distance(closure, weights)
    msam_gradient(closure, weights, momenta, rho=0.3)
    assert distances == pytest.approx([0.3])
    torch.testing.assert_close(grads(weights), hessian @ (w - 0.3 * m / m.norm()))
    assert torch.equal(flat(weights), w) and torch.equal(flat(momenta), m)


@pytest.mark.parametrize("momenta", [[], [torch.zeros(2, 3).double(), torch.zeros(4).double()]])
def test_msam_without_momentum_is_a_plain_gradient(momenta):
    weights, _, closure = quadratic()
    msam_gradient(closure, weights[: len(momenta)], momenta, rho=0.3)
    assert torch.equal(grads(weights), grads_of(quadratic()))


def grads_of(problem):
    weights, _, closure = problem
    closure()
    return grads(weights)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU())
        self.head = nn.Linear(8, 2)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def net_and_closure(scale=1.0):
    torch.manual_seed(0)
    net = Net()
    x, y = torch.randn(4, 3, 6, 6), torch.randn(4, 2)

    def closure():
        loss = ((net(x) - y) ** 2).mean()
        (scale * loss).backward()
        return loss.detach()

    return net, list(net.parameters()), closure


def written_out(net, weights, closure, rho, adaptive):
    """SAM by the paper's words, on a copy of the weights in a functional call."""
    closure()
    used = [w for w in weights if w.grad is not None]
    g = [w.grad.clone() for w in used]
    if adaptive:
        norm = sum((w.detach().abs() * d).square().sum() for w, d in zip(used, g)).sqrt()
        eps = [rho * w.detach() ** 2 * d / norm for w, d in zip(used, g)]
    else:
        norm = sum(d.square().sum() for d in g).sqrt()
        eps = [rho * d / norm for d in g]
    net.zero_grad()
    kept = [w.detach().clone() for w in used]
    for w, e in zip(used, eps):
        w.data = w.data + e
    closure()
    for w, k in zip(used, kept):
        w.data = k
    return [None if w.grad is None else w.grad.clone() for w in weights]


@pytest.mark.parametrize("adaptive", [False, True])
def test_same_as_the_algorithm_written_out_on_a_network(adaptive):
    net, weights, closure = net_and_closure()
    expected = written_out(net, weights, closure, 0.5, adaptive)
    net, weights, closure = net_and_closure()
    before = flat(weights)
    sam_gradient(closure, weights, 0.5, adaptive)
    for w, e in zip(weights, expected):
        torch.testing.assert_close(w.grad, e, rtol=1e-5, atol=1e-7)
    assert torch.equal(flat(weights), before)
    assert net.unused.weight.grad is None


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_loss_scale_changes_nothing_but_the_scale(adaptive):
    _, plain, closure = net_and_closure()
    sam_gradient(closure, plain, 0.5, adaptive)
    _, scaled, closure = net_and_closure(scale=2.0**20)
    sam_gradient(closure, scaled, 0.5, adaptive)
    for a, b in zip(plain, scaled):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad / 2**20, rtol=1e-5, atol=1e-7)


def test_rho_0_is_one_plain_gradient():
    weights, _, closure = quadratic()
    closure()
    expected = grads(weights)
    for w in weights:
        w.grad = None
    closure, distances = noting_distance(closure, weights)
    sam_gradient(closure, weights, rho=0)
    assert distances == [0]
    assert torch.equal(grads(weights), expected)


def test_the_ascent_may_be_another_closure():
    """m-sharpness: climb along another gradient; its result is returned, its gradient is gone."""
    weights, hessian, closure = quadratic()
    w = flat(weights)

    def ascent():
        sum(p.sum() for p in weights).backward()
        return "ascent"

    result = sam_gradient(closure, weights, rho=0.3, ascent=ascent)
    assert result == "ascent"
    ones = torch.ones_like(w)
    torch.testing.assert_close(grads(weights), hessian @ (w + 0.3 * ones / ones.norm()))


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_zero_gradient_moves_nothing(adaptive):
    w, seen = nn.Parameter(torch.zeros(3)), []

    def closure():
        seen.append(w.tolist())
        (w**2).sum().backward()

    sam_gradient(closure, [w], 0.1, adaptive)
    assert w.grad.tolist() == [0, 0, 0]
    assert seen == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("adaptive", [False, True])
def test_an_overflow_in_the_ascent_reaches_every_gradient(bad, adaptive):
    """Also those of weights that do not meet the overflow: none may pass for a plain gradient."""
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))]

    def closure():
        sum((w**2).sum() for w in weights).backward()

    def ascent():
        closure()
        weights[0].grad[1] = bad

    sam_gradient(closure, weights, 0.3, adaptive, ascent)
    assert torch.equal(flat(weights), torch.ones(7))
    assert not grads(weights).isfinite().any()


def test_the_first_gradient_is_freed_before_the_second_pass():
    weights, _, closure = quadratic()
    seen = []

    def watched():
        assert not any(ref() is not None for ref in seen)
        closure()
        seen.extend(weakref.ref(w.grad) for w in weights)

    sam_gradient(watched, weights, 0.3)
    assert len(seen) == 4


def test_weights_come_back_when_the_second_pass_fails():
    weights, _, closure = quadratic()
    before = flat(weights)
    passes = []

    def fails_at_the_ridge():
        passes.append(flat(weights))
        if len(passes) == 2:
            raise KeyboardInterrupt
        return closure()

    with pytest.raises(KeyboardInterrupt):
        sam_gradient(fails_at_the_ridge, weights, 0.3)
    assert not torch.equal(passes[1], before)
    assert torch.equal(flat(weights), before)


def test_negative_rho_and_half_weights_are_refused():
    weights, _, closure = quadratic()
    with pytest.raises(ValueError, match="rho -0.1"):
        sam_gradient(closure, weights, -0.1)
    w = nn.Parameter(torch.ones(2, dtype=torch.float16))
    with pytest.raises(ValueError, match="fp32"):
        sam_gradient(lambda: (w**2).sum().backward(), [w], 0.1)


def test_a_look_from_the_ridge():
    """It is shown w, and the weights at w + eps; afterwards they are w."""
    weights, hessian, closure = quadratic()
    w, looks = flat(weights), []
    g = hessian @ w

    def look(start, moved):
        assert all(a is b for a, b in zip(moved, weights, strict=True))
        looks.append((flat(start), flat(moved)))

    sam_gradient(closure, weights, 0.3, look=look)
    msam_gradient(closure, weights, [torch.ones_like(w) for w in weights], 0.3, look)
    for (start, moved), eps in zip(looks, (g / g.norm(), -torch.ones(10) / math.sqrt(10))):
        assert torch.equal(start, w)
        torch.testing.assert_close(moved, w + 0.3 * eps)
    assert torch.equal(flat(weights), w)


@pytest.mark.parametrize("rho", [-0.1, math.inf, math.nan])
def test_a_radius_is_a_finite_number(rho):
    weights, _, closure = quadratic()
    with pytest.raises(ValueError, match=f"rho {rho}"):
        sam_gradient(closure, weights, rho)
    with pytest.raises(ValueError, match=f"rho {rho}"):
        msam_gradient(closure, weights, [torch.ones_like(w) for w in weights], rho)
