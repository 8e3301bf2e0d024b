"""A checkpoint under study: its network, and the loss at its weights as they stand, on fixed draws.

What is done to the weights, and why, is not its business.
"""

import base64
import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..chain import probe
from ..models import networks
from ..store import finite
from ..store.checkpoint import sha256
from ..weights import differences, hessian, perturb
from ..world import dist_util

TERM = {"mse": "mse of the noise", "vb": "vb [bits per dimension]", "loss": "loss"}


class Subject:
    """A network, and its losses on the draws that all networks of a study share.

    Losses are float64 [terms, 5]: means of each of `terms` over all timesteps, and each quarter of
    them. The first term is the headline: mse where there is one, beside which vb hides from
    autograd how the mean moves it. `at_w`: those at its own weights; `errors`: their standard
    errors over images and timesteps. `key` names all that they depend on, but the weights' moves.

    :param images: (x_start [N, 3, H, W], labels by name or {}, how many images differ).
    :param t_range: timesteps 0 .. t_range-1 of the chain; 0: all.
    :param batch_size: images per network call; 0: what there is memory for.
    :param call: how the network is called, if not as the model.
    :param key: (path, tensors, losses=...) -> a text of all that the losses depend on.
    """

    def __init__(
        self,
        name: str,
        path: str,
        model,
        diffusion,
        images: tuple[Tensor, dict[str, Tensor], int],
        *,
        seed: int = 0,
        t_range: int = 0,
        batch_size: int = 0,
        dtype: str = "fp32",
        call: Callable | None = None,
        key: Callable[..., str] = lambda *_, **__: "",
    ):
        self.name, self.path, self.seed, self.dtype = name, path, seed, dtype
        self.model, self.diffusion, self.call = model, diffusion, call or model
        self.weights = list(model.parameters())
        self.num_weights = sum(w.numel() for w in self.weights)
        self.autocast = networks.casting(dtype, dist_util.dev())
        self.t_range = self._t_range(t_range)
        x_start, cond, distinct = images
        steps = diffusion.num_timesteps
        self.plan = probe.plan(len(x_start), steps, self.t_range, seed, distinct)
        self.draws = probe.fixed_draws(x_start.to(dist_util.dev()), self.plan, seed, cond)
        self.quarters = probe.quarters(self.plan.t, self.t_range)
        self.batch_size = self.fitting(batch_size, self._losses)
        losses = self._losses(self.batch_size)
        self.terms = [term for term in TERM if term in losses]
        self.own = torch.stack([losses[term] for term in self.terms])
        self.at_w = self.means(self.own)
        self.errors = self.errors_of(self.own)
        self.sha256 = sha256(path)
        draws = [x_start, *cond.values(), self.plan.t, self.plan.weight]
        self.key = key(path, draws, losses=[*self.terms, self.t_range, self.batch_size])

    def about(self) -> dict:
        """Say where it came from, and its losses at w, with their standard errors over images."""
        tables = zip(self.terms, self.at_w.tolist(), self.errors.tolist())
        return {
            "name": self.name,
            "path": self.path,
            "sha256": self.sha256,
            "num_weights": self.num_weights,
            "image_size": self.model.image_size,
            "timesteps": self.diffusion.num_timesteps,
            "t_range": self.t_range,
            "batch_size": self.batch_size,
            "at_w": {term: {"losses": means, "errors": errors} for term, means, errors in tables},
        }

    def measure(self) -> Tensor:
        """Compute the losses [terms, N] of each image, at the weights as they stand."""
        losses = self._losses(self.batch_size)
        return torch.stack([losses[term] for term in self.terms])

    def means(self, values: Tensor) -> Tensor:
        """Average [..., N], a value for each image, to [..., 5]."""
        return self._of(self.plan.means, values)

    def errors_of(self, values: Tensor) -> Tensor:
        """Return standard errors of `means`, over images and timesteps."""
        return self._of(self.plan.errors, values)

    def _of(self, statistic: Callable, values: Tensor) -> Tensor:
        rows = [statistic(row, self.quarters) for row in values.reshape(-1, values.shape[-1])]
        return torch.tensor(rows, dtype=torch.float64).view(*values.shape[:-1], -1)

    @functools.cached_property
    def spare(self) -> list[Tensor]:
        """The weights are kept here while they are moved."""
        return [torch.empty_like(w) for w in self.weights]

    def at(self, perturbation: perturb.Perturbation, each: bool = False) -> dict:
        """Measure the losses at moved weights, and how far that is; then they are what they were.
        With `each`, also "rises" of each image, [terms, N] as `packed`."""
        with perturb.at(self.weights, perturbation, self.spare) as distance:
            losses = self.measure()
        found = {"losses": self.means(losses).tolist(), "distance": float(distance)}
        return found | ({"rises": packed(losses - self.own)} if each else {})

    def hessian_product(self, exact: bool = False) -> hessian.Product:
        """Return v -> H v of the mean of the headline, by all ranks together: by differences of
        gradients, or `exact`, twice differentiated."""

        def loss(draws) -> Tensor:
            return (self.headline_of(draws) * draws.weight).sum() / len(self.draws.t)

        def of(step: Tensor, draws) -> Tensor:
            given = functools.partial(loss, draws), self.weights, step
            if exact:
                return hessian.hessian_vector_product(*given)
            return differences.of_gradients(*given, self.spare)

        summed = functools.partial(self._summed, of, self._parts(exact))
        if exact:
            return summed
        return differences.product(summed, float(self.at_w[0, 0]), self.weights)

    def _summed(self, of: Callable, parts: list, vector: Tensor) -> Tensor:
        """Sum of(vector, draws) [n] over batches in their order, whichever rank has computed one,
        in the vector's dtype and on its device."""
        total, nothing = torch.zeros_like(vector), torch.zeros_like(vector, device=dist_util.dev())
        for first in range(0, len(parts), dist_util.world_size()):
            mine = first + dist_util.rank()
            own = of(vector, parts[mine]) if mine < len(parts) else nothing
            for each in dist_util.all_gather_cat(own[None]):
                total += each.to(total.device)
        return total

    def curvatures(self, vector: Tensor, exact: bool = False) -> Tensor:
        """Return v . H_i v, float64 [N], of the headline of each image; by all ranks together: by
        differences of losses, or `exact`, twice differentiated."""
        parts = self._parts(exact)
        factor = 1.0  # from the first images on every rank, so that all take the same
        if not exact:
            first = functools.partial(self.headline_of, parts[0])
            factor = differences.step_along(first, self.weights, vector, self.spare)
        mine = range(dist_util.rank(), len(parts), dist_util.world_size())
        own = {i: self._curvatures(vector * factor, parts[i], exact).cpu() for i in mine}
        found = {i: part for each in dist_util.all_gather_object(own) for i, part in each.items()}
        return torch.cat([found[i] for i in range(len(parts))]) / factor**2

    def _curvatures(self, step: Tensor, draws, exact: bool) -> Tensor:
        losses = functools.partial(self.headline_of, draws)
        if exact:
            return hessian.curvatures(losses, self.weights, step).double()
        return differences.curvatures(losses, self.weights, step, self.spare)

    def _parts(self, exact: bool) -> list:
        return self.draws.split(self._hessian_batch if exact else self._gradient_batch)

    @functools.cached_property
    def _gradient_batch(self) -> int:
        """The images that a gradient has memory for."""

        def run(count: int) -> None:
            losses = self.headline_of(self.draws.slice(0, count))
            torch.autograd.grad(losses.sum(), self.weights, allow_unused=True)

        return self.fitting(self.batch_size, run)

    @functools.cached_property
    def _hessian_batch(self) -> int:
        """The images that exact `curvatures` have memory for, which take more than the product."""
        zero, draws = torch.zeros(self.num_weights), self.draws
        return self.fitting(
            self.batch_size, lambda n: self._curvatures(zero, draws.slice(0, n), exact=True)
        )

    def headline_of(self, draws) -> Tensor:
        """Compute the headline [n] of some of the draws, for autograd."""
        return draws.losses(self.diffusion, self.model)[self.terms[0]]

    def fitting(self, batch_size: int, run: Callable[[int], object]) -> int:
        """Find the batch size for which `run` has memory, on every rank; 0 asks for a good one."""
        on_cpu, most = dist_util.dev().type == "cpu", len(self.draws.t)
        start = min(batch_size or (64 if on_cpu else most), most)
        fits = start if on_cpu else probe.fitting(run, start)
        return min(dist_util.all_gather_object(fits))

    def _losses(self, batch_size: int) -> dict[str, Tensor]:
        with self.autocast():  # closed again each time: it keeps cast copies of the weights
            losses = probe.losses(self.call, self.diffusion, self.draws, batch_size)
        finite.check(losses, f"losses by image, at or around the weights of {self.path}")
        return losses

    def _t_range(self, t_range: int) -> int:
        count = self.diffusion.num_timesteps
        if t_range > count:
            raise ValueError(
                f"--t_range {t_range}: the chain of {self.path} has {count} timesteps; "
                f"expected 1 to {count}, or 0 for all"
            )
        return t_range or count


def by_term(subject: Subject, results: list[dict]) -> dict[str, list]:
    """Turn [{"losses": [terms][5]}, ...] into {term: [..., [5]]}."""
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
