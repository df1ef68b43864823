"""Faces -> pictures; how near a picture is to another (PSNR, SSIM); a rendering laid into a photograph."""

import contextlib

import numpy as np

from editor import tuning
from editor.images import to_uint8

ONE_THREAD_UP_TO = 256  # side of a generator's pictures, on a CPU: as `session` embeds them
STRIP = 32  # rows of an image that are compared at a time


@contextlib.contextmanager
def one_thread(G):
    """A block in which a small generator on a CPU computes with one thread: two would order sums otherwise, so that a process with
    other threads might round a value to the next grey level. None: as it is.
    """
    import torch

    before = torch.get_num_threads()
    small = G is not None and G.w_avg.device.type == "cpu" and G.resolution <= ONE_THREAD_UP_TO and before > 1
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if small:
            torch.set_num_threads(before)


def pictures(G, ws, noise="const", batch_size=None, dtype=None, alone=(), warn=None):
    """Latents -> pictures, a batch at a time, as they are asked for.

    Args:
        G: a generator.
        ws: [N, L, 512], or anything that has a length and gives them for a slice.
        noise: "const", "random" or "none"; a list of maps, each [1 or N, 1, r, r]; or a function (first, last) -> such a list
            for the frames first .. last - 1, for maps that would be too many to hold.
        batch_size: frames rendered together (default: 8, on a CPU fewer from 1024x1024 on, where a batch outgrows its caches).
        dtype: of the generator's convolutions (default float32).
        alone: frames rendered in a batch of their own. The sums of a convolution are ordered otherwise in a batch of eight than
            in a batch of one, so that a value may round to the next grey level; these frames are exactly what `render` makes
            of their latent on its own.
        warn: called with a sentence when a batch does not fit into memory and is halved.

    Yields:
        numpy uint8 [R, R, 3], N of them.

    Raises:
        ValueError: no latents, a batch_size below 1, a single picture that does not fit, or what the generator says of them.
    """
    import torch

    from editor.graphs import OUT_OF_MEMORY

    if batch_size is None:
        batch_size = 8 if G.w_avg.device.type != "cpu" else max(1, min(8, 2 * 1024**2 // G.resolution**2))
    if not len(ws) or batch_size < 1:
        raise ValueError(f"{len(ws)} latents in batches of {batch_size}; at least one of each is needed")
    device, first = G.w_avg.device, 0
    while first < len(ws):
        last = min(first + batch_size, len(ws))
        last = first + 1 if first in alone else min((i for i in alone if first < i < last), default=last)
        try:
            maps = noise(first, last) if callable(noise) else noise
            if not isinstance(maps, str):
                maps = [(m if callable(noise) or len(m) == 1 else m[first:last]).to(device) for m in maps]
            with torch.no_grad(), one_thread(G if last - first == 1 else None):
                pixels = to_uint8(G.synthesis(ws[first:last].to(device), noise=maps, dtype=dtype or torch.float32))
        except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises a plain one
            if not any(sign in str(error) for sign in OUT_OF_MEMORY):
                raise
            if last - first == 1:
                raise ValueError(f"out of memory with a single picture of {G.resolution}x{G.resolution}; try another device") from None
            batch_size = (last - first + 1) // 2
            if warn:
                warn(f"out of memory with {last - first} pictures at once; going on with {batch_size}")
            continue
        yield from pixels
        first = last


def one(G, face, dtype=None):
    """A `face.Face` of one latent -> its picture, uint8 [R, R, 3], by the generator as it is for this face."""
    return next(pictures(tuning.worn(G, face.tuned), face.ws, face.maps, dtype=dtype))


def measures(picture, target, known):
    """PSNR in dB and SSIM of two uint8 images [H, W, 3], over the pixels where `known` [H, W] is true.

    SSIM is skimage's `structural_similarity` with its defaults (Wang et al. 2004, equation 13; square windows, sample covariance).
    Sums over a window are whole numbers here, which fit into 32 bits and are exact, and a strip of rows stays in the processor's
    cache: some eight times as fast.
    """
    window = min(7, picture.shape[0] - (picture.shape[0] + 1) % 2)
    inner = np.zeros_like(known)
    inner[window // 2 : -(window // 2), window // 2 : -(window // 2)] = True  # windows reach over the border elsewhere, and are mirrored
    inner &= known
    inner = inner if inner.any() else known
    reach, error, similar = window // 2, 0, 0.0
    x, y = (np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "symmetric") for image in (picture, target))
    for first in range(0, len(known), STRIP):
        rows, around = slice(first, first + STRIP), slice(first, first + STRIP + 2 * reach)
        missed = np.subtract(picture[rows], target[rows], dtype=np.int32)
        error += int((np.square(missed, out=missed) * known[rows, :, None]).sum())
        here = similarity(x[around].astype(np.int32), y[around].astype(np.int32), window)
        similar += np.einsum("hwc,hw->", here, inner[rows].astype(float))
    error, similar = error / (3 * int(known.sum())), similar / (3 * int(inner.sum()))
    return float(10 * np.log10(255**2 / error)) if error else 100.0, float(similar)


def similarity(x, y, window):
    """SSIM of each square of `window` pixels a side (3 to 7, odd) in images [H, W, C] of whole numbers 0 .. 255, int32.

    Returns:
        float64 [H - window + 1, W - window + 1, C].
    """
    n = window**2  # all is times n^2 below
    sum_x, sum_y = window_sums(x, window), window_sums(y, window)
    both = n * window_sums(x * y, window)
    squares = n * window_sums(np.square(x) + np.square(y), window)
    product = sum_x * sum_y
    means = np.square(sum_x) + np.square(sum_y)
    both, squares = n / (n - 1) * (both - product), n / (n - 1) * (squares - means)
    c1, c2 = n**2 * (0.01 * 255) ** 2, n**2 * (0.03 * 255) ** 2
    return (2 * product + c1) * (2 * both + c2) / ((means + c1) * (squares + c2))


def window_sums(x, window):
    """[H, W, C] -> sums over each square of `window` pixels a side, [H - window + 1, W - window + 1, C]."""
    rows, columns = (side - window + 1 for side in x.shape[:2])
    down = x[:rows].copy()
    for i in range(1, window):
        down += x[i : i + rows]
    found = down[:, :columns].copy()
    for i in range(1, window):
        found += down[:, i : i + columns]
    return found


def psnr(images, targets, mask=None):
    """Peak signal-to-noise ratio of each image, [N] in dB; infinite where nothing differs.

    Args:
        images, targets: tensors [N, 3, H, W] in [-1, 1], from which the peak of 2 comes; nothing is clamped or rounded.
        mask: [1 or N, 1, H, W] in 0..1, the weight of each pixel (default: all alike).
    """
    squares = (images - targets).square()
    if mask is None:
        error = squares.flatten(1).mean(1)
    else:
        mask = mask.expand_as(squares)
        error = (squares * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
    return 10 * (4 / error).log10()


def composite(picture, target, mask):
    """The photograph with the rendering where the mask is 0, without a seam.

    The rendering misses the photograph along the hole's edge; that difference, continued into the hole as smoothly as can be
    (Laplace's equation; Perez et al. 2003, "Poisson image editing"), is added to it.

    Args:
        picture, target: uint8 [H, W, 3]. mask: float [H, W] in 0..1.

    Returns:
        uint8 [H, W, 3]; where the mask is 1, the photograph's pixels.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import splu

    hole = mask < 0.5
    missed = np.where(hole[..., None], 0, target.astype(np.float64) - picture)
    index, (ys, xs) = np.cumsum(hole).reshape(hole.shape) - 1, np.nonzero(hole)
    count, edge = np.zeros(len(ys)), np.zeros((len(ys), 3))
    rows, columns = [], []
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        y, x = ys + dy, xs + dx
        there = np.flatnonzero((y >= 0) & (y < hole.shape[0]) & (x >= 0) & (x < hole.shape[1]))
        inside = hole[y[there], x[there]]
        count[there] += 1
        rows.append(there[inside])
        columns.append(index[y[there[inside]], x[there[inside]]])
        outer = there[~inside]
        edge[outer] += missed[y[outer], x[outer]]
    if len(ys) and edge.any():  # count * u - sum of neighbours in the hole = sum of neighbours on its edge
        rows, columns, each = np.concatenate(rows), np.concatenate(columns), np.arange(len(ys))
        system = coo_matrix((np.r_[count, -np.ones(len(rows))], (np.r_[each, rows], np.r_[each, columns])))
        missed[hole] = splu(system.tocsc()).solve(edge)
    mixed = mask[..., None] * target + (1 - mask[..., None]) * (picture + missed * hole[..., None])
    return np.uint8(np.rint(mixed.clip(0, 255)))
