"""Training images: the right pixels of every kind of file, and archives that are damaged or made to harm."""

import bz2
import errno
import gzip
import io
import os
import re
import resource
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from editor import cli, images
from training import archives, data


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


# ---------------------------------------------------------------------------------------------------------------------
# What is bad is named, and the rest is read


def names_of(names):
    return [Path(name).name for name in names]


def load(path, side=16):
    """(names, pixels, {name of what failed: why}), as a command loads."""

    class Noted(cli.Failures):
        def add(self, name, reason):
            super().add(name, reason)
            noted[str(name).removeprefix(f"{path}: ")] = reason

    noted = {}
    names, pixels = data.load(path, side, Noted())
    return names_of(names), pixels, noted


def is_noise(pixels, seed):
    return torch.equal(pixels, torch.from_numpy(np.array(noise(seed=seed))).permute(2, 0, 1))


def test_bad_members_of_a_zip_are_named_and_the_rest_is_read(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"a.png": png(noise()), "big.png": bytes(100_000_001), "code.png": png(noise()), "text.png": b"hello",
                              "two.png": png(noise(seed=1)), "z.png": png(noise(seed=2))}.items():  # fmt: skip
            archive.writestr(name, content)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "a.png")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("two.png", png(noise(seed=3)))
    whole = bytearray((tmp_path / "a.zip").read_bytes())
    whole[whole.rindex(b"code.png") - 46 + 8] |= 1  # encrypted
    (tmp_path / "a.zip").write_bytes(whole)
    names, pixels, failed = load(tmp_path / "a.zip")
    assert names == ["a.png", "two.png", "z.png"] and all(is_noise(p, seed) for p, seed in zip(pixels, (0, 3, 2), strict=True))
    said = {
        "big.png": "100000001 bytes",
        "code.png": "encrypted",
        "text.png": "a text file",
        "link.png": "a link",
        "two.png": "two members",
    }
    assert failed.keys() == said.keys() and all(said[name] in failed[name] for name in said)
    assert capsys.readouterr().err.count("\n") == 5


def tar_of(*members, mode="w"):
    """The bytes of a .tar of (name, content or type)."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode=mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes) and len(content) == 1:
                info.type, info.linkname = content, "a.png"
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return whole.getvalue()


def test_bad_members_of_a_tar_are_named_and_the_rest_is_read(tmp_path):
    members = [("z.png", png(noise(seed=2))), ("a.png", png(noise())), ("two.png", png(noise(seed=1))), ("text.png", b"hello"),
               ("soft.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("pipe.png", tarfile.FIFOTYPE), ("dir.png", tarfile.DIRTYPE),
               ("../two.png", png(noise(seed=4))), ("two.png", png(noise(seed=3)))]  # fmt: skip
    for name, mode in {"a.tar": "w", "a.tar.gz": "w:gz", "a.tar.xz": "w:xz"}.items():
        (tmp_path / name).write_bytes(tar_of(*members, mode=mode))
        names, pixels, failed = load(tmp_path / name)
        assert names == ["two.png", "a.png", "two.png", "z.png"]
        assert all(is_noise(p, seed) for p, seed in zip(pixels, (4, 0, 3, 2), strict=True))
        said = {"text.png": "a text file", "soft.png": "a link", "hard.png": "a link", "pipe.png": "no ordinary", "two.png": "two members"}
        assert failed.keys() == said.keys() and all(said[key] in failed[key] for key in said)


SPOILED = {  # what happens to a .tar of a.png and b.png, of a header and two blocks each: what is said
    "no end": (lambda whole: whole[:3072], "damaged or cut off after b.png"),
    "header": (lambda whole: whole[:1536] + b"x" * 512 + whole[1536:], "damaged or cut off after a.png"),
    "cut": (lambda whole: whole[:2500], "b.png: unexpected end"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_tar_that_is_damaged_on_the_way_says_so(tmp_path, name):
    """tarfile takes what it does not understand for the end."""
    change, said = SPOILED[name]
    whole = tar_of(("a.png", png(noise(8)) + bytes(500)), ("b.png", png(noise(8)) + bytes(500)))
    (tmp_path / "a.tar").write_bytes(change(whole))
    names, _, failed = load(tmp_path / "a.tar")
    assert names == ["a.png", "b.png"][: len(names)] and len(names) == (2 if name == "no end" else 1) and re.search(said, str(failed))


def test_a_checksum_that_does_not_fit_is_said(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(("a.png", png(noise()))))[:-8] + bytes(8))
    names, _, failed = load(tmp_path / "a.tar.gz")
    assert names == ["a.png"] and "CRC" in failed[str(tmp_path / "a.tar.gz")]


def test_a_member_that_unpacks_to_more_than_it_says_takes_no_memory(tmp_path):
    (tmp_path / "a.zip").write_bytes(a_zip(put(24, b"\5\0\0\0"), content=bytes(400_000_000)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="none of 1 can be read"):
        data.load(tmp_path / "a.zip", 16, cli.Failures())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_archives_that_unpack_without_end_are_left(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 20_000)
    content = png(noise(8, 8)) + bytes(9_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(90):
            archive.writestr(f"{i:02}.png", content)
    monkeypatch.setattr(archives, "MAX_RATIO", 3)
    names, _, failed = load(tmp_path / "a.zip")
    assert 0 < len(names) < 90 and "the rest is left out" in failed[str(tmp_path / "a.zip")]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(*((f"{i:02}.png", content) for i in range(90)))))
    names, _, failed = load(tmp_path / "a.tar.gz")
    assert 0 < len(names) < 90 and "the rest is left out" in failed[str(tmp_path / "a.tar.gz")]


def test_bad_files_of_a_folder_are_named_and_counted(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(png(noise()))
    (tmp_path / "b.png").write_bytes(png(noise())[:60])
    (tmp_path / "c.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "d.png")
    huge = Image.new("L", (8000, 8000)).resize((8000, 8000))
    huge.save(tmp_path / "e.png")
    names, _ = data.read(tmp_path, 16)
    said = capsys.readouterr().err
    assert names_of(names) == ["a.png"] and "4 of 5 pictures are left out" in said
    assert re.search(r"b\.png: .*\n.*c\.png: No such file.*\n.*d\.png: a pipe.*\n.*e\.png: too large \(8000x8000\)", said)


# ---------------------------------------------------------------------------------------------------------------------
# The file of decoded pixels


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of nine pictures, too many to keep in memory, one of which is none; and a cache of its own."""
    monkeypatch.setenv("STYLEGAN_EDITOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "IN_MEMORY", 3 * 16 * 16 * 4)
    for i in range(9):
        (tmp_path / "in" / "sub").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / ("sub" if i % 2 else ".") / f"{i}.png").write_bytes(png(noise(seed=i)) if i != 5 else b"text")
    return tmp_path / "in"


def undecoded(monkeypatch):
    def decode(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(images, "decode", decode)


def test_many_pictures_lie_in_a_file_and_are_the_same(folder, tmp_path, monkeypatch):
    names, pixels, failed = load(folder)
    assert isinstance(pixels, data.Pictures) and names == [f"{i}.png" for i in (0, 2, 4, 6, 8, 1, 3, 7)] and "a text file" in str(failed)
    (file,) = (tmp_path / "cache" / "pixels").glob("*.pixels")
    with monkeypatch.context() as patch:
        patch.setattr(data, "IN_MEMORY", 10**9)
        file.rename(tmp_path / "aside")
        whole = load(folder)[1]
        (tmp_path / "aside").rename(file)
    assert torch.is_tensor(whole) and len(pixels) == 8 and pixels.shape == whole.shape == (8, 3, 16, 16)
    for which in (torch.tensor([7, 0, 0]), slice(2, 5), [1], torch.arange(0)):
        assert torch.equal(pixels[which], whole[which])
    assert torch.equal(pixels[3], whole[3])
    batches = [data.Batches(x, torch.arange(8), 4)[1] for x in (pixels, whole)]
    assert torch.equal(*batches)
    undecoded(monkeypatch)
    again = load(folder)
    assert again[0] == names and again[2] == failed and torch.equal(again[1][:], whole)
    with pytest.raises(ValueError, match="5.png: a text file"):
        data.load(folder, 16)


def test_pictures_that_changed_are_decoded_again(folder, tmp_path, monkeypatch):
    load(folder)
    (folder / "0.png").write_bytes(png(noise(seed=100)))
    assert is_noise(load(folder)[1][0], 100)
    (folder / "new.png").write_bytes(png(noise()))
    assert "new.png" in load(folder)[0]
    assert load(folder, 32)[1].shape[2] == 32 and len(list((tmp_path / "cache" / "pixels").glob("*.pixels"))) == 2
    monkeypatch.setattr(images, "formats", lambda: ("PNG",))  # another Pillow reads other files
    undecoded(monkeypatch)
    with pytest.raises(AssertionError, match="decoded again"):
        load(folder)


@pytest.mark.parametrize(
    "spoil", [lambda b: b"", lambda b: b[:-1], lambda b: b[9:], lambda b: b[:-8] + b"\xff" * 8, lambda b: bytes(len(b))]
)
def test_a_damaged_file_of_pixels_is_made_again(folder, tmp_path, spoil):
    load(folder)
    (file,) = (tmp_path / "cache" / "pixels").glob("*.pixels")
    file.write_bytes(spoil(file.read_bytes()))
    assert is_noise(load(folder)[1][0], 0)


def test_a_full_disk_and_a_kill_leave_no_file_of_pixels(folder, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, part):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(data, "open", lambda path, mode: Full() if mode == "wb" else open(path, mode), raising=False)
        with pytest.raises(OSError, match="No space left .* STYLEGAN_EDITOR_CACHE") as error:
            load(folder)
    assert error.value.filename.endswith("-16.pixels")

    def stopped(count):
        if count == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.load(folder, 16, cli.Failures(), stopped)
    assert [p.suffix for p in (tmp_path / "cache" / "pixels").iterdir()] == [".lock"]
    assert is_noise(load(folder)[1][0], 0)


def test_a_file_of_pixels_that_is_cut_off_while_it_is_open_is_one_line(folder, tmp_path):
    pixels = load(folder)[1]
    os.truncate(pixels.path, 5 * 768)
    with pytest.raises(OSError, match="cut off"):
        pixels[:]
