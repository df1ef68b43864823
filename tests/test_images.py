"""Photographs of every kind in, files whole or not at all out."""

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFont

from editor import cli, files, images

ROOT = Path(__file__).resolve().parent.parent
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def photo(width=64, height=48, seed=0):
    """A smooth picture with some noise."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 255 / width, y * 255 / height, 128 + 60 * np.sin(x / 5)], -1)
    return Image.fromarray(np.uint8(np.clip(picture + np.random.RandomState(seed).randn(height, width, 3) * 8, 0, 255)))


# ---------------------------------------------------------------------------------------------------------------------
# Every kind of pixel


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_pixels_come_back_exactly(tmp_path, ending):
    picture = photo(32, 32)
    picture.save(tmp_path / f"a{ending}", **({"lossless": True} if ending == ".webp" else {}))
    x = images.load(tmp_path / f"a{ending}", 32)
    assert x.shape == (1, 3, 32, 32) and x.dtype == torch.float32 and x.min() >= -1 and x.max() <= 1
    assert np.array_equal(images.to_uint8(x)[0], np.asarray(picture))


@pytest.mark.parametrize("ending", list(images.WRITES))
def test_what_is_saved_is_read(tmp_path, ending):
    picture = np.asarray(photo(32, 32))
    images.save(tmp_path / "new" / f"a{ending}", picture)
    back = np.asarray(images.open_image(tmp_path / "new" / f"a{ending}"), int)
    assert np.abs(back - picture).mean() < (4 if "jp" in ending else 1e-9)
    assert os.listdir(tmp_path / "new") == [f"a{ending}"]


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(np.asarray(images.open_image(tmp_path / name))[..., 0], values // 257)


def test_cmyk_jpeg(tmp_path):
    inks = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    inks.paste((255, 0, 0, 0), (0, 0, 8, 16))  # cyan on the left
    inks.save(tmp_path / "a.jpg", quality=100)
    image = images.open_image(tmp_path / "a.jpg")
    assert image.mode == "RGB"
    for place, wanted in [((2, 8), (0, 255, 255)), ((13, 8), WHITE)]:
        assert np.abs(np.subtract(image.getpixel(place), wanted)).max() < 25


def test_palette_and_its_transparent_colour(tmp_path):
    indexed = Image.new("P", (8, 8), 0)
    indexed.putpalette([*RED, *GREEN, *BLUE])
    indexed.paste(1, (0, 0, 4, 8))
    indexed.save(tmp_path / "a.png")
    indexed.save(tmp_path / "b.gif", transparency=1)
    assert images.open_image(tmp_path / "a.png").getpixel((1, 1)) == GREEN
    assert images.open_image(tmp_path / "b.gif").getpixel((1, 1)) == WHITE and images.open_image(tmp_path / "b.gif").getpixel((6, 1)) == RED


@pytest.mark.parametrize("mode, seen", [("RGBA", (255, 127, 127)), ("LA", (165, 165, 165))])
def test_transparent_pixels_lie_on_white(tmp_path, mode, seen):
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 128)).convert(mode)
    clear.save(tmp_path / "a.png")
    red = images.open_image(tmp_path / "a.png")
    assert red.mode == "RGB" and np.abs(np.subtract(red.getpixel((4, 4)), seen)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_and_black_and_white(tmp_path, mode):
    photo().convert(mode).save(tmp_path / "a.png")
    image = images.open_image(tmp_path / "a.png")
    assert image.mode == "RGB" and np.array_equal(np.asarray(image)[..., 0], np.asarray(photo().convert(mode).convert("L")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    """The picture is stored as a camera held otherwise would; it must come out upright."""
    upright = Image.new("RGB", (32, 16), WHITE)
    upright.paste(RED, (0, 0, 16, 8))  # top left
    T = Image.Transpose
    turns = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90, 7: T.TRANSVERSE, 8: T.ROTATE_270}
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(images.open_image(tmp_path / "a.png")), np.asarray(upright))


def swapped_profile():
    """sRGB with the primaries of red and green exchanged, under another name."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"____"), (b"gXYZ", b"rXYZ"), (b"____", b"gXYZ")):
        srgb = srgb.replace(old, new, 1)
    return srgb.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))


def test_a_colour_profile_is_followed(tmp_path):
    """A profile that is not sRGB changes the numbers; sRGB's own leaves them alone."""
    for mode in ("RGB", "P", "RGBA"):
        Image.new("RGB", (8, 8), RED).convert(mode).save(tmp_path / "swapped.png", icc_profile=swapped_profile())
        assert np.abs(np.subtract(images.open_image(tmp_path / "swapped.png").getpixel((4, 4)), GREEN)).max() <= 2, mode
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo().save(tmp_path / "a.png", icc_profile=srgb)
    assert np.array_equal(np.asarray(images.open_image(tmp_path / "a.png")), np.asarray(photo()))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # of no use for RGB: ignored
    photo().save(tmp_path / "b.png", icc_profile=lab)
    photo().save(tmp_path / "c.png", icc_profile=b"no profile")
    for name in ("b.png", "c.png"):
        assert np.array_equal(np.asarray(images.open_image(tmp_path / name)), np.asarray(photo()))


def test_of_an_animation_the_first_frame(tmp_path):
    Image.new("RGB", (8, 8), RED).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), BLUE)])
    assert images.open_image(tmp_path / "a.gif").getpixel((0, 0)) == RED


# ---------------------------------------------------------------------------------------------------------------------
# Bad files


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width, height):
    """A PNG whose header promises much and whose data hold nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def jpeg(part):
    whole = io.BytesIO()
    photo(256, 256).save(whole, "JPEG", quality=90)
    return whole.getvalue()[: int(len(whole.getvalue()) * part)]


BAD = {
    "zero.png": (b"", "an empty file"),
    "text.png": (b"This is not a picture.\n", "a text file"),
    "page.jpg": (b"<!DOCTYPE html><html></html>", "a web page"),
    "header.jpg": (jpeg(0.01), "damaged|not an image"),
    "third.jpg": (jpeg(0.3), "damaged"),
    "nearly.jpg": (jpeg(0.95), "damaged"),
    "one.png": (png_of(1, 1), r"too small \(1x1\)"),
    "thin.png": (png_of(3000, 2), "too small"),
    "huge.png": (png_of(20_000, 20_000), "too large"),
    "large.png": (png_of(12_500, 12_500), r"too large \(12500x12500\)"),
    "hollow.png": (png_of(100, 100), "damaged"),
    "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(60), "HEIC"),
    "camera.nef": (png_of(64, 64), "a camera's raw file"),
    "eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n", "a PostScript file"),
    "dos_eps.jpg": (b"\xc5\xd0\xd3\xc6" + bytes(60), "a PostScript file"),
    "pdf.png": (b"%PDF-1.7\n" + bytes(60), "a PDF file"),
    "psd.png": (b"8BPS\0\1" + bytes(60), "a Photoshop file"),
    "zip.png": (b"PK\3\4" + bytes(60), "a zip archive"),
    "video.png": (b"\0\0\0\x18ftypmp42" + bytes(60), "a video"),
    "icns.png": (b"icns\0\0\0\x80ic07\0\0\0\x78" + png_of(60_000, 60_000), "not an image"),
    "blp.png": (b"BLP2" + bytes(1200), "not an image"),
    "empty_sky.png": (png_of(5_000, 5_000), "5000x5000 pixels in [0-9]+ bytes: no photograph"),
    "long_text.png": (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", bytes([0, 0, 0, 9, 0, 0, 0, 9, 8, 2, 0, 0, 0]))
        + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(20 << 20))),
        "damaged",
    ),
    "noise.png": (bytes(range(256)), "not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line_and_exit_2(tmp_path, monkeypatch, capsys, name):
    content, said = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        images.open_image(tmp_path / name)
    monkeypatch.setattr(sys, "argv", ["encode_image.py", str(tmp_path / name)])
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda argv: images.load(argv[0], 64))
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and not out
    assert err.count("\n") == 1 and err.startswith("encode_image.py: ") and name in err


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(OSError) as error:
            images.open_image(path)
        assert str(path) in cli.one_line(error.value)


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path, said in ((tmp_path / "a.png", "a pipe"), ("/dev/zero", "a device")):
        for read in (images.open_image, images.open_file, images.is_animation):
            with pytest.raises(ValueError, match=f"{path}: {said}, expected a file"):
                read(path)


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    """Pillow hands what begins like PostScript, whatever its name, to a program called gs."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "me.png").write_bytes(BAD["eps.png"][0])
    with pytest.raises(ValueError, match="a PostScript file"):
        images.open_image(tmp_path / "me.png")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Exception), Image.open(tmp_path / "me.png") as image:  # noqa: B017 - what comes of a gs that makes nothing
        image.load()
    assert (tmp_path / "ran").exists()  # so it would have, asked without formats


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to decode"), MemoryError(), RecursionError("deep"), AttributeError("x"), KeyError("\n")]
)
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    photo().save(tmp_path / "a.png")

    def fail(image):
        raise error

    monkeypatch.setattr(images, "_to_rgb", fail)
    with pytest.raises(ValueError, match="a.png: ") as raised:
        images.open_image(tmp_path / "a.png")
    assert "\n" not in cli.one_line(raised.value)
    monkeypatch.setattr(images, "_to_rgb", lambda image: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):  # a disk that fails is no damaged picture
        images.open_image(tmp_path / "a.png")


def test_16_bit_grey_takes_no_memory_of_floats(tmp_path):
    Image.fromarray(np.full((2000, 3000), 257 * 9, np.uint16)).save(tmp_path / "a.png")
    tracemalloc.start()
    try:
        assert images.open_image(tmp_path / "a.png").getpixel((2999, 1999)) == (9, 9, 9)
        assert tracemalloc.get_traced_memory()[1] < 25_000_000  # numpy's part; 48 million in floats
    finally:
        tracemalloc.stop()


def test_16_bit_grey_rounds_to_the_nearest_level(tmp_path):
    values = np.arange(65536).reshape(256, 256)
    for kind in ("uint16", ">u2"):
        Image.fromarray(values.astype(kind)).save(tmp_path / "a.tif")
        assert np.array_equal(np.asarray(images.open_image(tmp_path / "a.tif"))[..., 0], np.rint(values / 257))


SEEDS = {
    "PNG": {}, "JPEG": {"quality": 90}, "WEBP": {}, "GIF": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "PPM": {}, "AVIF": {},
    "JPEG2000": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", SEEDS)
def test_damaged_files_of_every_format_are_read_or_refused(tmp_path, kind):
    """Cut off, and with bytes flipped: 60 of each."""
    whole, rng, path = io.BytesIO(), np.random.default_rng(0), tmp_path / "a.png"
    if kind not in images.formats():
        pytest.skip(f"this Pillow has no {kind}")
    photo(40, 40).save(whole, kind, **SEEDS[kind])
    for i in range(60):
        content = bytearray(whole.getvalue())
        if i % 4 == 0:
            content = content[: rng.integers(len(content))]
        else:
            for place in rng.integers(0, len(content) if i % 2 else min(400, len(content)), rng.integers(1, 9)):
                content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            assert images.open_image(path).mode == "RGB"
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


@settings(deadline=None, max_examples=50, derandomize=True)  # seeded; a busy machine is no failure
@given(place=st.integers(2, 4000), byte=st.integers(0, 255))
def test_a_flipped_byte_is_read_or_refused(tmp_path_factory, place, byte):
    content = bytearray(jpeg(1))
    content[place % len(content)] = byte
    path = tmp_path_factory.mktemp("flipped") / "a.jpg"
    path.write_bytes(content)
    try:
        assert images.open_image(path).mode == "RGB"
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (64, 62)])
def test_an_image_that_is_not_square(tmp_path, size):
    photo(*size).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="expected a square image; .*align_images"):
        images.load(tmp_path / "a.png", 64)


def test_a_pixel_off_square_and_another_size_are_resized(tmp_path):
    photo(65, 64).save(tmp_path / "a.png")
    x = images.load(tmp_path / "a.png", 32)
    assert x.shape == (1, 3, 32, 32)
    expected = photo(65, 64).resize((32, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(images.to_uint8(x)[0], np.asarray(expected))


# ---------------------------------------------------------------------------------------------------------------------
# Full disk, folders that cannot be written

WRITERS = {
    "a.png": "images.save(path, np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8))",
    "a.npy": "import torch; from editor import face; face.write(path, torch.zeros(1, 10, 512))",
    "a.safetensors": "from editor import checkpoints; from stylegan_layers import Config, Generator; "
    "checkpoints.save(path, Generator(Config('stylegan2', 8, 64, 8, 1, 16, 16)))",
}


@pytest.mark.skipif(os.name == "nt", reason="no file size limit on Windows")
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_nothing_half_written(tmp_path, name):
    (tmp_path / name).write_bytes(b"older")
    program = (
        "import resource, sys, numpy as np\nfrom editor import cli, images\n"
        "def main(argv):\n"
        "    path = argv[0]\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"  # the system stops writing there, as on a full disk
        f"    {WRITERS[name]}\n"
        "cli.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert str(tmp_path / name) in done.stderr and ("File too large" in done.stderr or "is the disk full?" in done.stderr)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"older"


def test_no_space_left(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as error:
        images.save(tmp_path / "a.png", photo())
    assert cli.one_line(error.value) == f"{tmp_path / 'a.png'}: No space left on device"
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_or_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "a.png").mkdir()
    for path in (tmp_path / "file" / "a.png", tmp_path / "a.png"):
        with pytest.raises(OSError) as error:
            images.save(path, photo())
        assert str(tmp_path) in cli.one_line(error.value) and "/." not in cli.one_line(error.value)
    assert sorted(os.listdir(tmp_path)) == ["a.png", "file"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, OSError])
def test_a_writer_that_stops_leaves_the_older_file(tmp_path, stop):
    (tmp_path / "a.txt").write_text("older")
    with pytest.raises(stop), files.atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise stop("stopped")
    assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "older"


def test_an_ending_that_cannot_be_written(tmp_path):
    for name in ("a.xyz", "a"):
        with pytest.raises(ValueError, match=r"use \.png"):
            images.save(tmp_path / name, photo())
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------------------------------------------------------
# Names, rounding, masks, sheets


def test_natural_order(tmp_path):
    names = ["img10.png", "img2.png", "Img1.png", "2.png", "10.png", "img2b.png", "img02.png"]
    for name in names:
        photo(4, 4).save(tmp_path / name)
    for name in (".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    found = [p.name for p in images.list_images(tmp_path)]
    assert found == ["2.png", "10.png", "Img1.png", "img02.png", "img2.png", "img2b.png", "img10.png"]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1), unique=True))
def test_natural_order_is_an_order(names):
    assert sorted(names, key=images.natural_key) == sorted(reversed(names), key=images.natural_key)


def test_what_looks_like_a_photograph_and_is_left_out_is_named(tmp_path):
    photo().save(tmp_path / "good.png")
    for name in ("a.HEIC", "b.heic", "c.heif", "d.heic", "e.cr2", "f.psd", ".hidden.heic", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.png").symlink_to("nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "link.png").symlink_to("good.png")
    assert [p.name for p in images.list_images(tmp_path)] == ["good.png", "link.png"]
    said = images.left_out(tmp_path)
    for words in ("a.HEIC, b.heic, c.heif and 1 more: a HEIC picture, which needs pillow-heif", "e.cr2: a camera's raw file", "f.psd: .psd",
                  "fifo.png: a pipe", "folder.jpg: a folder", "dangling.png: a link to nothing", "loop.png: a link to itself"):  # fmt: skip
        assert sum(f"left out: {words}" in line for line in said) == 1, words
    assert len(said) == 7
    (tmp_path / "good.png").unlink()
    with pytest.raises(ValueError, match="no images in this folder.*left out: a.HEIC"):
        images.list_images(tmp_path)


@pytest.mark.parametrize("ending", [".avif", ".jp2"])
def test_what_this_pillow_can_read_is_listed(tmp_path, ending):
    if ending not in images.suffixes():
        pytest.skip(f"this Pillow cannot read {ending}")
    photo().save(tmp_path / f"a{ending}", quality=95) if ending == ".avif" else photo().save(tmp_path / f"a{ending}")
    assert images.list_images(tmp_path) == [tmp_path / f"a{ending}"] and not images.left_out(tmp_path)
    assert np.abs(np.asarray(images.open_image(tmp_path / f"a{ending}"), int) - np.asarray(photo())).mean() < 8


def test_heic_is_read_where_pillow_heif_is(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))

    def register():
        def opened(file, name):
            return Image.new("RGB", (8, 8), RED)

        monkeypatch.setitem(Image.OPEN, "HEIF", (opened, lambda start: start[4:12] == b"ftypheic"))

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    images.formats.cache_clear()
    try:
        assert images.list_images(tmp_path) == [tmp_path / "a.heic"] and not images.left_out(tmp_path)
        assert images.open_image(tmp_path / "a.heic").getpixel((1, 1)) == RED
    finally:
        images.formats.cache_clear()


def test_animations_are_told_from_pictures(tmp_path):
    two = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), BLUE)]}
    for ending in (".gif", ".webp", ".png"):
        Image.new("RGB", (8, 8), RED).save(tmp_path / f"two{ending}", **two)
        Image.new("RGB", (8, 8), RED).save(tmp_path / f"one{ending}")
        assert images.is_animation(tmp_path / f"two{ending}") and not images.is_animation(tmp_path / f"one{ending}")
    (tmp_path / "text.gif").write_text("no picture")
    Image.new("RGB", (8, 8), RED).save(tmp_path / "pages.tif", **two)
    for name in ("text.gif", "pages.tif"):
        assert not images.is_animation(tmp_path / name)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "a.txt").write_text("")
    for path, said in [(tmp_path, "no images"), (tmp_path / "a.txt", "a file, expected a folder"), (tmp_path / "b", "no such folder")]:
        with pytest.raises(ValueError, match=said):
            images.list_images(path)


def test_rounding_is_to_the_nearest_level():
    levels = torch.arange(256).float()
    exact = (levels / 127.5 - 1).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert np.array_equal(images.to_uint8(exact)[0, ..., 0], np.arange(256).reshape(16, 16))
    for shift in (0.49, -0.49):
        near = ((levels + shift) / 127.5 - 1).view(1, 1, 16, 16).expand(1, 3, 16, 16)
        assert np.array_equal(images.to_uint8(near)[0, ..., 0], np.arange(256).reshape(16, 16))
    assert images.to_uint8(torch.zeros(1, 3, 4, 4)).min() == 128  # 127.5: halves go up
    outside = torch.tensor([-9.0, -1.001, 1.001, 9.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert images.to_uint8(outside)[0, ..., 0].tolist() == [[0, 0], [255, 255]]
    assert images.to_uint8(exact.bfloat16()).dtype == np.uint8


@pytest.mark.parametrize(
    "x, said", [(torch.full((1, 3, 4, 4), torch.nan), "NaN"), (torch.zeros(3, 4, 4), "shape"), (torch.zeros(1, 1, 4, 4), "shape")]
)
def test_what_is_no_image_is_not_rounded(x, said):
    with pytest.raises(ValueError, match=said):
        images.to_uint8(x)


def test_masks(tmp_path):
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    mask.paste(51, (0, 0, 64, 8))
    mask.save(tmp_path / "m.png")
    m = images.load_mask(tmp_path / "m.png", 64)
    assert m.shape == (1, 1, 64, 64) and m.dtype == torch.float32
    assert m[0, 0, 20, 3] == 1 and m[0, 0, 20, 60] == 0 and m[0, 0, 2, 60] == pytest.approx(0.2)
    small = images.load_mask(tmp_path / "m.png", 16)
    assert small.shape == (1, 1, 16, 16) and 0 <= small.min() and small.max() <= 1 and small[0, 0, 8].diff().max() <= 0
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    clear.save(tmp_path / "c.png")
    assert images.load_mask(tmp_path / "c.png", 16).min() == 1  # transparent counts as white
    photo().save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match="square"):
        images.load_mask(tmp_path / "wide.png", 16)


def test_sheet():
    red, blue = Image.new("RGB", (20, 20), RED), torch.tensor([-1.0, -1, 1]).view(3, 1, 1).expand(3, 20, 10)
    page = images.sheet([[red, None], [red, blue, red]], gap=4, size=40)
    assert page.size == (4 + 3 * 44, 4 + 2 * 44)
    assert page.getpixel((24, 24)) == RED and page.getpixel((68, 24)) == WHITE  # None is blank
    assert page.getpixel((68, 68)) == BLUE and page.getpixel((50, 68)) == WHITE  # keeps its shape: a bar in the middle
    assert page.getpixel((2, 2)) == WHITE
    labelled = images.sheet([[red, blue]], labels=["before", "after\nedit"], names=["astronaut"], gap=4, size=40)
    assert labelled.width > page.width - 44 and labelled.height > 48
    assert np.asarray(labelled.convert("L"))[:12].min() < 128  # there are words
    with pytest.raises(ValueError, match="no images"):
        images.sheet([[None]])


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), torch.zeros(2, 3, 4, 4)])
def test_what_cannot_be_shown(image):
    with pytest.raises(ValueError):
        images.to_pil(image)


def test_long_names_do_not_overlap_on_a_sheet():
    cell, labels = Image.new("RGB", (64, 64), WHITE), ["a" * 80 + "_smile_and_age", "b" * 80, "short"]
    page = np.asarray(images.sheet([[cell] * 3], labels=labels, names=["n\nn" * 300], gap=6).convert("L"))
    top, left = page.shape[0] - 70, page.shape[1] - 3 * 70
    assert left < 200 and top < 40
    for j in range(1, 3):  # the gap between two columns stays white, beside the labels too
        assert page[:, left + j * 70 - 5 : left + j * 70 - 1].min() == 255


def test_shortened_words_keep_both_ends():
    font = ImageFont.load_default(12)
    text = "london_039_smiling_20240131_0001.png"
    short = images.shortened(text, font, 100)
    head, tail = short.split("\N{HORIZONTAL ELLIPSIS}")
    assert text.startswith(head) and text.endswith(tail) and abs(len(head) - len(tail)) <= 1
    assert 80 < font.getlength(short) <= 100 and images.shortened("short", font, 100) == "short"
    assert images.shortened("a\nb\x1b[31m", font, 200) == "a?b?[31m"
