"""Networks of diffusers, from its pipelines and folders: with their family, and what they need.

Nothing is downloaded. diffusers is imported where a folder is loaded, and only there.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from ..store import checkpoint, disk
from .families import Family, family, inside, parameters

WEIGHTS = "diffusion_pytorch_model.safetensors"
PARTS = "unet", "transformer"  # what a pipeline calls its network


class Loaded(NamedTuple):
    """A network in eval mode where it is, its family, (channels, height, width) of its x or None,
    and what else it must be given: {name of a keyword: its shape, or ""}."""

    module: nn.Module
    family: Family
    size: tuple[int, int, int] | None
    kwargs: dict[str, str]


def from_diffusers(
    source,
    schedule=None,
    predicts: str | None = None,
    times: Callable | None = None,
) -> Loaded:
    """Load a network of diffusers, and what it was trained on; ValueError, in one sentence, if not.

    source: a pipeline, one of its networks, or a folder of either (model_index.json, or config.json
    with scheduler/ in it or beside it), whose weights are .safetensors. schedule, predicts, times:
    as in `family`, in place of the scheduler's. Where the pipeline has a VAE, x are its latents.
    """
    if isinstance(source, (str, os.PathLike)):
        module, found = _of_folder(os.fspath(source))
    elif isinstance(source, nn.Module):
        module, found = source, None
    else:
        module, found = _network_of(source), getattr(source, "scheduler", None)
    if schedule is None and found is None:
        where = source if isinstance(source, (str, os.PathLike)) else type(source).__name__
        raise ValueError(
            f"{where} comes with no scheduler (scheduler/scheduler_config.json in it, or beside "
            "it); expected one, or schedule=, as a scheduler of diffusers or by name"
        )
    config = getattr(inside(module), "config", {})
    _must_be_a_network(module, config)
    known = family(found if schedule is None else schedule, predicts, times)
    return Loaded(module.eval(), known, _size(config), _needs(module, config))


def _network_of(pipeline) -> nn.Module:
    for part in PARTS:
        if isinstance(getattr(pipeline, part, None), nn.Module):
            return getattr(pipeline, part)
    raise ValueError(
        f"{type(pipeline).__name__} has no network called {' or '.join(PARTS)}; expected a "
        "pipeline of diffusers, one of its networks, or a folder"
    )


def _of_folder(folder: str) -> tuple[nn.Module, Any]:
    """The network of a folder, and its scheduler or None."""
    index = os.path.join(folder, "model_index.json")
    near = [os.path.join(folder, "scheduler"), os.path.join(folder, os.pardir, "scheduler")]
    if not os.path.isfile(index):
        if not os.path.isfile(os.path.join(folder, "config.json")):
            raise ValueError(
                f"{folder} is no folder of diffusers: it has neither model_index.json nor "
                "config.json"
            )
        return _load_network(folder), _load_scheduler(near)
    named = checkpoint.load_json(index)
    parts = [part for part in PARTS if part in named]
    if not parts:
        raise ValueError(f"{index} names no {' or '.join(PARTS)}, which would be the network")
    return _load_network(os.path.join(folder, parts[0])), _load_scheduler(near[:1])


def _load_network(folder: str) -> nn.Module:
    said, kind = _class_of(os.path.join(folder, "config.json"), "ModelMixin")
    weights = os.path.join(folder, WEIGHTS)
    if not (os.path.isfile(weights) or os.path.isfile(f"{weights}.index.json")):
        raise ValueError(
            f"{weights} is missing: expected it, or its parts and {WEIGHTS}.index.json (diffusers "
            "writes them by save_pretrained; weights in .bin are not read)"
        )
    if os.path.isfile(index := f"{weights}.index.json"):
        for name in checkpoint.load_json(index).get("weight_map", {}).values():
            if not isinstance(name, str) or os.path.basename(name) != name:
                raise ValueError(f"{index} names {name!r:.80}, which is no file beside it")
    _must_be_a_network(kind, said)
    how = {"use_safetensors": True, "low_cpu_mem_usage": False, "output_loading_info": True}
    try:
        module, report = kind.from_pretrained(folder, local_files_only=True, **how)
    except Exception as error:  # diffusers raises what its parts raise
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{weights} is damaged, or not of the {kind.__name__} of its config.json "
            f"({type(error).__name__}: {reason[:200]})"
        ) from error
    missing = [name for key in ("missing_keys", "unexpected_keys") for name in report[key]]
    if missing:
        raise ValueError(
            f"{weights} has not the weights of a {kind.__name__} of its config.json: "
            f"{len(missing)} are missing or unknown, such as {missing[0]}"
        )
    return module


def _load_scheduler(folders: list[str]):
    for folder in folders:
        path = os.path.join(folder, "scheduler_config.json")
        if os.path.isfile(path):
            kind = _class_of(path, "SchedulerMixin")[1]
            with disk.reading(path):
                return kind.from_pretrained(folder, local_files_only=True)
    return None


def _class_of(path: str, base: str) -> tuple[dict, type]:
    """A config of diffusers, and the class that it names, of this base: others run code that they
    find in the folder."""
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(
            f"{path} needs diffusers, which is not installed: pip install diffusers"
        ) from error
    if not os.path.isfile(path):
        raise ValueError(f"{path} is missing: half a folder, or of another kind")
    said = checkpoint.load_json(path)
    name = said.get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(
            f"{path} names the class {name!r}, which diffusers {diffusers.__version__} has not"
        )
    if not (isinstance(kind, type) and issubclass(kind, getattr(diffusers, base))):
        known = {"ModelMixin": "network such as UNet2DModel", "SchedulerMixin": "scheduler"}
        raise ValueError(f"{os.path.dirname(path)} is a {name}; expected a {known[base]}")
    return said, kind


def _must_be_a_network(kind, config) -> None:
    """ValueError where it is told no timestep, or its input is more than x."""
    name = kind.__name__ if isinstance(kind, type) else type(inside(kind)).__name__
    forward = kind.forward if isinstance(kind, type) else kind
    if "timestep" not in parameters(forward):
        raise ValueError(
            f"{name} is told no timestep; expected a network that is, such as UNet2DModel, "
            "UNet2DConditionModel or DiTTransformer2DModel"
        )
    given, guessed = config.get("in_channels"), config.get("out_channels")
    if given and guessed and guessed not in (given, 2 * given):
        raise ValueError(
            f"{name} gives {guessed} channels for {given}; expected as many, or twice with a "
            "learned variance: one that sees more than x is to be wrapped, with the rest as a "
            "keyword"
        )


def _size(config) -> tuple[int, int, int] | None:
    channels, size = config.get("in_channels"), config.get("sample_size")
    if not channels or not size:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width


def _needs(module: nn.Module, config) -> dict[str, str]:
    """Keywords without which the network does not run, and their shapes where they are known."""
    takes = parameters(module)
    needs = {
        name: ""
        for name, p in list(takes.items())[1:]
        if name != "timestep" and p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    }
    widths = ("encoder_hid_dim", "cross_attention_dim", "joint_attention_dim", "caption_channels")
    width = next((config[name] for name in widths if config.get(name)), None)
    if "encoder_hidden_states" in takes and width:
        needs["encoder_hidden_states"] = f"[N, L, {width}]"
    if "pooled_projections" in takes and config.get("pooled_projection_dim"):
        needs["pooled_projections"] = f"[N, {config['pooled_projection_dim']}]"
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    if "class_labels" in takes and (classes or config.get("class_embed_type")):
        whole = classes and not config.get("class_embed_type")
        needs["class_labels"] = f"[N], whole numbers below {classes}" if whole else "[N, ...]"
    if "added_cond_kwargs" in takes and config.get("addition_embed_type"):
        needs["added_cond_kwargs"] = f"a dict, for {config['addition_embed_type']}"
    return needs
