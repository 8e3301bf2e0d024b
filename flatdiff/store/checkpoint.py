"""Files of a run: their names, atomic saving, loading, resuming, pruning.

A step N (optimizer steps done) is `modelN.pt`, `ema_RATE_N.pt`, `swa_N.pt`, `optN.pt`, and
`stateN.pt` with the rest. The state file is written last: a step is complete when it is there.
Model, averages and optimizer files are guided-diffusion's, both ways. Paths may be local or
remote (gs://, az://). Nothing here runs code from a file.
"""

import hashlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from . import finite, history
from . import remote as bf
from .disk import PART, Hashed, is_remote, reading, writing

CONFIG = "config.json"
LONGEST = 100_000_000  # bytes of a header, as safetensors itself has it
ABOUT = "flatdiff"  # in the header of a .safetensors file, the key of a check sum and our JSON
SUM = re.compile(rb':"([^"{][^"]{63})[^"]\{')  # SHA-256 of the file with zeros in its place
STEP_FILE = re.compile(r"(?:model|opt|state|swa_|ema_[^_]+_|average_.+_)(\d{6,})\.pt")
MADE = re.compile(r"posthoc_.+_(\d{6,})\.pt")  # of a step, by averages.py: no pruning takes it


def model_name(step: int) -> str:
    return f"model{step:06d}.pt"


def ema_name(rate: float, step: int) -> str:
    return f"ema_{rate}_{step:06d}.pt"


def parse_ema(path: str) -> tuple[float, int] | None:
    """(rate, step) of the name ema_RATE_N.pt; None for another."""
    found = re.fullmatch(r"ema_(0(?:\.\d+)?|\d[.\d]*e-\d+)_(\d+)\.pt", os.path.basename(path))
    return found and (float(found[1]), int(found[2]))


def average_name(label: str, step: int) -> str:
    """A file of an average by its label: ema_RATE, swa, or average_NAME_KNOBS."""
    return f"{label}_{step:06d}.pt"


def opt_name(step: int) -> str:
    return f"opt{step:06d}.pt"


def state_name(step: int) -> str:
    return f"state{step:06d}.pt"


def parse_resume_step_from_filename(filename: str) -> int:
    """The number between a file name's last "model" and the next dot, `model000100.pt` -> 100.

    0 where there is none, or more than digits: `model2024_05_01.pt`, `model-5.pt`.
    """
    found = re.search(r"model([0-9]+)(?:\.[^/]*)?$", filename)
    return int(found[1]) if found else 0


def exists(path: str) -> bool:
    return bf.exists(path)


def absolute(path: str) -> str:
    """The path as messages and comparisons have it; a remote one is absolute."""
    return path if is_remote(path) else os.path.abspath(os.path.expanduser(path))


def sha256(path: str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with bf.BlobFile(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _folder(path: str) -> str:
    return bf.dirname(path) or "."


def names_in(folder: str) -> list[str]:
    """The names in a folder; none if there is no such folder."""
    return sorted(bf.listdir(folder)) if bf.isdir(folder) else []


def save(obj: Any, path: str) -> str:
    """Write tensors and plain values; `path` holds all of the old file or all of the new one.

    Tensors go as compact contiguous CPU copies. Returns the SHA-256 of the bytes that were to be
    written. TypeError for what `load` would refuse to read.
    """
    plain = _plain(obj)
    with writing(path) as file:
        hashed = Hashed(file)
        torch.save(plain, hashed)
    return hashed.sha256.hexdigest()


def save_json(obj: Any, path: str) -> None:
    """Write `obj` as indented JSON, as atomically as `save`."""
    data = json.dumps(obj, indent=2).encode() + b"\n"
    with writing(path) as file:
        file.write(data)


def save_tensors(tensors: Mapping[str, Tensor], path: str, about: Any) -> None:
    """Write a .safetensors file as atomically as `save`; `about` goes into its header as JSON, with
    a check sum of all bytes, which the format has none of."""
    zeros = "0" * 64
    data = safetensors.torch.save(_plain(tensors), {ABOUT: f"{zeros} {json.dumps(about)}"})
    before, _, after = data.partition(zeros.encode())
    with writing(path) as file:
        for part in (before, hashlib.sha256(data).hexdigest().encode(), after):
            file.write(part)


def _plain(obj: Any) -> Any:
    if isinstance(obj, Tensor):
        obj = obj.detach().cpu().contiguous()
        whole = obj.untyped_storage().nbytes() == obj.nbytes
        return obj if whole else obj.clone()
    if isinstance(obj, Mapping):
        return {key: _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return (list if isinstance(obj, list) else tuple)(map(_plain, obj))
    if obj is None or type(obj) in (bool, int, float, str):
        return obj
    raise TypeError(f"cannot save {type(obj)}: checkpoints hold tensors and plain values only")


def load(path: str, map_location: Any = "cpu") -> Any:
    """Read a .pt or .safetensors file. No code in it is run (weights_only).

    ValueError if the file is missing, damaged, or holds more than tensors and plain values, or
    numbers that are not finite.
    """
    if bf.isdir(path) or not bf.exists(path):
        raise ValueError(f"no file {path}; {_contents(path if bf.isdir(path) else _folder(path))}")
    content = _read(path, map_location)
    finite.check(content, path, "Take an earlier checkpoint, and delete this one's step")
    return content


def _read(path: str, map_location: Any) -> Any:
    with _open(path) as file:
        try:
            if path.endswith(".safetensors"):
                data = file.read()
                _check_sum(data)
                tensors = safetensors.torch.load(data)
                return {key: value.to(map_location) for key, value in tensors.items()}
            _check_sums(file)
            content = torch.load(file, map_location=map_location, weights_only=True)
            finite.must_be_there(content)
            return content
        except Exception as error:
            raise ValueError(_why_unreadable(path, error)) from error


def load_json(path: str, kind: type = dict) -> Any:
    """Read a JSON file that holds a `kind`; ValueError if it does not."""
    with bf.BlobFile(path, "rb") as file:
        try:
            content = json.loads(file.read())
            if not isinstance(content, kind):
                raise ValueError(f"it holds {content!r:.60}, expected a {kind.__name__}")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not whole: {error}. Delete it or restore it") from error
    return content


def about(path: str) -> Any:
    """What `save_tensors` was told about the file; {} for a file from elsewhere."""
    if not path.endswith(".safetensors"):
        return {}
    with bf.BlobFile(path, "rb") as file, reading(path):
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST:
            raise ValueError(f"its header claims {length} bytes, more than {LONGEST}")
        header = json.loads(file.read(length))
        text = header.get("__metadata__", {}).get(ABOUT, "{}")
        told = json.loads(text if text.startswith("{") else text[65:])  # in older files without sum
        if told and not isinstance(told["diffusion"], dict):
            raise ValueError(f"its header tells of no chain: {str(told)[:80]}")
        history.checked(told)
        return told


def config_of(path: str) -> tuple[dict[str, Any], str]:
    """(the flags that made the file, by group, and where they were read): from its header, or from
    config.json beside it, as they were at its step; {} if there is neither, or if it is another
    program's."""
    if own := about(path):
        return own, path
    return history.at(config_in(_folder(path)), step_of(path)), bf.join(_folder(path), CONFIG)


def step_of(path: str) -> int | None:
    """The step in the name of a file of a run, or of one made of it; None for another name."""
    name = os.path.basename(path)
    found = STEP_FILE.fullmatch(name) or MADE.fullmatch(name)
    return int(found[1]) if found else None


def config_in(folder: str) -> dict[str, Any]:
    """Our config.json of a folder, by group; {} if there is none, or another program's."""
    path = bf.join(folder, CONFIG)
    content = load_json(path, object) if exists(path) else {}
    if not isinstance(content, dict) or not isinstance(content.get("diffusion"), dict):
        return {}
    with reading(path):
        history.checked(content)
    return content


def identity(path: str) -> list:
    """[hash of the bytes, configuration but for the training]: a checkpoint in a key of results. Of
    a folder of diffusers: the hashes of its files."""
    if os.path.isdir(path):
        names = (os.path.join(at, n) for at, _, found in os.walk(path) for n in found)
        kept = sorted(n for n in names if n.endswith((".json", ".safetensors")))
        return [[os.path.relpath(name, path), sha256(name)] for name in kept]
    trained, _ = config_of(path)
    aside = ("run", "data", "train", "evaluation")
    return [sha256(path), {k: v for k, v in trained.items() if k not in aside}]


def _open(path: str) -> BinaryIO:
    if is_remote(path):  # in one piece: torch.load reads many small ones
        with bf.BlobFile(path, "rb") as file:
            return io.BytesIO(file.read())
    return open(path, "rb")


def _check_sums(file: BinaryIO) -> None:
    """torch.load notices a cut file but not a flipped bit; the zip inside has check sums."""
    if zipfile.is_zipfile(file):
        bad = zipfile.ZipFile(file).testzip()
        if bad is not None:
            raise ValueError(f"wrong checksum of {bad}")
    file.seek(0)


def _check_sum(data: bytes) -> None:
    """ValueError where a .safetensors file is not what `save_tensors` wrote; others pass."""
    found = SUM.search(data, 0, 8 + int.from_bytes(data[:8], "little"))
    if found:
        digest = hashlib.sha256(data[: found.start(1)] + b"0" * 64)
        digest.update(memoryview(data)[found.end(1) :])
        if digest.hexdigest().encode() != found[1]:
            raise ValueError("wrong checksum")


def _why_unreadable(path: str, error: Exception) -> str:
    code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.PickleError) else None
    if code:
        return (
            f"{path} was not loaded: it holds Python objects ({code[1]}), and loading those can run"
            " any code. If you trust its author, save its tensors alone: torch.save(torch.load("
            "path, weights_only=False)[...], new_path)"
        )
    reason = (str(error).partition("\n")[0] or type(error).__name__)[:100]
    there = _contents(_folder(path))
    return f"{path} is damaged: half a checkpoint, or none ({reason}); {there}"


def _contents(folder: str) -> str:
    if not bf.isdir(folder):
        return f"there is no folder {folder} either"
    steps = complete_steps(folder)
    if steps:
        return f"complete steps in {folder}: {', '.join(map(str, steps[-10:]))}"
    names = [name for name in names_in(folder) if name.endswith((".pt", ".safetensors"))]
    return f"{folder} has no complete step; its checkpoints: {', '.join(names[-10:]) or 'none'}"


def complete_steps(folder: str) -> list[int]:
    """Steps in `folder` whose state file, and so everything else, was written; ascending."""
    files = step_files(folder)
    return sorted(s for s in set(files.values()) if {model_name(s), state_name(s)} <= files.keys())


def step_files(folder: str) -> dict[str, int]:
    """The files of any steps in `folder`, complete or not, whoever wrote them; and their steps."""
    return {n: int(m[1]) for n in names_in(folder) if (m := STEP_FILE.fullmatch(n))}


def find_resume_checkpoint(folder: str) -> str | None:
    """The model file of the newest complete step, or None."""
    steps = complete_steps(folder)
    return bf.join(folder, model_name(steps[-1])) if steps else None


def prune(folder: str, keep_last: int, keep: Iterable[str] = ()) -> None:
    """Delete all complete steps but the newest `keep_last`; 0 or less deletes none.

    A step's model goes first and its state last, so that a half-deleted step neither counts as
    complete nor stays for ever. Steps without a state file are not ours to delete.
    keep: paths of model files whose steps stay, such as the one the run resumed from.
    """
    if keep_last <= 0:
        return
    kept = {absolute(path) for path in keep if path}
    files = step_files(folder)
    steps = sorted(step for name, step in files.items() if name == state_name(step))
    doomed = {s for s in steps[:-keep_last] if absolute(bf.join(folder, model_name(s))) not in kept}
    files = [name for name, step in files.items() if step in doomed]
    for name in sorted(files, key=lambda n: (n.startswith("state"), not n.startswith("model"))):
        bf.remove(bf.join(folder, name))


def clean(folder: str) -> None:
    """Delete what a killed `save` left unfinished. For the start of a run, on one rank."""
    for name in names_in(folder):
        if name.endswith(PART):
            bf.remove(bf.join(folder, name))
