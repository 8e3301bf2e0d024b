"""The networks of guided-diffusion's golden file, and the smallest that have every block."""

import hashlib

import pytest
import torch
from torch import nn

from flatdiff.flags import config
from flatdiff.nets.classifier import EncoderUNetModel
from flatdiff.nets.unet import UNetModel

OF_DIFFUSERS = config.ModelFlags(  # which diffusers has too
    image_size=16,
    num_channels=32,
    channel_mult="1,2,3",
    num_res_blocks=1,
    attention_resolutions="8",
    num_head_channels=16,
)
CHANNEL_MULT = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def strides(image_size, resolutions):
    return tuple(image_size // int(side) for side in resolutions.split(","))


def unet(
    network=UNetModel,
    image_size=64,
    num_channels=128,
    num_res_blocks=2,
    channel_mult="",
    attention_resolutions="16,8",
    learn_sigma=False,
    class_cond=False,
    **kwargs,
):
    """A U-Net from guided-diffusion's flags and defaults."""
    mult = [int(m) for m in channel_mult.split(",")] if channel_mult else CHANNEL_MULT[image_size]
    return network(
        image_size,
        3,
        num_channels,
        6 if learn_sigma else 3,
        num_res_blocks,
        strides(image_size, attention_resolutions),
        channel_mult=mult,
        num_classes=1000 if class_cond else None,
        **{"num_heads": 4, "use_scale_shift_norm": True, **kwargs},
    )


def classifier(image_size=64, width=128, depth=2, pool="attention"):
    return EncoderUNetModel(
        image_size,
        3,
        width,
        1000,
        depth,
        strides(image_size, "32,16,8"),
        channel_mult=CHANNEL_MULT[image_size],
        num_head_channels=64,
        use_scale_shift_norm=True,
        resblock_updown=True,
        pool=pool,
    )


def tiny(**kwargs):
    """The smallest U-Net that has every kind of block, with no layer left at zero."""
    torch.manual_seed(0)
    defaults = {"num_heads": 2, "use_scale_shift_norm": True, "channel_mult": (1, 2)}
    model = UNetModel(8, 3, 32, 3, 1, (2,), **{**defaults, **kwargs})
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return model


def batch(size=2, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(size, 3, 8, 8, dtype=dtype), torch.tensor([7, 430])[:size]


def fill(model):
    """The golden file's `unet_fill`: weights that are a function of their place."""
    for i, (name, parameter) in enumerate(model.named_parameters()):
        values = 0.02 * torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + i)
        if parameter.ndim == 1 and name.endswith("weight"):
            values += 1
        parameter.data.copy_(values.view(parameter.shape))
    return model.eval()


def golden_images(n, side):
    return torch.cos(0.37 * torch.arange(n * 3 * side**2)).view(n, 3, side, side)


def assert_golden(output, golden):
    scale = golden["abs"] / output.numel()
    first = torch.tensor(golden["first"])
    torch.testing.assert_close(output.flatten()[:4], first, rtol=1e-4, atol=1e-4 * scale)
    assert output.double().sum().item() == pytest.approx(golden["sum"], abs=1e-4 * golden["abs"])
    assert output.double().abs().sum().item() == pytest.approx(golden["abs"], rel=1e-4)


def layout(model):
    lines = [f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def tiny_classifier(pool, num_head_channels=32):
    torch.manual_seed(0)
    kwargs = {"channel_mult": (1, 2), "num_head_channels": num_head_channels, "pool": pool}
    return EncoderUNetModel(8, 3, 32, 10, 1, (2,), **kwargs)
