"""The paper on one page, on your data: is SAM worth its second pass, and what does flatness buy?

    python scripts/study.py --preset digits --seeds 3 --log_dir runs/study-digits
    python scripts/study.py --data_dir DIR --image_size 32 --end_step 200000 --log_dir runs/study \\
        --gradient adam,adam-sam --rho 0.05,0.1,0.5 --average none,ema,swa --input_pertub 0,0.1

Trains the matrix gradient x input perturbation x seed, measures every average of every training,
and writes report.html, report.md and study.csv into --log_dir. What is computed is kept by what
made it: the same command goes on where it was stopped, and a changed flag costs what depends on it.
"""

import os
import sys

from flatdiff.flags import config, idle, presets


def main():
    flags = config.parse(
        __doc__,
        presets.with_study(sys.argv[1:]),
        study=config.StudyFlags,
        run=config.RunFlags,
        data=config.DataFlags,
        train=config.TrainFlags,
        model=config.ModelFlags,
        diffusion=config.DiffusionFlags,
    )
    from flatdiff import __main__ as flatdiff
    from flatdiff.store import lock
    from flatdiff.study import jobs
    from flatdiff.world import dist_util, stopping

    with dist_util.session(), lock.scope():
        stopping.limit(flags.run.max_hours)
        idle.check(flags)
        jobs.work(flags.study.job, flatdiff.run) if flags.study.job else run(flags)


def run(flags):
    from flatdiff import __main__ as flatdiff
    from flatdiff.study import early, matrix, report, runner

    flags = runner.prepare(flags)
    store = flags.study.store or os.path.join(flags.run.log_dir, "cells")
    models = matrix.models_of(flags, os.path.abspath(store))
    early.check(models, flatdiff.run)
    failed = ""
    if flags.study.dry_run:
        print(runner.table_of_jobs(models))
    else:
        failed = runner.run(models, flags)
    for path in report.write(models, flags):
        print(path)
    if failed:
        raise ValueError(failed)


if __name__ == "__main__":
    main()
