"""Flags of network and chain <-> configs of diffusers' UNet2DModel and DDPMScheduler.

What the other side cannot express is a ValueError that names it. Dicts only: no files, and not
diffusers itself.
"""

from collections.abc import Mapping
from typing import Any

from ..flags import choices
from ..nets.sizes import attention_strides, channel_multipliers

EDM = "sigma_min", "sigma_max", "rho"
OF_EDM = {"sigma_data": "sigma_data", "diffusion_steps": "num_train_timesteps"}
Config = dict[str, Any]
Flags = Mapping[str, Any]

NULL_LABEL = "_flatdiff_null_label"  # whether the last label is that of images without one
CLASS_DROPOUT = 0.1  # of a network with one: diffusers has no other, and any is the same network
PREDICTIONS = {"eps": "epsilon", "x": "sample", "v": "v_prediction"}
ALWAYS = {  # where UNet2DModel has a choice that guided-diffusion has made
    "in_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "attn_norm_num_groups": 32,
    "norm_eps": 1e-5,
    "add_attention": True,
    "class_embed_type": None,
}


def unet_config(flags: Flags) -> Config:
    """UNet2DModel's config of a network; `flags`: those of ModelFlags, and learn_sigma."""
    size = flags["image_size"]
    mults = channel_multipliers(size, flags["channel_mult"])
    widths = [int(mult * flags["num_channels"]) for mult in mults]
    if widths[0] != flags["num_channels"]:
        raise ValueError(
            f"channel_mult begins with {mults[0]}: diffusers has no timestep embedding of "
            f"{flags['num_channels']} channels on a network that begins with {widths[0]}"
        )
    strides = attention_strides(size, flags["attention_resolutions"])
    attended = [2**level in strides for level in range(len(widths))]
    resample = "resnet" if flags["resblock_updown"] else "conv"
    null = flags.get("class_dropout", 0) > 0  # a label more
    always = ALWAYS | ({NULL_LABEL: True} if null else {})
    return always | {
        "sample_size": size,
        "out_channels": 6 if flags["learn_sigma"] else 3,
        "block_out_channels": widths,
        "layers_per_block": flags["num_res_blocks"],
        "down_block_types": [_block_type("Down", a, resample) for a in attended],
        "up_block_types": [_block_type("Up", a, resample) for a in reversed(attended)],
        "downsample_type": resample,
        "upsample_type": resample,
        "dropout": flags["dropout"],
        "attention_head_dim": _head_dim(flags, widths, attended),
        "resnet_time_scale_shift": "scale_shift" if flags["use_scale_shift_norm"] else "default",
        "num_class_embeds": flags["num_classes"] + null if flags["class_cond"] else None,
    }


def _block_type(way: str, attended: bool, resample: str) -> str:
    if attended:
        return f"Attn{way}Block2D"
    return f"Resnet{way}sampleBlock2D" if resample == "resnet" else f"{way}Block2D"


def _head_dim(flags: Flags, widths: list[int], attended: list[bool]) -> int:
    """Channels of a head, which diffusers has one number for."""
    if flags["num_head_channels"] != -1:
        return flags["num_head_channels"]
    here = {width for width, a in zip(widths, attended) if a}
    up = flags["num_heads"] if flags["num_heads_upsample"] == -1 else flags["num_heads_upsample"]
    dims = {width // flags["num_heads"] for width in here | {widths[-1]}}
    dims |= {width // up for width in here}
    if len(dims) > 1:
        raise ValueError(
            f"the attention heads have {sorted(dims)} channels, and diffusers has one number for "
            "all: networks with num_head_channels can be exported, and those whose attention "
            "stands at one width"
        )
    return dims.pop()


def model_flags(config: Config, class_dropout: float = 0.0) -> dict[str, Any]:
    """The flags of ModelFlags, and learn_sigma, of a UNet2DModel's config.

    class_dropout: above 0, the last label is that of images without one, whatever the config says.
    The order of q, k, v is not among them: the weights can be brought into either.
    """
    config = {**config, NULL_LABEL: class_dropout > 0 or config.get(NULL_LABEL) is True}
    hidden = (class_dropout or CLASS_DROPOUT) if config[NULL_LABEL] else 0.0
    try:
        widths, size = config["block_out_channels"], config["sample_size"]
        factors = (width / widths[0] for width in widths)
        kinds = enumerate(config["down_block_types"])
        classes = config["num_class_embeds"]
        flags = {
            "image_size": size,
            "num_channels": widths[0],
            "channel_mult": ",".join(str(int(f) if f == int(f) else f) for f in factors),
            "num_res_blocks": config["layers_per_block"],
            "attention_resolutions": ",".join(
                str(size // 2**level) for level, kind in kinds if kind.startswith("Attn")
            ),
            "num_heads": 1,
            "num_heads_upsample": -1,
            "num_head_channels": config["attention_head_dim"] or -1,
            "resblock_updown": config["downsample_type"] == "resnet",
            "use_scale_shift_norm": config["resnet_time_scale_shift"] == "scale_shift",
            "dropout": config["dropout"],
            "class_cond": classes is not None,
            "learn_sigma": config["out_channels"] == 6,
        } | _labels(classes, hidden)
        same = unet_config({"num_classes": None, **flags})
    except (KeyError, TypeError) as error:
        what = "this is no config of a UNet2DModel of square images"
        raise ValueError(f"{what}: {error!r}") from None
    must_agree(same, config, "UNet2DModel")
    return flags


def _labels(embeds: int | None, class_dropout: float) -> dict[str, Any]:
    if embeds is None:
        if class_dropout:
            raise ValueError(
                f"--class_dropout {class_dropout:g}: the network of this folder has no classes, so "
                "no label of images without one; leave the flag out"
            )
        return {}
    return {"num_classes": embeds - (class_dropout > 0), "class_dropout": class_dropout}


def must_agree(wanted: Config, config: Config, name: str) -> None:
    """ValueError that names what a config has otherwise than a `name` of ours would."""
    different = [
        f"{key} is {config.get(key)!r}, expected {value!r}"
        for key, value in wanted.items()
        if config.get(key) != value
    ]
    if different:
        raise ValueError(f"flatdiff has no such {name}: {'; '.join(different)}")


def scheduler_of(flags: Flags) -> Config:
    """The config, with its class, of diffusers' scheduler of a chain; `flags`: of DiffusionFlags.

    Networks of flow and edm are told there what they are told here: 1000 s, or log(sigma) / 4.
    """
    objective = flags.get("objective", "ddpm")
    name, _ = choices.named(choices.OBJECTIVES, objective)
    if name == "flow":
        if (predicts := flags.get("predicts") or "v") != "v":
            raise ValueError(f"diffusers' flow matching predicts v, and this network {predicts}")
        told = {"num_train_timesteps": 1000, "shift": 1.0}
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", **told}
    if name == "edm":
        own = choices.knobs(choices.OBJECTIVES, "edm")
        told = own | choices.chosen(choices.OBJECTIVES, objective)[1]
        told |= {"sigma_data": flags["sigma_data"], "sigma_schedule": "karras"}
        told |= {"num_train_timesteps": flags["diffusion_steps"], "prediction_type": "epsilon"}
        return {"_class_name": "EDMEulerScheduler", **told}
    return {"_class_name": "DDPMScheduler", **scheduler_config(flags)}


def flags_of_scheduler(config: Config) -> dict[str, Any]:
    """The flags of DiffusionFlags of a scheduler's config, as `scheduler_of` gives it."""
    kind = config.get("_class_name", "DDPMScheduler")
    if kind == "FlowMatchEulerDiscreteScheduler":
        flags = {"objective": "flow", "predicts": ""}
    elif kind == "EDMEulerScheduler":
        own = choices.knobs(choices.OBJECTIVES, "edm")
        given = {name: float(config.get(name, own[name])) for name in EDM}
        knobs = [f"{name}={value}" for name, value in given.items() if value != own[name]]
        flags = {"objective": " ".join(["edm", *knobs]), "predicts": ""}
        flags |= {name: config[theirs] for name, theirs in OF_EDM.items() if theirs in config}
    else:
        return diffusion_flags(config)
    flags |= {"learn_sigma": False}
    wanted = scheduler_of({"sigma_data": 0.5, "diffusion_steps": 1000} | flags)
    must_agree(wanted, config, kind)
    return flags


def scheduler_config(flags: Flags) -> Config:
    """DDPMScheduler's config of a chain; `flags`: those of DiffusionFlags.

    With n inference steps it takes the timesteps of --timestep_respacing n, but for rounding of
    single ones.
    """
    steps = flags["diffusion_steps"]
    if flags.get("objective", "ddpm") != "ddpm":
        raise ValueError(
            f"DDPMScheduler has no --objective {flags['objective']}: only ddpm's chains"
        )
    if flags["rescale_timesteps"] and steps != 1000:
        raise ValueError(
            f"rescale_timesteps with diffusion_steps {steps}: diffusers hands the network t itself"
        )
    predicts = flags.get("predicts") or ("x" if flags["predict_xstart"] else "eps")
    linear = flags["noise_schedule"] == "linear"
    return {
        "num_train_timesteps": steps,
        "beta_schedule": "linear" if linear else "squaredcos_cap_v2",
        "beta_start": 1e-4 * 1000 / steps,
        "beta_end": 0.02 * 1000 / steps,
        "trained_betas": None,
        "variance_type": "learned_range" if flags["learn_sigma"] else "fixed_large",
        "prediction_type": PREDICTIONS[predicts],
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "thresholding": False,
        "timestep_spacing": "linspace",
        "rescale_betas_zero_snr": False,
    }


def diffusion_flags(config: Config) -> dict[str, Any]:
    """The flags of DiffusionFlags of a DDPMScheduler's config."""
    schedule = config.get("beta_schedule")
    flags = {
        "diffusion_steps": config.get("num_train_timesteps", 1000),
        "noise_schedule": "cosine" if schedule == "squaredcos_cap_v2" else "linear",
        "learn_sigma": config.get("variance_type") == "learned_range",
        "predict_xstart": config.get("prediction_type") == "sample",
        "predicts": "v" if config.get("prediction_type") == PREDICTIONS["v"] else "",
        "rescale_timesteps": False,
    }
    wanted = scheduler_config(flags)
    of_sampling = {"clip_sample", "clip_sample_range", "thresholding", "timestep_spacing"}
    must_agree({k: v for k, v in wanted.items() if k not in of_sampling}, config, "DDPMScheduler")
    return flags
