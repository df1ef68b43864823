"""The pictures of a folder, a .zip or a .tar, one after the other, and no more than one of them in memory.

What is wrong with one of them is its own error, and the next one follows; what is wrong with an archive from some place on (damaged,
cut off, unpacking without end) is an error that has the archive's name, and the last.
"""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from editor import images

MAX_BYTES = 100_000_000  # of one picture in an archive; a header that says more is refused
MAX_RATIO = 100  # how often its own size an archive may unpack to, when that is more than MAX_BYTES; pictures hardly shrink
MAX_HEADER = 1_000_000  # bytes that one entry of a .tar may take to say its name; long names and comments take some hundreds
CHUNK = 4096  # compressed bytes that are unpacked at once: bzip2 makes 80 MB of them at the most
LAST = 512 * b"\0"  # the block that ends a .tar


def members(path):
    """(name, open) of each picture, `open()` being a context manager that gives a binary file or raises ValueError or OSError.

    It is called before the next picture is asked for, or not at all. A folder's pictures come by their names, a .zip's, too; a .tar's
    as they lie in it. Archives that hold two pictures of one name give both, the one that unpacking would leave last.

    Raises:
        ValueError, OSError: no folder and no archive; names it.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if path.is_dir():
        return _in_folder(path)
    if stat.S_ISREG(path.stat().st_mode):  # what a pipe or a device is cannot be told without reading it
        if zipfile.is_zipfile(path):
            return _in_zip(path)
        if _is_tar(path):
            return _in_tar(path)
    raise ValueError(f"{path}: no folder, .zip or .tar of images")


def is_picture(name):
    """Whether a path inside a folder or archive is called like a picture; what hides (`.x`, `__MACOSX/._x.png`) is none."""
    path = PurePosixPath(name)
    hidden = any(part == "__MACOSX" or part.startswith(".") and part not in (".", "..") for part in path.parts)
    return path.suffix.lower() in images.suffixes() and not hidden


def stamp(path):
    """What changes when the pictures do: names, sizes and times of a folder's files, or of an archive; a list for JSON.

    A file whose times were set back to what they were, and whose size is the same, is not seen to differ.
    """
    path = Path(path)
    files = _files(path)[0] if path.is_dir() else [path]
    found = []
    for file in files:
        try:
            about = os.stat(file)
        except OSError:
            found.append([os.fspath(file)])
        else:
            found.append([os.fspath(file), about.st_size, about.st_mtime_ns, about.st_ctime_ns])
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def _fails(error):
    """An `open` of a member that cannot be opened."""

    @contextmanager
    def opened():
        raise error
        yield

    return opened


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


def _limit(path):
    """How many bytes an archive may unpack to."""
    return max(MAX_BYTES, MAX_RATIO * os.stat(path).st_size)


def _beyond(path, name):
    words = f"{os.stat(path).st_size} bytes unpack to more than {MAX_RATIO} times as many: no archive of pictures"
    return ValueError(f"{path}: {name}: {words}; the rest is left out")


def _too_large(size):
    return ValueError(f"{size} bytes unpacked; a picture has at most {MAX_BYTES}")


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def _files(folder):
    """(pictures of a folder and those below it, by name; [OSError] of folders that could not be read)."""
    found, errors = [], []
    for here, below, names in os.walk(folder, onerror=errors.append):
        inner = Path(here).relative_to(folder)
        below[:] = [name for name in below if is_picture((inner / name / "x.png").as_posix())]  # hidden ones are not looked into
        found += [Path(here) / name for name in names if is_picture((inner / name).as_posix())]
    return sorted(found), errors


def _in_folder(folder):
    found, errors = _files(folder)
    for error in errors:
        yield error.filename, _fails(error)
    for path in found:

        @contextmanager
        def opened(path=path):
            with images.open_file(path) as file:
                yield file

        yield os.fspath(path), opened


# ---------------------------------------------------------------------------------------------------------------------
# .zip


def _in_zip(path):
    with _named(path):
        archive = zipfile.ZipFile(path)
    left = _limit(path)
    with archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):  # stable: of one name, the later one comes later
            if info.is_dir() or not is_picture(info.filename):
                continue
            left -= info.file_size if info.file_size <= MAX_BYTES else 0  # else it is not unpacked
            if left < 0:
                yield os.fspath(path), _fails(_beyond(path, info.filename))
                return

            @contextmanager
            def opened(info=info):
                with _named(path, info.filename):
                    whole = io.BytesIO(_unpacked(archive, info))
                yield whole

            yield info.filename, opened


def _unpacked(archive, info):
    """The bytes of a member of a .zip, which its header may lie about: never more than MAX_BYTES in memory, and a little."""
    if info.file_size > MAX_BYTES:
        raise _too_large(info.file_size)
    if info.flag_bits & 1:
        raise ValueError("encrypted; pack the archive again without a password")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError("a link, which is not followed")
    parts = []
    with archive.open(info) as member:
        while part := member.read(CHUNK):
            parts.append(part)
    return b"".join(parts)


# ---------------------------------------------------------------------------------------------------------------------
# .tar


class _Bounded:
    """A file for tarfile that gives so many bytes and no more: tarfile reads a long name whole, however long its header says it is."""

    def __init__(self, file):
        self.file, self.seek, self.tell = file, file.seek, file.tell
        self.left, self.last = MAX_HEADER, b""

    def read(self, count):
        if not 0 <= count <= self.left:
            raise ValueError(f"a part of {count} bytes where {self.left} are left; the archive is damaged, or made to harm")
        self.left -= count
        self.last = self.file.read(count)
        return self.last


UNPACKS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


@contextmanager
def _tar(path):
    """(archive, its _Bounded file) of a .tar, .tar.gz, .tar.bz2 or .tar.xz.

    Raises:
        tarfile.TarError: none of these.
    """
    with open(path, "rb") as file:
        start = file.read(6)
        file.seek(0)
        opener = next((o for magic, o in UNPACKS.items() if start.startswith(magic)), None)
        with opener(file) if opener else file as unpacked:
            bounded = _Bounded(unpacked)
            with tarfile.open(fileobj=bounded, mode="r:") as archive:
                yield archive, bounded


def _is_tar(path):
    try:
        with _named(path), _tar(path):
            return True
    except (ValueError, OSError) as error:
        if "made to harm" in str(error):  # a .tar whose first header lies
            raise
        return False


def _in_tar(path):
    limit, name, end = _limit(path), None, 0
    with _tar(path) as (archive, file):
        while True:
            try:
                if end > limit:  # the next one lies behind all this
                    raise _beyond(path, name)
                with _named(path):
                    member = _next(archive, file)
                    if member is None:
                        _require_end(file, name)
                        return
                    if member.size < 0:  # a loop without end in older versions of tarfile
                        raise ValueError(f"{member.name}: a size of {member.size} bytes; the archive is damaged, and the rest is left out")
            except (ValueError, OSError) as error:
                yield os.fspath(path), _fails(error)
                return
            name, end = member.name, archive.offset
            if is_picture(name) and not member.isdir():

                @contextmanager
                def opened(member=member):
                    with _named(path, member.name):
                        whole = io.BytesIO(_contents(archive, file, member))
                    yield whole

                yield name, opened


def _next(archive, file):
    """The next member, or None; tarfile itself would remember them all."""
    file.left = MAX_HEADER
    archive.members.clear()
    return archive.next()


def _contents(archive, file, member):
    if member.issym() or member.islnk():
        raise ValueError("a link, which is not followed")
    if not member.isfile():
        raise ValueError("no ordinary file")
    if member.size > MAX_BYTES:
        raise _too_large(member.size)
    file.left = member.size + 2 * tarfile.RECORDSIZE
    data = archive.extractfile(member).read()
    if len(data) != member.size:
        raise ValueError(f"{len(data)} bytes of {member.size}: the archive is cut off")
    return data


def _require_end(file, name):
    """Raise ValueError unless the .tar was read to its end mark, and to the end of a compressed file, whose checksum stands there.

    tarfile takes whatever it does not understand for the end.
    """
    if file.last != LAST:
        raise ValueError(f"damaged or cut off after {name}; the rest is left out")
    for _ in range(10 * MAX_HEADER // CHUNK):  # zeros that fill it up
        if not file.file.read(CHUNK):
            return
