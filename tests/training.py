"""The training loop of the small network, and its data."""

import itertools

import small
import torch

from flatdiff.chain.resample import create_named_schedule_sampler
from flatdiff.models import networks
from flatdiff.train.train_util import TrainLoop

SIZE, BATCH = 8, 4


def network(dropout=0.0, **flags):
    model, diffusion = small.network(7, dropout=dropout, **flags)
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
