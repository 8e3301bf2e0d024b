"""A small classifier of scikit-learn's 8x8 digits, whose 32 last activations are features.

Trained in seconds on four fifths of the digits, from a fixed seed on one thread, and kept in the
cache. A distance between these features is an "FD-digits": it compares digits, nothing else.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import keep, kept

SIDE = 8
NUM_EPOCHS, BATCH_SIZE, LEARNING_RATE = 15, 64, 4e-3


class DigitFeatures(nn.Module):
    """uint8 [N, 3, H, W] -> {"pool": [N, 32]}, float32. Images are resized to 8x8, and grey."""

    dim = 32
    resize = f"mean of the channels, bilinear with antialiasing to {SIDE}x{SIDE}"

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1)
        self.conv2 = nn.Conv2d(24, 48, 3, stride=2, padding=1)
        self.hidden = nn.Linear(48 * 4 * 4, self.dim)
        self.classes = nn.Linear(self.dim, 10)
        self.register_buffer("accuracy", torch.zeros(()))  # on the held-out fifth

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = images.float().mean(1, keepdim=True) / 127.5 - 1  # [N, 1, H, W]
        if x.shape[2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        x = F.silu(self.conv2(F.silu(self.conv1(x))))  # [N, 48, 4, 4]
        return {"pool": self.hidden(x.flatten(1)).tanh()}

    def logits(self, images: Tensor) -> Tensor:
        return self.classes(self(images)["pool"])


def load(cache_dir: str = "", **_) -> DigitFeatures:
    """The trained classifier, from `cache_dir` or trained now and put there ("" keeps nothing)."""
    recipe = Path(__file__).read_bytes() + torch.__version__.encode()
    path = os.path.join(cache_dir, f"digits-{hashlib.sha256(recipe).hexdigest()[:16]}.npz")
    if cache_dir and (weights := kept(path)):
        network = DigitFeatures()
        network.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        return network.eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of sums, so the weights, depend on it
    try:
        network = train()
    finally:
        torch.set_num_threads(threads)
    if cache_dir:
        keep(path, {name: w.numpy() for name, w in network.state_dict().items()})
    return network


def train(seed: int = 0) -> DigitFeatures:
    images, digits, is_test = _digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitFeatures()
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
        train_images, train_digits = images[~is_test], digits[~is_test]
        num_steps = NUM_EPOCHS * (len(train_images) // BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
        for _ in range(num_steps):
            chosen = torch.randint(len(train_images), (BATCH_SIZE,))
            loss = F.cross_entropy(network.logits(train_images[chosen]), train_digits[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.requires_grad_(False)
    guesses = network.logits(images[is_test]).argmax(1)
    network.accuracy.fill_((guesses == digits[is_test]).double().mean())
    return network.eval()


def _digits():
    """uint8 [1797, 3, 8, 8], digits [1797], and which are test: the 5th, 10th, ... of each digit.

    Grey levels and split are those of datasets/digits.py.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "the features digits are trained on scikit-learn's digits, which is not installed: "
            "pip install scikit-learn"
        ) from error
    bunch = load_digits()
    images = torch.from_numpy((bunch.images * 255 / 16).round().astype(np.uint8))
    is_test = torch.zeros(len(images), dtype=torch.bool)
    for digit in range(10):
        is_test[np.flatnonzero(bunch.target == digit)[4::5]] = True
    return images[:, None].expand(-1, 3, -1, -1), torch.from_numpy(bunch.target), is_test
