"""What the preparation scripts share: their command line, the folder they write, and npz by rows.

A folder appears when all its images are written. Until then they collect in FOLDER.partial, and
a run that was killed goes on there. `prepared.json` in it says what it was made of and how, so
that a finished folder is reused and never mixed with another. Memory stays flat: one image at a
time comes in, a few hundred are under way.
"""

import argparse
import itertools
import json
import os
import shutil

RECORD = "prepared.json"
AT_ONCE = 256  # images handed to the threads together


def run(main) -> None:
    """main(), and what a user can mend is told in a sentence, as scripts/ do."""
    from flatdiff.world import lifeline

    try:
        main()
    except Exception as error:
        lifeline.fail(error, rank=0, world_size=1)


def argparser(description: str, out: str = "folder to make, to go on with, or to reuse"):
    """A parser with --out_dir, or --out if `out` begins with FILE."""
    from flatdiff import __version__
    from flatdiff.flags.files import path
    from flatdiff.flags.parse import Parser

    parser = Parser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.register("type", None, path)  # which shells leave to us behind a =
    parser.add_argument("--version", action="version", version=f"flatdiff {__version__}")
    name = "--out" if out.startswith("FILE") else "--out_dir"
    parser.add_argument(name, required=True, help=out)
    return parser


def add_image_size(parser, default=None, help="pixels a side") -> None:
    text = f"{help}; default {default}" if default is not None else help
    parser.add_argument("--image_size", type=positive, default=default, help=text)


def add_split(parser, kind: str) -> None:
    """--split, of which `splits` tells; `kind`: what the classes are."""
    parser.add_argument(
        "--split",
        choices=("all", "train", "test"),
        default="all",
        help=f"default all; test: a fifth of each {kind}; train: the rest",
    )


def add_data_flags(parser, *names: str) -> None:
    """Flags of training's images, as they are there; `names`: of config.DataFlags."""
    from flatdiff.flags.config import DataFlags

    for name in names:
        field = DataFlags.__dataclass_fields__[name]
        help = f"{field.metadata['help']}; default {field.default}"
        how = {"choices": field.metadata["choices"]}
        how = {"type": boolean} if field.default is False else how
        parser.add_argument(f"--{name}", **how, default=field.default, help=help)


def whole(text: str) -> int:
    from flatdiff.flags.choices import read

    return read(int, text)


def positive(text: str) -> int:
    if (number := whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number, 1 or more")
    return number


def boolean(text: str) -> bool:
    from flatdiff.flags.choices import read

    return read(bool, text)


def need_file(path: str, what: str) -> str:
    """The path, or SystemExit where nothing is; `what` says what is expected, and where it is."""
    if not os.path.exists(path):
        raise SystemExit(f"no {os.path.abspath(path)}: {what}")
    return path


def write_folder(out_dir: str, images, total: int, record: dict) -> str:
    """Write images as PNG files of `out_dir`, or find them there; prints and returns its path.

    images: pairs of a name without .png, perhaps with folders, and a function without arguments
    that makes the image (uint8 array or PIL), called in threads, and only where it is missing;
    record: plain values that the images are a function of.
    """
    from flatdiff.bars import Bar
    from flatdiff.store.disk import writing

    path, record = os.path.realpath(out_dir), {**record, "num_images": total}
    if is_prepared(path, record):
        print(f"{total} images reused: {path}")
        return path
    partial = f"{path}.partial"
    if _record_in(partial) != record:
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(partial)
        with writing(os.path.join(partial, RECORD), "w") as file:
            json.dump(record, file, indent=2)
    done = in_threads(lambda image: _write_png(partial, *image), images)
    try:
        written = sum(1 for _ in Bar(done, desc="writing images", total=total))
    except (OSError, ValueError) as error:  # as decoders raise them
        raise SystemExit(f"{error} (what is written is in {partial})") from error
    if written != total:
        raise SystemExit(f"{written} images came instead of {total}: the source is not whole")
    os.replace(partial, path)
    print(f"{total} images written: {path}")
    return path


def is_prepared(out_dir: str, record: dict) -> bool:
    """Whether `out_dir` is finished, as `record` says; SystemExit if it holds anything else."""
    if not os.path.isdir(out_dir) or not os.listdir(out_dir):
        return False
    found = _record_in(out_dir)
    if found == record:
        return True
    held = "holds something else" if found is None else f"was made otherwise ({found})"
    raise SystemExit(f"{out_dir} {held}: remove it, or give another --out_dir")


def _record_in(folder):
    try:
        with open(os.path.join(folder, RECORD)) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _write_png(folder, name, make):
    import numpy as np
    from PIL import Image

    from flatdiff.store.disk import naming

    path = os.path.join(folder, f"{name}.png")
    if os.path.exists(path):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image = Image.fromarray(np.asarray(make()))
    with naming(path):  # no `writing`, which waits for the disk after each of many images
        image.save(f"{path}.part", "PNG")
        os.replace(f"{path}.part", path)


def in_threads(function, items):
    """function(item) for each item, in order, by as many threads as there are cores."""
    from concurrent.futures import ThreadPoolExecutor

    items = iter(items)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        while chunk := list(itertools.islice(items, AT_ONCE)):
            yield from threads.map(function, chunk)


def splits(classes) -> list[str]:
    """The split of each image: the 5th, 10th, ... of each class is "test", the others "train"."""
    seen, names = {}, []
    for name in classes:
        seen[name] = seen.get(name, 0) + 1
        names.append("train" if seen[name] % 5 else "test")
    return names


def write_npz(path: str, images, shape, labels=None, class_names=None) -> None:
    """Write uint8 images of an iterable as arr_0 `shape` [N, H, W, 3], and labels as arr_1.

    `class_names`: text, the name of each label, a third array. One image is held at a time; the
    file appears when it is whole.
    """
    from flatdiff.store import npz

    arrays = {"arr_0": (tuple(shape), "uint8", images)}
    if labels is not None:
        arrays["arr_1"] = (labels.shape, "int64", labels)
    if class_names is not None:
        arrays["class_names"] = (class_names.shape, class_names.dtype, class_names)
    npz.write(path, arrays)
    print(f"{shape[0]} images written: {os.path.abspath(path)}")
