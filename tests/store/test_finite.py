"""nan and inf are found wherever they are, and what is large is not taken for them."""

import csv
import math

import numpy as np
import pytest
import safetensors.torch
import torch

from flatdiff.report import compare
from flatdiff.store import checkpoint, finite

BAD = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_place_counts(bad, dtype):
    for shape in ((1,), (3, 4), (2, 3, 5, 5)):
        clean = torch.randn(shape).to(dtype)
        for i in range(0, clean.numel(), 7):
            broken = clean.clone()
            broken.view(-1)[i] = bad
            assert finite.count(broken) == 1 and not finite.all_finite([clean, broken])
        assert finite.count(clean) == 0 and finite.all_finite([clean])


@pytest.mark.parametrize("bad", BAD)
def test_the_message_says_where_and_how_many(bad):
    content = {"a": [torch.zeros(2, 2), {"deep": [1.0, bad]}], "b": np.array([bad, 1.0]), "c": "x"}
    with pytest.raises(ValueError) as told:
        finite.check(content, "FILE", "Do this")
    assert str(told.value) == (
        "FILE: 2 of 8 numbers are not finite (nan or inf), the first in a[1] deep[1]. Do this"
    )


def test_what_is_large_whole_empty_or_missing_is_finite():
    largest = torch.finfo(torch.float32).max
    content = [torch.full((9,), largest), torch.tensor([2**62]), torch.empty(0), None, "nan", True]
    assert not finite.all_finite(content[:1])  # one norm of these is inf
    finite.check(content, "FILE")
    finite.check({}, "FILE")


def test_a_training_that_diverged_is_not_drawn(tmp_path):
    with open(tmp_path / "progress.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([["step", "loss", "grad_norm"], [1, 0.5, "inf"], [2, "nan", 1.0]])
    with pytest.raises(ValueError, match=r"progress.csv: 1 of 2 .* loss"):
        compare.training_curves([str(tmp_path)], str(tmp_path / "x.png"))


@pytest.mark.parametrize("name", ["model000007.pt", "model000007.safetensors"])
def test_numbers_that_are_none_are_counted_on_loading(tmp_path, name):
    weights = {"a": torch.ones(5), "b": torch.tensor([1.0, math.nan, math.inf]).half()}
    path = str(tmp_path / name)
    save = checkpoint.save if name.endswith("pt") else safetensors.torch.save_file
    save(weights, path)
    with pytest.raises(ValueError, match=rf"{path}: 2 of 8 numbers are not finite.* first in b"):
        checkpoint.load(path)
    save(weights | {"b": torch.full((9,), 1e30)}, path)  # the norm of these is no float32
    assert len(checkpoint.load(path)["b"]) == 9


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.to("meta"),
        lambda w: w.to(torch.float8_e4m3fn),
        lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    ],
)
def test_tensors_that_cannot_be_looked_at_are_refused(change, tmp_path):
    path = tmp_path / "model000007.pt"
    torch.save({"a": torch.ones(2), "b": change(torch.ones(2, 2))}, path)
    with pytest.raises(ValueError, match="model000007.pt: b is torch.*expected a dense tensor of"):
        checkpoint.load(str(path))
