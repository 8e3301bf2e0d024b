"""What a t-test could have seen: its power by simulation, and errors of differences."""

import numpy as np
import pytest

from flatdiff.judge import jackknife, power


@pytest.mark.parametrize("n", [3, 10])
def test_the_smallest_difference_is_found_four_times_in_five(n):
    rng = np.random.default_rng(n)
    draws = power.in_errors(n - 1) / n**0.5 + rng.standard_normal((20_000, n))
    found = [power.test(x.mean(), x.std(ddof=1) / n**0.5, n - 1).verdict for x in draws[:4000]]
    assert found.count("higher") / 4000 == pytest.approx(0.8, abs=0.02)
    assert found.count("lower") < 40


def groups_of(x):
    parts = [x[g.numpy()] for g in jackknife.groups(len(x))]
    return [np.concatenate(parts[:i] + parts[i + 1 :]).mean() for i in range(10)]


def test_ties_are_told_as_often_as_they_should_be():
    """Of two models without a difference one in twenty is decided; pairing takes what is shared."""
    rng, verdicts, errors = np.random.default_rng(0), [], {True: [], False: []}
    for _ in range(400):
        shared = 3 * rng.standard_normal(100)
        x, y = (shared + rng.standard_normal(100) for _ in range(2))
        for paired in (True, False):
            d = power.difference(x.mean() - y.mean(), groups_of(x), groups_of(y), paired=paired)
            errors[paired].append(d.error)
            if paired:
                verdicts.append(d.verdict)
    assert verdicts.count("tie") / 400 == pytest.approx(0.95, abs=0.03)
    assert np.mean(errors[False]) > 2.5 * np.mean(errors[True])
    assert np.mean(errors[True]) == pytest.approx((2 / 100) ** 0.5, rel=0.1)


def test_a_difference_without_an_error_has_no_verdict_and_one_of_error_0_has():
    assert power.difference(3.0, [], [], paired=True).verdict == ""
    same = power.difference(0.0, [1.0] * 10, [1.0] * 10, paired=True)
    assert same.verdict == "tie" and same.seen == 0
    assert power.test(1.0, 0.0, 9).verdict == "higher"
