"""A ViT <-> diffusers' DiTTransformer2DModel: its config, and its weights, bit for bit.

There every block has an embedding of timestep and label of its own: each gets a copy of ours, and
on the way back all of them must be equal. There is always a row for images without a label, and
never a network without labels: a row, or a whole table, that we do not have is one of zeros, and
zeros are left out on the way back. Such a network is called with labels 0. Dicts only: no files,
and not diffusers itself.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..nets.blocks import count_heads
from .diffusers_config import CLASS_DROPOUT, Config, Flags, must_agree

ALWAYS = {  # where DiTTransformer2DModel has a choice that ViT has made
    "in_channels": 3,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "upcast_attention": False,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}
ENDS = {"patch_embed": ["pos_embed.proj"], "out_modulation": ["proj_out_1"], "out": ["proj_out_2"]}
EMBEDDING = {
    "time_embed.0": "timestep_embedder.linear_1",
    "time_embed.2": "timestep_embedder.linear_2",
}
BLOCK = {
    "modulation": ["norm1.linear"],
    "qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
    "proj_out": ["attn1.to_out.0"],
    "mlp.0": ["ff.net.0.proj"],
    "mlp.3": ["ff.net.2"],
}
KINDS = "weight", "bias"
TABLE = "class_embedder.embedding_table.weight"


def dit_config(flags: Flags) -> Config:
    """DiTTransformer2DModel's config of a ViT; `flags`: those of ModelFlags, and learn_sigma."""
    width = flags["num_channels"]
    heads = count_heads(width, flags["num_heads"], flags["num_head_channels"])
    return ALWAYS | {
        "sample_size": flags["image_size"],
        "out_channels": 6 if flags["learn_sigma"] else 3,
        "patch_size": flags["patch_size"],
        "num_layers": flags["num_layers"],
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "dropout": flags["dropout"],
        "num_embeds_ada_norm": flags["num_classes"] if flags["class_cond"] else 1,
    }


def model_flags(config: Config, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The flags of ModelFlags, and learn_sigma, of a DiTTransformer2DModel; with a class_dropout,
    diffusers' own, where the row for images without a label is not zero."""
    try:
        heads, classes = config["num_attention_heads"], config["num_embeds_ada_norm"]
        flags = {
            "network": "vit",
            "image_size": config["sample_size"],
            "patch_size": config["patch_size"],
            "num_layers": config["num_layers"],
            "num_channels": heads * config["attention_head_dim"],
            "num_heads": heads,
            "num_head_channels": -1,
            "dropout": config["dropout"],
            "learn_sigma": config["out_channels"] == 6,
        }
        table = weights[f"{_embedding(0)}.{TABLE}"]
        flags["class_cond"] = bool(table.any())
        if flags["class_cond"]:
            hidden = CLASS_DROPOUT if table[-1].any() else 0.0
            flags |= {"num_classes": classes, "class_dropout": hidden}
        same = dit_config({"num_classes": classes, **flags, "class_cond": True})
    except (KeyError, TypeError, IndexError) as error:
        what = "this is no config of a DiTTransformer2DModel, or these are not its weights"
        raise ValueError(f"{what}: {error!r}") from None
    must_agree(same, config, "DiTTransformer2DModel")
    return flags


def to_diffusers(weights: Mapping[str, Tensor], flags: Flags) -> dict[str, Tensor]:
    """The state dict of a ViT as that of a DiTTransformer2DModel; `flags` as in `dit_config`."""
    theirs = {}
    for ours, names in _names(flags["num_layers"]):
        parts = weights[ours].chunk(len(names))
        theirs |= {name: part.clone() for name, part in zip(names, parts, strict=True)}
    rows, width = dit_config(flags)["num_embeds_ada_norm"] + 1, flags["num_channels"]
    table = weights.get("label_emb.weight", weights["out_modulation.weight"].new_zeros(0, width))
    missing = table.new_zeros(rows - len(table), width)
    shared = {name: weights[ours] for ours, name in _embeddings()}
    shared[TABLE] = torch.cat([table, missing])
    for i in range(flags["num_layers"]):
        theirs |= {f"{_embedding(i)}.{name}": value.clone() for name, value in shared.items()}
    return theirs


def from_diffusers(weights: Mapping[str, Tensor], flags: Flags) -> dict[str, Tensor]:
    """The state dict of a DiTTransformer2DModel as that of a ViT; `flags`: its `model_flags`."""
    left, ours = dict(weights), {}
    try:
        for our_name, names in _names(flags["num_layers"]):
            ours[our_name] = torch.cat([left.pop(name) for name in names])
        for our_name, name in _embeddings():
            ours[our_name] = _of_all_blocks(left, name, flags)
        table = _of_all_blocks(left, TABLE, flags)
    except KeyError as error:
        raise ValueError(f"the weights of a DiTTransformer2DModel lack {error}") from None
    if left:
        raise ValueError(f"a ViT knows no weights {', '.join(sorted(left)[:5])}, ...")
    if flags["class_cond"]:
        ours["label_emb.weight"] = table if flags["class_dropout"] else table[:-1].clone()
    return ours


def _of_all_blocks(left: dict[str, Tensor], name: str, flags: Flags) -> Tensor:
    """Takes out what all blocks have equal."""
    first, *others = (left.pop(f"{_embedding(i)}.{name}") for i in range(flags["num_layers"]))
    for i, other in enumerate(others, 1):
        if not torch.equal(first, other):
            raise ValueError(
                f"{_embedding(i)}.{name} is not that of block 0: a ViT has one embedding of "
                "timestep and label for all blocks"
            )
    return first


def _embedding(block: int) -> str:
    return f"transformer_blocks.{block}.norm1.emb"


def _embeddings() -> Iterator[tuple[str, str]]:
    """Our and their name of the parameters that embed a timestep."""
    for ours, theirs in EMBEDDING.items():
        yield from ((f"{ours}.{kind}", f"{theirs}.{kind}") for kind in KINDS)


def _names(num_layers: int) -> Iterator[tuple[str, list[str]]]:
    """Our and their names of every parameter but the embeddings'; three of theirs for q, k, v."""
    modules = dict(ENDS)
    for i in range(num_layers):
        for ours, theirs in BLOCK.items():
            modules[f"blocks.{i}.{ours}"] = [f"transformer_blocks.{i}.{name}" for name in theirs]
    for ours, theirs in modules.items():
        for kind in KINDS:
            yield f"{ours}.{kind}", [f"{name}.{kind}" for name in theirs]
