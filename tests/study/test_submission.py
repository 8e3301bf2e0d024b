"""Where jobs run: a cluster's options, and what it needs."""

import sys

import pytest

from flatdiff.study import submission


def test_without_submitit_a_cluster_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match="pip install submitit"):
        submission.cluster("slurm", "", str(tmp_path))


def test_cluster_options_are_names_and_values():
    assert submission.options("slurm_partition=gpu, timeout_min=600") == {
        "slurm_partition": "gpu",
        "timeout_min": 600,
    }
    with pytest.raises(ValueError, match="expected name=value"):
        submission.options("gpu")
