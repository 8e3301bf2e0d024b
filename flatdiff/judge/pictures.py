"""Which files are pictures, and which pixels they have: one rule for training and evaluation.

A file counts by its ending, unless it or a folder on the way to it is hidden, or left there by an
operating system. Its pixels are those that a viewer shows: turned as EXIF says, on white where it
is transparent, 16 bits a channel as value / 257, of an animation the first frame. What has no
agreed range is refused by name. Knows numpy and Pillow alone.
"""

import contextlib
import functools
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".webp")
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")  # that start no program, as EPS does
MOST = 1 << 26  # pixels of a picture: 8192 x 8192, a quarter of a GB while it is decoded
LEFT_BEHIND = frozenset(  # beside what begins with a dot: macOS, Windows, ext4, NAS systems
    "__macosx|$recycle.bin|system volume information|lost+found|@eadir|#recycle|@recycle"
    "|#snapshot|@snapshot|@recently-snapshot".split("|")
)
DAMAGES = zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, ValueError
DAMAGES += RuntimeError, MemoryError  # what a broken zip or npz raises
TRANSPARENT = ("white", "refuse", "drop")
NOTES = {  # what is worth a sentence where it is met first
    "turned": "{} is stored turned: such images are turned as their EXIF orientation says",
    "deep": "{} has 16 bits a channel: such images are read as value / 257",
    "white": "{} is transparent: such images are laid on white (--transparent)",
    "drop": "{} is transparent: such images show the colours that they hide (--transparent drop)",
    "lost": "{} cannot be read any more: the image behind such a one is taken (--skip_broken)",
    "animated": "{} is animated: of such images the first frame is read",
}
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MOST is less
Note = Callable[[str, str], None]

# the stored image is seen through this; EXIF 2.3, tag 0x0112, from 2 on
_NAMES = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"
_TURNS = {i: Image.Transpose[name] for i, name in enumerate(_NAMES.split(), start=2)}
_PLAIN = {"1", "L", "P", "RGB", "RGBA", "LA", "PA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
# Pillow keeps the high byte of two; a second look, by a raw mode that takes the low one
_LOW_BYTE = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
_GREY_STEP = {"L;2": 85, "L;4": 17}


def is_picture(name: str) -> bool:
    """Whether a path, relative to where the data begin and with /, is an image of the data."""
    return name.lower().endswith(EXTENSIONS) and not any(map(_is_left_behind, name.split("/")))


def _is_left_behind(part: str) -> bool:
    return part.startswith(".") or part.lower() in LEFT_BEHIND


def local_entries(folder: str) -> Iterator[tuple[str, bool]]:
    """(name, whether a folder) of what a local folder holds, in no order; no pipes and devices,
    which would be read for ever."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file() or entry.is_dir() or not os.path.exists(entry.path):
                yield entry.name, entry.is_dir()


def names_below(
    folder: str, entries: Callable[[str], Iterable[tuple[str, bool]]] = local_entries
) -> Iterator[str]:
    """Images at any depth, relative to `folder`; each folder's files and folders by name.

    Links are followed. ValueError for a folder that cannot be listed, or is linked into itself.
    """

    def below(inside: str, above: tuple[str, ...]):
        here = f"{folder.rstrip('/')}/{inside}"
        if (real := os.path.realpath(here)) in above:
            raise ValueError(f"{here} is a link to a folder that it is in: remove the link")
        try:
            found = sorted(entries(here))
        except OSError as error:
            raise ValueError(f"cannot list the folder {here}: {error}") from error
        for name, is_dir in found:
            if is_dir and not _is_left_behind(name):
                yield from below(f"{inside}{name}/", (*above, real))
            elif not is_dir and is_picture(name):
                yield inside + name

    return below("", ())


def read(
    source: str | Callable, name: str = "", transparent: str = "white", note: Note | None = None
) -> Image.Image:
    """The picture in a local file, or in the file that `source()` opens, as RGB.

    name: what errors call it; default the path.
    transparent: laid on "white"; "refuse" them; or "drop" alpha, so that hidden colours are seen.
    note: called with a key of NOTES and `name`, each time. ValueError names what cannot be read.
    """
    name = name or str(source)
    opened = source if callable(source) else functools.partial(open, source, "rb")
    if transparent not in TRANSPARENT:
        raise ValueError(f"transparent is {transparent!r}, expected one of {TRANSPARENT}")
    try:
        with opened() as file, _opened(file) as image:
            picture = _Picture(file, image, transparent)
            image.load()
            shown = picture.shown()
    except _Refused as error:
        raise ValueError(f"the image {name} {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is empty or of no known image format: remove it") from error
    except Exception as error:  # decoders raise nearly anything on broken bytes
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"cannot read the image {name}: {reason}; repair or remove it") from error
    for key in picture.notes if note else ():
        note(key, name)
    shown.filename = name
    return shown


def _opened(file) -> Image.Image:
    """The picture whose pixels are still to be decoded; _Refused where they are too many."""
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MOST:
        raise _Refused(
            f"has {image.width}x{image.height} pixels, more than {MOST}: shrink or remove it"
        )
    return image


class _Refused(ValueError):
    """The picture has what no rule covers."""


class _Picture:
    """One open file on its way to RGB; `notes`: keys of NOTES."""

    def __init__(self, file, image: Image.Image, transparent: str):
        self.file, self.image, self.transparent = file, image, transparent
        self.notes: list[str] = []
        # how bytes become pixels, in Pillow's words; it forgets when the pixels are loaded
        tile = next(iter(getattr(image, "tile", ())), (None, None, None, ""))
        raw = tile[3] if isinstance(tile[3], (tuple, list)) else [tile[3]]
        self.raw = str(raw[0]) if raw else ""

    def shown(self) -> Image.Image:
        mode = self.image.mode
        if mode.startswith("I;16") or re.search(";16[BLN]", self.raw):
            rgb = self._deep()
        elif mode in _PLAIN:
            rgb = self._plain()
        else:
            raise _Refused(
                f"has mode {mode}, whose range is not known: save it with 8 or 16 bits a channel"
            )
        if _is_animated(self.image):
            self.notes.append("animated")
        orientation = 1
        with contextlib.suppress(Exception):  # broken EXIF says nothing
            orientation = self.image.getexif().get(0x0112, 1)
        if orientation not in _TURNS:
            return rgb
        self.notes.append("turned")
        return rgb.transpose(_TURNS[orientation])

    def _plain(self) -> Image.Image:
        """What is seen of a picture of 8 bits a channel or fewer."""
        image = self.image
        if not image.has_transparency_data:
            return image.convert("RGB")
        if self.raw in _GREY_STEP:  # Pillow scales the pixels, not the one that is transparent
            image.info["transparency"] *= _GREY_STEP[self.raw]
        rgba = np.asarray(image.convert("RGBA"))
        return self._seen(rgba[..., :3], rgba[..., 3], 255) or image.convert("RGB")

    def _deep(self) -> Image.Image:
        """What is seen of a picture of 16 bits a channel."""
        pixels = _deep_channels(self.file, self.image, self.raw)
        self.notes.append("deep")
        channels, alpha = pixels[..., :-1], pixels[..., -1]
        if pixels.shape[2] in (1, 3):
            channels, key = pixels, self.image.info.get("transparency")
            alpha = np.full(pixels.shape[:2], 65535)
            if key is not None:
                alpha[(channels == key).all(2)] = 0
        channels = np.broadcast_to(channels, (*alpha.shape, 3))
        whole = ((channels.astype(np.int64) + 128) // 257).astype(np.uint8)  # no ties: 257 is odd
        return self._seen(channels, alpha, 65535) or Image.fromarray(whole)

    def _seen(self, channels: np.ndarray, alpha: np.ndarray, full: int) -> Image.Image | None:
        """alpha c + (1 - alpha) white, of [H, W, 3] and [H, W] in 0 .. full; None if alpha is 1."""
        if alpha.min() == full:
            return None
        if self.transparent == "refuse":
            raise _Refused(
                f"is transparent in {(alpha < full).sum()} of {alpha.size} pixels: lay it on a "
                "background, or give --transparent white"
            )
        self.notes.append(self.transparent)
        if self.transparent == "white":
            share = alpha[..., None] / full
            channels = share * channels + (1 - share) * full
        return Image.fromarray(np.rint(channels * (255 / full)).astype(np.uint8))


def _is_animated(image) -> bool:
    if image.format == "MPO":  # a photograph, and its preview or its other eye
        return False
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # the second frame is broken
        return True


def _deep_channels(file, image, raw: str) -> np.ndarray:
    """The channels of a picture of 16 bits: int64 [H, W, 1 to 4], in 0 .. 65535."""
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.int64)[..., None]
    if raw == "LA;16B":
        pixels = _decoded_as(file, "RGBA")  # high and low byte of grey, high and low byte of alpha
        return pixels[..., ::2] * 256 + pixels[..., 1::2]
    if image.format != "PNG" or raw not in _LOW_BYTE:
        raise _Refused(f"has mode {raw} in a {image.format} file: save it as PNG")
    return np.asarray(image).astype(np.int64) * 256 + _decoded_as(file, _LOW_BYTE[raw])


def _decoded_as(file, raw: str) -> np.ndarray:
    file.seek(0)
    with _opened(file) as again:
        again.tile = [(*tile[:3], raw) for tile in again.tile]
        again.load()
        return np.asarray(again).astype(np.int64)
