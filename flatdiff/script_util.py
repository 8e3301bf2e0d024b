"""guided-diffusion's flag dicts, their helper functions, and the factories that they are given to.

The `..._defaults` are dicts made from the groups of flags, so that code written for
guided-diffusion's flag dicts runs unchanged.
"""

import argparse
import dataclasses

from .flags import config
from .flags.choices import BOOLEANS
from .models.factories import *  # noqa: F403
from .models.factories import OURS


def _defaults(*groups):
    return {f.name: f.default for group in groups for f in dataclasses.fields(group)}


def diffusion_defaults():
    """Flags of the chain as guided-diffusion has them, and their defaults."""
    return {k: v for k, v in _defaults(config.DiffusionFlags).items() if k not in OURS}


def classifier_defaults():
    defaults = _defaults(config.ClassifierFlags)
    del defaults["num_classes"]  # guided-diffusion has 1000
    return defaults


def model_and_diffusion_defaults():
    return _defaults(config.ModelFlags, config.DiffusionFlags)


def classifier_and_diffusion_defaults():
    return classifier_defaults() | diffusion_defaults()


def sr_model_and_diffusion_defaults():
    """Kind, size, width table and attention order of a super-resolution network are no flags."""
    model = _defaults(config.ModelFlags, config.SuperResFlags)
    for name in ("image_size", "channel_mult", "use_new_attention_order", *NETWORK):  # noqa: F405
        del model[name]
    return model | diffusion_defaults()


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
