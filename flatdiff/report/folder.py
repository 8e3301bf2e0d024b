"""What runs and measures left in a folder and its folders, on one page: a table, a sentence, and
every picture with its caption. Reads distances.json and flatness.json, and knows no networks.
"""

import html
import json
import os
import re
from pathlib import Path

from scipy import stats

from .. import __version__
from ..store import disk
from . import page
from .text import Rows, markdown, table, with_error

REAL = "real images"
LPF = "rise of mse at sigma "
CAPTIONS = {  # of pictures by the end of their names' stems, in the order of the page
    "distances": "How far samples are from real images, by the bits of the weights: lower is "
    "closer. Bars are one standard error over samples; the dotted line is as many real images.",
    "samples": "Samples of each run, by the bits of its weights, from the same noise.",
    "training_curves": "The loss of training. What Adam-SAM logs is the loss at its weights, "
    "before the climb.",
    "flatness_LPF": "How much the loss rises under Gaussian noise on each weight: lower is "
    "flatter. Bands are one standard error to each side.",
    "flatness_LPF_log_snr": "The same at one size of the noise, by how noisy the images are.",
    "flatness_MC": "How much the loss rises along random directions of a given length: lower is "
    "flatter.",
    "flatness_MC_log_snr": "The same at one length, by how noisy the images are.",
    "flatness_HESSIAN": "The largest eigenvalues of the Hessian of the loss: lower is flatter.",
    "flatness_SURFACE": "The loss on a plane through the weights, which stand at the cross; 1 is "
    "as long as the weights. Rings are evenly apart in the root of the rise.",
    "flatness_SURFACE_1D": "The same along each of its two directions.",
    "flatness_SURFACE_line": "The loss on the line between the two networks.",
    "flatness_SHARPNESS": "The largest rise that a climb met within a ball.",
    "flatness_LEAK": "What measures change by where a symmetry of the network leads: 1 is not at "
    "all.",
    "flatness_MAP": "Rise and curvature by block of the network and by noise in the images.",
    "flatness_DENSITY": "The spectral density of the Hessian, with a band over its probes.",
    "flatness_ROUNDING": "How much the loss rises as weights are rounded, by bits and quantizers.",
    "flatness_EXPLAIN": "Why rounding hurts: what the rise is made of, the curvature along the "
    "rounding beside that along random directions, and what makes the gap of the two networks.",
    "flatness_EXPLAIN_layers": "Each layer rounded alone.",
    "exposure_bias": "Exposure bias: the norm of the predicted noise while sampling against that "
    "on real images. Bands are 95 % intervals over images.",
    "exposure_bias_priors": "The same where the chain starts from another prior.",
    "perturbed_samples": "Samples at moved weights: what each move does to the distance and to "
    "the samples themselves, against its length and against the rise of the loss.",
    "perturbed_samples_path": "How far the paths of these samples run apart, step by step.",
    "averages": "Averages of one run, by their width.",
    "exposure_bench": "What is done about exposure bias, side by side.",
}


def write(folder: str) -> str:
    """Write report.html into the folder; return what a terminal shows: the table, the sentence and
    the path. ValueError where there is nothing to show."""
    runs, pictures = _runs(folder), _pictures(folder)
    if not runs and not pictures:
        raise ValueError(
            f"nothing to report in {os.path.abspath(folder)}: expected distances.json of "
            "compare.py, flatness.json of flatness.py, or their pictures"
        )
    rows, told, path = _table(runs), sentence(runs), os.path.join(folder, "report.html")
    title = f"{', '.join(run for run in runs if run != REAL) or os.path.basename(folder)}"
    parts = [f"# {title}", told, markdown(rows) if len(rows) > 1 else "", NOTE if runs else ""]
    parts += ["## Figures" if pictures else ""]
    parts += [f"![{_caption(name)}]({html.escape(name)})" for name in pictures]
    parts += [page.details("Every setting", _settings(folder)), f"flatdiff {__version__}"]
    text = page.page(title, "\n\n".join(filter(None, parts)) + "\n", pictures)
    with disk.writing(path) as file:
        file.write(text.encode())
    shown = [f"{table(rows)}\n{NOTE}" if len(rows) > 1 else "", told, os.path.abspath(path)]
    return "\n\n".join(filter(None, shown))


NOTE = (
    "±: one standard error, of distances over samples, of rises the larger of those over draws of "
    "the noise and over images. Each run is one training: no interval covers training seeds."
)


def _runs(folder: str) -> dict[str, dict]:
    """By run, its cells (value, error) by column, and "less" of the first run: what is known of
    the difference."""
    runs: dict[str, dict] = {}
    known = _json(os.path.join(folder, "distances.json"))
    for row in known.get("rows", []):
        of = runs.setdefault(row["run"], {})
        kinds = [row["kind"]] if row["kind"] else [r["kind"] for r in known["rows"] if r["kind"]]
        told = [re.sub(r"^w(\d)$", r"\1 bits", kind) for kind in kinds]
        of |= {f"{row['metric']}, {kind}": (row["value"], row["error"]) for kind in told}
    for row in known.get("differences", []):
        if row["less"] == f"{next(iter(runs))} {row['weights']}" and row["weights"] == "fp32":
            runs[row["run"]].setdefault("less", {}).setdefault(row["metric"], row)
    rises = _rises(_json(os.path.join(folder, "flatness", "flatness.json")))
    base = rises[0]["model"].partition("/")[0] if rises else ""  # which the others are less
    for row in rises:
        of = runs.setdefault(row["model"].partition("/")[0], {})
        name = f"{LPF}{row['sigma']:g}"
        if name not in of:  # of several checkpoints of a run the first
            of[name] = row["rise"], row["error_larger"]
            if next(iter(runs)) == base:
                of.setdefault("less", {})[LPF] = row
    if REAL in runs:
        runs[REAL] = runs.pop(REAL)  # the last line
    return runs


def _rises(flatness: dict) -> list[dict]:
    """LPF's rows of its first term, over all timesteps, at the middle sigma; errors_95: how many
    errors to each side are a 95 % interval (of mirrored draws a pair is one)."""
    record = flatness.get("LPF", {})
    rows, draws = record.get("rows", []), record.get("settings", {}).get("num_draws", 20)
    errors = float(stats.t.ppf(0.975, max(1, draws // 2 - 1)))
    sigmas = sorted({row["sigma"] for row in rows})
    return [
        row | {"errors_95": errors}
        for row in rows
        if (row["term"], row["part"]) == (rows[0]["term"], "all")
        and row["sigma"] == sigmas[len(sigmas) // 2]
    ]


def _table(runs: dict[str, dict]) -> Rows:
    """A line a run, whose columns are those that any has."""
    columns = [c for c in dict.fromkeys(c for of in runs.values() for c in of) if c != "less"]
    unknown = None, None
    cells = ([with_error(*of.get(c, unknown)) for c in columns] for of in runs.values())
    return [["", *columns], *([run, *row] for run, row in zip(runs, cells))]


def sentence(runs: dict[str, dict]) -> str:
    """Say of each run how flat and how good it is beside the first; "" of one run alone."""
    first, *others = [run for run in runs if run != REAL] or [""]
    said = [s for run in others if (s := _against(runs[run].get("less", {}), runs[first]))]
    told = "; ".join(f"{run} against {first}: {s}" for run, s in zip(others, said))
    return told and f"{told}."


def _against(less: dict, first: dict) -> str:
    """As a share where the first's rise is surely above 0."""
    said = []
    for name, row in less.items():
        if name == LPF and row.get("minus_first") is not None:
            d, half = row["minus_first"], row["errors_95"] * row["minus_first_error_larger"]
            base, error = first[f"{LPF}{row['sigma']:g}"]
            share = f"{row['rise'] / base:.2g} times as much" if row["rise"] > 0 < base else ""
            by = f"by {abs(d):.2g} {'less' if d < 0 else 'more'}"
            told = share if share and base > row["errors_95"] * error else by
            seen = "" if abs(d) > half else ", which may be chance"
            said.insert(0, f"under weight noise its loss rises {told}{seen}")
        elif name.startswith("F") and row.get("verdict"):
            seen = f"(95 %: {row['low']:.2g} to {row['high']:.2g}, over samples alone)"
            far = "" if row["verdict"] == "tie" else f" by {abs(row['difference']):.2g}"
            way = "not seen to differ" if row["verdict"] == "tie" else row["verdict"]
            said.append(f"its {name} is {way}{far} {seen}")
    return ", and ".join(said)


def _pictures(folder: str) -> dict[str, bytes]:
    """The pictures, by their paths from the folder, in the order of CAPTIONS, and then those of
    measures that are not there."""
    found = [*Path(folder).glob("*.png"), *Path(folder).glob("*/*.png")]
    shown = [p for p in found if p.stem in CAPTIONS or p.stem.startswith("flatness_")]
    order = {name: i for i, name in enumerate(CAPTIONS)}
    shown.sort(key=lambda path: (order.get(path.stem, len(order)), path))
    return {str(path.relative_to(folder)): path.read_bytes() for path in shown}


def _caption(name: str) -> str:
    stem = Path(name).stem
    return CAPTIONS.get(stem, stem.removeprefix("flatness_").replace("_", " "))


def _settings(folder: str) -> str:
    """What the measures' own files say of their settings, and of the files that they measured."""
    known = {}
    for path in sorted(Path(folder).glob("*/*.json")):
        if path.stem in ("flatness", "exposure_bias", "perturbed_samples", "averages"):
            content = _json(str(path))
            records = content.values() if path.stem == "flatness" else [content]
            known[path.stem] = [
                {k: v for k, v in record.items() if k == "settings"}
                | {"models": {m["path"]: m["sha256"] for m in record.get("models", [])}}
                for record in records
            ]
    return json.dumps(known, indent=1)


def _json(path: str) -> dict:
    if not os.path.exists(path):
        return {}
    with disk.reading(path), open(path, encoding="utf-8") as file:
        return json.load(file)
