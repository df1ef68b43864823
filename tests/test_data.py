"""Training images: the right pixels of every kind of file, and archives that are damaged or made to harm."""

import bz2
import gzip
import io
import os
import resource
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from editor import images
from training import data


def png(picture, **options):
    whole = io.BytesIO()
    picture.save(whole, "PNG", **options)
    return whole.getvalue()


def noise(width=16, height=16, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pack(path, members):
    """A .zip or .tar of {name: bytes}."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Pixels


@pytest.mark.parametrize("size, box", [((16, 8), (4, 0, 12, 8)), ((8, 16), (0, 4, 8, 12))])
def test_the_middle_square_is_taken(tmp_path, size, box):
    picture = Image.new("RGB", size, "black")
    picture.paste((255, 255, 255), box)
    picture.save(tmp_path / "a.png")
    assert data.load(tmp_path, 8)[1].min() == 255


def test_pixels_are_those_of_images(tmp_path):
    """16-bit grey, a turned camera, colour under alpha 0 and a colour profile, in a folder and in a .zip."""
    from tests.test_images import swapped_profile

    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    clear.paste((10, 20, 30, 255), (0, 0, 8, 16))
    made = {
        "clear.png": png(clear),
        "grey16.png": png(Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)),
        "profile.png": png(noise(), icc_profile=swapped_profile()),
        "turned.png": png(noise(), exif=exif),
    }
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in made.items():
        (folder / name).write_bytes(content)
    wanted = torch.from_numpy(np.stack([np.asarray(images.open_image(folder / name)).transpose(2, 0, 1) for name in made]))
    names, pixels = data.load(folder, 16)
    assert [Path(name).name for name in names] == list(made) and torch.equal(pixels, wanted)
    assert (pixels[0, :, 0, 15] == 255).all() and pixels[1, 0, 8, 0] == 128
    assert torch.equal(pixels[3], torch.from_numpy(np.asarray(noise()).copy()).permute(2, 0, 1).rot90(-1, (1, 2)))
    assert torch.equal(data.load(pack(tmp_path / "a.zip", made), 16)[1], wanted)


def test_half_of_the_images_are_mirrored_and_none_stands_on_its_head():
    picture = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    source = data.Batches(picture, torch.tensor([0]), 64)
    mirrored = [torch.equal(x, picture[0].flip(2)) for x in ((source[0] + 1) * 127.5).round().byte()]
    assert 20 < sum(mirrored) < 44
    source = data.Batches(picture, torch.tensor([0]), 64)
    upright = [torch.equal(x, picture[0]) for x in ((source[0] + 1) * 127.5).round().byte()]
    assert sum(mirrored) + sum(upright) == 64


@pytest.mark.parametrize("where", ["folder", "a.zip", "a.tar"])
def test_what_hides_is_skipped(tmp_path, where):
    hidden = {"__MACOSX/faces/._0.png": b"\0\5\x16\7", "faces/._0.png": b"\0", ".cache/1.png": b"", "x.txt": b""}
    members = {"faces/0.png": png(noise())} | hidden
    if where == "folder":
        for name, content in members.items():
            (tmp_path / where / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / where / name).write_bytes(content)
    else:
        pack(tmp_path / where, members)
    names, pixels = data.load(tmp_path / where, 16)
    assert len(names) == 1 and torch.equal(pixels[0], torch.from_numpy(np.array(noise())).permute(2, 0, 1))


# ---------------------------------------------------------------------------------------------------------------------
# Archives that lie. Each entry writes `path` and returns its ending.


def a_zip(change=None, content=None, compression=zipfile.ZIP_DEFLATED):
    """A .zip with one picture, b.png; `change` may spoil its bytes."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", compression) as archive:
        archive.writestr("b.png", png(noise()) if content is None else content)
    return bytes(change(bytearray(whole.getvalue())) if change else whole.getvalue())


def put(place, value):
    """A change: `value` at `place` of the central directory's entry."""

    def change(whole):
        start = whole.index(b"PK\1\2") + place
        whole[start : start + len(value)] = value
        return whole

    return change


def tar_header(name="b.png", size=0, kind=b"0", number=None):
    info = tarfile.TarInfo(name)
    info.size, info.type = 0 if number else size, kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
    if number:  # base 256: what octal digits cannot say
        header[124:136] = number
        header[148:156] = b"        "
        header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


def two_of_a_name():
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for seed in (0, 1):
            info, content = tarfile.TarInfo("b.png"), png(noise(seed=seed))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return whole.getvalue()


def sparse():
    """10 kB that stand for 4 GB of holes."""
    info = tarfile.TarInfo("b.png")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "4000000000", "GNU.sparse.name": "b.png"}
    content = b"1\n0\n0\n".ljust(512, b"\0")
    info.size = len(content)
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(1024)


ZEROS = bytes(60_000_000)
HOSTILE = {
    "bomb.zip": (lambda: a_zip(content=bytes(110_000_000)), "b.png: 110000000 bytes"),
    "bzip2.zip": (lambda: a_zip(content=bytes(110_000_000), compression=zipfile.ZIP_BZIP2), "b.png: 110000000 bytes"),
    "small_bomb.zip": (lambda: a_zip(content=ZEROS), "b.png: not an image"),
    "encrypted.zip": (lambda: a_zip(put(8, b"\1\0")), "b.png: encrypted"),
    "says_less.zip": (lambda: a_zip(put(24, b"\5\0\0\0")), "b.png: "),
    "packed_less.zip": (lambda: a_zip(put(20, b"\5\0\0\0")), "packed_less.zip: "),
    "says_4gb.zip": (lambda: a_zip(put(24, b"\xfe\xff\xff\xff")), "b.png: 4294967294 bytes"),
    "method.zip": (lambda: a_zip(put(10, b"\x63\0")), "b.png: "),
    "version.zip": (lambda: a_zip(put(6, b"\xff\0")), "zip file version"),
    "offset.zip": (lambda: a_zip(put(42, b"\xff\xff\xff\x7f")), "b.png: "),
    "crc.zip": (lambda: a_zip(put(16, b"\0\0\0\0")), "b.png: "),
    "cut.zip": (lambda: a_zip()[:-30], "no folder, .zip or .tar"),
    "hollow.zip": (lambda: a_zip(lambda w: w[:40] + bytes(60) + w[100:]), "b.png: "),
    "no_picture.zip": (lambda: a_zip(content=b"hello"), "b.png: a text file"),
    "half.zip": (lambda: a_zip(content=png(noise(64, 64))[:900]), "b.png: "),
    "eps.zip": (lambda: a_zip(content=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n"), "b.png: a PostScript file"),
    "two.tar": (two_of_a_name, "b.png: two members"),
    "sparse.tar": (sparse, "b.png: 4000000000 bytes"),
    "huge.tar": (lambda: tar_header(size=8_000_000_000) + bytes(2000), "b.png: 8000000000 bytes"),
    "negative.tar": (lambda: tar_header(number=b"\xff" * 10 + b"\xfc\0") + bytes(2000), "b.png"),
    "long_name.tar": (lambda: tar_header(kind=b"L", size=8_000_000_000) + bytes(2000), "a part of"),
    "negative_name.tar": (lambda: tar_header(kind=b"L", number=b"\xff" * 10 + b"\xfc\0") + bytes(2000), "long_name|negative_name"),
    "pax.tar": (lambda: tar_header(kind=b"x", size=8_000_000_000) + bytes(2000), "a part of"),
    "cut.tar": (lambda: two_of_a_name()[:700], "unexpected end"),
    "bomb.tar.bz2": (lambda: bz2.compress(tar_header("x.bin", size=9_000_000_000) + ZEROS), "x.bin: "),
    "bomb.tar.gz": (lambda: gzip.compress(tar_header(kind=b"L", size=4_000_000_000) + ZEROS, 1), "a part of"),
    "cut.tar.gz": (lambda: gzip.compress(two_of_a_name())[:200], "cut.tar.gz"),
    "crc.tar.gz": (lambda: gzip.compress(two_of_a_name()[:2560])[:-8] + bytes(8), "crc.tar.gz"),
    "empty.zip": (lambda: b"", "no folder, .zip or .tar"),
    "text.tar": (lambda: b"hello" * 200, "no folder, .zip or .tar"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_one_line_and_little_memory(tmp_path, name):
    make, said = HOSTILE[name]
    (tmp_path / name).write_bytes(make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ValueError, OSError), match=said) as error:
        data.load(tmp_path / name, 16)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_names_that_climb_are_only_names(tmp_path):
    names, _ = data.load(pack(tmp_path / "a.zip", {"../../b.png": png(noise())}), 16)
    assert names == ["../../b.png"] and sorted(os.listdir(tmp_path)) == ["a.zip"]


def test_pipes_are_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "f.png")
    with pytest.raises(ValueError, match="f.png: a pipe"):
        data.load(tmp_path, 16)
    with pytest.raises(ValueError, match="f.png: no folder, .zip or .tar"):
        data.load(tmp_path / "f.png", 16)
    with pytest.raises(ValueError, match="nowhere: no such file"):
        data.load(tmp_path / "nowhere", 16)


def test_batches_of_two_processes_are_the_batch_of_one():
    pixels = torch.randint(0, 256, (10, 3, 4, 4), dtype=torch.uint8)
    whole, *parts = (data.Batches(pixels, torch.arange(9), 4, 5, rank=rank, ranks=ranks) for rank, ranks in ((0, 1), (0, 2), (1, 2)))
    for i in range(5):
        assert torch.equal(torch.stack([part[i] for part in parts], 1).flatten(0, 1), whole[i])


def test_a_batch_depends_on_its_number_only_and_a_round_shows_each_picture_once():
    pixels = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(-1, 3, 2, 2)
    source = data.Batches(pixels, torch.arange(8), 4)
    shown = [((source[i][:, 0, 0, 0] + 1) * 127.5).round().tolist() for i in range(6)]
    assert all(sorted(shown[i] + shown[i + 1]) == list(range(8)) for i in (0, 2, 4)) and len({tuple(x) for x in shown}) > 4
    assert torch.equal(source[1], data.Batches(pixels, torch.arange(8), 4)[1])
    assert not torch.equal(source[1], data.Batches(pixels, torch.arange(8), 4, seed=1)[1])
