"""What a study finds before it trains: by the scripts' own checks, with no checkpoint there."""

import os
import sys

import pytest
from launch import TINY
from studies import flags_of

from flatdiff import __main__ as flatdiff
from flatdiff.flags import config
from flatdiff.study import early, matrix

FEW = "--average none,ema --gradient adam,adam-sam --sampling_steps 3 --moves gaussian".split()


def models_of(data, store, *more):
    return matrix.models_of(flags_of(data, *TINY, *FEW, *more), str(store))


def test_each_kind_of_cell_is_told_to_its_own_script_once(data, tmp_path):
    told = []

    def run(words):
        told.append(words)
        flatdiff.run(words)

    before = sys.argv
    of_some = "--sam_every", 2, "--lr_anneal_steps", 0, "--swa_lr_min", 1e-5  # Adam has no use for
    early.check(models_of(data, tmp_path / "cells", *of_some), run)
    verbs = [words[0] for words in told]
    assert verbs.count("train") == 3  # adam, SAM and Adam of equal cost, of one seed
    measures = {w[w.index("--flatness") + 1] for w in told if "--flatness" in w}
    assert measures == {"LPF", "MC", "HESSIAN", "SHARPNESS", "EXPLAIN"}
    assert {"sample", "exposure", "perturbed-samples"} < set(verbs)
    assert not any(str(tmp_path) in word for words in told for word in words if "cells" in word)
    assert sys.argv is before and os.listdir(tmp_path) == []


def test_what_is_done_is_not_looked_at(data, tmp_path):
    models = models_of(data, tmp_path)
    for model in models:
        for cell in (model.training.cell, *model.cells.values()):
            os.makedirs(cell.folder, exist_ok=True)
            with open(os.path.join(cell.folder, matrix.RESULT), "w") as file:
                file.write("{}")
    early.check(models, pytest.fail)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--sampling_steps 3,100", "asks for 100 steps .* 50 timesteps.*flatdiff sample"),
        ("--features inception", "(?s)--inception_weights FILE.*flatdiff evaluate"),
        ("--sigma a", "--sigma is 'a'; expected positive numbers.*flatdiff flatness"),
        ("--radius 0", "--radius is '0'"),
        ("--num_draws 5", "num_draws is 5; expected an even number"),
        ("--bits 100", "--quant 100: expected 2 to 8 bits"),
        ("--moves towards", "towards: give --average_path"),
        ("--num_channels 33", "33"),
        ("--sam_share 0", "sam_share is 0.0"),
        ("--lr_anneal_steps 20", "lr falls to 0 at lr_anneal_steps 20"),
        ("--ema_rate 1.5", "1.5"),
        ("--schedule_sampler uniform --base_optimizer muon|momentum=2", "momentum 2"),
        (
            "--gradient adam,adam-sam-loss|rise=-1",
            "rise -1.0: the rise of the loss.*flatdiff train",
        ),
        ("--gradient adam,adam-fsam|decay=2", "decay 2.0"),
    ],
)
def test_what_would_fail_later_is_one_sentence_now(data, tmp_path, flags, message):
    words = [word.replace("|", " ") for word in flags.split()]
    with pytest.raises(ValueError, match=message):
        early.check(models_of(data, tmp_path, *words), flatdiff.run)


def test_a_command_line_that_cannot_be_read_is_a_sentence_too(data, tmp_path):
    (cell, *_) = models_of(data, tmp_path)[0].cells.values()
    bad = type(cell)(
        "samples", dict(cell.flags) | {"num_samples": -1}, {}, str(tmp_path), cell.words
    )
    told = "num_samples: got '-1', expected 1 or more"
    with config.checking(), pytest.raises(ValueError, match=told):
        early._check(bad, str(tmp_path), flatdiff.run)
