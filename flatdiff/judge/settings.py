"""The five settings that make a distance, without which it compares with no other: weights,
samples, features, reference, resize.

What samples were drawn with is in the `record` of an npz that we wrote, before that in its comment;
of others nothing is known.
"""

import io
import json
import os
import zipfile
import zlib

import numpy as np

UNKNOWN = "the file does not say"
RECORD, LONGEST = "record", 1 << 26  # of the npz; bytes
NAMES = ("weights", "samples", "features", "reference", "resize")
TOLD = ("sampler", "timestep_respacing", "seed", "quant", "eps_scaler", "guidance_scale", "dtype")
OFF = {"timestep_respacing": "", "quant": 0, "eps_scaler": 1.0, "guidance_scale": 1.0}


def settings(reference, samples, known, found, features) -> dict[str, str]:
    """The five as texts, of two image sources, what was measured of them, and the features."""
    return {
        "weights": weights(samples.name),
        "samples": f"{found.num_images}; {drawn(samples.name)}",
        "features": f"{features.name}, {features.dim} an image, {features.fingerprint[:12]}",
        "reference": f"{known.num_images or 'statistics'} of {reference.name}",
        "resize": f"{_by(samples.size)}, {features.resize}",
    }


def weights(path: str) -> str:
    """Which checkpoint samples came from, by the beginning of its hash, and its bits."""
    said = comment(path)
    try:
        name = said["files"][0][0][:12]
    except (KeyError, IndexError, TypeError):
        return UNKNOWN
    bits = flags(said).get("quant", 0)
    return f"checkpoint {name}, {bits} bits" if bits else f"checkpoint {name}"


def drawn(path: str) -> str:
    """How samples were drawn: what differs from a default that is off."""
    given = flags(comment(path))
    told = [f"{k} {given[k]}" for k in TOLD if k in given and given[k] != OFF.get(k)]
    return ", ".join(told) or UNKNOWN


def record(path: str) -> dict:
    """The record in our npz, of which "key" is what the images depend on; {} for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{RECORD}.npy" not in archive.namelist():
                return {"key": json.loads(archive.comment)}
            with archive.open(f"{RECORD}.npy") as file:
                array = np.lib.format.read_array(io.BytesIO(file.read(LONGEST)))
        said = json.loads(str(array))
    except (OSError, ValueError, RecursionError, zipfile.BadZipFile, zlib.error):
        return {}
    return said if isinstance(said, dict) else {}


def comment(path: str) -> dict:
    """What the images of our npz depend on: "flags" by group, and "files"; {} for any other."""
    said = record(path).get("key")
    return said if isinstance(said, dict) else {}


def origin(path: str) -> str:
    """Where samples come from, for a reader: checkpoint, sampler, steps, seed, bits, moment."""
    said = record(path)
    if "checkpoint" not in said:
        return f"{weights(path)}; {drawn(path)}" if said.get("key") else UNKNOWN
    scaled = {k: said.get(k) for k in ("eps_scaler", "guidance_scale") if said.get(k, 1.0) != 1.0}
    told = [str(said.get("sampler")), f"{said.get('steps')} steps", f"seed {said.get('seed')}"]
    told += [f"{said.get('bits')} bits", *(f"{k} {v}" for k, v in scaled.items())]
    return f"{said['checkpoint']}, {', '.join(told)}, drawn {said.get('time')}"


def differing(paths: list[str]) -> str:
    """A sentence on what samples were drawn with that is not the same for all of these files, or
    ""; those that do not say it are left out."""
    told = [flags(said) for said in map(comment, paths) if said]
    values = {k: list(dict.fromkeys(str(t.get(k, OFF.get(k))) for t in told)) for k in TOLD}
    parts = [f"{k} ({', '.join(v or 'all' for v in of)})" for k, of in values.items() if of[1:]]
    return f"these samples differ in {', '.join(parts)}" if parts else ""


def flags(said: dict) -> dict:
    """All flags of a comment, by name."""
    groups = said.get("flags", {})
    return {k: v for group in groups.values() for k, v in group.items()} if groups else {}


def lines(found: dict[str, str], more: dict[str, str] | None = None) -> list[str]:
    """The block under a table; `more`: other lines of it, by name."""
    told = found | (more or {})
    return [f"{name + ':':<11}{text}" for name, text in told.items()]


def common(several: list[dict[str, str]]) -> dict[str, str]:
    """One block for several: what they share, and of the rest each once."""
    return {name: "; ".join(dict.fromkeys(s[name] for s in several)) for name in NAMES}


def _by(size) -> str:
    return f"{size[0]}x{size[1]}" if size else os.devnull
