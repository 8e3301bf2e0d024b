"""What a study found: report.html, report.md with figures/, study.csv, study.json, from the cells.

Written at the end of each run, of whatever is there by then.
"""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from . import checkpoint, claims, config, evaluation, study_page, study_pictures, study_tables
from .disk import write_csv, writing
from .study import Model
from .study_axes import features_of
from .study_rows import rows_of, summary

ROOT = Path(__file__).parents[1]
TITLE = "Flatness: what it costs, what it buys"
FAIR = "not in the paper"
OUTCOME = {claims.HOLDS: "SAM wins", claims.FAILS: "SAM loses", claims.UNDECIDED: "undecided"}
FAIR_TEXT = (
    "Is the second pass worth it? The Frechet distance of SAM less that of Adam at equal cost:"
)


def write(models: list[Model], flags) -> list[str]:
    """All files, into log_dir; returns their paths. Nothing where no training is done."""
    rows = rows_of(models)
    if not rows:
        return []
    found = claims.verdicts(rows)
    settings = settings_of(flags)
    folder = flags.run.log_dir
    paths = {name: os.path.join(folder, name) for name in FILES}
    content = Report(models, rows, found, settings)
    _write_text(paths["report.html"], content.html())
    _write_text(paths["report.md"], content.markdown())
    os.makedirs(os.path.join(folder, "figures"), exist_ok=True)
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
    """Of the source, and whether files differ from it; "" outside a repository."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _without_helpers(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in ("climbs", "twice")}


def _write_text(path: str, text: str) -> None:
    with writing(path, "w") as file:
        file.write(text)


class Report:
    """What the page and the Markdown share."""

    def __init__(self, models, rows, found, settings):
        self.models, self.rows, self.found, self.settings = models, rows, found, settings
        self.summary = summary(rows)
        self.distance = evaluation.distance_name(settings["features"])
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

    def missing(self) -> str:
        all_cells = [cell for m in self.models for cell in m.cells.values()]
        left = sum(cell.result() is None for cell in all_cells)
        return f"Not finished: {left} of {len(all_cells)} measurements are missing." if left else ""

    def short(self) -> str:
        """The paper's claims, counted."""
        paper = [f.verdict for f in self.found if f.place != FAIR]
        count = {verdict: paper.count(verdict) for verdict in claims.VERDICTS}
        return (
            f"Of {len(paper)} claims of the paper, {count[claims.HOLDS]} hold, "
            f"{count[claims.FAILS]} do not, and {count[claims.UNDECIDED]} are undecided at 95 %."
        )

    def fair(self) -> list[str]:
        """SAM against Adam of equal cost, in sentences."""
        told = []
        for v in (v for v in self.found if v.place == FAIR):
            name, steps = v.text.partition(" has ")[0], v.text.rpartition(", ")[2]
            side = "lower (better)" if v.estimate < 0 else "higher (worse)"
            interval = "" if v.low is None else f" (95 % interval {v.low:+.3g} to {v.high:+.3g})"
            told.append(
                f"{name}, {steps}: {side} by {abs(v.estimate):.3g}{interval}: {OUTCOME[v.verdict]}"
            )
        return told

    def notes(self) -> list[str]:
        f = self.settings["flags"]
        s, train = f["study"], f["train"]
        rate = "constant" if not train["lr_anneal_steps"] else "annealed"
        return [
            f"± is the standard error over seeds. {self.distance} is the Frechet distance between "
            f"features of {s['num_samples']} samples and of the training data: compare it within "
            "this study only. Bold: the lowest of a column.",
            f"All averages are of the same trainings, whose learning rate is {rate}: EMA and SWA "
            "only watch the weights. SWA is the mean over the last quarter of the steps, unless "
            "flags say otherwise.",
            "All models are measured on the same images, timesteps, noise and weight "
            "perturbations. LPF and MC are the rise of the loss at the middle sigma and radius; "
            "the eigenvalue is that of the Hessian of the mean squared error.",
            "Images are those that a gradient was taken of: a step of SAM takes two of each. "
            f"{'Processor seconds' if self.on_cpu else 'Seconds'} are of the training alone.",
            "A verdict pairs models by seed: Student's t interval of the difference at 95 %. One "
            "claim in twenty without an effect is decided by chance; with few seeds, only large "
            "effects are. A negative difference is for the claim.",
        ]

    def tables(self) -> list[tuple[str, study_tables.Table, str]]:
        """Title, table, kind."""
        seconds = "processor_seconds" if self.on_cpu else "seconds"
        quality = study_tables.quality(self.summary, self.distance, seconds)
        flatness = study_tables.flatness(self.summary, self.distance)
        return [
            ("Quality and cost", quality, ""),
            ("The claims", study_tables.claims(self.found), "text"),
            ("Flatness, rounding, exposure bias", flatness, ""),
        ]

    def figures(self) -> dict[str, tuple[str, str]]:
        """SVG and caption by name."""
        draw, models = study_pictures, self.models
        return {
            "perturbation": (draw.under_perturbation(models), "The loss where weights are moved."),
            "rounding": (
                draw.flatness_and_rounding(models, self.rows),
                "Does sharpness cost quality under rounded weights? A point is a model.",
            ),
            "exposure": (draw.exposure(models), "Exposure bias: predicted noise along the chain."),
            "training": (draw.training(models), "Training, by steps and by cost."),
        }

    def html(self) -> str:
        p = study_page
        parts = [p.heading(TITLE, 1), p.paragraph(self.about(), "dim")]
        parts += [p.paragraph(self.missing())] * bool(self.missing())
        parts += [p.heading("In short"), p.paragraph(self.short())]
        if fair := self.fair():
            parts += [p.paragraph(FAIR_TEXT), p.bullets(fair)]
        for title, (header, rows), kind in self.tables():
            parts += [p.heading(title), p.table(header, rows, kind)]
        parts += [p.heading("Figures"), *(p.figure(*f) for f in self.pictures.values())]
        parts += self._grids()
        parts += [p.heading("How to read this"), p.bullets(self.notes())]
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
                    captions = [
                        f"{study_tables.label(_label_row(model))}, {_bits(n)}" for n in names
                    ]
                    pictures += zip(files, captions)
        if not pictures:
            return []
        title = f"Samples of seed {seed}, each from the same noise"
        return [study_page.heading(title), study_page.grids(pictures, len(names))]

    def _sampled(self) -> list[str]:
        """The cells of samples in the fewest steps: fp32 first."""
        names = [n for n in self.models[0].cells if n.startswith("samples_")]
        return [n for n in names if n.split("_")[1] == names[0].split("_")[1]]

    def markdown(self) -> str:
        parts = [f"# {TITLE}", self.about(), self.missing()]
        parts += ["## In short", self.short()]
        if fair := self.fair():
            parts += [FAIR_TEXT, _listed(fair)]
        for title, table, _ in self.tables():
            parts += [f"## {title}", study_tables.as_markdown(table)]
        for name, (_, caption) in self.pictures.items():
            parts.append(f"![{caption}](figures/{name}.svg)")
        parts += ["## How to read this", _listed(self.notes())]
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
