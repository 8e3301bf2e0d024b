"""A checkpoint under study: its network, and the loss at its weights as they stand, on fixed draws.

What is done to the weights, and why, is not its business.
"""

import functools
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from . import (
    checkpoint,
    classes,
    dist_util,
    finite,
    hessian,
    keys,
    logger,
    perturb,
    probe,
    run_util,
    script_util,
)
from .checkpoint import sha256

TERMS = ("loss", "mse", "vb")


def load_images(
    flags, image_size: int, num_classes: int | None, known: classes.Classes
) -> tuple[Tensor, dict]:
    """The images of the study, and their labels for a network whose classes are `known`."""
    wanted = flags.flatness.num_images
    dataset = run_util.open_dataset(flags.data, image_size, num_classes, known)
    if dataset.num_images < wanted:
        logger.warn(
            f"warning: there are {dataset.num_images} images, and num_images is {wanted}: some are "
            "used again, with other timesteps and noise"
        )
    return probe.images_of(dataset, wanted, flags.run.seed)


class Subject:
    """A network, and its losses on the draws that all networks of a study share.

    Losses are float64 [terms, 5]: the means over all timesteps, and over each quarter of them, of
    each of `terms`. `at_w`: those at its own weights; `errors`: their standard errors over images.
    `key` names everything that its losses depend on, but the weights' moves.

    :param images: (image_size, num_classes, classes) -> (images, labels), as `load_images`.
    """

    def __init__(self, name: str, path: str, flags, images: Callable):
        self.name, self.path = name, path
        self.model, self.diffusion = script_util.from_checkpoint(path, flags)
        self.weights = list(self.model.parameters())
        self.autocast = script_util.autocast(flags, dist_util.dev())
        self.t_range = self._t_range(flags.flatness.t_range)
        x_start, cond = images(self.model.image_size, self.model.num_classes, self.model.classes)
        x_start = x_start.to(dist_util.dev())
        self.draws = probe.fixed_draws(x_start, self.t_range, flags.run.seed, cond)
        self.quarters = probe.quarters(self.draws.t, self.t_range)
        self.batch_size = self.fitting(flags.flatness.batch_size, self._losses)
        losses = self._losses(self.batch_size)
        self.terms = [term for term in TERMS if term in losses]
        self.at_w = self._table(probe.means, losses)
        self.errors = self._table(probe.errors, losses)
        self.key = self._key(flags)

    @property
    def num_weights(self) -> int:
        return sum(w.numel() for w in self.weights)

    @property
    def hessian_term(self) -> str:
        """mse where there is one: beside it, vb hides from autograd how the mean moves it."""
        return "mse" if "mse" in self.terms else "loss"

    def measure(self) -> Tensor:
        """The losses at the weights as they stand."""
        return self._table(probe.means, self._losses(self.batch_size))

    @functools.cached_property
    def spare(self) -> list[Tensor]:
        """Where the weights are kept while they are moved."""
        return [torch.empty_like(w) for w in self.weights]

    def at(self, perturbation: perturb.Perturbation) -> dict:
        """The losses at moved weights, and how far that is; then they are what they were."""
        with perturb.at(self.weights, perturbation, self.spare) as distance:
            return {"losses": self.measure().tolist(), "distance": float(distance)}

    def hessian_product(self) -> hessian.Product:
        """v -> H v of the mean of `hessian_term`, by all ranks together.

        The sum goes batch by batch, in their order, whichever rank has computed one.
        """

        def part(vector: Tensor, draws) -> Tensor:
            def loss():
                losses = self.diffusion.training_losses(
                    self.model,
                    draws.x_start,
                    draws.t,
                    draws.model_kwargs,
                    draws.noise,
                    draws.input_noise,
                )
                return losses[self.hessian_term].sum() / len(self.draws.t)

            return hessian.hessian_vector_product(loss, self.weights, vector)

        start = torch.zeros(self.num_weights)
        size = self.fitting(self.batch_size, lambda n: part(start, self.draws.slice(0, n)))
        parts = self.draws.split(size)

        def product(vector: Tensor) -> Tensor:
            total = torch.zeros_like(vector)
            for first in range(0, len(parts), dist_util.world_size()):
                mine = first + dist_util.rank()
                own = part(vector, parts[mine]) if mine < len(parts) else start.to(dist_util.dev())
                for each in dist_util.all_gather_cat(own[None]):
                    total += each.cpu()
            return total

        return product

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

    def _table(self, of: Callable, losses: dict[str, Tensor]) -> Tensor:
        rows = [of(losses[term], self.quarters) for term in TERMS if term in losses]
        return torch.tensor(rows, dtype=torch.float64)

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
        images = [self.draws.x_start, *self.draws.model_kwargs.values()]
        self.sha256 = sha256(self.path)
        text = keys.key(
            flags,
            "part",
            file=checkpoint.identity(self.path),
            images=[hashlib.sha256(x.cpu().numpy().tobytes()).hexdigest() for x in images],
            draws=[self.t_range, self.batch_size],
            torch=[torch.__version__, dist_util.dev().type],
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]
