"""Config -> network and chain, and guided-diffusion's own helper functions.

The only place where networks and chains meet. The `..._defaults` are dicts made from the groups
of `config`, so that code written for guided-diffusion's flag dicts runs unchanged.
"""

import argparse
import dataclasses
import functools
import getpass
import inspect
import os
import tempfile
import time

import torch

from . import checkpoint, classes, config, disk, dist_util, logger, packing, restore
from . import gaussian_diffusion as gd
from .flags import BOOLEANS
from .respace import SpacedDiffusion, space_timesteps
from .sizes import SR_CHANNEL_MULT, attention_strides, channel_multipliers
from .unet import EncoderUNetModel, SuperResModel, UNetModel

NUM_CLASSES = 1000
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _defaults(*groups):
    return {f.name: f.default for group in groups for f in dataclasses.fields(group)}


def diffusion_defaults():
    """Flags of the chain as guided-diffusion has them, and their defaults."""
    ours = ("eps_scaler", "eps_scaler_slope", "input_pertub")
    return {k: v for k, v in _defaults(config.DiffusionFlags).items() if k not in ours}


def classifier_defaults():
    defaults = _defaults(config.ClassifierFlags)
    del defaults["num_classes"]  # guided-diffusion has 1000
    return defaults


def model_and_diffusion_defaults():
    return _defaults(config.ModelFlags, config.DiffusionFlags)


def classifier_and_diffusion_defaults():
    return classifier_defaults() | diffusion_defaults()


def sr_model_and_diffusion_defaults():
    """Size, width table and attention order of a super-resolution network are not flags."""
    model = _defaults(config.ModelFlags, config.SuperResFlags)
    for name in ("image_size", "channel_mult", "use_new_attention_order"):
        del model[name]
    return model | diffusion_defaults()


def create_model_and_diffusion(**flags):
    """(network, chain) of the flags of `model_and_diffusion_defaults`, by keyword."""
    flags = _complete(flags, model_and_diffusion_defaults())
    return create_model(**_for(create_model, flags)), create_chain(flags)


def create_model(
    image_size,
    num_channels,
    num_res_blocks,
    channel_mult="",
    learn_sigma=False,
    class_cond=False,
    use_checkpoint=False,
    attention_resolutions="16",
    num_heads=1,
    num_head_channels=-1,
    num_heads_upsample=-1,
    use_scale_shift_norm=False,
    dropout=0,
    resblock_updown=False,
    use_fp16=False,
    use_new_attention_order=False,
    num_classes=NUM_CLASSES,
    *,
    network=UNetModel,
):
    return network(
        image_size=image_size,
        in_channels=3,
        model_channels=num_channels,
        out_channels=6 if learn_sigma else 3,
        num_res_blocks=num_res_blocks,
        attention_resolutions=attention_strides(image_size, attention_resolutions),
        dropout=dropout,
        channel_mult=channel_multipliers(image_size, channel_mult),
        num_classes=num_classes if class_cond else None,
        use_checkpoint=use_checkpoint,
        use_fp16=use_fp16,
        num_heads=num_heads,
        num_head_channels=num_head_channels,
        num_heads_upsample=num_heads_upsample,
        use_scale_shift_norm=use_scale_shift_norm,
        resblock_updown=resblock_updown,
        use_new_attention_order=use_new_attention_order,
    )


def sr_create_model_and_diffusion(**flags):
    """(super-resolution network, chain) of `sr_model_and_diffusion_defaults`, by keyword."""
    flags = _complete(flags, sr_model_and_diffusion_defaults())
    sizes = {"large_size": flags["large_size"], "small_size": flags["small_size"]}
    return sr_create_model(**sizes, **_for(create_model, flags)), create_chain(flags)


def sr_create_model(large_size, small_size, num_channels, num_res_blocks, **flags):
    """`small_size` is not part of the network: it takes any low_res."""
    mult = ",".join(map(str, channel_multipliers(large_size, "", SR_CHANNEL_MULT)))
    return create_model(
        large_size, num_channels, num_res_blocks, channel_mult=mult, network=SuperResModel, **flags
    )


def create_classifier_and_diffusion(**flags):
    """(noisy classifier, chain) of `classifier_and_diffusion_defaults`, by keyword."""
    flags = _complete(flags, classifier_and_diffusion_defaults() | {"num_classes": NUM_CLASSES})
    return create_classifier(**_for(create_classifier, flags)), create_chain(flags)


def create_classifier(
    image_size,
    classifier_use_fp16,
    classifier_width,
    classifier_depth,
    classifier_attention_resolutions,
    classifier_use_scale_shift_norm,
    classifier_resblock_updown,
    classifier_pool,
    num_classes=NUM_CLASSES,
):
    return EncoderUNetModel(
        image_size=image_size,
        in_channels=3,
        model_channels=classifier_width,
        out_channels=num_classes,
        num_res_blocks=classifier_depth,
        attention_resolutions=attention_strides(image_size, classifier_attention_resolutions),
        channel_mult=channel_multipliers(image_size, ""),
        use_fp16=classifier_use_fp16,
        num_head_channels=64,
        use_scale_shift_norm=classifier_use_scale_shift_norm,
        resblock_updown=classifier_resblock_updown,
        pool=classifier_pool,
    )


def create_gaussian_diffusion(
    *,
    steps=1000,
    learn_sigma=False,
    sigma_small=False,
    noise_schedule="linear",
    use_kl=False,
    predict_xstart=False,
    rescale_timesteps=False,
    rescale_learned_sigmas=False,
    timestep_respacing="",
    eps_scaler=1.0,
    eps_scaler_slope=0.0,
    input_pertub=0.0,
):
    """The chain. `use_kl` wins over `rescale_learned_sigmas`; empty respacing keeps all steps."""
    fixed = gd.ModelVarType.FIXED_SMALL if sigma_small else gd.ModelVarType.FIXED_LARGE
    mse = gd.LossType.RESCALED_MSE if rescale_learned_sigmas else gd.LossType.MSE
    return SpacedDiffusion(
        use_timesteps=space_timesteps(steps, timestep_respacing or [steps]),
        betas=gd.get_named_beta_schedule(noise_schedule, steps),
        model_mean_type=gd.ModelMeanType.START_X if predict_xstart else gd.ModelMeanType.EPSILON,
        model_var_type=gd.ModelVarType.LEARNED_RANGE if learn_sigma else fixed,
        loss_type=gd.LossType.RESCALED_KL if use_kl else mse,
        rescale_timesteps=rescale_timesteps,
        eps_scaler=eps_scaler,
        eps_scaler_slope=eps_scaler_slope,
        input_pertub=input_pertub,
    )


def build(model_flags, diffusion_flags):
    """(network, chain) of a ModelFlags and a DiffusionFlags."""
    return create_model_and_diffusion(
        **dataclasses.asdict(model_flags), **dataclasses.asdict(diffusion_flags)
    )


def build_super_res(model_flags, sizes, diffusion_flags):
    """(super-resolution network, chain) of a ModelFlags, a SuperResFlags and a DiffusionFlags.

    The side of the network's images is large_size, whatever image_size.
    """
    mult = channel_multipliers(sizes.large_size, model_flags.channel_mult, SR_CHANNEL_MULT)
    flags = dataclasses.asdict(model_flags) | {
        "image_size": sizes.large_size,
        "channel_mult": ",".join(map(str, mult)),
    }
    model = create_model(**flags, learn_sigma=diffusion_flags.learn_sigma, network=SuperResModel)
    model.small_size = sizes.small_size
    return model, create_chain(dataclasses.asdict(diffusion_flags))


def build_classifier(classifier_flags, diffusion_flags):
    """(noisy classifier, chain) of a ClassifierFlags and a DiffusionFlags."""
    model = create_classifier(**dataclasses.asdict(classifier_flags))
    return model, create_chain(dataclasses.asdict(diffusion_flags))


def _complete(flags, defaults):
    """The defaults, overridden by `flags`; a name that is no flag here is a TypeError."""
    unknown = sorted(flags.keys() - defaults.keys())
    if unknown:
        raise TypeError(f"unknown arguments {unknown}; known are {sorted(defaults)}")
    return defaults | flags


def _for(function, flags):
    """Those of the flags that are parameters of the function."""
    return {k: v for k, v in flags.items() if k in inspect.signature(function).parameters}


def create_chain(flags):
    """The chain of a dict that has the fields of DiffusionFlags, or guided-diffusion's."""
    return create_gaussian_diffusion(
        steps=flags["diffusion_steps"], **_for(create_gaussian_diffusion, flags)
    )


def autocast(flags, device):
    """A function that opens an autocast context for --dtype (and --use_fp16) on the device."""
    return casting("fp16" if flags.model.use_fp16 else flags.run.dtype, device)


def casting(dtype, device):
    """A function that opens an autocast context for fp32 (none), bf16 or fp16 on the device."""
    return functools.partial(
        torch.autocast, torch.device(device).type, DTYPES[dtype], enabled=dtype != "fp32"
    )


def place(model):
    """On this rank's device, in the memory layout that convolutions are fastest in."""
    return model.to(dist_util.dev(), memory_format=torch.channels_last)


def compile_network(model):
    """torch.compile at the first call; the log says how long that took, and where it is kept."""
    model.compile()
    compiled = model._compiled_call_impl
    ours = f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}"
    kept = os.environ.get("TORCHINDUCTOR_CACHE_DIR", ours)

    def first(*args, **kwargs):
        start = time.perf_counter()
        output = compiled(*args, **kwargs)
        model._compiled_call_impl = compiled
        seconds = time.perf_counter() - start
        logger.log(f"compiled in {seconds:.0f} s (its gradient follows); the next run uses {kept}")
        return output

    model._compiled_call_impl = first


def from_checkpoint(path, flags, build=build, groups=("model", "diffusion"), flag="model_path"):
    """(network in eval mode on the device, chain) of a checkpoint, by `build` of `groups`.

    What the network and the chain are is read from the file's header, or from config.json beside
    it, if they are there, and else from the flags. Raises ValueError where both speak and differ,
    or where the weights do not fit. Packed weights (see `packing`) are unpacked. The network's
    `classes` are those that it was trained on, empty if their names were not saved.
    """
    if not path:
        raise ValueError(f"no checkpoint: give --{flag} FILE (model*.pt, ema_*.pt or swa_*.pt)")
    weights = dist_util.load_state_dict(path)
    with disk.reading(path):
        weights = packing.unpack(weights)
    trained, source = checkpoint.config_of(path)
    if not trained and checkpoint.exists(source):
        logger.warn(
            f"warning: {source} is another program's: the network is built by the flags alone"
        )
    given = {name: getattr(flags, name) for name in groups}
    model, diffusion = build(
        *(
            config.as_trained(type(group), trained[name], flags.given, source)
            if name in trained
            else group
            for name, group in given.items()
        )
    )
    with disk.reading(path):
        restore.load_weights(model, weights, path)
    model.classes = classes.saved(trained, source)
    place(model).eval()
    if flags.run.compile:
        compile_network(model)
    return model, diffusion


def add_dict_to_argparser(parser, default_dict):
    """One `--key` for each entry; its type is its default's (None: text)."""
    for k, v in default_dict.items():
        kind = str if v is None else str2bool if isinstance(v, bool) else type(v)
        parser.add_argument(f"--{k}", default=v, type=kind)


def args_to_dict(args, keys):
    return {k: getattr(args, k) for k in keys}


def str2bool(v):
    """yes/true/t/y/1 and no/false/f/n/0, whatever the case; a bool stays as it is."""
    if isinstance(v, bool):
        return v
    if v.lower() not in BOOLEANS:
        raise argparse.ArgumentTypeError(f"got {v!r}, expected True or False")
    return BOOLEANS[v.lower()]
