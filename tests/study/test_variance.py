"""Components of variance: textbook formulas, and simulations of known components."""

import numpy as np
import pytest

from flatdiff.judge import jackknife
from flatdiff.study.variance import CHECKPOINT, GENERATION, TRAINING, Observation, split, table

CROSSED, NESTED = True, False


def known(parts):
    return {part.name: part for part in parts if part.variance is not None}


def test_balanced_trainings_are_a_one_way_analysis():
    """(MS_between - MS_within) / n (Searle et al. 1992, section 3.5); chi-square for the rest."""
    values = np.array([[1.0, 2.0, 4.0], [5.0, 7.0, 6.0], [3.0, 2.0, 2.5]])
    found = known(
        split([Observation(v, "a", t, 0, (t, g)) for (t, g), v in np.ndenumerate(values)])
    )
    within = values.var(axis=1, ddof=1).mean()
    between = 3 * values.mean(1).var(ddof=1)
    assert found[TRAINING].variance == pytest.approx((between - within) / 3)
    assert found[GENERATION].variance == pytest.approx(within)
    low, high = 6 / 14.4494, 6 / 1.2373  # of chi-square's 0.975 and 0.025 points, 6 degrees
    assert found[GENERATION][2:4] == pytest.approx((low * within, high * within), rel=1e-4)
    assert found[TRAINING].share + found[GENERATION].share == pytest.approx(1)
    assert CHECKPOINT not in found


def simulated(rng, kinds, design, deviations, crossed):
    """Observations of trainings, each a list of how many samples its checkpoints have."""
    training, checkpoint, generation, rest = deviations
    found = []
    for kind in range(kinds):
        shared = generation * rng.standard_normal(100)
        for t, counts in enumerate(design):
            of_training = training * rng.standard_normal()
            for c, count in enumerate(counts):
                of_checkpoint = of_training + checkpoint * rng.standard_normal()
                for g in range(count):
                    seed = g if crossed else 20 * t + 5 * c + g
                    value = 9 * kind + of_checkpoint + shared[seed] + rest * rng.standard_normal()
                    found.append(Observation(value, kind, t, c, seed))
    return found


@pytest.mark.parametrize(
    ("kinds", "design", "deviations", "crossed"),
    [
        (2, [[3, 3]] * 3, (1, 0.5, 0, 1), NESTED),
        (3, [[3, 1, 2], [2], [4, 2], [1]], (1, 0.5, 0, 1), NESTED),
        (2, [[3, 3]] * 3, (1, 0.5, 1, 0.7), CROSSED),
        (3, [[2]] * 3, (0, 0, 1, 1), CROSSED),
    ],
)
def test_known_components_are_found_and_covered(kinds, design, deviations, crossed):
    """Also where generation seeds are the same for all trainings, and sizes are unequal."""
    rng, found = np.random.default_rng(5), []
    for _ in range(200):
        found.append(known(split(simulated(rng, kinds, design, deviations, crossed))))
    t, c, g, e = (d**2 for d in deviations)
    for name, truth in ((TRAINING, t), (CHECKPOINT, c), (GENERATION, g + e)):
        parts = [parts[name] for parts in found if name in parts]
        if parts:
            covered = np.mean([part.low <= truth <= part.high for part in parts])
            assert covered > 0.9, name
            error = np.std([part.variance for part in parts]) / 200**0.5
            assert np.mean([part.variance for part in parts]) < 1.4 * truth + 0.15 + 4 * error
            assert np.mean([part.variance for part in parts]) > truth - 4 * error


def test_what_all_trainings_gain_between_checkpoints_is_no_scatter():
    """A line of any slope through each kind's checkpoints changes nothing."""
    rng, slopes = np.random.default_rng(7), (100.0, -7.0)
    for design, crossed in (([[1, 1, 1]] * 3, NESTED), ([[2, 2]] * 2, CROSSED)):
        flat = simulated(rng, 2, design, (1, 0.5, 0.5, 1), crossed)
        rising = [o._replace(value=o.value + slopes[o.kind] * o.checkpoint) for o in flat]
        for a, b in zip(split(flat), split(rising)):
            assert a[1:4] == (None,) * 3 == b[1:4] or a[1:4] == pytest.approx(b[1:4])


def of_images(rng, training, shared, own, seeds):
    """Means of 10 groups of images each; what trainings of one seed share is the same in both."""
    noise = shared * rng.standard_normal((9, 10))
    found = []
    for t in range(3):
        groups = noise[seeds[t]] + own * rng.standard_normal(10)
        left_out = (groups.sum() - groups) / 9
        value = training * rng.standard_normal() + groups.mean()
        found.append(Observation(value, "a", t, 0, seeds[t], left_out))
    return found


@pytest.mark.parametrize("seeds", [(0, 0, 0), (0, 1, 2)])
def test_without_repeated_samples_the_jackknife_tells_of_their_seed(seeds):
    """What images of one noise share is no part of the difference between trainings."""
    rng = np.random.default_rng(6)
    found = [known(split(of_images(rng, 1.0, 2.0, 1.0, seeds))) for _ in range(300)]
    for name, truth in ((TRAINING, 1.0), (GENERATION, (4 + 1) / 10)):
        parts = [parts[name] for parts in found]
        assert np.mean([part.low <= truth <= part.high for part in parts]) > 0.9
        error = np.std([part.variance for part in parts]) / 300**0.5
        assert np.mean([part.variance for part in parts]) == pytest.approx(
            truth, abs=0.1 + 4 * error
        )


@pytest.mark.parametrize("by", ["step", "training"])
def test_the_jackknife_tells_of_the_images_of_each_checkpoint(by):
    """What a step's samples share over trainings, of noise and of what these gain, is no scatter of
    trainings; what a training's share over checkpoints is none of these. All is the images'."""

    def draw(shared=3.0, own=1.0):
        found, noise = [], shared * rng.standard_normal((4, 10))
        for t in range(4):
            of_training = rng.standard_normal()
            for c in range(3):
                groups = noise[c if by == "step" else t] + own * rng.standard_normal(10)
                value = 5 * c + of_training + 0.7 * rng.standard_normal() + groups.mean()
                seed = 0 if by == "step" else t
                found.append(Observation(value, "a", t, c, seed, (groups.sum() - groups) / 9))
        return known(split(found))

    rng = np.random.default_rng(8)
    found = [draw() for _ in range(300)]
    for name, truth in ((TRAINING, 1.0), (CHECKPOINT, 0.49), (GENERATION, (9 + 1) / 10)):
        parts = [parts[name] for parts in found]
        assert np.mean([part.low <= truth <= part.high for part in parts]) > 0.9, name
        values = np.array([part.variance for part in parts])
        assert values.mean() == pytest.approx(truth, abs=0.05 + 4 * values.std() / 300**0.5)


def test_what_cannot_be_told_says_why():
    (training, checkpoint, generation) = split([Observation(1.0, k, 0) for k in "ab"])
    assert [training.variance, checkpoint.variance, generation.variance] == [None] * 3
    rows = table([training, checkpoint, generation])
    assert [row[2] for row in rows[1:]] == [training.why, checkpoint.why, generation.why]
    assert "one of each kind" in rows[1] and {len(row) for row in rows} == {4}
    left_out = np.arange(10.0)
    (*_, generation) = split([Observation(1.0, "a", 0, left_out=left_out)])
    assert generation.variance == pytest.approx(jackknife.error(left_out) ** 2)
    assert generation.share is None
    (training, *_) = split([Observation(v, "a", v) for v in (1.0, 2.0, 3.0)])
    assert training.variance == pytest.approx(1)  # and whatever else there is
