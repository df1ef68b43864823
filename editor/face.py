"""A face on disk, whole: its latent, its noise maps, its tuned weights and its record are read, written, mixed and moved together.

NAME.npy                the latent, float32 [1, L, 512]: one w a layer
NAME.noise.npz          where noise maps were optimised: "0", "1", ... for each layer of `G.synthesis.layers()`, float32
                        [1, 1, r, r]; a key is absent where the map is the generator's own
NAME.tuned.safetensors  where the generator was tuned around the face, or StyleGAN3's input turned and shifted for it: what it is changed
                        by (editor/tuning.py)
NAME.json               the record, written last: what made the face, and the sha256 of the others. It makes the set valid:
                        parts that do not match it are an unfinished write and are never used together. Where there was none, one that
                        matches no parts is written first: a latent without a record is another tool's.
"""

import math
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from editor import files, foreign, projection, tuning
from editor.pickles import shown

SUFFIXES = (".npy", ".npz", ".pt")
WHAT = "a latent is a .npy that encode_image.py writes, or a file of another project (README.md)"
MAX_BYTES = 4 << 30  # of one array; more is a broken or hostile file sooner than latents
FAR = 2.0  # times the usual distance from the mean latent: what lies further, one w for all layers, may be a z
FARTHER = 1.5  # ... and what lies further than this and has a z's length (measured: w up to 1.4 or, shorter than a z, 1.9; z from 1.7 on)


@dataclass
class Face:
    """One face or several from one file.

    ws: float32 [N, L, 512] (without a generator to ask, W comes as [N, 1, 512]).
    noise: maps [1 or N, 1, r, r], one a layer of `G.synthesis.layers()`; None: the generator's own.
    tuned: what the synthesis weights are changed by, as `tuning.tune` finds it; None: nothing.
    info: what the record says; {} without one.
    path: the latent's file, or None.
    remarks: what a user should know of it, in sentences.
    names: what its file calls its faces, where there are several; None: they are numbered.
    """

    ws: torch.Tensor
    noise: list | None = None
    tuned: dict | None = None
    info: dict = field(default_factory=dict)
    path: Path | None = None
    remarks: list = field(default_factory=list)
    names: list | None = None

    @property
    def name(self):
        return self.path.stem if self.path else ""

    @property
    def maps(self):
        """The noise as `G.synthesis(ws, noise=...)` takes it."""
        return "const" if self.noise is None else self.noise

    def to(self, device):
        noise = None if self.noise is None else [m.to(device) for m in self.noise]
        tuned = None if self.tuned is None else {name: delta.to(device) for name, delta in self.tuned.items()}
        return replace(self, ws=self.ws.to(device), noise=noise, tuned=tuned)

    def split(self):
        """Its faces one by one, each [1, L, 512]; where there are several they are called NAME_0, NAME_1, ..., or as their file says."""
        if len(self.ws) == 1:
            return [self]
        found = []
        for i, name in enumerate(self.names or range(len(self.ws))):
            path = self.path.with_name(f"{self.path.stem}_{name}{self.path.suffix}") if self.path else None
            noise = None if self.noise is None else [m if len(m) == 1 else m[i : i + 1] for m in self.noise]
            found.append(replace(self, ws=self.ws[i : i + 1], noise=noise, path=path, names=None))
        return found


# ---------------------------------------------------------------------------------------------------------------------
# Read


def expand(paths):
    """What a user may name -> files: a folder means the latents in it, in the order of their names.

    Raises:
        ValueError: a folder without latents.
    """
    found = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = files.visible(path, "*.npy")
        if not inside:
            raise ValueError(f"{path}: no .npy in this folder; {WHAT}")
        found += inside
    return found


def read(path, G=None, force=False, saved_noise=True, strength=1.0):
    """Read a face with all its parts.

    Args:
        path: `.npy` of shape [1, L, 512], [L, 512], [N, L, 512], [1, 512] or [512] (W, one w for all layers), [N, 512] (W of N
            faces; refused where it may as well be one face of another generator), `.npz` with the key `w`, or a `.pt`: one tensor,
            a dict of them, or what rosinality's projector writes, whose noise maps are the face's (see `foreign`).
        G: the generator it is meant for: L and the hash in the record must agree; W is then broadcast.
        force: accept a latent that another generator of the same shape made.
        saved_noise: read the noise maps beside it, too.
        strength: of the tuned weights beside it, 0 (they are not read) to 1.

    Returns:
        Face.

    Raises:
        ValueError, OSError: missing, unreadable, of another shape, with NaN, of another generator, or an unfinished write.
    """
    path = Path(path)
    found, said = _latents(path, G, saved_noise), record(path)
    ws, found.info = found.ws, said
    made_by, own = said.get("generator_hash"), getattr(G, "meta", {}).get("hash")
    if made_by and own and made_by != own and not force:
        raise ValueError(
            f"{path}: made by another generator ({made_by[:12]}, not {own[:12]}); encode it again, give its generator with --weight_file, "
            "or, if that was fine-tuned into this one, use --force"
        )
    parts = said.get("files")
    if parts and "direction" in parts:
        raise ValueError(f"{path}: a boundary by its record, not a latent; semantic_edit.py takes it with --boundary")
    if parts and parts.get("latent") != files.file_hash(path):
        raise _unfinished(path)
    if G is not None and saved_noise and _belongs(found, "noise", noise_path(path), "--no_saved_noise"):
        found.noise = _read_noise(noise_path(path), G)
    if G is not None and strength and _belongs(found, "tuned", tuning.path_of(path), "--tuned_strength 0"):
        found.tuned = tuning.scaled(tuning.read(tuning.path_of(path), G, force), strength, G)
    if said.get("complete") is False:
        found.remarks.append(f"{path}: stopped before its end; encode_image.py, called as before, finishes it")
    one_w = G is not None and torch.equal(ws, ws[:, :1].expand_as(ws))
    if one_w and not said and len(ws) == 1 and abs(ws[0, 0].norm().item() - 1) < 1e-4:
        found.remarks.append(f"{path}: of length 1, as boundaries are, and faces are not; semantic_edit.py takes those with --boundary")
    if one_w and (distance := _distance(ws, G)) > (FARTHER if _long_as_z(ws, G) else FAR):
        found.remarks.append(
            f"{path}: {distance:.1f} times as far from the mean latent as faces are; is it a z? "
            "A latent is w, what the mapping network makes of z"
        )
    return found


def _belongs(found, part, file, without):
    """Whether a file beside a latent is, by the record, a part of the face; `without` is the flag that leaves it out.

    Raises:
        ValueError: it is another face's or an unfinished one, or it is gone.
    """
    path, parts = found.path, found.info.get("files")
    what = {"noise": "noise maps", "tuned": "tuned weights"}[part]
    if not file.is_file():
        if parts and part in parts:
            raise ValueError(f"{path}: its {what} ({file.name}) are gone; encode again, or use {without}")
        return False
    if parts is not None and part not in parts:
        found.remarks.append(f"{file}: left out; by its record {path.name} has no {what}, so these are another face's")
        return False
    if parts and parts[part] != files.file_hash(file):
        raise _unfinished(path)
    if not found.info:
        raise ValueError(f"{file}: no {path.stem}.json says that it belongs to {path.name}; encode again, or use {without}")
    return True


def read_one(path, G=None, force=False, saved_noise=True, strength=1.0):
    """As `read`, of a file that must hold one face."""
    found = read(path, G, force, saved_noise, strength)
    if len(found.ws) != 1:
        raise ValueError(f"{path}: holds {len(found.ws)} latents, and one is wanted here; write the one you mean into a file of its own")
    return found


def _unfinished(path):
    return ValueError(
        f"{path}: an unfinished write: its parts do not belong together (the hashes in {path.stem}.json differ); encode again, or remove "
        f"{path.stem}.json and use --no_saved_noise --tuned_strength 0 to take the latent as it is"
    )


def _latents(path, G, saved_noise=True):
    """A Face with float32 ws [N, L, 512], fit for G ([N, 1, 512] for W without G), and the noise maps that its own file holds."""
    held = _held(path, WHAT)
    array, found = held.array, Face(None, path=path, names=held.names)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: holds {array.dtype}, not numbers; a latent is float32 [1, L, 512]")
    if array.size == 0 or array.ndim not in (1, 2, 3):
        raise ValueError(f"{path}: shape {list(array.shape)}; a latent is [1, L, 512], [L, 512] or [512]")
    with np.errstate(over="ignore"):
        w = np.array(array, np.float32)
    if not np.isfinite(w).all():
        raise ValueError(f"{path}: holds NaN or infinity; encode it again")
    several = G is not None and w.ndim == 2 and len(w) not in (1, G.num_ws) and not _plausible(w, G)  # W of as many faces
    w = w.reshape(1, 1, -1) if w.ndim == 1 else w[:, None] if several else w[None] if w.ndim == 2 else w
    found.ws = torch.from_numpy(w)
    if G is None:
        return found
    n, layers, dim = found.ws.shape
    if dim != G.config.w_dim or layers not in (1, G.num_ws):
        raise ValueError(f"{path}: shape {list(array.shape)}; {_unfit(array, w, G)}")
    if array.ndim == 2 and layers == G.num_ws > 1:
        found.remarks.append(
            f"{path}: taken for one face of {layers} layers; if these are {layers} faces of W, write them as [{layers}, 1, {dim}], "
            "which numpy.load(...)[:, None] is"
        )
    if held.noise is not None and saved_noise:
        projection.require_noise(G)
        count = len(G.synthesis.layers())
        if len(held.noise) != count:
            raise ValueError(
                f"{path}: {len(held.noise)} noise maps a face; this generator has {count}: give the one that they were found with"
            )
        each = [{str(i): m[k : k + 1] for i, m in enumerate(held.noise)} for k in range(len(held.noise[0]))]
        found.noise = [torch.cat(maps) for maps in zip(*(_maps(arrays, path, G) for arrays in each), strict=True)]
    found.ws = found.ws.expand(n, G.num_ws, dim).clone()
    return found


def _unfit(array, w, G):
    """What to say of an array that is no latent of G; w is how it was taken, [N, L, 512]."""
    takes, (_, layers, dim) = f"this generator (side {G.resolution}) takes [1, {G.num_ws}, {G.config.w_dim}]", w.shape
    if layers == 1 and dim == G.num_ws * G.config.w_dim:
        return f"{takes}, and these are so many numbers in a row: numpy.load(...).reshape(-1, {G.num_ws}, {G.config.w_dim}) is that"
    if not _plausible(w[0], G):
        return takes
    side = f"it belongs to a generator of side {2 ** (layers // 2 + 1)}{' or a StyleGAN3' * (layers == 16)}"
    side += ": give that one with --weight_file"
    either = f", or, if these are {layers} faces of W, write them as [{layers}, 1, {dim}], which numpy.load(...)[:, None] is"
    return f"{takes}; {side}{either if array.ndim == 2 else ''}"


def _plausible(w, G):
    """Whether an array [L, 512] may be one face of a generator of another side (its layers are even in number: 4 to 18)."""
    return w.shape[1] == G.config.w_dim and len(w) % 2 == 0 and 4 <= len(w) <= 18


def _distance(ws, G):
    """The largest distance of a face from the mean latent, a mean over its layers, in units of what is usual for this generator."""
    return (ws.to(G.w_avg.device) - G.w_avg).norm(dim=2).mean(1).max().item() / tuning.usual_distance(G)


def _long_as_z(ws, G):
    """Whether all latents have the length of normal numbers: the square root of their count, to within five standard deviations of it."""
    return bool(((ws.norm(dim=2) - G.config.z_dim**0.5).abs() < 5 * 0.5**0.5).all())


def read_array(path, what, several=False):
    """The array of a `.npy`, of the key `w` of a `.npz`, or of a `.pt` that holds one tensor; pickled objects are never read.

    What a file declares is compared with its size before memory is taken.

    Args:
        what: ends the error for a missing file.
        several: take the latents of a `.pt` that holds one a name, in its order, and leave their noise maps out.

    Raises:
        ValueError, OSError: missing, no plain file, damaged, or of something else.
    """
    held = _held(path, what)
    if not several and (held.names or held.noise):
        raise ValueError(f"{path}: holds the latents of several faces, or noise maps with them; one array is expected here; {what}")
    return held.array


def _held(path, what):
    """As `read_array` -> foreign.Held."""
    path = Path(path)
    with reading(path, what):
        if path.suffix == ".pt":
            return foreign.latents(path)
        with open(path, "rb") as f:
            start = f.read(6)
            f.seek(0)
            if start[:2] == b"PK":
                return foreign.Held(_zipped(f, path))
            if start != b"\x93NUMPY":
                raise ValueError(_looks_like(start))
            try:
                return foreign.Held(array_of(f, path.stat().st_size))
            except Objects as error:
                raise ValueError(f"{error}{foreign.boundary_there(path, f.tell())}") from None


@contextmanager
def reading(path, what):
    """A block that reads a file of numbers; ValueError that names it, whatever goes wrong inside, and OSError where the system says so."""
    files.require_regular(path, what)
    try:
        yield
    except Exception as error:  # NumPy, zipfile and PyTorch answer damaged files with a dozen kinds of errors
        if isinstance(error, (MemoryError, OSError)) and not isinstance(error, zipfile.BadZipFile) and getattr(error, "errno", None):
            raise
        raise ValueError(f"{path}: not readable as numbers: {' '.join(str(error).split())[:200] or type(error).__name__}; {what}") from None


class Objects(ValueError):
    """A `.npy` of pickled objects: the file stands where the pickle begins."""


def _looks_like(start):
    if not start:
        return "an empty file"
    if start[:1] == b"\x80":
        return "a pickle, which is never read"
    text = all(byte >= 32 or byte in b"\t\r\n" for byte in start)
    return f"{'a text file' if text else 'something else'}, not NumPy's .npy (numpy.save writes one)"


def _zipped(f, path, key="w"):
    """One array of an open `.npz`."""
    with archive(f) as (names, read):
        if key not in names:
            raise ValueError(foreign.ganspace_there(names, path) or f"it holds {shown(', '.join(names)) or 'nothing'}, and no `{key}`")
        return read(key)


@contextmanager
def archive(f):
    """The names of the arrays in an open `.npz`, and what reads one of them."""
    with zipfile.ZipFile(f) as opened:
        yield [n.removesuffix(".npy") for n in opened.namelist()], lambda name: _member(opened, f"{name}.npy")


def _member(archive, name):
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others pack gigabytes into kilobytes
        raise ValueError(f"{name} is compressed in a way that NumPy does not use")
    if entry.file_size > 2 * entry.compress_size + (32 << 20):  # numbers that were measured hardly pack
        raise ValueError(f"{name} has {entry.file_size:,} bytes, packed into {entry.compress_size:,}; no such array is read")
    with archive.open(entry) as f:
        return array_of(f, entry.file_size)


def array_of(f, size):
    """One array of an open `.npy` of `size` bytes (which may lie, in an archive): no more is read than its header asks for."""
    version = np.lib.format.read_magic(f)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(f)
    if dtype.hasobject:
        raise Objects("an array of objects, which is never read")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or not 0 <= count * dtype.itemsize <= min(MAX_BYTES, size):
        raise ValueError(f"its header says {list(shape)[:6]} {dtype}, which its {size} bytes cannot hold")
    return np.frombuffer(f.read(count * dtype.itemsize), dtype, count).reshape(shape, order="F" if fortran else "C")


def record(path):
    """What the record beside a latent (or direction) says; {} when there is none.

    Raises:
        ValueError: it is no JSON object, or what it says of the generator or of its files is of another type.
    """
    beside = Path(path).with_suffix(".json")
    if not beside.exists():
        return {}
    advice = "remove it, or encode again"
    said = files.read_json(beside, advice)
    if not isinstance(said, dict):
        raise ValueError(f"{beside}: a JSON {type(said).__name__}, not an object; {advice}")
    made_by, parts = said.get("generator_hash"), said.get("files")
    if not isinstance(made_by, (str, type(None))):
        raise ValueError(f"{beside}: generator_hash is no text; {advice}")
    if parts is not None and not (isinstance(parts, dict) and parts and all(isinstance(v, str) for v in parts.values())):
        raise ValueError(f"{beside}: files does not name the sha256 of the parts; {advice}")
    return said


# ---------------------------------------------------------------------------------------------------------------------
# Write


def write(path, ws, info=None, noise=None, tuned=None, also=None):
    """Write a face; each file whole or not at all, and the record last (before the parts one that says they are unfinished).

    Args:
        path: NAME.npy.
        ws: [N, L, 512], written as float32.
        info: a dict, for the record; `files` is added.
        noise: list of maps [1, 1, r, r], one a layer, with None where the map is the generator's own (see `changed`); None: none.
        tuned: what the synthesis weights are changed by; None: nothing.
        also: called before the record is written; writes what else belongs to the set, and returns what the record says of it.

    Raises:
        ValueError: another ending than .npy.
        OSError: a file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"{path}: latents are written as .npy; give a name that ends so")
    arrays = None if noise is None else {str(i): m.detach().cpu().numpy().astype(np.float32) for i, m in enumerate(noise) if m is not None}
    parts = {}
    with begun(path, info):
        if arrays is not None:
            with files.atomic(noise_path(path)) as temporary:
                with open(temporary, "wb") as f:
                    np.savez_compressed(f, **arrays)
                parts["noise"] = files.file_hash(temporary)  # of what this run writes, whoever else writes there
        if tuned is not None:
            parts["tuned"] = tuning.write(tuning.path_of(path), tuned, (info or {}).get("generator_hash"))
        with files.atomic(path) as temporary:
            with open(temporary, "wb") as f:
                np.save(f, ws.detach().cpu().numpy().astype(np.float32))
            parts["latent"] = files.file_hash(temporary)
    more = also() if also else {}
    files.write_json(path.with_suffix(".json"), (info or {}) | more | {"files": parts})
    for part, file in (("noise", noise_path(path)), ("tuned", tuning.path_of(path))):
        if part not in parts:
            file.unlink(missing_ok=True)  # an older face's; the record does not name it any more


@contextmanager
def begun(path, info=None, part="latent"):
    """While the parts are replaced, see that what is half written shows, and is told from another tool's file after a kill.

    Without a record one is written that no part matches, and taken back where the latent was not written (a full disk); an older
    toolkit's gets the hashes of the parts.

    Args:
        path: NAME.npy. info: as of `write`. part: what it holds.
    """
    try:
        said = record(path)
    except ValueError:
        said = None  # no reader takes it
    beside, path = Path(path).with_suffix(".json"), Path(path)

    def there():
        if not path.is_file():
            return None
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    before = there()
    if said == {}:
        files.write_json(beside, (info or {}) | {"complete": False, "files": {part: ""}})
    elif said and "files" not in said and path.is_file():
        older = {"latent": path} | ({"noise": noise_path(path)} if noise_path(path).is_file() else {})
        files.write_json(beside, said | {"files": {part: files.file_hash(file) for part, file in older.items()}})
    try:
        yield
    except BaseException:
        if said == {} and there() == before:
            beside.unlink(missing_ok=True)
        raise


def outputs(path):
    """The files that `write` may write, for checks before the work."""
    path = Path(path)
    return [path, noise_path(path), tuning.path_of(path), path.with_suffix(".json")]


def noise_path(path):
    """The file of a latent's noise maps: NAME.npy -> NAME.noise.npz."""
    return Path(path).with_suffix(".noise.npz")


def _read_noise(target, G):
    """The noise maps beside a latent: float32 [1, 1, r, r], one a layer.

    Raises:
        ValueError: unreadable, or of another generator: unknown keys, other shapes, NaN or infinity.
    """
    projection.require_noise(G)
    layers = G.synthesis.layers()
    files.require_regular(target, "encode again, or use --no_saved_noise")
    try:
        with open(target, "rb") as f, zipfile.ZipFile(f) as archive:
            largest = 128 * len(layers) + 4 * sum(layer.noise_const.numel() for layer in layers)
            if sum(entry.file_size for entry in archive.infolist()) > 2 * largest + 65536:
                raise ValueError("larger than this generator's maps")
            arrays = {name.removesuffix(".npy"): _member(archive, name) for name in archive.namelist()}
    except Exception as error:  # as in `read_array`
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{target}: not noise maps ({reason}); encode again, or use --no_saved_noise") from None
    return _maps(arrays, target, G)


def _maps(arrays, target, G):
    """{"0": array [1, 1, r, r], ...} -> all maps, the generator's own where there is none; or ValueError, which names the file."""
    layers, maps = G.synthesis.layers(), own_noise(G)
    for key, array in arrays.items():
        if not key.isdecimal() or len(key) > 4 or int(key) >= len(layers):
            raise ValueError(f"{target}: holds {key[:40]!r}; this generator has maps 0 to {len(layers) - 1}")
        want = maps[int(key)].shape
        if array.dtype.kind != "f" or array.shape != want:
            raise ValueError(f"{target}: map {key} is {array.dtype} {list(array.shape)}; this generator takes float32 {list(want)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{target}: map {key} holds NaN or infinity; encode again, or use --no_saved_noise")
        maps[int(key)] = torch.from_numpy(array.astype(np.float32)).to(maps[int(key)].device)
    return maps


# ---------------------------------------------------------------------------------------------------------------------
# Mix and move


def own_noise(G):
    """The generator's own maps, list of [1, 1, r, r]."""
    return [layer.noise_const[None, None] for layer in G.synthesis.layers()]


def changed(maps, G):
    """Noise maps as `write` takes them: None in place of those that are the generator's own."""
    if maps is None:
        return None
    kept = [None if torch.equal(m, own) else m for m, own in zip(maps, own_noise(G), strict=True)]
    return kept if any(m is not None for m in kept) else None


def mix(base, other, layers, amount=1.0, G=None):
    """`base` with the chosen layers moved towards `other`'s, latent, noise and tuned weights alike: at 1 they are other's, bit for bit.

    Args:
        base, other: Face of N and N or 1 faces.
        layers: list of layers, such as `layer_range` gives; a layer's noise map and its tuned weights go with its w.
        amount: 0 (base's) .. 1 (other's); beyond, the latent goes on and the rest stays at that end: more of it is grain, not expression.
        G: the generator; needed where one of the two has noise or weights of its own.

    Returns:
        Face, without path and record.
    """
    first, second = torch.broadcast_tensors(base.ws, other.ws)
    ws = first.clone()
    ws[:, layers] = torch.lerp(first[:, layers], second[:, layers], amount)
    share, noise, tuned = min(max(float(amount), 0.0), 1.0), None, None
    if base.noise is not None or other.noise is not None:
        pairs = zip(base.noise or own_noise(G), other.noise or own_noise(G), strict=True)
        noise = [torch.lerp(a, b, share) if i in layers else a for i, (a, b) in enumerate(pairs)]
    if base.tuned or other.tuned:
        tuned = tuning.between(base.tuned, other.tuned, lambda name: share if tuning.layer_of(G, name) in layers else 0.0, G)
    return Face(ws, noise, tuned)


def layer_range(text, num_ws):
    """'0-8,16' -> [0, 1, ..., 8, 16].

    Raises:
        ValueError: not a list of numbers and ranges, or past the last layer.
    """
    chosen = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and first.isascii()) or (dash and not (last.isdecimal() and last.isascii())) or len(part) > 20:
            raise ValueError(f"layers {text[:60]!r}: write numbers and ranges, as in 0-8,12")
        a, b = int(first), int(last or first)
        if a > b or b >= num_ws:
            raise ValueError(f"layers {text[:60]!r}: {part.strip()} is not within 0-{num_ws - 1}, the layers of this generator")
        chosen.update(range(a, b + 1))
    return sorted(chosen)
