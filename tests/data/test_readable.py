"""Broken images among whole ones: all are named at once, or left out with their labels."""

import numpy as np
import pytest
from small import images, save_images

from flatdiff.data import readable
from flatdiff.data.image_datasets import Batches, ImageDataset

NAMES = [f"{'ab'[i % 2]}_{i}" for i in range(8)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eight images, of which the 3rd is cut off and the 6th is no image."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = save_images(tmp_path / "images", images(8), NAMES)
    path = folder / "b_3.png"
    path.write_bytes(path.read_bytes()[:60])
    (folder / "a_6.png").write_bytes(b"404 Not Found")
    return folder


@pytest.fixture
def dataset(folder):
    return ImageDataset(str(folder), 8, class_cond=True)


def test_all_that_cannot_be_read_are_named_in_one_sentence(dataset):
    order = [NAMES.index(name.removesuffix(".png")) for name in dataset.source.names]
    reasons = readable.broken(dataset.source, threads=2)
    assert sorted(order[i] for i in reasons) == [3, 6]
    both = r"2 of 8 images cannot be read: .*(a_6|b_3).*; .*(a_6|b_3).*--skip_broken True"
    with pytest.raises(ValueError, match=both):
        dataset.must_be_readable(reasons)
    with pytest.raises(ValueError, match=both):  # where they are kept in memory
        dataset.squares()
    with pytest.raises(ValueError, match="8 of 8"):
        dataset.must_be_readable(dict.fromkeys(range(8), "broken"), skip=True)


def test_of_very_many_some_are_named():
    told = readable.told({i: f"image {i} is broken" for i in range(1000)}, 5000)
    assert told.startswith("1000 of 5000") and told.endswith("image 199 is broken; and 800 more")


def test_what_is_left_out_takes_its_label_with_it(dataset):
    whole = dict(zip(dataset.source.names, dataset.labels))
    dataset.must_be_readable(readable.broken(dataset.source), skip=True)
    assert dataset.num_images == len(dataset.labels) == len(dataset.squares()) == 6
    assert dict(zip(dataset.source.names, dataset.labels)).items() < whole.items()
    pixels = {f"{name}.png": image for name, image in zip(NAMES, images(8))}
    for name, square in zip(dataset.source.names, dataset.squares()):
        assert np.array_equal(square, pixels[name])


def test_parts_look_at_every_image_once(dataset):
    whole = readable.decoded(range(8), dataset.source.open)
    parts = [readable.broken(dataset.source, (k, 3)) for k in range(3)]
    assert parts[0] | parts[1] | parts[2] == whole and sum(map(len, parts)) == len(whole) == 2


def test_what_was_found_is_kept_until_a_file_changes(dataset, folder):
    found = readable.broken(dataset.source)

    def never(i):
        raise AssertionError("decoded again")

    opened, dataset.source.open = dataset.source.open, never
    assert readable.broken(dataset.source, (1, 2)) == found  # all is known, so to each part
    (folder / "b_3.png").write_bytes((folder / "b_1.png").read_bytes())
    dataset.source.open = opened
    assert len(readable.broken(dataset.source)) == 1


def test_a_file_lost_during_a_run_is_named_or_passed_over(tmp_path):
    folder = save_images(tmp_path / "images", images(4, size=9), NAMES[:4])
    dataset = ImageDataset(str(folder), 8, class_cond=True, cache_bytes=0)
    batches = Batches(dataset, 4, deterministic=True)
    before, labels = batches[0]
    (folder / dataset.source.names[1]).unlink()
    with pytest.raises(ValueError, match=f"cannot read the image .*{dataset.source.names[1]}"):
        batches[0]
    dataset.must_be_readable({}, skip=True)
    after, others = batches[0]
    taken = [0, 2, 2, 3]
    assert np.array_equal(after, before[taken])
    assert others["y"].tolist() == labels["y"][taken].tolist()
