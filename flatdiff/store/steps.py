"""A step of a run on disk: whether all of it is there, and whose it is.

`stateN.pt` is written last and holds, beside what a training knows, `files`: the SHA-256 of every
other file of its step by name, and `run`: that of its run's first weights and seed.
Files of guided-diffusion and of older runs say neither, and are taken as they are.
"""

import functools
import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from . import checkpoint
from . import remote as bf
from .disk import move, reading

DAMAGED = ".damaged"  # ends the names of a step's files that a run did not go on from


def run_of(weights: Iterable[Tensor], seed: int) -> str:
    """A run's name: the SHA-256 of its first weights and its seed."""
    digest = hashlib.sha256(str(seed).encode())
    for weight in weights:
        digest.update(weight.detach().cpu().contiguous().view(-1).numpy())
    return digest.hexdigest()


def write(folder: str, step: int, files: Mapping[str, Any], rest: Mapping[str, Any]) -> None:
    """Write a step's files by name, and then its state: `rest`, and their hashes."""
    hashes = {name: checkpoint.save(content, f"{folder}/{name}") for name, content in files.items()}
    checkpoint.save({**rest, "files": hashes}, f"{folder}/{checkpoint.state_name(step)}")


def damage(folder: str, step: int, but: Collection[str] = ()) -> str:
    """Say what is wrong with a step that has a state file: one of its files, but those of these
    names, is missing, damaged, or of another step or run; "" if nothing is."""
    state = bf.join(folder, checkpoint.state_name(step))
    try:
        of_step, files = _told(state)
    except ValueError as error:
        return str(error)
    if of_step != step:
        return f"{state} is the state of step {of_step}"
    for name in [n for n in (checkpoint.model_name(step), *files) if n not in but]:
        path = bf.join(folder, name)
        if not checkpoint.exists(path):
            return f"{path} is missing"
        if name in files and _sha256(path, *_when(path)) != files[name]:
            return f"{path} is not what was saved with {state}, which has another SHA-256 of it"
    return ""


def newest_whole(folder: str) -> tuple[str | None, list[str]]:
    """(the model file of the newest step that is whole, or None; what is wrong with newer ones).

    ValueError where there are steps and none is whole, and where the two newest that are left are
    not of one run.
    """
    saved = {s for name, s in checkpoint.step_files(folder).items() if name.startswith("state")}
    wrong = []
    for step in sorted(saved, reverse=True):
        if problem := damage(folder, step):
            wrong.append(f"step {step} is not whole: {problem}")
            continue
        _check_run(folder, step, max((s for s in saved if s < step), default=step))
        return bf.join(folder, checkpoint.model_name(step)), wrong
    if wrong:
        raise ValueError(
            f"no step in {folder} is whole; the newest: {wrong[0]}. Restore that file, or start "
            "anew in another --log_dir"
        )
    return None, []


def set_aside(folder: str, after: int) -> None:
    """Rename the files of steps after one that a run goes on from, the state first."""
    files = checkpoint.step_files(folder)
    later = {s for name, s in files.items() if name.startswith("state") and s > after}
    names = [name for name, step in files.items() if step in later]
    for name in sorted(names, key=lambda name: not name.startswith("state")):
        move(bf.join(folder, name), bf.join(folder, f"{name}{DAMAGED}"))


def _told(state: str) -> tuple[int, dict[str, str]]:
    """(the step that a state file is of, its hashes by name); ValueError for another kind."""
    rest = checkpoint.load(state)
    with reading(state):
        step, files = rest["step"], rest.get("files", {})
        for name, sha256 in files.items():
            found = checkpoint.STEP_FILE.fullmatch(name)
            if not found or int(found[1]) != step or not isinstance(sha256, str):
                raise ValueError(f"it tells of a file {name!r:.80}")
        return step, files


def _check_run(folder: str, step: int, before: int) -> None:
    """ValueError if the state files of two steps name two runs."""
    runs = []
    for each in (step, before):
        try:
            content = checkpoint.load(bf.join(folder, checkpoint.state_name(each)))
            runs.append(content.get("run"))
        except (ValueError, AttributeError):  # it is not the one that the run goes on from
            return
    if all(runs) and runs[0] != runs[1]:
        raise ValueError(
            f"steps {before} and {step} in {folder} are of two trainings: move the files of one of "
            "them away"
        )


def _when(path: str) -> tuple[int, float]:
    told = bf.stat(path)
    return told.size, told.mtime


@functools.lru_cache(maxsize=256)
def _sha256(path: str, size: int, changed: float) -> str:
    """Hash a file once, as long as it stays what it is."""
    return checkpoint.sha256(path)
