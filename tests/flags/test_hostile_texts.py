"""Texts that Python would read, or that no file and no network can be named or built by."""

import pytest

from flatdiff.flags import config, parse

GROUPS = {"run": config.RunFlags, "model": config.ModelFlags, "train": config.TrainFlags}


@pytest.mark.parametrize(
    "word, told",
    [
        *(
            (f"--seed={text}", "expected a whole number")
            for text in ("1_0", "\uff11", "\u0663", "")
        ),
        *((f"--lr={text}", "expected a number") for text in ("1_0.5", "\uff11", "x", "1e")),
        *((f"--lr={text}", "expected a finite number") for text in ("inf", "1e400")),
        *((f"--{name}=--", "got '--', expected a value") for name in ("lr", "seed", "log_dir")),
        ("--log_dir=a\0b", "none of code 0"),
        ("--log_dir=" + "x/" * 3000, "at most 4095 letters"),
        ("--log_dir=" + "x/" * 201, "at most 200 folders in each other"),
        ("--num_res_blocks=1000000000", "expected 1000 or less"),
    ],
)
def test_a_text_that_is_no_value_is_told(word, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        config.parse("", [word], **GROUPS)
    assert stopped.value.code == 2 and told in capsys.readouterr().err


def test_what_people_type_is_taken():
    paths = ",".join(f"runs/{i}/model000100.pt" for i in range(1000))
    flags = config.parse("", ["--seed= 5 ", "--lr", "+1E-3", f"--log_dir={paths}"], **GROUPS)
    assert (flags.run.seed, flags.train.lr, flags.run.log_dir) == (5, 1e-3, paths)
    assert parse.numbers("sigma", "0.1, 2", "numbers") == [0.1, 2.0]
    with pytest.raises(ValueError, match="--sigma is '1_0'; expected numbers"):
        parse.numbers("sigma", "1_0", "numbers")
