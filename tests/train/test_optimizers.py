"""AdamW against its first step written out; another optimizer is a function and a line."""

import pytest
import torch

from flatdiff.flags import choices
from flatdiff.train.optimizers import adamw


def test_adamw_takes_the_published_first_step():
    """w (1 - lr wd) - lr g / (|g| + eps) (Loshchilov & Hutter 2019, Alg. 2, t = 1)."""
    w = torch.tensor([2.0, -3.0, 0.5])
    g = torch.tensor([0.1, -20.0, 1e-3])
    weights = [w.clone().requires_grad_()]
    weights[0].grad = g.clone()
    adamw(weights, 0.01, 0.2).step()
    expected = w * (1 - 0.01 * 0.2) - 0.01 * g / (g.abs() + 1e-8)
    torch.testing.assert_close(weights[0].detach(), expected)


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
