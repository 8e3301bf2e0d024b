"""Our own contenders: the package as its scripts run it, and its plain form.

A training step is TrainLoop.run_step on a fixed batch; sampling, quantizing and flatness go the way
of their scripts.
"""

import contextlib
import functools

import torch
from peers import Peer

from flatdiff.flags import choices
from flatdiff.kernels.calls import twice_differentiable
from flatdiff.measure import curve, quantized, sources
from flatdiff.models import generate, networks, run_util
from flatdiff.train import starting
from flatdiff.weights import hessian, perturb
from flatdiff.world import dist_util, logger


class Flatdiff(Peer):
    """What a user of the scripts gets, with the job's further flags."""

    def __init__(self, job):
        super().__init__(job)
        logger.configure(job.folder, format_strs=[])
        self.autocast = networks.autocast(job.flags(), job.device)
        self.held = contextlib.ExitStack()  # where a network stands for good

    @functools.cached_property
    def loop(self):
        flags = self.job.flags(f"--init_from {self.job.weights}")
        model, diffusion = networks.build(flags.model, flags.diffusion)
        return starting.training_loop(flags, model, diffusion, self.dataset, "")

    @functools.cached_property
    def dataset(self):
        return run_util.open_dataset(self.job.flags().data, self.size)

    def checksum(self) -> int:
        """The sum of all pixels; the first call decodes them."""
        return int(self.dataset.squares(progress=False).sum(dtype="int64"))

    @property
    def training(self):
        return self.loop.model

    @property
    def chain(self):
        return self.loop.diffusion

    def predict(self, x, t):
        with self.autocast():
            return self.training(x, t)

    def follow(self, gradient: str):
        """Take the gradient's steps from now on."""
        self.loop.passes = choices.entry(choices.GRADIENTS, gradient).passes
        self.loop.follow = choices.bound(choices.GRADIENTS, gradient)

    def train_step(self):
        self.follow("adam")
        self.loop.run_step(self.images, {})

    def sam_step(self):
        self.follow("adam-sam")
        climbs = self.loop.climbs.num_climbs
        self.loop.run_step(self.images, {})
        if self.loop.climbs.num_climbs == climbs:
            raise RuntimeError("a step of SAM did not climb")

    def step(self, gradient: str = "adam", base: str = "adamw", look: bool = False):
        """A step along any gradient, by any optimizer, which stays; `look`: at its curvature."""
        self.follow(gradient)
        adamw, self.loop.opt = self.loop.opt, self.optimizer(base)
        self.loop.curvature_interval = int(look)
        self.loop.run_step(self.images, {})
        self.loop.opt, self.loop.curvature_interval = adamw, 0

    @functools.cache  # noqa: B019 - as long as the contender
    def optimizer(self, base: str):
        made = choices.bound(choices.OPTIMIZERS, base)
        return self.loop.opt if base == "adamw" else made(self.loop.weights, 1e-4, 0.0)

    def loaded_steps(self, count: int):
        """Training steps on batches of the loader."""
        self.follow("adam")
        for _ in range(count):
            self.loop.run_step(*next(self.loop.data))

    @functools.cached_property
    def sampler(self):
        # without data: quantizing would measure the loss on them, before and after
        more = f"--timestep_respacing {self.job.config.chain} --data_dir ''"
        flags = self.job.flags(more)
        model, diffusion = networks.from_checkpoint(self.job.weights, flags)
        self.held.enter_context(quantized.quantized(model, flags, self.job.folder))
        return model, generate.sampler(model, diffusion, flags)

    def network(self, x, t):
        with self.autocast():
            return self.sampler[0](x, t)

    def sample(self):
        self.sampler[1](range(self.batch))

    @functools.cached_property
    def subject(self):
        flags, path = self.job.flags(), self.job.weights
        images = functools.partial(sources.load_images, flags)
        network = networks.from_checkpoint(path, flags)
        return sources.subject_of("bench", path, *network, flags, images)

    def measure(self):
        """The losses of the subject's images at the weights as they stand."""
        return self.subject.measure().numpy()

    def perturb(self, draw: int):
        """One draw of weight noise and the way back, nothing measured."""
        move = curve.perturbation(perturb.gaussian, 1e-3, 0, draw)
        with perturb.at(self.subject.weights, move, self.subject.spare):
            pass

    @functools.cached_property
    def products(self):
        """The subject's products with the Hessian, by whether they are exact."""
        return {exact: self.subject.hessian_product(exact) for exact in (False, True)}

    def hessian_product(self, exact: bool = False):
        """H z, z of random signs: every number of weights has such."""
        return self.products[exact](hessian.signs(self.subject.num_weights, 0, 0).float()).numpy()

    def gradient(self):
        """The gradient of the mean that the subject's Hessian is of."""
        subject = self.subject
        losses = subject.headline_of(subject.draws) * subject.draws.weight
        torch.autograd.grad(losses.mean(), subject.weights)

    def flops(self) -> dict:
        """Useful FLOPs of a forward pass, and of one with its backward pass, of the batch.

        Counted with attention as plain products: torch counts none in its fused form on a CPU.
        """
        from torch.utils.flop_counter import FlopCounterMode

        flags = self.job.flags()
        model, _ = networks.build(flags.model, flags.diffusion)
        x, t = torch.zeros(1, *self.shape[1:]), torch.zeros(1)
        counts = {}
        with twice_differentiable():
            with FlopCounterMode(display=False) as counter:
                output = model(x, t)
            counts["forward"] = self.batch * counter.get_total_flops()
            with FlopCounterMode(display=False) as counter:
                output.sum().backward()
            counts["train"] = counts["forward"] + self.batch * counter.get_total_flops()
        return counts


class Plain(Flatdiff):
    """The same without what makes it fast: contiguous layout, attention by its formula."""

    def __init__(self, job):
        super().__init__(job)
        networks.place = lambda model: model.to(dist_util.dev())  # in this process alone

    def train_step(self):
        with twice_differentiable():
            super().train_step()

    def sample(self):
        with twice_differentiable():
            super().sample()
