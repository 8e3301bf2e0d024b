"""Scripts of datasets/ run as modules, and small images to run them on."""

import importlib.util
import io
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from small import RNG

from flatdiff.data.image_files import list_image_files

FOLDER = Path(__file__).parents[1] / "datasets"


def script(name):
    """The script as a module; it finds its neighbours as when it is run."""
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location(f"datasets_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(FOLDER))


def run(name, **flags):
    arguments = [text for k, v in flags.items() for text in (f"--{k}", str(v))]
    script(name).main(arguments)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def save_pngs(folder, images):
    """images: name without .png -> array."""
    for name, image in images.items():
        path = Path(folder, f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return str(folder)


def read(folder):
    """Name without .png -> pixels of every image below a folder."""
    paths = list_image_files(str(folder))
    return {
        os.path.relpath(p, folder).removesuffix(".png"): np.asarray(Image.open(p)) for p in paths
    }


def same(found, expected):
    assert sorted(found) == sorted(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def photos(folder):
    """A folder of three images of two classes, and name -> pixels."""
    shapes = {"b/dog_0": (40, 30, 3), "a/cat_1": (16, 16, 3), "a/cat_0": (17, 50, 3)}
    images = {name: pixels(*shape) for name, shape in shapes.items()}
    return save_pngs(folder, images), images
