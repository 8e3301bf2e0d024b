"""Disks that are full, limited, read-only, gone or slow, and clocks that jump, under a training.

    PYTHONPATH=. .venv/bin/python benchmarks/faults/disks.py [FAULT ...]

Where a run ends it says so in one sentence, no half file counts as whole, and the same command goes
on, once the disk is mended, to the bits of a run that met no fault. `full` and `readonly` mount a
small tmpfs, for which one has to be root. Prints the counts; exit status 1 where one is not 0.
"""

import argparse
import contextlib
import errno
import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from boundaries import command, forked, kept, prepare

SIZES = range(200, 6600, 550)  # KiB of a disk; a step is of about 3300


class Bench:
    """A box with the images, the whole run to compare with, and what is counted."""

    def __init__(self, box: Path):
        self.box, self.images, self.said = box, prepare(box), box / "said"
        self.runs = self.failures = 0
        self.expected = self.goes_on(box / "whole")

    def run(self, folder: Path, before=lambda: None) -> int:
        return forked(*command("adam", self.images, self.box, folder), self.said, before)

    def goes_on(self, folder: Path) -> dict:
        if status := self.run(folder):
            return {"status": (status, self.said.read_text()[-300:])}
        return kept(folder)

    def meets(self, fault: str, folder: Path, before=lambda: None, told="", mend=lambda: None):
        """A run with a fault, of which its last line tells, or nothing where it bears it; then
        mended."""
        self.runs += 1
        status, said = self.run(folder, before), self.said.read_text().strip()
        last = said.splitlines()[-1]
        problems = {
            "a traceback": "Traceback" in said,
            f"status {status}": bool(status) != bool(told),
            f"it says {last!r}": told not in last,
            f"taken for whole: {halves(folder)}": bool(halves(folder)),
        }
        mend()
        found = self.goes_on(folder)
        differ = [n for n in {*found, *self.expected} if found.get(n) != self.expected.get(n)]
        problems[f"other bits, or left behind: {sorted(differ)}"] = bool(differ)
        wrong = [text for text, true in problems.items() if true]
        self.failures += bool(wrong)
        print(f"{fault}: {'; '.join(wrong) or last[:150]}", flush=True)


def halves(folder: Path) -> list[str]:
    """What is wrong with steps that count as complete."""
    from flatdiff.store import checkpoint, steps

    complete = checkpoint.complete_steps(str(folder))
    return list(filter(None, (steps.damage(str(folder), step) for step in complete)))


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int):
    folder.mkdir()
    tmpfs = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    subprocess.run(tmpfs, check=True)
    try:
        yield lambda how: subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full(bench: Bench) -> None:
    for size in SIZES:
        with small_disk(disk := bench.box / f"disk{size}", size) as remount:
            told, mend = "no space in", lambda: remount("size=99m")
            bench.meets(f"a disk of {size} KiB", disk / "run", told=told, mend=mend)


def readonly(bench: Bench) -> None:
    for step in (0, 1, 3):
        with small_disk(disk := bench.box / f"ro{step}", 9999) as remount:
            before = at_step(step, lambda: remount("ro"))
            mend = lambda: remount("rw")  # noqa: E731
            bench.meets(f"read-only at step {step}", disk / "run", before, "is read-only", mend)


def limited(bench: Bench) -> None:
    for size in (20, 40, 120, 150):
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size << 10,) * 2)  # noqa: B023, E731
        bench.meets(
            f"files of {size} KiB at most", bench.box / f"l{size}", limit, "would be larger"
        )


def quota(bench: Bench) -> None:
    fsync = os.fsync
    for k in (3, 9, 14):
        calls = []

        def refuse(descriptor, k=k, calls=calls):
            calls.append(descriptor)
            if len(calls) > k:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            return fsync(descriptor)

        before = lambda refuse=refuse: setattr(os, "fsync", refuse)  # noqa: E731
        bench.meets(f"a quota after {k} files", bench.box / f"q{k}", before, "the quota is used up")


def gone(bench: Bench) -> None:
    for step in (0, 1, 3):
        folder = bench.box / f"gone{step}"
        before = at_step(step, lambda: shutil.rmtree(folder))  # noqa: B023
        bench.meets(f"its folder is removed at step {step}", folder, before, "is gone")


def slow(bench: Bench) -> None:
    def wait(descriptor, fsync=os.fsync):
        time.sleep(0.7)
        return fsync(descriptor)

    bench.meets("0.7 s an fsync", bench.box / "slow", lambda: setattr(os, "fsync", wait))


def clock(bench: Bench) -> None:
    for name, jump in (("an hour back", -3600), ("a year on", 3e7), ("to and fro", None)):
        draw = random.Random(0)

        def jumping(jump=jump, draw=draw, now=time.time, begin=time.time()):  # noqa: B008
            by = draw.uniform(-1e6, 1e6) if jump is None else jump * (now() > begin + 2)
            return now() + by

        before = lambda jumping=jumping: setattr(time, "time", jumping)  # noqa: E731
        bench.meets(f"a clock that jumps {name}", bench.box / name, before)


def links(bench: Bench) -> None:
    """A log folder, and files that come to be in it, are elsewhere."""
    for name in ("there", "elsewhere"):
        (bench.box / name).mkdir()
    (folder := bench.box / "link").symlink_to(bench.box / "there")

    def link():
        for name in ("model000002.pt", "state000004.pt"):
            (folder / name).symlink_to(bench.box / "elsewhere" / name)

    bench.meets("a folder and two files that are links", folder, at_step(1, link))
    held = sorted(path.name for path in (bench.box / "elsewhere").iterdir())
    bench.failures += held != ["model000002.pt", "state000004.pt"]


FAULTS = {
    each.__name__: each for each in (full, readonly, limited, quota, gone, slow, clock, links)
}


def at_step(step: int, act):
    """What to do in a child before it begins: to act when the training comes to a step."""

    def before():
        from flatdiff.train.train_util import TrainLoop

        run_step = TrainLoop.run_step

        def watched(loop, *batch):
            if loop.step == step:
                act()
            return run_step(loop, *batch)

        TrainLoop.run_step = watched

    return before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"default: {', '.join(FAULTS)}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name).resolve())
        for fault in args.faults or FAULTS:
            if fault in ("full", "readonly") and os.geteuid():
                print(f"{fault}: left out, since a disk has to be mounted")
                continue
            FAULTS[fault](bench)
    print(f"{bench.runs} runs with a fault, {bench.failures} failures")
    raise SystemExit(bench.failures > 0)


if __name__ == "__main__":
    main()
