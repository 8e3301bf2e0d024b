"""Forward and backward of a batch as a CUDA graph: the host launches once what it launched by the
thousand, which is where the time of a small network's step goes.

A graph is of draws of one shape and is replayed on others: they are copied to where it reads, and
its gradients and losses are copied from where it writes, so that no later replay changes them.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..chain.resample import Draw
from .climbing import mean_over_ranks

WARM_UP = 3  # passes before one is recorded, in which kernels are chosen and compiled


class Graphed:
    """`passes` by graphs: (draw, sync) -> loss terms by name, the gradient left in `.grad`.

    passes: the same for this rank's own gradient. It sets each `.grad` anew, waits for nothing, and
    draws only from default generators. With sync the gradients are the mean over all ranks.
    """

    def __init__(self, passes: Callable[[Draw], dict[str, Tensor]], weights: Sequence[Tensor]):
        self.passes, self.weights = passes, list(weights)
        self.graphs: dict[tuple, tuple] = {}

    def __call__(self, draw: Draw, sync: bool = True) -> dict[str, Tensor]:
        given = tensors_of(draw)
        key = tuple((name, tuple(v.shape), v.dtype) for name, v in given.items())
        if key not in self.graphs:
            self.graphs[key] = self._record(draw)
        read, replay, grads, terms = self.graphs[key]
        torch._foreach_copy_(list(read.values()), list(given.values()))
        replay()
        moving = [w for w, g in zip(self.weights, grads) if g is not None]
        fresh = torch._foreach_mul([g for g in grads if g is not None], 1)
        for w in self.weights:
            w.grad = None
        for w, g in zip(moving, mean_over_ranks(fresh) if sync else fresh):
            w.grad = g
        return {name: value.clone() for name, value in terms.items()}

    def _record(self, draw: Draw) -> tuple:
        """What a graph reads, by name; how it is replayed; the gradients and terms it writes."""
        own = copy_of(draw)
        device = self.weights[0].device
        mine = [device] if device.type == "cuda" else []  # and no context on another rank's GPU
        with torch.random.fork_rng(mine):  # a step's dropout begins where it does without a graph
            replay, terms = capture(lambda: self.passes(own))
        return tensors_of(own), replay, [w.grad for w in self.weights], terms


def capture(function: Callable[[], dict]) -> tuple[Callable[[], None], dict]:
    """A function of nothing that replays `function`, and what it returns: tensors that each replay
    writes anew."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = function()
    return graph.replay, made


def tensors_of(draw: Draw) -> dict[str, Tensor]:
    """The tensors of a draw, by name."""
    given = {n: v for n, v in vars(draw).items() if torch.is_tensor(v)}
    return given | {f"model_kwargs {n}": v for n, v in draw.model_kwargs.items()}


def copy_of(draw: Draw) -> Draw:
    """The same draw in memory of its own."""
    own = {n: v.clone() for n, v in vars(draw).items() if torch.is_tensor(v)}
    kwargs = {name: value.clone() for name, value in draw.model_kwargs.items()}
    return dataclasses.replace(draw, **own, model_kwargs=kwargs)


def passes_of(loop) -> Graphed:
    """A TrainLoop's forward and backward passes by graphs; ValueError where there can be none."""
    refuse(loop.device, loop.dtype)
    return Graphed(loop._one_pass, loop.weights)


def refuse(device: torch.device, dtype: str) -> None:
    """ValueError where there can be no graph of a training step."""
    if device.type != "cuda":
        raise ValueError(
            f"--cuda_graphs True records what a GPU is told, and this training is on {device}: "
            "leave it out"
        )
    if dtype == "fp16":
        raise ValueError(
            "--cuda_graphs True and --dtype fp16: the loss scale changes at each step, and a graph "
            "keeps what it was recorded with; give --dtype bf16 or fp32"
        )
