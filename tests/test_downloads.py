"""Downloads from a server on this machine that misbehaves: the right bytes, or one line and nothing in the cache."""

import hashlib
import pickle
import socketserver
import threading
import time

import numpy as np
import pytest

from editor import downloads

DATA = pickle.dumps({"weights": np.random.default_rng(0).integers(0, 256, 1_200_000, dtype=np.uint8)}, protocol=4)
SHA = hashlib.sha256(DATA).hexdigest()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def answer(body, status="200 OK", length=None, *headers):
    lines = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


GOOD = {  # what a server sends -> the file
    "whole": [answer(DATA)],
    "moved": [answer(b"", "302 Found", None, "Location: /elsewhere"), answer(DATA)],
    "no length": [b"HTTP/1.0 200 OK\r\n\r\n" + DATA],
    "a length that is none": [answer(DATA, length="abc")],
    "a negative length": [answer(DATA, length=-5)],
    "chunked": [CHUNKED + b"%x\r\n" % len(DATA) + DATA + b"\r\n0\r\n\r\n"],
}
BAD = {  # what a server sends -> a word of the message
    "cut": ([answer(DATA[:700_000], length=len(DATA))], "connection broke"),
    "longer than it says": ([answer(DATA, length=700_000)], "cut off|sha256"),
    "no length and cut": ([b"HTTP/1.0 200 OK\r\n\r\n" + DATA[:700_000]], "cut off|sha256"),
    "chunked and cut": ([CHUNKED + b"100000\r\n" + DATA[:700_000]], "connection broke"),
    "a chunk's size is garbage": ([CHUNKED + b"zzzz\r\n" + DATA], "connection broke"),
    "a status line of garbage": ([b"garbage garbage\r\n\r\n"], "no answer that can be read"),
    "nothing": ([b""], "no answer that can be read"),
    "an empty body": ([answer(b"")], "too small|sha256"),
    "a header of 100,000 bytes": ([b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"], "no answer that can be read"),
    "300 headers": ([b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: 1\r\n" % i for i in range(300)) + b"\r\n"], "no answer that can be read"),
    "a web page": ([answer(b"<!DOCTYPE html><html>" + b" " * 900_000)], "web page"),
    "an error as JSON": ([answer(b'{"error": "quota exceeded"}')], "too small|sha256"),
    "something as large": ([answer(b"x" * len(DATA))], "something else|sha256"),
    "more than the file": ([answer(DATA + DATA)], "more than a pickle|sha256"),
    "the end of it": ([answer(DATA[100_000:], "206 Partial Content", None, f"Content-Range: bytes 100000-{len(DATA) - 1}/{len(DATA)}")],
                      "something else|sha256"),
    "far too much": ([answer(b"\x80" * 10_000_000)], "larger than"),
    "404": ([answer(DATA, "404 Not Found")], "404 Not Found"),
    "416": ([answer(b"", "416 Range Not Satisfiable")], "416"),
    "500": ([answer(DATA, "500 Oops")], "500 Oops"),
    "moved in a circle": ([answer(b"", "302 Found", None, "Location: /x.pkl")] * 40, "redirects"),
    "moved to a file of this machine": ([answer(b"", "302 Found", None, "Location: file:///etc/passwd")], "file:"),
    "moved to no address": ([answer(b"", "302 Found", None, "Location: http://[::1")], "Invalid"),
    "moved to no host": ([answer(b"", "302 Found", None, "Location: http:///")], "Invalid|redirects"),
}  # fmt: skip


class Server(socketserver.ThreadingTCPServer):
    """Sends each request the next of `answers`; `delay` seconds in the middle."""

    daemon_threads, answers, delay, requests = True, (), 0.0, 0

    class RequestHandlerClass(socketserver.BaseRequestHandler):
        def handle(self):
            request = b""
            while b"\r\n\r\n" not in request:
                request += (received := self.request.recv(4096))
                if not received:
                    return
            server = self.server
            whole = server.answers[min(server.requests, len(server.answers) - 1)]
            server.requests += 1
            try:
                self.request.sendall(whole[: len(whole) // 2])
                time.sleep(server.delay)
                self.request.sendall(whole[len(whole) // 2 :])
            except OSError:  # the client had enough
                pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server, and a cache that is empty; server.offers(sha256) makes its file `stylegan-x` of the downloads."""
    monkeypatch.setenv("STYLEGAN_EDITOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/x.pkl"

        def offers(sha256):
            monkeypatch.setitem(downloads.DOWNLOADS, "stylegan-x", downloads.Download(url, "", "", 1, sha256))

        server.offers, server.cache = offers, tmp_path / "cache"
        yield server
        server.shutdown()


@pytest.mark.parametrize("sha256", [SHA, None], ids=["sha256", "unknown"])
@pytest.mark.parametrize("kind", GOOD)
def test_the_file_comes_and_is_kept(server, kind, sha256):
    server.offers(sha256)
    server.answers, seen = GOOD[kind], []
    path = downloads.fetch("stylegan-x", lambda done, total: seen.append((done, total)))
    assert path == downloads.cached("stylegan-x") and path.read_bytes() == DATA and list(server.cache.iterdir()) == [path]
    assert seen[-1][0] == len(DATA) and seen[-1][1] in (len(DATA), None)
    server.answers = [answer(b"", "500 Oops")]
    assert downloads.fetch("stylegan-x") == path  # without asking again


@pytest.mark.parametrize("sha256", [SHA, None], ids=["sha256", "unknown"])
@pytest.mark.parametrize("kind", BAD)
def test_anything_else_is_one_line_and_never_kept(server, kind, sha256):
    server.offers(sha256)
    server.answers, words = BAD[kind]
    with pytest.raises(OSError, match=words) as caught:
        downloads.fetch("stylegan-x")
    said = str(caught.value)
    assert "\n" not in said and "/x.pkl yourself" in said and str(downloads.cached("stylegan-x")) in said
    assert not list(server.cache.iterdir())


@pytest.mark.parametrize("kept", [DATA[:900_000], b"", DATA + b"more", b"Z" * len(DATA)], ids=["cut", "empty", "longer", "other"])
def test_a_file_in_the_cache_that_is_not_whole_is_fetched_anew(server, kept):
    server.offers(None)
    target = downloads.cached("stylegan-x")
    target.parent.mkdir()
    target.write_bytes(kept)
    server.answers = [answer(b"", "500 Oops"), answer(DATA)]
    with pytest.raises(OSError, match="the file that lies there is"):
        downloads.fetch("stylegan-x")
    assert downloads.fetch("stylegan-x").read_bytes() == DATA


def test_what_an_older_version_left_is_not_gone_on_with(server):
    server.offers(None)
    server.cache.mkdir()
    (server.cache / "stylegan-x.pkl.part").write_bytes(b"Z" * 500_000)
    server.answers = [answer(DATA)]
    assert downloads.fetch("stylegan-x").read_bytes() == DATA


def test_two_at_once_do_not_disturb_each_other(server):
    server.offers(None)
    server.answers, server.delay, found = [answer(DATA)], 0.3, []
    threads = [threading.Thread(target=lambda: found.append(downloads.fetch("stylegan-x").read_bytes() == DATA)) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join(20)
    assert found == [True, True] and server.requests == 2 and len(list(server.cache.iterdir())) == 1


def test_a_silent_server_is_given_up(server, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    server.offers(None)
    server.answers, server.delay = [answer(DATA)], 2.0
    with pytest.raises(OSError, match="download failed: .*[Tt]imed out|no answer"):
        downloads.fetch("stylegan-x")


def test_discard_makes_room_for_another_download(server):
    server.offers(None)
    server.answers = [answer(DATA)]
    path = downloads.fetch("stylegan-x")
    downloads.discard("stylegan-x")
    assert not path.exists()
    downloads.discard("stylegan-x")  # twice is no error
    downloads.fetch("stylegan-x")
    assert server.requests == 2


def test_names_and_folders_that_are_none(monkeypatch):
    with pytest.raises(ValueError, match="stylegan3: unknown; known are stylegan1-ffhq-1024, "):
        downloads.fetch("stylegan3")
    monkeypatch.delenv("STYLEGAN_EDITOR_CACHE", raising=False)

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(downloads.Path, "home", nowhere)
    with pytest.raises(ValueError, match="set STYLEGAN_EDITOR_CACHE"):
        downloads.fetch("age")
