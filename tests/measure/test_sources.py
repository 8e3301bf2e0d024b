"""What --model_path names: checkpoints and folders of diffusers, and losses of one's own."""

import linecache
import sys

import pytest
import torch
from flatness_studies import arguments, estimates, measure, parse, study

import flatdiff
from flatdiff.chain import probe
from flatdiff.data.image_datasets import ImageDataset
from flatdiff.measure import run
from flatdiff.store import model_paths

OWN = """
def squared(net, draw):
    return ((net(draw.x_start, draw.t)[:, :3] - draw.noise) ** 2).mean(dim=(1, 2, 3))

def terms(net, draw):
    return {"first": squared(net, draw), "second": 2 * squared(net, draw)}

def mean(net, draw):
    return squared(net, draw).mean()
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder of a small U-Net whose scheduler predicts v."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    folder = tmp_path_factory.mktemp("pipe")
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    net = UNet2DModel(8, 3, 3, block_out_channels=(8,), norm_num_groups=4, **kinds)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    DDPMPipeline(net, scheduler).save_pretrained(folder)
    return str(folder)


def test_a_folder_of_diffusers_is_measured_as_at_the_door(folder, pipeline, tmp_path):
    argv = arguments(folder, tmp_path, "--model_path", pipeline, "--batch_size", "0")
    measure(argv)
    record = estimates(tmp_path, "LPF")
    images, _ = probe.images_of(ImageDataset(f"{folder}/images.npz", 8), 16, 0)
    subject = flatdiff.subject.from_diffusers(pipeline, images)
    found = flatdiff.flatness(subject, "LPF", sigma=[0.005, 0.02], num_draws=4, progress=False)
    theirs = [row for row in record["rows"] if row["part"] == "all"]
    ours = {(row["size"], row["term"]): row for row in found.rows}
    assert len(theirs) == len(ours) == 6
    for row in theirs:
        own = ours[row["sigma"], row["term"]]
        names = ("at_w", "rise", "error", "error_images")
        assert [row[name] for name in names] == [
            own[k] for k in ("at_w", "rise", "error_draws", "error_examples")
        ]
    (model,) = record["models"]
    assert model["path"] == pipeline and model["image_size"] == 8


def test_a_folder_beside_a_checkpoint_is_compared_part_by_part_of_the_same_range(
    folder, pipeline, tmp_path
):
    """Its losses are by log-SNR, a checkpoint's by timesteps: other parts have no difference, and
    headers of their own; nor have those of x_mse that reach less far."""
    paths = f"{folder}/runs/a/*,{pipeline}"
    argv = arguments(folder, tmp_path, "--model_path", paths, "--batch_size", "0")
    record = study(argv)
    first, second = (
        [r for r in record["rows"] if r["model"] == m["name"]] for m in record["models"]
    )
    known = {(r["sigma"], r["term"], r["part"]): r for r in first}
    seen = set()
    for row in second:
        other = known.get((row["sigma"], row["term"], row["part"]))
        same = other and (row["term"] != "x_mse" or row["levels"] == other["levels"])
        seen.add((row["term"], row["part"], bool(same)))
        for name in ("minus_first", *(f"minus_first_error{e}" for e in ("", "_images", "_larger"))):
            assert (row[name] == row[name]) == bool(same), row
        if same:
            assert row["minus_first"] == pytest.approx(row["rise"] - other["rise"])
    assert {("mse", "all", True), ("mse", "log-SNR 4..8", False)} <= seen
    assert {same for term, _, same in seen if term == "x_mse"} == {True, False}
    lines = run.made("LPF", parse(argv).flatness).text(record).splitlines()
    for rows in (first, second):
        levels = [r["levels"] for r in rows if r["term"] == "mse" and r["part"] != "all"][:4]
        header = next(i for i, s in enumerate(lines) if all(told in s for told in levels))
        assert lines[header].startswith("rise of mse at")
        assert rows[0]["model"] in lines[header + 1] or rows[0]["model"] in lines[header + 2]


def test_results_of_a_folder_are_kept_until_its_weights_change(
    folder, pipeline, tmp_path, monkeypatch
):
    argv = arguments(folder, tmp_path, "--model_path", pipeline)
    first, real, calls = study(argv), flatdiff.Subject.at, []
    monkeypatch.setattr(flatdiff.Subject, "at", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert study(argv)["rows"] == first["rows"] and not calls
    config = f"{pipeline}/scheduler/scheduler_config.json"
    with open(config) as file:
        text = file.read()
    with open(config, "w") as file:
        file.write(text.replace('"v_prediction"', '"epsilon"'))
    try:
        assert study(argv)["rows"] != first["rows"] and len(calls) == 8
    finally:
        with open(config, "w") as file:
            file.write(text)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--t_range", "50"], "--t_range is for checkpoints"),
        (["--quant", "4"], "--quant is for checkpoints"),
    ],
)
def test_what_a_folder_has_no_use_for_is_refused(folder, pipeline, tmp_path, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        study(arguments(folder, tmp_path, "--model_path", pipeline, *more))


def test_a_network_that_needs_more_than_images_is_sent_to_python(folder, tmp_path):
    from diffusers import DDPMScheduler, UNet2DConditionModel

    kinds = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("UpBlock2D",)}
    net = UNet2DConditionModel(
        8,
        3,
        3,
        block_out_channels=(8,),
        norm_num_groups=4,
        cross_attention_dim=4,
        mid_block_type=None,
        attention_head_dim=4,
        **kinds,
    )
    net.save_pretrained(tmp_path / "net")
    DDPMScheduler().save_pretrained(tmp_path / "net/scheduler")
    with pytest.raises(ValueError, match="beside encoder_hidden_states.*flatdiff.subject"):
        study(arguments(folder, tmp_path, "--model_path", str(tmp_path / "net")))
    with pytest.raises(
        ValueError, match=r"needs more than images.*encoder_hidden_states \[N, L, 4\]"
    ):
        flatdiff.subject.from_diffusers(str(tmp_path / "net"), torch.zeros(8, 3, 8, 8))


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_losses.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_losses", None)


def test_a_loss_of_ones_own_is_what_is_measured(folder, own):
    argv = arguments(folder, own, "--model_path", f"{folder}/runs/a/*", "--sigma", "0.01")
    (model,) = study([*argv, "--loss", "own_losses:terms"])["models"]
    assert list(model["at_w"]) == ["first", "second"]
    once, twice = (model["at_w"][name]["losses"] for name in ("first", "second"))
    assert twice == pytest.approx([2 * v for v in once])
    (plain,) = study([*argv, "--loss", "own_losses:squared"])["models"]
    assert plain["at_w"]["loss"]["losses"] == once
    (usual,) = study(argv)["models"]
    assert usual["at_w"]["mse"]["losses"][0] != once[0]


def test_results_of_a_loss_are_kept_until_its_code_changes(folder, own):
    argv = arguments(folder, own, "--model_path", f"{folder}/runs/a/*", "--sigma", "0.01")
    argv += ["--loss", "own_losses:squared"]
    moved = [study(argv)["models"][0]["curve"][0]["losses"]["loss"][0][0]]
    (own / "own_losses.py").write_text(
        OWN.replace("- draw.noise) ** 2)", "- draw.noise) ** 2 * 10)")
    )
    sys.modules.pop("own_losses")
    linecache.clearcache()
    moved += [study(argv)["models"][0]["curve"][0]["losses"]["loss"][0][0]]
    assert moved[1] == pytest.approx(10 * moved[0])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("own_losses:mean", r"torch.float32 \(\) as loss; expected a vector"),
        ("own_losses:none", "has no attribute 'none'; expected module:function"),
        ("no_such:thing", "No module named 'no_such'; expected module:function"),
        ("own_losses", "expected module:function"),
    ],
)
def test_what_is_no_loss_is_refused(folder, own, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        study(arguments(folder, own, "--loss", text))


def test_folders_are_models_only_where_they_are_asked_for(pipeline, tmp_path):
    assert model_paths.find_models(pipeline, folders=True) == [pipeline]
    for text, folders in ((pipeline, False), (str(tmp_path), True)):
        with pytest.raises(ValueError, match="there is no file"):
            model_paths.find_models(text, folders=folders)
