"""Make the boundaries that come with the project: gender, age, pose, eyeglasses and smile, in W of a generator.

    python -m training.make_boundaries --out boundaries/

Faces of the generator are scored by the attribute network (weight_files/attributes.safetensors), and the highest and lowest of
each score are parted by a linear SVM (train_boundary.py). It writes boundaries/NAME.npy and NAME.json, and boundaries/README.md with
what was measured: accuracy, cosines, and how far each score moves when each boundary is followed.

Scored faces are kept in --cache as they are made: a stopped run goes on there. Same generator, seed and machine: same files.
"""

import dataclasses
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import train_boundary
from editor import boundaries, checkpoints, classes, cli, files, images, session
from perceptual_model import resized
from training.config import add_device_flag, add_flags, check, from_flags, setting

ATTRIBUTES = {"gender": "gender", "age": "age", "pose": "yaw", "eyeglasses": "glasses", "smile": "smile"}  # boundary -> score
KINDS = ("plain", "conditioned")
FOLLOWED = 3.0  # how far boundaries are followed, in units of W
ACCURACY_BAR = {"gender": 0.95, "age": 0.90, "pose": 0.95, "eyeglasses": 0.95, "smile": 0.95}
RATIO = 0.1  # of 20,000 faces; with 0.02, as InterFaceGAN of its 500,000, the age boundary moved its score a fifth less
RIGHT_BAR = 0.90  # share of faces whose own score must go the right way
CHUNK = 500  # faces a file of the cache
RENDER, SCORE = 50, 8  # images at a time; found by timing on one core


# ---------------------------------------------------------------------------------------------------------------------
# Scored faces


def load_scorer(path, device="cpu"):
    """The attribute network, frozen; twice as fast with channels last."""
    return checkpoints.load_attributes(path).to(device, memory_format=torch.channels_last)


@torch.inference_mode()
def score(G, net, ws):
    """ws [N, L, 512] -> scores float64 [N, 5] of their renderings, in the order of ATTRIBUTES.

    The network takes the training crop, which is what the generator makes, at 128x128.
    """
    found = []
    for part in ws.split(RENDER):
        images = resized(G.synthesis(part).clamp(-1, 1), net.config.resolution)
        for x in images.contiguous(memory_format=torch.channels_last).split(SCORE):
            scores = net.scores(x)
            found.append(torch.stack([scores[s] for s in ATTRIBUTES.values()], dim=1))
    return torch.cat(found).cpu().double().numpy()


def random_w(G, count, psi, seed):
    """count random w [N, 512], truncated by psi: W, sampled as faces are usually made."""
    z = torch.randn(count, G.config.z_dim, generator=torch.Generator().manual_seed(seed)).to(G.w_avg.device)
    with torch.inference_mode():
        return G.truncate(classes.latents(G, z), psi)[:, 0]


def scored_faces(G, net, count, psi, seed, cache, bar):
    """w float32 [count, 512] and scores float64 [count, 5]; made a chunk at a time, each kept in a file of `cache`."""
    parts = []
    for chunk in range(-(-count // CHUNK)):
        path = Path(cache) / f"{chunk:04}.npz"
        if not path.is_file():
            w = random_w(G, CHUNK, psi, seed * 1_000_000 + chunk)
            scores = score(G, net, w[:, None].expand(-1, G.num_ws, -1))
            with files.atomic(path) as temporary:
                np.savez(temporary, w=w.cpu().numpy(), scores=scores)
        try:
            with np.load(path, allow_pickle=False) as kept:
                parts.append((kept["w"], kept["scores"]))
        except (zipfile.BadZipFile, ValueError, KeyError, EOFError):
            raise ValueError(f"{path}: damaged; remove it, and its faces are scored again") from None
        bar.update(CHUNK)
    w, scores = (np.concatenate(p)[:count] for p in zip(*parts, strict=True))
    return w, scores


# ---------------------------------------------------------------------------------------------------------------------
# Boundaries and what they do


def train_all(ws, scores, config, about):
    """{name: Boundary} from W latents [N, 1, 512] and their scores [N, 5]; `about` (a dict) is added to each one's info."""
    trained = {}
    for (name, score_name), column in zip(ATTRIBUTES.items(), scores.T, strict=True):
        trained[name] = train_boundary.train_by_scores(ws, column, config)
        trained[name].info |= {"score": score_name, "split": config.split, "cost": config.cost} | about
    return trained


def directions(trained, kind):
    """{name: where to go} for `plain`, the normals, or `conditioned`, each without its share along all others."""
    if kind == "plain":
        return {name: b.normal for name, b in trained.items()}
    others = {name: [b.normal for n, b in trained.items() if n != name] for name in trained}
    return {name: boundaries.conditioned(b.normal, others[name]) for name, b in trained.items()}


def follow(ws, direction, distance):
    """ws [N, L, 512] moved by `distance` along a direction."""
    return boundaries.moved(ws.cpu(), [(boundaries.Boundary(direction), distance)]).float().to(ws.device)  # float64: MPS has none


def rescore(G, net, trained, faces, spread, bar):
    """What each score does when each boundary is followed.

    Args:
        faces: ws [N, L, 512].
        spread: [5], the standard deviation of each score over random faces: the unit of the answer.

    Returns:
        {(kind, distance): (moves [5, 5], right [5])}: mean change of each score (columns) along each boundary (rows), and the share
        of faces whose own score went the right way.
    """
    before, found = score(G, net, faces), {}
    for kind in KINDS:
        for distance in (FOLLOWED, -FOLLOWED):
            changes = np.stack([score(G, net, follow(faces, d, distance)) - before for d in directions(trained, kind).values()])
            own = changes[range(len(changes)), :, range(len(changes))]  # [5, N]
            found[kind, distance] = (changes / spread).mean(1), (own * distance > 0).mean(1)
            bar.update(len(faces) * len(trained))
    return found


def strips(G, faces, trained):
    """A contact sheet: for each boundary, conditioned on the others, a row a face, from -3 to 3."""
    distances = np.linspace(-FOLLOWED, FOLLOWED, 7)
    rows, names = [], []
    for name, direction in directions(trained, "conditioned").items():
        for i, ws in enumerate(faces.split(1)):
            with torch.inference_mode():
                rows.append(list(images.to_uint8(G.synthesis(torch.cat([follow(ws, direction, d) for d in distances])))))
            names.append(name if i == 0 else "")
    return images.sheet(rows, [f"{d:+.0f}" for d in distances], names, size=max(64, min(G.resolution, 96)), gap=2)


# ---------------------------------------------------------------------------------------------------------------------
# The report


def table(head, rows):
    """Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def verdicts(trained, moves):
    """{name: what misses its bar, or 'met'}, for the plain trained followed by +3."""
    found, (change, right) = {}, moves["plain", FOLLOWED]
    for i, (name, b) in enumerate(trained.items()):
        others = np.delete(np.abs(change[i]), i)
        misses = [
            text
            for missed, text in (
                (b.info["held_out_accuracy"] < ACCURACY_BAR[name], f"accuracy below {ACCURACY_BAR[name]:.0%}"),
                (right[i] < RIGHT_BAR, f"right way for fewer than {RIGHT_BAR:.0%}"),
                (change[i, i] <= others.max(), "moves another attribute more"),
            )
            if missed
        ]
        found[name] = "; ".join(misses) or "met"
    return found


def readme(G, trained, scores, moves, command, options):
    """The text of trained/README.md."""
    names, normals = list(trained), [b.normal for b in trained.values()]
    met, accuracies = verdicts(trained, moves), []
    for (name, boundary), column in zip(trained.items(), scores.T, strict=True):
        info = boundary.info
        measured = [f"{info['held_out_accuracy']:.1%}", str(info["held_out"]), f"{info['accuracy_on_all']:.1%}", f"{info['parted_at']:.2f}"]
        accuracies.append([name, *measured, f"{column.mean():.2f} +- {column.std():.2f}", met[name]])
    cosines = [[n, *(f"{boundaries.cosine(a, b):+.2f}" for b in normals)] for n, a in zip(names, normals, strict=True)]
    text = README.format(
        resolution=G.resolution, hash=G.meta["hash"][:12], command=command, count=len(scores), psi=options.psi,
        held=f"{1 - options.split:.0%}", ratio=f"{options.ratio:.0%}", faces=options.faces, followed=f"{FOLLOWED:g}",
        right_bar=f"{RIGHT_BAR:.0%}", cosines=table(["", *names], cosines),
        accuracies=table(["boundary", "held out", "of", "on all", "parted at", "score (mean +- spread)", "bars"], accuracies),
    )  # fmt: skip
    for (kind, distance), (change, right) in moves.items():
        rows = []
        for i, name in enumerate(names):
            cells = [f"**{c:+.2f}**" if i == j else f"{c:+.2f}" for j, c in enumerate(change[i])]
            rows.append([name, *cells, f"{right[i]:.1%}"])
        text += f"\n{kind}, {distance:+g}:\n\n" + table(["followed", *names, "right way"], rows)
    return text


README = """# Boundaries of the bundled generator

Directions in W along which its faces gain an attribute: `gender` (positive: male), `age`, `pose` (positive: the nose tip to the
right in the picture), `eyeglasses`, `smile`. For `semantic_edit.py`; each `.npy` is float64 [1, 512] of length 1, and its `.json`
names the generator ({resolution}x{resolution}, sha256 {hash}...) and holds what was measured. Made by

    {command}

which also wrote this page. {count} faces (random z, truncation psi {psi}) were scored by `weight_files/attributes.safetensors`; the
highest and lowest {ratio} of each score were parted by a linear SVM, {held} of them held out (InterFaceGAN, Shen et al., CVPR 2020).
The network that scores is the project's own: what it mistakes, these numbers mistake as well.

## Accuracy

Held out: of the extremes. On all: every face, as above or below the middle between the extremes (mean of both sides' shares).
Bars: held out >= 95% (age 90%); followed by +{followed}, a boundary moves its own score the right way for >= {right_bar} of faces, and more
than any other score.

{accuracies}
## Cosines

{cosines}
## What moves when a boundary is followed

Mean change of each score from {faces} other random faces, in units of that score's spread over random faces; last, the share of
faces whose own score went the right way. Conditioned: each boundary without its share along the four others
(`--condition gender age pose eyeglasses smile`).

![each boundary from -{followed} to {followed}, conditioned on the others](strips.jpg)
"""


def check_out(out):
    """See that what is written to --out can be, and replaces nothing but what this command made.

    Raises:
        ValueError: a boundary, page or picture there is something else.
        OSError: nothing can be written there.
    """
    readme, strips = out / "README.md", out / "strips.jpg"
    pairs = [(out / f"{name}.npy", out / f"{name}.json") for name in ATTRIBUTES]
    files.check_writable(*(path for pair in pairs for path in pair), strips, readme)
    other = "not of this command, and would be replaced; choose another --out"
    for npy, record in pairs:
        said = files.read_json(record, other) if record.exists() else {}
        if (npy.exists() or record.exists()) and not (isinstance(said, dict) and "scorer_hash" in said):  # no other command records it
            raise ValueError(f"{npy if npy.exists() else record}: {other}")
    if readme.exists() and not readme.read_bytes().startswith(README.splitlines()[0].encode()):
        raise ValueError(f"{readme}: {other}")
    if strips.exists() and not (readme.exists() or all(record.exists() for _, record in pairs)):  # it comes after these, before the page
        raise ValueError(f"{strips}: {other}")


@dataclasses.dataclass
class Settings:
    """Of the faces, and of the boundaries' training."""

    count: int = setting(20000, "faces to score", least=1)
    faces: int = setting(200, "faces to measure the boundaries on", least=1)
    psi: float = setting(0.7, "truncation of all faces; 0: the mean face, 1: as the generator draws them", least=0)
    ratio: float = setting(RATIO, "share of the faces taken from either end of a score", above=0, most=0.5)
    split: float = setting(train_boundary.Config().split, "share of these trained on; the others are held out", above=0, most=1)
    cost: float = setting(train_boundary.Config().cost, "the SVM's C: more fits the faces closer", above=0)
    seed: int = setting(0, "of everything drawn at random", least=0, most=2**32 - 1)

    __post_init__ = check


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("--weight_file", metavar="FILE|NAME", help="generator (default: the bundled one)")
    p.add_argument(
        "--scorer",
        metavar="FILE",
        default=checkpoints.HERE / "weight_files" / "attributes.safetensors",
        help="attribute network (default: the bundled one)",
    )
    p.add_argument("--out", metavar="DIR", help="where they go (default: boundaries/, for the bundled generator only)")
    p.add_argument("--cache", metavar="DIR", default="runs/boundaries/", help="where scored faces are kept (default: %(default)s)")
    add_flags(p, Settings)
    add_device_flag(p)
    p.add_argument("--quiet", action="store_true", help="no progress bar, no table")
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    options, device = from_flags(Settings, args), session.device(args.device)
    if args.weight_file and not args.out:
        raise ValueError("--weight_file: give --out, too; boundaries/ holds those of the bundled generator")
    config = train_boundary.Config(ratio=options.ratio, split=options.split, cost=options.cost, seed=options.seed)
    G, net, out = checkpoints.load_generator(args.weight_file, device), load_scorer(args.scorer, device), Path(args.out or "boundaries/")
    check_out(out)
    hashes = {"generator_hash": G.meta["hash"], "scorer_hash": files.file_hash(args.scorer)}
    cache = Path(args.cache) / "-".join([*(h[:12] for h in hashes.values()), f"psi{options.psi:g}", f"seed{options.seed}"])
    rescored = options.faces * len(ATTRIBUTES) * len(KINDS) * 2
    with tqdm(total=options.count + rescored, disable=args.quiet, unit="face", file=sys.stderr, mininterval=5) as bar:
        w, scores = scored_faces(G, net, options.count, options.psi, options.seed, cache, bar)
        about = hashes | {"psi": options.psi, "seed": options.seed, "toolkit": cli.__version__}
        found_boundaries = train_all(w[:, None], scores, config, about)
        faces = random_w(G, options.faces, options.psi, options.seed * 1_000_000 + 999_999)[:, None].expand(-1, G.num_ws, -1)
        moves = rescore(G, net, found_boundaries, faces, scores.std(0), bar)
    for name, boundary in found_boundaries.items():
        boundaries.save(out / f"{name}.npy", boundary)
    images.save(out / "strips.jpg", strips(G, faces[:3], found_boundaries))
    command = " ".join(["python -m training.make_boundaries", *(sys.argv[1:] if argv is None else argv)])
    images.write_bytes(out / "README.md", readme(G, found_boundaries, scores, moves, command, options).encode())
    if not args.quiet:
        for name, verdict in verdicts(found_boundaries, moves).items():
            print(f"{name:12} held out {found_boundaries[name].info['held_out_accuracy']:.1%}  bars: {verdict}")


if __name__ == "__main__":
    cli.run(main)
