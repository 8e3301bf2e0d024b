"""A label means in use what it meant in training: by name, whatever folder it is met in."""

import json
import types

import numpy as np
import pytest
from labelled import begin, by_name, checkpoint_of, flags_of, folder_of
from preparation import run as prepare

from flatdiff.data import classes
from flatdiff.flags import config
from flatdiff.image_datasets import ImageDataset, load_data
from flatdiff.measure import quantized, run
from flatdiff.models import generate, networks, run_util, super_res
from flatdiff.world import logger


@pytest.fixture(autouse=True)
def log(tmp_path):
    (tmp_path / "run").mkdir()
    logger.configure(str(tmp_path / "run"), ["log"])
    return lambda: (tmp_path / "run/log.txt").read_text()


# Which label a new run gives


def test_numbers_count_as_numbers(tmp_path):
    names = [str(i) for i in range(12)]
    dataset = ImageDataset(folder_of(tmp_path / "a", *names), 8, class_cond=True)
    assert dataset.classes == names
    assert by_name(dataset) == {name: int(name) for name in names}
    mixed = [*names, "x"]  # not all are numbers
    dataset = ImageDataset(folder_of(tmp_path / "b", *mixed), 8, class_cond=True)
    assert dataset.classes == sorted(mixed)


def test_load_data_labels_as_guided_diffusion(tmp_path):
    """Which sorts the names as text: code that imports it keeps the labels of its checkpoints."""
    data = folder_of(tmp_path / "a", "2", "9", "10", each=1)
    _, cond = next(load_data(data_dir=data, batch_size=3, image_size=8, class_cond=True,
                             deterministic=True))  # fmt: skip
    assert cond["y"].tolist() == [0, 1, 2]  # files: 10, 2, 9


# Later


@pytest.mark.parametrize("names", [["dog", "fox"], ["fox"], ["cat", "dog", "fox"]])
def test_a_folder_without_some_classes_keeps_the_labels(tmp_path, names):
    trained = ["cat", "dog", "fox", "owl"]
    dataset = ImageDataset(folder_of(tmp_path / "a", *names), 8, class_cond=True)
    dataset.relabel(trained)
    assert by_name(dataset) == {name: trained.index(name) for name in names}
    assert dataset.classes == trained


def test_unknown_classes_are_named(tmp_path):
    dataset = ImageDataset(folder_of(tmp_path / "a", "ant", "cat", "yak"), 8, class_cond=True)
    with pytest.raises(ValueError, match="not trained on the classes ant, yak: it has cat, dog"):
        dataset.relabel(["cat", "dog"])


def test_labels_without_names_are_the_networks_own(tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros((3, 8, 8, 3), np.uint8), np.array([3, 1, 3]))

    def labelled(known):
        dataset = ImageDataset(f"{tmp_path}/a.npz", 8, class_cond=True)
        assert dataset.classes == [None, "1", None, "3"]
        dataset.relabel(known)
        return dataset.labels.tolist()

    assert labelled([]) == labelled(["cat", "dog", "fox", "owl"]) == [3, 1, 3]
    assert labelled(["1", "2", "3"]) == [2, 0, 2]  # where 3 is a name, the class of this name
    with pytest.raises(ValueError, match="classes 3: it has cat, dog, fox"):
        labelled(["cat", "dog", "fox"])


def test_an_npz_carries_the_names(tmp_path):
    data = folder_of(tmp_path / "a", "dog", "cat", "fox")
    prepare("to_npz", data_dir=data, image_size=8, out=f"{tmp_path}/a.npz", class_cond=True)
    dataset = ImageDataset(f"{tmp_path}/a.npz", 8, class_cond=True)
    assert dataset.classes == ["cat", "dog", "fox"]
    dataset.relabel(["ape", "fox", "dog", "cat"])
    assert dataset.labels.tolist() == [3, 3, 2, 2, 1, 1]


def test_two_networks_at_work_together_mean_the_same():
    assert classes.common(["a", "b", "c"], ["a", None, "c"]) == ["a", None, "c"]
    assert classes.common([], ["a"]) == classes.common(["a"], []) == ["a"]
    with pytest.raises(ValueError, match="label 0 is 'a' and 'b', 1 is 'b' and 'a'"):
        classes.common(["a", "b"], ["b", "a"])


# With a run


def test_a_run_keeps_its_classes_and_goes_on_by_name(tmp_path, log):
    data = folder_of(tmp_path / "a", "10", "9", "11")
    begin(flags_of(data, 5), tmp_path)
    assert json.loads((tmp_path / "run/config.json").read_text())["classes"] == ["9", "10", "11"]
    assert "labels: 0 9, 1 10, 2 11" in log()
    assert "rows for 5 classes, and the images are of 3" in log()
    path = checkpoint_of(flags_of(data, 5), tmp_path / "run/model000001.pt")
    fewer = folder_of(tmp_path / "b", "11", "10")
    assert by_name(begin(flags_of(fewer, 5), tmp_path, path)) == {"10": 1, "11": 2}
    more = folder_of(tmp_path / "c", "10", "9", "11", "8")
    kept = (tmp_path / "run/config.json").read_bytes()
    for flags, resume in ((flags_of(more, 5), path), (flags_of(more, 5, init_from=path), "")):
        with pytest.raises(ValueError, match="not trained on the classes 8: it has 9, 10, 11"):
            begin(flags, tmp_path, resume)
    assert (tmp_path / "run/config.json").read_bytes() == kept
    assert json.loads(kept)["classes"] == ["9", "10", "11"]
    flags = flags_of(data, 5)
    model, _ = networks.from_checkpoint(path, flags)
    assert model.classes == ("9", "10", "11")
    dataset = run_util.open_dataset(config.DataFlags(data_dir=fewer), 8, 5, model.classes)
    assert by_name(dataset) == {"10": 1, "11": 2}


def test_samples_carry_the_names_and_are_enlarged_by_name(tmp_path):
    def sample(indices):
        return np.zeros((len(indices), 8, 8, 3), np.uint8), np.array([0, 2])[indices]

    path = generate.generate(sample, 2, 2, str(tmp_path), key="a", known=("ape", None, "cat"))
    assert ImageDataset(path, 8, class_cond=True).classes == ["ape", None, "cat"]
    base, flags = super_res.BaseSamples(path, 8), flags_of("", 4)
    flags.sample = config.SampleFlags()

    def labels(*known):
        model = types.SimpleNamespace(num_classes=4, classes=known)
        return base.labels_for(flags, model)([0, 1]).tolist()

    assert labels("cat", "dog", "ape") == [2, 0]
    assert labels() == [0, 2]
    with pytest.raises(ValueError, match="not trained on the classes cat: it has ape, dog"):
        labels("ape", "dog")


def test_packed_weights_keep_the_names(tmp_path):
    flags = flags_of(folder_of(tmp_path / "a", "cat", "dog"), 2)
    begin(flags, tmp_path)
    path = checkpoint_of(flags, tmp_path / "run/model000001.pt")
    flags.sample = config.SampleFlags(model_path=path)
    about = quantized._about(flags, config.QuantFlags(quant=8))
    assert about["classes"] == ["cat", "dog"] and about["quant"]["quant"] == 8


def test_networks_in_one_study_of_exposure_mean_the_same(tmp_path):
    flags = flags_of(folder_of(tmp_path / "a", "cat", "dog"), 3)
    flags.exposure = config.ExposureFlags(num_images=4)

    def labels(*networks):
        models = [types.SimpleNamespace(image_size=8, num_classes=3, classes=c) for c in networks]
        return sorted(run.exposure_images(flags, models)[1]["y"].tolist())

    assert labels(("ape", "cat", "dog"), (None, "cat", "dog")) == [1, 1, 2, 2]
    with pytest.raises(ValueError, match="other labels for the same classes"):
        labels(("ape", "cat", "dog"), ("cat", "dog"))


def test_a_config_that_no_run_has_written_is_named():
    with pytest.raises(ValueError, match="classes of c.json is 5, expected a list of names"):
        classes.saved({"classes": 5}, "c.json")
    with pytest.raises(ValueError, match="labels up to 1 .*give --num_classes 2"):
        classes.trained(["a", "b"], 1)


@pytest.mark.parametrize(
    "labels, told",
    [
        (np.array([0, 2**40]), "a label 1099511627776, expected labels below 1048576"),
        (np.array([0, 2**64 - 1], np.uint64), "a label 18446744073709551615"),
        (np.array([0, -1]), "non-negative integers"),
        (np.array([0.0, 1.0]), "non-negative integers"),
        (np.array([0]), "expected 2"),
    ],
)
def test_labels_that_none_can_have_are_refused_before_a_place_is_made_for_each(
    labels, told, tmp_path
):
    np.savez(tmp_path / "a.npz", np.zeros((2, 8, 8, 3), np.uint8), labels)
    with pytest.raises(ValueError, match=told):
        ImageDataset(str(tmp_path / "a.npz"), 8, class_cond=True)
