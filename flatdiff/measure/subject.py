"""A network under study, and its loss at its weights as they stand, on draws that stay the same.

What it is a network of, and what is drawn, its makers know (`subjects`); what is done to the
weights, and why, is not its business.
"""

import base64
import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..chain import probe
from ..exchange.families import inside
from ..models import networks
from ..store import finite
from ..weights import differences, hessian, perturb
from ..world import dist_util

TERM = {
    "mse": "mse of the prediction",
    "vb": "vb [bits per dimension]",
    "loss": "loss",
    "x_mse": "mse of the image",
}
Terms = dict[str, Tensor]  # each [n]


class Axis(NamedTuple):
    """Where a term is averaged: the plan's weights, and the parts of its range, the first the
    whole: by label, how the levels in it are told, and which examples are in it, bool [N]."""

    plan: probe.Plan
    parts: dict[str, tuple[str, Tensor]]

    def of(self, statistic: str, values: Tensor) -> list[float]:
        """Return the plan's "means" or "errors" of values [N] in each part."""
        return getattr(self.plan, statistic)(values, [mask for _, mask in self.parts.values()])


def alike(count: int) -> Axis:
    """Return the axis of so many examples of which nothing is known: a plain mean."""
    one = torch.ones(count, dtype=torch.float64)
    plan = probe.Plan(
        torch.zeros(count).long(), one, torch.zeros(count).long(), torch.arange(count)
    )
    return Axis(plan, {"all": ("", one.bool())})


class Subject:
    """A network in eval mode, and its losses on draws that all networks of a study share.

    Losses are float64 [terms, P]: the mean of each term over the parts of its axis, the first of
    them the whole. The first term is the headline: mse where there is one, beside which vb hides
    from autograd how the mean moves it. `at_w`: those at its own weights; `errors`: their standard
    errors over examples. `key` names all that they depend on, but the weights' moves.

    :param loss: (network, draws) -> a vector [N], or vectors by term; nothing random is in it.
    :param draws: whatever `loss` takes; a Tensor, a `Draw` or nested tensors [N, ...] can be cut.
    :param size: N, where draws may be cut; None: they are not, unless there is a batch_size.
    :param batch_size: examples per network call; 0: what there is memory for.
    :param weights: those that are moved; None: all.
    :param axes: by term; those that have none are plain means, or have that of "".
    :param x_factor: [N]; an mse times that is the term x_mse, the squared error of the image.
    :param call: how the network is called, if not as the model.
    :param more: what `about` says beside.
    :param key: losses=[...] -> a text of all that the losses depend on.
    """

    hidden = False  # whether measures show no bars of theirs

    def __init__(
        self,
        name: str,
        model,
        loss: Callable[[Callable, Any], Tensor | Terms],
        draws: Any,
        *,
        size: int | None = None,
        weights: Sequence[Tensor] | None = None,
        axes: dict[str, Axis] | None = None,
        x_factor: Tensor | None = None,
        seed: int = 0,
        batch_size: int = 0,
        dtype: str = "fp32",
        call: Callable | None = None,
        more: dict | None = None,
        key: Callable[..., str] = lambda **_: "",
    ):
        self.name, self.model, self.seed, self.dtype = name, model, seed, dtype
        self.loss, self.draws, self.call, self.more = loss, draws, call or model, more or {}
        self.weights = list(model.parameters() if weights is None else weights)
        self.device = self.weights[0].device
        self.num_weights = sum(w.numel() for w in self.weights)
        self.autocast = networks.casting(dtype, self.device)
        self.x_factor, self.size = x_factor, size
        self.batch_size = self.fitting(batch_size, self._losses)
        losses = self._losses(self.batch_size)
        self.terms = [*(t for t in TERM if t in losses), *(t for t in losses if t not in TERM)]
        self.own = torch.stack([losses[term] for term in self.terms])
        self.size = self.own.shape[1]
        others = (axes or {}).get("") or alike(self.size)
        self.axes = {term: (axes or {}).get(term, others) for term in self.terms}
        self.at_w, self.errors = self.means(self.own), self.errors_of(self.own)
        self.key = key(losses=[*self.terms, self.batch_size])
        self.log_snr: Tensor | None = None  # [N], for those of noise levels
        self.drawn = ""  # a hash of the examples and what was drawn with them, to know others' by

    def __repr__(self) -> str:
        means = zip(self.terms, self.at_w[:, 0].tolist(), self.errors[:, 0].tolist())
        told = ", ".join(f"{term} {mean:.4g} +- {error:.2g}" for term, mean, error in means)
        return f"<{self.name}: {self.num_weights} weights, {self.size} examples, {told}>"

    @property
    def plan(self) -> probe.Plan:
        """The headline's."""
        return self.axes[self.terms[0]].plan

    def anew(self, seed: int) -> "Subject":
        """Return it at its weights as they stand now, with a seed for their moves."""
        other = copy.copy(self)
        other.seed, other.own = seed, self.measure()
        other.at_w, other.errors = other.means(other.own), other.errors_of(other.own)
        return other

    def about(self) -> dict:
        """Say where it came from, and its losses at w, with their standard errors over examples."""
        tables = zip(self.terms, self.at_w.tolist(), self.errors.tolist())
        parts = {t: {k: told for k, (told, _) in a.parts.items()} for t, a in self.axes.items()}
        return {
            "name": self.name,
            "num_weights": self.num_weights,
            "batch_size": self.batch_size,
            **self.more,
            "parts": parts,
            "at_w": {term: {"losses": means, "errors": errors} for term, means, errors in tables},
        }

    def measure(self) -> Tensor:
        """Compute the losses [terms, N] of each example, at the weights as they stand."""
        losses = self._losses(self.batch_size)
        return torch.stack([losses[term] for term in self.terms])

    def means(self, values: Tensor, terms: Sequence[str] | None = None) -> Tensor:
        """Average [K, N], of `terms` in order, to [K, P], and [N], of the headline, to [P]."""
        return self._of("means", values, terms)

    def errors_of(self, values: Tensor, terms: Sequence[str] | None = None) -> Tensor:
        """Return standard errors of `means`, over examples and noise levels."""
        return self._of("errors", values, terms)

    def _of(self, statistic: str, values: Tensor, terms: Sequence[str] | None) -> Tensor:
        if values.ndim == 1:
            return self._of(statistic, values[None], terms)[0]
        rows = zip(terms or self.terms, values)
        found = [self.axes[term].of(statistic, row) for term, row in rows]
        return torch.tensor(found, dtype=torch.float64)

    @functools.cached_property
    def spare(self) -> list[Tensor]:
        """The weights are kept here while they are moved."""
        return [torch.empty_like(w) for w in self.weights]

    def at(self, perturbation: perturb.Perturbation, each: bool = False) -> dict:
        """Measure the losses at moved weights (all, or those that the perturbation is of), and how
        far that is; then they are what they were. `each`: also "rises" [terms, N], as `packed`."""
        own = getattr(perturbation, "weights_of", None)
        moved = (own(inside(self.model)), None) if own else (self.weights, self.spare)
        with perturb.at(moved[0], perturbation, moved[1]) as distance:
            losses = self.measure()
        found = {"losses": self.means(losses).tolist(), "distance": float(distance)}
        return found | ({"rises": packed(losses - self.own)} if each else {})

    def hessian_product(self, exact: bool = False) -> hessian.Product:
        """Return v -> H v of the mean of the headline, by all ranks together: by differences of
        gradients, or `exact`, twice differentiated."""

        def of(step: Tensor, part: tuple[Any, Tensor]) -> Tensor:
            given = functools.partial(self.mean_of, part), self.weights, step
            if exact:
                return hessian.hessian_vector_product(*given)
            return differences.of_gradients(*given, self.spare)

        summed = functools.partial(self.summed, of, self.parts(exact))
        if exact:
            return summed
        return differences.product(summed, float(self.at_w[0, 0]), self.weights)

    def mean_of(self, part: tuple[Any, Tensor]) -> Tensor:
        """What a part of the draws adds to the mean of the headline, for autograd."""
        draws, weight = part
        return (self.headline_of(draws) * weight).sum() / self.size

    def summed(self, of: Callable, parts: list, vector: Tensor) -> Tensor:
        """Sum of(vector, part) [n] over batches in their order, whichever rank has computed one,
        in the vector's dtype and on its device."""
        total, nothing = torch.zeros_like(vector), torch.zeros_like(vector, device=self.device)
        for first in range(0, len(parts), dist_util.world_size()):
            mine = first + dist_util.rank()
            own = of(vector, parts[mine]) if mine < len(parts) else nothing
            for each in dist_util.all_gather_cat(own[None]):
                total += each.to(total.device)
        return total

    def curvatures(self, vector: Tensor, exact: bool = False) -> Tensor:
        """Return v . H_i v, float64 [N], of the headline of each example; by all ranks together: by
        differences of losses, or `exact`, twice differentiated."""
        parts = [draws for draws, _ in self.parts(exact)]
        factor = 1.0  # from the first examples on every rank, so that all take the same
        if not exact:
            first = functools.partial(self.headline_of, parts[0])
            factor = differences.step_along(first, self.weights, vector, self.spare)
        mine = range(dist_util.rank(), len(parts), dist_util.world_size())
        own = [self._curvatures(vector * factor, parts[i], exact).cpu() for i in mine]
        return dist_util.gather_rows(own) / factor**2

    def _curvatures(self, step: Tensor, draws: Any, exact: bool) -> Tensor:
        losses = functools.partial(self.headline_of, draws)
        if exact:
            return hessian.curvatures(losses, self.weights, step).double()
        return differences.curvatures(losses, self.weights, step, self.spare)

    def parts(self, exact: bool) -> list[tuple[Any, Tensor]]:
        """Return the draws in batches, each with the weights of its examples."""
        weight = self.plan.weight.float().to(self.device)
        count = self._hessian_batch if exact else self._gradient_batch
        return list(zip(cut(self.draws, count, self.size), weight.split(count or self.size)))

    @functools.cached_property
    def _gradient_batch(self) -> int:
        """The examples that a gradient has memory for."""

        def run(count: int) -> None:
            losses = self.headline_of(cut(self.draws, count, self.size)[0])
            torch.autograd.grad(losses.sum(), self.weights, allow_unused=True)

        return self.fitting(self.batch_size, run)

    @functools.cached_property
    def _hessian_batch(self) -> int:
        """The examples that exact `curvatures` have memory for, which take more than a product."""
        zero = torch.zeros(self.num_weights)

        def run(count: int) -> None:
            self._curvatures(zero, cut(self.draws, count, self.size)[0], exact=True)

        return self.fitting(self.batch_size, run)

    def headline_of(self, draws: Any) -> Tensor:
        """Compute the headline [n] of some of the draws, for autograd."""
        losses = vectors(self.loss(self.model, draws))[self.terms[0]]
        if torch.is_grad_enabled() and not losses.requires_grad:
            hint = "it is detached from its weights, or runs under no_grad or inference_mode"
            raise ValueError(f"the loss of {self.name} cannot be differentiated: {hint}")
        return losses

    def fitting(self, batch_size: int, run: Callable[[int], object]) -> int:
        """Find the batch size for which `run` has memory, on every rank; 0 asks for a good one, and
        is the answer where draws are not cut."""
        if self.size is None and not batch_size:
            return 0
        on_cpu, most = self.device.type == "cpu", self.size or batch_size
        start = min(batch_size or (64 if on_cpu else most), most)
        fits = start if on_cpu else probe.fitting(run, start)
        return min(dist_util.all_gather_object(fits))

    def _losses(self, batch_size: int) -> Terms:
        """Compute float64 [N] on the CPU, by term. Equal batch sizes give equal bits."""
        parts = cut(self.draws, batch_size, self.size)
        with self.autocast():  # closed again each time: it keeps cast copies of the weights
            losses = probe.losses(lambda part: vectors(self.loss(self.call, part)), parts)
        if self.x_factor is not None and "mse" in losses:
            losses["x_mse"] = losses["mse"] * self.x_factor
        finite.check(losses, f"losses by example, at or around the weights of {self.name}")
        return losses


def vectors(found: Tensor | Terms) -> Terms:
    """Return what a loss gave as vectors [n] by term; ValueError if it is anything else."""
    terms = found if isinstance(found, dict) else {"loss": found}
    if not terms:
        raise ValueError("the loss gave no terms; expected a vector [N], or vectors by name")
    for name, values in terms.items():
        tensor = isinstance(values, Tensor)
        if not (tensor and values.ndim == 1 and values.is_floating_point()):
            got = f"{values.dtype} {(*values.shape,)}" if tensor else f"a {type(values).__name__}"
            raise ValueError(
                f"the loss gave {got} as {name}; expected a vector [N], a value for each example, "
                "whose errors are computed from it: leave out the mean over examples"
            )
    return terms


def cut(draws: Any, count: int, size: int | None) -> list:
    """Return consecutive batches of so many examples; 0: all of them in one."""
    if not count or (size is not None and count >= size):
        return [draws]
    if isinstance(draws, probe.Draw | Tensor):
        return list(draws.split(count))
    size = size or next(len(x) for x in tree_leaves(draws) if torch.is_tensor(x))

    def rows(start: int) -> Any:
        stop = start + count
        return tree_map(lambda x: x[start:stop] if torch.is_tensor(x) else x, draws)

    return [rows(start) for start in range(0, size, count)]


def by_term(subject: Subject, results: list[dict]) -> dict[str, list]:
    """Turn `[{"losses": [terms][5]}, ...]` into `{term: [..., [5]]}`."""
    return {t: [r["losses"][i] for r in results] for i, t in enumerate(subject.terms)}


def packed(values: Tensor, kind: type = np.float32) -> list:
    """Make values of each image plain, to keep: [shape, their numbers as base64 text], a third of
    the length of numbers in text; there can be 100 draws of 50,000 images."""
    data = values.contiguous().numpy().astype(kind).tobytes()
    return [list(values.shape), base64.b64encode(data).decode()]


def unpacked(kept: list, kind: type = np.float32) -> Tensor:
    """Return what `packed` was given, as float64."""
    values = np.frombuffer(base64.b64decode(kept[1]), kind)
    return torch.from_numpy(values.astype(np.float64)).view(kept[0])
