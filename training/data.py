"""Training images: a folder, .zip or .tar of pictures -> one uint8 tensor in memory."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from editor import images
from training import resume

HELD_OUT = 10  # of the sorted images, every tenth (index % 10 == 9) is never trained on
MAX_BYTES = 100_000_000  # of one picture in an archive; a header that says more is refused
MAX_RATIO = 100  # how often its own size an archive may unpack to, when that is more than MAX_BYTES; pictures hardly shrink


def _is_picture(name):
    """Whether a path inside a folder or archive is called like a picture; what hides (`.x`, `__MACOSX/._x.png`) is none."""
    path = PurePosixPath(name)
    hidden = any(part == "__MACOSX" or part.startswith(".") and part not in (".", "..") for part in path.parts)
    return path.suffix.lower() in images.suffixes() and not hidden


@contextmanager
def _named(*names):
    """Any failure inside becomes one line that begins with the archive's and the member's name."""
    try:
        yield
    except Exception as error:  # zlib, lzma, zipfile, tarfile and the archives' own lies have a dozen types
        if isinstance(error, OSError) and error.errno and error.filename:
            raise
        words = str(error).removeprefix(f"{names[-1]}: ") or type(error).__name__
        raise ValueError(f"{': '.join(map(str, names))}: {words}") from None


def _checked(path, names_and_sizes):
    """The pictures among an archive's members, by name; refuses what no set of pictures is before anything is unpacked."""
    archive_bytes, total, found = Path(path).stat().st_size, 0, set()
    for name, size in names_and_sizes:
        if size < 0:  # a loop without end in older versions of tarfile
            raise ValueError(f"{path}: {name}: a size of {size} bytes; the archive is damaged")
        total += size
        if _is_picture(name):
            if size > MAX_BYTES:
                raise ValueError(f"{path}: {name}: {size} bytes unpacked; a picture has at most {MAX_BYTES}")
            if name in found:
                raise ValueError(f"{path}: {name}: two members have this name; pack the archive again")
            found.add(name)
        if total > max(MAX_BYTES, MAX_RATIO * archive_bytes):
            raise ValueError(f"{path}: {name}: {archive_bytes} bytes unpack to more than {total}; that is no archive of pictures")
    return sorted(found)


def _in_zip(path):
    with _named(path), zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        for name in _checked(path, ((info.filename, info.file_size) for info in archive.infolist() if not info.is_dir())):
            if infos[name].flag_bits & 1:
                raise ValueError(f"{path}: {name}: encrypted; pack the archive again without a password")
            with _named(path, name), archive.open(infos[name]) as member:
                data = member.read()  # never more than the header's size, which was checked
            yield name, io.BytesIO(data)


class _Bounded:
    """A file for tarfile that refuses to read much at once: tarfile reads a long name whole, however long its header says it is."""

    def __init__(self, file):
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, count):
        if not 0 <= count <= MAX_BYTES:
            raise ValueError(f"a part of {count} bytes; the archive is damaged, or made to harm")
        return self.file.read(count)


@contextmanager
def _tar(path):
    """A .tar, .tar.gz, .tar.bz2 or .tar.xz, open for reading.

    Raises:
        tarfile.TarError: none of these.
    """
    with open(path, "rb") as file:
        start = file.read(6)
        file.seek(0)
        opener = next((o for magic, o in UNPACKS.items() if start.startswith(magic)), None)
        unpacked = opener(file) if opener else file
        with unpacked, tarfile.open(fileobj=_Bounded(unpacked), mode="r:") as archive:
            yield archive


UNPACKS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def _in_tar(path):
    members = {}

    def headers(archive):
        for member in archive:  # one after the other: of a compressed archive, members are unpacked on the way to the next header
            if member.isfile():
                yield member.name, member.size
                members[member.name] = member

    with _named(path), _tar(path) as archive:
        for name in _checked(path, headers(archive)):
            with _named(path, name):
                data = archive.extractfile(members[name]).read()
            yield name, io.BytesIO(data)


def _is_tar(path):
    try:
        with _tar(path):
            return True
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError):
        return False


def _in_folder(path):
    for inner in sorted(p for p in path.rglob("*") if _is_picture(p.relative_to(path).as_posix())):
        if not inner.is_dir():
            with images.open_file(inner) as file:
                yield str(inner), file


def _members(path):
    """(name, binary file) of each picture, in order of names."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if path.is_dir():
        return _in_folder(path)
    if stat.S_ISREG(path.stat().st_mode):  # what a pipe or a device is cannot be told without reading it
        if zipfile.is_zipfile(path):
            return _in_zip(path)
        with _named(path):
            if _is_tar(path):
                return _in_tar(path)
    raise ValueError(f"{path}: no folder, .zip or .tar of images")


def load(path, resolution):
    """Read every picture as `editor.images` reads photographs (upright, sRGB, on white), cut to its middle square and scaled.

    Returns:
        (names, uint8 [N, 3, R, R])

    Raises:
        ValueError, OSError: nothing there to train on, a file that is no whole picture, or an archive that is damaged,
            encrypted, or unpacks to absurd sizes; names archive and member.
    """
    names, pixels = [], []
    for name, file in _members(path):
        image = images.decode(file, name if Path(path).is_dir() else f"{path}: {name}")
        side = min(image.size)
        if image.size != (resolution, resolution):
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.resize(
                (resolution, resolution), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side), reducing_gap=2.0
            )
        names.append(name)
        pixels.append(np.asarray(image).transpose(2, 0, 1))
    if not names:
        raise ValueError(f"{path}: no pictures ({', '.join(images.suffixes())}) in it")
    return names, torch.from_numpy(np.stack(pixels))


def split(count, held_out=True):
    """(indices to train on, indices held out)."""
    every = torch.arange(count)
    if not held_out:
        return every, every[:0]
    last = every % HELD_OUT == HELD_OUT - 1
    return every[~last], every[last]


class Batches:
    """Batch i, for every i from 0 on: float [size, 3, R, R] in [-1, 1]. Each round has a new order, and half of the images are mirrored.

    A batch depends on its number and the seed only, so a run that goes on needs no state of it.

    Args:
        pictures: uint8 [N, 3, R, R]. indices: of those that are shown.
        size: images a batch, over all processes; fewer pictures than that come several times. What a round leaves over is left out.
        rank, ranks: of each batch, this process takes every `ranks`-th image from the `rank`-th on.
    """

    def __init__(self, pictures, indices, size, seed=0, flip=True, device="cpu", rank=0, ranks=1):
        self.pictures, self.indices, self.size, self.seed, self.flip, self.device = pictures, indices, size, seed, flip, device
        self.part = slice(rank, None, ranks)
        self.round, self.order = None, None

    def __getitem__(self, i):
        a_round = max(1, len(self.indices) // self.size)  # batches
        if self.round != i // a_round:
            self.round = i // a_round
            order = self.indices[torch.randperm(len(self.indices), generator=self._drawn("order", self.round))]
            self.order = order.repeat(-(-self.size // len(order)))
        first = i % a_round * self.size
        x = self.pictures[self.order[first : first + self.size][self.part]].to(self.device).float() / 127.5 - 1
        if self.flip:
            mirrored = (torch.rand(self.size, generator=self._drawn("flip", i)) < 0.5)[self.part].to(self.device)
            x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
        return x

    def _drawn(self, *what):
        return torch.Generator().manual_seed(resume.seed(self.seed, *what))
