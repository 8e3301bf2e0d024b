"""A new flatness measure is one file and one line: a toy is named, run, kept, told and drawn."""

import csv
import functools
import math

import pytest
import torch
from flatness_studies import arguments, estimates, measure, parse, study

from flatdiff.flags import choices
from flatdiff.measure import frame
from flatdiff.store import checkpoint

calls = []


class Toy(frame.Measure):
    """The loss with all weights shrunk by a factor, `points` of them."""

    def __init__(self, *, scale: float = 0.5, points: int = 2, num_draws: int):
        if scale > 1:
            raise ValueError(f"scale is {scale}; expected 1 or less")
        self.factors = [scale**i for i in range(points)]
        self.num_draws = num_draws

    def tasks(self, subject):
        def at(factor):
            calls.append(factor)
            return subject.at(lambda weights: torch._foreach_mul_(weights, factor))

        return {f"shrunk {f}": functools.partial(at, f) for f in self.factors}

    def result(self, subject, found):
        return {"shrunk": [point["losses"][0][0] for point in found], "draws": self.num_draws}

    def rows(self, record):
        return [
            {"model": model["name"], "factor": factor, "loss": loss}
            for model in record["models"]
            for factor, loss in zip(self.factors, model["shrunk"])
        ]

    @staticmethod
    def shown(model):
        return {"last": model["shrunk"][-1]}


class Line(choices.Measure):
    def load(self):
        return Toy


@pytest.fixture
def toy(monkeypatch):
    """Registered as TOY; a list of the factors that it has computed."""
    columns = {"shrunk": choices.Column("TOY", "last", "shrunk loss")}
    line = Line("", "all weights shrunk", "flatness", {"TOY": ""}, columns)
    for table in (choices.MEASURES, choices.FLATNESS):
        monkeypatch.setitem(table, "TOY", line)
    calls.clear()
    return calls


def test_a_toy_is_in_the_help_and_in_the_errors(toy, capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert "TOY: all weights shrunk" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        parse(["--flatness", "TOI"])
    assert ", TOY; did you mean TOY?" in capsys.readouterr().err


def test_a_toy_is_run_kept_told_and_drawn(toy, folder, tmp_path):
    argv = arguments(folder, tmp_path, "--flatness", "TOY")
    measure(argv)
    assert toy == [1.0, 0.5] * 2
    found = estimates(tmp_path, "TOY")
    for model in found["models"]:
        assert model["draws"] == 4  # the flag of that name
        assert model["shrunk"][0] == model["at_w"]["mse"]["losses"][0]
        assert choices.MEASURES["TOY"].load().shown(model) == {"last": model["shrunk"][1]}
    measure(argv)
    assert len(toy) == 4, "what is known is not computed again"
    assert estimates(tmp_path, "TOY") == found
    with open(tmp_path / "flatness_TOY.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["factor"] for row in rows] == ["1.0", "0.5"] * 2
    losses = [loss for model in found["models"] for loss in model["shrunk"]]
    assert [float(row["loss"]) for row in rows] == losses
    assert (tmp_path / "flatness_TOY.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "log.txt").read_text().split("model  ")[1].splitlines()
    assert table[1].split() == ["a/model000007", "1", f"{found['models'][0]['shrunk'][0]:.4g}"]


def test_a_toy_has_knobs(toy, folder, tmp_path):
    argv = arguments(folder, tmp_path, "--model_path", f"{folder}/runs/a/*", "--flatness")
    study([*argv, "TOY scale=0.25 points=3"])
    assert toy == [1, 0.25, 0.0625]
    study([*argv, "TOY points=3 scale=0.5"])
    assert toy[3:] == [1, 0.5, 0.25], "knobs are part of what a result is kept under"
    measure([*argv, "TOY scale=0.25"])
    assert "TOY" in checkpoint.load_json(str(tmp_path / "flatness.json"))
    for text, words in (
        ("TOY size=1", "TOY has no knob 'size'; it has scale, points"),
        ("TOY points=x", "TOY, points: got 'x', expected a whole number"),
        ("TOY scale=2", "scale is 2.0; expected 1 or less"),
    ):
        with pytest.raises(ValueError, match=words):
            measure([*argv, text, "--log_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_what_is_no_number_is_an_empty_cell():
    cells = [frame.number(value) for value in (None, math.nan, 0.123456, "a", 12)]
    assert cells == ["", "", "0.1235", "a", "12"]
    plain = {"a": [1.5, None], "b": {"c": None}}
    assert frame.without_nan({"a": [1.5, math.nan], "b": {"c": math.nan}}) == plain
