"""The door to measuring: `flatness(subject, kinds)`, and what it found.

    found = flatness(subject, ["LPF", "MC", "HESSIAN"], sigma=[1e-3], radius=[1.0], num_draws=20)
    found.rows, found.compare(other), found.plot(), found.to_json()

Measures, their numbers and their errors are those of the script, which stands on the same feet.
"""

import html
import inspect
import itertools
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ..flags import choices, config
from ..report.text import table
from ..store import disk
from ..world.arithmetic import arithmetic
from . import frame
from .chains import fingerprint
from .curve import SIGMAS
from .finished import Finished
from .subject import Subject


class Rows(list):
    """A list of dicts, shown as tables: one for each run of rows with the same columns."""

    def __repr__(self) -> str:
        return "\n\n".join(map(table, self._tables())) or "no rows"

    def _repr_html_(self) -> str:
        return "".join(map(_html, self._tables()))

    def _tables(self) -> list[list[list[str]]]:
        groups = itertools.groupby(self, key=list)
        return [
            [columns, *([_cell(row[column]) for column in columns] for row in rows)]
            for columns, rows in groups
        ]


def _html(rows: list[list[str]]) -> str:
    cells = zip(itertools.chain(["th"], itertools.repeat("td")), rows)
    lines = ("".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) for tag, row in cells)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(value: Any) -> str:
    return frame.number(value) if isinstance(value, float) else "" if value is None else str(value)


def made(text: str, group: Any) -> frame.Measure:
    """Make the measure that a text as "TOY scale=2" names, by its knobs and a group's flags."""
    kind, knobs = choices.chosen(choices.MEASURES, text)
    known = inspect.signature(kind).parameters
    return kind(**{k: v for k, v in vars(group).items() if k in known} | knobs)


def measured(
    measure: frame.Measure, subject: Subject, finished: Finished, models: int = 1
) -> tuple[dict, list]:
    """Return what a measure says of one of so many models, with where it came from; and the results
    of its tasks."""
    tasks = measure.tasks(subject)
    if finished.bar.n == finished.bar.total:  # what was expected is done
        finished.expect(len(tasks) * models)
    found = finished.compute(tasks, measure.together, subject.key)
    return subject.about() | measure.result(subject, found), found


@arithmetic(tf32=False)
@torch.enable_grad()
def flatness(
    subject: Subject,
    kinds: str | Sequence[str] = "LPF",
    *,
    seed: int | None = None,
    sigma: float | Sequence[float] = (),
    radius: float | Sequence[float] = (),
    num_draws: int = 20,
    num_eigenvalues: int = 5,
    noise_scale: str = "absolute",
    surface_points: int = 21,
    surface_range: float = 1.0,
    folder: str = "",
    progress: bool = True,
) -> "Found":
    """Measure how flat the loss of a subject is around its weights as they stand.

    :param kinds: LPF (Gaussian weight noise of each deviation `sigma`), MC (random directions of
        each length `radius`), HESSIAN (trace by `num_draws` probes, and `num_eigenvalues`),
        SURFACE, EXPLAIN and ROUNDING (why, and how much, rounding hurts, at knobs `bits` and
        `quantizers`); one or several, each with knobs behind it, as "HESSIAN product=exact".
    :param seed: of the moves of the weights; None: the subject's.
    :param sigma, radius: a size or several; empty: five, as the script has them.
    :param num_draws: moves of each size, in mirrored pairs, 4 or more.
    :param noise_scale: "absolute"; "filter", "weight": moves in proportion to each filter's or
        weight's length; "canonical": as the network's symmetries leave them (`measure.units`).
    :param folder: where finished moves are kept, so that a call that was interrupted goes on; "":
        nowhere.
    :raises ValueError: for what makes no sense, before long work.
    """
    if not isinstance(subject, Subject):
        hint = ": it has no images yet; .on(images) gives them" if hasattr(subject, "on") else ""
        raise ValueError(f"expected what flatdiff.subject makes, got {subject!r}{hint}")
    if noise_scale not in SIGMAS:
        raise ValueError(f"noise_scale is {noise_scale!r}; expected {' or '.join(SIGMAS)}")
    for name, value in (("num_draws", num_draws), ("num_eigenvalues", num_eigenvalues)):
        if not isinstance(value, int):
            raise ValueError(f"{name} is {value!r}; expected a whole number")
    sizes = {"sigma": np.atleast_1d(sigma), "radius": np.atleast_1d(radius)}
    given = {k: ",".join(map(repr, map(float, v))) for k, v in sizes.items() if len(v)}
    given |= {"num_draws": num_draws, "num_eigenvalues": num_eigenvalues}
    given |= {"noise_scale": noise_scale, "surface_points": surface_points}
    given |= {"surface_range": surface_range}
    group = SimpleNamespace(**vars(config.FlatnessFlags()) | given)
    measures = _measures([kinds] if isinstance(kinds, str) else list(kinds), group)
    subject = subject.anew(subject.seed if seed is None else seed)
    subject.hidden = not progress
    if folder:  # the losses and the weights are told from those of other calls
        subject.key = fingerprint([subject.weights, subject.own, subject.drawn, subject.seed])
    records, parts = {}, {}
    with Finished(folder, hidden=not progress) as finished:
        for kind, measure in measures.items():
            model, parts[kind] = measured(measure, subject, finished)
            records[kind] = {"settings": given | {"seed": subject.seed}, "models": [model]}
            records[kind]["rows"] = measure.rows(records[kind])
    return Found(subject, measures, records, parts)


def _measures(kinds: list[str], group: Any) -> dict[str, frame.Measure]:
    """Make the measures by kind; ValueError where there is none, or one comes twice."""
    names = [choices.named(choices.FLATNESS, text)[0] for text in kinds]
    if not names or len({*names}) < len(names):
        known = ", ".join(choices.FLATNESS)
        raise ValueError(f"kinds is {kinds}; expected one of {known}, or several, each once")
    return {name: made(text, group) for name, text in zip(names, kinds)}


class Found:
    """What was measured of a subject.

    rows: dicts; of LPF and MC kind, size, term, at_w, rise and error, of the whole range; of
    HESSIAN kind, size (the number of the eigenvalue from 1, or "trace"), term, value and error.
    error: the standard error over draws of the move and over examples together, the root of the sum
    of the squares of error_draws (of an eigenvalue the residual) and error_examples. parts: the
    same rows by part of the noise levels, where there are such.
    """

    def __init__(self, subject: Subject, measures: dict, records: dict, results: dict):
        self.subject, self.measures, self.records = subject, measures, records
        self.results = results  # of the measures' tasks
        every = [row for kind, m in measures.items() for row in m.listed(records[kind])]
        self.rows = Rows(row for row in every if row.get("part", "all") == "all")
        self.parts = Rows(row for row in every if row.get("part", "all") != "all")
        for row in self.rows:
            row.pop("part", None)

    def compare(self, other: "Found") -> Rows:
        """Return this less another, of each kind, size and term in both: difference, its error, and
        low and high, the ends of a 95 % interval.

        It is paired draw by draw where both have the same seed and number of draws, and example by
        example where these are the same, at the same levels: what either does to both cancels.
        ValueError where nothing was measured of both, or they are of another number of examples.
        """
        if not isinstance(other, Found):
            raise ValueError(f"expected what flatdiff.flatness gave for another, got {other!r}")
        if self.subject.size != other.subject.size:
            raise ValueError(
                f"{self.subject.name} was measured on {self.subject.size} examples and "
                f"{other.subject.name} on {other.subject.size}: measure both on the same draws"
            )
        rows = Rows()
        for kind in (kind for kind in self.measures if kind in other.measures):
            told = [(f.subject, f.measures[kind], f.results[kind]) for f in (self, other)]
            rows += [{"kind": kind, **row} for row in self.measures[kind].differences(*told)]
        if not rows:
            both = " and ".join(f"{list(f.measures)} of {f.sizes}" for f in (self, other))
            raise ValueError(
                f"nothing was measured of both: {both}; expected a kind and size alike, at one "
                "noise_scale"
            )
        return rows

    @property
    def sizes(self) -> list:
        """What was measured: sigmas, lengths, numbers of eigenvalues."""
        return list(dict.fromkeys(row["size"] for row in self.rows if "size" in row))

    def plot(self, kind: str = "") -> Figure:
        """Draw one kind, by default the first."""
        kind = kind or next(iter(self.measures))
        if kind not in self.measures:
            raise ValueError(f"{kind} was not measured, but {', '.join(self.measures)}")
        return self.measures[kind].figures(self.records[kind])[""]

    def to_json(self, path: str = "") -> str:
        """Return rows, parts, settings and where the network came from as JSON; with a path, also
        write it there."""
        first = next(iter(self.records.values()))
        about = {
            k: v for k, v in first["models"][0].items() if k in ("name", "path", "num_weights")
        }
        content = {"rows": self.rows, "parts": self.parts, "settings": first["settings"]}
        text = json.dumps(frame.without_nan(about | content), indent=1)
        if path:
            with disk.writing(path, "w") as file:
                file.write(text)
        return text

    def __repr__(self) -> str:
        return repr(self.rows)

    def _repr_html_(self) -> str:
        return self.rows._repr_html_()
