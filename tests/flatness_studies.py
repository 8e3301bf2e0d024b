"""Studies of flatness on two small networks."""

import functools
import json
import runpy

from launch import ROOT

from flatdiff.flags import config
from flatdiff.measure import run, sources
from flatdiff.measure.subject import Subject
from flatdiff.models import networks

KINDS = ("LPF", "HESSIAN", "SURFACE")
MODEL = config.ModelFlags(
    image_size=8, num_channels=32, channel_mult="1", num_res_blocks=1, attention_resolutions=""
)
DIFFUSION = config.DiffusionFlags(learn_sigma=True, diffusion_steps=40, noise_schedule="cosine")


def arguments(folder, log_dir, *more):
    fixed = {
        "model_path": f"{folder}/runs/*/*",
        "data_dir": f"{folder}/images.npz",
        "log_dir": log_dir,
        "sigma": "0.02,0.005",
        "radius": "1",
        "num_draws": 4,
        "num_images": 16,
        "num_eigenvalues": 1,
        "surface_points": 3,
        "batch_size": 9,
    }
    return [str(x) for k, v in fixed.items() for x in (f"--{k}", v)] + list(more)


def study_of(kind, folder, log_dir):
    """Arguments of a study for the tests of files and ranks; products with H take long."""
    few = ("--model_path", f"{folder}/runs/b/*", "--num_images", "6", "--batch_size", "4")
    return arguments(folder, log_dir, "--flatness", kind, *(few if kind == "HESSIAN" else ()))


def parse(argv):
    groups = {
        "flatness": config.FlatnessFlags,
        "quant": config.RoundingFlags,
        "run": config.RunFlags,
        "data": config.DataFlags,
        "model": config.ModelFlags,
        "diffusion": config.DiffusionFlags,
        "train": config.TrainFlags,
    }
    return config.parse("", argv, **groups)


def study(argv):
    """What is measured, and no files of it."""
    flags = parse(argv)
    run.check(flags)
    return run.flatness(flags, flags.run.log_dir)


def subject(path, flags) -> Subject:
    """The network of a file on the images of a study."""
    network = networks.from_checkpoint(path, flags)
    images = functools.partial(sources.load_images, flags)
    return sources.subject_of("", path, *network, flags, images)


def measure(argv):
    """The body of the script, in this process."""
    runpy.run_path(str(ROOT / "scripts/flatness.py"))["measure"](parse(argv))


def estimates(path, kind):
    return json.loads((path / "flatness.json").read_text())[kind]
