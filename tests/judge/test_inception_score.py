"""The score of images that are surely of one class each is the number of classes."""

import numpy as np
import pytest
import torch

from flatdiff.judge.inception_score import inception_score


def tensors(*arrays):
    return [torch.as_tensor(array, dtype=torch.float64) for array in arrays]


def test_inception_score_is_the_number_of_classes_in_a_split():
    certain = 100 * torch.eye(4).repeat(3, 1)  # classes 0 1 2 3 0 1 2 3 ...
    assert inception_score(certain, torch.eye(4))[0] == pytest.approx(4)
    assert inception_score(torch.zeros(8, 4), torch.eye(4))[0] == pytest.approx(1)
    ordered = certain[torch.tensor([0, 0, 0, 0, 0, 1, 2, 3])]
    mean, deviation = inception_score(ordered, torch.eye(4), split=4)
    assert mean == pytest.approx(2.5) and deviation == pytest.approx(1.5 * 2**0.5)
    assert np.isnan(inception_score(certain, torch.eye(4))[1])
