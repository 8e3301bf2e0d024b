"""TrainLoop: `run_step` is the chapter, one line a sentence; the rest is when to log, save, stop.

Gradient (plain, SAM, ASAM) x average (EMA, SWA) x input perturbation are independent of each
other, and of the optimizer that takes the steps. A step's randomness is a function of
(seed, step), so a resumed run is the run that was never stopped.
"""

import functools
import math
import time
from contextlib import contextmanager, nullcontext

import torch

from ..bars import Bar
from ..chain.resample import UniformSampler, draw
from ..data import image_files
from ..flags import choices
from ..flags.choices import GRADIENTS, OPTIMIZERS
from ..flags.config import TrainFlags
from ..models.networks import casting
from ..models.rounding_log import ClimbLog
from ..rng import DROPOUT, TRAIN, generator, seed_all
from ..store import restore, steps
from ..store.checkpoint import parse_resume_step_from_filename
from ..weights.averaging import EMA, caution
from ..weights.perturb import at, replace
from ..world import agreement, dist_util, logger, stopping
from ..world.arithmetic import arithmetic
from . import climbing, curvature, graphs, train_state
from .averages import averages_of, snapshot
from .climbing import num_ascent
from .learning_rate import end_of, learning_rate
from .loss_scale import LossScale
from .train_hooks import find_ema_checkpoint, find_resume_checkpoint, get_blob_logdir, refuse_unused
from .train_log import log_loss_dict, log_rises, log_terms, log_use

LAST = "saves and ends after a step"

__all__ = ["LossScale", "TrainLoop", "learning_rate", "log_loss_dict", "log_terms"]
__all__ += ["find_ema_checkpoint", "find_resume_checkpoint", "get_blob_logdir"]
__all__ += ["parse_resume_step_from_filename"]


class TrainLoop:
    """guided-diffusion's TrainLoop, and from `end_step` on, flatdiff's.

    `data`: an iterator of (batch [N, 3, H, W] in [-1, 1], dict), or a function of the first step
    that returns one. `batch_size` is per rank. `sample`: a function of the network that returns
    uint8 images [N, H, W, 3], for the grid drawn every `sample_interval` steps. `evaluate`: a
    function of the loop that logs more values, called by all ranks every `eval_interval` steps.
    `class_dropout`: the share of labels that a network with a null label is not told.
    `prefix`: of the logged names of the terms.
    """

    def __init__(
        self,
        *,
        model,
        diffusion,
        data,
        schedule_sampler=None,
        use_fp16=False,
        dtype="fp32",
        seed=0,
        deterministic=False,
        class_dropout=0.0,
        sample=None,
        evaluate=None,
        eval_interval=0,
        prefix="",
        **train,
    ):
        """`train`: values of TrainFlags by name; those that are not given have its defaults."""
        train = TrainFlags(**train)
        vars(self).update(vars(train))
        self.model, self.diffusion = model, diffusion
        self.seed, self.deterministic, self.prefix = seed, deterministic, prefix
        self.class_dropout, self.null_label = class_dropout, getattr(model, "num_classes", None)
        self.global_batch = self.batch_size * dist_util.world_size()
        self.microbatch = self.microbatch if self.microbatch > 0 else self.batch_size
        self.sample_interval, self.sample = self.sample_interval if sample else 0, sample
        self.eval_interval, self.evaluate = eval_interval if evaluate else 0, evaluate
        self.schedule_sampler = schedule_sampler or UniformSampler(diffusion)
        self.schedule_sampler.gather = dist_util.all_gather_cat
        self.num_ascent = num_ascent(self.sam_share, self.batch_size)
        self.end_step = end_of(train)
        self.dtype = "fp16" if use_fp16 else dtype
        self._begin(train, self.dtype)
        self.one_pass = graphs.passes_of(self) if self.cuda_graphs else self._one_pass
        self.ddp_model = model if self.cuda_graphs else dist_util.data_parallel(model)
        self.data = data(self.step) if callable(data) else data
        self.history = []  # per-image terms of each step since the last log, on the device
        self.rises = []  # of the losses to SAM's ridge, likewise
        self.begun = time.monotonic()

    def _begin(self, train, dtype):
        """Weights, optimizer and averages: new ones, or those of the checkpoint gone on from."""
        model = self.model
        self.names = [name for name, _ in model.named_parameters()]
        self.weights = list(model.parameters())
        self.device = self.weights[0].device
        self.autocast = casting(dtype, self.device)
        gradient = choices.entry(GRADIENTS, self.optimizer)
        rho = self.rho if gradient.radius else None
        self.climbs = ClimbLog(model, dtype, self.device, rho)
        self.scale = LossScale(self.fp16_scale_growth) if dtype == "fp16" else None
        self.passes = gradient.passes
        self.follow = choices.bound(GRADIENTS, self.optimizer)
        optimizer = choices.bound(OPTIMIZERS, self.base_optimizer)
        self.opt = optimizer(self.weights, lr=self.lr, weight_decay=self.weight_decay)
        self.memory = {}  # of the gradient: lists of tensors, by name
        self.same_masks = climbing.same_masks(self)
        self.run, self.snapshots = "", []  # what its saved steps name it; steps
        climbing.refuse(self)
        self.step = self.resume_step = self.posthoc_run = 0
        self.resume_checkpoint = find_resume_checkpoint() or self.resume_checkpoint
        if source := self.resume_checkpoint or self.init_from:
            restore.load_weights(model, dist_util.load_state_dict(source), source)
        dist_util.sync_params(self.weights)
        self.averages = averages_of(train, self.weights)
        if self.resume_checkpoint:
            train_state.resume(self, self.resume_checkpoint, find_ema_checkpoint)
        self.resume_step = self.step
        self.run = self.run or steps.run_of(self.weights, self.seed)

    def __init_subclass__(cls):
        refuse_unused(cls)

    @property
    def emas(self):
        """The exponential moving averages by their rates."""
        return {a.rate: a for a in self.averages.values() if isinstance(a, EMA)}

    @property
    def swa(self):
        return self.averages.get("swa")

    def learning_rate(self, step):
        """The rate of update number `step`, from 0."""
        return learning_rate(
            step,
            lr=self.lr,
            anneal_steps=self.lr_anneal_steps,
            window=self.swa_window if self.swa else 0,
            start=self.swa.start if self.swa else 0,
            lr_min=self.swa_lr_min,
        )

    @train_state.tells_what_is_whole(lambda: get_blob_logdir())
    def run_loop(self):
        """Train until `end_step`; log, draw samples and save on the way, and save at the end, also
        where this process is asked to end before (`stopping`)."""
        if self.step >= self.end_step:
            logger.log(
                f"nothing to do: step {self.step} is not below end_step {self.end_step}; "
                "give a larger --end_step to go on"
            )
            return
        total = None if self.end_step == math.inf else self.end_step
        for rate in self.emas if total else ():
            logger.caution(caution(rate, total))
        ending = agreement.Ending()
        stopping.reserve(train_state.seconds_to_save(self))
        bar = Bar(total=total, initial=self.step, desc="training", unit="step")
        how = arithmetic(tf32=True, deterministic=self.deterministic)
        with bar, how, stopping.deferred(LAST):
            while self.step < self.end_step:
                self.run_step(*next(self.data))
                bar.update()
                last = self.step >= self.end_step
                stopped = ending() and not last
                if not stopped and self.due(self.eval_interval):
                    with bar.paused():
                        self.evaluate(self)
                if self.due(self.log_interval, last or stopped):
                    bar.set_postfix(self.log_step(bar.lap()))
                with bar.paused():
                    if not stopped and self.due(self.sample_interval, last):
                        self.draw_samples()
                    if self.due(self.posthoc_ema, last):
                        snapshot(self, get_blob_logdir())
                    if self.due(self.save_interval, last or stopped):
                        self.save()
                if stopped:
                    train_state.leave(self)

    def due(self, interval, last=False):
        """Whether it is time for what is done each `interval` steps (0: never), and at the last."""
        return interval and (last or self.step % interval == 0)

    def run_step(self, batch, cond):
        """One optimizer step on this rank's part of the global batch."""
        batch_draw = draw(
            self.schedule_sampler,
            batch.to(self.device, non_blocking=True),
            {k: v.to(self.device, non_blocking=True) for k, v in cond.items()},
            generator(self.seed, TRAIN, self.step, device=self.device),
            shard=dist_util.rank(),
            num_shards=dist_util.world_size(),
            input_pertub=self.diffusion.input_pertub,
            class_dropout=self.class_dropout,
            null_label=self.null_label,
        )
        seen, terms = self.gradient(batch_draw)
        with curvature.watched(self, batch_draw):
            norm, taken = self.optimize()
        self.average(taken)
        self.schedule_sampler.update_with_local_losses(seen.t, terms["loss"])
        weighted = {k: v * seen.weight for k, v in terms.items()}
        self.history.append({"t": seen.t, "grad_norm": norm[None], **weighted})
        self.step += 1

    def gradient(self, batch_draw):
        """Leave the gradient in `.grad`; returns the loss terms per image, and of which draws.

        They are those of the first pass: at the weights (of a climb in one pass: where it went).
        """
        closure = functools.partial(self.forward_backward, batch_draw)
        since = self.step - self.sam_start
        if self.rho == 0 or since < 0 or since % self.sam_every:
            return batch_draw, closure()
        seen = batch_draw.slice(0, self.num_ascent) if self.passes > 1 else batch_draw
        return seen, climbing.followed(self, closure, seen)

    def forward_backward(self, batch_draw, sync=True):
        """The mean gradient of the batch over this rank, or with `sync` over all ranks."""
        seed_all(self.seed, DROPOUT, self.step, dist_util.rank())
        return self.one_pass(batch_draw, sync)

    def _one_pass(self, batch_draw, sync=True):
        self.opt.zero_grad()
        parts = batch_draw.split(self.microbatch)
        terms = []
        for part in parts:
            reduce = sync and part is parts[-1]
            with nullcontext() if reduce else dist_util.no_sync(self.ddp_model):
                with self.autocast():
                    terms.append(part.losses(self.diffusion, self.ddp_model))
                loss = (terms[-1]["loss"] * part.weight).sum() / len(batch_draw.t)
                (loss * self.scale.factor if self.scale else loss).backward()
        return {k: torch.cat([part[k].detach() for part in terms]) for k in terms[0]}

    def optimize(self):
        """One step of the optimizer: (norm of the gradient, False if fp16 overflowed)."""
        grads = [w.grad for w in self.weights if w.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if self.scale:
            norm = norm / self.scale.factor
            torch._foreach_div_(grads, self.scale.factor)
            if not self.scale.update(math.isfinite(norm)):
                return norm, False
        for group in self.opt.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.opt.step()
        return norm, True

    def average(self, taken):
        for average in self.averages.values():
            if average.due(self.step + 1, taken):
                average.update(self.weights)

    def log_step(self, rate):
        """Means since the last log, over all ranks; returns what the progress bar shows.

        `rate`: steps a second, or None."""
        history = {k: torch.cat([h[k] for h in self.history]) for k in self.history[0]}
        self.history = []
        norms, t = history.pop("grad_norm"), history.pop("t")
        logger.logkv_mean("grad_norm", norms.mean(), len(norms))
        log_terms(history, t, self.diffusion.num_timesteps, self.prefix)
        logger.logkv("param_norm", torch.stack(torch._foreach_norm(self.weights)).norm().item())
        logger.logkv("step", self.step)
        logger.logkv("samples", self.step * self.global_batch)
        logger.logkv("lr", self.opt.param_groups[0]["lr"])
        if self.scale:
            logger.logkv("lg_loss_scale", self.scale.lg)
        log_rises(self.rises)
        self.rises = []
        log_use(self.begun, rate and rate * self.global_batch, self.device)
        logged = logger.dumpkvs(dist_util.all_reduce_sum)
        self.climbs.due = True
        loss = logged[f"{self.prefix}loss"]
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {self.step}: training has diverged. Go on "
                "from an earlier checkpoint with a lower --lr or --rho, or with --dtype fp32"
            )
        stopping.reserve(1 / rate if rate else 0.0)
        images = {"images/s": f"{rate * self.global_batch:.4g}"} if rate else {}
        return {"loss": f"{loss:.4g}", **images}

    @contextmanager
    def averaged(self):
        """Yields the network in eval mode, at the weights of the first EMA if there is one."""
        ema = next(iter(self.emas.values()), None)
        with at(self.weights, replace(ema.weights)) if ema else nullcontext():
            yield self.model.eval()
        self.model.train()

    def draw_samples(self):
        """A grid from the first EMA (or the weights), in the log folder; rank 0 alone."""
        if dist_util.rank() > 0:
            return
        bar = Bar(total=100, desc="a grid of samples", unit="%")
        with self.averaged() as model, bar, bar.part(100):
            images = self.sample(model)
        path = f"{logger.get_dir()}/samples_{self.step:06d}.png"
        logger.picture("samples", image_files.save_grid(images, path), self.step)
        logger.log(f"drew {path}")

    def save(self):
        """Write the run into the log folder, from rank 0, if the ranks have the same weights."""
        start = time.monotonic()
        agreement.check(self.weights, f"at step {self.step}")
        if dist_util.rank() == 0:
            train_state.save(self, get_blob_logdir())
        stopping.reserve(time.monotonic() - start)
