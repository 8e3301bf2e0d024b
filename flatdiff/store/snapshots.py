"""Snapshots of a training's power-function averages: snapshotNNNNNN.pt, one file a step.

They are kept whatever --keep_last says, since later averages are made of all of them. A file holds
{"step", "run": a number that all snapshots of one training share, "tracks": [{"sigma_rel", "count",
"weights": fp32 by name}, ...]}.
"""

import itertools
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
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


def steps_in(folder: str) -> list[int]:
    """The steps that a folder has snapshots of, ascending; none is opened."""
    return sorted(int(m[1]) for n in checkpoint.names_in(folder) if (m := NAME.fullmatch(n)))


def snapshots_of(folder: str, steps: Container[int] | None = None) -> list[Snapshot]:
    """Return the snapshots in a folder, the oldest first; of these steps alone, if any are given.

    ValueError where there are fewer than two, where one is half a file, and where they are not all
    of one training that went on and on.
    """
    wanted = [s for s in steps_in(folder) if steps is None or s in steps]
    found = [_opened(os.path.join(folder, name(step))) for step in wanted]
    if len(found) < 2:
        held = f"one snapshot alone ({found[0].path})" if found else f"no snapshots in {folder}"
        raise ValueError(
            f"{held}: an average of another length is made of two or more; train with "
            "--posthoc_ema 50, or so, the steps between them"
        )
    for one, other in itertools.pairwise(found):
        if (other.run, _widths(other)) != (one.run, _widths(one)):
            told = "are snapshots of two trainings"
        elif other.tracks[0].count <= one.tracks[0].count:
            counts = f"{one.tracks[0].count} and {other.tracks[0].count}"
            told = f"are of {counts} updates, between which the averages began anew"
        else:
            continue
        raise ValueError(
            f"{one.path} and {os.path.basename(other.path)} {told}: move those of one of them away"
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
