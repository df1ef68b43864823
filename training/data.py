"""Training images: a folder, .zip or .tar of pictures -> uint8 pixels, in memory while they are few, else in a file of decoded pixels.

That file lies in the cache of the toolkit ($STYLEGAN_EDITOR_CACHE/pixels, else ~/.cache/stylegan_editor/pixels) under a name made of
the data's path and the side. It holds the pixels of all pictures, then JSON: which pictures, and what they were made of
(`archives.stamp`: names, sizes, times), so that it is made anew when they change. It can be removed at any time.
"""

import errno
import hashlib
import itertools
import json
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from editor import __version__, cli, downloads, files, images
from training import archives, resume

HELD_OUT = 10  # of the sorted images, every tenth (index % 10 == 9) is never trained on
IN_MEMORY = 256_000_000  # bytes of decoded pixels; more of them go to a file
MAX_PIXELS = 50_000_000  # of a picture: decoding it, with transparency, takes a gigabyte
FORMAT = 1  # of the files of pixels


class Pictures:
    """uint8 [N, 3, R, R] in a file of decoded pixels; what is indexed is read, and only that is in memory.

    Args:
        places: of picture i, which of the file's pictures it is.
    """

    def __init__(self, path, side, places):
        self.path, self.places = path, np.asarray(places, dtype=np.int64)
        self.shape = torch.Size((len(self.places), 3, side, side))
        self.file = open(path, "rb", buffering=0)  # kept open: another process may put a newer one in its place

    def __len__(self):
        return len(self.places)

    def __getitem__(self, which):
        """Pictures i, i:j or [i, j, ...] (a list or tensor): uint8 [3, R, R] or [n, 3, R, R].

        Raises:
            OSError: the file cannot be read, or has become shorter.
        """
        places = self.places[which.numpy() if torch.is_tensor(which) else which]
        found = torch.empty((places.size, *self.shape[1:]), dtype=torch.uint8)
        rows = found.view(places.size, self.shape[1:].numel()).numpy()
        for row, place in zip(rows, places.reshape(-1), strict=True):
            self.file.seek(int(place) * row.size)
            if self.file.readinto(row) != row.size:
                raise OSError(errno.EIO, "cut off since it was opened; start again", str(self.path))
        return found if places.ndim else found[0]


def load(path, resolution, failures=None, progress=None):
    """Read every picture as `editor.images` reads photographs (upright, sRGB, on white), cut to its middle square and scaled.

    Args:
        failures: a `cli.Failures`, which names what could not be read, and the rest is read (default: the first one is raised).
        progress: called with the number of pictures read so far.

    Returns:
        (names, uint8 [N, 3, R, R]: a tensor, or Pictures where that would be large), by name

    Raises:
        ValueError, OSError: nothing there to train on; without `failures`, also a file that is no whole picture, an archive that is
            damaged, encrypted, or unpacks to absurd sizes; a full disk. Names archive and member.
    """
    reading = _Reading(Path(path), resolution, failures, progress)
    names, pixels = reading.remembered() or reading.anew()
    if not names:
        why = f"; none of {len(reading.bad)} can be read" if reading.bad else f" ({', '.join(images.suffixes())}) in it"
        raise ValueError(f"{path}: no pictures{why}")
    return names, pixels


def read(path, resolution, quiet=False, failures=None):
    """`load` for a command: what cannot be read is named on stderr, and counted at the end; every ten seconds it says how far it is."""
    failures, began = failures or cli.Failures(), time.monotonic()
    said = began

    def progress(count):
        nonlocal said
        now = time.monotonic()
        if not quiet and now - said > 10:
            said = now
            cli.say(f"{count} pictures of {path} read, {count / (now - began):.0f} a second")

    names, pictures = load(path, resolution, failures, progress)
    if failures.names:
        cli.warn(f"{path}: {len(failures.names)} of {len(names) + len(failures.names)} pictures are left out; they were named above")
    return names, pictures


class _Reading:
    """One reading of a path's pictures: decoded anew, or as a file of pixels remembers them."""

    def __init__(self, path, side, failures, progress):
        self.path, self.side, self.failures, self.progress = path, side, failures, progress
        self.places, self.bad = {}, []  # {name: which of the decoded pictures it is}, [[name, why it could not be read]]
        self.about = {"format": FORMAT, "side": side, "read by": [__version__, PIL.__version__, *images.formats()],
                      "stamp": archives.stamp(path)}  # fmt: skip

    def fail(self, name, error):
        """Name what could not be read, or raise it where nobody wants to hear."""
        if self.failures is None:
            raise error
        self.bad.append([name, cli.one_line(error)])
        self.failures.add(*self.bad[-1])

    def decoded(self):
        """The pixels of each picture, uint8 [3, R, R], as it comes; `places` tells their names."""
        count, folder = 0, self.path.is_dir()
        for name, opened in archives.members(self.path):
            shown = name if folder or name == str(self.path) else f"{self.path}: {name}"
            try:
                with opened() as file:
                    pixels = _square(images.decode(file, shown, MAX_PIXELS), self.side)
            except (ValueError, OSError) as error:
                self.fail(shown, error)
                continue
            if name in self.places:
                self.fail(shown, ValueError(f"{shown}: two members have this name; the later one is taken, as it would be unpacked"))
            self.places[name], count = count, count + 1
            yield pixels
            if self.progress:
                self.progress(count)

    def order(self):
        """(names, their places), by name."""
        names = sorted(self.places, key=Path if self.path.is_dir() else None)
        return names, [self.places[name] for name in names]

    def anew(self):
        """(names, pixels) of the pictures, decoded; many of them go to a file on the way."""
        pixels, most = self.decoded(), IN_MEMORY // (3 * self.side**2)
        first = list(itertools.islice(pixels, most + 1))
        names, places = self.order()
        if len(first) <= most:
            return names, torch.from_numpy(np.stack([first[i] for i in places])) if names else None
        with _alone(self.target()):
            found = self.remembered()  # another process may have made it meanwhile
            if not found:
                self.remember(itertools.chain(first, pixels))
        return found or self.remembered()

    def target(self):
        """Where decoded pixels are kept."""
        of = hashlib.sha256(f"{self.path.resolve()} {self.side}".encode(errors="surrogateescape")).hexdigest()
        return downloads.cache_folder() / "pixels" / f"{of[:16]}-{self.side}.pixels"

    def remember(self, pixels):
        """Write the file of pixels.

        Raises:
            OSError: the disk is full, or the cache cannot be written to; names the file.
        """
        try:
            with files.atomic(self.target()) as temporary, open(temporary, "wb") as file:
                for picture in pixels:
                    file.write(picture.data)
                names, places = self.order()
                words = json.dumps(self.about | {"names": names, "places": places, "bad": self.bad}).encode()
                file.write(words + len(words).to_bytes(8, "little"))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            room = f"{error.strerror} for decoded pixels; set STYLEGAN_EDITOR_CACHE to a folder with more room"
            raise OSError(error.errno, room, error.filename) from None

    def remembered(self):
        """(names, Pictures) as the file of pixels has them; None where there is none of just these pictures."""
        target, each = self.target(), 3 * self.side**2
        try:
            with open(target, "rb") as file:
                size = file.seek(-8, os.SEEK_END)
                length = int.from_bytes(file.read(8), "little")
                file.seek(size - length)
                found = json.loads(file.read(length))
            whole = size - length == each * (max(found["places"], default=-1) + 1)
            if not whole or any(found[key] != value for key, value in self.about.items()):
                return None
        except (OSError, ValueError, KeyError, TypeError):  # none, or one that is damaged
            return None
        for name, why in found["bad"]:
            if self.failures is None or name not in self.failures.names:
                self.fail(name, ValueError(why))
        return found["names"], Pictures(target, self.side, found["places"])


@contextmanager
def _alone(target):
    """One process at a time makes a file: of several that train together, the others wait and read it."""
    files.check_writable(target)
    try:
        import fcntl
    except ImportError:  # Windows; each makes it, and the last one's stays
        yield
        return
    with open(target.with_suffix(".lock"), "w") as lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _square(image, side):
    """The middle square of a Pillow image, scaled: uint8 [3, side, side]."""
    if image.size != (side, side):
        least = min(image.size)
        left, top = (image.width - least) // 2, (image.height - least) // 2
        image = image.resize((side, side), Image.Resampling.LANCZOS, box=(left, top, left + least, top + least), reducing_gap=2.0)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def split(count, held_out=True):
    """(indices to train on, indices held out)."""
    every = torch.arange(count)
    if not held_out:
        return every, every[:0]
    last = every % HELD_OUT == HELD_OUT - 1
    return every[~last], every[last]


def parts(path, pictures):
    """`split` of pictures that came from `path`.

    Raises:
        ValueError: none of them is held out.
    """
    if len(pictures) < HELD_OUT:
        raise ValueError(f"{path}: {len(pictures)} pictures; give {HELD_OUT} or more, since every tenth is held out")
    return split(len(pictures))


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
