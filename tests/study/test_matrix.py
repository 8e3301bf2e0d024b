"""The matrix of a study: its axes, and what the key of a cell covers."""

import dataclasses
import json

import numpy as np
import pytest

from flatdiff.data.image_files import save_images
from flatdiff.flags import choices, config, presets
from flatdiff.study import axes, matrix, runner
from flatdiff.train.train_util import learning_rate, num_ascent

GROUPS = {
    "study": config.StudyFlags,
    "run": config.RunFlags,
    "data": config.DataFlags,
    "train": config.TrainFlags,
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images as an npz."""
    folder = tmp_path_factory.mktemp("data")
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", arr_0=images)
    return folder / "images.npz"


def parse(*argv):
    return config.parse("", list(map(str, argv)), **GROUPS)


def flags_of(data, *argv):
    return parse("--data_dir", data, "--image_size", 8, "--end_step", 40, "--seeds", 2, *argv)


def models_of(data, *argv):
    return matrix.models_of(flags_of(data, *argv), "/store")


def keys(models):
    """By model and cell; "train" for the training."""
    found = {(m.name, name): cell.key for m in models for name, cell in m.cells.items()}
    return found | {(m.name, "train"): m.training.cell.key for m in models}


def changed(before, after):
    """The names of the cells whose keys differ."""
    before, after = keys(before), keys(after)
    return {name for model, name in before if before[model, name] != after[model, name]}


def test_the_matrix_crosses_its_axes(data):
    entries = "adam, adam-sam,adam-sam sam_sync=True,adam-sam rho=2"
    models = models_of(data, "--gradient", entries, "--rho", "0.1,0.5", "--input_pertub", "0,0.1")
    names = list(dict.fromkeys(m.training.gradient for m in models))
    assert names == [
        "adam",
        "adam-sam rho=0.1",
        "adam-sam rho=0.5",
        "adam-sam sam_sync=True rho=0.1",
        "adam-sam sam_sync=True rho=0.5",
        "adam-sam rho=2.0",
        "adam 2x steps",
    ]
    assert len(models) == 7 * 2 * 2 * 3  # x input perturbation x seed x average
    assert len({m.training.cell.key for m in models}) == 7 * 2 * 2
    assert {(m.training.input_pertub, m.training.seed) for m in models} == {
        (pertub, seed) for pertub in (0, 0.1) for seed in (0, 1)
    }


@pytest.mark.parametrize("flag", ["eps_scaler", "eps_scaler_slope", "timestep_respacing", "resume"])
def test_flags_that_a_study_would_drop_are_refused(data, flag):
    with pytest.raises(ValueError, match=f"--{flag} is not for studies: "):
        models_of(data, f"--{flag}", 2)


def test_adam_of_equal_cost_stands_beside_sam_only(data):
    by_name = {m.training.gradient: m.training for m in models_of(data)}
    sam, twice = by_name["adam-sam rho=0.1"], by_name["adam 2x steps"]
    assert twice.cost == sam.cost == 2 * by_name["adam"].cost
    assert (sam.steps, twice.steps) == (40, 80) and twice.matched and not twice.climbs
    for off in (("--gradient", "adam"), ("--matched", "False")):
        assert "adam 2x steps" not in {m.training.gradient for m in models_of(data, *off)}


@pytest.mark.parametrize(
    ("gradient", "matched"),
    [
        ("adam,adam-sam sam_every=5", ["adam 1.2x steps"]),
        ("adam,adam-sam sam_start=20,adam-sam", ["adam 1.5x steps", "adam 2x steps"]),
        ("adam,adam-sam batch_size=2,adam-sam end_step=20", ["adam 4x steps"]),
        ("adam,adam-msam", []),
        ("adam-msam", ["adam"]),
        ("adam,adam-sam rho=0", []),
        ("adam,adam end_step=80,adam-sam", []),
    ],
)
def test_each_cost_has_its_adam(data, gradient, matched):
    models = models_of(data, "--gradient", gradient, "--lr_anneal_steps", 0)
    kinds = {m.training.gradient: m.training for m in models}
    asked = [g for g in kinds if g.partition(" rho")[0] in gradient.split(",")]
    assert [g for g in kinds if g not in asked and "rho" not in g] == matched
    for sam in (t for t in kinds.values() if t.climbs):
        nearest = min(abs(t.cost / sam.cost - 1) for t in kinds.values() if not t.climbs)
        assert nearest <= 0.02


def test_the_adam_of_a_cost_is_the_adam_of_its_steps(data):
    """So that a study finds the trainings of another that named the steps."""
    costs = "adam-sam,adam-sam sam_every=5,adam-sam sam_share=0.5"
    by_cost = models_of(data, "--batch_size", 4, "--gradient", costs)
    steps = "adam end_step=48,adam end_step=60,adam end_step=80"
    by_steps = models_of(data, "--batch_size", 4, "--gradient", steps)
    matched = {m.training.cell.key for m in by_cost if m.training.matched}
    assert matched == {m.training.cell.key for m in by_steps} and len(matched) == 3 * 2


def test_keys_of_trainings_are_those_of_the_first_studies():
    """What was trained stays: the key is written down, that of flags and data as they were."""
    cell = matrix.Cell("train", {"lr": 0.1, "optimizer": "adam-sam"}, {"data": "x", "ranks": 1}, "")
    assert cell.key == "6235b76a593c"


def test_averages_are_of_one_training_which_they_leave_alone(data):
    flags = flags_of(data)
    train = axes.train_group(flags, {"optimizer": "adam"})
    assert (train.use_swa, train.swa_start, train.swa_window) == (True, 30, 1)
    rates = {
        learning_rate(s, lr=train.lr, anneal_steps=train.lr_anneal_steps, window=1, start=30)
        for s in range(40)
    }
    assert rates == {train.lr}
    annealed = ("--average", "none,ema", "--lr_anneal_steps", 40)
    flags = flags_of(data, *annealed)
    twice = axes.train_group(flags, {"optimizer": "adam", "times": 2.0})
    assert (twice.use_swa, twice.lr_anneal_steps, twice.end_step) == (False, 80, 80)
    files = {m.average: m.cells["LPF"].aside["model_path"] for m in models_of(data)[:3]}
    assert {a: f.rpartition("/")[2] for a, f in files.items()} == {
        "none": "model000040.pt",
        "ema": "ema_0.9999_000040.pt",
        "swa": "swa_000040.pt",
    }
    assert len({f.rpartition("/")[0] for f in files.values()}) == 1


@pytest.mark.parametrize("every", [1, 3, 5])
@pytest.mark.parametrize("start", [0, 7, 50])
def test_passes_are_those_that_the_loop_takes(every, start):
    train = dataclasses.replace(
        config.TrainFlags(), optimizer="adam-sam", end_step=20, sam_every=every, sam_start=start
    )
    climbs = [s for s in range(20) if s >= start and (s - start) % every == 0]
    half = dataclasses.replace(train, sam_share=0.5, batch_size=8)
    assert axes.passes(train) == pytest.approx(1 + len(climbs) / 20)
    assert axes.passes(half) == pytest.approx(1 + len(climbs) / 40)
    third = dataclasses.replace(train, sam_share=0.3, batch_size=4)  # 2 whole images of 4
    assert axes.passes(third) == pytest.approx(1 + len(climbs) / 40)
    assert num_ascent(0.3, 4) == 2
    assert axes.passes(dataclasses.replace(train, optimizer="adam-msam")) == 1
    assert axes.passes(dataclasses.replace(train, rho=0.0)) == 1


EVERYTHING = {
    "train",
    *("samples_20", "samples_100", "samples_20_w8", "samples_20_w4"),
    *("fd_20", "fd_100", "fd_20_w8", "fd_20_w4"),
    *("LPF", "LPF filter", "MC", "HESSIAN", "exposure", "floor", "reference"),
}
OF_DATA = {"floor", "reference"}
OF_DISTANCES = {n for n in EVERYTHING if n.startswith("fd") or n == "floor"}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("--log_interval", 7, "--num_workers", 1, "--jobs", 2, "--measure_batch", 3), set()),
        (("--lr", 0.1), EVERYTHING - OF_DATA),
        (("--sigma", "0.5"), {"LPF"}),
        (("--radius", "3"), {"MC"}),
        (("--filter_sigma", "0.5"), {"LPF filter"}),
        (("--num_draws", 6), {"LPF", "LPF filter", "MC"}),
        (("--features", "digits"), OF_DISTANCES),
        (("--num_samples", 50), OF_DISTANCES | {n for n in EVERYTHING if "samples" in n}),
        (("--num_images", 7), {"LPF", "LPF filter", "MC", "HESSIAN", "exposure"}),
        (("--random_flip", "False"), EVERYTHING - OF_DATA),
    ],
)
def test_a_changed_flag_changes_what_depends_on_it(data, argv, expected):
    few = ("--gradient", "adam", "--seeds", 1)
    before = models_of(data, *few)
    assert changed(before, models_of(data, *few, *argv)) == expected
    assert {name for _, name in keys(before)} == EVERYTHING


def test_two_studies_share_cells(data):
    small = keys(models_of(data, "--gradient", "adam", "--seeds", 1, "--average", "ema"))
    large = keys(models_of(data, "--rho", "0.1,0.5"))
    assert small.items() <= large.items()
    each = [m.training.cell.key for m in models_of(data)]
    assert len(set(each)) == 3 * 2  # kinds x seeds


def test_each_job_has_a_file_of_its_own(data):
    """It is named after the first of its cells, and models share the last, the real images'."""
    jobs = runner.jobs_of(models_of(data))
    files = {(job.cells[0].kind, job.cells[0].key) for job in jobs}
    assert len(files) == len(jobs) == 3 * 2 + 3 * 2 * 3
    assert len({job.cells[-1].key for job in jobs if job.kind == "measure"}) == 1


def test_data_count_by_their_pixels(data, tmp_path):
    images = np.load(data)["arr_0"]
    save_images(images, str(tmp_path / "same"), [f"{i:02d}" for i in range(12)])
    images[11, 0, 0, 0] ^= 1
    np.savez(tmp_path / "other.npz", arr_0=images)
    base, same, other = (
        matrix.fingerprint(matrix.images_of(flags_of(path)))
        for path in (data, tmp_path / "same", tmp_path / "other.npz")
    )
    assert base == same != other


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--gradient", "adam,adam-sm"), "did you mean adam-sam"),
        (("--gradient", "adam-sam sam_synk=True"), "'sam_synk' is no flag of training"),
        (("--gradient", "adam-sam end_step=3.5"), "expected a whole number"),
        (("--gradient", ","), "--gradient is empty"),
        (("--rho", "0.1,big"), "--rho is '0.1,big'; expected numbers"),
        (("--input_pertub", "-1"), "--input_pertub is '-1'"),
        (("--average", "none,emma"), "got 'emma', expected none, ema, swa"),
        (("--average", ""), "--average is empty"),
        (("--ema_rate", ""), "--ema_rate is empty"),
        (("--lr_anneal_steps", 40), "leave swa out"),
        (("--end_step", 0), "no end of training"),
        (("--sampling_steps", ""), "--sampling_steps is empty"),
        (("--bits", "8,four"), "--bits is '8,four'"),
        (("--optimizer", "adam-sam"), "--gradient says what is trained"),
        (("--data_dir", "nowhere"), "nowhere"),
    ],
)
def test_what_makes_no_sense_is_said(data, argv, message):
    with pytest.raises(ValueError, match=message):
        models_of(data, *argv)


def test_half_a_result_is_none(tmp_path):
    cell = matrix.Cell("LPF", {}, {}, str(tmp_path))
    path = tmp_path / f"LPF-{cell.key}" / matrix.RESULT
    assert cell.result() is None
    path.parent.mkdir()
    path.write_text(json.dumps({"curve": []})[:-1])
    assert cell.result() is None
    path.write_text(json.dumps({"curve": []}))
    assert cell.result() == {"curve": []}


def test_a_preset_brings_the_sizes_of_its_study(monkeypatch):
    monkeypatch.setattr(presets, "STUDIES", {"digits": "--end_step 9 --num_samples 30"})
    for argv in (["--preset", "digits"], ["--preset=digits"]):
        flags = parse(*presets.with_study([*argv, "--seed", "1"]))
        assert (flags.train.end_step, flags.study.num_samples, flags.run.seed) == (9, 30, 1)
    later = parse(*presets.with_study(["--preset", "digits", "--end_step", "10"]))
    assert later.train.end_step == 10
    assert presets.with_study(["--preset", "ffhq64"]) == ["--preset", "ffhq64"]


@pytest.mark.parametrize(
    ("argv", "features"),
    [
        ((), "lite0"),
        (("--preset", "digits"), "digits"),
        (("--preset", "digits", "--data_dir", "x"), "lite0"),
        (("--inception_weights", "x.pth"), "inception"),
        (("--inception_weights", "x.pth", "--features", "lite0"), "lite0"),
    ],
)
def test_features_by_what_was_given(argv, features):
    assert axes.features_of(parse(*argv)) == features


# What is a line of the registry


def test_a_measure_of_the_registry_is_a_cell(data, register):
    cells = {"TOY": "--num_draws {num_draws} --t_range 5"}
    register(choices.MEASURES, "TOY", choices.Measure("toys:it", "toys", "flatness", cells))
    cell = models_of(data, "--num_draws", 6)[0].cells["TOY"]
    assert cell.folder.startswith("/store/TOY-") and cell.leaves == "flatness.json"
    told = dict(zip(cell.argv[1::2], cell.argv[2::2]))
    expected = {"--flatness": "TOY", "--num_draws": "6", "--t_range": "5", "--num_images": "512"}
    assert cell.argv[0] == "flatness" and told.items() >= expected.items()


def test_an_average_is_trained_and_its_file_measured(data, register):
    register(choices.AVERAGES, "toy", choices.Choice("toys:it", "a toy"))
    models = models_of(data, "--average", "ema,toy every=2", "--gradient", "adam", "--seeds", 1)
    assert [model.average for model in models] == ["ema", "toy every=2"]
    (training,) = {m.training.cell.key: m.training.cell for m in models}.values()
    assert "--averages" in training.argv and training.flags["averages"] == "toy every=2"
    path = models[1].cells["LPF"].aside["model_path"]
    assert path == f"{training.folder}/average_toy_every=2_000040.pt"


def test_a_gradient_has_the_price_that_its_line_says(data, register):
    def gradient(closure, weights, *, scale: float = 1.0):
        return closure()

    line = choices.Gradient("toys:it", "three", passes=3)
    register(choices.GRADIENTS, "adam-toy", line, gradient)
    models = models_of(data, "--gradient", "adam,adam-toy scale=2", "--rho", "0.1")
    trainings = {m.training.gradient: m.training for m in models}
    assert list(trainings) == ["adam", "adam-toy scale=2 rho=0.1", "adam 3x steps"]
    plain, toy, matched = trainings.values()
    assert toy.cost == matched.cost == 3 * plain.cost
    assert toy.cell.flags["optimizer"] == "adam-toy scale=2"
