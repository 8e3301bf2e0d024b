"""How much the loss rises when the weights are moved at random, and how well that is known.

    LPF (Bisla et al. 2022):     E L(w + d),           d ~ N(0, sigma^2 I)
    MC (SWAD, Cha et al. 2021):  E L(w + d) - L(w),    d uniform with ||d|| = radius

in absolute `units`; in others sigma and radius are as those say.

Draws come in mirrored pairs, d and -d, both as likely: within a pair the odd terms of the loss in
d, the gradient's above all, cancel instead of hiding the curvature at small d.
"""

import functools
import math
import statistics
from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..models import rounding_log
from ..report.figures import colours
from ..report.text import table
from ..weights import perturb
from . import frame, paired, units
from .frame import number
from .paired import mean_and_error, pairs
from .subject import TERM, by_term, unpacked

SIGMAS = {"absolute": "5e-4,1e-3,2e-3,5e-3,1e-2", "filter": "0.01,0.02,0.05,0.1,0.2"}
SIGMAS |= {"weight": SIGMAS["filter"], "canonical": SIGMAS["absolute"]}
LENGTH = "length of the perturbation of the weights"
Noise = Callable[[float, int, int, bool], perturb.Perturbation]  # of size, seed, draw, filterwise


def perturbation(
    noise: Noise, size: float, seed: int, draw: int, filterwise: bool = False
) -> perturb.Perturbation:
    """Give w' = w + d for one draw of d; draws 2k and 2k + 1 are mirrored. `noise`:
    perturb.gaussian, of size sigma, or perturb.sphere, of size radius."""
    pair, mirrored = divmod(draw, 2)
    return noise(-size if mirrored else size, seed, pair, filterwise)


def sizes(name: str, text: str) -> list[float]:
    """Read text such as 0.01,0.001, the smallest first; a ValueError names the flag."""
    try:
        values = sorted({float(v) for v in text.split(",") if v.strip()})
    except ValueError:
        values = []
    if not values or not 0 < values[0] <= values[-1] < math.inf:
        raise ValueError(
            f"--{name} is {text!r}; expected positive numbers separated by commas, as 0.001,0.01"
        )
    return values


class Curve(frame.Measure):
    """Measures the rise of the loss at each size of the noise, by `num_draws` draws of it."""

    name: str
    size: str  # the flag of the sizes
    axes: dict[str, str]  # what that is, by noise_scale
    noise: Noise

    def __init__(self, text: str, noise_scale: str, num_draws: int):
        pairs(torch.empty(num_draws))
        self.sizes = sizes(self.size, text)
        self.noise_scale, self.num_draws = noise_scale, num_draws
        self.axis = self.axes[noise_scale]
        self.first = None  # network, and its rises [terms, N] at each size

    def tasks(self, subject) -> dict[str, frame.Task]:
        """Give the losses at each draw of each size; warn where the dtype sees other moves."""
        noise = units.noise(type(self).noise, subject, self.noise_scale)
        of_noise = functools.partial(perturbation, noise, seed=subject.seed)
        move = functools.partial(of_noise, filterwise=self.noise_scale == "filter")
        moves = ((size, move(size, draw=0)) for size in self.sizes)
        rounding_log.warn_of_small_moves(subject, subject.dtype, self.size, moves)

        def at(size: float, draw: int) -> dict:
            return subject.at(move(size, draw=draw), each=True)

        kind = f"{self.name} {perturb.NUMBERS} {self.noise_scale}"
        return {
            f"{kind} {size} {draw}": functools.partial(at, size, draw)
            for size in self.sizes
            for draw in range(self.num_draws)
        }

    def result(self, subject, found: list) -> dict:
        """Return "curve": of each size, "size", "distances" and "losses" by draw; by term, errors
        over images of the mean rise, and of its difference from the first network's."""
        n = self.num_draws
        rows = [found[i : i + n] for i in range(0, len(found), n)]
        rises = [sum(unpacked(r["rises"]) for r in row) / n for row in rows]
        self.first = self.first or (subject, rises)
        other, others = self.first
        curve = [
            {
                "size": size,
                "distances": [r["distance"] for r in row],
                "losses": by_term(subject, row),
                "errors_images": dict(zip(subject.terms, subject.errors_of(rise).tolist())),
                "minus_first_errors_images": paired.of_difference(subject, rise, other, of_other),
            }
            for size, row, rise, of_other in zip(self.sizes, rows, rises, others)
        ]
        return {"curve": curve}

    def rows(self, record: dict) -> list[dict]:
        """Return a row for each network, size, term of the loss, and part of the timesteps.

        A rise has two standard errors: `error` over the draws of d, at fixed images, timesteps and
        noise, and `error_images` over these, image by image, at fixed draws; tables and pictures
        show `error_larger`, the larger one. minus_first: the rise, less that of the first network
        on the same draws and images, so that what either does to both cancels; None for itself,
        nan where the first has other parts.
        """
        rows, of_first = [], {}
        for model in record["models"]:
            for point in model["curve"]:
                distance = statistics.fmean(point["distances"])
                start = {"model": model["name"], self.size: point["size"], "distance": distance}
                for term in point["losses"]:
                    rise = rises(model, point, term)
                    parts = model["parts"][term]
                    first, others = of_first.setdefault((point["size"], term), (rise, parts))
                    same = torch.tensor(paired.same_parts(term, parts, others))
                    less = None if first is rise else (rise - first).where(same, math.nan)
                    columns = _columns(model["at_w"][term], point, term, rise, less)
                    rows += _by_part(start | {"term": term}, parts, columns)
        return rows

    def text(self, record: dict) -> str:
        """Write a table for each term; and the headline, and x_mse, by part of their ranges."""
        rows = record["rows"]
        whole = [row for row in rows if row["part"] == "all"]
        several = len({row["model"] for row in whole}) > 1
        blocks = [
            f"{self.axis}\n"
            "+-: the larger of two standard errors, over draws of d and over images and timesteps"
            " (for L(w): over images and timesteps); the rows have both"
        ]
        names = ("distance", "at_w", "at_w_error", "moved", "rise", "error_larger")
        less = ("minus_first", "minus_first_error_larger")
        heads = [self.size, "||d||", "L(w)", "+-", "mean L(w+d)", "rise", "+-", "relative"]
        heads += ["rise - first's", "+-"] * several
        for term in dict.fromkeys(row["term"] for row in rows):
            lines = [
                [row["model"], f"{row[self.size]:g}", *(number(row[name]) for name in names)]
                + [f"{100 * row['relative']:.3g} %" if row["relative"] == row["relative"] else ""]
                + [number(row[name]) for name in less] * several
                for row in whole
                if row["term"] == term
            ]
            blocks.append(table([[term, *heads], *lines]))
        by_part = dict.fromkeys([rows[0]["term"], "x_mse"])
        return "\n\n".join([*blocks, *filter(None, (self._parts(rows, t) for t in by_part))])

    def _parts(self, rows: list[dict], term: str) -> str:
        """Write the rise of a term by part of its range, low noise first, a table for each kind of
        parts; "" if it has none."""
        size, lines, tables = self.size, {}, {}
        for row in (r for r in rows if r["term"] == term and r["part"] != "all"):
            start = [row["model"], f"{row[size]:g}"]
            levels, line = lines.setdefault((row["model"], row[size]), ([], start))
            levels += [row["levels"], "+-"]
            line += [number(row["rise"]), number(row["error_larger"])]
        for levels, line in lines.values():
            header = [f"rise of {term} at", size, *levels]
            tables.setdefault(tuple(levels), [header]).append(line)
        return "\n\n".join(map(table, tables.values()))

    def figures(self, record: dict) -> dict[str, Figure]:
        """Draw the rise of each term against the size, a line a network, one error to each side;
        and that of x_mse at the middle size along log-SNR."""
        rows = [r for r in record["rows"] if r["part"] == "all" and r["rise"] == r["rise"]]
        terms = list(dict.fromkeys(row["term"] for row in rows))
        figure, axes = frame.panels(len(terms))
        look = colours(row["model"] for row in record["rows"])
        for axis, term in zip(axes, terms):
            shown = [row for row in rows if row["term"] == term]
            for name in dict.fromkeys(row["model"] for row in shown):
                mine = [row for row in shown if row["model"] == name]
                columns = (self.size, "rise", "error_larger")
                x, rise, error = (np.array([row[k] for row in mine]) for k in columns)
                drawn = {"color": look[name], "marker": "o", "markersize": 3, "label": name}
                axis.plot(x, rise, **drawn)
                band = {"alpha": 0.25, "color": look[name]}
                axis.fill_between(x, rise - error, rise + error, **band)
            axis.set(xscale="log", xlabel=self.axis, ylabel=f"rise of {TERM.get(term, term)}")
            values = [row["rise"] for row in shown]
            near = {} if min(values) > 0 else {"linthresh": max(np.median(np.abs(values)), 1e-12)}
            axis.set_yscale("symlog" if near else "log", **near)
        note = "one standard error to each side, the larger of those over draws and over images"
        frame.legend(figure, axes[0], f"bands: {note}")
        by_level = [
            row for row in record["rows"] if row["term"] == "x_mse" and row["part"] != "all"
        ]
        return {"": figure} | ({"_log_snr": self._by_level(by_level, note)} if by_level else {})

    def _by_level(self, rows: list[dict], note: str) -> Figure:
        """Draw the rise of x_mse in each part of log-SNR, of all networks, at the middle size."""
        figure, (axis,) = frame.panels(1)
        size = self.sizes[len(self.sizes) // 2]
        for name, colour in colours(row["model"] for row in rows).items():
            mine = [row for row in rows if row["model"] == name and row[self.size] == size]
            rise, error = ([row[k] for row in mine] for k in ("rise", "error_larger"))
            look = {"marker": "o", "markersize": 4, "capsize": 3, "label": name, "color": colour}
            axis.errorbar(range(len(mine)), rise, yerr=error, **look)
        axis.set_xticks(range(len(mine)), [row["part"].split()[-1] for row in mine])
        axis.set(
            xlabel="log-SNR, least noise first",
            ylabel=f"rise of the image's mse at {self.size} {size:g}",
        )
        values = [row["rise"] for row in rows if row["rise"] == row["rise"]]
        axis.set_yscale("log" if values and min(values) > 0 else "linear")
        frame.legend(figure, axis, "bars: one standard error to each side")
        return figure

    def listed(self, record: dict) -> list[dict]:
        """Return kind, size, term, part, at_w, rise, error, and the two that it is made of."""
        return [
            {
                "kind": self.name,
                "size": row[self.size],
                **{name: row[name] for name in ("term", "part", "at_w", "rise")},
                "error": math.hypot(row["error"], row["error_images"]),
                "error_draws": row["error"],
                "error_examples": row["error_images"],
                "distance": row["distance"],
            }
            for row in record["rows"]
        ]

    def differences(self, one: frame.Told, other: frame.Told) -> list[dict]:
        """Return the difference of the rises at each size and term of both."""
        return paired.curves(one, other)

    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """Give the headline's loss at the weights, and its mean rise at the middle size; of two,
        at the larger."""
        term, _, rise = _along(model)
        return {"at_w": model["at_w"][term]["losses"][0], "rise": rise[len(rise) // 2]}


class LPF(Curve):
    """Moves by Gaussian weight noise of each deviation `sigma`."""

    name, size = "LPF", "sigma"
    axes = units.SIGMA
    noise = staticmethod(perturb.gaussian)

    def __init__(self, *, sigma: str, noise_scale: str, num_draws: int):
        super().__init__(sigma or SIGMAS[noise_scale], noise_scale, num_draws)

    @staticmethod
    def lines(model: dict) -> list[frame.Line]:
        """Give the loss against the length of the noise."""
        term, lengths, rise = _along(model)
        at_w = model["at_w"][term]["losses"][0]
        y = [at_w, *(at_w + r for r in rise)]
        return [frame.Line("Gaussian noise", [0.0, *lengths], y, LENGTH, term)]


class MC(Curve):
    """Moves in random directions of each length `radius`, in the units."""

    name, size = "MC", "radius"
    axes = units.RADIUS
    noise = staticmethod(perturb.sphere)

    def __init__(self, *, radius: str, noise_scale: str, num_draws: int):
        super().__init__(radius, noise_scale, num_draws)

    @staticmethod
    def lines(model: dict) -> list[frame.Line]:
        """Give the rise of the loss against the length of the direction."""
        term, lengths, rise = _along(model)
        return [frame.Line("random directions", lengths, rise, LENGTH, f"rise of {term}", "log")]


def rises(model: dict, point: dict, term: str) -> Tensor:
    """Return L(w + d) - L(w), float64 [pairs of draws, 5], over all timesteps and each quarter; nan
    for one without an image, which in json is null."""
    losses = (model["at_w"][term]["losses"], point["losses"][term])
    at_w, moved = (torch.from_numpy(np.array(values, np.float64)) for values in losses)
    return pairs(moved - at_w)


def _along(model: dict) -> tuple[str, list[float], list[float]]:
    """Return the headline; of each size, the mean length of the moves, and the mean rise."""
    term, curve = next(iter(model["at_w"])), model["curve"]
    lengths = [statistics.fmean(point["distances"]) for point in curve]
    return term, lengths, [float(rises(model, p, term).mean(dim=0)[0]) for p in curve]


def _columns(at_w: dict, point: dict, term: str, rise: Tensor, less: Tensor | None) -> dict:
    losses, mean = torch.tensor(at_w["losses"], dtype=torch.float64), rise.mean(dim=0)
    columns = {"at_w": at_w["losses"], "moved": (losses + mean).tolist()}
    columns |= estimate("rise", "error", rise, point["errors_images"][term])
    columns["relative"] = (mean / losses).tolist()
    images = point["minus_first_errors_images"].get(term, [math.nan] * 5)
    told = estimate("minus_first", "minus_first_error", rise if less is None else less, images)
    columns |= dict.fromkeys(told, [None] * 5) if less is None else told
    return columns | {"at_w_error": at_w["errors"]}


def estimate(name: str, error: str, values: Tensor, images: list) -> dict[str, list[float]]:
    """Return columns of [5]: the mean of pairs [P, 5], its error over these, the error `images`,
    and the larger one, nan where either is."""
    mean, draws = (column.tolist() for column in mean_and_error(values))
    larger = np.maximum(draws, images).tolist()
    return {name: mean, error: draws, f"{error}_images": images, f"{error}_larger": larger}


def _by_part(start: dict, parts: dict[str, str], columns: dict[str, list]) -> list[dict]:
    return [
        start | {"part": part, "levels": told} | {name: col[i] for name, col in columns.items()}
        for i, (part, told) in enumerate(parts.items())
    ]
