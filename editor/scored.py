"""Latents of many faces, and a number for each of them, as train_boundary.py and find_directions.py read them."""

import csv
import io
from pathlib import Path

import numpy as np

from editor import face, files


def read_latents(path, G=None):
    """Latents of many faces -> float32 [N, 1 or L, 512], and the set of the generators' hashes that their records name.

    Args:
        path: `.npy` or `.pt` [N, 512] (W) or [N, L, 512] (W+), with G also [N, L * 512]; or a folder of latents, in the order of
            their names.
        G: the generator they belong to, or None.

    Raises:
        ValueError, OSError: missing, unreadable, NaN, or another shape. [N, 512] are N faces here, and not the layers of one.
    """
    if Path(path).is_dir():
        return _read_folder(path, G)
    array = face.read_array(path, "--latents is a .npy with a latent a face, [N, 512] or [N, L, 512]", several=True)
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"{path}: {array.dtype} {list(array.shape)}; latents of many faces are float32 [N, 512] or [N, L, 512]")
    with np.errstate(over="ignore"):
        ws = array.astype(np.float32)
    if not np.isfinite(ws).all():
        raise ValueError(f"{path}: holds NaN or infinity")
    if G is not None and ws.shape[1:] == (G.num_ws * G.config.w_dim,):
        ws = ws.reshape(len(ws), G.num_ws, G.config.w_dim)
    if ws.ndim == 2 and ws.shape[1] > 512 and ws.shape[1] % 512 == 0:
        layers = ws.shape[1] // 512
        raise ValueError(
            f"{path}: rows of {ws.shape[1]} numbers are {layers} layers of 512, flattened; give their generator with --weight_file, "
            f"or reshape them: numpy.load(...).reshape(-1, {layers}, 512)"
        )
    ws = ws[:, None] if ws.ndim == 2 else ws
    if G is not None and (ws.shape[2] != G.config.w_dim or ws.shape[1] not in (1, G.num_ws)):
        wanted = f"[N, {G.config.w_dim}] or [N, {G.num_ws}, {G.config.w_dim}]"
        raise ValueError(f"{path}: shape {list(array.shape)}; latents of the generator of --weight_file are {wanted}")
    return ws, {face.record(path).get("generator_hash")} - {None}


def _read_folder(folder, G):
    found, hashes = [], set()
    for path in face.expand([folder]):
        one = face.read(path, G, force=True, saved_noise=False)
        if found and one.ws.shape[1:] != found[0].ws.shape[1:]:
            raise ValueError(
                f"{path}: shape {list(one.ws.shape)}, but {found[0].path.name} has {list(found[0].ws.shape)}; latents of one generator only"
            )
        found.append(one)
        hashes |= {one.info.get("generator_hash")} - {None}
    return np.concatenate([one.ws.numpy() for one in found]), hashes


def read_scores(path, column=None):
    """One number a face: `.npy` [N] or [N, 1], or a column of a `.csv` -> float64 [N].

    Args:
        column: the name of the column of a CSV with several; the first line is then their names.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        scores = _csv_column(path, column)
    elif column is not None:
        raise ValueError(f"{path}: --column is of a .csv; this is none")
    else:
        scores = face.read_array(path, "--scores is a .npy or .csv with a number a face")
        if scores.dtype.kind not in "fiub" or scores.size == 0 or scores.size != len(np.atleast_1d(scores)):
            raise ValueError(f"{path}: {scores.dtype} {list(scores.shape)}; scores are one number a face, [N] or [N, 1]")
        scores = scores.astype(np.float64).reshape(-1)
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise ValueError(f"{path}: score {bad[0] + 1} of {len(scores)} is not a finite number")
    return scores


def _csv_column(path, column):
    rows = [row for row in _csv_rows(path) if row]
    if not rows:
        raise ValueError(f"{path}: an empty file")
    header = None if all(_number(cell) is not None for cell in rows[0]) else [cell.strip() for cell in rows.pop(0)]
    if column is not None and (header is None or column not in header):
        raise ValueError(f"{path}: no column {column}; " + (f"it has {', '.join(header)}" if header else "its first line holds no names"))
    if column is not None and header.count(column) > 1:
        raise ValueError(f"{path}: {header.count(column)} columns are called {column}; rename one")
    if column is None and len(header or rows[0]) > 1:
        named = f" --column, one of {', '.join(header)}" if header else " one number a line"
        raise ValueError(f"{path}: {len(header or rows[0])} columns; give{named}")
    at = header.index(column) if column else 0
    values = [_number(row[at]) if at < len(row) else None for row in rows]
    if None in values:
        line = values.index(None) + 1 + (header is not None)
        raise ValueError(f"{path}: line {line}: {','.join(rows[values.index(None)])!r}, expected a number a face")
    return np.array(values, np.float64)


def _csv_rows(path):
    what = "--scores is a .npy or .csv with a number a face"
    files.require_regular(path, what)
    if path.stat().st_size > files.MAX_TEXT:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; {what}")
    try:
        return list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not readable as a table ({error}); save it as CSV in UTF-8") from None


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None
