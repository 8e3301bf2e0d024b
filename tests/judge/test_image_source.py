"""Images of an array, an .npz or a folder: the same by whatever way, and what does not fit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import images, save_images

from flatdiff.judge.image_source import check_same_size, open_images


def read(source, batch_size=7):
    return np.concatenate(list(open_images(source).batches(batch_size)))


def test_all_ways_lead_to_the_same_images(tmp_path):
    expected = images(20)
    np.savez(tmp_path / "plain.npz", expected)
    np.savez_compressed(tmp_path / "small.npz", arr_0=expected, arr_1=np.arange(20))
    names = [f"{'deeper/' * (i > 15)}{i:02d}" for i in (*range(16, 20), *range(16))]
    (tmp_path / "folder/deeper").mkdir(parents=True)
    save_images(tmp_path / "folder", expected[[*range(16, 20), *range(16)]], names)
    for source in (expected, tmp_path / "plain.npz", tmp_path / "small.npz", tmp_path / "folder"):
        assert np.array_equal(read(source), expected)
        opened = open_images(source)
        assert opened.num_images == 20 and tuple(opened.size) == (8, 8)


def test_a_fingerprint_is_of_the_images(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        np.savez(tmp_path / f"{name}.npz", images(3, seed=seed))
        save_images(tmp_path / name, images(3, seed=seed))
    for end in ("", ".npz"):
        a, b, c = (open_images(f"{tmp_path}/{name}{end}").fingerprint() for name in "abc")
        assert a == b != c


def test_files_that_are_no_images_are_refused(tmp_path):
    good = images(20)
    np.savez(f"{tmp_path}/good.npz", good)
    data = bytearray(Path(tmp_path, "good.npz").read_bytes())
    Path(tmp_path, "cut.npz").write_bytes(data[: len(data) // 2])
    data[len(data) // 2] ^= 255
    Path(tmp_path, "flipped.npz").write_bytes(data)
    np.savez(f"{tmp_path}/named.npz", images=good)
    np.savez(f"{tmp_path}/fortran.npz", np.asfortranarray(good))
    np.save(f"{tmp_path}/array.npy", good)
    for name, message in (
        ("cut.npz", "not an .npz, or it was cut off"),
        ("array.npy", "not an .npz"),
        ("flipped.npz", "is damaged"),
        ("named.npz", "no arr_0 .* it has images"),
        ("fortran.npz", "ascontiguousarray"),
        ("nowhere", "nowhere does not exist"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            read(f"{tmp_path}/{name}")
        assert str(tmp_path / name) in str(caught.value)
    for array, message in (
        (good.astype(np.float32), "float32 .* expected uint8"),
        (good.transpose(0, 3, 1, 2), r"\[20, 3, 8, 8\]; expected uint8 \[N, H, W, 3\]"),
        (good[:1], "1 images; expected 2 or more"),
        (good[:, :0], r"\[20, 0, 8, 3\]: its images have no pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            read(array)
    with pytest.raises(ValueError, match="8x8 pixels, .* 16x16"):
        check_same_size(open_images(good), open_images(images(20, 16)))


def test_folders_need_readable_images_of_one_size(tmp_path):
    with pytest.raises(ValueError, match="has 0 images .*png.*expected 2 or more"):
        read(tmp_path)
    for i, side in enumerate((8, 8, 16)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"2.png has 16x16 pixels, .*0.png has 8x8"):
        read(tmp_path)
    Path(tmp_path, "2.png").write_bytes(Path(tmp_path, "1.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"2.png is empty or of no known image format"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(sigma=np.eye(6)[:5]), r"sigma float64 \[5, 6\]; expected numbers \[D\] and \[D, D"),
        (dict(mu=np.full(6, np.nan)), "NaN or infinite values in mu or sigma"),
        (dict(mu_s=np.zeros(6)), r"sigma_s float64 \[0\]; expected"),
    ],
)
def test_statistics_that_are_none_are_refused(tmp_path, change, message):
    np.savez(tmp_path / "a.npz", **{"mu": np.zeros(6), "sigma": np.eye(6)} | change)
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path / "a.npz")
