"""How flat is the minimum of any network of PyTorch, by any loss? Here, of two classifiers.

    python examples/is_my_model_flat.py    # seconds; nothing is downloaded

Put your own network, loss and data in place of these. The loss gives a value for each example, not
their mean, so that what is measured has an error; nothing in it is random.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import flatdiff

SIGMAS = [0.01, 0.02, 0.05]  # standard deviations of the noise on each weight
RHO = 0.1  # of SAM

data = load_digits()
images, labels = torch.tensor(data.data).float() / 16, torch.tensor(data.target)


def my_loss(net, draws):
    x, y = draws
    return nn.functional.cross_entropy(net(x), y, reduction="none")  # [N]


def train(rho):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU())  # smooth: at
    # the kink of a ReLU there is no curvature, and what is measured across it hangs on rounding
    net.append(nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for batch in torch.randint(1000, (400, 64)):

        def closure(draws=(images[batch], labels[batch])):
            my_loss(net, draws).mean().backward()

        optimizer.zero_grad()
        flatdiff.sam_gradient(closure, net.parameters(), rho=rho)  # rho 0 is Adam's own
        optimizer.step()
    return net.eval()


def measure(net, name):
    draws = images[1000:], labels[1000:]  # not seen in training
    subject = flatdiff.subject(net, loss=my_loss, draws=draws, name=name)
    how = {"sigma": SIGMAS, "num_draws": 20, "num_eigenvalues": 2, "progress": False}
    return flatdiff.flatness(subject, ["LPF", "HESSIAN"], **how)


def main():
    adam, sam = measure(train(0), "Adam"), measure(train(RHO), "SAM")
    print("Adam: the loss at the weights, its rise when they are moved, and its curvature\n")
    print(f"{adam.rows}\n\nSAM\n\n{sam.rows}")
    print("\nSAM's numbers less Adam's, paired draw by draw, with a 95 % interval\n")
    differences = sam.compare(adam)
    print(f"{differences}\n")
    for row in differences:
        told = "flatter" if row["high"] < 0 else "sharper" if row["low"] > 0 else "undecided"
        print(f"{row['kind']} {row['size']}: SAM's minimum is {told}")


if __name__ == "__main__":
    main()
