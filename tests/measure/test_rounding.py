"""Rises by rounding, against torch's own rounding of weights and inputs."""

import csv
import json

import pytest
import quadratics
import torch
from flatness_studies import arguments, measure

import flatdiff
from flatdiff.measure.finished import Finished
from flatdiff.measure.found import measured
from flatdiff.measure.rounding import ROUNDING


def fake(x, bits):
    """torch's own rounding of a tensor to a grid of its least and greatest value, and zero."""
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    scale = (high - low) / (2**bits - 1) or 1.0
    zero = round(-low / scale)
    return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 2**bits - 1).double()


def test_rises_are_those_of_torchs_rounding():
    subject = quadratics.subject()
    kind = ROUNDING(bits="3,2", quantizers="minmax,mse", activations="none,4")
    with Finished("", hidden=True) as finished:
        rows = measured(kind, subject, finished)[0]["rounding"]
    assert [(r["quantizer"], r["bits"], r["activations"]) for r in rows[:4]] == [
        *(("minmax", 3, "none"), ("minmax", 3, "4")),
        *(("minmax", 2, "none"), ("minmax", 2, "4")),
    ]
    x, w = subject.draws, [w.detach() for w in subject.weights]
    for row in rows[:4]:
        ends = [fake(v, row["bits"]) for v in w]
        inputs = x if row["activations"] == "none" else torch.stack(
            [torch.stack([fake(part, 4) for part in image]) for image in x]
        )  # fmt: skip
        before, after = (
            (torch.stack([(z[:, i] * v).sum(1) for i, v in enumerate(t)]) - 1).square().sum(0) / 2
            for z, t in ((x, w), (inputs, ends))
        )
        rise = after - before
        assert row["rise"] == pytest.approx(rise.mean().item(), rel=1e-4)
        assert row["rise_error"] == pytest.approx(rise.std().item() / len(x) ** 0.5, rel=1e-4)
        assert row["minus_quantizer"] is row["minus_first"] is None
    for row, base in zip(rows[4:], rows[:4]):
        assert row["minus_quantizer"] == pytest.approx(row["rise"] - base["rise"], abs=1e-6)
        assert row["minus_quantizer_error"] > 0


def test_networks_are_compared_on_the_same_examples_alone():
    kind = ROUNDING(bits="2", quantizers="minmax", activations="none")
    models = []
    for subject in (quadratics.subject(), quadratics.subject(1), quadratics.subject(1, images=1)):
        with Finished("", hidden=True) as finished:
            models.append(measured(kind, subject, finished)[0])
    (first,), (other,), (apart,) = (model["rounding"] for model in models)
    assert other["minus_first"] == pytest.approx(other["rise"] - first["rise"])
    assert other["minus_first_error"] > 0 and apart["minus_first"] is None


def test_bad_settings_are_told_before_any_work():
    for how, message in (
        ({"activations": "9"}, "--activations has '9'; expected none, or bits from 2 to 8"),
        ({"activations": "none bins=4"}, "--activations has 'none bins=4'"),
        ({"activations": "8 bins=x"}, "--activations has '8 bins=x'"),
        ({"activations": ","}, "--activations is empty"),
        ({"quantizers": "gtpq"}, "expected one of minmax, mse, gptq; did you mean gptq"),
    ):
        with pytest.raises(ValueError, match=message):
            ROUNDING(**how)
    for how, message in (
        ("activations=none", "gptq rounds a weight by its layer's inputs"),
        ("quantizers=mse", "bins of timesteps calibrate on images of their own"),
    ):
        with pytest.raises(ValueError, match=message):
            flatdiff.flatness(quadratics.subject(), f"ROUNDING {how}", progress=False)


def test_at_the_door():
    found = flatdiff.flatness(
        quadratics.subject(), "ROUNDING bits=3 quantizers=mse activations=none,8", progress=False
    )
    assert [(row["size"], row["activations"]) for row in found.rows] == [(3, "none"), (3, "8")]
    assert found.rows[0]["value"] and found.rows[0]["error"] > 0


def test_a_table_of_networks_from_the_command_line(folder, tmp_path):
    more = ["--flatness", "ROUNDING", "--bits", "3", "--num_images", "8"]
    more += ["--quantizers", "minmax,gptq,minmax group=8", "--activations", "none,8,8 bins=2"]
    measure(arguments(folder, tmp_path, *more))
    record = json.loads((tmp_path / "flatness.json").read_text())["ROUNDING"]
    rows = list(csv.DictReader((tmp_path / "flatness_ROUNDING.csv").open()))
    assert len(rows) == 2 * 3 * 3 and (tmp_path / "flatness_ROUNDING.png").exists()
    log = (tmp_path / "log.txt").read_text()
    assert "inputs 8 bins=2" in log and "less minmax's" in log
    by_name = {(r["quantizer"], r["activations"]): r for r in record["models"][0]["rounding"]}
    assert by_name["minmax group=8", "none"]["length"] < by_name["minmax", "none"]["length"]
    assert by_name["gptq", "none"]["length"] > by_name["minmax", "none"]["length"]
