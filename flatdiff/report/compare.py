"""Pictures of runs side by side, from what they leave on disk: progress.csv and samples_*.npz."""

import csv
import glob
import os
import re

import matplotlib
import numpy as np

from ..judge import arrays, settings
from ..store import disk, finite
from . import figures

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CURVES = {
    "mse": "squared error of the noise",
    "vb": "variational term [bits per dimension]",
    "loss": "training loss",
}
WIDTH_OF_RUN, HEIGHT = 4.5, 4.2  # inches
REAL = "real images"  # in place of a run


def training_curves(folders: list[str], path: str) -> str:
    """Loss against step, one line a run, and its variational part where there is one."""
    runs = {run_name(f): progress(f) for f in folders}
    keys = list(CURVES) if all(rows.keys() >= CURVES.keys() for rows in runs.values()) else ["loss"]
    figure, axes = plt.subplots(1, len(keys), figsize=(WIDTH_OF_RUN * len(keys), HEIGHT))
    look = figures.colours(runs)
    for axis, key in zip(np.atleast_1d(axes), keys):
        for name, rows in runs.items():
            axis.plot(rows["step"], rows[key], label=name, color=look[name])
        axis.set(xlabel="optimizer step", ylabel=CURVES[key], yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    return _save(figure, path)


def sample_grids(folders: list[str], path: str, num_columns: int = 8) -> str:
    """The first images of each run, a column a run; a row for each kind of samples."""
    rows = sorted({kind for f in folders for kind in samples_of(f)}, key=_order)
    size = (WIDTH_OF_RUN * len(folders), (HEIGHT + 0.4) * len(rows))
    figure, axes = plt.subplots(len(rows), len(folders), figsize=size, squeeze=False)
    for row, kind in zip(axes, rows):
        for axis, folder in zip(row, folders):
            axis.axis("off")
            if kind in samples_of(folder):
                _, images = arrays.rows(samples_of(folder)[kind], "arr_0")
                images = np.stack([image for image, _ in zip(images, range(num_columns**2))])
                axis.imshow(_tile(images, num_columns), interpolation="nearest")
                axis.set_title(f"{run_name(folder)}, {told(kind)}" if kind else run_name(folder))
    return _save(figure, path)


def compared(folders: list[str]) -> str:
    """What is set side by side: each run's newest samples of each kind, where they come from, and
    what they differ in."""
    files = {(run_name(f), told(k)): path for f in folders for k, path in samples_of(f).items()}
    lines = [f"{run}, {kind}: {settings.origin(path)}" for (run, kind), path in files.items()]
    return "\n".join(filter(None, [*lines, settings.differing([*files.values()])]))


def distances(rows: list[dict], path: str) -> str:
    """Distance of each run's samples of each kind (evaluation.of_runs), with errors."""
    of_runs = [row for row in rows if row["run"] != REAL]
    runs, kinds = (list(dict.fromkeys(row[k] for row in of_runs)) for k in ("run", "kind"))
    figure, axis = plt.subplots(figsize=(WIDTH_OF_RUN + 1, HEIGHT))
    look = figures.colours(runs)
    for i, run in enumerate(runs):
        shown = [row for row in of_runs if row["run"] == run]
        x = [kinds.index(row["kind"]) + (i - (len(runs) - 1) / 2) * 0.1 for row in shown]
        errors = [row["error"] or 0 for row in shown]
        drawn = {"fmt": "o", "capsize": 3, "label": run, "color": look[run]}
        axis.errorbar(x, [row["value"] for row in shown], errors, **drawn)
    for row in (row for row in rows if row["run"] == REAL):
        label = f"{row['num_samples']} {REAL}"
        axis.axhline(row["value"], linestyle=":", color="0.3", label=label)
    axis.set_xticks(range(len(kinds)), kinds)
    axis.set(xlabel="weights sampled with", ylabel=f"{rows[0]['metric']} (lower is closer)")
    axis.set(xlim=(-0.5, len(kinds) - 0.5), ylim=(0, None))
    axis.set_title("bars: one standard error over samples", fontsize="medium")
    axis.grid(alpha=0.3)
    axis.legend()
    return _save(figure, path)


def run_name(folder: str) -> str:
    return os.path.basename(folder.rstrip("/"))


def samples_of(folder: str) -> dict[str, str]:
    """The newest samples_NxHxWx3.npz of each kind: "", and those that more is said of in the name,
    as quantized weights ("w8", "w4a8"); in the order of tables."""
    found = dict(_files(os.path.join(folder, "samples_*.npz")))
    if not found:
        where = os.path.abspath(folder)
        raise ValueError(f"no samples_*.npz in {where}: draw some with scripts/image_sample.py")
    return {kind: found[kind] for kind in sorted(found, key=_order)}


def repeats_of(folder: str) -> list[tuple[str, str]]:
    """Kind and file of all samples in the folders of the run's folder: of other generation seeds
    and checkpoints."""
    return sorted(_files(os.path.join(folder, "*", "samples_*.npz")))


def _files(pattern: str) -> list[tuple[str, str]]:
    """Kind and path of samples, the oldest first."""
    files = sorted(glob.glob(pattern), key=os.path.getmtime)
    named = [(re.search(r"samples_\d+x\d+x\d+x3_?(.*)\.npz$", f), f) for f in files]
    return [(match[1], file) for match, file in named if match]


def told(kind: str) -> str:
    """What samples were drawn with: the kind itself, w8a8 for example, or fp32."""
    return kind or "fp32"


def _order(kind: str) -> tuple[int, str]:
    """Plain ones first, then more bits before fewer."""
    bits = re.match(r"w(\d+)", kind)
    return (-int(bits[1]) if bits else -32), kind


def _tile(images, num_columns):
    """[N, H, W, 3] -> one picture with a light line between images."""
    rows, (height, width) = -(-len(images) // num_columns), images.shape[1:3]
    tiles = np.full((rows * num_columns, height + 1, width + 1, 3), 255, np.uint8)
    tiles[: len(images), :-1, :-1] = images
    tiles = tiles.reshape(rows, num_columns, height + 1, width + 1, 3).swapaxes(1, 2)
    return tiles.reshape(rows * (height + 1), -1, 3)[:-1, :-1]


def progress(folder: str) -> dict[str, np.ndarray]:
    """The columns of a run's progress.csv that every row has a number in. ValueError without a
    step and a loss, and for a loss that is not finite."""
    path = os.path.join(folder, "progress.csv")
    if not os.path.exists(path):
        raise ValueError(f"no progress.csv in {os.path.abspath(folder)}: not the folder of a run")
    rows = _rows(path)
    with disk.reading(path):
        keys = [k for k in (rows or [{}])[0] if all(row[k] not in ("", None) for row in rows)]
        keys = [k for k in keys if k != "time"]  # of day, a text
        columns = {k: np.array([float(row[k]) for row in rows]) for k in keys}
    if not {"step", "loss"} <= columns.keys():
        raise ValueError(
            f"{os.path.abspath(path)} has {len(rows)} rows, with a number in each for "
            f"{', '.join(columns) or 'nothing'}; expected a step and a loss: train on, or leave "
            "this run out"
        )
    shown = {k: v for k, v in columns.items() if k in CURVES}
    finite.check(shown, path, "The training diverged: leave this run out, or its last rows")
    return columns


def series(folder: str, name: str) -> dict[int, float]:
    """By step, what the rows of a run's progress.csv have in a column; {} without it, or a file."""
    path = os.path.join(folder, "progress.csv")
    rows = _rows(path) if os.path.exists(path) else []
    with disk.reading(path):
        return {int(float(row["step"])): float(row[name]) for row in rows if row.get(name)}


def _rows(path: str) -> list[dict[str, str]]:
    with disk.reading(path), open(path) as file:
        return list(csv.DictReader(file))


def _save(figure, path):
    """The path, whose ending says the format."""
    figure.tight_layout()
    stem, ending = os.path.splitext(path)
    path = figures.save(figure, stem, ending[1:], dpi=120, bbox_inches="tight")
    plt.close(figure)
    return os.path.abspath(path)
