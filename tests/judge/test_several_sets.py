"""The evaluator with several sets of samples, and with images to look for copies of."""

import json
from pathlib import Path

import numpy as np
import pytest
from judging import evaluator, pictures
from small import RNG

from flatdiff.judge.evaluate import evaluate


def test_several_samples_are_compared_with_the_first(features, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("flatdiff.judge.features.load_features", lambda *args: features)
    monkeypatch.chdir(tmp_path)
    for name, brightness in (("r", 128), ("a", 138), ("b", 138), ("c", 170)):
        np.savez(f"{name}.npz", pictures(120, brightness))
    command = ["--cache_dir", "", "--json", "numbers.json"]
    evaluator.main(["r.npz", "a.npz", "b.npz", "c.npz", *command])
    said, found = capsys.readouterr().out, json.loads(Path("numbers.json").read_text())
    verdicts = {(Path(d["samples"]).stem, d["metric"]): d["verdict"] for d in found["differences"]}
    assert [verdicts["b", name] for name in ("FID", "SW", "KID")] == ["tie"] * 3
    assert [verdicts["c", name] for name in ("FID", "SW", "KID")] == ["higher"] * 3
    fid = next(d for d in found["differences"] if d["metric"] == "FID")
    assert fid["value"] == pytest.approx(
        found["others"][0]["metrics"]["FID"] - found["metrics"]["FID"]
    )
    assert f"smallest seen (80 %): {fid['seen']:.2g}: tie  (b.npz)" in said
    for line in ("weights:   the file does not say", "samples:   120;", "features:  inception, 6"):
        assert line in said
    assert f"reference: 120 of {tmp_path}/r.npz" in said and "resize:    8x8, as they are" in said
    assert found["settings"]["resize"] == "8x8, as they are" and len(found["left_out"]["SW"]) == 10
    evaluator.main(["r.npz", "a.npz", *command])
    alone, said = json.loads(Path("numbers.json").read_text()), capsys.readouterr().out
    assert alone["metrics"] == found["metrics"] and "differences" not in alone
    error = alone["metrics"]["FID_error"]
    assert alone["smallest_seen"]["FID"] == pytest.approx(2.97 * 2**0.5 * error, rel=0.02)
    assert f"could be seen (80 %, alpha 5 %): FID {alone['smallest_seen']['FID']:.2g}" in said


def test_copies_are_looked_for_where_held_out_images_are_given(features, tmp_path, monkeypatch):
    monkeypatch.setattr("flatdiff.judge.features.load_features", lambda *args: features)
    monkeypatch.chdir(tmp_path)
    train = pictures(150)
    np.savez("train.npz", train)
    np.savez("held.npz", pictures(100))
    np.savez("fair.npz", pictures(100))
    np.savez(
        "copies.npz", np.clip(train[:100].astype(int) + RNG.integers(-1, 2), 0, 255).astype("u1")
    )
    copies = ["--train_data", "train.npz", "--heldout_data", "held.npz"]
    for name, expected in (("copies", 1.0), ("fair", 0.5)):
        more = ["--cache_dir", "", "--json", "found.json", *copies]
        result = evaluator.main(["train.npz", f"{name}.npz", *more])
        assert json.loads(Path("found.json").read_text())["metrics"] == result["metrics"]
        nearer, error = result["metrics"]["nearer"], result["metrics"]["nearer_error"]
        assert abs(nearer - expected) < 3 * error
        assert (result["metrics"]["C_T"] < -3) == (name == "copies")
    for more, message in (
        (copies[:2], "needs .* held-out images .*: got only the training images"),
        (copies[2:], "got only the held-out images"),
        ([*copies[:3], "nowhere.npz"], "nowhere.npz does not exist"),
        ([*copies[:3], "train.npz"], "150 of the 150 held-out images .* are also in .*train.npz"),
    ):
        with pytest.raises(SystemExit, match=f"evaluator: .*{message}"):
            evaluator.main(["train.npz", "fair.npz", "--cache_dir", "", *more])


def test_held_out_images_that_were_trained_on_are_left_out(features):
    train, held_out, samples = pictures(60), pictures(40), pictures(50)
    clean = evaluate(train, samples, features, cache_dir="", train=train, held_out=held_out)
    mixed = np.concatenate([train[:25], held_out[:30], train[-1:], held_out[30:]])
    found = evaluate(train, samples, features, cache_dir="", train=train, held_out=mixed)
    assert found["metrics"] == clean["metrics"]
    assert "26 of 66 held-out images are images trained on, and left out" in found["warnings"]
    assert not any("held-out" in text for text in clean["warnings"])


def test_one_image_is_refused(features):
    with pytest.raises(ValueError, match="array has 1 images; expected 2 or more"):
        evaluate(pictures(30), pictures(1), features, cache_dir="")
