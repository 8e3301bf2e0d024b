"""Train a super-resolution model: large images, given small ones.

    mpirun -n 2 python scripts/super_res_train.py --data_dir DIR --large_size 256 --small_size 64 \\
        --end_step 200000

The small images are made from the large ones. Files and logs are those of image_train.py, and the
same command with --resume auto goes on where it was stopped.
"""

from flatdiff.flags import config


def main():
    config.run(
        __doc__,
        train,
        run=config.RunFlags,
        data=config.DataFlags,
        super_res=config.SuperResFlags,
        train=config.TrainFlags,
        model=config.ModelFlags,
        diffusion=config.DiffusionFlags,
    )


def train(flags):
    from flatdiff import rng
    from flatdiff.models import networks, run_util, super_res
    from flatdiff.train import starting

    resume_checkpoint = starting.start_training(flags)
    large, small = flags.super_res.large_size, flags.super_res.small_size
    num_classes = flags.model.num_classes if flags.model.class_cond else None
    dataset = starting.training_data(flags, resume_checkpoint, large, num_classes)
    rng.seed_all(flags.run.seed)
    model, diffusion = networks.build_super_res(flags.model, flags.super_res, flags.diffusion)
    loop = starting.training_loop(
        flags,
        model,
        diffusion,
        dataset,
        resume_checkpoint,
        conditions=lambda images: {"low_res": super_res.shrink(images, small)},
        sample=run_util.preview(flags, dataset, super_res.from_dataset(dataset, small, 64)),
    )
    starting.describe(flags, loop, dataset)
    loop.run_loop()


if __name__ == "__main__":
    main()
