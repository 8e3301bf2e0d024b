"""The knobs of what is done with a checkpoint: guided-diffusion's defaults, and those off."""

import dataclasses
import inspect

import pytest

from flatdiff.flags import parse, use

GROUPS = [group for _, group in inspect.getmembers(use, dataclasses.is_dataclass)]


def test_defaults_are_those_of_guided_diffusions_scripts():
    """Of image_sample.py, classifier_sample.py, super_res_sample.py and image_nll.py."""
    sample, nll = use.SampleFlags(), use.NllFlags()
    assert (sample.num_samples, sample.batch_size, nll.num_samples, nll.batch_size) == (
        *(10000, 16),
        *(1000, 1),
    )
    assert sample.clip_denoised is nll.clip_denoised is True and sample.use_ddim is False
    assert use.GuidanceFlags().classifier_scale == 1.0
    assert sample.model_path == use.GuidanceFlags().classifier_path == use.BaseFlags().base_samples


def test_what_changes_images_is_off_by_default():
    quant = use.QuantFlags()
    assert quant.quant == quant.quant_activations == 0 and not quant.save_quantized
    assert use.ExposureFlags().prior_shift == "" and use.SampleFlags().class_labels == ""


@pytest.mark.parametrize("group", GROUPS)
def test_each_default_is_a_value_that_its_flag_takes(group):
    for field in dataclasses.fields(group):
        if field.default != "":  # which means that nothing was said
            assert parse.read(field, str(field.default)) == field.default
