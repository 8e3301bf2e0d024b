"""The gradients by name, on a x^2 / 2, where each is known; what a step costs is what is said."""

import pytest
import torch

from flatdiff.flags import choices

A, W = torch.tensor([2.0, 0.5]), torch.tensor([3.0, -4.0])
MOMENTUM = torch.tensor([0.6, 0.8])


def ridge(name, rho):
    """Where the gradient is taken (Foret et al. 2021; Kwon et al. 2021; Becker et al. 2024)."""
    g = A * W
    scaled = W.abs() * g
    return {
        "adam": W,
        "adam-sam": W + rho * g / g.norm(),
        "adam-asam": W + rho * W.abs() * scaled / scaled.norm(),
        "adam-msam": W - rho * MOMENTUM / MOMENTUM.norm(),
    }[name]


@pytest.mark.parametrize("name", choices.GRADIENTS)
def test_a_gradient_is_taken_where_its_paper_says_at_its_price(name):
    weights, rho, passes, looked = [W.clone().requires_grad_()], 0.3, [], []

    def closure():
        passes.append(weights[0].detach().clone())
        loss = (A * weights[0] ** 2 / 2).sum()
        loss.backward()
        return loss.item()

    def look(*_):
        looked.append(weights[0].detach().clone())

    follow = choices.bound(choices.GRADIENTS, name)
    ours = dict(rho=rho, ascent=closure, momenta=lambda: [MOMENTUM], look=look)
    first = follow(closure, weights, **ours)
    expected = ridge(name, rho)
    torch.testing.assert_close(weights[0].grad, A * expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(weights[0].detach(), W)
    assert len(passes) == choices.GRADIENTS[name].passes
    torch.testing.assert_close(passes[-1], expected, rtol=1e-5, atol=1e-5)
    assert first == pytest.approx(float((A * passes[0] ** 2 / 2).sum()))
    assert len(looked) == (name != "adam")


def test_weights_without_momentum_stay_where_they_are():
    still, moving = torch.tensor([1.0], requires_grad=True), torch.tensor([2.0], requires_grad=True)
    seen = []

    def closure():
        seen.append((still.item(), moving.item()))
        (still**2 + moving**2).sum().backward()

    follow = choices.bound(choices.GRADIENTS, "adam-msam")
    momenta = [None, torch.tensor([5.0])]
    given = dict(ascent=closure, momenta=lambda: momenta, look=None)
    follow(closure, [still, moving], rho=0.25, **given)
    assert seen == [(1.0, 1.75)]
    assert (still.grad.item(), moving.grad.item()) == (2.0, 3.5)
