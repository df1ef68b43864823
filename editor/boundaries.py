"""Boundaries: directions in W in which a face gains an attribute (InterFaceGAN, Shen et al., CVPR 2020)."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from editor import downloads, files
from editor.face import read_array, record


@dataclass
class Boundary:
    """The plane in W between latents with and without an attribute.

    A latent ws lies at the signed distance `mean over layers of <w, normal> + offset`, positive where it has the attribute.

    normal: float64 [1, 512]; or [L, 512], a direction a layer. The mean of its rows' squared lengths is 1, so that a step a
        along it moves the distance by a.
    offset: 0 where nothing says it, as with the official files.
    norm: what the normal's length was in the file, before it was made 1.
    info: what the `.json` beside it says.
    """

    normal: torch.Tensor
    offset: float = 0.0
    norm: float = 1.0
    info: dict = field(default_factory=dict)


def length(direction):
    """Root of the mean squared row length of [1 or L, 512]; for [1, 512] its norm."""
    return direction.square().sum(1).mean().sqrt().item()


def load(path, G=None, force=False):
    """Read a boundary: `.npy` of shape [1, 512] or [512], as the official ones, or [L, 512].

    Args:
        path: the file; `offset` and `generator_hash` are read from the `.json` beside it, if there is one.
        G: the generator it is meant for: L, 512 and the hash must agree.
        force: accept a boundary of another generator of the same shape.

    Returns:
        Boundary.

    Raises:
        ValueError, OSError: missing, unreadable, of another shape, of length zero, with NaN, or of another generator.
    """
    path = Path(path)
    array = read_array(path, "a boundary is a .npy that train_boundary.py writes")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: holds {array.dtype}, not numbers; a boundary is float [1, 512]")
    if array.size == 0 or array.ndim not in (1, 2):
        raise ValueError(f"{path}: shape {list(array.shape)}; a boundary is [1, 512], or [L, 512] with a direction a layer")
    normal = torch.from_numpy(np.array(array, np.float64).reshape(-1, array.shape[-1]))
    if not normal.isfinite().all():
        raise ValueError(f"{path}: holds NaN or infinity; train it again")
    norm = length(normal)
    if norm < 1e-12:
        raise ValueError(f"{path}: a boundary of length zero points nowhere; train it again")
    if G is not None:
        if normal.shape[1] != G.config.w_dim or len(normal) not in (1, G.num_ws):
            wanted = f"[1, {G.config.w_dim}] or [{G.num_ws}, {G.config.w_dim}]"
            raise ValueError(f"{path}: shape {list(array.shape)}; this generator takes {wanted}, so the boundary is another generator's")
    said, own = record(path), getattr(G, "meta", {}).get("hash")
    made_for = said.get("generator_hash")
    if made_for and own and made_for != own and not force:
        raise ValueError(
            f"{path}: made for another generator ({made_for[:12]}, not {own[:12]}); train one with train_boundary.py, or use --force"
        )
    offset, parts = said.get("offset", 0.0), said.get("files")
    if type(offset) not in (int, float) or not abs(offset) < 1e6:
        raise ValueError(f"{path.with_suffix('.json')}: offset {str(offset)[:40]!r}, expected a number; train the boundary again")
    if parts and parts.get("direction") != files.file_hash(path):
        raise ValueError(f"{path}: an unfinished write: {path.stem}.json is of another direction; train it again, or remove that .json")
    return Boundary(normal / norm, float(offset), norm, said)


def save(path, boundary):
    """Write a boundary's normal as float64 to `path`, and then its offset, info and the normal's sha256 to the `.json` beside it."""
    path = Path(path)
    with files.atomic(path) as temporary, open(temporary, "wb") as f:
        np.save(f, boundary.normal.numpy())
    said = {"offset": boundary.offset} | boundary.info | {"files": {"direction": files.file_hash(path)}}
    files.write_json(path.with_suffix(".json"), said)


def conditioned(normal, others):
    """A direction without its share along others: moving along it leaves their distances as they are.

    All are projected out at once, by an orthonormal basis of their span: one after the other would bring the first back
    where they are not orthogonal to each other.

    Args:
        normal: float64 [1 or L, 512].
        others: list of such.

    Returns:
        float64 [1 or L, 512], made of length 1.

    Raises:
        ValueError: nothing is left of it.
    """
    rows = max(len(d) for d in [normal, *others])
    flat = normal.expand(rows, -1).flatten()
    if others:
        _, values, basis = torch.linalg.svd(torch.stack([d.expand(rows, -1).flatten() for d in others]), full_matrices=False)
        basis = basis[values > 1e-10 * values[0]]
        before = flat.norm()
        for _ in range(2):  # the second time takes away what rounding left of the first
            flat = flat - basis.T @ (basis @ flat)
        if flat.norm() < 1e-6 * before:
            raise ValueError("nothing is left of the boundary: it lies in the span of its conditions")
    direction = flat.view(rows, -1)
    return direction / length(direction)


def cosine(a, b):
    """Cosine of the angle between two directions [1 or L, 512] of length 1."""
    return (a * b).sum(1).mean().item()


def signed_distance(ws, boundary):
    """ws [N, 1 or L, 512] -> [N], positive where the attribute is."""
    normal = boundary.normal.numpy()
    if len(normal) == 1:
        return ws.mean(1) @ normal[0] + boundary.offset
    return np.einsum("nld,ld->n", np.broadcast_to(ws, (len(ws), *normal.shape)), normal) / len(normal) + boundary.offset


def accuracy(high, low, boundary):
    """Share of latents on the right side; a mean of both classes' shares, as one may be larger."""
    return float(((signed_distance(high, boundary) > 0).mean() + (signed_distance(low, boundary) <= 0).mean()) / 2)


# ---------------------------------------------------------------------------------------------------------------------
# The edit

MODES = {"relative": "so far from where the latent is", "absolute": "to this distance from the boundary, wherever the latent is"}


def moved(ws, boundary, distance, direction=None, mode="relative", layers=None):
    """Latents moved along a boundary's normal.

    Relative: w + distance * direction. Absolute: as far as brings the latent to that signed distance from the boundary; InterFaceGAN
    does so for one w, from a plane through the origin. Where only some layers move, their distance alone counts.

    Args:
        ws: [N, L, 512].
        boundary: a boundaries.Boundary.
        direction: float64 [1 or L, 512], where to go (default: the normal); the conditioned normal keeps other attributes.
        mode: a key of MODES.
        layers: the layers that move (default: all).

    Returns:
        float64 [N, L, 512]. Edits of the same direction add up; an absolute edit forgets those before it.

    Raises:
        ValueError: the direction does not lead to or from the boundary (absolute, in layers where it is zero).
    """
    import torch

    ws, chosen = ws.double(), list(range(ws.shape[1])) if layers is None else layers
    normal = boundary.normal.to(ws.device).expand(ws.shape[1], -1)[chosen]
    way = normal if direction is None else direction.to(ws.device).expand(ws.shape[1], -1)[chosen]
    amount = torch.full((len(ws), 1, 1), float(distance), dtype=torch.float64, device=ws.device)
    if mode == "absolute":
        here = (ws[:, chosen] * normal).sum(2).mean(1) + boundary.offset  # [N]
        gain = (way * normal).sum(1).mean().item()
        if abs(gain) < 1e-6:
            raise ValueError("these layers do not change the distance to the boundary; use --mode relative or other --layers")
        amount = (amount - here.view(-1, 1, 1)) / gain
    ws = ws.clone()
    ws[:, chosen] += amount * way
    return ws


# ---------------------------------------------------------------------------------------------------------------------
# Boundaries and noise by name


def find(name, folder, G, force=False):
    """NAME or FILE -> path: a file, NAME.npy in `folder`, or the official FFHQ boundary for a StyleGAN1 at 1024 (downloaded once)."""
    path, inside = Path(name), Path(folder) / f"{name}.npy"
    if path.suffix == ".npy" or path.is_file():
        return path
    official = G.kind == "stylegan1" and G.resolution == 1024 and name in official_names()
    if inside.is_file() and not (official and not fits(inside, G, force)):
        return inside
    if official:
        return downloads.fetch(name)
    known = ", ".join(sorted(p.stem for p in Path(folder).glob("*.npy"))) or "nothing"
    raise ValueError(f"--boundary {name}: no such file, and not in {folder} (there: {known})")


def official_names():
    return [name for name, item in downloads.DOWNLOADS.items() if item.url.startswith(downloads.INTERFACEGAN)]


def fits(path, G, force=False):
    try:
        load(path, G, force)
    except ValueError:
        return False
    return True


def read(names, folder, G, force):
    """NAMEs or FILEs (None: all in `folder` that fit) -> {name: Boundary}, and a list of what a user should be warned of.

    Raises:
        ValueError: one is not found or does not fit, two are of one name, or nothing fits.
    """
    if names is None:
        paths = [p for p in files.visible(folder, "*.npy") if fits(p, G, force)]
        if not paths:
            there = sorted(p.stem for p in Path(folder).glob("*.npy"))
            hint = "train one with train_boundary.py, or give --boundary FILE"
            if G.kind == "stylegan1" and G.resolution == 1024:
                hint = f"for StyleGAN1's FFHQ, --boundary takes {', '.join(official_names())} (downloaded once)"
            raise ValueError(f"{folder}: no boundary of this generator ({', '.join(there) or 'nothing'} there); {hint}")
    else:
        paths = [find(name, folder, G, force) for name in names]
    found, remarks = {}, []
    for path in paths:
        if path.stem in found:
            raise ValueError(f"two boundaries are named {path.stem}; results are named after them, so rename one file")
        found[path.stem] = boundary = load(path, G, force)
        if abs(boundary.norm - 1) > 1e-3:
            remarks.append(f"{path}: length {boundary.norm:.4g}, made 1; distances count in units of W")
        if path.stem.startswith("stylegan_ffhq_") and "_w_" not in path.stem:
            remarks.append(f"{path}: by its name an official boundary for Z; a latent is W, which wants the one named _w_boundary")
    return found, remarks
