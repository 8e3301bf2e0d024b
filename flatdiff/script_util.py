"""Config -> network and chain, and guided-diffusion's own helper functions.

The `..._defaults` are dicts made from the groups of `config`, so that code written for
guided-diffusion's flag dicts runs unchanged; what they are given to is in `factories`.
"""

import argparse
import dataclasses
import functools
import getpass
import os
import tempfile
import time

import torch

from . import averaging, checkpoint, classes, config, disk, dist_util, logger, packing, restore
from .factories import (
    NUM_CLASSES,
    create_chain,
    create_classifier,
    create_classifier_and_diffusion,
    create_gaussian_diffusion,
    create_model,
    create_model_and_diffusion,
    sr_create_model,
    sr_create_model_and_diffusion,
)
from .flags import BOOLEANS
from .sizes import SR_CHANNEL_MULT, channel_multipliers
from .unet import SuperResModel

__all__ = [
    "DTYPES",
    "NUM_CLASSES",
    "add_dict_to_argparser",
    "args_to_dict",
    "autocast",
    "build",
    "build_classifier",
    "build_super_res",
    "casting",
    "classifier_and_diffusion_defaults",
    "classifier_defaults",
    "compile_network",
    "create_chain",
    "create_classifier",
    "create_classifier_and_diffusion",
    "create_gaussian_diffusion",
    "create_model",
    "create_model_and_diffusion",
    "diffusion_defaults",
    "from_checkpoint",
    "model_and_diffusion_defaults",
    "place",
    "sr_create_model",
    "sr_create_model_and_diffusion",
    "sr_model_and_diffusion_defaults",
    "str2bool",
]

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
    if ema := checkpoint.parse_ema(path):
        logger.caution(averaging.caution(*ema))
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
