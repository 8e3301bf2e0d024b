"""Pictures of runs: which files they take, and that there is something on them."""

import numpy as np
import pytest
from PIL import Image

from flatdiff.report import compare


def samples(folder, name, value):
    folder.mkdir(exist_ok=True)
    np.savez(folder / name, arr_0=np.full((5, 32, 32, 3), value, np.uint8))


def test_samples_are_found_by_their_bits(tmp_path):
    for kind in ("_w4a8", "_w8a8", "", "_ddim", "_w8"):
        samples(tmp_path / "a", f"samples_32x32x32x3{kind}.npz", 0)
    found = compare.samples_of(str(tmp_path / "a"))
    assert list(found) == ["", "ddim", "w8", "w8a8", "w4a8"]
    assert [compare.told(kind) for kind in ("", "w8a8")] == ["fp32", "w8a8"]
    assert found["w8"].endswith("x3_w8.npz")
    with pytest.raises(ValueError, match="no samples_"):
        compare.samples_of(str(tmp_path))


def test_each_run_and_number_of_bits_has_its_grid(tmp_path):
    for run, kind, value in (("a", "", 250), ("b", "", 120), ("a", "_w8", 10)):
        samples(tmp_path / run, f"samples_5x32x32x3{kind}.npz", value)
    path = compare.sample_grids([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "s.png"))
    colours = {c for _, c in Image.open(path).convert("L").getcolors()}
    assert {250, 120, 10} <= colours


def test_training_curves_need_a_run(tmp_path):
    (tmp_path / "a").mkdir()
    rows = "step,loss,mse,vb,late\n1,1.0,0.9,0.1,\n2,0.5,0.45,0.05,3\n"
    (tmp_path / "a" / "progress.csv").write_text(rows)
    path = compare.training_curves([str(tmp_path / "a")], str(tmp_path / "c.png"))
    assert Image.open(path).width > 1000
    with pytest.raises(ValueError, match=r"no progress.csv in .*not the folder of a run"):
        compare.training_curves([str(tmp_path)], str(tmp_path / "c.png"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,loss\n", "0 rows, with a number in each for nothing"),
        ("step,mse\n1,2\n", "1 rows, with a number in each for step, mse"),
        ("step,loss\n1,2\n2,\n", "2 rows, with a number in each for step; expected a step and a"),
    ],
)
def test_a_run_without_a_loss_is_told(tmp_path, text, message):
    (tmp_path / "progress.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        compare.training_curves([str(tmp_path)], str(tmp_path / "c.png"))
