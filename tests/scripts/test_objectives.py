"""Flow, EDM and v-prediction as users ask for them: trained, resumed, guided, sampled, studied."""

import json

import numpy as np
import pytest
import torch
from small import TRAIN, coloured, data, go_on, random_weights, same_weights, words

from flatdiff.store import checkpoint

SMALL = words(
    image_size=8,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1",
    attention_resolutions="4",
    diffusion_steps=20,
    class_cond=True,
    num_classes=3,
    class_dropout=0.5,
    seed=5,
)
CLIMB = "--optimizer adam-sam --rho 0.1 --input_pertub 0.1 --schedule_sampler loss-second-moment"
KINDS = {
    "flow": "--objective flow --noise_levels logitnormal",
    "flow x": "--objective flow --predicts x",
    "edm": "--objective edm",
    "ddpm v": "--predicts v --learn_sigma True --noise_schedule cosine",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return coloured(tmp_path_factory.mktemp("objectives"))


@pytest.fixture(scope="module", params=KINDS)
def trained(request, folder, call):
    """The log folder of a short training with SAM, and its flags."""
    out = folder / request.param.replace(" ", "_")
    flags = [*data(folder), *SMALL, *TRAIN, *CLIMB.split(), *KINDS[request.param].split()]
    flags += ["--save_interval", 2, "--ema_rate", "0.5"]
    call("image_train", *flags, "--end_step", 4, "--log_dir", out)
    return out, flags


def test_a_resumed_run_is_the_run_that_was_never_stopped(trained, call, tmp_path):
    whole, flags = trained
    go_on(whole, tmp_path / "part", 2)
    call("image_train", *flags, "--end_step", 4, "--log_dir", tmp_path / "part", "--resume", "auto")
    for name in ("model000004.pt", "ema_0.5_000004.pt"):
        assert same_weights(whole / name, tmp_path / "part" / name)


def test_hidden_labels_train_their_row(trained):
    before, after = (
        checkpoint.load(str(trained[0] / f"model00000{n}.pt"))["label_emb.weight"] for n in (2, 4)
    )
    assert before.shape[0] == 4 and (before[3] != after[3]).any()


def test_the_objective_is_told_and_kept(trained, call, tmp_path):
    out, flags = trained
    told = (out / "log.txt").read_text()
    name, _, predicts = out.name.partition("_")
    own = predicts or {"flow": "v", "edm": "F"}[name]
    assert f"objective: {name}, predicts {own}" in told
    other = "edm" if name != "edm" else "flow"
    go_on(out, tmp_path / "part", 2)
    more = ["--objective", other, "--predicts", "", "--learn_sigma", "False"]
    more += ["--noise_schedule", "linear", "--resume", "auto", "--log_dir", tmp_path / "part"]
    with pytest.raises(ValueError, match="was .* when .* was trained"):
        call("image_train", *flags, *more)


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp", "euler", "heun"])
def test_images_are_drawn_by_every_sampler_with_guidance_and_few_bits(
    trained, call, tmp_path, sampler
):
    path = random_weights(trained[0] / "ema_0.5_000004.pt")
    fixed = ["--model_path", path, "--num_samples", 4, "--timestep_respacing", 6]
    fixed += ["--sampler", sampler, "--class_labels", "0,2"]
    images = []
    for i, flags in enumerate(("", "--guidance_scale 4", "--guidance_scale 4 --quant 4")):
        out = tmp_path / str(i)
        call("image_sample", *fixed, *flags.split(), "--log_dir", out)
        (file,) = out.glob("samples_4*.npz")
        images.append(np.load(file)["arr_0"].astype(int))
    assert (images[0] != images[1]).mean() > 0.1 and (images[1] != images[2]).mean() > 0.1
    with pytest.raises(ValueError, match="contradicts the checkpoint"):
        call("image_sample", *fixed, "--predicts", "eps", "--log_dir", tmp_path / "other")


def test_exposure_bias_is_measured(trained, folder, call, tmp_path):
    path = random_weights(trained[0] / "model000004.pt")
    fixed = ["--model_path", path, *data(folder), "--num_images", 6, "--timestep_respacing", 5]
    call("exposure_bias", *fixed, "--prior_shift", "0.1:1", "--log_dir", tmp_path)
    record = json.loads((tmp_path / "exposure_bias.json").read_text())
    model = record["models"][0]
    norms = torch.tensor([model[name]["value"] for name in ("training", "sampling")])
    assert torch.isfinite(norms).all() and norms.shape == (2, 5)
    assert abs(norms[0, -1] - norms[1, -1]) < 0.2 * norms[0, -1]  # both inputs are nearly noise


def test_what_other_objectives_do_not_have_is_refused(trained, folder, call, tmp_path):
    path, is_ddpm = trained[0] / "model000004.pt", trained[0].name.startswith("ddpm")
    nll = ["--model_path", path, *data(folder), "--num_samples", 2, "--log_dir", tmp_path]
    guide = ["--model_path", path, "--classifier_path", path, "--log_dir", tmp_path]
    if is_ddpm:
        call("image_nll", *nll)
        return
    with pytest.raises(ValueError, match="bits per dimension are defined for --objective ddpm"):
        call("image_nll", *nll)
    with pytest.raises(ValueError, match="a classifier guides --objective ddpm alone"):
        call("classifier_sample", *guide)
    train = [*data(folder), *TRAIN, "--log_dir", tmp_path / "c", "--iterations", 1]
    train += ["--image_size", 8, "--num_classes", 3]
    with pytest.raises(ValueError, match="knows the noise of --objective ddpm, not of flow"):
        call("classifier_train", *train, "--objective", "flow")


def test_an_older_checkpoint_is_of_the_objective_that_there_was(trained, call, tmp_path):
    out, _ = trained
    go_on(out, tmp_path / "old", 4)
    path = tmp_path / "old" / "config.json"
    config = json.loads(path.read_text())
    for name in ("objective", "predicts", "sigma_data"):
        config["diffusion"].pop(name)
    path.write_text(json.dumps(config))
    flags = ["--model_path", tmp_path / "old/model000004.pt", "--num_samples", 1]
    with pytest.raises(ValueError, match="was trained with --objective 'ddpm'"):
        call("image_sample", *flags, "--objective", "flow", "--log_dir", tmp_path / "s")
