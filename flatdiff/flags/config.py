"""Every knob that makes a model; `use` has those of what is done with one, `comparing` with many.

Imports no torch.
"""

import dataclasses

from .choices import AVERAGES, GRADIENTS, NETWORKS, NOISE_LEVELS, OBJECTIVES, OPTIMIZERS, TRACKERS
from .comparing import *  # noqa: F403
from .parse import (  # noqa: F401
    as_trained,
    aside,
    checked,
    checking,
    fixed,
    flag,
    group_of,
    later,
    meaning,
    parse,
    run,
    sampling,
    to_dict,
)
from .use import *  # noqa: F403
from .use import FeatureFlags

# of DiffusionFlags, what is said of a chain of betas and means nothing to the other objectives
DDPM_ALONE = (
    *("learn_sigma", "noise_schedule", "use_kl", "rescale_timesteps"),
    "rescale_learned_sigmas",
)


@dataclasses.dataclass(frozen=True)
class ModelFlags:
    """The network: guided-diffusion's names and defaults, and ours."""

    image_size: int = fixed(64, "side of the square images, in pixels", low=1)
    num_channels: int = fixed(128, "base width; widths must divide by 32, of a vit by 4", low=1)
    num_res_blocks: int = fixed(2, "residual blocks per level", low=1, high=1000)
    num_heads: int = fixed(4, "attention heads, if num_head_channels is -1")
    num_heads_upsample: int = fixed(-1, "heads on the way up; -1: as num_heads")
    num_head_channels: int = fixed(-1, "channels per head; -1: use num_heads")
    attention_resolutions: str = fixed(
        "16,8", "feature-map sizes, in pixels, that get attention; empty: none"
    )
    channel_mult: str = fixed("", "width factor of each level, as 1,2,2,2; empty: by image_size")
    dropout: float = meaning(0.0, "share of features dropped in training; 0: off", low=0)
    class_cond: bool = fixed(False, "condition on a class label; False: off")
    num_classes: int = fixed(1000, "number of classes if class_cond", low=1)
    class_dropout: float = later(
        0.0,
        "share of the labels that training hides, so that sampling can use guidance_scale (Ho & "
        "Salimans 2022); 0: off",
        low=0,
    )
    use_checkpoint: bool = flag(False, "recompute activations to save memory; False: off")
    use_scale_shift_norm: bool = fixed(
        True, "the timestep scales and shifts the norms (FiLM); False: it is added"
    )
    resblock_updown: bool = fixed(False, "residual blocks resample; False: convolutions do")
    use_fp16: bool = flag(False, "the same as --dtype fp16; False: off")
    use_new_attention_order: bool = fixed(False, "split q, k, v before the heads; False: after")
    network: str = later("unet", "the kind of network", table=NETWORKS)
    patch_size: int = later(4, "vit: side of the square patches that are its tokens", low=1)
    num_layers: int = later(12, "vit: blocks, one after the other", low=1, high=1000)


@dataclasses.dataclass(frozen=True)
class DiffusionFlags:
    """The chain: objective, guided-diffusion's names, epsilon scaling, input perturbation."""

    objective: str = later("ddpm", "what the network learns of noise", table=OBJECTIVES)
    predicts: str = later(
        "",
        "what it predicts: noise, image or velocity; empty: eps of ddpm, v of flow, and of edm "
        "what EDM does",
        choices=("", "eps", "x", "v"),
    )
    noise_levels: str = meaning(
        "",
        "how often training visits them; empty: uniform, of edm lognormal",
        table=NOISE_LEVELS,
    )
    sigma_data: float = later(0.5, "edm: standard deviation of the pixels", low=0)

    learn_sigma: bool = fixed(False, "the network predicts the variance too")
    diffusion_steps: int = fixed(1000, "timesteps T of the chain", low=1, high=10**6)
    noise_schedule: str = fixed("linear", "how betas grow", choices=("linear", "cosine"))
    timestep_respacing: str = sampling(
        "",
        "timesteps kept: a count (100), counts per section (10,10,5), ddim50, or edm18 (nearest to "
        "EDM's grid); empty: all",
    )
    use_kl: bool = meaning(False, "train on the variational bound; False: on the noise's MSE")
    predict_xstart: bool = fixed(False, "the network predicts the image; False: the noise")
    rescale_timesteps: bool = fixed(False, "the network sees t * 1000 / T; False: t itself")
    rescale_learned_sigmas: bool = meaning(False, "weigh the variational term by T / 1000")
    eps_scaler: float = sampling(
        1.0, "sampling: the predicted noise is divided by this (Ning et al. 2024); 1: off"
    )
    eps_scaler_slope: float = sampling(
        0.0, "sampling: the divisor grows by this per respaced step above step 0; 0: constant"
    )
    input_pertub: float = meaning(
        0.0, "training: noise added to x_t's noise, as its share (Ning et al. 2023); 0: off", low=0
    )


@dataclasses.dataclass(frozen=True)
class SuperResFlags:
    """The two sizes of a super-resolution model."""

    large_size: int = fixed(256, "side of the output images, in pixels", low=1)
    small_size: int = fixed(64, "side of the input images, in pixels", low=1)


@dataclasses.dataclass(frozen=True)
class ClassifierFlags:
    """The noisy classifier of classifier guidance."""

    image_size: int = fixed(64, "side of the square images, in pixels", low=1)
    classifier_use_fp16: bool = flag(False, "half-precision torso; False: off")
    classifier_width: int = fixed(128, "base width", low=1)
    classifier_depth: int = fixed(2, "residual blocks per level", low=1, high=1000)
    classifier_attention_resolutions: str = fixed(
        "32,16,8", "feature-map sizes, in pixels, that get attention; empty: none"
    )
    classifier_use_scale_shift_norm: bool = fixed(
        True, "the timestep scales and shifts the norms; False: it is added"
    )
    classifier_resblock_updown: bool = fixed(True, "blocks resample; False: convolutions do")
    classifier_pool: str = fixed(
        "attention",
        "how features become logits",
        choices=("attention", "adaptive", "spatial", "spatial_v2"),
    )
    num_classes: int = fixed(1000, "number of classes", low=1)


@dataclasses.dataclass(frozen=True)
class DataFlags:
    """The images: where they are, and how they are read."""

    data_dir: str = aside("", "folder of images (jpg, png, gif, webp), zip, or npz with arr_0")
    class_from: str = meaning(
        "prefix", "class: file name before its first _, or folder", choices=("prefix", "folder")
    )
    transparent: str = meaning(
        "white",
        "transparent images are laid on white; refuse: they are an error; drop: they show the "
        "colours that they hide, as in guided-diffusion",
        choices=("white", "refuse", "drop"),
    )
    skip_broken: bool = flag(
        False,
        "images that cannot be read are left out, and counted; False: they are an error that names "
        "all of them",
    )
    num_workers: int = aside(2, "processes that decode images, if they do not fit memory", low=0)


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """One training run."""

    schedule_sampler: str = meaning(
        "uniform", "how timesteps are drawn", choices=("uniform", "loss-second-moment")
    )
    random_flip: bool = meaning(True, "mirror half of the images; False for digits and letters")
    random_crop: bool = meaning(False, "crop at random; False: at the centre")
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
    optimizer: str = meaning("adam", "the gradient that the optimizer follows", table=GRADIENTS)
    base_optimizer: str = meaning("adamw", "the optimizer that takes the steps", table=OPTIMIZERS)
    rho: float = meaning(0.05, "radius of SAM's ball, l2 (ASAM: relative); 0: plain Adam", low=0)
    sam_sync: bool = meaning(
        False, "SAM climbs along the ranks' mean gradient; False: each its own"
    )
    sam_every: int = meaning(
        1, "SAM at every k-th step, plain steps between (Liu et al. 2022); 1: always", low=1
    )
    sam_start: int = meaning(
        0, "first step of SAM (late is enough: Zhou et al. 2025); 0: always", low=0
    )
    sam_share: float = meaning(
        1.0, "share of the batch that SAM climbs on, and logs (Bahri et al. 2022); 1: all of it"
    )
    ema_rate: str = flag("0.9999", "shares kept per step by the EMAs, as 0.999,0.9999; empty: none")
    use_swa: bool = flag(False, "average the weights at the end of each window; False: off")
    swa_window: int = flag(100, "steps per window", low=1)
    swa_start: int = flag(0, "step of the first window, if nothing was resumed", low=0)
    swa_lr_min: float = flag(1e-6, "lr at the end of a window, if lr_anneal_steps > 0", low=0)
    averages: str = flag("", "more averages, by commas; empty: none", table=AVERAGES, many=True)
    posthoc_ema: int = flag(
        0,
        "steps between snapshots of two power EMAs in fp32, never deleted, of which averages.py "
        "makes an average of any length; 0: none",
        low=0,
    )
    cuda_graphs: bool = aside(
        False,
        "on CUDA: replay forward and backward as one graph, for networks whose steps wait for the "
        "host; its memory is not shared with other work; False: off",
    )
    fp16_scale_growth: float = flag(1e-3, "growth of log2 of fp16's loss scale per step", low=0)
    log_interval: int = aside(100, "steps between two lines of the log", low=1)
    curvature_interval: int = aside(
        0,
        "steps between two looks at the curvature along the optimizer's step; 200: under 2 in "
        "100 of the time; 0: none",
        low=0,
    )
    save_interval: int = aside(10000, "steps between two checkpoints", low=1)
    keep_last: int = aside(0, "newest checkpoints kept, older ones deleted; 0: all kept", low=0)
    tracker: str = aside(
        "", "a page where tables and grids of samples go too; empty: none", table=TRACKERS
    )
    sample_interval: int = aside(0, "steps between two grids of samples; 0: none", low=0)
    resume: str = aside("", "auto: go on from log_dir's newest checkpoint; empty: off")
    allow_change: bool = aside(
        False,
        "go on with another gradient, other images or labels than before, from which on the run's "
        "numbers mean something else; False: refuse",
    )
    resume_checkpoint: str = flag("", "modelNNNNNN.pt to go on from; empty: start anew")
    init_from: str = flag("", "file whose weights alone start a new run; empty: random weights")


@dataclasses.dataclass(frozen=True)
class ClassifierTrainFlags(TrainFlags):
    """The training of a noisy classifier."""

    lr: float = flag(3e-4, "learning rate of AdamW", low=0)
    batch_size: int = flag(4, "images per rank and step; the global batch is ranks x this", low=1)
    random_crop: bool = meaning(True, "crop at random; False: at the centre")
    ema_rate: str = flag("", "shares kept per step by the EMAs, as 0.999,0.9999; empty: none")
    log_interval: int = aside(10, "steps between two lines of the log", low=1)
    iterations: int = flag(150000, "steps in all, if there is no end_step", low=1)
    anneal_lr: bool = flag(
        False, "lr falls as by --lr_anneal_steps, to 2 / steps of it at the last; False: it stays"
    )
    noised: bool = meaning(True, "classify noised images, for guidance; False: clean ones")
    val_data_dir: str = flag("", "images for val_loss and val_acc; empty: none")
    eval_interval: int = flag(5, "steps between two batches of val_data_dir", low=1)


@dataclasses.dataclass(frozen=True)
class EvalFlags(FeatureFlags):
    """Samples against the training data, while it goes on."""

    eval_interval: int = flag(0, "steps between two Frechet distances; 0: none", low=0)
    eval_samples: int = flag(1000, "samples drawn each time, in at most 100 steps", low=20)
    eval_batch: int = flag(64, "samples per rank and network call", low=1)


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """What every script has."""

    seed: int = flag(0, "all randomness is a function of this number", low=0)
    dtype: str = flag(
        "fp32",
        "arithmetic; weights stay fp32; auto: bf16 where this device is quick at it, else fp32; "
        "fp32 in measuring",
        choices=("fp32", "bf16", "fp16", "auto"),
    )
    compile: bool = flag(False, "torch.compile the network, about a minute at first; False: off")
    deterministic: bool = aside(
        False,
        "on CUDA: only kernels that repeat their bits, some slower, so that a resumed run is the "
        "same one bit by bit, on one GPU of its kind and with its versions of torch, CUDA and "
        "cuDNN; False: it is the same but for rounding. On a CPU bits repeat either way",
    )
    log_dir: str = aside("", "folder of all output; empty: $OPENAI_LOGDIR, or a temporary one")
    max_hours: float = aside(
        0.0,
        "hours in which to end, saved, with exit code 75, as on SIGTERM, SIGINT (Ctrl-C), SIGUSR1, "
        "SIGUSR2 and before a SLURM job's end; the same command goes on; 0: no such limit",
        low=0,
    )
