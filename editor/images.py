"""Pixels in and out: photographs, masks, contact sheets, animations.

Inside the toolkit an image is float32 [N, 3, H, W] in [-1, 1]; files and Pillow hold 8-bit sRGB. `load` and `to_uint8` are the
only two ways between them, and `to_uint8(load(file))` gives back the file's pixels.
"""

import bisect
import errno
import functools
import io
import os
import re
import stat
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps, features

from editor import files

# What is read: Pillow's name of a format -> its endings. Pillow is told these names, since it would hand PostScript, whatever
# its name, to another program. The formats of NEEDS are there only where this Pillow, or pillow-heif, brings them.
FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "MPO": (),  # JPEGs of several pictures, as telephones make them
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "HEIF": (".heic", ".heif", ".hif"),
}
NEEDS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # format -> its name in PIL.features
SUFFIXES = tuple(ending for endings in FORMATS.values() for ending in endings)
RAW = tuple(".3fr .arw .cr2 .cr3 .crw .dng .iiq .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f".split())
OTHERS = tuple(".psd .tga .svg .eps .jxl .jxr .exr .hdr .xcf .qoi .bpg .icns .ico .pcx .sgi".split())  # pictures, not read
WRITES = {  # what `save` writes: ending -> Pillow's format and its settings
    ".png": ("PNG", {"compress_level": 1}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
}
MIN_SIDE = 4  # the smallest generator's resolution
MAX_PIXELS = 150_000_000  # 450 MB decoded; more is a broken or hostile file sooner than a photograph
EMPTY_PIXELS = 16_000_000  # a picture larger than this must bring a byte for each 2000 pixels: a kilobyte can promise 150 million
WRITERS, WAITING = 8, 16  # threads that write results at most, and results that wait for them
STRIP = 256  # rows that are converted together, so that a large picture is not held in a wider type


# ---------------------------------------------------------------------------------------------------------------------
# In


def natural_key(path):
    """Sort key that reads numbers as numbers: img2 before img10."""
    name = Path(path).name
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)], name


@functools.cache
def formats():
    """The formats of FORMATS that can be read here."""
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN and (name not in NEEDS or features.check(NEEDS[name])))


def suffixes():
    """The endings of the files that can be read here."""
    return tuple(ending for name in formats() for ending in FORMATS[name])


def list_images(folder):
    """The images of a folder (not of its subfolders), in natural order; hidden files are left out.

    Returns:
        list[Path], never empty. What else looks like a photograph is named by `left_out`.

    Raises:
        ValueError: no such folder, not a folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: {'a file, expected a folder' if folder.exists() else 'no such folder'}")
    readable = suffixes()
    found = [p for p in folder.iterdir() if p.suffix.lower() in readable and p.is_file() and not p.name.startswith(".")]
    if not found:
        others = "".join(f"; {line}" for line in left_out(folder))
        raise ValueError(f"{folder}: no images in this folder; looked for {' '.join(readable)}{others}")
    return sorted(found, key=natural_key)


def left_out(folder):
    """What looks like a photograph in a folder and is not listed by `list_images`: one line for each reason, with names.

    Returns:
        list[str], for the command to show as warnings: "left out: IMG_1.HEIC, IMG_2.HEIC and 7 more: a HEIC picture; ...".
    """
    reasons = {}
    for path in sorted(Path(folder).iterdir(), key=natural_key):
        if path.suffix.lower() in (*SUFFIXES, *RAW, *OTHERS) and not path.name.startswith("."):
            if reason := _why_not(path):
                reasons.setdefault(reason, []).append(path.name)
    return [
        f"left out: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {reason}"
        for reason, names in reasons.items()
    ]


def _why_not(path):
    """Why a file that is called like a photograph is none of `list_images`; None: it is one."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        kind = "a link to nothing" if error.errno == errno.ENOENT else "a link to itself" if error.errno == errno.ELOOP else error.strerror
        return kind if path.is_symlink() or error.errno != errno.ENOENT else "gone"
    if not stat.S_ISREG(mode):
        return _kind(mode)
    ending = path.suffix.lower()
    if ending in RAW:
        return "a camera's raw file; export it as JPEG"
    return None if ending in suffixes() else HEIC if ending in FORMATS["HEIF"] else f"{ending} is not read here; export it as JPEG or PNG"


HEIC = "a HEIC picture, which needs pillow-heif (pip install pillow-heif), or export it as JPEG"


def _kind(mode):
    names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return names.get(stat.S_IFMT(mode), "a device")


def find(name, folder):
    """What a user calls an image: a name in `folder` if it is there, else a path."""
    inside = Path(folder) / name
    return inside if inside.is_file() else Path(name)


def open_file(path):
    """Open an ordinary file for reading bytes. A pipe would be waited for, a device may never end: both are refused unopened.

    Raises:
        OSError: missing, a folder, or not to be read.
        ValueError: neither a file nor a folder.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: {_kind(mode)}, expected a file")
    return open(path, "rb")


def open_image(path):
    """Read an image file as 8-bit sRGB, upright.

    EXIF rotation is applied. Transparent pixels are laid on white. 16-bit grey is scaled (65535 -> 255), not clipped. Grey,
    palette and CMYK become RGB; an embedded colour profile other than sRGB (a telephone's Display P3, a printer's CMYK) is
    converted. Of an animation the first frame is read.

    Returns:
        PIL.Image, mode RGB.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is not an image, damaged, smaller than MIN_SIDE a side or of more than MAX_PIXELS (seen before decoding).
    """
    path = Path(path)
    with open_file(path) as file:
        if path.suffix.lower() in RAW:  # many are TIFF, whose first picture is a thumbnail
            raise ValueError(f"{path}: a camera's raw file; export it as JPEG or PNG")
        return decode(file, path)


def decode(file, name, most=MAX_PIXELS):
    """`open_image` for a binary file that is open already; `name` is what messages call it, `most` the pixels that are decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own warnings on size and odd metadata; what matters is raised below
        start, bytes_in_all = file.read(64), file.seek(0, os.SEEK_END)
        file.seek(0)
        try:
            image = Image.open(file, formats=formats())
            width, height = image.size
        except Image.UnidentifiedImageError:
            raise ValueError(f"{name}: {_what_is(start)}, expected an image ({' '.join(suffixes())})") from None
        except Image.DecompressionBombError as error:
            raise ValueError(f"{name}: too large ({error}); at most {most} pixels are read: make it smaller first") from None
        except Exception as error:
            raise _unreadable(name, "damaged image", error) from None
        if width * height > most:
            raise ValueError(f"{name}: too large ({width}x{height}); at most {most} pixels are read: make it smaller first")
        if width * height > max(EMPTY_PIXELS, 2000 * bytes_in_all):
            raise ValueError(f"{name}: {width}x{height} pixels in {bytes_in_all} bytes: no photograph, or one that is cut off")
        if min(width, height) < MIN_SIDE:
            raise ValueError(f"{name}: too small ({width}x{height}); at least {MIN_SIDE}x{MIN_SIDE} pixels are needed")
        try:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
        except Exception as error:
            raise _unreadable(name, f"damaged or unusual {image.format} image", error) from None


def _unreadable(name, what, error):
    """The error to raise for whatever a decoder raised: damaged files bring out nearly every type, RuntimeError of AVIF's too."""
    if isinstance(error, MemoryError):
        return ValueError(f"{name}: the picture does not fit into memory; make it smaller first")
    if isinstance(error, OSError) and error.errno:  # the system's, not the decoder's
        return OSError(error.errno, error.strerror, str(name))
    return ValueError(f"{name}: {what} ({error or type(error).__name__}); copy or download it again, or export it as PNG or JPEG")


def is_animation(path):
    """Whether an image file holds several frames (GIF, WebP, PNG, AVIF); False for a file that cannot be read."""
    moving = [name for name in formats() if name in ("GIF", "WEBP", "PNG", "AVIF")]
    with open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(getattr(Image.open(file, formats=moving), "is_animated", False))
        except Exception:  # what is wrong with it is said when it is read
            return False


STARTS = {  # how files begin that are none of FORMATS
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"%PDF": "a PDF file",
    b"8BPS": "a Photoshop file",
    b"PK\3\4": "a zip archive or office document",
}


def _what_is(start):
    if not start:
        return "an empty file"
    for beginning, what in STARTS.items():
        if start.startswith(beginning):
            return what
    if start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"hev", b"mif"):
        return HEIC
    if start[4:8] == b"ftyp":
        return "a video or AVIF file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        return "a text file"
    return "not an image, or one damaged at its start"


def _to_rgb(image):
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        return _grey_of_16_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point values, whose range nothing tells")
    if "transparency" in image.info or image.mode[-1] in "Aa":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode in ("P", "YCbCr"):
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK"):
        image = _to_srgb(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_of_16_bits(image):
    """16-bit grey -> 8 bits, to the nearest level, a strip at a time: floats of the whole would take eight times its bytes."""
    grey, clear = Image.new("L", image.size), image.info.get("transparency")
    for top in range(0, image.height, STRIP):
        values = np.asarray(image.crop((0, top, image.width, min(top + STRIP, image.height)))).astype(np.int32)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit integers")
        levels = np.uint8((values + 128) // 257)
        if isinstance(clear, int):  # one grey value stands for "transparent"
            levels[values == clear] = 255
        grey.paste(Image.fromarray(levels), (0, top))
    return grey


def _to_srgb(image, profile):
    """The image in sRGB; untouched when its profile is sRGB already (a conversion would cost a grey level) or unreadable."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image


def load(path, resolution):
    """Read a square image for a generator.

    Returns:
        torch.Tensor float32 [1, 3, resolution, resolution] in [-1, 1]. Another size is resized with Lanczos; at its own
        size the pixels are exact.

    Raises:
        OSError, ValueError: as `open_image`; and when width and height differ by more than a pixel.
    """
    import torch

    image = open_image(path)
    _require_square(path, image, "faces are cut out square by align_images.py: run that first")
    if image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image))  # [R, R, 3] 0..255
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1  # [1, 3, R, R] in [-1, 1]


def load_mask(path, size):
    """Read a mask: white is 1, black 0, grey between; transparent counts as white.

    Args:
        size: side of the result in pixels; a mask of another size is resized, smoothly.

    Returns:
        torch.Tensor float32 [1, 1, size, size] in 0..1.

    Raises:
        OSError, ValueError: as `open_image`; and when width and height differ by more than a pixel.
    """
    import torch

    mask = open_image(path)
    _require_square(path, mask, "a mask must be square like the image it belongs to")
    mask = mask.convert("L")
    if mask.size != (size, size):
        mask = mask.resize((size, size), Image.Resampling.BILINEAR)  # Lanczos would ring around the edge
    return torch.from_numpy(np.array(mask))[None, None].float() / 255  # [1, 1, size, size] in 0..1


def _require_square(path, image, advice):
    if abs(image.width - image.height) > 1:
        raise ValueError(f"{path}: {image.width}x{image.height}, expected a square image; {advice}")


# ---------------------------------------------------------------------------------------------------------------------
# Out


def to_uint8(x):
    """Images [N, 3, H, W] in [-1, 1] (any float type, any device) -> numpy uint8 [N, H, W, 3].

    The toolkit's one rounding: to the nearest grey level, halves up, as NVIDIA's code does; values outside are clipped.

    Raises:
        ValueError: another shape, or NaN or infinity among the values.
    """
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"images of shape {list(x.shape)}, expected [N, 3, H, W]")
    x = x.detach().float()
    if not x.isfinite().all():
        raise ValueError("the image holds NaN or infinity")
    return (x * 127.5 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def to_pil(image):
    """One image, however it is held -> PIL.Image RGB.

    Args:
        image: PIL.Image; numpy uint8 [H, W, 3]; or torch [3, H, W] or [1, 3, H, W] in [-1, 1].

    Raises:
        ValueError: none of these.
    """
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else _to_rgb(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an array {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3]")
        return Image.fromarray(image)
    pixels = to_uint8(image[None] if image.ndim == 3 else image)
    if len(pixels) != 1:
        raise ValueError(f"{len(pixels)} images, expected one")
    return Image.fromarray(pixels[0])


def save(path, image, **more):
    """Write one image, whole or not at all; the ending chooses the format (PNG, TIFF, BMP and WebP without loss, JPEG at 95).

    Args:
        image: anything that `to_pil` takes. more: for Pillow's writer.

    Raises:
        ValueError: an ending that is not in WRITES, or a bad image.
        OSError: the file cannot be written (says which).
    """
    path = Path(path)
    if path.suffix.lower() not in WRITES:
        raise ValueError(f"{path}: cannot write {path.suffix or 'a file without ending'}; use {' '.join(WRITES)}")
    kind, settings = WRITES[path.suffix.lower()]
    encoded = io.BytesIO()  # Pillow answers a full disk with "encoder error -2"; the system says what it is
    to_pil(image).save(encoded, kind, **settings, **more)
    write_bytes(path, encoded.getvalue())


def write_bytes(path, data):
    """Write a file, whole or not at all.

    Raises:
        OSError: names `path`.
    """
    with files.atomic(path) as temporary:
        temporary.write_bytes(data)


class Behind:
    """Calls that run in threads while the caller goes on: results are encoded and written behind the next rendering.

        with images.Behind() as behind:
            for path, picture in rendered:
                behind.add(images.save, path, picture)

    Whatever ends the block, each call that was added is carried out. The first error of one, in their order, is raised by `add`
    soon after it, or on leaving, instead of whatever else ended the block: what was not written is said.

    Args:
        tell: called in the caller's thread with what each call returned, in their order; what failed is left out.
        threads: calls that run together (default: a core each, up to WRITERS).
    """

    def __init__(self, tell=None, threads=None):
        self.tell, self.error, self._calls = tell or (lambda result: None), None, deque()
        self._pool = ThreadPoolExecutor(threads or max(2, min(WRITERS, os.cpu_count() or 1)))

    def __enter__(self):
        return self

    def add(self, call, *words):
        """Have call(*words) carried out; waits while WAITING others do."""
        while self._calls and (len(self._calls) >= WAITING or self._calls[0].done()):
            self._finish_one()
        self._calls.append(self._pool.submit(call, *words))

    def _finish_one(self):
        wait([self._calls[0]])  # Ctrl-C leaves it in the line
        one = self._calls.popleft()
        try:
            self.tell(one.result())
        except Exception as error:
            self.error = self.error or error
            raise

    def __exit__(self, kind, ended, trace):
        stopped = ended if isinstance(ended, KeyboardInterrupt) else None
        try:
            while self._calls:
                try:
                    self._finish_one()
                except Exception:  # kept in `error`
                    pass
                except KeyboardInterrupt as error:  # the first one waits for what was added
                    if stopped:
                        raise
                    stopped = error
        finally:
            self._calls.clear()
            self._pool.shutdown(cancel_futures=True)
        if self.error not in (None, ended):
            raise self.error
        if stopped not in (None, ended):
            raise stopped


def destination(out, folder, name):
    """Where a result's picture goes: `name` in `folder`, or where --out says, which is a folder, a path or a name in `folder`."""
    if out is None:
        return folder / name
    path = Path(out)
    if out.endswith(("/", "\\")) or path.is_dir():
        return path / name
    if path.suffix.lower() not in WRITES:
        path = path.with_name(path.name.removesuffix(".npy") + ".png")
    return path if os.path.dirname(out) else folder / path


def sheet(rows, labels=None, names=None, size=None, gap=6):
    """A contact sheet: images in a grid on white, with words beside them.

    Args:
        rows: list of lists of images (as `to_pil`; None leaves a cell blank). Rows may differ in length.
        labels: a heading over each column.
        names: a name at the left of each row. Words that are too long are shortened in their middle.
        size: side of a cell in pixels (default: the largest image's); images are fitted into it, keeping their shape.
        gap: pixels between cells.

    Returns:
        PIL.Image RGB.

    Raises:
        ValueError: no image at all.
    """
    cells = [[None if image is None else to_pil(image) for image in row] for row in rows]
    shown = [image for row in cells for image in row if image is not None]
    if not shown:
        raise ValueError("a sheet of no images")
    size = size or max(max(image.size) for image in shown)
    columns = max(len(row) for row in cells)
    font = ImageFont.load_default(max(10, min(24, size // 8)))
    names = names and [lines(name, font, max(2 * size, 160)) for name in names]
    labels = [lines(label, font, size) for label in labels or []]

    left = gap + (gap + max(int(font.getlength(line)) for name in names for line in name.split("\n")) if names else 0)
    line = int(sum(font.getmetrics()))
    top = gap + (gap + line * max(label.count("\n") + 1 for label in labels) if labels else 0)
    page = Image.new("RGB", (left + columns * (size + gap), top + len(cells) * (size + gap)), "white")
    draw = ImageDraw.Draw(page)
    for j, label in enumerate(labels):
        draw.text((left + j * (size + gap) + size // 2, top - gap), label, "black", font, anchor="md", align="center")
    for i, row in enumerate(cells):
        y = top + i * (size + gap)
        if names:
            draw.text((gap, y + size // 2), names[i], "black", font, anchor="lm")
        for j, image in enumerate(row):
            if image is not None:
                image = ImageOps.contain(image, (size, size), Image.Resampling.LANCZOS)
                page.paste(image, (left + j * (size + gap) + (size - image.width) // 2, y + (size - image.height) // 2))
    return page


def lines(text, font, width):
    """Text of one or more lines, each `shortened`."""
    return "\n".join(shortened(line, font, width) for line in text.split("\n"))


def shortened(text, font, width):
    """A line of text that is at most `width` pixels wide in `font`: an ellipsis takes the place of its middle.

    Names differ at their ends as often as at their beginnings. What cannot be printed (a line feed in a file's name) is a "?".
    """
    text = "".join(c if c.isprintable() else "?" for c in text)
    if font.getlength(text) <= width:
        return text

    def cut(kept):
        return text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]

    fitting = bisect.bisect_right(range(len(text)), width, key=lambda kept: font.getlength(cut(kept))) - 1
    return cut(max(2, fitting))
