"""What a study found, from the cells that are done, as report.html, .md, study.csv and .json."""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import sys
from pathlib import Path

from matplotlib.figure import Figure

from ..flags import config
from ..judge.names import metric_name
from ..report import figures, page
from ..report.text import bullets, markdown
from ..store import checkpoint, history
from ..store.disk import write_csv, writing
from . import across, claims, objectives, pictures, replicates, tables, variance, words
from .axes import features_of
from .matrix import Model
from .rows import columns_of, measures_of, rows_of, summary

BANDS = (
    "Lines are means over seeds; bands and bars are 95 % intervals of these means. A colour is a "
    "training, a style an average of its weights."
)
TITLE = "Flatness: what it costs, what it buys"


def write(models: list[Model], flags) -> list[str]:
    """All files, into log_dir; returns their paths. A sentence where no training is done."""
    rows = rows_of(models)
    if not rows:
        print(f"no report yet: none of the {len(models)} models of this study is trained")
        return []
    found = claims.verdicts(rows) + across.verdicts(rows)
    settings = settings_of(flags) | made_by(models)
    content = Report(models, rows, found, settings)
    text = content.markdown()
    more = page.details("Every setting", json.dumps(settings, indent=2))
    html = page.page(TITLE, f"{text}\n{more}\n", content.files)
    texts = {"report.html": html.encode(), "report.md": text.encode()}
    folder = flags.run.log_dir
    os.makedirs(os.path.join(folder, "figures"), exist_ok=True)
    for name, data in (texts | content.files).items():
        with writing(os.path.join(folder, name)) as file:
            file.write(data)
    if flags.study.format != "svg":
        for name, figure in content.drawn.items():
            figures.save(figure, os.path.join(folder, "figures", name), flags.study.format)
    paths = [os.path.join(folder, name) for name in (*texts, "study.csv", "study.json")]
    hidden = ("climbs", "matched", *(["objective"] if not rows[0]["objective"] else []))
    write_csv([{k: v for k, v in row.items() if k not in hidden} for row in rows], paths[2])
    told = {"settings": settings, "rows": rows, "summary": content.summary}
    told["claims"] = [dataclasses.asdict(v) for v in found]
    told |= {"scatter": content.scatter, "distances_made_by": words.made_by(content)}
    checkpoint.save_json(told, paths[3])
    return paths


def settings_of(flags) -> dict:
    """Every flag, and what else a number may depend on."""
    return {
        "command": command(sys.argv[1:]),
        "features": features_of(flags),
        "objectives": objectives.notes(flags),
        "flags": config.to_dict(flags),
    }


def made_by(models: list[Model]) -> dict[str, str]:
    """The commit, torch and device of the trainings, as they recorded them: a report may be written
    elsewhere, and later. Several stand side by side."""
    found: dict[str, dict] = {"commit": {}, "torch": {}, "device": {}}
    for model in models:
        path, known = os.path.join(model.training.cell.folder, checkpoint.CONFIG), []
        with contextlib.suppress(OSError, ValueError):  # not begun
            known = checkpoint.load_json(path).get(history.HISTORY, known)
        for made in (stretch for stretch in known if found.keys() <= stretch.keys()):
            commit = made["commit"] or f"unknown, version {made.get('flatdiff')}"
            commit = re.sub(r"^(\w{12})\w{28}", r"\1", commit)
            for name, values in found.items():
                values[commit if name == "commit" else made[name]] = True
    return {name: ", ".join(values) or "not recorded" for name, values in found.items()}


def command(argv: list[str]) -> str:
    """What makes the report: also where it was written by --dry_run."""
    dry = argv.index("--dry_run") if "--dry_run" in argv else len(argv)
    return shlex.join(["python", "scripts/study.py", *argv[:dry], *argv[dry + 2 :]])


class Report:
    """The parts of the report, and the pictures that it links, `files`, by name."""

    def __init__(self, models, rows, found, settings):
        self.models, self.rows, self.found, self.settings = models, rows, found, settings
        self.summary, self.several = summary(rows), len(claims.by_objective(rows)) > 1
        self.distance = metric_name(settings["features"])
        there = (m for m in measures_of().values() if m.cells.keys() & models[0].cells.keys())
        self.verbs = list(dict.fromkeys(m.verb for m in there))
        self.on_cpu = "cpu" in settings["device"]  # where jobs share cores, the clock says little
        self.scatter = replicates.of_models(models, rows)
        self.files: dict[str, bytes] = {}
        self.drawn: dict[str, Figure] = {}

    def markdown(self) -> str:
        """The whole text."""
        parts = [f"# {TITLE}", words.about(self), *words.missing(self)]
        parts += ["## In short", *filter(None, [words.short(self.found)])]
        if compared := across.short(self.found):
            parts += [across.SHORT, bullets(compared)]
        if fair := words.fair(self.rows, self.found):
            parts += [words.FAIR, bullets(fair)]
        if controls := words.controls(self.found):
            parts += [words.CONTROLS, bullets(controls)]
        for title, table in self.tables().items():
            parts += [f"## {title}", table]
        parts += across.section(self.summary) if self.several else []
        parts += ["## Figures", BANDS, *self.figures(), *self.grids()]
        parts += ["## How to read this", bullets(words.notes(self))]
        parts += ["## Command", f"    {self.settings['command']}"]
        return "\n\n".join(parts) + "\n"

    def tables(self) -> dict[str, str]:
        """Gives the tables by title, in Markdown."""
        seconds = "processor_seconds" if self.on_cpu else "seconds"
        samples = self.settings["flags"]["study"]["num_samples"]
        floor = (self.models[0].cells["floor"].result() or {}).get("floor")  # of all models
        quality = tables.quality(self.summary, self.distance, floor, seconds, samples)
        told = tables.claims(self.found)
        ways = {c: f"{self.distance}, {tables.way(self.summary, c)}" for c in self.scatter}
        block = bullets(f"{name}: {text}" for name, text in words.made_by(self).items())
        found = {"Quality and cost": self._with_less(markdown(quality), ways) + f"\n\n{block}"}
        if len(along := tables.along(self.summary, self.rows)) > 1:
            found["Is training done?"] = f"{words.ALONG}\n\n{markdown(along)}"
        found["What scatters how much"] = self._scattered(ways)
        found["The claims"] = markdown(told, left=(0, 1, 2, len(told[0]) - 1))
        for verb in self.verbs:
            columns, title = columns_of(verb), words.measured(verb)
            more = {}
            if claims.sharpness() in columns:
                title = "Flatness and rounding"
                bits = {c: c.removeprefix("rise_w") for c in claims.rounding(self.rows)}
                more = {c: f"{self.distance} lost at {n} bits" for c, n in bits.items()}
            below = words.underfitting(self.summary) if claims.GAPS.keys() & columns else ""
            titles = tables.titles_of(verb, more)
            table = self._with_less(markdown(tables.measured(self.summary, verb, more)), titles)
            above = across.WITHIN if self.several else ""
            below = f"{below}\n\n{block}" if more else below
            found[title] = f"{above}\n\n{table}\n\n{below}".strip()
        return found

    def _with_less(self, table: str, titles: dict[str, str]) -> str:
        """The table, and under it the differences that it shows."""
        rows = tables.less(self.summary, self.rows, titles)
        return f"{table}\n\n{words.LESS}\n\n{markdown(rows, (0, 1))}" if len(rows) > 1 else table

    def _scattered(self, ways: dict[str, str]) -> str:
        """The components of variance of each distance."""
        rows = [["", *variance.table([])[0]]]
        for column, parts in self.scatter.items():
            found = variance.table([variance.Component(**part) for part in parts])[1:]
            rows += [[ways[column], *row] for row in found]
        return f"{markdown(rows, (0, 1))}\n\n{words.SCATTER}"

    def figures(self) -> list[str]:
        """Each a link to its picture. Bands and bars are of seeds, 95 %."""
        drawn = {"claims": (pictures.verdicts(self.found), words.CLAIMS)}
        drawn |= {v: (pictures.measured(self.models, v), words.measured(v)) for v in self.verbs}
        caption = "Does sharpness cost quality under rounded weights? A point is a model."
        if claims.rounding(self.rows):
            drawn["rounding"] = pictures.flatness_and_rounding(self.models, self.rows), caption
        drawn["training"] = pictures.training(self.models), "Training, by steps and cost."
        done = "The distance at the last checkpoints, and of real images: is training done?"
        drawn["checkpoints"] = pictures.along(self.models, self.summary, self.distance), done
        along = "How sharp the loss is along the steps of training."
        drawn["curvature"] = pictures.curvature(self.models), along
        if self.several:
            drawn |= across.figures(self)
        drawn = {name: each for name, each in drawn.items() if each[0]}
        for name, (figure, _) in drawn.items():
            self.drawn[name] = figure
            self.files[f"figures/{name}.svg"] = pictures.svg(figure).encode()
        return [f"![{caption}](figures/{name}.svg)" for name, (_, caption) in drawn.items()]

    def grids(self) -> list[str]:
        """The first seed's samples: a row for each gradient, a column for each number of bits."""
        names = [n for n in self.models[0].cells if n.startswith("samples_")]
        names = [n for n in names if n.split("_")[1] == names[0].split("_")[1]]  # fewest steps
        seed = self.models[0].training.seed
        average = next((m.average for m in self.models if m.average != "none"), "none")
        rows = [["", *map(tables.way_of_grid, names)]]
        for model in self.models:
            if (model.training.seed, model.average) == (seed, average):
                cells = [self._picture(model.cells[name]) for name in names]
                rows += [[tables.label(model.kind), *cells]] if all(cells) else []
        told = [f"## Samples of seed {seed}, each from the same noise", markdown(rows)]
        return told if len(rows) > 1 else []

    def _picture(self, cell) -> str:
        """A link to the grid of a cell of samples; "" where there is none."""
        found = sorted(Path(cell.folder).glob("samples_*.png"))
        if not found:
            return ""
        name = f"figures/samples-{cell.key}.png"
        self.files[name] = found[0].read_bytes()
        return f"![samples]({name})"
