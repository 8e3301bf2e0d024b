"""The evaluator as a user meets it: files in, a table and JSON out, and what it says of others."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from judging import Means, evaluator, pictures
from PIL import Image
from small import RNG

from flatdiff.judge.evaluate import evaluate
from flatdiff.judge.features import Features
from flatdiff.judge.frechet import frechet_distance, statistics

EVALUATIONS = Path(evaluator.__file__).parent


def test_every_metric_of_two_sets(features):
    reference, samples = pictures(200), pictures(150, 138)
    result = evaluate(reference, samples, features, cache_dir="")
    found = {
        key: features.network(torch.from_numpy(x).permute(0, 3, 1, 2))
        for key, x in (("reference", reference), ("samples", samples))
    }
    assert result["num_reference"] == 200 and result["num_samples"] == 150
    assert result["feature_dim"] == 6 and result["warnings"] == []
    metrics = result["metrics"]
    for name, kind in (("FID", "pool"), ("sFID", "spatial")):
        both = (*statistics(found["reference"][kind]), *statistics(found["samples"][kind]))
        assert metrics[name] == pytest.approx(frechet_distance(*both), rel=1e-6)
    assert abs(metrics["FID_infinity"] - metrics["FID"]) < 3 * metrics["FID_error"]
    assert 0 < metrics["precision"] < 1 and 0 < metrics["recall"] < 1
    assert 1 < metrics["IS"] < 4 and metrics["KID"] > metrics["KID_std"] / 10 > 0
    same = evaluate(reference, reference, features, cache_dir="")["metrics"]
    assert same["FID"] < 1e-5 and same["precision"] == same["recall"] == 1


def test_a_path_and_its_images_give_the_same(features, tmp_path):
    reference, samples = pictures(30), pictures(40, 138)
    expected = evaluate(reference, samples, features, cache_dir="")["metrics"]
    np.savez(f"{tmp_path}/plain.npz", reference)
    np.savez_compressed(f"{tmp_path}/labels.npz", arr_0=samples, arr_1=np.arange(40))
    Path(tmp_path, "folder", "deeper").mkdir(parents=True)
    for i, image in enumerate(samples):
        Image.fromarray(image).save(f"{tmp_path}/folder/{'deeper/' * (i > 35)}{i:03d}.png")
    for name in ("labels.npz", "folder"):
        found = evaluate(
            f"{tmp_path}/plain.npz", tmp_path / name, features, cache_dir="", batch_size=7
        )["metrics"]
        assert found == pytest.approx(expected, rel=1e-4)


def test_statistics_of_a_reference_are_used(features, tmp_path):
    reference, samples = pictures(30), pictures(40)
    mu, sigma, mu_s, sigma_s = np.full(6, 3.0), np.eye(6), np.full(3, 150.0), 9 * np.eye(3)
    numbers = dict(mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    found = features.network(torch.from_numpy(samples).permute(0, 3, 1, 2))
    truth = {
        name: frechet_distance(torch.from_numpy(m), torch.from_numpy(s), *statistics(found[kind]))
        for name, m, s, kind in (("FID", mu, sigma, "pool"), ("sFID", mu_s, sigma_s, "spatial"))
    }
    np.savez(f"{tmp_path}/both.npz", arr_0=reference, **numbers)
    np.savez(f"{tmp_path}/alone.npz", **numbers)
    both, alone = (
        evaluate(f"{tmp_path}/{name}.npz", samples, features, cache_dir="")
        for name in ("both", "alone")
    )
    for result in (both, alone):
        assert {key: result["metrics"][key] for key in truth} == pytest.approx(truth)
    assert "precision" in both["metrics"] and "KID" in both["metrics"]
    assert "precision" not in alone["metrics"] and "no images" in alone["warnings"][0]
    lite = Features("lite0", features.network, "0")
    ours = evaluate(f"{tmp_path}/both.npz", samples, lite, cache_dir="")["metrics"]
    assert ours["FD-lite0"] == pytest.approx(
        evaluate(reference, samples, lite, cache_dir="")["metrics"]["FD-lite0"]
    )
    assert not {"FID", "IS", "KID", "precision"} & ours.keys()
    for name, message in ((lite, "need its images"), (features, r"mu of shape \[2\]")):
        np.savez(f"{tmp_path}/alone.npz", mu=np.zeros(2), sigma=np.eye(2))
        with pytest.raises(ValueError, match=message):
            evaluate(f"{tmp_path}/alone.npz", samples, name, cache_dir="")


def test_few_images_are_warned_about(features):
    result = evaluate(pictures(6), pictures(30), features, cache_dir="")
    assert len(result["warnings"]) == 1 and "the reference are 6 images" in result["warnings"][0]
    result = evaluate(pictures(7), pictures(3), features, cache_dir="")
    assert "the samples are 3 images" in result["warnings"][0]
    assert np.isfinite(list(result["metrics"].values())).all()
    assert not {"FID_error", "FID_infinity", "precision"} & result["metrics"].keys()


def test_a_reference_is_measured_once(features, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    np.savez(f"{tmp_path}/reference.npz", reference := pictures(30))
    measured, extract = [], Features.extract

    def counted(self, images, *args):
        measured.append(images.num_images)
        return extract(self, images, *args)

    monkeypatch.setattr(Features, "extract", counted)

    def result(name="reference.npz", network=features):
        return evaluate(f"{tmp_path}/{name}", samples, network, cache_dir=str(cache))

    samples = pictures(40)
    first, second = result(), result()
    assert measured == [30, 40, 40]
    assert first["metrics"] == second["metrics"]
    assert first["reference_cache"] == "" and str(cache) in second["reference_cache"]
    Path(tmp_path, "reference.npz").rename(tmp_path / "renamed.npz")
    assert result("renamed.npz")["metrics"] == first["metrics"] and measured[3:] == [40]
    other = Features("inception", features.network, "1" * 64)
    result("renamed.npz", other)
    np.savez(f"{tmp_path}/reference.npz", reference[::-1])
    result()
    assert measured[4:] == [30, 40, 30, 40] and len(list(cache.iterdir())) == 3
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:200])  # a damaged cache is no cache
    assert result("renamed.npz")["metrics"] == first["metrics"] and measured[8:] == [30, 40]


def test_sets_that_cannot_be_compared_are_refused(features, tmp_path):
    np.savez(f"{tmp_path}/stats.npz", mu=np.zeros(6), sigma=np.eye(6))
    with pytest.raises(ValueError, match="stats.npz .*samples must be images"):
        evaluate(pictures(20), f"{tmp_path}/stats.npz", features, cache_dir="")
    with pytest.raises(ValueError, match="8x8 pixels, .* 16x16"):
        evaluate(pictures(20), pictures(20, side=16), features, cache_dir="")


def test_the_command_prints_a_table_and_writes_json(features, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("flatdiff.judge.features.load_features", lambda *args: features)
    monkeypatch.chdir(tmp_path)
    np.savez("reference.npz", pictures(30))
    np.savez("samples.npz", pictures(40, 138))
    arguments = ["reference.npz", "samples.npz", "--json", "out/numbers.json", "--cache_dir", "c"]
    evaluator.main(arguments)
    said = capsys.readouterr().out
    numbers = json.loads(Path("out/numbers.json").read_text())
    assert [p.name for p in Path("out").iterdir()] == ["numbers.json"]
    assert f"{tmp_path}/reference.npz  (30 images)" in said
    assert f"{tmp_path}/out/numbers.json" in said
    fid, error = numbers["metrics"]["FID"], numbers["metrics"]["FID_error"]
    assert f"{fid:.5g} +- {error:.2g}" in said
    assert numbers["samples"] == f"{tmp_path}/samples.npz" and numbers["weights_sha256"] == "0" * 64
    evaluator.main(arguments)
    assert f"reference features from {tmp_path}/c/inception-" in capsys.readouterr().out


def test_the_command_names_a_mistake_in_a_line(tmp_path):
    for arguments, message in (
        (["a.npz", "b.npz"], "(?s)--inception_weights FILE.*--features lite0"),
        (["a.npz", "b.npz", "--inception_weights", "w.pth"], "no Inception weights at /"),
        (["a.npz", "b.npz", "--features", "lite0"], "a.npz does not exist"),
        (["a.npz", "b.npz", "--batch_size", "0"], "--batch_size is 0"),
        (["a.npz", "b.npz", "--seed", "-1"], "--seed is -1"),
        (["a.npz", "b.npz", "--features", "digits", "--device", "x"], "the device 'x', expected"),
    ):
        with pytest.raises(SystemExit) as caught:
            evaluator.main([*arguments, "--cache_dir", str(tmp_path)])
        assert caught.match(message)


@pytest.mark.slow
def test_help_needs_no_torch():
    code = (
        "import sys, evaluator\n"
        "try: evaluator.main(['--help'])\n"
        "finally: sys.exit(2 if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=EVALUATIONS, capture_output=True, text=True
    )
    assert done.returncode == 0 and "REFERENCE" in done.stdout


def test_pictures_that_are_not_simply_read_are_told_each_time(features, tmp_path):
    """Also where their features come from the cache, which knows how they were read."""
    folder, cache = tmp_path / "reference", str(tmp_path / "cache")
    folder.mkdir()
    rgba = np.concatenate([pictures(30), RNG.integers(0, 255, (30, 8, 8, 1), np.uint8)], -1)
    for i, image in enumerate(rgba):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    share = rgba[..., 3:] / 255
    white = np.rint(share * rgba[..., :3] + (1 - share) * 255).astype(np.uint8)
    results = [evaluate(folder, white, features, cache_dir=cache) for _ in range(2)]
    for result, cached in zip(results, (False, True)):
        assert result["metrics"]["FID"] < 1e-5 and bool(result["reference_cache"]) == cached
        assert "00.png is transparent: such images are laid on white" in result["warnings"][0]
    dropped = evaluate(folder, white, features, cache_dir=cache, transparent="drop")
    assert dropped["metrics"]["FID"] > 1 and dropped["reference_cache"] == ""
    with pytest.raises(ValueError, match="00.png is transparent"):
        evaluate(folder, white, features, cache_dir=cache, transparent="refuse")


@pytest.mark.slow
def test_the_script_needs_no_installed_flatdiff():
    """-S leaves site-packages out, so only what is found beside the script; numpy by its path."""
    code = (
        "import sys; sys.path += PATHS\n"
        "import evaluator\n"
        "from flatdiff.judge import image_source; print(image_source.pictures.__file__)"
    ).replace("PATHS", repr([p for p in sys.path if p.endswith("site-packages")]))
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=EVALUATIONS,
        capture_output=True,
        text=True,
        env={"PATH": ""},
    )
    assert done.stdout.strip() == str(EVALUATIONS.parent / "flatdiff" / "judge" / "pictures.py"), (
        done.stderr
    )


def test_numbers_that_cannot_be_written_or_are_none_are_a_sentence(features, tmp_path, monkeypatch):
    monkeypatch.setattr("flatdiff.judge.features.load_features", lambda *args: features)
    monkeypatch.chdir(tmp_path)
    np.savez("reference.npz", pictures(30))
    command = ["reference.npz", "reference.npz", "--cache_dir", ""]
    for path in (tmp_path, "reference.npz/numbers.json"):
        with pytest.raises(SystemExit, match="evaluator: .*(Is a directory|exists|Not a dir)"):
            evaluator.main([*command, "--json", str(path)])
    assert [path.name for path in tmp_path.iterdir()] == ["reference.npz"]
    monkeypatch.setattr(Means, "forward", lambda self, x: {"pool": x.float().mean((2, 3)) / 0 - 1})
    with pytest.raises(SystemExit, match="features inception of 30 images of .* NaN or infinite"):
        evaluator.main(command)


def test_the_floor_is_of_the_references_own_images(features, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("flatdiff.judge.features.load_features", lambda *args: features)
    reference = pictures(60)
    np.savez(tmp_path / "reference.npz", reference)
    command = [str(tmp_path / "reference.npz"), "--cache_dir", "", "--json", str(tmp_path / "f")]
    evaluator.main([*command, "--floor", "40"])
    found = json.loads((tmp_path / "f").read_text())
    rows = features.network(torch.from_numpy(reference).permute(0, 3, 1, 2))["pool"]
    rng, known = np.random.default_rng(0), statistics(rows)
    expected = [
        float(frechet_distance(*known, *statistics(rows[rng.integers(60, size=40)])))
        for _ in range(10)
    ]
    assert found["floor"]["values"] == pytest.approx(expected, rel=1e-4)
    assert "metrics" not in found and found["features"] == "inception"
    mean = np.mean(found["floor"]["values"])
    assert f"as many of the reference's own: {mean:.5g} +- " in capsys.readouterr().out
    evaluator.main([command[0], *command, "--floor", "40"])
    both = json.loads((tmp_path / "f").read_text())
    assert both["floor"] == found["floor"] and both["metrics"]["FID"] < 1e-5
    for more, message in (([], "2"), (["--floor", "3"], "--floor is 3, expected 4 images or more")):
        with pytest.raises(SystemExit, match=message):
            evaluator.main([*command, *more])
