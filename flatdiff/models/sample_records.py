"""What a file of samples says of itself, and that samples of other settings never replace it.

The record is json, beside the npz and in it, behind the images, as an array of one text: "key" is
what the images depend on, and the rest how they were made. `judge.settings` reads it.
"""

import json
import os
import re

from ..flags import parse
from ..judge import settings
from ..store import checkpoint
from ..world.origin import origin


def about(flags, files, sampler, steps):
    """What a file of samples says of itself, as plain values: from which checkpoint, how, by which
    command; and the "flags" that were given, which --config takes back."""
    s, d, quant = flags.sample, flags.diffusion, getattr(flags, "quant", None)
    groups = parse.to_dict(flags).items()
    given = {t: {k: v for k, v in g.items() if k in flags.given} for t, g in groups}
    return {
        "checkpoint": checkpoint.absolute(s.model_path),
        "files": [checkpoint.absolute(file) for file in files],
        "sampler": sampler,
        "steps": steps,
        "timestep_respacing": d.timestep_respacing,
        "eps_scaler": d.eps_scaler,
        "eps_scaler_slope": d.eps_scaler_slope,
        "guidance_scale": s.guidance_scale,
        "seed": flags.run.seed,
        "bits": getattr(quant, "quant", 0) or 32,
        "num_samples": s.num_samples,
        **origin(),
        "flags": {title: group for title, group in given.items() if group},
    }


def refuse_to_replace(folder, num_samples, suffix, key):
    """ValueError for samples of other settings under the name that these will have."""
    os.makedirs(folder, exist_ok=True)
    name = re.compile(rf"samples_{num_samples}x\d+x\d+x3{suffix}\.npz")
    for path in (os.path.join(folder, file) for file in os.listdir(folder) if name.fullmatch(file)):
        there = settings.comment(path)
        if there != made_of(key)["key"]:
            raise ValueError(
                f"{os.path.abspath(path)} would be replaced, and {_unlike(there, key)}. Give "
                "another --log_dir, or move that file away"
            )


def made_of(key, about=()):
    """What the npz says of its images; of them, "key" says which others are the same."""
    try:
        content = json.loads(key)
    except ValueError:
        content = key
    return {**dict(about), "key": content if isinstance(content, dict) else {"is": content}}


def _unlike(old, key):
    """A sentence says how the samples with that key were drawn otherwise."""
    try:
        new = json.loads(key)
        was, now = ({k: v for g in x["flags"].values() for k, v in g.items()} for x in (old, new))
    except (ValueError, KeyError, TypeError, AttributeError):  # of another program, or too long
        return "it does not say how it was drawn"
    told = [f"--{k} {was[k]!r}, now {now.get(k)!r}" for k in was if was[k] != now.get(k)]
    if old["files"] != new["files"]:
        told.append("from another checkpoint, or one with another config.json")
    if old.get("calibrated") != new.get("calibrated"):
        told.append("weights or inputs calibrated on other images, or it does not say on which")
    return f"it was drawn with {'; '.join(told) or 'other flags'}"
