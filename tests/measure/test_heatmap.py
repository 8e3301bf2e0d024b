"""Tables of numbers in colour: what is not above zero is drawn too."""

import math

import numpy as np

from flatdiff.measure import heatmap


def test_every_number_has_its_cell_and_larger_ones_are_darker():
    figure, axes = heatmap.sheet(2, 3, 1)
    values = np.array([[1.0, 10.0, 100.0], [-1.0, math.nan, 1000.0]])
    cells = [[heatmap.told(v, 0.1 * abs(v)) for v in row] for row in values]
    names = {"rows": ["a", "b"], "columns": ["x", "y", "z"], "label": "it"}
    heatmap.draw(figure, axes[0], values, cells, **names)
    figure.canvas.draw()
    (image,) = axes[0].images
    shown = image.norm(image.get_array())
    assert np.all(np.diff(shown[0]) > 0) and shown[1, 2] == 1
    assert shown[1, 0] == shown[1, 1] == shown[0, 0] == 0
    assert [t.get_text() for t in axes[0].texts][:4] == ["1 ±0.1", "10 ±1", "100 ±10", "-1 ±0.1"]
    assert axes[0].texts[4].get_text() == ""


def test_a_map_of_one_number():
    figure, axes = heatmap.sheet(1, 1, 1)
    for value in (2.0, 0.0):
        names = {"rows": ["a"], "columns": ["x"], "label": "it"}
        heatmap.draw(figure, axes[0], np.array([[value]]), [["2"]], **names)
    figure.canvas.draw()
