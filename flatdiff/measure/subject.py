"""A checkpoint under study: its network, and the loss at its weights as they stand, on fixed draws.

What is done to the weights, and why, is not its business.
"""

import base64
import functools
import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..chain import probe
from ..data import classes
from ..flags import keys
from ..models import networks, run_util
from ..store import checkpoint, finite
from ..store.checkpoint import sha256
from ..weights import hessian, perturb
from ..world import dist_util, logger

TERMS = ("mse", "vb", "loss")  # the first that a network has is the headline


def load_images(
    flags, image_size: int, num_classes: int | None, known: classes.Classes
) -> tuple[Tensor, dict, int]:
    """The images of the study, their labels for a network whose classes are `known`, and how many
    there are."""
    wanted = flags.flatness.num_images
    dataset = run_util.open_dataset(flags.data, image_size, num_classes, known)
    if dataset.num_images < wanted:
        logger.warn(
            f"warning: there are {dataset.num_images} images, and num_images is {wanted}: some are "
            "used again, with other timesteps and noise (errors over images count them once)"
        )
    return *probe.images_of(dataset, wanted, flags.run.seed), dataset.num_images


class Subject:
    """A network, and its losses on the draws that all networks of a study share.

    Losses are float64 [terms, 5]: the means over all timesteps, and over each quarter of them, of
    each of `terms`, the headline first. `at_w`: those at its own weights; `errors`: their standard
    errors over images and timesteps. `key` names everything that its losses depend on, but the
    weights' moves.

    :param images: (image_size, num_classes, classes) -> (images, labels, how many differ), as
        `load_images`.
    """

    def __init__(self, name: str, path: str, flags, images: Callable):
        self.name, self.path = name, path
        self.model, self.diffusion = networks.from_checkpoint(path, flags)
        self.weights = list(self.model.parameters())
        self.autocast = networks.autocast(flags, dist_util.dev())
        self.t_range = self._t_range(flags.flatness.t_range)
        x_start, cond, distinct = images(
            self.model.image_size, self.model.num_classes, self.model.classes
        )
        seed, steps = flags.run.seed, self.diffusion.num_timesteps
        self.plan = probe.plan(len(x_start), steps, self.t_range, seed, distinct)
        self.draws = probe.fixed_draws(x_start.to(dist_util.dev()), self.plan, seed, cond)
        self.quarters = probe.quarters(self.plan.t, self.t_range)
        self.batch_size = self.fitting(flags.flatness.batch_size, self._losses)
        losses = self._losses(self.batch_size)
        self.terms = [term for term in TERMS if term in losses]
        self._own = self._stacked(losses)
        self.at_w = self.means(self._own)
        self.errors = self.errors_of(self._own)
        self.key = self._key(flags)

    @property
    def num_weights(self) -> int:
        return sum(w.numel() for w in self.weights)

    @property
    def headline(self) -> str:
        """mse where there is one. Beside it vb hides from autograd how the mean moves it."""
        return self.terms[0]

    def measure(self) -> Tensor:
        """The losses [terms, N] of each image, at the weights as they stand."""
        return self._stacked(self._losses(self.batch_size))

    def means(self, values: Tensor) -> Tensor:
        """[..., N], a value for each image -> [..., 5]."""
        return self._of(self.plan.means, values)

    def errors_of(self, values: Tensor) -> Tensor:
        """Standard errors of `means`, over images and timesteps."""
        return self._of(self.plan.errors, values)

    def _of(self, statistic: Callable, values: Tensor) -> Tensor:
        rows = [statistic(row, self.quarters) for row in values.flatten(0, -2)]
        return torch.tensor(rows, dtype=torch.float64).view(*values.shape[:-1], -1)

    @functools.cached_property
    def spare(self) -> list[Tensor]:
        """Where the weights are kept while they are moved."""
        return [torch.empty_like(w) for w in self.weights]

    def at(self, perturbation: perturb.Perturbation, each: bool = False) -> dict:
        """The losses at moved weights, and how far that is; then they are what they were.

        With `each`, also "rises" of each image, [terms, N] as `packed`.
        """
        with perturb.at(self.weights, perturbation, self.spare) as distance:
            losses = self.measure()
        found = {"losses": self.means(losses).tolist(), "distance": float(distance)}
        return found | ({"rises": packed(losses - self._own)} if each else {})

    def hessian_product(self) -> hessian.Product:
        """v -> H v of the mean of the headline, by all ranks together.

        The sum goes batch by batch, in their order, whichever rank has computed one.
        """

        def part(vector: Tensor, draws) -> Tensor:
            def loss():
                return (self._headline_of(draws) * draws.weight).sum() / len(self.draws.t)

            return hessian.hessian_vector_product(loss, self.weights, vector)

        parts = self.draws.split(self._hessian_batch)
        nothing = torch.zeros(self.num_weights, device=dist_util.dev())

        def product(vector: Tensor) -> Tensor:
            total = torch.zeros_like(vector)
            for first in range(0, len(parts), dist_util.world_size()):
                mine = first + dist_util.rank()
                own = part(vector, parts[mine]) if mine < len(parts) else nothing
                for each in dist_util.all_gather_cat(own[None]):
                    total += each.cpu()
            return total

        return product

    def curvatures(self, vector: Tensor) -> Tensor:
        """v . H_i v, float64 [N], of the headline of each image; by all ranks together."""
        parts = self.draws.split(self._hessian_batch)
        mine = range(dist_util.rank(), len(parts), dist_util.world_size())
        own = {i: self._curvatures(vector, parts[i]).double().cpu() for i in mine}
        found = {i: part for each in dist_util.all_gather_object(own) for i, part in each.items()}
        return torch.cat([found[i] for i in range(len(parts))])

    def _curvatures(self, vector: Tensor, draws) -> Tensor:
        losses = functools.partial(self._headline_of, draws)
        return hessian.curvatures(losses, self.weights, vector)

    @functools.cached_property
    def _hessian_batch(self) -> int:
        """`curvatures` takes more memory than `hessian_product`."""
        start = torch.zeros(self.num_weights)
        return self.fitting(
            self.batch_size, lambda n: self._curvatures(start, self.draws.slice(0, n))
        )

    def _headline_of(self, draws) -> Tensor:
        return self.diffusion.training_losses(
            self.model, draws.x_start, draws.t, draws.model_kwargs, draws.noise, draws.input_noise
        )[self.headline]

    def fitting(self, batch_size: int, run: Callable[[int], object]) -> int:
        """The batch size for which `run` has memory, on every rank; 0 asks for a good one."""
        on_cpu = dist_util.dev().type == "cpu"
        good = 64 if on_cpu else len(self.draws.t)
        start = min(batch_size or good, len(self.draws.t))
        fits = start if on_cpu else probe.fitting(run, start)
        return min(dist_util.all_gather_object(fits))

    def _losses(self, batch_size: int) -> dict[str, Tensor]:
        with self.autocast():  # closed again each time: it keeps cast copies of the weights
            losses = probe.losses(self.model, self.diffusion, self.draws, batch_size)
        finite.check(losses, f"losses by image, at or around the weights of {self.path}")
        return losses

    def _stacked(self, losses: dict[str, Tensor]) -> Tensor:
        return torch.stack([losses[term] for term in TERMS if term in losses])

    def _t_range(self, t_range: int) -> int:
        num_timesteps = self.diffusion.num_timesteps
        if t_range > num_timesteps:
            raise ValueError(
                f"--t_range {t_range}: the chain of {self.path} has {num_timesteps} timesteps; "
                f"expected 1 to {num_timesteps}, or 0 for all"
            )
        return t_range or num_timesteps

    def _key(self, flags) -> str:
        """A hash of the file, of what says what is in it, of the draws and of the arithmetic."""
        draws = [self.draws.x_start, *self.draws.model_kwargs.values()]
        draws += [self.plan.t, self.plan.weight]
        self.sha256 = sha256(self.path)
        text = keys.key(
            flags,
            "part",
            file=checkpoint.identity(self.path),
            draws=[hashlib.sha256(x.cpu().numpy().tobytes()).hexdigest() for x in draws],
            losses=[*self.terms, self.t_range, self.batch_size],
            torch=[torch.__version__, dist_util.dev().type],
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def packed(values: Tensor) -> list:
    """Values of each image as plain ones, to keep: [shape, their float32 as base64 text].

    A third of the length of numbers in text; there can be 100 draws of 50,000 images.
    """
    data = values.float().contiguous().numpy().tobytes()
    return [list(values.shape), base64.b64encode(data).decode()]


def unpacked(kept: list) -> Tensor:
    """float64, of what `packed` made."""
    shape, text = kept
    values = np.frombuffer(base64.b64decode(text), np.float32)
    return torch.from_numpy(values.astype(np.float64)).view(shape)
