"""What each row measures: a function of a team that gives rows.

A ratio of speeds is the time of the peer over ours, more is faster; one of costs (goals with <=) is
ours over what stands beside it. A row is given only after its contenders were found to agree.
"""

import contextlib
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import commands
import configs
import pngs
import timing
from table import Row
from team import Team, agree

PEERS = ("guided-diffusion", "diffusers", "plain")
TRAIN = {"S": ">= 1.6", "C": ">= 1.2", "F": ">= 1.2"}
SAMPLE = {"S": ">= 1.6", "C": ">= 1.12", "F": ">= 1.1"}
INT8 = {"S": ">= 1.5", "C": ">= 1.5"}
SAM = {"S": "<= 2.03", "C": "<= 2.03"}
DRAW = {"C": "<= 1.05"}
PRODUCT = {"S": "<= 2.3", "C": "<= 2.3"}
MEMORY = {"S": "<= 1.0", "C": "<= 0.95", "F": "<= 0.95"}
RANKS = {"S": ">= 0.95", "C": ">= 0.88"}
BF16 = {  # where the processor has AMX: against our own fp32, and against guided-diffusion's
    "train step": (
        {"S": ">= 2", "C": ">= 4", "F": ">= 3.5"},
        {"S": ">= 3.5", "C": ">= 8", "F": ">= 7"},
    ),
    "sampling step": (
        {"S": ">= 2", "C": ">= 4.5", "F": ">= 4"},
        {"S": ">= 3.5", "C": ">= 5.5", "F": ">= 5"},
    ),
    "losses of 32 images": ({"C": ">= 2.5"}, {}),
}
OF_BF16 = 2e-2  # of the outputs, losses and gradient: how far bf16 may be from fp32
OF_INT8 = 1.25  # times the simulation's deviation from fp32: what integers may deviate
OF_PRODUCT = 5e-3  # of its length: how far a small product, of a random vector, may be from exact
STUDIED, AT_ONCE = 256, 32  # images of a study of flatness, and how many of them are timed
FEW = 6  # on which a Hessian product is compared with double backward, which holds all of them


def train(team: Team):
    """TrainLoop.run_step on a fixed batch, AdamW and one EMA."""
    yield from _against_all(team, "train step", "train_step", TRAIN, "train")


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


def bf16(team: Team):
    """The same in bf16, and the forward passes of a draw of flatness, where it was asked for."""
    _start_both(team, "")
    team.check("bf16", OF_BF16, "fp32")
    if team.has("guided-diffusion"):
        team.check("guided-diffusion", reference="fp32")
    yield from _against_fp32(team, "train step", "train_step", "train")
    yield from _against_fp32(team, "sampling step", "sample", "forward", team.config.chain)
    _start_both(team, f"--num_images {AT_ONCE} --batch_size {AT_ONCE}")
    yield from _against_fp32(team, "losses of 32 images", "measure")
    peaks = []
    for flags in ("--dtype bf16", ""):
        with contextlib.closing(team.fresh("flatdiff", flags)) as worker:
            worker.call("train_steps", 3)
            peaks.append(worker.call("peak_memory") / 1e6)
    ratio = [peaks[0] / peaks[1]]
    name = "peak memory, training, bf16"
    yield Row(name, team.config.name, "our fp32", ratio, *peaks, unit="MB")


def _start_both(team, flags):
    """Start ours in both types, alone: at F there is no room for more of them."""
    team.close()
    team.get("fp32", "flatdiff", flags)
    team.get("bf16", "flatdiff", f"{flags} --dtype bf16")


def _against_fp32(team, name, method, work="", steps=1):
    """Rows of bf16 against our fp32, and against guided-diffusion if it has the method."""
    has = team.has("guided-diffusion") and method != "measure"
    peers = {"fp32": "our fp32"} | ({"guided-diffusion": "guided-diffusion"} if has else {})
    seconds = team.interleave({who: (who, method) for who in (*peers, "bf16")}, warmup=2)
    for (who, against), goals in zip(peers.items(), BF16[name]):
        goal = goals.get(team.config.name, "") if _has_amx() else ""
        times = seconds[who], seconds["bf16"], goal, work, steps
        row = speed(team, f"{name}, bf16", against, *times)
        yield dataclasses.replace(row, dtype="bfloat16")


def _has_amx() -> bool:
    return "amx_bf16" in Path("/proc/cpuinfo").read_text()


def sam(team: Team):
    """The exact SAM step over our own Adam step; with rho 0 it is that step, to the bit."""
    calls = {"sam": ("flatdiff", "sam_step"), "adam": ("flatdiff", "train_step")}
    seconds = team.interleave(calls, warmup=2)
    times, flops = (seconds["sam"], seconds["adam"]), 2 * team.flops["train"]
    yield cost(team, "SAM step", "Adam step", *times, SAM, flops)


def climbs(team: Team):
    """A step of every other gradient and optimizer, and one whose curvature is looked at, over our
    own Adam step; what a gradient costs is near its passes."""
    from flatdiff.flags.choices import GRADIENTS, OPTIMIZERS

    others = {f"{name} step": (name,) for name in GRADIENTS if name != "adam"}
    others |= {f"{name} step": ("adam", name) for name in OPTIMIZERS if name != "adamw"}
    others["step with a look at its curvature"] = ("adam", "adamw", True)
    calls = {"adam": ("flatdiff", "step")}
    calls |= {name: ("flatdiff", "step", *what) for name, what in others.items()}
    seconds = team.interleave(calls, warmup=2)
    for name in others:
        yield cost(team, name, "Adam step", seconds[name], seconds["adam"], {})


def int8(team: Team):
    """Sampling with integer convolutions; they must be as near to fp32 as their simulation.

    Layer by layer the two are the same up to rounding, but a last bit can turn a code, and codes
    that turned are as large as the quantization itself by the end of the network.
    """
    bits = _exact_bits()
    for backend in ("int8", "simulate"):
        team.get(backend, "flatdiff", configs.INT8.format(bits=bits, backend=backend))
    simulated = team.compare("flatdiff", "simulate", 1.0)
    team.compare("flatdiff", "int8", OF_INT8 * simulated)
    team.check("guided-diffusion")
    contenders = "int8", "flatdiff", "guided-diffusion"
    seconds = team.interleave({name: (name, "sample") for name in contenders})
    for peer, goals in (("guided-diffusion", INT8), ("flatdiff", {})):
        goal, times = goals.get(team.config.name, ""), (seconds[peer], seconds["int8"])
        name = f"int8 sampling step (w8a{bits})"
        yield speed(team, name, peer, *times, goal, "forward", team.config.chain)


def _exact_bits() -> int:
    """Bits of inputs that this CPU multiplies by 8-bit weights without overflow."""
    from flatdiff.quantization import int8

    try:
        int8.check(8, 8)
    except ValueError:
        return 7
    return 8


def flatness(team: Team):
    """A draw and its losses on 256 images over these losses alone.

    The draw itself, weights moved and put back, is timed beside 32 of the images.
    """
    more = f"--num_images {AT_ONCE} --batch_size {AT_ONCE}"
    subject = team.get("subject", "flatdiff", more)
    before = subject.call("measure")
    subject.call("perturb", 0)
    agree("losses after the weights came back", subject.call("measure"), before, 0)
    calls = {"draw": ("subject", "perturb", 1), "losses": ("subject", "measure")}
    seconds = team.interleave(calls, warmup=0)
    passes = [s * STUDIED / AT_ONCE for s in seconds["losses"]]
    draws = [d + p for d, p in zip(seconds["draw"], passes)]
    flops = STUDIED / team.config.batch * team.flops["forward"]
    yield cost(team, "flatness draw, 256 images", "forward passes", draws, passes, DRAW, flops)


def hessian(team: Team):
    """A product with the Hessian over a gradient of the same 32 images, when its step is known."""
    team.close()  # double backward needs the room
    few = team.get("few", "flatdiff", f"--num_images {FEW} --batch_size {FEW}")
    exact, ours = (few.call("hessian_product", by) for by in (True, False))
    agree("products with the Hessian", ours, exact, OF_PRODUCT)
    team.get("subject", "flatdiff", f"--num_images {AT_ONCE} --batch_size {AT_ONCE}")
    calls = {"product": ("subject", "hessian_product"), "gradient": ("subject", "gradient")}
    seconds = team.interleave(calls)
    flops = 2 * AT_ONCE / team.config.batch * team.flops["train"]
    times = seconds["product"], seconds["gradient"]
    yield cost(team, "Hessian product, 32 images", "gradient", *times, PRODUCT, flops)


def memory(team: Team, steps: int = 3):
    """Peak of a fresh process that takes some training steps."""
    peaks = {}
    for kind in ("flatdiff", *(peer for peer in PEERS[:2] if team.has(peer))):
        if kind != "flatdiff":
            team.check(kind)
        with contextlib.closing(team.fresh(kind)) as worker:
            worker.call("train_steps", steps)
            peaks[kind] = worker.call("peak_memory") / 1e6
    ours = peaks.pop("flatdiff")
    for peer, theirs in peaks.items():
        goal = MEMORY.get(team.config.name, "") if peer == "guided-diffusion" else ""
        row = "peak memory, training", team.config.name, peer, [ours / theirs], ours, theirs
        yield Row(*row, unit="MB", goal=goal)


def loading(team: Team, steps: int = 10):
    """Steps on loaded batches over steps on a fixed one; and reading the files once."""
    folder, checksum = pngs.write(team.folder)
    loader = team.get("loader", "flatdiff", f"--data_dir {folder}")
    ours = loader.seconds("checksum")
    agree("sum of the decoded images", loader.call("checksum"), checksum, 0)
    if team.has("guided-diffusion"):
        theirs = team["guided-diffusion"].seconds("read", folder, pngs.COUNT)
        yield speed(team, f"reading {pngs.COUNT} PNGs once", "guided-diffusion", [theirs], [ours])
    calls = {"loaded": ("loader", "loaded_steps", steps), "fixed": ("loader", "train_steps", steps)}
    seconds = team.interleave(calls)
    times = seconds["loaded"], seconds["fixed"]
    yield cost(team, f"{steps} steps on loaded batches", "fixed batch", *times, {"S": "<= 1.03"})


def cost(team, name, beside, ours, theirs, goals, flops=0.0) -> Row:
    """A row of how many times dearer `ours` seconds are than those of what stands beside."""
    times = [statistics.median(s) * 1e3 for s in (ours, theirs)]
    goal, ratio = goals.get(team.config.name, ""), timing.ratios(ours, theirs)
    return Row(name, team.config.name, beside, ratio, *times, goal=goal, flops=flops)


def startup(team: Team, repeats: int = 2):
    """--help of the slowest script, and the first logged step of the command."""
    calls = {"ours": commands.slowest_help, "theirs": commands.their_imports}
    seconds = timing.interleave(calls, repeats, warmup=0)
    row = "--help, slowest script", "guided-diffusion's imports", seconds["theirs"], seconds["ours"]
    yield speed(team, *row, goal="<= 1500 ms")
    calls = {"ours": lambda: _first_step(team), "theirs": lambda: _their_first_step(team)}
    seconds = timing.interleave(calls, repeats, warmup=0)
    row = "start to first step", "guided-diffusion", seconds["theirs"], seconds["ours"]
    yield speed(team, *row, goal="<= 6000 ms")


def _first_step(team):
    with tempfile.TemporaryDirectory() as folder:
        return commands.first_step(team.job, folder)


def _their_first_step(team):
    start = time.perf_counter()
    with contextlib.closing(team.fresh("guided-diffusion")) as worker:
        worker.call("train_step")
        return time.perf_counter() - start


def ranks(team: Team):
    """Two ranks with a thread each against one with two, on the same global batch."""
    if not commands.mpirun():
        return
    repeats, steps = {"S": (2, 20)}.get(team.config.name, (1, 8))
    rates, losses = {1: [], 2: []}, {}
    for _ in range(repeats):
        for count in rates:
            with tempfile.TemporaryDirectory() as folder:
                rate, losses[count] = commands.train_on(count, team.job, folder, steps)
            rates[count].append(rate)
    agree("loss of two ranks", losses[2], losses[1])
    ratio, times = timing.ratios(rates[2], rates[1]), [statistics.median(rates[n]) for n in (2, 1)]
    goal = RANKS.get(team.config.name, "")
    yield Row("two ranks", team.config.name, "one rank", ratio, *times, unit="images/s", goal=goal)
