"""The settings of networks and chains in diffusers' words, and what either cannot express."""

import dataclasses
import json

import pytest
from diffusers import DDPMScheduler, UNet2DModel
from networks import OF_DIFFUSERS as MODEL

from flatdiff.exchange import diffusers_config
from flatdiff.flags import config


def test_chains_come_back():
    for chain in (
        dict(),
        dict(diffusion_steps=4000, noise_schedule="cosine", learn_sigma=True),
        dict(diffusion_steps=250, predict_xstart=True),
        dict(predicts="v", learn_sigma=True),
    ):
        flags = dataclasses.asdict(config.DiffusionFlags(**chain))
        stored = dict(DDPMScheduler.from_config(diffusers_config.scheduler_config(flags)).config)
        assert flags.items() >= diffusers_config.diffusion_flags(stored).items()


def test_a_null_label_is_a_class_more():
    flags = vars(MODEL) | {"learn_sigma": False, "class_cond": True, "num_classes": 7}
    told = [diffusers_config.unet_config(flags | {"class_dropout": p}) for p in (0.0, 0.1)]
    assert [config["num_class_embeds"] for config in told] == [7, 8]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(num_head_channels=-1, num_heads=2), r"\[32, 48\] channels"),
        (dict(num_head_channels=-1, channel_mult="1,2,2", num_heads_upsample=1), r"\[16, 64\]"),
        (dict(channel_mult="0.5,1,1"), "channel_mult begins with 0.5"),
    ],
)
def test_networks_that_diffusers_cannot_express_are_refused(flags, message):
    flags = dataclasses.asdict(dataclasses.replace(MODEL, **flags)) | {"learn_sigma": False}
    with pytest.raises(ValueError, match=message):
        diffusers_config.unet_config(flags)


def test_what_flatdiff_cannot_express_is_refused_by_name():
    with pytest.raises(ValueError, match="attn_norm_num_groups is None.*norm_eps is 1e-06"):
        stranger = UNet2DModel(
            sample_size=32, block_out_channels=(32, 64), norm_eps=1e-6, attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        diffusers_config.model_flags(json.loads(stranger.to_json_string()))
    with pytest.raises(ValueError, match="no config of a UNet2DModel"):
        diffusers_config.model_flags({"sample_size": 32})
    with pytest.raises(ValueError, match="variance_type is 'fixed_small', expected 'fixed_large'"):
        diffusers_config.diffusion_flags(dict(DDPMScheduler().config))
    flags = dataclasses.asdict(config.DiffusionFlags(diffusion_steps=100, rescale_timesteps=True))
    with pytest.raises(ValueError, match="rescale_timesteps"):
        diffusers_config.scheduler_config(flags)
    flags = dataclasses.asdict(config.DiffusionFlags(objective="flow"))
    with pytest.raises(ValueError, match="no --objective flow: only ddpm's"):
        diffusers_config.scheduler_config(flags)
