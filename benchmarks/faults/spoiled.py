"""How files are spoiled: headers, tensors, images, zips and bytes, each by a draw."""

import functools
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from . import damage
from .inputs import fill


def filled(words, values, box):
    return fill(words, **values)


def keyed(function, *key):
    """The function with what its result is kept by."""
    return functools.partial(lambda _, box: function(box), key)


def with_header(head, body: bytes) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + body


def spoiled_header(head: dict, body: bytes, draw) -> tuple[str, bytes]:
    name = draw.choice([key for key in head if key != "__metadata__"])
    told = head[name]
    heads = {
        "no JSON": b"{" * 100,
        "a list": b"[1, 2]",
        "null": b"null",
        "deep": b"[" * 100000,
        "offsets beyond the end": head | {name: told | {"data_offsets": [0, 10**12]}},
        "offsets below 0": head | {name: told | {"data_offsets": [-4, 4]}},
        "an unknown dtype": head | {name: told | {"dtype": "EVIL"}},
        "a huge shape": head | {name: told | {"shape": [2**62, 2**62]}},
        "a shape below 0": head | {name: told | {"shape": [-1]}},
        "metadata of a number": head | {"__metadata__": 3},
        "metadata of null": head | {"__metadata__": {"flatdiff": "null"}},
        "metadata of a list": head | {"__metadata__": {"flatdiff": "[1]"}},
        "deep metadata": head | {"__metadata__": {"flatdiff": "[" * 50000}},
    }
    kind = draw.choice(
        [*heads, "a length of 2^63", "a length of 2^40", "a length of 0", "one more"]
    )
    if kind in heads:
        return kind, with_header(heads[kind], body)
    whole = with_header(head, body)
    length = {"a length of 2^63": 2**63, "a length of 2^40": 2**40, "a length of 0": 0}
    length["one more"] = int.from_bytes(whole[:8], "little") + 1
    return kind, struct.pack("<Q", length[kind]) + whole[8:]


def spoiled_tensors(held: dict, draw) -> tuple[str, dict]:
    codes = draw.choice([key for key in held if key.endswith(".codes")])
    base = codes.removesuffix(".codes")
    shape, scale, zero = (f"{base}.{part}" for part in ("shape", "scale", "zero"))
    c, s, z, g = (held[name] for name in (codes, scale, zero, shape))
    kinds = {
        **{f"no {name}": {k: v for k, v in held.items() if k != name} for name in (codes, scale)},
        **{f"no {name}": {k: v for k, v in held.items() if k != name} for name in (zero, shape)},
        "few codes": held | {codes: c[:5].clone()},
        "many codes": held | {codes: torch.cat([c] * 3)},
        "no codes": held | {codes: c[:0].clone()},
        "codes of floats": held | {codes: c.float()},
        "scales of nan": held | {scale: s * float("nan")},
        "scales of 0": held | {scale: s * 0},
        "scales of inf": held | {scale: s * float("inf")},
        "scales below 0": held | {scale: -s},
        "another number of scales": held | {scale: torch.ones(7)},
        "zeros of floats": held | {zero: z.float() + 0.5},
        "another number of zeros": held | {zero: torch.zeros(9, dtype=torch.uint8)},
        "a shape below 0": held | {shape: -g},
        "a huge shape": held | {shape: g * 10**6},
        "a shape of floats": held | {shape: g.float()},
        "a shape of one number": held | {shape: torch.tensor(5)},
        "a shape backwards": held | {shape: g.flip(0).contiguous()},
        "a shape of nothing": held | {shape: torch.zeros(0, dtype=torch.int64)},
        "weights and codes": held | {base: torch.zeros(3)},
        "nothing of it": {"a": torch.zeros(1)},
    }
    kind = draw.choice(list(kinds))
    return kind, kinds[kind]


def spoiled_image(pixels: np.ndarray, draw) -> tuple[str, Callable[[Path], object], bool]:
    """(what is wrong, what makes the file at a path, whether its pixels must be those)."""
    image = Image.fromarray(pixels)
    letters = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"
    thin = zlib.compress(bytes(50_000 * 4), 9)
    as_bytes = {
        "PostScript": letters,
        "a PDF": b"%PDF-1.4\n",
        "50,000 x 50,000 pixels": damage.png(50_000, 50_000, zlib.compress(bytes(1 << 20))),
        "1 x 50,000 pixels": damage.png(1, 50_000, thin),
        "50,000 x 1 pixels": damage.png(50_000, 1, zlib.compress(bytes(150_001))),
        "2^31 x 2^31 pixels": damage.png(2**31 - 1, 2**31 - 1, thin),
        "0 x 0 pixels": damage.png(0, 0, thin),
        "10,000 x 10,000 pixels": damage.png(10_000, 10_000, zlib.compress(bytes(300_010_000), 9)),
        "nothing": b"",
        "text": b"no image",
        "a web page": b"<!DOCTYPE html><html></html>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
    }
    others = {"TIFF": "TIFF", "BMP": "BMP", "ICO": "ICO", "PPM": "PPM", "TGA": "TGA", "PDF": "PDF"}
    links = {
        "a link to nothing": lambda path: path.symlink_to("nowhere.png"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "a folder": lambda path: path.mkdir(),
        "a pipe": os.mkfifo,
        "a link out of it": lambda path: path.symlink_to("/etc/passwd"),
    }
    kind = draw.choice([*as_bytes, *others, *links, *["bytes of PNG"] * 10, *["bytes of JPEG"] * 5])

    def make(path: Path) -> None:
        path.unlink()
        if kind in links:
            links[kind](path)
        elif kind in others:
            image.save(path, others[kind])
        else:
            path.write_bytes(data)

    same, told = False, kind
    data = as_bytes.get(kind, b"")
    if kind.startswith("bytes of"):
        file, name = io.BytesIO(), kind.rpartition(" ")[2]
        image.save(file, name)
        told, data = damage.of_bytes(file.getvalue(), draw)
        told, same = f"{name}: {told}", False
    return told, make, same


def spoiled_zip(raw: bytes, draw) -> tuple[str, bytes, bool]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        good = {name: archive.read(name) for name in archive.namelist()}
    first = good[next(iter(good))]
    whole = {
        "a path out of it": {**good, "../../evil.png": first},
        "an absolute path": {**good, "/tmp/evil.png": first},
        "a drive": {**good, "C:\\evil.png": first},
        "no images": {"a.txt": b"x"},
        "nothing": {},
        "a zip in it": {**good, "b.zip": raw},
        "a damaged image": {**good, "b_00.png": first[:40]},
        "a folder named as an image": {**good, "b.png/": b""},
        "a long name": {**good, "a" * 60000 + ".png": first},
        "letters": {**good, "b_\U0001f642\u202e.png": first},
    }
    kind = draw.choice([*whole, "a bomb", "locked", "not zlib", *["bytes"] * 8])
    if kind == "bytes":
        told, data = damage.of_bytes(raw, draw)
        return told, data, True
    if kind == "a bomb":
        return kind, damage.endless({"b_01.png": b""}, damage.ZEROS), False
    if kind in whole:
        return kind, damage.zipped(whole[kind]), False
    data = bytearray(damage.zipped(good))
    for sign, flags, method in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
        at = data.find(sign)
        while at >= 0:
            data[at + (flags if kind == "locked" else method)] |= 1 if kind == "locked" else 14
            at = data.find(sign, at + 4)
    return kind, bytes(data), False


def altered(path: Path, draw) -> tuple[str, bytes]:
    """A cached file with another number in it, all checksums of the zip right."""
    with np.load(path) as file:
        arrays = dict(file)
    name = draw.choice([key for key, value in arrays.items() if value.dtype.kind == "f"])
    how = draw.choice(("another mean", "nan", "another shape", "text", "gone", "pickled"))
    array = arrays[name]
    changed = {"another mean": array + 1, "nan": array * np.nan, "another shape": array[None]}
    changed |= {"text": np.array(["x"]), "pickled": np.array([None])}
    arrays = {k: v for k, v in arrays.items() if k != name or how != "gone"}
    if how != "gone":
        arrays[name] = changed[how]
    file = io.BytesIO()
    np.savez(file, **arrays)
    return f"{name} {how}", file.getvalue()


class Code:
    """Runs a shell command where it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)
