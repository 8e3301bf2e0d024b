"""Weights of a UNetModel <-> those of diffusers' UNet2DModel, and nothing but their names changes.

Numbers stay bit for bit: q, k and v are apart there, and convolutions over tokens are matrices.
`config` is UNet2DModel's (see `diffusers_config`). Knows no files, and not diffusers itself.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Config = Mapping[str, Any]

ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
QKV = ("to_q", "to_k", "to_v")


def to_diffusers(weights: Mapping[str, Tensor], config: Config, new_order: bool) -> dict:
    """The state dict of a UNetModel as the one of the UNet2DModel of `config`.

    `new_order`: use_new_attention_order. ValueError if the weights are not those of `config`.
    """
    left, theirs = dict(weights), {}
    for our_name, name in _names(config):
        if our_name not in left:
            continue
        value = left.pop(our_name)
        if isinstance(name, str):
            theirs[name] = value.squeeze(2) if value.ndim == 3 else value
        else:
            parts = _split_qkv(value, config["attention_head_dim"], new_order)
            theirs |= dict(zip(name, parts, strict=True))
    _must_be_empty(left)
    return theirs


def from_diffusers(weights: Mapping[str, Tensor], config: Config, new_order: bool) -> dict:
    """The state dict of the UNet2DModel of `config` as the one of a UNetModel; see above."""
    left, ours = dict(weights), {}
    for our_name, name in _names(config):
        names = [name] if isinstance(name, str) else name
        if not left.keys() >= set(names):
            continue
        values = [left.pop(name) for name in names]
        if len(values) == 1:
            value = values[0]
        else:
            value = _join_qkv(values, config["attention_head_dim"], new_order)
        flat = value.ndim == 2 and our_name.endswith(("qkv.weight", "proj_out.weight"))
        ours[our_name] = value.unsqueeze(2) if flat else value
    _must_be_empty(left)
    return ours


def _must_be_empty(left: Mapping[str, Tensor]) -> None:
    if left:
        raise ValueError(f"the config knows no weights {', '.join(sorted(left)[:5])}, ...")


def _split_qkv(value: Tensor, head_dim: int, new_order: bool) -> tuple[Tensor, ...]:
    """Rows [head][q|k|v][channel], or [q|k|v][head][channel] -> q, k and v, each [head][channel].

    value: [3 C, C, 1] or [3 C].
    """
    value = value.flatten(1) if value.ndim == 3 else value
    if new_order:
        return value.chunk(3)
    return tuple(part.flatten(0, 1) for part in value.unflatten(0, (-1, 3, head_dim)).unbind(1))


def _join_qkv(parts: list[Tensor], head_dim: int, new_order: bool) -> Tensor:
    """The inverse of `_split_qkv`, without its last axis."""
    if new_order:
        return torch.cat(parts)
    heads = [part.unflatten(0, (-1, head_dim)) for part in parts]
    return torch.stack(heads, dim=1).flatten(0, 2)


def _names(config: Config) -> Iterator[tuple[str, str | tuple[str, ...]]]:
    """Our and their name of every parameter that there may be; three of theirs for q, k, v."""
    for ours, theirs in _modules(config):
        for kind in ("weight", "bias"):
            if ours.endswith("qkv"):
                yield f"{ours}.{kind}", tuple(f"{theirs}.{part}.{kind}" for part in QKV)
            else:
                yield f"{ours}.{kind}", f"{theirs}.{kind}"


def _modules(config: Config) -> Iterator[tuple[str, str]]:
    """Our and their name of every module; that of q, k, v is their attention block's."""
    yield from ENDS.items()
    if config["num_class_embeds"] is not None:
        yield "label_emb", "class_embedding"
    per_level, resnet = config["layers_per_block"], config["downsample_type"] == "resnet"
    last = len(config["block_out_channels"]) - 1
    i = 1
    for level, kind in enumerate(config["down_block_types"]):
        theirs = f"down_blocks.{level}"
        for k in range(per_level):
            yield from _stage(f"input_blocks.{i}", theirs, k, kind)
            i += 1
        if level < last:
            yield from _resampler(f"input_blocks.{i}.0", f"{theirs}.downsamplers.0", "op", resnet)
            i += 1
    yield from _res("middle_block.0", "mid_block.resnets.0")
    yield from _attention("middle_block.1", "mid_block.attentions.0")
    yield from _res("middle_block.2", "mid_block.resnets.1")
    i = 0
    for level, kind in enumerate(config["up_block_types"]):
        theirs = f"up_blocks.{level}"
        for k in range(per_level + 1):
            yield from _stage(f"output_blocks.{i}", theirs, k, kind)
            i += 1
        if level < last:
            ours = f"output_blocks.{i - 1}.{2 if kind.startswith('Attn') else 1}"
            yield from _resampler(ours, f"{theirs}.upsamplers.0", "conv", resnet)


def _stage(ours: str, theirs: str, k: int, kind: str) -> Iterator[tuple[str, str]]:
    yield from _res(f"{ours}.0", f"{theirs}.resnets.{k}")
    if kind.startswith("Attn"):
        yield from _attention(f"{ours}.1", f"{theirs}.attentions.{k}")


def _res(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    return ((f"{ours}.{a}", f"{theirs}.{b}") for a, b in RES.items())


def _attention(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.norm", f"{theirs}.group_norm"
    yield f"{ours}.qkv", theirs
    yield f"{ours}.proj_out", f"{theirs}.to_out.0"


def _resampler(ours: str, theirs: str, conv: str, resnet: bool) -> Iterator[tuple[str, str]]:
    return _res(ours, theirs) if resnet else iter([(f"{ours}.{conv}", f"{theirs}.conv")])
