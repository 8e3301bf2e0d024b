"""What programs written for guided-diffusion do with its package, and no more than that.

Run as `python client.py WHAT FOLDER`; FOLDER holds what WHAT needs, and gets what it makes.
"""

import argparse
import os
import sys

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel.distributed import DistributedDataParallel

from flatdiff.chain.resample import create_named_schedule_sampler
from flatdiff.fp16_util import MixedPrecisionTrainer
from flatdiff.image_datasets import load_data
from flatdiff.script_util import (
    NUM_CLASSES,
    add_dict_to_argparser,
    args_to_dict,
    classifier_and_diffusion_defaults,
    classifier_defaults,
    create_classifier,
    create_classifier_and_diffusion,
    create_model_and_diffusion,
    model_and_diffusion_defaults,
    sr_create_model_and_diffusion,
    sr_model_and_diffusion_defaults,
)
from flatdiff.train.train_util import TrainLoop, log_loss_dict, parse_resume_step_from_filename
from flatdiff.world import dist_util, logger

SIZE, BATCH = 8, 4
CHAIN = "--diffusion_steps 30 --timestep_respacing 3 --noise_schedule cosine "
NETWORK = "--num_channels 32 --num_res_blocks 1 --attention_resolutions 4 "
MODEL = f"{CHAIN}{NETWORK}--image_size {SIZE} --learn_sigma True --class_cond True"
CLASSIFIER = (
    f"--image_size {SIZE} --classifier_width 64 --classifier_depth 1 "
    "--classifier_attention_resolutions 4 "
)


def arguments(defaults, line):
    parser = argparse.ArgumentParser()
    add_dict_to_argparser(parser, dict(defaults))
    return args_to_dict(parser.parse_args(line.split()), defaults.keys())


def made(make, folder, name):
    """A network through a file, as from a checkpoint, and its chain."""
    model, diffusion = make
    path = os.path.join(folder, name)
    torch.save(model.state_dict(), path)
    model.load_state_dict(dist_util.load_state_dict(path, map_location="cpu"))
    return model.to(dist_util.dev()).eval(), diffusion


def network(folder):
    flags = arguments(model_and_diffusion_defaults(), MODEL)
    return made(create_model_and_diffusion(**flags), folder, "model.pt")


def gathered(tensor):
    parts = [torch.zeros_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts).numpy()


def save(folder, images, *rest):
    images = ((images + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    arrays = [gathered(array) for array in (images, *rest)]
    if dist.get_rank() == 0:
        np.savez(os.path.join(folder, "samples.npz"), *arrays)
    dist.barrier()


def sample(folder):
    model, diffusion = network(folder)
    model.convert_to_fp32()
    y = torch.randint(low=0, high=NUM_CLASSES, size=(BATCH,), device=dist_util.dev())
    shape = (BATCH, 3, SIZE, SIZE)
    images = diffusion.p_sample_loop(model, shape, clip_denoised=True, model_kwargs={"y": y})
    save(folder, images, y)


def guided_sample(folder):
    model, diffusion = network(folder)
    classifier = create_classifier(**arguments(classifier_defaults(), CLASSIFIER)).eval()

    def cond_fn(x, t, y=None):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            chosen = F.log_softmax(classifier(x, t), dim=-1)[range(len(x)), y.view(-1)]
            return torch.autograd.grad(chosen.sum(), x)[0] * 2.0

    y = torch.randint(low=0, high=NUM_CLASSES, size=(BATCH,), device=dist_util.dev())
    images = diffusion.ddim_sample_loop(
        lambda x, t, y=None: model(x, t, y),
        (BATCH, 3, SIZE, SIZE),
        clip_denoised=True,
        model_kwargs={"y": y},
        cond_fn=cond_fn,
        device=dist_util.dev(),
    )
    save(folder, images, y)


def nll(folder):
    model, diffusion = network(folder)
    data = load_data(
        data_dir=folder, batch_size=BATCH, image_size=SIZE, class_cond=True, deterministic=True
    )
    batch, cond = next(data)
    terms = diffusion.calc_bpd_loop(model, batch, clip_denoised=True, model_kwargs=cond)
    bits = terms["total_bpd"].mean() / dist.get_world_size()
    dist.all_reduce(bits)
    logger.log(f"bpd={bits.item()}")
    dist.barrier()


def super_res_sample(folder):
    line = f"{CHAIN}{NETWORK}--large_size 64 --small_size {SIZE}"
    flags = arguments(sr_model_and_diffusion_defaults(), line)
    model, diffusion = made(sr_create_model_and_diffusion(**flags), folder, "sr.pt")
    low_res = torch.zeros(1, 3, SIZE, SIZE)
    images = diffusion.p_sample_loop(model, (1, 3, 64, 64), model_kwargs={"low_res": low_res})
    save(folder, images)


def train(folder):
    flags = arguments(model_and_diffusion_defaults(), MODEL)
    model, diffusion = create_model_and_diffusion(**flags)
    data = load_data(data_dir=folder, batch_size=BATCH, image_size=SIZE, class_cond=True)
    TrainLoop(
        model=model.to(dist_util.dev()),
        diffusion=diffusion,
        data=data,
        batch_size=BATCH,
        microbatch=-1,
        lr=1e-4,
        ema_rate="0.9999",
        log_interval=1,
        save_interval=2,
        resume_checkpoint="",
        use_fp16=False,
        fp16_scale_growth=1e-3,
        schedule_sampler=create_named_schedule_sampler("uniform", diffusion),
        weight_decay=0.0,
        lr_anneal_steps=2,
    ).run_loop()


def classifier_train(folder, use_fp16=False):
    model, diffusion = create_classifier_and_diffusion(
        **arguments(classifier_and_diffusion_defaults(), CHAIN + CLASSIFIER)
    )
    step = parse_resume_step_from_filename("model000000.pt")
    dist_util.sync_params(model.parameters())
    trainer = MixedPrecisionTrainer(model=model, use_fp16=use_fp16, initial_lg_loss_scale=16.0)
    ddp = DistributedDataParallel(model, bucket_cap_mb=128)
    opt = torch.optim.AdamW(trainer.master_params, lr=3e-4)
    data = load_data(
        data_dir=folder, batch_size=BATCH, image_size=SIZE, class_cond=True, random_crop=True
    )
    sampler = create_named_schedule_sampler("uniform", diffusion)
    for _ in range(2):
        batch, extra = next(data)
        t, _ = sampler.sample(BATCH, dist_util.dev())
        logits = ddp(diffusion.q_sample(batch, t), timesteps=t)
        loss = F.cross_entropy(logits, extra["y"], reduction="none")
        log_loss_dict(diffusion, t, {"train_loss": loss.detach()})
        trainer.zero_grad()
        trainer.backward(loss.mean())
        trainer.optimize(opt)
        logger.logkv("step", step)
        logger.dumpkvs()
    weights = trainer.master_params_to_state_dict(trainer.master_params)
    torch.save(weights, os.path.join(logger.get_dir(), "classifier.pt"))
    dist.barrier()


def classifier_train_fp16(folder):
    classifier_train(folder, use_fp16=True)


if __name__ == "__main__":
    what, folder = sys.argv[1:]
    os.environ["OPENAI_LOGDIR"] = folder
    dist_util.setup_dist()
    logger.configure()
    globals()[what](folder)
