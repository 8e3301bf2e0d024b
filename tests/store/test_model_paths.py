"""Checkpoints by lists and patterns: each found once, no other files, and names that tell apart."""

import pytest

from flatdiff.store import model_paths


@pytest.fixture
def runs(tmp_path):
    """runs/a and runs/b as training leaves them; a function of a name to its path."""
    for name in ("a/model000007.pt", "a/opt000007.pt", "a/state000007.pt", "a/config.json"):
        path = tmp_path / "runs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("ema_0.9_000007.pt", "model000007_w4.safetensors"):
        (tmp_path / "runs/b").mkdir(exist_ok=True)
        (tmp_path / "runs/b" / name).touch()
    return lambda name: str(tmp_path / "runs" / name)


def test_checkpoints_are_found_once_in_the_order_asked_for(runs):
    a, b, packed = map(
        runs, ("a/model000007.pt", "b/ema_0.9_000007.pt", "b/model000007_w4.safetensors")
    )
    assert model_paths.find_models(f"{b}, {runs('*/*')},{runs('../runs/b/ema*')}") == [b, a, packed]
    assert model_paths.find_models(runs("a/opt000007.pt")) == [runs("a/opt000007.pt")]  # by name


def test_a_path_is_absolute(runs, monkeypatch):
    monkeypatch.chdir(runs("a"))
    assert model_paths.find_models("model000007.pt") == [runs("a/model000007.pt")]


@pytest.mark.parametrize("text", ["nowhere.pt", "a", "c/*"])
def test_what_is_no_checkpoint_is_named(runs, text):
    with pytest.raises(ValueError, match=f"there is no file .*{text[0]}.*as runs/a/ema"):
        model_paths.find_models(runs(text))
    with pytest.raises(ValueError, match="give --model_path"):
        model_paths.find_models(" , ")


def test_names_are_what_differs():
    def names(*paths):
        return model_paths.short_names(list(paths))

    assert names("/x/a/model1.pt", "/x/b/ema_0.9_1.pt") == ["a/model1", "b/ema_0.9_1"]
    assert names("/x/a/model1.pt") == ["model1"]
    assert names("/x/ab/m.pt", "/x/ac/m.pt") == ["ab/m", "ac/m"]  # whole folders, not letters
    assert names("gs://x/model1.pt", "gs://y/model1.pt") == ["x/model1", "y/model1"]
