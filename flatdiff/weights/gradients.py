"""The gradients that training can follow, all called alike: what `sam` computes, by name.

A gradient is a function of a closure, which leaves the gradient of a batch in `.grad`, and of the
weights. It leaves its own gradient there, and returns what the closure's first call returned. By
keyword it is given, and takes what it needs of: `rho`, the radius; `ascent`, a closure that climbs
on its own share of the batch (used by those with two passes); `momenta`, a function that gives the
optimizer's sum of gradients for each weight, or None; `look`, called at the ridge; `scale`, the
loss scale that is in gradients; `seed`, of this step and this rank; `memory`, a dict of lists of a
tensor for each weight, that is saved and resumed; `mean`, of a list of tensors over the ranks.
"""

import torch

from .perturb import noise
from .sam import climb, msam_gradient, radius_of, ridge, ridge_gradient, sam_gradient


def plain(closure, weights, **_):
    """The gradient where the weights are."""
    return closure()


def sam(closure, weights, *, rho, ascent, look, **_):
    """The gradient at the ridge (Foret et al. 2021)."""
    return sam_gradient(closure, weights, rho, ascent=ascent, look=look)


def asam(closure, weights, *, rho, ascent, look, **_):
    """The gradient at the ridge of a ball in units of |w| (Kwon et al. 2021)."""
    return sam_gradient(closure, weights, rho, adaptive=True, ascent=ascent, look=look)


def msam(closure, weights, *, rho, momenta, look, **_):
    """The gradient rho along the last momentum, in one pass (Becker et al. 2024)."""
    moving = {w: m for w, m in zip(weights, momenta(), strict=True) if m is not None}
    return msam_gradient(closure, list(moving), list(moving.values()), rho, look)


def by_loss(closure, weights, *, ascent, look, scale, rise=0.01, cap=0.1, adaptive=False, **_):
    """The gradient where the loss has risen by `rise`, to first order: see `sam.radius_of`."""
    radius = radius_of(rise, cap, adaptive, scale)
    return ridge_gradient(closure, weights, lambda g, _: climb(g, radius, adaptive), ascent, look)


def downhill(closure, weights, *, rho, ascent, look, **_):
    """The gradient at w - rho g / ||g||: SAM with its sign turned, a control."""
    return ridge_gradient(closure, weights, lambda g, _: climb(g, -rho), ascent, look)


def random(closure, weights, *, rho, seed, look, **_):
    """The gradient at w + rho z / ||z||, z standard normal, in one pass: a control, as far as SAM.

    z is a function of `seed` alone, the same on all devices.
    """
    with ridge(weights, climb(list(noise(weights, seed, draw=0)), rho), look):
        return closure()


def friendly(
    closure, weights, *, rho, ascent, look, scale, memory, mean, decay=0.9, share=1.0, **_
):
    """The gradient at w + rho d / ||d||, d = g - share m: Friendly-SAM (Li et al. 2024, Alg. 1).

    m <- decay m + (1 - decay) g, from 0, is the mean of gradients that stands for that of all data:
    what is left of g is the batch's own. m is of the mean gradient over ranks, g this rank's. A
    gradient that overflowed leaves m as it is. ValueError for a decay out of [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay {decay}: the share of the mean that is kept must be in [0, 1)")
    held = memory.setdefault("mean", [torch.zeros_like(w) for w in weights])
    of = dict(zip(weights, held, strict=True))

    def climb_of(grads, moving):
        torch._foreach_div_(grads, scale)
        means, known = mean(grads), [of[w] for w in moving]
        finite = torch.stack(torch._foreach_norm(means)).isfinite().all()
        for m, g in zip(known, means):
            m.lerp_(torch.where(finite, g, m), 1 - decay)
        torch._foreach_sub_(grads, known, alpha=share)
        return climb(grads, rho)

    return ridge_gradient(closure, weights, climb_of, ascent, look)
