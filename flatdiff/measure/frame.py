"""The frame of all measures: what is to be done, what was found, and how it is told.

A measure is a subclass of `Measure` and a line of the registry (`flags.choices`). It knows no
flags, files or ranks: the runner (`run`) gives it networks and keeps what it finds.
"""

import io
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ..report import figures
from ..report.text import table
from ..store import disk

Task = Callable[[], Any]
Told = tuple[Any, "Measure", list]
WIDTH, HEIGHT, DPI = 4.8, 4.2, 120  # inches of a panel


class Measure:
    """One kind of measurement; an instance is one study of it, over one checkpoint or several.

    It is made of keyword arguments. Those that have defaults are its knobs, `--flatness "TOY
    scale=2"`; each may be named as a flag of the script (num_draws, sigma, ...), whose value it
    gets. A ValueError of the constructor is shown to the user before any work is done. A subclass
    gives `tasks`, `result` and `rows`; all else has a default.
    """

    together = False  # whether a task needs all ranks; else they share the tasks
    fp32 = False  # whether it is computed in fp32 and not compiled, whatever flags say
    pair: Callable | None = None  # tasks between two networks, and `line`: see plane.SURFACE

    def tasks(self, subject) -> dict[str, Task]:
        """Name what to compute of a `subject.Subject`: by key, functions that give plain values.

        An interrupted study finds a result under its key, which names what it depends on beside the
        checkpoint, the images and the flags that change numbers: the size of a move, the draw.
        """
        raise NotImplementedError

    def result(self, subject, found: list) -> dict:
        """Return what the results of the tasks, in order, say of a network: plain values by name.

        It is an item of the record's "models", after what `Subject.about` says: name, at_w, ...
        """
        raise NotImplementedError

    def rows(self, record: dict) -> list[dict]:
        """Return the record's "rows", of which the rest is told: numbers and texts by column,
        "model" the first, of "settings" and "models"."""
        raise NotImplementedError

    def tables(self, record: dict) -> dict[str, list[dict]]:
        """Return the csv files, by the end of their names."""
        return {"": record["rows"]}

    def text(self, record: dict) -> str:
        """Write the table that is logged."""
        rows = record["rows"]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        return table([columns, *([number(row.get(column)) for column in columns] for row in rows)])

    def figures(self, record: dict) -> dict[str, Figure]:
        """Draw the pictures, by the end of their names: here, of each column, a line a model."""
        rows = record["rows"]
        columns = [name for name, value in rows[0].items() if isinstance(value, (int, float))]
        figure, axes = panels(len(columns))
        look = figures.colours(str(row.get("model")) for row in rows)
        for axis, column in zip(axes, columns):
            for model, colour in look.items():
                values = [row[column] for row in rows if str(row.get("model")) == model]
                drawn = {"marker": "o", "label": model, "color": colour}
                axis.plot(range(1, len(values) + 1), values, **drawn)
            axis.set(xlabel="row", ylabel=column)
        legend(figure, axes[0])
        return {"": figure}

    def arrays(self, record: dict) -> dict[str, Any]:
        """Return what goes into an .npz, by name; empty: there is none."""
        return {}

    def listed(self, record: dict) -> list[dict]:
        """Return the rows for those who read them one by one: kind, size, term, ... of a record."""
        return [{"kind": type(self).__name__, **row} for row in record["rows"]]

    def differences(self, one: "Told", other: "Told") -> list[dict]:
        """Return rows of how one network's numbers differ from another's: size, term, difference,
        error, low and high; what has no such, [].

        Each is told as (subject, measure of this kind, results of its tasks).
        """
        return []

    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """Give what a study can show, by the names in the registry (`Column.value`), of an item of
        the record's "models", as the script left it in its json."""
        return {}

    @staticmethod
    def lines(model: dict) -> list["Line"]:
        """Give what a study draws of a model, a line on each of its panels; as `shown`."""
        return []


class Line(NamedTuple):
    """A curve, and how its panel looks: `scale` of both axes; `level`, a grey line across."""

    title: str
    x: list[float]
    y: list[float]
    xlabel: str
    ylabel: str
    scale: str = "linear"
    level: float | None = None


def write(measure: Measure, record: dict, stem: str, folder: str, kind: str = "png") -> list[str]:
    """Write the csv and npz files of a record and its pictures, of `kind`, which are named stem +
    end; their paths."""
    begin = os.path.join(folder, stem)
    paths = [
        disk.write_csv(without_nan(rows), f"{begin}{end}.csv")
        for end, rows in measure.tables(record).items()
    ]
    if arrays := measure.arrays(record):
        paths.append(f"{begin}.npz")
        with disk.writing(paths[-1]) as file:
            np.savez(file, **{name: np.array(values) for name, values in arrays.items()})
    for end, figure in measure.figures(record).items():
        paths.append(figures.save(figure, f"{begin}{end}", kind, dpi=figure.dpi))
    return paths


def without_nan(value: Any) -> Any:
    """Replace nan, which JSON has not: a mean over no image is null, and an empty cell."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def number(value: float | str | None) -> str:
    """Write a cell of a table: four digits; a text as it is; empty for None and nan."""
    if isinstance(value, str):
        return value
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


class Picture(Figure):
    """A figure that notebooks show, with pyplot or without."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def panels(count: int, most: int = 3) -> tuple[Figure, np.ndarray]:
    """Make a figure of at most so many panels in a row, with grids, and its axes [count]."""
    columns = 2 if count == 4 else min(count, most)
    rows = math.ceil(count / columns)
    figure = Picture(figsize=(WIDTH * columns, HEIGHT * rows), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis in axes[:count]:
        axis.grid(alpha=0.3)
    for axis in axes[count:]:
        axis.axis("off")
    return figure, axes[:count]


def legend(figure: Figure, axis, note: str = "") -> None:
    """Put the axis's legend below all panels, in as many columns as there is room for."""
    handles, labels = axis.get_legend_handles_labels()
    letters = 11 * figure.get_figwidth()  # that fit side by side
    columns = max(1, min(len(labels), int(letters / (6 + max(map(len, labels))))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=note or None)
