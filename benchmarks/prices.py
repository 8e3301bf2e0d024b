"""What each measure costs: its command on the two models of `make demo`, beside LPF's.

    python benchmarks/prices.py --results benchmarks/RESULTS.md
    python benchmarks/prices.py --rows MAP,DENSITY

Processor seconds of the whole command on one thread, start-up too, which a first row has alone; LPF
is run anew beside each, and the ratio is of the two, both less the start-up.
"""

import argparse
import os
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import table

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "runs" / "demo"
STEPS = "001400"
ADAM = DEMO / "adam" / f"ema_0.99_{STEPS}.pt"
BOTH = f"{ADAM},{DEMO / 'adam-sam' / ADAM.name}"
FLATNESS = "scripts/flatness.py --model_path {adam} --data_dir {data} --num_images 128 --flatness "
SAMPLES = "--num_samples 200 --timestep_respacing 10"
ROWS = {
    "LPF": FLATNESS + "LPF",
    "MC": FLATNESS + "MC",
    "HESSIAN": FLATNESS + "HESSIAN",
    "SURFACE": FLATNESS + "SURFACE",
    "EXPLAIN": FLATNESS + "EXPLAIN --bits 8,6,4 --num_draws 8",
    "ROUNDING": FLATNESS + "ROUNDING",
    "SHARPNESS": FLATNESS + "SHARPNESS",
    "LEAK": FLATNESS + "LEAK",
    "MAP": FLATNESS + "MAP",
    "DENSITY": FLATNESS + "DENSITY",
    "exposure bias": "scripts/exposure_bias.py --model_path {adam} --data_dir {data} "
    "--timestep_respacing 20 --num_images 128",
    "perturbed samples": "scripts/perturbed_samples.py --model_path {adam} --data_dir {data} "
    f"--features digits --num_images 128 {SAMPLES}",
    "exposure bench": "scripts/exposure_bench.py --model_path {adam} --data_dir {data} "
    "--features digits --chain_steps 5,10,20 --weight_bits 32,4",
}
ELSEWHERE = """

Averages: `benchmarks/posthoc_cost.py` (of a training step), and 9 minutes of one core for 22
models of two runs with all their measures. Gradients, optimizers and a look at the curvature, of a
training step: `bench.py --rows climbs`."""


def seconds(command: str) -> float:
    """Processor seconds of a script."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        words = shlex.split(command.format(adam=ADAM, both=BOTH, data=DEMO / "digits", demo=DEMO))
        logged = words[0].startswith("scripts") and "--help" not in words
        given = ["--log_dir", folder] if logged else []
        settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *words, *given],
            cwd=ROOT,
            env=os.environ | settings,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(f"{command}\nfailed:\n{(done.stdout + done.stderr)[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="", help="of the table, separated by commas; empty: all")
    parser.add_argument("--results", default="", help="markdown file whose section is replaced")
    args = parser.parse_args()
    if not ADAM.exists():
        raise SystemExit(f"{ADAM} is not there: run make demo first")
    wanted = args.rows.split(",") if args.rows else list(ROWS)
    if unknown := set(wanted) - set(ROWS):
        raise SystemExit(f"--rows {','.join(unknown)}: expected some of {', '.join(ROWS)}")
    start = seconds("-c 'import flatdiff.measure.run'")
    lines = [
        "| measure | s | LPF, s | ratio | command |",
        "|---|---:|---:|---:|---|",
        f"| start-up alone | {start:.1f} | | | |",
    ]
    for name in wanted:
        ours, theirs = seconds(ROWS[name]), seconds(ROWS["LPF"])
        ratio = (ours - start) / (theirs - start)
        told = ROWS[name].format(adam="ADAM", both="ADAM,SAM", data="DIGITS", demo="runs/demo")
        lines.append(f"| {name} | {ours:.1f} | {theirs:.1f} | {ratio:.2f} | `{told}` |")
        print(lines[-1], flush=True)
    if args.results:
        about = table.machine({}, "cpu")
        notes = "\n".join(f"- {key}: {about[key]}" for key in ("date", "machine", "versions"))
        body = f"- command: python benchmarks/prices.py --results {args.results}\n{notes}\n\n"
        table.replace_section(
            args.results, "prices of measures", body + "\n".join(lines) + ELSEWHERE
        )


if __name__ == "__main__":
    main()
