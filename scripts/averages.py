"""Make averages of any length from a training's snapshots, and measure which of them is best.

    python scripts/image_train.py --posthoc_ema 50 ... --log_dir runs/adam
    python scripts/averages.py --model_path runs/adam,runs/adam-sam --data_dir DIR

Each average is a checkpoint beside the run's own, to sample and to measure as any other. Length is
drawn against the Frechet distance, LPF, the largest eigenvalue, and the loss at 4 bits; of two runs
it answers whether the last weights of the second are flatter than the best average of the first,
which is chosen on other images, noise and samples than those that are reported.
"""

from flatdiff.flags import config


def main():
    config.run(
        __doc__,
        measure,
        unread="train",
        averages=config.AveragesFlags,
        run=config.RunFlags,
        data=config.DataFlags,
        model=config.ModelFlags,
        diffusion=config.DiffusionFlags,
        train=config.TrainFlags,
    )


def measure(flags):
    from flatdiff.measure import averages, averages_report, best_average
    from flatdiff.models import dtypes, run_util
    from flatdiff.world import dist_util, logger

    runs = averages.runs_of(flags.averages)
    best_average.check(flags)
    folder = run_util.open_log(flags, auto=dtypes.OF_MEASURES)
    record = best_average.measured(flags, runs, folder)
    if dist_util.rank() == 0:
        for path in averages_report.write(record, folder, flags.averages.format):
            logger.log(path)


if __name__ == "__main__":
    main()
