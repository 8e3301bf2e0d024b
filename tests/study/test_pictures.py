"""Figures: their text stands in the SVG as comments."""

from studies import Toy, model_of

from flatdiff.flags import choices
from flatdiff.study import pictures, rows


def test_a_measure_of_the_registry_is_drawn(register):
    line = choices.Measure("toys:it", "counts toys", "flatness", {"TOY": ""})
    register(choices.MEASURES, "TOY", line, Toy)
    models = [model_of({"TOY": {"TOY": {"models": [{"toy": s}]}}}, seed=s) for s in (3, 5)]
    assert "<!-- pile of toys -->" in pictures.measured(models, "flatness")


def test_losses_of_two_objectives_share_no_panel(register):
    line = choices.Measure("toys:it", "counts toys", "flatness", {"TOY": ""})
    register(choices.MEASURES, "TOY", line, Toy)
    toys = {"TOY": {"TOY": {"models": [{"toy": 3}]}}}
    models = [model_of(toys, objective=name) for name in ("ddpm", "flow predicts=x")]
    drawn = pictures.measured(models, "flatness")
    found = [row | {"lpf": 1.0, "rise_w4": 2.0} for row in rows.rows_of(models)]
    rounded, trained = pictures.flatness_and_rounding(models, found), pictures.training(models)
    for name in ("ddpm", "flow predicts=x"):
        assert f"<!-- {name}: pile of toys -->" in drawn
        assert f"<!-- {name}: 4 bits -->" in rounded and trained.count(f"<!-- {name} -->") == 2
        assert f"<!-- {name}: adam -->" in drawn  # one legend of all
    assert "<!-- pile of toys -->" not in drawn


def test_sharpness_is_drawn_against_the_loss_to_rounding_with_pearsons_r():
    models = [model_of(seed=seed) for seed in range(4)]
    found = [row | {"lpf": row["seed"] + 1.0} for row in rows.rows_of(models)]
    for slope, r in ((2, "1.00"), (-2, "-1.00")):
        sloped = [row | {"rise_w4": slope * row["lpf"]} for row in found]
        drawn = pictures.flatness_and_rounding(models, sloped)
        assert f"<!-- 4 bits: r = {r}, 4 models -->" in drawn
    none = [row | {"rise_w4": None} for row in found]
    assert "<!-- 4 bits -->" in pictures.flatness_and_rounding(models, none)
