"""Latent files: `.npy`, float32, [1, L, 512], with a `.json` beside it that says how it was made; and boundaries, directions in W.

Where noise maps were optimised too, they lie beside a latent as `.noise.npz`: "0", "1", ... for each layer of
`G.synthesis.layers()`, float32 [1, 1, r, r]; a key is absent where the map is the generator's own.
"""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import files


def load(path, G=None, force=False):
    """Read a latent.

    Args:
        path: `.npy` of shape [L, 512], [N, L, 512], [1, 512] or [512] (W, one w for all layers), or `.npz` with the key `w`.
        G: the generator it is meant for: L and the hash in the `.json` beside the file must agree; W is then broadcast.
        force: accept a latent that another generator of the same shape made.

    Returns:
        float32 [N, L, 512] (without G, W comes as [N, 1, 512]).

    Raises:
        ValueError, OSError: missing, unreadable, of another shape, with NaN, or of another generator.
    """
    path = Path(path)
    array = read_array(path)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: holds {array.dtype}, not numbers; a latent is float32 [1, L, 512]")
    if array.size == 0 or array.ndim not in (1, 2, 3):
        raise ValueError(f"{path}: shape {list(array.shape)}; a latent is [1, L, 512], [L, 512] or [512]")
    w = np.array(array, np.float32)
    w = w.reshape(1, 1, -1) if w.ndim == 1 else w[None] if w.ndim == 2 else w
    if not np.isfinite(w).all():
        raise ValueError(f"{path}: holds NaN or infinity; encode it again")
    ws = torch.from_numpy(w)
    if G is None:
        return ws
    n, layers, dim = ws.shape
    if dim != G.config.w_dim or layers not in (1, G.num_ws):
        raise ValueError(
            f"{path}: shape {list(array.shape)}; this generator takes [1, {G.num_ws}, {G.config.w_dim}], so another generator made it"
        )
    made_by = info(path).get("generator_hash")
    own = getattr(G, "meta", {}).get("hash")
    if made_by and own and made_by != own and not force:
        raise ValueError(f"{path}: made by another generator ({made_by[:12]}, not {own[:12]}); encode it again, or use --force")
    return ws.expand(n, G.num_ws, dim).clone()


def read_array(path, what="a latent is a .npy that encode_image.py writes"):
    """The array of a `.npy`, or of the key `w` of a `.npz`; pickled objects are never read. `what` ends the error for a missing file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {what}")
    try:
        data = np.load(path, allow_pickle=False)
        if isinstance(data, np.lib.npyio.NpzFile):
            if "w" not in data:
                raise ValueError(f"holds {', '.join(data) or 'nothing'}, and no `w`")
            data = data["w"]
        return np.asarray(data)
    except (ValueError, EOFError, OSError) as error:
        reason = "an object array, which is never read" if "pickle" in str(error).lower() else str(error)
        raise ValueError(f"{path}: not a latent: {reason}") from None


def info(path):
    """What the `.json` beside a latent says; {} when there is none."""
    beside = Path(path).with_suffix(".json")
    if not beside.is_file():
        return {}
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{beside}: not JSON ({error}); remove it or encode again") from None
    return said if isinstance(said, dict) else {}


def load_one(path, G=None, force=False):
    """As `load`, of a file that must hold one latent: float32 [1, L, 512].

    Raises:
        ValueError, OSError: as `load`; and when it holds several.
    """
    ws = load(path, G, force)
    if len(ws) != 1:
        raise ValueError(f"{path}: holds {len(ws)} latents, and one is wanted here; write the one you mean into a file of its own")
    return ws


def mix(base, other, layers, amount=1.0):
    """`base` with the chosen layers moved towards `other`'s: all the way (1) they are other's, bit for bit.

    Args:
        base, other: [N or 1, L, 512] each.
        layers: list of layers, such as `layer_range` gives.
        amount: 0 (base's) .. 1 (other's).

    Returns:
        [N, L, 512].
    """
    base, other = torch.broadcast_tensors(base, other)
    mixed = base.clone()
    mixed[:, layers] = torch.lerp(base[:, layers], other[:, layers], amount)
    return mixed


def save(path, ws, info=None, noise=None):
    """Write a latent and what lies beside it; each file whole or not at all, the latent last.

    Args:
        ws: [N, L, 512], written as float32 to `path`.
        info: a dict, for the `.json`.
        noise: as `save_noise`; None removes the maps of an older latent of this name, which are not this one's.
    """
    path = Path(path)
    save_noise(path, noise)
    if info is not None:
        with files.atomic(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    with files.atomic(path) as temporary, open(temporary, "wb") as f:
        np.save(f, ws.detach().cpu().numpy().astype(np.float32))


def noise_path(path):
    """The file of a latent's noise maps: NAME.npy -> NAME.noise.npz."""
    return Path(path).with_suffix(".noise.npz")


def changed(maps, G):
    """Noise maps as `save_noise` takes them: None in place of those that are the generator's own."""
    if maps is None:
        return None
    own = [layer.noise_const[None, None] for layer in G.synthesis.layers()]
    return [None if torch.equal(m, o) else m for m, o in zip(maps, own, strict=True)]


def save_noise(path, maps):
    """Write noise maps beside the latent `path`.

    Args:
        maps: list of [1, 1, r, r], one a layer, with None where the map is the generator's own; None: remove the file.
    """
    target = noise_path(path)
    if maps is None:
        target.unlink(missing_ok=True)
        return
    arrays = {str(i): m.detach().cpu().numpy().astype(np.float32) for i, m in enumerate(maps) if m is not None}
    with files.atomic(target) as temporary, open(temporary, "wb") as f:
        np.savez_compressed(f, **arrays)


def load_noise(path, G):
    """The noise maps beside a latent.

    Args:
        path: of the latent, a `.npy`.

    Returns:
        list of float32 [1, 1, r, r], one a layer, for `G.synthesis(ws, noise=...)`; None when there is no such file.

    Raises:
        ValueError: unreadable, or of another generator: unknown keys, other shapes, NaN or infinity.
    """
    target, layers = noise_path(path), G.synthesis.layers()
    if not target.is_file():
        return None
    try:
        with np.load(target, allow_pickle=False) as data:
            arrays = {key: np.asarray(data[key]) for key in data}
    except (ValueError, EOFError, OSError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{target}: not noise maps ({error}); encode again, or remove it") from None
    maps = [layer.noise_const[None, None] for layer in layers]
    for key, array in arrays.items():
        if not key.isdecimal() or int(key) >= len(layers):
            raise ValueError(f"{target}: holds {key!r}; this generator has maps 0 to {len(layers) - 1}")
        want = maps[int(key)].shape
        if array.dtype.kind != "f" or array.shape != want:
            raise ValueError(f"{target}: map {key} is {array.dtype} {list(array.shape)}; this generator takes float32 {list(want)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{target}: map {key} holds NaN or infinity; encode again, or remove it")
        maps[int(key)] = torch.from_numpy(array.astype(np.float32)).to(maps[int(key)].device)
    return maps


def layer_range(text, num_ws):
    """'0-8,16' -> [0, 1, ..., 8, 16].

    Raises:
        ValueError: not a list of numbers and ranges, or past the last layer.
    """
    chosen = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"layers {text!r}: write numbers and ranges, as in 0-8,12")
        a, b = int(first), int(last or first)
        if a > b or b >= num_ws:
            raise ValueError(f"layers {text!r}: {part.strip()} is not within 0-{num_ws - 1}, the layers of this generator")
        chosen.update(range(a, b + 1))
    return sorted(chosen)


# ---------------------------------------------------------------------------------------------------------------------
# Boundaries (InterFaceGAN, Shen et al., CVPR 2020)


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


def load_boundary(path, G=None, force=False):
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
    said, own = info(path), getattr(G, "meta", {}).get("hash")
    made_for = said.get("generator_hash")
    if made_for and own and made_for != own and not force:
        raise ValueError(
            f"{path}: made for another generator ({made_for[:12]}, not {own[:12]}); train one with train_boundary.py, or use --force"
        )
    offset = said.get("offset", 0.0)
    if not isinstance(offset, (int, float)):
        raise ValueError(f"{path.with_suffix('.json')}: offset {offset!r}, expected a number; train the boundary again")
    return Boundary(normal / norm, float(offset), norm, said)


def save_boundary(path, boundary):
    """Write a boundary's normal as float64 to `path`, and its offset and info to the `.json` beside it."""
    path = Path(path)
    with files.atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"offset": boundary.offset} | boundary.info, indent=1) + "\n", encoding="utf-8")
    with files.atomic(path) as temporary, open(temporary, "wb") as f:
        np.save(f, boundary.normal.numpy())


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
