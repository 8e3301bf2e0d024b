"""The learning rate of every update, a pure function of its number. Knows no optimizer."""


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
