"""Draw images guided by a noisy classifier into samples_NxHxWx3.npz, and a grid as PNG.

    mpirun -n 2 python scripts/classifier_sample.py --model_path runs/a/ema_0.9999_200000.pt \\
        --classifier_path runs/c/model150000.pt --classifier_scale 2 --num_samples 50000

Labels are random, or --class_labels. Image i is a function of (--seed, i). A run that was killed
goes on where it was. Both architectures are read from config.json beside each checkpoint.
"""

from flatdiff.flags import config


def main():
    config.run(
        __doc__,
        sample,
        unread="train",
        sample=config.SampleFlags,
        guidance=config.GuidanceFlags,
        run=config.RunFlags,
        diffusion=config.DiffusionFlags,
        model=config.ModelFlags,
        classifier=config.ClassifierFlags,
        train=config.TrainFlags,
    )


def sample(flags):
    from flatdiff.models import generate, networks, run_util
    from flatdiff.train import classifier_util
    from flatdiff.world import logger

    folder = run_util.open_log(flags)
    logger.log(f"loading checkpoint: {flags.sample.model_path}")
    model, diffusion = networks.from_checkpoint(flags.sample.model_path, flags)
    logger.log(f"loading classifier: {flags.guidance.classifier_path}")
    labels, known, guide = classifier_util.guidance(flags, model, diffusion)
    sample = generate.sampler(model, diffusion, flags, labels, guide=guide)
    how = {"image_size": model.image_size, "known": known}
    how["steps"] = diffusion.num_timesteps
    generate.save_samples(sample, flags, folder, flags.guidance.classifier_path, **how)


if __name__ == "__main__":
    main()
