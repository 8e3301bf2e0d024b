"""Verdicts on made-up numbers, against scipy."""

import numpy as np
import pytest
from scipy import stats

from flatdiff import claims, study_rows, study_tables
from flatdiff.claims import Claim

A = {"gradient": "adam-sam rho=0.1"}
B = {"gradient": "adam"}
CLAIM = Claim("lower", "abstract", "lpf", A, B)


def row(gradient, seed, average="none", pertub=0.0, **values):
    about = {
        "gradient": gradient,
        "climbs": gradient.startswith("adam-sam"),
        "twice": gradient.endswith("2x steps"),
        "input_pertub": pertub,
        "average": average,
        "seed": seed,
    }
    return about | values


def rows_of(sam, adam, column="lpf"):
    pairs = ((A["gradient"], sam), (B["gradient"], adam))
    return [row(name, s, **{column: v}) for name, vs in pairs for s, v in enumerate(vs)]


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 200])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_quantiles_are_those_of_student(freedom, level):
    expected = stats.t.ppf((1 + level) / 2, freedom)
    assert claims.t_quantile(freedom, level) == pytest.approx(expected, rel=1e-9)


def test_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    sam, adam = rng.normal(1, 0.2, 5), rng.normal(2, 0.2, 5)
    verdict = claims.judge(CLAIM, rows_of(sam.tolist(), adam.tolist()))
    interval = stats.ttest_rel(sam, adam).confidence_interval(0.95)
    assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high))
    assert verdict.estimate == pytest.approx((sam - adam).mean()) and verdict.n == 5


@pytest.mark.parametrize(
    ("sam", "expected"),
    [
        ([1.0, 1.1, 0.9], claims.HOLDS),
        ([3.0, 3.1, 2.9], claims.FAILS),
        ([1.0, 3.1, 2.2], claims.UNDECIDED),
        ([1.0, 2.9, 1.5], claims.UNDECIDED),
        ([1.0], claims.UNDECIDED),
    ],
)
def test_verdicts(sam, expected):
    verdict = claims.judge(CLAIM, rows_of(sam, [2.0, 2.0, 2.0]))
    assert verdict.verdict == expected and verdict.n == len(sam)
    assert (verdict.why == "one seed") == (len(sam) == 1)


def test_seeds_are_paired_and_those_without_a_value_left_out():
    rows = rows_of([1.0, None, 3.0], [5.0, 6.0, 7.5])[::-1]
    assert sorted(study_rows.paired(rows, A, B, "lpf")) == [-4.5, -4.0]
    assert claims.judge(CLAIM, rows_of([None], [1.0])) is None


def test_correlation_is_pearsons_with_fishers_interval():
    rng = np.random.default_rng(1)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    rows = [row("adam", s, lpf=a, rise_w8=b) for s, (a, b) in enumerate(zip(x, y))]
    found, expected = claims.correlated(rows, "lpf", "rise_w8"), stats.pearsonr(x, y)
    interval = expected.confidence_interval(0.95)
    assert found.estimate == pytest.approx(expected.statistic)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.n == 12 and claims.correlated(rows[:3], "lpf", "rise_w8") is None


def made_up():
    """SAM is flatter and no better in quality; EMA helps both alike; Adam of equal cost wins."""
    rng = np.random.default_rng(2)
    rows = []
    for seed in range(3):
        for gradient, flat, quality in (
            ("adam", 2.0, 5.0),
            (A["gradient"], 1.0, 5.0),
            ("adam 2x steps", 2.0, 3.0),
        ):
            for average, factor in (("none", 1.0), ("ema", 0.9)):
                noise = rng.normal(0, 0.01, 3)
                values = {
                    "lpf": flat * factor + noise[0],
                    "fd_20": quality * factor + noise[1],
                    "rise_w8": flat / 10 + noise[2],
                }
                rows.append(row(gradient, seed, average, **values))
    return rows


def test_the_claims_of_a_study():
    found = {v.text: v for v in claims.verdicts(made_up())}
    assert found["SAM is flatter than Adam: LPF"].verdict == claims.HOLDS
    assert found["SAM alone is flatter than Adam + EMA: LPF"].verdict == claims.HOLDS
    assert found["SAM loses less distance at 8 bits than Adam"].verdict == claims.HOLDS
    against = "SAM has a lower distance than Adam of twice the steps, 20 steps"
    assert found[against].verdict == claims.FAILS
    assert found[against].place == "not in the paper"
    assert not any("eigenvalue" in text or "SWA" in text for text in found)  # nothing measured
    correlation = next(v for v in found.values() if v.column == "r")
    assert correlation.n == 18 and correlation.verdict == claims.HOLDS


def test_each_radius_has_its_own_claims_and_input_perturbation_one_more():
    rows = made_up() + [row("adam-sam rho=0.5", 0, lpf=1.0), row("adam", 0, pertub=0.1, lpf=1.5)]
    texts = [c.text for c in claims.claims(rows)]
    assert "adam-sam rho=0.5 is flatter than Adam: LPF" in texts
    assert f"{A['gradient']} is flatter than Adam: LPF" in texts
    shifted = [c for c in claims.claims(rows) if "input perturbation" in c.text]
    assert [c.b["input_pertub"] for c in shifted] == [0.1, 0.1]
    assert [c.a["input_pertub"] for c in shifted] == [0.0, 0.0]
    assert not claims.verdicts([row("adam", 0, lpf=1.0)])  # nothing to compare


def test_summary_is_mean_and_standard_error_over_seeds():
    rows = rows_of([1.0, 2.0, 4.0], [1.0, None, 2.0])
    sam, adam = study_rows.summary(rows)
    assert sam["lpf"] == pytest.approx(7 / 3) and sam["seeds"] == 3
    assert sam["lpf_se"] == pytest.approx(stats.sem([1, 2, 4]))
    assert adam["seeds"] == 2
    assert (adam["lpf"], adam["lpf_se"]) == pytest.approx((1.5, stats.sem([1, 2])))
    assert study_rows.mean_and_error([None]) == (None, None)
    assert study_rows.mean_and_error([2.0, None]) == (2.0, None)


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
    assert study_tables.with_error(mean, error) == text


def test_markdown_is_a_table():
    text = study_tables.as_markdown((["a", "b"], [["x", "1"], ["y", "2"]]))
    assert text.splitlines() == ["| a | b |", "| --- | ---: |", "| x | 1 |", "| y | 2 |"]
