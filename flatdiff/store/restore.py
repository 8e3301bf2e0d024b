"""What a checkpoint holds, put into a live network and its optimizer; or why it does not fit.

Knows state dicts and the names of flags, no files. Attention heads and attention order leave no
trace in shapes: a wrong one cannot be noticed here.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]


def load_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], source: str, hint: str = ""
) -> None:
    """Load all weights, strictly; see `fitting`."""
    model.load_state_dict(fitting(model.state_dict(), state_dict, source, hint))


def fitting(
    wanted: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], source: str, hint: str = ""
) -> dict[str, Tensor]:
    """A file's weights under the names of `wanted`, without the prefixes of DDP and compile.

    source: the file's path. ValueError with the first keys that differ, and `hint`, or else the
    flag that is most likely wrong by the shapes.
    """
    if "param_groups" in state_dict or not all(map(torch.is_tensor, state_dict.values())):
        keys = ", ".join(map(str, list(state_dict)[:3]))
        raise ValueError(
            f"{source} does not hold the weights of a network (its first keys: {keys}). Give a"
            " model, ema_ or swa_ file"
        )
    weights = {_bare(key): value for key, value in state_dict.items()}
    for key, value in state_dict.items():
        if weights[_bare(key)] is not value or not value.is_floating_point():
            what = "twice, with and without a prefix" if value.is_floating_point() else value.dtype
            raise ValueError(f"{source} holds {key} as {what}; expected floating-point weights")
        if not _fits_fp32(value):
            raise ValueError(f"{source} holds {key} with numbers too large for fp32")
    here, there = ({key: tuple(value.shape) for key, value in d.items()} for d in (wanted, weights))
    if here != there:
        raise ValueError(f"{_differences(here, there, source)} {hint or _likely_flag(here, there)}")
    return weights


def _fits_fp32(value: Tensor) -> bool:
    """Whether no number becomes infinite on its way to a weight."""
    return value.dtype is not torch.float64 or bool(value.float().isfinite().all())


def _bare(key: str) -> str:
    return key.replace("_orig_mod.", "").removeprefix("module.")


def _differences(here: Shapes, there: Shapes, source: str) -> str:
    shared = [key for key in here if key in there and here[key] != there[key]]
    found = {
        "weights of the network are not in the file": [key for key in here if key not in there],
        "weights of the file are not in the network": [key for key in there if key not in here],
        "have another shape": [
            f"{k}, {there[k]} in the file and {here[k]} in the network" for k in shared
        ],
    }
    parts = [f"{len(k)} {what} (first: {'; '.join(k[:2])})" for what, k in found.items() if k]
    return f"{source} does not fit this network: {', '.join(parts)}."


# What shapes tell of the flags. The first clue that differs explains those after it.
CLUES: tuple[tuple[str, Callable[[Shapes], Any]], ...] = (
    ("num_channels", lambda s: s["time_embed.0.weight"][1]),
    ("class_cond", lambda s: "label_emb.weight" in s),
    ("num_classes", lambda s: s.get("label_emb.weight", (0,))[0]),
    ("learn_sigma", lambda s: len(w := s.get("out.2.weight", ())) == 4 and w[0] % 2 == 0),
    (
        "use_scale_shift_norm",
        lambda s: (
            s["middle_block.0.emb_layers.1.weight"][0] > s["middle_block.0.out_layers.3.weight"][0]
        ),
    ),
    (
        "num_res_blocks channel_mult image_size",
        lambda s: {key.split(".")[1] for key in s if key.startswith("input_blocks.")},
    ),
    ("resblock_updown", lambda s: not any(".0.op." in key for key in s)),
    ("attention_resolutions image_size", lambda s: {k for k in s if k.endswith(".qkv.weight")}),
    ("pool", lambda s: {key for key in s if key.startswith("out.")}),
    (
        "num_classes",
        lambda s: [s.get(key) for key in ("out.2.c_proj.bias", "out.3.bias", "out.2.bias")],
    ),
    ("channel_mult image_size", lambda s: s),
)
OF_VIT: tuple[tuple[str, Callable[[Shapes], Any]], ...] = (
    ("num_channels", lambda s: s["time_embed.0.weight"][0]),
    ("patch_size", lambda s: s["patch_embed.weight"][2]),
    ("num_layers", lambda s: len({key.split(".")[1] for key in s if key.startswith("blocks.")})),
    *(clue for clue in CLUES if clue[0] in ("class_cond", "num_classes")),
    ("learn_sigma", lambda s: s["out.bias"]),
)
NETWORK_OF = {"vision transformer": "vit", "diffusion network": "unet"}  # --network of a kind
OF_CLASSIFIER = "attention_resolutions", "use_scale_shift_norm", "resblock_updown", "pool"
CLASSIFIER_FLAGS = {name: f"classifier_{name}" for name in OF_CLASSIFIER} | {
    "num_channels": "classifier_width",
    "num_res_blocks": "classifier_depth",
    "image_size": "image_size",
    "num_classes": "num_classes",
}


def _likely_flag(here: Shapes, there: Shapes) -> str:
    try:
        wanted, held = _kind(here), _kind(there)
        if wanted != held:
            both = {wanted, held} <= NETWORK_OF.keys()
            hint = f" Give --network {NETWORK_OF[held]}." if both else ""
            return f"The file holds a {held}; asked for was a {wanted}.{hint}"
        clues = OF_VIT if held == "vision transformer" else CLUES
        flags, clue = next(pair for pair in clues if pair[1](here) != pair[1](there))
    except KeyError:
        return "The file holds another kind of network."
    names = flags.split()
    if wanted == "classifier":
        names = [CLASSIFIER_FLAGS[name] for name in names if name in CLASSIFIER_FLAGS]
    value = clue(there)
    told = f" (the file has {value})" if isinstance(value, int) else ""
    return f"Most likely wrong: {' or '.join(f'--{name}' for name in names)}{told}."


def _kind(shapes: Shapes) -> str:
    if "patch_embed.weight" in shapes:
        return "vision transformer"
    channels = shapes["input_blocks.0.0.weight"][1]
    if not any(key.startswith("output_blocks.") for key in shapes):
        return "classifier"
    return "super-resolution network" if channels == 6 else "diffusion network"


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state_dict of a plain AdamW: what only speed or this device asked for is left out."""
    state = optimizer.state_dict()
    plain = {"fused": None, "foreach": None, "capturable": False}
    groups = [group | plain for group in state["param_groups"]]
    return {"state": state["state"], "param_groups": groups}


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    state_dict: Mapping[str, Any],
    named_parameters: Iterable[tuple[str, Tensor]],
) -> None:
    """Load moments and step counts; lr and the other hyperparameters stay the live ones.

    Takes one entry per parameter (torch's form, and guided-diffusion's fp32 runs), or the two of
    guided-diffusion's fp16 runs: all vectors flattened, and all else flattened as [1, m].
    named_parameters: the optimizer's, in its order. ValueError for another network's file, or none.
    """
    named = list(named_parameters)
    if "param_groups" not in state_dict:
        raise ValueError("this is not an optimizer file: it has no param_groups. Give opt*.pt")
    groups = optimizer.state_dict()["param_groups"]
    saved, live = ({n for g in gs for n in g} for gs in (state_dict["param_groups"], groups))
    kinds = [{"betas", "momentum"} & of for of in (saved, live)]
    if kinds[0] != kinds[1] and all(kinds):
        raise ValueError("it is of another kind of optimizer: give its --base_optimizer")
    count = sum(len(group["params"]) for group in state_dict["param_groups"])
    state, is_adam = state_dict["state"], isinstance(optimizer, torch.optim.AdamW)
    _check_moments(state)
    if is_adam and count == 2 and len(named) != 2:
        state = _split_flat(state, named)
    elif count != len(named):
        raise ValueError(
            f"the optimizer file has {count} parameters, the network {len(named)}: it belongs to"
            " another network. Use that network's flags, or start with --init_from"
        )
    if not is_adam:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return _lay_out(optimizer)
    placed = {
        i: {key: _like(*named[i], key, entry[key]) for key in ("step", "exp_avg", "exp_avg_sq")}
        for i, entry in state.items()
    }
    optimizer.load_state_dict({"state": placed, "param_groups": groups})


def _check_moments(state: Mapping[int, Mapping[str, Any]]) -> None:
    """ValueError for numbers that no moment and no count of steps is."""
    for i, entry in state.items():
        for key, value in entry.items():
            counts = key == "step"
            if counts and (float(value) < 0 or float(value) % 1):
                raise ValueError(f"step of parameter {i} is {float(value)}, and counts updates")
            if torch.is_tensor(value) and not counts and not value.is_floating_point():
                raise ValueError(f"{key} of parameter {i} is of {value.dtype}, expected floats")
            if torch.is_tensor(value) and not _fits_fp32(value):
                raise ValueError(f"{key} of parameter {i} is too large for fp32")
            if key == "exp_avg_sq" and (value < 0).any():
                raise ValueError(f"exp_avg_sq of parameter {i} is a mean of squares, and below 0")


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give each tensor of its state that is like a weight that weight's memory layout."""
    for weight, state in optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == weight.shape:
                state[key] = torch.empty_like(weight, requires_grad=False).copy_(value)


def _split_flat(state: Mapping[int, Any], named: list[tuple[str, Tensor]]) -> dict[int, Any]:
    """Two flat entries -> one per parameter. Each holds its parameters in the network's order."""
    split: dict[int, Any] = {i: {} for i in range(len(named))} if state else {}
    for entry, flat in state.items():
        members = [i for i, (_, p) in enumerate(named) if (p.ndim <= 1) == (entry == 0)]
        sizes = [named[i][1].numel() for i in members]
        for key, value in flat.items():
            if key == "step":
                pieces = [value] * len(members)
            elif value.numel() == sum(sizes):
                pieces = value.flatten().split(sizes)
            else:
                raise ValueError(
                    f"the optimizer file (fp16 form) has {value.numel()} numbers where the network"
                    f" has {sum(sizes)}: it belongs to another network. Use that network's flags"
                )
            for i, piece in zip(members, pieces):
                split[i][key] = piece if key == "step" else piece.view(named[i][1].shape)
    return split


def _like(name: str, parameter: Tensor, key: str, value: Any) -> Tensor:
    """Give a moment its parameter's place and memory layout: fused AdamW reads both as one."""
    if key == "step":
        return torch.tensor(float(value), dtype=torch.float32)
    if value.shape != parameter.shape:
        raise ValueError(
            f"{key} of {name} is {tuple(value.shape)} in the optimizer file, the weight is"
            f" {tuple(parameter.shape)}: it belongs to another network. Use that network's flags"
        )
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
