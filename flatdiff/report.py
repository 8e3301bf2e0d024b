"""Pictures of several runs side by side: training curves and sample grids.

Reads what runs leave on disk (progress.csv, samples_*.npz), and knows nothing of how it came about.
"""

import csv
import glob
import os
import re

import matplotlib
import numpy as np

from . import disk, finite

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CURVES = ("mse", "vb", "loss")
WIDTH_OF_RUN, HEIGHT = 4.5, 4.2  # inches


def training_curves(folders: list[str], path: str) -> str:
    """Loss against step, one line a run, and its variational part where there is one."""
    runs = {run_name(f): _progress(f) for f in folders}
    keys = [k for k in CURVES if all(k in rows for rows in runs.values())]
    keys = keys if len(keys) == 3 else ["loss"]
    figure, axes = plt.subplots(1, len(keys), figsize=(WIDTH_OF_RUN * len(keys), HEIGHT))
    labels = {
        "mse": "squared error of the noise",
        "vb": "variational term [bits per dimension]",
        "loss": "training loss",
    }
    for axis, key in zip(np.atleast_1d(axes), keys):
        for name, rows in runs.items():
            axis.plot(rows["step"], rows[key], label=name)
        axis.set(xlabel="optimizer step", ylabel=labels[key], yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    return _save(figure, path)


def sample_grids(folders: list[str], path: str, num_columns: int = 8) -> str:
    """The first images of each run, a column a run; a row for each number of bits sampled with."""
    rows = sorted({kind for f in folders for kind in samples_of(f)}, key=bits, reverse=True)
    size = (WIDTH_OF_RUN * len(folders), (HEIGHT + 0.4) * len(rows))
    figure, axes = plt.subplots(len(rows), len(folders), figsize=size, squeeze=False)
    for row, kind in zip(axes, rows):
        for axis, folder in zip(row, folders):
            axis.axis("off")
            if kind in samples_of(folder):
                with np.load(samples_of(folder)[kind]) as file:
                    images = file["arr_0"][: num_columns**2]
                axis.imshow(_tile(images, num_columns), interpolation="nearest")
                weights = f", weights of {bits(kind)} bits" if kind else ""
                axis.set_title(run_name(folder) + weights)
    return _save(figure, path)


def distances(rows: list[dict], path: str) -> str:
    """Distance of each run's samples at each number of bits (evaluation.of_runs), with errors."""
    runs, kinds = (list(dict.fromkeys(row[k] for row in rows)) for k in ("run", "bits"))
    figure, axis = plt.subplots(figsize=(WIDTH_OF_RUN + 1, HEIGHT))
    for i, run in enumerate(runs):
        shown = [row for row in rows if row["run"] == run]
        x = [kinds.index(row["bits"]) + (i - (len(runs) - 1) / 2) * 0.1 for row in shown]
        errors = [row["error"] or 0 for row in shown]
        axis.errorbar(x, [row["value"] for row in shown], errors, fmt="o", capsize=3, label=run)
    axis.set_xticks(range(len(kinds)), [f"{kind} bits" for kind in kinds])
    axis.set(xlabel="weights sampled with", ylabel=f"{rows[0]['metric']} (lower is closer)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    return _save(figure, path)


def run_name(folder: str) -> str:
    return os.path.basename(folder.rstrip("/"))


def samples_of(folder: str) -> dict[str, str]:
    """The newest samples_NxHxWx3.npz ("") and those from quantized weights ("w8", "w4a8", ...)."""
    files = sorted(glob.glob(os.path.join(folder, "samples_*.npz")), key=os.path.getmtime)
    named = [(re.search(r"samples_\d+x\d+x\d+x3_?(\w*)\.npz$", f), f) for f in files]
    found = {match[1]: file for match, file in named if match}
    if not found:
        raise ValueError(
            f"no samples_*.npz in {os.path.abspath(folder)}: draw some with scripts/image_sample.py"
        )
    return found


def bits(kind: str) -> int:
    """Of the weights that samples were drawn with: 8 for "w8" and "w8a8", 32 for ""."""
    return int(kind.partition("a")[0].lstrip("w") or 32)


def _tile(images, num_columns):
    """[N, H, W, 3] -> one picture with a light line between images."""
    rows = -(-len(images) // num_columns)
    height, width = images.shape[1:3]
    sheet = np.full((rows * (height + 1), num_columns * (width + 1), 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // num_columns) * (height + 1), (i % num_columns) * (width + 1)
        sheet[y : y + height, x : x + width] = image
    return sheet[:-1, :-1]


def _progress(folder):
    """progress.csv -> {key: array}, of the keys that every row has."""
    path = os.path.join(folder, "progress.csv")
    if not os.path.exists(path):
        raise ValueError(f"no progress.csv in {os.path.abspath(folder)}: not the folder of a run")
    with disk.reading(path), open(path) as file:
        rows = list(csv.DictReader(file))
        keys = [k for k in rows[0] if all(row[k] not in ("", None) for row in rows)]
        columns = {k: np.array([float(row[k]) for row in rows]) for k in keys}
    shown = {k: v for k, v in columns.items() if k in CURVES}
    finite.check(shown, path, "The training diverged: leave this run out, or its last rows")
    return columns


def _save(figure, path):
    figure.tight_layout()
    with disk.writing(path) as file:
        figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return os.path.abspath(path)
