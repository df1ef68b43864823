"""Latent files: `.npy`, float32, [1, L, 512], with a `.json` beside it that says how it was made; and boundaries, directions in W.

Where noise maps were optimised too, they lie beside a latent as `.noise.npz`: "0", "1", ... for each layer of
`G.synthesis.layers()`, float32 [1, 1, r, r]; a key is absent where the map is the generator's own.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from editor import files


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
