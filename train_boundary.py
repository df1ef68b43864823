"""Train a semantic boundary (InterFaceGAN, Shen et al. 2020): the direction in which latents gain an attribute.

    python train_boundary.py --latents faces.npy --scores smile.csv --out boundaries/my_smile.npy

--latents holds one latent a face (W: [N, 512], W+: [N, L, 512]), --scores one number a face, from any predictor: the highest and the
lowest --ratio of them are parted by a linear SVM. Or give two folders of latents, with and without it: --positive DIR --negative DIR.
Writes the unit normal (float64 [1, 512], as the official boundaries) and a .json with its accuracy and the generator it belongs to.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from editor import boundaries, checkpoints, cli, face, files

MIN_CLASS = 5  # latents on each side; with fewer, none are left to test on


@dataclass
class Config:
    """Settings of `train`.

    ratio: share of the latents taken from either end of the scores. split: share of these that is trained on; the rest is held out.
    per_layer: a direction of its own for each layer. cost: the SVM's C, for latents of unit variance.
    """

    ratio: float = 0.02
    split: float = 0.7
    per_layer: bool = False
    cost: float = 0.001
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.ratio <= 0.5:
            raise ValueError(f"--ratio {self.ratio}: a share from either end, above 0 and up to 0.5")
        if not 0 < self.split < 1:
            raise ValueError(f"--split {self.split}: a share to train on, between 0 and 1; the rest is held out")
        if not 0 < self.cost < float("inf"):
            raise ValueError(f"--cost {self.cost}: above 0")


# ---------------------------------------------------------------------------------------------------------------------
# Latents and scores


def read_latents(path):
    """Latents of many faces: `.npy` [N, 512] (W) or [N, L, 512] (W+) -> float32 [N, 1 or L, 512].

    Raises:
        ValueError: another shape, or NaN; unlike `face.load`, [N, 512] are N faces and not the N layers of one.
    """
    array = face.read_array(Path(path), "--latents is a .npy with a latent a face, [N, 512] or [N, L, 512]")
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"{path}: {array.dtype} {list(array.shape)}; latents of many faces are float32 [N, 512] or [N, L, 512]")
    ws = array.astype(np.float32)
    if not np.isfinite(ws).all():
        raise ValueError(f"{path}: holds NaN or infinity")
    return ws[:, None] if ws.ndim == 2 else ws


def read_folder(folder):
    """The latents of a folder of `.npy` files, in the order of their names -> (float32 [N, 1 or L, 512], set of generator hashes)."""
    paths = sorted(Path(folder).glob("*.npy"))
    if not paths:
        raise ValueError(f"{folder}: {'no .npy in this folder' if Path(folder).is_dir() else 'no such folder'}; latents are expected there")
    found = [face.load(p).numpy() for p in paths]
    for path, ws in zip(paths, found, strict=True):
        if ws.shape[1:] != found[0].shape[1:]:
            raise ValueError(
                f"{path}: shape {list(ws.shape)}, but {paths[0].name} has {list(found[0].shape)}; latents of one generator only"
            )
    return np.concatenate(found), {face.info(p).get("generator_hash") for p in paths} - {None}


def read_scores(path, column=None):
    """One number a face: `.npy` [N] or [N, 1], or a column of a `.csv` -> float64 [N].

    Args:
        column: the name of the column of a CSV with several; the first line is then their names.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        scores = _csv_column(path, column)
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
    if not path.is_file():
        raise ValueError(f"{path}: no such file; --scores is a .npy or .csv with a number a face")
    with open(path, newline="", encoding="utf-8-sig") as f:
        rows = [row for row in csv.reader(f) if row]
    if not rows:
        raise ValueError(f"{path}: an empty file")
    header = None if all(_number(cell) is not None for cell in rows[0]) else [cell.strip() for cell in rows.pop(0)]
    if column is not None and (header is None or column not in header):
        raise ValueError(f"{path}: no column {column}; " + (f"it has {', '.join(header)}" if header else "its first line holds no names"))
    if column is None and len(header or rows[0]) > 1:
        named = f" --column, one of {', '.join(header)}" if header else " one number a line"
        raise ValueError(f"{path}: {len(header or rows[0])} columns; give{named}")
    at = header.index(column) if column else 0
    values = [_number(row[at]) if at < len(row) else None for row in rows]
    if None in values:
        line = values.index(None) + 1 + (header is not None)
        raise ValueError(f"{path}: line {line}: {','.join(rows[values.index(None)])!r}, expected a number a face")
    return np.array(values, np.float64)


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


def extremes(scores, ratio, seed=0):
    """Indices of the highest and of the lowest `ratio` of scores [N]; equal scores are drawn from at random.

    Raises:
        ValueError: too few, or the two ends have the same score.
    """
    count = int(ratio * len(scores))
    if count < MIN_CLASS:
        raise ValueError(
            f"{len(scores)} scores: --ratio {ratio} leaves {count} on each side, and at least {MIN_CLASS} are needed; "
            "score more faces or take a larger ratio"
        )
    shuffled = np.random.default_rng(seed).permutation(len(scores))
    order = shuffled[np.argsort(scores[shuffled], kind="stable")]
    low, high = order[:count], order[-count:]
    if not scores[high].min() > scores[low].max():
        share = min((scores > scores.min()).sum(), (scores < scores.max()).sum()) / len(scores)
        raise ValueError(
            f"the highest and lowest {count} of {len(scores)} scores both hold {scores[low].max():g}: one class only; "
            + (f"at most --ratio {share:.3g} parts them" if share * len(scores) >= MIN_CLASS else "scores must differ from face to face")
        )
    return high, low


def svm(high, low, config):
    """The normal [1 or L, 512] of length 1 and the offset of a linear SVM between latents [N, L, 512] with and without."""
    import torch
    from sklearn.svm import SVC

    rows = high.shape[1] if config.per_layer else 1
    x = (
        np.concatenate([w if config.per_layer else w.mean(1, keepdims=True) for w in (high, low)])
        .reshape(len(high) + len(low), -1)
        .astype(np.float64)
    )
    centre = x.mean(0)
    spread = np.sqrt(np.square(x - centre).mean())  # one number for all: the directions keep their share
    if spread < 1e-12:
        raise ValueError("all latents are alike; a boundary needs different faces")
    machine = SVC(kernel="linear", C=config.cost, class_weight="balanced", cache_size=1000)
    machine.fit((x - centre) / spread, np.repeat([1, 0], [len(high), len(low)]))
    weights = machine.coef_[0]
    size = np.linalg.norm(weights)
    if not size > 0:
        raise ValueError("the SVM found no direction that parts the latents; they do not differ in what was scored")
    normal = (weights / size * np.sqrt(rows)).reshape(rows, -1)
    offset = machine.intercept_[0] * spread / size / np.sqrt(rows) - (centre.reshape(rows, -1) * normal).sum(1).mean()
    return torch.from_numpy(normal), float(offset)


def train(high, low, config, conditions=()):
    """Part latents with an attribute from latents without it.

    Args:
        high, low: float32 [N, 1 or L, 512], with and without.
        config: a `Config`; its ratio is not used here.
        conditions: normals float64 [1 or L, 512] whose distance moving along the boundary shall not change.

    Returns:
        boundaries.Boundary; its info holds `held_out_accuracy` (in 0..1, on `held_out` latents) and `train_accuracy`.

    Raises:
        ValueError: too few latents, or nothing to part them by.
    """
    for name, ws in (("with", high), ("without", low)):
        if len(ws) < MIN_CLASS:
            raise ValueError(f"{len(ws)} latents {name} the attribute; at least {MIN_CLASS} are needed on each side")
    rng, parts = np.random.default_rng(config.seed), []
    for ws in (high, low):
        order = rng.permutation(len(ws))
        cut = min(max(round(config.split * len(ws)), 2), len(ws) - 1)
        parts.append((ws[order[:cut]], ws[order[cut:]]))
    (high_train, high_test), (low_train, low_test) = parts
    boundary = boundaries.Boundary(*svm(high_train, low_train, config))
    if conditions:
        boundary = boundaries.Boundary(boundaries.conditioned(boundary.normal, list(conditions)))
        # the plane's old place means nothing to the new normal: half way between the classes
        boundary.offset = (
            -float(boundaries.signed_distance(high_train, boundary).mean() + boundaries.signed_distance(low_train, boundary).mean()) / 2
        )
    boundary.info = {
        "held_out_accuracy": boundaries.accuracy(high_test, low_test, boundary),
        "train_accuracy": boundaries.accuracy(high_train, low_train, boundary),
        "held_out": len(high_test) + len(low_test),
        "trained_on": len(high_train) + len(low_train),
    }
    return boundary


def train_by_scores(ws, scores, config, conditions=()):
    """`train` on the extremes of scores [N]; info gains `accuracy_on_all`: every latent, parted at the middle between the extremes."""
    high, low = extremes(scores, config.ratio, config.seed)
    boundary = train(ws[high], ws[low], config, conditions)
    middle = (scores[high].min() + scores[low].max()) / 2
    boundary.info |= {
        "accuracy_on_all": boundaries.accuracy(ws[scores > middle], ws[scores <= middle], boundary),
        "parted_at": float(middle),
        "ratio": config.ratio,
        "all": len(ws),
    }
    return boundary


# ---------------------------------------------------------------------------------------------------------------------
# The script


def flags():
    config = Config()
    p = cli.Parser(__doc__)
    p.add_argument("--latents", metavar="FILE", help="a latent a face: .npy [N, 512] or [N, L, 512]")
    p.add_argument("--scores", metavar="FILE", help="a number a face: .npy or .csv")
    p.add_argument("--column", metavar="NAME", help="of a .csv with several columns")
    p.add_argument("--positive", metavar="DIR", help="folder of latents with the attribute, in place of --latents and --scores")
    p.add_argument("--negative", metavar="DIR", help="folder of latents without it")
    p.add_argument("--out", required=True, metavar="FILE.npy", help="where the boundary goes")
    p.add_argument("--ratio", type=float, default=config.ratio, help="share taken from either end of the scores (default: %(default)s)")
    p.add_argument(
        "--split", type=float, default=config.split, help="share of these trained on; the rest is held out (default: %(default)s)"
    )
    p.add_argument("--condition", nargs="+", default=[], metavar="FILE", help="boundaries whose attributes shall stay as they are")
    p.add_argument("--per_layer", action="store_true", help="for W+: a direction of its own for each layer (default: one for all)")
    p.add_argument("--cost", type=float, default=config.cost, help="the SVM's C, for latents of unit variance (default: %(default)s)")
    p.add_argument("--weight_file", metavar="FILE|NAME", help="the generator of these latents, where no .json beside them names it")
    p.add_argument("--seed", type=int, default=config.seed, help="of the split (default: %(default)s)")
    p.add_argument("--quiet", action="store_true", help="errors only")
    return p


def sources(args):
    """What the flags name: (ws [N, 1 or L, 512], scores [N], None, None, hashes) or, from folders, (None, None, high, low, hashes).

    hashes: of the generators that the latents' `.json` files name.
    """
    scored, folders = (args.latents, args.scores), (args.positive, args.negative)
    if not (all(scored) and not any(folders)) and not (all(folders) and not any(scored)):
        raise ValueError("give --latents and --scores, or --positive and --negative")
    if all(folders):
        (high, hashes), (low, more) = read_folder(args.positive), read_folder(args.negative)
        if high.shape[1:] != low.shape[1:]:
            raise ValueError(
                f"{args.negative}: latents of {list(low.shape[1:])}, but {args.positive} has {list(high.shape[1:])}; of one generator only"
            )
        return None, None, high, low, hashes | more
    ws, scores = read_latents(args.latents), read_scores(args.scores, args.column)
    if len(ws) != len(scores):
        raise ValueError(f"{args.scores}: {len(scores)} scores for the {len(ws)} latents of {args.latents}; one a face is needed")
    return ws, scores, None, None, {face.info(args.latents).get("generator_hash")} - {None}


def at_hand(folder, boundary, without):
    """{name: normal} of the boundaries in a folder that can be compared: of the same shape, and not known to be another generator's."""
    found, own = {}, boundary.info["generator_hash"]
    for path in sorted(Path(folder).glob("*.npy")):
        try:
            other = boundaries.load(path)
        except ValueError:
            continue  # other .npy files may lie there
        rows = {len(other.normal), len(boundary.normal)}
        fits = other.normal.shape[1] == boundary.normal.shape[1] and (len(rows) == 1 or 1 in rows)
        made_for = other.info.get("generator_hash")
        if fits and (own is None or made_for in (None, own)) and path.resolve() != without.resolve():
            found[path.stem] = other.normal
    return found


def read_conditions(paths, shape, per_layer, hashes):
    """The normals of --condition for latents of `shape` [N, L, 512] of the generator in `hashes` (empty: unknown)."""
    found = [boundaries.load(path) for path in paths]
    for path, boundary in zip(paths, found, strict=True):
        normal, made_for = boundary.normal, boundary.info.get("generator_hash")
        if normal.shape[1] != shape[2] or len(normal) not in ((1, shape[1]) if per_layer else (1,)):
            raise ValueError(f"{path}: a boundary {list(normal.shape)} cannot condition one for latents {list(shape)}")
        if made_for and hashes and made_for not in hashes:
            raise ValueError(f"{path}: made for another generator ({made_for[:12]}) than these latents ({next(iter(hashes))[:12]})")
    return [boundary.normal for boundary in found]


def main(argv):
    args = flags().parse_args(argv)
    out = Path(args.out)
    if out.suffix != ".npy":
        raise ValueError(f"--out {out}: expected a name that ends in .npy")
    config = Config(args.ratio, args.split, args.per_layer, args.cost, args.seed)
    ws, scores, high, low, hashes = sources(args)
    if args.weight_file:
        hashes = hashes | {files.file_hash(checkpoints.resolve(args.weight_file))}
    if len(hashes) > 1:
        raise ValueError(f"latents of different generators ({', '.join(sorted(h[:12] for h in hashes))}); a boundary belongs to one")
    shape = (high if ws is None else ws).shape
    if args.per_layer and shape[1] == 1:
        raise ValueError("--per_layer needs W+ latents [N, L, 512]; these are W, one w for all layers")
    conditions = read_conditions(args.condition, shape, args.per_layer, hashes)
    boundary = train(high, low, config, conditions) if ws is None else train_by_scores(ws, scores, config, conditions)
    boundary.info |= {
        "generator_hash": next(iter(hashes), None), "conditions": [Path(c).stem for c in args.condition], "split": config.split,
        "cost": config.cost, "seed": config.seed, "toolkit": cli.__version__,
    }  # fmt: skip
    boundaries.save(out, boundary)
    if not hashes:
        cli.warn(f"{out}: nothing says which generator it belongs to; semantic_edit.py cannot check it (--weight_file tells)")
    if not args.quiet:
        report(out, boundary, at_hand(out.parent, boundary, out) | dict(zip(args.condition, conditions, strict=True)))
    return 0


def report(out, boundary, others):
    """Print accuracy and cosines."""
    said = boundary.info
    print(f"{out}: trained on {said['trained_on']} latents, accuracy {said['train_accuracy']:.1%}")
    print(f"  held out ({said['held_out']} latents)  {said['held_out_accuracy']:6.1%}")
    if "all" in said:
        print(f"  on all ({said['all']}, parted at {said['parted_at']:.3g})  {said['accuracy_on_all']:6.1%}")
    for name, normal in others.items():
        print(f"  cosine to {name:<24} {boundaries.cosine(boundary.normal, normal):+.3f}")


if __name__ == "__main__":
    cli.run(main)
