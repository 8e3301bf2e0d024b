"""What rounding is calibrated on."""

import copy
from types import SimpleNamespace

import flatness_studies as studies
import pytest
import torch

from flatdiff.measure.calibration import Calibration
from flatdiff.models import networks
from flatdiff.quantization.grid import layers_of


@pytest.fixture
def calibration(folder, tmp_path):
    """Of one network of the studies, with 4 images measured."""
    argv = studies.arguments(folder, tmp_path, "--num_images", "6", "--quant_calibration", "5")
    flags = studies.parse(argv)
    path = f"{folder}/runs/a/model000007.pt"
    return Calibration(*networks.from_checkpoint(path, flags), flags), path, flags


def test_images_are_others_than_those_that_are_measured(calibration):
    ours, path, flags = calibration
    subject = studies.subject(path, flags)
    draws, measured = ours.draws, subject.draws
    assert len(draws.t) == 5 and (draws.t.sort().values // 8).tolist() == [0, 1, 2, 3, 4]  # of 40
    for image in draws.x_start:
        assert not any(torch.equal(image, other) for other in measured.x_start)
    again = Calibration(ours.model, ours.chain, flags).draws
    assert torch.equal(again.noise, draws.noise) and torch.equal(again.t, draws.t)
    other = copy.copy(flags)
    other.run = SimpleNamespace(seed=1)
    assert not torch.equal(Calibration(ours.model, ours.chain, other).draws.noise, draws.noise)


def test_what_was_found_is_kept(calibration):
    """At the weights of the first time, though they move afterwards."""
    ours, _, _ = calibration
    layers = layers_of(ours.model)
    grams, ranges = ours.grams(layers), ours.ranges(layers, 2)
    with torch.no_grad():
        for w in ours.model.parameters():
            w.mul_(2)
    assert ours.grams(layers) is grams and ours.ranges(layers, 2) is ranges
    assert ours.ranges(layers, 1) is not ranges
    assert grams.keys() == ranges.ends.keys() == layers.keys()


def test_without_images_it_says_what_they_are_for(calibration):
    ours, _, flags = calibration
    flags = copy.copy(flags)
    flags.data = SimpleNamespace(data_dir="")
    with pytest.raises(ValueError, match="gptq and --quant_act_bins calibrate on images"):
        Calibration(ours.model, ours.chain, flags).run()
