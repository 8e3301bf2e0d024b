"""Sampling from quantized weights, as a user asks for it: both scripts, packed files, the log."""

import csv
import dataclasses
import sys

import flatness_studies as studies
import numpy as np
import pytest
import torch
from launch import ROOT, run
from rounded_sampling import SAMPLING, parsed
from safetensors.torch import load_file

from flatdiff.chain import probe
from flatdiff.data.image_datasets import ImageDataset
from flatdiff.measure import quantized
from flatdiff.models import generate, networks

INT8 = "--quant 8 --quant_backend int8 --quant_symmetric True --quant_activations 7"


def test_eight_bits_are_close_and_two_are_not(sample, trained):
    data = ["--data_dir", trained / "squares.npz", "--num_images", 64]
    fp32, _, npz = sample(name="fp32")
    assert npz.name == "samples_6x8x8x3.npz"
    off, rises = {}, {}
    for bits in (8, 4, 2):
        images, log, npz = sample("--quant", bits, *data, name=f"w{bits}")
        assert npz.name == f"samples_6x8x8x3_w{bits}.npz"
        off[bits] = np.abs(images - fp32).mean()
        (line,) = [line for line in log.splitlines() if line.startswith("mse on 64 images")]
        rises[bits] = float(line.split("rise ")[1].split()[0])
    assert off[8] < 4 < off[4] < 25 < off[2]
    assert abs(rises[8]) < rises[4] < rises[2]


def test_losses_are_those_of_the_training_chain(sample, trained):
    """Whatever the steps of the sampling, and mse first: L(w) as flatness.py has it."""
    lines = []
    for i, steps in enumerate((10, 25)):
        argv = ["--quant", 4, "--data_dir", trained / "squares.npz", "--num_images", 32]
        _, log, _ = sample(*argv, "--timestep_respacing", steps, name=f"steps{i}")
        lines.append([line for line in log.splitlines() if " before, " in line])
    assert lines[0] == lines[1] and [x.split()[0] for x in lines[0]] == [
        "mse",
        "vb",
        "loss",
        "x_mse",
    ]
    model, chain = networks.from_checkpoint(str(trained / "model000060.pt"), parsed([]))
    dataset = ImageDataset(str(trained / "squares.npz"), 8)
    plan = probe.plan(32, 100, 100, 0, dataset.num_images)
    draws = probe.fixed_draws(probe.images_of(dataset, 32, 0)[0], plan, 0)
    parts = draws.split(3)
    for name, losses in probe.losses(lambda part: part.losses(chain, model), parts).items():
        (mean,) = plan.means(losses, [plan.t >= 0])
        (line,) = [x for x in lines[0] if x.startswith(f"{name} on 32 images")]
        assert float(line.split()[4]) == pytest.approx(mean, rel=1e-4)


@pytest.mark.slow
def test_the_script_is_image_sample_with_eight_bits(sample, trained, tmp_path):
    expected, _, _ = sample("--quant", 8)
    script = ROOT / "scripts" / "image_sample_quant.py"
    argv = [*SAMPLING, "--model_path", trained / "model000060.pt", "--log_dir", tmp_path / "script"]
    done = run([sys.executable, script, *argv])
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "script/samples_6x8x8x3_w8.npz") as file:
        np.testing.assert_array_equal(file["arr_0"], expected)


@pytest.mark.parametrize("bits, ratio", [(8, 3.6), (4, 6.5)])
def test_packed_files_stand_alone_and_give_the_same_images(sample, trained, tmp_path, bits, ratio):
    rounding = f"--quant {bits} --quant_granularity channel --quant_range mse --quant_skip out.2"
    path = tmp_path / "alone" / "packed.safetensors"
    path.parent.mkdir()
    expected, _, _ = sample(*rounding.split(), "--save_quantized", path, name="made")
    images, log, npz = sample("--model_path", path, name="loaded")
    assert npz.name == f"samples_6x8x8x3_w{bits}.npz" and "quantized already" in log
    np.testing.assert_array_equal(images, expected)

    fp32 = torch.load(trained / "model000060.pt", weights_only=True)
    bare = sum(w.nbytes for w in fp32.values())
    assert bare / path.stat().st_size > ratio
    model, diffusion = networks.from_checkpoint(str(path), parsed([]))
    assert diffusion.original_num_steps == 100
    tensors = load_file(path)
    for name, w in model.state_dict().items():
        if f"{name}.codes" not in tensors:
            assert torch.equal(w, fp32[name])
            assert name == "out.2.weight" or w.ndim == 1
            continue
        scale, zero = (tensors[f"{name}.{part}"].flatten() for part in ("scale", "zero"))
        ours = torch.fake_quantize_per_channel_affine(
            fp32[name], scale, zero.int(), 0, 0, 2**bits - 1
        )
        assert torch.equal(w, ours), name

    with pytest.raises(ValueError, match=f"--quant {bits - 1} contradicts .* --quant {bits}"):
        sample("--model_path", path, "--quant", bits - 1, name="other")


def test_a_packed_file_holds_codes_that_were_calibrated(sample, trained, tmp_path):
    """Groups and GPTQ: the loaded network is the one that was saved, and is better than nearest."""
    path, rises = tmp_path / "packed.safetensors", {}
    data = ["--data_dir", trained / "squares.npz", "--num_images", 64]
    groups = "--quant 3 --quant_granularity group --quant_group 16".split()
    for name in ("minmax", "gptq ends=mse damp=0.02"):
        ends = ["--quant_range", name, "--quant_calibration", 32, "--save_quantized", path]
        expected, log, _ = sample(*groups, *ends, *data, name=name.split()[0])
        rises[name] = float(log.split("rise ")[1].split()[0])
    assert "per group of 16, gptq ends=mse" in log and rises[name] < rises["minmax"]
    images, _, _ = sample("--model_path", path, name="loaded")
    np.testing.assert_array_equal(images, expected)
    assert all(int(v) == 16 for k, v in load_file(path).items() if k.endswith(".group"))
    with pytest.raises(ValueError, match="--quant_group 8 contradicts .* --quant_group 16"):
        sample("--model_path", path, "--quant_group", 8, name="other")


@pytest.mark.parametrize(
    "rounding",
    ["--quant 3 --quant_range gptq", "--quant 8 --quant_activations 4 --quant_act_bins 2"],
)
def test_samples_of_a_network_calibrated_on_other_images_are_not_replaced(
    sample, trained, tmp_path, rounding
):
    """Images are known by their pixels: a copy of them elsewhere is the same."""
    images = np.load(trained / "squares.npz")["arr_0"]
    for name, arrays in {"copy": images, "dark": 255 - images}.items():
        np.savez(tmp_path / f"{name}.npz", arr_0=arrays)
    given = [*rounding.split(), "--quant_calibration", 16, "--num_images", 64]
    expected, _, _ = sample(*given, "--data_dir", trained / "squares.npz")
    with pytest.raises(ValueError, match="would be replaced, .* calibrated on other images"):
        sample(*given, "--data_dir", tmp_path / "dark.npz")
    again, _, _ = sample(*given, "--data_dir", tmp_path / "copy.npz")
    np.testing.assert_array_equal(again, expected)
    other, _, _ = sample(*given, "--data_dir", tmp_path / "dark.npz", name="other")
    assert (other != expected).any()


def test_fixed_ranges_by_bins_are_near_the_images_own(sample, trained):
    data = ["--data_dir", trained / "squares.npz", "--num_images", 64, "--quant", 8]
    rises, images = {}, {}
    for bits, bins in ((0, 0), (4, 0), (4, 1), (4, 8)):
        more = ["--quant_activations", bits, "--quant_act_bins", bins] if bits else []
        images[bits, bins], log, _ = sample(*data, *more, name=f"a{bits}b{bins}")
        rises[bits, bins] = float(log.split("rise ")[1].split()[0])
    assert rises[0, 0] < rises[4, 0] < rises[4, 8] < rises[4, 1]
    assert len({images[key].tobytes() for key in images}) == len(images)


def test_backends_agree(sample):
    symmetric = "--quant 8 --quant_symmetric True --quant_activations 7".split()
    expected, _, npz = sample(*symmetric, name="simulate")
    assert npz.name == "samples_6x8x8x3_w8a7.npz"
    packed, _, _ = sample(*symmetric, "--quant_backend", "packed", name="packed")
    np.testing.assert_array_equal(packed, expected)
    fp32, _, _ = sample(name="fp32")
    with torch.profiler.profile() as profiler:
        integers, log, _ = sample(*symmetric, "--quant_backend", "int8", name="int8")
    calls = {event.key: event.count for event in profiler.key_averages()}
    assert calls["onednn::qconv2d_pointwise"] >= 25 * 10 * 2  # layers x steps x batches
    assert np.abs(integers - expected).mean() < max(1, np.abs(expected - fp32).mean())
    (line,) = [line for line in log.splitlines() if line.startswith("int8 arithmetic in 25 layers")]
    off, quantized_off = (float(word[:-1]) for word in line.split() if word.endswith("%"))
    assert 0 <= off < quantized_off < 20  # off may print as 0.00; the profiler saw the integers
    alone, _, _ = sample(*symmetric, "--batch_size", 1, name="one_by_one")
    assert np.abs(alone - expected).mean() < 1


def test_the_record_of_each_layer(sample, trained):
    _, log, npz = sample("--quant", 3, "--quant_skip", "out.*,time_embed.*")
    with open(npz.parent / "quantization_w3.csv") as file:
        rows = {row["layer"]: row for row in csv.DictReader(file)}
    weights = torch.load(trained / "model000060.pt", weights_only=True)
    expected, squares = {}, 0.0
    for name, w in weights.items():
        layer = name.removesuffix(".weight")
        if name == layer or w.ndim == 1 or layer.startswith(("out.", "time_embed.")):
            continue
        low, high = min(w.min().item(), 0), max(w.max().item(), 0)
        step = (high - low) / 7
        w_q = torch.fake_quantize_per_tensor_affine(w, step, round(-low / step), 0, 7)
        expected[layer] = ((w_q - w).norm() / w.norm()).item()
        squares += (w_q - w).square().sum().item()
    assert rows.keys() == expected.keys()
    for layer, error in expected.items():
        assert float(rows[layer]["relative_error"]) == pytest.approx(error, rel=1e-3)
    distance = float(log.split("distance ||w_q - w||: ")[1].split(",")[0])
    assert distance == pytest.approx(squares**0.5, rel=1e-3)
    worst = sorted(expected, key=expected.get)[-5:]
    assert all(f"%  {layer}\n" in log for layer in worst)


def test_parts_of_another_setting_are_not_taken(trained):
    given = ["--model_path", str(trained / "model000060.pt")]
    variants = [[], "--quant 8", "--quant 4", "--quant 8 --quant_activations 8"]
    variants += ["--quant 8 --quant_granularity channel", "--quant 8 --quant_backend packed"]
    keys = [generate.key(parsed([*given, *(v.split() if v else v)])) for v in variants]
    assert len(set(keys)) == len(keys)
    saved = parsed([*given, "--quant", "8", "--save_quantized", "x.safetensors"])
    assert generate.key(saved) == keys[1]


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--quant 16", "--quant 16: expected 2 to 8 bits, or 0"),
        ("--quant 8 --quant_activations 1", "--quant_activations 1: expected 2 to 8"),
        ("--quant_activations 8", "give --quant 8 too"),
        ("--save_quantized x.safetensors", "give --quant 8 too"),
        ("--quant 8 --save_quantized x.pt", "x.pt: give a name in .safetensors"),
        ("--quant 8 --quant_backend int8", "--quant_symmetric True and --quant_activations 8"),
        (f"{INT8} --quant_granularity group", "int8 has one grid a tensor or output channel"),
        (f"{INT8} --quant_act_bins 2", "leave --quant_granularity group and --quant_act_bins to"),
        ("--quant 8 --quant_act_bins 2", "give --quant_activations 8 too"),
        ("--quant_act_bins 2", "give --quant 8 too"),
        ("--quant 8 --quant_range gptq", "calibrate on images: give --data_dir"),
        ("--quant 8 --quant_activations 8 --quant_act_bins 2", "on images: give --data_dir"),
        ("--quant 8 --quant_act_bins 2 --quant_activations 8 --compile True", "--compile out"),
        ("--quant 8 --explain True", "--explain measures losses on images: give --data_dir"),
        ("--quant 8 --explain True --data_dir x --dtype bf16", "leave --compile and --dtype out"),
        ("--explain True", "give --quant 8 too"),
        ("--quant 8 --quant_skip conv*", "no convolution or linear layer is named 'conv"),
    ],
)
def test_flags_that_make_no_sense(sample, flags, words):
    with pytest.raises(ValueError) as told:
        sample(*flags.split())
    assert words in str(told.value)


def test_what_is_missing_is_found_before_the_checkpoint_is_read(tmp_path):
    def check(*flags):
        quantized.check(parsed(["--model_path", f"{tmp_path}/model000001.pt", *flags]))

    check("--quant", "16")  # no such file: as whoever loads it says
    (tmp_path / "model000001.pt").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.png").write_bytes(b"no image")
    for flags, words in (
        ("--quant 16", "expected 2 to 8 bits"),
        ("--quant 8 --quant_range gptq", "calibrate on images"),
        ("--quant 8 --data_dir nowhere", "nowhere"),
        (f"--quant 8 --data_dir {tmp_path}/images", "0.png"),
    ):
        with pytest.raises(ValueError, match=words):
            check(*flags.split())
    check("--data_dir", "nowhere")  # which nothing reads


def test_how_far_from_zeros_is_no_share():
    zeros, ones = torch.zeros(4), torch.ones(4)
    assert quantized._off(zeros, zeros) == "0 (of zeros)"
    assert quantized._off(1.5 * ones, ones) == "50.00%"


def test_a_measure_stands_on_the_quantized_network(folder, tmp_path):
    """Its loss is that of torch's own rounding; moves begin there, and are kept for themselves."""
    path = f"{folder}/runs/a/model000007.pt"
    argv = studies.arguments(folder, tmp_path, "--flatness", "MC", "--model_path", path)
    fp32, w3 = studies.study(argv), studies.study([*argv, "--quant", "3"])
    assert "quant" not in fp32["settings"] and w3["settings"]["quant"]["quant"] == 3
    assert w3["models"][0]["curve"][0]["distances"] == pytest.approx([1] * 4, rel=1e-5)
    rounded = studies.subject(path, studies.parse(argv))
    with torch.no_grad():
        for layer in rounded.model.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Conv1d | torch.nn.Linear):
                w = layer.weight
                low, high = min(w.min().item(), 0), max(w.max().item(), 0)
                step = (high - low) / 7
                w.copy_(torch.fake_quantize_per_tensor_affine(w, step, round(-low / step), 0, 7))
    expected = rounded.means(rounded.measure())[:, 0].tolist()
    found = [loss["losses"][0] for loss in w3["models"][0]["at_w"].values()]
    assert found == pytest.approx(expected, rel=1e-5)
    own = fp32["models"][0]["at_w"]["mse"]["losses"][0]
    assert found[0] != pytest.approx(own, rel=1e-4)
    assert studies.study(argv) == fp32
    with pytest.raises(ValueError, match="--quant_activations is for quantized weights only"):
        studies.measure([*argv, "--quant_activations", "8", "--log_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_network_comes_back(trained):
    """After sampling from rounded weights and inputs, also where that went wrong."""
    flags = parsed(["--model_path", str(trained / "model000060.pt"), "--quant", "2"])
    flags.quant = dataclasses.replace(flags.quant, quant_activations=4)
    model, _ = networks.from_checkpoint(flags.sample.model_path, flags)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), quantized.quantized(model, flags, str(trained)):
        assert not torch.equal(model.out[2].weight, before["out.2.weight"])
        raise KeyboardInterrupt
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in model.modules())
