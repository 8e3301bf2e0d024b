"""--config FILE: flags from yaml or json, by name, or by group as in config.json of a run; and
what may be the name of a file.

A file's values are read as on the command line, whose words they become. Of what a run or a file of
samples has recorded, flags of groups that the script does not have are left out.
"""

import argparse
import difflib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

LONGEST, DEEPEST = 4095, 200  # letters of a name on Linux; folders in each other
OF_ONE_START = ("resume", "resume_checkpoint", "allow_change")  # in a record, and no wish of it


def words(path: str, groups: Mapping[str, list[str]]) -> list[str]:
    """The flags of the file as a command line has them; ValueError, with the file's name, for what
    is no flag of the groups (titles -> names), or cannot be read."""
    content = _read(os.path.expanduser(path))
    try:
        return [f"--{name}={_text(name, v)}" for name, v in _flat(content, groups).items()]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read(path: str) -> Any:
    """What is in the file, numbers as they are written."""
    try:
        with open(path, encoding="utf-8") as file:
            if not path.lower().endswith((".yaml", ".yml")):
                return json.load(file, parse_float=str, parse_int=str)
            import yaml

            return yaml.load(file, yaml.BaseLoader)  # texts alone: 1e-3 is a text to YAML
    except ImportError:
        raise ValueError(f"{path} needs PyYAML: pip install pyyaml, or give json") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no json: {error} (.yaml in its name if it is)") from None
    except Exception as error:  # yaml's own
        if type(error).__module__.split(".")[0] != "yaml":
            raise
        raise ValueError(f"{path} is no yaml: {' '.join(str(error).split())}") from None


def _flat(content: Any, groups: Mapping[str, list[str]]) -> dict[str, Any]:
    """Names -> values. A name that two groups have is of the first."""
    if not isinstance(content, dict):
        raise ValueError(f"it holds {content!r:.60}; expected names of flags, each with its value")
    if isinstance(content.get("flags"), dict):  # the record of samples
        content = content["flags"]
    owner = {name: title for title in reversed(groups) for name in groups[title]}
    record = {"run", "diffusion"} <= content.keys()
    flat = {}
    for title, value in content.items():
        if not isinstance(value, dict):
            if not ((record and title == "classes") or title == "history"):
                _known(title, owner)
                flat[title] = value
        elif title in groups:
            for name in value:
                _known(name, dict.fromkeys(groups[title], title) | owner)
            skipped = OF_ONE_START if record else ()
            flat |= {n: v for n, v in value.items() if owner[n] == title and n not in skipped}
        elif not record:
            _known(title, groups)
    return flat


def _known(name: Any, known: Mapping) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name).replace("-", "_"), known, 1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{name!r:.60} is no flag of this command{hint}")


def _text(name: str, value: Any) -> str:
    """The value as it would be typed."""
    if isinstance(value, list) and not any(isinstance(part, list | dict) for part in value):
        return ",".join(_text(name, part) for part in value)
    if isinstance(value, bool | str):
        return str(value)
    raise ValueError(f"{name} is {value!r:.60}; expected a text, a number, True or False")


def path(text: str) -> str:
    """The text of a flag, ~ as the folder that it means; argparse.ArgumentTypeError where no file
    nor folder can be called so."""
    if problem := nameless(text):
        raise argparse.ArgumentTypeError(f"got {text!r:.80}, {problem}")
    return os.path.expanduser(text)


def nameless(text: str) -> str:
    """What is expected of a text that names files, separated by commas, or "" if it is that."""
    names = text.split(",")
    if "\0" in text or max(map(len, names)) > LONGEST:
        return f"expected at most {LONGEST} letters, and none of code 0"
    if max(name.count("/") for name in names) > DEEPEST:
        return f"expected at most {DEEPEST} folders in each other"
    return ""


def at_home(text):
    """The text with ~ and ~user, at the beginning of what stands between commas, as the folders
    that they mean: shells leave them where they follow = or a comma."""
    return re.sub(r"(^|,)(\s*)(~[^,]*)", lambda at: at[1] + at[2] + os.path.expanduser(at[3]), text)
