"""Parts of a gap: the product rule in closed form, and intervals that cover."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flatdiff.measure import explain_split as split

SUBJECT = SimpleNamespace(
    terms=["mse"],
    means=lambda values, terms=None: values.mean(dim=-1, keepdim=True),
    errors_of=lambda values, terms=None: (
        values.std(dim=-1, keepdim=True) / math.sqrt(values.shape[-1])
    ),
)


def series(slope, curvature, cubic=0.0, back=0.0):
    """Terms of f(a) = slope a + curvature a^2 / 2 + cubic a^3, at examples [N]."""
    found = {"slope": slope, "curvature": curvature, "rise": slope + curvature / 2 + cubic}
    found |= {"halfway": slope + curvature / 2 + 3 * cubic / 4}
    return found | {"end": slope + curvature + 3 * cubic, "back": curvature / 2 - slope - cubic}


def test_terms_of_a_cubic():
    """Simpson's rule integrates the slopes of a cubic exactly; the point at w does not."""
    one = torch.ones(3, dtype=torch.float64)
    terms = split.terms(series(0.5 * one, 3 * one, 0.25 * one), length=2.0)
    expected = {"slope": 0.5, "half_curvature": 1.5, "predicted": 2, "rise": 2.25, "rest": 0.25}
    expected |= {"path": 2.25, "path_rest": 0, "kappa": 0.75, "kappa_on_the_way": 0.875}
    expected |= {"kappa_at_length": 0.75}
    assert {k: v[0].item() for k, v in terms.items()} == pytest.approx(expected, abs=1e-15)


def test_parts_add_up_and_each_is_its_mean_over_both_orders():
    torch.manual_seed(0)
    draws = torch.randn(6, 50, dtype=torch.float64)
    ours, theirs = (split.terms(series(*draws[i : i + 3]), s) for i, s in ((0, 1.5), (3, 0.7)))
    for of, kappa in ((split.AT_W, "kappa"), (split.ON_THE_WAY, "kappa_on_the_way")):
        parts = split.gap(ours, 1.5, theirs, 0.7, of)
        total = sum(v for k, v in parts.items() if k != "gap")
        torch.testing.assert_close(total, parts["gap"], rtol=0, atol=1e-12)
        q = {
            (i, j): length**2 * k / 2
            for i, length in enumerate((1.5, 0.7))
            for j, k in enumerate((ours[kappa], theirs[kappa]))
        }
        shapley = (q[0, 0] - q[1, 0] + q[0, 1] - q[1, 1]) / 2
        torch.testing.assert_close(parts["length"], shapley)
        shapley = (q[0, 0] - q[0, 1] + q[1, 0] - q[1, 1]) / 2
        torch.testing.assert_close(parts["curvature"], shapley)


def test_intervals_of_values_and_of_shares_cover():
    """Of 400 sets of 60 examples, those that hold the truth, which is 95 of 100."""
    rng = np.random.default_rng(0)
    hits = {}
    for _ in range(400):
        each = torch.from_numpy(rng.gamma(2.0, size=(2, 60)))
        slope, curvature = 1.0 * each[0], 0.5 * each[0] + 2 * each[1]
        parts = {"gap": slope + curvature, "slope": slope, "curvature": curvature}
        for row, mean in zip(split.told(SUBJECT, parts), (7, 2, 5)):
            assert row["seen"] and row["low"] <= row["value"] <= row["high"]
            held = (
                row["low"] <= mean <= row["high"],
                (row["share_low"] <= mean / 7 + 1e-12 and mean / 7 - 1e-12 <= row["share_high"]),
            )
            hits.setdefault(row["part"], []).append(held)
    for part, held in hits.items():
        of_value, of_share = np.mean(held, axis=0)
        assert 0.91 <= of_value <= 0.98, part
        assert of_share == 1 if part == "gap" else 0.91 <= of_share <= 0.98


def test_a_gap_that_is_not_seen_has_no_shares():
    each = torch.tensor([1.0, -1.1, 0.9, -0.7], dtype=torch.float64)
    rows = split.told(SUBJECT, {"gap": each, "slope": each})
    assert not any(row["seen"] for row in rows) and all(math.isnan(r["share"]) for r in rows)
