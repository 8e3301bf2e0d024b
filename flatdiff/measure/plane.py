"""The loss on a plane through the weights, and on the line between two networks.

Directions are random and rescaled filter by filter to the length of the weights (Li et al. 2018),
so that 1 means "as large as the weights themselves" in every network.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from ..report.figures import colours
from ..report.text import table
from ..weights import perturb
from ..world import logger
from . import frame
from .frame import number
from .subject import TERM, by_term

ALPHAS = [round(-0.25 + 0.05 * i, 2) for i in range(31)]  # 0 is one checkpoint, 1 the other


def directions(weights: Sequence[Tensor], seed: int) -> list[list[Tensor]]:
    """Return two filter-normalized directions, each shaped as the weights: the same noise for all
    networks of one shape, which each rescales to its own filters."""
    return [list(perturb.noise(weights, seed, draw, filterwise=True)) for draw in range(2)]


def plane(directions: Sequence[Sequence[Tensor]], a: float, b: float) -> perturb.Perturbation:
    """Return w' = w + a d1 + b d2."""

    def move(weights: list[Tensor]) -> None:
        for direction, scale in zip(directions, (a, b), strict=True):
            perturb.along(direction, scale)(weights)

    return move


def between(others: Sequence[Tensor], alpha: float) -> perturb.Perturbation:
    """Return w' = (1 - alpha) w + alpha others: at 0 the weights, at 1 the others, both exactly."""
    return lambda weights: torch._foreach_lerp_(weights, list(others), alpha)


class SURFACE(frame.Measure):
    """Measures losses at `surface_points` squared, `surface_range` to each side of the weights."""

    def __init__(self, *, surface_points: int, surface_range: float):
        if surface_points % 2 == 0 or not surface_range > 0:
            raise ValueError(
                f"surface_points is {surface_points}, surface_range {surface_range}; expected an "
                "odd number, so that the weights themselves are one of the points, and a positive "
                "one"
            )
        steps = range(surface_points)
        self.axis = [surface_range * (2 * i / (surface_points - 1) - 1) for i in steps]

    def tasks(self, subject) -> dict[str, frame.Task]:
        both = directions(subject.weights, subject.seed)

        def at(a: float, b: float) -> dict:
            return subject.at(plane(both, a, b))

        return {
            f"plane {perturb.NUMBERS} {a} {b}": functools.partial(at, a, b)
            for a, b in itertools.product(self.axis, repeat=2)
        }

    def result(self, subject, found: list) -> dict:
        """Return "axis" [P], steps along a direction, and "plane" [P][P], losses by term."""
        n = len(self.axis)
        by_row = [by_term(subject, found[i : i + n]) for i in range(0, len(found), n)]
        return {"axis": self.axis, "plane": {t: [row[t] for row in by_row] for t in subject.terms}}

    def pair(self, start: list[Tensor], end) -> dict[str, frame.Task]:
        """Give tasks on the line from the weights of one network to the subject `end`; {}, and a
        warning, if they differ in shape."""
        if [w.shape for w in start] != [w.shape for w in end.weights]:
            logger.warn(
                "warning: the two networks differ in shape, so there is no line between them"
            )
            return {}
        return {
            f"line {alpha}": functools.partial(lambda a: end.at(between(start, 1 - a)), alpha)
            for alpha in ALPHAS
        }

    def line(self, end, found: list) -> dict | None:
        """Return "alphas", 0 at the first network and 1 at `end`, and "losses" by term."""
        return {"alphas": ALPHAS, "losses": by_term(end, found)} if found else None

    def rows(self, record: dict) -> list[dict]:
        """Return the loss at each point; a and b are steps along the two directions."""
        rows = []
        for model in record["models"]:
            for (i, a), (j, b) in itertools.product(enumerate(model["axis"]), repeat=2):
                losses = {term: plane[i][j][0] for term, plane in model["plane"].items()}
                rows.append({"model": model["name"], "a": a, "b": b} | losses)
                if a == b == 0:
                    at_w = model["at_w"].items()
                    rows[-1] |= {f"{term}_error_images": x["errors"][0] for term, x in at_w}
        return rows

    def text(self, record: dict) -> str:
        """Write the headline at the weights, and its extremes."""
        rows = record["rows"]
        term = next(name for name in rows[0] if name not in ("model", "a", "b"))
        header = [f"{term} on the plane", "at w", "+-", "least", "greatest"]
        lines = []
        for name in dict.fromkeys(row["model"] for row in rows):
            mine = [row for row in rows if row["model"] == name]
            losses, at_w = [row[term] for row in mine], mine[len(mine) // 2]
            numbers = (at_w[term], at_w[f"{term}_error_images"], min(losses), max(losses))
            lines.append([name, *map(number, numbers)])
        note = "+-: standard error over images and timesteps"
        return f"{note}\n\n{table([header, *lines])}"

    def arrays(self, record: dict) -> dict:
        """Return axis [P]; by network `NAME/TERM` [P, P, 5]; of a line, `line/TERM` [A, 5]."""
        arrays = {"axis": record["models"][0]["axis"]}
        for model in record["models"]:
            arrays |= {f"{model['name']}/{term}": plane for term, plane in model["plane"].items()}
        if record.get("line"):
            arrays["alphas"] = record["line"]["alphas"]
            arrays |= {f"line/{term}": v for term, v in record["line"]["losses"].items()}
        return arrays

    def figures(self, record: dict) -> dict[str, Figure]:
        models, line = record["models"], record.get("line")
        term = next(iter(models[0]["plane"]))  # the headline
        shown = models, term, [np.array(model["plane"][term])[:, :, 0] for model in models]
        found = {"": _planes(*shown), "_1D": _slices(*shown)}
        return found | ({"_line": _line(line, models)} if line else {})


def _planes(models: list[dict], term: str, losses: list[np.ndarray]) -> Figure:
    """Draw the rise of the headline [P, P] over its least around each network, all on one scale,
    even in the root: a bowl has even rings."""
    rises = [loss - np.min(loss) for loss in losses]
    levels = max(map(np.max, rises)) * np.linspace(0, 1, 25) ** 2
    figure, axes = frame.panels(len(models))
    for axis, model, rise in zip(axes, models, rises):
        look = {"levels": levels, "norm": PowerNorm(0.5, 0, levels[-1])}
        drawn = axis.contourf(model["axis"], model["axis"], rise.T, **look)
        axis.plot(0, 0, "r+", markersize=10)
        axis.grid(False)
        axis.set(xlabel="step a along direction 1", ylabel="step b along direction 2")
        axis.set_title(model["name"], fontsize="medium")
    label = f"rise of {TERM.get(term, term)} over the least here"
    figure.colorbar(drawn, ax=list(axes), label=label, format="%.3g", ticks=levels[::4])
    return figure


def _slices(models: list[dict], term: str, losses: list[np.ndarray]) -> Figure:
    """Draw the rise of the headline over its least along each of the two directions alone, on an
    axis even in the root: the sides of a bowl are straight, and steep where it is narrow."""
    figure, axes = frame.panels(2)
    look, roots = colours(model["name"] for model in models), (_root, np.square)
    for model, loss in zip(models, losses):
        middle = len(loss) // 2
        drawn = {"label": model["name"], "color": look[model["name"]]}
        for panel, values in zip(axes, (loss[:, middle], loss[middle])):
            panel.plot(model["axis"], values - np.min(values), **drawn)
    for i, panel in enumerate(axes, 1):
        panel.set(xlabel=f"step along direction {i} (1: as long as the weights)")
        panel.set(ylabel=f"rise of {TERM.get(term, term)} over the least here")
        panel.set_yscale("function", functions=roots)
        panel.set_ylim(bottom=0)
        panel.locator_params(axis="x", nbins=5)
    frame.legend(figure, axes[0])
    return figure


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0))


def _line(between: dict, models: list[dict]) -> Figure:
    """Draw the loss on the line from the first network to the second."""
    figure, axes = frame.panels(len(between["losses"]))
    for axis, (term, losses) in zip(axes, between["losses"].items()):
        axis.plot(between["alphas"], np.array(losses)[:, 0])
        axis.set(xlabel="alpha, share of the second network", ylabel=TERM.get(term, term))
        for alpha in (0, 1):
            axis.axvline(alpha, color="grey", linewidth=0.8)
    names = " to ".join(model["name"] for model in models)
    figure.suptitle(f"on the line from {names}", fontsize="medium")
    return figure
