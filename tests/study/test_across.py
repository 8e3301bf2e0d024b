"""What compares across objectives, on made-up numbers."""

from types import SimpleNamespace

import pytest
from scipy import stats
from studies import curve_of_x, model_of

from flatdiff.report.text import markdown
from flatdiff.study import across, claims, pictures, rows, tables

AT_W, RISE = [5.0, 1.0, 2.0, 3.0, 4.0], [0.5, 0.1, 0.2, 0.3, 0.4]


def distance(value):
    metrics = {"FD-lite0": value, "FD-lite0_error": 0.1, "FD-lite0_infinity": value - 1}
    return {"features": "lite0", "metrics": metrics}


def model(objective, seed, factor=1.0, fd=2.0):
    jitter = [1.0, 1.02, 0.97][seed]
    at_w, rise = ([factor * jitter * v for v in values] for values in (AT_W, RISE))
    changes = {"LPF": curve_of_x(at_w, rise), "fd_20": distance(fd + 0.01 * jitter)}
    changes |= {"fd_20_heun": distance(fd + seed), "LPF filter": curve_of_x(at_w, AT_W)}
    calls = {"fd_20": 20, "fd_20_heun": 39 if objective == "flow" else 38, "fd_20_w4": 20}
    return model_of(changes, seed=seed, objective=objective, calls=calls)


def models():
    """flow errs half as much in the image, and its distance is 1 higher; edm is as ddpm."""
    kinds = {"ddpm": (1.0, 2.0), "flow": (0.5, 3.0), "edm": (1.0, 2.0)}
    return [model(name, seed, *kind) for name, kind in kinds.items() for seed in range(3)]


def test_the_error_of_the_image_is_told_by_log_snr_at_the_middle_sigma():
    (row,) = rows.rows_of([model("flow", 0)])
    assert [row[c] for c in rows.of_levels("x_mse")] == AT_W
    assert [row[c] for c in rows.of_levels("x_rise")] == RISE
    assert [row[c] for c in rows.of_levels("x_rise_filter")] == AT_W
    assert rows.of_levels("x_mse")[1:] == [
        "x_mse_4..8", "x_mse_0..4", "x_mse_-4..0", "x_mse_-8..-4"
    ]  # fmt: skip
    (old,) = rows.rows_of([model_of(objective="flow")])  # a cell of before x_mse
    assert [old[c] for c in rows.of_levels("x_mse")] == [None] * 5
    assert old["lpf"] == pytest.approx(0.01)
    assert "x_mse" not in rows.rows_of([model_of()])[0]  # a study of one objective


def test_each_objective_is_judged_against_the_first_by_what_compares():
    found = rows.rows_of(models())
    verdicts = {v.text: v for v in across.verdicts(found)}
    assert {v.place for v in verdicts.values()} == {across.ACROSS}
    assert not {v.column for v in verdicts.values()} & {"lpf", "loss", "mc", "eigenvalue"}
    lower, higher = (verdicts[f"flow against ddpm: lower {what}"] for what in WHAT)
    assert (lower.verdict, higher.verdict) == (claims.HOLDS, claims.FAILS)
    pairs = [(r[lower.column], s[lower.column]) for r, s in zip(found[3:6], found[:3])]
    test = stats.ttest_rel(*zip(*pairs))
    assert lower.p == pytest.approx(test.pvalue)
    assert (lower.low, lower.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert {v.verdict for t, v in verdicts.items() if t.startswith("edm")} == {claims.UNDECIDED}
    assert across.verdicts(rows.rows_of([model_of()])) == across.verdicts([]) == []
    flow, edm = across.short(list(verdicts.values()))
    assert flow.startswith("flow against ddpm: higher: distance in 20 steps")
    assert edm.startswith("edm against ddpm: undecided: ") and "lower" not in edm


WHAT = ("x_mse at -8..-4", "distance in 20 steps")


def test_the_section_says_why_and_has_a_table_of_each():
    summary = rows.summary(rows.rows_of(models()))
    text = "\n\n".join(across.section(summary))
    assert "compare within an objective alone" in text and text.count("| -8..8 |") == 3
    half = 4.303 * stats.sem([5.0, 5.1, 4.85])
    (line,) = markdown(across.by_level(summary)["x_mse at w"]).splitlines()[2:3]
    assert line.startswith(f"| ddpm: adam | {(5 + 5.1 + 4.85) / 3:.2f} ± {half:.2f} |")


def test_calls_stand_where_they_are_not_the_steps():
    found = rows.rows_of(models())
    assert tables.way(found, "fd_20") == "20 steps"
    assert tables.way(found, "fd_20_heun") == "20 steps of heun (38 to 39 calls)"
    assert tables.way(found[:3], "fd_20_heun") == "20 steps of heun (38 calls)"
    assert tables.way(rows.rows_of([model_of()]), "fd_20") == "20 steps"
    assert rows.distances(found[0]) == ["fd_20", "fd_20_heun"]


def test_pictures_have_a_line_for_each_model_that_was_measured():
    all_models = models() + [model("old", seed) for seed in range(2)]
    for m in all_models[-2:]:
        m.cells.update({name: model_of().cells[name] for name in ("LPF", "LPF filter")})
    told = {"flags": {"study": {"sampler": "euler,heun"}}}
    summary = rows.summary(rows.rows_of(all_models))
    report = SimpleNamespace(models=all_models, summary=summary, settings=told, distance="FD")
    for m in all_models:
        m.cells["floor"] = m.cells["fd_20"]
    drawn = across.figures(report)
    assert list(drawn) == ["log_snr", "calls"]
    levels, calls = (pictures.svg(figure) for figure, _ in drawn.values())
    assert "<!-- x_mse at w -->" in levels and "<!-- euler -->" in calls
    for name in ("ddpm", "flow", "edm"):
        assert f"<!-- {name}: adam -->" in levels and f"<!-- {name}: adam -->" in calls
    assert "<!-- old: adam -->" not in levels
