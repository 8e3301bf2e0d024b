"""Malformed and hostile files: each a run that is well but for one, which was drawn damaged."""

import functools
import hashlib
import io
import itertools
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from flatdiff.store import checkpoint

from . import damage
from .forked import emptied, run
from .inputs import Inputs, fill

SAMPLE, TRAINED, JUDGE = (
    "scripts/image_sample.py",
    "scripts/image_train.py",
    "evaluations/evaluator.py",
)
EXPORT, ENLARGE, CUT = (
    "scripts/export_diffusers.py",
    "scripts/super_res_sample.py",
    "scripts/flatness.py",
)
TO_ZIP, TO_NPZ, TO_IMAGES = (f"datasets/to_{name}.py" for name in ("zip", "npz", "images"))


class Case(NamedTuple):
    """spoil: a box -> the words of the run; well: those of the same run on what is whole; same: if
    it is accepted, the result must be that of the whole; must: the file is one to do without."""

    script: str
    spoil: Callable[[Path], list[str]]
    well: Callable[[Path], list[str]]
    same: bool = True
    must: bool = False

    @property
    def like(self) -> tuple:
        return self.script, getattr(self.well, "args", None) and str(self.well.args)


def result(box: Path) -> str:
    """A hash of what a run made: images, weights, metrics; not of how it is packed."""
    total = hashlib.sha256()
    for path in sorted((box / "out").rglob("*")):
        if path.suffix == ".npz":
            with np.load(path) as file:
                parts = [file["arr_0"].tobytes()]
        elif path.name.startswith("model") and path.suffix == ".pt":
            parts = [v.numpy().tobytes() for v in torch.load(path, weights_only=True).values()]
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as file:
                parts = [f"{i.filename} {i.CRC}".encode() for i in file.infolist()]
        elif path.name == "told.json":
            parts = [json.dumps(json.loads(path.read_text())["metrics"]).encode()]
        elif path.suffix == ".csv" and path.name.startswith("flatness"):
            parts = [path.read_bytes()]
        elif path.suffix == ".png" and "made" in path.parts:
            parts = [path.name.encode(), np.asarray(Image.open(path)).tobytes()]
        else:
            continue
        for part in parts:
            total.update(part)
    return total.hexdigest()


def result_of_whole(case: Case, folder: Path) -> str:
    box = emptied(folder / "whole")
    ended = run(case.script, case.well(box), box)
    if ended.kind != "accepted":
        raise RuntimeError(f"{case.script} {case.like}: {ended}")
    return result(box)


class _Code:
    """Runs a shell command where it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Broken:
    """Draws of broken files; a pickle of them makes the file `marker` where its code is run."""

    def __init__(self, inputs: Inputs, marker: Path, folder: Path):
        self.inputs, self.marker, self.folder = inputs, marker, emptied(folder)
        self.pixels = np.load(inputs.npz)["arr_0"]
        self.labels = np.load(inputs.npz)["arr_1"]

    def cases(self, draw: random.Random, count: int) -> Iterator[tuple[str, Case]]:
        """`count` of (what is wrong, case), of all kinds by turns."""
        kinds = (
            *(self.checkpoint, self.config, self.packed, self.npz, self.image, self.zip),
            *(self.diffusers, self.config, self.npz, self.image, self.kept, self.part),
        )
        for kind in itertools.islice(itertools.cycle(kinds), count):
            told, case = kind(draw)
            yield f"{kind.__name__}, {case.script}: {told}", case

    def _well(self, script: str, **values) -> Callable[[Path], list[str]]:
        return functools.partial(_filled, self.inputs.commands[script], values)

    def _copied(self, script: str, flag: str, name: str, write: Callable) -> Callable:
        """A run whose `flag` names the file that `write(path)` makes in the box."""

        def spoil(box: Path) -> list[str]:
            write(box / name)
            words = self.inputs.commands[script]
            if flag in ("reference", "samples"):
                at = ("reference", "samples").index(flag)
                return [*words[:at], str(box / name), *words[at + 1 :]]
            return fill(words, **{flag: box / name})

        return spoil

    def checkpoint(self, draw) -> tuple[str, Case]:
        raw = self.inputs.model.read_bytes()
        held = torch.load(self.inputs.model, weights_only=True)
        if draw.random() < 0.5:
            told, data = damage.of_bytes(raw, draw)
        else:
            told, data = self._content(held, draw)

        def write(path):
            shutil.copy(self.inputs.run / "config.json", path.parent)
            path.write_bytes(data)

        spoil = self._copied(SAMPLE, "model_path", "model000001.pt", write)
        return told, Case(SAMPLE, spoil, self._well(SAMPLE))

    def _content(self, held: dict, draw) -> tuple[str, bytes]:
        """What torch.save makes of what is no network's weights, or pickle of what runs."""
        code, name = _Code(f"touch {self.marker}"), draw.choice(list(held))
        w = held[name]
        contents = {
            **{
                "nothing": {},
                "None": None,
                "a number": 3,
                "text": "x",
                "a list": list(held.values()),
            },
            **{"a tensor": w, "wrapped": {"state_dict": held}, "keys of numbers": {1: w}},
            **{"a key of None": held | {None: w}, "a key more": held | {"more": w}},
            **{
                "a key of a tuple": {(k, 1): v for k, v in held.items()},
                "text in it": held | {name: "x"},
            },
            "a key less": {k: v for k, v in held.items() if k != name},
            "nan": held | {name: w * float("nan")},
            "sparse": held | {name: w.to_sparse()},
            "one number": held | {name: torch.zeros(())},
            "another shape": held | {name: torch.zeros(7)},
            "expanded 10^12": held | {name: torch.zeros(1).expand(10**12)},
            "code": code,
            "code in it": held | {name: code},
        }
        kind = draw.choice([*contents, "pickle", "pickle by itself", "code in a zip"])
        file = io.BytesIO()
        if kind in contents:
            torch.save(contents[kind], file)
        elif kind == "pickle":
            torch.save(code, file, _use_new_zipfile_serialization=False)
        elif kind == "pickle by itself":
            pickle.dump(code, file)
        else:
            file.write(
                damage.zipped({"archive/data.pkl": pickle.dumps(code), "archive/version": b"3"})
            )
        return kind, file.getvalue()

    def config(self, draw) -> tuple[str, Case]:
        whole = json.loads((self.inputs.run / "config.json").read_text())
        if draw.random() < 0.1:
            told, data = damage.of_bytes(json.dumps(whole, indent=2).encode(), draw)
            other = True  # a letter of a name, or a digit of a value
        else:
            told, text, other = damage.of_json(whole, draw)
            data = text.encode(errors="surrogatepass")

        def write(path):
            shutil.copy(self.inputs.model, path)
            (path.parent / "config.json").write_bytes(data)

        spoil = self._copied(SAMPLE, "model_path", "model000001.pt", write)
        return told, Case(SAMPLE, spoil, self._well(SAMPLE), same=not other)

    def packed(self, draw) -> tuple[str, Case]:
        raw = self.inputs.packed.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        head = json.loads(raw[8 : 8 + length])
        kind, other = draw.choice(("bytes", "header", "settings", "settings", "tensors")), False
        if kind == "bytes":
            told, data = damage.of_bytes(raw, draw)
        elif kind == "header":
            told, data = _spoiled_header(head, raw[8 + length :], draw)
        else:
            about, tensors = checkpoint.about(str(self.inputs.packed)), safetensors.torch.load(raw)
            if kind == "settings":
                told, text, other = damage.of_json(about, draw)
                about = json.loads(text) if other or "=" in told else text
            else:
                told, tensors = _spoiled_tensors(tensors, draw)
            checkpoint.save_tensors(tensors, str(self.folder / "spoiled"), about)
            data = (self.folder / "spoiled").read_bytes()
        spoil = self._copied(SAMPLE, "model_path", "x.safetensors", lambda p: p.write_bytes(data))
        whole = self._well(SAMPLE, model_path=self.inputs.packed)
        return f"{kind}: {told}", Case(SAMPLE, spoil, whole, same=not other)

    def npz(self, draw) -> tuple[str, Case]:
        script, flag = draw.choice(
            (
                *((TRAINED, "data_dir"), (TO_IMAGES, "npz"), (JUDGE, "reference")),
                *((JUDGE, "samples"), (ENLARGE, "base_samples"), (TO_NPZ, "data_dir")),
            )
        )
        pixels = (
            self.pixels if script != ENLARGE else np.ascontiguousarray(self.pixels[:, ::2, ::2])
        )
        told, data, other = damage.of_npz(pixels, self.labels, draw)
        name = "samples_12x8x8x3.npz"
        spoil = self._copied(script, flag, name, lambda path: path.write_bytes(data))
        whole = damage.zipped(
            {"arr_0.npy": damage.npy(pixels), "arr_1.npy": damage.npy(self.labels)}
        )
        well = self._copied(script, flag, name, lambda path: path.write_bytes(whole))
        same = not other and "more pixels" not in told
        return f"--{flag}: {told}", Case(script, spoil, _keyed(well, flag), same)

    def image(self, draw) -> tuple[str, Case]:
        script, flag = draw.choice(
            ((TRAINED, "data_dir"), (TO_ZIP, "data_dir"), (JUDGE, "samples"))
        )
        told, make, same = _spoiled_image(self.pixels[1], draw)

        def write(folder):
            shutil.copytree(self.inputs.images, folder)
            make(folder / "b_01.png")

        spoil = self._copied(script, flag, "data", write)
        well = self._copied(script, flag, "data", lambda f: shutil.copytree(self.inputs.images, f))
        return told, Case(script, spoil, _keyed(well, flag, "images"), same)

    def zip(self, draw) -> tuple[str, Case]:
        script = draw.choice((TRAINED, TO_NPZ))
        told, data, same = _spoiled_zip(self.inputs.zip.read_bytes(), draw)
        spoil = self._copied(script, "data_dir", "x.zip", lambda path: path.write_bytes(data))
        return told, Case(script, spoil, self._well(script, data_dir=self.inputs.zip), same)

    def diffusers(self, draw) -> tuple[str, Case]:
        names = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"
        name = draw.choice((*names, f"unet/{'diffusion_pytorch_model.safetensors'}"))
        raw, other = (self.inputs.diffusers / name).read_bytes(), False
        if name.endswith(".json") and draw.random() < 0.9:
            told, text, other = damage.of_json(json.loads(raw), draw)
            data = text.encode(errors="surrogatepass")
        else:
            told, data = damage.of_bytes(raw, draw)
            other = True  # theirs have no checksum

        def write(folder):
            shutil.copytree(self.inputs.diffusers, folder)
            (folder / name).write_bytes(data)

        def spoil(box):
            words = self._copied(EXPORT, "model_path", "theirs", write)(box)
            return fill(words, reverse=True)

        well = self._well(EXPORT, model_path=self.inputs.diffusers, reverse=True)
        return f"{name}: {told}", Case(EXPORT, spoil, well, same=not other)

    def kept(self, draw) -> tuple[str, Case]:
        """A cache of the evaluator, which is to be done without where it is damaged."""
        store = self.folder / "cache"
        if not store.exists():
            box = emptied(self.folder / "box")
            shutil.copytree(self.inputs.folder / "flatdiff", store)
            run(JUDGE, fill(self.inputs.commands[JUDGE], cache_dir=store), box)
        path = draw.choice(sorted(store.iterdir()))
        told, data = damage.of_bytes(path.read_bytes(), draw)
        if path.suffix == ".npz" and draw.random() < 0.5:
            told, data = _altered(path, draw)

        def spoil(box):
            shutil.copytree(store, box / "cache")
            (box / "cache" / path.name).write_bytes(data)
            return fill(self.inputs.commands[JUDGE], cache_dir=box / "cache")

        return f"{path.name}: {told}", Case(JUDGE, spoil, self._well(JUDGE), must=True)

    def part(self, draw) -> tuple[str, Case]:
        """What a sampling or a measurement had done before it was stopped."""
        script = draw.choice((SAMPLE, CUT))
        name, data = self._half(script)
        told, spoiled = damage.of_bytes(data, draw)

        def spoil(box):
            path = box / "out" / name
            path.parent.mkdir(parents=True)
            path.write_bytes(spoiled)
            return fill(self.inputs.commands[script])

        return f"{name}: {told}", Case(script, spoil, self._well(script), same=script == SAMPLE)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def _half(self, script) -> tuple[str, bytes]:
        """(name below the log folder, bytes) of a part that the script keeps."""
        box = emptied(self.folder / "half")
        whole, shutil.rmtree = shutil.rmtree, lambda *_, **__: None  # so that parts stay
        try:
            ended = run(script, fill(self.inputs.commands[script]), box)
        finally:
            shutil.rmtree = whole
        parts = [p for p in (box / "out").rglob("*parts*/*") if p.is_file()]
        parts = parts or list((box / "out").glob("*parts*"))
        if not parts:
            raise RuntimeError(f"{script} keeps no parts: {ended}")
        return str(parts[0].relative_to(box / "out")), parts[0].read_bytes()


def _filled(words, values, box):
    return fill(words, **values)


def _keyed(function, *key):
    """The function with what its result is kept by."""
    return functools.partial(lambda _, box: function(box), key)


def _with_header(head, body: bytes) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + body


def _spoiled_header(head: dict, body: bytes, draw) -> tuple[str, bytes]:
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
        return kind, _with_header(heads[kind], body)
    whole = _with_header(head, body)
    length = {"a length of 2^63": 2**63, "a length of 2^40": 2**40, "a length of 0": 0}
    length["one more"] = int.from_bytes(whole[:8], "little") + 1
    return kind, struct.pack("<Q", length[kind]) + whole[8:]


def _spoiled_tensors(held: dict, draw) -> tuple[str, dict]:
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


def _spoiled_image(pixels: np.ndarray, draw) -> tuple[str, Callable[[Path], object], bool]:
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


def _spoiled_zip(raw: bytes, draw) -> tuple[str, bytes, bool]:
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
        many = damage.zipped({"b_01.png": bytes(1 << 31)}, zipfile.ZIP_DEFLATED)
        return kind, many, False
    if kind in whole:
        return kind, damage.zipped(whole[kind]), False
    data = bytearray(damage.zipped(good))
    for sign, flags, method in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
        at = data.find(sign)
        while at >= 0:
            data[at + (flags if kind == "locked" else method)] |= 1 if kind == "locked" else 14
            at = data.find(sign, at + 4)
    return kind, bytes(data), False


def _altered(path: Path, draw) -> tuple[str, bytes]:
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
