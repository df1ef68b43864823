"""Latents and directions as other projects save them: told apart by what a file holds, never by its name.

Read are e4e's and PTI's `.pt`, the `.pt` of rosinality's projector, the components of GANSpace (`.npz`) and of rosinality's SeFa
(`factor.pt`), and idinvert's boundaries (a pickled dict in a `.npy`, by the restricted reader). What is of another kind than wanted
is refused by name, with what takes it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from editor import pickles

FOLLOW = "semantic_edit.py --boundary {file} follows {one}"
SEFA = "directions of SeFa (rosinality's factor.pt)"
GANSPACE = "components of GANSpace"
IDINVERT = "a boundary of idinvert"


@dataclass
class Held:
    """Latents of a file. array: as they are saved. names: of several faces. noise: maps [N or 1, 1, r, r], one a layer, or None."""

    array: np.ndarray
    names: list | None = None
    noise: list | None = None


@dataclass
class Directions:
    """Directions of a file: rows [K, 1 or L, 512]. what: whose they are.

    units: how long a step of 1 is, [K], or None (1). mean: [512], what they were found around, or None. layers: those that the file
    says to move, as text or a list, or None.
    """

    rows: np.ndarray
    what: str = "directions"
    units: np.ndarray | None = None
    mean: np.ndarray | None = None
    layers: object = None


# ---------------------------------------------------------------------------------------------------------------------
# Latents


def latents(path):
    """What a `.pt` of latents holds -> Held.

    Raises:
        ValueError: it holds something else; says what.
    """
    data = pickles.read_pt(path)
    if isinstance(data, dict) and "eigvec" in data:
        raise ValueError(f"{SEFA}, not latents; {FOLLOW.format(file=f'{path}:0', one='the first')}")
    if isinstance(data, dict) and any(str(name).endswith(".weight") for name in data):
        raise ValueError("the weights of a network, not latents; weight_convert.py reads a generator's")
    if isinstance(data, dict) and any(_projected(value) for value in data.values()):
        return _of_projector(data)
    while isinstance(data, dict | list | tuple) and len(data) == 1:  # a tensor in a dict or list of its own
        data = next(iter(data.values() if isinstance(data, dict) else data))
    if isinstance(data, dict) and data and all(isinstance(value, pickles.Tensor) for value in data.values()):
        return Held(_stacked([_numbers(value) for value in data.values()], data), labels(data))
    if not isinstance(data, pickles.Tensor):
        raise ValueError("a PyTorch file that holds neither one tensor, [N, L, 512] is expected, nor a dict of them, one a face")
    return Held(_numbers(data))


def ganspace_there(names, path):
    """What to say of a `.npz` with these arrays where a latent is wanted; None where it is not GANSpace's."""
    if {"act_comp", "lat_comp"} & set(names):
        return f"{GANSPACE}, not latents; {FOLLOW.format(file=f'{path}:0', one='the first')}"
    return None


def boundary_there(path, start):
    """What to add of a `.npy` of objects where a latent is wanted."""
    try:
        of_pickle(path, start)
    except Exception:  # as of every pickle that is none of ours
        return ""
    return f", but as {IDINVERT}; {FOLLOW.format(file=path, one='it')}"


def _projected(value):
    return isinstance(value, dict) and "latent" in value


def _of_projector(data):
    """rosinality's projector: {file: {img, latent, noise}}, or with `noises` of all files beside them, as it was in 2020."""
    faces = {name: value for name, value in data.items() if _projected(value)}
    if set(data) - set(faces) - {"noises"} or not all(isinstance(value["latent"], pickles.Tensor) for value in faces.values()):
        raise ValueError("not as rosinality's projector saves it: {file: {img, latent, noise}}")
    each = [value.get("noise", data.get("noises")) for value in faces.values()]
    noise = None
    if all(isinstance(maps, list | tuple) and all(isinstance(m, pickles.Tensor) for m in maps) for maps in each):
        maps = [[_numbers(m) for m in maps] for maps in (each if "noises" not in data else each[:1])]
        if len({tuple(m.shape for m in one) for one in maps}) > 1:
            raise ValueError("its faces have noise maps of different shapes")
        noise = [np.concatenate(layer) for layer in zip(*maps, strict=True)]
    elif any(maps is not None for maps in each):
        raise ValueError("its noise is no list of maps [1, 1, r, r]")
    return Held(_stacked([_numbers(value["latent"]) for value in faces.values()], faces), labels(faces) if len(faces) > 1 else None, noise)


def _stacked(arrays, names):
    """One latent a name, [512], [1 or L, 512] or [1, L, 512] -> [N, 1 or L, 512]."""
    shaped = [a[None] if a.ndim == 1 else a[0] if a.ndim == 3 and len(a) == 1 else a for a in arrays]
    wrong = next((i for i, a in enumerate(shaped) if a.ndim != 2 or a.shape != shaped[0].shape), None)
    if wrong is not None:
        name = pickles.shown(list(names)[wrong], 60)
        raise ValueError(
            f"{name} is {list(arrays[wrong].shape)}, and its first {list(arrays[0].shape)}; one latent a name, all alike, is expected"
        )
    return np.stack(shaped)


def _numbers(tensor):
    values = tensor.read()
    if values.dtype.kind != "f":
        raise ValueError(f"a tensor of {values.dtype}; a latent is float32")
    return values


def labels(names):
    """What a file calls its faces -> what ends their results' names; numbers where that leaves two alike."""
    short = []
    for name in map(str, names):
        stem = re.split(r"[/\\]", name)[-1]
        plain = re.sub(r"[^\w.-]+", "_", stem.rpartition(".")[0] or stem).strip(".")
        short.append(plain.encode("utf-8", "ignore")[:80].decode("utf-8", "ignore"))  # a file's name has 255 bytes
    alike = len({name.casefold() for name in short}) < len(short) or not all(short)
    return [str(i) for i in range(len(short))] if alike else short


# ---------------------------------------------------------------------------------------------------------------------
# Directions


def component(path):
    """What a user calls one direction, FILE or FILE:N -> (Path, N or None)."""
    matched = re.fullmatch(r"(.+\.(?:pt|npz|npy)):([0-9]{1,6})", str(path), re.DOTALL)
    if matched and not Path(path).exists():
        return Path(matched[1]), int(matched[2])
    return Path(path), None


def of_pt(path):
    """`Directions` of SeFa in a `.pt`, or None: it holds something else."""
    data = pickles.read_pt(path)
    if not isinstance(data, dict) or "eigvec" not in data:
        return None
    vectors = data["eigvec"]
    if not isinstance(vectors, pickles.Tensor) or len(vectors.size) != 2:
        raise ValueError(f"{SEFA} whose eigvec is no tensor [512, 512]")
    return Directions(_numbers(vectors).T[:, None], SEFA)  # each column is one: the matrix comes from svd(weights).V


def of_npz(names, read, dim):
    """`Directions` of GANSpace in a `.npz`, or None: it holds something else.

    Args:
        names: of its arrays. read: name -> array. dim: of w, or None.
    """
    for comp, stdev, mean in (("act_comp", "act_stdev", "act_mean"), ("lat_comp", "lat_stdev", "lat_mean")):
        if comp not in names:
            continue
        rows = read(comp)
        rows = rows.reshape(len(rows), -1) if rows.ndim > 1 else rows[None]
        if dim not in (None, rows.shape[1]):  # activations of a convolution: the second is what moves w
            continue
        units = read(stdev).reshape(-1) if stdev in names else None
        centre = read(mean).reshape(-1) if mean in names else None
        if any(found is not None and found.dtype.kind not in "fiu" for found in (units, centre)):
            raise ValueError(f"{GANSPACE} whose {stdev} or {mean} are no numbers")
        if (units is not None and len(units) != len(rows)) or (centre is not None and len(centre) != rows.shape[1]):
            raise ValueError(f"{GANSPACE} whose {stdev} or {mean} is of another size than {comp}")
        return Directions(rows[:, None], GANSPACE, units, centre)
    return None


def of_pickle(path, start):
    """`Directions` of idinvert in a `.npy` that holds a pickled dict, which begins at byte `start`.

    Raises:
        ValueError: another dict, or what the restricted reader refuses.
    """
    held = pickled(path, start)
    if not isinstance(held, dict) or not isinstance(held.get("boundary"), pickles.Array):
        raise ValueError(f"an array of objects, but no boundary of idinvert, {{boundary, meta_data}}; it holds {pickles.shown(held)}")
    about = held.get("meta_data")
    rows = held["boundary"].read()
    layers = about.get("manipulate_layers") if isinstance(about, dict) else None
    if not isinstance(layers, str | list | tuple | None):
        raise ValueError(f"{IDINVERT} whose manipulate_layers is {pickles.shown(layers)}, not such as 4-5")
    return Directions(rows.reshape(1, -1, rows.shape[-1]), IDINVERT, layers=layers or None)


def pickled(path, start):
    """The one object in a `.npy` of objects, by the restricted reader: nothing that it names is run."""
    reader, made = pickles.Reader(path, start), []

    def array(*_):  # the outer one holds the object, those inside it numbers
        made.append(pickles.Array(reader) if made else pickles.Stub())
        return made[-1]

    reader.names["numpy.dtype"] = pickles.Function(lambda code="", *_: pickles.Stub() if str(code)[:1] == "O" else pickles.DType(code))
    for core in ("numpy.core", "numpy._core"):
        reader.names[f"{core}.multiarray._reconstruct"] = pickles.Function(array)
    state = reader.load().state
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[4], list) or len(state[4]) != 1:
        raise ValueError("an array of objects that does not hold one")
    return state[4][0]
