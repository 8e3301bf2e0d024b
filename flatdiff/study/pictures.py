"""The figures of a study, as SVG text: a colour a gradient, a style an average, means of seeds."""

import contextlib
import io

import numpy as np

from ..measure import frame
from ..report.compare import progress
from .claims import rounding, sharpness
from .matrix import Model
from .rows import columns_of, measures_of, record_of
from .significance import correlation
from .tables import label

STYLES, MARKERS = ("-", "--", ":", "-."), "os^v"  # of averages, in their order
FEW = 10  # points of a line, that are marked


def measured(models: list[Model], verb: str) -> str:
    """What the measures of one command draw: a panel for each line of each of a study's cells."""
    panels: dict[tuple, list] = {}
    for kind, measure in measures_of(verb).items():
        for cell in measure.cells:
            for group in _groups(models):
                records = [r for model in group if (r := record_of(model, kind, cell))]
                for lines in zip(*map(measure.load().lines, records)):
                    title = lines[0].title + (f" ({cell})" if len(measure.cells) > 1 else "")
                    panels.setdefault((cell, title), []).append((group[0], lines))
    figure, axes = frame.panels(max(1, len(panels)))
    shared = {}
    for axis, ((_, title), drawn) in zip(axes, panels.items()):
        line = drawn[0][1][0]
        axis.set(title=title, xlabel=line.xlabel, ylabel=line.ylabel)
        axis.set(xscale=line.scale, yscale=line.scale)
        axis.sharey(shared.setdefault(line.ylabel, axis))
        for model, lines in drawn:
            y = np.mean([np.array(line.y, float) for line in lines], axis=0)
            axis.plot(lines[0].x, y, **_look(models, model, marked=len(y) <= FEW))
        if line.level is not None:
            axis.axhline(line.level, color="0.6", linewidth=0.8)
    return _finish(figure, axes)


def flatness_and_rounding(models: list[Model], rows: list[dict]) -> str:
    """Each model's sharpness against what its distance loses to rounded weights."""
    x, rises = sharpness(), rounding(rows)
    figure, axes = frame.panels(max(1, len(rises)))
    for axis, y in zip(axes, rises):
        known = [row for row in rows if None not in (row[x], row[y])]
        for model, *_ in _groups(models):
            points = [(r[x], r[y]) for r in known if r.items() >= model.kind.items()]
            if points:
                axis.plot(*zip(*points), **_look(models, model) | {"linestyle": ""})
        r = correlation([row[x] for row in known], [row[y] for row in known])
        told = "" if r is None else f": r = {r:.2f}, {len(known)} models"
        title = f"{y.removeprefix('rise_w')} bits{told}"
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set(title=title, xlabel=columns_of()[x].title, ylabel="distance lost to rounding")
        axis.locator_params(axis="x", nbins=4)
    return _finish(figure, axes)


def training(models: list[Model]) -> str:
    """The loss of training, against steps and against what they cost."""
    figure, axes = frame.panels(2)
    first_average = [model for model in models if model.average == models[0].average]
    for group in _groups(first_average):
        runs = []
        for model in group:
            with contextlib.suppress(ValueError):  # not begun, or it diverged
                runs.append(progress(model.training.cell.folder))
        if not runs:
            continue
        length = min(len(run["step"]) for run in runs)
        losses = np.mean([run["loss"][:length] for run in runs], axis=0)
        look = _look(models, group[0], marked=False) | {"linestyle": "-"}
        look["label"] = label(group[0].kind | {"average": "none"})
        thousands = group[0].training.cost / group[0].training.steps / 1000
        for axis, scale in zip(axes, (1, thousands)):
            axis.plot(runs[0]["step"][:length] * scale, losses, **look)
    for axis, text in zip(axes, ("optimizer steps", "thousand images with a gradient")):
        axis.set(xlabel=text, ylabel="training loss", yscale="log")
    return _finish(figure, axes)


def _groups(models: list[Model]) -> list[list[Model]]:
    """Models that differ by seed alone."""
    found: dict[tuple, list[Model]] = {}
    for model in models:
        found.setdefault(tuple(model.kind.values()), []).append(model)
    return list(found.values())


def _look(models: list[Model], model: Model, marked: bool = True) -> dict:
    averages = list(dict.fromkeys(m.average for m in models))
    kinds = list(dict.fromkeys((m.training.gradient, m.training.input_pertub) for m in models))
    i = averages.index(model.average) % len(STYLES)
    colour = f"C{kinds.index((model.training.gradient, model.training.input_pertub))}"
    look = {"color": colour, "linestyle": STYLES[i], "marker": MARKERS[i] if marked else ""}
    return look | {"markersize": 4, "label": label(model.kind)}


def _finish(figure, axes) -> str:
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    if axes[0].get_legend_handles_labels()[0]:
        frame.legend(figure, axes[0])
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()
