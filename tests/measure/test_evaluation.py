"""The package's way to evaluations/: training's distances are those of scripts and files."""

import csv
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from launch import ROOT, TINY, mpirun, run, script, succeed
from PIL import Image

from flatdiff.flags import config
from flatdiff.judge.features import Features
from flatdiff.measure import evaluation
from flatdiff.report import compare

pytestmark = pytest.mark.slow

KINDS = ("FD-digits", "SW-digits", "KD-digits")
DIGITS = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)


def distances(path, *more):
    """The metrics that evaluations/evaluator.py finds."""
    json_file = path.with_suffix(".json")
    command = [sys.executable, ROOT / "evaluations/evaluator.py", *more, path]
    succeed(run([*command, "--features", "digits", "--json", json_file]))
    return json.loads(json_file.read_text())["metrics"]


def test_training_logs_the_distance_that_the_scripts_find(tmp_path):
    np.savez(tmp_path / "data.npz", arr_0=DIGITS)
    flags = [*TINY, "--data_dir", tmp_path / "data.npz", "--batch_size", 2, "--save_interval", 2]
    flags += ["--end_step", 4, "--eval_interval", 2, "--eval_samples", 31, "--eval_batch", 7]
    flags += ["--features", "digits"]
    done = succeed(mpirun(2, script("image_train"), *flags, "--log_dir", tmp_path / "run"))
    assert "FD-digits at step 2" in done.stdout
    with open(tmp_path / "run" / "progress.csv") as file:
        logged = [(row["step"], float(row["FD-digits"])) for row in csv.DictReader(file)]
    for step, value in logged:
        sample = [script("image_sample"), "--log_dir", tmp_path / step, "--num_samples", 31]
        sample += ["--model_path", tmp_path / "run" / f"ema_0.9_{int(step):06d}.pt"]
        succeed(run([sys.executable, *sample, "--timestep_respacing", 50]))
        found = distances(tmp_path / step / "samples_31x8x8x3.npz", tmp_path / "data.npz")
        assert value == pytest.approx(found["FD-digits"], rel=1e-3)
    assert [step for step, _ in logged] == ["2", "4"]


def test_runs_are_measured_by_their_bits(tmp_path):
    np.savez(tmp_path / "reference.npz", arr_0=DIGITS)
    stranger = tmp_path / "installed"  # a package that has the name of one of our files
    stranger.mkdir()
    (stranger / "evaluate.py").write_text("def evaluate(*_, **__): raise RuntimeError")
    inverse = 255 - DIGITS[:40] // 2
    for kind, images in (("", DIGITS[:40]), ("_w8", inverse), ("_w8a8", DIGITS[40:])):
        (tmp_path / "a").mkdir(exist_ok=True)
        np.savez(tmp_path / "a" / f"samples_40x8x8x3{kind}.npz", arr_0=images)
    command = [sys.executable, script("compare"), "--runs", tmp_path / "a", "--log_dir", tmp_path]
    (tmp_path / "a" / "progress.csv").write_text("step,loss\n1,1.0\n2,0.5\n")
    flags = ["--reference", tmp_path / "reference.npz", "--features", "digits"]
    done = succeed(run([*command, *flags], PYTHONPATH=f"{ROOT}:{stranger}"))
    assert "FD-digits" in done.stdout and Image.open(tmp_path / "distances.png").width > 500
    with open(tmp_path / "distances.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["kind"], row["num_samples"]) for row in rows] == [
        ("a", "fp32", "40"),
        ("a", "w8", "40"),
        ("a", "w8a8", "40"),
        ("real images", "", "40"),
    ]
    assert 0 < float(rows[3]["value"]) < float(rows[1]["value"]) and float(rows[3]["error"]) > 0
    assert "real images: as many of the reference's own" in done.stdout
    assert re.search(r"a +w8 +a fp32 +FD-digits", done.stdout) and "tie: nothing" in done.stdout
    assert "reference: 80 of" in done.stdout and "generation seed" in done.stdout
    told = json.loads((tmp_path / "distances.json").read_text())
    assert {d["verdict"] for d in told["differences"]} <= {"lower", "higher", "tie"}
    assert len(told["differences"]) == 6 and told["scatter"].keys() == {*KINDS}
    assert told["results"][0]["settings"]["resize"].startswith("8x8, mean of the channels")
    for row, kind in zip(rows, ("", "_w8", "_w8a8")):
        samples = tmp_path / "a" / f"samples_40x8x8x3{kind}.npz"
        expected = distances(samples, tmp_path / "reference.npz")
        assert float(row["value"]) == pytest.approx(expected["FD-digits"])
        assert float(row["error"]) == pytest.approx(expected["FD-digits_error"])


def test_all_warnings_are_told_once(tmp_path, monkeypatch, capsys):
    for run_name, kind in (("a", "_w4"), ("a", ""), ("b", "")):
        (tmp_path / run_name).mkdir(exist_ok=True)
        np.savez(tmp_path / run_name / f"samples_40x8x8x3{kind}.npz", arr_0=DIGITS[:40])
    said = iter([["few"], ["few", "singular"], []])
    result = {"metrics": {"FD-digits": 1.0}, "num_samples": 40}
    judge = evaluation.evaluate
    monkeypatch.setattr(judge, "evaluate", lambda *_, **__: result | {"warnings": next(said)})
    monkeypatch.setattr(judge, "floor_of", lambda *_, **__: None)
    digits = Features("digits", None, "")
    evaluation.of_runs([str(tmp_path / x) for x in "ab"], "nowhere", digits)
    out = capsys.readouterr().out
    assert out.count("few") == out.count("singular") == 1


def test_few_samples_have_no_error(tmp_path):
    rows = [{"run": "a", "kind": "fp32", "num_samples": 9, "metric": "FD", "value": 2.0}]
    rows[0] |= {"error": None, "infinity": None}
    assert evaluation.text(rows).splitlines()[1].split() == ["a", "fp32", "9", "2"]
    assert compare.distances(rows, str(tmp_path / "d.png")).endswith("d.png")


def test_the_reference_is_what_training_sees():
    class Ten:
        num_images = 10

        def image(self, i):
            return np.full((2, 2, 3), i, np.uint8)

    assert evaluation.reference_of(Ten())[:, 0, 0, 0].tolist() == list(range(10))
    evaluation.LARGEST_REFERENCE, kept = 4, evaluation.LARGEST_REFERENCE
    try:
        some = evaluation.reference_of(Ten(), seed=1)[:, 0, 0, 0].tolist()
    finally:
        evaluation.LARGEST_REFERENCE = kept
    assert len(set(some)) == 4 and some == sorted(some)


def test_a_reference_that_cannot_be_measured_is_found_before_the_first_step():
    class One:
        num_images = 1

        def image(self, i):
            return np.zeros((8, 8, 3), np.uint8)

    about = {"run": config.RunFlags(), "evaluation": config.EvalFlags(eval_interval=5)}
    with pytest.raises(ValueError, match="1 images; expected 2 or more"):
        evaluation.on_the_fly(SimpleNamespace(**about), One())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--features", "inception"], "--inception_weights FILE"),
        (["--features", "inception", "--inception_weights", "nowhere"], "no Inception"),
    ],
)
def test_features_that_cannot_be_had_are_told(tmp_path, flags, words):
    np.savez(tmp_path / "data.npz", arr_0=DIGITS)
    start = [sys.executable, script("image_train"), *TINY, "--data_dir", tmp_path / "data.npz"]
    done = run([*start, "--log_dir", tmp_path / "run", "--eval_interval", 1, *flags])
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
