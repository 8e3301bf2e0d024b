"""The registry: whatever a flag may name stands here once. Nothing here imports torch.

A new one is a file of its own and a line here: the flag's values, its help, whoever runs it, what
it costs and what a study shows of it are read from these tables. A name may be followed by knobs,
`name knob=value knob=value`: the keyword arguments of its function that have a default.
"""

import argparse
import dataclasses
import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..judge.names import FEATURES as JUDGED

BOOLEANS = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(
    ("no", "false", "f", "n", "0"), False
)
EXPECTED = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


@dataclasses.dataclass(frozen=True)
class Choice:
    """`where`: "module:name", the module in flatdiff; imported when it is used."""

    where: str
    help: str

    def load(self) -> Any:
        """What stands there."""
        module, _, name = self.where.partition(":")
        home = importlib.import_module(f".{module}", __package__.rpartition(".")[0])
        return functools.reduce(getattr, name.split("."), home)


@dataclasses.dataclass(frozen=True)
class Gradient(Choice):
    """`passes`: gradients of a batch in one step, from which a study knows what is a fair match.
    `radius`: whether --rho is its own."""

    passes: int
    radius: bool = True


@dataclasses.dataclass(frozen=True)
class Objective(Choice):
    """`sampler`: that of a study which names none."""

    sampler: str


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a study's tables: `value` of what the cell's measure shows of a model. `title`:
    its head, "" where it stands in study.csv alone. `claim`: what the claim "SAM is flatter than
    Adam: ..." names it, "" for no such claim."""

    cell: str
    value: str
    title: str
    claim: str = ""


@dataclasses.dataclass(frozen=True)
class Measure(Choice):
    """`where`: a `measure.frame.Measure`. `verb`: the command `flatdiff VERB` that runs it.
    `cells`: by name, the flags with which a study runs it on each model; {sigma} stands for the
    study's --sigma. `columns`: by name, what a study shows of it. `note`: how to read these."""

    verb: str
    cells: dict[str, str] = dataclasses.field(default_factory=dict)
    columns: dict[str, Column] = dataclasses.field(default_factory=dict)
    note: str = ""


Table = Mapping[str, Choice]
NORMS = {"training": "in training", "sampling": "in sampling", "gap": "size of the gap"}

NETWORKS: dict[str, Choice] = {
    "unet": Choice("nets.unet:UNetModel", "guided-diffusion's U-Net (Dhariwal & Nichol 2021)"),
    "vit": Choice("nets.vit:ViT", "transformer over patches of pixels (Peebles & Xie 2023)"),
}
SAMPLERS: dict[str, Choice] = {
    "ddpm": Choice("chain.samplers:p_sample", "ancestral (Ho et al. 2020)"),
    "ddim": Choice("chain.samplers:ddim_sample", "DDIM of eta 0 (Song et al. 2020)"),
    "dpmpp": Choice("chain.samplers:dpmpp_sample", "DPM-Solver++ 2M (Lu et al. 2022)"),
    "euler": Choice("chain.solvers:euler_sample", "Euler's, on any path the same as ddim"),
    "heun": Choice("chain.solvers:heun_sample", "Heun's, two calls a step (Karras et al. 2022)"),
}
OBJECTIVES: dict[str, Objective] = {
    "ddpm": Objective("models.objectives:ddpm", "a chain of betas (Ho et al. 2020)", "ddpm"),
    "flow": Objective("models.objectives:flow", "straight paths (Lipman et al. 2023)", "euler"),
    "edm": Objective(
        "models.objectives:edm", "preconditioned denoising (Karras et al. 2022)", "euler"
    ),
}
NOISE_LEVELS: dict[str, Choice] = {
    "uniform": Choice("chain.densities:uniform", "each alike"),
    "lognormal": Choice(
        "chain.densities:lognormal",
        "log(sigma / alpha) of mean p_mean -1.2 and deviation p_std 1.2 (Karras et al. 2022)",
    ),
    "logitnormal": Choice(
        "chain.densities:logitnormal",
        "the same of 0 and 1, flow's time by its logit (Esser et al. 2024)",
    ),
}
GRADIENTS: dict[str, Gradient] = {
    "adam": Gradient("weights.gradients:plain", "here", passes=1),
    "adam-sam": Gradient(
        "weights.gradients:sam", "at the ridge, rho away (Foret et al. 2021)", passes=2
    ),
    "adam-asam": Gradient(
        "weights.gradients:asam", "the ball in units of |w| (Kwon et al. 2021)", passes=2
    ),
    "adam-msam": Gradient(
        "weights.gradients:msam",
        "rho along the last momentum, in one pass, and the log shows the loss there (Becker et al. "
        "2024)",
        passes=1,
    ),
    "adam-sam-loss": Gradient(
        "weights.gradients:by_loss",
        "where the loss has risen by rise, to first order, in place of a radius: rho is rise over "
        "the gradient's length, and at most cap times that of the weights (LE-SAM 2026)",
        passes=2,
        radius=False,
    ),
    "adam-fsam": Gradient(
        "weights.gradients:friendly",
        "along the batch's gradient less the mean of those so far (Friendly-SAM, Li et al. 2024)",
        passes=2,
    ),
    "adam-random": Gradient(
        "weights.gradients:random",
        "rho in a random direction, in one pass, and the log shows the loss there: a control",
        passes=1,
    ),
    "adam-sam-down": Gradient("weights.gradients:downhill", "rho downhill: a control", passes=2),
}
OPTIMIZERS = {
    "adamw": Choice("train.optimizers:adamw", "AdamW (Loshchilov & Hutter 2019)"),
    "sgd": Choice("train.optimizers:sgd", "with momentum; weight_decay is in the gradient"),
    "muon": Choice(
        "train.muon:muon",
        "steps of matrices and kernels made orthogonal, AdamW for all else (Jordan et al. 2024)",
    ),
}
AVERAGES = {
    "ema": Choice("weights.averaging:EMA", "exponential moving average, by --ema_rate too"),
    "swa": Choice("weights.averaging:SWA", "mean of the ends of windows, by --use_swa too"),
    "power": Choice(
        "weights.averaging:Power",
        "power-function EMA, sigma_rel of the training wide (Karras 2024)",
    ),
}
QUANTIZERS: dict[str, Choice] = {
    "minmax": Choice("quantization.ranges:minmax", "at the extreme weights"),
    "mse": Choice("quantization.ranges:mse", "where the squared error is least"),
}
MEASURES: dict[str, Measure] = {
    "LPF": Measure(
        "measure.curve:LPF",
        "Gaussian weight noise",
        "flatness",
        {
            "LPF": "--sigma {sigma} --num_draws {num_draws}",
            "LPF filter": "--sigma {filter_sigma} --noise_scale filter --num_draws {num_draws}",
            "LPF weight": "--sigma 0.05 --noise_scale weight --num_draws {num_draws}",
        },
        {
            "loss": Column("LPF", "at_w", "loss at w"),
            "lpf": Column("LPF", "rise", "LPF rise", "LPF"),
            "lpf_filter": Column(
                "LPF filter", "rise", "LPF rise, filter units", "LPF in units of each filter"
            ),
            "lpf_weight": Column(
                "LPF weight", "rise", "LPF rise, weight units", "LPF in units of each weight"
            ),
        },
        "LPF is the rise of the loss at the middle sigma. In filter units, a filter's noise is in "
        "proportion to its length, so that a network of larger weights does not look flatter; in "
        "weight units, at sigma 0.05, a weight's noise is in proportion to its size.",
    ),
    "MC": Measure(
        "measure.curve:MC",
        "random directions of given length",
        "flatness",
        {"MC": "--radius {radius} --num_draws {num_draws}"},
        {"mc": Column("MC", "rise", "MC rise", "MC")},
        "MC is the rise of the loss at the middle radius.",
    ),
    "HESSIAN": Measure(
        "measure.spectrum:HESSIAN",
        "largest eigenvalues and trace",
        "flatness",
        {"HESSIAN": "--num_draws 2 --num_eigenvalues 1"},
        {"eigenvalue": Column("HESSIAN", "eigenvalue", "largest eigenvalue", "largest eigenvalue")},
        "The eigenvalue is that of the Hessian of the mean squared error.",
    ),
    "SHARPNESS": Measure(
        "measure.sharpness:SHARPNESS",
        "largest rise within a ball",
        "flatness",
        {"SHARPNESS": "--noise_scale weight"},
        {"sharpness": Column("SHARPNESS", "sharpness", "adaptive sharpness", "adaptive sharpness")},
        "The adaptive sharpness is the largest rise of the loss where weights move in proportion "
        "to their sizes, by 0.5 in all (Kwon et al. 2021).",
    ),
    "LEAK": Measure(
        "measure.leak:LEAK", "what these change by where the network does not", "flatness"
    ),
    "SURFACE": Measure(
        "measure.plane:SURFACE", "the loss on a plane, and between two checkpoints", "flatness"
    ),
    "EXPLAIN": Measure(
        "measure.explain:EXPLAIN",
        "why rounding hurts: slope, curvature and length of w_q - w",
        "flatness",
        {"EXPLAIN": "--bits 4 --layer_bits 0 --num_draws 4"},
        {
            "rounding_length": Column("EXPLAIN", "length", "length of rounding to 4 bits"),
            "rounding_curvature": Column(
                "EXPLAIN", "kappa", "curvature along it", "curvature along rounding to 4 bits"
            ),
        },
        "Rounding moves the weights by d. But for the slope and higher orders, the loss rises by "
        "half of d's squared length times the curvature along d.",
    ),
    "exposure": Measure(
        "measure.exposure:EXPOSURE",
        "exposure bias along the sampling chain",
        "exposure",
        {"exposure": "--timestep_respacing {sampling_steps[0]}"},
        {"noise_norm": Column("exposure", "noise_norm", "")}
        | {
            f"{norm}_{where}": Column("exposure", f"{norm}_{where}", f"{place}: {title}")
            for where, place in (("start", "nearest t = 0"), ("mean", "mean of the rest"))
            for norm, title in NORMS.items()
        },
        "The norms are those of the predicted noise, on real images and along the chain.",
    ),
}
FLATNESS = {name: measure for name, measure in MEASURES.items() if measure.verb == "flatness"}
FEATURES = {name: Choice(f"judge.{where}", told) for name, (where, told) in JUDGED.items()}


def told(table: Table) -> str:
    """The choices as a flag's help."""
    return "; ".join(f"{name}: {choice.help}" for name, choice in table.items())


def named(table: Table, text: str) -> tuple[str, dict[str, str]]:
    """Text as "adam-sam rho=0.1" -> ("adam-sam", {"rho": "0.1"}); ValueError for a name that is
    not in the table, and for what is no knob."""
    name, *knobs = text.split() or [""]
    if name not in table:
        near = difflib.get_close_matches(name, table, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"got {name!r}, expected one of {', '.join(table)}{hint}")
    pairs = [knob.partition("=") for knob in knobs]
    if bad := [knob for knob, (k, _, v) in zip(knobs, pairs) if not (k and v)]:
        raise ValueError(f"got {bad[0]!r} behind {name}, expected knob=value")
    return name, {k: v for k, _, v in pairs}


def entry(table: Table, text: str) -> Any:
    """The table's Choice that the text names."""
    return table[named(table, text)[0]]


def bound(table: Table, text: str) -> Callable:
    """What the text names, called with its knobs."""
    function, knobs = chosen(table, text)
    return functools.partial(function, **knobs)


def knobs(table: Table, name: str) -> dict[str, Any]:
    """The knobs of what has the name, with their defaults."""
    parameters = inspect.signature(table[name].load()).parameters.values()
    return {p.name: p.default for p in parameters if type(p.default) in EXPECTED}


def chosen(table: Table, text: str, given: Iterable[str] = ()) -> tuple[Any, dict[str, Any]]:
    """What the text names, and its knobs as values; ValueError for a knob that it does not have.

    `given`: arguments that the caller gives itself, by flags of their own, which are no knobs.
    """
    name, texts = named(table, text)
    known = {knob: value for knob, value in knobs(table, name).items() if knob not in given}
    values = {}
    for knob, value in texts.items():
        if knob not in known:
            of = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{name} has no knob {knob!r}; {of}")
        try:
            values[knob] = read(type(known[knob]), value)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{name}, {knob}: {error}") from None
    return table[name].load(), values


def read(kind: type, text: str) -> Any:
    """Text -> a value of the kind; ArgumentTypeError says what is expected."""
    try:
        return BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {EXPECTED[kind]}") from None
