"""The figures of a study, as SVG text: a colour for each gradient, a line style for each average.

Curves are means over seeds. Reads the cells; knows nothing of pages.
"""

import csv
import io
import os

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from .matrix import Model
from .significance import correlation
from .tables import label

STYLES = {"none": "-", "ema": "--", "swa": ":"}
MARKERS = {"none": "o", "ema": "s", "swa": "^"}
WIDTH, HEIGHT = 4.4, 3.6  # inches of a panel


def under_perturbation(models: list[Model]) -> str:
    """LPF: the loss against the length of the noise. MC: its rise along random directions."""
    figure, (noise, directions) = _panels(2)
    term = term_of(models)
    for group in _groups(models):
        look = _look(models, group[0])
        if curves := _curves(group, "LPF"):
            x = [0.0, *(point["distance"] for point in curves[0])]
            y = [[c[0]["at_w"], *(p["at_w"] + p["rise"] for p in c)] for c in curves]
            noise.plot(x, np.mean(y, axis=0), **look)
        if curves := _curves(group, "MC"):
            x = [point["distance"] for point in curves[0]]
            directions.plot(x, np.mean([[p["rise"] for p in c] for c in curves], axis=0), **look)
    noise.set(title="Gaussian noise (LPF)", ylabel=term)
    directions.set(title="random directions (MC)", ylabel=f"rise of {term}")
    directions.set(xscale="log", yscale="log")
    for axis in (noise, directions):
        axis.set_xlabel("length of the perturbation of the weights")
    return _finish(figure, (noise, directions))


def term_of(models: list[Model]) -> str:
    """What of the loss LPF and MC measured: "mse" but for networks that have none."""
    results = (model.cells[kind].result() for model in models for kind in ("LPF", "MC"))
    return next((result["term"] for result in results if result), "mse")


def _curves(group: list[Model], kind: str) -> list[list[dict]]:
    return [found["curve"] for model in group if (found := model.cells[kind].result())]


def flatness_and_rounding(models: list[Model], rows: list[dict]) -> str:
    """Each model's LPF rise against what its distance loses to rounded weights."""
    rises = [c for c in rows[0] if c.startswith("rise_w")]
    figure, axes = _panels(max(1, len(rises)))
    for axis, column in zip(axes, rises):
        for group in _groups(models):
            mine = [r for r in rows if _key(group[0]) == _key_of(r)]
            points = [(r["lpf"], r[column]) for r in mine if None not in (r["lpf"], r[column])]
            if points:
                look = _look(models, group[0]) | {"linestyle": ""}
                axis.plot(*zip(*points), **look)
        pairs = [(r["lpf"], r[column]) for r in rows if None not in (r["lpf"], r[column])]
        r = correlation(*zip(*pairs)) if pairs else None
        title = f"{column.removeprefix('rise_w')} bits"
        title += "" if r is None else f": r = {r:.2f}, {len(pairs)} models"
        axis.axhline(0, color="0.6", linewidth=0.8)
        xlabel = f"LPF rise of {term_of(models)}"
        axis.set(title=title, xlabel=xlabel, ylabel="distance lost to rounding")
        axis.locator_params(axis="x", nbins=4)
    return _finish(figure, axes)


def exposure(models: list[Model]) -> str:
    """The norm of the predicted noise on real images and along the chain, and the gap of them."""
    figure, axes = _panels(3)
    training, sampling, gaps = axes
    for group in _groups(models):
        records = [r for m in group if (r := m.cells["exposure"].result())]
        if not records:
            continue
        t, look = records[0]["timesteps"], _look(models, group[0]) | {"marker": ""}
        for axis, name in zip(axes, ("training", "sampling", "gap")):
            curves = np.array([r[name]["value"] for r in records], dtype=float)
            axis.plot(t, curves.mean(axis=0), **look)
        for axis in (training, sampling):
            axis.axhline(records[0]["noise_norm"], color="0.6", linewidth=0.8)
    sampling.sharey(training)
    gaps.axhline(0, color="0.6", linewidth=0.8)
    training.set(title="on real images (training)", ylabel="‖predicted noise‖₂; grey: the noise's")
    sampling.set(title="along the sampling chain")
    gaps.set(title="gap: sampling less training", ylabel="difference of ‖predicted noise‖₂")
    for axis in axes:
        axis.set_xlabel("timestep t (0: least noise)")
    return _finish(figure, axes)


def training(models: list[Model]) -> str:
    """The loss of training, against steps and against what they cost."""
    figure, axes = _panels(2)
    seen = {}
    for model in models:
        seen.setdefault((model.training.gradient, model.training.input_pertub), {})[
            model.training.cell.key
        ] = model
    for group in seen.values():
        runs = [(m, p) for m in group.values() if len(p := progress(m.training.cell.folder))]
        if not runs:
            continue
        length = min(len(p) for _, p in runs)
        steps = runs[0][1][:length, 0]
        losses = np.mean([p[:length, 1] for _, p in runs], axis=0)
        first = runs[0][0]
        look = _look(models, first) | {"marker": "", "linestyle": "-"}
        look["label"] = label(_row(first) | {"average": "none"})
        each = first.training.cost / first.training.steps / 1000
        for axis, scale in zip(axes, (1, each)):
            axis.plot(steps * scale, losses, **look)
    for axis, text in zip(axes, ("optimizer steps", "thousand images with a gradient")):
        axis.set(xlabel=text, ylabel="training loss", yscale="log")
    return _finish(figure, axes)


def progress(folder: str) -> np.ndarray:
    """(step, loss) of each line of a run's progress.csv: [N, 2]; empty without one."""
    path = os.path.join(folder, "progress.csv")
    if not os.path.exists(path):
        return np.empty((0, 2))
    with open(path) as file:
        return np.array([(float(r["step"]), float(r["loss"])) for r in csv.DictReader(file)])


# How it looks


def _row(model: Model) -> dict:
    t = model.training
    return {"gradient": t.gradient, "input_pertub": t.input_pertub, "average": model.average}


def _key(model: Model) -> tuple:
    return _key_of(_row(model))


def _key_of(row: dict) -> tuple:
    return row["gradient"], row["input_pertub"], row["average"]


def _groups(models: list[Model]) -> list[list[Model]]:
    """Models that differ by seed alone."""
    found: dict[tuple, list[Model]] = {}
    for model in models:
        found.setdefault(_key(model), []).append(model)
    return list(found.values())


def _look(models: list[Model], model: Model) -> dict:
    kinds = list(dict.fromkeys(_key(m)[:2] for m in models))
    return {
        "color": f"C{kinds.index(_key(model)[:2])}",
        "linestyle": STYLES[model.average],
        "marker": MARKERS[model.average],
        "markersize": 4,
        "label": label(_row(model)),
    }


def _panels(count: int):
    figure, axes = plt.subplots(
        1, count, figsize=(WIDTH * count, HEIGHT + 0.9), layout="constrained", squeeze=False
    )
    return figure, axes[0]


def _finish(figure, axes) -> str:
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    lines, names = axes[0].get_legend_handles_labels()
    if lines:
        figure.legend(lines, names, loc="outside lower center", ncols=3, frameon=False)
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    plt.close(figure)
    return svg.getvalue()
