"""The figures of a study: a colour a training, a style an average, means of seeds with bands of
their 95 % intervals."""

import contextlib
import io
import itertools
from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ..measure import frame
from ..measure.chains import EDGES
from ..report.compare import progress, series
from ..report.figures import band, colours, write
from .claims import FAILS, HOLDS, UNDECIDED, Verdict, of, rounding, sharpness
from .matrix import Model
from .rows import columns_of, distances, measures_of, of_levels, record_of, steps_of
from .significance import correlation, half_width
from .tables import label

COLOURS = {HOLDS: "C0", FAILS: "C3", UNDECIDED: "0.55"}  # of verdicts
STYLES, MARKERS = ("-", "--", ":", "-."), "os^v"  # of averages, in their order
MIDDLES = [(high + low) / 2 for high, low in itertools.pairwise(EDGES)]  # of rows.LEVELS
CURVATURE = {  # columns of progress.csv
    "critical_sharpness": "critical sharpness [1 / learning rate]",
    "update_curvature": "curvature along the update",
}
FEW = 10  # points of a line, that are marked


def measured(models: list[Model], verb: str) -> Figure:
    """What the measures of one command draw: a panel for each line of each of a study's cells, and
    for each objective, as losses compare within one alone."""
    panels: dict[tuple, list] = {}
    for own in _by_objective(models):
        for kind, measure in measures_of(verb).items():
            for cell in measure.cells:
                for group in _groups(own):
                    records = [r for model in group if (r := record_of(model, kind, cell))]
                    for lines in zip(*map(measure.load().lines, records)):
                        title = lines[0].title + (f" ({cell})" if len(measure.cells) > 1 else "")
                        key = group[0].training.objective, cell, title
                        panels.setdefault(key, []).append((group[0], lines))
    figure, axes = frame.panels(max(1, len(panels)))
    shared = {}
    for axis, ((objective, _, title), drawn) in zip(axes, panels.items()):
        line = drawn[0][1][0]
        axis.set(title=of(objective) + title, xlabel=line.xlabel, ylabel=line.ylabel)
        axis.set(xscale=line.scale, yscale=line.scale)
        axis.sharey(shared.setdefault((objective, line.ylabel), axis))
        for model, lines in drawn:
            y = [np.array(line.y, float) for line in lines]
            _with_band(axis, lines[0].x, y, _look(models, model, marked=len(y[0]) <= FEW))
        if line.scale == "log" and len(line.x) <= FEW:
            axis.set_xticks(line.x, [f"{at:g}" for at in line.x])
            axis.set_xticks([], minor=True)
        if line.level is not None:
            axis.axhline(line.level, color="0.6", linewidth=0.8)
    return _finish(figure, axes)


def flatness_and_rounding(models: list[Model], rows: list[dict]) -> Figure:
    """Each model's sharpness against what its distance loses to rounded weights, by objective."""
    x, rises = sharpness(), rounding(rows)
    panels = list(itertools.product(_by_objective(models), rises))
    figure, axes = frame.panels(max(1, len(panels)))
    for axis, (own, y) in zip(axes, panels):
        objective = own[0].training.objective
        known = [row for row in rows if None not in (row[x], row[y])]
        known = [row for row in known if row["objective"] == objective]
        for model, *_ in _groups(own):
            points = [(r[x], r[y]) for r in known if r.items() >= model.kind.items()]
            if points:
                axis.plot(*zip(*points), **_look(models, model) | {"linestyle": ""})
        r = correlation([row[x] for row in known], [row[y] for row in known])
        told = "" if r is None else f": r = {r:.2f}, {len(known)} models"
        title = f"{of(objective)}{y.removeprefix('rise_w')} bits{told}"
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set(title=title, xlabel=columns_of()[x].title, ylabel="distance lost to rounding")
        axis.locator_params(axis="x", nbins=4)
    return _finish(figure, axes)


def verdicts(found: list[Verdict]) -> Figure | None:
    """Each claim's difference, in percent of what it is compared with, and its 95 % interval; None
    where there is none. Filled: decided after Holm's correction too."""
    known = [v for v in found if v.low is not None and v.base]
    if not known:
        return None
    figure = Figure(figsize=(11, 1 + 0.2 * len(known)), layout="constrained")
    axis = figure.subplots()
    for place, v in enumerate(known):
        middle, low, high = (100 * number / abs(v.base) for number in (v.estimate, v.low, v.high))
        axis.plot([low, high], [place, place], color=COLOURS[v.verdict], linewidth=1.5)
        filled = "full" if v.holm != UNDECIDED else "none"
        look = {"color": COLOURS[v.verdict], "marker": "o", "markersize": 5, "fillstyle": filled}
        told = {"label": f"{v.verdict}{' after Holm' if v.holm == v.verdict != UNDECIDED else ''}"}
        axis.plot([middle], [place], linestyle="", **look, **told)
    axis.axvline(0, color="0.6", linewidth=0.8)
    axis.set_xscale("symlog", linthresh=10, linscale=0.6)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_yticks(range(len(known)), [v.text for v in known], fontsize=8)
    axis.set(ylim=(len(known) - 0.5, -0.5), xlabel="difference [%]: left of 0 is for the claim")
    return _finish(figure, [axis])


def training(models: list[Model]) -> Figure:
    """The loss of training, against steps and against what they cost, by objective."""
    first_average = [model for model in models if model.average == models[0].average]
    kinds = _by_objective(first_average)
    figure, axes = frame.panels(2 * len(kinds), most=2)
    for axis in axes:
        axis.set_yscale("log")
    for own, pair in zip(kinds, zip(axes[::2], axes[1::2])):
        for group in _groups(own):
            _progress(pair, group, models)
        for axis, text in zip(pair, ("optimizer steps", "thousand images with a gradient")):
            axis.set(xlabel=text, ylabel="training loss")
            axis.set_title(own[0].training.objective)
    return _finish(figure, axes)


def _progress(axes, group: list[Model], models: list[Model]) -> None:
    runs = []
    for model in group:
        with contextlib.suppress(ValueError):  # not begun, or it diverged
            runs.append(progress(model.training.cell.folder))
    if not runs:
        return
    length = min(len(run["step"]) for run in runs)
    losses = [run["loss"][:length] for run in runs]
    look = _look(models, group[0], marked=False) | {"linestyle": "-"}
    look["label"] = _trained(group[0])
    thousands = group[0].training.cost / group[0].training.steps / 1000
    for axis, scale in zip(axes, (1, thousands)):
        _with_band(axis, runs[0]["step"][:length] * scale, losses, look)


def along(models: list[Model], summary: list[dict], distance: str) -> Figure | None:
    """The distance at each checkpoint that was sampled, against steps and against what they cost,
    to the line of real images; None where none but the last were."""
    if not any(map(steps_of, summary)):
        return None
    figure, axes = frame.panels(2, most=2)
    for model, *_ in _groups(models):
        line = _line_of(summary, model)
        at = steps_of(line) if line else {}
        for axis, scale in zip(axes, (1, model.training.cost / model.training.steps / 1000)):
            x = [step * scale for step in at]
            _with_bars(axis, x, line, list(at.values()), _look(models, model))
    for axis, text in zip(axes, ("optimizer steps", "thousand images with a gradient")):
        axis.set(xlabel=text)
        _of_distances(axis, models, distance)
    return _finish(figure, axes)


def curvature(models: list[Model]) -> Figure | None:
    """The curvature along the optimizer's step in training, by objective; None where none has."""
    kinds = _by_objective([model for model in models if model.average == models[0].average])
    panels = list(itertools.product(kinds, CURVATURE.items()))
    figure, axes = frame.panels(len(panels), most=2)
    drawn = False
    for axis, (own, (name, told)) in zip(axes, panels):
        axis.set_yscale("log")
        for group in _groups(own):
            runs = [series(model.training.cell.folder, name) for model in group]
            steps = sorted(set.intersection(*map(set, runs)))
            y = [[run[step] for step in steps] for run in runs]
            look = _look(models, group[0], marked=False) | {"linestyle": "-"}
            look["label"] = _trained(group[0])
            _with_band(axis, steps, y, look)
            drawn = drawn or bool(steps)
        axis.set(xlabel="optimizer steps", ylabel=told)
        axis.set_title(own[0].training.objective)
    return _finish(figure, axes) if drawn else None


def by_level(models: list[Model], summary: list[dict], titles: dict[str, str]) -> Figure:
    """Columns of `rows.X_MSE` against log-SNR, a panel each; models without them have no line."""
    figure, axes = frame.panels(len(titles))
    groups = _groups(models)
    for axis, (name, title) in zip(axes, titles.items()):
        for i, (model, *_) in enumerate(groups):
            x = [middle + 0.6 * _aside(i, groups) for middle in MIDDLES]
            columns = of_levels(name)[1:]
            _with_bars(axis, x, _line_of(summary, model), columns, _look(models, model))
        axis.set(title=title, xlabel="log-SNR: much noise, to little", yscale="log")
        axis.set_xticks(EDGES)
    return _finish(figure, axes)


def by_calls(models: list[Model], summary: list[dict], distance: str, first: str) -> Figure:
    """Distances against how often the network is asked for an image, a panel for each sampler."""
    samplers: dict[str, list[str]] = {}
    for column in distances(summary[0]):
        samplers.setdefault(column[3:].partition("_")[2] or first, []).append(column)
    figure, axes = frame.panels(len(samplers))
    for axis, (sampler, columns) in zip(axes, samplers.items()):
        axis.sharey(axes[0])
        groups = _groups(models)
        for i, (model, *_) in enumerate(groups):
            line = _line_of(summary, model)
            calls = [line.get(f"calls_{c[3:]}", 0) * 1.1 ** _aside(i, groups) for c in columns]
            _with_bars(axis, calls, line, columns, _look(models, model))
        axis.set(title=sampler, xlabel="network calls", xscale="log")
        _of_distances(axis, models, distance)
        ticks = {max(line[f"calls_{c[3:]}"] for line in summary) for c in columns}
        axis.set_xticks(sorted(ticks), [f"{n:g}" for n in sorted(ticks)])
    return _finish(figure, axes)


def _of_distances(axis, models: list[Model], distance: str) -> None:
    """The y axis, and a line at what as many real images have."""
    if floor := (models[0].cells["floor"].result() or {}).get("floor"):
        axis.axhline(np.mean(floor["values"]), color="0.6", linewidth=0.8)
    axis.set(ylabel=distance, yscale="log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()


def _aside(i: int, groups: list) -> float:
    """From -0.5 to 0.5, by which bars do not hide each other."""
    return i / max(1, len(groups) - 1) - 0.5


def _line_of(summary: list[dict], model: Model) -> dict:
    """The model's line of the summary; {} where it is not trained."""
    return next((line for line in summary if line.items() >= model.kind.items()), {})


def _with_bars(axis, x: list[float], line: dict, columns: list[str], look: dict) -> None:
    """Draws the columns that there are, with their intervals."""
    known = [(at, line[c], line[f"{c}_half"] or 0) for at, c in zip(x, columns) if line.get(c)]
    if known:
        at, y, half = map(np.array, zip(*known))
        low = np.where(y > 0, np.minimum(half, 0.9 * y), half)  # an axis in logarithms ends above 0
        axis.errorbar(at, y, yerr=[low, half], capsize=2, **look)


def _with_band(axis, x, of_seeds: list, look: dict) -> None:
    """Draws the mean over seeds, and the 95 % interval of it where there are several."""
    y = np.array(of_seeds, float)
    axis.plot(x, y.mean(axis=0), **look)
    if len(y) > 1 and y.shape[1]:
        half = [half_width(values) for values in y.T]
        band(axis, x, y.mean(axis=0), half, look["color"])


def _by_objective(models: list[Model]) -> list[list[Model]]:
    names = dict.fromkeys(model.training.objective for model in models)
    return [[m for m in models if m.training.objective == name] for name in names]


def _groups(models: list[Model]) -> list[list[Model]]:
    """Models that differ by seed alone."""
    found: dict[tuple, list[Model]] = {}
    for model in models:
        found.setdefault(tuple(model.kind.values()), []).append(model)
    return list(found.values())


def _look(models: list[Model], model: Model, marked: bool = True) -> dict:
    averages = list(dict.fromkeys(m.average for m in models))
    i = averages.index(model.average) % len(STYLES)
    colour = colours(map(_trained, models))[_trained(model)]
    look = {"color": colour, "linestyle": STYLES[i], "marker": MARKERS[i] if marked else ""}
    return look | {"markersize": 4, "label": label(model.kind)}


def _trained(model: Model) -> str:
    return label(model.kind | {"average": "none"})


def _finish(figure, axes) -> Figure:
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    drawn = {k: v for axis in axes for v, k in zip(*axis.get_legend_handles_labels())}
    if drawn:
        told = list(drawn.values()), list(drawn)
        frame.legend(figure, SimpleNamespace(get_legend_handles_labels=lambda: told))
    return figure


def svg(figure: Figure) -> str:
    """The figure as text."""
    file = io.StringIO()
    write(figure, file, "svg")
    return file.getvalue()
