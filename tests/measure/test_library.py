"""Perturbations and SAM around networks and in loops that are not ours."""

import pytest
import torch
from launch import succeed, torchrun
from torch import nn

import flatdiff
from flatdiff.quantization.grid import Quantizer


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Dropout(0.5)
    return nn.Sequential(*layers, nn.Conv2d(8, 3, 3, padding=1))


def test_a_perturbed_network_comes_back_to_the_bit():
    net = network().eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randn(2, 3, 4, 4)
    own = net(x)
    with flatdiff.perturbed(net, flatdiff.gaussian(0.1, 0, 0)) as distance:
        moved = torch.cat([(w - before[k]).flatten() for k, w in net.state_dict().items()])
        assert distance == pytest.approx(float(moved.norm()), rel=1e-4)
        assert not torch.equal(net(x), own)
    with pytest.raises(ZeroDivisionError), flatdiff.perturbed(net, flatdiff.sphere(2.0, 0, 0)) as d:
        assert d == pytest.approx(2.0, rel=1e-4)
        raise ZeroDivisionError
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_only_chosen_weights_are_moved():
    net = network().eval()
    before = [w.clone() for w in net.parameters()]
    with flatdiff.perturbed(net, flatdiff.gaussian(0.1, 0, 0), weights="4.*"):
        moved = [not torch.equal(a, b) for a, b in zip(before, net.parameters())]
    assert moved == [False, False, False, False, True, True]
    net[0].requires_grad_(False)
    with flatdiff.perturbed(net, flatdiff.gaussian(0.1, 0, 0)):
        moved = [not torch.equal(a, b) for a, b in zip(before, net.parameters())]
    assert moved == [False, False, True, True, True, True]


def test_quantized_weights_are_the_quantizers():
    net = network().eval().requires_grad_(False)  # as a pipeline has them
    wanted = Quantizer(4, "channel", True)(net[0].weight).dequantize()
    norm, last = net[1].weight.clone(), net[4].weight.clone()
    rounding = flatdiff.quantize(4, granularity="channel", symmetric=True, skip=["4"])
    with flatdiff.perturbed(net, rounding) as distance:
        assert torch.equal(net[0].weight, wanted) and torch.equal(net[1].weight, norm)
        assert torch.equal(net[4].weight, last) and distance > 0
    with flatdiff.perturbed(net, flatdiff.quantize(bits=2)):
        assert len(net[0].weight.unique()) <= 4
    with pytest.raises(ValueError, match="bits of a quantizer is 9"):
        flatdiff.quantize(bits=9)
    with pytest.raises(ValueError, match="takes no weights="):
        flatdiff.perturbed(net, rounding, weights="0.*").__enter__()


def test_a_subject_is_rounded_where_its_network_would_be():
    """Convolutions alone, as `perturbed` does: biases and norms are no factors of products."""
    net, x = network().eval(), torch.randn(6, 3, 4, 4)

    def loss(net, x):
        return net(x).square().mean(dim=(1, 2, 3))

    subject = flatdiff.subject(net, loss=loss, draws=x)
    found = subject.at(flatdiff.quantize(bits=3))
    with flatdiff.perturbed(net, flatdiff.quantize(bits=3)) as distance:
        assert found["losses"][0] == pytest.approx([float(loss(net, x).mean())])
    assert found["distance"] == pytest.approx(distance)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_in_a_loop_with_noise_and_dropout_is_the_gradient_at_the_ridge(adaptive):
    """By hand: one gradient, the climb, and another one of the same random numbers."""
    net, x = network().train(), torch.randn(4, 3, 4, 4)

    def closure():
        noise = torch.randn_like(x)
        loss = ((net(x + noise) - noise) ** 2).mean()
        loss.backward()
        return loss.item()

    torch.manual_seed(5)
    first = closure()
    after = torch.randn(3)
    grads = [w.grad.double() for w in net.parameters()]
    start = [w.detach().clone() for w in net.parameters()]
    scale = [w.double().abs() if adaptive else torch.ones_like(g) for w, g in zip(start, grads)]
    norm = torch.cat([(s * g).flatten() for s, g in zip(scale, grads)]).norm()
    with torch.no_grad():
        for w, g, s in zip(net.parameters(), grads, scale):
            w.add_((0.1 * s * s * g / norm).float())
    net.zero_grad()
    torch.manual_seed(5)
    closure()
    wanted = [w.grad.clone() for w in net.parameters()]
    with torch.no_grad():
        torch._foreach_copy_(list(net.parameters()), start)
    net.zero_grad()
    torch.manual_seed(5)
    assert flatdiff.sam_gradient(closure, net.parameters(), rho=0.1, adaptive=adaptive) == first
    for w, s, g in zip(net.parameters(), start, wanted):
        assert torch.equal(w, s)
        torch.testing.assert_close(w.grad, g, rtol=1e-3, atol=1e-6)
    assert torch.equal(torch.randn(3), after)  # the stream goes on as after one pass


def test_sam_under_autocast_moves_fp32_weights():
    net, x = network().train(), torch.randn(4, 3, 4, 4)

    def closure(net=net):
        with torch.autocast("cpu", torch.bfloat16):
            loss = (net(x).float() ** 2).mean()
        loss.backward()

    flatdiff.sam_gradient(closure, net.parameters(), rho=0.05)
    assert all(w.grad.dtype == torch.float32 and w.grad.isfinite().all() for w in net.parameters())
    other = network()
    with pytest.raises(ValueError, match="left no gradient in any of the weights"):
        flatdiff.sam_gradient(closure, other.parameters(), rho=0.05)
    other.bfloat16()
    with pytest.raises(ValueError, match="must be fp32"):
        flatdiff.sam_gradient(lambda: closure(other), other.parameters(), rho=0.05)


def test_inside_autocast_no_cast_copy_of_other_weights_is_used():
    """Autocast keeps bf16 copies of weights until its outermost block ends."""
    net, x = network().eval(), torch.randn(2, 3, 4, 4)
    weights, outer = list(net.parameters()), torch.autocast("cpu", torch.bfloat16)

    def closure():
        with torch.autocast("cpu", torch.bfloat16):
            net(x).float().square().mean().backward()

    def gradient():
        net.zero_grad()
        flatdiff.sam_gradient(closure, weights, rho=0.5)
        return [w.grad.clone() for w in weights]

    plain = gradient()
    with outer:
        assert all(map(torch.equal, gradient(), plain))
        own = net(x)
        with flatdiff.perturbed(net, flatdiff.gaussian(0.5)):
            assert not torch.equal(net(x), own)
        assert torch.equal(net(x), own)


def test_only_wrappers_of_torch_are_opened():
    """A network of one's own may call its part `module`, and have weights beside it."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(3))

    net = Own().eval()
    with flatdiff.perturbed(net, flatdiff.sphere(1.0, 0, 0)):
        assert not torch.equal(net.scale, torch.ones(3))
    compiled = torch.compile(net, backend="eager")
    with flatdiff.perturbed(compiled, flatdiff.sphere(1.0, 0, 0), weights="scale") as distance:
        assert float((net.scale - 1).detach().norm()) == pytest.approx(distance) == pytest.approx(1)


RANKS = """
import gc, os, sys
import torch
import torch.distributed as dist
from launch import succeed, torchrun

import flatdiff
from torch import nn

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))
x = torch.randn(8, 4)
ddp = nn.parallel.DistributedDataParallel(net)
part = x[4 * rank : 4 * rank + 4]

def closure():
    with torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[2] == "bf16"):
        loss = (ddp(part).float() - part).square().mean()
    loss.backward()

flatdiff.sam_gradient(closure, ddp.parameters(), rho=0.5)
torch.save([w.grad for w in net.parameters()], f"{sys.argv[1]}/{rank}.pt")
del ddp
gc.collect()
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_sam_over_ranks_of_ddp_is_that_of_the_whole_batch(tmp_path, dtype):
    """Two ranks of four examples each, against eight in one process, twice by hand in fp64."""
    (tmp_path / "ranks.py").write_text(RANKS)
    succeed(torchrun(2, tmp_path / "ranks.py", tmp_path, dtype))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))
    x = torch.randn(8, 4).double()
    net.double()
    (net(x) - x).square().mean().backward()
    grads = [w.grad.clone() for w in net.parameters()]
    norm = torch.cat([g.flatten() for g in grads]).norm()
    with torch.no_grad():
        for w, g in zip(net.parameters(), grads):
            w.add_(0.5 * g / norm)
    net.zero_grad()
    (net(x) - x).square().mean().backward()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == "fp32" else {"rtol": 0.1, "atol": 0.01}
    for a, b, w in zip(first, second, net.parameters()):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, w.grad.float(), **close)
    assert any((g - w.grad).abs().max() > 0.02 for g, w in zip(grads, net.parameters()))
