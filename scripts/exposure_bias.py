"""Measure how far the sampling chain leads checkpoints from the inputs of their training.

    python scripts/exposure_bias.py --data_dir DIR --timestep_respacing 20 \\
        --model_path runs/adam/ema_0.9999_200000.pt,runs/adam-sam/ema_0.9999_200000.pt \\
        --prior_shift 0.1:1,0.2:1,0:1.1

Writes exposure_bias.json, .csv and .png into --log_dir: at each timestep, the norm of the predicted
noise on noised images (training) and along the chain (sampling: as the sampler takes it, so after
--eps_scaler; output: as the network gives it), the gap, and delta_t. With --prior_shift, pairs
mean:deviation at which the chain begins instead of 0:1, also prior_shift.csv and .png.
"""

from flatdiff.flags import config


def main():
    config.run(
        __doc__,
        measure,
        check=check,
        unread="train",
        exposure=config.ExposureFlags,
        quant=config.RoundingFlags,
        run=config.RunFlags,
        data=config.DataFlags,
        model=config.ModelFlags,
        diffusion=config.DiffusionFlags,
        train=config.TrainFlags,
    )


def check(flags):
    from flatdiff.measure import run

    run.check_exposure(flags)


def measure(flags):
    from flatdiff.measure import run
    from flatdiff.models import dtypes, run_util
    from flatdiff.world import dist_util, logger

    check(flags)
    folder = run_util.open_log(flags, auto=dtypes.OF_MEASURES)
    record = run.exposure(flags, folder)
    if dist_util.rank() == 0:
        for path in run.write_exposure(flags, record, folder):
            logger.log(path)


if __name__ == "__main__":
    main()
