"""Change one attribute of a face: its latent moved along semantic boundaries (InterFaceGAN, Shen et al. 2020).

    python semantic_edit.py --latent_file latent_W/me_01.npy

writes save_image/boundary/NAME.png for each boundary NAME: a strip of pictures from --start_distance to --end_distance. --boundary picks
some (a name in boundaries/, or a file), --condition keeps other attributes as they are, --save_latents writes the moved latents too.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cli
import latents
import media
import model_zoo

MODES = {"relative": "so far from where the latent is", "absolute": "to this distance from the boundary, wherever the latent is"}
KINDS = ("gif", "mp4", "webp", "apng")
BATCH = 8  # pictures rendered at a time


@dataclass
class Face:
    """A latent to edit: its name, the file it came from, ws [1, L, 512], and its noise maps or None."""

    name: str
    source: Path
    ws: object
    noise: list | None


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("--latent_file", required=True, nargs="+", metavar="FILE", help="latents to edit; a row of the strip each")
    p.add_argument(
        "--boundary",
        nargs="+",
        metavar="NAME|FILE",
        help="boundaries to follow, each on its own (default: all of --boundary_dir that fit the generator)",
    )
    p.add_argument(
        "--boundary_dir",
        default=str(model_zoo.HERE / "boundaries"),
        metavar="DIR",
        help="where NAMEs are looked up (default: the toolkit's boundaries/)",
    )
    p.add_argument("--condition", nargs="+", default=[], metavar="NAME|FILE", help="boundaries whose attributes shall stay as they are")
    p.add_argument("--start_distance", type=float, default=-3.0, help="default: %(default)s")
    p.add_argument("--end_distance", type=float, default=3.0, help="default: %(default)s")
    p.add_argument(
        "--steps", type=int, default=10, help="pictures in a strip; with 1, the picture at --start_distance alone (default: %(default)s)"
    )
    p.add_argument(
        "--mode", default="relative", choices=MODES, help="; ".join(f"{k}: {v}" for k, v in MODES.items()) + " (default: relative)"
    )
    p.add_argument("--layers", help="W+ layers to move, such as 0-4 (default: all)")
    p.add_argument("--out_dir", default="save_image/boundary", help="where strips go (default: %(default)s)")
    p.add_argument("--animation", nargs="?", const="gif", choices=KINDS, help="write NAME.gif (or mp4, webp, apng) as well, there and back")
    p.add_argument("--frames", type=int, default=40, help="of the animation, one way (default: %(default)s)")
    p.add_argument("--fps", type=float, default=20, help="of the animation (default: %(default)s)")
    p.add_argument("--save_latents", action="store_true", help="write NAME.npy, the moved latents [steps, L, 512]")
    cli.add_noise_flag(p)
    p.add_argument("--force", action="store_true", help="take latents and boundaries of another generator of the same shape")
    cli.add_model_flags(p)
    return p


# ---------------------------------------------------------------------------------------------------------------------
# The edit


def moved(ws, boundary, distance, direction=None, mode="relative", layers=None):
    """Latents moved along a boundary's normal.

    Relative: w + distance * direction. Absolute: as far as brings the latent to that signed distance from the boundary; InterFaceGAN
    does so for one w, from a plane through the origin. Where only some layers move, their distance alone counts.

    Args:
        ws: [N, L, 512].
        boundary: a latents.Boundary.
        direction: float64 [1 or L, 512], where to go (default: the normal); the conditioned normal keeps other attributes.
        mode: a key of MODES.
        layers: the layers that move (default: all).

    Returns:
        float64 [N, L, 512]. Edits of the same direction add up; an absolute edit forgets those before it.

    Raises:
        ValueError: the direction does not lead to or from the boundary (absolute, in layers where it is zero).
    """
    import torch

    ws, chosen = ws.double(), list(range(ws.shape[1])) if layers is None else layers
    normal = boundary.normal.to(ws.device).expand(ws.shape[1], -1)[chosen]
    way = normal if direction is None else direction.to(ws.device).expand(ws.shape[1], -1)[chosen]
    amount = torch.full((len(ws), 1, 1), float(distance), dtype=torch.float64, device=ws.device)
    if mode == "absolute":
        here = (ws[:, chosen] * normal).sum(2).mean(1) + boundary.offset  # [N]
        gain = (way * normal).sum(1).mean().item()
        if abs(gain) < 1e-6:
            raise ValueError("these layers do not change the distance to the boundary; use --mode relative or other --layers")
        amount = (amount - here.view(-1, 1, 1)) / gain
    ws = ws.clone()
    ws[:, chosen] += amount * way
    return ws


# ---------------------------------------------------------------------------------------------------------------------
# Boundaries and noise by name


def find_boundary(name, folder, G, force=False):
    """NAME or FILE -> path: a file, NAME.npy in `folder`, or the official FFHQ boundary for a StyleGAN1 at 1024 (downloaded once)."""
    path, inside = Path(name), Path(folder) / f"{name}.npy"
    if path.suffix == ".npy" or path.is_file():
        return path
    official = G.kind == "stylegan1" and G.resolution == 1024 and name in official_names()
    if inside.is_file() and not (official and not fits(inside, G, force)):
        return inside
    if official:
        return model_zoo.fetch(name)
    known = ", ".join(sorted(p.stem for p in Path(folder).glob("*.npy"))) or "nothing"
    raise ValueError(f"--boundary {name}: no such file, and not in {folder} (there: {known})")


def official_names():
    return [name for name, item in model_zoo.DOWNLOADS.items() if item.url.startswith(model_zoo.INTERFACEGAN)]


def fits(path, G, force=False):
    try:
        latents.load_boundary(path, G, force)
    except ValueError:
        return False
    return True


def read_boundaries(names, folder, G, force):
    """NAMEs or FILEs (None: all in `folder` that fit) -> {name: Boundary}."""
    if names is None:
        paths = [p for p in sorted(Path(folder).glob("*.npy")) if fits(p, G, force)]
        if not paths:
            there = sorted(p.stem for p in Path(folder).glob("*.npy"))
            hint = "train one with train_boundary.py, or give --boundary FILE"
            if G.kind == "stylegan1" and G.resolution == 1024:
                hint = f"for StyleGAN1's FFHQ, --boundary takes {', '.join(official_names())} (downloaded once)"
            raise ValueError(f"{folder}: no boundary of this generator ({', '.join(there) or 'nothing'} there); {hint}")
    else:
        paths = [find_boundary(name, folder, G, force) for name in names]
    found = {}
    for path in paths:
        if path.stem in found:
            raise ValueError(f"two boundaries are named {path.stem}; results are named after them, so rename one file")
        found[path.stem] = boundary = latents.load_boundary(path, G, force)
        if abs(boundary.norm - 1) > 1e-3:
            cli.warn(f"{path}: length {boundary.norm:.4g}, made 1; distances count in units of W")
        if path.stem.startswith("stylegan_ffhq_") and "_w_" not in path.stem:
            cli.warn(f"{path}: by its name an official boundary for Z; a latent is W, which wants the one named _w_boundary")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def render(G, ws, noise, dtype):
    """ws [N, L, 512] -> uint8 [N, H, W, 3]"""
    return np.stack(list(media.render(G, ws.float(), "const" if noise is None else noise, dtype=dtype)))


def follow(faces, boundary, direction, distances, args, layers):
    """The latents of each face at each distance: a list of [len(distances), L, 512], one a face."""
    import torch

    return [torch.cat([moved(face.ws, boundary, d, direction, args.mode, layers) for d in distances]) for face in faces]


def write_strip(path, rows, names, distances):
    """A sheet with a row a face; a single picture as it is, ready to be pasted back."""
    if len(rows) == 1 and len(distances) == 1:
        media.save(path, rows[0][0])
    else:
        media.save(path, media.sheet(rows, labels=[f"{d:+.1f}" for d in distances], names=names if len(rows) > 1 else None))


def write_animation(path, G, faces, boundary, direction, args, layers, dtype):
    """From the start distance to the end and back, faces side by side."""
    there = np.linspace(args.start_distance, args.end_distance, args.frames)
    distances = [*there, *there[-2:0:-1]]
    with media.Animation(path, fps=args.fps) as movie:
        for i in range(0, len(distances), BATCH):
            moving = follow(faces, boundary, direction, distances[i : i + BATCH], args, layers)
            pictures = [render(G, ws, face.noise, dtype) for ws, face in zip(moving, faces, strict=True)]
            for frame in zip(*pictures, strict=True):
                movie.add(np.concatenate(frame, axis=1))


def write_latents(folder, name, faces, moving, distances, args, G):
    for face, ws in zip(faces, moving, strict=True):
        path = folder / (f"{name}.npy" if len(faces) == 1 else f"{face.name}_{name}.npy")
        info = {
            "source": str(face.source), "generator": str(G.meta["path"]), "generator_hash": G.meta["hash"], "boundary": name,
            "mode": args.mode, "distances": [float(d) for d in distances], "conditions": args.condition, "layers": args.layers,
            "toolkit": cli.__version__,
        }  # fmt: skip
        latents.save(path, ws, info)
        if face.noise is not None:  # whoever renders these wants the same noise
            media.write_bytes(path.with_suffix(".noise.npz"), face.source.with_suffix(".noise.npz").read_bytes())


# ---------------------------------------------------------------------------------------------------------------------
# The script


def check(args):
    """Raise ValueError for flags out of range."""
    for name in ("start_distance", "end_distance"):
        if not math.isfinite(getattr(args, name)):
            raise ValueError(f"--{name} {getattr(args, name)}: a finite number")
    if args.steps < 1:
        raise ValueError(f"--steps {args.steps}: 1 or more")
    if args.frames < 2 or not args.fps > 0:
        raise ValueError(f"--frames {args.frames} --fps {args.fps:g}: 2 frames or more, and more than 0 of them a second")


def read_faces(args, G, device, failures):
    """The latents that could be read, a `Face` each."""
    faces = []
    for path in map(Path, args.latent_file):
        with failures.catch(path):
            ws = latents.load(path, G, args.force)
            noise = cli.noise_of(path, G, args)
            noise = None if noise is None else [m.to(device) for m in noise]
            names = [path.stem] if len(ws) == 1 else [f"{path.stem}_{i}" for i in range(len(ws))]
            faces += [Face(name, path, w[None].to(device), noise) for name, w in zip(names, ws, strict=True)]
    return faces


def main(argv):
    args = flags().parse_args(argv)
    check(args)
    import torch
    from tqdm import tqdm

    device = cli.device(args.device)
    torch.manual_seed(args.seed)
    G = model_zoo.load_generator(args.weight_file, device)
    dtype = cli.dtype(args.precision, device, G.resolution)
    layers = latents.layer_range(args.layers, G.num_ws) if args.layers else None
    boundaries = read_boundaries(args.boundary, args.boundary_dir, G, args.force)
    conditions = read_boundaries(args.condition, args.boundary_dir, G, args.force) if args.condition else {}
    failures = cli.Failures(single=len(args.latent_file) == 1)
    faces = read_faces(args, G, device, failures)
    distances, out = np.linspace(args.start_distance, args.end_distance, args.steps), Path(args.out_dir)
    problems = cli.Failures(single=len(boundaries) == 1)
    for name, boundary in tqdm(boundaries.items(), disable=args.quiet, unit="boundary", file=sys.stderr) if faces else ():
        with problems.catch(name):
            direction = latents.conditioned(boundary.normal, [c.normal for n, c in conditions.items() if n != name])
            moving = follow(faces, boundary, direction, distances, args, layers)
            rows = [render(G, ws, face.noise, dtype) for ws, face in zip(moving, faces, strict=True)]
            write_strip(out / f"{name}.png", [list(row) for row in rows], [face.name for face in faces], distances)
            if args.save_latents:
                write_latents(out, name, faces, moving, distances, args, G)
            if args.animation:
                write_animation(out / f"{name}.{args.animation}", G, faces, boundary, direction, args, layers, dtype)
    return failures.exit_code or problems.exit_code


if __name__ == "__main__":
    cli.run(main)
