"""The spectrum of a network's loss: of a quadratic, both matrices and products, the door."""

import math

import numpy as np
import pytest
import quadratics
import torch
from flatness_studies import arguments, measure, parse
from flatness_studies import subject as subject_of
from torch import nn

import flatdiff
from flatdiff.measure import density as spectra
from flatdiff.measure.density import DENSITY


def found(of, **knobs):
    kind = DENSITY(**knobs)
    told = kind.result(of, [task() for task in kind.tasks(of).values()])
    return kind, told


def values(told, matrix):
    (spectrum,) = [s for s in told["spectra"] if s["matrix"] == matrix]
    return {row["quantity"]: row for row in spectra._quantities(spectrum)}


@pytest.mark.parametrize("products", spectra.PRODUCTS)
def test_a_quadratic_has_its_moments(products):
    """Of losses that are linear in w within their squares, Gauss-Newton is the Hessian: all of its
    eigenvalues are found, and the trace is exact in enough columns."""
    of = quadratics.subject()
    _, told = found(of, matrix="both", products=products, steps=10, probes=2, sketch=20)
    x = of.draws.numpy()
    exact = np.concatenate([np.linalg.eigvalsh(x[:, i].T @ x[:, i] / len(x)) for i in (0, 1)])
    for matrix in spectra.MATRICES:
        got = values(told, matrix)
        assert got["trace, Hutch++"]["value"] == pytest.approx(exact.sum(), rel=1e-6)
        assert got["largest"]["value"] == pytest.approx(exact.max(), rel=1e-6)
        assert got["smallest"]["value"] == pytest.approx(exact.min(), rel=1e-6)
        assert got["share below 0"]["value"] == 0


def test_intervals_cover_over_twenty_seeds():
    """Of four probes: Student's 95 % of Hutchinson's trace, and of the mean square."""
    inside = np.zeros(2)
    for seed in range(20):
        of = quadratics.subject().anew(seed)
        _, told = found(of, products="exact", steps=4, probes=4, sketch=2)
        x = of.draws.numpy()
        exact = np.concatenate([np.linalg.eigvalsh(x[:, i].T @ x[:, i] / len(x)) for i in (0, 1)])
        got = values(told, "hessian")
        truths = exact.sum(), (exact**2).mean() ** 0.5
        for i, name in enumerate(("trace, Hutchinson", "root of the mean square")):
            inside[i] += got[name]["low"] < truths[i] < got[name]["high"]
    assert (inside >= 17).all()  # 19 expected


def test_differences_are_near_double_backward_on_a_network(folder):
    """Of float32: within 2e-3 of the largest eigenvalue."""
    flags = parse(arguments(folder, folder / "density", "--num_images", "6"))
    of = subject_of(f"{folder}/runs/a/model000007.pt", flags)
    v = torch.randn(of.num_weights, generator=torch.Generator().manual_seed(0))
    v /= v.norm()
    for matrix in spectra.MATRICES:
        exact, fast = (spectra.product(of, matrix, e) for e in (True, False))
        for _ in range(3):  # towards the eigenvector of the largest
            v = exact(v)
            v /= v.norm()
        top = float(v @ exact(v))
        assert top > 0
        assert float((fast(v) - exact(v)).norm()) < 2e-3 * top


def test_gauss_newton_is_refused_where_it_is_none():
    net = nn.Linear(3, 2).double().eval()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    cubic = flatdiff.subject(net, loss=lambda n, x: (n(x) ** 4).sum(1), draws=x)
    twice = flatdiff.subject(net, loss=lambda n, x: ((n(x) - n(-x)) ** 2).sum(1), draws=x)
    for of, told in ((cubic, "no squared error"), (twice, "calls its network 2 times")):
        for products in spectra.PRODUCTS:
            kind = f"DENSITY matrix=gauss_newton products={products}"
            with pytest.raises(ValueError, match=told):
                flatdiff.flatness(of, kind, progress=False)
    assert flatdiff.flatness(cubic, "DENSITY steps=2", progress=False).rows


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ("matrix=fisher", "got 'fisher', expected hessian or gauss_newton or both"),
        ("products=fast", "got 'fast', expected differences or exact"),
        ("probes=1", "expected 2 or more probes"),
        ("steps=0", "1 step or more"),
    ],
)
def test_knobs_that_make_no_sense(knobs, told):
    with pytest.raises(ValueError, match=told):
        flatdiff.flatness(quadratics.subject(), f"DENSITY {knobs}", progress=False)


def test_the_density_of_a_study(folder, tmp_path):
    argv = arguments(folder, tmp_path, "--flatness", "DENSITY probes=2 steps=3 sketch=2")
    measure([*argv, "--model_path", f"{folder}/runs/b/*", "--num_images", "6"])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"flatness_DENSITY.csv", "flatness_DENSITY_curve.csv", "flatness_DENSITY.png"} < names
    lines = (tmp_path / "flatness_DENSITY_curve.csv").read_text().splitlines()
    x, y = np.array([[float(c) for c in line.split(",")[2:4]] for line in lines[1:]]).T
    assert np.trapezoid(y, x) == pytest.approx(1, abs=1e-3)


def test_at_the_door():
    f = flatdiff.flatness(quadratics.subject(), "DENSITY steps=4", progress=False)
    assert f.rows[0]["kind"] == "DENSITY" and f.rows[0]["error"] > 0
    assert f.plot().axes and math.isnan(f.rows[-1]["error"])
