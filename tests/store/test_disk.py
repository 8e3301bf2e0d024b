"""A disk that takes no more, and files that hold something else: one sentence, with the path."""

import contextlib
import errno
import io
import os
import resource
import signal

import numpy as np
import pytest
import torch

from flatdiff.data.image_files import save_grid, save_images
from flatdiff.judge import files
from flatdiff.measure.finished import Finished
from flatdiff.models import generate
from flatdiff.store import checkpoint, disk
from flatdiff.world import lifeline, log_outputs

BIG = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)


@contextlib.contextmanager
def full_disk(limit=4096):
    """No file can grow beyond the limit: the kernel says no, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def files_of_the_judge(path):
    """Its `write_atomically` as a context."""
    buffer = io.BytesIO()
    yield buffer
    files.write_atomically(path, lambda file: file.write(buffer.getvalue()))


WRITERS = {
    "model000001.pt": lambda path: checkpoint.save({"w": torch.zeros(1 << 16)}, path),
    "a.safetensors": lambda path: checkpoint.save_tensors({"w": torch.zeros(1 << 16)}, path, {}),
    "a.json": lambda path: checkpoint.save_json(["a" * 9999], path),
    "a.csv": lambda path: disk.write_csv([{"a": "b" * 9999}], path),
    "a.png": lambda path: save_grid(BIG, path),
    "progress.csv": lambda path: log_outputs._replace(log_outputs.Path(path), "a" * 9999),
    "00000000_8.npz": lambda path: generate._save_part(
        os.path.dirname(path), list(range(8)), BIG, None
    ),
}
APPENDERS = {
    "log.txt": lambda path: log_outputs.Text(path).say("a" * 9999),
    "progress.json": lambda path: log_outputs.Json(log_outputs.Path(path), True).write(
        {"a": "b" * 9999}
    ),
    "rank0.jsonl": lambda path: Finished(os.path.dirname(path)).compute(
        {"key": lambda: "a" * 9999}
    ),
    "images.partial/a.png": lambda path: save_images(
        [BIG[0]], os.path.dirname(path).removesuffix(".partial"), ["a"]
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_with_the_path_and_the_old_file_stays(name, tmp_path):
    path = tmp_path / name
    path.write_text("old")
    with full_disk(), pytest.raises(OSError) as caught:
        WRITERS[name](str(path))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert os.listdir(tmp_path) == [name] and path.read_text() == "old"
    text, code = lifeline.explain(caught.value)
    assert str(path) in text and "\n" not in text and code == 1


@pytest.mark.parametrize("name", APPENDERS)
def test_a_full_disk_is_told_with_the_path_of_what_grows(name, tmp_path):
    with full_disk(), pytest.raises(OSError) as caught:
        APPENDERS[name](str(tmp_path / name))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / name))


@pytest.mark.parametrize("write", [disk.writing, files_of_the_judge])
def test_what_is_no_regular_file_is_written_into(write, tmp_path):
    """As /dev/null, in whose place no file may come."""
    pipe, device = tmp_path / "pipe", tmp_path / "null"
    os.mkfifo(pipe)
    device.symlink_to(os.devnull)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (pipe, device):
        with write(str(path)) as file:
            file.write(b"new")
    assert os.read(reader, 9) == b"new"
    os.close(reader)
    assert pipe.is_fifo() and device.is_symlink() and device.is_char_device()
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("write", [disk.writing, files_of_the_judge])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_leads_to_the_new_file(write, there, tmp_path):
    (tmp_path / "large disk").mkdir()
    (target := tmp_path / "large disk" / "a").write_bytes(b"old")
    (link := tmp_path / "a").symlink_to(target)
    if not there:
        target.unlink()
    with write(str(link)) as file:
        file.write(b"new")
        file.flush()
        assert (target.read_bytes() == b"old") if there else not target.exists()
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert len(os.listdir(tmp_path)) == 2 and len(os.listdir(target.parent)) == 1


def test_another_files_error_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, disk.writing(str(tmp_path / "a")):
        open(tmp_path / "missing")  # noqa: SIM115
    assert caught.value.filename == str(tmp_path / "missing")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("arr_0"), "a.npz is damaged, or of another kind .KeyError: 'arr_0'"),
        (MemoryError(), "a.npz is damaged, or of another kind .MemoryError: no more is known"),
        (ValueError("no such network"), "^a.npz: no such network$"),
        (ValueError("a.npz has 3 classes"), "^a.npz has 3 classes$"),
    ],
)
def test_what_goes_wrong_in_reading_names_the_file(error, message):
    with pytest.raises(ValueError, match=message), disk.reading("a.npz"):
        raise error


def test_what_is_the_users_to_mend_is_one_line():
    memory = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: ...\nstack")
    size = RuntimeError("Storage size calculation overflowed with sizes=[4000000000, 1000000000]")
    for error in (memory, size, MemoryError(), FloatingPointError("the loss is nan")):
        text, code = lifeline.explain(error)
        assert "\n" not in text and "Traceback" not in text and code == 1


@pytest.mark.parametrize("content", [b"", b"PK\3\4 half", None])
def test_a_part_that_is_none_is_named_and_drawn_anew(content, tmp_path, capsys):
    path = tmp_path / "00000000_2.npz"
    if content is None:
        np.savez(path, images=BIG)
    else:
        path.write_bytes(content)
    assert generate._done(str(tmp_path)) == {} and not path.exists()
    told = capsys.readouterr()
    assert "drawn anew" in told.out + told.err and "00000000_2.npz" in told.out + told.err


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file(call, tmp_path, monkeypatch):
    path = str(tmp_path / "model000001.pt")
    checkpoint.save({"a": 1}, path)

    def disk_full(*args):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(os, call, disk_full)
        checkpoint.save({"a": 2}, path)
    assert checkpoint.load(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["model000001.pt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_kill_9_during_a_save_leaves_the_old_file(call, tmp_path, monkeypatch):
    path = str(tmp_path / "model000001.pt")
    checkpoint.save({"a": 1}, path)
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, call, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        checkpoint.save({"a": 2}, path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert checkpoint.load(path) == {"a": 1}
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / "notes.part").touch()
    checkpoint.clean(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["model000001.pt", "notes.part"]
