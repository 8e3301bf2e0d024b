"""Command lines: what was meant, what each group gets of it, and what a checkpoint fixes."""

import os
import shlex
import subprocess
import sys

import pytest

from flatdiff.flags import config
from flatdiff.flags.choices import GRADIENTS

GROUPS = {
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
    "train": config.TrainFlags,
    "run": config.RunFlags,
    "sample": config.SampleFlags,
}


def parse(line, **groups):
    return config.parse("", shlex.split(line), **(groups or GROUPS))


def test_a_shared_name_is_one_flag_and_each_group_keeps_its_default():
    flags = parse("")
    assert (flags.train.batch_size, flags.sample.batch_size) == (1, 16)
    flags = parse("--batch_size 128 --batch_size 32")
    assert (flags.train.batch_size, flags.sample.batch_size) == (32, 32)
    assert flags.given == {"batch_size": 32}


def test_home_is_meant_where_shells_leave_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    groups = {"run": config.RunFlags, "sample": config.SampleFlags}
    flags = parse("--log_dir=~/runs --model_path '~/a.pt,b~/c.pt, ~/x,~/runs/*/m.pt'", **groups)
    assert flags.run.log_dir == "/home/me/runs"
    assert flags.sample.model_path == "/home/me/a.pt,b~/c.pt, /home/me/x,/home/me/runs/*/m.pt"


@pytest.mark.parametrize("preset", ["--preset imagenet64", "--preset=imagenet64"])
def test_what_was_typed_is_told_from_what_a_preset_brings(preset):
    flags = parse(f"--lr 0.1 {preset} --learn_sigma True --num_heads 2 --seed 0")
    assert flags.typed == {"lr", "learn_sigma", "num_heads", "seed"}
    assert flags.given["num_channels"] == 192 and "num_channels" not in flags.typed
    assert parse("--lr 0.1").typed == {"lr"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--use-checkpoint True", "did you mean --use_checkpoint?"),
        ("--input perturbation 0.1", "did you mean --input_pertub?"),
        ("--use_s True", "unknown flag --use_s"),
        ("--lr fast", "got 'fast', expected a number"),
        ("--end_step 1e5", "got '1e5', expected a whole number"),
        ("--learn_sigma on", "got 'on', expected True or False"),
        ("--use_swa", "a boolean flag needs its value"),
        ("--optimizer adam_sam", f"expected one of {', '.join(GRADIENTS)}; did you"),
        ("--batch_size 0", "expected 1 or more"),
        ("--rho nan", "expected 0 or more"),
        ("--rho inf", "got 'inf', expected a finite number"),
        ("--eps_scaler nan", "expected a finite number"),
        ("--eps_scaler 1e39", "expected a finite number"),
        ("--end_step 9223372036854775808", "expected at most 9223372036854775807"),
        ("32", "'32' belongs to no flag"),
    ],
)
def test_a_wrong_flag_says_what_was_meant(line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(line)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_fixes_what_the_network_is():
    trained = {"num_channels": 32, "dropout": 0.3, "unknown_later_flag": 1}
    flags = config.as_trained(config.ModelFlags, trained, {"use_fp16": True}, "c.json")
    assert (flags.num_channels, flags.dropout, flags.use_fp16) == (32, 0.0, True)
    with pytest.raises(ValueError, match="--num_channels 64 contradicts .* --num_channels 32"):
        config.as_trained(config.ModelFlags, trained, {"num_channels": 64}, "c.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("adm8", "c.json has 'adm8' where the flags of ModelFlags belong"),
        ({"num_channels": "8"}, "num_channels is '8' in c.json, expected a whole number"),
        ({"num_channels": 8.0}, "num_channels is 8.0 in c.json, expected a whole number"),
        ({"num_channels": True}, "num_channels is True in c.json, expected a whole number"),
        ({"num_channels": 0}, "num_channels is 0 in c.json, expected 1 or more"),
        ({"class_cond": 1}, "class_cond is 1 in c.json, expected True or False"),
        ({"channel_mult": [1, 2]}, r"channel_mult is \[1, 2\] in c.json, expected a text"),
        ({"channel_mult": None}, "channel_mult is None in c.json, expected a text"),
    ],
)
def test_what_no_flag_could_have_said_is_refused_in_a_file(values, message):
    with pytest.raises(ValueError, match=message):
        config.as_trained(config.ModelFlags, values, {}, "c.json")


@pytest.mark.parametrize("deterministic", [False, True])
def test_cublas_is_told_before_its_first_product(monkeypatch, deterministic):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is undone
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr("sys.argv", ["script", "--deterministic", str(deterministic)])
    seen = []
    body = lambda flags: seen.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))  # noqa: E731
    config.run("", body, run=config.RunFlags)
    assert seen == [":4096:8" if deterministic else None]


@pytest.mark.slow
def test_what_is_printed_into_a_file_stands_before_what_is_told_after_it():
    code = "import os; from flatdiff.flags import config; config.parse('', []); print('first')"
    code += "; os.write(2, b'second\\n'); os._exit(0)"
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    how["env"] = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", code], **how)
    assert done.stdout == b"first\nsecond\n"
