"""Change one attribute of a face: its latent boundaries.moved along semantic boundaries (InterFaceGAN, Shen et al. 2020).

    python semantic_edit.py --latent_file latent_W/me_01.npy

writes save_image/boundary/NAME.png for each boundary NAME: a strip of pictures from --start_distance to --end_distance. --boundary picks
some (a name in boundaries/, or a file), --condition keeps other attributes as they are, --save_latents writes the boundaries.moved latents too.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from editor import animation, boundaries, checkpoints, cli, face, images, render, session

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
        default=str(checkpoints.HERE / "boundaries"),
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
        "--mode",
        default="relative",
        choices=boundaries.MODES,
        help="; ".join(f"{k}: {v}" for k, v in boundaries.MODES.items()) + " (default: relative)",
    )
    p.add_argument("--layers", help="W+ layers to move, such as 0-4 (default: all)")
    p.add_argument("--out_dir", default="save_image/boundary", help="where strips go (default: %(default)s)")
    p.add_argument("--animation", nargs="?", const="gif", choices=KINDS, help="write NAME.gif (or mp4, webp, apng) as well, there and back")
    p.add_argument("--frames", type=int, default=40, help="of the animation, one way (default: %(default)s)")
    p.add_argument("--fps", type=float, default=20, help="of the animation (default: %(default)s)")
    p.add_argument("--save_latents", action="store_true", help="write NAME.npy, the boundaries.moved latents [steps, L, 512]")
    cli.add_noise_flag(p)
    p.add_argument("--force", action="store_true", help="take latents and boundaries of another generator of the same shape")
    cli.add_model_flags(p)
    return p


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def drawn(G, ws, noise, dtype):
    """ws [N, L, 512] -> uint8 [N, H, W, 3]"""
    return np.stack(list(render.pictures(G, ws.float(), "const" if noise is None else noise, dtype=dtype)))


def follow(faces, boundary, direction, distances, args, layers):
    """The latents of each face at each distance: a list of [len(distances), L, 512], one a face."""
    import torch

    return [torch.cat([boundaries.moved(one.ws, boundary, d, direction, args.mode, layers) for d in distances]) for one in faces]


def write_strip(path, rows, names, distances):
    """A sheet with a row a face; a single picture as it is, ready to be pasted back."""
    if len(rows) == 1 and len(distances) == 1:
        images.save(path, rows[0][0])
    else:
        images.save(path, images.sheet(rows, labels=[f"{d:+.1f}" for d in distances], names=names if len(rows) > 1 else None))


def write_animation(path, G, faces, boundary, direction, args, layers, dtype):
    """From the start distance to the end and back, faces side by side."""
    there = np.linspace(args.start_distance, args.end_distance, args.frames)
    distances = [*there, *there[-2:0:-1]]
    with animation.Animation(path, fps=args.fps) as movie:
        for i in range(0, len(distances), BATCH):
            moving = follow(faces, boundary, direction, distances[i : i + BATCH], args, layers)
            pictures = [drawn(G, ws, one.noise, dtype) for ws, one in zip(moving, faces, strict=True)]
            for frame in zip(*pictures, strict=True):
                movie.add(np.concatenate(frame, axis=1))


def write_latents(folder, name, faces, moving, distances, args, G):
    for one, ws in zip(faces, moving, strict=True):
        path = folder / (f"{name}.npy" if len(faces) == 1 else f"{one.name}_{name}.npy")
        info = {
            "source": str(one.source), "generator": str(G.meta["path"]), "generator_hash": G.meta["hash"], "boundary": name,
            "mode": args.mode, "distances": [float(d) for d in distances], "conditions": args.condition, "layers": args.layers,
            "toolkit": cli.__version__,
        }  # fmt: skip
        face.save(path, ws, info)
        if one.noise is not None:  # whoever renders these wants the same noise
            images.write_bytes(path.with_suffix(".noise.npz"), one.source.with_suffix(".noise.npz").read_bytes())


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
            ws = face.load(path, G, args.force)
            noise = session.noise_of(path, G, args)
            noise = None if noise is None else [m.to(device) for m in noise]
            names = [path.stem] if len(ws) == 1 else [f"{path.stem}_{i}" for i in range(len(ws))]
            faces += [Face(name, path, w[None].to(device), noise) for name, w in zip(names, ws, strict=True)]
    return faces


def main(argv):
    args = flags().parse_args(argv)
    check(args)
    import torch
    from tqdm import tqdm

    device = session.device(args.device)
    torch.manual_seed(args.seed)
    G = checkpoints.load_generator(args.weight_file, device)
    dtype = session.dtype(args.precision, device, G.resolution)
    layers = face.layer_range(args.layers, G.num_ws) if args.layers else None
    chosen, remarks = boundaries.read(args.boundary, args.boundary_dir, G, args.force)
    conditions, more = boundaries.read(args.condition, args.boundary_dir, G, args.force) if args.condition else ({}, [])
    for remark in remarks + more:
        cli.warn(remark)
    failures = cli.Failures(single=len(args.latent_file) == 1)
    faces = read_faces(args, G, device, failures)
    distances, out = np.linspace(args.start_distance, args.end_distance, args.steps), Path(args.out_dir)
    problems = cli.Failures(single=len(chosen) == 1)
    for name, boundary in tqdm(chosen.items(), disable=args.quiet, unit="boundary", file=sys.stderr) if faces else ():
        with problems.catch(name):
            direction = boundaries.conditioned(boundary.normal, [c.normal for n, c in conditions.items() if n != name])
            moving = follow(faces, boundary, direction, distances, args, layers)
            rows = [drawn(G, ws, one.noise, dtype) for ws, one in zip(moving, faces, strict=True)]
            write_strip(out / f"{name}.png", [list(row) for row in rows], [one.name for one in faces], distances)
            if args.save_latents:
                write_latents(out, name, faces, moving, distances, args, G)
            if args.animation:
                write_animation(out / f"{name}.{args.animation}", G, faces, boundary, direction, args, layers, dtype)
    return failures.exit_code or problems.exit_code


if __name__ == "__main__":
    cli.run(main)
