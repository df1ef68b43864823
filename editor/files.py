"""How a file is written: whole under its own name, or not at all."""

import errno
import functools
import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path):
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the ending of `path`, so that writers that choose a format by it work. When the block
    raises (a full disk, Ctrl-C, a crash of the writer), the temporary file is removed and an older `path` is untouched.
    Missing folders are made.

    Raises:
        OSError: the folder cannot be made or written to, the disk is full, ...; names `path`, not the temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; results are ordinary ones
        os.replace(temporary, path)
    except OSError as error:
        if error.filename not in (None, name):
            raise
        what = error.strerror or f"{error} (is the disk full?)"  # numpy and safetensors do not pass on what the system said
        raise OSError(error.errno or errno.EIO, what, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@functools.lru_cache(maxsize=16)
def _hash(path, size, modified):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def file_hash(path):
    """sha256 of a file, as hex; remembered while the file does not change."""
    stat = os.stat(path)
    return _hash(str(path), stat.st_size, stat.st_mtime_ns)
