"""Snapshots of a training's power-function averages: snapshotNNNNNN.pt, one file a step.

They are kept whatever --keep_last says, since later averages are made of all of them. A file holds
{"step", "run": a number that all snapshots of one training share, "tracks": [{"sigma_rel", "count",
"weights": fp32 by name}, ...]}.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import checkpoint
from .disk import is_remote, reading

NAME = re.compile(r"snapshot(\d{6,})\.pt")


class Track(NamedTuple):
    """One average of a snapshot: its width, and the updates it has seen."""

    sigma_rel: float
    count: int


class Snapshot(NamedTuple):
    """What a file is of; `load` reads its weights."""

    path: str
    step: int
    run: int
    tracks: tuple[Track, ...]

    def load(self) -> Iterator[dict[str, Tensor]]:
        """Give the weights of each track; ValueError for a damaged file."""
        content = checkpoint.load(self.path)
        return (track["weights"] for track in content["tracks"])


def name(step: int) -> str:
    return f"snapshot{step:06d}.pt"


def write(folder: str, step: int, run: int, tracks: Mapping[Track, dict[str, Tensor]]) -> None:
    """Write the file of a step."""
    plain = [{**track._asdict(), "weights": weights} for track, weights in tracks.items()]
    content = {"step": step, "run": run, "tracks": plain}
    checkpoint.save(content, os.path.join(folder, name(step)))


def snapshots_of(folder: str, until: int = 0) -> list[Snapshot]:
    """Return the snapshots in a folder up to a step (0: all), the oldest first.

    ValueError where there are fewer than two, where one is half a file, and where they are not all
    of one training.
    """
    names = sorted(n for n in checkpoint.names_in(folder) if NAME.fullmatch(n))
    found = [_opened(os.path.join(folder, n)) for n in names]
    found = [s for s in found if not until or s.step <= until]
    if len(found) < 2:
        held = f"one snapshot alone ({found[0].path})" if found else f"no snapshots in {folder}"
        raise ValueError(
            f"{held}: an average of another length is made of two or more; train with "
            "--posthoc_ema 50, or so, the steps between them"
        )
    for other in found[1:]:
        if (other.run, _widths(other)) != (found[0].run, _widths(found[0])):
            raise ValueError(
                f"{found[0].path} and {os.path.basename(other.path)} are snapshots of two "
                "trainings: move those of one of them away"
            )
    return found


def lost(folder: str, steps: Iterable[int], run: int) -> list[str]:
    """What is wrong with snapshots of these steps, which a run has taken, in sentences; of local
    ones no weights are read."""
    found = []
    for step in steps:
        path = os.path.join(folder, name(step))
        try:
            held = _opened(path) if checkpoint.exists(path) else None
        except ValueError as error:
            found.append(str(error))
            continue
        if held is None:
            found.append(f"{path} is missing")
        elif (held.step, held.run) != (step, run):
            found.append(f"{path} is a snapshot of step {held.step}, or of another training")
    return found


def _widths(snapshot: Snapshot) -> list[float]:
    return [track.sigma_rel for track in snapshot.tracks]


def _opened(path: str) -> Snapshot:
    """What a file says of itself; of a local one no weights are read."""
    mapped = not is_remote(path)
    with reading(path):
        if mapped:
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            content = checkpoint.load(path)
        tracks = tuple(Track(float(t["sigma_rel"]), int(t["count"])) for t in content["tracks"])
        return Snapshot(path, int(content["step"]), int(content["run"]), tracks)
