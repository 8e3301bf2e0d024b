"""The model card: huggingface_hub reads it, and what it says is what was trained."""

import yaml
from huggingface_hub import ModelCard

from flatdiff.exchange import card

NETWORK = {"image_size": 8, "class_cond": False}
TRAINED = {
    "train": {"optimizer": "adam-sam", "rho": 0.25, "lr": 1e-3},
    "data": {"data_dir": "/home/someone/private/digits/"},
    "diffusion": {"objective": "ddpm", "noise_schedule": "cosine"},
}


def test_the_header_is_the_hubs():
    found = ModelCard(card.card(TRAINED, NETWORK, "ema.pt", "f00", "DDPMPipeline")).data.to_dict()
    assert found["library_name"] == "diffusers"
    assert found["pipeline_tag"] == "unconditional-image-generation"
    header = card.card({}, NETWORK | {"class_cond": True}, "a.pt", "f00", "UNet2DModel")
    assert "class-conditional" in yaml.safe_load(header.split("---")[1])["tags"]


def test_it_says_what_was_trained_and_no_path_of_ours():
    text = card.card(TRAINED, NETWORK, "ema_0.99_001400.pt", "f00", "DDPMPipeline")
    for line in ("| rho | 0.25 |", "| data | digits |", "| gradient | adam-sam |"):
        assert line in text
    assert "ema_0.99_001400.pt, SHA-256 f00" in text and "someone" not in text
    for gradient in ("adam", "adam-sam-loss rise=0.05"):  # neither reads rho
        train = {"train": {"optimizer": gradient, "rho": 0.25}}
        plain = card.card(train, NETWORK, "a", "", "UNet2DModel")
        assert "| rho |" not in plain and "| data |" not in plain


def test_what_it_tells_to_type_is_python():
    for kind, code in card.USED.items():
        compile(code, kind, "exec")
        assert kind in code
