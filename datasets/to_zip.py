"""Pack a folder of images into one uncompressed zip, which training reads as it is.

    python datasets/to_zip.py --data_dir data/imagenet64 --out imagenet64.zip

The zip is the format for large sets: one file instead of millions, and any image of it is found
by its place, so that every epoch is a true permutation and a resumed run goes on at its image.
A chain of tar shards (webdataset) can only be read from front to end, through a shuffle buffer.
Python's zipfile is all it needs. Files go in as they are, or as the squares that training sees,
with --image_size. Names, and so classes, stay.
"""

import os

from common import add_data_flags, add_image_size, argparser, in_threads, run


def create_argparser():
    parser = argparser(__doc__, out="FILE.zip to write")
    parser.add_argument("--data_dir", required=True, help="folder of images")
    add_image_size(parser, help="store PNG squares of this side; default: the files as they are")
    add_data_flags(parser, "transparent")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = create_argparser().parse_args(argv)
    if not args.out.endswith(".zip"):
        raise SystemExit(f"--out is {args.out}, expected FILE.zip")

    import zipfile

    from flatdiff.bars import Bar
    from flatdiff.data.image_files import Folder, open_images
    from flatdiff.store.disk import writing

    try:
        source = open_images(args.data_dir, args.transparent)
        if not isinstance(source, Folder):
            raise ValueError(f"--data_dir is {args.data_dir}, expected a folder of images")
        contents = in_threads(lambda i: content(source, i, args.image_size), range(len(source)))
        with writing(args.out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in Bar(contents, desc="packing images", total=len(source)):
                archive.writestr(name, data)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print(f"{len(source)} images written: {os.path.abspath(args.out)}")


def content(source, i: int, image_size: int | None) -> tuple[str, bytes]:
    """Name and bytes of image `i` in the zip."""
    import io

    from PIL import Image

    from flatdiff.data.image_files import center_crop_arr

    name = source.names[i]
    if image_size is None:
        with open(os.path.join(source.data_dir, name), "rb") as file:
            return name, file.read()
    png = io.BytesIO()
    Image.fromarray(center_crop_arr(source.open(i), image_size)).save(png, "PNG")
    return f"{os.path.splitext(name)[0]}.png", png.getvalue()


if __name__ == "__main__":
    run(main)
