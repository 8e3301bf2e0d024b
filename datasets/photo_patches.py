"""Write 32x32 crops of the photographs that scikit-image and scikit-learn ship, PHOTO_INDEX.png.

    python datasets/photo_patches.py --out_dir data/patches --split train

Natural images where no image set can be downloaded: the crops of a photograph lie side by side, at
its own resolution, and do not overlap. The class is the photograph. The split is fixed: every fifth
crop of each photograph is a test image. scikit-image's retina is left out: half of all crops would
be an even orange or black. Licences are in scikit-image's data/README.txt; china and flower are
CC-BY 2.0.
"""

import os

from common import add_image_size, add_split, argparser, run, splits, write_folder

PHOTOS = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "hubble": "hubble_deep_field.jpg",
    "ihc": "ihc.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
SKLEARN_PHOTOS = {"china": "china.jpg", "flower": "flower.jpg"}


def create_argparser():
    parser = argparser(__doc__)
    add_image_size(parser, 32, help="side of the crops, in pixels")
    add_split(parser, "photograph")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = create_argparser().parse_args(argv)
    crops = [crop for name, photo in load_photos() for crop in cut(name, photo, args.image_size)]
    split = splits(name for name, _, _ in crops)
    pairs = [
        (f"{name}_{i:05d}", lambda crop=crop: crop)
        for (name, i, crop), where in zip(crops, split)
        if args.split in ("all", where)
    ]
    record = {"made of": "photo patches", "image_size": args.image_size, "split": args.split}
    write_folder(args.out_dir, pairs, len(pairs), record)


def load_photos():
    """Name and uint8 [H, W, 3] of each photograph, by name."""
    import numpy as np

    from flatdiff.judge import pictures

    try:
        import skimage
        import sklearn
    except ImportError as error:
        raise SystemExit(
            f"{error.name} brings photographs and is not installed: pip install 'flatdiff[photos]'"
        ) from error
    ours = os.path.join(os.path.dirname(skimage.__file__), "data")
    others = os.path.join(os.path.dirname(sklearn.__file__), "datasets", "images")
    paths = {name: os.path.join(ours, file) for name, file in PHOTOS.items()}
    paths |= {name: os.path.join(others, file) for name, file in SKLEARN_PHOTOS.items()}
    for name, path in sorted(paths.items()):
        if not os.path.exists(path):
            raise SystemExit(f"no {path}: this version does not ship it; pip install -U it")
        yield name, np.asarray(pictures.read(path))


def cut(name: str, photo, size: int):
    """(name, index, uint8 [size, size, 3]) of the crops, row by row; the rest is left over."""
    across = photo.shape[1] // size
    for i in range(photo.shape[0] // size * across):
        top, left = i // across * size, i % across * size
        yield name, i, photo[top : top + size, left : left + size]


if __name__ == "__main__":
    run(main)
