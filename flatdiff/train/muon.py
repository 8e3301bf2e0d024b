"""Muon (Jordan et al. 2024): steps of matrices with all singular values made 1, AdamW for the rest.

    b <- beta b + (1 - beta) g;   w <- (1 - lr wd) w - 0.2 lr sqrt(max(m, n)) UV'  of  U S V' = g'
    g' = (1 - beta) g + beta b  (Nesterov's)

The length of 0.2 sqrt(max(m, n)) is that of AdamW's steps (Liu et al. 2025, eq. 4), so that one
rate suits both. PyTorch has a Muon since 2.9, which takes matrices alone and none of 4 dimensions.
"""

import torch
from torch import Tensor

from .optimizers import adamw

FEW = 8  # rows or columns, by which a kernel makes or reads images: AdamW's
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315  # Jordan et al. 2024: singular values go near 1 in 5 steps


def muon(
    weights: list[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
) -> torch.optim.Optimizer:
    """Muon for matrices and for kernels as matrices [out, in k k], AdamW for all other weights:
    vectors, and what has at most FEW rows or columns. ValueError for a momentum out of [0, 1)."""
    if not 0 <= momentum < 1:
        raise ValueError(f"muon, momentum {momentum}: expected a share in [0, 1), as 0.95")
    return Muon(weights, lr, weight_decay, momentum)


class Muon(torch.optim.Optimizer):
    """Two groups of one optimizer: `matrices`, and those that an AdamW steps."""

    def __init__(self, weights, lr, weight_decay, momentum):
        groups: dict[bool, list[Tensor]] = {True: [], False: []}
        for w in weights:
            groups[w.ndim > 1 and min(_matrix(w).shape) > FEW].append(w)
        self.adamw = adamw(groups[False] or [torch.zeros(0)], lr, weight_decay)
        matrices = {"params": groups[True], "matrices": True}
        others = {**self.adamw.param_groups[0], "params": groups[False], "matrices": False}
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([matrices, others], defaults | {"betas": others["betas"]})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        self.adamw.param_groups, self.adamw.state = self.param_groups[1:], self.state
        self.adamw.step()
        group = self.param_groups[0]
        for w in group["params"]:
            if w.grad is not None:
                self._step(w, group["lr"], group["weight_decay"], group["momentum"])
        return loss

    def _step(self, w: Tensor, lr: float, weight_decay: float, momentum: float) -> None:
        state = self.state[w]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(w, requires_grad=False)
        mean = state["momentum_buffer"].lerp_(w.grad, 1 - momentum)
        ahead = _matrix(w.grad.lerp(mean, momentum))
        length = 0.2 * max(ahead.shape) ** 0.5
        w.mul_(1 - lr * weight_decay)
        w.add_(orthogonal(ahead).view(w.shape), alpha=-lr * length)


def _matrix(w: Tensor) -> Tensor:
    return w.flatten(1)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """UV' of U S V' = matrix [m, n], nearly: singular values between about 0.7 and 1.2.

    Newton-Schulz steps of an odd polynomial, after Frobenius' norm has brought all values below 1.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
