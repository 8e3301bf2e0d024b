"""Draw several runs side by side: training_curves.png and samples.png.

    python scripts/compare.py --runs runs/demo/adam,runs/demo/adam-sam --log_dir runs/demo \\
        --reference runs/demo/digits --features digits

Each run is a folder with a progress.csv and the samples_*.npz of image_sample.py. With --reference,
the distances of each run's samples from real images too: tables, distances.csv, .json and .png.
Samples in folders of a run's folder, of other --seed or checkpoints, say what scatters how much.
"""

import os

from flatdiff.flags import config


def main():
    config.run(__doc__, compare, compare=config.CompareFlags, run=config.RunFlags)


def compare(flags):
    from flatdiff.report import compare
    from flatdiff.store import lock

    folders = [folder for folder in flags.compare.runs.split(",") if folder]
    if not folders:
        raise ValueError("no runs: give --runs FOLDER,FOLDER,...")
    out, kind = flags.run.log_dir or os.curdir, flags.compare.format
    lock.take(out, "compare")
    print(compare.compared(folders))
    if flags.compare.reference:
        distances(folders, flags.compare, out)
    print(compare.training_curves(folders, os.path.join(out, f"training_curves.{kind}")))
    print(compare.sample_grids(folders, os.path.join(out, f"samples.{kind}")))


def distances(folders, flags, out):
    from flatdiff.measure import evaluation
    from flatdiff.report import compare
    from flatdiff.store import checkpoint, disk
    from flatdiff.study import replicates

    judge = evaluation.network(flags.features, flags.inception_weights, flags.dinov2_weights)
    copies = {"train": flags.train_data or None, "held_out": flags.heldout_data or None}
    found = evaluation.of_runs(folders, flags.reference, judge, **copies)
    rows, less = evaluation.rows_of(found), evaluation.differences(found)
    scatter = replicates.of_runs(found)
    told = [evaluation.text(rows), less and evaluation.differences_text(less)]
    told += [replicates.text(scatter), "\n".join(evaluation.block(found))]
    print("\n\n".join(filter(None, told)))
    everything = {"rows": rows, "differences": less, "scatter": scatter, "results": found}
    checkpoint.save_json(everything, os.path.join(out, "distances.json"))
    print(disk.write_csv(rows, os.path.join(out, "distances.csv")))
    print(compare.distances(rows, os.path.join(out, f"distances.{flags.format}")))


if __name__ == "__main__":
    main()
