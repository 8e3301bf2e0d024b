"""What the hash of a step's files costs: a save of 100 MB with it and without, in turns.

    PYTHONPATH=. .venv/bin/python benchmarks/save_cost.py [FOLDER]

Prints seconds of each (least and median of nine), of the clock and of the CPU.
"""

import statistics
import sys
import tempfile
import time

import torch

from flatdiff.store import checkpoint, disk

TURNS = 9


def main() -> None:
    torch.set_num_threads(1)
    weights = {f"w{i}": torch.randn(1 << 20) for i in range(25)}
    with tempfile.TemporaryDirectory(dir=next(iter(sys.argv[1:]), None)) as folder:
        path = f"{folder}/model000001.pt"

        def without():
            with disk.writing(path) as file:
                torch.save(weights, file)

        jobs = {
            "a save without a hash": without,
            "a save with it": lambda: checkpoint.save(weights, path),
            "a look at a file by its hash": lambda: checkpoint.sha256(path),
            "a load, with zip's check sums": lambda: checkpoint.load(path),
        }
        seconds = {name: ([], []) for name in jobs}
        for _ in range(TURNS):
            for name, job in jobs.items():
                begun = time.perf_counter(), time.process_time()
                job()
                for known, clock, begin in zip(
                    seconds[name], (time.perf_counter, time.process_time), begun
                ):
                    known.append(clock() - begin)
    for name, both in seconds.items():
        told = (f"{min(times):.3f} ({statistics.median(times):.3f})" for times in both)
        print(f"{name:>30}: {' s, of the CPU '.join(told)} s")


if __name__ == "__main__":
    main()
