"""The files of a log as other programs read them, after kills and in any locale."""

import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from flatdiff.world import logger

FILES = ["log", "csv", "json"]


def rows(folder):
    with open(folder / "progress.csv", newline="") as file:
        table = list(csv.DictReader(file))
    objects = [json.loads(line) for line in (folder / "progress.json").read_text().splitlines()]
    return table, objects


def dump(**values):
    logger.logkvs(values)
    return logger.dumpkvs()


def test_a_table_goes_to_terminal_text_csv_and_json(tmp_path, capsys):
    logger.configure(str(tmp_path / "run"))
    logger.log("two", "words", 3)
    logger.logkv("step", 10)
    logger.logkv("loss", torch.tensor(0.125))
    logger.logkv("a_key_of_more_than_thirty_chars", 1234567.0)
    assert logger.dumpkvs()["loss"] == 0.125
    text = (tmp_path / "run" / "log.txt").read_text()
    assert text == capsys.readouterr().out
    assert text.splitlines() == [
        f"Logging to {tmp_path / 'run'}",
        "two words 3",
        "---------------------------------------------",
        "| a_key_of_more_than_thirty_c... | 1.23e+06 |",
        "| loss                           | 0.125    |",
        "| step                           | 10       |",
        "---------------------------------------------",
    ]
    table, objects = rows(tmp_path / "run")
    key = "a_key_of_more_than_thirty_chars"
    assert table == [{key: "1234567.0", "loss": "0.125", "step": "10"}]
    assert objects == [{key: 1234567.0, "loss": 0.125, "step": 10}]


def test_a_key_that_comes_late_is_the_last_column(tmp_path):
    logger.configure(str(tmp_path), FILES)
    dump(b=1, c=2)
    dump(c=4, a=3, b=5)
    dump(a=6)
    assert (tmp_path / "progress.csv").read_text() == "b,c,a\n1,2,\n5,4,3\n,,6\n"
    assert rows(tmp_path)[1] == [{"b": 1, "c": 2}, {"c": 4, "a": 3, "b": 5}, {"a": 6}]


def test_append_goes_on_after_a_kill_and_truncate_forgets_what_came_after(tmp_path):
    logger.configure(str(tmp_path), FILES)
    for step in (10, 20, 30):
        dump(step=step, loss=step / 10)
    for name in ("progress.csv", "progress.json"):
        with open(tmp_path / name, "a") as file:
            file.write('{"step": 4')  # a kill in the middle of a write
    logger.configure(str(tmp_path), FILES, append=True)
    logger.truncate(20)
    dump(step=25, loss=9.0, extra=1)
    table, objects = rows(tmp_path)
    assert [row["step"] for row in table] == ["10", "20", "25"]
    assert [row["extra"] for row in table] == ["", "", "1"]
    assert objects == [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": 2.0},
        {"step": 25, "loss": 9.0, "extra": 1},
    ]
    assert "| step | 30       |" in (tmp_path / "log.txt").read_text()
    assert sorted(os.listdir(tmp_path)) == ["log.txt", "progress.csv", "progress.json"]


def test_truncate_before_anything_was_logged(tmp_path):
    logger.configure(str(tmp_path), FILES, append=True)
    logger.truncate(5)
    dump(step=6)
    assert [row["step"] for row in rows(tmp_path)[0]] == ["6"]


def test_a_new_run_starts_its_tables_anew_when_it_has_one(tmp_path):
    logger.configure(str(tmp_path), FILES)
    dump(step=1)
    logger.configure(str(tmp_path), FILES)
    assert rows(tmp_path)[1] == [{"step": 1}]
    dump(other=2)
    assert rows(tmp_path) == ([{"other": "2"}], [{"other": 2}])


def events(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("loss")]


def test_tensorboard_goes_on_where_the_run_does(tmp_path, monkeypatch):
    # names end with a count, and 10 sorts before 9
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))
    logger.configure(str(tmp_path), ["tensorboard"])
    for step in (10, 20, 30):
        dump(step=step, loss=step, name="text is left out")
    logger.configure(str(tmp_path), ["tensorboard"], append=True)
    logger.truncate(20)
    dump(step=25, loss=2.5)
    assert events(tmp_path / "tb") == [(10, 10.0), (20, 20.0), (25, 2.5)]
    logger.configure(str(tmp_path), ["tensorboard"])
    dump(step=1, loss=0.5)
    assert events(tmp_path / "tb") == [(1, 0.5)]


def test_pictures_go_to_tensorboard_pixel_by_pixel(tmp_path):
    logger.configure(str(tmp_path), ["log", "csv", "json", "tensorboard"])
    picture = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    logger.picture("samples", picture, 7)
    dump(step=7, loss=1.0)
    logger.reset()
    accumulator = EventAccumulator(str(tmp_path / "tb"))
    accumulator.Reload()
    (event,) = accumulator.Images("samples")
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        assert event.step == 7 and np.array_equal(image, picture)
    assert accumulator.Scalars("loss")[0].step == 7


@pytest.mark.slow
def test_a_terminal_or_a_locale_without_the_letters_stops_nothing(tmp_path):
    code = (
        "from flatdiff import logger\n"
        f"logger.configure({str(tmp_path)!r})\n"
        "logger.log('gr\\u00f6\\u00dfe \\u56f3 \\udcff')"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and r"gr\xf6\xdfe \u56f3 \udcff" in done.stdout, done.stderr
    text = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "gr\u00f6\u00dfe \u56f3 \\udcff" in text


def test_a_folder_that_tensorboard_cannot_name_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="TensorBoard cannot write to .*OPENAI_LOG_FORMAT"):
        logger.configure(str(tmp_path / "gr\udcfc"))
    logger.configure(str(tmp_path / "gr\udcfc"), FILES)
    logger.log("written")
