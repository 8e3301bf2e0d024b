"""Image files: the rule of the crops, what is listed, classes, and errors that name the file."""

import itertools
import zipfile

import numpy as np
import pytest
import small
import torch
from PIL import Image

from flatdiff.data.image_datasets import ImageDataset
from flatdiff.data.image_files import (
    center_crop_arr,
    list_image_files,
    random_crop_arr,
    save_grid,
    save_images,
)

CIFAR = "plane car bird cat deer dog frog horse ship truck".split()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def picture(array):
    return Image.fromarray(np.ascontiguousarray(array))


@pytest.fixture
def pixels():
    """Ten images, no two alike and none its own mirror image."""
    return noise(10, 8, 8)


@pytest.fixture
def folder(tmp_path, pixels):
    return str(small.save_images(tmp_path, pixels, [f"{name}_00000" for name in CIFAR]))


def in_order(pixels):
    """The images of `folder` in the order of their sorted names."""
    return pixels[np.argsort(CIFAR)]


# Crop and resize


def test_a_square_of_the_right_size_is_unchanged():
    image = noise(16, 16)
    assert np.array_equal(center_crop_arr(picture(image), 16), image)
    rng = np.random.default_rng(0)
    assert np.array_equal(random_crop_arr(picture(image), 16, rng, 1.0, 1.0), image)


@pytest.mark.parametrize("size, halvings", [(16, 1), (8, 2)])
def test_halving_is_the_mean_of_blocks(size, halvings):
    """Multiples of 16 have exact means over 2 x 2 pixels, twice."""
    image = (noise(32, 44) // 16) * 16
    means = image.astype(float)
    for _ in range(halvings):
        means = (means[::2, ::2] + means[1::2, ::2] + means[::2, 1::2] + means[1::2, 1::2]) / 4
    left = (44 // 2**halvings - size) // 2  # 3 of 22 - 16; 1 of 11 - 8
    assert np.array_equal(center_crop_arr(picture(image), size), means[:, left : left + size])


def test_the_crop_is_central_with_the_odd_pixel_right_and_below():
    image = noise(16, 19)
    assert np.array_equal(center_crop_arr(picture(image), 16), image[:, 1:17])
    image = noise(21, 16)
    assert np.array_equal(center_crop_arr(picture(image), 16), image[2:18])


def test_enlarging_is_cubic():
    """Keys' cubic (a = -1/2) reproduces quadratics; linear interpolation would miss by 1.1."""
    image = np.repeat((5 * np.arange(8) ** 2).astype(np.uint8)[None], 8, axis=0)
    large = center_crop_arr(picture(np.stack([image] * 3, axis=-1)), 24)
    x = (np.arange(24) + 0.5) / 3 - 0.5
    inner = slice(6, 18)
    assert np.abs(large[:, inner, 0] - 5 * x[inner] ** 2).max() <= 0.51


@pytest.mark.parametrize("shape", [(40, 40), (50, 71), (9, 30), (129, 64)])
def test_a_symmetrical_image_stays_so(shape):
    half = noise(*shape)
    image = half // 2 + half[::-1, ::-1] // 2
    square = center_crop_arr(picture(image), 16)
    assert square.shape == (16, 16, 3)
    if (shape[1] - shape[0]) % 2 == 0:
        difference = square.astype(int) - square[::-1, ::-1]
        assert np.abs(difference).max() <= 1


def test_random_crops_are_windows_at_every_offset():
    """At a share of 1/2 an image of twice the size is not resized: crops are windows of it."""
    image = noise(8, 8)
    found = set()
    for seed in range(200):
        crop = random_crop_arr(picture(image), 4, np.random.default_rng(seed), 0.5, 0.5)
        found |= {
            (y, x)
            for y, x in itertools.product(range(5), range(5))
            if np.array_equal(crop, image[y : y + 4, x : x + 4])
        }
    assert found == set(itertools.product(range(5), range(5)))


def test_random_crops_draw_the_smaller_side_evenly():
    """Size 16 at shares 0.8 to 1: sides 16, ..., 20; a 20-pixel image is resized but for 20."""
    image = noise(20, 20)
    windows = {
        image[y : y + 16, x : x + 16].tobytes() for y, x in itertools.product(range(5), range(5))
    }
    crops = [random_crop_arr(picture(image), 16, np.random.default_rng(i)) for i in range(500)]
    assert all(crop.shape == (16, 16, 3) for crop in crops)
    unresized = sum(crop.tobytes() in windows for crop in crops)
    assert abs(unresized - 100) < 4 * np.sqrt(500 * 0.2 * 0.8)
    whole = center_crop_arr(picture(image), 16).tobytes()
    assert abs(sum(crop.tobytes() == whole for crop in crops) - 100) < 36


# Files and classes


def test_listing_is_recursive_sorted_and_ignores_other_files(tmp_path):
    names = ["b/2.JPG", "b/1.webp", "b/a/3.gif", "a.png", "c.JPEG"]
    for name in [*names, "b/notes.txt", "png", "d.png.partial"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    expected = ["a.png", "b/1.webp", "b/2.JPG", "b/a/3.gif", "c.JPEG"]
    assert list_image_files(str(tmp_path)) == [str(tmp_path / name) for name in expected]


def test_prefix_labels_are_guided_diffusions(folder):
    dataset = ImageDataset(folder, 8, class_cond=True)
    order = "bird car cat deer dog frog horse plane ship truck".split()
    assert dataset.classes == order
    assert dataset.labels.dtype == np.int64 and dataset.labels.tolist() == list(range(10))
    assert ImageDataset(folder, 8).labels is None


def test_folder_labels(tmp_path):
    for name in ["train/dog/a_1.png", "train/dog/b_1.png", "test/cat/c_1.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(noise(8, 8)).save(tmp_path / name)
    dataset = ImageDataset(str(tmp_path), 8, class_cond=True, class_from="folder")
    assert dataset.classes == ["cat", "dog"] and dataset.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = picture(noise(8, 8)).convert(mode)
    image.save(tmp_path / "a.png")
    square = ImageDataset(str(tmp_path), 8).image(0)
    assert np.array_equal(square, np.array(image.convert("RGB")))


def test_folder_zip_and_npz_are_the_same_data(tmp_path, folder, pixels):
    """At a size that needs a resize, and with a zip whose own order is another."""
    labels = np.arange(10)
    np.savez(tmp_path / "set.npz", in_order(pixels), labels)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in reversed(list_image_files(folder)):
            archive.write(path, path.removeprefix(folder))
        archive.writestr("__MACOSX/._cat_00000.png", "a shadow")
    expected = [center_crop_arr(picture(image), 6) for image in in_order(pixels)]
    for threads, source in enumerate((f"{tmp_path}/set.npz", folder, f"{tmp_path}/set.zip"), 1):
        dataset = ImageDataset(source, 6, class_cond=True)
        assert np.array_equal(dataset.squares(threads=threads), expected)
        assert dataset.labels.tolist() == labels.tolist() and len(dataset.classes) == 10
    assert np.array_equal(ImageDataset(f"{tmp_path}/set.npz", 8).image(3), in_order(pixels)[3])


def test_broken_data_are_named(tmp_path, pixels):
    def fails(match, data_dir, **options):
        with pytest.raises(ValueError, match=match):
            ImageDataset(str(data_dir), 8, **options)

    def npz(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return tmp_path / "a.npz"

    fails("unspecified data directory", "")
    fails("nowhere does not exist", tmp_path / "nowhere")
    fails(r"no images in .*\.png.*\.webp", tmp_path)
    fails("neither a folder", __file__)
    fails("has no arr_0", npz(images=pixels))
    fails(r"float64 \(10, 8, 8, 3\), expected uint8", npz(arr_0=pixels / 255))
    fails(r"uint8 \(8, 8, 3\), expected uint8 \(N", npz(arr_0=pixels[0]))
    fails("no labels", npz(arr_0=pixels), class_cond=True)
    fails("10 non-negative", npz(arr_0=pixels, arr_1=np.zeros(9, int)), class_cond=True)
    for name in ("b.npz", "b.zip"):
        (tmp_path / name).write_bytes(b"neither")
        fails(f"cannot read .*{name}", tmp_path / name)
    picture(pixels[0]).save(tmp_path / "plain.png")
    fails("plain.png has no class.*cat_001", tmp_path, class_cond=True)
    fails("plain.png has no class.*cat/001", tmp_path, class_cond=True, class_from="folder")
    fails("'name', expected 'prefix'", tmp_path, class_cond=True, class_from="name")


# And back


def test_a_grid_shows_every_image_in_rows(tmp_path):
    images = noise(5, 4, 6)
    path = tmp_path / "new" / "grid.png"
    save_grid(torch.from_numpy(images), str(path), num_columns=3, scale=2)
    grid = np.array(Image.open(path))
    assert grid.shape == (2 * 8 + 2, 3 * 12 + 4, 3)
    for i, image in enumerate(images):
        top, left = i // 3 * 10, i % 3 * 14
        for dy, dx in itertools.product(range(2), range(2)):
            assert np.array_equal(grid[top + dy : top + 8 : 2, left + dx : left + 12 : 2], image)
    assert (grid[8:10] == 255).all() and (grid[10:, 28:] == 255).all()
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]
    save_grid(images, str(path))
    assert Image.open(path).size == (3 * 6 * 16 + 4, 2 * 4 * 16 + 2)


def test_images_come_back_from_their_files(tmp_path, pixels):
    folder = tmp_path / "made" / "here"
    names = [f"{i % 3}_{i:02d}" for i in range(10)]
    save_images((image for image in pixels), str(folder), names)
    order = sorted(range(10), key=lambda i: names[i])
    dataset = ImageDataset(str(folder), 8, class_cond=True)
    assert np.array_equal(dataset.squares(), pixels[order])
    assert dataset.labels.tolist() == [i % 3 for i in order]


def test_a_folder_is_there_when_all_images_are(tmp_path, pixels):
    def broken():
        yield from pixels[:3]
        raise KeyboardInterrupt

    names = [str(i) for i in range(10)]
    with pytest.raises(KeyboardInterrupt):
        save_images(broken(), str(tmp_path / "set"), names)
    assert not (tmp_path / "set").exists()
    save_images(pixels, str(tmp_path / "set"), names)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert len(list_image_files(str(tmp_path / "set"))) == 10


def test_an_image_that_would_become_endless_is_not_resized():
    for size in ((1, 50_000), (50_000, 1)):
        with pytest.raises(ValueError, match="too long to be resized to 256"):
            center_crop_arr(Image.new("RGB", size), 256)
    assert center_crop_arr(Image.new("RGB", (4, 4000)), 64).shape == (64, 64, 3)


def test_a_link_leads_to_the_folder_of_images(tmp_path, pixels):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large disk")
    save_images(pixels, f"{tmp_path}/link/", [str(i) for i in range(10)])
    assert (tmp_path / "link").is_symlink() and len(list_image_files(f"{tmp_path}/link")) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large disk", "link"]
