"""Files of a run: guided-diffusion's names, writes that a kill cannot harm, errors that help."""

import os
import pickle
from types import SimpleNamespace

import blobfile as bf
import pytest
import safetensors.torch
import torch
from torch import nn

from flatdiff.store import checkpoint, disk, history


def test_names_are_guided_diffusions():
    assert checkpoint.model_name(100) == "model000100.pt"
    assert checkpoint.opt_name(1234567) == "opt1234567.pt"
    assert checkpoint.ema_name(0.9999, 100) == "ema_0.9999_000100.pt"
    assert checkpoint.ema_name(0.00001, 7) == "ema_1e-05_000007.pt"


@pytest.mark.parametrize(
    ("filename", "step"),
    [
        ("model000100.pt", 100),
        ("mymodel000007.pt", 7),
        ("ema_0.9999_000010.pt", 0),
        ("64x64_diffusion.pt", 0),
        ("model-5.pt", 0),
        ("model2024_05_01.pt", 0),
        ("model１２.pt", 0),
        ("model000020 (1).pt", 0),
        ("runs/model1.0/64x64_diffusion.pt", 0),
        ("runs/model1.0/model000020.pt", 20),
        ("gs://bucket/model_v2/model1234567.pt", 1234567),
        ("models/last.pt", 0),
        ("model2024_05_01.pt", 0),
    ],
)
def test_the_step_in_a_file_name(filename, step):
    assert checkpoint.parse_resume_step_from_filename(filename) == step


def test_the_rate_and_step_in_the_name_of_an_ema():
    for rate in (0.9999, 0.99, 0.0, 1e-5):
        assert checkpoint.parse_ema(f"runs/a/{checkpoint.ema_name(rate, 123)}") == (rate, 123)
    for name in ("model000123.pt", "ema_best_000123.pt", "ema_1.5_000100.pt", "ema_0.9_1.txt"):
        assert checkpoint.parse_ema(name) is None


def test_what_is_saved_is_loaded(tmp_path):
    path = str(tmp_path / "x.pt")
    tensors = {
        "parameter": nn.Parameter(torch.randn(2, 3)),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 4).T,
        "half": torch.randn(3).half(),
        "scalar": torch.tensor(7),
    }
    rest = {"step": 3, "rates": [0.9, 0.99], "pair": (1, None), "name": "x", 5: {"deep": True}}
    checkpoint.save(tensors | rest, path)
    loaded = checkpoint.load(path)
    for key, value in tensors.items():
        assert torch.equal(loaded[key], value)
        assert loaded[key].is_contiguous()
        assert type(loaded[key]) is torch.Tensor
    assert {key: loaded[key] for key in rest} == rest
    assert os.listdir(tmp_path) == ["x.pt"]


def test_views_are_saved_without_their_storage(tmp_path):
    path = str(tmp_path / "x.pt")
    checkpoint.save({"view": torch.zeros(1_000_000)[10:20]}, path)
    assert os.path.getsize(path) < 10_000


def test_what_load_would_refuse_is_not_saved(tmp_path):
    path = str(tmp_path / "x.pt")
    checkpoint.save({"a": 1}, path)
    with pytest.raises(TypeError, match="SimpleNamespace"):
        checkpoint.save({"a": [SimpleNamespace()]}, path)
    assert checkpoint.load(path) == {"a": 1}


def test_json(tmp_path):
    path = str(tmp_path / checkpoint.CONFIG)
    checkpoint.save_json({"lr": 1e-4, "flags": ["a"]}, path)
    assert checkpoint.load_json(path) == {"lr": 1e-4, "flags": ["a"]}
    with open(path, "w") as file:
        file.write('{"lr": ')
    with pytest.raises(ValueError, match=r"config\.json is not whole"):
        checkpoint.load_json(path)


@pytest.mark.parametrize(
    "content", [[1, 2], None, {"model": "adm8", "diffusion": "cosine"}, {"_class_name": "UNet"}]
)
def test_a_config_of_another_program_is_none(content, tmp_path):
    checkpoint.save_json(content, str(tmp_path / checkpoint.CONFIG))
    path = str(tmp_path / "model000001.pt")
    assert checkpoint.config_of(path) == ({}, str(tmp_path / checkpoint.CONFIG))


def test_deep_json_and_an_odd_header_are_told(tmp_path):
    path = str(tmp_path / checkpoint.CONFIG)
    with open(path, "w") as file:
        file.write("[" * 99999)
    with pytest.raises(ValueError, match="config.json is not whole"):
        checkpoint.load_json(path)
    path = str(tmp_path / "a.safetensors")
    checkpoint.save_tensors({"w": torch.zeros(1)}, path, {"model": 3})
    with pytest.raises(ValueError, match="a.safetensors is damaged, or of another kind"):
        checkpoint.about(path)


# What is wrong with a file


def write_step(folder, step, rates=(0.9999,), state=True):
    names = [checkpoint.ema_name(rate, step) for rate in rates]
    names += [f(step) for f in (checkpoint.model_name, checkpoint.opt_name)]
    names.append(checkpoint.average_name("swa", step))
    for name in names + [checkpoint.state_name(step)] * state:
        checkpoint.save({"step": step}, f"{folder}/{name}")


def test_a_missing_file_says_what_is_there(tmp_path):
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        checkpoint.load(str(tmp_path / "nowhere" / "model000100.pt"))
    checkpoint.save({}, str(tmp_path / "64x64_diffusion.pt"))
    with pytest.raises(ValueError, match=r"no complete step.*: 64x64_diffusion\.pt"):
        checkpoint.load(str(tmp_path / "model000100.pt"))
    write_step(tmp_path, 200)
    for path in (tmp_path / "model000100.pt", tmp_path):
        with pytest.raises(ValueError, match=r"no file .*complete steps in .*: 200"):
            checkpoint.load(str(path))


def spoiled(data, how):
    middle = len(data) // 2
    return {
        "empty": b"",
        "half": data[:middle],
        "cut": data[:-2],
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "text": b"<html>404 not found</html>",
        "zeros": bytes(len(data)),
    }[how]


@pytest.mark.parametrize("how", ["empty", "half", "cut", "flipped", "text", "zeros"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_file_says_so_and_which_steps_are_whole(how, legacy, tmp_path):
    if legacy and how == "flipped":
        return  # the old format has no check sums
    write_step(tmp_path, 100)
    path = tmp_path / "model000200.pt"
    torch.save({"w": torch.randn(1000)}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(spoiled(path.read_bytes(), how))
    with pytest.raises(ValueError, match=r"model000200\.pt is damaged.*complete steps in .*: 100"):
        checkpoint.load(str(path))


class Evil:
    def __reduce__(self):
        return os.system, ("echo this must not run > ran",)


@pytest.mark.parametrize("write", ["zip", "pickle"])
def test_code_in_a_file_is_not_run(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if write == "zip":
        torch.save({"w": Evil()}, "model000100.pt")
    else:
        (tmp_path / "model000100.pt").write_bytes(pickle.dumps({"w": Evil()}, protocol=2))
    with pytest.raises(ValueError, match=r"Python objects \(\w+\.system\).*run any code"):
        checkpoint.load("model000100.pt")
    assert not os.path.exists("ran")


def test_older_formats_and_safetensors_load(tmp_path):
    weights = {"w": torch.randn(3, 2), "b": torch.randn(2)}
    old, safe = str(tmp_path / "old.pt"), str(tmp_path / "model.safetensors")
    torch.save(weights, old, _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(weights, safe)
    for path in (old, safe):
        loaded = checkpoint.load(path)
        assert all(torch.equal(loaded[key], weights[key]) for key in weights)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 30)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(safe)


# Steps of a run


def test_a_step_counts_when_its_state_is_there(tmp_path):
    folder = str(tmp_path)
    assert checkpoint.find_resume_checkpoint(folder) is None
    assert checkpoint.find_resume_checkpoint(str(tmp_path / "nowhere")) is None
    write_step(folder, 100)
    write_step(folder, 999_999)
    write_step(folder, 1_000_000)
    write_step(folder, 1_000_100, state=False)
    assert checkpoint.complete_steps(folder) == [100, 999_999, 1_000_000]
    assert checkpoint.find_resume_checkpoint(folder) == f"{folder}/model1000000.pt"


@pytest.mark.parametrize("name", ["0.05", "ema_0.9", "uniform", "lawa_5", "soup"])
def test_an_average_of_a_run_has_the_flags_of_its_step_and_outlives_it(tmp_path, name):
    for step in (100, 200):
        write_step(str(tmp_path), step)
    path = f"{tmp_path}/posthoc_{name}_000100.pt"
    checkpoint.save({}, path)
    flags = [{"train": {"lr": lr}, "diffusion": {}} for lr in (0.1, 0.2)]
    known = history.gone_on(history.gone_on({}, 0, flags[0], {}), 100, flags[1], {})
    checkpoint.save_json(known, f"{tmp_path}/config.json")
    assert checkpoint.config_of(path)[0] == flags[0]
    checkpoint.prune(str(tmp_path), 1)
    assert os.path.exists(path) and checkpoint.complete_steps(str(tmp_path)) == [200]


def test_prune_keeps_the_newest_the_resumed_and_strangers(tmp_path):
    folder = str(tmp_path)
    for step in (100, 200, 300, 400):
        write_step(folder, step, rates=(0.9999, 0.99))
    write_step(folder, 150, state=False)
    (tmp_path / "ema_0.9999_000100.txt").touch()
    checkpoint.save_json({}, f"{folder}/config.json")
    for keep_all in (0, -1):
        checkpoint.prune(folder, keep_all)
    assert checkpoint.complete_steps(folder) == [100, 200, 300, 400]
    checkpoint.prune(folder, 1, keep=["", os.path.relpath(f"{folder}/model000200.pt")])
    left = os.listdir(folder)
    assert checkpoint.complete_steps(folder) == [200, 400]
    assert [name for name in left if "100.pt" in name or "300" in name] == []
    assert {"config.json", "ema_0.9999_000100.txt", "model000150.pt"} <= set(left)
    assert len(left) == 2 * 6 + 4 + 2


@pytest.mark.parametrize("deletions", range(7))
def test_an_interrupted_prune_leaves_no_half_step(deletions, tmp_path, monkeypatch):
    folder = str(tmp_path)
    write_step(folder, 100, rates=(0.9999, 0.99))
    write_step(folder, 200)
    done = []

    def remove(path):
        if len(done) == deletions:
            raise KeyboardInterrupt
        done.append(path)
        os.remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.bf, "remove", remove)
        try:
            checkpoint.prune(folder, 1)
        except KeyboardInterrupt:
            assert deletions < 6
    assert checkpoint.complete_steps(folder) == [100, 200][bool(deletions) :]
    checkpoint.prune(folder, 1)
    assert not [name for name in os.listdir(folder) if "000100" in name]


def test_identity_is_of_what_is_in_the_file_and_beside_it(tmp_path):
    path, again = str(tmp_path / "x.pt"), str(tmp_path / "sub" / "y.pt")
    os.makedirs(tmp_path / "sub")
    checkpoint.save({"a": 1}, path)
    checkpoint.save({"a": 1}, again)
    os.utime(path, (1, 1))
    first = checkpoint.identity(path)
    assert first == checkpoint.identity(again)
    checkpoint.save({"a": 2}, again)
    assert first != checkpoint.identity(again)
    config = {"model": {"num_heads": 4}, "diffusion": {}, "train": {"lr": 1.0}}
    checkpoint.save_json(config, str(tmp_path / "config.json"))
    configured = checkpoint.identity(path)
    assert configured != first
    checkpoint.save_json(config | {"train": {"lr": 2.0}}, str(tmp_path / "config.json"))
    assert checkpoint.identity(path) == configured
    checkpoint.save_json(config | {"model": {"num_heads": 1}}, str(tmp_path / "config.json"))
    assert checkpoint.identity(path) != configured


@pytest.mark.parametrize("text", ["[1, 2]", '{"_class_name": "UNet"}', '{"diffusion": "cosine"}'])
def test_another_programs_config_is_none_of_ours(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert checkpoint.config_of(str(tmp_path / "model000001.pt"))[0] == {}


def test_remote_folders(tmp_path, monkeypatch):
    """The same calls on gs:// paths, of which blobfile's part is played by a local folder."""

    def here(path):
        return path.replace("gs://bucket", str(tmp_path))

    fake = SimpleNamespace(join=bf.join, dirname=bf.dirname)
    for name in ("BlobFile", "exists", "isdir", "listdir", "remove", "stat"):
        setattr(fake, name, lambda path, *rest, name=name: getattr(bf, name)(here(path), *rest))
    monkeypatch.setattr(checkpoint, "bf", fake)
    monkeypatch.setattr(disk, "bf", fake)
    folder = "gs://bucket/run"
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        write_step(folder, step)
    checkpoint.save_json({"a": 1}, f"{folder}/config.json")
    checkpoint.prune(folder, 1)
    newest = checkpoint.find_resume_checkpoint(folder)
    assert newest == f"{folder}/model000002.pt"
    assert checkpoint.absolute(newest) == newest
    assert checkpoint.load(newest) == {"step": 2}
    assert checkpoint.load_json(f"{folder}/config.json") == {"a": 1}
    with pytest.raises(ValueError, match="complete steps in gs://bucket/run: 2"):
        checkpoint.load(f"{folder}/model000003.pt")


def test_a_name_whose_file_is_gone_already_is_no_error(tmp_path):
    """As another rank's, that was being written when the folder was read."""
    for name in ("model000003.pt", "state000003.pt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "flatness.csv.flatdiff-part").symlink_to(tmp_path / "gone")
    assert checkpoint.complete_steps(str(tmp_path)) == [3]
    assert checkpoint.complete_steps(str(tmp_path / "no folder")) == []
