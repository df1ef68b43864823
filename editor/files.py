"""How a file is written: whole under its own name, or not at all; and how small text files are read without trust."""

import errno
import functools
import json
import os
import re
import stat
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_TEXT = 20_000_000  # bytes of a .json or .csv; more is no record of ours
LOCK = threading.RLock()
OURS = set()  # the names of this process's temporary files
JUST_NOW = 2_000_000_000  # ns; a file written so lately may change again without its time showing it, which ticks in milliseconds
TEMPORARY = re.compile(r"\.tmp-([0-9a-f]{6})-(\d+)-")


@contextmanager
def atomic(path):
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the ending of `path`, so that writers that choose a format by it work. When the block
    raises (a full disk, Ctrl-C, a crash of the writer), the temporary file is removed and an older `path` is untouched.
    Missing folders are made. What a killed process left in the folder is removed first.

    Raises:
        OSError: the folder cannot be made or written to, the disk is full, ...; names `path`, not the temporary file.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; results are ordinary ones
        os.replace(temporary, path)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        what = error.strerror or f"{error} (is the disk full?)"  # numpy and safetensors do not pass on what the system said
        raise OSError(error.errno or errno.EIO, what, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path):
    """A new empty file beside `path`; raises OSError that names `path`."""
    import tempfile  # here, so that a command stands ready for Ctrl-C at once

    _check_name(path)  # too long, a loop of links: the temporary name would not tell
    _make_folder(path.parent)
    with LOCK:
        _sweep(path.parent)
        try:
            handle, name = tempfile.mkstemp(prefix=f".tmp-{_host()}-{os.getpid()}-", suffix=path.suffix[-20:], dir=path.parent)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        OURS.add(os.path.basename(name))
    os.close(handle)
    return Path(name)


@functools.cache
def _host():
    """A word for this machine: process numbers mean nothing on another."""
    import hashlib
    import platform

    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


@functools.cache
def _sweep(folder):
    """Remove the temporary files of processes of this machine that are no more; once a folder and process.

    A file with this process's own number that is not this process's was left by one that had the number before: in a container
    every run may have the same.
    """
    with suppress(OSError):  # a folder that may be written to and not read, another user's file: what is left is hidden, and no data
        for entry in os.scandir(folder):
            found = TEMPORARY.match(entry.name)
            if found and found[1] == _host() and entry.name not in OURS and not _runs(int(found[2])):
                with suppress(OSError):
                    os.unlink(entry.path)


def _runs(process):
    """Whether another process of this number runs."""
    if process == os.getpid():
        return False
    if os.name == "nt":  # there the signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@functools.cache
def _umask():
    """The process's mask of permissions, asked once: there is no way to ask but to set it, which another thread's file would feel."""
    with LOCK:
        mask = os.umask(0)
        os.umask(mask)
    return mask


@contextmanager
def marker(folder):
    """An empty file in a folder for as long as the block runs, by which other machines see whether it is the same folder; its path."""
    path = _temporary(Path(folder) / "shared")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def alone_in(folder, busy):
    """Hold a folder (made if need be) against another process; the system lets go of it when this one ends, however it ends.

    Args:
        busy: what to say, after the folder's name, where another one holds it.

    Raises:
        ValueError: another one holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows cannot lock a folder
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError(f"{folder}: {busy}") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)


def check_writable(*paths):
    """Raise OSError if a file could not be written under one of these names: found before the work, not after it."""
    for path in map(Path, paths):
        if path.is_dir():
            raise OSError(errno.EISDIR, "a folder, expected the name of a file", str(path))
        _temporary(path).unlink()


def _make_folder(path):
    """Make a folder and those above it; one after the other, since pathlib's way fails a thousand folders deep."""
    if not path.is_dir():
        for folder in (*reversed(path.parents), path):
            folder.mkdir(exist_ok=True)


def _check_name(path):
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except ValueError:  # a null character
        raise ValueError(f"{str(path)!r}: not the name of a file") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def require_regular(path, what):
    """Raise ValueError unless `path` is a plain file: reading a pipe or a device might never end. `what` says what was expected."""
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path}: no such file; {what}") from None
    except ValueError:  # a null character in the name
        raise ValueError(f"{str(path)!r}: not the name of a file; {what}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: {'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'}, not a file; {what}")


def visible(folder, pattern):
    """The plain files of a folder whose names fit a pattern such as "*.npy", by name; hidden ones are no data."""
    return sorted(p for p in Path(folder).glob(pattern) if not p.name.startswith(".") and p.is_file())


def read_json(path, what):
    """A JSON file that others may have written -> its value.

    Raises:
        ValueError: missing, no plain file, too large, no JSON (NaN and infinity are none), nested too deep; `what` says what was expected.
    """
    require_regular(path, what)
    if os.stat(path).st_size > MAX_TEXT:
        raise ValueError(f"{path}: {os.stat(path).st_size} bytes; {what}")
    try:
        return json.loads(Path(path).read_bytes(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({str(error)[:100]}); {what}") from None


def _refuse(word):
    raise ValueError(f"it holds {word}")


def inside(path):
    """The folder in which a relative path counts, for a record; None for one that says so itself."""
    return None if os.path.isabs(path) else os.getcwd()


def _seen_from(record, folder):
    """A folder as a record names it: from its own folder on, so that a moved project, or another machine, finds it again."""
    try:
        return (
            os.path.relpath(folder, os.path.realpath(Path(record).parent)) if isinstance(folder, str) and os.path.isabs(folder) else folder
        )
    except ValueError:  # on another drive of Windows
        return folder


def folder_in(record, named):
    """The folder that a record names, absolute; None where it names none."""
    return os.path.normpath(os.path.join(os.path.realpath(Path(record).parent), named)) if isinstance(named, str) else None


def same_name(named, folder, path):
    """Whether `path` is the file that a record calls `named`, a path that counts in `folder` (None: an older record does not say it).

    Where the record's own file is gone, as in a project that was moved as a whole, the name counts in the current folder, too.
    """
    fits = os.path.abspath(str(named)) == os.path.abspath(path)
    if not isinstance(folder, str) or os.path.isabs(str(named)):
        return fits
    before = os.path.normpath(os.path.join(folder, str(named)))
    if os.path.exists(before):
        return before == os.path.abspath(path) or os.path.exists(path) and os.path.samefile(before, path)
    return fits


def typed(made_by):
    """{"argv": the words that a command was started with}, for its record; {} where it runs inside another program."""
    return {"argv": sys.argv[1:]} if Path(*sys.argv[:1]).name == made_by.split()[0] else {}


def write_json(path, value):
    """Write a record as JSON, whole or not at all; NaN and infinity, which JSON has no word for, are a ValueError.

    The folders in which its sources' relative paths count (`in`, `source_in`) are written as seen from the record's own: `folder_in` reads.
    """
    if isinstance(value, dict) and isinstance(value.get("sources"), dict):
        entries = {
            k: v | {"in": _seen_from(path, v["in"])} if isinstance(v, dict) and "in" in v else v for k, v in value["sources"].items()
        }
        value = value | {"sources": entries}
    if isinstance(value, dict) and "source_in" in value:
        value = value | {"source_in": _seen_from(path, value["source_in"])}
    text = json.dumps(value, indent=1, allow_nan=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def file_hash(path):
    """sha256 of a file, as hex; remembered while the file does not change."""
    found = os.stat(path)
    key = str(path), found.st_ino, found.st_size, found.st_mtime_ns
    return _hash.__wrapped__(*key) if time.time_ns() - found.st_mtime_ns < JUST_NOW else _hash(*key)


@functools.lru_cache(maxsize=64)
def _hash(path, inode, size, modified):
    import hashlib

    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
