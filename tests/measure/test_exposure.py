"""A study of two small networks: its record, its files, and that ranks change no bit of it."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from chains import chain
from launch import ROOT, mpirun

from flatdiff.data.image_datasets import to_uint8
from flatdiff.flags import config
from flatdiff.measure import exposure, run
from flatdiff.measure import exposure_bias as eb
from flatdiff.models import generate, networks
from flatdiff.store import checkpoint
from flatdiff.world import logger

MODEL = config.ModelFlags(
    image_size=8,
    num_channels=32,
    channel_mult="1",
    num_res_blocks=1,
    attention_resolutions="",
    class_cond=True,
    num_classes=3,
)
DIFFUSION = config.DiffusionFlags(
    learn_sigma=True, diffusion_steps=40, noise_schedule="cosine", timestep_respacing="6"
)
SEED = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """runs/a and runs/b with a checkpoint each, and 12 images of two classes."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", arr_0=images, arr_1=np.arange(12) % 2)
    for i, name in enumerate("ab"):
        torch.manual_seed(i)
        model, _ = networks.build(MODEL, DIFFUSION)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        (folder / "runs" / name).mkdir(parents=True)
        checkpoint.save(model.state_dict(), str(folder / "runs" / name / "model000007.pt"))
        groups = {"model": MODEL.__dict__, "diffusion": DIFFUSION.__dict__}
        checkpoint.save_json(groups, str(folder / "runs" / name / "config.json"))
    return folder


def flags_of(folder, **exposure):
    values = {
        "model_path": f"{folder}/runs/*/model*.pt",
        "num_images": 10,
        "batch_size": 3,
        "prior_shift": "0.5:1,0:1.25",
    }
    return SimpleNamespace(
        exposure=config.ExposureFlags(**values | exposure),
        run=config.RunFlags(seed=SEED),
        data=config.DataFlags(data_dir=str(folder / "images.npz")),
        model=MODEL,
        diffusion=DIFFUSION,
        given={"timestep_respacing": "6"},
    )


@pytest.fixture(scope="module")
def record(folder):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with logger.scoped_configure(dir=str(folder / "log"), format_strs=[]):
        yield run.exposure(flags_of(folder), str(folder / "log"))
    torch.set_num_threads(threads)


def test_the_record(record, folder):
    json.dumps(record, allow_nan=False)
    assert record["timesteps"] == [0, 8, 16, 23, 31, 39]
    assert record["eps_scale"] == [1.0] * 6
    assert record["noise_norm"] == pytest.approx((3 * 8 * 8) ** 0.5)
    assert record["settings"]["run"]["seed"] == SEED
    assert "log_dir" not in record["settings"]["run"]
    a, b = record["models"]
    assert (a["name"], b["name"]) == ("a/model000007", "b/model000007")
    assert a["path"] == str(folder / "runs/a/model000007.pt")
    assert a["sha256"] != b["sha256"]
    assert [(p["mu"], p["s"]) for p in a["priors"]] == [(0, 1), (0.5, 1), (0, 1.25)]
    for model in (a, b):
        gap = np.subtract(model["sampling"]["value"], model["training"]["value"])
        np.testing.assert_allclose(model["gap"]["value"], gap)
        for prior in model["priors"]:
            rise = prior["loss"]["value"] - model["priors"][0]["loss"]["value"]
            assert prior["loss_rise"]["value"] == pytest.approx(rise, abs=1e-12)
            assert np.shape(prior["mean"]["value"]) == (3,)
    assert "less" not in a and b["less"]["name"] == a["name"]
    for name in ("gap", "delta"):
        difference = np.subtract(b[name]["value"], a[name]["value"])
        np.testing.assert_allclose(b["less"][name]["value"], difference, atol=1e-12)
    # on common noise the difference is better known than if it were not
    both = np.hypot(a["delta"]["error"], b["delta"]["error"])
    assert (np.array(b["less"]["delta"]["error"]) < both)[:-1].all()


@pytest.fixture(scope="module")
def files(folder):
    """What the script writes on two ranks."""
    out = folder / "two"
    args = [f"--{name}={value}" for name, value in flags_of(folder).exposure.__dict__.items()]
    args += ["--timestep_respacing", "6", "--seed", SEED, "--log_dir", out]
    args += ["--data_dir", folder / "images.npz", "--lr", "1e-4", "--optimizer", "adam-sam"]
    done = mpirun(2, ROOT / "scripts" / "exposure_bias.py", *args)
    assert done.returncode == 0, done.stderr
    names = ("exposure_bias.json", "exposure_bias.csv", "prior_shift.csv")
    pictures = ("exposure_bias.png", "prior_shift.png")
    assert all(str(out / name) in done.stdout for name in names + pictures)
    assert all((out / name).stat().st_size > 10_000 for name in pictures)
    return out


@pytest.mark.slow
def test_two_ranks_give_the_same_record(record, files):
    found = json.loads((files / "exposure_bias.json").read_text())
    assert found["models"] == record["models"]
    assert found.keys() == record.keys()
    assert found["perfect_delta"] == record["perfect_delta"]
    assert found["real_images"] == record["real_images"]


def test_the_tables_say_what_the_record_says(record, files):
    with open(files / "exposure_bias.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 6
    row, model = rows[6 + 4], record["models"][1]
    assert (row["model"], row["timestep"]) == ("b/model000007", "31")
    for name in ("training", "sampling", "gap", "output", "output_gap", "delta"):
        assert float(row[name]) == model[name]["value"][4]
        assert float(row[f"{name}_error"]) == model[name]["error"][4]
    assert float(row["gap_less_first"]) == model["less"]["gap"]["value"][4]
    assert rows[4]["gap_less_first"] == ""
    with open(files / "prior_shift.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["mu"] for row in rows] == ["0.0", "0.5", "0.0"] * 2
    assert float(rows[4]["std_2"]) == model["priors"][1]["std"]["value"][2]
    assert (
        float(rows[5]["loss_rise_less_first"]) == model["less"]["priors"][2]["loss_rise"]["value"]
    )


def test_chains_are_those_of_image_sample(folder):
    path = str(folder / "runs/a/model000007.pt")
    model, diffusion = networks.from_checkpoint(path, flags_of(folder))
    labels = torch.tensor([0, 1, 2, 0, 1])
    x_start, t = torch.zeros(5, 3, 8, 8), torch.zeros(5, dtype=torch.int64)
    batch = exposure.batch(torch.tensor([3, 4]), x_start, t, {"y": labels}, SEED)
    images = generate.sample_images(
        model, diffusion, [3, 4], (3, 8, 8), seed=SEED, labels=labels[3:]
    )
    _, x = eb.norms(eb.walked(model, diffusion, batch))
    np.testing.assert_array_equal(to_uint8(x), images)


def test_sampling_is_what_the_sampler_takes_and_output_what_the_network_gives():
    d = chain("4", eps_scaler=1.25, eps_scaler_slope=0.25)
    rng = np.random.default_rng(0)
    training, output = rng.random((2, 5, 4)) + 1
    columns = {"norms": output, "loss": output[:, 0]}
    columns |= {name: rng.random((5, 3)) for name in eb.STATISTICS}
    m = eb.Measured(training, rng.random(4), rng.random((5, 4)), {eb.NORMAL: columns})
    found = exposure.numbers(m, d)
    taken = output / [1.25, 1.5, 1.75, 2.0]
    expected = {"output": output, "sampling": taken}
    expected |= {"gap": taken - training, "output_gap": output - training}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name]["value"], values.mean(axis=0))
        np.testing.assert_allclose(found[name]["error"], values.std(axis=0, ddof=1) / 5**0.5)
    other = replace(m, begun={eb.NORMAL: columns | {"norms": 2 * output}})
    less = exposure.difference(other, m, d)
    np.testing.assert_allclose(less["gap"]["value"], taken.mean(axis=0))
    np.testing.assert_allclose(less["gap"]["error"], found["sampling"]["error"])


def test_an_interrupted_study_goes_on(record, folder, tmp_path, monkeypatch):
    real, seen = eb.walked, []

    def walked(*args, **kwargs):
        seen.append(kwargs["prior"])
        if len(seen) == 10:  # of four batches at images and at each prior: within the second prior
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(eb, "walked", walked)
    with pytest.raises(KeyboardInterrupt):
        run.exposure(flags_of(folder), str(tmp_path))
    again = run.exposure(flags_of(folder), str(tmp_path))
    assert again == record and len(seen) == 10 + 4 * 6
    assert run.exposure(flags_of(folder), str(tmp_path)) == record and len(seen) == 34
    run.exposure(flags_of(folder, sampler="ddim"), str(tmp_path))
    assert len(seen) == 34 + 4 * 8, "another sampler's chains are others"


def test_all_the_way_to_another_file_is_that_file(record, folder, tmp_path):
    """Chains, norms and losses at the moved weights are those of the other network."""
    path, other = (str(folder / f"runs/{name}/model000007.pt") for name in "ab")
    more = {"model_path": path, "average_path": other, "move": "towards share=1"}
    with logger.scoped_configure(dir=str(tmp_path), format_strs=["log"]):
        found = run.exposure(flags_of(folder, **more), str(tmp_path))["models"][0]
    expected = record["models"][1]
    for name in ("training", "sampling", "delta"):
        np.testing.assert_allclose(found[name]["value"], expected[name]["value"], rtol=1e-4)
    assert "moved by towards share=1: ||w' - w|| is" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("move", ["climb", "climb rho=0", "towards share=1"])
def test_a_move_that_is_none_is_refused_first(folder, move):
    with pytest.raises(ValueError, match="no one size|expected a number, not 0|--average_path"):
        run.exposure(flags_of(folder, move=move, model_path="nowhere.pt"), "")


@pytest.mark.parametrize("text", ["0.1", "0.1:0", "0:-1", "a:1", "0:nan", "1:2:3"])
def test_priors_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"--prior_shift .*0\.1:1"):
        exposure.priors_of(text)


def test_priors_come_after_the_right_one_and_once():
    assert exposure.priors_of("") == [(0, 1)]
    assert exposure.priors_of("0.5:1,0:1,-0.5:2,0.5:1") == [(0, 1), (0.5, 1), (-0.5, 2)]


def test_chains_of_different_noise_are_refused(folder, monkeypatch):
    build = networks.from_checkpoint

    def one_is_shorter(path, flags):
        short = replace(flags.diffusion, timestep_respacing="5" if "runs/b" in path else "6")
        return build(
            path,
            SimpleNamespace(
                **vars(flags)
                | {"diffusion": short, "given": {"timestep_respacing": short.timestep_respacing}}
            ),
        )

    monkeypatch.setattr(networks, "from_checkpoint", one_is_shorter)
    with pytest.raises(ValueError, match="b/model000007 has another"):
        run.exposure(flags_of(folder), str(folder / "log"))


def test_missing_checkpoints_are_found_out_first(folder):
    path = f"{folder}/runs/a/model000007.pt,{folder}/nothing*.pt"
    with pytest.raises(ValueError, match=r"nothing\*\.pt"):
        run.exposure(flags_of(folder, model_path=path), "")
