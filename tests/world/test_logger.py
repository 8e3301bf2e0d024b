"""The log's files as other programs read them, and means against sums by hand."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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


def test_a_mean_weighs_by_count(tmp_path):
    logger.configure(str(tmp_path), FILES)
    for value, count in [(1.0, 3), (torch.tensor(5.0), 1), (2.0, torch.tensor(4))]:
        logger.logkv_mean("loss", value, count)
    logger.logkv_mean("alone", 7)
    assert logger.getkvs() == {"loss": (3 + 5 + 8) / 8, "alone": 7.0}
    assert logger.dumpkvs() == {"loss": 2.0, "alone": 7.0}
    assert logger.dumpkvs() == {}


def test_what_nothing_was_seen_of_is_not_shown():
    logger.logkv_mean("a", float("nan"), 0)
    logger.logkv_mean("b", torch.tensor(float("nan")), torch.tensor(0))
    logger.logkv_mean("c", torch.tensor(float("nan")), torch.tensor(0))
    logger.logkv_mean("c", float("nan"), 0)
    logger.logkv_mean("c", 3.0, 2)
    logger.logkv_mean("diverged", torch.tensor(float("nan")), torch.tensor(2))
    row = logger.dumpkvs()
    assert row.pop("diverged") != row.get("diverged")
    assert row == {"c": 3.0}


def test_a_mean_of_many_float32_values_keeps_its_digits():
    third = torch.tensor(1 / 3)
    for _ in range(3000):
        logger.logkv_mean("loss", third)
    assert logger.dumpkvs()["loss"] == pytest.approx(third.item(), rel=1e-12)


def test_values_are_not_read_before_the_table(monkeypatch):
    """Reading one waits for the device."""
    value, read = torch.tensor(2.0), []
    for name in ("item", "tolist", "__float__", "__int__", "__bool__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda x, real=real: read.append(1) or real(x))
    for _ in range(5):
        logger.logkv_mean("loss", value, value)
        logger.logkv_mean("mse", value)
    assert read == []
    assert logger.dumpkvs() == {"loss": 2.0, "mse": 2.0}
    assert len(read) == 1


def test_two_ranks_with_different_counts_have_one_mean(tmp_path):
    tables = {}

    def sum_over_ranks(table):
        assert (table.dtype, table.shape) == (torch.float64, (2, 2))
        tables[rank] = table.clone()
        return sum(tables.values())

    of_ranks = [[("q0", 2.0, 3), ("q1", 0.0, 0)], [("q1", 4.0, 2), ("q0", 7, 1)]]
    for rank, logged in enumerate(of_ranks):
        logger.configure(str(tmp_path / str(rank)), FILES, rank=rank)
        for key, value, count in logged:
            logger.logkv_mean(key, value, count)
        row = logger.dumpkvs(sum_over_ranks)
    assert row == {"q0": (2 * 3 + 7) / 4, "q1": 4.0}
    assert (tmp_path / "0" / "progress.csv").exists()
    assert not (tmp_path / "1").exists()


def test_other_ranks_only_warn(tmp_path, capsys):
    logger.configure(str(tmp_path / "run"), rank=1)
    logger.log("quiet")
    logger.warn("loud")
    dump(loss=1)
    assert logger.get_dir() == str(tmp_path / "run")
    assert capsys.readouterr() == ("", "rank 1: loud\n")


def test_levels(capsys):
    logger.debug("hidden")
    logger.set_level(logger.ERROR)
    logger.warn("hidden")
    logger.error("shown")
    assert capsys.readouterr().out == "shown\n"


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


def test_tensorboard_goes_on_where_the_run_does(tmp_path):
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


def test_the_environment_names_folder_and_formats(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_LOGDIR", str(tmp_path / "here"))
    monkeypatch.setenv("OPENAI_LOG_FORMAT", "csv,json")
    logger.configure()
    dump(a=1)
    assert sorted(os.listdir(tmp_path / "here")) == ["progress.csv", "progress.json"]
    with pytest.raises(ValueError, match=r"\['yaml'\].*stdout"):
        logger.configure(format_strs=["yaml"])


def test_a_folder_is_made_when_somebody_asks_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    logger.log("on the terminal")
    assert os.listdir(tmp_path) == []
    folder = logger.get_dir()
    assert os.listdir(tmp_path) == [os.path.basename(folder)]


def test_a_remote_folder_keeps_its_tables_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    logger.configure("gs://bucket/run", ["stdout", "csv"])
    dump(a=1)
    (folder,) = tmp_path.iterdir()
    assert logger.get_dir() == "gs://bucket/run"
    assert f"Logging to gs://bucket/run, tables to {folder}\n" in capsys.readouterr().out
    assert (folder / "progress.csv").read_text() == "a\n1\n"


def test_scoped_configure_gives_the_outer_log_back(tmp_path):
    logger.configure(str(tmp_path / "outer"), FILES)
    logger.logkv("a", 1)
    with logger.scoped_configure(dir=str(tmp_path / "inner"), format_strs=FILES):
        assert logger.get_dir() == str(tmp_path / "inner")
        dump(b=2)
    assert logger.get_current().dir == str(tmp_path / "outer")
    assert logger.dumpkvs() == {"a": 1}


def test_mpi_communicators_are_refused():
    with pytest.raises(ValueError, match="reduce"):
        logger.configure(comm="MPI.COMM_WORLD")


@pytest.mark.slow
def test_import_needs_neither_torch_nor_numpy():
    code = "import sys, flatdiff.logger; print({'torch', 'numpy'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


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
