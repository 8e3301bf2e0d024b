"""Do the errors of the door hold? What `flatdiff.flatness` says of two networks, over many seeds.

    python benchmarks/door_scatter.py --data_dir runs/demo/digits --seeds 20 --num_images 128 \\
        --flow FLOW/ema_0.99_000300.pt --edm EDM/ema_0.99_000300.pt

The checkpoints are of --objective flow and edm. A seed chooses images, noise, levels of noise and
moves of the weights. For every number there are its mean over the seeds, its standard deviation
over them ("scatter"), the printed error (root mean square), and the ratio of the two.
"""

import argparse
from collections import defaultdict

import numpy as np

import flatdiff
from flatdiff.chain import probe
from flatdiff.data.image_datasets import ImageDataset

FAMILIES = {"flow": ("flow", "v", lambda s: 1000 * s), "edm": ("edm", "F", None)}


def of_seed(nets, dataset, num_images: int, sigma: float, seed: int) -> dict[str, tuple]:
    """(value, printed error) of each number, by name."""
    images, _ = probe.images_of(dataset, num_images, seed)
    found, measured = {}, {}
    for name, (schedule, predicts, times) in FAMILIES.items():
        how = {"schedule": schedule, "predicts": predicts, "times": times, "seed": seed}
        subject = flatdiff.subject(nets[name], images, **how)
        told = {"sigma": [sigma], "num_draws": 10, "progress": False}
        measured[name] = flatdiff.flatness(subject, "LPF", **told)
        for term, means, errors in zip(subject.terms, subject.at_w, subject.errors):
            found[f"{name}, L(w), {term}"] = float(means[0]), float(errors[0])
        for row in measured[name].rows + measured[name].parts:
            if row["term"] != "loss":
                part = row.get("part", "all")
                found[f"{name}, rise of {row['term']}, {part}"] = row["rise"], row["error"]
    for row in measured["flow"].compare(measured["edm"]):
        found[f"flow less edm, rise of {row['term']}"] = row["difference"], row["error"]
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("data_dir", *FAMILIES):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--num_images", type=int, default=128)
    parser.add_argument("--sigma", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    paths = {name: getattr(args, name) for name in FAMILIES}
    few = {"num_images": 6}
    nets = {n: flatdiff.subject.from_checkpoint(p, args.data_dir, **few) for n, p in paths.items()}
    nets = {name: subject.model for name, subject in nets.items()}
    dataset = ImageDataset(args.data_dir, next(iter(nets.values())).image_size)
    rows = defaultdict(list)
    for seed in range(args.seeds):
        for name, pair in of_seed(nets, dataset, args.num_images, args.sigma, seed).items():
            rows[name].append(pair)
    print("| | mean | scatter | printed error | ratio |\n|---|---:|---:|---:|---:|")
    for name, pairs in rows.items():
        values, errors = np.array(pairs).T
        scatter, printed = values.std(ddof=1), np.sqrt(np.mean(errors**2))
        told = f"{values.mean():.4g} | {scatter:.2g} | {printed:.2g} | {scatter / printed:.2f}"
        print(f"| {name} | {told} |")


if __name__ == "__main__":
    main()
