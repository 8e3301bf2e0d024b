"""The model card of an exported network: README.md of its folder, as the Hugging Face Hub reads it.

A header of YAML, and what its config.json says of the network and of its training.
"""

import os
from collections.abc import Mapping
from typing import Any

from .. import __version__
from ..flags.choices import GRADIENTS
from ..report.text import markdown

USED = {  # by the class that loads the folder, or its part
    "DDPMPipeline": "pipeline = diffusers.DDPMPipeline.from_pretrained(folder)\n"
    "images = pipeline(batch_size=16, num_inference_steps=100).images",
    "UNet2DModel": 'net = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")',
    "DiTTransformer2DModel": "net = diffusers.DiTTransformer2DModel.from_pretrained(\n"
    '    folder, subfolder="transformer"\n)',
}
TRAINED = {  # flags of training, by what they are called here
    "optimizer": "gradient",
    "base_optimizer": "optimizer",
    "lr": "learning rate",
    "batch_size": "images a rank and step",
    "input_pertub": "input perturbation",
    "noise_schedule": "noise schedule",
    "diffusion_steps": "timesteps",
}


def card(trained: Mapping[str, Any], network: Mapping[str, Any], file: str, sha256: str, of: str):
    """Return the card's text.

    :param trained: config.json, by group; {} where there is none. network: the network's flags.
    :param file: the checkpoint's name, with its sha256.
    :param of: what diffusers loads it as, of USED.
    """
    flags = {**trained.get("train", {}), **trained.get("diffusion", {}), **network}
    task = "class-conditional" if network["class_cond"] else "unconditional"
    side = network["image_size"]
    data = os.path.basename(str(trained.get("data", {}).get("data_dir", "")).rstrip("/"))
    rows = [["", ""], ["images", f"{side} x {side} pixels, in [-1, 1]"]]
    rows += [["data", data]] if data else []
    rows += [["objective", str(flags.get("objective", "ddpm"))]]
    rows += [[told, str(flags[name])] for name, told in TRAINED.items() if name in flags]
    gradient = str(flags.get("optimizer", "adam")).split(" ")[0]
    if gradient != "adam" and "rho" in flags and getattr(GRADIENTS.get(gradient), "radius", True):
        rows += [["rho", str(flags["rho"])]]
    rows += [["checkpoint", f"{file}, SHA-256 {sha256}"], ["written by", f"flatdiff {__version__}"]]
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags:
- flatdiff
- diffusers
- {task}
---

# {os.path.splitext(file)[0]}

A pixel-space diffusion network, {task}, trained with flatdiff.

{markdown(rows, left=(0, 1))}

```python
import diffusers

{USED[of]}
```
"""
