"""What a report says of itself."""

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
