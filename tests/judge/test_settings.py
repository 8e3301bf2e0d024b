"""The five settings of a distance, from what files say of themselves."""

import json
import zipfile

import numpy as np
import pytest

from flatdiff.judge import settings


def written(path, said):
    np.savez(path, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = said.encode()
    return str(path)


def test_samples_of_ours_say_how_they_were_drawn(tmp_path):
    groups = {"sample": {"sampler": "ddim"}, "run": {"seed": 3}, "rounding": {"quant": 8}}
    groups["diffusion"] = {"timestep_respacing": "20", "eps_scaler": 1.0}
    said = json.dumps({"flags": groups, "files": [["0123456789abcdef", {}]]})
    path = written(tmp_path / "a.npz", said)
    assert settings.weights(path) == "checkpoint 0123456789ab, 8 bits"
    assert settings.drawn(path) == "sampler ddim, timestep_respacing 20, seed 3, quant 8"


def test_of_other_files_nothing_is_known(tmp_path):
    for said in ("", "words", "[1]", '{"files": []}', '{"flags": {}}'):
        path = written(tmp_path / "a.npz", said)
        assert settings.weights(path) == settings.drawn(path) == settings.UNKNOWN
    assert settings.weights("nowhere") == settings.weights(str(tmp_path)) == settings.UNKNOWN


def test_a_block_tells_what_several_share_once():
    one = dict.fromkeys(settings.NAMES, "same")
    both = settings.common([one, one | {"weights": "other"}])
    lines = settings.lines(both, {"+-": "over samples"})
    assert lines[0] == "weights:   same; other" and lines[1] == "samples:   same"
    assert len(lines) == 6


def test_what_samples_differ_in_is_said(tmp_path):
    def drawn(name, **flags):
        key = {"flags": {"any": {"sampler": "ddim", "seed": 1} | flags}, "files": []}
        with open(tmp_path / name, "wb") as file:
            np.savez(file, arr_0=np.zeros(1), record=np.array(json.dumps({"key": key})))
        return str(tmp_path / name)

    paths = [drawn("a.npz"), drawn("b.npz", quant=4), drawn("c.npz", sampler="ddpm", quant=4)]
    paths.append(written(tmp_path / "d.npz", ""))  # which does not say
    assert settings.differing(paths) == "these samples differ in sampler (ddim, ddpm), quant (0, 4)"
    assert settings.differing(paths[:1] * 2) == settings.differing([]) == ""


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '"a"', "[" * 10**5])
def test_a_record_of_nothing_says_nothing(tmp_path, text):
    np.savez(tmp_path / "a.npz", arr_0=np.zeros(1), record=np.array(text))
    assert settings.comment(str(tmp_path / "a.npz")) == {}
    np.savez(tmp_path / "a.npz", record=np.array([{}], dtype=object))
    assert settings.record(str(tmp_path / "a.npz")) == {}
