"""The Hessian's eigenvalues and trace: of a known one, and against the losses around a network."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flatness_studies import arguments, parse
from flatness_studies import subject as subject_of

from flatdiff.measure.spectrum import HESSIAN
from flatdiff.weights import perturb


def test_a_known_hessian():
    """Of two images, diagonal: any signs z give the trace, and the eigenvalues are the numbers."""
    each = torch.tensor([[9.0, 1, 4, -2], [7.0, 3, 2, -4]], dtype=torch.float64)
    subject = SimpleNamespace(
        num_weights=4,
        seed=0,
        terms=["mse"],
        path="a.pt",
        hessian_product=lambda: lambda v: each.mean(dim=0) * v,
        curvatures=lambda v: each @ v.double() ** 2,
        means=lambda values: values.mean(dim=-1, keepdim=True),
        errors_of=lambda values: values.std(dim=-1, keepdim=True) / math.sqrt(2),
    )
    measure = HESSIAN(num_draws=3, num_eigenvalues=2)
    found = measure.result(subject, [task() for task in measure.tasks(subject).values()])
    assert found["of"] == "mse" and found["trace"] == pytest.approx([10, 10, 10])
    assert found["trace_error_images"] == pytest.approx(2)  # of 12 and 8
    assert found["eigenvalues"] == pytest.approx([8, 3], rel=1e-4)
    assert found["eigenvalue_errors_images"] == pytest.approx([1, 1], rel=1e-3)
    assert measure.shown(found) == {"eigenvalue": found["eigenvalues"][0]}


def test_the_larger_of_two_errors_is_shown():
    model = {"name": "a", "of": "mse", "trace": [1.0, 2.0, 6.0], "trace_error_images": 0.5}
    model |= {"eigenvalues": [5.0, 4.0], "residuals": [0.1, 0.3]}
    model |= {"eigenvalue_errors_images": [0.2, math.nan]}
    rows = HESSIAN(num_draws=3, num_eigenvalues=2).rows({"models": [model]})
    assert [row["quantity"] for row in rows] == ["trace", "eigenvalue 1", "eigenvalue 2"]
    assert [row["value"] for row in rows] == [3, 5, 4]
    assert rows[0]["error"] == pytest.approx(np.std([1, 2, 6], ddof=1) / 3**0.5)
    assert rows[0]["error_larger"] == rows[0]["error"] and rows[1]["error_larger"] == 0.2
    assert math.isnan(rows[2]["error_larger"])  # an error that is not known is not small
    text = HESSIAN(num_draws=3, num_eigenvalues=2).text({"rows": rows})
    assert text.splitlines()[-1].split() == ["a", "eigenvalue", "2", "4"]


def test_hessian_of_a_network_is_what_its_lpf_says(folder):
    """L(w + d) + L(w - d) - 2 L(w) = d.H d but for the fourth order, of the mse, for one draw."""
    sigma, flags = 1e-3, parse(arguments(folder, folder / "both"))
    subject = subject_of(f"{folder}/runs/a/model000007.pt", flags)
    z = torch.cat([z.flatten().double() for z in perturb.noise(subject.weights, 0, 1)])
    losses = [subject.at(perturb.gaussian(s, 0, 1))["losses"] for s in (sigma, -sigma)]
    assert subject.terms == ["mse", "vb", "loss"]
    curvature = (losses[0][0][0] + losses[1][0][0] - 2 * subject.at_w[0, 0]) / sigma**2
    found = float(z @ subject.hessian_product()(z))
    assert found == pytest.approx(float(curvature), rel=0.02)
    each = subject.curvatures(z)
    assert float(subject.means(each)[0]) == pytest.approx(found, rel=1e-4)
