"""Masks from words: a file, drawn shapes, parts of a face. White is 1: "from the first image", "keep", "here".

photo_mask.png                    a picture of any size; grey counts in part
ellipse:0.5,0.7,0.2,0.1           centre x, y and radii, as fractions of the picture
box:0.3,0.6,0.7,0.9               left, top, right, bottom
part:mouth                        found with dlib's landmarks in the picture that the mask is for
part:eyes+ellipse:0.5,0.7,0.2,0.1 all of them together
"""

import hashlib
import math
import os
import re
from pathlib import Path

import numpy as np
import torch

from editor import images, landmarks

SHAPES = {"ellipse": "cx,cy,rx,ry", "box": "x0,y0,x1,y1", "part": "|".join(landmarks.NAMES)}
HELP = f"a picture (white = 1), or {', '.join(f'{k}:{v}' for k, v in SHAPES.items())}; several joined by +"


def read(text, size, pictures=None, invert=False, blur=0.0, turned=False):
    """A mask as the user wrote it.

    Args:
        text: as above.
        size: side of the result in pixels.
        pictures: [N, 3, R, R] in [-1, 1], in which `part:` is looked for.
        invert: swap 0 and 1.
        blur: sigma of a Gaussian, as a fraction of the side, 0 to 1; applied last.
        turned: faces may lie turned in the pictures (StyleGAN3).

    Returns:
        float32 [1, 1, size, size] in 0..1; [N, 1, size, size] where a part is named. On the pictures' device, else on the CPU.

    Raises:
        ValueError, OSError: no such file, a shape or part that is not known, numbers out of order, no face found.
    """
    if not 0 <= blur <= 1:
        raise ValueError(f"blur {blur}: a fraction of the picture's side is needed, 0 to 1")
    if os.path.isfile(text) or text.partition(":")[0] not in SHAPES:
        mask = images.load_mask(text, size)
    else:
        mask = None
        for word in text.split("+"):
            one = _shape(word, size, pictures, turned)
            mask = one if mask is None else torch.maximum(mask, one)
    mask = blurred(1 - mask if invert else mask, blur * size)
    return mask if pictures is None else mask.to(pictures.device)


def name(text):
    """A mask as it is written into the name of a result: "box:0,0,0.5,1" -> "box-0-0-0.5-1", a file's name, "part:mouth" -> "mouth"."""
    words = Path(text).stem if os.path.isfile(text) else text.removeprefix("part:")
    words = re.sub(r"[^\w.-]+", "-", words)
    if len(words) > 60:  # what is cut off must tell two apart, too
        words = f"{words[:51]}-{hashlib.sha256(words.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return words


def needs_picture(text):
    """Whether a mask is found in a picture, so that each picture has its own."""
    return not os.path.isfile(text) and any(word.startswith("part:") for word in text.split("+"))


def blurred(mask, sigma):
    """[N, 1, H, W] under a Gaussian of `sigma` pixels; borders are continued. 0 leaves it.

    torchvision's gaussian_blur mirrors at the borders, and filters with the whole square instead of a row and a column.

    Raises:
        ValueError: sigma is negative, or more than the mask's side, or NaN.
    """
    if not 0 <= sigma <= mask.shape[-1]:
        raise ValueError(f"a blur of {sigma} pixels; 0 to {mask.shape[-1]}, the mask's side, are possible")
    if sigma == 0:
        return mask
    radius = min(math.ceil(3 * sigma), mask.shape[-1] - 1)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float32) / sigma) ** 2)
    taps = (taps / taps.sum()).to(mask.device)
    pad = torch.nn.functional.pad(mask, [radius] * 4, mode="replicate")
    return torch.nn.functional.conv2d(torch.nn.functional.conv2d(pad, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1)).clamp(0, 1)


def _shape(word, size, pictures, turned):
    kind, _, rest = word.partition(":")
    if kind not in SHAPES:
        raise ValueError(f"mask {word!r}; use {', '.join(f'{k}:{v}' for k, v in SHAPES.items())}")
    if kind == "part":
        return _part(rest, size, pictures, turned)
    try:
        a, b, c, d = (float(v) for v in rest.split(","))
        if not all(map(math.isfinite, (a, b, c, d))):
            raise ValueError
    except ValueError:
        raise ValueError(f"mask {word!r}; write {kind}:{SHAPES[kind]} in fractions 0..1 of the picture") from None
    at = (np.arange(4 * size) + 0.5) / (4 * size)  # four samples a pixel: smooth edges
    if kind == "box":
        if a >= c or b >= d:
            raise ValueError(f"mask {word!r}; {kind}:{SHAPES[kind]} needs x0 < x1 and y0 < y1")
        inside = ((at >= b) & (at < d))[:, None] & ((at >= a) & (at < c))
    else:
        if c <= 0 or d <= 0:
            raise ValueError(f"mask {word!r}; {kind}:{SHAPES[kind]} needs radii above 0")
        with np.errstate(over="ignore"):  # of a tiny radius; infinity is outside, too
            inside = ((at - b) / d)[:, None] ** 2 + ((at - a) / c) ** 2 <= 1
    mask = inside.reshape(size, 4, size, 4).mean((1, 3))
    if not mask.any():
        raise ValueError(f"mask {word!r} lies outside of the picture; write fractions 0..1 of it")
    return torch.from_numpy(mask.astype(np.float32))[None, None]


def _part(name, size, pictures, turned):
    if name not in landmarks.NAMES:
        raise ValueError(f"mask 'part:{name}'; known parts are {', '.join(landmarks.NAMES)}")
    if pictures is None:
        raise ValueError(f"mask 'part:{name}': there is no picture to find it in; draw the mask, or use ellipse: or box:")
    found = []
    for image in pictures:
        picture = images.to_pil(image)
        marks = (landmarks.landmarks_of_crop(picture, turned) + 0.5) / picture.width
        found.append(landmarks.draw_part(name, marks, size))
    return torch.from_numpy(np.stack(found))[:, None]
