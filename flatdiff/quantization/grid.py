"""Uniform quantizers: w -> s (q - z), with q a whole number of 2 to 8 bits.

s and z belong to a whole tensor, or to each slice of its first dimension (an output channel of a
weight, an image of a batch). The arithmetic stays fp32: a quantized weight is replaced by the
values that its codes stand for. Knows layers and tensors; no files, no flags.
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..kernels import calls
from ..weights.perturb import Perturbation
from . import ranges

BITS = range(2, 9)
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Quantized:
    """A tensor as codes, uint8 in its shape; scale (fp32) and zero (uint8) broadcast to them."""

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def dequantize(self) -> Tensor:
        """scale * (codes - zero), fp32; equal to torch.fake_quantize_per_..._affine to the bit."""
        return (self.codes.float() - self.zero.float()).mul_(self.scale)


@dataclass(frozen=True)
class Quantizer:
    """A finite tensor -> Quantized. Zero is always exact: padding and dead weights stay zero.

    bits: 2 to 8.
    granularity: "tensor", one grid for all values; "channel", one for each slice of dimension 0.
    symmetric: the grid reaches as far below zero as above it, and has 2**bits - 1 values;
        otherwise it reaches from the least value to the largest, and has 2**bits.
    ends: where a grid ends, one of `ranges`.
    """

    bits: int
    granularity: str = "tensor"
    symmetric: bool = False
    ends: Callable[..., tuple[Tensor, Tensor]] = ranges.minmax

    def __post_init__(self):
        for name, allowed in (("bits", BITS), ("granularity", ("tensor", "channel"))):
            if (value := getattr(self, name)) not in allowed:
                expected = ", ".join(map(str, allowed))
                raise ValueError(f"{name} of a quantizer is {value!r}; expected one of {expected}")

    def __call__(self, x: Tensor) -> Quantized:
        x = x.detach().float()
        kind = self.granularity, self.symmetric, self.ends
        if kind == ("channel", False, ranges.minmax) and calls.takes_quantize(x):
            return Quantized(*calls.quantize(x, self.bits))
        scale, zero = self.grid(*self.ends(x, self))
        codes = self.codes(x, scale, zero)
        return Quantized(codes.to(torch.uint8), scale, zero.to(torch.uint8))

    def dims(self, x: Tensor) -> tuple[int, ...]:
        """The dimensions of x whose values share a grid."""
        return tuple(range(int(self.granularity == "channel"), x.ndim))

    def grid(self, lowest: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, zero) of the grids from `lowest` to `highest`, drawn out to hold zero."""
        tiny = torch.finfo(torch.float32).tiny  # all zeros: any scale does, if 1 / scale is finite
        if self.symmetric:
            half = 2 ** (self.bits - 1)
            scale = torch.maximum(-lowest, highest).div(half - 1).clamp(min=tiny)
            return scale, torch.full_like(scale, half)
        steps = 2**self.bits - 1
        lowest, highest = lowest.clamp(max=0), highest.clamp(min=0)
        scale = (highest / steps - lowest / steps).clamp(min=tiny)
        return scale, (-lowest / scale).round()

    def codes(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """The nearest code to each value, as whole fp32 numbers."""
        least = 1 if self.symmetric else 0
        return (x * (1 / scale)).round_().add_(zero).clamp_(least, 2**self.bits - 1)


def quantized(bits: int, **settings) -> Perturbation:
    """w' = the quantized weights. The settings are Quantizer's."""
    quantizer = Quantizer(bits, **settings)

    def move(weights: list[Tensor]) -> None:
        for w in weights:
            w.copy_(quantizer(w).dequantize())

    return move


def layers_of(model: nn.Module, skip: Iterable[str] = ()) -> dict[str, nn.Module]:
    """The layers whose weights are quantized, by name: all convolutions and linear layers.

    Biases, norms and the label embedding are left as they are: they are few, and no factors of a
    matrix product. skip: patterns of layers to leave out, as "out.*" or "input_blocks.0.0";
    ValueError if one fits no layer, or if no layer is left.
    """
    skip = list(skip)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LAYERS)}
    for pattern in skip:
        if not fnmatch.filter(layers, pattern):
            raise ValueError(
                f"no convolution or linear layer is named {pattern!r}; the names go from "
                f"{next(iter(layers))} to {next(reversed(layers))}, and * stands for any text"
            )
    kept = {n: m for n, m in layers.items() if not any(fnmatch.fnmatch(n, p) for p in skip)}
    if not kept:
        without = f" without {', '.join(skip)}" if skip else ""
        raise ValueError(f"no layer is left to be quantized{without}")
    return kept


def quantize_weights(
    layers: Mapping[str, nn.Module], quantizer: Callable[[Tensor], Quantized]
) -> dict[str, Quantized]:
    """The layers' weights quantized, by layer name. ValueError for a weight that is not finite."""
    for name, layer in layers.items():
        if not torch.isfinite(layer.weight).all():
            raise ValueError(f"the weight of {name} is not finite, so it has no range to quantize")
    return {name: quantizer(layer.weight) for name, layer in layers.items()}


def quantize_inputs(layer: nn.Module, bits: int) -> RemovableHandle:
    """From now on the layer's input is quantized, at each call, each image on a grid of its own.

    A grid reaches from the least value of the image to the largest, so an image does not depend on
    the others in its batch. Computed in fp32, and given on in the input's dtype. ValueError where a
    gradient would have to pass: codes have none, and what lies before the layer would be left out.
    """
    quantizer = Quantizer(bits, granularity="channel")

    def quantize(layer, inputs):
        if torch.is_grad_enabled() and inputs[0].requires_grad:
            raise ValueError(
                "quantized inputs (--quant_activations) have no derivative, which this needs: "
                "quantize the weights alone"
            )
        return (quantizer(inputs[0]).dequantize().to(inputs[0].dtype),)

    return layer.register_forward_pre_hook(quantize)
