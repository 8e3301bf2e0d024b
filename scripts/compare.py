"""Draw several runs side by side: training_curves.png and samples.png.

    python scripts/compare.py --runs runs/demo/adam,runs/demo/adam-sam --log_dir runs/demo \\
        --reference runs/demo/digits --features digits

Each run is a folder with a progress.csv and the samples_*.npz of image_sample.py. With --reference,
the Frechet distance of each run's samples from real images too: a table, distances.csv and .png.
"""

import os

from flatdiff.flags import config


def main():
    config.run(__doc__, compare, compare=config.CompareFlags, run=config.RunFlags)


def compare(flags):
    from flatdiff.measure import evaluation
    from flatdiff.report import compare
    from flatdiff.store import disk

    folders = [folder for folder in flags.compare.runs.split(",") if folder]
    if not folders:
        raise ValueError("no runs: give --runs FOLDER,FOLDER,...")
    out = flags.run.log_dir or os.curdir
    os.makedirs(out, exist_ok=True)
    if flags.compare.reference:
        judge = evaluation.network(flags.compare.features, flags.compare.inception_weights)
        rows = evaluation.of_runs(folders, flags.compare.reference, judge)
        print(evaluation.text(rows))
        print(disk.write_csv(rows, os.path.join(out, "distances.csv")))
        print(compare.distances(rows, os.path.join(out, "distances.png")))
    print(compare.training_curves(folders, os.path.join(out, "training_curves.png")))
    print(compare.sample_grids(folders, os.path.join(out, "samples.png")))


if __name__ == "__main__":
    main()
