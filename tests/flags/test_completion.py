"""What bash itself offers behind the command `flatdiff`."""

import subprocess
import sys

import pytest

from flatdiff import __main__

ASK = """
source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_flatdiff
echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("shtab")
    path = tmp_path_factory.mktemp("completion") / "flatdiff"
    with pytest.MonkeyPatch.context() as patch, open(path, "w") as file:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "stdout", file)
        __main__.run(["--print-completion", "bash"])
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("flatn", "flatness"),
        ("data di", "digits"),
        ("train --opti", "--optimizer"),
        ("train --optimizer adam-sam-", "adam-sam-loss adam-sam-down"),
        ("train --optimizer adam-sam --use_swa ", "True False"),
        ("sample --sampler d", "ddpm ddim dpmpp"),
        ("data digits --sp", "--split"),
        ("evaluate --feat", "--features"),
        ("train --data_dir pla", "place.npz"),
        ("train --batch_size ", ""),
        ("--print-completion z", "zsh"),
    ],
)
def test_bash_completes(line, offered, script, tmp_path):
    (tmp_path / "place.npz").touch()
    words = ["flatdiff", *line.split(" ")]
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", script, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == offered.split()


@pytest.mark.parametrize(
    ("shell", "hidden", "words"),
    [
        ("bash", True, r"pip install 'flatdiff\[completion\]'"),
        ("sh", False, "'sh'; expected .*zsh"),
    ],
)
def test_what_cannot_be_had_is_told(shell, hidden, words, monkeypatch):
    if hidden:
        monkeypatch.setitem(sys.modules, "shtab", None)
    else:
        pytest.importorskip("shtab")
    with pytest.raises(SystemExit, match=words):
        __main__.run(["--print-completion", shell])
