"""The terms of a rise by rounding, against quadratic losses of which all is known in float64."""

import csv
import json

import pytest
import quadratics
import torch
from flatness_studies import arguments, measure, study

import flatdiff
from flatdiff.measure.explain import EXPLAIN
from flatdiff.measure.finished import Finished
from flatdiff.measure.found import measured


def explained(subject, **how):
    """(the record, what was found of the subject) of a measure of it."""
    kind = EXPLAIN(**{"num_draws": 4, "bits": "3,2"} | how)
    with Finished("", hidden=True) as finished:
        return kind, measured(kind, subject, finished)[0]


def fake(w, bits):
    """torch's own rounding of a weight to a grid of its least and greatest value, and zero."""
    low, high = min(w.min().item(), 0.0), max(w.max().item(), 0.0)
    scale = (high - low) / (2**bits - 1)
    zero = round(-low / scale)
    w_q = torch.fake_quantize_per_tensor_affine(w.float(), scale, zero, 0, 2**bits - 1)
    return w_q.double()


@pytest.mark.parametrize("shared", [False, True])
def test_of_a_quadratic_loss_the_expansion_is_exact(shared):
    subject = quadratics.subject(shared=shared, layers=3)
    _, found = explained(subject)
    for item, bits in zip(found["explained"], (3, 2)):
        assert (item["bits"], item["quantizer"], item["of"]) == (bits, "minmax", "loss")
        w = [w.detach() for w in subject.weights]
        d = [fake(x, bits) - x for x in w]
        y, move = (torch.stack([(subject.draws[:, i] * v).sum(1) for i, v in enumerate(t)], 1)
                   for t in (w, d))  # fmt: skip
        if shared:
            y, move = (x.sum(1, keepdim=True) for x in (y, move))
        slope, half = ((y - 1) * move).sum(1), (move**2).sum(1) / 2
        square = sum((x**2).sum() for x in d)
        assert item["length"] == pytest.approx(square.sqrt().item(), rel=1e-6)
        expected = {"slope": slope, "half_curvature": half, "rise": slope + half}
        expected |= {"path": slope + half, "predicted": slope + half, "kappa": 2 * half / square}
        expected |= dict.fromkeys(("kappa_on_the_way", "kappa_at_length"), 2 * half / square)
        for name, each in expected.items():
            value, error = item["terms"][name]
            assert value == pytest.approx(each.mean().item(), rel=1e-5), name
            sample = each.std().item() / len(each) ** 0.5
            assert error == pytest.approx(sample, rel=1e-4), name
        for name in ("rest", "path_rest"):
            assert abs(item["terms"][name][0]) < 1e-6 * abs(item["terms"]["rise"][0])


def test_layers_that_do_not_meet_add_up_and_others_do_not():
    for shared in (False, True):
        _, found = explained(quadratics.subject(shared=shared), layer_bits="2,3")
        for item in found["explained"]:
            rows, rise = item["layers"], item["terms"]["rise"][0]
            assert [row["layer"] for row in rows] == ["layers.0", "layers.1"]
            assert sum(row["length"] ** 2 for row in rows) == pytest.approx(item["length"] ** 2)
            each = [row["terms"]["rise"][0] for row in rows]
            assert item["sum"][0] == pytest.approx(sum(each))
            assert item["sum"][0] + item["interaction"][0] == pytest.approx(rise)
            for row in rows:
                terms = row["terms"]
                assert terms["predicted"][0] == pytest.approx(terms["rise"][0], rel=1e-5)
            assert (abs(item["interaction"][0]) < 1e-6 * abs(rise)) is not shared


def test_every_direction_of_a_round_bowl_curves_alike(monkeypatch):
    """L = 3 |w|^2 / 2: the curvature is 3, along d and along random directions."""
    subject = quadratics.subject()
    weights = subject.weights
    subject.loss = lambda net, x: 1.5 * sum((w**2).sum() for w in weights) * torch.ones(len(x))
    _, found = explained(subject.anew(0))
    for item in found["explained"]:
        assert item["terms"]["kappa"][0] == pytest.approx(3, rel=1e-6)
        for values in item["random"].values():
            assert values["kappa"] == pytest.approx(3, rel=1e-4)
            assert values["deviation"] < 1e-3


def test_two_networks_are_split_on_the_same_examples_alone():
    kind = EXPLAIN(num_draws=4, bits="3,2")
    models, results = [], []
    subjects = [quadratics.subject(), quadratics.subject(1, scale=3.0, name="b")]
    for subject in (*subjects, quadratics.subject(1, name="c", images=1)):
        with Finished("", hidden=True) as finished:
            model, found = measured(kind, subject, finished)
        models.append(model)
        results.append((subject, kind, found))
    first, other, apart = models
    assert first["split"] == apart["split"] == []
    for bits, (a, b) in zip((3, 2), zip(first["explained"], other["explained"])):
        for of in ("at w", "on the way"):
            rows = [r for r in other["split"] if (r["bits"], r["curvature"]) == (bits, of)]
            gap, *parts = (row["value"] for row in rows)
            assert gap == pytest.approx(a["terms"]["rise"][0] - b["terms"]["rise"][0])
            assert sum(parts) == pytest.approx(gap)
            longer = rows[1]["value"]  # of the first, whose weights are a third as large
            assert rows[1]["part"] == "length" and longer < 0
    told = kind.differences(results[0], results[1])
    assert [row["difference"] for row in told] == [row["value"] for row in other["split"]]
    assert kind.differences(results[0], results[2]) == []
    record = {"models": models}
    record["rows"] = kind.rows(record)
    text = kind.text(record)
    assert "the expansion at w is within 10% of the rise at 3, 2 bits" in text
    assert "rise of a less that of b" in text and "breaks" not in text
    assert set(kind.figures(record)) == {"", "_layers"}
    assert set(kind.tables(record)) == {"", "_layers", "_split"}
    shown = kind.shown(first)
    assert shown["length"] == first["explained"][1]["length"] and set(shown) > {"kappa", "rise"}


def test_bad_settings_are_told_before_any_work():
    for how, message in (
        ({"bits": "9"}, "--bits is '9'; expected whole numbers 2 to 8"),
        ({"bits": ","}, "--bits is ','"),
        ({"quantizers": "minmix"}, "expected one of minmax, mse"),
        ({"quantizers": " , "}, "expected one of minmax, mse"),
        ({"layer_bits": "5"}, "--layer_bits is '5'; expected some of 8, 6, 4"),
        ({"num_draws": 3}, "num_draws is 3"),
    ):
        with pytest.raises(ValueError, match=message):
            EXPLAIN(**{"num_draws": 4} | how)
    subject = quadratics.subject()
    with torch.no_grad():
        for w in subject.weights:
            w.zero_()
    with pytest.raises(ValueError, match="a stands on the grid of 8 bits already"):
        EXPLAIN(num_draws=4).tasks(subject.anew(0))


def test_at_the_door():
    found = flatdiff.flatness(quadratics.subject(), "EXPLAIN bits=2", num_draws=4, progress=False)
    (row,) = found.rows
    assert (row["kind"], row["size"], row["term"], row["holds"]) == ("EXPLAIN", 2, "loss", "yes")
    other = flatdiff.flatness(quadratics.subject(1), "EXPLAIN bits=2", num_draws=4, progress=False)
    gap = found.compare(other)[0]
    assert gap["difference"] == pytest.approx(row["rise"] - other.rows[0]["rise"])


def test_a_network_from_the_command_line(folder, tmp_path):
    """Of a diffusion network: the terms are the rise, files are written, and nothing is done
    twice."""
    more = ["--flatness", "EXPLAIN", "--bits", "8", "--num_images", "6"]
    more += ["--quantizers", "mse granularity=channel"]
    argv = arguments(folder, tmp_path, *more)
    measure(argv)
    record = json.loads((tmp_path / "flatness.json").read_text())["EXPLAIN"]
    first, other = record["models"]
    assert [row["part"] for row in other["split"]][:5] == [
        *("gap", "length", "curvature"),
        *("slope", "rest"),
    ]
    eight = first["explained"][0]["terms"]
    assert eight["path"][0] == pytest.approx(eight["rise"][0], rel=0.02, abs=1e-7)
    assert eight["predicted"][0] == pytest.approx(eight["rise"][0], rel=0.1, abs=1e-6)
    for name in ("", "_layers", "_split"):
        rows = list(csv.DictReader((tmp_path / f"flatness_EXPLAIN{name}.csv").open()))
        assert rows and "model" in rows[0]
    again = study(argv)
    assert again["models"][0]["explained"][0]["terms"] == first["explained"][0]["terms"]


def test_layers_may_be_left_out():
    kind, found = explained(quadratics.subject(), layer_bits="0")
    assert all("layers" not in item for item in found["explained"])
    record = {"models": [found]}
    record["rows"] = kind.rows(record)
    assert "add up" not in kind.text(record)
    assert set(kind.figures(record)) == set(kind.tables(record)) == {""}
