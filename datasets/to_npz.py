"""Write images as one npz, the reference of a FID: exactly what training sees.

    python datasets/to_npz.py --data_dir data/lsun --image_size 64 --out lsun_50000.npz \\
        --num_images 50000

Reads what training reads (a folder, zip or npz), with its centre crop and its resize. arr_0 is
uint8 [N, H, W, 3] in the order of the files; with --class_cond True, arr_1 is the labels and
class_names the name of each. One image is in memory at a time.
"""

from common import (
    add_data_flags,
    add_image_size,
    argparser,
    boolean,
    in_threads,
    run,
    whole,
    write_npz,
)


def create_argparser():
    parser = argparser(__doc__, out="FILE.npz to write")
    parser.add_argument("--data_dir", required=True, help="folder of images, zip or npz")
    add_image_size(parser, 64)
    parser.add_argument(
        "--num_images", type=whole, default=0, help="a random subset of this many; 0, default: all"
    )
    parser.add_argument("--seed", type=whole, default=0, help="of the subset; default 0")
    parser.add_argument(
        "--class_cond", type=boolean, default=False, help="keep the labels; default False"
    )
    add_data_flags(parser, "class_from", "transparent", "skip_broken")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = create_argparser().parse_args(argv)
    if not args.out.endswith(".npz"):
        raise SystemExit(f"--out is {args.out}, expected FILE.npz")

    from flatdiff.bars import Bar
    from flatdiff.data import classes, readable
    from flatdiff.data.image_datasets import ImageDataset

    try:
        dataset = ImageDataset(
            args.data_dir,
            args.image_size,
            args.class_cond,
            args.class_from,
            transparent=args.transparent,
        )
        if args.skip_broken:
            dataset.must_be_readable(readable.broken(dataset.source, progress=True), skip=True)
        indices = subset(dataset.num_images, args.num_images, args.seed)
        images = Bar(in_threads(dataset.image, indices), desc="reading images", total=len(indices))
        labels = dataset.labels[indices] if args.class_cond else None
        names = classes.array(dataset.classes) if args.class_cond else None
        shape = (len(indices), args.image_size, args.image_size, 3)
        write_npz(args.out, images, shape, labels, names)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def subset(num_images: int, wanted: int, seed: int):
    """Indices of the images to keep, ascending, without repetition; `wanted` 0: all."""
    import numpy as np

    if not 0 <= wanted <= num_images:
        raise ValueError(f"--num_images is {wanted}, expected 0 (all) to {num_images}")
    chosen = np.random.default_rng(seed).permutation(num_images)[: wanted or num_images]
    return np.sort(chosen)


if __name__ == "__main__":
    run(main)
