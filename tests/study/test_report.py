"""What a report says of itself."""

import json
from types import SimpleNamespace

from studies import model_of

from flatdiff.study import report


def test_a_study_without_a_trained_model_says_so(tmp_path, capsys):
    flags = SimpleNamespace(run=SimpleNamespace(log_dir=str(tmp_path)))
    assert report.write([model_of(trained={})], flags) == []
    assert "none of the 1 models of this study is trained" in capsys.readouterr().out


def test_the_command_is_what_makes_the_report():
    given = ["--gradient", "adam,adam-sam sam_every=5", "--dry_run", "True", "--seeds", "2"]
    told = "python scripts/study.py --gradient 'adam,adam-sam sam_every=5' --seeds 2"
    assert report.command(given) == report.command(given[:2] + given[4:]) == told


def test_the_report_says_what_the_trainings_were_made_by(tmp_path):
    """Not where it is written: as they recorded it, of each once."""
    hashed, models = "0123456789ab" + 28 * "c", []
    for i, about in enumerate(
        [
            {"commit": hashed + "+", "torch": "2.6.0", "device": "cpu", "flatdiff": "0.1.0"},
            {"commit": None, "torch": "2.11.0", "device": "cpu", "flatdiff": "0.1.0"},
            None,
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        if about:  # gone on from a config.json that had no history yet
            made = {"history": [{"from": 0, "to": 2}, {"from": 2, "to": None} | about]}
            (folder / "config.json").write_text(json.dumps(made))
        training = SimpleNamespace(cell=SimpleNamespace(folder=str(folder)), steps=4)
        models.append(SimpleNamespace(training=training))
    assert report.made_by(models) == {
        "commit": "0123456789ab+, unknown, version 0.1.0",
        "torch": "2.6.0, 2.11.0",
        "device": "cpu",
    }
    assert report.made_by(models[2:])["torch"] == "not recorded"
