"""A classifier's losses and guidance against formulas."""

import numpy as np
import pytest
import torch

from flatdiff import script_util
from flatdiff.train import classifier_util


def test_what_the_classifier_is_trained_on():
    chain = script_util.create_gaussian_diffusion(steps=30)
    x, noise = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    t, y = torch.tensor([0, 9, 29]), torch.tensor([0, 5, 1])
    logits = torch.tensor([[3.0, 0, 0, 0, 0, -1], [0, 1, 2, 3, 4, -1], [1, 0, 0, 0, 0, 0]])
    seen = []

    def model(x, t):
        seen.append((x, t))
        return logits

    terms = classifier_util.Classification(chain).training_losses(model, x, t, {"y": y}, noise)
    expected = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits.numpy(), y)]
    assert terms["loss"].tolist() == pytest.approx(expected, rel=1e-5)
    assert terms["acc@1"].tolist() == [1, 0, 0] and terms["acc@5"].tolist()[:2] == [1, 0]
    assert torch.equal(seen[0][0], chain.q_sample(x, t, noise)) and torch.equal(seen[0][1], t)
    chain.density = np.arange(30) ** 2.0  # of --noise_levels
    assert classifier_util.Classification(chain).density is chain.density
    clean = classifier_util.Classification(chain, noised=False)
    clean.training_losses(model, x, t, {"y": y}, noise)
    assert torch.equal(seen[1][0], x) and seen[1][1].tolist() == [0, 0, 0]


def test_guidance_is_the_gradient_of_the_log_probability():
    """Of logits W x it is scale (W_y - sum_k p_k W_k)."""
    w, x, y = torch.randn(5, 12), torch.randn(2, 3, 2, 2), torch.tensor([4, 0])
    cond_fn = classifier_util.gradient(lambda x, t: x.flatten(1) @ w.T, y, scale=2.5)
    p = (x.flatten(1) @ w.T).softmax(1)
    with torch.no_grad():
        given = cond_fn(x, torch.zeros(2))
    assert torch.allclose(given.flatten(1), 2.5 * (w[y] - p @ w), atol=1e-5)
