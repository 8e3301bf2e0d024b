"""Tiny networks of diffusers, and errors of a network by its family."""

import numpy as np
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel

SIZES = {"sample_size": 8, "block_out_channels": (8, 16), "norm_num_groups": 4}
SIZES |= {"layers_per_block": 1}
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def unet(**how):
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DModel(**SIZES, **blocks, **how).eval()


def text_unet():
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    how = {"in_channels": 3, "out_channels": 3, "cross_attention_dim": 12, "attention_head_dim": 4}
    return UNet2DConditionModel(**SIZES, **blocks, **how).eval()


def dit():
    torch.manual_seed(0)
    how = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "patch_size": 2}
    net = DiTTransformer2DModel(**how, in_channels=3, out_channels=6, sample_size=8).eval()
    with torch.no_grad():
        for weight in net.parameters():  # some are 0 at first
            weight.add_(0.05 * torch.randn_like(weight))
    return net


@torch.no_grad()
def ours(known, net, log_snr, x, noise, **kwargs):
    """Errors [N] of the network's output, and of the x_0 that it implies, at log_snr [N]."""
    levels, taken = known.levels(log_snr)
    t = torch.arange(len(x))
    errors = levels.training_losses(known.network(net), x, t, kwargs, noise)["mse"]
    np.testing.assert_allclose(levels.log_snr, taken, atol=1e-9)
    return errors, errors * torch.tensor(levels.x_factor).float()


def squares(x):
    return (x**2).flatten(1).mean(dim=1)
