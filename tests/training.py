"""A small network, its data and its training loop."""

import itertools

import torch

from flatdiff import script_util
from flatdiff.chain.resample import create_named_schedule_sampler
from flatdiff.models import networks
from flatdiff.train.train_util import TrainLoop

SIZE, BATCH = 8, 4


def network(dropout=0.0, **flags):
    torch.manual_seed(7)
    model, diffusion = script_util.create_model_and_diffusion(
        **script_util.model_and_diffusion_defaults()
        | dict(
            image_size=SIZE,
            num_channels=32,
            num_res_blocks=1,
            channel_mult="1",
            attention_resolutions="4",
            learn_sigma=True,
            diffusion_steps=40,
            noise_schedule="cosine",
            dropout=dropout,
        )
        | flags
    )
    with torch.no_grad():  # zero-initialized layers would leave most gradients zero at first
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return networks.place(model), diffusion


def data(start):
    for n in itertools.count(start):
        g = torch.Generator().manual_seed(1000 + n)
        yield torch.rand(BATCH, 3, SIZE, SIZE, generator=g) * 2 - 1, {}


def loop(dropout=0.0, input_pertub=0.0, **kwargs):
    model, diffusion = network(dropout, input_pertub=input_pertub)
    if "schedule_sampler" in kwargs:
        kwargs["schedule_sampler"] = create_named_schedule_sampler(
            kwargs["schedule_sampler"], diffusion
        )
    defaults = dict(
        batch_size=BATCH,
        microbatch=-1,
        lr=1e-3,
        ema_rate="0.9",
        log_interval=1000,
        save_interval=1000,
        resume_checkpoint="",
        end_step=6,
        seed=3,
    )
    return TrainLoop(model=model, diffusion=diffusion, data=data, **defaults | kwargs)


def train(steps, **kwargs):
    trained = loop(**kwargs)
    for _ in range(steps):
        trained.run_step(*next(trained.data))
    return trained


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def close(a, b, **tolerance):
    return all(torch.allclose(x, y, **tolerance) for x, y in zip(a, b, strict=True))
