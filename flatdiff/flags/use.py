"""The knobs of what is done with a checkpoint: sampling and measuring."""

import dataclasses

from ..judge.names import DINOV2_FILE, INCEPTION_FILE
from .choices import FEATURES, FLATNESS, MOVES, QUANTIZERS, SAMPLERS
from .parse import aside, fixed, flag, later, part, sampling


@dataclasses.dataclass(frozen=True)
class SampleFlags:
    """Images from a checkpoint."""

    model_path: str = aside("", "checkpoint: model*, ema_* or swa_*")
    num_samples: int = part(10000, "number of images", low=1)
    batch_size: int = aside(
        16, "images per rank and network call; where none is given, more on a GPU", low=1
    )
    clip_denoised: bool = flag(True, "clamp the predicted image to [-1, 1] at each step")
    sampler: str = flag("ddpm", "how noise walks back", table=SAMPLERS)
    use_ddim: bool = flag(False, "the same as --sampler ddim")
    guidance_scale: float = flag(
        1.0,
        "guidance without a classifier: how far the output goes from that without a label to that "
        "with it (Ho & Salimans 2022), at twice the cost; 1: off",
    )
    class_labels: str = flag("", "labels to draw, in turn, as 0,3,5; empty: at random")


@dataclasses.dataclass(frozen=True)
class FeatureFlags:
    """What a distance between sets of images is measured on."""

    features: str = flag("lite0", "what is compared", table=FEATURES)
    inception_weights: str = aside("", f"{INCEPTION_FILE} of pytorch-fid")
    dinov2_weights: str = aside("", f"{DINOV2_FILE} of DINOv2")


@dataclasses.dataclass(frozen=True)
class FigureFlags:
    """What pictures are written as."""

    format: str = aside("png", "of figures", choices=("png", "pdf", "svg"))


@dataclasses.dataclass(frozen=True)
class FlatnessFlags(FigureFlags):
    """How flat the loss is around the weights of one checkpoint or several."""

    flatness: str = flag("LPF", "what is measured", table=FLATNESS)
    model_path: str = aside(
        "",
        "checkpoints, separated by commas; * and ? stand for any letters; or folders of diffusers",
    )
    loss: str = flag(
        "",
        "module:function of (network, draw), a loss for each example; empty: the objective's, by "
        "the noise_levels, use_kl and rescale_learned_sigmas given here",
    )
    sigma: str = part(
        "",
        "LPF, MAP (the middle): deviations of the noise, separated by commas; empty: "
        "5e-4,1e-3,2e-3,5e-3,1e-2 (with noise_scale filter or weight 0.01,0.02,0.05,0.1,0.2)",
    )
    radius: str = part(
        "1,2,5,10,20",
        "MC: lengths of the directions, l2 over all weights; with noise_scale weight or canonical "
        "in these units",
    )
    noise_scale: str = flag(
        "absolute",
        "LPF, MC, MAP, SHARPNESS: one scale for all weights, or in proportion to each filter (Li "
        "et al. 2018), each weight (Kwon et al. 2021), or, of networks with group norms or "
        "attention, as their symmetries do not change it",
        choices=("absolute", "filter", "weight", "canonical"),
    )
    num_draws: int = part(
        20, "LPF, MC: perturbations, in mirrored pairs; HESSIAN: probes of the trace", low=2
    )
    num_images: int = flag(512, "images, each with a timestep and a noise, on every network", low=6)
    t_range: int = flag(0, "timesteps 0 .. t_range-1 of the chain; 0: all of them", low=0)
    num_eigenvalues: int = part(5, "HESSIAN: how many", low=1)
    surface_points: int = part(21, "SURFACE: points along a side of the plane, odd", low=3)
    surface_range: float = part(1.0, "SURFACE: half a side; 1: as long as the weights, by filter")
    bits: str = part(
        "", "EXPLAIN, ROUNDING: bits of each weight, by commas; empty: 8,6,4, of ROUNDING 8,6,4,3"
    )
    quantizers: str = part(
        "",
        "EXPLAIN, ROUNDING: what rounds, by commas, each with knobs behind it, of its own or of "
        "its grid, as: minmax,mse granularity=channel,gptq group=32; empty: minmax, of ROUNDING "
        "all kinds",
        table=QUANTIZERS,
        many=True,
    )
    activations: str = part(
        "none,8,8 bins=4",
        "ROUNDING: bits of layers' inputs, by commas: none; 8, ranged by image; 8 bins=4, with "
        "ranges fixed in 4 bins of timesteps",
    )
    layer_bits: str = part(
        "", "EXPLAIN: bits at which layers are rounded alone, too; 0: none; empty: the fewest"
    )
    batch_size: int = aside(
        0, "images per network call, halved while memory is short; 0: 64, or all on a GPU", low=0
    )


@dataclasses.dataclass(frozen=True)
class PerturbedFlags(SampleFlags, FeatureFlags, FigureFlags):
    """Samples at moved weights against those at the weights themselves."""

    model_path: str = aside("", "checkpoints, separated by commas; * and ? stand for any letters")
    moves: str = part(
        "",
        "what moves the weights, separated by commas: a name alone at several sizes, with its size "
        "behind it at that one; empty: all that there are",
        table=MOVES,
        many=True,
    )
    average_path: str = aside(
        "", "towards: another file of the network; a bare name is beside each checkpoint"
    )
    num_draws: int = part(2, "draws of random moves, in mirrored pairs", low=1)
    num_samples: int = flag(400, "images that each move makes, of the same noise", low=50)
    batch_size: int = aside(100, "images per rank and network call", low=1)
    sampler: str = flag("ddim", "how noise walks back", table=SAMPLERS)
    timestep_respacing: str = sampling("20", "timesteps of the sampling, as DiffusionFlags has it")
    num_images: int = flag(256, "images for the loss, and as many others for directions", low=6)


@dataclasses.dataclass(frozen=True)
class ExposureFlags(FigureFlags):
    """Exposure bias: the network along the sampling chain, against real images."""

    model_path: str = aside("", "checkpoints, as FILE,FILE or runs/*/model100000.pt")
    num_images: int = flag(256, "real images, and chains of each kind", low=3)
    batch_size: int = aside(64, "images per rank and network call", low=1)
    sampler: str = flag("ddpm", "how noise walks back", table=SAMPLERS)
    clip_denoised: bool = flag(True, "clamp the predicted image to [-1, 1] at each step")
    prior_shift: str = flag(
        "",
        "means and standard deviations at which chains begin too, instead of 0:1, as "
        "0.1:1,0.2:1,0:1.1; empty: none",
    )
    move: str = flag("", "measured at moved weights; empty: at the weights", table=MOVES)
    average_path: str = aside("", "of --move towards: the file that it leads to")


@dataclasses.dataclass(frozen=True)
class ExposureBenchFlags(FeatureFlags, FigureFlags):
    """What is done about exposure bias in sampling, by the norm of the noise and by distance."""

    model_path: str = aside("", "checkpoints, as FILE,FILE or runs/*/model100000.pt")
    chain_steps: str = part("5,10,20,100", "timesteps of the chains, separated by commas")
    weight_bits: str = part("32,8,4", "bits of the weights, separated by commas; 32: not rounded")
    scalings: str = part(
        "0.94,0.96,0.98,1,1.02,1.04",
        "values of --eps_scaler, among them 1, of which the best is sought, at least four",
    )
    window: int = part(30, "time shift: timesteps of its window (Li et al. 2024)", low=1)
    cutoff: int = part(200, "time shift: the least timestep that it shifts", low=0)
    num_samples: int = flag(250, "chains of each kind, and images for norms in training", low=40)
    delta_images: int = flag(64, "of these, chains begun at images, for delta_t", low=3)
    batch_size: int = aside(125, "images per rank and network call", low=1)
    clip_denoised: bool = flag(True, "clamp the predicted image to [-1, 1] at each step")


@dataclasses.dataclass(frozen=True)
class RoundingFlags:
    """How weights, and inputs of layers, are rounded to few bits."""

    quant: int = fixed(0, "bits of each weight of convolutions and linear layers, 2 to 8; 0: off")
    quant_granularity: str = fixed(
        "tensor",
        "what shares a grid: a whole weight tensor, each output channel of it, or each group of "
        "quant_group weights of a channel",
        choices=("tensor", "channel", "group"),
    )
    quant_group: int = later(32, "weights of a group, one after the other in a channel", low=2)
    quant_symmetric: bool = fixed(
        False, "the grid reaches as far below zero as above; False: from least to largest weight"
    )
    quant_range: str = fixed("minmax", "where the grid ends", table=QUANTIZERS)
    quant_skip: str = fixed("", "layers kept in fp32, as out.*,input_blocks.0.0; empty: none")
    quant_activations: int = flag(0, "bits of these layers' inputs; 0: off")
    quant_act_bins: int = flag(
        0,
        "bins of timesteps, in each of which an input's range is fixed, as seen on images of "
        "data_dir; 0: each image's own range",
        low=0,
    )
    quant_calibration: int = flag(
        128, "gptq, quant_act_bins: images of data_dir, at even timesteps, to calibrate on", low=2
    )


@dataclasses.dataclass(frozen=True)
class QuantFlags(RoundingFlags):
    """Sampling from quantized weights: what the network is kept as, and what is measured of it."""

    quant_backend: str = flag(
        "simulate",
        "fp32 arithmetic on rounded weights; the same, weights packed in memory and unpacked layer "
        "by layer (slower); or convolutions in integers on the CPU (faster)",
        choices=("simulate", "packed", "int8"),
    )
    save_quantized: str = aside("", "FILE.safetensors of packed weights, a model_path; empty: none")
    num_images: int = aside(256, "images of data_dir for the loss before and after", low=6)
    explain: bool = aside(
        False, "measure on them why the loss rises, as flatness.py's EXPLAIN; False: off"
    )


@dataclasses.dataclass(frozen=True)
class GuidanceFlags:
    """Guidance by a noisy classifier (Dhariwal & Nichol 2021)."""

    classifier_path: str = aside("", "checkpoint of classifier_train: model* (or ema_*, swa_*)")
    classifier_scale: float = flag(1.0, "factor of the classifier's gradient; 0: no guidance")


@dataclasses.dataclass(frozen=True)
class BaseFlags:
    """What a super-resolution network enlarges."""

    base_samples: str = aside("", "npz of small images: arr_0 uint8 [N, h, w, 3], arr_1 labels")


@dataclasses.dataclass(frozen=True)
class NllFlags:
    """The variational bound of images, in bits per dimension."""

    model_path: str = aside("", "checkpoint: model*, ema_* or swa_*")
    num_samples: int = flag(1000, "images, chosen at random by the seed, none twice", low=1)
    batch_size: int = aside(1, "images per rank and network call", low=1)
    clip_denoised: bool = flag(True, "clamp the predicted image to [-1, 1] at each step")


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """A checkpoint as a folder that diffusers loads, or back."""

    model_path: str = flag("", "checkpoint: model*, ema_* or swa_*; with reverse: the folder")
    out_dir: str = flag("", "folder to make")
    reverse: bool = flag(False, "from diffusers' folder to model000000.pt and config.json")
    push_to_hub: str = aside(
        "", "USER/NAME of the Hugging Face Hub, or of $HF_ENDPOINT, to put the folder; empty: none"
    )
