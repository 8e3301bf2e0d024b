"""Averages of a run on disk against those kept along the way, numpy, and exhaustive search."""

import itertools
from types import SimpleNamespace

import averaged_runs
import numpy as np
import pytest
from averaged_runs import STEPS

from flatdiff.measure import averages
from flatdiff.store import checkpoint, snapshots


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return averaged_runs.run(tmp_path_factory.mktemp("averages") / "run")


def made(folder, lengths="", rates="", kept="", step=0):
    flags = SimpleNamespace(
        model_path=str(folder), lengths=lengths, rates=rates, kept=kept, step=step
    )
    ((run, found),) = averages.runs_of(flags)
    averages.write(found)
    return run, {average.label: average for average in found}


def weights(path):
    return checkpoint.load(str(path))["a"].double().numpy()


def test_any_length_is_that_of_the_online_average(folder):
    run, found = made(folder, "0.03,0.15,0.1", "0.9")
    assert [*found] == ["last", "posthoc 0.03", "posthoc 0.15", "posthoc 0.1", "ema 0.9"]
    for label in ("posthoc 0.15", "ema 0.9"):
        assert (
            found[label].path
            == f"{folder}/posthoc_{label.split('posthoc ')[-1].replace(' ', '_')}_000060.pt"
        )
        assert averages.off_online(run, found[label]) < 1e-3
    right = weights(f"{folder}/ema_0.9_000060.pt")
    missed = np.linalg.norm(weights(found["ema 0.9"].path) - right) / np.linalg.norm(right)
    assert 0 < missed < 1e-3
    assert averages.off_online(run, found["posthoc 0.03"]) is None
    assert found["posthoc 0.15"].width == pytest.approx(0.15, rel=1e-3)
    assert found["last"].width == 0 and found["last"].path == f"{folder}/model000060.pt"


def test_a_track_itself_is_its_snapshot(folder):
    _, found = made(folder, "0.1")
    held = list(snapshots.snapshots_of(str(folder))[-1].load())[1]["a"].numpy()
    assert weights(found["posthoc 0.1"].path) == pytest.approx(held, abs=1e-7)


def test_means_of_kept_files_are_numpys(folder):
    _, found = made(folder, kept="uniform,lawa 3")
    steps = range(10, STEPS + 1, 10)
    kept = np.stack([weights(f"{folder}/model{step:06d}.pt") for step in steps])
    assert weights(found["uniform"].path) == pytest.approx(kept.mean(0), abs=1e-6)
    assert weights(found["lawa 3"].path) == pytest.approx(kept[-3:].mean(0), abs=1e-6)
    assert found["lawa 3"].width == pytest.approx(np.std([40, 50, 60]) / STEPS)


def test_widths_are_shares_of_all_steps_wherever_the_averages_began(tmp_path):
    """In steps: 0.15 of the last 30, 1 / ln(1 / rate), and numpy's of those of the files."""
    _, found = made(averaged_runs.run(tmp_path / "late", since=30), "0.15", "0.8", "lawa 3")
    steps = {label: average.width * STEPS for label, average in found.items()}
    right = {"last": 0, "posthoc 0.15": 4.5, "ema 0.8": 1 / np.log(1.25)}
    right |= {"lawa 3": np.std([40, 50, 60])}
    assert steps == pytest.approx(right, rel=0.03)
    assert found["posthoc 0.15"].path.endswith("posthoc_0.15_000060.pt")


def test_an_average_may_end_earlier(folder):
    _, found = made(folder, "0.1", kept="uniform", step=40)
    assert found["posthoc 0.1"].path == f"{folder}/posthoc_0.1_000040.pt"
    kept = [weights(f"{folder}/model{step:06d}.pt") for step in (10, 20, 30, 40)]
    assert weights(found["uniform"].path) == pytest.approx(np.mean(kept, axis=0), abs=1e-6)


def test_a_greedy_soup_of_a_quadratic_is_the_best_of_all_subsets():
    """Of one that lies on the other side of the minimum, and two that lie too far."""
    points = np.array([[5.0, 5.0], [1.0, 0.5], [-0.9, -0.4], [4.0, -7.0]])

    def loss_of(chosen):
        return float(np.square(points[list(chosen)].mean(0)).sum())

    subsets = (s for n in range(1, 5) for s in itertools.combinations(range(4), n))
    assert sorted(averages.greedy(4, loss_of)) == [*min(subsets, key=loss_of)] == [1, 2]


def test_a_greedy_soup_is_never_worse_than_the_best_alone():
    rng = np.random.default_rng(0)
    for _ in range(30):
        points = rng.standard_normal((6, 3)) + 0.5
        loss_of = lambda s, p=points: float(np.square(p[list(s)].mean(0)).sum())  # noqa: E731
        chosen = averages.greedy(6, loss_of)
        subsets = (s for n in range(1, 7) for s in itertools.combinations(range(6), n))
        best = min(map(loss_of, subsets))
        assert best <= loss_of(chosen) <= min(loss_of([i]) for i in range(6))


BAD = {
    r"sigma_rel is 0\.3; expected .* below 0\.2887": {"lengths": "0.3"},
    r"--lengths is 'wide'; expected widths": {"lengths": "wide"},
    r"posthoc 0\.003 is beyond what the 12 snapshots .* reach lengths of 0\.0\d+ to": {
        "lengths": "0.003"
    },
    r"ema 0\.95 is beyond .*: 4\.6% of it are the first weights": {"rates": "0.95"},
    r"--rates is '1\.5'": {"rates": "1.5"},
    r"--kept 'lawa': expected uniform, lawa K": {"kept": "lawa"},
    r"--kept 'lawa 9': expected how many of the 6 model files": {"kept": "lawa 9"},
    r"--kept 'best'": {"kept": "best"},
    r"has nothing of step 7; it has .*55, 60": {"lengths": "0.1", "step": 7},
    r"has no model000055\.pt, the last weights": {"lengths": "0.1", "step": 55},
    r"has one model file alone": {"kept": "uniform", "step": 10},
    r"one snapshot alone": {"lengths": "0.1", "step": 5},
}


@pytest.mark.parametrize("told", BAD)
def test_what_cannot_be_made_is_one_sentence(folder, told):
    with pytest.raises(ValueError, match=told):
        made(folder, **BAD[told])


@pytest.mark.parametrize("path", ["", "{0}/nowhere", "{0}/model000060.pt", "{0},{0},{0}"])
def test_what_is_no_run_is_named(folder, path):
    with pytest.raises(ValueError, match="no folder of a run|names . folders"):
        made(path.format(folder), kept="uniform")
