"""A run's tables and pictures on the page of a tracker: Weights & Biases, or trackio.

Both have nearly the same functions. What they do with their pages, and how to keep all on this
machine, is theirs: WANDB_MODE=offline; trackio does so by itself.
"""

import glob
import importlib
import os
from typing import Any

from .log_outputs import Output


class Tracker(Output):
    """`begin` is the package's init, of its own arguments. ValueError where it cannot be used."""

    def __init__(self, package: str, folder: str, **begin: Any):
        try:
            self.package = importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f"--tracker {package} needs {error.name or package}, which is not installed: "
                f"pip install 'flatdiff[{package}]', or leave --tracker out"
            ) from error
        name = os.path.basename(folder.rstrip("/"))
        try:
            self.run = self.package.init(name=name, **begin)
        except Exception as error:
            raise ValueError(f"--tracker {package} could not begin: {error}") from error

    def write(self, row: dict[str, Any]) -> None:
        self.log(row, row.get("step"))

    def picture(self, key: str, image: Any, step: int) -> None:
        self.log({key: self.package.Image(image)}, step)

    def log(self, row: dict[str, Any], step: int | None) -> None:
        """Hands a row over."""
        raise NotImplementedError

    def close(self) -> None:
        self.package.finish()


class Wandb(Tracker):
    """Weights & Biases. A run that goes on does so under the id that its folder tells. Its own
    count of rows cannot go back to the step of a checkpoint, so all is drawn against ours."""

    def __init__(self, folder: str, config: dict, goes_on: bool, project: str = "flatdiff"):
        here = None if "://" in folder else folder
        how = {"project": project, "config": config, "dir": here, "resume": "allow"}
        how |= {"id": _newest(folder) if goes_on else None, "settings": {"console": "off"}}
        super().__init__("wandb", folder, **how)
        self.run.define_metric("*", step_metric="step")

    def log(self, row: dict[str, Any], step: int | None) -> None:
        self.run.log(row | {"step": step})


class Trackio(Tracker):
    """trackio: a file of this machine, which `trackio show` shows. It tells a row's time itself."""

    def __init__(self, folder: str, config: dict, goes_on: bool, project: str = "flatdiff"):
        how = {"project": project, "config": config, "resume": "allow" if goes_on else "never"}
        super().__init__("trackio", folder, **how, embed=False)

    def log(self, row: dict[str, Any], step: int | None) -> None:
        self.run.log({k: v for k, v in row.items() if k not in ("step", "time")}, step=step)


def _newest(folder: str) -> str | None:
    """The id of the last run of Weights & Biases in the folder: wandb/[offline-]run-TIME-ID."""
    found = glob.glob(os.path.join(glob.escape(folder), "wandb", "*run-*-*"))
    ends = [os.path.basename(path).partition("run-")[2] for path in found]
    return max(ends).partition("-")[2] if ends else None
