"""Train a diffusion model on a folder of images.

    mpirun -n 2 python scripts/image_train.py --data_dir DIR --image_size 32 --end_step 200000 \\
        --optimizer adam-sam --rho 0.1

Writes modelNNNNNN.pt, ema_RATE_NNNNNN.pt, optNNNNNN.pt (N: optimizer steps done), config.json and
logs into --log_dir. The same command with --resume auto goes on where it was stopped.
"""

import dataclasses

from flatdiff import config


def main():
    flags = config.parse(
        __doc__,
        run=config.RunFlags,
        data=config.DataFlags,
        train=config.TrainFlags,
        model=config.ModelFlags,
        diffusion=config.DiffusionFlags,
    )
    from flatdiff import dist_util

    with dist_util.session():
        train(flags)


def train(flags):
    import torch

    from flatdiff import dist_util, image_datasets, run_util, script_util
    from flatdiff.resample import create_named_schedule_sampler
    from flatdiff.train_util import TrainLoop

    train, run = flags.train, flags.run
    resume_checkpoint = run_util.start_training(flags)
    dataset = image_datasets.ImageDataset(
        flags.data.data_dir, flags.model.image_size, flags.model.class_cond, flags.data.class_from
    )
    run_util.check_classes(dataset, flags.model)

    torch.manual_seed(run.seed)
    model, diffusion = script_util.build(
        dataclasses.replace(flags.model, use_fp16=False), flags.diffusion
    )
    script_util.place(model)
    if run.compile:
        model.compile()

    batches = image_datasets.Batches(
        dataset,
        train.batch_size,
        seed=run.seed,
        shard=dist_util.rank(),
        num_shards=dist_util.world_size(),
        random_crop=train.random_crop,
        random_flip=train.random_flip,
    )
    loop = TrainLoop(
        model=model,
        diffusion=diffusion,
        data=lambda start: image_datasets.loader(batches, start, flags.data.num_workers),
        schedule_sampler=create_named_schedule_sampler(train.schedule_sampler, diffusion),
        resume_checkpoint=resume_checkpoint,
        use_fp16=flags.model.use_fp16,
        dtype=run.dtype,
        seed=run.seed,
        sample=run_util.preview(flags),
        **run_util.loop_arguments(train),
    )
    run_util.describe(flags, loop, dataset)
    loop.run_loop()


if __name__ == "__main__":
    main()
