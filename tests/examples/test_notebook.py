"""examples/flatness.ipynb runs from its first cell to its last, and draws its pictures inline."""

import base64
import io
import os
import re

import nbformat
import numpy as np
import pytest
from launch import ROOT
from nbclient import NotebookClient
from PIL import Image

PATH = ROOT / "examples/flatness.ipynb"
NUMBER = r"(-?\d\S*)"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook with its outputs, of a kernel of its own in an empty folder."""
    book = nbformat.read(PATH, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        resources = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
        NotebookClient(book, timeout=300, kernel_name="python3", resources=resources).execute()
    return book


def outputs(book, kind):
    """What the cells show of a kind, in order."""
    shown = [o for cell in book.cells if cell.cell_type == "code" for o in cell.outputs]
    return [o["data"][kind] for o in shown if kind in o.get("data", {})]


@pytest.mark.slow
def test_it_draws_its_pictures_inline(executed):
    pictures = outputs(executed, "image/png")
    assert len(pictures) == 2  # of what was found, and of samples
    for picture in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("L"))
        assert min(pixels.shape) > 300 and pixels.std() > 20


@pytest.mark.slow
def test_sam_is_flatter_by_every_row_of_its_table(executed):
    told = outputs(executed, "text/plain")
    (table,) = (text for text in told if "difference" in text)
    rows = re.findall(rf"^(LPF|MC) .*_?mse +{NUMBER} +{NUMBER} +{NUMBER} +{NUMBER}$", table, re.M)
    assert [row[0] for row in rows] == ["LPF"] * 6 + ["MC"] * 2
    assert all(float(low) < float(mid) < float(high) < 0 for _, mid, _, low, high in rows)
    assert any("<td>x_mse</td>" in text for text in outputs(executed, "text/html"))


def test_it_is_kept_without_outputs():
    book = nbformat.read(PATH, 4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)
    assert PATH.stat().st_size < 20_000
