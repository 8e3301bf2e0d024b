"""guided-diffusion's helper functions, and its published layouts built from its flag strings."""

import argparse
import dataclasses
import hashlib

import pytest
import torch
from chains import GOLDEN
from networks import fill, golden_images

from flatdiff import script_util as su
from flatdiff.flags import config
from flatdiff.models import factories
from flatdiff.nets.unet import UNetModel
from flatdiff.nets.vit import ViT


def test_defaults_are_those_of_guided_diffusion():
    assert su.diffusion_defaults() == {
        "learn_sigma": False,
        "diffusion_steps": 1000,
        "noise_schedule": "linear",
        "timestep_respacing": "",
        "use_kl": False,
        "predict_xstart": False,
        "rescale_timesteps": False,
        "rescale_learned_sigmas": False,
    }
    assert (
        su.model_and_diffusion_defaults().items()
        >= {
            "image_size": 64,
            "num_channels": 128,
            "num_res_blocks": 2,
            "num_heads": 4,
            "num_heads_upsample": -1,
            "num_head_channels": -1,
            "attention_resolutions": "16,8",
            "channel_mult": "",
            "dropout": 0.0,
            "class_cond": False,
            "use_checkpoint": False,
            "use_scale_shift_norm": True,
            "resblock_updown": False,
            "use_fp16": False,
            "use_new_attention_order": False,
            "eps_scaler": 1.0,
            "input_pertub": 0.0,
        }.items()
    )
    assert len(su.classifier_defaults()) == 8
    assert su.sr_model_and_diffusion_defaults()["large_size"] == 256
    assert "image_size" not in su.sr_model_and_diffusion_defaults()


def test_flag_dicts_work_as_in_guided_diffusion():
    parser = argparse.ArgumentParser()
    su.add_dict_to_argparser(parser, dict(su.model_and_diffusion_defaults(), data_dir=None))
    args = parser.parse_args(
        "--image_size 32 --num_channels 32 --num_res_blocks 1 --learn_sigma yes".split()
    )
    flags = su.args_to_dict(args, su.model_and_diffusion_defaults().keys())
    model, diffusion = su.create_model_and_diffusion(**flags)
    assert model.out[2].out_channels == 6 and diffusion.num_timesteps == 1000
    with pytest.raises(TypeError, match="num_chanels"):
        su.create_model_and_diffusion(num_chanels=32)
    with pytest.raises(argparse.ArgumentTypeError):
        su.str2bool("on")


@pytest.mark.parametrize("name", [k for k in GOLDEN if k.startswith("unet_") and k != "unet_fill"])
def test_factories_build_the_golden_networks(name):
    golden = GOLDEN[name]
    flags = su.model_and_diffusion_defaults() | golden["kw"]
    model = fill(su.create_model_and_diffusion(**flags)[0])
    y = {"y": torch.tensor([3, 7])} if golden["kw"].get("class_cond") else {}
    with torch.no_grad():
        out = model(golden_images(2, 32), torch.tensor([0, 421]), **y)
    assert list(out.shape) == golden["shape"]
    assert out.sum().item() == pytest.approx(golden["out"]["sum"], rel=1e-4)
    assert out.abs().sum().item() == pytest.approx(golden["out"]["abs"], rel=1e-5)
    assert out.flatten()[:4].tolist() == pytest.approx(golden["out"]["first"], rel=1e-4)


LAYOUTS = {
    "64x64_diffusion.pt": dict(
        image_size=64, num_channels=192, num_res_blocks=3, class_cond=True, dropout=0.1,
        num_head_channels=64, use_new_attention_order=True, attention_resolutions="32,16,8",
        resblock_updown=True, learn_sigma=True,
    ),
    "128x128_diffusion.pt": dict(
        image_size=128, num_channels=256, num_res_blocks=2, class_cond=True, num_heads=4,
        attention_resolutions="32,16,8", resblock_updown=True, learn_sigma=True,
    ),
    "256x256_diffusion.pt": dict(
        image_size=256, num_channels=256, num_res_blocks=2, class_cond=True,
        num_head_channels=64, attention_resolutions="32,16,8", resblock_updown=True,
        learn_sigma=True,
    ),
    "512x512_diffusion.pt": dict(
        image_size=512, num_channels=256, num_res_blocks=2, class_cond=True,
        num_head_channels=64, attention_resolutions="32,16,8", resblock_updown=True,
        learn_sigma=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts(name):
    flags = su.model_and_diffusion_defaults() | LAYOUTS[name]
    with torch.device("meta"):
        model, _ = su.create_model_and_diffusion(**flags)
    state = model.state_dict()
    text = "\n".join(f"{k} {tuple(v.shape)}" for k, v in state.items())
    assert len(state) == GOLDEN["layouts"][name]["keys"]
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN["layouts"][name]["sha256"]


@pytest.mark.parametrize("size", [8, 16, 28, 32])
def test_small_sizes_have_a_table(size):
    flags = su.model_and_diffusion_defaults() | dict(
        image_size=size, num_channels=32, num_res_blocks=1
    )
    model, _ = su.create_model_and_diffusion(**flags)
    out = model(torch.zeros(1, 3, size, size), torch.tensor([0]))
    assert out.shape == (1, 3, size, size)


def test_networks_have_a_name_and_knobs():
    small = dict(image_size=8, num_channels=32, num_res_blocks=1, learn_sigma=True)
    flags = su.model_and_diffusion_defaults() | small
    vit, _ = su.create_model_and_diffusion(**flags | dict(network="vit", num_layers=3))
    assert isinstance(vit, ViT) and len(vit.blocks) == 3 and vit.out.out_features == 6 * 4 * 4
    assert vit(torch.zeros(1, 3, 8, 8), torch.tensor([0])).shape == (1, 6, 8, 8)
    unet = su.create_model(**small)
    assert isinstance(unet, UNetModel) and "input_blocks.2.0.op.weight" in unet.state_dict()
    pooled = su.create_model(**small, network="unet conv_resample=False")
    assert "input_blocks.2.0.op.weight" not in pooled.state_dict()
    for text, message in {
        "wit": "got 'wit', expected one of unet, vit; did you mean vit",
        "vit num_heads=3": "vit has no knob 'num_heads'; it has none",  # but flags
        "unet dims=3": "unet has no knob 'dims'",
    }.items():
        with pytest.raises(ValueError, match=message):
            su.create_model(**small, network=text)


def test_hidden_labels_are_a_row_more_of_any_network_that_has_one():
    small = dict(image_size=8, num_channels=32, num_res_blocks=1, class_cond=True, num_classes=5)
    for kind in ("unet", "vit"):
        for dropout, rows in ((0.0, 5), (0.1, 6)):
            model = su.create_model(**small, network=kind, class_dropout=dropout)
            assert model.label_emb.num_embeddings == rows and model.num_classes == 5

    class Plain(torch.nn.Identity):
        def __init__(self, image_size, num_classes):
            super().__init__()

    assert su.create_model(**small, network=Plain)
    with pytest.raises(ValueError, match="class_dropout is 0.1, and Plain has no null_label"):
        su.create_model(**small, network=Plain, class_dropout=0.1)


def test_which_flags_a_network_has_no_use_for():
    names = [field.name for field in dataclasses.fields(config.ModelFlags)]
    assert factories.idle("unet", names) == ["patch_size", "num_layers"]
    used = "image_size num_channels num_heads num_head_channels dropout class_cond num_classes "
    used += "class_dropout use_checkpoint use_fp16 network patch_size num_layers"
    assert set(names) - set(factories.idle("vit", names)) == set(used.split())


def test_super_resolution_and_classifier_factories():
    flags = su.sr_model_and_diffusion_defaults() | dict(
        large_size=64, small_size=16, num_channels=32, num_res_blocks=1, class_cond=True
    )
    model, _ = su.sr_create_model_and_diffusion(**flags)
    assert model.input_blocks[0][0].in_channels == 6
    flags = su.classifier_and_diffusion_defaults() | dict(image_size=32, classifier_width=64)
    classifier, diffusion = su.create_classifier_and_diffusion(**flags)
    logits = classifier(torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))
    assert logits.shape == (2, 1000) and diffusion.num_timesteps == 1000
