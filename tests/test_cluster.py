"""--ray, against a real local Ray of two CPUs that the test starts (editor/cluster.py)."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import encode_image
from tests.test_workers import ENV, begin, content, names, six, until  # noqa: F401 (six: a fixture)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
ROOT = Path(__file__).resolve().parent.parent


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """The address of a cluster; it ends with the tests."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    place, address = tmp_path_factory.mktemp("r"), f"127.0.0.1:{port()}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # of this cluster alone
    words = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false"]
    words += ["--node-ip-address=127.0.0.1", f"--port={address[10:]}", "--object-store-memory=100000000", "--disable-usage-stats"]
    with (
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder,
        open(place / "log", "w") as log,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in token.items():
            patch.setitem(ENV, name, value)
        head = subprocess.Popen([*words, f"--temp-dir={folder}"], stdout=log, stderr=log, env=ENV, start_new_session=True)
        try:
            until(lambda: "Ray runtime started" in (place / "log").read_text())
            yield address
        finally:
            head.terminate()
            try:
                head.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)


def actors():
    """The processes of actors that are at work."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::Actor" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_cluster_gives_one_process_bytes_and_survives_the_death_of_an_actor(ray, six, tmp_path_factory):  # noqa: F811
    alone = tmp_path_factory.mktemp("alone")
    os.symlink(six / "in", alone / "in")
    process = begin(alone, iteration=20)
    assert process.communicate(timeout=120) and process.returncode == 1
    process = begin(six, "--ray", ray, "--batch_size", 2, iteration=20)
    until(lambda: names(six))  # something is done, and others are begun
    os.kill(until(actors)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1 and said.count("died; another one takes its place") == 1 and "2 actors" in said, said
    assert said.count("failed: ") == 1 and "6 done, 1 failed" in said
    assert names(six) == list("abcdef") and content(six) == content(alone), "nothing lost, nothing double"
    assert not actors()

    process = begin(six, "--ray", ray, "--redo", "--quiet", iteration=100000)
    until(actors)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and said.splitlines()[-1].endswith(", and the same command goes on"), said
    until(lambda: not actors())


def test_what_is_no_cluster_is_one_line(monkeypatch, tmp_path, six):  # noqa: F811
    monkeypatch.chdir(six)
    for address, why in ((f"127.0.0.1:{port()}", "no cluster answers there"), ("nowhere", "expected auto, HOST:PORT")):
        pytest.importorskip("ray")
        with pytest.raises((OSError, ValueError), match=why):
            encode_image.main(["--src_dir", "in", "--ray", address])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        with pytest.raises(ValueError, match="--ray needs Ray .*requirements-ray.txt"):
            encode_image.main(["--src_dir", "in", "--ray", "auto"])


def test_a_folder_that_is_not_shared_is_named(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from editor import cluster

    monkeypatch.chdir(tmp_path)
    said = cluster.Actor().open(None, None, 1, str(tmp_path), {str(tmp_path / "w"): None})
    assert said.startswith(f"{tmp_path / 'w'}: not shared: there is no such folder on ")
    said = cluster.Actor().open(None, None, 1, str(tmp_path), {str(tmp_path): str(tmp_path / ".tmp-mark")})
    assert said.startswith(f"{tmp_path}: not shared: on ") and said.endswith("it is another folder of this name")
