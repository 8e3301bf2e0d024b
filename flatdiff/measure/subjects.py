"""The door for networks that are not ours: `flatdiff.subject`.

    subject(net, loss=my_loss, draws=my_draws)
    subject(net, images, schedule="flow", predicts="v")
    subject.from_diffusers(folder, images), subject.from_checkpoint("ema_0.9999_200000.pt")

No flags, files or ranks are needed. Networks on the same images and seed see the same noise at the
same log-SNR, whatever their family.
"""

import dataclasses
import functools
import os
import shlex
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ParamSpec, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..chain import probe
from ..exchange import diffusers_models, families
from ..flags import config
from ..models import networks, run_util
from ..store import checkpoint
from ..world.arithmetic import arithmetic
from . import chains, checks
from .subject import Axis, Subject

GROUPS = {
    "run": config.RunFlags,
    "data": config.DataFlags,
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
}


P = ParamSpec("P")


class Door(Protocol[P]):
    """A function that makes subjects, with two more as its attributes."""

    from_diffusers: Callable[..., Any]
    from_checkpoint: Callable[..., Subject]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Subject: ...


def _door(function: Callable[P, Subject]) -> Door[P]:
    """Return the function as it is, so that type checkers know of its attributes."""
    return function  # type: ignore[return-value]


@_door
@arithmetic(tf32=False)
def subject(
    net: nn.Module,
    images: Tensor | None = None,
    *,
    loss: Callable[[nn.Module, Any], Tensor | dict[str, Tensor]] | None = None,
    draws: Any = None,
    schedule: Any = None,
    predicts: str | None = None,
    times: Callable | None = None,
    kwargs: dict[str, Any] | None = None,
    weights: checks.Chosen = None,
    levels: Subject | None = None,
    seed: int = 0,
    batch_size: int = 0,
    dtype: str = "fp32",
    fp32: bool = False,
    name: str = "",
) -> Subject:
    """Return a network in eval mode with a loss on draws that stay the same.

    Either `loss` and `draws`: loss(net, draws) -> a vector [N], which is then the term "loss", or a
    dict of such; nothing random in it, and draws are whatever it takes. Or `images` [N, ...] and
    `schedule`: each image is noised once, at a log-SNR of its own, all of them in strata from -8 to
    8 and at both ends; the terms are mse and loss, as in training, and x_mse, the squared error of
    the image that the output implies, evenly over log-SNR from -8 to 8.

    :param schedule, predicts: as `exchange.families.family` has them, "cosine" and "eps", "flow"
        and "v", "edm" and "x", a scheduler of diffusers, ...; a denoiser of azula needs neither.
    :param times: of the timestep, s or sigma, what the network is told; None: that itself.
    :param kwargs: more arguments of the network; tensors [N, ...] in them are cut with the images.
    :param weights: which weights are moved: patterns of names, or a function of (name, parameter);
        None: all that require grad.
    :param levels: another subject, whose log-SNR the images have too, image by image: so are those
        of a checkpoint compared, whose levels are timesteps. What is beyond -8 .. 8 then counts for
        nothing. None: in strata.
    :param seed: of noise and levels. batch_size: examples a call; 0: all, of images what fits.
    :param dtype: of autocast, fp32 (none), bf16 or fp16. fp32: measure a copy in fp32.
    """
    schedule = net if schedule is None and loss is None and hasattr(net, "schedule") else schedule
    idle = {"predicts": predicts, "times": times, "kwargs": kwargs, "levels": levels}
    _must_go_together([loss, draws, images, schedule], idle, batch_size)
    module = checks.network(net, fp32)
    moved = checks.weights(module, weights)
    how = {"weights": moved, "seed": seed, "batch_size": batch_size, "dtype": dtype}
    name = name or type(families.inside(module)).__name__
    if loss is None:
        family = families.family(schedule, predicts, times)
        return _noised(name, module, family, images, kwargs or {}, levels, **how)
    casting = networks.casting(dtype, moved[0].device)

    def evaluate() -> Any:
        with casting():
            return loss(module, draws)

    size = checks.loss(evaluate, draws)
    checks.cuttable(draws, batch_size, size)
    made = Subject(name, module, loss, draws, size=size if batch_size else None, **how)
    made.drawn = chains.fingerprint(draws)
    return made


def _must_go_together(given: list, of_images: dict[str, Any], batch_size: int) -> None:
    """ValueError unless what is given is of a loss and draws, or of images and a schedule."""
    told = [value is not None for value in given]
    if told not in ([True, True, False, False], [False, False, True, True]):
        raise ValueError(
            "a subject is of loss= and draws=, or of images and a schedule=, as "
            'subject(net, images, schedule="cosine", predicts="eps")'
        )
    if told[0] and (names := [name for name, value in of_images.items() if value is not None]):
        raise ValueError(f"{names[0]}= is of images and a schedule; a loss has all in its draws")
    if batch_size < 0:
        raise ValueError(f"batch_size is {batch_size}; expected 0 (what fits) or more")


def _noised(name, net, family, images, kwargs, levels, weights, seed, **how) -> Subject:
    """Return a subject of images that are noised at levels of the family."""
    images = _images(images).to(weights[0])
    _check_rows(kwargs, len(images))
    log_snr, even = probe.plan_of_log_snr(len(images), *family.limits, seed)
    if levels is not None:
        log_snr, even = _of_other(levels, len(images), family.limits)
    chain, taken = family.levels(log_snr.numpy())
    taken = torch.from_numpy(taken)
    draws = probe.fixed_draws(images, even, seed, kwargs)
    draws = dataclasses.replace(draws, t=torch.arange(len(images), device=images.device))

    def loss(network: Callable, part: probe.Draw) -> dict[str, Tensor]:
        given = part.x_start, part.t, part.model_kwargs, part.noise
        return chain.training_losses(family.network(network), *given)

    with networks.casting(how["dtype"], images.device)():
        checks.loss(lambda: loss(net, draws.slice(0, 2)), None)
    density = torch.from_numpy(family.density(log_snr.numpy()))
    trained = chains.weighed(even, even.weight * density)
    axes = chains.axis_of_levels(even, taken, family.limits)
    everything = {"all": ("", torch.ones(len(images)).bool())}
    axes[""] = Axis(trained, axes["x_mse"].parts | everything)
    how |= {"weights": weights, "seed": seed, "axes": axes, "size": len(images)}
    made = Subject(name, net, loss, draws, x_factor=torch.from_numpy(chain.x_factor), **how)
    made.log_snr, made.drawn = taken, chains.fingerprint([images, seed])
    return made


def _of_other(other: Subject, count: int, limits: tuple) -> tuple[Tensor, probe.Plan]:
    """Return log-SNR and plan of the subject whose levels are taken; ValueError for what is none,
    is of another number of images, or has levels that count and are beyond the family's limits."""
    if getattr(other, "log_snr", None) is None:
        raise ValueError(f"levels={other!r}: expected a subject of images, which has noise levels")
    if len(other.log_snr) != count:
        raise ValueError(
            f"levels: the other subject has {len(other.log_snr)} images, and this one {count}; "
            "expected the same number"
        )
    counts = other.log_snr[other.axes["x_mse"].plan.weight > 0]
    if (counts < limits[0]).any() or (counts > limits[1]).any():
        raise ValueError(
            f"levels: the other subject's log-SNR goes from {counts.min():.3g} to "
            f"{counts.max():.3g}, and this network's noise levels from {limits[0]:.3g} to "
            f"{limits[1]:.3g}; expected them to reach as far"
        )
    return other.log_snr, other.axes["x_mse"].plan


def _images(images: Any) -> Tensor:
    """Return x_start, float32 [N, ...]; ValueError for what is none."""
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2:
        got = f"{tuple(images.shape)} {images.dtype}" if torch.is_tensor(images) else type(images)
        raise ValueError(
            f"images are {got}; expected a float tensor [N, ...] of what the network was trained "
            "on, pixels as a rule in [-1, 1]"
        )
    if len(images) < probe.LEAST:
        raise ValueError(f"got {len(images)} images; expected {probe.LEAST} or more")
    low, high = float(images.min()), float(images.max())
    if low >= 0 and high > 2 and torch.equal(images, images.round()):
        raise ValueError(
            f"images are whole numbers from {low:g} to {high:g}, as bytes are; expected them "
            "scaled as the network was trained, as a rule images / 127.5 - 1"
        )
    return images.float()


def _check_rows(kwargs: dict, count: int) -> None:
    for name, value in kwargs.items():
        for x in tree_leaves(value):
            if torch.is_tensor(x) and x.shape[:1] != (count,):
                raise ValueError(
                    f"kwargs[{name!r}] has a tensor {tuple(x.shape)} for {count} images; expected "
                    f"[{count}, ...], a row for each"
                )


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A network without images; `on(images)` makes the subject. net: the module, in eval mode."""

    net: nn.Module
    on: Callable[..., Subject]


def from_diffusers(
    pipeline_or_folder: Any,
    images: Tensor | None = None,
    *,
    schedule: Any = None,
    predicts: str | None = None,
    times: Callable | None = None,
    **more: Any,
) -> Subject | Loaded:
    """Return the subject of a pipeline of diffusers, or of a folder that has one, or a model.

    What the network predicts, and at which noise levels, its scheduler says, or `schedule`, ... in
    its place, as in `subject`. images: x_start [N, C, H, W], of a pipeline with a VAE its latents;
    without them, what is returned has `net` and `on(images, ...)`. more: as in `subject`.
    """
    loaded = diffusers_models.from_diffusers(pipeline_or_folder, schedule, predicts, times)

    def on(images: Tensor, **more: Any) -> Subject:
        if missing := loaded.kwargs.keys() - (more.get("kwargs") or {}).keys():
            told = ", ".join(f"{name} {loaded.kwargs[name]}".strip() for name in sorted(missing))
            name = type(loaded.module).__name__
            raise ValueError(f"{name} needs more than images: give it kwargs={{...}} with {told}")
        return subject(loaded.module, images, schedule=loaded.family, **more)

    if images is None:
        return Loaded(loaded.module, functools.partial(on, **more))
    return on(images, **more)


@arithmetic(tf32=False)
def from_checkpoint(
    path: str,
    images: str | Tensor | None = None,
    *,
    labels: Tensor | None = None,
    num_images: int = config.FlatnessFlags.num_images,
    t_range: int = 0,
    seed: int = 0,
    batch_size: int = 0,
    dtype: str = "fp32",
    flags: str = "",
    loss: Callable | None = None,
) -> Subject:
    """Return the subject of a checkpoint of this package, or of guided-diffusion.

    It is what scripts/flatness.py measures, to the bit, with the same seed and data.

    :param images: a folder, zip or npz, or x_start [N, 3, H, W]; None: the images of its training.
    :param labels: [N], with tensors of images, for a class-conditional network.
    :param t_range: timesteps 0 .. t_range-1; 0: all.
    :param flags: the flag string of a checkpoint that has no config.json beside it.
    :param loss: (network, Draw) -> [N] or terms, in place of training's.
    """
    told = _parsed(flags)
    told.run = dataclasses.replace(told.run, dtype=dtype, seed=seed)
    if labels is not None and not torch.is_tensor(images):
        raise ValueError("labels= are of images as a tensor; a folder, zip or npz has its own")
    model, diffusion = networks.from_checkpoint(path, told)
    if images is None:
        images = checkpoint.config_of(path)[0].get("data", {}).get("data_dir", "")
        if not images:
            raise ValueError(f"{path} does not say what it was trained on: give images=")
    if isinstance(images, str):
        data = dataclasses.replace(told.data, data_dir=images)
        given = data, model.image_size, model.num_classes, model.classes
        dataset = run_util.open_dataset(*given)
        found = *probe.images_of(dataset, num_images, seed), dataset.num_images
    else:
        cond = {} if labels is None else {"y": labels}
        found = _images(images), cond, len(images)
        _check_rows(cond, len(images))
    how = {"seed": seed, "t_range": t_range, "batch_size": batch_size, "dtype": dtype, "loss": loss}
    name = os.path.basename(path)
    return chains.of_chain(name, path, model, diffusion, found, **how)


def _parsed(flags: str) -> SimpleNamespace:
    """Return the groups of a flag string; ValueError for what is no flag, or not of a network."""
    try:
        told = config.parse("", shlex.split(flags), **GROUPS)
    except SystemExit:
        raise ValueError(f"flags={flags!r}: the line above says what is wrong there") from None
    if others := told.given.keys() & {"seed", "dtype", "data_dir", "log_dir"}:
        raise ValueError(
            f"flags={flags!r} has --{min(others)}; they are of the network and its chain, and "
            "seed=, dtype= and images= are arguments of their own"
        )
    return told


subject.from_diffusers = from_diffusers
subject.from_checkpoint = from_checkpoint
