"""Folders of diffusers that name classes and files which are none of a network's."""

import json

import pytest

from flatdiff.exchange import diffusers_models

pytest.importorskip("diffusers")


def folder_of(path, config, scheduler=None, shards=None):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / diffusers_models.WEIGHTS).touch()
    if shards:
        text = json.dumps({"weight_map": shards})
        (path / f"{diffusers_models.WEIGHTS}.index.json").write_text(text)
    if scheduler:
        (path / "scheduler").mkdir()
        (path / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    return str(path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.safetensors", 3])
def test_no_file_outside_of_the_folder_is_read(name, tmp_path):
    folder = folder_of(tmp_path / "unet", {"_class_name": "UNet2DModel"}, shards={"a": name})
    with pytest.raises(ValueError, match="index.json names .* which is no file beside it"):
        diffusers_models.from_diffusers(folder)


@pytest.mark.parametrize("name", ["DiffusionPipeline", "logging", "__name__", "UNet2DModel"])
def test_a_scheduler_is_a_scheduler(name, tmp_path):
    folder = tmp_path / "a" / "scheduler"
    folder_of(tmp_path / "a", {}, {"_class_name": name})
    with pytest.raises(ValueError, match=f"scheduler is a {name}; expected a scheduler"):
        diffusers_models._load_scheduler([str(folder)])


@pytest.mark.parametrize("content", ["null", "3", "[]", "[" * 100000, "{"])
def test_a_config_that_is_none_is_named(content, tmp_path):
    folder = folder_of(tmp_path / "unet", {})
    (tmp_path / "unet/config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json is not whole"):
        diffusers_models.from_diffusers(folder)
