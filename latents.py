"""Latent files: `.npy`, float32, [1, L, 512], with a `.json` beside it that says how it was made."""

import json
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
    array = _read(path)
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
        raise ValueError(f"{path}: shape {list(array.shape)}; this generator takes [1, {G.num_ws}, {G.config.w_dim}], so it is another generator's latent")
    made_by = info(path).get("generator_hash")
    own = getattr(G, "meta", {}).get("hash")
    if made_by and own and made_by != own and not force:
        raise ValueError(f"{path}: made by another generator ({made_by[:12]}, not {own[:12]}); encode it again, or use --force")
    return ws.expand(n, G.num_ws, dim).clone()


def _read(path):
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a latent is a .npy that encode_image.py writes")
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


def save(path, ws, info=None):
    """Write ws [N, L, 512] as float32 to `path`, and `info` (a dict) to the `.json` beside it; each whole or not at all."""
    path = Path(path)
    if info is not None:
        with files.atomic(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    with files.atomic(path) as temporary, open(temporary, "wb") as f:
        np.save(f, ws.detach().cpu().numpy().astype(np.float32))


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
