"""The rows of a GPU: our own dtypes, compiled or not, against guided-diffusion and diffusers.

Speeds are images/s. In fp32 convolutions are tf32 on CUDA, as torch and all contenders have it; the
checks of agreement are without it.
"""

import contextlib
import dataclasses
import functools
import statistics
import subprocess
import sys
from pathlib import Path

import rows
import timing
from table import Row
from team import LIMIT, Disagreement, Team

TESTS = Path(__file__).parents[1] / "tests" / "test_cuda.py"
FORMS = {  # of ours -> flags, dtype of the peak, allowed deviation from fp32
    "flatdiff": ("", "float32", LIMIT),
    "bf16": ("--dtype bf16", "bfloat16", 2e-2),
    "bf16 compiled": ("--dtype bf16 --compile True", "bfloat16", 2e-2),
}
SAMPLED = 500  # images at once


def tests(team: Team):
    """pytest -m cuda: the network and its training step are what they are on the CPU."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", str(TESTS)]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise Disagreement("pytest -m cuda failed, see above")
    yield from ()


def train(team: Team):
    """Training steps of every form, Adam and SAM, and the memory that they take."""
    forms, peers = _contenders(team, team.check)
    calls = {name: (name, "train_step") for name in (*forms, *peers)}
    calls |= {f"{name} SAM": (name, "sam_step") for name in forms}
    seconds = team.interleave(calls, warmup=3)
    for form in forms:
        for peer in peers:
            yield _speed(team, "train step", form, peer, seconds[form], seconds[peer], 1)
        ratio = timing.ratios(seconds[f"{form} SAM"], seconds[form])
        yield _row(team, f"SAM step, {form}", "Adam", ratio, seconds, f"{form} SAM", form, 2)
    yield from _memory(team, forms, peers)


def sample(team: Team):
    """Ancestral sampling, a whole chain of a large batch."""
    small = team.device == "cpu"
    config = dataclasses.replace(team.config, batch=team.config.batch if small else SAMPLED)
    large = Team(
        dataclasses.replace(config, name=f"{config.name}x{config.batch}", repeats=2),
        team.folder,
        team.device,
    )
    with contextlib.closing(large):
        forms, peers = _contenders(large, functools.partial(large.compare, "flatdiff"))
        seconds = large.interleave({name: (name, "sample") for name in (*forms, *peers)})
        for form in forms:
            for peer in peers:
                name = f"sampling, {config.chain} steps"
                yield _speed(large, name, form, peer, seconds[form], seconds[peer], config.chain)


def flatness(team: Team):
    """A draw of weight noise beside the forward passes that it is for."""
    yield from rows.flatness(team)


def _contenders(team, check):
    """(our forms, the peers), all in agreement with fp32 by a check of name and limit."""
    compiled = team.device == "cuda"  # on a CPU it takes a minute, and a compiler
    forms = [form for form in FORMS if compiled or "compiled" not in form]
    peers = [peer for peer in rows.PEERS if team.has(peer)]
    for form in forms:
        team.get(form, "flatdiff", FORMS[form][0])
    for name in (*forms[1:], *peers):
        check(name, FORMS[name][2] if name in FORMS else LIMIT)
    return forms, peers


def _speed(team, name, form, peer, ours, theirs, passes):
    ratio, both = timing.ratios(theirs, ours), {form: ours, peer: theirs}
    return _row(team, f"{name}, {form}", peer, ratio, both, form, peer, passes)


def _row(team, name, against, ratio, seconds, ours, theirs, passes) -> Row:
    """A row in images/s; `passes`: over the batch, forward or with its backward pass."""
    rates = [team.config.batch / statistics.median(seconds[key]) for key in (ours, theirs)]
    work = "forward" if name.startswith("sampling") else "train"
    return Row(
        name,
        team.config.name,
        against,
        ratio,
        *rates,
        unit="images/s",
        flops=passes * team.flops[work] / team.config.batch,
        dtype=FORMS[ours.removesuffix(" SAM")][1],
    )


def _memory(team, forms, peers):
    """The most that one training step takes."""
    peaks = {}
    for name in (*forms, *peers):
        team[name].call("peak_memory")
        team[name].call("train_step")
        peaks[name] = team[name].call("peak_memory") / 1e6
    for form in forms:
        for peer in peers:
            ratio = [peaks[form] / peaks[peer]]
            row = f"peak memory, {form}", team.config.name, peer, ratio, peaks[form], peaks[peer]
            yield Row(*row, unit="MB")
