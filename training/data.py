"""Training images: a folder, .zip or .tar of pictures -> one uint8 tensor in memory."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
HELD_OUT = 10  # of the sorted images, every tenth (index % 10 == 9) is never trained on


def _members(path):
    """(name, bytes) of each picture, in order of names."""
    path = Path(path)
    if path.is_dir():
        for p in sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS):
            yield str(p), p.read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(n for n in archive.namelist() if n.lower().endswith(ENDINGS)):
                yield name, archive.read(name)
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in sorted(
                (m for m in archive.getmembers() if m.isfile() and m.name.lower().endswith(ENDINGS)), key=lambda m: m.name
            ):
                yield member.name, archive.extractfile(member).read()
    else:
        raise ValueError(f"{path}: no folder, .zip or .tar of images")


def load(path, resolution):
    """Read every picture, cut to its middle square and scaled.

    Returns:
        (names, uint8 [N, 3, R, R])

    Raises:
        ValueError: nothing there to train on, or a file that is no whole picture (it is named).
    """
    names, pixels = [], []
    for name, data in _members(path):
        try:
            image = Image.open(io.BytesIO(data)).convert("RGB")
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path}: {name}: not a readable picture ({error})") from None
        side = min(image.size)
        if image.size != (resolution, resolution):
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.resize(
                (resolution, resolution), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side), reducing_gap=2.0
            )
        names.append(name)
        pixels.append(np.asarray(image).transpose(2, 0, 1))
    if not names:
        raise ValueError(f"{path}: no pictures ({', '.join(ENDINGS)}) in it")
    return names, torch.from_numpy(np.stack(pixels))


def split(count, held_out=True):
    """(indices to train on, indices held out)."""
    every = torch.arange(count)
    if not held_out:
        return every, every[:0]
    last = every % HELD_OUT == HELD_OUT - 1
    return every[~last], every[last]


def batches(images, indices, size, generator, flip=True, device="cpu"):
    """For ever: float [size, 3, R, R] in [-1, 1], in a new order each round, half of them mirrored."""
    while True:
        order = indices[torch.randperm(len(indices), generator=generator)]
        if len(order) < size:
            order = order.repeat(-(-size // len(order)))
        for chunk in order.split(size):
            if len(chunk) < size:
                break
            x = images[chunk].to(device).float() / 127.5 - 1
            if flip:
                mirrored = (torch.rand(size, generator=generator) < 0.5).to(device)
                x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
            yield x
