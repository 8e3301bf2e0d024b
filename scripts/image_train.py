"""Train a diffusion model on a folder of images.

    mpirun -n 2 python scripts/image_train.py --data_dir DIR --image_size 32 --end_step 200000 \\
        --optimizer adam-sam --rho 0.1

Writes modelNNNNNN.pt, ema_RATE_NNNNNN.pt, optNNNNNN.pt (N: optimizer steps done), config.json and
logs into --log_dir. The same command with --resume auto goes on where it was stopped.
"""

from flatdiff.flags import config


def main():
    config.run(
        __doc__,
        train,
        check=check,
        run=config.RunFlags,
        data=config.DataFlags,
        train=config.TrainFlags,
        model=config.ModelFlags,
        diffusion=config.DiffusionFlags,
        evaluation=config.EvalFlags,
    )


def check(flags):
    from flatdiff.train import starting

    starting.check(flags)


def train(flags):
    from flatdiff import rng
    from flatdiff.measure import evaluation
    from flatdiff.models import networks, run_util
    from flatdiff.train import starting

    resume_checkpoint = starting.start_training(flags)
    size = flags.model.image_size
    num_classes = flags.model.num_classes if flags.model.class_cond else None
    dataset = starting.training_data(flags, resume_checkpoint, size, num_classes)
    rng.seed_all(flags.run.seed)
    model, diffusion = networks.build(flags.model, flags.diffusion)
    loop = starting.training_loop(
        flags,
        model,
        diffusion,
        dataset,
        resume_checkpoint,
        sample=run_util.preview(flags, dataset),
        **evaluation.on_the_fly(flags, dataset),
    )
    starting.describe(flags, loop, dataset)
    loop.run_loop()


if __name__ == "__main__":
    main()
