"""The optimizers that take the steps: functions of the weights, lr and weight_decay.

A new one is a torch.optim.Optimizer whose lr stands in its param_groups; its state is saved and
resumed as PyTorch saves it.
"""

import torch
from torch import Tensor


def adamw(weights: list[Tensor], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), guided-diffusion's: its state_dict fits both ways."""
    return torch.optim.AdamW(weights, lr=lr, weight_decay=weight_decay, fused=True)
