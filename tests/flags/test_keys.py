"""Keys of kept results: what is not said to change nothing changes them, whatever the flag."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from flatdiff.flags import config, keys
from flatdiff.models import generate
from flatdiff.store import checkpoint
from flatdiff.study import matrix

SCRIPTS = Path(__file__).parents[2] / "scripts"
MARKS = {"meaning", "numbers", "sampling", "parts", "nothing"}
GROUPS = {name: group for name, group in vars(config).items() if name.endswith("Flags")}


def groups_of(script, monkeypatch):
    """What a script reads its command line into."""
    found = {}
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    monkeypatch.setattr(
        config, "run", lambda _, body, check=None, unread="", **groups: found.update(groups)
    )
    spec = importlib.util.spec_from_file_location(script, SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    return found


def other(field):
    """Text of another value than the flag's default."""
    if names := field.metadata["choices"] or field.metadata["table"]:
        return next((name for name in names if name != field.default), f"{field.default} knob=1")
    if isinstance(field.default, bool):
        return str(not field.default)
    return "7,3" if isinstance(field.default, str) else str(field.default + 3)


@pytest.fixture
def path(tmp_path):
    """A checkpoint without a config.json: flags alone say what is in it."""
    path = str(tmp_path / "model000001.pt")
    checkpoint.save({"w": torch.zeros(2)}, path)
    return path


@pytest.mark.parametrize("script", ["image_sample", "classifier_sample", "super_res_sample"])
def test_every_flag_that_may_change_an_image_changes_its_key(script, monkeypatch, path):
    groups = groups_of(script, monkeypatch)
    counted = keys.names((g for title, g in groups.items() if title != "train"), "part")

    def key(*argv):
        return generate.key(config.parse("", ["--model_path", path, *argv], **groups), path)

    first = key()
    fields = {f.name: f for group in groups.values() for f in dataclasses.fields(group)}
    assert {"num_heads", "sampler", "clip_denoised", "dtype", "class_labels"} <= counted
    assert not counted & {"batch_size", "num_samples", "log_dir", "data_dir", "save_interval"}
    for name, field in fields.items():
        if name != "model_path":
            changed = key(f"--{name}", other(field)) != first
            assert changed == (name in counted), name


def test_other_bytes_of_a_file_are_another_key(monkeypatch, path, tmp_path):
    groups = groups_of("classifier_sample", monkeypatch)
    flags = config.parse("", ["--model_path", path], **groups)
    classifier = str(tmp_path / "c" / "model000002.pt")
    Path(classifier).parent.mkdir()
    found = set()
    for value in (0.0, 1.0):
        checkpoint.save({"w": torch.full((2,), value)}, classifier)
        found.add(generate.key(flags, classifier))
    checkpoint.save({"w": torch.ones(2)}, path)
    found.add(generate.key(flags, classifier))
    assert len(found) == 3


def test_a_part_is_no_other_for_more_parts_and_a_result_is():
    groups = {"flatness": config.FlatnessFlags, "run": config.RunFlags}
    one, more = (config.parse("", ["--num_draws", str(n)], **groups) for n in (20, 40))
    assert keys.key(one, "part") == keys.key(more, "part")
    assert keys.key(one, "result") != keys.key(more, "result")


def test_the_first_group_with_a_name_says_what_it_is():
    train, sample = config.TrainFlags, config.SampleFlags
    assert "batch_size" in keys.names([train, sample], "result")
    assert "batch_size" not in keys.names([sample, train], "result")


@pytest.mark.parametrize("name", GROUPS)
def test_marks_are_words_that_are_known(name):
    assert {f.metadata["changes"] for f in dataclasses.fields(GROUPS[name])} <= MARKS


def test_the_key_of_a_training_is_what_it_has_always_been():
    """Trainings take days: those that exist stay those of their flags."""
    flags = {
        "data_dir": "/anywhere",
        "random_flip": False,
        "lr": 0.001,
        "end_step": 800,
        "batch_size": 32,
        "optimizer": "adam-sam",
        "rho": 0.1,
        "ema_rate": "0.99",
        "use_swa": True,
        "swa_window": 10,
        "swa_start": 600,
        "log_interval": 20,
        "save_interval": 200,
        "keep_last": 1,
        "resume": "auto",
        "image_size": 8,
        "num_channels": 32,
        "attention_resolutions": "4",
        "channel_mult": "1,2",
        "learn_sigma": True,
        "noise_schedule": "cosine",
    }
    kinds = (config.RunFlags, config.DataFlags, config.TrainFlags)
    kinds += (config.ModelFlags, config.DiffusionFlags)
    for moved in ({}, {"data_dir": "/here", "log_interval": 1, "save_interval": 9, "keep_last": 0}):
        counted, aside = matrix.changed(*(config.group_of(kind, flags | moved) for kind in kinds))
        cell = matrix.Cell(
            "train", counted, {"data": "5ee18ab67bb6c648", "ranks": 1}, "", (), aside
        )
        assert cell.key == "1fac8ffc1f64" and "data_dir" in aside
