"""Pixel-space diffusion models, and how flat the minimum is that their training found.

    subject = flatdiff.subject(net, images, schedule="flow", predicts="v")
    flatdiff.flatness(subject, ["LPF", "HESSIAN"], sigma=[1e-3]).rows

Names are imported when they are used, so that importing this costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .measure.found import Found, flatness
    from .measure.library import perturbed, quantize, sam_gradient
    from .measure.subject import Subject
    from .measure.subjects import subject
    from .weights.perturb import along, gaussian, replace, sphere

__version__ = "0.1.0"

_HOMES = {
    "Found": "measure.found",
    "Subject": "measure.subject",
    "along": "weights.perturb",
    "flatness": "measure.found",
    "gaussian": "weights.perturb",
    "perturbed": "measure.library",
    "quantize": "measure.library",
    "replace": "weights.perturb",
    "sam_gradient": "measure.library",
    "sphere": "weights.perturb",
    "subject": "measure.subjects",
}
__all__ = [
    "Found",
    "Subject",
    "along",
    "flatness",
    "gaussian",
    "perturbed",
    "quantize",
    "replace",
    "sam_gradient",
    "sphere",
    "subject",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
