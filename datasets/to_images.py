"""Write the images of an npz, such as samples, as PNG files.

    python datasets/to_images.py --npz samples_50000x64x64x3.npz --out_dir samples

Files are INDEX.png, or LABEL_INDEX.png where the npz has labels (arr_1), so that --class_cond
finds the classes again. One image is in memory at a time.
"""

from common import argparser, need_file, run, write_folder


def create_argparser():
    parser = argparser(__doc__)
    parser.add_argument(
        "--npz", required=True, help="file with arr_0 uint8 [N, H, W, 3], perhaps arr_1 [N]"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = create_argparser().parse_args(argv)
    path = need_file(args.npz, "give an npz with arr_0, as image_sample.py writes it")

    import os

    from flatdiff.judge import arrays

    shape, images = arrays.rows(path, "arr_0")
    if len(shape) != 4 or shape[3] != 3 or not shape[0]:
        raise SystemExit(f"arr_0 of {path} is {shape}, expected (N, H, W, 3)")
    pairs = (
        (name, lambda image=image: image) for name, image in zip(names(path, shape[0]), images)
    )
    stat = os.stat(path)
    record = {"npz": os.path.abspath(path), "bytes": stat.st_size, "time": stat.st_mtime_ns}
    write_folder(args.out_dir, pairs, shape[0], record)


def names(path: str, count: int):
    """The file name of each of so many images, without .png."""
    from flatdiff.judge import arrays

    labels = arrays.read(path, ["arr_1"]).get("arr_1")
    if labels is None:
        return (f"{i:05d}" for i in range(count))
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise SystemExit(
            f"arr_1 of {path} is {labels.dtype} {labels.shape}, expected integers ({count},), the "
            "labels of its images"
        )
    width = len(str(labels.max()))  # so that names sort as numbers do
    return (f"{label:0{width}d}_{i:05d}" for i, label in enumerate(labels))


if __name__ == "__main__":
    run(main)
