"""Means against sums by hand, levels, ranks, and where a log goes."""

import os
import subprocess
import sys

import pytest
import torch

from flatdiff import bars
from flatdiff.world import logger

FILES = ["log", "csv", "json"]


def dump(**values):
    logger.logkvs(values)
    return logger.dumpkvs()


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


def test_other_ranks_only_tell_errors(tmp_path, capsys):
    logger.configure(str(tmp_path / "run"), rank=1)
    logger.log("quiet")
    logger.warn("rank 0 says so too")
    logger.error("loud")
    bars.Bar(total=1).update()
    dump(loss=1)
    assert logger.get_dir() == str(tmp_path / "run")
    assert capsys.readouterr() == ("", "rank 1: loud\n")


def test_levels(capsys):
    logger.debug("hidden")
    logger.set_level(logger.ERROR)
    logger.warn("hidden")
    logger.error("shown")
    assert capsys.readouterr().out == "shown\n"


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
