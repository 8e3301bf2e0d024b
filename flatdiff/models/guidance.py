"""Guidance without a classifier: a network against itself without the label (Ho & Salimans 2022).

    output = without + scale * (with - without)

A network can say what it would without the label if --class_dropout hid some in its training.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def guided(model, scale: float) -> Callable:
    """The network at this scale: itself at 1, and else called once with twice the images.

    It is called as (x [N, C, ...], t [N], y=labels [N], **tensors [N, ...]). What it learned of the
    variance, channels beyond C, is that with the label. ValueError for a network that is not told
    labels, or always.
    """
    if scale == 1:
        return model
    if model.num_classes is None or not model.null_label:
        raise ValueError(
            f"--guidance_scale {scale} is of a network that was trained with and without labels: "
            "with --class_cond True and --class_dropout (0.1, say); leave it at 1"
        )

    def twice(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor])

    def network(x: Tensor, t: Tensor, y: Tensor, **given: Tensor) -> Tensor:
        labels = torch.cat([y, torch.full_like(y, model.num_classes)])
        given = {name: twice(value) for name, value in given.items()}
        told, untold = model(twice(x), twice(t), y=labels, **given).chunk(2)
        mean, base = told[:, : x.shape[1]], untold[:, : x.shape[1]]
        return torch.cat([base + scale * (mean - base), told[:, x.shape[1] :]], dim=1)

    return network
