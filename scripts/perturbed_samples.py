"""Measure what moving the weights does to samples: Frechet distance, paths and loss, move by move.

    mpirun -n 2 python scripts/perturbed_samples.py --data_dir DIR --features digits \\
        --model_path "runs/adam/ema_0.9999_200000.pt,runs/sam/ema_*.pt" \\
        --average_path model200000.pt --moves "gaussian,climb rho=0.5,quantized,towards"

Samples of the same indices begin at the same noise, so that what differs is due to the weights. It
writes perturbed_samples.json, .csv and .png into --log_dir, against ||w' - w||, and ends in one
number: the correlation over all moves of the rise of the loss with that of the distance. With the
same --log_dir, an interrupted run goes on where it was.
"""

from flatdiff.flags import config


def main():
    config.run(
        __doc__,
        measure,
        check=check,
        unread="train",
        sample=config.PerturbedFlags,
        run=config.RunFlags,
        data=config.DataFlags,
        model=config.ModelFlags,
        diffusion=config.DiffusionFlags,
        train=config.TrainFlags,
    )


def check(flags):
    from flatdiff.measure import perturbed_run

    perturbed_run.check(flags)


def measure(flags):
    from flatdiff.measure import perturbed_run
    from flatdiff.models import dtypes, run_util
    from flatdiff.world import dist_util, logger

    check(flags)
    folder = run_util.open_log(flags, auto=dtypes.OF_MEASURES)
    record = perturbed_run.perturbed(flags, folder)
    if dist_util.rank() == 0:
        for path in perturbed_run.write(flags, record, folder):
            logger.log(path)


if __name__ == "__main__":
    main()
