"""Colours follow names, and files are what their names say."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from flatdiff.flags import choices, config
from flatdiff.report import figures


def test_a_run_has_its_colour_whatever_else_is_drawn_and_in_any_order():
    alone = figures.colours(["adam-sam"])["adam-sam"]
    for name in ("adam-sam", "adam-sam/ema_0.9_001", "x/adam-sam/ema_0.9_001"):
        names = [name, "adam"]
        found = figures.colours(names)
        assert found[name] == alone
        assert figures.colours(names[::-1]) == found
        assert len({*found.values()}) == 2


def test_no_two_that_are_drawn_are_alike():
    for names in (choices.GRADIENTS, [f"run{i}" for i in range(len(figures.PALETTE))]):
        found = figures.colours(names)
        assert len({*found.values()}) == len(names)
        assert figures.colours([*names][::-1]) == found
    files = figures.colours(["a/1", "a/2", "b/1", "a/3"])
    assert len({*files.values()}) == 4
    assert np.all(np.array(files["a/1"]) <= files["a/2"])  # paler
    assert figures.colours([("a/1", "minmax"), ("a/1", "mse")])[("a/1", "minmax")] == files["a/1"]


BEGINS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.mark.parametrize(("kind", "begins"), BEGINS.items())
def test_a_file_is_of_its_kind_and_the_same_again(kind, begins, tmp_path):
    assert kind in figures.FORMATS

    def written(name):
        figure = Figure(figsize=(1, 1))
        figure.subplots().plot([1, 2])
        path = figures.save(figure, str(tmp_path / name), kind)
        assert path == str(tmp_path / f"{name}.{kind}")
        return (tmp_path / f"{name}.{kind}").read_bytes()

    first = written("a")
    assert first.startswith(begins)
    assert written("b") == first


def test_every_command_that_draws_takes_the_formats():
    groups = "Flatness Exposure ExposureBench Perturbed Study Compare Averages".split()
    for group in (getattr(config, f"{name}Flags") for name in groups):
        (field,) = (f for f in group.__dataclass_fields__.values() if f.name == "format")
        assert field.metadata["choices"] == figures.FORMATS
        assert field.metadata["changes"] == "nothing"


@pytest.mark.parametrize(("scale", "low"), [("linear", -1), ("log", 0.1)])
def test_a_band_ends_above_zero_on_logarithms(scale, low):
    axis = Figure().subplots()
    axis.set_yscale(scale)
    figures.band(axis, [1, 2], [1, 4], [2, 1], "C0")
    y = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert {*np.round(y, 9)} == {low, 3, 5}
