"""The curvature along the optimizer's step, into the log while training goes on.

It is that of the step's own batch at its own draws, without dropout, in fp32 whatever --dtype: the
steps are smaller than what half precision can see. Nothing of the training is touched.
"""

import contextlib

import torch

from ..weights.curvature import along_step
from ..world import dist_util, logger
from ..world.arithmetic import arithmetic


@contextlib.contextmanager
def watched(loop, draws):
    """Measure the step that is taken in the block, every loop.curvature_interval steps."""
    if not loop.curvature_interval or (loop.step + 1) % loop.curvature_interval:
        yield
        return
    before = [w.detach().clone() for w in loop.weights]
    yield
    lr = loop.opt.param_groups[0]["lr"]
    with torch.no_grad(), _evaluating(loop.model), arithmetic(tf32=False):
        found = along_step(lambda: mean_loss(loop, draws), loop.weights, before, lr)
    for name, value in found.items():
        logger.logkv_mean(name, value)


def mean_loss(loop, draws):
    """The loss of the draws of all ranks, as training weighs them."""
    parts = draws.split(loop.microbatch)
    losses = (part.losses(loop.diffusion, loop.model)["loss"] * part.weight for part in parts)
    total = torch.stack([loss.double().sum() for loss in losses]).sum()
    return float(dist_util.all_reduce_sum(total)) / loop.global_batch


@contextlib.contextmanager
def _evaluating(model):
    """The network without dropout, and as it is written where it was compiled."""
    compiled, model._compiled_call_impl = model._compiled_call_impl, None
    model.eval()
    try:
        yield
    finally:
        model._compiled_call_impl = compiled
        model.train()
