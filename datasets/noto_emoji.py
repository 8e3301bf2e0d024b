"""Write Google's 1911 base emoji as RGB PNG files on white, CATEGORY_CODE.png.

    python datasets/noto_emoji.py --out_dir data/emoji

Real images of ten classes where no image set can be downloaded: they come from the npm package
emoji-datasource-google (74 MB), fetched with the npm client into --cache_dir, or from --archive.
Variants of skin tone are left out. The class is the prefix, so that --class_cond True finds the
ten categories. CODE is the emoji's Unicode points.
"""

import os

from common import add_image_size, argparser, need_file, run, write_folder

PACKAGE, VERSION = "emoji-datasource-google", "16.0.0"
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"
LICENCE = "Noto Emoji, (c) Google, Apache License 2.0, https://github.com/googlefonts/noto-emoji"


def create_argparser():
    parser = argparser(__doc__)
    add_image_size(parser, 32)
    parser.add_argument("--archive", default="", help=f"{ARCHIVE}; default: in --cache_dir")
    parser.add_argument(
        "--cache_dir",
        default="~/.cache/flatdiff",
        help="where npm puts the package; default ~/.cache/flatdiff",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = create_argparser().parse_args(argv)
    archive = args.archive or fetched(args.cache_dir)
    need_file(archive, f"give --archive FILE, made by: npm pack {PACKAGE}@{VERSION}")

    from flatdiff.data.image_files import center_crop_arr

    emoji = load(archive)
    pairs = (
        (name, lambda png=png: center_crop_arr(on_white(png), args.image_size))
        for name, png in emoji
    )
    record = {"made of": ARCHIVE, "image_size": args.image_size, "licence": LICENCE}
    write_folder(args.out_dir, pairs, len(emoji), record)
    print(f"images: {LICENCE}")


def fetched(cache_dir: str) -> str:
    """The package in the cache, packed there by npm if it is not yet there."""
    import shutil
    import subprocess
    import tempfile

    path = os.path.join(cache_dir, ARCHIVE)
    if os.path.exists(path):
        return path
    if shutil.which("npm") is None:
        raise SystemExit(f"npm is not installed: run `npm pack {PACKAGE}@{VERSION}` on a machine "
                         "that has it, and give the file as --archive")  # fmt: skip
    os.makedirs(cache_dir, exist_ok=True)
    print(f"fetching {PACKAGE}@{VERSION} with npm into {os.path.abspath(cache_dir)}")
    with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
        command = ["npm", "pack", f"{PACKAGE}@{VERSION}"]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(f"{' '.join(command)} failed: {run.stderr.strip()[-1000:]}")
        os.replace(os.path.join(folder, ARCHIVE), path)
    return path


def load(archive: str) -> list[tuple[str, bytes]]:
    """Name and PNG of each base emoji, by name."""
    import json
    import tarfile

    table, pictures = "package/emoji.json", "package/img/google/64"
    try:
        with tarfile.open(archive) as tar:
            files = {
                member.name: tar.extractfile(member).read()
                for member in tar
                if member.name == table or os.path.dirname(member.name) == pictures
            }
        entries = json.loads(files[table])
        return sorted((_name(entry), files[f"{pictures}/{entry['image']}"]) for entry in entries)
    except Exception as error:  # of tarfile, zlib, json, or of what is in it
        raise SystemExit(
            f"{archive} is not the whole {ARCHIVE} ({error!r}): remove it and fetch it again"
        ) from error


def _name(entry):
    """ "Smileys & Emotion", "1f600.png" -> "smileys-emotion_1f600"."""
    category = entry["category"].lower().replace(" & ", "-")
    return f"{category}_{os.path.splitext(entry['image'])[0]}"


def on_white(png: bytes):
    """The picture with its transparent parts white, RGB."""
    import io

    from flatdiff.judge import pictures

    return pictures.read(lambda: io.BytesIO(png), "of an emoji", "white")


if __name__ == "__main__":
    run(main)
