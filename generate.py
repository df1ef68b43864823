"""Draw faces of a generator from seeds, as NVIDIA's generate.py does: a seed of an official network gives the official face.

    python generate.py --seeds 0-63,70 --trunc 0.7

For each seed it writes the picture save_image/generate/seed0000.png and the face, seed0000.npy (latent [1, L, 512], its noise maps where
they are not the generator's own, and the record), that all other commands take. All latents together are in all/seeds_0-63_70.npy
[N, L, 512], which train_boundary.py takes with a score for each. A generator with classes draws of one of them: --class 3.
"""

import argparse
import hashlib
import re
from pathlib import Path

from editor import cli, files

NOISES = {"const": "the generator's own maps", "random": "drawn from the seed", "none": "no noise"}
MOST = 20_000  # seeds of one run; all their latents are held in memory


def seeds(text):
    """'0-3,7' -> [0, 1, 2, 3, 7]."""
    found, wanted = [], argparse.ArgumentTypeError(f"{text[:40]}: expected numbers and ranges from 0 to {2**32 - 1}, such as 0-63,70")
    for part in text.split(","):
        matched = re.fullmatch(r"\s*([0-9]{1,10})\s*(?:-\s*([0-9]{1,10})\s*)?", part)
        first, last = (int(matched[1]), int(matched[2] or matched[1])) if matched else (1, 0)
        if not first <= last < 2**32:
            raise wanted
        if len(found) + last - first >= MOST:
            raise argparse.ArgumentTypeError(f"{text[:40]}: more than {MOST} seeds; take several runs")
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def flags():
    p = cli.Parser(__doc__, conflict_handler="resolve")  # --seed, of all commands, is here another word for --seeds
    cli.add_model_flags(p)
    cli.add_class_flag(p)
    listed = p.add_argument("--seeds", "--seed", type=seeds, required=True, metavar="LIST", help="numbers and ranges, such as 0-63,70")
    listed.once = True
    p.add_argument("--trunc", type=cli.number(float, -10, most=10), default=1.0, metavar="PSI", help="truncation: 1 as trained, towards 0 "
                   "nearer to the mean face (default: 1)")  # fmt: skip
    p.add_argument("--trunc_cutoff", type=cli.number(int, 0), metavar="N", help="truncate the first N layers only (default: all)")
    noises = "; ".join(f"{name}: {what}" for name, what in NOISES.items())
    p.add_argument("--noise_mode", default="const", choices=NOISES, help=f"{noises} (default: const)")
    cli.add_motion_flags(p)
    p.add_argument("--out_dir", "--outdir", default="save_image/generate", metavar="DIR", help="where results go (default: %(default)s)")
    p.set_defaults(seed=0)
    return p


def sample(G, seed, args):
    """The face of a seed: z as NVIDIA draws it (NumPy's RandomState), through the mapping network, truncated; and its noise maps."""
    import numpy as np
    import torch

    from editor import classes, face, motion, tuning

    z = torch.from_numpy(np.random.RandomState(seed).randn(1, G.config.z_dim)).float().to(G.w_avg.device)
    with torch.no_grad():
        ws = G.truncate(classes.latents(G, z), args.trunc, args.trunc_cutoff)
    noise = None
    if args.noise_mode == "none":
        noise = [torch.zeros_like(own) for own in face.own_noise(G)]
    elif args.noise_mode == "random":  # on the CPU, so that every device draws the same
        drawn = torch.Generator().manual_seed(seed)
        noise = [torch.randn(own.shape, generator=drawn).to(own.device) for own in face.own_noise(G)]
    tuned = {tuning.TRANSFORM: motion.transform(args.rotate, args.translate).to(G.w_avg.device)} if moved(args) else None
    return face.Face(ws, noise, tuned)


def moved(args):
    """{flag: value} of a motion that is asked for."""
    return {"rotate": args.rotate, "translate": list(args.translate)} if args.rotate or any(args.translate) else {}


def file_of_all(args):
    """all/seeds_0-63_70.npy; a long list is shortened. In a folder of its own: a folder of latents would hold each face twice."""
    numbers, runs = args.seeds, []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    name = "_".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)
    if len(name) > 60:
        name = f"{numbers[0]}_and_{len(numbers) - 1}_more_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path(args.out_dir) / "all" / f"seeds_{name}.npy"


def main(argv):
    args = flags().parse_args(argv)
    import torch

    from editor import classes, face, images, projection, render
    from editor import session as sessions

    session = sessions.open(args)
    G, out = session.G, Path(args.out_dir)
    classes.require(G)
    if args.noise_mode != "const":
        projection.require_noise(G)
    if moved(args) and G.kind != "stylegan3":
        raise ValueError(f"--rotate and --translate move StyleGAN3's input; this generator is a {G.kind}, which has none")
    if args.trunc_cutoff is not None and args.trunc_cutoff > G.num_ws:
        raise ValueError(f"--trunc_cutoff {args.trunc_cutoff}: this generator has {G.num_ws} layers")
    pictures, together = {seed: out / f"seed{seed:04}.png" for seed in args.seeds}, file_of_all(args)
    sources = {"generator": G.meta["path"]}
    for picture in [*pictures.values(), together]:  # what another generator drew is not replaced
        sessions.claim(picture.with_suffix(".npy"), sources)
    for seed in (max(args.seeds), min(args.seeds)):
        files.check_writable(pictures[seed], *face.outputs(pictures[seed].with_suffix(".npy")), *face.outputs(together))
    settings = {"trunc": args.trunc, "trunc_cutoff": args.trunc_cutoff, "noise_mode": args.noise_mode} | session.said_class | moved(args)
    for seed, picture in pictures.items():
        before = face.record(picture).get("settings", settings)
        if before != settings:
            raise ValueError(f"{picture}: seed {seed} with other settings ({before}) lies there; give another --out_dir")
    latents = []

    def tell(paths):
        cli.written(args, *paths)
        cli.warn_of(session)

    with cli.progress(len(args.seeds), args.quiet, "face") as show, images.Behind(tell) as behind:
        for seed, picture in pictures.items():
            one = sample(G, seed, args)
            info = session.record("generate.py", sources, z_seed=seed, settings=settings)
            behind.add(session.write, picture, render.one(G, one, session.dtype), one, info)
            latents.append(one.ws.cpu())
            show(len(latents))
    info = session.record("generate.py", sources, z_seeds=args.seeds, settings=settings)
    face.write(together, torch.cat(latents), info, tuned=one.tuned)  # which is how all of them lie
    cli.written(args, together, what=f"the latents of {len(latents)} seed{'s' * (len(latents) > 1)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
