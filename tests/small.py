"""What many tests begin with: a tiny network and its chain, images, and a run on disk."""

import dataclasses

import numpy as np
import torch
from PIL import Image

from flatdiff import script_util
from flatdiff.flags import config
from flatdiff.store import checkpoint

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
