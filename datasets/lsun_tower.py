"""Write a category of LSUN as PNG files, PREFIX_INDEX.png, from its lmdb.

    python datasets/lsun_tower.py --lmdb tower_train_lmdb --out_dir data/tower --image_size 64

The smaller side becomes --image_size by a BOX resize, then the centre is cropped, as in
guided-diffusion's preparation; --prefix is for other categories. INDEX counts the lmdb's keys in
order. The lmdb is unpacked from the archives at https://github.com/fyu/lsun, and read with the
package of that name.
"""

import os

from common import add_image_size, argparser, need_file, run, write_folder


def create_argparser():
    parser = argparser(__doc__)
    parser.add_argument("--lmdb", required=True, help="folder with data.mdb")
    add_image_size(parser, 256)
    parser.add_argument("--prefix", default="tower", help="of the file names; default tower")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = create_argparser().parse_args(argv)
    need_file(args.lmdb, "give the unpacked folder of an LSUN category as --lmdb")
    try:
        import lmdb
    except ImportError as error:
        raise SystemExit("lmdb is not installed: pip install 'flatdiff[lsun]'") from error

    try:
        with lmdb.open(args.lmdb, readonly=True, lock=False) as environment:
            write(environment, args)
    except lmdb.Error as error:
        raise SystemExit(f"cannot read {args.lmdb} as an lmdb: {error}") from error


def write(environment, args) -> None:
    with environment.begin() as transaction:
        pairs = (
            (f"{args.prefix}_{i:07d}", lambda data=data, i=i: square(data, args.image_size, i))
            for i, (_, data) in enumerate(transaction.cursor())
        )
        record = {
            "lmdb": os.path.abspath(args.lmdb),
            "image_size": args.image_size,
            "prefix": args.prefix,
        }
        write_folder(args.out_dir, pairs, transaction.stat()["entries"], record)


def square(data: bytes, image_size: int, i: int = 0):
    """Encoded image number i -> uint8 [image_size, image_size, 3]."""
    import io

    import numpy as np
    from PIL import Image

    from flatdiff.judge import pictures

    image = pictures.read(lambda: io.BytesIO(data), f"number {i} of the lmdb")
    scale = image_size / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    array = np.asarray(image.resize(size, Image.Resampling.BOX))
    top, left = (array.shape[0] - image_size) // 2, (array.shape[1] - image_size) // 2
    return array[top : top + image_size, left : left + image_size]


if __name__ == "__main__":
    run(main)
