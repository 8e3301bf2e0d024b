"""What --model_path names, as a `Subject`: a checkpoint, or a folder of diffusers.

Flags enter here, and all that a kept result depends on is put into its key.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
from torch import Tensor

from ..chain import probe
from ..exchange import diffusers_models
from ..flags import keys
from ..models import networks, run_util
from ..store import checkpoint
from ..world import dist_util, logger
from . import checks, quantized, subjects
from .calibration import Calibration
from .chains import of_chain
from .subject import Subject


@contextlib.contextmanager
def opened(name: str, path: str, flags, images: Callable) -> Iterator[Subject]:
    """Hold a subject of the file or folder, at its rounded weights if flags say so; `images` as
    `load_images`, but for the flags."""
    if os.path.isdir(path):
        yield of_folder(name, path, flags, images)
        return
    model, diffusion = networks.from_checkpoint(path, flags)
    with quantized.rounded(model, path, flags):
        subject = subject_of(name, path, model, diffusion, flags, images)
        subject.calibration = Calibration(model, diffusion, flags)
        yield subject


def weights_at(path: str, flags) -> list[Tensor]:
    """Return copies of the weights that `opened` would move."""
    if os.path.isdir(path):
        return [w.detach().clone() for w in checks.weights(_loaded(path).module)]
    model, _ = networks.from_checkpoint(path, flags)
    with quantized.rounded(model, path, flags):
        return [w.detach().clone() for w in model.parameters()]


def average(file: str, path: str, model, flags) -> list[Tensor] | None:
    """Load the weights of another file of the network of `path`, beside it if `file` is a bare
    name; None for no file. ValueError if it is another network's."""
    if not file:
        return None
    file = file if os.path.dirname(file) else os.path.join(os.path.dirname(path), file)
    other, _ = networks.from_checkpoint(file, flags, flag="average_path")
    shapes = [[(name, w.shape) for name, w in m.named_parameters()] for m in (model, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"--average_path {file} is of another network than {path}: expected an average, or "
            "another step, of the same training"
        )
    return [w.detach() for w in other.parameters()]


def subject_of(name: str, path: str, model, diffusion, flags, images) -> Subject:
    """Put the network of a checkpoint on the images of a study: `images` as `load_images`."""
    f, dtype, key = flags.flatness, networks.dtype_of(flags), functools.partial(key_of, flags)
    of_study = images(model.image_size, model.num_classes, model.classes)
    given = {"seed": flags.run.seed, "t_range": f.t_range, "batch_size": f.batch_size}
    given |= {"loss": loss_of(flags), "dtype": dtype, "key": key}
    return of_chain(name, path, model, diffusion, of_study, **given)


def of_folder(name: str, path: str, flags, images: Callable) -> Subject:
    """Put the network of a diffusers folder on the images of a study, at its scheduler's levels."""
    f, loaded = flags.flatness, _loaded(path)
    told = {"t_range": f.t_range, "loss": f.loss, "quant": hasattr(flags, "quant")}
    for flag in (flag for flag, given in told.items() if given):
        raise ValueError(f"--{flag} is for checkpoints, and {path} is a folder of diffusers")
    needs = loaded.kwargs.keys() - {"class_labels"}
    channels, *sides = loaded.size or (0,)
    if needs or channels != 3 or len(set(sides)) != 1:
        raise ValueError(
            f"{path} is of no network of square RGB images alone: x is {loaded.size}, beside "
            f"{', '.join(needs) or 'nothing'}. flatdiff.subject.from_diffusers, in Python, takes "
            "what else a network is given"
        )
    labelled, config = "class_labels" in loaded.kwargs, loaded.module.config
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    x_start, labels, distinct = images(sides[0], classes if labelled else None, ())
    x_start = x_start[:distinct]
    kwargs = {"class_labels": labels["y"][:distinct]} if labelled else {}
    module = loaded.module.to(dist_util.dev())
    how = {"seed": flags.run.seed, "batch_size": f.batch_size, "dtype": networks.dtype_of(flags)}
    made = subjects.subject(
        module, x_start, schedule=loaded.family, kwargs=kwargs, name=name, **how
    )
    made.more = {"path": path, "image_size": sides[0]}
    drawn = [x_start, *kwargs.values(), made.log_snr, made.plan.weight]
    made.key = key_of(flags, path, drawn, losses=[*made.terms, made.batch_size])
    return made


def _loaded(path: str) -> diffusers_models.Loaded:
    return diffusers_models.from_diffusers(path)


def loss_of(flags) -> Callable | None:
    """Load what --loss module:function names, from the working directory too; None without it."""
    text = flags.flatness.loss if hasattr(flags, "flatness") else ""
    module, _, name = text.partition(":")
    if not text:
        return None
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
        if not callable(found):
            raise TypeError(f"{name} is {found!r}")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"--loss {text!r}: {error}; expected module:function, a function of (network, draw) "
            "that returns a loss for each example [N], or such by term, in a module that can be "
            "imported from here"
        ) from None
    finally:
        sys.path.remove(os.getcwd())
    return found


def key_of(flags, path: str, tensors: list[Tensor], **more) -> str:
    """Hash the file, of what says what is in it, of the draws and of the arithmetic."""
    draws = [hashlib.sha256(x.cpu().numpy().tobytes()).hexdigest() for x in tensors]
    more |= {"draws": draws, "torch": [torch.__version__, dist_util.dev().type]}
    if loss := loss_of(flags):
        more["loss"] = inspect.getsource(inspect.getmodule(loss))
    text = keys.key(flags, "part", file=checkpoint.identity(path), **more)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_images(flags, image_size: int, num_classes: int | None, known) -> tuple[Tensor, dict, int]:
    """Return the images of the study, their labels for a network whose classes are `known`, and how
    many there are."""
    wanted = flags.flatness.num_images
    dataset = run_util.open_dataset(flags.data, image_size, num_classes, known)
    if dataset.num_images < wanted:
        logger.warn(
            f"warning: there are {dataset.num_images} images, and num_images is {wanted}: some are "
            "used again, with other timesteps and noise (errors over images count them once)"
        )
    return *probe.images_of(dataset, wanted, flags.run.seed), dataset.num_images


def load_halves(flags, wanted: int, model: tuple, other: str) -> list[tuple]:
    """Return images, labels and their number twice: of the study, and as many others, of which none
    is measured; `other`: what for. `model`: the size, and the classes, of a network's images.
    ValueError for too few."""
    dataset = run_util.open_dataset(flags.data, *model)
    count = min(wanted, dataset.num_images // 2)
    if count < probe.LEAST:
        raise ValueError(
            f"there are {dataset.num_images} images in {flags.data.data_dir}; expected "
            f"{2 * probe.LEAST} or more: one half is measured, and one is {other}"
        )
    if count < wanted:
        logger.warn(
            f"warning: there are {dataset.num_images} images, and num_images is {wanted}: {count} "
            f"are measured, and as many are {other}"
        )
    x_start, labels = probe.images_of(dataset, 2 * count, flags.run.seed)
    parts = slice(count), slice(count, None)
    return [(x_start[p], {k: y[p] for k, y in labels.items()}, count) for p in parts]


def exact(flags):
    """Set flags for exact work: the rises are small differences of losses."""
    run = dataclasses.replace(flags.run, dtype="fp32", compile=False)
    model = dataclasses.replace(flags.model, use_fp16=False)
    if (run, model) != (flags.run, flags.model):
        name = flags.flatness.flatness
        logger.warn(f"warning: {name} is computed in fp32 and not compiled, whatever flags say")
    return SimpleNamespace(**vars(flags) | {"run": run, "model": model})
