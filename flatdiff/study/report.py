"""What a study found: report.html, report.md with figures/, study.csv, study.json, from the cells.

Written at the end of each run, of whatever is there by then.
"""

import dataclasses
import functools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from .. import __version__
from ..flags import config
from ..judge.names import metric_name
from ..report import page
from ..report.text import bullets, markdown
from ..store import checkpoint
from ..store.disk import write_csv, writing
from . import claims, pictures, tables, words
from .axes import features_of
from .matrix import Model
from .rows import columns_of, measures_of, rows_of, summary

TITLE = "Flatness: what it costs, what it buys"
FILES = ("report.html", "report.md", "study.csv", "study.json")


def write(models: list[Model], flags) -> list[str]:
    """All files, into log_dir; returns their paths. A sentence where no training is done."""
    rows = rows_of(models)
    if not rows:
        print(f"no report yet: none of the {len(models)} models of this study is trained")
        return []
    found, settings = claims.verdicts(rows), settings_of(flags)
    folder = flags.run.log_dir
    os.makedirs(os.path.join(folder, "figures"), exist_ok=True)
    content = Report(models, rows, found, settings)
    text = content.markdown()
    more = page.details("Every setting", json.dumps(settings, indent=2))
    html = page.page(TITLE, f"{text}\n{more}\n", content.files)
    html_path, text_path, table_path, json_path = (os.path.join(folder, name) for name in FILES)
    texts = {html_path: html.encode(), text_path: text.encode()}
    for path, data in (
        texts | {os.path.join(folder, k): v for k, v in content.files.items()}
    ).items():
        with writing(path) as file:
            file.write(data)
    hidden = ("climbs", "matched")
    write_csv([{k: v for k, v in row.items() if k not in hidden} for row in rows], table_path)
    told = {"settings": settings, "rows": rows, "summary": content.summary}
    verdicts = [dataclasses.asdict(v) for v in found]
    checkpoint.save_json(told | {"claims": verdicts}, json_path)
    return [html_path, text_path, table_path, json_path]


def settings_of(flags) -> dict:
    """Every flag, and what else a number may depend on."""
    return {
        "command": command(sys.argv[1:]),
        "commit": commit(),
        "torch": torch.__version__,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "features": features_of(flags),
        "flags": config.to_dict(flags),
    }


def command(argv: list[str]) -> str:
    """What makes the report: also where it was written by --dry_run."""
    dry = argv.index("--dry_run") if "--dry_run" in argv else len(argv)
    return shlex.join(["python", "scripts/study.py", *argv[:dry], *argv[dry + 2 :]])


def commit() -> str:
    """Which source it was: its commit, "-dirty" where files differ from that; the version where
    it is installed."""
    git = functools.partial(
        subprocess.run, cwd=os.path.dirname(__file__), capture_output=True, text=True, check=True
    )
    try:
        git(["git", "ls-files", "--error-unmatch", __file__])  # of no repository around it
        return git(["git", "describe", "--always", "--dirty", "--abbrev=12"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__


class Report:
    """The parts of the report, and the pictures that it links, `files`, by name."""

    def __init__(self, models, rows, found, settings):
        self.models, self.rows, self.found, self.settings = models, rows, found, settings
        self.summary = summary(rows)
        self.distance = metric_name(settings["features"])
        self.verbs = list(dict.fromkeys(m.verb for m in measures_of().values()))
        self.on_cpu = settings["device"] == "cpu"  # where jobs share cores, the clock says little
        self.files: dict[str, bytes] = {}

    def markdown(self) -> str:
        """The whole text."""
        parts = [f"# {TITLE}", words.about(self), *words.missing(self)]
        parts += ["## In short", words.short(self.found)]
        if fair := words.fair(self.rows, self.found):
            parts += [words.FAIR, bullets(fair)]
        for title, table in self.tables().items():
            parts += [f"## {title}", table]
        parts += ["## Figures", *self.figures(), *self.grids()]
        parts += ["## How to read this", bullets(words.notes(self))]
        parts += ["## Command", f"    {self.settings['command']}"]
        return "\n\n".join(filter(None, parts)) + "\n"

    def tables(self) -> dict[str, str]:
        """By title, in Markdown."""
        seconds = "processor_seconds" if self.on_cpu else "seconds"
        samples = self.settings["flags"]["study"]["num_samples"]
        results = (model.cells["floor"].result() for model in self.models)
        floor = next((r["floor"] for r in results if r), None)
        quality = tables.quality(self.summary, self.distance, floor, seconds, samples)
        told = tables.claims(self.found)
        found = {
            "Quality and cost": markdown(quality),
            "The claims": markdown(told, left=(0, 1, 2, len(told[0]) - 1)),
        }
        for verb in self.verbs:
            columns, title = columns_of(verb), words.measured(verb)
            more = {}
            if claims.sharpness() in columns:
                title = "Flatness and rounding"
                bits = {c: c.removeprefix("rise_w") for c in claims.rounding(self.rows)}
                more = {c: f"{self.distance} lost at {n} bits" for c, n in bits.items()}
            below = words.underfitting(self.summary) if claims.GAPS.keys() & columns else ""
            table = markdown(tables.measured(self.summary, verb, more))
            found[title] = f"{table}\n\n{below}".strip()
        return found

    def figures(self) -> list[str]:
        """Each a link to its picture."""
        return [
            *(
                self._linked(verb, pictures.measured(self.models, verb), words.measured(verb))
                for verb in self.verbs
            ),
            self._linked(
                "rounding",
                pictures.flatness_and_rounding(self.models, self.rows),
                "Does sharpness cost quality under rounded weights? A point is a model.",
            ),
            self._linked(
                "training", pictures.training(self.models), "Training, by steps and cost."
            ),
        ]

    def _linked(self, name: str, svg: str, caption: str) -> str:
        self.files[f"figures/{name}.svg"] = svg.encode()
        return f"![{caption}](figures/{name}.svg)"

    def grids(self) -> list[str]:
        """The first seed's samples: a row for each gradient, a column for each number of bits."""
        names = [n for n in self.models[0].cells if n.startswith("samples_")]
        names = [n for n in names if n.split("_")[1] == names[0].split("_")[1]]  # fewest steps
        seed = self.models[0].training.seed
        averages = dict.fromkeys(m.average for m in self.models if m.average != "none")
        average = next(iter(averages), "none")
        rows = [["", *(f"{name.partition('_w')[2] or 32} bits" for name in names)]]
        for model in self.models:
            if model.training.seed == seed and model.average == average:
                cells = [self._picture(model.cells[name]) for name in names]
                rows += [[tables.label(model.kind), *cells]] if all(cells) else []
        if len(rows) == 1:
            return []
        return [f"## Samples of seed {seed}, each from the same noise", markdown(rows)]

    def _picture(self, cell) -> str:
        """A link to the grid of a cell of samples; "" where there is none."""
        found = sorted(Path(cell.folder).glob("samples_*.png"))
        if not found:
            return ""
        name = f"figures/samples-{cell.key}.png"
        self.files[name] = found[0].read_bytes()
        return f"![samples]({name})"
