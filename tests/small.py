"""What many tests begin with: a tiny network and its chain, images, and a run on disk."""

import dataclasses
import shutil

import numpy as np
import torch
from PIL import Image
from torch import nn

from flatdiff import script_util
from flatdiff.flags import config
from flatdiff.quantization import grid
from flatdiff.store import checkpoint

RNG = np.random.default_rng(0)  # begins anew with each test
BEGINNING = RNG.bit_generator.state
FLAGS = dict(
    image_size=8, num_channels=32, num_res_blocks=1, channel_mult="1", attention_resolutions="4",
    learn_sigma=True, diffusion_steps=40, noise_schedule="cosine",
)  # fmt: skip


def network(seed=0, spread=0.05, **flags):
    """(network, chain) of FLAGS but these; zeros at first would leave most gradients zero."""
    torch.manual_seed(seed)
    defaults = script_util.model_and_diffusion_defaults()
    model, diffusion = script_util.create_model_and_diffusion(**defaults | FLAGS | flags)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(spread * torch.randn_like(p))
    return model, diffusion


def groups(**flags):
    """(ModelFlags, DiffusionFlags) of FLAGS but these."""
    flags = FLAGS | flags
    kinds = (config.ModelFlags, config.DiffusionFlags)
    names = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
    return [kind(**{k: v for k, v in flags.items() if k in n}) for kind, n in zip(kinds, names)]


def words(**flags):
    """Flags as a command line has them."""
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


# of scripts on the images of three classes that `coloured` makes
CONDITIONAL = words(**FLAGS | dict(class_cond=True, diffusion_steps=20, num_classes=3, seed=5))
TRAIN = (
    "--batch_size 8 --log_interval 2 --random_flip False --random_crop False --num_workers 0"
).split()


def data(folder):
    """Where the images are, as a command line has it."""
    return ["--data_dir", folder / "images"]


def images(count, size=8, seed=0):
    """[N, H, W, 3] uint8, each pixel drawn for itself."""
    shape = (count, size, size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_images(folder, pictures, names="{:02d}"):
    """PNG files; `names`: a pattern of the index, or a list."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
        name = names.format(i) if isinstance(names, str) else names[i]
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def save_run(folder, network, name="model000000.pt", **about):
    """A checkpoint, and config.json with these groups of flags beside it; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(network.state_dict(), str(folder / name))
    plain = {k: v if isinstance(v, dict) else dataclasses.asdict(v) for k, v in about.items()}
    checkpoint.save_json(plain, str(folder / "config.json"))
    return folder / name


def coloured(folder):
    """The folder with reddish, greenish and bluish noise in images/: classes a, b, c by turns."""
    draw = np.random.default_rng(0)
    noise = [draw.integers(0, 60, (8, 8, 3), dtype=np.uint8) for _ in range(24)]
    for i, image in enumerate(noise):
        image[:, :, i % 3] += 180
    save_images(folder / "images", noise, [f"{'abc'[i % 3]}_{i:02d}" for i in range(24)])
    return folder


def random_weights(path):
    """Give a network that has hardly learned anything more to say; returns the path."""
    torch.manual_seed(1)
    weights = checkpoint.load(str(path))
    checkpoint.save({k: v + 0.05 * torch.randn_like(v) for k, v in weights.items()}, str(path))
    return path


def go_on(whole, copy, step):
    """Make the folder `copy` what `whole` was at the step."""
    copy.mkdir()
    for name in [*whole.glob(f"*{step:06d}.pt"), whole / "config.json"]:
        shutil.copy(name, copy)


def same_weights(a, b):
    """Two checkpoints hold the same tensors, bit for bit."""
    a, b = (checkpoint.load(str(path)) for path in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def convolutions():
    """A network of three layers to quantize, [N, 3, 8, 8] -> [N, 5]."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(4, 8),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    ).eval()


def quantized_layers(model, **settings):
    """Its layers by name, and their quantized weights."""
    layers = grid.layers_of(model)
    return layers, grid.quantize_weights(layers, grid.Quantizer(**settings))
