"""Rows from cells that are whole, half there, or strange; and what a report says of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from flatdiff.flags import choices
from flatdiff.measure.frame import Line, Measure
from flatdiff.study import claims, pictures, report, rows, tables, words
from flatdiff.study.matrix import Cell, Model, Training

AT_W = {"mse": {"losses": [0.1] * 5, "errors": [0.0] * 5}}


def curve(rise, name="LPF"):
    """flatness.json of three sizes; the middle one has this rise, the mean of two pairs."""
    draws = [[0.1 + rise + d] * 5 for d in (-0.001, 0.001, 0.003, -0.003)]
    points = [{"distances": [1.0] * 4, "losses": {"mse": [[0.1] * 5] * 4}} for _ in range(3)]
    points[1] = points[1] | {"losses": {"mse": draws}}
    return {name: {"models": [{"at_w": AT_W, "curve": points}], "settings": {}}}


def exposure(**more):
    model = {
        "training": {"value": [8.0, 9.0, 9.8]},
        "sampling": {"value": [11.0, 9.5, 9.7]},
        "gap": {"value": [3.0, 0.5, -0.1]},
    }
    return {"noise_norm": 10.0, "timesteps": [0, 5, 9], "models": [model | more]}


RESULTS = {
    "LPF": curve(0.01),
    "LPF filter": curve(0.02),
    "MC": curve(0.03, "MC"),
    "HESSIAN": {"HESSIAN": {"models": [{"eigenvalues": [5.0]}]}},
    "exposure": exposure(),
    "fd_20": {
        "features": "lite0",
        "metrics": {"FD-lite0": 2.0, "FD-lite0_error": 0.1, "FD-lite0_infinity": 1.5},
    },
    "fd_20_w4": {"features": "lite0", "metrics": {"FD-lite0": 3.0, "FD-lite0_error": 0.1}},
}


class Done(Cell):
    """A cell with its result in hand."""

    def result(self):
        return self.made_of["result"]


def model_of(changes=None, trained=None, seed=0):
    results = RESULTS | (changes or {})
    cells = {name: Done(name, {}, {"result": result}, "") for name, result in results.items()}
    seconds = {"seconds": 1.0, "processor_seconds": 2.0} if trained is None else trained
    train = Done("train", {}, {"result": seconds, "seed": seed}, "")
    training = Training("adam", False, False, 0.0, seed, 800, 100.0, train)
    return Model(training, "none", cells)


def test_a_row_says_what_the_cells_say():
    (row,) = rows.rows_of([model_of()])
    expected = {"lpf": 0.01, "lpf_filter": 0.02, "mc": 0.03, "eigenvalue": 5.0, "rise_w4": 1.0}
    expected |= {"fd_20_infinity": 1.5, "fd_20_w4_infinity": None, "noise_norm": 10.0}
    assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_the_gap_of_the_first_step_is_not_in_the_mean_of_the_rest():
    (row,) = rows.rows_of([model_of()])
    assert (row["gap_start"], row["gap_mean"]) == pytest.approx((3.0, 0.3))
    assert (row["training_start"], row["sampling_start"]) == (8.0, 11.0)
    assert (row["training_mean"], row["sampling_mean"]) == pytest.approx((9.4, 9.6))
    names = ("training", "sampling", "gap")
    one = {"exposure": exposure(**{name: {"value": [3.0]} for name in names})}
    (row,) = rows.rows_of([model_of(one)])
    assert (row["gap_start"], row["gap_mean"]) == (3.0, None)


def test_underfitting_is_a_norm_in_training_below_nine_tenths_of_the_noises():
    (row,) = rows.rows_of([model_of()])
    assert rows.underfits(row, "start") and not rows.underfits(row, "mean")
    assert not rows.underfits(row | {"noise_norm": None}, "start")
    summary = rows.summary([row])
    told = words.underfitting(summary)
    assert "So it is nearest t = 0 of every model. " in told and "√(3HW) = 10" in told
    good = summary[0] | {"training_start": 9.2, "gradient": "adam-sam"}
    assert "So it is nearest t = 0 of adam. " in words.underfitting([*summary, good])
    assert "So it is nowhere here. " in words.underfitting([good])
    assert words.underfitting([good | {"noise_norm": None}]) == ""


@pytest.mark.parametrize("kind", list(RESULTS))
def test_what_is_missing_is_none(kind):
    whole, half = (rows.rows_of([model_of(c)])[0] for c in ({}, {kind: None}))
    assert whole.keys() == half.keys()
    lost = {name for name in whole if half[name] is None and whole[name] is not None}
    assert lost and all(half[name] == whole[name] for name in whole.keys() - lost)
    assert len(tables.measured(rows.summary([half]), "flatness", {})) == 2
    (untimed,) = rows.rows_of([model_of(trained={"steps_timed": 3})])
    assert untimed["seconds"] is None


def test_numbers_that_are_none_are_left_out_and_named():
    infinite = RESULTS["fd_20"]["metrics"] | {"FD-lite0": float("inf")}
    strange = {
        "LPF": curve(float("nan")),
        "fd_20": RESULTS["fd_20"] | {"metrics": infinite},
        "exposure": exposure(gap={"value": [3.0, None, 0.1]}),
    }
    models = [model_of(), model_of(strange, seed=1)]
    found = rows.rows_of(models)
    assert [found[1][k] for k in ("lpf", "fd_20", "rise_w4", "gap_mean")] == [None] * 4
    assert found[1]["gap_start"] == 3.0 and found[1]["fd_20_w4"] == 3.0
    assert rows.not_finite(models) == [
        f"{name} of adam none, seed 1" for name in ("fd_20", "rise_w4", "lpf", "gap_mean")
    ]
    assert rows.summary(found)[0]["lpf"] == pytest.approx(0.01)


def test_a_study_without_a_trained_model_says_so(tmp_path, capsys):
    flags = SimpleNamespace(run=SimpleNamespace(log_dir=str(tmp_path)))
    assert report.write([model_of(trained={})], flags) == []
    assert "none of the 1 models of this study is trained" in capsys.readouterr().out


def test_real_images_stand_below_the_models():
    summary = rows.summary(rows.rows_of([model_of(), model_of(seed=1)]))
    floor = {"values": [0.4, 0.5, 0.6], "infinities": [0.0, 0.1, 0.2]}
    header, *lines = tables.quality(summary, "FD", floor, "seconds", 400)
    assert header[2:4] == ["FD, 20 steps", "20 steps, endless samples"]
    assert header[-1] == "seconds" and {len(row) for row in lines} == {len(header)}
    half = 4.303 * np.std([0.4, 0.5, 0.6], ddof=1) / 3**0.5
    assert lines[-1][:3] == ["400 real images", "", f"0.50 ± {half:.2f}"]
    assert lines[0][2:4] == ["**2**", "1.5"]


class Toy(Measure):
    """Says what the record says."""

    @staticmethod
    def shown(model):
        return {"twice": 2 * model["toy"]}

    @staticmethod
    def lines(model):
        return [Line("pile of toys", [1.0, 2.0], [model["toy"], 0.0], "x", "y")]


def test_a_measure_of_the_registry_is_shown_claimed_and_drawn(register):
    column = choices.Column("TOY", "twice", "toys, twice", "toys")
    line = choices.Measure("toys:it", "counts toys", "flatness", {"TOY": ""}, {"toys": column})
    register(choices.MEASURES, "TOY", line, Toy)
    models = [model_of({"TOY": {"TOY": {"models": [{"toy": s}]}}}, seed=s) for s in (3, 5)]
    found = rows.rows_of(models)
    assert [row["toys"] for row in found] == [6, 10]
    header, told = tables.measured(rows.summary(found), "flatness", {})
    assert header[-1] == "toys, twice" and told[-1].startswith("8")
    sam = [row | {"gradient": "adam-sam", "climbs": True} for row in found]
    texts = {claim.text: claim.column for claim in claims.claims(found + sam)}
    assert texts["SAM is flatter than Adam: toys"] == "toys"
    assert "pile of toys" in pictures.measured(models, "flatness")
    assert "counts toys" in words.measured("flatness")
