"""--model_path of several checkpoints: lists and patterns, and short names for what they find."""

import os

from . import checkpoint
from . import remote as bf


def find_models(text: str, folders: bool = False) -> list[str]:
    """The files of --model_path, absolute, each once; with `folders`, also folders of diffusers.
    ValueError if one is missing."""
    paths = []
    for part in filter(None, map(str.strip, text.split(","))):
        found = [part] if bf.exists(part) else sorted(filter(_may_be_weights, bf.glob(part)))
        if not found or (bf.isdir(part) and not (folders and _of_diffusers(part))):
            raise ValueError(
                f"--model_path: there is no file {part}; expected checkpoints separated by commas, "
                "as runs/a/ema_0.9999_200000.pt or runs/*/model200000.pt"
            )
        paths += map(checkpoint.absolute, found)
    if not paths:
        raise ValueError("no checkpoint: give --model_path FILE,FILE,... (model*, ema_* or swa_*)")
    return list(dict.fromkeys(paths))


def _of_diffusers(folder: str) -> bool:
    """Whether it has a pipeline's index, or the config of a network of theirs, and not of a run."""
    path = os.path.join(folder, checkpoint.CONFIG)
    if os.path.isfile(os.path.join(folder, "model_index.json")):
        return True
    return os.path.isfile(path) and "_class_name" in checkpoint.load_json(path)


def _may_be_weights(path: str) -> bool:
    """Whether a file is none of the others of a run, which a * takes in too."""
    name = os.path.basename(path)
    return name.endswith((".pt", ".safetensors")) and not name.startswith(
        ("opt", "state", "snapshot")
    )


def short_names(paths: list[str]) -> list[str]:
    """What tells the paths apart: without the folder that all are in."""
    shared = os.path.commonprefix([f"{os.path.dirname(p)}/" for p in paths])  # noqa: RUF071
    start = shared.rfind("/") + 1
    return [path[start:].removesuffix(".pt") for path in paths]
