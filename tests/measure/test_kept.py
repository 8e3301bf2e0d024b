"""Records of measurements: which may be replaced, by rules that are spelled out here."""

import json

import pytest

from flatdiff.measure.kept import refuse_to_replace

OLD = {
    "flatness": {"sigma": "1", "num_images": 8, "num_draws": 4},
    "model": {"num_images": 9},
    "torch": "1",
}
OLD |= {"data_dir": "data"}


@pytest.fixture
def kept(tmp_path):
    """The path of a record of one model, LPF of OLD."""
    (tmp_path / "a.pt").write_bytes(b"a")
    hashed = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # sha256 of "a"
    models = [{"name": "a", "path": "/gone/a.pt", "sha256": hashed}]
    path = tmp_path / "flatness.json"
    path.write_text(json.dumps({"LPF": {"settings": OLD, "models": models}, "MC": {}}))
    return str(path)


@pytest.mark.parametrize(
    "settings",
    [
        OLD,
        OLD | {"torch": "2", "device": "cuda"},
        OLD | {"data_dir": "../{}/data"},
        {"flatness": OLD["flatness"] | {"new_flag": 1}},
        {"flatness": OLD["flatness"] | {"sigma": "2, 1", "num_draws": 9}},
    ],
)
def test_the_same_may_be_measured_again(kept, tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    told = {k: v.format(tmp_path.name) if isinstance(v, str) else v for k, v in settings.items()}
    (tmp_path / "b.pt").write_bytes(b"b")
    models = [str(tmp_path / name) for name in ("b.pt", "a.pt")]
    refuse_to_replace(kept, told, models, "LPF")
    refuse_to_replace(kept, {"flatness": {"sigma": "2"}}, models, "MC")
    refuse_to_replace(f"{kept}.none", {"flatness": {"sigma": "2"}}, models)


def test_another_measurement_is_refused(kept, tmp_path):
    for fewer in ({"num_draws": 2}, {"num_images": 16}, {"sigma": ""}):
        with pytest.raises(ValueError, match=f"--{min(fewer)} was"):
            refuse_to_replace(kept, {"flatness": OLD["flatness"] | fewer}, [], "LPF")
    other = OLD | {"flatness": {"sigma": "2", "num_images": 8}}
    with pytest.raises(ValueError, match=r"has LPF of another.*--sigma was '1' and is '2'\. Give"):
        refuse_to_replace(kept, other, [str(tmp_path / "a.pt")], "LPF")
    (tmp_path / "b.pt").write_bytes(b"b")
    with pytest.raises(ValueError, match=r"/gone/a.pt is not measured now.* give those models too"):
        refuse_to_replace(kept, OLD, [str(tmp_path / "b.pt")], "LPF")


@pytest.mark.parametrize("text", ["{}", '{"LPF": 3}', '{"LPF": {"settings": []}}'])
def test_what_is_no_record_is_no_loss(kept, tmp_path, text):
    (tmp_path / "flatness.json").write_text(text)
    refuse_to_replace(kept, OLD, [], "LPF")
