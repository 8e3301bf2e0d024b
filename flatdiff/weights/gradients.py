"""The gradients that training can follow, all called alike: what `sam` computes, by name.

A gradient is a function of a closure, which leaves the gradient of a batch in `.grad`, and of the
weights. It leaves its own gradient there, and returns what the closure's first call returned. By
keyword it is given `rho`, the radius; `ascent`, a closure that climbs on its own share of the batch
(used by those with two passes); `momenta`, a function that gives the optimizer's sum of gradients
for each weight, or None; and `look`, called at the ridge. It takes what it needs.
"""

from .sam import msam_gradient, sam_gradient


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
