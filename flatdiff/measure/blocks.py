"""Where in a network, and at which noise levels, the loss is flat: moves of one block at a time.

    rise        E L(w + d) - L(w),  d = sigma J z of one block, J the `units`    (LPF, Bisla et al.
                2022, of a part of the weights)
    curvature   E (J z)' H J z = tr J'HJ of the block, (16 s(sigma / 2) - s(sigma)) / 3 sigma^2 for
                s(h) = L(w + h J z) + L(w - h J z) - 2 L(w): right up to the sixth order; in units
                of filters, where J z is ||w_f|| z_f / ||z_f||, the sum over filters of
                ||w_f||^2 tr H_ff / n_f, n_f the weights of one

Draws are those of LPF at that sigma, of which a block has its part.
"""

import functools
import math
import statistics

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..exchange.families import inside
from ..models import rounding_log
from ..report.text import table
from ..store import finite
from ..weights import perturb
from . import curve, frame, heatmap, paired, units
from .frame import number
from .subject import packed, unpacked

PASSES = 200  # over the images, of all blocks: twice those of LPF, 20 draws of 5 sizes
ALL = "all weights"
KINDS = {"rise": "rise", "curvature": "curvature"}


def named(network: nn.Module, weights: list[Tensor]) -> dict[str, list[int]]:
    """Return the places among the weights of those of each block: a child of the network, or of a
    list of its children; of what the network holds itself "own"; of all together `ALL`.

    ValueError where none of the weights is the network's.
    """
    places = {id(w): i for i, w in enumerate(weights)}
    found = {ALL: list(range(len(weights)))}
    for name, w in network.named_parameters():
        if id(w) in places:
            found.setdefault(_block(network, name), []).append(places[id(w)])
    if len(found) == 1:
        raise ValueError(
            f"MAP moves one block of {type(network).__name__} at a time, and none of the weights "
            "are in it: expected weights of the network's own modules"
        )
    return found


def _block(network: nn.Module, name: str) -> str:
    first, *rest = name.split(".")
    if not rest:
        return "own"
    listed = isinstance(getattr(network, first), nn.ModuleList | nn.ModuleDict) and len(rest) > 1
    return f"{first}.{rest[0]}" if listed else first


class MAP(frame.Measure):
    """Measures rise and curvature of each block by noise level, at the middle `sigma`.

    `pairs` of draws, mirrored, for each block; 0: as many as 200 passes over the images allow, at
    four a pair, but 2 at least and num_draws / 2 at most. Of 2 or 3, an error over draws is a rough
    one.
    """

    fp32 = True

    def __init__(self, *, sigma: str, noise_scale: str, num_draws: int, pairs: int = 0):
        if pairs < 0 or pairs == 1:
            raise ValueError(f"MAP, pairs: got {pairs}, expected 2 or more, or 0: what is cheap")
        every = curve.sizes("sigma", sigma or curve.SIGMAS[noise_scale])
        self.sigma, self.noise_scale = every[len(every) // 2], noise_scale
        self.pairs, self.most = pairs, max(2, num_draws // 2)
        self.blocks: dict[str, list[int]] = {}

    def tasks(self, subject) -> dict[str, frame.Task]:
        self.blocks = named(inside(subject.model), subject.weights)
        fit = PASSES // (4 * len(self.blocks))
        pairs = self.pairs or min(self.most, max(2, fit))
        noise = units.noise(perturb.gaussian, subject, self.noise_scale)
        of_noise = functools.partial(curve.perturbation, noise, seed=subject.seed)
        move = functools.partial(of_noise, filterwise=self.noise_scale == "filter")
        moves = [(self.sigma, move(self.sigma, draw=0))]
        rounding_log.warn_of_small_moves(subject, subject.dtype, "sigma", moves)
        about = f"map {perturb.NUMBERS} {self.noise_scale} {self.sigma}"
        return {
            f"{about} {name} {k}": functools.partial(_pair, subject, move, self.sigma, places, k)
            for name, places in self.blocks.items()
            for k in range(pairs)
        }

    def result(self, subject, found: list) -> dict:
        """Return "of" (a term), "sigma", "noise_scale", and by block "block", "weights",
        "distance", and [5] of "rise" and "curvature": "value", "error" over pairs,
        "error_images"."""
        pairs, term = len(found) // len(self.blocks), term_of(subject)
        finite.check([pair["distance"] for pair in found], f"map of {subject.name}")
        blocks = []
        for i, (name, places) in enumerate(self.blocks.items()):
            mine = found[i * pairs : (i + 1) * pairs]
            blocks.append(
                {
                    "block": name,
                    "weights": sum(subject.weights[k].numel() for k in places),
                    "distance": statistics.fmean(pair["distance"] for pair in mine),
                    **{kind: _estimate(subject, term, mine, kind) for kind in KINDS},
                }
            )
        told = {"of": term, "sigma": self.sigma, "noise_scale": self.noise_scale}
        return told | {"pairs": pairs, "blocks": blocks}

    def rows(self, record: dict) -> list[dict]:
        """Return a row for each network, block and part of the noise levels: rise and curvature,
        their errors over pairs of draws and over images, and the larger of the two."""
        return [
            {"model": model["name"], "block": block["block"], "weights": block["weights"]}
            | {"distance": block["distance"], "of": model["of"], "part": part, "levels": levels}
            | {"at_w": model["at_w"][model["of"]]["losses"][i]}
            | _columns(block, i)
            for model in record["models"]
            for block in model["blocks"]
            for i, (part, levels) in enumerate(model["parts"][model["of"]].items())
        ]

    def text(self, record: dict) -> str:
        """Write, of each network, the rise of each block over all noise levels and in each part,
        then the curvature."""
        note = (
            f"moves of one block at a time, sigma {self.sigma:g}, {self.noise_scale} units\n+-: the"
            " larger of two standard errors, over pairs of draws and over images and timesteps"
        )
        blocks = [note]
        for model in record["models"]:
            parts = model["parts"][model["of"]]
            for kind in KINDS:
                header = [model["name"], f"{kind} of {model['of']}:", *_heads(parts)]
                lines = [["", b["block"], *_cells(b[kind])] for b in model["blocks"]]
                blocks.append(table([header, *lines]))
        return "\n\n".join(blocks)

    def figures(self, record: dict) -> dict[str, Figure]:
        """Draw, for each network, a map of the rise and one of the curvature per weight."""
        models = record["models"]
        shape = max(len(m["blocks"]) for m in models), max(len(_parts(m)) for m in models)
        figure, axes = heatmap.sheet(*shape, count=2 * len(models), most=2)
        for model, two in zip(models, axes.reshape(-1, 2)):
            for kind, axis in zip(KINDS, two):
                _draw(figure, axis, model, kind)
        note = "±: one standard error, over draws or over images, the larger"
        figure.supxlabel(f"log-SNR, least noise first; {note}", fontsize=8)
        return {"": figure}

    def listed(self, record: dict) -> list[dict]:
        """Return kind, size (sigma), block, term, part, at_w, rise, curvature, and their errors,
        of draws and examples together."""
        names = ("block", "part", "at_w", "rise", "curvature")
        return [
            {"kind": "MAP", "size": self.sigma, "term": row["of"]}
            | {name: row[name] for name in names}
            | {
                "error": math.hypot(row["error"], row["error_images"]),
                "curvature_error": math.hypot(
                    row["curvature_error"], row["curvature_error_images"]
                ),
            }
            for row in record["rows"]
        ]


def term_of(subject) -> str:
    """Return the term that is told by noise level: x_mse, or else the headline."""
    return "x_mse" if "x_mse" in subject.terms else subject.terms[0]


def only(move: perturb.Perturbation, places: list[int]) -> perturb.Perturbation:
    """Restrict a move to the weights in these places of the list."""

    def of_some(weights: list[Tensor]) -> None:
        others = [w for i, w in enumerate(weights) if i not in places]
        kept = [w.clone() for w in others]
        move(weights)
        for w, before in zip(others, kept):
            w.copy_(before)

    return of_some


def _pair(subject, move, sigma: float, places: list[int], pair: int) -> dict:
    """Return what every example's losses rise by in the mean of a mirrored pair, at sigma ("far")
    and at half of it ("near"), of the term."""
    row, found = subject.terms.index(term_of(subject)), {}
    for name, size in (("near", sigma / 2), ("far", sigma)):
        both = [
            subject.at(only(move(size, draw=draw), places), each=True)
            for draw in (2 * pair, 2 * pair + 1)
        ]
        rises = [unpacked(one["rises"])[row] for one in both]
        found[name] = packed((rises[0] + rises[1]) / 2, np.float64)
    return found | {"distance": both[0]["distance"], "sigma": sigma}


def _each(pair: dict, kind: str) -> Tensor:
    """Return the rise, or the curvature, of every example [N] by a pair."""
    far, near = (unpacked(pair[name], np.float64) for name in ("far", "near"))
    return far if kind == "rise" else (32 * near - 2 * far) / (3 * pair["sigma"] ** 2)


def _estimate(subject, term: str, pairs: list[dict], kind: str) -> dict[str, list[float]]:
    """Return [parts] of the mean, its error over pairs, and over images at these draws."""
    each = torch.stack([_each(pair, kind) for pair in pairs])
    by_part = subject.means(each, [term] * len(each))
    mean, error = (column.tolist() for column in paired.mean_and_error(by_part))
    images = subject.errors_of(each.mean(dim=0)[None], [term])[0].tolist()
    return {"value": mean, "error": error, "error_images": images}


def _columns(block: dict, part: int) -> dict[str, float]:
    columns = {}
    for kind, error in (("rise", "error"), ("curvature", "curvature_error")):
        value, draws, images = (block[kind][k][part] for k in ("value", "error", "error_images"))
        told = {kind: value, error: draws, f"{error}_images": images}
        columns |= told | {f"{error}_larger": float(np.maximum(draws, images))}
    return columns


def _larger(of: dict[str, list]) -> list[float]:
    return np.maximum(*(np.array(of[k], float) for k in ("error", "error_images"))).tolist()


def _cells(of: dict[str, list]) -> list[str]:
    return [cell for pair in zip(of["value"], _larger(of)) for cell in map(number, pair)]


def _heads(parts: dict[str, str]) -> list[str]:
    return [cell for part in parts for cell in (part, "+-")]


def _parts(model: dict) -> list[str]:
    return [part.replace("log-SNR ", "") for part in model["parts"][model["of"]]]


def _draw(figure: Figure, axis, model: dict, kind: str) -> None:
    blocks, of = model["blocks"], model["of"]
    values = np.array([block[kind]["value"] for block in blocks], float)
    errors = np.array([_larger(block[kind]) for block in blocks])
    if kind == "rise":
        at_w = np.array(model["at_w"][of]["losses"], float) / 100
        scale, label = at_w[None], f"rise of {of}, % of it"
    else:
        scale = np.array([block["weights"] for block in blocks], float)[:, None]
        label = f"curvature of {of} per weight"
    values, errors = values / scale, errors / scale
    cells = [[heatmap.told(*pair) for pair in zip(*rows)] for rows in zip(values, errors)]
    names = {"rows": [block["block"] for block in blocks], "columns": _parts(model)}
    heatmap.draw(figure, axis, values, cells, **names, label=label)
    axis.set_title(f"{model['name']}: {label}, sigma {model['sigma']:g}", fontsize=9)
