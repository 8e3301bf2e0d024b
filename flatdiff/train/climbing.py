"""How a loop climbs: what it gives the gradient that it follows, and what it refuses of flags."""

import functools
import inspect
import math

import torch

from ..flags import choices
from ..flags.choices import GRADIENTS
from ..flags.config import TrainFlags
from ..rng import CLIMB, seed_of
from ..world import dist_util
from . import optimizers


def followed(loop, closure, seen):
    """Leave the gradient that the loop follows in `.grad`; returns the terms of the first pass.

    Of two passes, how far the losses of the draws `seen` rose from the first to the last, [N] as
    training weighs them, goes into loop.rises: SAM's L(w + eps) - L(w) is the sharpness (Foret et
    al. 2021, equation 1); not where their dropout masks were others.
    """
    passes = []
    terms = loop.follow(
        lambda: passes.append(closure()) or passes[-1], loop.weights, **given(loop, seen)
    )
    if loop.passes > 1 and loop.same_masks:
        loop.rises.append((passes[-1]["loss"][: len(seen.t)] - terms["loss"]) * seen.weight)
    return terms


def same_masks(loop):
    """Whether an image has the same dropout masks in the climb, on a part of the batch, as in the
    whole batch: a call draws them for as many images as it has."""
    parts = loop.num_ascent == loop.batch_size or loop.num_ascent % loop.microbatch == 0
    dropouts = (m for m in loop.model.modules() if isinstance(m, torch.nn.Dropout))
    return parts or not any(m.p for m in dropouts)


def given(loop, seen):
    """What `weights.gradients` are given by keyword, who climb on the draws `seen`."""
    alike = 0 if loop.sam_sync else dist_util.rank()
    return {
        "rho": loop.rho,
        "ascent": functools.partial(loop.forward_backward, seen, sync=loop.sam_sync),
        "momenta": functools.partial(optimizers.momenta, loop.opt, loop.weights),
        "look": loop.climbs,
        "scale": loop.scale.factor if loop.scale else 1.0,
        "seed": seed_of(loop.seed, CLIMB, loop.step, alike),
        "memory": loop.memory,
        "mean": _same if loop.sam_sync else mean_over_ranks,
    }


def _same(tensors):
    return tensors


def mean_over_ranks(tensors):
    """Their means over all ranks, in one call; the tensors themselves in a world of one."""
    if dist_util.world_size() == 1:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    flat = dist_util.all_reduce_sum(flat).div_(dist_util.world_size())
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors)]


def remembers(loop):
    """Whether its gradient keeps a memory, which is saved with the run."""
    return "memory" in inspect.signature(loop.follow).parameters


def refuse(loop):
    """ValueError for a gradient that the other flags do not go with: one along a momentum that the
    optimizer does not have, or one without a radius that is given one."""
    needs = "momenta" in inspect.signature(loop.follow).parameters
    if needs and not optimizers.keeps_momenta(loop.opt):
        raise ValueError(
            f"--optimizer {loop.optimizer} looks along the last momentum, and --base_optimizer "
            f"{loop.base_optimizer} keeps none: give it a momentum, or take another gradient"
        )
    if not choices.entry(GRADIENTS, loop.optimizer).radius and loop.rho != TrainFlags.rho:
        raise ValueError(
            f"--rho {loop.rho:g}: --optimizer {loop.optimizer} finds its radius itself, of its own "
            "knobs: leave --rho out, or take adam-sam"
        )


def num_ascent(share, batch_size):
    """How many images of a batch SAM climbs on; ValueError unless the share is in (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(
            f"sam_share is {share}; expected the share of the batch that the ascent's gradient is "
            "of, above 0 and up to 1 (off)"
        )
    return math.ceil(share * batch_size)
