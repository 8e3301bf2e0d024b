"""Every knob of every script, one line each; see `flags` for how they are read.

Nothing here imports torch, so that `--help` answers at once.
"""

import dataclasses

from .flags import as_trained, flag, group_of, parse, run, to_dict

__all__ = ["as_trained", "flag", "group_of", "parse", "run", "to_dict"]


@dataclasses.dataclass(frozen=True)
class ModelFlags:
    """The network: guided-diffusion's names and defaults."""

    image_size: int = flag(64, "side of the square images, in pixels", low=1, fixed=True)
    num_channels: int = flag(128, "base width; widths must divide by 32", low=1, fixed=True)
    num_res_blocks: int = flag(2, "residual blocks per level", low=1, fixed=True)
    num_heads: int = flag(4, "attention heads, if num_head_channels is -1", fixed=True)
    num_heads_upsample: int = flag(-1, "heads on the way up; -1: as num_heads", fixed=True)
    num_head_channels: int = flag(-1, "channels per head; -1: use num_heads", fixed=True)
    attention_resolutions: str = flag(
        "16,8", "feature-map sizes, in pixels, that get attention; empty: none", fixed=True
    )
    channel_mult: str = flag(
        "", "width factor of each level, as 1,2,2,2; empty: by image_size", fixed=True
    )
    dropout: float = flag(0.0, "share of features dropped in training; 0: off", low=0)
    class_cond: bool = flag(False, "condition on a class label; False: off", fixed=True)
    num_classes: int = flag(1000, "number of classes if class_cond", low=1, fixed=True)
    use_checkpoint: bool = flag(False, "recompute activations to save memory; False: off")
    use_scale_shift_norm: bool = flag(
        True, "the timestep scales and shifts the norms (FiLM); False: it is added", fixed=True
    )
    resblock_updown: bool = flag(
        False, "residual blocks resample; False: convolutions do", fixed=True
    )
    use_fp16: bool = flag(False, "the same as --dtype fp16; False: off")
    use_new_attention_order: bool = flag(
        False, "split q, k, v before the heads; False: after, as the older files", fixed=True
    )


@dataclasses.dataclass(frozen=True)
class DiffusionFlags:
    """The chain: guided-diffusion's names, epsilon scaling, input perturbation."""

    learn_sigma: bool = flag(False, "the network predicts the variance too", fixed=True)
    diffusion_steps: int = flag(1000, "timesteps T of the chain", low=1, fixed=True)
    noise_schedule: str = flag("linear", "how betas grow", choices=("linear", "cosine"), fixed=True)
    timestep_respacing: str = flag(
        "", "timesteps kept: a count (100), counts per section (10,10,5) or ddim50; empty: all"
    )
    use_kl: bool = flag(False, "train on the variational bound; False: on the noise's MSE")
    predict_xstart: bool = flag(
        False, "the network predicts the image; False: the noise", fixed=True
    )
    rescale_timesteps: bool = flag(
        False, "the network sees t * 1000 / T; False: t itself", fixed=True
    )
    rescale_learned_sigmas: bool = flag(False, "weigh the variational term by T / 1000")
    eps_scaler: float = flag(
        1.0, "sampling: the predicted noise is divided by this (Ning et al. 2024); 1: off"
    )
    eps_scaler_slope: float = flag(
        0.0, "sampling: the divisor grows by this per respaced step above step 0; 0: constant"
    )
    input_pertub: float = flag(
        0.0, "training: noise added to x_t's noise, as its share (Ning et al. 2023); 0: off", low=0
    )


@dataclasses.dataclass(frozen=True)
class SuperResFlags:
    """The two sizes of a super-resolution model."""

    large_size: int = flag(256, "side of the output images, in pixels", low=1, fixed=True)
    small_size: int = flag(64, "side of the input images, in pixels", low=1, fixed=True)


@dataclasses.dataclass(frozen=True)
class ClassifierFlags:
    """The noisy classifier of classifier guidance."""

    image_size: int = flag(64, "side of the square images, in pixels", low=1, fixed=True)
    classifier_use_fp16: bool = flag(False, "half-precision torso; False: off")
    classifier_width: int = flag(128, "base width", low=1, fixed=True)
    classifier_depth: int = flag(2, "residual blocks per level", low=1, fixed=True)
    classifier_attention_resolutions: str = flag(
        "32,16,8", "feature-map sizes, in pixels, that get attention; empty: none", fixed=True
    )
    classifier_use_scale_shift_norm: bool = flag(
        True, "the timestep scales and shifts the norms; False: it is added", fixed=True
    )
    classifier_resblock_updown: bool = flag(
        True, "residual blocks resample; False: convolutions do", fixed=True
    )
    classifier_pool: str = flag(
        "attention",
        "how features become logits",
        choices=("attention", "adaptive", "spatial", "spatial_v2"),
        fixed=True,
    )
    num_classes: int = flag(1000, "number of classes", low=1, fixed=True)


@dataclasses.dataclass(frozen=True)
class DataFlags:
    """Where images come from and what is done to them."""

    data_dir: str = flag("", "folder of images (jpg, png, gif, webp), zip, or npz with arr_0")
    class_from: str = flag(
        "prefix",
        "a class is the file name before its first _ (prefix), or the folder",
        choices=("prefix", "folder"),
    )
    num_workers: int = flag(2, "processes that decode images, if they do not fit memory", low=0)


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """One training run."""

    schedule_sampler: str = flag(
        "uniform", "how timesteps are drawn", choices=("uniform", "loss-second-moment")
    )
    random_flip: bool = flag(True, "mirror half of the images; False for digits and letters")
    random_crop: bool = flag(False, "crop at random; False: at the centre")
    lr: float = flag(1e-4, "learning rate of AdamW", low=0)
    weight_decay: float = flag(0.0, "AdamW's decoupled weight decay; 0: off", low=0)
    lr_anneal_steps: int = flag(
        0,
        "steps over which lr falls to 0, and the end of training if there is no end_step; with "
        "use_swa, non-zero: lr falls to swa_lr_min within each window; 0: lr stays",
        low=0,
    )
    end_step: int = flag(0, "optimizer steps in all, resumed ones counted; 0: no such end", low=0)
    batch_size: int = flag(1, "images per rank and step; the global batch is ranks x this", low=1)
    microbatch: int = flag(-1, "images per forward pass, to save memory; -1: the whole batch")
    optimizer: str = flag(
        "adam",
        "the gradient that AdamW follows: here, or at the ridge of a ball of radius rho",
        choices=("adam", "adam-sam", "adam-asam"),
    )
    rho: float = flag(
        0.05, "radius of SAM's ball, l2 over all weights (ASAM: relative); 0: plain Adam", low=0
    )
    sam_sync: bool = flag(
        False, "SAM climbs along the mean gradient of all ranks; False: each along its own"
    )
    ema_rate: str = flag("0.9999", "shares kept per step by the EMAs, as 0.999,0.9999; empty: none")
    use_swa: bool = flag(False, "average the weights at the end of each window; False: off")
    swa_window: int = flag(100, "steps per window", low=1)
    swa_start: int = flag(0, "step of the first window, if nothing was resumed", low=0)
    swa_lr_min: float = flag(1e-6, "lr at the end of a window, if lr_anneal_steps > 0", low=0)
    fp16_scale_growth: float = flag(1e-3, "growth of log2 of fp16's loss scale per step", low=0)
    log_interval: int = flag(100, "steps between two lines of the log", low=1)
    save_interval: int = flag(10000, "steps between two checkpoints", low=1)
    keep_last: int = flag(0, "newest checkpoints kept, older ones deleted; 0: all kept", low=0)
    sample_interval: int = flag(0, "steps between two grids of samples; 0: none", low=0)
    resume: str = flag("", "auto: go on from log_dir's newest checkpoint; empty: off")
    resume_checkpoint: str = flag("", "modelNNNNNN.pt to go on from; empty: start anew")
    init_from: str = flag("", "file whose weights alone start a new run; empty: random weights")


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """What every script has."""

    seed: int = flag(0, "all randomness is a function of this number", low=0)
    dtype: str = flag(
        "fp32", "arithmetic of the network; its weights stay fp32", choices=("fp32", "bf16", "fp16")
    )
    compile: bool = flag(False, "torch.compile the network, about a minute at first; False: off")
    log_dir: str = flag("", "folder of all output; empty: $OPENAI_LOGDIR, or a temporary one")


@dataclasses.dataclass(frozen=True)
class SampleFlags:
    """Images from a checkpoint."""

    model_path: str = flag("", "checkpoint: model*, ema_* or swa_*")
    num_samples: int = flag(10000, "number of images", low=1)
    batch_size: int = flag(16, "images per rank and network call", low=1)
    clip_denoised: bool = flag(True, "clamp the predicted image to [-1, 1] at each step")
    sampler: str = flag(
        "ddpm",
        "how noise walks back: ancestral, DDIM (eta 0) or DPM-Solver++ 2M",
        choices=("ddpm", "ddim", "dpmpp"),
    )
    use_ddim: bool = flag(False, "the same as --sampler ddim")
    class_labels: str = flag("", "labels to draw, in turn, as 0,3,5; empty: at random")


@dataclasses.dataclass(frozen=True)
class CompareFlags:
    """Runs drawn side by side."""

    runs: str = flag("", "folders of the runs, separated by commas")


@dataclasses.dataclass(frozen=True)
class FlatnessFlags:
    """How flat the loss is around the weights of one checkpoint or several."""

    flatness: str = flag(
        "LPF",
        "LPF: Gaussian weight noise; MC: random directions of given length; HESSIAN: largest "
        "eigenvalues and trace; SURFACE: the loss on a plane, and between two checkpoints",
        choices=("LPF", "MC", "HESSIAN", "SURFACE"),
    )
    model_path: str = flag("", "checkpoints, separated by commas; * and ? stand for any letters")
    sigma: str = flag(
        "",
        "LPF: standard deviations of the noise, separated by commas; empty: "
        "5e-4,1e-3,2e-3,5e-3,1e-2 (with noise_scale filter 0.01,0.02,0.05,0.1,0.2)",
    )
    radius: str = flag("1,2,5,10,20", "MC: lengths of the directions, l2 over all weights")
    noise_scale: str = flag(
        "absolute",
        "LPF, MC: one scale for all weights, or in proportion to each filter (Li et al. 2018)",
        choices=("absolute", "filter"),
    )
    num_draws: int = flag(
        20, "LPF, MC: perturbations, in mirrored pairs; HESSIAN: probes of the trace", low=2
    )
    num_images: int = flag(512, "images, each with a timestep and a noise, on every network", low=4)
    t_range: int = flag(0, "timesteps 0 .. t_range-1 of the chain; 0: all of them", low=0)
    num_eigenvalues: int = flag(5, "HESSIAN: how many", low=1)
    surface_points: int = flag(21, "SURFACE: points along a side of the plane, odd", low=3)
    surface_range: float = flag(
        1.0, "SURFACE: half a side of the plane; 1: as long as the weights, filter by filter"
    )
    batch_size: int = flag(
        0,
        "images per network call, halved while memory is short; 0: 64 on a CPU, all on a GPU",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class ExposureFlags:
    """Exposure bias: the network along the sampling chain, against real images."""

    model_path: str = flag("", "checkpoints, as FILE,FILE or runs/*/model100000.pt")
    num_images: int = flag(256, "real images, and chains of each kind", low=3)
    batch_size: int = flag(64, "images per rank and network call", low=1)
    sampler: str = flag(
        "ddpm",
        "how noise walks back: ancestral, DDIM (eta 0) or DPM-Solver++ 2M",
        choices=("ddpm", "ddim", "dpmpp"),
    )
    clip_denoised: bool = flag(True, "clamp the predicted image to [-1, 1] at each step")
    prior_shift: str = flag(
        "",
        "means and standard deviations at which chains begin too, instead of 0:1, as "
        "0.1:1,0.2:1,0:1.1; empty: none",
    )


@dataclasses.dataclass(frozen=True)
class QuantFlags:
    """Sampling from quantized weights: how they are rounded, and what the network is kept as."""

    quant: int = flag(
        0, "bits of each weight of convolutions and linear layers, 2 to 8; 0: off", fixed=True
    )
    quant_granularity: str = flag(
        "tensor",
        "what shares a grid: a whole weight tensor, or each output channel of it",
        choices=("tensor", "channel"),
        fixed=True,
    )
    quant_symmetric: bool = flag(
        False,
        "the grid reaches as far below zero as above; False: from least to largest weight",
        fixed=True,
    )
    quant_range: str = flag(
        "minmax",
        "where the grid ends: at the extreme weights, or where the squared error is least",
        choices=("minmax", "mse"),
        fixed=True,
    )
    quant_skip: str = flag(
        "",
        "layers kept in fp32, as names or patterns: out.*,input_blocks.0.0; empty: none",
        fixed=True,
    )
    quant_activations: int = flag(
        0, "bits of the inputs of these layers, ranged image by image at each call; 0: off"
    )
    quant_backend: str = flag(
        "simulate",
        "fp32 arithmetic on rounded weights; the same, weights packed in memory and unpacked layer "
        "by layer (slower); or convolutions in integers on the CPU (faster)",
        choices=("simulate", "packed", "int8"),
    )
    save_quantized: str = flag(
        "", "FILE.safetensors for the packed weights, to give as model_path; empty: not saved"
    )
    num_images: int = flag(
        256, "images of data_dir on which the loss is measured before and after", low=2
    )


@dataclasses.dataclass(frozen=True)
class ClassifierTrainFlags(TrainFlags):
    """The training of a noisy classifier."""

    lr: float = flag(3e-4, "learning rate of AdamW", low=0)
    batch_size: int = flag(4, "images per rank and step; the global batch is ranks x this", low=1)
    random_crop: bool = flag(True, "crop at random; False: at the centre")
    ema_rate: str = flag("", "shares kept per step by the EMAs, as 0.999,0.9999; empty: none")
    log_interval: int = flag(10, "steps between two lines of the log", low=1)
    iterations: int = flag(150000, "steps in all, if there is no end_step", low=1)
    anneal_lr: bool = flag(False, "lr falls to 0 at the last step; False: lr stays")
    noised: bool = flag(True, "classify noised images, for guidance; False: clean ones")
    val_data_dir: str = flag("", "images for val_loss and val_acc; empty: none")
    eval_interval: int = flag(5, "steps between two batches of val_data_dir", low=1)


@dataclasses.dataclass(frozen=True)
class GuidanceFlags:
    """Guidance by a noisy classifier (Dhariwal & Nichol 2021)."""

    classifier_path: str = flag("", "checkpoint of classifier_train: model* (or ema_*, swa_*)")
    classifier_scale: float = flag(1.0, "factor of the classifier's gradient; 0: no guidance")


@dataclasses.dataclass(frozen=True)
class BaseFlags:
    """What a super-resolution network enlarges."""

    base_samples: str = flag("", "npz of small images: arr_0 uint8 [N, h, w, 3], arr_1 labels")


@dataclasses.dataclass(frozen=True)
class NllFlags:
    """The variational bound of images, in bits per dimension."""

    model_path: str = flag("", "checkpoint: model*, ema_* or swa_*")
    num_samples: int = flag(1000, "number of images, chosen at random by the seed", low=1)
    batch_size: int = flag(1, "images per rank and network call", low=1)
    clip_denoised: bool = flag(True, "clamp the predicted image to [-1, 1] at each step")


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """A checkpoint as a folder that diffusers loads, or back."""

    model_path: str = flag("", "checkpoint: model*, ema_* or swa_*; with reverse: the folder")
    out_dir: str = flag("", "folder to make")
    reverse: bool = flag(False, "from diffusers' folder to model000000.pt and config.json")
