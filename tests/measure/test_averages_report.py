"""Tables, files and pictures of averages."""

import csv
import json

import pytest

from flatdiff.measure import averages_report
from flatdiff.world import logger


def row(run, average, width, value):
    names = ("loss", "fd", "lpf", "eigenvalue", "rounded")
    found = {"run": run, "average": average, "step": 60, "width": width}
    found |= {k: value for n in names for k in (n, f"{n}_error")}
    return found | {"residual": 0.0, "off_online": None, "path": f"/runs/{run}/{average}.pt"}


RECORD = {
    "settings": {"averages": {"bits": 4}},
    "averages": [
        row(run, average, width, value)
        for run, value in (("adam", 1.0), ("sam", 0.25))
        for average, width in (("last", 0.0), ("posthoc 0.2", 0.2), ("posthoc 0.1", 0.1))
    ],
    "chosen": {"lpf": "posthoc 0.2"},
    "comparisons": [
        {"run": "sam", "against_run": "adam", "average": "last", "against": "posthoc 0.2"}
        | {"quantity": "lpf", "difference": -0.75, "error": 0.1, "low": -0.95, "high": -0.55}
        | {"chosen_by": "lpf"}
    ],
    "answers": ["Is sam flatter? Yes"],
}


def test_files_have_all_rows(tmp_path):
    logger.configure(str(tmp_path), format_strs=["log"])
    paths = averages_report.write(RECORD, str(tmp_path))
    names = ["averages.json", "averages.csv", "averages_compared.csv", "averages.png"]
    assert paths == [str(tmp_path / name) for name in names]
    assert json.loads((tmp_path / "averages.json").read_text()) == RECORD
    with open(tmp_path / "averages.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["lpf"]) for r in rows] == [1.0] * 3 + [0.25] * 3
    log = (tmp_path / "log.txt").read_text()
    assert "Is sam flatter? Yes" in log and "loss, 4 bits" in log and "-0.75" in log


def test_a_picture_has_a_line_of_each_run_by_width():
    figure = averages_report.figure(RECORD)
    axes = [axis for axis in figure.axes if axis.get_xlabel()]
    assert [a.get_ylabel() for a in axes][-1] == "loss at 4 bits a weight"
    for axis in axes:
        assert axis.get_xlabel().startswith("width of the average")
        lines = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axis.containers}
        assert lines["adam: posthoc"] == [[0.1, 1.0], [0.2, 1.0]]
        assert lines["sam: last"] == [[0.0, 0.25]]


def test_what_was_not_measured_is_a_table_alone(tmp_path):
    plain = [
        {k: r[k] for k in ("run", "average", "width", "residual", "off_online")}
        for r in RECORD["averages"]
    ]
    paths = averages_report.write(RECORD | {"averages": plain, "comparisons": []}, str(tmp_path))
    assert [p.rpartition(".")[2] for p in paths] == ["json", "csv"]
    assert "posthoc 0.2" in averages_report.text(RECORD | {"averages": plain})


@pytest.fixture(autouse=True)
def no_log():
    yield
    logger.reset()
