"""What each row measures: a function of a team that gives rows.

A ratio of speeds is the time of the peer over ours, more is faster; one of costs (goals with <=) is
ours over what stands beside it. A row is given only after its contenders were found to agree.
"""

import statistics

import timing
from table import Row
from team import Team

PEERS = ("guided-diffusion", "diffusers", "plain")
TRAIN = {"S": ">= 1.6", "C": ">= 1.2", "F": ">= 1.2"}
SAMPLE = {"S": ">= 1.6", "C": ">= 1.12", "F": ">= 1.1"}
INT8 = {"S": ">= 1.5", "C": ">= 1.5"}
SAM = {"S": "<= 2.03", "C": "<= 2.03"}
DRAW = {"C": "<= 1.05"}
STUDIED, AT_ONCE = 256, 64  # images of a study of flatness, and how many of them are timed


def train(team: Team):
    """TrainLoop.run_step on a fixed batch, AdamW and one EMA."""
    yield from _against_all(team, "train step", "train_step", TRAIN, "train", warmup=2)


def sample(team: Team):
    """A step of ancestral sampling, as of a chain of a few."""
    yield from _against_all(team, "sampling step", "sample", SAMPLE, "forward")


def _against_all(team, name, method, goals, work, warmup=1):
    peers = [peer for peer in PEERS if team.has(peer)]
    for peer in peers:
        team.check(peer)
    seconds = team.interleave({p: (p, method) for p in ("flatdiff", *peers)}, warmup)
    for peer in peers:
        goal = goals.get(team.config.name, "") if peer == "guided-diffusion" else ""
        steps = team.config.chain if method == "sample" else 1
        yield speed(team, name, peer, seconds[peer], seconds["flatdiff"], goal, work, steps)


def speed(team, name, peer, theirs, ours, goal="", work="", steps=1) -> Row:
    """A row of how many times faster `ours` seconds are, each of them for some steps."""
    times = [statistics.median(s) * 1e3 / steps for s in (ours, theirs)]
    flops = team.flops[work] if work else 0.0
    ratio = timing.ratios(theirs, ours)
    return Row(name, team.config.name, peer, ratio, *times, goal=goal, flops=flops)


def sam(team: Team):
    """The exact SAM step over our own Adam step; with rho 0 it is that step, to the bit."""
    calls = {"sam": ("flatdiff", "sam_step"), "adam": ("flatdiff", "train_step")}
    seconds = team.interleave(calls, warmup=2)
    ratio = timing.ratios(seconds["sam"], seconds["adam"])
    times = [statistics.median(seconds[k]) * 1e3 for k in ("sam", "adam")]
    goal, flops = SAM.get(team.config.name, ""), 2 * team.flops["train"]
    yield Row("SAM step", team.config.name, "Adam step", ratio, *times, goal=goal, flops=flops)
