"""Quantized weights as small tensors: in a file, and in the memory of a network that samples.

Codes below 16 (2 to 4 bits) lie two in a byte, the earlier one in the low half; larger ones one in
a byte, also those of 5 to 7 bits. In a file the weight NAME is the four tensors NAME.codes (uint8),
NAME.scale (fp32), NAME.zero (uint8) and NAME.shape (int64), and where grids are of groups of values
NAME.group (int64), of how many: so the tensors alone say what they are.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .grid import Quantized


def pack_codes(codes: Tensor) -> Tensor:
    """uint8 of any shape -> uint8 [bytes]."""
    flat = codes.flatten()
    if flat.max() > 15:
        return flat
    flat = nn.functional.pad(flat, (0, len(flat) % 2))
    return flat[::2] | flat[1::2] << 4


def unpack_codes(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """uint8 [bytes] -> uint8 of the shape."""
    count = math.prod(shape)
    if len(packed) < count:
        packed = torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:count]
    return packed.view(*shape)


def pack(state_dict: Mapping[str, Tensor], quantized: Mapping[str, Quantized]) -> dict[str, Tensor]:
    """What a file holds: the state dict with the weights of the quantized layers packed.

    :param quantized: by layer name, as `quantize.quantize_weights` gives it.
    """
    tensors = dict(state_dict)
    for layer, q in quantized.items():
        name = f"{layer}.weight"
        del tensors[name]
        tensors |= {f"{name}.codes": pack_codes(q.codes), f"{name}.scale": q.scale}
        tensors |= {f"{name}.zero": q.zero, f"{name}.shape": torch.tensor(q.codes.shape)}
        tensors |= {f"{name}.group": torch.tensor(q.group)} if q.group else {}
    return tensors


def packed_weights(tensors: Mapping[str, Tensor]) -> dict[str, Quantized]:
    """The quantized weights among a file's tensors, by layer name."""
    found = {}
    for layer in (k.removesuffix(".weight.codes") for k in tensors if k.endswith(".weight.codes")):
        parts = (tensors[f"{layer}.weight.{part}"] for part in ("codes", "shape", "scale", "zero"))
        codes, shape, *grid = parts
        group = tensors.get(f"{layer}.weight.group", torch.tensor(0))
        _check(f"{layer}.weight", codes, shape, *grid, group)
        found[layer] = Quantized(unpack_codes(codes, shape.tolist()), *grid, int(group))
    return found


def _check(
    name: str, codes: Tensor, shape: Tensor, scale: Tensor, zero: Tensor, group: Tensor
) -> None:
    """ValueError where tensors of a weight do not fit together, or its scales are no lengths."""
    parts = {"codes": codes, "zero": zero, "shape": shape, "group": group, "scale": scale}
    kinds = [torch.uint8] * 2 + [torch.int64] * 2 + [torch.float32]
    for (part, tensor), dtype in zip(parts.items(), kinds):
        if tensor.dtype != dtype:
            raise ValueError(f"{name}.{part} is of {tensor.dtype}, expected {dtype}")
    sizes, of = shape.tolist(), int(group)
    if shape.ndim != 1 or not sizes or min(sizes) < 1 or of < 0:
        raise ValueError(f"{name} is of shape {sizes}, in groups of {of}: no weight is")
    count = math.prod(sizes)
    if codes.ndim != 1 or len(codes) not in (count, -(-count // 2)):
        raise ValueError(f"{name} of shape {sizes} has codes of {list(codes.shape)} bytes")
    first, ones = sizes[0], [1] * (len(sizes) - 1)
    wanted = [[first, -(-count // first // of)]] if of else [[1, *ones], [first, *ones]]
    if list(scale.shape) not in wanted or zero.shape != scale.shape:
        raise ValueError(
            f"{name} of shape {sizes} has scales of {list(scale.shape)} and zeros of "
            f"{list(zero.shape)}, expected {wanted[-1]}"
        )
    if not (scale.isfinite() & (scale > 0)).all():
        raise ValueError(f"{name}.scale has numbers that are no lengths: zero, below, nan or inf")


def check_settings(
    quantized: Mapping[str, Quantized], bits: int, granularity: str, symmetric: bool, group: int
) -> None:
    """ValueError where a layer's weight is not of the settings of its quantizer."""
    for layer, q in quantized.items():
        largest, slices = int(torch.maximum(q.codes.max(), q.zero.max())), len(q.codes)
        found = "group" if q.group else "channel" if q.scale.numel() > 1 else "tensor"
        problems = {
            f"a code or zero {largest}, and has {bits} bits": largest >= 2**bits,
            f"a grid per {found}, and not per {granularity}": found != granularity
            and (slices > 1 or "group" in (found, granularity)),
            f"groups of {q.group}, and not of {group}": q.group and q.group != group,
            "zeros off the middle, and is symmetric": symmetric
            and not (q.zero == 2 ** (bits - 1)).all(),
        }
        if told := next(filter(problems.get, problems), ""):
            raise ValueError(f"by its settings the weight of {layer} is of another kind: {told}")


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict in fp32 of a file's tensors: as they are, if none of them is packed."""
    packed = {f"{layer}.weight": q for layer, q in packed_weights(tensors).items()}
    plain = {k: v for k, v in tensors.items() if k.rpartition(".")[0] not in packed}
    return plain | {name: q.dequantize() for name, q in packed.items()}


class _Unpacked(nn.Module):
    """A weight, made anew from its codes whenever it is asked for."""

    def __init__(self, weight: Quantized, memory_format: torch.memory_format):
        super().__init__()
        self.shape, self.group = weight.codes.shape, weight.group
        self.memory_format = memory_format
        self.packed = [pack_codes(weight.codes), weight.scale, weight.zero]

    def right_inverse(self, _: Tensor) -> list[Tensor]:
        return self.__dict__.pop("packed")  # torch keeps them from here on

    def forward(self, codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        codes = unpack_codes(codes, self.shape).contiguous(memory_format=self.memory_format)
        return Quantized(codes, scale, zero, self.group).dequantize()


def keep_packed(layer: nn.Module, weight: Quantized) -> None:
    """Drop the layer's fp32 weight, and unpack it for the length of each use, in the same layout.

    Saves memory, and costs time. The weight cannot be trained any more.
    """
    images = layer.weight.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if images else torch.contiguous_format
    layer.weight.requires_grad_(False)
    parametrize.register_parametrization(layer, "weight", _Unpacked(weight, memory_format))
