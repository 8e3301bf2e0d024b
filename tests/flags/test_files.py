"""--config: flags of a file are those of a command line, which wins over them."""

import json
import re
import shlex

import pytest
import yaml

from flatdiff.flags import config

GROUPS = {
    "sample": config.SampleFlags,
    "run": config.RunFlags,
    "model": config.ModelFlags,
    "train": config.TrainFlags,
    "diffusion": config.DiffusionFlags,
}
WANTED = {
    "lr": 1e-3, "learn_sigma": True, "channel_mult": "1,2", "num_heads_upsample": -1, "seed": 7,
    "ema_rate": "0.99,0.999", "optimizer": "adam-sam", "timestep_respacing": "",
}  # fmt: skip
TEXTS = {
    "a.json": json.dumps(WANTED),
    "b.json": json.dumps(WANTED | {"ema_rate": [0.99, 0.999]}),
    "a.yaml": yaml.safe_dump(WANTED),
    "b.yml": "lr: 1e-3\nlearn_sigma: yes\nchannel_mult: 1,2\nnum_heads_upsample: -1\nseed: 7\n"
    "ema_rate:\n- 0.99\n- 0.999\noptimizer: adam-sam\ntimestep_respacing: ''\n",
    "c.json": json.dumps({"train": {k: WANTED[k] for k in ("lr", "ema_rate", "optimizer")}})[:-1]
    + ', "model": {"channel_mult": "1,2", "num_heads_upsample": -1}, "run": {"seed": 7}, '
    '"diffusion": {"learn_sigma": true, "timestep_respacing": ""}}',
}


def parse(line):
    return config.parse("", shlex.split(line), **GROUPS)


def written(folder, name, text):
    (folder / name).write_text(text if isinstance(text, str) else json.dumps(text))
    return folder / name


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_says_what_a_command_line_would(tmp_path, name):
    path = written(tmp_path, name, TEXTS[name])
    flags, line = parse(f"--config {path}"), " ".join(f"--{k} '{v}'" for k, v in WANTED.items())
    assert config.to_dict(flags) == config.to_dict(parse(line))
    assert flags.given == WANTED and not flags.typed and flags.files == [str(path)]


def test_what_is_typed_wins_wherever_it_stands(tmp_path):
    path = written(tmp_path, "a.json", WANTED | {"preset": "digits"})
    for line in (f"--lr 5 --config {path}", f"--config {path} --lr 5"):
        flags = parse(line)
        assert (flags.train.lr, flags.model.channel_mult, flags.typed) == (5, "1,2", {"lr"})
        assert "digits" in flags.presets and flags.train.optimizer == "adam-sam"
    assert parse(f"--config {path} --preset cifar10").train.lr == 1e-4, "the later of the two"


def test_a_run_is_taken_back_but_for_what_it_went_on_from(tmp_path):
    """All flags of a config.json, of whatever defaults, and none of a start."""
    line = "--lr 0.5 --optimizer adam-sam --batch_size 9 --resume auto --resume_checkpoint a.pt"
    kept = config.to_dict(parse(line)) | {"history": [{"from": 0}], "classes": ["a"]}
    kept |= {"evaluation": {"features": "lite0"}}  # of another script
    flags = parse(f"--config {written(tmp_path, 'config.json', kept)}")
    assert flags.train.lr == 0.5 and not flags.train.resume and not flags.train.resume_checkpoint
    assert flags.sample.batch_size == 9 and flags.train.optimizer == "adam-sam"
    flags = parse(f"--config {written(tmp_path, 'samples.json', {'flags': kept})}")
    assert flags.train.lr == 0.5


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", {"lrr": 1}, "'lrr' is no flag of this command; did you mean lr?"),
        ("a.json", {"train": {"optimiser": 1}}, "'optimiser' .*did you mean optimizer?"),
        ("a.json", {"trian": {"lr": 1}}, "'trian' is no flag .*did you mean train?"),
        ("a.json", {"lr": "fast"}, "argument --lr: got 'fast', expected a number .in .*a.json"),
        ("a.json", {"lr": None}, "lr is None; expected"),
        ("a.json", {"lr": [[1]]}, r"lr is \[\['1'\]\]; expected"),
        ("a.json", [1], "expected names of flags"),
        ("a.json", "{", "a.json is no json"),
        ("a.json", "[" * 10**5, "a.json is no json"),
        ("a.yaml", "a: [", "a.yaml is no yaml"),
        ("a.yaml", "!!python/object/apply:os.system [ls]", "expected names of flags"),
        ("a.json", {"config": "a.json"}, "'config' is no flag"),
        ("a.json", {"num_heads": 1.5}, "--num_heads: got '1.5', expected a whole number"),
    ],
)
def test_a_wrong_file_is_a_sentence(tmp_path, capsys, name, content, told):
    path = written(tmp_path, name, content)
    with pytest.raises(SystemExit) as stop:
        parse(f"--config {path}")
    assert stop.value.code == 2
    assert re.search(told, capsys.readouterr().err)


def test_no_file(capsys):
    with pytest.raises(SystemExit):
        parse("--config nowhere.json")
    assert "nowhere.json cannot be read: No such file" in capsys.readouterr().err
