"""Train 10,000 steps and watch the process: memory, open files and threads have to stay flat.

    python benchmarks/faults/long_run.py [--steps 10000] [--log_dir DIR]

A tiny network, so that what is not the network shows: a log every 10 steps, a checkpoint every 100,
SAM, SWA, an EMA, images from processes. Prints what the process and its loader workers held along
the way, and exits with status 1 if the last fifth holds more than the second one: 2 % and 4 MB of
memory, one file, one thread. The same command goes on where it was stopped.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = (
    "train --network vit --patch_size 4 --num_layers 1 --num_channels 32 --image_size 8 "
    "--diffusion_steps 40 --noise_schedule cosine --batch_size 2 --random_crop True "
    "--optimizer adam-sam --rho 0.1 --use_swa True --swa_window 10 --ema_rate 0.9 "
    "--schedule_sampler loss-second-moment "
    "--log_interval 10 --save_interval 100 --keep_last 2 --num_workers 1 --resume auto"
).split()
PAUSE = 1.0  # s


def main():
    args = parse()
    images, log_dir = f"{args.log_dir}/images", f"{args.log_dir}/run"
    Path(images).mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(
            f"{images}/{i}.png"
        )
    command = [sys.executable, "-m", "flatdiff", *TRAIN, "--data_dir", images]
    command += ["--log_dir", log_dir, "--end_step", str(args.steps)]
    rows = []
    with open(f"{args.log_dir}/said", "w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while process.poll() is None:
            time.sleep(PAUSE)
            rows += [row for row in [held(process.pid, log_dir)] if row]
    if process.returncode not in (0, 75):  # asked to end before: judged as far as it came
        sys.exit(f"it ended with {process.returncode}: {Path(said.name).read_text()[-2000:]}")
    sys.exit(judged(rows))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--log_dir", default="", help="default: a new temporary folder")
    args = parser.parse_args()
    args.log_dir = args.log_dir or tempfile.mkdtemp(prefix="flatdiff-long-")
    return args


def held(pid: int, log_dir: str) -> tuple | None:
    """(step, MB, files, threads) of a process and its children; None while it has logged nothing or
    where it has just ended."""
    try:
        step = int(
            Path(log_dir, "progress.json").read_text().rsplit('"step": ', 1)[1].split(",")[0]
        )
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        numbers = [_held(each) for each in (pid, *children)]
    except (OSError, IndexError, ValueError, KeyError):
        return None
    return step, *(sum(column) for column in zip(*numbers))


def _held(pid) -> tuple[float, int, int]:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    memory = int(status["VmRSS"].split()[0]) / 1024
    return memory, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def judged(rows: list[tuple]) -> bool:
    """Print the rows' course; whether the last fifth of the steps holds more than the second."""
    table = np.array(rows, float)
    fifth = 5 * (table[:, 0] - table[0, 0]) // (table[-1, 0] - table[0, 0] + 1)
    course = [np.median(table[fifth == i], axis=0) for i in range(5) if (fifth == i).any()]
    print(f"{'step':>8} {'MB':>8} {'files':>6} {'threads':>8}")
    for step, memory, files, threads in course:
        print(f"{step:8.0f} {memory:8.1f} {files:6.0f} {threads:8.0f}")
    (_, before, *counts), (_, after, *later) = course[1], course[-1]
    grown = after > 1.02 * before + 4 or any(b > a + 1 for a, b in zip(counts, later))
    print(
        f"{table[-1, 0]:.0f} steps: memory {after - before:+.1f} MB", "GROWN" if grown else "flat"
    )
    return grown


if __name__ == "__main__":
    main()
