"""Draw images from a checkpoint into samples_NxHxWx3.npz, for a FID, and a grid as PNG.

    mpirun -n 2 python scripts/image_sample.py --model_path runs/a/ema_0.9999_200000.pt \\
        --num_samples 50000 --batch_size 500 --timestep_respacing 100

Image i is a function of (--seed, i), whatever the batch size and the number of ranks. A run that
was killed goes on where it was. The architecture is read from config.json beside the checkpoint.
"""

from flatdiff.flags import config


def main(description=__doc__, quant=config.QuantFlags):
    config.run(
        description,
        sample,
        check=check,
        unread="train",
        sample=config.SampleFlags,
        quant=quant,
        run=config.RunFlags,
        diffusion=config.DiffusionFlags,
        model=config.ModelFlags,
        train=config.TrainFlags,
        data=config.DataFlags,
    )


def check(flags):
    from flatdiff.measure import quantized
    from flatdiff.models import generate

    generate.check(flags)
    quantized.check(flags)


def sample(flags):
    from flatdiff.measure import quantized
    from flatdiff.models import generate, networks, run_util
    from flatdiff.world import logger

    check(flags)
    folder = run_util.open_log(flags)
    logger.log(f"loading checkpoint: {flags.sample.model_path}")
    model, diffusion = networks.from_checkpoint(flags.sample.model_path, flags)
    logger.log(f"timesteps: {diffusion.num_timesteps} of {diffusion.original_num_steps}")
    with quantized.quantized(model, flags, folder) as (flags.quant, made_of):
        sample = generate.sampler(model, diffusion, flags)
        how = {"image_size": model.image_size, "known": model.classes}
        how |= {"steps": diffusion.num_timesteps, **made_of}
        generate.save_samples(sample, flags, folder, suffix=quantized.suffix(flags.quant), **how)


if __name__ == "__main__":
    main()
