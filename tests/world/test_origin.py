"""What a record says of the program and machine that made it, against what the system says."""

import json
import os
import platform
import subprocess
import sys

from launch import ROOT

from flatdiff.world import origin


def git(*words, at=ROOT):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *who, *words], cwd=at, capture_output=True, text=True, check=True)


def test_it_names_command_machine_and_moment(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--data_dir", "a b"])
    told = origin.origin()
    assert told["command"] == "train.py --data_dir 'a b'"
    assert told["host"] == platform.node() and told["pid"] == os.getpid() and told["ranks"] == 1
    assert json.loads(json.dumps(told)) == told


def test_the_commit_is_gits_and_says_what_was_changed_since(tmp_path, monkeypatch):
    package = tmp_path / "flatdiff" / "world"
    package.mkdir(parents=True)
    (package / "origin.py").write_text("a")
    monkeypatch.setattr(origin, "__file__", str(package / "origin.py"))
    assert origin.commit() is None  # no repository
    for words in (["init"], ["add", "."], ["commit", "-m", "a"]):
        git(*words, at=tmp_path)
    hashed = git("rev-parse", "HEAD", at=tmp_path).stdout.strip()
    assert origin.commit() == hashed
    (package / "origin.py").write_text("b")
    assert origin.commit() == hashed + "+"


def test_the_repository_of_another_project_is_not_ours(tmp_path, monkeypatch):
    package = tmp_path / "venv" / "flatdiff" / "world"
    package.mkdir(parents=True)
    (package / "origin.py").write_text("a")
    for words in (["init"], ["add", "."], ["commit", "-m", "a"]):
        git(*words, at=tmp_path)
    monkeypatch.setattr(origin, "__file__", str(package / "origin.py"))
    assert origin.commit() is None
