"""What repeats what: runs by their flags and files, and models of a study by their seeds."""

import hashlib
import json
import zipfile

import numpy as np
import pytest
from studies import model_of

from flatdiff.study import replicates, rows, tables
from flatdiff.study.variance import CHECKPOINT, GENERATION, TRAINING


def result(folder, value, name="samples.npz", seed=0, step=100, kind="fp32", flags=None):
    """One of `evaluation.of_runs`, of a run with a config.json and a checkpoint of some step."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"run": flags or {"seed": 1}}))
    weights = folder / f"ema_0.9_{step:06d}.pt"
    weights.write_text(str(weights))
    hashed = hashlib.sha256(weights.read_bytes()).hexdigest()
    np.savez(folder / name, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    with zipfile.ZipFile(folder / name, "a") as archive:
        said = {"flags": {"run": {"seed": seed}}, "files": [[hashed, {}]]}
        archive.comment = json.dumps(said).encode()
    found = {"run": folder.name, "folder": str(folder), "kind": kind, "file": str(folder / name)}
    found |= {"settings": {"weights": f"checkpoint {hashed[:12]}"}, "metrics": {"FD": value}}
    return found | {"left_out": {"FD": [value] * 10}}


def parts_of(found):
    return {part["name"]: part for part in replicates.of_runs(found)["FD"]}


def test_runs_that_differ_by_seed_alone_are_repetitions(tmp_path):
    found = [
        result(tmp_path / f"t{t}", 10 * t + g, f"{g}.npz", seed=g, flags={"seed": t, "lr": 1})
        for t in range(3)
        for g in range(2)
    ]
    parts = parts_of(found)
    assert parts[TRAINING]["variance"] == pytest.approx(100)
    assert parts[GENERATION]["variance"] == pytest.approx(0.5, rel=1e-6)
    assert parts[CHECKPOINT]["variance"] is None
    assert replicates.text(replicates.of_runs(found)).startswith("FD: scatter from")
    for t in range(3):
        path = tmp_path / f"t{t}" / "config.json"
        path.write_text(json.dumps({"run": {"seed": 0, "lr": t}}))
    assert parts_of(found)[TRAINING]["variance"] is None  # each is a kind of its own
    assert replicates.text({}) == ""


def test_checkpoints_of_a_training_differ_by_the_step_of_their_file(tmp_path):
    found = [
        result(tmp_path / "a", 5.0 * (s > 100) + g, f"{s}_{g}.npz", seed=g, step=s)
        for s in (100, 200)
        for g in range(3)
    ]
    parts = parts_of(found)
    assert parts[CHECKPOINT]["variance"] == pytest.approx(12.5)
    assert parts[TRAINING]["variance"] is None


def study(values):
    made = []
    for seed, value in enumerate(values):
        fd = {"features": "lite0", "metrics": {"FD-lite0": value, "FD-lite0_infinity": 1.0}}
        fd["left_out"] = {"FD-lite0": (value + np.arange(10.0) / 100).tolist()}
        made.append(model_of({"fd_20": fd}, seed=seed))
    return made


def test_models_of_a_study_are_repetitions_by_seed():
    models = study([1.0, 2.0, 4.0])
    found = rows.rows_of(models)
    parts = {part["name"]: part for part in replicates.of_models(models, found)["fd_20"]}
    assert parts[TRAINING]["variance"] == pytest.approx(np.var([1, 2, 4], ddof=1))
    shared = 9 * np.var(np.arange(10) / 100)
    assert parts[GENERATION]["variance"] == pytest.approx(shared)
    seen = [o for model in models for o in replicates._observations(model, "fd_20")]
    assert [o.generation for o in seen] == [0, 1, 2]  # each sampled by its training's seed


def test_a_table_tells_ties_and_what_it_could_have_seen():
    models = study([1.0, 2.0, 4.0])
    found = rows.rows_of(models)
    better = [row | {"gradient": "adam-sam", "climbs": True} for row in found]
    for row, less in zip(better, (0.5, 0.52, 0.48)):
        row["fd_20"] -= less
        row["loss"] += (-1) ** row["seed"]
    every = [*found, *better]
    summary = rows.summary(every)
    header, line = tables.less(summary, every, {"fd_20": "FD", "loss": "loss"})
    assert header == ["", "less", "FD", "loss"] and line[:2] == ["adam-sam", "adam"]
    assert line[2].startswith("-0.500 ± 0.050: lower (0.0")
    assert ": tie (" in line[3]
    one = [row for row in every if row["seed"] == 0]
    assert "one seed" in tables.less(rows.summary(one), one, {"fd_20": "FD"})[1][2]
