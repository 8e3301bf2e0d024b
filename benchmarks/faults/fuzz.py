"""Malformed flags and files against every script: one sentence, in bounded time and memory.

    PYTHONPATH=. python -m benchmarks.faults.fuzz --strings 10000 --files 2000

Counts how the runs ended, by kind, and prints each that ended wrongly: with a traceback, killed by
a signal, after 10 s of computing, 1 GiB above what it began with, with code from a file executed,
or with exit status 0 and another result than from the input that is whole. The exit status is 1
where there is any. Seeds are fixed: a run with the same numbers has the same inputs.
"""

import argparse
import collections
import random
import sys
import time
from pathlib import Path

from . import files, strings
from .forked import emptied, prepare, run
from .inputs import Inputs

RIGHT = {"accepted", "refused", "under way"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--strings", type=int, default=10000, help="malformed flags")
    parser.add_argument("--files", type=int, default=2000, help="malformed files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="leave out those before")
    parser.add_argument("--until", type=int, default=10**9, help="and those from here on")
    parser.add_argument("--only", default="", help="cases whose name has this alone")
    parser.add_argument("--folder", default="runs/fuzz", help="inputs, and the box of each run")
    args = parser.parse_args()
    prepare()
    inputs = Inputs(Path(args.folder) / "inputs").make()
    wrong = 0
    for name, count in (("strings", args.strings), ("files", args.files)):
        if not count:
            continue
        cases = {"strings": _strings, "files": _files}[name]
        wrong += _all(
            name, cases(inputs, count, args.seed, emptied(Path(args.folder) / name)), args
        )
    return int(wrong > 0)


def _all(name, cases, args) -> int:
    """Run the cases; print and count."""
    counts, begun, most = collections.Counter(), time.monotonic(), 0
    for i, (told, case) in enumerate(cases):
        if not args.first <= i < args.until or args.only not in told:
            continue
        ended = case()
        if name == "strings" and ended.kind == "memory":  # a network of that size was asked for
            ended = ended._replace(kind="refused")
        counts[ended.kind] += 1
        most = max(most, ended.megabytes)
        if ended.kind not in RIGHT:
            last = ended.said if ended.kind == "traceback" else ended.said[-300:]
            print(f"{i} {ended.kind}: {told}\n    {last!r}", flush=True)
        if sum(counts.values()) % 200 == 0:
            print(f"{name}: {i + 1} {dict(counts)} {time.monotonic() - begun:.0f} s", flush=True)
    seconds = time.monotonic() - begun
    print(f"{name}: {dict(counts)}; at most {most} MiB above the start; {seconds:.0f} s")
    return sum(n for kind, n in counts.items() if kind not in RIGHT)


def _strings(inputs, count, seed, folder):
    for text in strings.malformed(inputs, count, seed):

        def case(text=text):
            box = emptied(folder / "box")
            ended = run(text.script, text.words, box)
            if ended.kind == "hang" and not text.wrong and "gone, " in ended.said:
                ended = ended._replace(kind="under way")  # much was asked for, and a bar tells so
            taken = ended.kind == "accepted" and text.wrong
            return ended._replace(kind="nonsense") if taken else ended

        yield f"{text.script} {text.told}", case


def _files(inputs, count, seed, folder):
    marker, whole = folder / "executed", {}
    every = files.Broken(inputs, marker, folder / "well").cases(random.Random(seed), count)
    for told, case in every:

        def ran(case=case):
            box = emptied(folder / "box")
            ended = run(case.script, case.spoil(box), box)
            if marker.exists():
                marker.unlink()
                return ended._replace(kind="executed")
            if ended.kind == "refused" and "not enough memory" in ended.said:
                return ended._replace(kind="memory")
            if ended.kind == "accepted" and case.same:
                if case.like not in whole:
                    whole[case.like] = files.result_of_whole(case, folder)
                if files.result(box) != whole[case.like]:
                    return ended._replace(kind="nonsense")
            if ended.kind == "refused" and case.must:
                return ended._replace(kind="given up")
            return ended

        yield told, ran


if __name__ == "__main__":
    sys.exit(main())
