"""A few of the malformed flags and files that `benchmarks.faults.fuzz` has thousands of."""

import re
import sys

import launch
import pytest


@pytest.mark.slow
def test_malformed_flags_and_files_end_in_a_sentence(tmp_path):
    amount = ["--strings", 14, "--files", 12, "--seed", 1, "--folder", tmp_path]
    done = launch.run([sys.executable, "-m", "benchmarks.faults.fuzz", *amount])
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"^(\w+): \{(.*)\}; at most", done.stdout, re.M)
    assert [name for name, _ in counts] == ["strings", "files"]
    for _, told in counts:
        assert set(re.findall(r"'(\w+)'", told)) == {"accepted", "refused"}
