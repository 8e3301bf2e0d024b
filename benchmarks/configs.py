"""What is measured: networks and batch sizes, as flags of image_train.py.

S, C and F are small enough for two cores: a small network, the CIFAR-10 one, the FFHQ one. On a GPU
the batch sizes are those of the paper. Knows neither peers nor clocks.
"""

import dataclasses
import shlex

from flatdiff.flags import config


@dataclasses.dataclass(frozen=True)
class Config:
    """`repeats`: of each measurement; `chain`: steps of the sampling that is timed."""

    name: str
    flags: str
    batch: int
    repeats: int
    chain: int = 2


SMALL = "--image_size 32 --num_channels 32 --num_res_blocks 1 --learn_sigma True"
CPU = {
    "S": Config("S", SMALL, batch=16, repeats=9, chain=4),
    "C": Config("C", "--preset cifar10", batch=16, repeats=3),
    "F": Config("F", "--preset ffhq64", batch=8, repeats=2),
}
GPU = {
    "cifar10": Config("cifar10", "--preset cifar10", batch=128, repeats=11, chain=20),
    "lsun_tower64": Config("lsun_tower64", "--preset lsun_tower64", 32, repeats=11, chain=20),
    "ffhq64": Config("ffhq64", "--preset ffhq64", batch=64, repeats=11, chain=20),
}


def small(config: Config) -> Config:
    """Its small form, to try a suite of GPUs on a CPU: same flags, width 64, one block a level.

    With a width of 32 nothing averages out, and bf16 is further from fp32 than in the full network.
    """
    flags = f"{config.flags} --num_channels 64 --num_res_blocks 1 --num_head_channels -1"
    return dataclasses.replace(config, flags=flags, batch=2, repeats=2, chain=2)


INT8 = "--quant 8 --quant_symmetric True --quant_activations {bits} --quant_backend {backend}"


def parse(text: str):
    """The groups of flags of training, sampling and measuring, of one command line."""
    return config.parse(
        "",
        shlex.split(text),
        run=config.RunFlags,
        data=config.DataFlags,
        train=config.TrainFlags,
        model=config.ModelFlags,
        diffusion=config.DiffusionFlags,
        sample=config.SampleFlags,
        quant=config.QuantFlags,
        flatness=config.FlatnessFlags,
    )
