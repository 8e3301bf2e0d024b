"""Do the errors that flatness prints hold? Its numbers over many seeds, beside their errors.

    python benchmarks/flatness_scatter.py --data_dir runs/demo/digits --seeds 20 \\
        --model_path runs/demo/adam/ema_0.99_001400.pt --num_images 512 --kinds LPF,MC,quant

A seed chooses the images, their timesteps and noise, and the draws of the weights. For each number
of images the table has, for every headline number, its mean over the seeds, its standard deviation
over them ("scatter"), the printed error (root mean square), and the ratio of the two, which over
20 seeds is known to 16 %. The printed error of a rise is the larger of that over draws and that
over images; the last column is the ratio to the root of the sum of their squares.
"""

import argparse
import math
import tempfile
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np

from flatdiff.flags import config
from flatdiff.measure import quantized, run
from flatdiff.models import networks
from flatdiff.world import logger

GROUPS = {
    "flatness": config.FlatnessFlags,
    "run": config.RunFlags,
    "data": config.DataFlags,
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
    "train": config.TrainFlags,
    "sample": config.SampleFlags,
    "quant": config.QuantFlags,
}
SETTINGS = {
    "LPF": ["--sigma", "1e-3,5e-3"],
    "MC": ["--radius", "5"],
    "HESSIAN": ["--num_draws", "4", "--num_eigenvalues", "1"],
    "quant": ["--quant", "4"],
}
Found = dict[str, tuple[float, float, float]]  # name -> (value, its errors: printed, of both)


def of_seed(kind: str, argv: list[str], seed: int) -> Found:
    """Headline numbers of one study: kind is LPF, MC, HESSIAN, or "quant"."""
    argv = [*argv, "--seed", str(seed)]
    if kind == "quant":
        return _quantized(argv)
    with tempfile.TemporaryDirectory() as folder:
        flags = config.parse("", [*argv, "--flatness", kind, "--log_dir", folder], **_only(kind))
        rows = run.flatness(flags, folder)["rows"]
    if kind == "HESSIAN":
        return {row["quantity"]: (row["value"], *_errors(row)) for row in rows}
    size = {"LPF": "sigma", "MC": "radius"}[kind]
    rows = [row for row in rows if row["part"] == "all"]
    found = {f"L(w), {r['term']}": (r["at_w"], r["at_w_error"], r["at_w_error"]) for r in rows}
    for r in rows:
        found[f"{kind}, {size} {r[size]:g}, rise of {r['term']}"] = (r["rise"], *_errors(r))
    return found


def _errors(row: dict) -> tuple[float, float]:
    return row["error_larger"], math.hypot(row["error"], row["error_images"])


def _only(kind: str) -> dict:
    used = {"sample", "quant"} if kind == "quant" else {"flatness", "train"}
    return {n: g for n, g in GROUPS.items() if n in used | {"run", "data", "model", "diffusion"}}


def _quantized(argv: list[str]) -> Found:
    """The rise of each loss when weights are rounded."""
    flags = config.parse("", argv, **_only("quant"))
    said = []
    model, _ = networks.from_checkpoint(flags.sample.model_path, flags)
    with tempfile.TemporaryDirectory() as folder:
        told, logger.log = logger.log, said.append
        try:
            with quantized.quantized(model, flags, folder):
                pass
        finally:
            logger.log = told
    lines = [text.split() for text in said if " before, " in text]
    name = f"rounding to {flags.quant.quant} bits, rise of"
    return {f"{name} {w[0]}": (float(w[-3]), float(w[-1]), float(w[-1])) for w in lines}


def table(results: list[Found]) -> list[SimpleNamespace]:
    """Of each number over the seeds: name, mean, scatter, error, ratio, ratio_of_both."""
    rows = []
    for name in results[0]:
        values, *errors = np.array([found[name] for found in results]).T
        scatter = values.std(ddof=1)
        error, both = (math.sqrt((e**2).mean()) for e in errors)
        ratios = {"ratio": scatter / error, "ratio_of_both": scatter / both}
        numbers = {"mean": values.mean(), "scatter": scatter, "error": error} | ratios
        rows.append(SimpleNamespace(name=name, **numbers))
    return rows


def markdown(rows: Iterable[SimpleNamespace]) -> str:
    lines = [
        "| | mean | scatter | printed error | ratio | to both |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        lines.append(
            f"| {r.name} | {r.mean:.4g} | {r.scatter:.2g} | {r.error:.2g} | {r.ratio:.2f} | "
            f"{r.ratio_of_both:.2f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--num_images", default="512,128", help="separated by commas")
    parser.add_argument("--kinds", default=",".join(SETTINGS), help="separated by commas")
    args = parser.parse_args()
    for count in args.num_images.split(","):
        rows = {}
        for kind in args.kinds.split(","):
            argv = ["--model_path", args.model_path, "--data_dir", args.data_dir]
            argv += ["--num_images", count, *SETTINGS[kind]]
            found = table([of_seed(kind, argv, seed) for seed in range(args.seeds)])
            rows |= {row.name: row for row in found}
        print(f"## {count} images, {args.seeds} seeds\n\n{markdown(rows.values())}\n", flush=True)


if __name__ == "__main__":
    main()
