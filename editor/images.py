"""Pixels in and out: photographs, masks, contact sheets, animations.

Inside the toolkit an image is float32 [N, 3, H, W] in [-1, 1]; files and Pillow hold 8-bit sRGB. `load` and `to_uint8` are the
only two ways between them, and `to_uint8(load(file))` gives back the file's pixels.
"""

import io
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps

from editor import files

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
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
# What Pillow raises for damaged files, besides OSError; found by truncating and flipping bytes in every format above.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error, zlib.error)


# ---------------------------------------------------------------------------------------------------------------------
# In


def natural_key(path):
    """Sort key that reads numbers as numbers: img2 before img10."""
    name = Path(path).name
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)], name


def list_images(folder):
    """The images of a folder (not of its subfolders), in natural order; hidden files are left out.

    Returns:
        list[Path], never empty.

    Raises:
        ValueError: no such folder, not a folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: {'a file, expected a folder' if folder.exists() else 'no such folder'}")
    found = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")]
    if not found:
        raise ValueError(f"{folder}: no images in this folder; looked for {' '.join(SUFFIXES)}")
    return sorted(found, key=natural_key)


def find(name, folder):
    """What a user calls an image: a name in `folder` if it is there, else a path."""
    inside = Path(folder) / name
    return inside if inside.is_file() else Path(name)


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
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own warnings on size and odd metadata; what matters is raised below
        start = file.read(64)
        file.seek(0)
        try:
            image = Image.open(file)
        except Image.UnidentifiedImageError:
            raise ValueError(f"{path}: {_what_is(start)}, expected an image ({' '.join(SUFFIXES)})") from None
        except Image.DecompressionBombError as error:
            raise ValueError(f"{path}: too large ({error}); at most {MAX_PIXELS} pixels are read: make it smaller first") from None
        except BROKEN as error:
            raise ValueError(f"{path}: damaged image ({error}); copy or download it again") from None
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{path}: too large ({width}x{height}); at most {MAX_PIXELS} pixels are read: make it smaller first")
        if min(width, height) < MIN_SIDE:
            raise ValueError(f"{path}: too small ({width}x{height}); at least {MIN_SIDE}x{MIN_SIDE} pixels are needed")
        try:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
        except BROKEN as error:
            raise ValueError(f"{path}: damaged or unusual {image.format} image ({error}); export it again as PNG or JPEG") from None


def _what_is(start):
    if not start:
        return "an empty file"
    if start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"hev", b"mif"):
        return "a HEIC picture, which Pillow does not read (export it as JPEG)"
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
        values = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit integers")
        return Image.fromarray(np.uint8(np.rint(values / 257))).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point values, whose range nothing tells")
    if "transparency" in image.info or image.mode[-1] in "Aa":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if profile and image.mode in ("RGB", "CMYK"):
        image = _to_srgb(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")


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


def save(path, image):
    """Write one image, whole or not at all; the ending chooses the format (PNG, TIFF, BMP and WebP without loss, JPEG at 95).

    Args:
        image: anything that `to_pil` takes.

    Raises:
        ValueError: an ending that is not in WRITES, or a bad image.
        OSError: the file cannot be written (says which).
    """
    path = Path(path)
    if path.suffix.lower() not in WRITES:
        raise ValueError(f"{path}: cannot write {path.suffix or 'a file without ending'}; use {' '.join(WRITES)}")
    kind, settings = WRITES[path.suffix.lower()]
    encoded = io.BytesIO()  # Pillow answers a full disk with "encoder error -2"; the system says what it is
    to_pil(image).save(encoded, kind, **settings)
    write_bytes(path, encoded.getvalue())


def write_bytes(path, data):
    """Write a file, whole or not at all.

    Raises:
        OSError: names `path`.
    """
    with files.atomic(path) as temporary:
        temporary.write_bytes(data)


def sheet(rows, labels=None, names=None, size=None, gap=6):
    """A contact sheet: images in a grid on white, with words beside them.

    Args:
        rows: list of lists of images (as `to_pil`; None leaves a cell blank). Rows may differ in length.
        labels: a heading over each column.
        names: a name at the left of each row.
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

    left = gap + (gap + max(int(font.getlength(name)) for name in names) if names else 0)
    line = int(sum(font.getmetrics()))
    top = gap + (gap + line * max(label.count("\n") + 1 for label in labels) if labels else 0)
    page = Image.new("RGB", (left + columns * (size + gap), top + len(cells) * (size + gap)), "white")
    draw = ImageDraw.Draw(page)
    for j, label in enumerate(labels or []):
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
