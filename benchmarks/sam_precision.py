"""What a network sees of SAM's climb, by radius and arithmetic, on the paper's three networks.

    python benchmarks/sam_precision.py --out benchmarks/SAM_PRECISION.md

Weights are random ones (layers that training starts at zero are drawn as PyTorch draws others, as a
climb from zero is exact and says nothing), the direction is the gradient of the loss of two smooth
random images. fp32 weights and moves throughout; what a GPU's tf32 or autocast would round is
rounded here, so it runs on a CPU, in minutes. Nothing is timed.
"""

import argparse
import math
import sys

import torch
import torch.nn.functional as F
from torch import nn

RADII = (0.01, 0.05, 0.1, 0.5, 1.0)
NETWORKS = ("cifar10", "lsun_tower64", "ffhq64")
MARK = "<!-- table -->"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=",".join(NETWORKS), help="presets")
    parser.add_argument("--out", default="", help="markdown file whose table is replaced")
    args = parser.parse_args()
    lines = [header()]
    for name in args.networks.split(","):
        model = gradient(name)
        lines += [row(name, model, rho) for rho in RADII]
        print("\n".join(lines[-len(RADII) :]), flush=True)
    if args.out:
        with open(args.out) as file:
            before, _, after = file.read().split(MARK)
        with open(args.out, "w") as file:
            file.write(f"{before}{MARK}\n" + "\n".join(lines) + f"\n{MARK}{after}")


def gradient(preset):
    """The network of a preset, with its gradient."""
    import configs

    from flatdiff.models import networks

    flags = configs.parse(f"--preset {preset}")
    torch.manual_seed(0)
    model, diffusion = networks.build(flags.model, flags.diffusion)
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and not layer.weight.any():
            layer.reset_parameters()
    model.to(memory_format=torch.channels_last)
    x_start = F.interpolate(2 * torch.rand(2, 3, 4, 4) - 1, flags.model.image_size, mode="bicubic")
    for image, t in zip(x_start.clamp(-1, 1).split(1), (300, 700)):
        terms = diffusion.training_losses(
            model, image, torch.tensor([t]), {}, noise=torch.randn_like(image)
        )
        terms["loss"].mean().backward()
    return model


def columns():
    """(name, --dtype, tf32 convolutions)."""
    return [
        ("fp32", "fp32", False),
        ("tf32 convolutions", "fp32", True),
        ("fp16", "fp16", False),
        ("bf16", "bf16", False),
    ]


def header():
    names = " | ".join(name for name, *_ in columns())
    return f"| network | rho | {names} |\n|---|---:|{'---:|' * len(columns())}"


def row(name, model, rho):
    cells = []
    for _, dtype, tf32 in columns():
        length, cosine = seen(model, rho, dtype, tf32)
        cells.append(f"{length:.2f}, {cosine:.3f}")
    return f"| {name} | {rho:g} | {' | '.join(cells)} |"


@torch.no_grad()
def seen(model, rho, dtype, tf32):
    """(length over rho, cosine to the gradient) of what is seen of w + rho g / ||g||.

    eps is the scaled gradient, so that fp32's own rounding of w + eps counts too.
    """
    from flatdiff.models.rounding_log import arithmetics
    from flatdiff.weights.rounding import rounded

    weights, used = list(model.parameters()), arithmetics(model, dtype, tf32)
    norm = math.sqrt(sum(float(w.grad.double().square().sum()) for w in weights))
    total = torch.zeros(3, dtype=torch.float64)
    for w in weights:
        meant, arithmetic = rho / norm * w.grad, used.get(w, "fp32")
        got = rounded(w + meant, arithmetic) - rounded(w, arithmetic)
        products = meant * meant, got * got, meant * got
        total += torch.stack([p.sum(dtype=torch.float64) for p in products])
    meant, got, both = total.tolist()
    return math.sqrt(got / meant), both / math.sqrt(got * meant)


if __name__ == "__main__":
    sys.exit(main())
