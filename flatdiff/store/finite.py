"""nan and inf are no results: one check for every border that numbers cross.

Weights on their way to a file and back, pixels, figures and tables: each says where its numbers
come from, and a ValueError names that, how many are not finite, and the first of them.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

FLOATS = torch.float32, torch.float64, torch.float16, torch.bfloat16


def check(content: Any, source: str, advice: str = "") -> None:
    """ValueError if a number in nested dicts and lists of tensors, arrays and values is not finite,
    or a tensor of a kind that cannot be looked at (sparse, on no device, in 8 bits).

    None stands for a number that there is not, and text is no number. On finite tensors this costs
    one norm of them all.
    """
    leaves = dict(_leaves(content))
    for where, x in leaves.items():
        if isinstance(x, Tensor) and not _plain(x):
            raise ValueError(
                f"{source}: {where} is {x.dtype}, {x.layout}, on {x.device}; expected a dense "
                f"tensor of integers or of {', '.join(str(d).partition('.')[2] for d in FLOATS)}"
            )
    tensors = [x for x in leaves.values() if isinstance(x, Tensor) and x.is_floating_point()]
    plain = [x for x in leaves.values() if isinstance(x, float)]
    if all(map(math.isfinite, plain)) and all_finite(tensors):
        return
    bad = {where: number for where, x in leaves.items() if (number := count(x))}
    if bad:
        total = sum(x.numel() if isinstance(x, Tensor) else 1 for x in leaves.values())
        raise ValueError(
            f"{source}: {sum(bad.values())} of {total} numbers are not finite (nan or inf), the "
            f"first in {next(iter(bad))}{f'. {advice}' if advice else ''}"
        )


def _plain(x: Tensor) -> bool:
    """Whether it holds numbers that can be looked at."""
    known = x.dtype in FLOATS or not x.is_floating_point()
    return known and x.layout is torch.strided and x.device.type != "meta" and not x.is_quantized


def must_be_there(content: Any) -> None:
    """ValueError for a tensor that claims more numbers than it holds: 10^12 copies of one, say."""
    for x in dict(_leaves(content)).values():
        dense = isinstance(x, Tensor) and x.layout is torch.strided
        if dense and x.nbytes > x.untyped_storage().nbytes():
            raise ValueError(f"a tensor {tuple(x.shape)} of which not all numbers are there")


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether one norm over all of them is finite; False also where it only overflows."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            by_device.setdefault(tensor.device, []).append(tensor.detach())
    norms = [torch._foreach_norm(group) for group in by_device.values()]
    return all(torch.stack([n.double() for n in group]).isfinite().all() for group in norms)


def count(x: Any) -> int:
    """How many numbers of a tensor or a plain value are nan or inf."""
    if isinstance(x, Tensor):
        return int((~x.isfinite()).sum()) if x.is_floating_point() else 0
    return int(isinstance(x, float) and not math.isfinite(x))


def _leaves(content: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of each tensor and number."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(value, f"{where} {key}".lstrip())
    elif isinstance(content, list | tuple):
        for i, value in enumerate(content):
            yield from _leaves(value, f"{where}[{i}]")
    elif isinstance(content, Tensor | int | float):
        yield where, content
    elif hasattr(content, "__array__"):
        yield where, torch.as_tensor(content)
