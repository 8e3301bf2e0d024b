"""Inception Score: exp of the mean KL divergence from p(class | image) to p(class).

Salimans et al. 2016, computed as guided-diffusion does: splits of 5000 images in file order, and
classes by the last layer without its bias.
"""

import numpy as np
import torch
from torch import Tensor

SPLIT = 5000


def inception_score(pool: Tensor, weight: Tensor, split: int = SPLIT) -> tuple[float, float]:
    """Features [N, D], class weights [C, D] -> mean and deviation (nan of one) over splits."""
    scores = [_score(features @ weight.T) for features in pool.split(split)]
    deviation = np.std(scores, ddof=1) if len(scores) > 1 else float("nan")
    return float(np.mean(scores)), float(deviation)


def _score(logits):
    logs = torch.log_softmax(logits.double(), dim=1)  # [n, C]
    shares = logs.exp()
    overall = shares.mean(0)
    # x log x is 0 at 0, where a class never occurs
    divergence = (shares * logs).sum(1).mean() - torch.special.xlogy(overall, overall).sum()
    return float(divergence.exp())
