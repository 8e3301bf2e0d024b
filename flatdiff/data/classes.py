"""Classes have names, and a label is the place of its name, in training and ever after.

A run saves its classes in config.json, and images that its network meets later are labelled by
name. A list of classes has the name of each label, and None where no image has that label; it is
empty where names are not known, as of guided-diffusion's checkpoints. Knows no networks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .image_files import Folder, Npz, Zip

Classes = Sequence[str | None]
MOST = 1 << 20  # classes: a list has a place for every label below the largest


def classes_of(source: Folder | Zip | Npz, class_from: str) -> tuple[list[str | None], np.ndarray]:
    """Classes of the images as a new run counts them, and the label of each image, int64 [N].

    The class of a file is its name before the first _ (class_from "prefix", guided-diffusion's
    rule) or its folder's name ("folder"). Labels count the distinct names in their order: that of
    numbers if all are numbers, else of text. An npz brings its labels in arr_1, and perhaps their
    names in class_names. ValueError if an image has no class.
    """
    if class_from not in ("prefix", "folder"):
        raise ValueError(f"class_from is {class_from!r}, expected 'prefix' or 'folder'")
    if source.names is None:
        return _npz_classes(source)
    names = [_class_name(name, class_from) for name in source.names]
    classes = in_order(set(names))
    label = {name: i for i, name in enumerate(classes)}
    return classes, np.array([label[name] for name in names], dtype=np.int64)


def in_order(names: set[str]) -> list[str]:
    """Sorted as numbers ("10" after "9") if all are numbers, else as text."""
    numbers = all(map(_is_number, names))
    return sorted(names, key=lambda name: (int(name), name) if numbers else name)


def relabelled(
    classes: Classes, labels: np.ndarray, known: Classes, numbered: bool = False
) -> tuple[list[str | None], np.ndarray]:
    """(classes, labels) as a network has them whose own classes are `known`.

    Without known names they count in the order of text, as guided-diffusion's do. `numbered`: the
    labels have no names of their own, and are the network's already. ValueError names the classes
    that the network does not have.
    """
    if numbered and not known:
        return list(classes), labels
    known = list(known) or sorted(name for name in classes if name is not None)
    if numbered and any(name is not None and _is_number(name) for name in known):
        numbered = False  # 7 is then the class of that name
    place = {i if numbered else name: i for i, name in enumerate(known) if name is not None}
    present = np.unique(labels)
    unknown = [classes[y] for y in present if (y if numbered else classes[y]) not in place]
    if unknown:
        raise ValueError(
            f"the network was not trained on the classes {listed(unknown)}: it has "
            f"{listed([name for name in known if name is not None])} (config.json beside its "
            "checkpoint). Rename or remove these images: a network's classes are fixed when its "
            "training starts"
        )
    new = np.zeros(len(classes), dtype=np.int64)
    new[present] = [place[y if numbered else classes[y]] for y in present]
    return known, new[labels]


def is_numbered(classes: Classes) -> bool:
    """Whether every name is but its label."""
    return all(name in (None, str(i)) for i, name in enumerate(classes))


def trained(classes: Classes, num_classes: int) -> Sequence[int]:
    """The labels that occurred in the training of a network with `num_classes` rows for them.

    All, where names are not known. ValueError if there are more names than rows.
    """
    if len(classes) > num_classes:
        raise ValueError(
            f"the data has labels up to {len(classes) - 1} ({text(classes)}), and the network has "
            f"{num_classes} classes; give --num_classes {len(classes)}"
        )
    if not classes:
        return range(num_classes)
    return [i for i, name in enumerate(classes) if name is not None]


def common(a: Classes, b: Classes) -> Classes:
    """The classes of two networks that work together; ValueError if a label means two classes."""
    if not a or not b:
        return a or b
    both = {i: names for i, names in enumerate(zip(a, b)) if None not in names}
    other = [f"{i} is {x!r} and {y!r}" for i, (x, y) in both.items() if x != y]
    if other or not both:
        raise ValueError(
            f"two networks that work together mean other classes: label {listed(other)} "
            "(config.json beside each); give checkpoints that were trained on the same classes"
            if other
            else "two networks that work together were trained on no class in common"
        )
    return [both[i][0] if i in both else None for i in range(max(both) + 1)]


def saved(config: dict[str, Any], source: str) -> tuple[str | None, ...]:
    """The classes that a run's config.json names, () for none. ValueError for what no run wrote."""
    classes = config.get("classes", [])
    if not isinstance(classes, list) or not all(c is None or isinstance(c, str) for c in classes):
        raise ValueError(f"classes of {source} is {classes!r:.80}, expected a list of names")
    return tuple(classes)


def listed(names: Sequence, most: int = 12) -> str:
    """Names separated by commas, those in the middle of a long list left out."""
    if len(names) > most:
        names = [*names[: most - 2], "...", names[-1]]
    return ", ".join(map(str, names))


def text(classes: Classes) -> str:
    """ "0 cat, 1 dog", each label that occurs and its name."""
    return listed([f"{i} {name}" for i, name in enumerate(classes) if name is not None])


def array(classes: Classes) -> np.ndarray:
    """class_names of an npz: text, "" where no image has the label. `named` reads it."""
    return np.array([name or "" for name in classes])


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _class_name(name: str, class_from: str) -> str:
    folder, _, base = name.rpartition("/")
    if class_from == "folder" and folder:
        return folder.rpartition("/")[2]
    if class_from == "prefix" and "_" in base:
        return base.split("_")[0]
    wanted = "cat_001.png" if class_from == "prefix" else "cat/001.png"
    raise ValueError(
        f"the image {name} has no class: class_cond with class_from {class_from!r} expects names "
        f"like {wanted}; rename, choose the other class_from, or train without class_cond"
    )


def _npz_classes(source: Npz) -> tuple[list[str | None], np.ndarray]:
    labels, names = source.labels, source.class_names
    if labels is None:
        raise ValueError(f"{source.path} has no labels (arr_1), which class_cond needs")
    labels = counted(labels, len(source), source.path)
    return named(labels, names, source.path), labels


def counted(labels: np.ndarray, count: int, path: str) -> np.ndarray:
    """The labels arr_1 of an npz of `count` images as int64; ValueError for what are none."""
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            f"arr_1 of {path} is {labels.dtype} {labels.shape}, expected {count} "
            "non-negative integers, one label an image"
        )
    if labels.max() >= MOST:
        raise ValueError(
            f"arr_1 of {path} has a label {labels.max()}, expected labels below {MOST}: number "
            "the classes from 0"
        )
    return labels.astype(np.int64)


def named(labels: np.ndarray, names: np.ndarray | None, path: str) -> list[str | None]:
    """Classes of an npz: its class_names, text by label, or the numbers themselves."""
    if names is None:
        present = set(labels.tolist())
        return [str(i) if i in present else None for i in range(labels.max() + 1)]
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) <= labels.max():
        raise ValueError(
            f"class_names of {path} is {names.dtype} {names.shape}, expected a name for each of "
            f"the labels 0..{labels.max()}"
        )
    return [str(name) or None for name in names]
