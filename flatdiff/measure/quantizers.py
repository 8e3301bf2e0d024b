"""Quantizers by name, as a list of them has it, "minmax,mse granularity=channel", and a network's
weights as they round them."""

import argparse
import functools
import inspect
from collections.abc import Callable

from torch import Tensor

from ..exchange.families import inside
from ..flags import choices, parse
from ..quantization.grid import BITS, Quantized, Quantizer, layers_of, quantize_weights

OF_GRID = {"granularity": "tensor", "symmetric": False, "group": 32}  # knobs of all


def ends_of(text: str) -> Callable:
    """Return where a grid ends, by a name of the registry with its knobs behind it."""
    ends, knobs = choices.chosen(choices.QUANTIZERS, text)
    if inspect.isclass(ends):
        return ends(**knobs)
    return functools.partial(ends, **knobs) if knobs else ends


def quantizer(text: str, bits: int) -> Quantizer:
    """Return the quantizer that a text names: behind it knobs of its own, and those of any grid."""
    name, knobs = choices.named(choices.QUANTIZERS, text)
    grid = {knob: knobs.pop(knob) for knob in OF_GRID if knob in knobs}
    try:
        grid = {knob: choices.read(type(OF_GRID[knob]), value) for knob, value in grid.items()}
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{text}: {error}") from None
    if "group" in grid:
        grid.setdefault("granularity", "group")
    return Quantizer(bits, ends=ends_of(" ".join([name, *map("=".join, knobs.items())])), **grid)


def listed(texts: str, bits: str) -> dict[tuple[str, int], Quantizer]:
    """Return the quantizers of lists such as "minmax,mse" and "8,4", by text and bits."""
    fewest, most = BITS[0], BITS[-1]
    counts = parse.numbers(
        "bits", bits, f"whole numbers {fewest} to {most}, as 8,4", lambda b: b in BITS, kind=int
    )
    named = parse.parts(texts)
    if not named:
        raise ValueError(
            f"--quantizers is {texts!r}; expected one of {', '.join(choices.QUANTIZERS)}"
        )
    return {(text, b): quantizer(text, b) for text in named for b in dict.fromkeys(counts)}


def layers(subject) -> dict[str, Tensor]:
    """Return the weights of a subject's convolutions and linear layers by name, each once; without
    those of the patterns in its `skip`, if it has that."""
    found, seen = {}, set()
    for name, layer in layers_of(inside(subject.model), getattr(subject, "skip", ())).items():
        if id(layer.weight) not in seen:
            seen.add(id(layer.weight))
            found[name] = layer.weight
    return found


def rounded(subject, quantizer: Quantizer) -> dict[str, Quantized]:
    """Return the weights of `layers`, rounded."""
    found = layers_of(inside(subject.model))
    found, grams = {name: found[name] for name in layers(subject)}, None
    if quantizer.calibrated and getattr(subject, "calibration", None):
        grams = subject.calibration.grams(found)
    return quantize_weights(found, quantizer, grams)
