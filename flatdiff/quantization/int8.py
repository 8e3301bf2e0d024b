"""Convolutions in 8-bit integers on the CPU, by oneDNN: faster than fp32, the same quantized sums.

With weights s_w q_w, and image i on its own grid s_i (q_i - z_i),

    y_i = s_w s_i (conv(q_i, q_w) - z_i conv(1, q_w)) + bias

is the simulation's result up to fp32 rounding. Knows layers and tensors only.
"""

import torch
from torch import Tensor, nn

from ..kernels import calls
from .grid import Quantized, Quantizer


def suits(layer: nn.Module) -> bool:
    """Whether `use_int8` can be applied to the layer."""
    if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
        return False
    return layer.groups == 1 and layer.padding_mode == "zeros"


def check(bits: int, input_bits: int) -> None:
    """ValueError unless this machine convolves weights and inputs of so many bits exactly.

    CPUs without VNNI add pairs of products in 16 bits, where the largest products of 8 by 8 bits
    do not fit.
    """
    codes = torch.full((1, 64, 4, 4), 2**input_bits - 1, dtype=torch.uint8)
    weight = torch.full((16, 64, 3, 3), 2 ** (bits - 1) - 1, dtype=torch.int8)
    try:
        result = _convolution(weight, torch.ones(1), nn.Conv2d(64, 16, 3))(codes)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"this machine or this torch has no int8 convolutions ({str(error)[:100]}); use "
            "--quant_backend simulate"
        ) from error
    if not torch.equal(result, nn.functional.conv2d(codes.double(), weight.double()).float()):
        raise ValueError(
            f"this CPU (without VNNI) overflows on {bits}-bit weights times {input_bits}-bit "
            "inputs; give --quant_activations 7 or --quant 7, which are exact here, or "
            "--quant_backend simulate"
        )


def use_int8(layer: nn.Conv2d, weight: Quantized, input_bits: int) -> None:
    """From now on the layer quantizes its input, each image on its own grid, and convolves codes.

    :param weight: of a symmetric quantizer.
    """
    codes = (weight.codes.short() - weight.zero.short()).to(torch.int8)
    convolve = _convolution(codes, weight.scale.flatten(), layer)
    quantizer = Quantizer(input_bits, granularity="channel")
    bias = torch.zeros(len(weight.codes)) if layer.bias is None else layer.bias.detach()
    of_ones: dict[torch.Size, Tensor] = {}  # by height and width: the borders see padding

    def forward(x: Tensor) -> Tensor:
        image = quantizer(x)
        if x.shape[2:] not in of_ones:
            of_ones[x.shape[2:]] = convolve(torch.ones_like(image.codes[:1]))
        ones, y = of_ones[x.shape[2:]], convolve(image.codes)
        if calls.takes_rescale(y):
            return calls.rescale(y, ones, image.scale, image.zero, bias).to(x.dtype)
        y.addcmul_(ones, image.zero.float(), value=-1)
        return torch.addcmul(bias.view(-1, 1, 1), y, image.scale).to(x.dtype)

    layer.forward = forward


def _convolution(codes: Tensor, scale: Tensor, layer: nn.Conv2d):
    """uint8 [N, C, H, W] -> fp32 scale * conv(., codes), [N, K, H, W], without bias."""
    onednn = torch.ops.onednn
    geometry = [list(layer.stride), list(layer.padding), list(layer.dilation), 1]
    weight = onednn.qconv_prepack(codes.contiguous(), scale, 1.0, 0, *geometry, None)
    zero = torch.zeros(len(scale), dtype=torch.int64)

    def convolve(x: Tensor) -> Tensor:
        output = (1.0, 0, torch.float32, "none", [], "")  # its scale, zero, dtype; nothing after it
        return onednn.qconv2d_pointwise(x, 1.0, 0, weight, scale, zero, None, *geometry, *output)

    return convolve
