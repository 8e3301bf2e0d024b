"""Pictures of a study of flatness: curves with error bands, spectra, surfaces.

They show the rows and the record of flatness_report and compute nothing.
"""

import math
import os

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ..store import disk

WIDTH, HEIGHT, DPI = 4.8, 4.2, 120  # inches of a panel
SIZE = {
    "sigma": "sigma, standard deviation of the weight noise",
    "radius": "radius, length of the direction (l2 over all weights)",
}
TERM = {"loss": "loss", "mse": "mse of the noise", "vb": "vb [bits per dimension]"}


def draw(kind: str, record: dict, rows: list[dict], folder: str) -> list[str]:
    """Draw what there is of this kind; returns the paths."""
    if kind == "HESSIAN":
        pictures = {"": spectrum(rows)}
    elif kind == "SURFACE":
        pictures = {"": planes(record["models"]), "_1D": slices(record["models"])}
        if record.get("line"):
            pictures["_line"] = line(record["line"], record["models"])
    else:
        pictures = {"": curves(rows)}
    paths = [os.path.join(folder, f"flatness_{kind}{name}.png") for name in pictures]
    for path, figure in zip(paths, pictures.values()):
        with disk.writing(path) as file:
            figure.savefig(file, dpi=DPI)
    return paths


def curves(rows: list[dict]) -> Figure:
    """LPF, MC: the rise of each term against the size, one line a network, one error each side."""
    size = next(name for name in SIZE if name in rows[0])
    terms = list(dict.fromkeys(row["term"] for row in rows))
    figure, axes = _panels(len(terms))
    for axis, term in zip(axes, terms):
        shown = [row for row in rows if row["part"] == "all" and row["term"] == term]
        for name in dict.fromkeys(row["model"] for row in shown):
            x, rise, error = np.array(
                [[r[size], r["rise"], r["error_larger"]] for r in shown if r["model"] == name]
            ).T
            (drawn,) = axis.plot(x, rise, marker="o", markersize=3, label=name)
            axis.fill_between(x, rise - error, rise + error, alpha=0.25, color=drawn.get_color())
        axis.set(xscale="log", xlabel=SIZE[size], ylabel=f"rise of {TERM[term]}")
        _positive_scale(axis, [row["rise"] for row in shown])
        axis.grid(alpha=0.3)
    note = "bands: one standard error to each side, the larger of those over draws and over images"
    _legend(figure, axes[0], note)
    return figure


def _positive_scale(axis, values) -> None:
    """Logarithmic, and linear around 0 where some values are not above it."""
    if min(values) > 0:
        axis.set_yscale("log")
    else:
        axis.set_yscale("symlog", linthresh=max(np.median(np.abs(values)), 1e-12))


def spectrum(rows: list[dict]) -> Figure:
    """HESSIAN: eigenvalues, with their errors as bars, and traces in the legend."""
    figure, (axis,) = _panels(1)
    for name in dict.fromkeys(row["model"] for row in rows):
        trace, *top = [row for row in rows if row["model"] == name]
        axis.errorbar(
            range(1, len(top) + 1),
            [row["value"] for row in top],
            yerr=[row["error_larger"] for row in top],
            marker="o",
            capsize=3,
            label=f"{name}: trace {trace['value']:.4g} +- {trace['error_larger']:.2g}",
        )
    axis.set(
        xlabel="number of the eigenvalue", ylabel=f"eigenvalue of the Hessian of {trace['of']}"
    )
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    _legend(figure, axis, "bars: one standard error over images, or ||H v - lambda v|| if larger")
    return figure


def planes(models: list[dict]) -> Figure:
    """SURFACE: the headline around each network, all on one scale."""
    term = next(iter(models[0]["plane"]))
    losses = [np.array(model["plane"][term])[:, :, 0] for model in models]
    low, high = min(map(np.min, losses)), max(map(np.max, losses))
    positive = low > 0
    levels = np.geomspace(low, high, 25) if positive else np.linspace(low, high, 25)
    figure, axes = _panels(len(models))
    for axis, model, loss in zip(axes, models, losses):
        norm = LogNorm() if positive else None
        drawn = axis.contourf(model["axis"], model["axis"], loss.T, levels=levels, norm=norm)
        axis.plot(0, 0, "r+", markersize=10)
        axis.set(xlabel="step a along direction 1", ylabel="step b along direction 2")
        axis.set_title(model["name"], fontsize="medium")
    figure.colorbar(drawn, ax=list(axes), label=TERM[term], format="%.3g")
    return figure


def slices(models: list[dict]) -> Figure:
    """SURFACE: the headline along each of the two directions alone."""
    term = next(iter(models[0]["plane"]))
    figure, axes = _panels(2)
    for model in models:
        loss, axis = np.array(model["plane"][term])[:, :, 0], model["axis"]
        middle = len(axis) // 2
        for panel, values in zip(axes, (loss[:, middle], loss[middle])):
            panel.plot(axis, values, label=model["name"])
    for i, panel in enumerate(axes, 1):
        panel.set(xlabel=f"step along direction {i} (1: as long as the weights)")
        panel.set(ylabel=TERM[term], yscale="log")
        panel.locator_params(axis="x", nbins=5)
        panel.grid(alpha=0.3, which="both")
    _legend(figure, axes[0])
    return figure


def line(between: dict, models: list[dict]) -> Figure:
    """SURFACE: the loss on the line from the first network to the second."""
    figure, axes = _panels(len(between["losses"]))
    for axis, (term, losses) in zip(axes, between["losses"].items()):
        axis.plot(between["alphas"], np.array(losses)[:, 0])
        axis.set(xlabel="alpha, share of the second network", ylabel=TERM[term])
        for alpha in (0, 1):
            axis.axvline(alpha, color="grey", linewidth=0.8)
        axis.grid(alpha=0.3)
    names = " to ".join(model["name"] for model in models)
    figure.suptitle(f"on the line from {names}", fontsize="medium")
    return figure


def _panels(count: int) -> tuple[Figure, np.ndarray]:
    """A figure of at most three panels in a row."""
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis in axes[count:]:
        axis.axis("off")
    return figure, axes[:count]


def _legend(figure: Figure, axis, note: str = "") -> None:
    """Below all panels, in as many columns as there is room for."""
    handles, labels = axis.get_legend_handles_labels()
    letters = 11 * figure.get_figwidth()  # that fit side by side
    columns = max(1, min(len(labels), int(letters / (6 + max(map(len, labels))))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=note or None)
