"""The classifier as a user asks for it: it learns, resumes, and guides images."""

import csv
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from launch import ROOT, mpirun
from small import CONDITIONAL as FLAGS
from small import FLAGS as SMALL
from small import (
    TRAIN,
    coloured,
    data,
    go_on,
    groups,
    random_weights,
    same_weights,
    save_run,
    words,
)

from flatdiff import script_util
from flatdiff.models import networks
from flatdiff.store import checkpoint

CLASSIFIER = (
    "--image_size 8 --classifier_width 64 --classifier_depth 1 --classifier_attention_resolutions "
    "4 --diffusion_steps 20 --noise_schedule cosine --num_classes 3 --seed 5"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return coloured(tmp_path_factory.mktemp("scripts"))


def table(folder):
    with open(folder / "progress.csv") as file:
        return list(csv.DictReader(file))


def classifier_flags(folder, out, iterations):
    steps = ["--iterations", iterations, "--save_interval", 1, "--log_dir", out]
    validation = ["--val_data_dir", folder / "images", "--eval_interval", 2]
    return [*data(folder), *validation, *CLASSIFIER, *TRAIN, *steps]


@pytest.fixture(scope="module")
def classifier(folder, call):
    out = folder / "classifier"
    flags = [*classifier_flags(folder, out, 12), "--microbatch", "3", "--anneal_lr", "True"]
    call("classifier_train", *flags)
    return out


def test_the_classifier_learns_and_logs_it(classifier):
    rows = table(classifier)
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8, 10, 12]
    first, last = ({k: float(v) for k, v in rows[i].items() if v and k != "time"} for i in (0, -1))
    assert last["train_acc@1"] > 0.85 > first["train_acc@1"]
    assert last["train_loss"] < 0.6 * first["train_loss"]
    early = [row for row in rows if row["val_acc@1_q0"] and row["val_loss_q3"]][-1]
    assert float(early["val_acc@1_q0"]) > 0.9
    assert float(early["val_loss_q0"]) < float(early["val_loss_q3"])
    assert last["train_acc@5"] == 1 and last["lr"] == pytest.approx(3e-4 * 2 / 12)


@pytest.mark.slow
def test_two_ranks_are_one_with_the_joined_batch_and_resume_exactly(folder, call, tmp_path):
    one, two, resumed = (tmp_path / name for name in ("one", "two", "resumed"))
    call("classifier_train", *classifier_flags(folder, one, 1))
    script = ROOT / "scripts/classifier_train.py"
    half = ["--batch_size", "4", "--resume", "auto"]
    for out in (two, resumed):
        done = mpirun(2, script, *classifier_flags(folder, out, 2), *half)
        assert done.returncode == 0, done.stderr
        if out is two:
            go_on(two, resumed, 1)
    assert same_weights(two / "model000002.pt", resumed / "model000002.pt")
    a, b = (checkpoint.load(str(out / "opt000001.pt"))["state"] for out in (one, two))
    for i in a:  # after one step of AdamW the first moment is a tenth of the gradient
        size = a[i]["exp_avg_sq"].sqrt().mean()
        assert (a[i]["exp_avg"] - b[i]["exp_avg"]).abs().max() <= 1e-3 * size + 1e-9


def test_the_classifier_trains_in_fp16(folder, call, tmp_path):
    call("classifier_train", *classifier_flags(folder, tmp_path, 2), "--classifier_use_fp16", "1")
    assert "lg_loss_scale" in table(tmp_path)[0]


@pytest.fixture(scope="module")
def network(folder, call):
    """An unconditional network on the same images."""
    flags = [*data(folder), *FLAGS, *TRAIN, "--class_cond", "False"]
    call("image_train", *flags, "--end_step", 1, "--log_dir", folder / "network")
    return random_weights(folder / "network/model000001.pt")


def test_guided_images_are_what_the_classifier_wants(folder, call, classifier, network):
    def draw(name, *flags):
        out = folder / "_".join([name, *map(str, flags[1:])])
        fixed = ["--model_path", network, "--num_samples", 6, "--batch_size", 4, "--log_dir", out]
        call(name, *fixed, *flags)
        return np.load(out / "samples_6x8x8x3.npz")

    guide = ["--classifier_path", classifier / "model000008.pt", "--class_labels", "0,1,2"]
    plain, unguided, guided, ddim = (
        draw("image_sample")["arr_0"],
        draw("classifier_sample", "--classifier_scale", 0, *guide)["arr_0"],
        draw("classifier_sample", "--classifier_scale", 40, *guide),
        draw("classifier_sample", "--classifier_scale", 40, *guide, "--use_ddim", "True"),
    )
    assert np.array_equal(plain, unguided)
    assert guided["arr_1"].tolist() == [0, 1, 2, 0, 1, 2]
    model = script_util.create_classifier(8, False, 64, 1, "4", True, True, "attention", 3)
    model.load_state_dict(checkpoint.load(str(classifier / "model000008.pt")))

    def log_p(images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            log_p = F.log_softmax(model.eval()(x, torch.zeros(6, dtype=torch.int64)), dim=1)
        return log_p.gather(1, torch.tensor([[0], [1], [2]] * 2)).mean()

    assert log_p(guided["arr_0"]) > log_p(plain) + 0.2
    assert log_p(ddim["arr_0"]) > log_p(plain) + 0.2


def test_a_classifier_of_other_classes_is_refused(call, classifier, tmp_path):
    network = script_util.create_model(8, 32, 1, "1", True, True, False, "4", num_classes=1000)
    checkpoint.save(network.state_dict(), str(tmp_path / "model000000.pt"))
    flags = [*words(**SMALL), "--class_cond", "True", "--use_scale_shift_norm", "False"]
    flags += ["--model_path", tmp_path / "model000000.pt", "--log_dir", tmp_path]
    with pytest.raises(ValueError, match="3 classes and the network 1000"):
        call("classifier_sample", *flags, "--classifier_path", classifier / "model000008.pt")
    with pytest.raises(ValueError, match="give --classifier_path"):
        call("classifier_sample", *flags)


@pytest.mark.parametrize(
    ("group", "other", "told"),
    [
        ("diffusion", {"diffusion_steps": 50}, "--diffusion_steps 50 .* --diffusion_steps 20"),
        ("diffusion", {"noise_schedule": "linear"}, "schedule linear .* --noise_schedule cosine"),
        ("diffusion", {"rescale_timesteps": True}, "timesteps True .* --rescale_timesteps False"),
        ("train", {"noised": False}, "trained on clean images"),
    ],
)
def test_a_classifier_of_other_noise_is_refused(
    call, classifier, network, tmp_path, group, other, told
):
    """Where it says of what noise it is; one of guided-diffusion has no config.json."""
    theirs = tmp_path / "model000008.pt"
    shutil.copy(classifier / "model000008.pt", theirs)
    flags = ["--model_path", network, "--classifier_path", theirs, "--num_samples", 2]
    call("classifier_sample", *flags, *CLASSIFIER, "--log_dir", tmp_path / "silent")
    config = checkpoint.load_json(str(classifier / "config.json"))
    config[group] |= other
    checkpoint.save_json(config, str(tmp_path / "config.json"))
    with pytest.raises(ValueError, match=told):
        call("classifier_sample", *flags, "--log_dir", tmp_path / "log")


def test_a_classifier_of_other_images_is_refused(call, classifier, tmp_path):
    flags, chain = groups(image_size=16)
    path = save_run(tmp_path, networks.build(flags, chain)[0], model=flags, diffusion=chain)
    paths = ["--model_path", path, "--log_dir", tmp_path / "log"]
    with pytest.raises(ValueError, match="images of side 8 and the network makes some of side 16"):
        call("classifier_sample", *paths, "--classifier_path", classifier / "model000008.pt")
