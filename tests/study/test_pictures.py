"""Figures: their text stands in the SVG as comments."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
from studies import Done, Toy, model_of, sampled_before

from flatdiff.flags import choices
from flatdiff.report.compare import series
from flatdiff.study import pictures, rows
from flatdiff.study.claims import FAILS, HOLDS, UNDECIDED, Verdict


def test_a_measure_of_the_registry_is_drawn(register):
    line = choices.Measure("toys:it", "counts toys", "flatness", {"TOY": ""})
    register(choices.MEASURES, "TOY", line, Toy)
    models = [model_of({"TOY": {"TOY": {"models": [{"toy": s}]}}}, seed=s) for s in (3, 5)]
    assert "<!-- pile of toys -->" in pictures.svg(pictures.measured(models, "flatness"))


def test_an_axis_of_logarithms_names_the_few_sizes_that_were_measured(register):
    class Logarithmic(Toy):
        @staticmethod
        def lines(model):
            return [Toy.lines(model)[0]._replace(scale="log")]

    line = choices.Measure("toys:it", "counts toys", "flatness", {"TOY": ""})
    register(choices.MEASURES, "TOY", line, Logarithmic)
    models = [model_of({"TOY": {"TOY": {"models": [{"toy": 3}]}}})]
    drawn = pictures.measured(models, "flatness").axes
    axis = next(axis for axis in drawn if axis.get_title() == "pile of toys")
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "2"]
    assert not len(axis.get_xticks(minor=True))


def test_losses_of_two_objectives_share_no_panel(register):
    line = choices.Measure("toys:it", "counts toys", "flatness", {"TOY": ""})
    register(choices.MEASURES, "TOY", line, Toy)
    toys = {"TOY": {"TOY": {"models": [{"toy": 3}]}}}
    models = [model_of(toys, objective=name) for name in ("ddpm", "flow predicts=x")]
    drawn = pictures.svg(pictures.measured(models, "flatness"))
    found = [row | {"lpf": 1.0, "rise_w4": 2.0} for row in rows.rows_of(models)]
    rounded = pictures.svg(pictures.flatness_and_rounding(models, found))
    trained = pictures.svg(pictures.training(models))
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
        drawn = pictures.svg(pictures.flatness_and_rounding(models, sloped))
        assert f"<!-- 4 bits: r = {r}, 4 models -->" in drawn
    none = [row | {"rise_w4": None} for row in found]
    assert "<!-- 4 bits -->" in pictures.svg(pictures.flatness_and_rounding(models, none))


def test_distances_of_earlier_checkpoints_are_drawn_to_the_last():
    """Against steps, and against images: an eighth as many, in thousands."""
    models = [sampled_before(model_of(seed=s), {600: 3.0, 400: 6.0}) for s in range(2)]
    models += [sampled_before(model_of(seed=s, steps=1600), {1200: 4.0}) for s in range(2)]
    models[0].cells["floor"] = Done("floor", {}, {"result": {"floor": {"values": [0.2, 0.4]}}}, "")
    figure = pictures.along(models, rows.summary(rows.rows_of(models)), "FD-lite0")
    for axis, scale in zip(figure.axes, (1, 1 / 8000)):
        drawn = {bars.get_label(): bars.lines[0].get_xydata() for bars in axis.containers}
        assert drawn.keys() == {"adam", "adam 1600 steps"}
        expected = {"adam": [(400, 6), (600, 3), (800, 2)]}
        expected["adam 1600 steps"] = [(1200, 4), (1600, 2)]
        for name, points in expected.items():
            (floor,) = (line for line in axis.lines if line.get_color() == "0.6")
            assert floor.get_ydata() == [pytest.approx(0.3)] * 2
            assert drawn[name].tolist() == [pytest.approx((x * scale, y)) for x, y in points]
    alone = [model_of()]
    assert pictures.along(alone, rows.summary(rows.rows_of(alone)), "FD-lite0") is None


def test_claims_are_drawn_where_they_are_decided():
    """In percent of the base, left of 0 where the claim holds; without an interval, no line."""
    about = "", "lpf", HOLDS
    half = Verdict("half as sharp", *about, -2.0, -3.0, -1.0, 3, p=0.01, holm=HOLDS, base=4.0)
    more = dataclasses.replace(half, text="more", verdict=FAILS, holm=UNDECIDED, base=-100.0)
    r = dataclasses.replace(half, text="r", low=None, high=None, base=None)
    figure = pictures.verdicts([half, r, more])
    axis = figure.axes[0]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    points = {line.get_label(): line.get_xdata()[0] for line in dots}
    assert points == {"holds after Holm": -50.0, "does not hold": -2.0}
    assert [line.get_fillstyle() for line in dots] == ["full", "none"]
    assert [list(line.get_xdata()) for line in axis.lines[:4:2]] == [[-75, -25], [-3, -1]]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["half as sharp", "more"]
    assert pictures.verdicts([r]) is None


def test_curvature_is_drawn_where_trainings_have_measured_it(tmp_path):
    """Means over seeds at the steps that both have; no picture where none has a column."""
    rows_of = {0: "100,1,\n200,1,8\n300,1,4\n", 1: "200,1,6\n300,1,\n"}
    models = []
    for seed, lines in rows_of.items():
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "progress.csv").write_text(f"step,loss,critical_sharpness\n{lines}")
        model = model_of(seed=seed)
        cell = SimpleNamespace(folder=str(folder))
        training = dataclasses.replace(model.training, cell=cell)
        models.append(dataclasses.replace(model, training=training))
    assert series(str(tmp_path / "0"), "critical_sharpness") == {200: 8.0, 300: 4.0}
    drawn = pictures.svg(pictures.curvature(models))
    assert "<!-- critical sharpness [1 / learning rate] -->" in drawn
    assert pictures.curvature([model_of(seed=seed) for seed in range(2)]) is None


def test_a_band_is_the_interval_of_the_mean_over_seeds(register):
    """Of 3 and 5 by Student's t with one degree of freedom: 4 +- tan(0.475 pi)."""
    line = choices.Measure("toys:it", "counts toys", "flatness", {"TOY": ""})
    register(choices.MEASURES, "TOY", line, Toy)
    models = [model_of({"TOY": {"TOY": {"models": [{"toy": s}]}}}, seed=s) for s in (3, 5)]
    for of, half in ((models, math.tan(0.475 * math.pi)), (models[:1], None)):
        axes = pictures.measured(of, "flatness").axes
        (bands,) = (axis.collections for axis in axes if axis.get_title() == "pile of toys")
        assert len(bands) == (half is not None)
        for band in bands:
            y = band.get_paths()[0].vertices[:, 1]
            assert (y.min(), y.max()) == pytest.approx((4 - half, 4 + half))


def test_a_training_has_its_colour_in_studies_with_others():
    one = model_of()
    two = dataclasses.replace(one, training=dataclasses.replace(one.training, gradient="adam-sam"))
    look = [pictures._look(models, two)["color"] for models in ([one, two], [two], [two, one])]
    assert look[0] == look[1] == look[2] != pictures._look([one, two], one)["color"]
