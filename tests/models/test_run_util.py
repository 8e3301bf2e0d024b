"""What surrounds a run: its log's folder, its images, and the samples that it shows."""

import pytest
import torch
from labelled import begin, by_name, checkpoint_of, flags_of, folder_of

from flatdiff.flags import config
from flatdiff.models import networks, run_util
from flatdiff.world import logger


@pytest.fixture(autouse=True)
def log(tmp_path):
    (tmp_path / "run").mkdir()
    logger.configure(str(tmp_path / "run"), ["log"])
    return lambda: (tmp_path / "run/log.txt").read_text()


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


@pytest.mark.parametrize(("cores", "workers", "expected"), [(5, 2, 5), (1, 2, 2), (1, 0, 1)])
def test_images_are_decoded_by_the_cores_of_the_rank(monkeypatch, cores, workers, expected):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    assert run_util.decoders(config.DataFlags(num_workers=workers)) == expected
