"""Compare what is done about exposure bias in sampling: epsilon scaling, time shift, other models.

    python scripts/exposure_bench.py --data_dir DIR --features digits --log_dir OUT \\
        --model_path runs/adam/ema_0.9999_200000.pt,runs/sam/ema_0.9999_200000.pt

Input perturbation and SAM are models, by their paths; all have the same noise. It writes
exposure_bench.json, .csv and .png into --log_dir: for each chain and number of bits the distance,
the gap of the norms and delta_t, with errors; and the scaling at which the norms agree against that
of the least distance. With the same --log_dir, an interrupted run goes on where it was.
"""

from flatdiff.flags import config


def main():
    config.run(
        __doc__,
        measure,
        unread="train",
        bench=config.ExposureBenchFlags,
        run=config.RunFlags,
        data=config.DataFlags,
        model=config.ModelFlags,
        diffusion=config.DiffusionFlags,
        train=config.TrainFlags,
    )


def measure(flags):
    from flatdiff.measure import exposure_bench
    from flatdiff.models import dtypes, run_util
    from flatdiff.world import dist_util, logger

    exposure_bench.check(flags)
    folder = run_util.open_log(flags, auto=dtypes.OF_MEASURES)
    record = exposure_bench.bench(flags, folder)
    if dist_util.rank() == 0:
        for path in exposure_bench.write(record, folder, flags.bench.format):
            logger.log(path)


if __name__ == "__main__":
    main()
