"""The scale of fp16's losses grows, halves on an overflow, and gives up at last."""

import pytest
import torch
from training import close, equal, loop

from flatdiff.train.train_util import LossScale


def test_loss_scale_halves_on_overflow_and_gives_up_at_last():
    scale = LossScale(growth=0.5, lg=2.0)
    assert scale.update(True) and scale.factor == 2**2.5
    assert not scale.update(False) and scale.lg == 1.5
    with pytest.raises(FloatingPointError, match="stay infinite"):
        for _ in range(30):
            scale.update(False)


@pytest.mark.usefixtures("quiet")
def test_an_overflow_at_the_end_of_a_window_costs_swa_no_window():
    """It is the mean of the weights after steps 3, 6 and 9, of which the 6th moved none (Izmailov
    et al. 2018, algorithm 1); an EMA does not see that step."""
    run = loop(dtype="fp16", use_swa=True, swa_window=3)
    weights, emas = [], []
    for step in range(9):
        run.scale.lg = 200.0 if step == 5 else 5.0
        run.run_step(*next(run.data))
        weights.append([w.detach().clone() for w in run.weights])
        emas.append([w.clone() for w in run.emas[0.9].weights])
    assert equal(weights[4], weights[5]) and not equal(weights[3], weights[4])
    assert equal(emas[4], emas[5]) and not equal(emas[5], emas[6])
    mean = [torch.stack(w).mean(0) for w in zip(*weights[2::3])]
    assert run.swa.count == 3 and close(run.swa.weights, mean, atol=1e-6)
