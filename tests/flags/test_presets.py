"""Presets: the published layouts, and where their flags stand."""

import hashlib
import shlex
from pathlib import Path

import pytest
import torch
from chains import GOLDEN

from flatdiff.flags import config
from flatdiff.flags.presets import PRESETS
from flatdiff.models import networks

UNCONDITIONAL = "256x256_diffusion_uncond.pt (= lsun_*.pt)"
LAYOUTS = {
    "imagenet64": "64x64_diffusion.pt",
    "imagenet128": "128x128_diffusion.pt",
    "imagenet256": "256x256_diffusion.pt",
    "imagenet256_uncond": UNCONDITIONAL,
    "imagenet512": "512x512_diffusion.pt",
    "lsun_bedroom": UNCONDITIONAL,
    "lsun_cat": UNCONDITIONAL,
    "lsun_horse": UNCONDITIONAL,
    "upsampler64_256": "64_256_upsampler.pt",
    "upsampler128_512": "128_512_upsampler.pt",
    "classifier64": "64x64_classifier.pt",
    "classifier128": "128x128_classifier.pt",
    "classifier256": "256x256_classifier.pt",
    "classifier512": "512x512_classifier.pt",
    "cifar10": "spec CIFAR-10 (32, default heads)",
}
GROUPS = {
    "run": config.RunFlags,
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
    "super_res": config.SuperResFlags,
    "classifier": config.ClassifierFlags,
    "train": config.ClassifierTrainFlags,
}


def parse(line):
    return config.parse("", shlex.split(line), **GROUPS)


def network(flags):
    """The network of the kind that the flags speak of."""
    if "large_size" in flags.given:
        return networks.build_super_res(flags.model, flags.super_res, flags.diffusion)[0]
    if "classifier_width" in flags.given:
        return networks.build_classifier(flags.classifier, flags.diffusion)[0]
    return networks.build(flags.model, flags.diffusion)[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_the_published_files(name):
    with torch.device("meta"):
        state = network(parse(f"--preset {name}")).state_dict()
    text = "\n".join(f"{key} {tuple(value.shape)}" for key, value in state.items())
    golden = GOLDEN["layouts"][LAYOUTS[name]]
    assert (len(state), sum(v.numel() for v in state.values())) == (
        golden["keys"],
        golden["params"],
    )
    assert hashlib.sha256(text.encode()).hexdigest() == golden["sha256"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_flag_of_a_preset_is_a_flag(name):
    flags = parse(PRESETS[name])
    assert flags.given == parse(f"--preset {name}").given
    assert parse(f"--preset={name}").presets == {name: PRESETS[name]}
    assert len(flags.given) == PRESETS[name].count("--")


def test_attention_order_and_heads_which_no_layout_shows():
    assert [n for n in PRESETS if parse(f"--preset {n}").model.use_new_attention_order] == [
        "imagenet64", "lsun_tower64", "ffhq64"
    ]  # fmt: skip
    assert parse("--preset imagenet128").model.num_heads == 4
    schedules = {n: parse(f"--preset {n}").diffusion.noise_schedule for n in PRESETS}
    assert [n for n in PRESETS if schedules[n] == "cosine"] == [
        "imagenet64", "classifier64", "cifar10", "lsun_tower64", "ffhq64", "digits"
    ]  # fmt: skip


def test_the_vision_transformer_is_a_small_one_of_dit():
    """S has 12 blocks of 18 C^2 + 15 C weights, C = 384, between embeddings and pixels."""
    with torch.device("meta"):
        model = network(parse("--preset vit32"))
    ends = (256 + 384 + 2) * 384 + 49 * 384 + 2 * 385 * 384 + 385 * 48
    assert sum(p.numel() for p in model.parameters()) == 12 * (18 * 384**2 + 15 * 384) + ends


@pytest.mark.parametrize(
    ("name", "parameters", "images"), [("flow32", 35.75e6, 51.2e6), ("edm32", 55.7e6, 200e6)]
)
def test_networks_of_other_objectives_are_as_large_and_train_as_long_as_theirs(
    name, parameters, images
):
    flags = parse(f"--preset {name}")
    with torch.device("meta"):
        model, chain = networks.build(flags.model, flags.diffusion)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.03)
    assert flags.train.end_step * flags.train.batch_size == images
    assert chain.path == flags.diffusion.objective == name[:-2]


def test_the_digits_are_those_of_make_demo():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text().replace("\\\n", "")
    lines = dict(line.split(" := ", 1) for line in makefile.splitlines() if " := " in line)
    flags = " ".join(lines[f"{name}_FLAGS"] for name in ("MODEL", "DIFFUSION", "TRAIN"))
    assert parse(flags).given == parse("--preset digits").given


def test_later_flags_win_and_a_script_takes_what_it_has():
    flags = parse("--lr 1 --num_channels 64 --preset digits --num_channels 96 --dropout 0.5")
    assert (flags.train.lr, flags.model.num_channels, flags.model.dropout) == (1e-3, 96, 0.5)
    flags = parse("--preset imagenet64 --preset classifier64")
    assert (flags.model.num_channels, flags.classifier.classifier_depth) == (192, 4)
    flags = config.parse("", ["--preset", "digits"], run=config.RunFlags)
    assert flags.given == {} and list(flags.presets) == ["digits"]


def test_an_unknown_preset_lists_the_names(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--preset imagenet65")
    told = capsys.readouterr().err
    assert stop.value.code == 2 and "imagenet65" in told
    assert all(name in told for name in PRESETS)
