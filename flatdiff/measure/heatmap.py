"""Tables of numbers in colour: a panel with its numbers written into it."""

import math

import numpy as np
from matplotlib import colors
from matplotlib.figure import Figure

from . import frame


def sheet(rows: int, columns: int, count: int, most: int = 1) -> tuple[Figure, np.ndarray]:
    """Make a figure of so many panels, at most so many side by side, with room for their cells."""
    figure, axes = frame.panels(count, most)
    wide = min(count, most)
    figure.set_size_inches((3.2 + columns) * wide, (1.4 + 0.3 * rows) * math.ceil(count / wide))
    return figure, axes


def draw(figure: Figure, axis, values: np.ndarray, cells: list[list[str]], **named) -> None:
    """Draw values [rows, columns], in colours of their logarithms, with a text in each cell. What
    is not above 0 has the palest. named: "rows" and "columns", their names; "label", of the bar."""
    shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    some = shown[np.isfinite(shown)]
    low, high = (float(some.min()), float(some.max())) if len(some) else (1.0, 1.0)
    norm = colors.LogNorm(low, high if high > low * 1.01 else low * 1.01)
    filled = np.where(np.isfinite(shown), shown, low)
    image = axis.imshow(filled, aspect="auto", cmap="YlOrRd", norm=norm)
    for (i, j), value in np.ndenumerate(filled):
        dark = norm(value) > 0.6
        text = {"ha": "center", "va": "center", "fontsize": 7, "color": "w" if dark else "k"}
        axis.text(j, i, cells[i][j], **text)
    axis.grid(False)
    axis.set_yticks(range(len(named["rows"])), named["rows"], fontsize=8)
    axis.set_xticks(range(len(named["columns"])), named["columns"], fontsize=8)
    bar = figure.colorbar(image, ax=axis, pad=0.02, label=named["label"])
    if math.log10(norm.vmax / norm.vmin) < 1:
        bar.ax.minorticks_off()
        bar.set_ticks([norm.vmin, norm.vmax], labels=[f"{norm.vmin:.3g}", f"{norm.vmax:.3g}"])


def told(value: float, error: float) -> str:
    """Write a number and its error for a cell, the error to two digits."""
    return f"{value:.3g} ±{error:.2g}" if math.isfinite(value) else ""
