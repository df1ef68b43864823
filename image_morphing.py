"""Morph one face into another: the frames between latents, on a straight line in W+ (Image2StyleGAN, Abdal et al. 2019).

    python image_morphing.py --latent_file1 latent_W/a_01.npy --latent_file2 latent_W/b_01.npy --animation save_result/morph.gif

It writes --frames pictures into --out_dir; the first and the last are the two faces' own renderings, to the bit. Noise maps
move along. More than two faces (--latent_files A B C, or a folder of them) are passed through one after the other, --frames
from each to the next. A folder holds one morph: the next one replaces the frames that morph.json names, and no other file.
"""

import contextlib
import dataclasses
import re
from pathlib import Path

from editor import cli, files

EASINGS = {"linear": lambda t: t, "smooth": lambda t: t * t * (3 - 2 * t)}  # both from 0 to 1, alike from either end
MAX_FRAMES = 100_000  # in all: an hour of film at 25 a second
RECORD = "morph.json"  # in --out_dir
FRAME = re.compile(r"morph_[0-9]{4,6}\.png")


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("--latent_file1", metavar="FILE", help="where the morph begins")
    p.add_argument("--latent_file2", metavar="FILE", help="where it ends")
    p.add_argument("--latent_files", metavar="FILE", nargs="+", help="two latents or more, or a folder, instead of the two flags above")
    p.add_argument(
        "--frames", type=cli.number(int, 2, most=MAX_FRAMES), default=100,
        help="pictures from one latent to the next, both included (default: %(default)s)",
    )  # fmt: skip
    p.add_argument("--easing", default="linear", choices=EASINGS, help="smooth: starts and ends slowly (default: linear)")
    p.add_argument("--loop", action="store_true", help="go on to the first latent again, so that the animation closes")
    p.add_argument("--out_dir", default="morph_result/encode1", metavar="DIR", help="folder of the frames (default: %(default)s)")
    p.add_argument("--animation", metavar="FILE", help="also an animation, outside of --out_dir: .gif .mp4 .webp .png .apng")
    p.add_argument(
        "--fps", type=cli.number(float, above=0, most=240), default=10, help="frames a second of the animation (default: %(default)s)"
    )
    p.add_argument("--width", type=cli.number(int, 4, most=8192), metavar="PIXELS", help="of the animation (default: the generator's side)")
    p.add_argument("--save_latents", metavar="FILE.npy", help="also the latents of all frames, [frames, L, 512], without their noise")
    p.add_argument(
        "--batch_size", type=cli.number(int, 1, most=MAX_FRAMES), help="frames rendered together (default: 8, at 1024 on a CPU 2)"
    )
    cli.add_face_flags(p)
    cli.add_model_flags(p)
    return p


# ---------------------------------------------------------------------------------------------------------------------
# What lies between


def schedule(count, frames, easing="linear", loop=False):
    """Which latents each frame lies between.

    Args:
        count: latents, at least 2.
        frames: from one latent to the next, both included, at least 2.
        easing: a key of EASINGS.
        loop: go on from the last latent to the first; the closing frame, equal to the first, is left out.

    Returns:
        list of (i, j, t): the frame is (1 - t) of latent i and t of latent j; t is exactly 0 where it is latent i.

    Raises:
        ValueError: more than MAX_FRAMES in all.
    """
    ease = EASINGS[easing]
    legs = [(i, i + 1) for i in range(count - 1)] + ([(count - 1, 0)] if loop else [])
    if len(legs) * (frames - 1) >= MAX_FRAMES:
        raise ValueError(f"--frames {frames}: {len(legs)} times so many between {count} latents; at most {MAX_FRAMES} in all")
    steps = [(i, j, ease(k / (frames - 1))) for i, j in legs for k in range(frames - 1)]
    return steps if loop else steps + [(count - 1, count - 1, 0.0)]


def between(values, steps):
    """Latents or maps [K, ...] and a `schedule` -> those of the frames, [frames, ...]; the ends come out to the bit."""
    import torch

    i, j, t = zip(*steps, strict=True)
    weight = torch.tensor(t, dtype=torch.float64).to(values).view(-1, *[1] * (values.ndim - 1))
    return torch.lerp(values[list(i)], values[list(j)], weight)


@dataclasses.dataclass
class Morph:
    """The way through some faces, whose frames are worked out when they are asked for: all at once may be too many to hold.

    ends: latents [K, L, 512]. maps: noise maps, a list of [K, 1, r, r]; None: the generator's own. steps: a `schedule`.
    tuned: the weights that were tuned around each, K of them, None: the generator's own; or None for all.
    """

    ends: object
    maps: list | None
    steps: list
    tuned: list | None = None

    def __len__(self):
        return len(self.steps)

    def __getitem__(self, frames):
        """Latents [n, L, 512] of a slice of the frames."""
        return between(self.ends, self.steps[frames])

    def noise(self, first, last):
        """Maps [n, 1, r, r] of the frames first .. last - 1."""
        return [between(maps, self.steps[first:last]) for maps in self.maps]

    def pictures(self, G, batch_size=None, dtype=None, warn=None):
        """The frames, uint8 [R, R, 3]; where one is a face of its own, exactly what that face renders to."""
        from editor import render

        noise = "const" if self.maps is None else self.noise
        if self.tuned:
            yield from self.pictures_one_by_one(G, noise, dtype, warn)
            return
        ends = [k for k, (_, _, t) in enumerate(self.steps) if t == 0]
        yield from render.pictures(G, self, noise, batch_size, dtype, ends, warn)

    def pictures_one_by_one(self, G, noise, dtype, warn):
        """As `pictures`, where each frame has a generator of its own."""
        from editor import render, tuning

        for k, (i, j, t) in enumerate(self.steps):
            tuned = tuning.between(self.tuned[i], self.tuned[j], lambda name, t=t: t, G)
            maps = noise if isinstance(noise, str) else noise(k, k + 1)
            yield from render.pictures(tuning.worn(G, tuned), self[k : k + 1], maps, None, dtype, (), warn)


def morph(G, faces, steps):
    """`face.Face`s of one latent each, and a `schedule` -> Morph; on the CPU, so that every device gets the same numbers."""
    import torch

    from editor import face

    maps = None
    if any(one.noise for one in faces):
        own = face.own_noise(G)
        maps = [torch.cat([m.cpu() for m in some]) for some in zip(*(one.noise or own for one in faces), strict=True)]
    tuned = [one.tuned for one in faces] if any(one.tuned for one in faces) else None
    return Morph(torch.cat([one.ws.cpu() for one in faces]), maps, steps, tuned)


# ---------------------------------------------------------------------------------------------------------------------
# The folder of the frames


def alone_in(folder):
    """Hold a folder (made if need be) against another morph, as `files.alone_in` does.

    Raises:
        ValueError: another morph is being written there.
    """
    return files.alone_in(folder, "another morph is being written there; wait for its end, or give another --out_dir")


def recorded(folder):
    """What the record in a folder says of the morph there; {} without one.

    Raises:
        ValueError: a file of its name that is no such record.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    advice = "give another --out_dir"
    said = files.read_json(path, advice)
    frames = said.get("frames") if isinstance(said, dict) and said.get("made_by") == "image_morphing.py" else None
    if not isinstance(frames, list) or not all(isinstance(name, str) and FRAME.fullmatch(name) for name in frames):
        raise ValueError(f"{path}: not the record of a morph's frames; {advice}")
    return said


def contents(said):
    """What the faces of a record are, wherever they lay."""
    sources = said.get("sources")
    held = sources.values() if isinstance(sources, dict) else ()
    return [(entry.get("sha256"), entry.get("parts")) for entry in held if isinstance(entry, dict)]


def begin(folder, names, said):
    """Note in the record which frames are about to be written, then remove an earlier morph's; returns what the record said before.

    Raises:
        ValueError: a picture of one of these names is there, and no morph wrote it.
    """
    before = recorded(folder)
    earlier, present = set(before.get("frames", [])), {path.name for path in folder.iterdir()}
    foreign = sorted(present & set(names) - earlier)
    if foreign:
        raise ValueError(f"{folder / foreign[0]}: would be replaced, and {RECORD} knows of no morph that wrote it; give another --out_dir")
    files.write_json(folder / RECORD, said | {"complete": False, "frames": sorted(earlier | set(names))})
    for name in earlier & present:
        (folder / name).unlink()
    return before


def write(folder, names, frames, movie, show):
    """Frames into their files while the next ones are rendered, and into the animation if there is one.

    Raises:
        OSError: the first that could not be written, soon after it.
    """
    from editor import images

    with images.Behind() as behind:
        for k, (name, frame) in enumerate(zip(names, frames, strict=True)):
            behind.add(images.save, folder / name, frame)
            if movie:
                movie.add(frame)
            show(k + 1)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def read_faces(args, session):
    """The faces to pass through, one by one, and the files that they come from, as {role: path}."""
    from editor import face

    if args.latent_files and (args.latent_file1 or args.latent_file2):
        raise ValueError("give either --latent_file1 and --latent_file2, or --latent_files")
    if args.latent_files:
        paths = face.expand(args.latent_files)
        faces = [one for path in paths for one in session.read(path).split()]
    elif args.latent_file1 and args.latent_file2:
        paths = [Path(args.latent_file1), Path(args.latent_file2)]
        faces = [session.read_one(path) for path in paths]
    else:
        raise ValueError("give the two ends: --latent_file1 A.npy --latent_file2 B.npy, or --latent_files A.npy B.npy C.npy ...")
    if len(faces) < 2:
        raise ValueError(f"{paths[0]}: one latent; a morph needs two or more")
    return faces, {f"latent{i}": path for i, path in enumerate(paths, 1)}


def check_animation(args):
    """--animation -> an `animation.Animation`, or None; found wanting before any work.

    Raises:
        ValueError, OSError: its ending, fps or width; it cannot be written; it would replace what is no animation, or lies among its own
            frames, where it would be taken for one.
    """
    from editor import animation

    if not args.animation:
        return None
    path = Path(args.animation)
    movie = animation.Animation(path, args.fps, width=args.width)
    if path.suffix.lower() != ".mp4" and path.resolve().parent == Path(args.out_dir).resolve():
        raise ValueError(f"--animation {path}: in the folder of its own frames, and would be taken for one; write it elsewhere, or as .mp4")
    animation.require_replaceable(path)
    files.check_writable(path)
    return movie


def check_latents(args, sources, frames, G):
    """Raise ValueError or OSError if --save_latents cannot be written, could not be read again, or would replace something else."""
    from editor import face
    from editor import session as sessions

    path = Path(args.save_latents)
    if path.suffix != ".npy":
        raise ValueError(f"--save_latents {path}: latents are written as .npy; give a name that ends so")
    if path.with_suffix(".json").resolve() == (Path(args.out_dir) / RECORD).resolve():
        raise ValueError(f"--save_latents {path}: {RECORD} there is the record of the frames; give another name")
    if 4 * frames * G.num_ws * G.config.w_dim > face.MAX_BYTES:
        raise ValueError(f"--save_latents {path}: {frames} frames are more than the {face.MAX_BYTES >> 30} GB that are read again")
    sessions.reserve(path, sources)


def render_into(folder, names, frames, args, movie):
    """Render the frames into the folder; of what Ctrl-C stops, say how much is there."""
    done = 0

    def show(k):
        nonlocal done
        done = k
        bar(k)

    try:
        with cli.progress(len(names), args.quiet, unit="frame") as bar, movie or contextlib.nullcontext():
            write(folder, names, frames, movie, show)
    except KeyboardInterrupt:
        cli.say(f"{done} of {len(names)} frames are in {folder}")
        raise


def main(argv):
    parser = flags()
    args = parser.parse_args(argv)
    if not args.animation:
        cli.require_default(parser, args, ("fps", "width"), "of an animation; give --animation too")
    movie = check_animation(args)
    from editor import face
    from editor import session as sessions

    session = sessions.open(args)
    faces, sources = read_faces(args, session)
    cli.warn_of(session)
    path = morph(session.G, faces, schedule(len(faces), args.frames, args.easing, args.loop))
    if args.save_latents:
        check_latents(args, sources, len(path), session.G)
    said = session.record("image_morphing.py", sources, easing=args.easing, loop=args.loop, per_leg=args.frames)
    digits = max(4, len(str(len(path) - 1)))
    folder, names = Path(args.out_dir), [f"morph_{k:0{digits}}.png" for k in range(len(path))]
    with alone_in(folder):
        before = begin(folder, names, said)
        if before and contents(before) != contents(said):
            cli.warn(f"{folder}: the {len(before['frames'])} frames of an earlier morph of other faces are replaced")
        render_into(folder, names, path.pictures(session.G, args.batch_size, session.dtype, cli.warn), args, movie)
        if args.save_latents:
            left_out = {"noise": "not kept" if path.maps else "none", "tuned": "not kept" if path.tuned else "none"}
            sessions.claim_again(args.save_latents, said["sources"])
            face.write(args.save_latents, path[:], said | left_out)
        files.write_json(folder / RECORD, said | {"complete": True, "frames": names})
    if args.save_latents and (path.maps or path.tuned):
        cli.warn(
            f"{args.save_latents}: the latents alone; noise maps and tuned weights of so many frames are not kept, without which they "
            "render otherwise"
        )
    results = [folder, *([args.animation] if movie else []), *([args.save_latents] if args.save_latents else [])]
    cli.written(args, *results, what=f"{len(names)} frames")


if __name__ == "__main__":
    cli.run(main)
