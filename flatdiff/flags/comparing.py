"""The knobs of what sets many checkpoints, or runs, side by side."""

import dataclasses

from ..judge.names import DINOV2_FILE, INCEPTION_FILE
from .choices import FEATURES, MOVES, OBJECTIVES, SAMPLERS
from .parse import aside, flag
from .use import FeatureFlags, FigureFlags


@dataclasses.dataclass(frozen=True)
class CompareFlags(FeatureFlags, FigureFlags):
    """Runs drawn side by side, and the distances of their samples from real images."""

    runs: str = flag("", "folders of the runs, separated by commas")
    reference: str = flag("", "real images, npz or folder, to measure distances to; empty: none")
    train_data: str = flag("", "images trained on, npz or folder, to look for copies; empty: none")
    heldout_data: str = flag("", "images of that source not trained on, for the same; empty: none")


@dataclasses.dataclass(frozen=True)
class AveragesFlags(FeatureFlags, FigureFlags):
    """Averages of one training, and whether another's last weights are flatter than the best."""

    model_path: str = aside(
        "",
        "folder of a run, or of two, as runs/adam,runs/adam-sam: the last weights of the last are "
        "held against the averages of the first",
    )
    lengths: str = flag(
        "0.02,0.05,0.1,0.15,0.2,0.25",
        "power-function EMAs, of snapshots by --posthoc_ema: their widths as shares of the "
        "steps since it began (sigma_rel), below 0.2887; empty: none",
    )
    rates: str = flag("", "EMAs of constant rate, of snapshots too, as 0.99,0.995; empty: none")
    kept: str = flag(
        "uniform,lawa 5,soup",
        "means of kept model files: of all, of the newest K, or of those that lower the loss on "
        "images that are not reported; empty: none",
    )
    step: int = flag(0, "the step of snapshots and model files that averages end at; 0: the newest")
    measure: bool = flag(True, "measure and draw them; False: only write them")
    num_images: int = flag(128, "images that are reported, and as many others to choose by", low=6)
    num_samples: int = flag(500, "samples that are reported, and as many to choose by", low=20)
    sampling_steps: int = flag(20, "steps of the chain for these", low=1)
    sampler: str = flag("ddim", "how noise walks back", table=SAMPLERS)
    sigma: str = flag("2e-3", "standard deviation of the LPF's weight noise")
    num_draws: int = flag(20, "draws of it, in mirrored pairs", low=4)
    bits: int = flag(4, "bits of the weights that are rounded, 2 to 8", low=2)
    batch_size: int = aside(64, "images per network call", low=1)


@dataclasses.dataclass(frozen=True)
class StudyFlags(FigureFlags):
    """A matrix of trainings, and what is measured on each of its models."""

    gradient: str = flag(
        "adam,adam-sam",
        "values of --optimizer, separated by commas, each with other flags of training as "
        "name=value after a blank: adam-sam,adam-sam sam_sync=True,adam lr_anneal_steps=1400 (its "
        "rate falls to 0, and it has no SWA)",
    )
    rho: str = flag("0.1", "radii of the gradients that climb, as 0.05,0.1,0.5")
    average: str = flag("none,ema,swa", "weights that are measured; ema: of the first rate")
    input_pertub: str = flag("0", "input perturbations of training, as 0,0.1; 0: off")
    objective: str = flag(
        "ddpm",
        "what networks learn of noise, separated by commas, each with other flags of the chain as "
        "name=value after a blank: ddpm,flow predicts=x",
        table=OBJECTIVES,
        many=True,
    )
    seeds: int = flag(3, "trainings of each kind, from seeds --seed, --seed + 1, ...", low=1)
    matched: bool = flag(True, "beside each gradient that climbs, Adam of equal cost")
    sampling_steps: str = flag("20,100", "steps of the chain for each Frechet distance")
    sampler: str = flag(
        "",
        "how noise walks back, separated by commas, the first wherever one is enough; empty: that "
        "of the objective, ddpm of ddpm and euler of the others",
        table=SAMPLERS,
        many=True,
    )
    bits: str = flag("8,4", "bits of the weights, sampled in the first of sampling_steps")
    num_samples: int = flag(10000, "samples for each Frechet distance", low=20)
    generation_seeds: int = flag(
        1,
        "sets of samples of each model, in the first of sampling_steps, of its training's seed and "
        "those after it: the report splits the scatter; 1: the first alone",
        low=1,
    )
    checkpoints: int = flag(
        1,
        "last checkpoints of each training that are sampled so, --save_interval apart (of swa the "
        "last alone); 1: the last",
        low=1,
    )
    features: str = flag(
        "",
        "what a Frechet distance compares; empty: digits for --preset digits, inception or dinov2 "
        "where there are weights of it, else lite0",
        table=FEATURES,
    )
    inception_weights: str = flag("", f"{INCEPTION_FILE} of pytorch-fid")
    dinov2_weights: str = flag("", f"{DINOV2_FILE} of DINOv2")
    heldout_data: str = flag(
        "",
        "images of the same source that nobody trained on: how many samples lie nearer to images "
        "trained on than these do, for which 0.5 is fair; empty: not asked",
    )
    sigma: str = flag("2e-3,5e-3,1e-2", "LPF: deviations of weight noise; tables show the middle")
    filter_sigma: str = flag("0.02,0.05,0.1", "LPF in units of each filter; tables show the middle")
    radius: str = flag("2,5,10", "MC: lengths of directions; tables show the middle")
    num_draws: int = flag(20, "LPF, MC: perturbations of each size, in mirrored pairs", low=4)
    num_images: int = flag(512, "images on which flatness and exposure bias are measured", low=6)
    moves: str = flag(
        "",
        "samples at moved weights too, as perturbed_samples.py has them; empty: none",
        table=MOVES,
        many=True,
    )
    measure_batch: int = flag(64, "images per rank and network call in sampling", low=1)
    ranks: int = flag(1, "ranks of each job, by mpirun", low=1)
    jobs: int = flag(1, "jobs at a time on this machine", low=1)
    cluster: str = flag(
        "",
        "where jobs run: each as a job of SLURM, or (local, debug) of submitit's stand-ins; empty: "
        "right here",
        choices=("", "slurm", "local", "debug"),
    )
    partition: str = flag("", "of --cluster: where jobs wait; empty: the cluster's default")
    time: str = flag(
        "4:00:00",
        "of --cluster: a job's time limit, as sbatch has it, at which it is requeued and goes on",
    )
    gpus: bool = flag(False, "of --cluster: ask for as many GPUs (gpus_per_node) as ranks")
    cpus_per_task: int = flag(
        0, "of --cluster: cores of a job; 0: one a rank, and one for each of its num_workers", low=0
    )
    mem: str = flag("", "of --cluster: memory of a job, as 32G; empty: the cluster's default")
    cluster_options: str = flag(
        "",
        "of --cluster: more of sbatch's options, as account=lab,qos=low, or submitit's parameters, "
        "as slurm_signal_delay_s=300",
    )
    store: str = flag("", "folder of the cells, which studies may share; empty: log_dir/cells")
    format: str = aside(
        "svg", "of figures/, beside the svg of the report", choices=("png", "pdf", "svg")
    )
    dry_run: bool = flag(False, "list the jobs, report what is done already, and stop")
    job: str = flag("", "do one job of a study, as the study itself asks for; empty: the study")
