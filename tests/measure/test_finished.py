"""Results by key: what is known is not computed again, and what is none is."""

import json
import os
import signal
import time

import pytest

from flatdiff.measure.finished import Finished
from flatdiff.world import dist_util


@pytest.mark.parametrize("content", ['["key"]', "3", '[["a"], 1]', "[" * 9999, '["a", 1'])
def test_finished_results_that_are_none_are_computed_again(content, tmp_path):
    (tmp_path / "rank0.jsonl").write_text(content + "\n" + json.dumps(["b", 2]))
    assert Finished(str(tmp_path)).known == {"b": 2}


def test_a_result_that_was_altered_is_computed_again(tmp_path):
    path = tmp_path / "rank0.jsonl"
    with Finished(str(tmp_path)) as finished:
        finished.expect(2)
        finished.compute({"a": lambda: 0.25, "b": lambda: {"mse": [1.5, None]}})
    assert Finished(str(tmp_path)).known == {"a": 0.25, "b": {"mse": [1.5, None]}}
    for old, new in ((b"0.25", b"0.75"), (b'"b"', b'"c"'), (b"mse", b"m\xffe")):
        assert len(Finished(str(tmp_path)).known) == 2
        whole = path.read_bytes()
        path.write_bytes(whole.replace(old, new))
        assert len(Finished(str(tmp_path)).known) == 1
        path.write_bytes(whole)


def test_what_is_known_is_not_computed_again(tmp_path):
    computed = []

    def task(key):
        return lambda: computed.append(key) or key * 2

    for keys in ("a", "ab", "cab"):
        with Finished(str(tmp_path)) as finished:
            finished.expect(len(keys))
            assert finished.compute({k: task(k) for k in keys}) == [k * 2 for k in keys]
    assert computed == ["a", "b", "c"]


def test_a_measure_that_is_asked_to_end_keeps_what_is_finished_and_says_where(tmp_path, capsys):
    def ask():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with (
        pytest.raises(SystemExit) as left,
        dist_util.session(),
        Finished(str(tmp_path)) as finished,
    ):
        finished.expect(2)
        finished.compute({"a": lambda: 1, "b": ask})
    told = capsys.readouterr().out
    assert left.value.code == 75 and told.startswith("stopped by SIGTERM: what is finished stays")
    assert f"{tmp_path}, and the same command goes on" in told and len(told.splitlines()) == 1
    assert Finished(str(tmp_path)).known == {"a": 1}
