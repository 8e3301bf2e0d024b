"""How flat is the minimum of any network of PyTorch, by any loss? Here, of three classifiers.

    python examples/is_my_model_flat.py    # seconds; nothing is downloaded

Put your own network, loss and data in place of these. A loss gives a value for each example, not
their mean, so that what is measured has an error; nothing in it is random.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import flatdiff

SIGMAS = [0.01, 0.02, 0.05]  # standard deviations of the noise on each weight
RHO = 0.1

data = load_digits()
images, labels = torch.tensor(data.data).float() / 16, torch.tensor(data.target)


def my_loss(net, draws):
    x, y = draws
    return nn.functional.cross_entropy(net(x), y, reduction="none")  # [N]


def train(learning_rate=1e-3, batch_size=64, rho=0.0):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    net.append(nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), learning_rate)
    for batch in torch.randint(1000, (25_600 // batch_size, batch_size)):

        def closure(draws=(images[batch], labels[batch])):
            my_loss(net, draws).mean().backward()

        optimizer.zero_grad()
        flatdiff.sam_gradient(closure, net.parameters(), rho=rho)  # rho 0 is Adam's own
        optimizer.step()
    return net.eval()


def measure(name, net):
    draws = images[1000:], labels[1000:]  # not seen in training
    subject = flatdiff.subject(net, loss=my_loss, draws=draws, name=name)
    how = {"sigma": SIGMAS, "num_draws": 20, "num_eigenvalues": 2, "progress": False}
    found = flatdiff.flatness(subject, ["LPF", "HESSIAN"], **how)
    print(f"\n{name}\n\n{found.rows}")
    return found


def main():
    small = measure("Adam, batches of 64", train())
    large = measure("Adam, batches of 512", train(batch_size=512))
    sam = measure(f"SAM, rho {RHO}, batches of 64", train(rho=RHO))
    for name, found in (("Batches of 512", large), ("SAM", sam)):
        print(f"\n{name}, less batches of 64, with a 95 % interval\n")
        print(found.compare(small))
    (row,) = (r for r in sam.compare(small) if r["kind"] == "LPF" and r["size"] == SIGMAS[-1])
    told = "flatter" if row["high"] < 0 else "sharper" if row["low"] > 0 else "as flat as one can tell"
    print(f"\nAt sigma {row['size']}, SAM's minimum is {told}: {row['difference']:.3g} less is the rise")


if __name__ == "__main__":
    main()
