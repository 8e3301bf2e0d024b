"""Write the images of a folder as squares of one size, such as FFHQ's thumbnails at 64x64.

    python datasets/ffhq64.py --data_dir thumbnails128x128 --out_dir data/ffhq64

Any folder, zip or npz will do. Crop and resize are those of training, which is thereby spared
them. Folders and names stay, and with them the classes; the files become PNG. FFHQ's thumbnails:
https://github.com/NVlabs/ffhq-dataset
"""

import os

from common import add_data_flags, add_image_size, argparser, need_file, run, write_folder


def create_argparser():
    parser = argparser(__doc__)
    parser.add_argument("--data_dir", required=True, help="folder of images, zip or npz")
    add_image_size(parser, 64)
    add_data_flags(parser, "transparent")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = create_argparser().parse_args(argv)
    need_file(args.data_dir, "give a folder of images as --data_dir")

    from flatdiff.data.image_files import center_crop_arr, open_images

    try:
        source = open_images(args.data_dir, args.transparent)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    names = [os.path.splitext(name)[0] for name in source.names or map(str, range(len(source)))]
    if len(set(names)) < len(names):
        twice = next(name for name in sorted(names) if names.count(name) > 1)
        raise SystemExit(f"{args.data_dir} has several images {twice}.*: rename all but one")
    pairs = (
        (name, lambda i=i: center_crop_arr(source.open(i), args.image_size))
        for i, name in enumerate(names)
    )
    record = {"data_dir": os.path.abspath(args.data_dir), "image_size": args.image_size}
    if args.transparent != "white":
        record["transparent"] = args.transparent
    write_folder(args.out_dir, pairs, len(names), record)


if __name__ == "__main__":
    run(main)
