"""How many bits per dimension images cost: the variational bound of a checkpoint on a folder.

    mpirun -n 2 python scripts/image_nll.py --model_path runs/a/ema_0.9999_200000.pt \\
        --data_dir DIR --num_samples 1000 --batch_size 100

Writes vb_terms.npz, mse_terms.npz and xstart_mse_terms.npz: means over images at each timestep,
from the last down to 0. The architecture is read from config.json beside the checkpoint.
"""

from flatdiff.flags import config


def main():
    config.run(
        __doc__,
        measure,
        unread="train",
        nll=config.NllFlags,
        run=config.RunFlags,
        data=config.DataFlags,
        diffusion=config.DiffusionFlags,
        model=config.ModelFlags,
        train=config.TrainFlags,
    )


def measure(flags):
    from flatdiff.measure import nll
    from flatdiff.models import dtypes, networks, run_util
    from flatdiff.world import dist_util

    f, folder = flags.nll, run_util.open_log(flags, auto=dtypes.OF_MEASURES)
    model, diffusion = networks.from_checkpoint(f.model_path, flags)
    nll.check(diffusion)
    record = nll.begun(flags, folder)
    dataset = run_util.open_dataset(flags.data, model.image_size, model.num_classes, model.classes)
    total, terms = nll.evaluate(
        model,
        diffusion,
        dataset,
        num_samples=f.num_samples,
        batch_size=f.batch_size,
        clip_denoised=f.clip_denoised,
        seed=flags.run.seed,
        autocast=networks.autocast(flags, dist_util.dev()),
    )
    nll.report(total, terms, folder, record)


if __name__ == "__main__":
    main()
