"""Write CIFAR-10 as PNG files cifar_train/CLASS_INDEX.png and cifar_test/CLASS_INDEX.png.

    python datasets/cifar10.py --out_dir data/cifar10

The official archive, cifar-10-python.tar.gz, is downloaded into --out_dir, or read from --archive;
its md5 is checked. Indices begin at 0 in each split, as in improved-diffusion. The class is the
prefix, so that --class_cond True finds ten classes, in alphabetical order. Krizhevsky 2009,
Learning Multiple Layers of Features from Tiny Images.
"""

import hashlib
import os

from common import argparser, need_file, run, write_folder

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
CLASSES = "plane car bird cat deer dog frog horse ship truck".split()
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def create_argparser():
    parser = argparser(__doc__, out="folder for cifar_train and cifar_test")
    parser.add_argument(
        "--archive", default="", help="cifar-10-python.tar.gz; default: the one in --out_dir, or "
        "downloaded there (163 MiB)"
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> None:
    args = create_argparser().parse_args(argv)
    archive = args.archive or os.path.join(args.out_dir, os.path.basename(URL))
    if not args.archive and not os.path.exists(archive):
        download(archive)
    check(need_file(archive, f"give --archive FILE, as downloaded from {URL}"))
    for split, batches in BATCHES.items():
        images, labels = load(archive, batches)
        pairs = (
            (f"{CLASSES[label]}_{i:05d}", lambda image=image: image)
            for i, (image, label) in enumerate(zip(images, labels))
        )
        folder = os.path.join(args.out_dir, f"cifar_{split}")
        write_folder(folder, pairs, len(images), {"made of": os.path.basename(URL), "split": split})


def download(path: str) -> None:
    """Fetch the archive to `path`, whole or not at all."""
    import shutil
    from urllib.request import urlopen

    from flatdiff.store.disk import writing

    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    print(f"downloading {URL} to {os.path.abspath(path)}")
    try:
        with urlopen(URL, timeout=60) as answer, writing(path) as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise SystemExit(
            f"cannot download {URL} ({error}): fetch it on a machine that can, and give it as "
            "--archive FILE"
        ) from error


def check(path: str) -> None:
    """SystemExit unless the file is the official one; what is in it is trusted after that."""
    md5 = hashlib.md5()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            md5.update(block)
    if md5.hexdigest() != MD5:
        raise SystemExit(
            f"{path} has md5 {md5.hexdigest()}, expected {MD5}: not the whole official archive; "
            f"remove it and fetch {URL} again"
        )


def load(archive: str, batches: list[str]):
    """Images, uint8 [N, 32, 32, 3], and labels [N], in the archive's order."""
    import pickle
    import tarfile

    import numpy as np

    images, labels = [], []
    with tarfile.open(archive) as tar:
        for name in batches:
            batch = pickle.load(tar.extractfile(f"cifar-10-batches-py/{name}"), encoding="bytes")
            images.append(batch[b"data"])
            labels += batch[b"labels"]
    planes = np.concatenate(images).reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), labels


if __name__ == "__main__":
    run(main)
