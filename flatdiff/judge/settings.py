"""The five settings that make a distance, without which it compares with no other: weights,
samples, features, reference, resize.

What samples were drawn with is in the comment of an npz that we wrote; of others nothing is known.
"""

import json
import os
import zipfile

UNKNOWN = "the file does not say"
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


def comment(path: str) -> dict:
    """What our npz says of itself; {} for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            said = json.loads(archive.comment)
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
    return said if isinstance(said, dict) else {}


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
