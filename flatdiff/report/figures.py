"""What all figures share: colours, which follow a model's name from figure to figure, and files."""

import os
import zlib
from collections.abc import Iterable, Sequence
from typing import IO, Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from ..store import disk

FORMATS = ("png", "pdf", "svg")
PALETTE = np.delete(colormaps["tab10"].colors, 7, axis=0)  # without grey, that of reference lines
START = 91178  # of the hash: with it the names of our gradients are apart
Colour = tuple[float, float, float]


def colours(names: Iterable[str | tuple]) -> dict[Any, Colour]:
    """Return the colour of each model's name, or of each (name, variant).

    A run's name, RUN or RUN/FILE, has its own, whatever else is drawn and in whichever order; where
    two that are drawn have the same, the later one in the alphabet has the next. Further files and
    variants of a run are paler.
    """
    runs = {name: _run(name if isinstance(name, str) else name[0]) for name in names}
    places: dict[str, int] = {}
    for run in sorted({*runs.values()}):
        place = zlib.crc32(run.encode(), START) % len(PALETTE)
        while place in places.values() and len(places) < len(PALETTE):
            place = (place + 1) % len(PALETTE)
        places[run] = place
    found: dict[Any, Colour] = {}
    for name, run in runs.items():
        before = sum(runs[other] == run for other in found)
        pale = 1 - 0.6 ** min(before, 3)
        found[name] = tuple((1 - pale) * PALETTE[places[run]] + pale)
    return found


def _run(name: str) -> str:
    return os.path.basename(os.path.dirname(name)) or name


def save(figure: Figure, stem: str, kind: str = "png", **how) -> str:
    """Write STEM.KIND, of FORMATS, whole or not at all; return its path."""
    path = f"{stem}.{kind}"
    with disk.writing(path) as file:
        write(figure, file, kind, **how)
    return path


def write(figure: Figure, file: IO, kind: str, **how) -> None:
    """Write the figure into the file: equal figures, equal bytes."""
    dated = {"pdf": "CreationDate", "svg": "Date"}
    metadata = {dated[kind]: None} if kind in dated else None
    with rc_context({"svg.hashsalt": "flatdiff"}):
        figure.savefig(file, format=kind, metadata=metadata, **how)


def band(axis, x: Sequence[float], y, half, colour) -> None:
    """Fill half to each side of y; on an axis of logarithms it ends above 0, at a tenth of y."""
    y, half = np.asarray(y, float), np.nan_to_num(np.asarray(half, float))
    below = y - half
    if axis.get_yscale() == "log":
        below = np.where(y > 0, np.maximum(below, 0.1 * y), below)
    axis.fill_between(x, below, y + half, color=colour, alpha=0.2, linewidth=0)
