"""What a network, its loss and its draws must be before long work on them begins.

Each is found by looking, or by two evaluations, and told in a sentence.
"""

import copy
import fnmatch
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..exchange.families import WRAPPERS, inside
from .subject import vectors

Chosen = str | Sequence[str] | Callable[[str, nn.Parameter], bool] | None


def network(net: Any, fp32: bool = False) -> nn.Module:
    """Return the module in eval mode, out of its DDP wrapper; with `fp32`, a copy of it in fp32.

    ValueError for what is no module, or in train mode.
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"the network is {net!r}; expected a torch.nn.Module")
    if WRAPPERS.get(type(net).__name__) == "module":  # whose hooks are for training
        net = net.module
    if busy := [name or "the network itself" for name, m in net.named_modules() if m.training]:
        raise ValueError(
            f"the network is in train mode ({busy[0]}), where dropout and batch norm change its "
            "loss from call to call: call net.eval() first"
        )
    return copy.deepcopy(net).float() if fp32 else net


def weights(net: nn.Module, chosen: Chosen = None) -> list[Tensor]:
    """Return the weights that are moved: those that require grad, or those of them that `chosen`
    takes: name patterns as "blocks.*.weight", or a function of (name, parameter).

    ValueError if there are none, if they are not fp32 (or fp64), or if two names share numbers.
    """
    every = inside(net).named_parameters(remove_duplicate=False)
    named = {name: w for name, w in every if w.requires_grad}
    if not named:
        raise ValueError(
            "no weights of the network require grad, so there are none to move: call "
            "net.requires_grad_(True), or that of the part that is meant"
        )
    kept = {name: w for name, w in named.items() if _taker(chosen)(name, w)}
    if not kept:
        first, last = next(iter(named)), next(reversed(named))
        raise ValueError(
            f"weights={chosen!r} takes none of the {len(named)} that require grad; their names go "
            f"from {first} to {last}, and * stands for any text"
        )
    for name, w in kept.items():
        if w.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"weights to be perturbed must be fp32, got {w.dtype} ({name}): a small step would "
                "be rounded away. Keep fp32 weights and run the network under autocast "
                '(dtype="bf16"), or give fp32=True to measure an fp32 copy'
            )
    _refuse_shared(kept)
    return list(kept.values())


def _taker(chosen: Chosen) -> Callable[[str, nn.Parameter], bool]:
    if chosen is None:
        return lambda name, w: True
    if callable(chosen):
        return chosen
    patterns = [chosen] if isinstance(chosen, str) else list(chosen)
    if others := [type(p).__name__ for p in patterns if not isinstance(p, str)]:
        raise ValueError(
            f"weights= has a {others[0]}; expected patterns of names, as in named_parameters(), or "
            "a function of (name, parameter)"
        )
    return lambda name, w: any(fnmatch.fnmatch(name, p) for p in patterns)


def _refuse_shared(named: dict[str, nn.Parameter]) -> None:
    of_storage = defaultdict(list)
    for name, w in named.items():
        if w.numel():
            of_storage[w.untyped_storage().data_ptr()].append((name, w))
    for (name, w), *others in of_storage.values():
        for other, v in others:
            spans = [(x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for x in (w, v)]
            (low, high), (from_, to) = spans
            if low < to and from_ < high:
                raise ValueError(
                    f"{name} and {other} share their weights, which would be moved and counted "
                    "twice: choose one of them by weights=, a function of (name, parameter)"
                )


def loss(evaluate: Callable[[], Any], draws: Any) -> int:
    """Return N, the number of examples, of two evaluations on the same draws.

    ValueError for a loss that fails, is random or not finite, that is no vector of two or more, or
    that is of another size than the draws.
    """
    with torch.no_grad():
        first, second = _tried(evaluate, draws), _tried(evaluate, draws)
    sizes = {name: len(values) for name, values in first.items()}
    (count, *others) = dict.fromkeys(sizes.values())
    if others:
        raise ValueError(f"the loss gave terms of several sizes, {sizes}; expected one, [N]")
    for name, values in first.items():
        if bad := int((~values.isfinite()).sum()):
            raise ValueError(f"{name} is nan or infinite for {bad} of {count} examples")
        off, scale = (values - second[name]).abs().max(), values.abs().mean()
        if not off <= 1e-4 * scale:
            raise ValueError(
                f"the loss is random: {name} differs by {float(off):.3g} between two evaluations "
                f"on the same draws (its mean size is {float(scale):.3g}). Draw noise and noise "
                "levels beforehand, as part of the draws, and leave dropout off"
            )
    given = _lengths(draws)
    if given and count not in [*given, sum(given)]:
        raise ValueError(
            f"the loss gave {count} values for draws of {given[0]}; expected a value for each"
        )
    if count < 2:
        raise ValueError(f"the loss gave {count} value; expected two or more, for an error bar")
    return count


def _tried(evaluate: Callable[[], Any], draws: Any) -> dict[str, Tensor]:
    try:
        return vectors(evaluate())
    except (ValueError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a user's code raises
        sizes = ", ".join(map(str, dict.fromkeys(_lengths(draws))))
        told = f" (draws of {sizes})" if sizes else ""
        raise ValueError(
            f"the network, or its loss, fails where it is first called{told}: "
            f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        ) from error


def _lengths(draws: Any) -> list[int]:
    return [len(x) for x in tree_leaves(draws) if torch.is_tensor(x) and x.ndim]


def cuttable(draws: Any, batch_size: int, count: int) -> None:
    """ValueError where draws are to be cut into batches, and cannot be."""
    shapes = [tuple(x.shape) for x in tree_leaves(draws) if torch.is_tensor(x)]
    if batch_size and (not shapes or any(shape[:1] != (count,) for shape in shapes)):
        raise ValueError(
            f"batch_size={batch_size} cuts draws into batches, for which each tensor in them is "
            f"to be [{count}, ...]; got shapes {shapes[:4]}"
        )
