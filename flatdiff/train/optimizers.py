"""The optimizers that take the steps: functions of the weights, lr and weight_decay.

A new one is a torch.optim.Optimizer whose lr stands in its param_groups; its state is saved and
resumed as PyTorch saves it.
"""

import torch
from torch import Tensor

MOMENTA = ("exp_avg", "momentum_buffer")  # what PyTorch's optimizers call their sum of gradients


def adamw(weights: list[Tensor], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), guided-diffusion's: its state_dict fits both ways."""
    return _AdamW(weights, lr=lr, weight_decay=weight_decay, fused=True)


def sgd(
    weights: list[Tensor],
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """PyTorch's stochastic gradient descent (Sutskever et al. 2013); weight_decay is a term of the
    gradient, not AdamW's."""
    how = {"weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
    return torch.optim.SGD(weights, lr=lr, **how)


class _AdamW(torch.optim.AdamW):
    """AdamW that shows its fused kernel channels_last weights in the order of memory.

    On a CPU the kernel would copy them, their gradients and their moments at every step; and it
    reads a gradient that lies otherwise than its weight as if it did not, which is wrong.
    """

    def _init_group(self, group, weights, gradients, *more):
        found = super()._init_group(group, weights, gradients, *more)
        moments = [m for m in more if isinstance(m, list)][:2]  # torch 2.6 has a bool before them
        for i, w in enumerate(weights):
            if gradients[i].stride() != w.stride():
                gradients[i] = torch.empty_like(w).copy_(gradients[i])
            if w.ndim == 4 and not w.is_contiguous():
                for tensors in (weights, gradients, *moments):
                    tensors[i] = tensors[i].permute(0, 2, 3, 1)
        return found


def momenta(optimizer: torch.optim.Optimizer, weights: list[Tensor]) -> list[Tensor | None]:
    """The sum of gradients that the optimizer follows, for each weight; None before its first."""
    states = [optimizer.state.get(w, {}) for w in weights]
    return [next((s[name] for name in MOMENTA if name in s), None) for s in states]


def keeps_momenta(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is known to follow a sum of gradients, by the settings that PyTorch's have."""
    return "betas" in optimizer.defaults or bool(optimizer.defaults.get("momentum"))
