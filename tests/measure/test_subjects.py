"""The door: what a subject is made of, and what it is not."""

import pytest
import torch
from torch import nn

import flatdiff

IMAGES = torch.linspace(-1, 1, 80).view(20, 4)


class Net(nn.Module):
    """A linear network that is told a time, and may be told more."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)
        self.eval()

    def forward(self, x, t, y=None):
        return self.layer(x) + t[:, None] + (0 if y is None else y[:, None])


def refused(sentence, *given, **how):
    with pytest.raises(ValueError, match=sentence) as found:
        flatdiff.subject(Net(), *given, **how)
    assert "\n" not in str(found.value)


FLOW = {"schedule": "flow", "predicts": "v"}


def test_half_of_what_is_needed_is_refused():
    sentence = r"a subject is of loss= and draws=, or of images and a schedule="
    loss = lambda net, x: x  # noqa: E731
    refused(sentence)
    refused(sentence, IMAGES)
    refused(sentence, loss=loss)
    refused(sentence, draws=IMAGES)
    refused(sentence, **FLOW)
    refused(sentence, loss=loss, draws=IMAGES, **FLOW)
    refused(sentence, IMAGES, loss=loss, draws=IMAGES)
    refused("predicts is missing", IMAGES, schedule="flow")
    refused(
        "no network predicts 'velocity' on 'flow'", IMAGES, schedule="flow", predicts="velocity"
    )
    refused("schedule is 'ddpm'; expected one of", IMAGES, schedule="ddpm", predicts="eps")
    refused("dtype is 'half'; expected fp32", IMAGES, **FLOW, dtype="half")


@pytest.mark.parametrize("name", ["predicts", "times", "kwargs", "levels"])
def test_what_only_images_have_is_refused_beside_a_loss(name):
    value = {"predicts": "v", "times": abs, "kwargs": {"y": 1}}.get(name, "another")
    loss = lambda net, x: net.layer(x).square().mean(dim=1)  # noqa: E731
    refused(f"{name}= is of images and a schedule", loss=loss, draws=IMAGES, **{name: value})
    refused("batch_size is -1; expected 0", loss=loss, draws=IMAGES, batch_size=-1)


def test_bytes_that_were_not_scaled_are_refused():
    refused(
        "images are whole numbers from 0 to 255, as bytes are",
        IMAGES.add(1).mul(127.5).round(),
        **FLOW,
    )
    assert flatdiff.subject(Net(), IMAGES.add(1).mul(127.5), **FLOW)  # as latents may be


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"flags": "--dtype bf16"}, "has --dtype; they are of the network"),
        ({"flags": "--seed 3"}, "has --seed; they are of the network"),
        ({"flags": "--image_sise 8"}, "the line above says what is wrong there"),
        ({"images": "folder", "labels": torch.zeros(3)}, "labels= are of images as a tensor"),
        ({}, "no file nope.pt"),
    ],
)
def test_checkpoints_take_nothing_that_they_do_not_listen_to(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        flatdiff.subject.from_checkpoint("nope.pt", **given)


def test_images_that_are_none_are_refused():
    refused("images are <class 'numpy.ndarray'>; expected a float tensor", IMAGES.numpy(), **FLOW)
    refused(r"images are \(20, 4\) torch.uint8; expected", IMAGES.byte(), **FLOW)
    refused("got 3 images; expected 6 or more", IMAGES[:3], **FLOW)
    sentence = "fails where it is first called: RuntimeError: mat1 and mat2 shapes"
    refused(sentence, torch.zeros(20, 7), **FLOW)


def test_more_arguments_have_a_row_for_each_image():
    y = torch.arange(20.0)
    refused(r"kwargs\['y'\] has a tensor \(3,\) for 20 images", IMAGES, **FLOW, kwargs={"y": y[:3]})
    sentence = "TypeError: .*unexpected keyword argument 'z'"
    refused(sentence, IMAGES, **FLOW, kwargs={"z": y})
    plain = flatdiff.subject(Net(), IMAGES, **FLOW)
    told = flatdiff.subject(Net(), IMAGES, **FLOW, kwargs={"y": y}, batch_size=7)
    assert told.own[0, 0] == pytest.approx(float(plain.own[0, 0])) and told.own[0, 9] > 10


def test_levels_of_what_has_none_are_refused():
    other = flatdiff.subject(Net(), IMAGES[:10], **FLOW)
    refused("the other subject has 10 images, and this one 20", IMAGES, **FLOW, levels=other)
    bare = flatdiff.subject(
        nn.Linear(4, 4).eval(), loss=lambda net, x: net(x).mean(dim=1), draws=IMAGES
    )
    refused("expected a subject of images, which has noise levels", IMAGES, **FLOW, levels=bare)


def test_a_checkpoint_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no file /nowhere/ema.pt"):
        flatdiff.subject.from_checkpoint("/nowhere/ema.pt")


def test_what_is_no_pipeline_is_refused():
    with pytest.raises(ValueError, match="/nowhere is no folder of diffusers"):
        flatdiff.subject.from_diffusers("/nowhere", IMAGES)
    loaded = flatdiff.subject.from_diffusers(pipeline())
    with pytest.raises(ValueError, match=r"it has no images yet; \.on\(images\) gives them"):
        flatdiff.flatness(loaded)
    assert loaded.on(torch.zeros(8, 1, 8, 8)).size == 8


def pipeline():
    from diffusers import DDPMPipeline, DDPMScheduler
    from foreign import unet

    return DDPMPipeline(unet(in_channels=1, out_channels=1), DDPMScheduler())


def test_a_subject_says_what_it_is():
    said = repr(flatdiff.subject(Net(), IMAGES, **FLOW, name="mine"))
    assert said.startswith("<mine: 20 weights, 20 examples, mse ") and ", x_mse " in said


def test_levels_that_a_network_does_not_know_are_refused():
    """A chain that ends at log-SNR -5 would be asked there for all that is beyond."""
    short = torch.sigmoid(torch.linspace(9, -5, 50))
    other = flatdiff.subject(Net(), IMAGES, **FLOW)
    sentence = "log-SNR goes from -.* to .*, and this network's noise levels from -5 to 9"
    refused(sentence, IMAGES, schedule=short, predicts="eps", levels=other)
    assert flatdiff.subject(Net(), IMAGES, schedule="cosine", predicts="eps", levels=other)
