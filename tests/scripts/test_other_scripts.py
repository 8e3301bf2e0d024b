"""Super-resolution, classifier and NLL, as a user asks for them, on 8 x 8 images."""

import contextlib
import csv
import dataclasses
import importlib
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from launch import ROOT, mpirun
from PIL import Image

from flatdiff import script_util
from flatdiff.flags import config
from flatdiff.models import networks, super_res
from flatdiff.models.generate import ImageNoise
from flatdiff.nets.unet import SuperResModel
from flatdiff.rng import BOUND, generator
from flatdiff.store import checkpoint
from flatdiff.train import classifier_util
from flatdiff.world import dist_util

CHAIN = "--diffusion_steps 20 --noise_schedule cosine --num_classes 3 --seed 5".split()
NETWORK = (
    "--class_cond True --num_channels 32 --channel_mult 1 --num_res_blocks 1 "
    "--attention_resolutions 4 --learn_sigma True"
).split()
CLASSIFIER = (
    "--image_size 8 --classifier_width 64 --classifier_depth 1 --classifier_attention_resolutions 4"
).split()
TRAIN = (
    "--batch_size 8 --log_interval 2 --random_flip False --random_crop False --num_workers 0"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Reddish, greenish and bluish noise as PNG files."""
    folder = tmp_path_factory.mktemp("scripts")
    rng = np.random.default_rng(0)
    for i in range(24):
        image = rng.integers(0, 60, (8, 8, 3), dtype=np.uint8)
        image[:, :, i % 3] += 180
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"images/{'abc'[i % 3]}_{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def call():
    """A function that runs scripts/NAME.py with these flags in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        patch.setattr(dist_util, "session", contextlib.nullcontext)

        def run(name, *argv):
            patch.setattr(sys, "argv", [name, *map(str, argv)])
            importlib.import_module(name).main()

        yield run


def data(folder):
    return ["--data_dir", folder / "images"]


def random_weights(path):
    """Give a network that has hardly learned anything more to say; returns the path."""
    torch.manual_seed(1)
    weights = checkpoint.load(str(path))
    checkpoint.save({k: v + 0.05 * torch.randn_like(v) for k, v in weights.items()}, str(path))
    return path


def go_on(whole, copy, step):
    """Make the folder `copy` what `whole` was at the step."""
    copy.mkdir()
    for name in [*whole.glob(f"*{step:06d}.pt"), whole / "config.json"]:
        shutil.copy(name, copy)


def same(a, b):
    a, b = (checkpoint.load(str(path)) for path in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def table(folder):
    with open(folder / "progress.csv") as file:
        return list(csv.DictReader(file))


# Super-resolution


@pytest.fixture(scope="module")
def upsampler(folder, call):
    out, sizes = folder / "sr", "--large_size 8 --small_size 4 --end_step 2 --save_interval 1"
    flags = [*data(folder), *CHAIN, *NETWORK, *TRAIN, *sizes.split(), "--ema_rate", "0.9"]
    call("super_res_train", *flags, "--log_dir", out, "--sample_interval", "2")
    assert (out / "samples_000002.png").exists()
    go_on(out, folder / "sr_resumed", 1)
    call("super_res_train", *flags, "--log_dir", folder / "sr_resumed", "--resume", "auto")
    return out


def test_a_resumed_upsampler_is_the_one_that_was_never_stopped(folder, upsampler):
    for name in ("model000002.pt", "ema_0.9_000002.pt"):
        assert same(upsampler / name, folder / "sr_resumed" / name)


@pytest.fixture(scope="module")
def enlarge(folder, upsampler, call):
    """A function of flags that gives (images as numbers, labels) of image_sample's kind."""
    shutil.copytree(upsampler, folder / "sr_random")
    path = random_weights(folder / "sr_random/model000002.pt")
    images = np.random.default_rng(2).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    np.savez(folder / "base.npz", images, np.array([2, 0, 1]))

    def run(*flags):
        out = folder / f"enlarged_{'_'.join(flags)}"
        fixed = ["--model_path", path, "--base_samples", folder / "base.npz", "--log_dir", out]
        call("super_res_sample", *fixed, "--num_samples", 5, "--seed", 4, *flags)
        with np.load(out / "samples_5x8x8x3.npz") as file:
            return file["arr_0"].astype(int), file["arr_1"].tolist()

    return run


def test_upsampled_images_are_ddims_of_the_rows_and_their_labels(folder, enlarge):
    images, labels = enlarge("--use_ddim", "True", "--batch_size", "2")
    assert labels == [2, 0, 1, 2, 0]
    chain = {"steps": 20, "noise_schedule": "cosine", "learn_sigma": True}
    diffusion = script_util.create_gaussian_diffusion(**chain)
    model = script_util.create_model(
        8, 32, 1, "1", True, True, False, "4", 4, use_scale_shift_norm=True, num_classes=3,
        network=SuperResModel,
    )  # fmt: skip
    model.load_state_dict(checkpoint.load(str(folder / "sr_random/model000002.pt")))
    base = np.load(folder / "base.npz")["arr_0"][[0, 1, 2, 0, 1]]
    noise = ImageNoise(4, range(5), "cpu")
    expected = diffusion.ddim_sample_loop(
        model.eval(),
        (5, 3, 8, 8),
        noise=noise(torch.empty(5, 3, 8, 8)),
        model_kwargs={
            "low_res": torch.from_numpy(base).permute(0, 3, 1, 2) / 127.5 - 1,
            "y": torch.tensor(labels),
        },
    )
    expected = ((expected + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(images + 0.5 - expected).max() < 1
    assert np.abs(images - enlarge()[0]).mean() > 5  # ancestral
    assert np.abs(images - enlarge("--use_ddim", "True", "--class_labels", "1")[0]).mean() > 1


def test_low_res_is_the_mean_over_areas():
    x = torch.arange(2 * 3 * 64.0).view(2, 3, 8, 8)
    assert torch.equal(super_res.shrink(x, 4), x.view(2, 3, 4, 2, 4, 2).mean((3, 5)))


def test_base_samples_that_do_not_fit_are_named(tmp_path, folder, enlarge):
    np.savez(tmp_path / "large.npz", np.zeros((2, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "bare.npz", np.zeros((2, 4, 4, 3), np.uint8))
    for name, words in {"large": "small_size of the network is 4", "bare": "no labels"}.items():
        with pytest.raises(ValueError, match=words):
            enlarge("--base_samples", str(tmp_path / f"{name}.npz"))
    with pytest.raises(ValueError, match="give --base_samples"):
        enlarge("--base_samples", "")


# The classifier


def classifier_flags(folder, out, iterations):
    steps = ["--iterations", iterations, "--save_interval", 1, "--log_dir", out]
    validation = ["--val_data_dir", folder / "images", "--eval_interval", 2]
    return [*data(folder), *validation, *CHAIN, *CLASSIFIER, *TRAIN, *steps]


@pytest.fixture(scope="module")
def classifier(folder, call):
    out = folder / "classifier"
    flags = [*classifier_flags(folder, out, 12), "--microbatch", "3", "--anneal_lr", "True"]
    call("classifier_train", *flags)
    return out


def test_the_classifier_learns_and_logs_it(classifier):
    rows = table(classifier)
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8, 10, 12]
    first, last = ({k: float(v) for k, v in rows[i].items() if v} for i in (0, -1))
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
    assert same(two / "model000002.pt", resumed / "model000002.pt")
    a, b = (checkpoint.load(str(out / "opt000001.pt"))["state"] for out in (one, two))
    for i in a:  # after one step of AdamW the first moment is a tenth of the gradient
        size = a[i]["exp_avg_sq"].sqrt().mean()
        assert (a[i]["exp_avg"] - b[i]["exp_avg"]).abs().max() <= 1e-3 * size + 1e-9


def test_the_classifier_trains_in_fp16(folder, call, tmp_path):
    call("classifier_train", *classifier_flags(folder, tmp_path, 2), "--classifier_use_fp16", "1")
    assert "lg_loss_scale" in table(tmp_path)[0]


def test_what_the_classifier_is_trained_on():
    chain = script_util.create_gaussian_diffusion(steps=30)
    x, noise = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    t, y = torch.tensor([0, 9, 29]), torch.tensor([0, 5, 1])
    logits = torch.tensor([[3.0, 0, 0, 0, 0, -1], [0, 1, 2, 3, 4, -1], [1, 0, 0, 0, 0, 0]])
    seen = []

    def model(x, t):
        seen.append((x, t))
        return logits

    terms = classifier_util.Classification(chain).training_losses(model, x, t, {"y": y}, noise)
    expected = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits.numpy(), y)]
    assert terms["loss"].tolist() == pytest.approx(expected, rel=1e-5)
    assert terms["acc@1"].tolist() == [1, 0, 0] and terms["acc@5"].tolist()[:2] == [1, 0]
    assert torch.equal(seen[0][0], chain.q_sample(x, t, noise)) and torch.equal(seen[0][1], t)
    clean = classifier_util.Classification(chain, noised=False)
    clean.training_losses(model, x, t, {"y": y}, noise)
    assert torch.equal(seen[1][0], x) and seen[1][1].tolist() == [0, 0, 0]


def test_guidance_is_the_gradient_of_the_log_probability():
    """Of logits W x it is scale (W_y - sum_k p_k W_k)."""
    w, x, y = torch.randn(5, 12), torch.randn(2, 3, 2, 2), torch.tensor([4, 0])
    cond_fn = classifier_util.gradient(lambda x, t: x.flatten(1) @ w.T, y, scale=2.5)
    p = (x.flatten(1) @ w.T).softmax(1)
    with torch.no_grad():
        given = cond_fn(x, torch.zeros(2))
    assert torch.allclose(given.flatten(1), 2.5 * (w[y] - p @ w), atol=1e-5)


@pytest.fixture(scope="module")
def network(folder, call):
    """An unconditional network on the same images."""
    flags = [*data(folder), *CHAIN, *NETWORK, *TRAIN, "--class_cond", "False", "--image_size", 8]
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
    flags = [*NETWORK, "--use_scale_shift_norm", "False", "--image_size", "8"]
    flags += ["--model_path", tmp_path / "model000000.pt", "--log_dir", tmp_path]
    with pytest.raises(ValueError, match="3 classes and the network 1000"):
        call("classifier_sample", *flags, "--classifier_path", classifier / "model000008.pt")
    with pytest.raises(ValueError, match="give --classifier_path"):
        call("classifier_sample", *flags)


def test_a_classifier_of_other_images_is_refused(call, classifier, tmp_path):
    flags = config.ModelFlags(
        image_size=16, num_channels=32, num_res_blocks=1, channel_mult="1", attention_resolutions=""
    )
    chain = config.DiffusionFlags()
    network, _ = networks.build(flags, chain)
    checkpoint.save(network.state_dict(), str(tmp_path / "model000000.pt"))
    about = {"model": dataclasses.asdict(flags), "diffusion": dataclasses.asdict(chain)}
    checkpoint.save_json(about, str(tmp_path / "config.json"))
    paths = ["--model_path", tmp_path / "model000000.pt", "--log_dir", tmp_path / "log"]
    with pytest.raises(ValueError, match="images of side 8 and the network makes some of side 16"):
        call("classifier_sample", *paths, "--classifier_path", classifier / "model000008.pt")


# Bits per dimension


def test_bits_per_dimension_are_calc_bpd_loops(folder, call, network, tmp_path):
    def measure(*flags):
        out = tmp_path / "_".join(map(str, flags))
        fixed = ["--model_path", network, *data(folder), "--seed", 5, "--log_dir", out]
        call("image_nll", *fixed, "--num_samples", 7, *flags)
        files = ("vb_terms", "mse_terms", "xstart_mse_terms")
        found = re.search(r"dimension: (\S+) \+- (\S+) .*over 7 images", log_of(out)).groups()
        return [np.load(out / f"{name}.npz")["arr_0"] for name in files], list(map(float, found))

    paths = sorted((folder / "images").iterdir())
    order = torch.randperm(24, generator=generator(5, BOUND))[:7]
    images = np.stack([np.asarray(Image.open(paths[i])) for i in order])
    model = script_util.create_model(
        8, 32, 1, "1", True, False, False, "4", 4, use_scale_shift_norm=True
    )
    model.load_state_dict(checkpoint.load(str(network)))
    chain = {"steps": 20, "noise_schedule": "cosine", "learn_sigma": True}
    expected = script_util.create_gaussian_diffusion(**chain).calc_bpd_loop(
        model.eval(),
        torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1,
        randn=ImageNoise(5, range(7), "cpu"),
    )
    terms, (bits, error) = measure("--batch_size", 3)
    total = expected["total_bpd"].numpy()
    assert bits == pytest.approx(total.mean(), rel=1e-4)
    assert error == pytest.approx(total.std(ddof=1) / 7**0.5, rel=1e-2)
    for found, name in zip(terms, ("vb", "mse", "xstart_mse")):
        assert found.shape == (20,) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected[name].mean(0), rtol=1e-3, atol=1e-5)
    half, _ = measure("--use_fp16", "True", "--batch_size", 7)
    for a, b in zip(terms, half):
        assert not np.array_equal(a, b)
        np.testing.assert_allclose(a, b, rtol=0.02)


def test_bits_per_dimension_count_no_image_twice(folder, call, network, tmp_path):
    fixed = ["--model_path", network, *data(folder), "--batch_size", 50, "--num_samples"]
    for name, count in (("once", 24), ("more", 500)):
        call("image_nll", *fixed, count, "--log_dir", tmp_path / name)
    once, more = (re.search("bits per .*", log_of(tmp_path / n))[0] for n in ("once", "more"))
    assert once == more and "over 24 images" in more
    assert "there are 24 images, and num_samples is 500" in log_of(tmp_path / "more")
    call("image_nll", *fixed, 1, "--log_dir", tmp_path / "one")
    assert "of one image" in log_of(tmp_path / "one")


def test_bits_of_a_folder_without_a_class_are_of_the_right_classes(folder, call, tmp_path):
    """Images of b and c alone, and those of a network that was trained on a, b and c."""
    flags = [*data(folder), *CHAIN, *NETWORK, *TRAIN, "--image_size", 8]
    call("image_train", *flags, "--end_step", 1, "--log_dir", tmp_path / "run")
    path = random_weights(tmp_path / "run/model000001.pt")
    (tmp_path / "images").mkdir()
    for file in (folder / "images").glob("[bc]_*"):
        shutil.copy(file, tmp_path / "images")
    paths = sorted((tmp_path / "images").iterdir())
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.savez(tmp_path / "own.npz", images, ["abc".index(path.name[0]) for path in paths])
    shown = []
    for name in ("images", "own.npz"):
        out = tmp_path / f"nll_{name}"
        fixed = ["--model_path", path, "--data_dir", tmp_path / name, "--batch_size", 16]
        call("image_nll", *fixed, "--num_samples", 16, "--log_dir", out)
        shown.append(re.search("bits per .*", log_of(out))[0])
    assert shown[0] == shown[1]
    Image.open(paths[0]).save(tmp_path / "images/d_0.png")
    with pytest.raises(ValueError, match="not trained on the classes d: it has a, b, c"):
        call("image_nll", *fixed[:2], "--data_dir", tmp_path / "images", "--log_dir", tmp_path)


def log_of(out):
    return (out / "log.txt").read_text()
