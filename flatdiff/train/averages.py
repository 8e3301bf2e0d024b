"""The averages of a run by the labels of their files, and snapshots of two, for any other later."""

import hashlib
import math

from ..flags import choices
from ..flags.choices import AVERAGES
from ..store import finite, snapshots
from ..weights.averaging import EMA, SWA, parse_rates
from ..weights.posthoc import TRACKS
from ..world import dist_util


def averages_of(train, weights):
    """The averages of a TrainFlags by the labels of their files: ema_RATE, swa, average_NAME."""
    found = {f"ema_{rate}": EMA(weights, rate) for rate in parse_rates(train.ema_rate)}
    if train.use_swa:
        found["swa"] = SWA(weights, train.swa_window, train.swa_start)
    named = list(filter(None, map(str.strip, train.averages.split(","))))
    for text in [*named, *(tracks() if train.posthoc_ema else ())]:
        label = "_".join(["average", *text.split()])
        found[label] = choices.bound(AVERAGES, text)(weights)
    return found


def tracks():
    """The averages that snapshots are of, as --averages names them."""
    return [f"power sigma_rel={sigma_rel:g}" for sigma_rel in TRACKS]


def of_snapshots():
    """The labels of these."""
    return [f"average_{text.replace(' ', '_')}" for text in tracks()]


def snapshot(loop, folder):
    """Write a snapshot of the loop's step into the folder, from rank 0."""
    averages = [loop.averages[label] for label in of_snapshots()]
    held = {
        snapshots.Track(a.sigma_rel, a.count): dict(zip(loop.names, a.weights)) for a in averages
    }
    finite.check(list(held.values()), f"{snapshots.name(loop.step)} was not saved", "It diverged")
    loop.posthoc_run = loop.posthoc_run or _fingerprint(averages[0])
    loop.snapshots = sorted({*loop.snapshots, loop.step})
    if dist_util.rank() == 0:
        snapshots.write(folder, loop.step, loop.posthoc_run, held)


def _fingerprint(average):
    """A number that the snapshots of a run share: a hash of the first of them."""
    digest = hashlib.sha256()
    for weight in average.weights:
        digest.update(weight.cpu().numpy().tobytes())
    return int.from_bytes(digest.digest()[:7], "big")


def room(loop):
    """How often a loop takes snapshots, and how much disk they take: nothing deletes them."""
    each = len(TRACKS) * sum(4 * w.numel() for w in loop.weights) / 1e6
    told = f"snapshots every {loop.posthoc_ema} steps, {each:.4g} MB each"
    if loop.end_step == math.inf:
        return told
    return f"{told}, {math.ceil(loop.end_step / loop.posthoc_ema) * each:.4g} MB in all"
