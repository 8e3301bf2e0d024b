"""The matrix of a study: its axes, and what the key of a cell covers."""

import json

import numpy as np
import pytest
from studies import flags_of, models_of, parse

from flatdiff.data.image_files import save_images
from flatdiff.flags import choices, presets
from flatdiff.study import matrix, runner


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


def test_adam_of_equal_cost_stands_beside_sam_only(data):
    by_name = {m.training.gradient: m.training for m in models_of(data)}
    sam, twice = by_name["adam-sam rho=0.1"], by_name["adam 2x steps"]
    assert twice.cost == sam.cost == 2 * by_name["adam"].cost
    assert (sam.steps, twice.steps) == (40, 80) and twice.matched and not twice.climbs
    for off in (("--gradient", "adam"), ("--matched", "False")):
        assert "adam 2x steps" not in {m.training.gradient for m in models_of(data, *off)}


def test_the_adam_of_a_cost_is_the_adam_of_its_steps(data):
    """So that a study finds the trainings of another that named the steps."""
    costs = "adam-sam,adam-sam sam_every=5,adam-sam sam_share=0.5"
    by_cost = models_of(data, "--batch_size", 4, "--gradient", costs)
    steps = "adam end_step=48,adam end_step=60,adam end_step=80"
    by_steps = models_of(data, "--batch_size", 4, "--gradient", steps)
    matched = {m.training.cell.key for m in by_cost if m.training.matched}
    assert matched == {m.training.cell.key for m in by_steps} and len(matched) == 3 * 2


def test_samples_anew_are_of_other_seeds_and_earlier_checkpoints(data):
    """They change no cell that a study without them has."""
    before = models_of(data, "--save_interval", 15)
    again = ("--generation_seeds", 2, "--checkpoints", 2)
    models = models_of(data, "--save_interval", 15, *again)
    assert not [n for n in changed(before, models) if n in EVERYTHING]
    assert matrix.steps_of(models[0].training, 15) == [40, 30, 15]
    by_average = {m.average: m.cells for m in models if m.training.cell is models[0].training.cell}
    assert {n for n in by_average["swa"] if n.startswith("again")} == {"again_0_1"}
    cells = by_average["ema"]
    assert {n for n in cells if n.startswith("again")} == {"again_0_1", "again_1_0", "again_1_1"}
    assert [cells[f"drawn_{n}"].flags["seed"] for n in ("0_1", "1_0", "1_1")] == [1, 0, 1]
    assert cells["drawn_1_1"].aside["model_path"].endswith("ema_0.9999_000030.pt")
    assert cells["again_1_1"].argv[2] == cells["drawn_1_1"].file
    with pytest.raises(ValueError, match="--checkpoints is 9, but a training of 40 steps keeps 3"):
        models_of(data, "--save_interval", 15, "--checkpoints", 9)


def test_models_of_a_seed_share_their_random_numbers_and_seeds_share_none(data):
    """So that the scatter over seeds has all in it that another study would have otherwise."""
    models = models_of(data, "--seed", 3, "--save_interval", 15, "--checkpoints", 2)
    kinds = {m.training.gradient for m in models}
    assert {m.training.seed for m in models} == {3, 4} and len(kinds) == 3
    for model in models:
        measured = {n: c for n, c in model.cells.items() if "training" in c.made_of}
        assert measured.keys() >= {"samples_20_w4", "LPF", "HESSIAN", "exposure"}
        assert {c.flags["seed"] for c in measured.values()} == {model.training.seed}
        assert "drawn_1_0" in measured or model.average == "swa"


def test_copies_are_looked_for_in_the_first_samples_beside_images_held_out(data, tmp_path):
    """It changes no cell that a study without it has; another set of images held out is another."""
    sets = [tmp_path / f"{name}.npz" for name in "abc"]
    for path, seed in zip(sets, (1, 2, 2)):
        images = np.random.default_rng(seed).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
        np.savez(path, arr_0=images)
    one, two, again = (models_of(data, "--heldout_data", path) for path in sets)
    assert not [n for n in changed(models_of(data), one) if n in EVERYTHING]
    assert changed(one, two) == {"copies", "held_out"} and not changed(two, again)
    cells = one[0].cells
    words = cells["copies"].argv
    assert words[:3] == ["evaluate", cells["reference"].file, cells["samples_20"].file]
    given = dict(zip(words[3::2], words[4::2]))
    assert given["--train_data"] == cells["reference"].file
    assert given["--heldout_data"] == cells["held_out"].file
    words = cells["held_out"].argv
    assert words[words.index("--data_dir") + 1] == str(sets[0])


def test_keys_of_trainings_are_those_of_the_first_studies():
    """What was trained stays: the key is written down, that of flags and data as they were."""
    cell = matrix.Cell("train", {"lr": 0.1, "optimizer": "adam-sam"}, {"data": "x", "ranks": 1}, "")
    assert cell.key == "6235b76a593c"


EVERYTHING = {
    "train",
    *("samples_20", "samples_100", "samples_20_w8", "samples_20_w4"),
    *("fd_20", "fd_100", "fd_20_w8", "fd_20_w4"),
    *("LPF", "LPF filter", "LPF weight", "MC", "HESSIAN", "SHARPNESS", "EXPLAIN"),
    *("exposure", "floor", "reference"),
}
OF_LOSSES = {n for n in EVERYTHING if n.isupper() or n.startswith("LPF")} | {"exposure"}
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
        (("--num_draws", 6), {"LPF", "LPF filter", "LPF weight", "MC"}),
        (("--features", "digits"), OF_DISTANCES),
        (("--num_samples", 50), OF_DISTANCES | {n for n in EVERYTHING if "samples" in n}),
        (("--num_images", 7), OF_LOSSES),
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


def test_moved_weights_are_sampled_where_a_study_asks_for_them(data):
    assert "perturbed" not in models_of(data)[0].cells
    text = "climb rho=0.1,quantized"
    told = ("--moves", text, "--features", "digits", "--sampling_steps", "7", "--sampler", "euler")
    cell = models_of(data, *told)[0].cells["perturbed"]
    assert cell.argv[0] == "perturbed-samples" and cell.leaves == "perturbed_samples.json"
    flags = dict(zip(cell.argv[1::2], cell.argv[2::2]))
    expected = {"--moves": text, "--features": "digits", "--timestep_respacing": "7"}
    assert flags.items() >= (expected | {"--sampler": "euler"}).items()
