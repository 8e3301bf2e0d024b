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
from ..measure import evaluation
from ..report import page
from ..store import checkpoint
from ..store.disk import write_csv, writing
from ..weights import averaging
from . import claims, pictures, tables, words
from .axes import features_of
from .matrix import Model
from .rows import not_finite, rows_of, summary

TITLE = "Flatness: what it costs, what it buys"
FAIR = claims.FAIR
OUTCOME = {claims.HOLDS: "SAM wins", claims.FAILS: "SAM loses", claims.UNDECIDED: "undecided"}
FAIR_TEXT = (
    "Is the second pass worth it? The Frechet distance of each gradient that climbs, less that of "
    "Adam of the same cost within 2 %:"
)


def write(models: list[Model], flags) -> list[str]:
    """All files, into log_dir; returns their paths. A sentence where no training is done."""
    rows = rows_of(models)
    if not rows:
        print(f"no report yet: none of the {len(models)} models of this study is trained")
        return []
    found = claims.verdicts(rows)
    settings = settings_of(flags)
    folder = flags.run.log_dir
    paths = {name: os.path.join(folder, name) for name in FILES}
    content = Report(models, rows, found, settings)
    os.makedirs(os.path.join(folder, "figures"), exist_ok=True)
    _write_text(paths["report.html"], content.html())
    _write_text(paths["report.md"], content.markdown())
    for name, (svg, _) in content.pictures.items():
        _write_text(os.path.join(folder, "figures", f"{name}.svg"), svg)
    write_csv([_without_helpers(row) for row in rows], paths["study.csv"])
    told = {"settings": settings, "rows": rows, "summary": content.summary}
    verdicts = [dataclasses.asdict(v) for v in found]
    checkpoint.save_json(told | {"claims": verdicts}, paths["study.json"])
    return list(paths.values())


FILES = ("report.html", "report.md", "study.csv", "study.json")


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
    """The source's commit, and whether files differ from it; the version, where it is installed."""
    git = functools.partial(
        subprocess.run, cwd=os.path.dirname(__file__), capture_output=True, text=True, check=True
    )
    try:
        git(["git", "ls-files", "--error-unmatch", __file__])  # of no repository around it
        return git(["git", "describe", "--always", "--dirty", "--abbrev=12"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__


def _without_helpers(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in ("climbs", "matched")}


def _write_text(path: str, text: str) -> None:
    with writing(path, "w") as file:
        file.write(text)


class Report:
    """What the page and the Markdown share."""

    def __init__(self, models, rows, found, settings):
        self.models, self.rows, self.found, self.settings = models, rows, found, settings
        self.summary = summary(rows)
        self.distance = evaluation.distance_name(settings["features"])
        self.term = pictures.term_of(models)
        self.pictures = self.figures()
        self.on_cpu = settings["device"] == "cpu"  # where jobs share cores, the clock says little

    def about(self) -> str:
        f = self.settings["flags"]
        trained = len({m.training.cell.key for m in self.models})
        seeds = f["study"]["seeds"]
        return (
            f"{trained} trainings ({seeds} seed{'s' * (seeds > 1)} of each kind), "
            f"{len(self.models)} models, images of {f['model']['image_size']} pixels; commit "
            f"{self.settings['commit'] or 'unknown'}, torch {self.settings['torch']}, "
            f"{self.settings['device']}."
        )

    def missing(self) -> list[str]:
        """What a reader should know before any number."""
        all_cells = {cell.key: cell for m in self.models for cell in m.cells.values()}
        left = sum(cell.result() is None for cell in all_cells.values())
        told = [f"{left} of {len(all_cells)} measurements are missing."] if left else []
        if strange := not_finite(self.models):
            told.append(f"Not finite, and left out as if missing: {'; '.join(strange)}.")
        if any(m.average == "ema" for m in self.models):
            rates = self.settings["flags"]["train"]["ema_rate"]
            texts = [averaging.caution(float(rates.split(",")[0]), n) for n in self._steps()]
            told += [f"{text[0].upper()}{text[1:]}." for text in texts if text]
        return told

    def _steps(self) -> list[int]:
        return list(dict.fromkeys(m.training.steps for m in self.models))

    def short(self) -> str:
        """The paper's claims, counted."""
        paper = [f for f in self.found if f.place != FAIR]
        plain, after = (
            {verdict: told.count(verdict) for verdict in claims.VERDICTS}
            for told in ([f.verdict for f in paper], [f.holm for f in paper])
        )
        return (
            f"Of {len(paper)} claims of the paper, {plain[claims.HOLDS]} hold, "
            f"{plain[claims.FAILS]} do not, and {plain[claims.UNDECIDED]} are undecided at 95 %, "
            f"each for itself. Taken together, by Holm's correction for all of them, "
            f"{after[claims.HOLDS]} hold and {after[claims.FAILS]} do not."
        )

    def fair(self) -> list[str]:
        """Each gradient that climbs against Adam of equal cost, in sentences."""
        told = []
        for v in (v for v in self.found if v.place == FAIR):
            name, _, against = v.text.partition(" has a lower distance than ")
            side = "lower (better)" if v.estimate < 0 else "higher (worse)"
            interval = "" if v.low is None else f" (95 % interval {v.low:+.3g} to {v.high:+.3g})"
            told.append(
                f"{name} against {against.replace(' at equal cost', '')}: {side} by "
                f"{abs(v.estimate):.3g}{interval}: {OUTCOME[v.verdict]}"
            )
        alone = [s for s in claims.climbing(self.rows) if not claims.of_equal_cost(self.rows, s)]
        return told + [f"{name}: no Adam of the same cost stands beside it" for name in alone]

    def tables(self) -> list[tuple[str, tables.Table, str, str]]:
        """Title, table, kind, and what is said below."""
        seconds = "processor_seconds" if self.on_cpu else "seconds"
        samples = self.settings["flags"]["study"]["num_samples"]
        about = {"seconds": seconds, "samples": samples, "term": self.term}
        floor = next((r for m in self.models if (r := m.cells["floor"].result())), None)
        quality = tables.quality(self.summary, self.distance, floor, about)
        flatness = tables.flatness(self.summary, self.distance)
        exposure = tables.exposure(self.summary)
        return [
            ("Quality and cost", quality, "", ""),
            ("The claims", tables.claims(self.found), "text", ""),
            ("Flatness and rounding", flatness, "", ""),
            (
                "Exposure bias: the norm of the predicted noise",
                exposure,
                "",
                words.underfitting(self.summary),
            ),
        ]

    def figures(self) -> dict[str, tuple[str, str]]:
        """SVG and caption by name."""
        draw, models = pictures, self.models
        return {
            "perturbation": (
                draw.under_perturbation(models),
                f"The {self.term} where weights are moved.",
            ),
            "rounding": (
                draw.flatness_and_rounding(models, self.rows),
                "Does sharpness cost quality under rounded weights? A point is a model.",
            ),
            "exposure": (
                draw.exposure(models),
                "Exposure bias: predicted noise on real images and along the chain.",
            ),
            "training": (draw.training(models), "Training, by steps and by cost."),
        }

    def html(self) -> str:
        p = page
        parts = [p.heading(TITLE, 1), p.paragraph(self.about(), "dim")]
        parts += map(p.paragraph, self.missing())
        parts += [p.heading("In short"), p.paragraph(self.short())]
        if fair := self.fair():
            parts += [p.paragraph(FAIR_TEXT), p.bullets(fair)]
        for title, (header, rows), kind, below in self.tables():
            parts += [p.heading(title), p.table(header, rows, kind)]
            parts += [p.paragraph(below)] * bool(below)
        parts += [p.heading("Figures"), *(p.figure(*f) for f in self.pictures.values())]
        parts += self._grids()
        parts += [p.heading("How to read this"), p.bullets(words.notes(self))]
        parts += [p.heading("Command"), f"<pre>{self.settings['command']}</pre>"]
        parts.append(p.details("Every setting", json.dumps(self.settings, indent=2)))
        return p.page(TITLE, parts)

    def _grids(self) -> list[str]:
        """The first seed's samples: a row for each gradient, a column for each number of bits."""
        names = self._sampled()
        seed = self.models[0].training.seed
        average = next(
            a for a in ("ema", "swa", "none") if any(m.average == a for m in self.models)
        )
        pictures = []
        for model in self.models:
            if model.training.seed == seed and model.average == average:
                files = [_picture(model.cells[name]) for name in names]
                if all(files):
                    captions = [f"{tables.label(_label_row(model))}, {_bits(n)}" for n in names]
                    pictures += zip(files, captions)
        if not pictures:
            return []
        title = f"Samples of seed {seed}, each from the same noise"
        return [page.heading(title), page.grids(pictures, len(names))]

    def _sampled(self) -> list[str]:
        """The cells of samples in the fewest steps: fp32 first."""
        names = [n for n in self.models[0].cells if n.startswith("samples_")]
        return [n for n in names if n.split("_")[1] == names[0].split("_")[1]]

    def markdown(self) -> str:
        parts = [f"# {TITLE}", self.about(), *self.missing()]
        parts += ["## In short", self.short()]
        if fair := self.fair():
            parts += [FAIR_TEXT, _listed(fair)]
        for title, table, _, below in self.tables():
            parts += [f"## {title}", tables.as_markdown(table), below]
        for name, (_, caption) in self.pictures.items():
            parts.append(f"![{caption}](figures/{name}.svg)")
        parts += ["## How to read this", _listed(words.notes(self))]
        parts += ["## Command", f"    {self.settings['command']}"]
        return "\n\n".join(filter(None, parts)) + "\n"


def _listed(texts: list[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _label_row(model: Model) -> dict:
    t = model.training
    return {"gradient": t.gradient, "input_pertub": t.input_pertub, "average": model.average}


def _bits(name: str) -> str:
    return f"{name.partition('_w')[2] or 32} bits"


def _picture(cell) -> bytes | None:
    """The grid of a cell of samples."""
    found = sorted(Path(cell.folder).glob("samples_*.png"))
    return found[0].read_bytes() if found else None
