"""The knobs of networks and training: the paper's flag strings, and one type a name."""

import dataclasses
import shlex

import pytest
import torch

from flatdiff.flags import config
from flatdiff.models import networks

GROUPS = {
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
    "train": config.TrainFlags,
    "run": config.RunFlags,
    "sample": config.SampleFlags,
}
PAPER = {
    "cifar10": (
        "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3 "
        "--diffusion_steps 1000 --noise_schedule cosine "
        "--lr 1e-4 --batch_size 128 --end_step 200000",
        52_546_438,
    ),
    "lsun_tower": (
        "--image_size 64 --num_channels 192 --num_head_channels 64 --num_res_blocks 3 "
        "--attention_resolutions 32,16,8 --resblock_updown True --use_new_attention_order True "
        "--learn_sigma True --dropout 0.1 --diffusion_steps 1000 --noise_schedule cosine "
        "--use_scale_shift_norm True --rescale_learned_sigmas True "
        "--lr 1e-4 --batch_size 32 --end_step 200000",
        None,
    ),
    "ffhq": (
        "--image_size 64 --class_cond False --num_channels 128 --num_res_blocks 3 "
        "--attention_resolutions 32,16,8 --resblock_updown True --use_new_attention_order True "
        "--learn_sigma True --dropout 0.1 --use_fp16 False --diffusion_steps 1000 "
        "--noise_schedule cosine --lr 1e-4 --batch_size 64 --end_step 200000",
        None,
    ),
}


def parse(line, **groups):
    return config.parse("", shlex.split(line), **(groups or GROUPS))


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_flag_strings(name):
    line, parameters = PAPER[name]
    flags = parse(line)
    assert flags.train.end_step == 200_000 and flags.diffusion.noise_schedule == "cosine"
    with torch.device("meta"):
        model, diffusion = networks.build(flags.model, flags.diffusion)
    assert diffusion.num_timesteps == 1000
    if parameters:
        assert sum(p.numel() for p in model.parameters()) == parameters


def test_shared_names_have_one_type_and_every_flag_says_what_it_is():
    seen = {}
    for group in (*GROUPS.values(), config.DataFlags):
        for field in dataclasses.fields(group):
            assert seen.setdefault(field.name, type(field.default)) is type(field.default)
            assert len(field.metadata["help"]) > 10
