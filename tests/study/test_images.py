"""Which images a study takes as held out."""

import numpy as np
import pytest
from studies import flags_of

from flatdiff.study import images


def test_images_trained_on_are_not_held_out(data, tmp_path, monkeypatch):
    flags = flags_of(data, "--heldout_data", tmp_path / "a.npz")
    trained = images.images_of(flags)
    held_out = np.zeros((20, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=held_out[:19])
    with pytest.raises(ValueError, match="a.npz are 19 images; .* needs 20 or more"):
        images.held_out_of(flags, trained)
    np.savez(tmp_path / "a.npz", arr_0=held_out)
    assert images.held_out_of(flags, trained).num_images == 20
    monkeypatch.setattr(images, "LARGEST_REFERENCE", 11)
    with pytest.raises(ValueError, match="12 images are trained on.* among 11 at most: compare.py"):
        images.held_out_of(flags, trained)
    monkeypatch.undo()
    monkeypatch.setattr(images, "FEWEST", 12)
    np.savez(tmp_path / "a.npz", arr_0=trained.squares())  # another file, the same images
    with pytest.raises(ValueError, match="a.npz are the images trained on"):
        images.held_out_of(flags, trained)
    (tmp_path / "a.npz").unlink()
    with pytest.raises(ValueError, match="a.npz does not exist"):
        images.held_out_of(flags, trained)
