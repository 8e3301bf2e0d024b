"""Tables of a study: digits, and the row of real images."""

import numpy as np
import pytest
from studies import model_of

from flatdiff.study import rows, tables


def test_real_images_stand_below_the_models():
    summary = rows.summary(rows.rows_of([model_of(), model_of(seed=1)]))
    floor = {"values": [0.4, 0.5, 0.6], "infinities": [0.0, 0.1, 0.2]}
    header, *lines = tables.quality(summary, "FD", floor, "seconds", 400)
    assert header[2:4] == ["FD, 20 steps", "20 steps, endless samples"]
    assert header[-1] == "seconds" and {len(row) for row in lines} == {len(header)}
    half = 4.303 * np.std([0.4, 0.5, 0.6], ddof=1) / 3**0.5
    assert lines[-1][:3] == ["400 real images", "", f"0.50 ± {half:.2f}"]
    assert lines[0][2:4] == ["**2**", "1.5"]


def test_copies_stand_beside_the_distance():
    found = {"features": "lite0", "metrics": {"nearer-lite0": 0.625, "FD-lite0": 1.0}}
    models = [model_of({"copies": found}), model_of({"copies": None}, seed=1)]
    summary = rows.summary(rows.rows_of(models))
    floor = {"values": [0.4, 0.5, 0.6], "infinities": [0.0, 0.1, 0.2]}
    header, line, last = tables.quality(summary, "FD", floor, "seconds", 400)
    at = header.index("nearer to images trained on than those held out")
    assert (line[at], last[at]) == ("0.625", "") and len(line) == len(last) == len(header)


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("samples_20", "32 bits"),
        ("samples_20_w4", "4 bits"),
        ("samples_5_heun", "32 bits, heun"),
        ("samples_5_ddim eta=0.5", "32 bits, ddim eta=0.5"),
    ],
)
def test_a_grid_says_its_bits_and_which_sampler_it_is_of(cell, told):
    assert tables.way_of_grid(cell) == told


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (12.3456, 0.234, "12.35 ± 0.23"),
        (12.3456, 1.26, "12.3 ± 1.3"),
        (1234.5, 56.7, "1234 ± 57"),
        (1.5e-6, 2.5e-8, "1.5e-06 ± 2.5e-08"),
        (1.23456, None, "1.235"),
        (None, None, ""),
    ],
)
def test_numbers_are_told_with_the_digits_that_are_known(mean, error, text):
    assert tables.with_error(mean, error) == text
