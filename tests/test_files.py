"""Files appear whole or not at all; what others wrote is read without trust."""

import json
import os
import stat
import subprocess
import sys
import time

import pytest

from editor import files


def leave(folder, process, host=None, name="x"):
    """A temporary file as a killed process leaves it."""
    path = folder / f".tmp-{host or files._host()}-{process}-{name}.npy"
    path.write_bytes(b"half")
    return path


@pytest.fixture
def dead():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_an_open_reader_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with open(path) as reader:
        with files.atomic(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old" and temporary.suffix == ".txt" and temporary.name.startswith(".")
        assert reader.read() == "old"  # renamed over, not written into
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_results_have_ordinary_permissions(tmp_path):
    with files.atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    (tmp_path / "b.txt").write_text("x")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "b.txt").stat().st_mode)


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(type(error)) as raised, files.atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    if isinstance(error, OSError):
        assert raised.value.filename == str(tmp_path / "a.txt") and raised.value.errno == 28


def test_what_killed_processes_left_is_removed(tmp_path, dead):
    left = [leave(tmp_path, dead), leave(tmp_path, os.getpid())]  # in a container each run may have the same number
    others = [leave(tmp_path, os.getppid()), leave(tmp_path, dead, host="abcdef"), tmp_path / ".tmp-mine", tmp_path / "a.txt"]
    for path in others:
        path.write_bytes(b"")
    with files.atomic(tmp_path / "a.txt") as own:
        own.write_text("x")
        files._sweep.__wrapped__(tmp_path)  # by another name of the folder, while a file is being written
        assert own.exists()
    assert not any(path.exists() for path in left) and all(path.exists() for path in others)


def test_what_cannot_be_removed_stops_nobody(tmp_path, dead, monkeypatch):
    leave(tmp_path, dead)

    def refuse(path):
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr(files.os, "unlink", refuse)
    files._sweep.__wrapped__(tmp_path)
    files._sweep.__wrapped__(tmp_path / "missing")


def test_hidden_files_are_no_data(tmp_path, dead):
    for name in ("b.npy", "a.npy", "c.json"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.npy").mkdir()
    leave(tmp_path, dead)
    assert [path.name for path in files.visible(tmp_path, "*.npy")] == ["a.npy", "b.npy"]


def test_names_that_cannot_be_written_are_found_before_the_work(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "file" / "a.npy", tmp_path / ("n" * 300), tmp_path / "loop" / "a.npy", tmp_path):
        with pytest.raises(OSError) as raised:
            files.check_writable(path)
        assert raised.value.filename and ".tmp-" not in raised.value.filename
    with pytest.raises(ValueError, match="not the name of a file"):
        files.check_writable(tmp_path / "a\0b" / "c")
    deep = tmp_path / ("d/" * 1200)
    files.check_writable(deep / "a.npy")
    assert deep.is_dir()
    subprocess.run(["rm", "-r", str(tmp_path / "d")])  # too deep for pytest's own cleaning
    files.check_writable(tmp_path / "new" / "a.npy", tmp_path / "new" / "b.npy")
    assert os.listdir(tmp_path / "new") == []


def test_a_hash_follows_the_file_at_once(tmp_path):
    path, found, now = tmp_path / "a", [], time.time_ns()
    for i in range(3):  # of equal size, and of equal time, as where the file system's clock ticks slowly
        path.write_text(f"{i:04}")
        os.utime(path, ns=(now, now))
        found.append(files.file_hash(path))
    assert len(set(found)) == 3
    os.utime(path, ns=(now - 10**11, now - 10**11))
    assert files.file_hash(path) == files.file_hash(path) == found[-1]


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"1" * 10_000, "not JSON"),
        (b"[" + b" " * files.MAX_TEXT + b"]", "bytes"),
    ],
)
def test_json_of_others(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.json.*{said}.*expected"):
        files.read_json(tmp_path / "a.json", "expected")


def test_json_round_trip_holds_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": [1, 2.5, None, "é\udce9"]})
    assert files.read_json(tmp_path / "a.json", "x") == {"a": [1, 2.5, None, "é\udce9"]}
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text())["a"][0] == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_pipes_folders_and_no_names_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder"), (tmp_path / "no", "no such file"), ("a\0b", "not the name")):
        with pytest.raises(ValueError, match=said):
            files.require_regular(path, "expected a file")
