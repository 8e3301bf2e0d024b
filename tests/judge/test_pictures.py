"""Which files are images and which pixels they have, against closed forms and OpenCV's readers."""

import os
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from small import RNG

from flatdiff.data.image_datasets import ImageDataset
from flatdiff.data.image_files import list_image_files
from flatdiff.judge import image_source, pictures

EVERY = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)  # each 16-bit value once
ALPHA, COLOUR = np.mgrid[:256, :256]  # each pair of 8-bit values once


def read(path, transparent="white"):
    """Pixels as training and evaluator read them, and the notes."""
    notes = {}
    pixels = np.asarray(pictures.read(str(path), "", transparent, notes.setdefault))
    beside = image_source.Folder.__new__(image_source.Folder)
    beside.transparent, beside._noted = transparent, {}
    assert np.array_equal(beside._read(str(path)), pixels) and pixels.dtype == np.uint8
    return pixels, list(notes)


def write_png(path, bits, kind, rows, transparent=None):
    """A PNG by hand. kind: 0 grey, 2 RGB, 4 grey and alpha; rows: arrays of its bytes."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    samples = {0: 1, 2: 3, 4: 2}[kind]
    rows = [np.asarray(row).tobytes() for row in rows]
    width = len(rows[0]) * 8 // (bits * samples)
    data = b"\x89PNG\r\n\x1a\n"
    data += chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0))
    if transparent is not None:
        data += chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    data += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(data + chunk(b"IEND", b""))


def on_white(colour, alpha, full=255):
    """What a transparent pixel looks like on white, in 0 .. 255."""
    share = np.asarray(alpha, float) / full
    return np.rint((share * colour + (1 - share) * full) * 255 / full)


# Pixels


def test_16_bits_are_values_over_257(tmp_path):
    """Grey, RGB and RGBA by OpenCV's writer, and grey with alpha by hand: every value."""
    expected = np.rint(EVERY / 257)
    rgb = np.stack([EVERY, EVERY[::-1], EVERY.T], 2)
    cv2.imwrite(f"{tmp_path}/grey.png", EVERY)
    cv2.imwrite(f"{tmp_path}/rgb.png", rgb[..., ::-1])
    cv2.imwrite(f"{tmp_path}/rgba.png", np.dstack([rgb[..., ::-1], np.full_like(EVERY, 65535)]))
    opaque = np.dstack([EVERY, np.full_like(EVERY, 65535)])
    write_png(tmp_path / "la.png", 16, 4, opaque.astype(">u2"))
    for name in ("grey", "la"):
        pixels, notes = read(tmp_path / f"{name}.png")
        assert notes == ["deep"] and np.array_equal(pixels, np.dstack([expected] * 3)), name
    for name in ("rgb", "rgba"):
        pixels, notes = read(tmp_path / f"{name}.png")
        assert notes == ["deep"] and np.array_equal(pixels, np.rint(rgb / 257)), name


def test_16_bits_as_a_tiff_stores_them(tmp_path):
    """Little and big endian, under the ending .png, which Pillow does not mind."""
    for mode in ("<u2", ">u2"):
        Image.fromarray(EVERY.astype(mode)).save(tmp_path / "x.tif")
        (tmp_path / "x.tif").rename(tmp_path / "x.png")
        assert np.array_equal(read(tmp_path / "x.png")[0][..., 1], np.rint(EVERY / 257))


def test_transparent_images_lie_on_white(tmp_path):
    rgba = np.dstack([COLOUR, COLOUR[:, ::-1], COLOUR, ALPHA]).astype(np.uint8)
    la = np.dstack([COLOUR, ALPHA]).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba).save(tmp_path / "rgba.webp", lossless=True, exact=True)
    Image.fromarray(la).save(tmp_path / "la.png")
    for name in ("rgba.png", "rgba.webp", "la.png"):
        colours = rgba[..., :3] if "rgba" in name else np.dstack([COLOUR] * 3)
        pixels, notes = read(tmp_path / name)
        assert np.array_equal(pixels, on_white(colours, ALPHA[..., None])) and notes == ["white"]
        pixels, notes = read(tmp_path / name, "drop")
        assert np.array_equal(pixels, colours) and notes == ["drop"]
        with pytest.raises(ValueError, match=f"{name} is transparent in 65280 of 65536 pixels"):
            read(tmp_path / name, "refuse")


def test_transparent_images_of_16_bits(tmp_path):
    deep = RNG.integers(0, 1 << 16, (9, 7, 4), dtype=np.uint16)
    cv2.imwrite(f"{tmp_path}/rgba.png", deep[..., [2, 1, 0, 3]])
    pixels, notes = read(tmp_path / "rgba.png")
    assert np.array_equal(pixels, on_white(deep[..., :3], deep[..., 3:], 65535))
    assert sorted(notes) == ["deep", "white"]
    assert np.array_equal(read(tmp_path / "rgba.png", "drop")[0], np.rint(deep[..., :3] / 257))
    la = deep[..., [0, 3]]
    write_png(tmp_path / "la.png", 16, 4, la.astype(">u2"))
    expected = on_white(la[..., :1], la[..., 1:], 65535)
    assert np.array_equal(read(tmp_path / "la.png")[0], np.repeat(expected, 3, 2))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_one_transparent_grey_of_a_png(tmp_path, bits):
    """Four pixels of value 0, 1, 1, 0 by hand, 1 being transparent: white, and 0 black."""
    values = [0, 1, 1, 0] * 2
    row = np.packbits([[int(b) for b in f"{v:0{bits}b}"] for v in values])
    write_png(tmp_path / "a.png", bits, 0, [row], transparent=[1])
    pixels, notes = read(tmp_path / "a.png")
    assert pixels[0, :, 0].tolist() == [0, 255, 255, 0] * 2 and "white" in notes


@pytest.mark.parametrize("bits", [8, 16])
def test_the_one_transparent_colour_of_a_png(tmp_path, bits):
    kind = ">u2" if bits == 16 else "u1"
    row = np.array([1, 2, 3, 1, 2, 4], kind)
    write_png(tmp_path / "a.png", bits, 2, [row], transparent=[1, 2, 3])
    assert read(tmp_path / "a.png")[0].tolist()[0] == [
        [255] * 3,
        [1, 2, 4] if bits == 8 else [0] * 3,
    ]


def test_transparent_entries_of_a_palette(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([0, 255, 0, 200, 10, 0, 0, 0, 100])
    image.save(tmp_path / "one.png", transparency=0)
    image.save(tmp_path / "all.png", transparency=bytes([0, 51, 255]))
    image.save(tmp_path / "one.gif", transparency=0)
    for name in ("one.png", "one.gif"):
        assert read(tmp_path / name)[0].tolist() == [[[255] * 3, [200, 10, 0], [0, 0, 100]]], name
    assert read(tmp_path / "all.png")[0].tolist() == [[[255] * 3, [244, 206, 204], [0, 0, 100]]]


def test_ordinary_images_are_as_ever(tmp_path):
    """No note, and Pillow's own RGB, also where there is an alpha that hides nothing."""
    rgb = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
        image.convert(mode).save(tmp_path / "a.png")
        pixels, notes = read(tmp_path / "a.png", "refuse")
        assert np.array_equal(pixels, image.convert(mode).convert("RGB")) and notes == [], mode
    for name in ("a.jpg", "cmyk.jpg", "grey.jpg", "a.webp", "a.gif"):
        mode = {"cmyk.jpg": "CMYK", "grey.jpg": "L"}.get(name, "RGB")
        image.convert(mode).save(tmp_path / name)
        with Image.open(tmp_path / name) as again:
            expected = np.asarray(again.convert("RGB"))
        pixels, notes = read(tmp_path / name, "refuse")
        assert np.array_equal(pixels, expected) and notes == [], name


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_exif_orientation(tmp_path, orientation, deep):
    """Tag 0x0112: on which sides of what is seen the first row and column of the file are."""
    stored = RNG.integers(0, 256, (3, 5), dtype=np.uint8)
    seen = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored[::-1].T,  # the first row is at the right
        7: stored[::-1, ::-1].T,
        8: stored.T[::-1],  # the first row is at the left, the first column below
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = stored.astype(np.uint16) * 257 if deep else stored
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    pixels, notes = read(tmp_path / "a.png")
    assert np.array_equal(pixels[..., 0], seen)
    assert ("turned" in notes) == (orientation > 1)
    if not deep:  # OpenCV turns by default
        assert np.array_equal(cv2.imread(f"{tmp_path}/a.png")[..., 0], seen)


def test_broken_exif_turns_nothing(tmp_path):
    image = Image.fromarray(RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\1")
    assert np.array_equal(read(tmp_path / "a.png")[0], image)


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (10, 120, 240)]
    for name in ("a.gif", "a.png", "a.webp"):
        more = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **more)
        pixels, notes = read(tmp_path / name)
        assert (pixels == 10).all() and notes == ["animated"], name


def test_what_has_no_pixels_is_refused_by_name(tmp_path):
    def fails(match, name="a.png"):
        with pytest.raises(ValueError, match=match):
            read(tmp_path / name)

    for mode, kind in (("F", np.float32), ("I", np.int32)):
        Image.fromarray(np.zeros((4, 4), kind)).save(tmp_path / "a.tif")
        os.replace(tmp_path / "a.tif", tmp_path / "a.png")
        fails(f"a.png has mode {mode}, .*8 or 16 bits")
    for pixels in (EVERY, np.dstack([EVERY] * 3), (EVERY % 256).astype(np.uint8)):
        cv2.imwrite(f"{tmp_path}/a.png", pixels)
        whole = (tmp_path / "a.png").read_bytes()
        for kept in (0, 20, 60, len(whole) // 2):
            (tmp_path / "a.png").write_bytes(whole[:kept])
            fails("a.png.* (repair or remove it|is empty or of no known image format: remove it)$")
    Image.new("1", (16000, 12000)).save(tmp_path / "bomb.png")
    fails("bomb.png: Image size .* exceeds", "bomb.png")
    fails("No such file", "gone.png")
    with pytest.raises(ValueError, match="'black', expected one of"):
        read(tmp_path / "a.png", "black")


# Files


DATA = ["a_1.png", "b/a_2.JPG", "b/c.d/a_3.png", "b/__macosx.d/a_5.png"]
LEFT_BEHIND = [
    ".a_1.png",
    "._a_1.png",
    ".ipynb_checkpoints/a_1-checkpoint.png",
    "b/.ipynb_checkpoints/a_2.png",
    "b/c.d/.hidden/deep/a_3.png",
    "__MACOSX/b/a_2.JPG",
    "b/__MACOSX/._a_2.JPG",
    "b/@eaDir/a_2.JPG/SYNOPHOTO_THUMB_M.jpg",
    ".Trash-1000/files/a_1.png",
    "$RECYCLE.BIN/S-1/a_1.png",
    "System Volume Information/a_1.png",
    "#recycle/a_1.png",
    "lost+found/a_1.png",
    "Thumbs.db",
    "desktop.ini",
    ".DS_Store",
]


@pytest.fixture
def folder(tmp_path):
    """Of DATA and LEFT_BEHIND, below a hidden folder."""
    folder = tmp_path / ".cache" / "set"
    for i, name in enumerate(DATA + LEFT_BEHIND):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (8, 8), (i, i, i))
        image.save(folder / name, "JPEG" if name.endswith("JPG") else "PNG")
    return folder


def test_what_is_left_behind_is_no_data(folder, tmp_path):
    expected = sorted(str(folder / name) for name in DATA)
    assert sorted(list_image_files(str(folder))) == expected
    assert image_source.open_images(folder).paths == expected
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in DATA + LEFT_BEHIND:
            archive.write(folder / name, name)
    for source in (folder, tmp_path / "set.zip"):
        dataset = ImageDataset(str(source), 8, class_cond=True)
        assert sorted(dataset.source.names) == sorted(DATA) and dataset.classes == ["a"]
        assert {int(dataset.image(i)[0, 0, 0]) for i in range(4)} == {0, 1, 2, 3}
    (tmp_path / "empty").mkdir()
    (folder / ".Trash-1000").rename(tmp_path / "empty" / ".Trash-1000")
    for opened in (lambda path: ImageDataset(path, 8), image_source.open_images):
        with pytest.raises(ValueError, match=r"images .*\.png.*not in hidden"):
            opened(str(tmp_path / "empty"))


def test_links_are_followed_but_not_in_a_circle(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "b").symlink_to(folder / "b")
    for listed in (list_image_files(str(linked)), image_source.open_images(linked).paths):
        assert len(listed) == 3
    (folder / "b" / "c.d" / "round").symlink_to(folder / "b")
    for listing in (list_image_files, image_source.open_images):
        with pytest.raises(ValueError, match="round/ is a link to a folder that it is in"):
            listing(str(folder))


def test_a_zip_with_backslashes_and_a_repeated_name_is_its_unpacked_folder(tmp_path):
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (8, 8), (i, i, i)).save(paths[-1])
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(paths[0], "x/a_1.png")
        archive.writestr("y\\b_1.png", paths[1].read_bytes())
        archive.writestr(".z\\b_1.png", paths[1].read_bytes())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.write(paths[2], "x/a_1.png")
    dataset = ImageDataset(f"{tmp_path}/set.zip", 8, class_cond=True, class_from="folder")
    assert dataset.source.names == ["x/a_1.png", "y/b_1.png"] and dataset.classes == ["x", "y"]
    assert dataset.squares()[:, 0, 0, 0].tolist() == [2, 1]


def test_refuse_reaches_the_data(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 7)).save(tmp_path / "a.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 7)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="a.png is transparent in 64 of 64 pixels"):
        ImageDataset(str(tmp_path), 8, transparent="refuse").squares()
    with pytest.raises(ValueError, match="a.png is transparent in 64 of 64 pixels"):
        image_source.open_images(tmp_path, "refuse")
