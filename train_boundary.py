"""Train a semantic boundary (InterFaceGAN, Shen et al. 2020): the direction in which latents gain an attribute.

    python train_boundary.py --latents faces.npy --scores smile.csv --out boundaries/my_smile.npy

--latents holds one latent a face (W: [N, 512], W+: [N, L, 512], such as generate.py writes; or a folder of latents, in the order of
their names), --scores one number a face, from any predictor: the highest and the lowest --ratio of them are parted by a linear SVM.
Or give two folders of latents, with and without the attribute: --positive DIR --negative DIR. It writes the unit normal (float64
[1, 512], as the official boundaries) and a .json with its accuracy and the generator it belongs to.
"""

from editor import cli  # isort: skip (first: from here on Ctrl-C ends the command as it should)

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from editor import files

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
# Training


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
    from editor import boundaries

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
    from editor import boundaries

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
# The command


def flags():
    config = Config()
    p = cli.Parser(__doc__)
    p.add_argument("--latents", metavar="FILE|DIR", help="a latent a face: .npy [N, 512] or [N, L, 512], or a folder of latents")
    p.add_argument("--scores", metavar="FILE", help="a number a face: .npy or .csv")
    p.add_argument("--column", metavar="NAME", help="of a .csv with several columns")
    p.add_argument("--positive", metavar="DIR", help="folder of latents with the attribute, in place of --latents and --scores")
    p.add_argument("--negative", metavar="DIR", help="folder of latents without it")
    p.add_argument("--out", required=True, metavar="FILE.npy", help="where the boundary goes")
    p.add_argument("--ratio", type=cli.number(float, above=0, most=0.5), default=config.ratio, help="share taken from either end of the "
                   "scores (default: %(default)s)")  # fmt: skip
    p.add_argument("--split", type=cli.number(float, above=0, most=1), default=config.split, help="share of these trained on; the rest is "
                   "held out (default: %(default)s)")  # fmt: skip
    p.add_argument("--condition", nargs="+", default=[], metavar="FILE", help="boundaries whose attributes shall stay as they are")
    p.add_argument("--per_layer", action="store_true", help="for W+: a direction of its own for each layer (default: one for all)")
    p.add_argument("--cost", type=cli.number(float, above=0, most=1000), default=config.cost, help="the SVM's C, for latents of unit "
                   "variance (default: %(default)s)")  # fmt: skip
    p.add_argument("--weight_file", metavar="FILE|NAME", help="the generator of these latents, where no .json beside them names it")
    p.add_argument("--seed", type=cli.number(int, 0, most=2**63 - 1), default=config.seed, help="of the split (default: %(default)s)")
    cli.add_reading_flags(p)
    cli.add_quiet_flag(p)
    return p


def sources(args):
    """{role: file or folder} of what is trained on.

    Raises:
        ValueError: neither latents and scores nor two folders.
    """
    given = {role: getattr(args, role) for role in ("latents", "scores", "positive", "negative") if getattr(args, role)}
    if given.keys() not in ({"latents", "scores"}, {"positive", "negative"}):
        raise ValueError("give --latents and --scores, or --positive and --negative")
    if args.column and "scores" not in given:
        raise ValueError("--column is of --scores")
    return given


def classes(args, G):
    """With and without the attribute, or all with scores: (high, low, None, None, hashes) or (None, None, ws, scores, hashes)."""
    from editor.scored import read_latents, read_scores

    if args.positive:
        for folder in (args.positive, args.negative):
            if not Path(folder).is_dir():
                raise ValueError(f"{folder}: {'a file' if Path(folder).exists() else 'no such folder'}; a folder of latents is expected")
        (high, hashes), (low, more) = read_latents(args.positive, G), read_latents(args.negative, G)
        if high.shape[1:] != low.shape[1:]:
            raise ValueError(
                f"{args.negative}: latents of {list(low.shape[1:])}, but {args.positive} has {list(high.shape[1:])}; of one generator only"
            )
        return high, low, None, None, hashes | more
    (ws, hashes), scores = read_latents(args.latents, G), read_scores(args.scores, args.column)
    if len(ws) != len(scores):
        raise ValueError(f"{args.scores}: {len(scores)} scores for the {len(ws)} latents of {args.latents}; one a face is needed")
    return None, None, ws, scores, hashes


def require_free(out, named):
    """Raise ValueError unless `out` may be written: it is new, or was made of the same latents."""
    from editor import face
    from editor.session import claim

    if out.suffix != ".npy":
        raise ValueError(f"--out {out}: expected a name that ends in .npy")
    if out.exists() and not isinstance(face.record(out).get("sources"), dict):
        raise ValueError(f"--out {out}: is there already, and nothing says that it was made of these latents; give another name")
    claim(out, named)
    files.check_writable(out, out.with_suffix(".json"))


def read_conditions(paths, shape, per_layer, hashes):
    """The normals of --condition for latents of `shape` [N, L, 512] of the generator in `hashes` (empty: unknown)."""
    from editor import boundaries

    found = [boundaries.load(path) for path in paths]
    for path, boundary in zip(paths, found, strict=True):
        normal, made_for = boundary.normal, boundary.info.get("generator_hash")
        if boundary.space != "w" or normal.shape[1] != shape[2] or len(normal) not in ((1, shape[1]) if per_layer else (1,)):
            raise ValueError(f"{path}: a boundary {list(normal.shape)} cannot condition one for latents {list(shape)}")
        if made_for and hashes and made_for not in hashes:
            raise ValueError(f"{path}: made for another generator ({made_for[:12]}) than these latents ({next(iter(hashes))[:12]})")
    return [boundary.normal for boundary in found]


def neighbours(out, boundary):
    """{name: normal} of the boundaries beside `out` that can be compared: of the same shape, not known to be another generator's.

    A latent is no boundary, though its file looks like one: it has no offset in its record, and without a record not the length 1.
    """
    from editor import boundaries

    found, own = {}, boundary.info["generator_hash"]
    for path in files.visible(out.parent, "*.npy"):
        try:
            other = boundaries.load(path)
        except ValueError:
            continue  # other .npy files may lie there
        rows = {len(other.normal), len(boundary.normal)}
        fits = other.space == boundary.space == "w" and other.normal.shape[1] == boundary.normal.shape[1] and (len(rows) == 1 or 1 in rows)
        known = "offset" in other.info if other.info else abs(other.norm - 1) < 1e-3
        if (
            boundary.space == other.space == "w"
            and fits
            and known
            and own in (None, other.info.get("generator_hash", own))
            and path.resolve() != out.resolve()
        ):
            found[path.stem] = other.normal
    return found


def report(boundary, others):
    """Accuracy and cosines, a line each."""
    from editor import boundaries

    said = boundary.info
    yield f"trained on {said['trained_on']} latents: {said['train_accuracy']:.1%} on the right side"
    yield f"held out ({said['held_out']} latents): {said['held_out_accuracy']:.1%}"
    if "all" in said:
        yield f"on all ({said['all']}, parted at {said['parted_at']:.3g}): {said['accuracy_on_all']:.1%}"
    if "reading" in said:
        yield f"what it changes: {said['reading']['words']}"
    for name, normal in others.items():
        yield f"cosine to {name}: {boundaries.cosine(boundary.normal, normal):+.3f}"


def own_generator(hashes, args):
    """The generator of the latents, to see what the boundary changes: the bundled one, if it is theirs; None: unknown, or not asked for."""
    from editor import checkpoints

    if not args.faces and not args.purify:
        return None
    if not args.faces:
        raise ValueError("--purify looks at what changes; give it --faces 16")
    if hashes == {files.file_hash(checkpoints.BUNDLED["generator"])}:
        return checkpoints.load_generator()
    if args.purify:
        raise ValueError("--purify looks at pictures of the latents' generator; name it with --weight_file")
    cli.warn("what else the boundary changes is not read: that needs the latents' generator, --weight_file (--faces 0: not asked for)")
    return None


def look(boundary, layers, G, args):
    """The boundary of latents of so many layers, purified as asked, its record says what it changes; as it is where nothing shows that."""
    from editor import purify, readings

    try:
        if layers not in (1, G.num_ws):
            raise ValueError(f"the latents have {layers} layers, and their generator {G.num_ws}")
        reader = readings.Reader(G, args.faces)
    except ValueError as error:
        if args.purify:
            raise
        cli.warn(f"not read: {error}")
        return boundary
    reading, *_ = reader(boundary)
    if args.purify:
        if not args.quiet:
            cli.say(f"before --purify: {reading.words()}")
        with cli.progress(readings.SLOPES, args.quiet, "face") as show:
            slopes = readings.slopes(reader, callback=show)
        with cli.progress(args.channels, args.quiet or args.purify != "channels", "channel") as show:
            boundary = purify.purified(G, slopes, boundary, args.purify, reading, args.keep, args.channels, show)
        reading, *_ = reader(boundary)
    boundary.info["reading"] = reading.record() | {"words": reading.words()}
    return boundary


def main(argv):
    parser = flags()
    args = parser.parse_args(argv)
    if not args.purify:
        cli.require_default(parser, args, ("keep", "channels"), "say what --purify does, which is not given")
    config = Config(args.ratio, args.split, args.per_layer, args.cost, args.seed)
    named, out = sources(args), Path(args.out)
    from editor import boundaries, checkpoints
    from editor import session as sessions

    require_free(out, named)
    G = checkpoints.load_generator(args.weight_file) if args.weight_file else None
    high, low, ws, scores, hashes = classes(args, G)
    hashes |= {G.meta["hash"]} if G else set()
    if len(hashes) > 1:
        raise ValueError(f"latents of different generators ({', '.join(sorted(h[:12] for h in hashes))}); a boundary belongs to one")
    shape = (high if ws is None else ws).shape
    if args.per_layer and shape[1] == 1:
        raise ValueError("--per_layer needs W+ latents [N, L, 512]; these are W, one w for all layers")
    conditions = read_conditions(args.condition, shape, args.per_layer, hashes)
    boundary = train(high, low, config, conditions) if ws is None else train_by_scores(ws, scores, config, conditions)
    boundary.info |= {
        "made_by": "train_boundary.py", **files.typed("train_boundary.py"), "sources": sessions.origins(named),
        "generator_hash": next(iter(hashes), None), "conditions": [Path(c).stem for c in args.condition], "split": config.split,
        "cost": config.cost, "seed": config.seed, "toolkit": cli.__version__,
    }  # fmt: skip
    if G := (G if args.faces else None) or own_generator(hashes, args):
        boundary = look(boundary, shape[1], G, args)
    sessions.claim_again(out, boundary.info["sources"])
    boundaries.save(out, boundary)
    if not hashes:
        cli.warn(f"{out}: nothing says which generator it belongs to; semantic_edit.py cannot check it (--weight_file tells)")
    if not args.quiet:
        for line in report(boundary, neighbours(out, boundary) | dict(zip(args.condition, conditions, strict=True))):
            cli.say(line)
    cli.written(args, out)
    return 0


if __name__ == "__main__":
    cli.run(main)
