"""What can be had by name: official generators, boundaries, the landmark model; fetched once, into a cache."""

import dataclasses
import os
import urllib.error
import urllib.request
from pathlib import Path

from editor.files import file_hash

NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files"
INTERFACEGAN = "https://raw.githubusercontent.com/genforce/interfacegan/master/boundaries"
NVIDIA = "NVIDIA Source Code License-NC (non-commercial)"


@dataclasses.dataclass(frozen=True)
class Download:
    """A file that can be had by name. `sha256` None: its publisher gives none and we have not seen the file."""

    url: str
    license: str
    what: str
    sha256: str | None = None


def _boundary(name, sha256):
    return Download(f"{INTERFACEGAN}/stylegan_ffhq_{name}_boundary.npy", "MIT", f"InterFaceGAN boundary {name}, StyleGAN1 FFHQ", sha256)


DOWNLOADS = {
    "stylegan1-ffhq-1024": Download(
        "https://drive.google.com/uc?id=1MEGjdvVpUsu1jB4zrXZN7Y4kBBOzizDQ", "CC BY-NC 4.0", "StyleGAN1, FFHQ, 1024x1024, about 300 MB"
    ),
    "stylegan2-ffhq-1024": Download(f"{NGC}/stylegan2-ffhq-1024x1024.pkl", NVIDIA, "StyleGAN2, FFHQ, 1024x1024, about 360 MB"),
    "stylegan2-ffhq-512": Download(f"{NGC}/stylegan2-ffhq-512x512.pkl", NVIDIA, "StyleGAN2, FFHQ, 512x512, about 350 MB"),
    "stylegan2-ffhq-256": Download(f"{NGC}/stylegan2-ffhq-256x256.pkl", NVIDIA, "StyleGAN2, FFHQ, 256x256, about 270 MB"),
    "landmarks": Download(
        "https://github.com/davisking/dlib-models/raw/master/shape_predictor_68_face_landmarks.dat.bz2",
        "iBUG 300-W: non-commercial",
        "dlib's 68 landmarks, about 64 MB, bzip2",
    ),
    "age": _boundary("age_w", "f92c72c6621fd9630a2100168462a15a531bee410099847fdcdf844159eb7e30"),
    "eyeglasses": _boundary("eyeglasses_w", "ac826235cc7347eb1f57ba9e6e2904e52f34a6052a4db03dc693648a4f231cc5"),
    "gender": _boundary("gender_w", "077953b129bbb52605b3391d4824938c9ded35337f60d282478c72dcc3c5c28f"),
    "pose": _boundary("pose_w", "688585cf4d2bc3eead7bc18b4cf6e0985a0beb8a5ed46f25a08b2925d33efc1a"),
    "smile": _boundary("smile_w", "5a729c200c2c933806116cb77624ccedbd6fce21aa98fca8be49aeaa35caa1c7"),
}


# ---------------------------------------------------------------------------------------------------------------------
# Names and downloads


def cache_folder():
    """Where downloads go: $STYLEGAN_EDITOR_CACHE, else ~/.cache/stylegan_editor."""
    return Path(os.environ.get("STYLEGAN_EDITOR_CACHE") or Path.home() / ".cache" / "stylegan_editor")


def fetch(name, report=None):
    """Download a file of DOWNLOADS once, into the cache; goes on where a broken download stopped.

    Args:
        name: a key of DOWNLOADS.
        report: called with (bytes so far, bytes in all or None) now and then.

    Returns:
        The file's path.

    Raises:
        ValueError: unknown name, or the file that came is not the published one (sha256), or a web page.
        OSError: off line or refused; says where to put the file by hand.
    """
    if name not in DOWNLOADS:
        raise ValueError(f"{name}: unknown; known are {', '.join(DOWNLOADS)}")
    item = DOWNLOADS[name]
    suffix = ".pkl" if name.startswith("stylegan") else Path(item.url).suffix
    target = cache_folder() / f"{name}{suffix}"
    if target.is_file():
        return target
    partial = target.with_name(target.name + ".part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        _download(item.url, partial, report)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise OSError(f"{name}: download failed ({reason}); try again, or fetch {item.url} yourself and save it as {target}") from None
    with open(partial, "rb") as f:
        start = f.read(256).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        partial.unlink()
        raise ValueError(f"{name}: {item.url} answered with a web page; open it in a browser and save the file as {target}")
    if item.sha256 and file_hash(partial) != item.sha256:
        partial.unlink()
        raise ValueError(f"{name}: what {item.url} sent is not the published file (sha256 differs); it was removed, try again")
    os.replace(partial, target)
    return target


def _download(url, partial, report):
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing is left to send
            return
        raise
    with response:
        resumed = response.status == 206
        done = done if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with open(partial, "ab" if resumed else "wb") as f:
            while block := response.read(1 << 20):
                f.write(block)
                done += len(block)
                if report:
                    report(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection broke after {done} of {total} bytes")
