"""The images of a study: those that networks are trained on, and those that none has seen."""

from ..data.image_datasets import ImageDataset, fingerprint
from ..judge.memorization import FEWEST
from ..measure.evaluation import LARGEST_REFERENCE
from ..models import run_util


def images_of(flags) -> ImageDataset:
    """The images that the networks are trained on."""
    return _images(flags, flags.data.data_dir, flags.model.class_cond, flags.data.class_from)


def held_out_of(flags, trained: ImageDataset) -> ImageDataset:
    """Those of --heldout_data; ValueError where the test for copies would say nothing of these."""
    held_out = _images(flags, flags.study.heldout_data)
    if trained.num_images > LARGEST_REFERENCE:
        raise ValueError(
            f"--heldout_data: {trained.num_images} images are trained on, and copies of them are "
            f"looked for among {LARGEST_REFERENCE} at most: compare.py looks among all"
        )
    if held_out.num_images < FEWEST:
        raise ValueError(
            f"--heldout_data {flags.study.heldout_data} are {held_out.num_images} images; a test "
            f"for copies needs {FEWEST} or more"
        )
    if fingerprint(held_out) == fingerprint(_images(flags, flags.data.data_dir)):
        raise ValueError(f"--heldout_data {flags.study.heldout_data} are the images trained on")
    return held_out


def _images(flags, data_dir: str, *labelled) -> ImageDataset:
    how = {"transparent": flags.data.transparent}
    dataset = ImageDataset(data_dir, flags.model.image_size, *labelled, **how)
    if flags.data.skip_broken:
        run_util.must_be_readable(dataset, flags.data)
    return dataset
