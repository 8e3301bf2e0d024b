"""A training as scripts/image_train.py does it, in this process."""

import pytest
import torch
from PIL import Image
from small import FLAGS, words

from flatdiff.flags import config
from flatdiff.models import networks, run_util
from flatdiff.store import lock
from flatdiff.train import starting

GROUPS = {
    "run": config.RunFlags,
    "data": config.DataFlags,
    "train": config.TrainFlags,
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
}
TRAIN = dict(batch_size=2, ema_rate=0.9, save_interval=1, num_workers=0)


@pytest.fixture
def train(tmp_path):
    """A function of a folder and more flags that trains as scripts/image_train.py does."""
    (tmp_path / "data").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (60 * i, 100, 0)).save(tmp_path / "data" / f"{i}.png")

    def run(folder, *more, end_step=2, **changes):
        line = f"--data_dir {tmp_path}/data --end_step {end_step} --log_dir {folder}".split()
        flags = config.parse("", [*words(**FLAGS | TRAIN), *line, *more], **GROUPS)
        with lock.scope():
            begin = starting.start_training(flags)
            dataset = run_util.open_dataset(flags.data, 8)
            torch.manual_seed(0)
            loop = starting.training_loop(
                flags, *networks.build(flags.model, flags.diffusion), dataset, begin, **changes
            )
            loop.run_loop()
        return loop

    return run
