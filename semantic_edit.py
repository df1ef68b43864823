"""Change attributes of a face: its latent moved along semantic boundaries (InterFaceGAN, Shen et al. 2020).

    python semantic_edit.py --latent_file latent_W/me_01.npy

For each boundary it writes a strip of pictures, save_image/boundary/me_01_smile.png, from --start_distance to --end_distance.
--boundary picks some (a name in boundaries/, or a file), --condition keeps other attributes as they are, --save_latents writes the
strip's latents too. Several faces (a folder) get a strip each that is not there already (--redo: all), and a sheet of all.

Some edits at once, as a whole face (me_01_smile+2_age-1.png, .npy, and its noise) that other commands take:

    python semantic_edit.py --latent_file latent_W/me_01.npy --edit smile=2 age=-1

--channel 6:50=3 adds three standard deviations to a channel of a layer's style (StyleSpace); find_directions.py says which do what.
"""

import argparse
import contextlib
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from editor import cli, files

HERE = Path(__file__).resolve().parent
MODES = {"relative": "so far from where the latent is", "absolute": "to this distance from the boundary, wherever the latent is"}
KINDS = ("gif", "mp4", "webp", "apng")
BATCH = 8  # frames of an animation rendered at a time
CELL, MOST_CELLS = 256, 400  # side of a picture on the sheet of several faces, and how many pictures a sheet may hold
OF_AN_ANIMATION = {"frames", "fps", "width"}
OF_A_STRIP = {"boundary", "start_distance", "end_distance", "steps", "animation", "save_latents"} | OF_AN_ANIMATION
distance = cli.number(float, -1000, most=1000)


def edit(text):
    """--edit NAME=AMOUNT -> (name, amount)."""
    name, equals, amount = text.rpartition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text[:40]}: expected NAME=AMOUNT, such as smile=2, or FILE.npy=AMOUNT")
    return name, distance(amount)


def channel(text):
    """--channel LAYER:CHANNEL=AMOUNT -> (name, amount)."""
    name, equals, amount = text.rpartition("=")
    if not equals or ":" not in name:
        raise argparse.ArgumentTypeError(f"{text[:40]}: expected LAYER:CHANNEL=AMOUNT, such as 6:50=3")
    return name, distance(amount)


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("--latent_file", required=True, nargs="+", metavar="FILE", help="faces to edit; a folder means its latents")
    p.add_argument("--boundary", nargs="+", metavar="NAME|FILE", help="boundaries to follow, each on its own; FILE:3 is one of several "
                   "in a file (default: all of --boundary_dir that fit the generator)")  # fmt: skip
    p.add_argument("--edit", nargs="+", type=edit, metavar="NAME=AMOUNT", help="instead of strips: move along all of these at once, "
                   "in units of W; smile=2 age=-1, FILE.npy=1.5")  # fmt: skip
    p.add_argument("--channel", nargs="+", type=channel, default=[], metavar="L:C=AMOUNT", help="as --edit, and with it: channels of style "
                   "space, in their standard deviations; 6:50=3, b16.torgb:3=1")  # fmt: skip
    p.add_argument(
        "--boundary_dir", default=str(HERE / "boundaries"), metavar="DIR", help="where NAMEs are looked up (default: the toolkit's)"
    )
    p.add_argument("--condition", nargs="+", default=[], metavar="NAME|FILE", help="boundaries whose attributes shall stay as they are")
    p.add_argument("--start_distance", type=distance, default=-3.0, help="of a strip, in units of W (default: %(default)s)")
    p.add_argument("--end_distance", type=distance, default=3.0, help="of a strip (default: %(default)s)")
    p.add_argument("--steps", type=cli.number(int, 1, most=100), default=10, help="pictures in a strip; with 1, the picture at "
                   "--start_distance alone (default: %(default)s)")  # fmt: skip
    modes = "; ".join(f"{name}: {what}" for name, what in MODES.items())
    p.add_argument("--mode", default="relative", choices=MODES, help=f"{modes} (default: %(default)s)")
    p.add_argument("--layers", help="W+ layers to move, such as 0-4 (default: all)")
    p.add_argument("--out_dir", default="save_image/boundary", metavar="DIR", help="where results go (default: %(default)s)")
    p.add_argument(
        "--animation", nargs="?", const="gif", choices=KINDS, help="animate each strip, too, there and back (alone: gif; default: none)"
    )
    p.add_argument("--frames", type=cli.number(int, 2, most=10000), default=40, help="of the animation, one way (default: %(default)s)")
    p.add_argument("--fps", type=cli.number(float, 0.1, most=240), default=20, help="frames a second (default: %(default)s)")
    p.add_argument("--width", type=cli.number(int, 4, most=8192), help="of the animation in pixels (default: as the generator draws)")
    p.add_argument("--save_latents", action="store_true", help="write the strip's latents, [steps, L, 512]; --edit always does")
    cli.add_folder_flags(p)
    cli.add_face_flags(p)
    cli.add_model_flags(p)
    return p


# ---------------------------------------------------------------------------------------------------------------------
# What is asked


@dataclass
class Edit:
    """One result of each face: moves that start together. `name` ends the results' names; boundaries and distances go in pairs.

    A strip has one boundary, and a list of the distances of its pictures; --edit has a list of one distance for each boundary.
    """

    name: str
    boundaries: list
    distances: list  # one a boundary, each a list of one a picture

    @property
    def labels(self):
        """What stands over a strip's pictures; None where several boundaries are followed at once."""
        return [f"{d:+.1f}" for d in self.distances[0]] if len(self.distances) == 1 else None

    def latents(self, ws, args, layers):
        """A face's latents along the edit: ws [1, L, 512] -> [pictures, L, 512], on the CPU."""
        import torch

        from editor import boundaries

        each = [list(zip(self.boundaries, at, strict=True)) for at in zip(*self.distances, strict=True)]
        each = [[(one, d) for one, d in moves if one.space == "w"] for moves in each]
        absolute = args.mode == "absolute"
        return torch.cat([boundaries.moved(ws, moves, absolute, layers) if moves else ws.cpu() for moves in each]).float()

    def weights(self, G, tuned):
        """A face's tuned weights in each picture along the edit, with what is added to its styles: a list, one a picture."""
        from editor import styles

        found = [tuned] * len(self.distances[0])
        for boundary, at in zip(self.boundaries, self.distances, strict=True):
            if boundary.space == "style":
                found = [styles.weights(G, d * boundary.way(1)[0], one) for d, one in zip(at, found, strict=True)]
        return found


def edits(args, session, failures):
    """What each face is to become: an `Edit` for each boundary, or with --edit one of all."""
    import numpy as np

    from editor import boundaries

    whole = [*(args.edit or []), *args.channel]
    names = [name for name, _ in args.edit or []] if whole else args.boundary
    chosen, remarks = boundaries.read(names, args.boundary_dir, session.G, session.force)
    conditions, more = boundaries.read(args.condition, args.boundary_dir, session.G, session.force, "--condition")
    session.remarks += remarks + more
    ready = {}
    for name, boundary in chosen.items():
        with failures.catch(f"boundary {name}"):
            others = [c.normal for n, c in conditions.items() if n != name]
            layers = None if args.layers else boundary.layers
            if boundary.space == "style":
                require_free_of_w(boundary.path, args)
                ready[name] = boundary
                continue
            ready[name] = replace(boundary, direction=boundaries.conditioned(boundary.normal, others), layers=layers)
    if not whole:
        distances = np.linspace(args.start_distance, args.end_distance, args.steps)
        return [Edit(name, [boundary], [distances]) for name, boundary in ready.items()]
    for name, _ in args.channel:
        require_free_of_w(f"--channel {name}", args)
        boundary = boundaries.of_channel(session.G, name)
        if ready.setdefault(boundary.name, boundary) is not boundary:
            raise ValueError(f"--channel {name}: given twice")
    amounts = [amount for _, amount in whole]
    name = "_".join(f"{name}{amount:+.10g}" for name, amount in zip(ready, amounts, strict=True))
    return [Edit(name, list(ready.values()), [[amount] for amount in amounts])]


def require_free_of_w(named, args):
    """Raise ValueError for flags that ask of a direction in style space, by the name `named`, what only one in W has."""
    for flag, given in (("condition", args.condition), ("layers", args.layers), ("mode absolute", args.mode == "absolute")):
        if given:
            raise ValueError(f"{named}: a direction of style channels; --{flag} is of directions in W, so leave one of the two out")
    if args.save_latents and not args.edit:
        raise ValueError(f"{named}: its pictures differ in more than latents, which --save_latents keeps; --edit makes whole faces")


def check(args, parser):
    """Raise ValueError for flags that do not go together."""
    given = {name for name in vars(args) if getattr(args, name) != parser.get_default(name)}
    if (args.edit or args.channel) and (strip := given & OF_A_STRIP):
        flag = "--edit" if args.edit else "--channel"
        raise ValueError(f"--{min(strip)} is of a strip along one boundary, and {flag} makes none; leave one of the two out")
    if not args.animation and (animated := given & OF_AN_ANIMATION):
        raise ValueError(f"--{min(animated)} is of the animation; give --animation as well")


def sources(path, what):
    """{role: file} of a result."""
    return {"latent": path} | {f"boundary {boundary.name}": boundary.path for boundary in what.boundaries if boundary.path}


def readable(paths, asked, args, session, failures):
    """The files whose faces can be read and whose results can be written, each with its faces' names: {path: [name]}."""
    from editor import animation, face
    from editor.session import claim

    found, taken, out = {}, {}, Path(args.out_dir)
    endings = [".png", f".{args.animation}"] if args.animation else [".png"]
    for path in paths:
        with failures.catch(path):
            names = [one.name for one in session.read(path).split()]
            for name, what in [(name, what) for name in names for what in asked]:
                result = out / f"{name}_{what.name}.npy"
                if (other := taken.setdefault(cli.alike(result.name), path)) != path:
                    raise ValueError(f"{path}: {result.name} would be the result of {other}, too; rename one")
                claim(result, sources(path, what))
                if args.animation:
                    animation.require_replaceable(result.with_suffix(f".{args.animation}"))
                files.check_writable(*face.outputs(result), *map(result.with_suffix, endings))
            found[path] = names
    return found


def faces(paths, session):
    """(path, face of one latent) of all files, each read when it is its turn."""
    for path in paths:
        for one in session.read(path).split():
            yield path, one


# ---------------------------------------------------------------------------------------------------------------------
# Results


def drawn(session, what, one, args, layers):
    """A face's pictures along an edit, under its noise and tuned weights: a list of uint8 [R, R, 3]."""
    from editor import render

    ws, G = what.latents(one.ws, args, layers), session.G
    if all(boundary.space == "w" for boundary in what.boundaries):
        return list(render.pictures(session.wearing(one).G, ws, one.maps, dtype=session.dtype))
    each = zip(ws.split(1), what.weights(G, one.tuned), strict=True)
    return [render.one(G, replace(one, ws=w, tuned=tuned), session.dtype) for w, tuned in each]


def write(path, one, what, strips, layers):
    """A face's strip, or the picture where it is one, and the latents. Returns the pictures, and the paths written."""
    from editor import images

    args, session = strips.args, strips.session
    pictures = drawn(session, what, one, args, layers)
    picture = pictures[0] if len(pictures) == 1 else images.sheet([pictures], labels=what.labels)
    found = None
    if strips.whole:
        found = replace(one, ws=what.latents(one.ws, args, layers), tuned=what.weights(session.G, one.tuned)[0])
    info = session.record("semantic_edit.py", sources(path, what), name=one.name, **strips.said[what.name])
    paths = session.write(Path(args.out_dir) / f"{one.name}_{what.name}.png", picture, found, info)
    return pictures, paths


def animate(paths, people, what, args, session, layers):
    """From the start distance to the end and back: an animation of each face and, if paths has one more, one of all side by side."""
    import numpy as np

    from editor.animation import Animation

    there = np.linspace(args.start_distance, args.end_distance, args.frames)
    distances = [*there, *there[-2:0:-1]]
    with contextlib.ExitStack() as stack:
        movies = [stack.enter_context(Animation(path, fps=args.fps, width=args.width)) for path in paths]
        for i in range(0, len(distances), BATCH):
            some = replace(what, distances=[distances[i : i + BATCH]])
            pictures = [drawn(session, some, one, args, layers) for one in people]
            for frame in zip(*pictures, strict=True):
                for movie, picture in zip(movies, [*frame, np.concatenate(frame, axis=1)], strict=False):
                    movie.add(picture)


def name_of_all(found, what):
    """A name for what shows several faces together; only these faces and boundaries have it."""
    names = [name for one in found.values() for name in one]
    parts = [*names, *map(files.file_hash, [*found, *(boundary.path for boundary in what.boundaries if boundary.path)])]
    mark = hashlib.sha256(" ".join(parts).encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{names[0][:60]}_and_{len(names) - 1}_more_{mark}_{what.name}"


def small(picture):
    """At most CELL pixels a side, for the sheet of all."""
    from editor import images

    picture = images.to_pil(picture)
    picture.thumbnail((CELL, CELL))
    return picture


def settings_of(what, args, session):
    """What a record says of how a result of `what` was made; conditions by what they hold, too."""
    from editor import boundaries, folder

    conditions, _ = boundaries.read(args.condition, args.boundary_dir, session.G, session.force)
    moves = {boundary.name: [float(d) for d in at] for boundary, at in zip(what.boundaries, what.distances, strict=True)}
    said = {"distances": moves, "mode": args.mode, "conditions": args.condition, "layers": args.layers}
    if args.mode == "absolute":  # which a boundary's record says, not its file
        said["offsets"] = [boundary.offset for boundary in what.boundaries]
    if spreads := {one.name: one.unit for one in what.boundaries if one.path is None}:
        said["channels"] = spreads
    return said | {"condition_hashes": [files.file_hash(one.path) for one in conditions.values()]} | folder.carried(args, session)


class Strips:
    """A run's results: what is done already, and where the rest goes. `items`: {name of a result: `folder.Item`}."""

    def __init__(self, found, asked, args, session, run):
        from editor import folder

        self.args, self.session, self.run, self.whole = args, session, run, bool(args.save_latents or args.edit or args.channel)
        self.said = {what.name: settings_of(what, args, session) for what in asked}
        self.items = {
            (name, what.name): self.item(f"{name}_{what.name}", sources(path, what), self.said[what.name])
            for path, names in found.items() for name in names for what in asked
        }  # fmt: skip
        every = folder.of_shard(list(self.items.values()), args.shard)
        plan = folder.plan(every, run.journal, self.why, redo=args.redo or run.journal is None, retry=args.retry)
        self.left, self.shared = {item.name for item in plan.left}, {item.name for item in every}
        run.start(plan)

    def item(self, name, made_of, said):
        from editor import folder

        return folder.Item(name, Path(name), made_of, said | {"generator_hash": self.session.G.meta["hash"]})

    def why(self, item):
        from editor import folder

        latent = Path(self.args.out_dir) / f"{item.name}.npy"
        said = item.settings | {"made_by": "semantic_edit.py"}
        return folder.why_again(latent, latent.with_suffix(".png"), item.sources, said, self.session.G, whole=self.whole)

    def of_all(self, paths, found, what, **more):
        """The item of files that no record is of, named after the last, and whether they must be made."""
        from editor import folder

        made_of = {f"latent {i}": one for i, one in enumerate(found)}
        made_of |= {f"boundary {one.name}": one.path for one in what.boundaries if one.path}
        item = self.item(paths[-1].name, made_of, self.said[what.name] | more)
        return item, self.args.redo or self.run.journal is None or folder.noted(item, self.run.journal, paths) is not None


def write_strips(found, asked, together, strips, layers):
    """Each face's strip along each edit, and where `together` a sheet of all for each edit."""
    from editor import images

    args, session, run = strips.args, strips.session, strips.run
    sheets = {what.name: Path(args.out_dir) / f"{name_of_all(found, what)}.png" for what in asked} if together else {}
    wanted = {what.name: strips.of_all([sheets[what.name]], found, what) for what in asked if sheets}
    rows, count = {what.name: {} for what in asked}, sum(map(len, found.values()))
    with cli.progress(count * len(asked), args.quiet, "strip") as show:
        for i, (path, one) in enumerate(faces(found, session)):
            for j, what in enumerate(asked):
                item, pictures = strips.items[one.name, what.name], None
                if item.name in strips.left:
                    with run.item(item):
                        pictures, paths = write(path, one, what, strips, layers)
                        cli.written(args, *paths, what=f"{one.name}: {what.name}")
                elif sheets and wanted[what.name][1]:
                    pictures = drawn(session, what, one, args, layers)
                if pictures and sheets:
                    rows[what.name][one.name] = [small(picture) for picture in pictures]
                show(i * len(asked) + j + 1)
    for what in asked:
        if len(rows[what.name]) > 1 and wanted[what.name][1]:
            with run.item(wanted[what.name][0]) as said:
                sheet = sheets[what.name]
                images.save(sheet, images.sheet(list(rows[what.name].values()), what.labels, list(rows[what.name])))
                said["sha256"] = [files.file_hash(sheet)]
                cli.written(args, sheet, what=f"{len(rows[what.name])} faces: {what.name}")


def write_animations(found, asked, together, strips, layers):
    """Each face's animation along each boundary, and where `together` one of all side by side."""
    args, session, run = strips.args, strips.session, strips.run
    groups = [[one for _, one in faces(found, session)]] if together else ([one] for _, one in faces(found, session))
    more = {"frames": args.frames, "fps": args.fps, "width": args.width}
    for people in groups:
        for what in asked:
            names = [f"{one.name}_{what.name}" for one in people] + [name_of_all(found, what)] * (len(people) > 1)
            paths = [Path(args.out_dir) / f"{name}.{args.animation}" for name in names]
            of = found if len(people) > 1 else [people[0].path]
            item, wanted = strips.of_all(paths, of, what, **more)
            if wanted and strips.items[people[0].name, what.name].name in strips.shared:
                with run.item(item) as said:
                    animate(paths, people, what, args, session, layers)
                    said["sha256"] = [*map(files.file_hash, paths)]
                    cli.written(args, *paths, what=f"{what.name}: there and back")


# ---------------------------------------------------------------------------------------------------------------------
# The command


def main(argv):
    parser = flags()
    args = parser.parse_args(argv)
    check(args, parser)
    from editor import animation, face, folder
    from editor import session as sessions

    if args.animation:
        animation.Animation(f"strip.{args.animation}", fps=args.fps, width=args.width)  # what it cannot do is said at once
    paths = face.expand(args.latent_file)
    cli.require_different_names(paths, "results")
    session = sessions.open(args)
    layers = None if args.layers is None else face.layer_range(args.layers, session.G.num_ws)
    several = len(paths) > 1 or any(map(os.path.isdir, args.latent_file))
    single = bool(args.edit or args.channel) or len(args.boundary or ()) == 1
    run = folder.Run(args, folder.Journal(args.out_dir) if several else None, "semantic_edit.py", single=single and not several)
    of_edits = cli.Failures(single)
    asked = edits(args, session, of_edits)
    of_faces = cli.Failures(single=len(paths) == 1)
    found = readable(paths, asked, args, session, of_faces)
    warned = dict.fromkeys(session.remarks)
    for remark in warned:
        cli.warn(remark)
    count = sum(map(len, found.values()))
    together = 1 < count <= MOST_CELLS // args.steps and not args.shard
    if count > MOST_CELLS // args.steps:
        cli.warn(f"no sheet of all: {count} faces times {args.steps} pictures are too many to look at")
    if together and args.animation:
        for what in asked:
            animation.require_replaceable(Path(args.out_dir) / f"{name_of_all(found, what)}.{args.animation}")
    strips = Strips(found, asked, args, session, run)
    write_strips(found, asked, together, strips, layers)
    if args.animation:
        write_animations(found, asked, together, strips, layers)
    for remark in session.remarks:
        if remark not in warned:
            cli.warn(remark)
    return of_faces.exit_code or of_edits.exit_code or run.failures.exit_code


if __name__ == "__main__":
    cli.run(main)
