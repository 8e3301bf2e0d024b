"""What may be wrong with bytes, with JSON, and with arrays in an npz: draws of each."""

import copy
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

HUGE = 10**12
ZEROS = 320 << 22  # bytes of a bomb
VALUES = (
    *(None, True, False, "False", "True", "8", "", "x", "a" * 10000, 8.5, 8.0, -1, 0, 1, 3, 10**9),
    *(10**30, -(10**9), float("nan"), float("inf"), 1e308, [], [8], ["x"], {}, {"a": 1}, "nan"),
    *("../../../etc/passwd", "/etc/passwd", "\x00", "\udcff", [[[[]]]], "adam", "os:system"),
)


def of_bytes(raw: bytes, draw: random.Random) -> tuple[str, bytes]:
    """(what was done, the file) of a file's bytes."""
    at, most = draw.randrange(len(raw)), draw.choice((1, 16, 512, 4096))
    kind = draw.choice("flip flip flip cut random zero twice empty behind before text".split())
    if kind == "flip":
        kept = bytearray(raw)
        kept[at] ^= 1 << draw.randrange(8)
        return f"bit flip at {at}", bytes(kept)
    if kind == "behind":
        return "bytes behind it", raw + draw.randbytes(most)
    if kind == "before":
        return "bytes before it", draw.randbytes(most) + raw
    if kind == "twice":
        return "a piece twice", raw[:at] + raw[at : at + most] * 2 + raw[at + most :]
    if kind in ("random", "zero"):
        piece = draw.randbytes(most) if kind == "random" else bytes(most)
        return f"{most} {kind} bytes at {at}", (raw[:at] + piece + raw[at + most :])[: len(raw)]
    whole = {"cut": raw[:at], "empty": b"", "text": draw.choice((b"\n", b"{}", b"404 Not Found"))}
    return f"{kind} at {at}" if kind == "cut" else kind, whole[kind]


def of_json(whole, draw: random.Random) -> tuple[str, str, bool]:
    """(what was done, the text, whether another result may come of it) of what a file says.

    A value of the same kind is another setting, and no damage.
    """
    if draw.random() < 0.1:
        text = json.dumps(whole)
        kind = draw.choice(("deep", "huge number", "list", "number", "twice", "null", "bom"))
        texts = {"deep": "[" * 100000, "huge number": "9" * 100000, "list": f"[{text}]"}
        texts |= {"number": "3", "twice": text + text, "null": "null", "bom": "\ufeff" + text}
        return kind, texts[kind], kind == "bom"
    places = list(_places(whole))
    *above, last = draw.choice(places)
    changed = at = copy.deepcopy(whole)
    for key in above:
        at = at[key]
    old, new = at[last], draw.choice(VALUES)
    if draw.random() < 0.1:
        del at[last]
        return f"no {[*above, last]}", json.dumps(changed), True
    at[last] = new
    number = type(old) is float and type(new) is int
    fits = type(new) is type(old) or number or old is None or isinstance(old, list)
    return f"{[*above, last]} = {new!r:.40}", json.dumps(changed), fits


def _places(at, path=()):
    items = at.items() if isinstance(at, dict) else enumerate(at)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list) and value:
            yield from _places(value, (*path, key))


def header(descr: str, shape, order: bool = False) -> bytes:
    """The beginning of an .npy file that says this."""
    text = repr({"descr": descr, "fortran_order": order, "shape": shape}).encode()
    return raw_header(text)


def raw_header(text: bytes) -> bytes:
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) & 0xFFFF) + text


def zipped(members: dict[str, bytes | Callable], how=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def of_npz(images: np.ndarray, labels: np.ndarray, draw: random.Random) -> tuple[str, bytes, bool]:
    """(what was done, the file, whether another result may come of it) of an npz with labels."""
    own, pixels = header("|u1", images.shape), images.tobytes()
    good = {"arr_0.npy": own + pixels, "arr_1.npy": npy(labels)}
    n = len(images)
    spoiled = {
        "no arr_0": {"arr_1.npy": good["arr_1.npy"]},
        "no members": {},
        "arr_0 without .npy": {"arr_0": pixels},
        "arr_0 of nothing": {"arr_0.npy": b""},
        "10^12 images": {"arr_0.npy": header("|u1", (HUGE, 8, 8, 3)) + pixels},
        "10^30 images": {"arr_0.npy": header("|u1", (10**30, 8, 8, 3)) + pixels},
        "a negative shape": {"arr_0.npy": header("|u1", (-n, 8, 8, 3)) + pixels},
        "huge images": {"arr_0.npy": header("|u1", (n, 10**6, 10**6, 3)) + pixels},
        "no images": {"arr_0.npy": header("|u1", (0, 8, 8, 3))},
        "no pixels": {"arr_0.npy": header("|u1", (n, 0, 0, 3))},
        "fewer pixels than it says": {"arr_0.npy": own + pixels[:-7]},
        "more pixels than it says": {"arr_0.npy": own + pixels + b"more"},
        "pickled objects": {"arr_0.npy": header("|O", (n,)) + b"cos\nsystem\n(S'true'\ntR."},
        "an unknown dtype": {"arr_0.npy": header("evil", images.shape) + pixels},
        "floats": {"arr_0.npy": npy(images.astype(np.float32))},
        "nan": {"arr_0.npy": npy(np.full(images.shape, np.nan))},
        "16 bits": {"arr_0.npy": npy(images.astype(np.uint16))},
        "by columns": {"arr_0.npy": npy(np.asfortranarray(images))},
        "one channel": {"arr_0.npy": npy(images[..., :1])},
        "no axis of images": {"arr_0.npy": npy(images[0])},
        "code as a shape": {"arr_0.npy": raw_header(b"__import__('os').system('touch x')")},
        "a deep header": {"arr_0.npy": raw_header(b"(" * 9000)},
        "a long header": {"arr_0.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 1000},
        "version 9": {"arr_0.npy": b"\x93NUMPY\x09\x00" + own[8:] + pixels},
        "labels of text": good | {"arr_1.npy": npy(np.array(["a"] * n))},
        "labels of nan": good | {"arr_1.npy": npy(np.full(n, np.nan))},
        "labels of halves": good | {"arr_1.npy": npy(np.full(n, 0.5))},
        "labels below 0": good | {"arr_1.npy": npy(labels - 1)},
        "labels of 2^40": good | {"arr_1.npy": npy(labels + 2**40)},
        "labels of 2^64 - 1": good | {"arr_1.npy": npy(np.full(n, 2**64 - 1, np.uint64))},
        "a label too few": good | {"arr_1.npy": npy(labels[1:])},
        "labels [N, 1]": good | {"arr_1.npy": npy(labels[:, None])},
        "10^12 labels": good | {"arr_1.npy": header("<i8", (HUGE,)) + labels.tobytes()},
        "pickled labels": good | {"arr_1.npy": header("|O", (n,)) + b"cos\nsystem\n(S'x'\ntR."},
        "names for none": good | {"class_names.npy": npy(np.array(["a"]))},
        "names of numbers": good | {"class_names.npy": npy(np.arange(3))},
        "10^9 names": good | {"class_names.npy": header("<U1", (10**9,)) + b"a\0\0\0" * 3},
        "a path out of it": {"../arr_0.npy": own + pixels},
    }
    kind = draw.choice([*spoiled, "a bomb", "a bomb of labels", *["bytes"] * 12])
    if kind == "bytes":
        told, data = of_bytes(zipped(good), draw)
        return told, data, False
    if kind in ("a bomb", "a bomb of labels"):
        return kind, _bomb(kind == "a bomb", good, images.shape), False
    others = "labels", "10^12 labels", "a label", "pickled labels", "names", "10^9 names"
    return kind, zipped(spoiled[kind]), kind.startswith(others)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _bomb(images: bool, good: dict, shape) -> bytes:
    """1.3 GB of zeros, in a few MB."""
    size = int(np.prod(shape[1:]))
    rows = ZEROS // (size if images else 8)
    if images:
        return endless({"arr_0.npy": header("|u1", (rows, *shape[1:]))}, rows * size)
    return endless({"arr_0.npy": good["arr_0.npy"], "arr_1.npy": header("<i8", (rows,))}, rows * 8)


def endless(members: dict[str, bytes], count: int) -> bytes:
    """A zip of whose members the last goes on with so many zeros."""
    buffer, zeros = io.BytesIO(), bytes(1 << 22)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        *first, (name, data) = members.items()
        for other, whole in first:
            archive.writestr(other, whole)
        with archive.open(name, "w", force_zip64=True) as file:
            file.write(data)
            for start in range(0, count, len(zeros)):
                file.write(zeros[: count - start])
    return buffer.getvalue()


def png(width: int, height: int, rows: bytes = b"", kind: int = 2) -> bytes:
    """A PNG that says it is so large, of these compressed bytes."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    told = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    parts = chunk(b"IHDR", told) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts
