"""Sampling from rounded weights, in this process."""

from small import FLAGS, words

from flatdiff.flags import config

TINY = words(**FLAGS | dict(channel_mult="1,2", diffusion_steps=100))
SAMPLING = "--num_samples 6 --batch_size 3 --timestep_respacing 10".split()


def parsed(argv):
    return config.parse(
        "",
        argv,
        sample=config.SampleFlags,
        quant=config.QuantFlags,
        run=config.RunFlags,
        diffusion=config.DiffusionFlags,
        model=config.ModelFlags,
        data=config.DataFlags,
    )
