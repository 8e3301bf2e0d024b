"""Flags or a checkpoint -> network and chain, placed on this rank's device."""

import dataclasses
import functools
import math
import os
import time

import torch

from ..data import classes
from ..flags import config
from ..nets.unet import SuperResModel
from ..quantization import packing
from ..store import checkpoint, disk, private, restore
from ..weights import averaging
from ..world import dist_util, logger
from .factories import create_chain, create_classifier, create_model, create_model_and_diffusion

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build(model_flags, diffusion_flags):
    """(network, chain) of a ModelFlags and a DiffusionFlags."""
    return create_model_and_diffusion(**vars(model_flags), **vars(diffusion_flags))


def build_super_res(model_flags, sizes, diffusion_flags):
    """(super-resolution network of images of large_size, chain) of three groups of flags."""
    if model_flags.network != "unet":
        raise ValueError(
            f"--network {model_flags.network}: super-resolution has a U-Net alone; leave the flag "
            "out, or give unet"
        )
    flags = vars(model_flags) | {"image_size": sizes.large_size, "network": SuperResModel}
    model = create_model(**flags, learn_sigma=diffusion_flags.learn_sigma)
    model.small_size = sizes.small_size
    return model, create_chain(vars(diffusion_flags))


def build_classifier(classifier_flags, diffusion_flags):
    """(noisy classifier, chain) of a ClassifierFlags and a DiffusionFlags."""
    if diffusion_flags.objective != "ddpm":
        raise ValueError(
            "a noisy classifier knows the noise of --objective ddpm, not of "
            f"{diffusion_flags.objective}: train the network with --class_dropout, and sample it "
            "with --guidance_scale"
        )
    return create_classifier(**vars(classifier_flags)), create_chain(vars(diffusion_flags))


def autocast(flags, device):
    """A function that opens an autocast context for --dtype (and --use_fp16) on the device."""
    return casting(dtype_of(flags), device)


def dtype_of(flags):
    """fp32, bf16 or fp16: --dtype, and --use_fp16."""
    return "fp16" if flags.model.use_fp16 else flags.run.dtype


def casting(dtype, device):
    """A function that opens an autocast context for fp32 (none), bf16 or fp16 on the device."""
    if dtype not in DTYPES:
        raise ValueError(
            f"dtype is {dtype!r}; expected {', '.join(DTYPES)} (`dtypes.decided`: auto)"
        )
    return functools.partial(
        torch.autocast, torch.device(device).type, DTYPES[dtype], enabled=dtype != "fp32"
    )


def place(model):
    """Moves a network to this rank's device, in the layout that convolutions are fastest in."""
    return model.to(dist_util.dev(), memory_format=torch.channels_last)


def compile_network(model):
    """torch.compile at the first call; the log says how long that took, and where it is kept: code
    that runs and pickles, so in no public folder, which is PyTorch's choice."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        ours = private.first_of(private.places("compiled"))
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(ours)
    model.compile(dynamic=False)
    model._compiled_call_impl = _Compiled(model)


class _Compiled:
    """Calls a compiled network, whose kernels are made for one number of images.

    A smaller batch, as the last one of a sampling or a measurement is, is filled up with its own
    images to the largest so far, and their outputs are dropped: that is soon done, and compiling
    anew is not. In training batches stay what they are.
    """

    def __init__(self, model):
        self.model, self.compiled = model, model._compiled_call_impl
        self.largest, self.told = 0, False

    def __call__(self, x, *args, **kwargs):
        if not self.told:
            return self._first(x, *args, **kwargs)
        count = len(x)
        if self.model.training or count >= self.largest:
            self.largest = max(self.largest, 0 if self.model.training else count)
            return self.compiled(x, *args, **kwargs)
        args = [self._filled(a, count) for a in (x, *args)]
        kwargs = {name: self._filled(value, count) for name, value in kwargs.items()}
        return self.compiled(*args, **kwargs)[:count]

    def _first(self, *args, **kwargs):
        """The first call, with a line of the log."""
        self.told, start = True, time.perf_counter()
        output = self(*args, **kwargs)
        kept, seconds = os.environ["TORCHINDUCTOR_CACHE_DIR"], time.perf_counter() - start
        logger.log(f"compiled in {seconds:.0f} s (its gradient follows); the next run uses {kept}")
        return output

    def _filled(self, value, count):
        """A tensor [count, ...] -> [largest, ...], in the same layout; anything else as it is."""
        if not torch.is_tensor(value) or value.shape[:1] != (count,):
            return value
        return torch.cat([value] * math.ceil(self.largest / count))[: self.largest]


def chain_of(path, flags, steps=None):
    """The chain of a checkpoint at its training's timesteps, whatever the flags sample at; or as
    `steps`, a --timestep_respacing, says."""
    trained, source = checkpoint.config_of(path)
    chain, known = flags.diffusion, trained.get("diffusion", {})
    if known:
        chain = config.as_trained(type(chain), known, flags.given, source)
    steps = known.get("timestep_respacing", "") if steps is None else steps
    return create_chain(dataclasses.asdict(chain) | {"timestep_respacing": steps})


def flags_of(path, flags, groups=("model", "diffusion")):
    """The groups of flags, by name, as the checkpoint says what its network and chain are, and else
    as they are. ValueError where both speak and differ."""
    trained, source = checkpoint.config_of(path) if path else ({}, "")
    given = {name: getattr(flags, name) for name in groups}
    for name in given.keys() & trained.keys():
        told = type(given[name]), trained[name], flags.given, source
        given[name] = config.as_trained(*told)
    return given


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
        logger.caution(f"{source} is another program's: the network is built by the flags alone")
    model, diffusion = build(*flags_of(path, flags, groups).values())
    with disk.reading(path):
        restore.load_weights(model, weights, path)
    model.classes = classes.saved(trained, source)
    if ema := checkpoint.parse_ema(path):
        logger.caution(averaging.caution(*ema))
    place(model).eval()
    if flags.run.compile:
        compile_network(model)
    return model, diffusion
