"""What measures change by under symmetries: ratios that are known, and of a small network."""

import math

import numpy as np
import pytest
import torch
from flatness_studies import arguments, parse
from flatness_studies import subject as subject_of
from networks import tiny
from torch import nn

import flatdiff
from flatdiff.measure import leak
from flatdiff.measure.curve import LPF
from flatdiff.measure.leak import LEAK, Value
from flatdiff.measure.sharpness import SHARPNESS
from flatdiff.measure.spectrum import HESSIAN
from flatdiff.nets import symmetries


class Few(LEAK):
    """Those of one size of noise each."""

    def measures(self):
        scales = ("absolute", "weight", "canonical")
        curves = {s: LPF(sigma="5e-3", noise_scale=s, num_draws=4) for s in scales}
        return curves | {
            "Hessian": HESSIAN(num_draws=2, num_eigenvalues=1),
            "sharpness": SHARPNESS(noise_scale="weight", steps=1),
        }


NAMES = "conv into norm", "permuted channels"


@pytest.fixture(scope="module")
def record(folder):
    with pytest.MonkeyPatch.context() as patch:
        few = {name: symmetries.SYMMETRIES[name] for name in NAMES}
        patch.setattr(symmetries, "SYMMETRIES", few)
        return measured(folder)


def measured(folder):
    argv = arguments(folder, folder / "leak", "--num_images", "6", "--batch_size", "6")
    subject = subject_of(f"{folder}/runs/a/model000007.pt", parse(argv))
    before = [w.detach().clone() for w in subject.weights]
    measure = Few(num_draws=4, factor=4.0)
    found = [task() for task in measure.tasks(subject).values()]
    assert all(torch.equal(w, b) for w, b in zip(subject.weights, before))
    model = subject.about() | measure.result(subject, found)
    record = {"models": [model]}
    return measure, record | {"rows": measure.rows(record)}


def test_absolute_measures_leak_and_those_in_the_weights_units_do_not(record):
    (model,) = record[1]["models"]
    for kind in ("absolute", "eigenvalue", "trace"):
        assert model["leaks"][kind]["conv into norm"]["leak"] > 1.5
    for kind in ("weight", "canonical", "sharpness"):
        for name in NAMES[:1]:
            assert model["leaks"][kind][name]["leak"] == pytest.approx(1, abs=1e-4)
    for name, told in model["leaks"]["canonical"].items():
        assert told["leak"] == pytest.approx(1, abs=1e-4), name
        assert told["error"] < 1e-4
    assert model["leaks"]["eigenvalue"]["permuted channels"]["leak"] == pytest.approx(1, rel=1e-2)
    permuted = model["leaks"]["weight"]["permuted channels"]
    assert permuted["error"] > 1e-3  # other draws
    shown = LEAK.shown(model)
    assert shown["canonical"] < 1.0002 and shown["absolute"] > 1.5


def test_tables_and_a_picture(record):
    measure, record = record
    assert len(record["rows"]) == 6 * 2
    text = measure.text(record)
    assert "conv into norm" in text and "by factors of 4" in text
    (figure,) = measure.figures(record).values()
    (image,) = figure.axes[0].images
    kinds, first = list(record["models"][0]["leaks"]), image.get_array()[0]
    assert first[kinds.index("absolute")] > 1.5 > 1.01 > first[kinds.index("canonical")]
    assert "1.000" in [told.get_text() for told in figure.axes[0].texts]
    assert {row["size"] for row in measure.listed(record)} >= {"absolute", "trace", "sharpness"}


def test_a_leak_and_its_errors_are_those_of_ratios():
    """Of pairs that scatter together: against the ratio's spread over many samples of draws."""
    draw = np.random.default_rng(0)
    subject = Errors()
    told, ratios = [], []
    for _ in range(400):
        before = draw.gamma(20, 1, 50)
        after = 3 * before + draw.normal(0, 2, 50)
        values = [Value(torch.from_numpy(x), torch.from_numpy(x)) for x in (before, after)]
        found = leak.leak(subject, *values)
        told.append((found["error"], found["error_images"]))
        ratios.append(found["leak"])
    assert np.mean(ratios) == pytest.approx(3, abs=0.01)
    assert np.mean(told, axis=0) == pytest.approx([np.std(ratios)] * 2, rel=0.1)


class Errors:
    """A subject of examples that count alike."""

    terms = ("mse",)

    def errors_of(self, values, terms):
        return values.std(dim=-1, keepdim=True) / math.sqrt(values.shape[-1])


def test_residuals_of_eigenvalues_are_errors_of_their_leak():
    each = torch.ones(4, dtype=torch.float64)
    before, after = (Value(torch.tensor([v]), each * v, r) for v, r in ((2.0, 0.1), (6.0, 0.4)))
    found = leak.leak(Errors(), before, after)
    assert found["leak"] == 3 and found["error"] == pytest.approx(math.hypot(0.4, 0.3) / 2)
    assert found["error_images"] == 0


def squares(net, draws):
    return net(draws, torch.full([len(draws)], 3.0)).square().mean((1, 2, 3))


def test_what_cannot_be_tried_is_refused_before_any_work():
    images = torch.randn(6, 3, 8, 8)
    plain = nn.Linear(2, 2).eval()
    subject = flatdiff.subject(plain, loss=lambda net, x: net(x).sum(1), draws=torch.ones(6, 2))
    with pytest.raises(ValueError, match="Linear has no residual block .* no attention"):
        flatdiff.flatness(subject, "LEAK", progress=False)
    subject = flatdiff.subject(tiny().eval(), loss=squares, draws=images, weights=["*.weight"])
    with pytest.raises(ValueError, match="not the same where .* leads: .* weights left out"):
        flatdiff.flatness(subject, "LEAK", progress=False)
    for factor in ("1", "inf", "nan"):
        with pytest.raises(ValueError, match="expected a finite number above 1"):
            flatdiff.flatness(subject, f"LEAK factor={factor}", progress=False)
