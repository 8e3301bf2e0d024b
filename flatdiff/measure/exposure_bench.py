"""The bench of exposure bias: what epsilon scaling and time shift do, model by model.

For each model, number of bits and number of steps, and each way to sample, all from one noise: the
Frechet distance; the gap, ||eps|| along the chain less that in training, over its steps and in
shares of the noise's norm; delta_t (Ning et al. 2024). Differences from plain DDIM are paired.
"""

import contextlib
import dataclasses
import functools
import math
import os
from types import SimpleNamespace

import numpy as np
import torch

from ..bars import Bar
from ..chain import probe, shifted
from ..data.image_datasets import to_uint8
from ..flags import parse
from ..judge import jackknife, power
from ..judge.frechet import distance_with_error
from ..models import networks
from ..quantization.grid import Quantizer
from ..quantization.rounded import Rounded
from ..store import finite
from ..store.model_paths import find_models, short_names
from ..weights import perturb
from ..world import dist_util, logger
from ..world.arithmetic import arithmetic
from ..world.dist_util import gather_rows
from . import bench_report, evaluation, exposure, exposure_bias, frame, scalings, sources
from .finished import Finished
from .kept import refuse_to_replace
from .run import settings

FILE = "exposure_bench"
PLAIN = "plain"


@dataclasses.dataclass(frozen=True)
class Axes:
    """What is crossed: steps, bits (32: not rounded), and ways to sample as (sampler, scaling)."""

    steps: list[int]
    bits: list[int]
    scalings: list[float]
    shift: str

    @property
    def ways(self) -> dict[str, tuple[str, float]]:
        scaled = {(PLAIN if v == 1 else f"eps / {v:g}"): ("ddim", v) for v in self.scalings}
        return {PLAIN: ("ddim", 1.0)} | scaled | {"time shift": (self.shift, 1.0)}


def axes_of(flags) -> Axes:
    """Read the lists of the flags; ValueError for one that says nothing."""
    f = flags.bench
    whole = "whole numbers separated by commas"
    steps = parse.numbers("chain_steps", f.chain_steps, whole, lambda v: v >= 2, kind=int)
    bits = parse.numbers(
        "weight_bits",
        f.weight_bits,
        f"{whole}, of 2 to 8, or 32",
        lambda v: v in (32, *range(2, 9)),
    )
    expected = "numbers above 0 separated by commas"
    values = parse.numbers("scalings", f.scalings, expected, lambda v: 0 < v < math.inf)
    found = sorted(set(values))
    if len(found) < 4 or 1 not in found:
        raise ValueError(
            f"--scalings is {f.scalings!r}; expected four or more, and 1 among them, for a parabola"
        )
    shift = f"shifted window={f.window} cutoff={f.cutoff}"
    return Axes(list(dict.fromkeys(steps)), list(dict.fromkeys(map(int, bits))), found, shift)


def check(flags) -> None:
    """Raise ValueError for flags that make no sense, and for checkpoints that are not there."""
    find_models(flags.bench.model_path)
    axes_of(flags)
    if not flags.data.data_dir:
        raise ValueError("no data: give --data_dir, the images that samples are compared with")


@arithmetic(tf32=False)
def bench(flags, folder: str) -> dict:
    """Measure every checkpoint, by flags that have passed `check`: "settings", "models", each with
    "cells" and "scalings", and "rows"."""
    axes, paths = axes_of(flags), find_models(flags.bench.model_path)
    names, record = short_names(paths), {"settings": settings(flags), "models": []}
    refuse_to_replace(os.path.join(folder, f"{FILE}.json"), record["settings"], paths)
    loaded = {n: networks.from_checkpoint(p, flags)[0] for n, p in zip(names, paths)}
    chains = [networks.chain_of(path, flags) for path in paths]
    for chain in chains:
        shifted.must_shift(chain, flags.bench.window, flags.bench.cutoff)
    exposure.check_one_chain(dict(zip(names, zip(loaded.values(), chains))))
    size = next(iter(loaded.values())).image_size
    judged = evaluation.judge(flags.bench, flags.data, size, flags.run.seed)
    _warn_of_few(judged[2].num_images, flags.bench.num_samples)
    with Finished(os.path.join(folder, f"{FILE}_parts")) as finished:
        finished.expect(len(paths) * len(axes.bits) * len(axes.steps) * len(axes.ways))
        for path, (name, model) in zip(paths, loaded.items()):
            found = [
                _of_bits(path, model, bits, axes, flags, judged, finished) for bits in axes.bits
            ]
            cells, best = ([row for part in parts for row in part] for parts in zip(*found))
            record["models"].append({"name": name, "path": path, "cells": cells, "scalings": best})
    return record | {"rows": bench_report.rows(record), "metric": judged[0].metric("FID")}


def _warn_of_few(images: int, wanted: int) -> None:
    if images < wanted:
        more = "" if images >= jackknife.SMALLEST else ", and distances of so few have no errors"
        logger.warn(
            f"warning: there are {images} images, and num_samples is {wanted}: {images} are "
            f"sampled, one for each{more}"
        )


def _of_bits(path, model, bits, axes, flags, judged, finished) -> tuple[list[dict], list[dict]]:
    """The cells and the best scalings of a network at some bits."""
    cells, best = [], []
    with contextlib.ExitStack() as held:
        if bits < 32:
            rounding = Rounded(Quantizer(bits))
            held.enter_context(perturb.at(rounding.weights_of(model), rounding, measure=False))
        for steps in axes.steps:
            chains = _Chains(path, model, steps, bits, flags, *judged)
            found = finished.compute(chains.tasks(axes), together=True, of=chains.key)
            about, told = {"bits": bits, "steps": steps}, dict(zip(axes.ways, found))
            cells += [about | cell for cell in cells_of(told, chains.noise_norm)]
            best.append(about | best_of(axes, told, chains.noise_norm))
    return cells, best


def write(record: dict, folder: str, kind: str = "png") -> list[str]:
    """Log the tables; write exposure_bench.json, .csv, a picture, and the scalings' csv."""
    return bench_report.write(frame.without_nan(record), os.path.join(folder, FILE), kind)


class _Chains:
    """A network at some bits, sampled in some steps."""

    def __init__(self, path, model, steps, bits, flags, features, reference, dataset):
        self.model, self.flags, self.features, self.reference = model, flags, features, reference
        self.path, self.steps = path, steps
        f, seed = flags.bench, flags.run.seed
        count = min(f.num_samples, dataset.num_images)
        self.x_start, labels = probe.images_of(dataset, count, seed)
        labels = labels if model.num_classes is not None else {}
        t = torch.zeros(count, dtype=torch.int64)
        self.rows = torch.arange(count).split(f.batch_size)
        mine = self.rows[dist_util.rank() :: dist_util.world_size()]
        self.batches = [exposure.batch(part, self.x_start, t, labels, seed) for part in mine]
        few = torch.arange(min(f.delta_images, count))
        self.few = exposure.batch(few, self.x_start, t, labels, seed)
        self.noise_norm = math.sqrt(self.x_start[0].numel())
        draws = [self.x_start, *labels.values(), *reference]
        more = [features.fingerprint, bits, steps]
        self.key = sources.key_of(flags, path, draws, losses=more)

    def tasks(self, axes: Axes) -> dict[str, frame.Task]:
        """What is kept of each way to sample, by its name and all that it is."""
        return {
            f"{way} {sampler}": functools.partial(self._measured, sampler, scaling)
            for way, (sampler, scaling) in axes.ways.items()
        }

    def chain(self, scaling: float = 1.0):
        """The chain of these steps; the predicted noise is divided by the scaling."""
        given = self.flags.given | {"eps_scaler": scaling}
        flags = SimpleNamespace(**vars(self.flags) | {"given": given})
        return networks.chain_of(self.path, flags, str(self.steps))

    @functools.cached_property
    def training(self) -> np.ndarray:
        """The norms on noised images, [N, T]; the same whatever the way to sample."""
        chain = self.chain()
        steps = (exposure_bias.noised(self.model, chain, b) for b in self.batches)
        return gather_rows([exposure_bias.norms(s)[0] for s in steps]).numpy()

    def _measured(self, sampler: str, scaling: float) -> dict:
        chain, norms, pools = self.chain(scaling), [], []
        how = {"sampler": sampler, "clip_denoised": self.flags.bench.clip_denoised}
        bar = Bar(total=len(self.x_start), desc=f"{sampler}, {self.steps} steps", unit="image")
        with networks.autocast(self.flags, dist_util.dev())(), bar:
            turns = bar.turns(self.rows, dist_util.rank(), dist_util.world_size())
            for _, batch in zip(turns, self.batches):
                walk = exposure_bias.walked(self.model, chain, batch, **how)
                found, image = exposure_bias.norms(walk)
                pixels = to_uint8(image).permute(0, 3, 1, 2).to(self.features.device)
                with torch.inference_mode():
                    pools.append(self.features.network(pixels)["pool"].float().cpu())
                norms.append(found)
            gap = (gather_rows(norms).numpy() / chain.eps_scale - self.training).mean(axis=1)
            delta = self._delta(chain, how)
        finite.check({"gap": gap}, f"exposure bias of {self.path}")
        mu, sigma = (x.to(self.features.device) for x in self.reference)
        found = distance_with_error(mu, sigma, gather_rows(pools).to(self.features.device))
        told = {"fd": found["value"], "fd_error": found["error"], "left_out": found["left_out"]}
        return told | {"gap": gap.tolist(), "delta": delta}

    def _delta(self, chain, how) -> dict:
        """The mean of delta_t over the steps, of chains begun at images."""
        walk = exposure_bias.walked(self.model, chain, self.few, prior=None, **how)
        drifts = []
        for signal, step in zip(chain.alphas[::-1], walk):
            drifts.append(exposure_bias.spread((step.x_t - signal * self.few.x_start).cpu()))
        std, parts = (np.stack(values[::-1], axis=-1) for values in zip(*drifts))
        sigma = chain.sigmas
        found = exposure_bias.left_out(lambda s: ((s - sigma) ** 2).mean(axis=-1), std, parts)
        return {"value": float(found.value), "error": float(found.error)}


def cells_of(told: dict[str, dict], norm: float) -> list[dict]:
    """A row of each way to sample: fd, gap and delta with errors, and fd less that of plain DDIM,
    with the smallest difference that could have been seen."""
    plain, cells = told[PLAIN], []
    for way, found in told.items():
        d = power.difference(
            found["fd"] - plain["fd"], found["left_out"], plain["left_out"], paired=True
        )
        gap = np.array(found["gap"]) / norm
        cell = {"way": way, "fd": found["fd"], "fd_error": found["fd_error"]}
        if way != PLAIN:
            cell |= {"less_plain": d.value, "less_plain_error": d.error, "seen": d.seen}
            cell |= {"verdict": d.verdict}
        cell |= {"gap": gap.mean(), "gap_error": gap.std(ddof=1) / math.sqrt(len(gap))}
        delta = found["delta"]
        cells.append(cell | {"delta": delta["value"], "delta_error": delta["error"]})
    return cells


def best_of(axes: Axes, told: dict[str, dict], norm: float) -> dict:
    """`scalings.agreement` of one network, number of bits and of steps."""
    names = {v: PLAIN if v == 1 else f"eps / {v:g}" for v in axes.scalings}
    scan = [told[names[v]] for v in axes.scalings]
    distances = np.array([[cell["fd"], *cell["left_out"]] for cell in scan]).T
    gaps = np.array([_without_each(np.array(cell["gap"]) / norm) for cell in scan]).T
    return scalings.agreement(axes.scalings, gaps, distances)


def _without_each(values: np.ndarray) -> list[float]:
    """The mean of all images, and without each group of them, as the distance has it."""
    groups = [g.numpy() for g in jackknife.groups(len(values))]
    return [values.mean(), *(np.delete(values, g).mean() for g in groups)]
