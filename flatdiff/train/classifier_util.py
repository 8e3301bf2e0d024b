"""The noisy classifier: what it is trained on, and how it guides (Dhariwal & Nichol 2021, sec. 4).

x_t -> log p(y | x_t, t);  guidance is the gradient in x_t of scale * log p(y | x_t, t)
"""

import dataclasses
import functools
from contextlib import nullcontext

import torch
import torch.nn.functional as F

from ..chain.gaussian_diffusion import GaussianDiffusion
from ..chain.resample import draw
from ..data import classes
from ..models import generate, networks, run_util
from ..rng import VALIDATE, generator
from ..store import checkpoint
from ..world import dist_util
from . import starting
from .train_util import log_terms

OF_NOISE = "diffusion_steps", "noise_schedule"  # what x_t and t are


class Classification:
    """What TrainLoop minimizes: the cross-entropy of images, noised or (all at t 0) clean."""

    input_pertub = 0.0

    def __init__(self, diffusion, noised=True):
        self.diffusion, self.noised = diffusion, noised
        self.num_timesteps, self.density = diffusion.num_timesteps, diffusion.density

    def training_losses(self, model, x_start, t, model_kwargs, noise, input_noise=None):
        """Per-image terms [N]: loss in nats; acc@1 and acc@5, 1.0 where y is among the best."""
        if not self.noised:
            t = torch.zeros_like(t)
        x_t = self.diffusion.q_sample(x_start, t, noise) if self.noised else x_start
        at_t = self.diffusion._wrap_model(model)
        logits = at_t(x_t, self.diffusion._scale_timesteps(t)).float()
        y = model_kwargs["y"]
        best = logits.detach().topk(min(5, logits.shape[1])).indices == y[:, None]
        return {
            "loss": F.cross_entropy(logits, y, reduction="none"),
            "acc@1": best[:, 0].float(),
            "acc@5": best.any(dim=1).float(),
        }


def loop_arguments(flags, dataset):
    """What TrainLoop is told for a ClassifierTrainFlags and a ClassifierFlags, on the dataset."""
    train = flags.train
    if flags.model.class_dropout:
        raise ValueError("a classifier is told every label: leave --class_dropout at 0")
    end_step = train.end_step or train.iterations
    return {
        "end_step": end_step,
        "lr_anneal_steps": end_step if train.anneal_lr else train.lr_anneal_steps,
        "use_fp16": flags.classifier.classifier_use_fp16 or flags.model.use_fp16,
        "evaluate": validation(flags, dataset) if train.val_data_dir else None,
        "prefix": "train_",
    }


def validation(flags, trained):
    """A function of TrainLoop that logs val_loss, val_acc@1 and val_acc@5 of the step's batch.

    Labels are those of the dataset `trained`, by name.
    """
    data = dataclasses.replace(flags.data, data_dir=flags.train.val_data_dir)
    size, num_classes = flags.classifier.image_size, flags.classifier.num_classes
    dataset = run_util.open_dataset(data, size, num_classes, trained.classes)
    batches = starting.batches(flags, dataset, random_crop=False)

    def evaluate(loop):
        images, cond = batches[loop.step]
        with torch.no_grad(), loop.autocast():
            one = draw(
                loop.schedule_sampler,
                images.to(loop.device),
                {"y": cond["y"].to(loop.device)},
                generator(loop.seed, VALIDATE, loop.step, device=loop.device),
                shard=dist_util.rank(),
                num_shards=dist_util.world_size(),
            )
            terms = one.losses(loop.diffusion, loop.model.eval())
        loop.model.train()
        weighted = {name: values * one.weight for name, values in terms.items()}
        log_terms(weighted, one.t, loop.diffusion.num_timesteps, "val_")

    return evaluate


def guidance(flags, model, diffusion):
    """(labels, classes, guide): random labels, what they mean, and labels [N] -> cond_fn.

    ValueError if the classifier and the network have other classes, images of other sizes or other
    noise, or if the network's chain is none of betas, whose noise a classifier knows.
    """
    if not isinstance(diffusion, GaussianDiffusion):
        raise ValueError(
            "a classifier guides --objective ddpm alone, of whose noisy images it knows the class: "
            "train this network with --class_dropout, and sample it with --guidance_scale"
        )
    build = functools.partial(networks.build_classifier, diffusion_flags=flags.diffusion)
    how = {"groups": ("classifier",), "flag": "classifier_path"}
    classifier, _ = networks.from_checkpoint(flags.guidance.classifier_path, flags, build, **how)
    num_classes = len(list(classifier.parameters())[-1])  # the last bias is the logits'
    if model.num_classes not in (None, num_classes):
        raise ValueError(
            f"the classifier knows {num_classes} classes and the network {model.num_classes}: "
            "give two checkpoints of the same classes"
        )
    if classifier.image_size != model.image_size:
        raise ValueError(
            f"the classifier knows images of side {classifier.image_size} and the network makes "
            f"some of side {model.image_size}: give two checkpoints of the same image_size"
        )
    _must_know_noise(flags.guidance.classifier_path, flags)
    known = classes.common(classifier.classes, model.classes)
    dtype = "fp16" if flags.classifier.classifier_use_fp16 else flags.run.dtype
    how = flags.guidance.classifier_scale, networks.casting(dtype, dist_util.dev())

    def guide(labels):
        return gradient(classifier.requires_grad_(False), labels, *how)

    return generate.labels_of(flags, num_classes, known), known, guide


def _must_know_noise(path, flags):
    """ValueError where the classifier's own flags say that it knows other noisy images than the
    network's, or clean ones; one of guided-diffusion says nothing."""
    known, source = checkpoint.config_of(path)
    if not known.get("train", {}).get("noised", True):
        raise ValueError(
            f"the classifier of {source} was trained on clean images (--noised False): guide by "
            "one that was trained with --noised True"
        )
    chain = networks.flags_of(flags.sample.model_path, flags)["diffusion"]
    rescaled = ["rescale_timesteps"] if chain.diffusion_steps != 1000 else []  # to 1000
    for name in (*OF_NOISE, *rescaled):
        own = getattr(chain, name)
        theirs = known.get("diffusion", {}).get(name, own)
        if theirs != own:
            raise ValueError(
                f"the classifier of {source} was trained with --{name} {theirs} and the network "
                f"with --{name} {own}: train a classifier with the network's"
            )


def gradient(classifier, labels, scale, autocast=nullcontext):
    """cond_fn(x, t): the gradient in x of scale * log p(labels | x, t), shaped as x."""

    def cond_fn(x, t, **_):
        with torch.enable_grad(), autocast():
            x = x.detach().requires_grad_()
            log_p = F.log_softmax(classifier(x, t).float(), dim=1)
            chosen = log_p.gather(1, labels.to(x.device)[:, None]).sum()
            return torch.autograd.grad(chosen, x)[0] * scale

    return cond_fn
