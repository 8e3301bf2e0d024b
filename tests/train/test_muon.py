"""Muon against PyTorch's own where there is one, exact polar factors, and AdamW for the rest."""

import pytest
import torch
from training import loop

from flatdiff.store import checkpoint
from flatdiff.train.muon import Muon, muon, orthogonal
from flatdiff.train.optimizers import adamw
from flatdiff.world import logger


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (16, 16)])
def test_newton_schulz_makes_singular_values_one(shape):
    """Along the singular vectors of the matrix, which it leaves, all values come near 1."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonal(matrix) @ v.T
    values = found.diagonal()
    assert (found - values.diag()).abs().max() < 1e-4
    known = s > 0.05 * s[0]  # a value of 0 stays 0
    assert values[known].min() > 0.5 and values.max() < 1.3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has a Muon since 2.9")
def test_matrices_take_pytorchs_steps():
    """Up to its bf16: five steps of other gradients, with weight decay; tall and wide."""
    g = torch.Generator().manual_seed(0)
    start = [torch.randn(s, generator=g) for s in ((24, 40), (40, 24))]
    ours, theirs = ([w.clone().requires_grad_() for w in start] for _ in range(2))
    how = {"nesterov": True, "adjust_lr_fn": "match_rms_adamw", "momentum": 0.9}
    exact = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2, **how)
    optimizer = muon(ours, 0.1, 0.2, momentum=0.9)
    for _ in range(5):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape, generator=g)
            b.grad = a.grad.clone()
        optimizer.step()
        exact.step()
    for a, b, w in zip(ours, theirs, start):
        moved = (b - w).norm()
        assert moved > 1 and (a - b).norm() < 0.02 * moved


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_is_a_matrix_and_the_rest_is_adamws(layout):
    """A kernel [16, 4, 3, 3] moves as [16, 36]; a vector, and three rows of pixels, by AdamW."""
    g = torch.Generator().manual_seed(0)
    shapes = (16, 4, 3, 3), (16,), (3, 16, 3, 3)
    start = [torch.randn(s, generator=g) for s in shapes]
    grads = [torch.randn(s, generator=g) for s in shapes]

    def given(tensors):
        return [t.to(memory_format=layout) if t.ndim == 4 else t for t in map(torch.clone, tensors)]

    ours = [w.requires_grad_() for w in given(start)]
    matrix, *others = [w.clone().requires_grad_() for w in (start[0].flatten(1), *start[1:])]
    for w, grad in zip(ours, given(grads)):
        w.grad = grad
    matrix.grad = grads[0].flatten(1)
    for w, grad in zip(others, grads[1:]):
        w.grad = grad
    made = muon(ours, 0.1, 0.2)
    for optimizer in (made, muon([matrix], 0.1, 0.2), adamw(others, 0.1, 0.2)):
        optimizer.step()
    torch.testing.assert_close(ours[0].detach().flatten(1), matrix.detach())
    for a, b in zip(ours[1:], others):
        torch.testing.assert_close(a.detach(), b.detach())
    assert made.state[ours[0]].keys() == {"momentum_buffer"}
    assert {"exp_avg", "exp_avg_sq"} < made.state[ours[1]].keys()


def test_a_momentum_is_a_share():
    with pytest.raises(ValueError, match=r"momentum 1.0: expected a share in \[0, 1\)"):
        muon([torch.zeros(2)], 0.1, 0.0, momentum=1.0)


def test_a_network_has_both_kinds_and_adamws_state_is_refused(quiet):
    run = loop(base_optimizer="muon")
    assert isinstance(run.opt, Muon)
    assert all(len(group["params"]) > 5 for group in run.opt.param_groups)
    loop(end_step=1).run_loop()
    path = f"{logger.get_dir()}/model000001.pt"
    assert checkpoint.exists(path)
    with pytest.raises(ValueError, match="opt000001.pt: it is of another kind of optimizer"):
        loop(base_optimizer="muon", resume_checkpoint=path)
