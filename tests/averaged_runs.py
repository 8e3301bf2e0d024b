"""Folders of trainings with snapshots, kept model files and online averages; nothing is trained."""

import torch

from flatdiff.store import checkpoint, snapshots
from flatdiff.weights import posthoc
from flatdiff.weights.averaging import EMA, Power

STEPS, EVERY = 60, 5
ONLINE = {"average_power_sigma_rel=0.15": (Power, 0.15), "ema_0.9": (EMA, 0.9)}
CONFIG = {"model": {"image_size": 8}, "diffusion": {}}


def run(folder, weights=None, seed=0, config=CONFIG, kept=10, since=0):
    """A random walk of weights as a run leaves it on disk; its averages begin at step `since`.
    Returns the folder."""
    g = torch.Generator().manual_seed(seed)
    weights = weights or {"a": torch.randn(40, 3, generator=g), "b": torch.randn(7, generator=g)}
    w = [x.clone() for x in weights.values()]
    made = {label: kind(w, length) for label, (kind, length) in ONLINE.items()}
    tracks = [Power(w, s) for s in posthoc.TRACKS]
    folder.mkdir(parents=True)
    checkpoint.save_json(config, f"{folder}/config.json")
    for step in range(1, STEPS + 1):
        for x in w:
            x += 0.01 * torch.randn(x.shape, generator=g)
        for average in [*made.values(), *tracks] if step > since else []:
            average.update(w)
        named = lambda of: dict(zip(weights, of))  # noqa: E731
        if step % EVERY == 0 and step > since:
            held = {snapshots.Track(t.sigma_rel, t.count): named(t.weights) for t in tracks}
            snapshots.write(str(folder), step, 1 + seed, held)
        if step % kept == 0:
            checkpoint.save(named(w), f"{folder}/{checkpoint.model_name(step)}")
    for label, average in made.items():
        checkpoint.save(named(average.weights), f"{folder}/{checkpoint.average_name(label, STEPS)}")
    return folder
