"""What measures of flatness change by where the network does not: their leaks.

    leak = measure(T w) / measure(w),    T a symmetry: network(T w) = network(w)

A measure of the function has the leak 1 under every T (Dinh et al. 2017). Each T of
`nets.symmetries` that a network has is tried; that its outputs stay is checked before.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..exchange.families import inside, unwrapped
from ..nets import symmetries
from ..report.text import table
from . import frame, heatmap, paired, units
from .curve import LPF, MC
from .sharpness import SHARPNESS
from .spectrum import HESSIAN
from .subject import unpacked

NEAR = 1e-5  # of outputs before and after, which are the same but for rounding
SIZES = {"absolute": 2e-3, "filter": 0.05, "weight": 0.05, "canonical": 2e-3}  # LPF's


class Value(NamedTuple):
    """What was measured: by independent draws [K], one or several; by example [N], which their mean
    is the mean of; and what it is off by at most, beside."""

    draws: Tensor
    each: Tensor
    rest: float = 0.0

    @property
    def mean(self) -> float:
        return float(self.draws.mean())


class LEAK(frame.Measure):
    """Measures the leak of LPF and MC, of `num_draws` draws, the trace, of two probes, the largest
    eigenvalue, and the sharpness, under each symmetry by `factor`."""

    together = fp32 = True

    def __init__(self, *, num_draws: int, factor: float = 10.0):
        if not 1 < factor < math.inf:
            raise ValueError(f"LEAK, factor: got {factor}, expected a finite number above 1")
        self.factor, self.num_draws = factor, num_draws
        self.forms: dict[str, tuple] = {}  # subject at the weights, measures and their tasks' keys

    def measures(self) -> dict[str, frame.Measure]:
        """Make what is tried, by the name that it is told by."""
        n, radius = self.num_draws, "5"
        curves = {f"LPF, {scale}": (scale, size) for scale, size in SIZES.items()}
        return {
            **{
                name: LPF(sigma=str(size), noise_scale=scale, num_draws=n)
                for name, (scale, size) in curves.items()
            },
            "MC, absolute": MC(radius=radius, noise_scale="absolute", num_draws=n),
            "Hessian": HESSIAN(num_draws=2, num_eigenvalues=1),
            **{
                f"sharpness, {scale}": SHARPNESS(noise_scale=scale)
                for scale in ("absolute", "weight", "canonical")
            },
        }

    def tasks(self, subject) -> dict[str, frame.Task]:
        """Give those of each measure at the weights as they are, and where each symmetry leads;
        ValueError for a network that has none, or that is not the same there."""
        network, every = inside(subject.model), {}
        linears = {"": symmetries.Linear([])} | symmetries.of_network(network, self.factor)
        outputs = None
        for name, linear in linears.items():
            with units.held(subject.weights, linear):
                form, found = _seen(subject)
                outputs = found if outputs is None else outputs
                if name:
                    check(subject.name, name, outputs, found)
                measures = self.measures()
                tasks = {kind: measure.tasks(form) for kind, measure in measures.items()}
            self.forms[name] = form, measures, {kind: [*of] for kind, of in tasks.items()}
            about = f"leak {name} {self.factor}" if name else "leak"
            for kind, of in tasks.items():
                for key, task in of.items():
                    moved = functools.partial(_at, subject.weights, linear, task)
                    every[f"{about}: {kind}: {key}"] = moved
        return every

    def result(self, subject, found: list) -> dict:
        """Return "of" (a term); "leaks", by measure and symmetry, "before", "after", "leak", its
        "error" over draws and "error_images"; and the "factor"."""
        values, start = {}, 0
        for name, (form, measures, keys) in self.forms.items():
            values[name] = {}
            for kind, measure in measures.items():
                mine = found[start : start + len(keys[kind])]
                start += len(mine)
                values[name] |= _values(form, kind, measure, mine)
        before = values.pop("")
        leaks = {
            kind: {name: leak(subject, before[kind], of[kind]) for name, of in values.items()}
            for kind in before
        }
        return {"of": subject.terms[0], "factor": self.factor, "leaks": leaks}

    def rows(self, record: dict) -> list[dict]:
        """Return a row for each network, measure and symmetry; `error_larger` of the two errors."""
        return [
            {"model": model["name"], "measure": kind, "symmetry": name, **told}
            | {"error_larger": max(told["error"], told["error_images"])}
            for model in record["models"]
            for kind, of in model["leaks"].items()
            for name, told in of.items()
        ]

    def text(self, record: dict) -> str:
        rows = record["rows"]
        names = list(dict.fromkeys(row["symmetry"] for row in rows))
        lines = {}
        for row in rows:
            line = lines.setdefault((row["model"], row["measure"]), [row["model"], row["measure"]])
            line += [f"{row['leak']:.4g} +- {row['error_larger']:.1g}"]
        note = (
            "leak: the measure where a symmetry leads, by factors of "
            f"{self.factor:g}, over the measure at the weights\n+-: standard error over draws of "
            "the move (of an eigenvalue: ||H v - lambda v||) or over images, the larger"
        )
        return f"{note}\n\n{table([['leak', '', *names], *lines.values()])}"

    def figures(self, record: dict) -> dict[str, Figure]:
        """Draw the leaks as a map of symmetries and measures, a panel a network, in colours of how
        far from 1 they are."""
        models = record["models"]
        kinds, names = list(models[0]["leaks"]), _symmetries(models)
        figure, axes = heatmap.sheet(len(names), len(kinds), len(models))
        for axis, model in zip(axes, models):
            leaks = model["leaks"]
            told = [[leaks[kind].get(name) for kind in kinds] for name in names]
            cells = [[_cell(one) for one in row] for row in told]
            far = [[_factor(one["leak"]) if one else math.nan for one in row] for row in told]
            columns = [kind.replace(", ", "\n") for kind in kinds]
            labels = {"rows": names, "columns": columns, "label": "leak, as a factor"}
            heatmap.draw(figure, axis, np.array(far), cells, **labels)
            title = f"{model['name']}: leak, after / before, factor {model['factor']:g}"
            axis.set_title(title, fontsize=9)
        note = "1: not fooled; ±: one standard error, over draws or images, the larger"
        figure.supxlabel(note, fontsize=8)
        return {"": figure}

    def listed(self, record: dict) -> list[dict]:
        """Return kind, size (the measure), symmetry, value (the leak) and error, of both parts."""
        return [
            {
                "kind": "LEAK",
                "size": row["measure"],
                "symmetry": row["symmetry"],
                "value": row["leak"],
                "error": math.hypot(row["error"], row["error_images"]),
            }
            for row in record["rows"]
        ]

    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """Give the greatest leak of each measure, up or down, as a factor of 1 or more."""
        return {kind: _worst(of) for kind, of in model["leaks"].items()}


def _worst(of: dict[str, dict]) -> float:
    return max(_factor(told["leak"]) for told in of.values())


def _factor(leak: float) -> float:
    return max(leak, 1 / leak) if leak > 0 else math.inf


def _symmetries(models: list[dict]) -> list[str]:
    return list(dict.fromkeys(name for m in models for of in m["leaks"].values() for name in of))


def _cell(told: dict | None) -> str:
    """Write a leak and its error; of one that is 1 to a thousandth, no more than that."""
    if told is None:
        return ""
    error = max(told["error"], told["error_images"])
    near = abs(told["leak"] - 1) < 5e-4 and error < 5e-4
    return "1.000" if near else f"{told['leak']:.3f} ±{error:.2g}"


def _at(weights: list[Tensor], linear: symmetries.Linear, task: Callable) -> Any:
    with units.held(weights, linear):
        return task()


def _seen(subject) -> tuple[Any, Tensor]:
    """Return the subject at its weights as they stand, and all that its network gives there."""
    outputs = []

    def keep(module, args, output) -> None:
        outputs.append(unwrapped(output).detach().flatten())

    handle = inside(subject.model).register_forward_hook(keep)
    try:
        form = subject.anew(subject.seed)
    finally:
        handle.remove()
    return form, torch.cat(outputs)


def check(name: str, symmetry: str, before: Tensor, after: Tensor) -> None:
    """Raise ValueError where outputs are not the same, to NEAR of their length."""
    off = float((after - before).norm() / before.norm())
    if not off <= NEAR:
        raise ValueError(
            f"{name} is not the same where {symmetry!r} leads: its outputs differ by {off:.2g} of "
            f"their length, expected {NEAR:g} or less. Were some of the network's weights left out?"
        )


def _values(form, kind: str, measure: frame.Measure, found: list) -> dict[str, Value]:
    """Return what a measure found at a form of the network, by name."""
    if isinstance(measure, HESSIAN):
        top, *trace = found
        of_trace = sum(unpacked(part["each"]) for part in trace) / len(trace)
        (value,), (rest,) = top["eigenvalues"], top["residuals"]
        return {
            "eigenvalue": Value(torch.tensor([value]), unpacked(top["each"][0]), rest),
            "trace": Value(torch.tensor([part["value"] for part in trace]), of_trace),
        }
    if isinstance(measure, SHARPNESS):
        (best,) = found
        return {kind: Value(torch.tensor([max(best["rises"])]), unpacked(best["each"]))}
    (size,) = measure.sizes
    return {kind: Value(*paired.rises(form, measure, found, size)[form.terms[0]])}


def leak(subject, before: Value, after: Value) -> dict[str, float]:
    """Return before, after, leak, error and error_images, of ratios of means to first order, draw
    by draw and example by example."""
    ratio = after.mean / before.mean
    rests = math.hypot(after.rest, ratio * before.rest)
    if len(before.draws) > 1:
        rests = math.hypot(rests, paired.error(after.draws - ratio * before.draws))
    images = subject.errors_of((after.each - ratio * before.each)[None], [subject.terms[0]])[0, 0]
    scale = abs(before.mean)
    return {
        "before": before.mean,
        "after": after.mean,
        "leak": ratio,
        "error": rests / scale,
        "error_images": float(images) / scale,
    }
