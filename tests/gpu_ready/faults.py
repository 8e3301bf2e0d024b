"""Faults for a training step, planted to see that the watch tells them.

FAULTS: name -> (a function that opens the patch, optimizer).
"""

import contextlib
from unittest import mock

import torch

from flatdiff.chain.gaussian_diffusion import GaussianDiffusion
from flatdiff.chain.resample import UniformSampler
from flatdiff.nets import layers
from flatdiff.train.train_util import TrainLoop
from flatdiff.weights import averaging, gradients


def changed(owner, name, change):
    """A patch: the method's result goes through `change`, a function of it and of the arguments."""
    method = getattr(owner, name)

    def wrapped(*args, **kwargs):
        return change(method(*args, **kwargs), *args)

    return mock.patch.object(owner, name, wrapped)


def item():
    """The gradient's norm is read in each step."""

    def read(result, loop):
        result[0].item()
        return result

    return changed(TrainLoop, "optimize", read)


def on_the_host():
    """The weights of timesteps stay on the CPU."""
    return changed(UniformSampler, "sample", lambda result, *_: (result[0], result[1].cpu()))


def float64():
    """Images are noised in float64."""

    def noised(result, *_):
        return result.double().float()

    return changed(GaussianDiffusion, "q_sample", noised)


@contextlib.contextmanager
def half_average():
    """Averages are kept in bf16."""
    halved = []

    def update(average, weights):
        average.weights = [w.detach().bfloat16() for w in weights]
        halved.append(average)

    with mock.patch.object(averaging.Average, "update", update):
        yield
    for average in halved:
        average.weights = [w.float() for w in average.weights]


def third_pass():
    """SAM takes its last gradient twice."""
    return changed(gradients, "sam_gradient", lambda result, closure, *_: (closure(), result)[1])


def turned():
    """Each convolution's result is laid out by channels."""
    return changed(layers.Conv2d, "forward", lambda result, *_: result.contiguous())


@contextlib.contextmanager
def full_precision():
    """Convolutions are taken out of autocast."""
    forward = layers.Conv2d.forward

    def outside(layer, x):
        with torch.autocast("cuda", enabled=False):
            return forward(layer, x.float())

    with mock.patch.object(layers.Conv2d, "forward", outside):
        yield


FAULTS = {
    "none": (contextlib.nullcontext, "adam"),
    "none in SAM": (contextlib.nullcontext, "adam-sam"),
    "an item": (item, "adam"),
    "a tensor on the host": (on_the_host, "adam"),
    "float64": (float64, "adam"),
    "an average in bf16": (half_average, "adam"),
    "a third pass": (third_pass, "adam-sam"),
    "an image by channels": (turned, "adam"),
    "a layer in fp32": (full_precision, "adam"),
}
