"""Draw several runs side by side: training_curves.png and samples.png.

    python scripts/compare.py --runs runs/demo/adam,runs/demo/adam-sam --log_dir runs/demo

Each run is a folder with a progress.csv and the samples_*.npz of image_sample.py.
"""

import os

from flatdiff import config


def main():
    flags = config.parse(__doc__, compare=config.CompareFlags, run=config.RunFlags)
    from flatdiff import dist_util

    with dist_util.session():
        compare(flags)


def compare(flags):
    from flatdiff import report

    folders = [folder for folder in flags.compare.runs.split(",") if folder]
    if not folders:
        raise ValueError("no runs: give --runs FOLDER,FOLDER,...")
    out = flags.run.log_dir or os.curdir
    os.makedirs(out, exist_ok=True)
    print(report.training_curves(folders, os.path.join(out, "training_curves.png")))
    print(report.sample_grids(folders, os.path.join(out, "samples.png")))


if __name__ == "__main__":
    main()
