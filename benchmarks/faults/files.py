"""Malformed and hostile files: each a run that is well but for one, which was drawn damaged."""

import functools
import hashlib
import io
import itertools
import json
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from flatdiff.store import checkpoint

from . import damage, spoiled
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
        return functools.partial(spoiled.filled, self.inputs.commands[script], values)

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
        code, name = spoiled.Code(f"touch {self.marker}"), draw.choice(list(held))
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
            told, data = spoiled.spoiled_header(head, raw[8 + length :], draw)
        else:
            about, tensors = checkpoint.about(str(self.inputs.packed)), safetensors.torch.load(raw)
            if kind == "settings":
                told, text, other = damage.of_json(about, draw)
                about = json.loads(text) if other or "=" in told else text
            else:
                told, tensors = spoiled.spoiled_tensors(tensors, draw)
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
        return f"--{flag}: {told}", Case(script, spoil, spoiled.keyed(well, flag), same)

    def image(self, draw) -> tuple[str, Case]:
        script, flag = draw.choice(
            ((TRAINED, "data_dir"), (TO_ZIP, "data_dir"), (JUDGE, "samples"))
        )
        told, make, same = spoiled.spoiled_image(self.pixels[1], draw)

        def write(folder):
            shutil.copytree(self.inputs.images, folder)
            make(folder / "b_01.png")

        spoil = self._copied(script, flag, "data", write)
        well = self._copied(script, flag, "data", lambda f: shutil.copytree(self.inputs.images, f))
        return told, Case(script, spoil, spoiled.keyed(well, flag, "images"), same)

    def zip(self, draw) -> tuple[str, Case]:
        script = draw.choice((TRAINED, TO_NPZ))
        told, data, same = spoiled.spoiled_zip(self.inputs.zip.read_bytes(), draw)
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
            told, data = spoiled.altered(path, draw)

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
