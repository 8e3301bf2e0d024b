"""Networks of five families, measured on one axis: which predicts the image best, and where, and
whose minimum is flattest.

    python examples/families.py    # half a minute on two cores; nothing is downloaded

Small networks learn handwritten digits by eps- and v-prediction on a cosine chain, by flow
matching, by flow matching that predicts the image, and as EDM. Their losses are of different
things; the squared error of the image that each implies, at a log-SNR, is the same thing for all.
"""

import torch
from diffusers import DDPMScheduler
from sklearn.datasets import load_digits
from torch import nn

import flatdiff

STEPS, BATCH = 600, 128
SIGMA, SIGMA_DATA = 0.01, 0.5  # of the noise on each weight; of the pixels, for EDM

digits = torch.tensor(load_digits().data).float() / 8 - 1  # [1797, 64] in [-1, 1]
chain = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod


class Net(nn.Module):
    """(x [N, 64], t [N]) -> [N, 64]."""

    def __init__(self, width=256):
        super().__init__()
        layers = [nn.Linear(65, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 64))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t[:, None].float()], dim=1))


class EDM(Net):
    """(x_0 + sigma eps, sigma) -> x_0, preconditioned (Karras et al. 2022, table 1)."""

    def forward(self, x, sigma):
        s, total = sigma[:, None], sigma[:, None] ** 2 + SIGMA_DATA**2
        inside = super().forward(x / total.sqrt(), sigma.log() / 4)
        return SIGMA_DATA**2 / total * x + s * SIGMA_DATA / total.sqrt() * inside


# Each: (x_0, eps) -> what the network sees, is told, and should give; and a weight.
def on_chain(of):
    def draw(x, eps):
        t = torch.randint(1000, (len(x),))
        alpha, sigma = chain[t, None].sqrt(), (1 - chain[t, None]).sqrt()
        return alpha * x + sigma * eps, t / 1000, of(x, eps, alpha, sigma), 1

    return draw


def on_lines(of):
    def draw(x, eps):
        s = torch.rand(len(x), 1)
        return (1 - s) * x + s * eps, s[:, 0], of(x, eps), 1

    return draw


def edm(x, eps):
    sigma = (1.2 * torch.randn(len(x), 1) - 1.2).exp()
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    return x + sigma * eps, sigma[:, 0], x, weight


per_step = {"schedule": chain, "times": lambda t: t / 1000}
FAMILIES = {
    "eps": (Net, on_chain(lambda x, eps, a, s: eps), per_step | {"predicts": "eps"}),
    "v": (Net, on_chain(lambda x, eps, a, s: a * eps - s * x), per_step | {"predicts": "v"}),
    "flow": (Net, on_lines(lambda x, eps: eps - x), {"schedule": "flow", "predicts": "v"}),
    "flow, x": (Net, on_lines(lambda x, eps: x), {"schedule": "flow", "predicts": "x"}),
    "EDM": (EDM, edm, {"schedule": "edm", "predicts": "x"}),
}


def train(kind, draw):
    torch.manual_seed(0)
    net = kind()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(STEPS):
        x = digits[torch.randint(len(digits), (BATCH,))]
        seen, told, target, weight = draw(x, torch.randn_like(x))
        optimizer.zero_grad()
        (weight * (net(seen, told) - target) ** 2).mean().backward()
        optimizer.step()
    return net.eval()


def main():
    found, levels = {}, None
    for name, (kind, draw, family) in FAMILIES.items():
        net = train(kind, draw)
        subject = flatdiff.subject(net, digits[:512], levels=levels, name=name, **family)
        levels = levels or subject  # the same log-SNRs for all, image by image
        found[name] = flatdiff.flatness(subject, "LPF", sigma=SIGMA, progress=False)
    parts = [row["part"] for row in found["eps"].parts if row["term"] == "x_mse"]
    for column, title in (("at_w", "Error of the image"), ("rise", f"Its rise at sigma {SIGMA}")):
        print(f"\n{title}, by family and part\n")
        print(f"{'':8}{'all':>10}", *(f"{part.removeprefix('log-SNR '):>10}" for part in parts))
        for name, measured in found.items():
            rows = [r for r in measured.rows + measured.parts if r["term"] == "x_mse"]
            print(f"{name:8}", *(f"{row[column]:>10.3g}" for row in rows))
    print("\nRise, less that of v, with a 95 % interval\n")
    for name in (name for name in found if name != "v"):
        (row,) = (r for r in found[name].compare(found["v"]) if r["term"] == "x_mse")
        told = "flatter" if row["high"] < 0 else "sharper" if row["low"] > 0 else "undecided"
        print(f"{name:8} {row['difference']:9.3g}  {row['low']:9.3g} .. {row['high']:9.3g}  {told}")


if __name__ == "__main__":
    main()
