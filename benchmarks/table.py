"""Rows as aligned text, as markdown and as json, with what they were measured on."""

import dataclasses
import datetime
import os
import platform
import sys
from importlib import metadata

import timing

HEAD = (
    "row",
    "config",
    "against",
    "ratio",
    "quartiles",
    "goal",
    "ours",
    "theirs",
    "GFLOP/s",
    "peak",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured, turn by turn.

    `ratios`: how many times faster we are (`goal` begins with >=), or how many times dearer than
    what stands beside it (<=). `ours`, `theirs`: medians in `unit`. `flops`: of the work that the
    `ours` milliseconds were for, or of an image where the unit is images/s; 0 where they say
    nothing. A goal with a unit is of `ours`.
    """

    name: str
    config: str
    against: str
    ratios: list[float]
    ours: float
    theirs: float
    unit: str = "ms"
    goal: str = ""
    flops: float = 0.0
    dtype: str = "float32"

    @property
    def met(self) -> bool | None:
        if not self.goal:
            return None
        sign, limit, *unit = self.goal.split()
        value = self.ours if unit else timing.quartiles(self.ratios)[1]
        return value >= float(limit) if sign == ">=" else value <= float(limit)

    @property
    def summary(self) -> str:
        middle = timing.quartiles(self.ratios)[1]
        return f"{self.name}: {middle:.3f} ({self.against} {self.theirs:.4g} {self.unit})"

    def cells(self, peaks: dict) -> tuple[str, ...]:
        low, middle, high = timing.quartiles(self.ratios)
        verdict = {True: " met", False: " MISSED", None: ""}[self.met]
        rate = self.flops * (self.ours if self.unit == "images/s" else 1e3 / self.ours)
        return (
            self.name,
            self.config,
            self.against,
            f"{middle:.3f}" if self.goal.startswith("<=") else f"{middle:.2f}",
            f"{low:.2f}-{high:.2f}",
            self.goal + verdict,
            f"{self.ours:.4g} {self.unit}",
            f"{self.theirs:.4g} {self.unit}",
            f"{rate / 1e9:.0f}" if rate else "",
            f"{rate / peaks[self.dtype]:.0%}" if rate else "",
        )


def text(rows: list[Row], peaks: dict) -> str:
    table = [HEAD, *(row.cells(peaks) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in table)


def markdown(rows: list[Row], peaks: dict) -> str:
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells(peaks) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(peaks: dict, device: str) -> dict[str, str]:
    """What the numbers were measured on, and how."""
    packages = ("torch", "diffusers", "guided-diffusion-sdk", "flatdiff")
    return {
        "date": datetime.datetime.now().strftime("%Y-%m-%d"),
        "command": " ".join([*_openmp(), "python", "benchmarks/bench.py", *sys.argv[1:]]),
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores{_gpu(device)}",
        "measured peak": ", ".join(f"{v / 1e9:.0f} GFLOP/s in {k}" for k, v in peaks.items()),
        "versions": ", ".join(f"{name} {_version(name)}" for name in packages),
    }


def _openmp() -> list[str]:
    """What was set of the threads, as it would be typed."""
    return [f"{name}={value}" for name, value in os.environ.items() if name.startswith("OMP_")]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpu(device: str) -> str:
    if device != "cuda":
        return ""
    import torch

    return f", {torch.cuda.get_device_name()}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def replace_section(path: str, title: str, body: str) -> None:
    """Write the body under `## title` of a markdown file, in place of what stood there."""
    old = ""
    if os.path.exists(path):
        with open(path) as file:
            old = file.read()
    parts = old.split("\n## ")
    kept = [parts[0].rstrip()] + [
        f"## {p.rstrip()}" for p in parts[1:] if p.split("\n")[0] != title
    ]
    with open(path, "w") as file:
        file.write("\n\n".join([*kept, f"## {title}\n\n{body}"]).lstrip() + "\n")
