"""Write scikit-learn's 1797 handwritten digits as RGB PNG files, DIGIT_INDEX.png.

    python datasets/digits.py --out_dir data/digits

The class is the prefix, so that --class_cond True finds ten classes, in the order of the digits.
A complete folder is reused. The split is fixed: every fifth image of each digit is a test image.
"""

import os

from common import add_image_size, add_split, argparser, run, splits


def create_argparser():
    parser = argparser(__doc__, out="folder to make, or to reuse")
    add_image_size(parser, 8)
    add_split(parser, "digit")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = create_argparser().parse_args(argv)
    import numpy as np
    from PIL import Image

    from flatdiff.data.image_files import center_crop_arr, save_images

    images, digits = load_digits()
    chosen = [i for i, split in enumerate(splits(digits)) if args.split in ("all", split)]
    names = [f"{digits[i]}_{i:05d}" for i in chosen]
    found = "reused" if is_complete(args.out_dir, names, args.image_size) else "written"
    if found == "written":
        pictures = (Image.fromarray(images[i]).convert("RGB") for i in chosen)
        squares = (center_crop_arr(picture, args.image_size) for picture in pictures)
        save_images(squares, args.out_dir, names)
    counts = " ".join(map(str, np.bincount(digits[chosen])))
    print(f"{len(names)} digits ({counts} of 0 to 9) {found}: {os.path.abspath(args.out_dir)}")


def load_digits():
    """Images, uint8 [1797, 8, 8], the 17 levels of grey spread over 0..255; and digits [1797]."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise SystemExit(
            "scikit-learn brings the digits and is not installed: pip install scikit-learn"
        ) from error
    bunch = datasets.load_digits()
    return (bunch.images * 255 / 16).round().astype("uint8"), bunch.target


def is_complete(out_dir: str, names: list[str], image_size: int) -> bool:
    """Whether `out_dir` holds these images; SystemExit if it holds anything else."""
    from PIL import Image

    from flatdiff.data.image_files import list_image_files

    if not os.path.exists(out_dir) or not os.listdir(out_dir):
        return False
    paths = list_image_files(out_dir)
    if [os.path.basename(path) for path in paths] == sorted(f"{name}.png" for name in names):
        with Image.open(paths[0]) as image:
            if image.size == (image_size, image_size):
                return True
    raise SystemExit(
        f"{out_dir} holds something else ({len(paths)} images) than these {len(names)} images of "
        f"{image_size}x{image_size}: remove it, or give another --out_dir"
    )


if __name__ == "__main__":
    run(main)
