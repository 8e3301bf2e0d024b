"""guided-diffusion's name for `data`: files -> batches, and its `load_data`."""

from collections.abc import Iterator

from .data import image_files
from .data.image_datasets import *  # noqa: F403
from .data.image_datasets import Batch, Batches, ImageDataset, loader
from .data.image_files import *  # noqa: F403
from .world import dist_util

_list_image_files_recursively = image_files.list_image_files  # guided-diffusion's name


def load_data(
    *,
    data_dir: str,
    batch_size: int,
    image_size: int,
    class_cond: bool = False,
    deterministic: bool = False,
    random_crop: bool = False,
    random_flip: bool = True,
    seed: int = 0,
    shard: int | None = None,
    num_shards: int | None = None,
    num_workers: int = 0,
    start: int = 0,
    class_from: str = "prefix",
    transparent: str = "white",
) -> Iterator[Batch]:
    """guided-diffusion's endless generator of (images, cond); `shard` defaults to this rank's.

    Labels count the classes in the order of text, "10" before "9", as they do there.
    """
    dataset = ImageDataset(data_dir, image_size, class_cond, class_from, transparent=transparent)
    if class_cond:
        dataset.relabel(())
    batches = Batches(
        dataset,
        batch_size,
        seed=seed,
        shard=dist_util.rank() if shard is None else shard,
        num_shards=dist_util.world_size() if num_shards is None else num_shards,
        random_crop=random_crop,
        random_flip=random_flip,
        deterministic=deterministic,
    )
    return loader(batches, start, num_workers)
