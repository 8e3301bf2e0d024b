"""What is reported of averages against flatness.py and image_sample.py; a choice of its own."""

import averaged_runs
import numpy as np
import pytest
import torch
from flatness_studies import DIFFUSION, study

from flatdiff.flags import config
from flatdiff.judge import evaluate
from flatdiff.judge.features import Features
from flatdiff.measure import averages, best_average, evaluation
from flatdiff.measure.subject import Subject
from flatdiff.models import networks
from flatdiff.store import checkpoint

MODEL = config.ModelFlags(
    network="vit", image_size=8, num_channels=16, num_layers=1, patch_size=4, num_heads=2
)
GROUPS = {
    "averages": config.AveragesFlags,
    "run": config.RunFlags,
    "data": config.DataFlags,
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
    "train": config.TrainFlags,
}
FEW = {"sigma": "0.01", "num_draws": 4, "num_images": 8, "batch_size": 8}


class Means(torch.nn.Module):
    """Three features: the means of the channels."""

    dim = 3

    def forward(self, images):
        return {"pool": images.float().mean((2, 3))}


@pytest.fixture(scope="module", autouse=True)
def means():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "network", lambda *_: Features("means", Means(), "3"))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs, as adam and sam, and 16 images."""
    home = tmp_path_factory.mktemp("runs")
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    np.savez(home / "images.npz", arr_0=images)
    config = {"model": vars(MODEL), "diffusion": vars(DIFFUSION)}
    for seed, name in enumerate(("adam", "sam")):
        torch.manual_seed(seed)
        model, _ = networks.build(MODEL, DIFFUSION)
        weights = {k: w.detach() + 0.03 * torch.randn_like(w) for k, w in model.named_parameters()}
        averaged_runs.run(home / name, weights, seed, config, kept=30)
    return home


def arguments(home, names, log_dir, *more):
    paths = ",".join(str(home / name) for name in names)
    told = {"model_path": paths, "data_dir": f"{home}/images.npz", "log_dir": log_dir}
    told |= FEW | {"lengths": "0.1", "kept": "soup", "num_samples": 20, "sampling_steps": 2}
    return [str(x) for k, v in told.items() for x in (f"--{k}", v)] + list(more)


def measured(*given):
    flags = config.parse("", arguments(*given), **GROUPS)
    found = averages.runs_of(flags.averages)
    best_average.check(flags)
    return best_average.measured(flags, found, flags.run.log_dir)


@pytest.fixture(scope="module")
def record(runs):
    return measured(runs, ("adam", "sam"), runs / "both")


def test_what_is_reported_is_what_flatness_finds(runs, record):
    (row,) = (r for r in record["averages"] if (r["run"], r["average"]) == ("sam", "posthoc 0.1"))
    told = [f"{runs}/sam/posthoc_0.1_000060.pt", f"{runs}/images.npz", runs / "flat"]
    flags = zip(("--model_path", "--data_dir", "--log_dir"), told)
    few = [str(x) for pair in (*flags, *((f"--{k}", v) for k, v in FEW.items())) for x in pair]
    model = study(few)
    (rise,) = (r for r in model["rows"] if (r["term"], r["part"]) == ("mse", "all"))
    assert (row["lpf"], row["lpf_error"]) == (rise["rise"], rise["error_larger"])
    assert (row["loss"], row["loss_error"]) == (rise["at_w"], rise["at_w_error"])
    hessian = study([*few, "--flatness", "HESSIAN", "--num_eigenvalues", "1", "--num_draws", "2"])
    (found,) = hessian["models"]
    assert row["eigenvalue"] == found["eigenvalues"][0]
    (rounded,) = study([*few, "--quant", "4", "--num_draws", "4"])["models"]
    assert row["rounded"] == rounded["at_w"]["mse"]["losses"][0]


def test_distances_are_those_of_samples_that_the_script_draws(runs, record, call):
    (row,) = (r for r in record["averages"] if (r["run"], r["average"]) == ("adam", "posthoc 0.1"))
    out = ("--log_dir", runs / "samples", "--num_samples", 20, "--timestep_respacing", 2)
    call("image_sample", "--model_path", row["path"], "--sampler", "ddim", *out)
    samples = np.load(runs / "samples/samples_20x8x8x3.npz")["arr_0"]
    reference = np.load(runs / "images.npz")["arr_0"]
    found = evaluate.evaluate(reference, samples, evaluation.network())["metrics"]
    assert row["fd"] == pytest.approx(found["FD-means"]) and row["fd_error"] > 0


def test_the_best_is_chosen_by_what_is_not_reported(runs, record):
    """On the least of what it was chosen by; other images, and another seed for all else."""
    by = record["choosing"]
    assert by.keys() == {"posthoc 0.1", "soup"}
    for column, label in record["chosen"].items():
        assert by[label][column] == min(each[column] for each in by.values())
    rows = {r["average"]: r for r in record["averages"] if r["run"] == "adam"}
    assert all(rows[label][c] != by[label][c] for label in by for c in ("lpf", "fd"))
    flags = config.parse("", arguments(runs, ("adam",), runs / "halves"), **GROUPS)
    bench = best_average.Bench(flags, None)
    (ours, _, n), (theirs, _, m) = bench.halves(8, None, ())
    assert n == m == 8 and not (ours[:, None] == theirs[None]).all(-1).all(-1).all(-1).any()
    assert bench.flags[0].run.seed != bench.flags[1].run.seed


def test_the_answer_is_the_paired_interval(record):
    """It is of the second run's last weights less the first one's best."""
    rows = {(r["run"], r["average"]): r for r in record["averages"]}
    for answer, (by, label) in zip(record["answers"], record["chosen"].items(), strict=True):
        one, other = rows["sam", "last"], rows["adam", label]
        mine = [r for r in record["comparisons"] if r["chosen_by"] == by]
        for row in mine:
            q = row["quantity"]
            assert row["difference"] == pytest.approx(one[q] - other[q], rel=1e-3, abs=1e-6)
            assert row["low"] < row["difference"] < row["high"]
        (lpf,) = (r for r in mine if r["quantity"] == "lpf")
        expected = "No:" if lpf["low"] > 0 else "Yes:" if lpf["high"] < 0 else "cannot be told:"
        assert expected in answer and f"{label} of adam" in answer


def test_it_goes_on_where_it_was(runs, record, monkeypatch):
    def computed(*_, **__):
        raise AssertionError("this was known")

    monkeypatch.setattr(Subject, "at", computed)
    monkeypatch.setattr(Subject, "hessian_product", computed)
    monkeypatch.setattr(evaluate, "evaluate", computed)
    again = measured(runs, ("adam", "sam"), runs / "both")
    assert again["averages"] == record["averages"] and again["answers"] == record["answers"]


def test_a_soup_is_the_best_of_the_kept(runs, record):
    """Of two files there are three subsets, and greedy search looks at all of them."""
    flags = config.parse("", arguments(runs, ("adam",), runs / "soup"), **GROUPS)
    files = [f"{runs}/adam/model{step:06d}.pt" for step in (30, 60)]
    kept = [checkpoint.load(path) for path in files]
    soup = checkpoint.load(f"{runs}/adam/posthoc_soup_000060.pt")
    means = {
        "first": kept[0],
        "last": kept[1],
        "both": {k: (w + kept[1][k]) / 2 for k, w in kept[0].items()},
    }
    bench, losses = best_average.Bench(flags, None), {}
    for name, weights in means.items():
        path = f"{runs}/adam/model000060.{name}.pt"
        checkpoint.save(weights, path)
        with bench.opened(averages.Average(name, path, 0.0), best_average.CHOOSING) as subject:
            losses[name] = float(subject.at_w[0, 0])
    best = means[min(losses, key=losses.get)]
    assert all(torch.allclose(soup[k], w, atol=1e-6) for k, w in best.items())


@pytest.mark.parametrize(
    ("told", "more"),
    [
        ("no data", ["--data_dir", ""]),
        ("--sigma is 'x'", ["--sigma", "x"]),
        ("--quant 9", ["--bits", "9"]),
        ("num_draws is 5", ["--num_draws", "5"]),
    ],
)
def test_flags_that_make_no_sense(runs, told, more):
    with pytest.raises(ValueError, match=told):
        measured(runs, ("adam",), runs / "bad", *more)


def test_runs_of_other_chains_are_not_compared(runs, tmp_path):
    checkpoint.save_json(
        {"model": vars(MODEL), "diffusion": vars(DIFFUSION) | {"noise_schedule": "linear"}},
        str(averaged_runs.run(tmp_path / "other") / "config.json"),
    )
    with pytest.raises(ValueError, match="noise_schedule is 'cosine'"):
        measured(runs, ("adam", tmp_path / "other"), tmp_path, "--kept", "uniform")
