"""The Hessian's eigenvalues and trace: of a known one, and against the losses around a network."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flatness_studies import arguments, parse, study
from flatness_studies import subject as subject_of

from flatdiff.measure.spectrum import HESSIAN, PRODUCTS
from flatdiff.weights import perturb


def test_a_known_hessian():
    """Of two images, diagonal: any signs z give the trace, and the eigenvalues are the numbers."""
    each = torch.tensor([[9.0, 1, 4, -2], [7.0, 3, 2, -4]], dtype=torch.float64)
    subject = SimpleNamespace(
        num_weights=4,
        seed=0,
        terms=["mse"],
        name="a.pt",
        device=torch.device("cpu"),
        hidden=True,
        hessian_product=lambda exact: lambda v: each.mean(dim=0) * v,
        curvatures=lambda v, exact: each @ v.double() ** 2,
        means=lambda values, terms=None: values.mean(dim=-1, keepdim=True),
        errors_of=lambda values, terms=None: values.std(dim=-1, keepdim=True) / math.sqrt(2),
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
    assert subject.terms == ["mse", "vb", "loss", "x_mse"]
    curvature = (losses[0][0][0] + losses[1][0][0] - 2 * subject.at_w[0, 0]) / sigma**2
    found = float(z @ subject.hessian_product(exact=True)(z))
    assert found == pytest.approx(float(curvature), rel=0.02)
    each = subject.curvatures(z, exact=True)
    assert float(subject.means(each)[0]) == pytest.approx(found, rel=1e-4)


@pytest.fixture(scope="module")
def both(folder):
    """(record by differences, exact record) of one network, in one folder."""
    argv = arguments(folder, folder / "products", "--model_path", f"{folder}/runs/b/*")
    argv += ["--num_images", "10", "--num_eigenvalues", "2"]
    kinds = "HESSIAN product=exact", "HESSIAN"
    exact, fast = (study([*argv, "--flatness", kind]) for kind in kinds)
    return fast, exact


def test_differences_find_what_double_backward_finds(both):
    """Within a thousandth of the largest; the residuals say how far, and differ."""
    (fast,), (exact,) = (record["models"] for record in both)
    largest = exact["eigenvalues"][0]
    for a, b, rest in zip(fast["eigenvalues"], exact["eigenvalues"], fast["residuals"]):
        assert abs(a - b) <= min(rest + 1e-3 * largest, 2e-3 * largest)
    assert fast["trace"] == pytest.approx(exact["trace"], rel=3e-3)
    for name in ("trace_error_images", "eigenvalue_errors_images"):
        assert fast[name] == pytest.approx(exact[name], rel=3e-2)  # of vectors found to 1e-3
    assert fast["residuals"] != exact["residuals"] and max(fast["residuals"]) < 3e-3 * largest


def test_results_of_one_product_are_not_taken_for_the_other(both):
    """Both studies were in one folder, the exact one first; it has the keys of old results."""
    assert both[0]["models"][0]["product"] == "differences"
    assert both[1]["models"][0]["product"] == "exact"
    subject = SimpleNamespace(num_weights=1, seed=0)
    fast, exact = (HESSIAN(num_draws=2, num_eigenvalues=1, product=p) for p in PRODUCTS)
    assert sorted(exact.tasks(subject)) == ["top 1", "trace 0", "trace 1"]
    assert not fast.tasks(subject).keys() & exact.tasks(subject).keys()


def test_a_residual_knows_of_a_product_that_is_wrong_along_its_vector():
    """An operator of 0.9 H has the vectors of H, and no other sign that it is wrong."""
    diagonal = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    subject = SimpleNamespace(
        num_weights=3,
        seed=0,
        terms=["mse"],
        device=torch.device("cpu"),
        hidden=True,
        hessian_product=lambda exact: lambda v: 0.9 * diagonal * v,
        curvatures=lambda v, exact: (diagonal @ v.double() ** 2)[None],
        means=lambda values, terms=None: values.mean(dim=-1, keepdim=True),
    )
    top, *_ = HESSIAN(num_draws=2, num_eigenvalues=1).tasks(subject).values()
    found = top()
    assert found["eigenvalues"] == pytest.approx([3.6], rel=1e-5)
    assert found["residuals"] == pytest.approx([0.4], rel=1e-3)


def test_quantized_inputs_are_refused_before_any_curvature(folder, tmp_path):
    argv = arguments(folder, tmp_path, "--flatness", "HESSIAN", "--quant", "8")
    with pytest.raises(ValueError, match="have no derivative"):
        study([*argv, "--quant_activations", "8"])
    assert not list((tmp_path / "flatness_parts").glob("*.jsonl"))


def test_a_product_of_another_name_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="got 'fast', expected differences or exact"):
        study(arguments(folder, tmp_path, "--flatness", "HESSIAN product=fast"))
