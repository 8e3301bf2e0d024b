"""Rows from cells that are whole, half there, or strange; and what a report says of them."""

import pytest
from studies import RESULTS, Toy, curve, exposure, model_of, sampled_before

from flatdiff.flags import choices
from flatdiff.study import claims, rows, tables, words


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


@pytest.mark.parametrize("kind", list(RESULTS))
def test_what_is_missing_is_none(kind):
    whole, half = (rows.rows_of([model_of(c)])[0] for c in ({}, {kind: None}))
    assert whole.keys() == half.keys()
    lost = {name for name in whole if half[name] is None and whole[name] is not None}
    assert lost and all(half[name] == whole[name] for name in whole.keys() - lost)
    assert len(tables.measured(rows.summary([half]), "flatness", {})) == 2
    (untimed,) = rows.rows_of([model_of(trained={"steps_timed": 3})])
    assert untimed["seconds"] is None


def test_distances_of_earlier_checkpoints_are_told_by_their_steps():
    """Of 800 and of 1600 steps, whose last distance is 2. Differences are paired by seed, and their
    intervals by Student's t of two degrees of freedom, 4.30."""
    short = [sampled_before(model_of(seed=s), {600: 2.5 + s, 400: 6.0}) for s in range(3)]
    long = [sampled_before(model_of(seed=s, steps=1600), {1400: 3.0 + s / 10}) for s in range(3)]
    unfinished = sampled_before(model_of(seed=4), {600: None, 400: 6.0})
    found = rows.rows_of([*short, *long, unfinished])
    assert [row["fd_20_at600"] for row in found] == [2.5, 3.5, 4.5, None, None, None, None]
    assert len({tuple(row) for row in found}) == 1
    kinds = rows.summary(found)
    assert [list(rows.steps_of(kind)) for kind in kinds] == [[400, 600, 800], [1400, 1600]]
    header, first, second = tables.along(kinds, found)
    assert header[1:-1] == [f"{n} steps" for n in (400, 600, 800, 1400, 1600)]
    assert first[:-1] == ["adam", "6", "3.5 ± 2.5", "2", "", ""]
    assert first[-1].startswith("-1.5 ± 2.5: tie (")  # 4.30 / sqrt(3)
    assert second[-1].startswith("-1.10 ± 0.25: lower (")
    assert tables.along(rows.summary(rows.rows_of([model_of()])), [])[1:] == []


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
    assert "counts toys" in words.measured("flatness")


def test_underfitting_is_a_norm_in_training_below_nine_tenths_of_the_noises():
    (row,) = rows.rows_of([model_of()])
    assert rows.underfits(row, "start") and not rows.underfits(row, "mean")
    assert not rows.underfits(row | {"noise_norm": None}, "start")


def test_moved_weights_are_columns_of_models_that_were_moved():
    assert not any(name.startswith("moved") for name in rows.rows_of([model_of()])[0])
    moves = [{"kind": "climb", "fd_rise": rise, "distance": 1.0} for rise in (0.5, 1.5)]
    model = {"correlation": {"spearman": 0.8}, "moves": moves}
    found = {"models": [model], "correlation": {"spearman": 0.1}}
    (row,) = rows.rows_of([model_of({"perturbed": found})])
    assert (row["moved_r"], row["moved_climb"], row["moved_pruned"]) == (0.8, 1.0, None)
