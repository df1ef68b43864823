"""Morph one face into another: the frames between latents, on a straight line in W+ (Image2StyleGAN, Abdal et al. 2019).

    python image_morphing.py --latent_file1 latent_W/a_01.npy --latent_file2 latent_W/b_01.npy --animation save_result/morph.gif

It writes --frames pictures into --out_dir; the first and the last are the two latents' own renderings, to the bit. More than
two latents (--latent_files A B C) are passed through one after the other, --frames from each to the next.
"""

import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from editor import animation, checkpoints, cli, face, images, render, session

EASINGS = {"linear": lambda t: t, "smooth": lambda t: t * t * (3 - 2 * t)}  # both from 0 to 1, alike from either end
FRAME = "morph_{:0{}}.png"
OURS = re.compile(r"morph_(\d+)\.png")


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("--latent_file1", metavar="FILE", help="where the morph begins")
    p.add_argument("--latent_file2", metavar="FILE", help="where it ends")
    p.add_argument("--latent_files", metavar="FILE", nargs="+", help="two latents or more, instead of the two flags above")
    p.add_argument("--frames", type=int, default=100, help="pictures from one latent to the next, both included (default: %(default)s)")
    p.add_argument("--easing", default="linear", choices=EASINGS, help="smooth: starts and ends slowly (default: linear)")
    p.add_argument("--loop", action="store_true", help="go on to the first latent again, so that the animation closes")
    p.add_argument("--out_dir", default="morph_result/encode1", help="folder of the frames (default: %(default)s)")
    p.add_argument("--animation", metavar="FILE", help=f"also an animation: {' '.join(animation.ANIMATES)}")
    p.add_argument("--fps", type=float, default=10, help="frames a second of the animation (default: %(default)s)")
    p.add_argument("--save_latents", metavar="FILE.npy", help="also the latents of all frames, [frames, L, 512]")
    p.add_argument("--batch_size", type=int, help="frames rendered together (default: 8, at 1024 on a CPU 2)")
    p.add_argument("--force", action="store_true", help="take latents that another generator of this shape made")
    cli.add_noise_flag(p)
    cli.add_model_flags(p)
    return p


def schedule(count, frames, easing="linear", loop=False):
    """Which latents each frame lies between.

    Args:
        count: latents, at least 2.
        frames: from one latent to the next, both included, at least 2.
        easing: a key of EASINGS.
        loop: go on from the last latent to the first; the closing frame, equal to the first, is left out.

    Returns:
        list of (i, j, t): the frame is (1 - t) of latent i and t of latent j; t is exactly 0 where it is latent i.
    """
    ease = EASINGS[easing]
    legs = [(i, i + 1) for i in range(count - 1)] + ([(count - 1, 0)] if loop else [])
    steps = [(i, j, ease(k / (frames - 1))) for i, j in legs for k in range(frames - 1)]
    return steps if loop else steps + [(count - 1, count - 1, 0.0)]


def between(latents, steps):
    """Latents [K, ...] and a `schedule` -> the frames' latents [frames, ...]; the ends come out to the bit."""
    import torch

    i, j, t = zip(*steps, strict=True)
    weight = torch.tensor(t, dtype=torch.float64).to(latents).view(-1, *[1] * (latents.ndim - 1))
    return torch.lerp(latents[list(i)], latents[list(j)], weight)


def noise_between(G, noises, steps):
    """Noise that moves along with the latents.

    Args:
        noises: for each latent its maps, or None for the generator's own.
        steps: a `schedule`.

    Returns:
        What `render.pictures` takes: "const" when no latent has noise of its own, else a function of the frames wanted.
    """
    import torch

    if not any(noises):
        return "const"
    own = [layer.noise_const[None, None].cpu() for layer in G.synthesis.layers()]
    stacked = [torch.cat(maps) for maps in zip(*([m.cpu() for m in maps or own] for maps in noises), strict=True)]  # each [K, 1, r, r]
    return lambda first, last: [between(maps, steps[first:last]) for maps in stacked]


class FrameWriter:
    """Writes frames into a folder from a few threads, while the next ones are rendered; at most `waiting` are held.

    Used in a `with` block, which ends when all are written and raises the first error.
    """

    def __init__(self, folder, count, threads=2, waiting=16):
        self.folder, self.digits = Path(folder), max(4, len(str(count - 1)))
        self.count, self.results, self.error = count, [], None
        self.pool, self.places = ThreadPoolExecutor(threads), threading.Semaphore(waiting)

    def __enter__(self):
        return self

    def add(self, index, frame):
        """Queue one frame, numpy uint8 [H, W, 3]; waits while the queue is full."""
        self.places.acquire()
        if self.error:
            raise self.error
        self.results.append(self.pool.submit(self._write, self.folder / FRAME.format(index, self.digits), frame))

    def _write(self, path, frame):
        try:
            images.save(path, frame)
        except OSError as error:  # a full disk: `add` says so, instead of rendering the rest in vain
            self.error = error
            raise
        finally:
            self.places.release()

    def __exit__(self, kind, error, traceback):
        self.pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for result in self.results:
                result.result()

    def clear_older(self):
        """Remove the frames that a longer run left in the folder: they would end up in the animation. Returns how many."""
        names = {FRAME.format(i, self.digits) for i in range(self.count)}
        older = [p for p in self.folder.iterdir() if OURS.fullmatch(p.name) and p.name not in names]
        for path in older:
            path.unlink()
        return len(older)


def latents_and_noise(args, G):
    """The latents to pass through [K, L, 512], and for each its noise maps or None."""
    import torch

    if args.latent_files and (args.latent_file1 or args.latent_file2):
        raise ValueError("give either --latent_file1 and --latent_file2, or --latent_files")
    if args.latent_files:
        paths, load = args.latent_files, face.load
    elif args.latent_file1 and args.latent_file2:
        paths, load = [args.latent_file1, args.latent_file2], face.load_one
    else:
        raise ValueError("give the two ends: --latent_file1 A.npy --latent_file2 B.npy, or --latent_files A.npy B.npy C.npy ...")
    found = [load(path, G, args.force) for path in paths]
    noises = [maps for path, ws in zip(paths, found, strict=True) for maps in [session.noise_of(path, G, args)] * len(ws)]
    ws = torch.cat(found)
    if len(ws) < 2:
        raise ValueError(f"{paths[0]}: one latent; a morph needs two or more")
    return ws, noises


def main(argv):
    args = flags().parse_args(argv)
    if args.frames < 2 or (args.batch_size is not None and args.batch_size < 1):
        batch = 8 if args.batch_size is None else args.batch_size
        raise ValueError(f"--frames {args.frames} --batch_size {batch}: at least 2 frames, in batches of at least 1")
    movie = animation.Animation(args.animation, args.fps) if args.animation else None  # before any work: a bad ending is said at once
    from tqdm import tqdm

    device = session.device(args.device)
    G = checkpoints.load_generator(args.weight_file, device)
    ends, noises = latents_and_noise(args, G)
    steps = schedule(len(ends), args.frames, args.easing, args.loop)
    ws = between(ends, steps)
    alone = [k for k, (_, _, t) in enumerate(steps) if t == 0]  # the latents themselves: exactly what they render to on their own
    frames = render.pictures(
        G, ws, noise_between(G, noises, steps), args.batch_size, session.dtype(args.precision, device, G.resolution), alone
    )
    with movie or nullcontext(), FrameWriter(args.out_dir, len(ws)) as folder:
        for k, frame in enumerate(tqdm(frames, total=len(ws), disable=args.quiet, unit="frame", file=sys.stderr)):
            folder.add(k, frame)
            if movie:
                movie.add(frame)
    if removed := folder.clear_older():
        cli.warn(f"{args.out_dir}: removed {removed} frames that an earlier, longer morph left there")
    if args.save_latents:
        said = {"made_by": "image_morphing.py", "easing": args.easing, "generator": str(G.meta["path"]), "generator_hash": G.meta["hash"]}
        face.save(args.save_latents, ws, said)
    if not args.quiet:
        print(f"{len(ws)} frames in {args.out_dir}" + (f", {args.animation}" if movie else ""))


if __name__ == "__main__":
    cli.run(main)
