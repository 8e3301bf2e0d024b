"""Says where rounding changes the moves of weights that users asked for (see `rounding`)."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.backends import cuda, cudnn
from torch.nn.modules.conv import _ConvNd

from ..nets.blocks import TokenLinear
from ..weights import perturb
from ..weights.rounding import enough, seen
from ..world import dist_util, logger

GOOD = 0.9  # the least cosine between a move and what the network sees of it


def arithmetics(
    model: nn.Module, dtype: str, tf32: bool = False, products: bool = False
) -> dict[nn.Parameter, str]:
    """The parameters that a network uses rounded, under --dtype, and in which arithmetic.

    Autocast rounds weights and biases of convolutions and linear layers, and nothing else. In fp32
    with `tf32`, as cudnn.allow_tf32 has it on a GPU, convolutions round their weights; with
    `products`, as cuda.matmul.allow_tf32 has it, so do linear layers.
    """
    used = {}
    for layer in model.modules():
        if dtype != "fp32" and isinstance(layer, nn.Linear | _ConvNd):
            used |= dict.fromkeys(layer.parameters(recurse=False), dtype)
        elif dtype == "fp32" and isinstance(layer, nn.Linear | TokenLinear):
            used |= {layer.weight: "tf32"} if products else {}
        elif dtype == "fp32" and isinstance(layer, _ConvNd):
            used |= {layer.weight: "tf32"} if tf32 else {}
    return used


class ClimbLog:
    """What the network sees of SAM's climbs, into the log: a function of w and w + eps.

    It looks at the first climb after each line of the log, and, since a new network has zeros where
    a climb is exact, at climbs 1, 2, 4, 8, ... Once, it warns of a cosine below GOOD. In fp32 it
    also logs what a GPU's tf32 would see, or does, in convolutions and products. rho: None for a
    climb that finds its own, whose length is then logged.
    """

    def __init__(self, model: nn.Module, dtype: str, device, rho: float | None):
        self.rho, self.model, self.dtype, self.device = rho, model, dtype, device
        self.num_climbs, self.due, self.warned = 0, True, False

    def __call__(self, start: list[Tensor], moved: list[Tensor]) -> None:
        """:param moved: some of the model's parameters, where they are now; `start`: were."""
        self.num_climbs += 1
        early = self.num_climbs & (self.num_climbs - 1) == 0
        if dist_util.rank() > 0 or not (self.due or early):
            return
        for name, (arithmetic, used) in self._views().items():
            formats = [used.get(w, "fp32") for w in moved]
            length, cosine = seen(start, moved, formats)
            if cosine != cosine:  # an overflow of fp16, or a zero gradient: the next one
                return
            logger.logkvs({f"sam_{name}_length": length, f"sam_{name}_cosine": cosine})
            if name == "seen" and cosine < GOOD and not self.warned:
                self.warned = True
                self.warn(arithmetic, length, cosine, enough(start, moved, formats, GOOD))
        if self.rho is None:
            logger.logkv("sam_length", float(perturb.distance(moved, start).detach()))
        self.due = False

    def _views(self) -> dict[str, tuple[str, dict]]:
        """What is logged: its name, and the arithmetic and its parameters. Read at each look, as
        tf32 is a setting of a block (`world.arithmetic`)."""
        views = {"seen": (self.dtype, arithmetics(self.model, self.dtype))}
        if self.dtype == "fp32":
            views["tf32"] = "tf32", arithmetics(self.model, "fp32", True, True)
            allowed = cudnn.allow_tf32, cuda.matmul.allow_tf32
            if self.device.type == "cuda" and any(allowed):
                views["seen"] = "tf32", arithmetics(self.model, "fp32", *allowed)
        return views

    def warn(self, arithmetic: str, length: float, cosine: float, factor: float) -> None:
        away = {"tf32": "export NVIDIA_TF32_OVERRIDE=0"}.get(arithmetic, "train with --dtype fp32")
        of, more = "", f"a climb {factor:.2g} times as long"
        if self.rho is not None:
            of, more = f" of rho {self.rho:g}", f"--rho {self.rho * factor:.2g}"
        logger.warn(
            f"warning: in {arithmetic} rounding adds noise to SAM's climb{of}: the network sees "
            f"one {length:.3g} times as long, at a cosine of {cosine:.3g} to what was meant "
            f"(along that, {length * cosine:.3g} of it). Give {more} or more, where the cosine is "
            f"{GOOD}, or {away}"
        )


def warn_of_small_moves(
    subject, dtype: str, name: str, moves: Iterable[tuple[float, perturb.Perturbation]]
) -> None:
    """Say which of the moves (size, perturbation) of a Subject are others in the dtype."""
    used = arithmetics(subject.model, dtype)
    if not used or dist_util.rank() > 0:
        return
    formats = [used.get(w, "fp32") for w in subject.weights]
    for size, move in moves:
        with perturb.at(subject.weights, move, subject.spare, measure=False):
            length, cosine = seen(subject.spare, subject.weights, formats)
            if cosine < GOOD:
                factor = enough(subject.spare, subject.weights, formats, GOOD)
                logger.warn(
                    f"warning: in {dtype} the network sees moves of {name} {size:g} as others, "
                    f"{length:.3g} times as long, at a cosine of {cosine:.3g} to what was meant: "
                    f"rises there are about {length**2:.2g} times what they should be. Give "
                    f"--dtype fp32, or --{name} {size * factor:.2g} or more, where the cosine is "
                    f"{GOOD}"
                )
