"""Drag points of a face to where they should be (DragGAN, Pan et al. 2023; FreeDrag, Ling et al. 2023).

    python drag_edit.py --latent_file latent_W/me_01.npy --drag "part:mouth_left>-4,-4" --drag "part:mouth_right>+4,-4"

A point is a pixel x,y of the face's picture (from 0,0, the upper left one), or part:NAME, a landmark of the rendered face; it goes to
the pixel behind the >, or by so much where a sign is written. Quotes keep the shell from taking the > for itself. --mask says what
may move (white), in the words of local_edit.py.
Written are save_image/drag/me_01_drag.png and the face that renders to it, the same name with .npy, .json and, where the face has
them, .noise.npz and .tuned.safetensors; with --animation the way there, too.
"""

import math
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from editor import cli, settings

FOLDER = Path("save_image/drag")
FINDS = {"auto": "landmarks where one is near, else features", "landmarks": "of those that one is near", "features": "of the generator"}
MOST = 32  # points of a drag
FAR = 1e6  # pixels: no picture reaches there
NEAREST = 0.5  # pixels: two points nearer to each other are one
STEADY, STEADY_FACE = 0.025, 0.015  # of the side: how far a landmark, and half of all, may go when the picture is shifted
NAMED = {  # parts of a face that one drags, and dlib's landmark of each; left and right as one sees them
    "mouth_left": 48, "mouth_right": 54, "mouth_top": 51, "mouth_bottom": 57, "nose": 30, "nose_left": 31, "nose_right": 35, "chin": 8,
    "jaw_left": 4, "jaw_right": 12, "left_brow": 19, "left_brow_outer": 17, "left_brow_inner": 21, "right_brow": 24,
    "right_brow_inner": 22, "right_brow_outer": 26, "left_eye_outer": 36, "left_eye_inner": 39, "left_eye_top": 37,
    "left_eye_bottom": 41, "right_eye_inner": 42, "right_eye_outer": 45, "right_eye_top": 44, "right_eye_bottom": 46,
}  # fmt: skip


def flags():
    usual = settings.Drag()
    p = cli.Parser(__doc__)
    p.add_argument("--latent_file", required=True, metavar="FILE", help="of the face")
    p.add_argument("--drag", action="append", default=[], metavar="FROM>TO", help='a point and its target, such as "50,90>46,86", '
                   f'"50,90>-4,-4" or "part:mouth_left>-4,-4"; may be repeated. Parts: {", ".join(NAMED)}')  # fmt: skip
    p.add_argument("--points", metavar="FILE.json", help='more of them: ["50,90>46,86", {"from": [50, 90], "to": [46, 86]}, '
                   '{"from": "part:nose", "by": [0, 5]}]')  # fmt: skip
    p.add_argument("--mask", help="what may move (default: all)")
    p.add_argument("--invert_mask", action="store_true", help="black is what may move")
    p.add_argument("--method", default=usual.method, choices=settings.DRAGS, help=f"{_words(settings.DRAGS)} (default: {usual.method})")
    p.add_argument("--find", default="auto", choices=FINDS, help=f"how a point is found again: {_words(FINDS)} (default: auto)")
    p.add_argument("--iteration", type=cli.number(int, 0), default=usual.iteration, help="steps at most (default: %(default)s)")
    p.add_argument("--lr", type=cli.number(float, above=0), default=usual.lr, help="Adam's learning rate (default: %(default)s)")
    p.add_argument("--layers", help="W+ layers that move, such as 0-5 (default: all that the feature map is made of)")
    p.add_argument("--r1", type=cli.number(float, 1, most=32), default=usual.r1, help="radius of the patch that is moved, in pixels of the "
                   "feature map (default: %(default)s)")  # fmt: skip
    p.add_argument("--r2", type=cli.number(float, 1, most=32), default=usual.r2, help="how far a point is looked for, in pixels of the "
                   "feature map (default: %(default)s)")  # fmt: skip
    p.add_argument("--lambda_mask", type=cli.number(float, 0), default=usual.lambda_mask, help="holds what may not move (default: "
                   "%(default)s)")  # fmt: skip
    p.add_argument("--lambda_start", type=cli.number(float, 0), default=usual.lambda_start, help="holds the latent near the one it starts "
                   "from (default: %(default)s)")  # fmt: skip
    p.add_argument("--animation", choices=("gif", "mp4", "webp", "apng"), help="write the way there, too, with the points drawn")
    p.add_argument("--fps", type=cli.number(float, above=0), default=10, help="frames a second of the animation (default: %(default)s)")
    p.add_argument("--width", type=cli.number(int, 4, most=8192), help="of the animation in pixels (default: as the pictures)")
    p.add_argument("--out", metavar="NAME", help=f"NAME in {FOLDER}/, or a path (default: named after the face)")
    cli.add_face_flags(p)
    cli.add_model_flags(p)
    p.set_defaults(parser=p)
    return p


def _words(known):
    return "; ".join(f"{k}: {v}" for k, v in known.items())


# ---------------------------------------------------------------------------------------------------------------------
# What is asked


@dataclass
class Point:
    """A point to drag: from `start` to `target`, both (x, y) in pixels of the picture; where it is a landmark, its index."""

    text: str
    start: tuple | None
    target: tuple
    relative: bool = False
    landmark: int | None = None

    def placed(self, marks):
        """With a start where it is a landmark, marks [68, 2], and a target that is a place."""
        start = self.start if self.landmark is None else tuple(map(float, marks[self.landmark]))
        target = tuple(a + b for a, b in zip(start, self.target, strict=True)) if self.relative else self.target
        return Point(self.text, start, target, False, self.landmark)


def asked(args):
    """The points of --drag and --points, as they are written.

    Raises:
        ValueError, OSError: no points, or more than MOST; a text or an entry that is none.
    """
    from editor import files

    found = [parsed(text) for text in args.drag]
    if args.points:
        entries = files.read_json(args.points, "a list of points is needed")
        if not isinstance(entries, list):
            raise ValueError(f"{args.points}: a JSON {type(entries).__name__}; a list of points is needed")
        found += [parsed(entry) if isinstance(entry, str) else entered(entry, args.points) for entry in entries]
    if not 1 <= len(found) <= MOST:
        raise ValueError(f"{len(found)} points; 1 to {MOST} can be dragged: give --drag or --points")
    return found


def parsed(text):
    """'x,y>x,y', 'x,y>+dx,-dy' or 'part:NAME>...' -> Point, or ValueError."""
    number = r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*"
    match = re.fullmatch(rf"(?:\s*part:(\w+)\s*|{number},{number})>{number},{number}", text, re.ASCII) if len(text) < 200 else None
    if not match:
        raise ValueError(f'--drag {text[:60]!r}: write FROM>TO in pixels, such as "50,90>46,86", "50,90>-4,-4" or "part:nose>+4,+0"')
    name, *numbers = match.groups()
    start = None if name else (float(numbers[0]), float(numbers[1]))
    relative = any(n.startswith(("+", "-")) for n in numbers[2:])
    return Point(text, start, (float(numbers[2]), float(numbers[3])), relative, None if name is None else landmark(name, text))


def entered(entry, path):
    """An object of a points file -> Point, or ValueError."""

    def pair(value):
        good = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) and abs(v) <= FAR for v in value)
        return tuple(map(float, value)) if good else None

    if isinstance(entry, dict) and entry.keys() in ({"from", "to"}, {"from", "by"}):
        begin, relative = entry["from"], "by" in entry
        name = begin[5:] if isinstance(begin, str) and begin.startswith("part:") else None
        start, target = pair(begin), pair(entry["by" if relative else "to"])
        if target and (start or name):
            text = str(entry)
            return Point(text, start, target, relative, None if name is None else landmark(name, text))
    raise ValueError(f'{path}: {str(entry)[:80]}: a point is {{"from": [x, y] or "part:NAME", "to": [x, y] or "by": [dx, dy]}}, finite')


def landmark(name, text):
    if name not in NAMED:
        raise ValueError(f"{text[:60]}: no part {name[:40]!r}; known are {', '.join(NAMED)}")
    return NAMED[name]


def check(points, side, mask=None):
    """Raise ValueError unless points lie in a picture of so many pixels, apart, where the mask [1, 1, R, R] lets them move."""
    from editor.dragging import STOP

    for i, point in enumerate(points):
        for what, at in (("start", point.start), ("target", point.target)):
            if not all(0 <= v <= side - 1 for v in at):
                raise ValueError(f"{point.text}: its {what} {shown(at)} lies outside of the picture, 0,0 to {side - 1},{side - 1}")
        if math.dist(point.start, point.target) < STOP:
            raise ValueError(f"{point.text}: the point {shown(point.start)} is at its target already, less than {STOP:g} pixel away")
        for other in points[:i]:
            if math.dist(point.start, other.start) < NEAREST:
                raise ValueError(f"{other.text} and {point.text}: two targets for one point, {shown(point.start)}")
        for what, (x, y) in (("start", point.start), ("target", point.target)):
            if mask is not None and mask[0, 0, round(y), round(x)] < 0.5:
                raise ValueError(f"{point.text}: its {what} {shown((x, y))} lies where the mask is black, where nothing may move")


def shown(at):
    return ",".join(f"{v:.4g}" for v in at)


def read_mask(args, side, picture):
    """--mask for a picture [1, 3, R, R]: [1, 1, R, R] in 0..1, 1 where it may move; or ValueError where nothing may."""
    from editor import masks

    mask = masks.read(args.mask, side, picture, args.invert_mask)
    if float(mask.max()) < 0.5:
        raise ValueError(f"--mask {args.mask}: nothing is white, so nothing may move")
    return mask


# ---------------------------------------------------------------------------------------------------------------------
# Results


def destination(args):
    """The result's picture: --out, or in FOLDER the face's name."""
    from editor import images

    out = args.out
    if out and args.animation:
        out = out.removesuffix(f".{args.animation}")  # NAME.webp: the animation; the picture beside it is NAME.png
    return images.destination(out, FOLDER, f"{Path(args.latent_file).stem}_drag.png")


def reached(points, found):
    """What became of each point, for the record and to print: pixels, and shares of the way that was asked for."""

    def share(point, place):
        """Of the way: how far along the line to the target a place is."""
        way, gone = ([b - a for a, b in zip(point.start, end, strict=True)] for end in (point.target, place))
        return round(sum(a * b for a, b in zip(way, gone, strict=True)) / sum(a * a for a in way), 3)

    rows = []
    for i, point in enumerate(points):
        place, tracked = found.places[i].tolist(), found.tracked[i].tolist()
        row = {"point": point.text, "from": point.start, "to": point.target, "reached": place, "left": found.left[i].item()}
        row = {k: v if isinstance(v, str) else [round(x, 2) for x in v] if k != "left" else round(v, 2) for k, v in row.items()}
        row |= {"way": share(point, place), "way_by_features": share(point, tracked)}
        if found.seen is not None and not found.seen[i].isnan().any():
            row["way_by_landmarks"] = share(point, found.seen[i].tolist())
        rows.append(row)
    return rows


def line(row):
    """A point's row in words."""
    by = "landmarks" if "way_by_landmarks" in row else "features"
    asked_for, at = shown(row["to"]), shown(row["reached"])
    return f"{row['point']}: asked {shown(row['from'])} to {asked_for}, now at {at} by {by}: {row['way']:.0%} of the way"


def animate(path, session, person, points, found, args):
    """The way there as an animation: each picture with its points, and lines to their targets."""
    import torch

    from editor import render
    from editor.animation import Animation

    frames = list(found.path)
    frames += [frames[-1]] * max(1, round(args.fps / 2))  # it rests at the end
    ws = torch.cat([one for one, _ in frames])
    pictures = render.pictures(session.wearing(person).G, ws, person.maps, dtype=session.dtype)
    with Animation(path, fps=args.fps, width=args.width) as movie:
        for picture, (_, places) in zip(pictures, frames, strict=True):
            movie.add(drawn(picture, places.tolist(), [p.target for p in points], args.width))


def drawn(picture, places, targets, width=None):
    """A picture, uint8 [R, R, 3], with its points (red) and their targets (blue): a PIL image, as it is or `width` pixels wide."""
    from PIL import Image, ImageDraw

    from editor import images

    image = images.to_pil(picture).copy()
    scale = (width or image.width) / image.width
    if scale > 1:  # enlarged first, so that the points are round
        image = image.resize((width, width), Image.Resampling.BICUBIC)
        places, targets = ([[(v + 0.5) * scale - 0.5 for v in at] for at in ends] for ends in (places, targets))
    brush, r = ImageDraw.Draw(image), max(1, image.width // 100)
    for (x, y), (u, v) in zip(places, targets, strict=True):
        brush.line([x, y, u, v], fill=(255, 255, 255), width=max(1, r // 2))
        brush.ellipse([u - r, v - r, u + r, v + r], fill=(40, 90, 255))
        brush.ellipse([x - r, y - r, x + r, y + r], fill=(235, 30, 30))
    return image


# ---------------------------------------------------------------------------------------------------------------------
# The command


def landmarks_of(session, person):
    """A function ws -> landmarks [68, 2] of what a face renders to with it; ValueError where no face is found."""
    from editor import images, landmarks, render

    def locate(ws):
        return landmarks.landmarks_of_crop(images.to_pil(render.one(session.G, replace(person, ws=ws))))

    return locate


def steady(picture, marks):
    """Which of the landmarks [68, 2] of a picture, uint8 [R, R, 3], dlib finds again when it is shifted a little: bool [68].

    Where dlib guesses (a face half turned away, hands, beards), landmarks jump by a tenth of the picture, and drags by them smear it.
    """
    import numpy as np

    from editor import images, landmarks

    by, side, off = max(1, len(picture) // 64), len(picture), []
    wide = np.pad(picture, ((by, by), (by, by), (0, 0)), "edge")
    for dx, dy in ((by, 0), (-by, 0), (0, by)):
        shifted = wide[by - dy : by - dy + side, by - dx : by - dx + side]
        try:
            off.append(np.linalg.norm(landmarks.landmarks_of_crop(images.to_pil(shifted)) - (dx, dy) - marks, axis=1))
        except ValueError:
            return np.zeros(68, bool)
    most = np.max(off, 0) / side
    return (most <= STEADY) & (np.median(most) <= STEADY_FACE)


def prepared(args, session, person, points, picture):
    """The points with their places, and what finds them again by landmarks, or None; or ValueError.

    picture: what the face renders to, uint8 [R, R, 3].
    """
    from editor import dragging

    locate, named = landmarks_of(session, person), any(p.landmark is not None for p in points)
    if args.find == "features" and not named:
        return [p.placed(None) for p in points], None
    try:
        marks = locate(person.ws)
    except (ValueError, OSError) as error:  # no face; no dlib
        if named or args.find == "landmarks":
            raise ValueError(f"{args.latent_file}: {str(error).split(', so')[0]}: give points in pixels, and --find features") from None
        return [p.placed(None) for p in points], None
    points, sure = [p.placed(marks) for p in points], steady(picture, marks)
    for p in points:
        if p.landmark is not None and not sure[p.landmark]:
            raise ValueError(f"{p.text}: dlib is not sure where that is (it says another place when the picture is shifted a little); give "
                             "the point in pixels")  # fmt: skip
    if args.find == "features":
        return points, None
    followed = dragging.Followed(locate, marks, points, session.G.resolution, sure, only=args.find == "landmarks")
    if followed.doubted:
        session.remarks.append(f"{', '.join(followed.doubted)}: dlib is not sure of the landmark there, so features alone find it again: "
                               "look at the result")  # fmt: skip
    return points, followed if followed.near.any() else None


def configured(args, session):
    """The flags -> settings.Drag, or ValueError for layers that the feature map does not depend on."""
    from editor import dragging, face

    layers = None if args.layers is None else face.layer_range(args.layers, session.G.num_ws)
    most = dragging.movable(session.G)[-1]
    if layers and max(layers) > most:
        raise ValueError(f"--layers {args.layers}: the feature map is made of layers 0-{most}; those above it cannot be dragged")
    names = ("method", "iteration", "lr", "r1", "r2", "lambda_mask", "lambda_start")
    return settings.Drag(**{name: getattr(args, name) for name in names}, layers=layers)


def write(found, person, rows, session, named, picture, movie, chosen, seconds):
    """The face that was found, its picture and its record, which names the animation, too. Returns the paths."""
    info = session.record(
        "drag_edit.py", named, settings=chosen, points=rows, steps=found.steps, stopped=found.stopped,
        complete=found.interrupted is None, seconds=round(seconds, 1),
        **({"animation": movie.name} if movie else {}),
    )  # fmt: skip
    return session.save(picture, replace(person, ws=found.ws), info)


def main(argv):
    args = flags().parse_args(argv)
    from editor import animation, dragging, face, render
    from editor import session as sessions

    if args.animation:
        animation.Animation(f"way.{args.animation}", fps=args.fps, width=args.width)  # what it cannot do is said at once
    else:
        cli.require_default(args.parser, args, ("fps", "width"), "of the animation; give --animation as well")
    points, picture, began = asked(args), destination(args), time.time()
    movie = picture.with_suffix(f".{args.animation}") if args.animation else None
    if movie:
        animation.require_replaceable(movie)
    files_of = {"points": args.points, "mask": args.mask if args.mask and Path(args.mask).is_file() else None}
    named = {"latent_file": args.latent_file} | {role: path for role, path in files_of.items() if path}
    sessions.reserve(picture.with_suffix(".npy"), named, picture, *[movie] * bool(movie))
    session = sessions.open(args)
    G = session.G
    if G.kind == "stylegan3":
        raise ValueError("drag_edit.py takes StyleGAN1 and StyleGAN2; StyleGAN3's maps have margins and sides of their own")
    config, person = configured(args, session), session.read_one(args.latent_file)
    shown_first = render.one(G, person, session.dtype)
    points, followed = prepared(args, session, person, points, shown_first)
    cli.warn_of(session)
    mask = read_mask(args, G.resolution, as_tensor(shown_first)).to(session.device) if args.mask else None
    check(points, G.resolution, mask)
    with cli.progress(config.iteration, args.quiet) as show, render.one_thread(G):

        def tell(step, left):
            show(step, None, left=f"{left:.1f} px")

        found = dragging.drag(session.wearing(person).G, person, points, config, mask, followed, tell)
    with cli.kept_whole():
        if found.interrupted and face.record(picture).get("complete"):
            cli.say(f"{picture}: stopped before its end; the finished one of an earlier run stays")
            raise found.interrupted
        old = face.record(picture).get("animation")
        if not movie and isinstance(old, str) and picture.with_name(Path(old).name).is_file():
            session.remarks.append(f"{picture.with_name(Path(old).name)}: shows the way of the face that was here before, not of this one")
        rows = reached(points, found)
        chosen = asdict(config) | {"find": args.find, "mask": args.mask, "invert_mask": args.invert_mask}
        paths = write(found, person, rows, session, named, picture, movie, chosen, time.time() - began)
        if movie:
            animate(movie, session, person, points, found, args)
        for row in rows:
            args.quiet or cli.say(line(row))
        cli.written(args, *paths, *[movie] * bool(movie), what=f"the dragged face, after {found.steps} steps ({found.stopped})")
    cli.warn_of(session)
    if found.interrupted:
        raise found.interrupted
    return 0


def as_tensor(picture):
    """uint8 [R, R, 3] -> [1, 3, R, R] in [-1, 1]"""
    import torch

    return torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1


if __name__ == "__main__":
    cli.run(main)
