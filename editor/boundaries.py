"""Boundaries: directions in W in which a face gains an attribute (InterFaceGAN, Shen et al., CVPR 2020)."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from editor import downloads, face, files, foreign, styles
from editor.face import begun, record


@dataclass
class Boundary:
    """The plane in W between latents with and without an attribute.

    A latent ws lies at the signed distance `mean over layers of <w, normal> + offset`, positive where it has the attribute.

    normal: float64 [1, 512]; or [L, 512], a direction a layer. The mean of its rows' squared lengths is 1, so that a step a
        along it moves the distance by a.
    offset: 0 where nothing says it, as with the official files.
    norm: what the normal's length was in the file, before it was made 1.
    info: what the `.json` beside it says.
    path: its file, or None.
    direction: where an edit goes, float64 [1 or L, 512]; None: along the normal. See `conditioned`.
    number: which of several directions in its file it is, or None.
    unit: how far in W an edit of 1 goes: 1, or the component's standard deviation.
    layers: those that its file says to move; None: all.
    space: "w", or "style": then the normal is [1, S], of style space (`styles`), and there is no plane to have a distance from.
    """

    normal: torch.Tensor
    offset: float = 0.0
    norm: float = 1.0
    info: dict = field(default_factory=dict)
    path: Path | None = None
    direction: torch.Tensor | None = None
    number: int | None = None
    unit: float = 1.0
    layers: list | None = None
    space: str = "w"

    @property
    def name(self):
        """What results are named after."""
        return self.path.stem if self.number is None else f"{self.path.stem}_{self.number}"

    def way(self, count):
        """The direction that an edit of 1 takes: float64 [count, 512], a row a layer, 0 in layers that its file says not to move."""
        rows = self.unit * (self.normal if self.direction is None else self.direction).expand(count, -1)
        if self.layers is not None:
            still = [i for i in range(count) if i not in self.layers]
            rows = rows.index_fill(0, torch.tensor(still, dtype=torch.long), 0.0)
        return rows


@dataclass
class Channel(Boundary):
    """A channel of style space. label: L:C."""

    label: str = ""

    @property
    def name(self):
        return self.label.replace(":", "c")


def length(direction):
    """Root of the mean squared row length of [1 or L, 512]; for [1, 512] its norm."""
    return direction.square().sum(1).mean().sqrt().item()


def load(path, G=None, force=False):
    """Read a boundary: `.npy` of shape [1, 512] or [512], as the official ones, or [L, 512]; or what `foreign` knows.

    Args:
        path: the file, or FILE:N for one of several in it; `offset` and `generator_hash` are read from the `.json` beside it, if
            there is one.
        G: the generator it is meant for: L, 512 and the hash must agree.
        force: accept a boundary of another generator of the same shape.

    Returns:
        Boundary.

    Raises:
        ValueError, OSError: missing, unreadable, of another shape, of length zero, with NaN, or of another generator.
    """
    path, number = foreign.component(path)
    held = _held(path, number, None if G is None else G.config.w_dim)
    number, array = _chosen(held, path, number)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: holds {array.dtype}, not numbers; a boundary is float [1, 512]")
    with np.errstate(over="ignore"):
        normal = torch.from_numpy(np.array(array, np.float64))  # [1 or L, 512]
    if not normal.isfinite().all():
        raise ValueError(f"{path}: holds NaN or infinity; train it again")
    norm = length(normal)
    if norm < 1e-12:
        raise ValueError(f"{path}: a boundary of length zero points nowhere; train it again")
    if norm == math.inf:
        raise ValueError(f"{path}: holds numbers up to {normal.abs().max():.0e}, too large for a direction; train it again")
    if record(path).get("space") == "style":
        if G is not None and tuple(normal.shape) != (1, styles.count(G)):
            raise ValueError(f"{path}: a direction of {normal.shape[1]} style channels; this generator has {styles.count(G)}")
        return _described(Boundary(normal / norm, 0.0, norm, path=path, number=number, space="style"), G, force)
    if G is not None and (normal.shape[1] != G.config.w_dim or len(normal) not in (1, G.num_ws)):
        wanted = f"[1, {G.config.w_dim}] or [{G.num_ws}, {G.config.w_dim}]"
        raise ValueError(
            f"{path}: shape {list(array.shape)}; this generator takes {wanted}, so the boundary is another generator's"
            + (f"; if these are {len(normal)} directions, {path}:0 is the first" if len(normal) > 1 else "")
        )
    found = Boundary(normal / norm, 0.0, norm, path=path, number=number)
    if held.units is not None:
        found.unit = float(held.units[number or 0])
    if held.mean is not None:  # distances count from where the components were found around
        found.offset = -float(found.normal[0] @ torch.from_numpy(np.array(held.mean, np.float64)))
    if not (0 < found.unit < 1e6 and math.isfinite(found.offset)):
        raise ValueError(f"{path}: a standard deviation of {found.unit:g}, or a mean that is not finite; find the components again")
    found.layers = _layers(held.layers, G, f"{path}: by its manipulate_layers")
    return _described(found, G, force)


def _layers(said, G, where):
    """The layers that a file says to move, as text or a list; None: all, or nobody's, without a generator to ask."""
    if said is None or G is None:
        return None
    try:
        return face.layer_range(said if isinstance(said, str) else ",".join(map(str, said)), G.num_ws)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}, {error}") from None


def of_channel(G, text):
    """A channel of style space, by its name L:C, as a Boundary whose unit is the channel's standard deviation over random faces.

    Raises:
        ValueError: no such channel, or it is the same in every face.
    """
    place, normal = styles.index(G, text), torch.zeros(1, styles.count(G), dtype=torch.float64)
    normal[0, place] = 1
    unit = styles.spread(G)[place].item()
    if not unit > 1e-9:
        raise ValueError(f"channel {text}: is the same in every face, so nothing says how far to move it")
    return Channel(normal, unit=unit, space="style", label=styles.label(G, place))


def _held(path, number, dim):
    """What a file of directions holds -> foreign.Directions. number: which is wanted, or None. dim: of w, or None."""
    what = "a boundary is a .npy that train_boundary.py writes"
    with face.reading(path, what):
        with open(path, "rb") as f:
            start = f.read(6)
            f.seek(0)
            if path.suffix == ".pt":
                if held := foreign.of_pt(path):
                    return held
            elif start[:2] == b"PK":
                with face.archive(f) as (names, read):
                    if held := foreign.of_npz(names, read, dim):
                        return held
                    if "w" not in names and "boundary" in names:
                        return _rows(read("boundary"), path, number)
            elif start == b"\x93NUMPY":
                try:
                    face.array_of(f, path.stat().st_size)
                except face.Objects:
                    return foreign.of_pickle(path, f.tell())
    return _rows(face.read_array(path, what), path, number)


def _rows(array, path, number):
    """An array [512], [1 or L, 512] or [K, 1 or L, 512] -> foreign.Directions; with a number, [K, 512] are K directions.

    Latents have three axes, too: only what has the length 1 is taken for directions.
    """
    ones = array.dtype.kind == "f" and array.ndim == 3 and array.size
    with np.errstate(over="ignore"):
        ones = ones and bool(np.all(np.abs(np.square(array, dtype=np.float64).sum(2).mean(1) - 1) < 1e-3))
    if array.size == 0 or array.ndim not in (1, 2, 3) or (array.ndim == 3 and not ones):
        raise ValueError(f"{path}: shape {list(array.shape)}; a boundary is [1, 512], or [L, 512] with a direction a layer")
    if array.ndim == 2:
        return foreign.Directions(array[None] if number is None else array[:, None])
    return foreign.Directions(array[None, None] if array.ndim == 1 else array)


def _chosen(held, path, number):
    """Which direction of a file, None where it holds one, and its array [1 or L, 512]."""
    if not held.rows.size:
        raise ValueError(f"{path}: {held.what} of shape {list(held.rows.shape)}, which is nothing")
    count = len(held.rows)
    if number is None and count > 1:
        raise ValueError(f"{path}: {count} {held.what}; choose one: {path}:0 to {path}:{count - 1}")
    if number is not None and number >= count:
        raise ValueError(f"{path}:{number}: it holds {count} {held.what}, {path}:0" + (f" to {path}:{count - 1}" if count > 1 else ""))
    return number, held.rows[number or 0]


def _described(found, G, force):
    """A boundary with what the `.json` beside it says, which must be of this file and of this generator."""
    path = found.path
    said, own = record(path), getattr(G, "meta", {}).get("hash")
    made_for, offset, parts = said.get("generator_hash"), said.get("offset", found.offset), said.get("files")
    if parts and "latent" in parts:
        raise ValueError(f"{path}: a latent by its record, not a boundary; train_boundary.py makes a boundary of latents")
    if made_for and own and made_for != own and not force:
        raise ValueError(
            f"{path}: made for another generator ({made_for[:12]}, not {own[:12]}); train one with train_boundary.py, or use --force"
        )
    if type(offset) not in (int, float) or not abs(offset) < 1e6:
        raise ValueError(f"{path.with_suffix('.json')}: offset {str(offset)[:40]!r}, expected a number; train the boundary again")
    if parts and parts.get("direction") != files.file_hash(path):
        raise ValueError(f"{path}: an unfinished write: {path.stem}.json is of another direction; train it again, or remove that .json")
    unit = said.get("unit", found.unit)
    if type(unit) not in (int, float) or not 0 < unit < 1e6:
        raise ValueError(f"{path.with_suffix('.json')}: unit {str(unit)[:40]!r}, expected a number above 0; find the direction again")
    if "layers" in said and found.space == "w":
        found.layers = _layers(said["layers"], G, f"{path.with_suffix('.json')}: by its layers")
    found.offset, found.unit, found.info = float(offset), float(unit), said
    return found


def save(path, boundary):
    """Write a boundary's normal as float64 to `path`, and then the rest of it and the normal's sha256 to the `.json` beside it."""
    path, own = Path(path), {"unit": boundary.unit} if boundary.unit != 1 else {}
    own |= {"space": boundary.space} if boundary.space != "w" else {}
    own |= {"layers": boundary.layers} if boundary.layers is not None else {}
    said = {"offset": boundary.offset} | own | boundary.info
    with begun(path, said, "direction"), files.atomic(path) as temporary, open(temporary, "wb") as f:
        np.save(f, boundary.normal.numpy())
    files.write_json(path.with_suffix(".json"), said | {"files": {"direction": files.file_hash(path)}})


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


def signed_distance(ws, boundary, layers=None):
    """How far latents lie from the boundary, positive where the attribute is.

    Args:
        ws: [N, L, 512], a tensor or a NumPy array; W as [N, 1, 512].
        boundary: a Boundary.
        layers: those whose distance counts (default: all).

    Returns:
        float64 [N] on the CPU (Apple's MPS has no float64), in units of W.
    """
    ws, normal = torch.as_tensor(ws).cpu(), boundary.normal
    if layers is not None:
        ws, normal = ws[:, layers], normal if len(normal) == 1 else normal[layers]
    if len(normal) == 1:
        return ws.mean(1).double() @ normal[0] + boundary.offset
    ws = ws.expand(-1, len(normal), -1)
    return torch.einsum("nld,ld->n", ws.double(), normal) / len(normal) + boundary.offset


def accuracy(high, low, boundary):
    """Share of latents [N, L, 512] on the right side, 0..1; a mean of both classes' shares, as one may be larger."""
    right = (signed_distance(high, boundary) > 0).double().mean() + (signed_distance(low, boundary) <= 0).double().mean()
    return right.item() / 2


# ---------------------------------------------------------------------------------------------------------------------
# The edit


def moved(ws, edits, absolute=False, layers=None):
    """Latents moved along directions, all of them at once.

    Relative: w + sum of distance * direction. Absolute: as far as brings the latent to those signed distances from the boundaries;
    InterFaceGAN does so for one w and one plane through the origin. Several boundaries are not orthogonal, so that one move changes
    all distances: how far to go along each is the solution of a small linear system. Where only some layers move, their distance
    alone counts.

    Args:
        ws: [N, L, 512].
        edits: list of (Boundary, distance in units of W).
        absolute: whether the distance is the boundary's from the latent afterwards, and not the latent's from where it was.
        layers: the layers that move (default: those that each boundary's file says, else all).

    Returns:
        float64 [N, L, 512] on the CPU, as `signed_distance`. Relative edits add up, in any order; an absolute edit of the same boundaries
        forgets those before it.

    Raises:
        ValueError: absolute, and the directions do not lead to these distances.
    """
    own = [b.layers for b, _ in edits]
    if layers is None and own and all(each == own[0] for each in own):
        layers = own[0]
    ws, chosen = ws.cpu().double(), list(range(ws.shape[1])) if layers is None else layers
    ways = [b.way(ws.shape[1])[chosen] for b, _ in edits]
    amounts = torch.tensor([float(d) for _, d in edits], dtype=torch.float64).expand(len(ws), -1)  # [N, edits]
    if absolute:
        amounts = _amounts_to_reach(amounts, ws, [b for b, _ in edits], ways, chosen)
    ws = ws.clone()
    for i, way in enumerate(ways):
        ws[:, chosen] += amounts[:, i].view(-1, 1, 1) * way
    return ws


def _amounts_to_reach(distances, ws, boundaries, ways, layers):
    """How far to go along each way so that latents end at `distances` [N, edits] from the boundaries: [N, edits]."""
    here = torch.stack([signed_distance(ws, b, layers) for b in boundaries], 1)
    normals = [b.normal.expand(ws.shape[1], -1)[layers] for b in boundaries]
    gains = torch.tensor([[(way * n).sum(1).mean().item() for way in ways] for n in normals], dtype=torch.float64)
    if torch.linalg.svdvals(gains).min() < 1e-6:
        what = "these layers do not change the distance" if len(ways) == 1 else "these edits cannot be told apart by the distances"
        raise ValueError(f"{what} to the boundary; use --mode relative or other --layers")
    return torch.linalg.solve(gains, (distances - here).T).T


# ---------------------------------------------------------------------------------------------------------------------
# Boundaries by name


def find(name, folder, G, force=False):
    """NAME or FILE -> path: NAME.npy in `folder`, the official FFHQ boundary for a StyleGAN1 at 1024 (downloaded once), or a file.

    Raises:
        ValueError: none of them; says what there is.
    """
    path, inside = Path(name), Path(folder) / f"{name}.npy"
    if path.suffix == ".npy" or foreign.component(name)[1] is not None:
        return path
    official = _takes_official(G) and name in official_names()
    if inside.is_file() and not (official and not fits(inside, G, force)):
        return inside
    if official:
        return downloads.fetch(name)
    if path.is_file():
        return path
    raise ValueError(f"boundary {name}: no such file, and not in {folder} (there: {_names(folder)})")


def _names(folder):
    return ", ".join(p.stem for p in files.visible(folder, "*.npy")) or "nothing"


def official_names():
    """The FFHQ boundaries that can be downloaded by name."""
    return [name for name, item in downloads.DOWNLOADS.items() if item.url.startswith(downloads.INTERFACEGAN)]


def _takes_official(G):
    return G.kind == "stylegan1" and G.resolution == 1024


def fits(path, G, force=False):
    """Whether a file is a boundary for this generator."""
    try:
        load(path, G, force)
    except ValueError:
        return False
    return True


def read(names, folder, G, force=False, only_w=None):
    """Boundaries as a user names them.

    Args:
        names: NAMEs or FILEs (see `find`); None: all in `folder` that fit.
        only_w: the flag that takes directions in W and none in style space; None: both are taken.

    Returns:
        {name: Boundary}, in the order of names; and a list of what a user should be warned of, in sentences.

    Raises:
        ValueError, OSError: one is not found or does not fit, two are of one name, or nothing fits.
    """
    if names is None:
        paths = [p for p in files.visible(folder, "*.npy") if fits(p, G, force)]
        if not paths:
            advice = "train one with train_boundary.py, or give --boundary FILE"
            if _takes_official(G):
                advice = f"for StyleGAN1's FFHQ, --boundary takes {', '.join(official_names())} (downloaded once)"
            raise ValueError(f"{folder}: no boundary of this generator ({_names(folder)} there); {advice}")
    else:
        paths = [find(name, folder, G, force) for name in names]
    found, remarks = {}, []
    for boundary in [load(path, G, force) for path in paths]:
        path = boundary.path
        if only_w and boundary.space != "w":
            raise ValueError(f"{path}: a direction of style channels; {only_w} takes directions in W")
        if boundary.name.casefold() in [name.casefold() for name in found]:
            raise ValueError(f"two boundaries are named {boundary.name}; results are named after them, so rename one file")
        found[boundary.name] = boundary
        ours, where = boundary.info.get("method"), path if boundary.number is None else f"{path}:{boundary.number}"
        if boundary.unit != 1 and not ours:  # find_directions.py has said so
            remarks.append(f"{where}: distances count in the component's standard deviation, {boundary.unit:.3g} of W")
        if boundary.layers is not None and not ours:
            remarks.append(f"{path}: by the file, layers {', '.join(map(str, boundary.layers))} move; --layers says others")
        if abs(boundary.norm - 1) > 1e-3:
            remarks.append(f"{path}: length {boundary.norm:.4g}, made 1; distances count in units of W")
        if path.stem.startswith("stylegan_ffhq_") and "_w_" not in path.stem:
            remarks.append(f"{path}: by its name an official boundary for Z; a latent is W, which wants the one named _w_boundary")
    return found, remarks
