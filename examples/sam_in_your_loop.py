"""Exact SAM in a training loop of diffusers, under bf16 autocast, and what it does to flatness.

    python examples/sam_in_your_loop.py    # under a minute on two cores; nothing is downloaded

Two small U-Nets learn handwritten digits from the same beginning, on the same batches, timesteps
and noise: one by AdamW, one by AdamW with SAM's gradient. Then both are asked how much their loss
rises when their weights are moved at random (LPF flatness, Bisla et al. 2022).
"""

import torch
from diffusers import DDPMScheduler, UNet2DModel
from sklearn.datasets import load_digits

import flatdiff

STEPS, BATCH, RHO = 150, 32, 0.1
SIGMAS = [0.01, 0.02]  # standard deviations of the noise on each weight

digits = torch.tensor(load_digits().images).float()[:, None] / 8 - 1  # [1797, 1, 8, 8] in [-1, 1]
scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")


def gradient(net, x_start, rho):
    """Leave the gradient at the ridge in `.grad`; both passes see the same noise and timesteps."""

    def closure():
        noise = torch.randn_like(x_start)
        t = torch.randint(len(scheduler), (len(x_start),))
        with torch.autocast("cpu", torch.bfloat16):
            eps = net(scheduler.add_noise(x_start, noise, t), t).sample
        loss = (eps.float() - noise).square().mean()
        loss.backward()
        return loss.detach()

    return flatdiff.sam_gradient(closure, net.parameters(), rho=rho)  # rho 0: one plain pass


def train(rho):
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = gradient(net, digits[torch.randint(len(digits), (BATCH,))], rho)
        optimizer.step()
    print(f"rho {rho}: loss {float(loss):.3f} at the last of {STEPS} steps")
    return net.eval()


def measure(net, name):
    subject = flatdiff.subject(net, digits[:128], schedule=scheduler, name=name)
    return flatdiff.flatness(subject, "LPF", sigma=SIGMAS, num_draws=10, progress=False)


def main():
    adam, sam = measure(train(0), "AdamW"), measure(train(RHO), "AdamW-SAM")
    print(f"\nAdamW: loss at the weights, and its rise when they are moved\n\n{adam.rows}")
    print(f"\nAdamW-SAM\n\n{sam.rows}")
    print("\nSAM's rise less AdamW's, paired draw by draw, with a 95 % interval\n")
    differences = sam.compare(adam)
    print(f"{differences}\n")
    for row in (row for row in differences if row["term"] == "mse"):
        told = "flatter" if row["high"] < 0 else "sharper" if row["low"] > 0 else "undecided"
        print(f"sigma {row['size']}, error of the noise (mse): SAM's minimum is {told}")


if __name__ == "__main__":
    main()
