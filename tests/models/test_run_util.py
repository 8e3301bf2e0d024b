"""What surrounds a run: its log's folder, its images, and the samples that it shows."""

import types

import pytest
import small
from PIL import Image

from flatdiff.flags import config
from flatdiff.models import networks, run_util
from flatdiff.store import checkpoint
from flatdiff.train import starting
from flatdiff.world import logger

DIFFUSION = config.DiffusionFlags(diffusion_steps=10, noise_schedule="cosine")


@pytest.fixture(autouse=True)
def log(tmp_path):
    (tmp_path / "run").mkdir()
    logger.configure(str(tmp_path / "run"), ["log"])
    return lambda: (tmp_path / "run/log.txt").read_text()


def folder_of(path, *names, each=2):
    """A folder with images of these classes, each filled with the code of its class's letters."""
    path.mkdir()
    for name in names:
        for i in range(each):
            shade = sum(map(ord, name)) % 256
            Image.new("RGB", (8, 8), (shade,) * 3).save(path / f"{name}_{i}.png")
    return str(path)


def by_name(dataset):
    """Class -> label, read off the images' files."""
    names = (name.split("_")[0] for name in dataset.source.names)
    return dict(zip(names, dataset.labels.tolist()))


def flags_of(data_dir, num_classes, **train):
    return types.SimpleNamespace(
        run=config.RunFlags(),
        data=config.DataFlags(data_dir=data_dir),
        train=config.TrainFlags(**train),
        model=small.groups(class_cond=True, num_classes=num_classes)[0],
        diffusion=DIFFUSION,
        given={},
    )


def begin(flags, tmp_path, resume=""):
    dataset = starting.training_data(flags, resume, 8, flags.model.num_classes)
    starting.keep_config(flags, dataset, resume)
    return dataset


def checkpoint_of(flags, path):
    model, _ = networks.build(flags.model, DIFFUSION)
    checkpoint.save(model.state_dict(), str(path))
    return str(path)


def test_without_names_labels_are_guided_diffusions_with_a_warning(tmp_path, log):
    data = folder_of(tmp_path / "a", "10", "9")
    path = checkpoint_of(flags_of(data, 2), tmp_path / "model000001.pt")
    model, _ = networks.from_checkpoint(path, flags_of(data, 2))
    dataset = run_util.open_dataset(config.DataFlags(data_dir=data), 8, 2, model.classes)
    assert by_name(dataset) == {"10": 0, "9": 1}
    assert "no class names were saved with the checkpoint" in log()


def test_previews_show_only_what_is_trained(tmp_path):
    flags = flags_of(folder_of(tmp_path / "a", "cat", "dog"), 1000)
    draw = run_util.preview(flags, begin(flags, tmp_path))
    seen = set()

    def model(x, t, y):
        seen.update(y.tolist())
        return x

    draw(model)
    assert seen == {0, 1}
