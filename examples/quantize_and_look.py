"""Samples and loss of a folder of diffusers at 8, 4 and 3 bits a weight.

    python examples/quantize_and_look.py [FOLDER IMAGES.npz]    # under a minute on two cores

FOLDER is of a DDPMPipeline, and IMAGES.npz (arr_0, uint8 [N, H, W, C]) what it was trained on;
without them a small network learns handwritten digits first, and is saved as such a folder. The
weights of convolutions and linear layers are rounded for the length of a `with` block, and are then
what they were, to the bit. All samples begin with the same noise, so what differs between the rows
of the picture is due to the weights alone.
"""

import os
import sys

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import flatdiff

BITS = (8, 4, 3)
COLUMNS, SAMPLING_STEPS = 12, 40


def digits():
    """[1797, 1, 8, 8] in [-1, 1]."""
    return torch.tensor(load_digits().images).float()[:, None] / 8 - 1


def trained(images, folder, steps=300):
    """Train a small pipeline on images, and save it."""
    torch.manual_seed(0)
    blocks = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    blocks |= {"down_block_types": ("DownBlock2D", "AttnDownBlock2D")}
    blocks |= {"up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    net = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **blocks)
    scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(steps):
        x_start = images[torch.randint(len(images), (64,))]
        noise, t = torch.randn_like(x_start), torch.randint(1000, (64,))
        eps = net(scheduler.add_noise(x_start, noise, t), t).sample
        optimizer.zero_grad()
        (eps - noise).square().mean().backward()
        optimizer.step()
    DDPMPipeline(net, scheduler).save_pretrained(folder)


def sample(pipeline):
    """[COLUMNS, H, W, C] in [0, 1], from the same noise each time."""
    how = {"num_inference_steps": SAMPLING_STEPS, "output_type": "np"}
    return pipeline(COLUMNS, generator=torch.Generator().manual_seed(0), **how).images


def picture(rows, path):
    figure = Figure(figsize=(COLUMNS * 0.7, len(rows) * 0.8), dpi=120, layout="constrained")
    for axis, (name, images) in zip(figure.subplots(len(rows), 1), rows.items()):
        axis.imshow(np.concatenate(list(images), axis=1).squeeze(), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[], ylabel=name)
    figure.savefig(path)


def main(folder="quantized/model", images=""):
    x_start = digits()
    if images:
        x_start = torch.tensor(np.load(images)["arr_0"]).permute(0, 3, 1, 2) / 127.5 - 1
    elif not os.path.isdir(folder):
        print(f"training a small network into {os.path.abspath(folder)}")
        trained(x_start, folder)
    pipeline = DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    subject = flatdiff.subject.from_diffusers(pipeline, x_start[:256])
    rows = {"fp32": sample(pipeline)}
    print(f"\nfp32: {subject}\n\nbits  distance  rise of the loss  +-")
    for bits in BITS:
        quantize = flatdiff.quantize(bits=bits, granularity="channel")
        with flatdiff.perturbed(pipeline.unet, quantize) as distance:
            rows[f"{bits} bits"] = sample(pipeline)
            rise = subject.measure() - subject.own  # of each term and image
        mean, error = subject.means(rise)[0, 0], subject.errors_of(rise)[0, 0]
        print(f"{bits:4}  {distance:8.3g}  {mean:16.3g}  {error:.1g}")
    os.makedirs("quantized", exist_ok=True)
    path = os.path.abspath("quantized/samples.png")
    picture(rows, path)
    print("\nThe rise is of the mean squared error of the noise, on the same images and noise.")
    print(f"Samples, a row for each number of bits: {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
