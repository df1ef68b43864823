"""What can be had by name: official generators and boundaries, dlib's landmark model; fetched once, into a cache.

Nothing takes its place in the cache before it was looked at: its length against what the server announced, its sha256 where that
is known, else its size and whether it is one whole pickle. A download that broke starts anew: only a server that names the version
of a file (few do) could send the rest of the same one.
"""

import dataclasses
import os
import pickletools
from pathlib import Path

from editor import files

NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files"
INTERFACEGAN = "https://raw.githubusercontent.com/genforce/interfacegan/master/boundaries"
NVIDIA = "NVIDIA Source Code License-NC (non-commercial)"
TIMEOUT = 60  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Download:
    """A file that can be had by name. `sha256` None: its publisher gives none and we have not seen the file."""

    url: str
    license: str
    what: str
    megabytes: int  # about; 0: less than one
    sha256: str | None = None
    start: bytes = b"\x80"  # how such a file begins: a pickle, which is then read to its end


def _boundary(name, sha256):
    return Download(f"{INTERFACEGAN}/stylegan_ffhq_{name}_boundary.npy", "MIT", f"InterFaceGAN boundary {name}, StyleGAN1 FFHQ", 0, sha256)


DOWNLOADS = {
    "stylegan1-ffhq-1024": Download(
        "https://drive.google.com/uc?id=1MEGjdvVpUsu1jB4zrXZN7Y4kBBOzizDQ", "CC BY-NC 4.0", "StyleGAN1, FFHQ, 1024x1024", 300
    ),
    "stylegan2-ffhq-1024": Download(f"{NGC}/stylegan2-ffhq-1024x1024.pkl", NVIDIA, "StyleGAN2, FFHQ, 1024x1024", 360),
    "stylegan2-ffhq-512": Download(f"{NGC}/stylegan2-ffhq-512x512.pkl", NVIDIA, "StyleGAN2, FFHQ, 512x512", 350),
    "stylegan2-ffhq-256": Download(f"{NGC}/stylegan2-ffhq-256x256.pkl", NVIDIA, "StyleGAN2, FFHQ, 256x256", 270),
    "landmarks": Download(
        "https://github.com/davisking/dlib-models/raw/master/shape_predictor_68_face_landmarks.dat.bz2",
        "iBUG 300-W: non-commercial",
        "dlib's 68 landmarks, bzip2",
        64,
        start=b"BZh",
    ),
    "age": _boundary("age_w", "f92c72c6621fd9630a2100168462a15a531bee410099847fdcdf844159eb7e30"),
    "eyeglasses": _boundary("eyeglasses_w", "ac826235cc7347eb1f57ba9e6e2904e52f34a6052a4db03dc693648a4f231cc5"),
    "gender": _boundary("gender_w", "077953b129bbb52605b3391d4824938c9ded35337f60d282478c72dcc3c5c28f"),
    "pose": _boundary("pose_w", "688585cf4d2bc3eead7bc18b4cf6e0985a0beb8a5ed46f25a08b2925d33efc1a"),
    "smile": _boundary("smile_w", "5a729c200c2c933806116cb77624ccedbd6fce21aa98fca8be49aeaa35caa1c7"),
}


class _Failed(Exception):
    """Why a download failed."""


def cache_folder():
    """Where downloads go: $STYLEGAN_EDITOR_CACHE, else ~/.cache/stylegan_editor.

    Raises:
        ValueError: the user has no home folder (containers with a numeric user).
    """
    try:
        return Path(os.environ.get("STYLEGAN_EDITOR_CACHE") or Path.home() / ".cache" / "stylegan_editor")
    except RuntimeError:
        raise ValueError("no home folder is known to keep downloads in; set STYLEGAN_EDITOR_CACHE to a folder") from None


def cached(name):
    """Where the file of a name in DOWNLOADS lies once it was fetched.

    Raises:
        ValueError: unknown name.
    """
    if name not in DOWNLOADS:
        raise ValueError(f"{name}: unknown; known are {', '.join(DOWNLOADS)}")
    return cache_folder() / f"{name}{'.pkl' if name.startswith('stylegan') else Path(DOWNLOADS[name].url).suffix}"


def discard(name):
    """Remove a file from the cache, so that `fetch` downloads it anew."""
    cached(name).unlink(missing_ok=True)


def fetch(name, report=None):
    """Download a file of DOWNLOADS once, into the cache.

    A file that is in the cache is checked as one that was just downloaded, and downloaded anew if it is not whole. Several
    processes may fetch the same file at once: each writes a temporary file of its own.

    Args:
        name: a key of DOWNLOADS.
        report: called with (bytes so far, bytes in all or None) now and then.

    Returns:
        The file's path.

    Raises:
        ValueError: unknown name; no folder for the cache.
        OSError: off line, refused, or what came is not the file; says where to put the file by hand.
    """
    target, item = cached(name), DOWNLOADS[name]
    kept = f" (the file that lies there {fault})" if target.is_file() and (fault := _fault(target, item)) else ""
    if target.is_file() and not kept:
        return target
    try:
        with files.atomic(target) as temporary:
            _download(item, temporary, report)
            if fault := _fault(temporary, item):
                raise _Failed(f"what came {fault}")
    except _Failed as error:
        by_hand = f"try again, or fetch {item.url} yourself and save it as {target}{kept}"
        raise OSError(f"{name}: download failed: {error}; {by_hand}") from None
    return target


def _download(item, path, report):
    """Write what a server sends to `path`; requests compares its length with what was announced."""
    import requests

    done, most = 0, 2 * (item.megabytes + 1) << 20
    try:
        # not packed for the way: lengths are those of the file itself
        with requests.get(item.url, stream=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}) as response:
            response.raise_for_status()
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            with open(path, "wb") as f:
                for block in response.iter_content(1 << 18):
                    f.write(block)
                    done += len(block)
                    if done > most:
                        raise _Failed(f"what comes is larger than {most >> 20} MB")
                    if report:
                        report(done, total)
    except (requests.RequestException, ValueError) as error:  # ValueError: an address that it was sent on to is none
        raise _Failed(_short(error)) from None


def _short(error):
    """What requests says of a failure; plain words for the usual ones."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer in {TIMEOUT} s"
    words = " ".join(str(error).split())[:200]
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"the connection broke before the file's end ({words})"
    if isinstance(error, requests.ConnectionError):
        return f"no connection, or no answer that can be read ({words})"
    return f"{type(error).__name__}: {words}"


def _fault(path, item):
    """What is wrong with a file, or None: 'is a web page', 'is cut off', ..."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        start = f.read(256).lstrip().lower()
        if start.startswith((b"<!doctype", b"<html")):
            return "is a web page: open the address in a browser"
        if item.sha256:
            return None if files.file_hash(path) == item.sha256 else "is not the published file (sha256 differs)"
        if size < item.megabytes << 19:
            return f"is too small: {size:,} bytes, where about {item.megabytes} MB are expected"
        if not start.startswith(item.start.lower()):
            return "is something else than was published"
        f.seek(0)
        return _pickle_fault(f, size) if item.start == b"\x80" else None


def _pickle_fault(f, size):
    """Whether a file is one whole pickle: read instruction by instruction up to its end, none of them followed."""
    try:
        for _ in pickletools.genops(f):
            pass
    except (ValueError, MemoryError, OverflowError):
        return f"is cut off or damaged: no whole pickle in {size:,} bytes"
    return None if f.tell() == size else f"is more than a pickle: {size - f.tell():,} bytes follow its end"
