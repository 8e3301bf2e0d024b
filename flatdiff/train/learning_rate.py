"""The learning rate of every update, a pure function of its number, and which update is the last.
Knows no optimizer."""

import math


def learning_rate(step, *, lr, anneal_steps=0, window=0, start=0, lr_min=0.0):
    """The rate of update number `step` (from 0).

    With `window` and `anneal_steps`: cyclical, from `lr` down to `lr_min` within each window after
    `start` (Izmailov et al. 2018, section 3.1). With `anneal_steps` alone: guided-diffusion's
    linear ramp to 0, whose updates 0 and 1 both have the full rate.
    """
    if not anneal_steps or (window and step < start):
        return lr
    if window:
        share = ((step - start) % window + 1) / window
        return (1 - share) * lr + share * lr_min
    return lr * (1 - max(step - 1, 0) / anneal_steps)


def end_of(train):
    """The step that a TrainFlags ends at, or infinity; ValueError where lr would be 0 before."""
    end = train.end_step or (0 if train.use_swa else train.lr_anneal_steps) or math.inf
    if not train.use_swa and train.lr_anneal_steps and train.lr_anneal_steps < end < math.inf:
        raise ValueError(
            f"lr falls to 0 at lr_anneal_steps {train.lr_anneal_steps}, but end_step is {end}; "
            "give lr_anneal_steps of at least end_step, or 0"
        )
    return end
