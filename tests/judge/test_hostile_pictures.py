"""Files named as images that would start programs, or take all memory."""

import os
import struct
import zlib

import pytest

from flatdiff.judge import pictures


def test_no_other_program_is_started_by_what_is_named_an_image(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")

    def started(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", started)
    with pytest.raises(ValueError, match=r"a.png is empty or of no known image format"):
        pictures.read(str(path))


def test_pipes_and_devices_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    (tmp_path / "lost.png").symlink_to("nowhere")
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").symlink_to("a.png")
    found = list(pictures.names_below(str(tmp_path)))
    assert found == ["a.png", "b.png", "lost.png"]  # the last one to be told of
    with pytest.raises(ValueError, match=r"cannot read the image .*lost.png.*No such file"):
        pictures.read(str(tmp_path / "lost.png"))


def test_a_picture_that_claims_endless_pixels_is_not_decoded(tmp_path):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    for width, height in ((50_000, 50_000), (pictures.MOST + 1, 1)):
        told = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        data = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + told + data)
        with pytest.raises(ValueError, match=f"{width}x{height} pixels|{width * height} pixels"):
            pictures.read(str(tmp_path / "a.png"))
