"""What is told of perturbed samples: rows, a table, pictures."""

import numpy as np
from matplotlib.figure import Figure

from ..judge.names import metric_name
from ..report.text import table
from . import frame
from .frame import number
from .subject import TERM

MARKS = "osv^DPX*<>hd"
ALL = "all models"


def rows(record: dict) -> list[dict]:
    """Return a row for each model and move; each effect is followed by its standard error, over
    images: rise, of the loss; fd_rise; divergence, rms per pixel of the images' difference."""
    found = []
    for model in record["models"]:
        for move in model["moves"]:
            row = {k: v for k, v in move.items() if k not in ("divergence", "path")}
            end = move["divergence"]
            row |= {"divergence": end["value"], "divergence_error": end["error"]}
            found.append({"model": model["name"], **row})
    return found


def text(record: dict) -> str:
    """Write a table of the moves, the longest last of each kind, and the number at the end."""
    first = record["models"][0]
    fd = metric_name(first["features"])
    heads = [
        "move",
        "||w' - w||",
        f"rise of {first['of']}",
        "+-",
        f"rise of {fd}",
        "+-",
        "x' - x",
        "+-",
    ]
    columns = ("distance", "rise", "rise_error", "fd_rise", "fd_rise_error")
    blocks = [
        f"+-: one standard error over images; x' - x: rms per pixel, of {first['num_samples']}"
    ]
    for model in record["models"]:
        mine = [row for row in record["rows"] if row["model"] == model["name"]]
        lines = [
            [label(row), *(number(row[c]) for c in columns)]
            + [number(row[c]) for c in ("divergence", "divergence_error")]
            for row in mine
        ]
        at_w = f"{model['name']}, {fd} at w: {model['fd']:.4g} +- {model['fd_error']:.2g}"
        blocks.append(f"{at_w}\n{table([heads, *lines])}")
    return "\n\n".join([*blocks, sentences(record)])


def label(row: dict) -> str:
    """Name a move in a table."""
    return f"{row['kind']} {row['knob']}={row['size']:g}" + (
        f" ({row['draw']})" * bool(row["draw"])
    )


def sentences(record: dict) -> str:
    """Write the correlations, each in a line, that of all models last."""
    lines = [f"{model['name']}: {told(model['correlation'])}" for model in record["models"]]
    lines += [f"{ALL}: {told(record['correlation'])}"] if len(lines) > 1 else []
    head = "Rise of the loss with rise of the distance, over moves (Spearman's r, 95 % interval):"
    return "\n".join([head, *lines])


def told(found: dict) -> str:
    """Write one correlation."""
    if found["spearman"] is None:
        return f"there is none of {found['moves']} moves; expected 3 or more"
    several = found["low_kinds"] is not None
    kinds = f", for other kinds of moves too; {_ends(found)} for these" if several else ""
    pearson = f"{found['pearson']:.2f}" if found["pearson"] is not None else "none"
    return (
        f"{short(found)}{kinds}, of {found['moves']} moves of {found['kinds']} kinds (Pearson's of "
        f"logarithms, of the {found['positive']} where both rise: {pearson})"
    )


def short(found: dict) -> str:
    """Write the number with its interval: that for other kinds of moves, where there is one."""
    if found["spearman"] is None:
        return "none"
    ends = _ends(found, "" if found["low_kinds"] is None else "_kinds")
    return f"{found['spearman']:.2f} ({ends})"


def _ends(found: dict, of: str = "") -> str:
    return f"{found[f'low{of}']:.2f} to {found[f'high{of}']:.2f}"


def figures(record: dict) -> dict[str, Figure]:
    """Draw, of each model in a row: the rise of the distance and the divergence against the length,
    and the rise of the distance against that of the loss; and in another the paths."""
    models, first = record["models"], record["models"][0]
    figure, axes = frame.panels(3 * len(models))
    kinds = list(dict.fromkeys(move["kind"] for model in models for move in model["moves"]))
    length, fd = "||w' - w||, l2 over all weights", f"rise of {metric_name(first['features'])}"
    columns = [
        ("distance", "fd_rise", length, fd),
        ("distance", "divergence", length, "rms of x_0' - x_0, per pixel"),
        ("rise", "fd_rise", f"rise of {TERM.get(first['of'], first['of'])}", fd),
    ]
    for i, model in enumerate(models):
        mine = [row for row in record["rows"] if row["model"] == model["name"]]
        for k, (x, y, xlabel, ylabel) in enumerate(columns):
            axis = axes[3 * i + k]
            axis.sharex(axes[k])
            axis.sharey(axes[k])
            _scatter(axis, mine, kinds, x, y)
            axis.set(xlabel=xlabel, ylabel=ylabel)
            axis.set_title(model["name"], fontsize="medium")
        number = f"Spearman's r {short(model['correlation'])}"
        axis.text(0.03, 0.97, number, transform=axis.transAxes, va="top")
    note = "bars: one standard error over images; a rise below half of that is not drawn"
    frame.legend(figure, axes[0], note)
    return {"": figure, "_path": _paths(models, kinds)}


def _scatter(axis, rows: list[dict], kinds: list[str], x: str, y: str) -> None:
    """Draw a point with error bars for each move that rises, a mark and colour for each kind."""
    for k, kind in enumerate(kinds):
        mine = [row for row in rows if row["kind"] == kind]
        shown = sorted((r for r in mine if _rises(r, x, y)), key=lambda row: row[x])
        columns = [np.array([row[c] for row in shown]) for c in (x, y)]
        bars = {}
        for name, key, values in (("xerr", x, columns[0]), ("yerr", y, columns[1])):
            if shown and f"{key}_error" in shown[0]:
                error = np.array([row[f"{key}_error"] for row in shown])
                bars[name] = np.stack([np.minimum(error, 0.9 * values), error])
        look = {"marker": MARKS[k % len(MARKS)], "color": f"C{k}", "label": kind}
        axis.errorbar(*columns, **bars, **look, linestyle="", markersize=5, elinewidth=0.8)
    if any(_rises(row, x, y) for row in rows):
        axis.set(xscale="log", yscale="log")


def _rises(row: dict, *effects: str) -> bool:
    """Whether each of the effects is above half of its error: else it is anywhere on a log axis."""
    return all(row[name] > row.get(f"{name}_error", 0.0) / 2 for name in effects)


def _paths(models: list[dict], kinds: list[str]) -> Figure:
    """Draw how far the moved path is from the unmoved one, step by step, of each kind's middle
    size."""
    figure, axes = frame.panels(len(models))
    for axis, model in zip(axes, models):
        for k, kind in enumerate(kinds):
            mine = sorted(
                (m for m in model["moves"] if m["kind"] == kind), key=lambda m: m["distance"]
            )
            move = mine[len(mine) // 2]
            value, error = (np.array(move["path"][name]) for name in ("value", "error"))
            steps = range(1, len(value) + 1)
            (line,) = axis.plot(steps, value, color=f"C{k}", label=label(move))
            axis.fill_between(
                steps, value - error, value + error, alpha=0.2, color=line.get_color()
            )
        axis.set(xlabel="steps of the sampler", ylabel="rms of x_t' - x_t, per pixel", yscale="log")
        axis.set_title(model["name"], fontsize="medium")
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.set_figwidth(figure.get_figwidth() + 2.4)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", title="bands: one standard error")
    return figure
