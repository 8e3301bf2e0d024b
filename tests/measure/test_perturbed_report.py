"""What is told of perturbed samples, of a record made by hand."""

import pytest

from flatdiff.measure import perturbed_report

NUMBER = {
    "spearman": 0.5,
    "low": 0.4,
    "high": 0.6,
    "low_kinds": -0.1,
    "high_kinds": 0.8,
    "pearson": 0.7,
    "positive": 5,
    "moves": 6,
    "kinds": 2,
}


def move(kind, size, distance, fd_rise):
    path = {"value": [0.1, 0.2, 0.3], "error": [0.01] * 3}
    return {
        "kind": kind,
        "knob": "rho" if kind == "climb" else "sigma",
        "size": size,
        "draw": int(size == 0.2),
        "distance": distance,
        "rise": 0.01 * distance,
        "rise_error": 0.001,
        "fd": 1 + fd_rise,
        "fd_rise": fd_rise,
        "fd_rise_error": 0.1,
        "divergence": {"value": 0.3, "error": 0.01},
        "path": path,
    }


@pytest.fixture
def record():
    moves = [move("climb", s, s, 2 * s) for s in (0.1, 0.3)]
    moves += [move("gaussian", s, 10 * s, 0.3 - s) for s in (0.1, 0.2, 0.4)]
    about = {"features": "digits", "num_samples": 100, "of": "mse", "fd": 1.0, "fd_error": 0.2}
    models = [about | {"name": n, "moves": moves, "correlation": NUMBER} for n in ("a", "b")]
    record = {"models": models, "correlation": NUMBER | {"spearman": 0.9}}
    return record | {"rows": perturbed_report.rows(record)}


def test_rows_are_flat_numbers(record):
    rows = record["rows"]
    assert len(rows) == 10 and {len(row) for row in rows} == {13}
    assert rows[0]["model"] == "a" and rows[0]["divergence_error"] == 0.01
    assert all(isinstance(v, str | int | float) for row in rows for v in row.values())


def test_the_text_has_each_move_and_ends_in_the_numbers(record):
    text = perturbed_report.text(record)
    assert "FD-digits at w: 1 +- 0.2" in text and "gaussian sigma=0.2 (1)" in text
    *_, a, b, both = text.splitlines()
    assert a.startswith("a: 0.50 (-0.10 to 0.80), for other kinds of moves too; 0.40 to 0.60 for")
    assert b.startswith("b: ") and both.startswith("all models: 0.90")
    assert "Pearson's of logarithms, of the 5 where both rise: 0.70" in both


def test_few_moves_have_no_number_or_no_interval_over_kinds():
    few = {"spearman": None, "pearson": None, "moves": 2, "kinds": 1}
    assert "none of 2 moves; expected 3 or more" in perturbed_report.told(few)
    assert perturbed_report.short(few) == "none"
    alone = NUMBER | {"low_kinds": None, "high_kinds": None, "pearson": None}
    assert perturbed_report.short(alone) == "0.50 (0.40 to 0.60)"
    assert "other kinds" not in perturbed_report.told(alone)


def test_a_picture_of_falls_alone_is_drawn(record):
    for row in record["rows"]:
        row["fd_rise"] = -1.0
    perturbed_report.figures(record)[""].draw_without_rendering()


def test_the_pictures_have_points_of_what_rises_and_the_number(record):
    figures = perturbed_report.figures(record)
    assert list(figures) == ["", "_path"]
    axes = figures[""].axes
    assert len(axes) == 6 and {a.get_xscale() for a in axes} == {"log"}
    points = [len(c.lines[0].get_xdata()) for c in axes[0].containers]
    assert points == [2, 2]  # one gaussian's distance falls
    assert [len(c.lines[0].get_xdata()) for c in axes[1].containers] == [2, 3]
    assert "0.50 (-0.10 to 0.80)" in axes[2].texts[0].get_text()
    lines = figures["_path"].axes[0].lines
    assert [line.get_label() for line in lines] == ["climb rho=0.3", "gaussian sigma=0.2 (1)"]
    assert list(lines[0].get_ydata()) == [0.1, 0.2, 0.3]
