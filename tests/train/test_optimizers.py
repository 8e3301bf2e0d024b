"""AdamW against its first step written out; another optimizer is a function and a line."""

import functools

import pytest
import torch
from training import data, equal, loop

from flatdiff.flags import choices
from flatdiff.store import checkpoint
from flatdiff.train.optimizers import adamw
from flatdiff.world import logger


def test_adamw_takes_the_published_first_step():
    """w (1 - lr wd) - lr g / (|g| + eps) (Loshchilov & Hutter 2019, Alg. 2, t = 1)."""
    w = torch.tensor([2.0, -3.0, 0.5])
    g = torch.tensor([0.1, -20.0, 1e-3])
    weights = [w.clone().requires_grad_()]
    weights[0].grad = g.clone()
    adamw(weights, 0.01, 0.2).step()
    expected = w * (1 - 0.01 * 0.2) - 0.01 * g / (g.abs() + 1e-8)
    torch.testing.assert_close(weights[0].detach(), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_and_gradients_of_any_layout_take_pytorchs_steps(layout):
    """Ours, fused, against PyTorch's plain loop in fp64; gradients lie as the weights or not."""
    start = [torch.randn(6, 4, 3, 3), torch.randn(6, 4, 1, 1), torch.randn(1, 4, 3, 3)]
    start.append(torch.randn(5, 7))
    ours = [w.to(memory_format=layout) if w.ndim == 4 else w.clone() for w in start]
    theirs = [w.double().requires_grad_() for w in start]
    ours = [w.requires_grad_() for w in ours]
    optimizer = adamw(ours, 0.1, 0.1)
    exact = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.1, foreach=False)
    for step in range(4):
        for i, (a, b) in enumerate(zip(ours, theirs)):
            g = torch.randn(a.shape)
            a.grad, b.grad = torch.empty_like(a).copy_(g) if i or step % 2 else g, g.double()
        optimizer.step()
        exact.step()
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.detach().double(), b.detach(), rtol=1e-5, atol=1e-6)
        assert optimizer.state[a]["exp_avg"].shape == a.shape


def test_the_fused_kernel_copies_no_weight(monkeypatch):
    """It gets what lies in memory in its order, and otherwise copies it at every step."""
    given, fused = [], torch._fused_adamw_
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *a, **k: given.append(a) or fused(*a, **k))
    w = torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    w.grad = torch.randn_like(w)
    adamw([w], 0.1, 0.0).step()
    assert all(t.is_contiguous() for tensors in given[0][:4] for t in tensors)


@pytest.mark.parametrize("name", choices.OPTIMIZERS)
def test_the_rate_stands_where_the_loop_sets_it(name):
    """A rate of 0 in param_groups takes no step, also where weights decay."""
    w = torch.ones(3, requires_grad=True)
    w.grad = torch.ones(3)
    optimizer = choices.bound(choices.OPTIMIZERS, name)([w], lr=0.1, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert w.tolist() == [1, 1, 1]


@pytest.fixture
def sgd(quiet):
    """A function that makes a training whose steps SGD takes."""
    return functools.partial(loop, base_optimizer="sgd")


def steps(run, count):
    """Before each step the weights, and the gradient that it followed."""
    found, optimize = [], run.optimize

    def recorded():
        found.append([(w.detach().clone(), w.grad.clone()) for w in run.weights])
        return optimize()

    run.optimize = recorded
    for _, batch in zip(range(count), data(0)):
        run.run_step(*batch)
    return found


def test_another_optimizer_takes_its_own_steps(sgd):
    """w - lr g, then w - lr (0.9 g0 + g1) (Sutskever et al. 2013, as PyTorch has it)."""
    run = sgd(lr=0.01)
    (first, second), after = steps(run, 2), run.weights
    for (w0, g0), (w1, g1), w2 in zip(first, second, after):
        torch.testing.assert_close(w1, w0 - 0.01 * g0)
        torch.testing.assert_close(w2.detach(), w1 - 0.01 * (0.9 * g0 + g1))


def test_msam_looks_along_the_momentum_of_any_optimizer(sgd):
    """At w - rho m / ||m||, m of SGD the first gradient; without a momentum it is refused."""
    run, looked = sgd(lr=0.01, optimizer="adam-msam", rho=0.5), []
    run.climbs = lambda start, moved: looked.append((start, [w.detach().clone() for w in moved]))
    (first, second) = steps(run, 2)
    (ours,), m = looked, [g for _, g in first]
    norm = torch.cat([x.flatten() for x in m]).norm()
    assert equal(ours[0], [w for w, _ in second])
    for at, w, x in zip(ours[1], ours[0], m):
        torch.testing.assert_close(at, w - 0.5 * x / norm)
    with pytest.raises(ValueError, match="sgd momentum=0 keeps none"):
        sgd(optimizer="adam-msam", base_optimizer="sgd momentum=0")


def test_the_state_of_another_optimizer_is_refused(sgd):
    sgd(end_step=1).run_loop()
    path = f"{logger.get_dir()}/model000001.pt"
    assert checkpoint.load(f"{logger.get_dir()}/opt000001.pt")["state"][0].keys() == {
        "momentum_buffer"
    }
    with pytest.raises(ValueError, match=r"opt000001.pt: it is of another kind of optimizer"):
        loop(resume_checkpoint=path)
    loop(end_step=2).run_loop()
    path = f"{logger.get_dir()}/model000002.pt"
    with pytest.raises(ValueError, match=r"opt000002.pt: it is of another kind of optimizer"):
        sgd(resume_checkpoint=path)
