"""How a training that goes on differs from what it was, and what its config.json tells of both.

Each flag that is another one than before is a line of the log. What changes the meaning of the
run's numbers (its gradient, images or labels) is refused without --allow_change True.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from ..data.image_datasets import fingerprint
from ..flags.config import to_dict
from ..store import checkpoint, history
from ..world import dist_util, logger
from ..world.origin import origin

LOOKED_AT = 64  # images
EACH_ITS_OWN = ("resume", "resume_checkpoint", "allow_change", "init_from", "log_dir")  # of a start
ABOUT = ("flatdiff", "commit", "torch", "ranks", "device", "host")


class Change(NamedTuple):
    """A flag that was another one up to now."""

    name: str
    was: object
    now: object
    meaning: bool

    def __str__(self):
        return f"--{self.name} was {self.was!r} and is {self.now!r}"


def changes(flags, trained: dict) -> Iterator[Change]:
    """The flags that differ from those of a config.json, by group; what it does not say yet had
    its default."""
    for title, group in vars(flags).items():
        known = dataclasses.is_dataclass(group) and trained.get(title)
        for field in dataclasses.fields(group) if isinstance(known, dict) else ():
            was, now = known.get(field.name, field.default), getattr(group, field.name)
            if was != now and field.name not in EACH_ITS_OWN:
                yield Change(field.name, was, now, field.metadata["changes"] == "meaning")


def tell_changes(flags, path: str) -> None:
    """Log what differs from the flags that made the checkpoint; ValueError for what may not."""
    trained, source = checkpoint.config_of(path)
    found = list({change.name: change for change in changes(flags, trained)}.values())
    if refused := [c for c in found if c.meaning and not flags.train.allow_change]:
        back = " ".join(f"--{change.name} {change.was}" for change in refused)
        raise ValueError(
            f"{checkpoint.absolute(path)} was trained otherwise ({source}): "
            f"{', '.join(map(str, refused))}. Numbers of the run would be of both: give {back} to "
            "go on as before, another --log_dir with --init_from for a run of its own, or "
            "--allow_change True"
        )
    for change in found:
        logger.log(f"changed from here on: {change}")


def images_of(dataset, path: str, allow_change: bool) -> dict:
    """What config.json says of the images: their number, and a hash of names and some pixels; on
    rank 0. ValueError where those of the checkpoint gone on from were others."""
    if dist_util.rank() > 0:
        return {}
    names = "\n".join(getattr(dataset.source, "names", None) or ())
    seen = f"{fingerprint(dataset, LOOKED_AT)}{names}".encode(errors="surrogateescape")
    now = {"number": dataset.num_images, "sha256": hashlib.sha256(seen).hexdigest()[:16]}
    was = _stretch(path).get("images", now)
    if was != now:
        told = (
            f"{was['number']} images ({was['sha256']}), and now {now['number']} ({now['sha256']})"
        )
        if not allow_change:
            raise ValueError(
                f"{checkpoint.absolute(path)} was trained on other images: {told}. Give the "
                "--data_dir that it was trained on, or --allow_change True to go on with these"
            )
        logger.log(f"changed from here on: the images were {told}")
    return now


def keep_config(flags, dataset, resume_checkpoint: str, step: int = 0, images=None) -> None:
    """Write config.json: the flags, the checkpoint gone on from, the classes, if any, and the
    history of the run, of which this start at the step is the newest stretch."""
    told = to_dict(flags)
    told["train"]["resume_checkpoint"] = resume_checkpoint
    if dataset.labels is not None:
        told["classes"] = dataset.classes
    if dist_util.rank() > 0:
        return
    about = origin() | ({"images": images} if images else {})
    _tell_origin(_stretch(resume_checkpoint), about)
    before = checkpoint.config_in(_folder(resume_checkpoint)) if resume_checkpoint else {}
    content = history.gone_on(before, step, told, about)
    checkpoint.save_json(content, f"{logger.get_dir()}/{checkpoint.CONFIG}")


def _tell_origin(was: dict, now: dict) -> None:
    if other := [k for k in ABOUT if k in was and was[k] != now[k]]:
        told = (f"{name} was {was[name]} and is {now[name]}" for name in other)
        logger.log(f"changed from here on: {', '.join(told)}")


def _stretch(path: str) -> dict:
    """What config.json says of the start that made a checkpoint; {} for what it does not know."""
    step = checkpoint.step_of(path) if path else None
    return history.stretch(checkpoint.config_in(_folder(path)), step) if step is not None else {}


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "."
