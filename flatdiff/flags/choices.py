"""The registry: whatever a flag may name stands here once. Nothing here imports torch.

A new one is a file of its own and a line here: the flag's values, its help, whoever runs it, what
it costs and what a study shows of it are read from these tables. A name may be followed by knobs,
`name knob=value knob=value`: the keyword arguments of its function that have a default.
"""

import dataclasses

from ..judge.names import FEATURES as JUDGED
from .lookup import BOOLEANS as BOOLEANS
from .lookup import EXPECTED as EXPECTED
from .lookup import Choice
from .lookup import Table as Table
from .lookup import bound as bound
from .lookup import chosen as chosen
from .lookup import entry as entry
from .lookup import knobs as knobs
from .lookup import named as named
from .lookup import number as number
from .lookup import read as read
from .lookup import told as told


@dataclasses.dataclass(frozen=True)
class Gradient(Choice):
    """`passes`: gradients of a batch in one step, from which a study knows what is a fair match.
    `radius`: whether --rho is its own. `control`: whether it is there to show what is not SAM's."""

    passes: int
    radius: bool = True
    control: bool = False


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
    `asked`: the flag of a study without which it is left out; "": none.
    `cells`: by name, the flags with which a study runs it on each model; {sigma} stands for the
    study's --sigma. `columns`: by name, what a study shows of it. `note`: how to read these."""

    verb: str
    cells: dict[str, str] = dataclasses.field(default_factory=dict)
    columns: dict[str, Column] = dataclasses.field(default_factory=dict)
    note: str = ""
    asked: str = ""


@dataclasses.dataclass(frozen=True)
class Move(Choice):
    """`knob`: that of how far it goes; `sizes`: its values where none is named; `random`: whether
    another draw is another move."""

    knob: str
    sizes: tuple[float, ...]
    random: bool = False


NORMS = {"training": "in training", "sampling": "in sampling", "gap": "size of the gap"}

NETWORKS: dict[str, Choice] = {
    "unet": Choice("nets.unet:UNetModel", "guided-diffusion's U-Net (Dhariwal & Nichol 2021)"),
    "vit": Choice("nets.vit:ViT", "transformer over patches of pixels (Peebles & Xie 2023)"),
}
SAMPLERS: dict[str, Choice] = {
    "ddpm": Choice("chain.samplers:p_sample", "ancestral (Ho et al. 2020)"),
    "ddim": Choice("chain.samplers:ddim_sample", "DDIM of eta 0 (Song et al. 2020)"),
    "shifted": Choice("chain.shifted:shifted_sample", "DDIM at shifted t (Li et al. 2024)"),
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
        control=True,
    ),
    "adam-sam-down": Gradient(
        "weights.gradients:downhill", "rho downhill: a control", passes=2, control=True
    ),
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
TRACKERS: dict[str, Choice] = {
    "wandb": Choice("world.trackers:Wandb", "Weights & Biases, offline with WANDB_MODE=offline"),
    "trackio": Choice("world.trackers:Trackio", "on this machine, for `trackio show`"),
}
QUANTIZERS: dict[str, Choice] = {
    "minmax": Choice("quantization.ranges:minmax", "at the extreme weights"),
    "mse": Choice("quantization.ranges:mse", "where the squared error is least"),
    "gptq": Choice(
        "quantization.gptq:GPTQ",
        "at the extremes, and codes by what the layer's outputs lose on images of data_dir "
        "(Frantar et al. 2023)",
    ),
}
MOVES: dict[str, Move] = {
    "gaussian": Move(
        "measure.moves:gaussian", "noise, as LPF's", "sigma", (2e-3, 5e-3, 1e-2), random=True
    ),
    "sphere": Move(
        "measure.moves:sphere", "random directions, as MC's", "radius", (3, 7, 15), random=True
    ),
    "climb": Move("measure.moves:climb", "up the gradient, as SAM", "rho", (0.03, 0.1, 0.3)),
    "descent": Move("measure.moves:descent", "down the gradient", "rho", (0.03, 0.1, 0.3)),
    "eigenvector": Move(
        "measure.moves:eigenvector",
        "along the Hessian's largest, + uphill",
        "length",
        (-1.0, -0.3, -0.1, 0.1, 0.3, 1.0),
    ),
    "quantized": Move("measure.moves:quantized", "weights of few bits", "bits", (8, 6, 4, 3, 2)),
    "pruned": Move("measure.moves:pruned", "the least to zero", "share", (0.1, 0.3, 0.5)),
    "towards": Move("measure.moves:towards", "to --average_path", "share", (0.5, 1.0)),
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
    "MAP": Measure(
        "measure.blocks:MAP", "rise and curvature by block of the network and log-SNR", "flatness"
    ),
    "DENSITY": Measure(
        "measure.density:DENSITY", "spectral density of the Hessian or Gauss-Newton", "flatness"
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
    "ROUNDING": Measure(
        "measure.rounding:ROUNDING",
        "rises by rounding: bits by quantizers by rounded inputs",
        "flatness",
    ),
    "perturbed": Measure(
        "measure.perturbed_samples:PERTURBED",
        "samples at moved weights",
        "perturbed-samples",
        {
            "perturbed": "--moves {moves} --features {features} "
            "--timestep_respacing {sampling_steps[0]}"
        },
        {"moved_r": Column("perturbed", "correlation", "rise of loss with that of distance, r")}
        | {
            f"moved_{kind}": Column("perturbed", kind, f"distance lost to moves: {kind}")
            for kind in MOVES
        },
        asked="moves",
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
