"""One page of a folder: its numbers are those of the files, and it needs nothing beside itself."""

import json
import re

import pytest
from PIL import Image

from flatdiff.report import folder


def distance(run, kind, value):
    return {"run": run, "kind": kind, "metric": "FD-x", "value": value, "error": 0.1}


def rise(model, sigma, value, less=None, term="mse"):
    told = {"model": model, "sigma": sigma, "term": term, "part": "all", "rise": value}
    return told | {"error_larger": 0.1, "minus_first": less, "minus_first_error_larger": 0.1}


@pytest.fixture
def demo(tmp_path):
    """Two runs, whose distances differ and whose rises are 4 and 1 at the middle of three sizes."""
    less = {"run": "b", "weights": "fp32", "less": "a fp32", "metric": "FD-x", "difference": 0.5}
    less |= {"low": 0.2, "high": 0.8, "verdict": "higher"}
    rows = [distance("a", "fp32", 1), distance("a", "w4", 2), distance("b", "fp32", 1.5)]
    known = {"rows": rows + [distance("real images", "", 0.3)], "differences": [less]}
    (tmp_path / "distances.json").write_text(json.dumps(known))
    rises = [rise("a/ema", s, v) for s, v in ((1, 2), (2, 4), (3, 9))]
    rises += [rise("b/ema", 2, 100, term="vb")]
    rises += [rise("b/ema", s, v, v - 4) for s, v in ((1, 1), (2, 1), (3, 1))]
    (tmp_path / "flatness").mkdir()
    record = {"settings": {"seed": 7}, "models": [{"path": "a.pt", "sha256": "f00"}], "rows": rises}
    (tmp_path / "flatness/flatness.json").write_text(json.dumps({"LPF": record}))
    for name in ("distances", "flatness/flatness_LPF", "other", "flatness/flatness_NEW"):
        Image.new("RGB", (240, 120)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_a_terminal_sees_a_table_a_sentence_and_a_path(demo):
    told = folder.write(str(demo))
    for line in (
        "    FD-x, fp32   FD-x, 4 bits   rise of mse at sigma 2",
        "a    1.00 ± 0.10   2.00 ± 0.10   4.00 ± 0.10",
        "b    1.50 ± 0.10   1.00 ± 0.10",
        "real images   0.30 ± 0.10   0.30 ± 0.10",
    ):
        assert line.split() in [row.split() for row in told.splitlines()]
    assert "b against a: under weight noise its loss rises 0.25 times as much, and" in told
    assert "its FD-x is higher by 0.5 (95 %: 0.2 to 0.8" in told
    assert told.endswith(f"\n\n{demo / 'report.html'}")


@pytest.mark.parametrize(
    ("first", "b", "told"),
    [
        (-0.5, 1.0, "rises by 1.5 more, and"),  # no share of what is below 0
        (0.2, 1.0, "rises by 0.8 more, and"),  # nor of what may be 0
        (0.0, 0.0, "rises by 0 more, which may be chance"),
        (1.0, 1.2, "rises 1.2 times as much, which may be chance"),  # 2.0 errors, of 10 pairs 2.26
        (1.0, 1.24, "rises 1.2 times as much, and"),
    ],
)
def test_a_rise_is_a_share_of_one_that_is_surely_there(demo, first, b, told):
    rises = [rise("a/ema", 2, first), rise("b/ema", 2, b, b - first)]
    path = demo / "flatness/flatness.json"
    path.write_text(json.dumps({"LPF": {"settings": {"num_draws": 20}, "rows": rises}}))
    assert f"b against a: under weight noise its loss {told}" in folder.write(str(demo))


def test_a_rise_less_that_of_another_run_than_the_first_is_not_told(demo):
    rises = [rise("c/ema", 2, 1.0), rise("a/ema", 2, 2.0, 1.0), rise("b/ema", 2, 3.0, 2.0)]
    path = demo / "flatness/flatness.json"
    path.write_text(json.dumps({"LPF": {"rows": rises}}))
    told = folder.write(str(demo))
    assert "b against a: its FD-x" in told and "its loss" not in told


def test_what_may_be_chance_is_told_as_such(demo):
    path = demo / "flatness/flatness.json"
    path.write_text(path.read_text().replace('"minus_first": -3', '"minus_first": -0.1'))
    assert "times as much, which may be chance" in folder.write(str(demo))
    path = demo / "distances.json"
    path.write_text(path.read_text().replace('"higher"', '"tie"'))
    assert "its FD-x is not seen to differ (95 %: 0.2" in folder.write(str(demo))


def test_the_page_has_every_picture_with_its_caption_and_no_address(demo):
    folder.write(str(demo))
    html = (demo / "report.html").read_text()
    shown = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,.{100,}?" style="--w', html)
    assert shown == [*(folder.CAPTIONS[name] for name in ("distances", "flatness_LPF")), "NEW"]
    assert "--wide: 192px" in html  # 240 pixels, 120 to an inch of 96
    assert html.count("<figcaption>") == 3 and "a.pt" in html and "f00" in html
    assert not re.search(r'(?:src|href)="(?!data:)|url\(|@import|https?:', html)


def test_a_folder_of_one_run_or_of_pictures_alone_has_a_page(demo, tmp_path):
    (demo / "distances.json").unlink()
    (demo / "flatness/flatness.json").unlink()
    assert folder.write(str(demo)) == str(demo / "report.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="nothing to report in .*empty: expected distances.json"):
        folder.write(str(tmp_path / "empty"))
