"""What guided-diffusion's users replace in its train_util: functions, and methods of TrainLoop.

`train_util` has the functions under these names, and looks them up there: a replacement acts.
"""

import os

from ..store import checkpoint
from ..world import logger

ELSEWHERE = {  # methods of guided-diffusion's TrainLoop: what has their part here
    "_anneal_lr": "learning_rate",
    "_update_ema": "average",
    "_load_and_sync_parameters": "train_util.find_resume_checkpoint",
    "_load_ema_parameters": "train_state.resume",
    "_load_optimizer_state": "train_state.resume",
}


def get_blob_logdir() -> str:
    """The folder that checkpoints are written to: the log's."""
    return logger.get_dir()


def find_resume_checkpoint() -> str | None:
    """A model file to go on from, before --resume_checkpoint; None: there is none."""
    return None


def find_ema_checkpoint(main_checkpoint: str | None, step: int, rate: float) -> str | None:
    """The EMA's file beside a model file, or None."""
    if main_checkpoint is None:
        return None
    path = os.path.join(os.path.dirname(main_checkpoint), checkpoint.ema_name(rate, step))
    return path if checkpoint.exists(path) else None


def refuse_unused(loop: type) -> None:
    """TypeError for a TrainLoop with a method of guided-diffusion's that nothing here calls."""
    for name in ELSEWHERE.keys() & vars(loop).keys():
        raise TypeError(
            f"{loop.__name__}.{name} would never be called: override {ELSEWHERE[name]} instead"
        )
