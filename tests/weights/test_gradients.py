"""The gradients by name, on a x^2 / 2, where each is known; what a step costs is what is said."""

import math

import pytest
import torch

from flatdiff.flags import choices
from flatdiff.weights import perturb

A, W = torch.tensor([2.0, 0.5]), torch.tensor([3.0, -4.0])
MOMENTUM = torch.tensor([0.6, 0.8])
SEED = 5
(Z,) = perturb.noise([W], SEED, 0)


def given(**own):
    """What the loop gives, of one rank and without a loss scale."""
    plain = {"rho": 0.3, "momenta": lambda: [None], "look": None, "scale": 1.0, "seed": SEED}
    return plain | {"memory": {}, "mean": lambda tensors: tensors} | own


def ridge(name, rho):
    """Where the gradient is taken (Foret et al. 2021; Kwon et al. 2021; Becker et al. 2024; of the
    others, by their lines)."""
    g = A * W
    scaled = W.abs() * g
    return {
        "adam": W,
        "adam-sam": W + rho * g / g.norm(),
        "adam-asam": W + rho * W.abs() * scaled / scaled.norm(),
        "adam-msam": W - rho * MOMENTUM / MOMENTUM.norm(),
        "adam-sam-loss": W + 0.01 / g.norm() * g / g.norm(),
        "adam-fsam": W + rho * g / g.norm(),  # the first mean is in proportion to g
        "adam-random": W + rho * Z / Z.norm(),
        "adam-sam-down": W - rho * g / g.norm(),
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
    ours = given(rho=rho, ascent=closure, momenta=lambda: [MOMENTUM], look=look)
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
    ours = given(rho=0.25, ascent=closure, momenta=lambda: momenta)
    follow(closure, [still, moving], **ours)
    assert seen == [(1.0, 1.75)]
    assert (still.grad.item(), moving.grad.item()) == (2.0, 3.5)


class Quadratic:
    """L = S w'Hw / 2 over two tensors in fp64, S a loss scale; where its passes were taken."""

    def __init__(self, scale=1.0, times=1.0):
        g = torch.Generator().manual_seed(0)
        shapes = ((2, 3), (4,))
        self.weights = [torch.randn(s, generator=g).double().mul_(times) for s in shapes]
        self.weights = [w.requires_grad_() for w in self.weights]
        root = torch.randn(10, 10, generator=g).double()
        self.hessian, self.scale, self.passes = root @ root.T, scale, []
        self.w = self.flat()

    def flat(self):
        return torch.cat([w.detach().flatten() for w in self.weights])

    def grads(self):
        return torch.cat([w.grad.flatten() for w in self.weights])

    def closure(self):
        w = torch.cat([w.flatten() for w in self.weights])
        self.passes.append(self.flat())
        (self.scale * (w @ self.hessian @ w / 2)).backward()

    def loss(self, w):
        return float(w @ self.hessian @ w / 2)

    def follow(self, text, **own):
        """Takes the gradient; gives how far it was taken from w."""
        for w in self.weights:
            w.grad = None
        ours = given(ascent=self.closure, scale=self.scale, **own)
        choices.bound(choices.GRADIENTS, text)(self.closure, self.weights, **ours)
        ridge = self.hessian @ self.passes[-1] * self.scale
        torch.testing.assert_close(self.grads(), ridge)
        return self.passes[-1] - self.flat()


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0**20])
def test_a_climb_by_loss_rises_by_that(adaptive, scale):
    """L(w + eps) - L(w) = rise + eps'H eps / 2, whatever the loss scale; in SAM's direction."""
    of = Quadratic(scale)
    g = of.hessian @ of.w
    eps = of.follow(f"adam-sam-loss rise=0.02 adaptive={adaptive}", rho=9.0)
    direction = of.w**2 * g if adaptive else g
    torch.testing.assert_close(eps / eps.norm(), direction / direction.norm())
    rise = of.loss(of.w + eps) - of.loss(of.w)
    assert rise - float(eps @ of.hessian @ eps) / 2 == pytest.approx(0.02, rel=1e-9)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_climb_by_loss_ends_where_the_gradient_does(adaptive):
    """Near the minimum rise / ||g|| would have no end: it is cap ||w||, of ASAM cap sqrt(10)."""
    of = Quadratic(times=1e-3)
    eps = of.follow(f"adam-sam-loss rise=1 cap=0.2 adaptive={adaptive}")
    length = (eps / of.w.abs() if adaptive else eps).norm()
    assert float(length) == pytest.approx(0.2 * (math.sqrt(10) if adaptive else of.w.norm()))
    at_minimum = Quadratic(times=0.0)
    assert not at_minimum.follow(f"adam-sam-loss adaptive={adaptive}").any()


@pytest.mark.parametrize("knob", ["rise=0", "rise=-0.1", "rise=nan", "cap=0", "cap=inf"])
def test_a_budget_is_above_0_and_finite(knob):
    name, _, value = knob.partition("=")
    of = Quadratic()
    with pytest.raises(ValueError, match=f"{name} {float(value)}: .* must be above 0, finite"):
        of.follow(f"adam-sam-loss {knob}")
    assert not of.passes


@pytest.mark.parametrize("scale", [1.0, 2.0**20])
def test_friendly_sam_climbs_along_what_is_the_batchs_own(scale):
    """Three steps of m <- 0.6 m + 0.4 g, d = g - 0.5 m, from other weights each; m of all ranks."""
    memory, m, of = {}, torch.zeros(10).double(), Quadratic(scale)
    for step in range(3):
        with torch.no_grad():
            for w in of.weights:
                w.add_(0.3 * step)
        g = of.hessian @ of.flat()
        others = [torch.full_like(w, 5.0 + step) for w in of.weights]  # of another rank
        m = 0.6 * m + 0.4 * (g + 5 + step) / 2
        d = g - 0.5 * m
        mean = lambda grads: [(a + b) / 2 for a, b in zip(grads, others)]  # noqa: B023, E731
        eps = of.follow("adam-fsam decay=0.6 share=0.5", memory=memory, mean=mean)
        torch.testing.assert_close(eps, 0.3 * d / d.norm())
        torch.testing.assert_close(torch.cat([x.flatten() for x in memory["mean"]]), m)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_overflow_stays_out_of_the_mean_gradient(bad):
    of, memory = Quadratic(), {}
    of.follow("adam-fsam", memory=memory)
    before = [m.clone() for m in memory["mean"]]

    def overflowing():
        of.closure()
        of.weights[0].grad[0, 1] = bad

    follow = choices.bound(choices.GRADIENTS, "adam-fsam")
    follow(of.closure, of.weights, **given(ascent=overflowing, memory=memory))
    assert all(map(torch.equal, memory["mean"], before))
    assert not of.grads().isfinite().any()
    with pytest.raises(ValueError, match="decay 1.0: .* must be in"):
        of.follow("adam-fsam decay=1")


def test_a_random_climb_is_as_long_as_sams_and_a_function_of_its_seed():
    """Directions of 100,000 weights are at right angles, up to their scatter of 0.003."""
    weights = [torch.zeros(100, 1000, requires_grad=True)]
    found = []

    def closure():
        found.append(weights[0].detach().clone())
        weights[0].sum().backward()

    for seed in (7, 7, 8):
        choices.bound(choices.GRADIENTS, "adam-random")(closure, weights, **given(seed=seed))
    a, again, b = found
    assert torch.equal(a, again) and not weights[0].any()
    assert [float(x.norm()) for x in found] == pytest.approx([0.3] * 3, rel=1e-4)
    assert abs(float((a * b).sum())) < 0.02 * 0.3**2
