"""The classifiers' outputs are guided-diffusion's."""

import pytest
import torch
from chains import GOLDEN
from networks import (
    assert_golden,
    batch,
    classifier,
    fill,
    golden_images,
    tiny_classifier,
)


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_classifiers_are_guided_diffusions(pool):
    golden = GOLDEN[f"classifier_{pool}"]
    model = fill(classifier(width=64, depth=1, pool=pool))
    with torch.no_grad():
        output = model(golden_images(1, side=64), torch.tensor([421]))
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    assert list(output.shape) == golden["shape"]
    assert_golden(output, golden["out"])


def test_what_a_wrong_classifier_says():
    x, t = batch()
    with pytest.raises(ValueError, match="'attention' needs num_head_channels"):
        tiny_classifier("attention", num_head_channels=-1)
    with pytest.raises(ValueError, match=r"pool is 'max'.*spatial_v2"):
        tiny_classifier("max")
    with pytest.raises(ValueError, match="4 positions and is made for 16.*image_size"):
        tiny_classifier("attention")(x[:, :, :4, :4], t)
