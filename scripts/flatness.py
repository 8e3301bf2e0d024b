"""Measure how flat the loss is around one checkpoint or several: table, json, csv and pictures.

    mpirun -n 2 python scripts/flatness.py --data_dir DIR --flatness LPF \\
        --model_path "runs/adam/ema_0.9999_200000.pt,runs/sam/ema_*.pt"

Networks are compared on the same images, timesteps, noise and weight perturbations, all functions
of --seed; with --quant 4, around weights that are rounded to 4 bits. With the same --log_dir, an
interrupted run goes on where it was. The architecture is read from config.json beside each
checkpoint.
"""

from flatdiff.flags import config


def main():
    config.run(
        __doc__,
        measure,
        check=check,
        unread="train",
        flatness=config.FlatnessFlags,
        quant=config.RoundingFlags,
        run=config.RunFlags,
        data=config.DataFlags,
        model=config.ModelFlags,
        diffusion=config.DiffusionFlags,
        train=config.TrainFlags,
    )


def check(flags):
    from flatdiff.measure import run

    run.check(flags)


def measure(flags):
    from flatdiff.measure import run
    from flatdiff.models import dtypes, run_util
    from flatdiff.world import dist_util, logger

    check(flags)
    folder = run_util.open_log(flags, auto=dtypes.OF_MEASURES)
    record = run.flatness(flags, folder)
    if dist_util.rank() == 0:
        for path in run.write_flatness(flags, record, folder):
            logger.log(path)


if __name__ == "__main__":
    main()
