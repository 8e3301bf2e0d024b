"""A network that stands for Inception."""

import pytest
from judging import Means

from flatdiff.judge.features import Features


@pytest.fixture
def features():
    return Features("inception", Means().requires_grad_(False), "0" * 64)
