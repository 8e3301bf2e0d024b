"""What a network sees of real images at all noise levels, from which rounding is calibrated."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..chain import probe
from ..models import run_util
from ..quantization import gptq, static
from ..rng import CALIBRATE, seed_of
from .chains import fingerprint

BATCH = 64
NO_IMAGES = (
    "gptq and --quant_act_bins calibrate on images: give --data_dir, or round by minmax or mse, "
    "and leave --quant_act_bins out"
)


class Calibration:
    """A network on images of --data_dir, at even timesteps of its training's chain: other images
    than those that are measured, while there are such. What is found is kept.

    flags: of the command line, with `data`, `run` and `quant`, if it has that.
    """

    def __init__(self, model: nn.Module, chain, flags):
        self.model, self.chain, self.flags = model, chain, flags
        self._known: dict[tuple, Any] = {}
        self.count = getattr(getattr(flags, "quant", None), "quant_calibration", 128)

    @functools.cached_property
    def draws(self):
        """The images, each with a timestep and a noise, as functions of the seed."""
        flags, model = self.flags, self.model
        if not flags.data.data_dir:
            raise ValueError(NO_IMAGES)
        kinds = model.image_size, model.num_classes, model.classes
        dataset = run_util.open_dataset(flags.data, *kinds)
        groups = (getattr(flags, name, None) for name in ("flatness", "exposure", "quant"))
        measured = max(getattr(group, "num_images", 0) for group in groups)
        images, cond = probe.images_of(dataset, measured + self.count, flags.run.seed)
        cond = {name: values[measured:] for name, values in cond.items()}
        seed, steps = seed_of(flags.run.seed, CALIBRATE), self.chain.num_timesteps
        t = probe.timesteps(self.count, steps, seed)
        even = torch.ones(self.count, dtype=torch.float64)
        plan = probe.Plan(t, even, torch.zeros_like(t), torch.arange(self.count))
        device = next(model.parameters()).device
        return probe.fixed_draws(images[measured:].to(device), plan, seed, cond)

    @property
    def seen(self) -> str:
        """A hash of the images and their labels; all else about the draws is in flags and file."""
        return fingerprint([self.draws.x_start, self.draws.model_kwargs])

    @torch.no_grad()
    def run(self) -> None:
        """Call the network on all of them."""
        for part in self.draws.split(BATCH):
            part.losses(self.chain, self.model.forward)

    def grams(self, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Return what `gptq.grams` says of the layers, at the weights of the first time."""
        return self._once(("grams", *layers), lambda: gptq.grams(layers, self.run))

    def ranges(self, layers: Mapping[str, nn.Module], bins: int) -> static.Ranges:
        """Return what `static.calibrated` says of the layers, at the weights of the first time."""
        how = self.model, layers, self.run, bins
        return self._once((bins, *layers), lambda: static.calibrated(*how))

    def _once(self, key: tuple, make: Callable) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]
