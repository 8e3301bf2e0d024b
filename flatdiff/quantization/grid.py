"""Uniform quantizers: w -> s (q - z), with q a whole number of 2 to 8 bits.

s and z belong to a whole tensor, or to each slice of its first dimension (an output channel of a
weight, an image of a batch), or to each group of so many of a slice's values. The arithmetic stays
fp32: a quantized weight is replaced by the values that its codes stand for. Knows layers and
tensors; no files, no flags.
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..kernels import calls
from ..weights.perturb import Perturbation
from . import ranges

BITS = range(2, 9)
GRANULARITIES = "tensor", "channel", "group"
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Quantized:
    """A tensor as codes, uint8 in its shape; scale (fp32) and zero (uint8) broadcast to them, or
    with a `group` are [K, groups], for so many values each of a slice [k], in row-major order."""

    codes: Tensor
    scale: Tensor
    zero: Tensor
    group: int = 0

    def dequantize(self) -> Tensor:
        """scale * (codes - zero), fp32; equal to torch.fake_quantize_per_..._affine to the bit."""
        scale, zero = (spread(x, self.codes, self.group) for x in (self.scale, self.zero.float()))
        return (self.codes.float() - zero).mul_(scale)


@dataclass(frozen=True)
class Quantizer:
    """A finite tensor -> Quantized. Zero is always exact: padding and dead weights stay zero.

    bits: 2 to 8.
    granularity: "tensor", one grid for all values; "channel", one for each slice of dimension 0;
        "group", one for each `group` values of a slice, the last of which may be fewer.
    symmetric: the grid reaches as far below zero as above it, and has 2**bits - 1 values;
        otherwise it reaches from the least value to the largest, and has 2**bits.
    ends: where a grid ends, one of `ranges`.
    """

    bits: int
    granularity: str = "tensor"
    symmetric: bool = False
    ends: Callable[..., tuple[Tensor, Tensor]] = ranges.minmax
    group: int = 32

    def __post_init__(self):
        for name, allowed in (("bits", BITS), ("granularity", GRANULARITIES)):
            if (value := getattr(self, name)) not in allowed:
                expected = ", ".join(map(str, allowed))
                raise ValueError(f"{name} of a quantizer is {value!r}; expected one of {expected}")
        if self.group < 2:
            raise ValueError(f"group of a quantizer is {self.group}; expected 2 values or more")

    @property
    def calibrated(self) -> bool:
        """Whether it asks for what is known of a layer's inputs, beside the weight."""
        return hasattr(self.ends, "codes")

    def __call__(self, x: Tensor, gram: Tensor | None = None) -> Quantized:
        """gram: of the layer's inputs, as `gptq.grams`; ValueError where it is needed and None."""
        x = x.detach().float()
        kind = self.granularity, self.symmetric, self.ends
        if kind == ("channel", False, ranges.minmax) and calls.takes_quantize(x):
            return Quantized(*calls.quantize(x, self.bits))
        group = self.group if self.granularity == "group" else 0
        scale, zero = self._of_groups(x) if group else self.grid(*self.ends(x, self))
        grid = spread(scale, x, group), spread(zero, x, group)
        if not self.calibrated:
            codes = self.codes(x, *grid)
        elif gram is None:
            raise ValueError(
                "gptq rounds a weight by its layer's inputs, which are those of images: it is for "
                "checkpoints with a --data_dir"
            )
        else:
            codes = self.ends.codes(x, *grid, self.codes, gram)
        return Quantized(codes.to(torch.uint8), scale, zero.to(torch.uint8), group)

    def _of_groups(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, zero) [K, groups] of the grids of x [K, ...]; zeros fill the last group."""
        slices = x.flatten(1)
        filled = nn.functional.pad(slices, (0, -slices.shape[1] % self.group))
        rows = replace(self, granularity="channel")
        grid = rows.grid(*self.ends(filled.reshape(-1, self.group), rows))
        return tuple(part.view(len(x), -1) for part in grid)

    def dims(self, x: Tensor) -> tuple[int, ...]:
        """The dimensions of x whose values share a grid."""
        return tuple(range(int(self.granularity != "tensor"), x.ndim))

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


def spread(of_groups: Tensor, x: Tensor, group: int) -> Tensor:
    """[K, groups] of groups -> x's shape, each value to its group; without a group as it is."""
    if not group:
        return of_groups
    each = of_groups.repeat_interleave(group, dim=1)[:, : x[0].numel()]
    return each.reshape(x.shape)


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
    layers: Mapping[str, nn.Module],
    quantizer: Callable[..., Quantized],
    grams: Mapping[str, Tensor] | None = None,
) -> dict[str, Quantized]:
    """The layers' weights quantized, by layer name; with what is known of their inputs, if that is
    given. ValueError for a weight that is not finite."""
    for name, layer in layers.items():
        if not torch.isfinite(layer.weight).all():
            raise ValueError(f"the weight of {name} is not finite, so it has no range to quantize")
    known = {name: (grams[name],) for name in layers} if grams else dict.fromkeys(layers, ())
    return {name: quantizer(layer.weight, *known[name]) for name, layer in layers.items()}


def without_gradient(x: Tensor) -> Tensor:
    """x; ValueError where a gradient would have to pass: codes have none, and what lies before the
    layer would be left out."""
    if torch.is_grad_enabled() and x.requires_grad:
        raise ValueError(
            "quantized inputs (--quant_activations) have no derivative, which this needs: "
            "quantize the weights alone"
        )
    return x


def quantize_inputs(layer: nn.Module, bits: int) -> RemovableHandle:
    """From now on the layer's input is quantized, at each call, each image on a grid of its own.

    A grid reaches from the least value of the image to the largest, so an image does not depend on
    the others in its batch. Computed in fp32, and given on in the input's dtype. ValueError where a
    gradient would have to pass.
    """
    quantizer = Quantizer(bits, granularity="channel")

    def quantize(layer, inputs):
        x = without_gradient(inputs[0])
        return (quantizer(x).dequantize().to(x.dtype),)

    return layer.register_forward_pre_hook(quantize)
