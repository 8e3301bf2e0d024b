"""Enlarge the samples of a base model into samples_NxHxWx3.npz, and a grid as PNG.

    mpirun -n 2 python scripts/super_res_sample.py --model_path runs/sr/ema_0.9999_200000.pt \\
        --base_samples runs/a/samples_50000x64x64x3.npz --num_samples 50000 --batch_size 100

Image i enlarges row i, with its label, and its noise is a function of (--seed, i). A run that was
killed goes on where it was. The architecture is read from config.json beside the checkpoint.
"""

from flatdiff.flags import config


def main():
    config.run(
        __doc__,
        sample,
        unread="train",
        sample=config.SampleFlags,
        base=config.BaseFlags,
        run=config.RunFlags,
        diffusion=config.DiffusionFlags,
        super_res=config.SuperResFlags,
        model=config.ModelFlags,
        train=config.TrainFlags,
    )


def sample(flags):
    from flatdiff.models import generate, networks, run_util, super_res
    from flatdiff.world import logger

    folder = run_util.open_log(flags)
    model, diffusion = networks.from_checkpoint(
        flags.sample.model_path,
        flags,
        networks.build_super_res,
        groups=("model", "super_res", "diffusion"),
    )
    base = super_res.BaseSamples(flags.base.base_samples, model.small_size)
    logger.log(f"enlarging {len(base.images)} images of {flags.base.base_samples}")
    sample = generate.sampler(
        model,
        diffusion,
        flags,
        labels=base.labels_for(flags, model),
        conditions=base.low_res,
    )
    how = {"image_size": model.image_size, "known": model.classes}
    how["steps"] = diffusion.num_timesteps
    generate.save_samples(sample, flags, folder, flags.base.base_samples, **how)


if __name__ == "__main__":
    main()
