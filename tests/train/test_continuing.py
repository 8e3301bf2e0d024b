"""A run that goes on otherwise than it began: what is told, refused, and kept in config.json."""

import json
import os

import pytest
from PIL import Image

from flatdiff.store import checkpoint


@pytest.fixture
def begun(train, tmp_path):
    """A folder with two steps of Adam-SAM."""
    train(tmp_path / "run", "--optimizer", "adam-sam", "--lr", "1e-3")
    return tmp_path / "run"


def log(folder):
    return (folder / "log.txt").read_text()


SAME = "--resume auto --optimizer adam-sam --lr 1e-3".split()


def test_each_changed_flag_is_a_line_and_each_step_keeps_its_own(train, begun):
    train(begun, *SAME, end_step=3)
    assert log(begun).count("changed from here on") == 1  # end_step
    train(begun, *SAME, "--lr", "5e-4", "--log_interval", "7", end_step=4)
    for line in ("--lr was 0.001 and is 0.0005", "--log_interval was 100 and is 7"):
        assert f"changed from here on: {line}" in log(begun)
    rates = [checkpoint.config_of(f"{begun}/model00000{i}.pt")[0]["train"]["lr"] for i in (1, 3, 4)]
    assert rates == [1e-3, 1e-3, 5e-4]
    kept = checkpoint.load_json(f"{begun}/config.json")
    assert [(s["from"], s["to"]) for s in kept["history"]] == [(0, 2), (2, 3), (3, None)]
    assert kept["train"]["lr"] == 5e-4 and kept["history"][2]["ranks"] == 1


def test_what_its_numbers_mean_does_not_change_by_itself(train, begun):
    other = "--resume auto --lr 1e-3 --random_flip False".split()
    with pytest.raises(ValueError) as error:
        train(begun, *other, end_step=3)
    for told in ("--optimizer was 'adam-sam' and is 'adam'", "--random_flip was True and is False"):
        assert told in str(error.value)
    assert "give --random_flip True --optimizer adam-sam" in str(error.value)
    assert checkpoint.complete_steps(str(begun)) == [1, 2]
    train(begun, *other, "--allow_change", "True", end_step=3)
    of = [
        checkpoint.config_of(f"{begun}/model00000{i}.pt")[0]["train"]["optimizer"] for i in (2, 3)
    ]
    assert of == ["adam-sam", "adam"]


def test_other_images_are_no_matter_of_paths(train, begun, tmp_path):
    os.rename(tmp_path / "data", tmp_path / "moved")
    train(begun, *SAME, "--data_dir", str(tmp_path / "moved"), end_step=3)
    Image.new("RGB", (8, 8), (0, 0, 255)).save(tmp_path / "moved" / "2.png")  # one of four
    with pytest.raises(ValueError, match="other images: 4 images .*, and now 4 "):
        train(begun, *SAME, "--data_dir", str(tmp_path / "moved"), end_step=4)
    more = "--data_dir", str(tmp_path / "moved"), "--allow_change", "True"
    train(begun, *SAME, *more, end_step=4)
    assert "changed from here on: the images were 4 images" in log(begun)


def test_a_run_of_before_there_was_a_history_goes_on(train, begun):
    path = begun / "config.json"
    old = {k: v for k, v in json.loads(path.read_text()).items() if k != "history"}
    del old["train"]["sam_share"]  # nor this flag
    path.write_text(json.dumps(old))
    train(begun, *SAME, "--lr", "2e-3", end_step=3)
    kept = json.loads(path.read_text())
    assert kept["history"][0] == {"from": 0, "to": 2, "flags": {k: old[k] for k in old}}
    assert checkpoint.config_of(f"{begun}/model000002.pt")[0]["train"]["lr"] == 1e-3
