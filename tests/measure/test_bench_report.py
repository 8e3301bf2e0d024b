"""Tables and the picture of the bench, of a record made by hand."""

from pathlib import Path

import numpy as np
from PIL import Image

from flatdiff.measure import bench_report, frame, scalings


def record():
    """Two chains of one model, at 32 and 4 bits."""
    scan, cells, best = [0.98, 1.0, 1.02, 1.04], [], []
    for bits in (32, 4):
        for steps in (5, 10):
            about = {"bits": bits, "steps": steps}
            for way in ("plain", "eps / 0.98", "eps / 1.02", "eps / 1.04", "time shift"):
                cell = {"way": way, "fd": 1.0 + bits / 10, "fd_error": 0.1, "gap": 0.01}
                cells.append(about | cell | {"gap_error": 0.002, "delta": 0.1, "delta_error": 0.01})
            rows = np.tile(np.subtract(scan, 1.01), (11, 1))
            best.append(about | scalings.agreement(scan, rows, rows**2))
    model = {"name": "a", "path": "a.pt", "cells": cells, "scalings": best}
    found = {"settings": {}, "models": [model], "metric": "FD-toy"}
    return found | {"rows": bench_report.rows(found)}


def test_all_files_are_written(tmp_path):
    paths = bench_report.write(frame.without_nan(record()), str(tmp_path / "bench"))
    names = ["bench.json", "bench.csv", "bench_scalings.csv", "bench.png"]
    assert [Path(path).name for path in paths] == names
    assert Image.open(paths[-1]).width > 800
    lines = (tmp_path / "bench_scalings.csv").read_text().splitlines()
    assert len(lines) == 5 and lines[1].startswith("a,32,5,1.01")
    assert "fd: FD-toy" in bench_report.text(record())


def test_a_verdict_without_an_error_is_told_as_unknown():
    found = record()
    for row in found["rows"][1:2]:
        row |= {"less_plain": 0.3, "less_plain_error": None, "verdict": ""}
    first, second, *_ = bench_report.text(found).splitlines()[1:]
    assert second.endswith("unknown") and "unknown" not in first
