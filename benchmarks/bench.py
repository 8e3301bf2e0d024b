"""Time flatdiff against its peers on this machine, each row in one interleaved run.

    python benchmarks/bench.py                                  # all rows on the CPU
    python benchmarks/bench.py --rows train,sample --configs S  # two rows of one config
    python benchmarks/bench.py --suite gpu                      # the paper's configs on CUDA

Prints one table. Rows whose contenders do not compute the same are named instead of printed, and
the exit status is then 1.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time


def main():
    args = parse()
    import suites
    import table
    import timing

    start, failures = time.perf_counter(), []
    measured = [timing.peaks(args.device, suites.DTYPES[args.suite])]
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        try:
            rows.extend(suites.measure(args, folder, failures))
        except KeyboardInterrupt:
            failures.append("what was left when it was interrupted")
    measured.append(timing.peaks(args.device, suites.DTYPES[args.suite]))
    peaks = {dtype: max(peak[dtype] for peak in measured) for dtype in measured[0]}
    about = table.machine(peaks, args.device)
    print("\n".join(f"{name:>14}: {value}" for name, value in about.items()))
    print(f"\n{table.text(rows, peaks)}\n\n{time.perf_counter() - start:.0f} s in all")
    for failure in failures:
        print(f"not printed: {failure}")
    write(args, rows, about, peaks)
    sys.exit(bool(failures))


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--suite", choices=("cpu", "gpu"), default="cpu", help="which configs and rows")
    add("--device", choices=("cpu", "cuda"), help="default: that of the suite; cpu: a small form")
    add("--rows", default="", help="rows to measure, separated by commas; empty: all")
    add("--configs", default="", help="configs to measure, as S,C; empty: all")
    add("--repeats", type=int, default=0, help="turns of each measurement; 0: as many as fit")
    add("--json", default="", help="file for every number; empty: none")
    add("--results", default="", help="markdown file whose section of the suite is replaced")
    args = parser.parse_args()
    args.device = args.device or {"cpu": "cpu", "gpu": "cuda"}[args.suite]
    return args


def write(args, rows, about, peaks):
    """The json and the markdown that were asked for."""
    import table

    if args.json:
        os.makedirs(os.path.dirname(os.path.abspath(args.json)), exist_ok=True)
        with open(args.json, "w") as file:
            measured = [dataclasses.asdict(row) for row in rows]
            json.dump({"about": about, "peaks": peaks, "rows": measured}, file, indent=1)
    if args.results:
        lines = "\n".join(f"- {name}: {value}" for name, value in about.items())
        title = f"{args.suite} suite on {args.device}, {args.configs or 'all configs'}"
        table.replace_section(args.results, title, f"{lines}\n\n{table.markdown(rows, peaks)}")


if __name__ == "__main__":
    main()
