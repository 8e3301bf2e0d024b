"""Samples of a network at moved weights, against those of the same indices and noise at w.

Three effects of each move w', against ||w' - w||: the rise of the Frechet distance to real images,
how far the moved network's path is from the unmoved one's, and the rise of the loss. It ends in one
number: how the first and the last go together over kinds and lengths of moves.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..bars import Bar
from ..data.image_datasets import to_uint8
from ..judge import frechet
from ..judge.features import Features
from ..store import finite
from ..world import dist_util
from ..world.dist_util import gather_rows
from . import association, frame, perturbed_report
from .association import Effect
from .curve import LENGTH
from .moves import Move, Start, held, named
from .subject import packed, unpacked

GROUPS = 25  # of samples, for the jackknife
LEAST = 2 * GROUPS  # samples
ALONG = 256  # images whose whole path is compared; of the others, its end


class Walked(NamedTuple):
    """What came of a network's chains: pool, the features of all samples [N, D]; paths, x_{t-1} at
    t = T-1 .. 0 of this rank's batches, each [T or 1, n, 3, S, S]."""

    pool: Tensor
    paths: list[Tensor]


@dataclass
class Sampled:
    """A network under study, in eval mode: its losses, its chains, and what its samples are to be.

    walk: image indices -> x_{t-1} [n, 3, S, S] at t = T-1 .. 0. reference: (mu, sigma) of the real
    images' features. key: a hash of what its numbers depend on but for the moves.
    """

    start: Start
    walk: Callable[[list[int]], Iterator[Tensor]]
    num_samples: int
    batch_size: int
    features: Features
    reference: tuple[Tensor, Tensor]
    key: str

    def about(self) -> dict:
        told = {"features": self.features.name, "num_samples": self.num_samples}
        return self.start.subject.about() | told

    @functools.cached_property
    def own(self) -> Walked:
        """What comes of its own weights."""
        return self.walked("w")

    @property
    def batches(self) -> list[list[int]]:
        """The indices of this rank's batches: every n-th of n ranks."""
        return self.of_all[dist_util.rank() :: dist_util.world_size()]

    @property
    def of_all(self) -> list[list[int]]:
        """The indices of all ranks' batches."""
        return [part.tolist() for part in torch.arange(self.num_samples).split(self.batch_size)]

    def walked(self, told: str) -> Walked:
        """Walk all chains with the weights as they stand, all ranks together."""
        subject, pools, paths = self.start.subject, [], []
        look = {"desc": f"{subject.name}, {told}", "unit": "image", "disable": subject.hidden}
        with Bar(total=self.num_samples, **look) as bar:
            for indices in bar.turns(self.of_all, dist_util.rank(), dist_util.world_size()):
                most = None if indices[0] < ALONG else 1
                with subject.autocast():
                    steps = torch.stack([*deque(self.walk(indices), maxlen=most)]).float().cpu()
                finite.check(steps[-1], f"pixels of {subject.name} at {told}")
                pixels = to_uint8(steps[-1]).permute(0, 3, 1, 2).to(self.features.device)
                with torch.inference_mode():
                    pools.append(self.features.network(pixels)["pool"].float().cpu())
                paths.append(steps)
        return Walked(gather_rows(pools), paths)

    def distance(self, pool: Tensor) -> dict:
        """Return the Frechet distance of the features, "fd", and those without a group each."""
        given = [x.to(self.features.device) for x in (*self.reference, pool)]
        fd, parts = frechet.left_out(*given, GROUPS, self.start.subject.seed)
        return {"fd": fd, "fd_parts": parts}


class PERTURBED(frame.Measure):
    """Measures `moves`, as `moves.named` has them, of random ones `num_draws` draws."""

    together = True

    def __init__(self, *, moves: str, num_draws: int, average_path: str):
        self.moves = named(moves, num_draws, bool(average_path))
        self.effects: list[tuple[Effect, Effect, list[str]]] = []  # of each network

    def tasks(self, subject: Sampled) -> dict[str, frame.Task]:
        """Measure distance and losses at w, and at each of the moves."""
        at_w = {"samples at w": lambda: subject.distance(subject.own.pool)}
        of_moves = {
            subject.start.key_of(move): functools.partial(_moved, subject, move)
            for move in self.moves
        }
        return at_w | of_moves

    def result(self, subject: Sampled, found: list) -> dict:
        """Return "fd" at w, and its error; "moves", a dict each; and their "correlation"."""
        at_w, *moved = found
        loss, distance = _loss(subject, moved), _distance(at_w, moved)
        kinds = [move.kind for move in self.moves]
        self.effects.append((loss, distance, kinds))
        effects = {"rise": loss, "fd_rise": distance}
        told = []
        for i, (move, each) in enumerate(zip(self.moves, moved)):
            row = {"kind": move.kind, "knob": move.knob, "size": move.size, "draw": move.draw}
            row["distance"] = each["distance"]
            for name, effect in effects.items():
                row |= {name: effect.values[i], f"{name}_error": effect.errors[i]}
            row |= {"fd": each["fd"]} | {name: each[name] for name in ("divergence", "path")}
            told.append(
                {k: v if isinstance(v, dict | str | int) else float(v) for k, v in row.items()}
            )
        (error,) = _distance({"fd": 0.0, "fd_parts": [0.0] * GROUPS}, [at_w]).errors.tolist()
        number = association.correlation(loss, distance, kinds, subject.start.subject.seed)
        term = subject.start.subject.terms[0]
        return {"of": term, "fd": at_w["fd"], "fd_error": error, "moves": told} | {
            "correlation": number
        }

    def overall(self, seed: int) -> dict:
        """Return the correlation over the moves of all networks so far."""
        losses, distances, kinds = zip(*self.effects)
        both = (_stacked(losses), _stacked(distances))
        return association.correlation(*both, [k for each in kinds for k in each], seed)

    def rows(self, record: dict) -> list[dict]:
        return perturbed_report.rows(record)

    def text(self, record: dict) -> str:
        return perturbed_report.text(record)

    def figures(self, record: dict) -> dict[str, Figure]:
        return perturbed_report.figures(record)

    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """Give the correlation, and the mean rises of the distance by kind of move."""
        found = {"correlation": model["correlation"]["spearman"]}
        for kind in dict.fromkeys(move["kind"] for move in model["moves"]):
            rises = [move["fd_rise"] for move in model["moves"] if move["kind"] == kind]
            found[kind] = math.fsum(rises) / len(rises)
        return found

    @staticmethod
    def lines(model: dict) -> list[frame.Line]:
        """Give the rise of the distance against the length, a line for each kind of move."""
        found = []
        for kind in dict.fromkeys(move["kind"] for move in model["moves"]):
            mine = [move for move in model["moves"] if move["kind"] == kind]
            points = sorted((move["distance"], move["fd_rise"]) for move in mine)
            x, y = map(list, zip(*points))
            found.append(frame.Line(kind, x, y, LENGTH, "rise of the Frechet distance"))
        return found


def _moved(subject: Sampled, move: Move) -> dict:
    """Measure one move: "distance" of the weights, "rises" of the headline's losses [N], the
    Frechet distance, and the "divergence" of samples, along the "path" too."""
    own, of_loss = subject.own, subject.start.subject
    with held(subject.start, move) as distance:
        rises = of_loss.measure()[0] - of_loss.own[0]
        walked = subject.walked(str(move))
    apart = [_apart(a, b) for a, b in zip(walked.paths, own.paths)]
    ends = gather_rows([part[-1] for part in apart])
    whole = gather_rows([p.T for p, rows in zip(apart, subject.batches) if rows[0] < ALONG])
    found = {"distance": float(distance), "rises": packed(rises)} | subject.distance(walked.pool)
    return found | {"divergence": _mean(ends), "path": _mean(whole)}


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """The rms difference per pixel of [T, n, ...] in each image: [T, n]."""
    return (a - b).double().square().flatten(2).mean(dim=2).sqrt()


def _mean(values: Tensor) -> dict:
    """The mean over the first dimension, the images, and its standard error."""
    error = values.std(dim=0) / math.sqrt(len(values))
    return {"value": values.mean(dim=0).tolist(), "error": error.tolist()}


def _loss(subject: Sampled, moved: list[dict]) -> Effect:
    """The rises of the headline, paired image by image."""
    of_loss, each = subject.start.subject, [unpacked(part["rises"]) for part in moved]
    values = [float(of_loss.means(rises)[0]) for rises in each]
    deviations = [of_loss.plan.deviations(rises).numpy() for rises in each]
    return Effect(np.array(values), np.array(deviations))


def _distance(at_w: dict, moved: list[dict]) -> Effect:
    """The rises of the distance, paired group by group: jackknife (Efron & Stein 1981)."""
    rises = np.array([part["fd"] - at_w["fd"] for part in moved])
    parts = np.array([part["fd_parts"] for part in moved]) - np.array(at_w["fd_parts"])
    off = parts - parts.mean(axis=1, keepdims=True)
    return Effect(rises, off * math.sqrt((GROUPS - 1) / GROUPS))


def _stacked(effects: tuple[Effect, ...]) -> Effect:
    """All networks' in one, which share their images."""
    return Effect(*(np.concatenate(column) for column in zip(*effects)))
