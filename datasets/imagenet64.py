"""Write downsampled ImageNet (64x64, 32x32, ...) as LABEL_INDEX.png, or as one npz.

    python datasets/imagenet64.py --data_dir Imagenet64_train_npz --out_dir data/imagenet64
    python datasets/imagenet64.py --data_dir Imagenet64_train_npz --out_dir imagenet64.npz

Reads train_data_batch_1.npz to _10.npz (or val_data.npz, with --split val) as image-net.org hands
them out: `data` uint8 [N, 3 S S], red, then green, then blue, and `labels` from 1. Here labels
begin at 0. One image is in memory at a time. Chrabaszcz et al. 2017, A Downsampled Variant of
ImageNet.
"""

import itertools
import math
import os

from common import argparser, need_file, run, write_folder, write_npz

FILES = {"train": [f"train_data_batch_{i}.npz" for i in range(1, 11)], "val": ["val_data.npz"]}


def create_argparser():
    parser = argparser(__doc__, out="folder to make, to go on with or to reuse; or FILE.npz")
    parser.add_argument("--data_dir", required=True, help="folder of the batches")
    parser.add_argument("--split", choices=tuple(FILES), default="train", help="default train")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = create_argparser().parse_args(argv)
    where = "download the npz files from https://image-net.org/download-images, give --data_dir"
    paths = [need_file(os.path.join(args.data_dir, name), where) for name in FILES[args.split]]

    import numpy as np

    from flatdiff.bars import Bar
    from flatdiff.judge import arrays

    labels = np.concatenate([labels_of(path) for path in paths])
    batches = [arrays.rows(path, "data") for path in paths]
    sizes = {math.isqrt(shape[1] // 3) for shape, _ in batches}
    if len(sizes) > 1 or any(shape[1:] != (3 * size**2,) for shape, _ in batches for size in sizes):
        raise SystemExit(f"data of {args.data_dir} is {batches[0][0]}, expected (N, 3 S S)")
    (size,) = sizes
    images = (as_image(row, size) for row in itertools.chain(*(rows for _, rows in batches)))
    if args.out_dir.endswith(".npz"):
        shape = (len(labels), size, size, 3)
        write_npz(args.out_dir, Bar(images, total=len(labels)), shape, labels)
        return
    pairs = (
        (f"{label:04d}_{i:07d}", lambda image=image: image)
        for i, (label, image) in enumerate(zip(labels, images))
    )
    record = {"data_dir": os.path.abspath(args.data_dir), "split": args.split}
    write_folder(args.out_dir, pairs, len(labels), record)


def labels_of(path: str):
    """int64 [N], from 0."""
    import numpy as np

    from flatdiff.judge import arrays

    _, labels = arrays.rows(path, "labels")
    return np.array(list(labels), np.int64) - 1


def as_image(row, size: int):
    """Planes in a row, uint8 [3 S S], -> [S, S, 3]."""
    return row.reshape(3, size, size).transpose(1, 2, 0)


if __name__ == "__main__":
    run(main)
