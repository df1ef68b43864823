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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from editor import cli

FOLDER = Path("save_image/drag")
METHODS = {"track": "DragGAN's: move a patch, then look where it is", "free": "FreeDrag's: ask for the patch a little further on"}
FINDS = {"auto": "landmarks where one is near, else features", "landmarks": "of those that one is near", "features": "of the generator"}
MOST = 32  # points of a drag
NEAREST = 0.5  # pixels: two points nearer to each other are one
STOP = 1.0  # pixels from its target at which a point is there
LOOK_EVERY = 5  # steps between looks at the landmarks: a look costs some ten steps at 128
NEAR = 0.04  # a point so near to a landmark, as a share of the side, goes where that goes
NAMED = {  # parts of a face that one drags, and dlib's landmark of each; left and right as one sees them
    "mouth_left": 48, "mouth_right": 54, "mouth_top": 51, "mouth_bottom": 57, "nose": 30, "nose_left": 31, "nose_right": 35, "chin": 8,
    "jaw_left": 4, "jaw_right": 12, "left_brow": 19, "left_brow_outer": 17, "left_brow_inner": 21, "right_brow": 24,
    "right_brow_inner": 22, "right_brow_outer": 26, "left_eye_outer": 36, "left_eye_inner": 39, "left_eye_top": 37,
    "left_eye_bottom": 41, "right_eye_inner": 42, "right_eye_outer": 45, "right_eye_top": 44, "right_eye_bottom": 46,
}  # fmt: skip


@dataclass
class Config:
    """How a drag goes. Defaults are measured (benchmarks/README.md). r1, r2: pixels of the feature map, which is a quarter as fine."""

    method: str = "track"
    iteration: int = 100  # steps at most
    lr: float = 0.03
    r1: float = 2.0  # radius of the patch that is moved
    r2: float = 6.0  # how far from where it was a point is looked for
    lambda_mask: float = 20.0  # holds the features where the mask is black
    lambda_start: float = 0.0  # holds the latent near the one it starts from
    layers: list | None = None  # W+ layers that move; None: all that the feature map is made of


def flags():
    usual = Config()
    p = cli.Parser(__doc__)
    p.add_argument("--latent_file", required=True, metavar="FILE", help="of the face")
    p.add_argument("--drag", action="append", default=[], metavar="FROM>TO", help='a point and its target, such as "50,90>46,86", '
                   f'"50,90>-4,-4" or "part:mouth_left>-4,-4"; may be repeated. Parts: {", ".join(NAMED)}')  # fmt: skip
    p.add_argument("--points", metavar="FILE.json", help='more of them: ["50,90>46,86", {"from": [50, 90], "to": [46, 86]}, '
                   '{"from": "part:chin", "by": [0, 5]}]')  # fmt: skip
    p.add_argument("--mask", help="what may move (default: all)")
    p.add_argument("--invert_mask", action="store_true", help="black is what may move")
    p.add_argument("--method", default=usual.method, choices=METHODS, help=f"{_words(METHODS)} (default: {usual.method})")
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
        raise ValueError(f'--drag {text[:60]!r}: write FROM>TO in pixels, such as "50,90>46,86", "50,90>-4,-4" or "part:chin>+0,+5"')
    name, *numbers = match.groups()
    start = None if name else (float(numbers[0]), float(numbers[1]))
    relative = any(n.startswith(("+", "-")) for n in numbers[2:])
    return Point(text, start, (float(numbers[2]), float(numbers[3])), relative, None if name is None else landmark(name, text))


def entered(entry, path):
    """An object of a points file -> Point, or ValueError."""

    def pair(value):
        good = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) and math.isfinite(v) for v in value)
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
    for i, point in enumerate(points):
        for what, at in (("start", point.start), ("target", point.target)):
            if not all(0 <= v <= side - 1 for v in at):
                raise ValueError(f"{point.text}: its {what} {shown(at)} lies outside of the picture, 0,0 to {side - 1},{side - 1}")
        if math.dist(point.start, point.target) < STOP:
            raise ValueError(f"{point.text}: the point {shown(point.start)} is at its target already, less than {STOP:g} pixel away")
        for other in points[:i]:
            if math.dist(point.start, other.start) < NEAREST:
                raise ValueError(f"{other.text} and {point.text}: two targets for one point, {shown(point.start)}")
        x, y = map(round, point.start)
        if mask is not None and mask[0, 0, y, x] < 0.5:
            raise ValueError(f"{point.text}: the mask does not let its start {shown(point.start)} move: there it is black")


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
# The feature map


def level(G):
    """Side of the feature map that is looked at: a quarter of the picture's, 32 at least."""
    return min(G.resolution, max(32, G.resolution // 4))


def movable(G):
    """The W+ layers that the feature map is made of."""
    return [i for i, layer in enumerate(G.synthesis.layers()) if layer.resolution <= level(G)]


def features(G, ws, side, noise="const"):
    """What leaves the last layer of `side` pixels: ws [1, L, 512] -> [1, C, side, side]. Nothing is computed above it.

    Float32: half a pixel is a small difference of features.
    """
    from stylegan_layers import noise_maps

    layers = [layer for layer in G.synthesis.layers() if layer.resolution <= side]
    maps = noise_maps(layers, noise if isinstance(noise, str) else noise[: len(layers)], ws)
    x = G.synthesis.b4.const.expand(len(ws), -1, -1, -1)
    for i, layer in enumerate(layers):
        x = layer(x, ws[:, i], maps[i])
    return x


class Map:
    """A feature map [1, C, S, S] that is read at pixels of the picture, between them linearly: the large map is never made."""

    def __init__(self, values, side):
        self.values, self.side = values, side
        self.cell = side / values.shape[-1]  # pixels of the picture in one of the map

    def __call__(self, at):
        """at [..., 2], (x, y) in pixels of the picture -> [..., C]"""
        import torch.nn.functional as F

        grid = (at + 0.5) * (2 / self.side) - 1  # the corners of the pictures, not the centres of their pixels, are -1 and 1
        found = F.grid_sample(self.values, grid.reshape(1, 1, -1, 2), align_corners=False, padding_mode="border")  # [1, C, 1, M]
        return found[0, :, 0].t().reshape(*at.shape[:-1], -1)


class Seen:
    """A face's feature maps, in units of their standard deviation, so that losses and weights mean the same in all generators."""

    def __init__(self, G, person, mask=None):
        import torch
        import torch.nn.functional as F

        self.G, self.noise, self.scale = G, person.maps, 1.0
        with torch.no_grad():
            self.scale = self(person.ws).values.std()
            self.first = self(person.ws)
        self.held = None if mask is None else 1 - F.adaptive_avg_pool2d(mask, level(G))

    def __call__(self, ws):
        """ws [1, L, 512] -> Map"""
        return Map(features(self.G, ws, level(self.G), self.noise) / self.scale, self.G.resolution)

    def outside(self, fmap):
        """How far the map is from the first where it must not move (Pan et al. 2023, equation 1, its second part)."""
        return 0.0 if self.held is None else ((fmap.values - self.first.values).abs() * self.held).mean()


def square(reach, step=1.0):
    """Offsets (x, y) up to `reach` to all sides: [M, 2], the middle one 0, 0."""
    import torch

    n = torch.arange(-round(reach / step), round(reach / step) + 1) * step
    return torch.cartesian_prod(n, n).flip(1)


def disc(radius):
    """Offsets (x, y) of the pixels within a radius: [K, 2]."""
    around = square(math.floor(radius))
    return around[around.norm(dim=1) <= radius]


def tracked(fmap, places, templates, offsets, reach):
    """Where patches are now: the places of least |F(q) - f| (Pan et al. 2023, equation 2; of a patch, not of one pixel).

    From whole pixels of the map down to a sixteenth of one.

    Args:
        fmap: `Map`. places [P, 2]: where they were. templates [P, K, C]: what they looked like, at the offsets [K, 2], in pixels of
            the map, as `reach` is.

    Returns:
        [P, 2].
    """
    import torch

    for radius, step in ((reach, 1.0), (1.0, 0.25), (0.25, 0.0625)):
        tries = places[:, None] + square(radius, step).to(places) * fmap.cell  # [P, M, 2]
        tries = tries.clamp(0, fmap.side - 1)
        seen = fmap(tries[:, :, None] + offsets * fmap.cell)  # [P, M, K, C]
        apart = (seen - templates[:, None]).norm(dim=3).mean(2)  # [P, M]
        places = tries[torch.arange(len(places)), apart.argmin(1)]
    return places


# ---------------------------------------------------------------------------------------------------------------------
# The two ways


class Track:
    """DragGAN (Pan et al. 2023, section 3.2): motion supervision, then point tracking.

    Equation 1 asks that F(q + d) be the F(q) of the step before. Here it has to be the patch of the first step: nothing drifts, and
    points go twice as near (benchmarks/README.md). d is a pixel of the map long, or what is left.
    """

    def __init__(self, fmap, starts, config):
        self.places, self.reach = starts, max(config.r2, 1.0)
        self.patch, self.around = disc(max(config.r1, 1.0)).to(starts), disc(1).to(starts)
        self.wanted = fmap(starts[:, None] + self.patch * fmap.cell)  # [P, K, C]
        self.template = fmap(starts[:, None] + self.around * fmap.cell)  # [P, 5, C]

    def find(self, fmap):
        self.places = tracked(fmap, self.places, self.template, self.around, self.reach)

    def losses(self, fmap, goals):
        """goals [P, 2] -> [P], the mean |F(q + d) - F0(q)| over a patch."""
        away = goals - self.places
        length = away.norm(dim=1, keepdim=True).clamp(min=1e-6)
        ahead = self.places + away * (fmap.cell / length).clamp(max=1)
        return (fmap(ahead[:, None] + self.patch * fmap.cell) - self.wanted).abs().mean((1, 2))


class Free:
    """FreeDrag (Ling et al. 2023): a template is asked for a little further on the line to the target; nothing is tracked.

    In rounds of ROUND steps. Where the template came well, it takes in what is seen there, and the next place is chosen; where it came
    nearer, the round is repeated; else a place nearer by is chosen, or one further back.
    """

    ROUND, FURTHEST, TRIES = 5, 3.0, 10  # steps; pixels of the map
    LIKE = 0.3  # how unlike the next place may be, in standard deviations of the features

    def __init__(self, fmap, starts, config):
        self.patch = square(1).to(starts)  # 3 x 3
        self.places, self.aims = starts, starts.clone()  # where points are, and what is asked for in this round
        self.wanted = fmap(starts[:, None] + self.patch * fmap.cell)  # [P, 9, C]
        self.first, self.last, self.steps = None, None, 0

    def unlike(self, fmap, places):
        """[P, 2] -> [P]"""
        return (fmap(places[:, None] + self.patch * fmap.cell) - self.wanted).abs().mean((1, 2))

    def find(self, fmap):
        self.last, self.steps = self.unlike(fmap, self.aims), self.steps + 1
        self.places = self.aims.where((self.last < 0.5 * self.LIKE)[:, None], self.places)

    def losses(self, fmap, goals):
        """goals [P, 2] -> [P], the mean |F - T| at the places that are asked for now."""
        if self.first is None or self.steps >= self.ROUND:
            self.next_round(Map(fmap.values.detach(), fmap.side), goals)
        return self.unlike(fmap, self.aims)

    def next_round(self, fmap, goals):
        """Take in what came well, and choose what is asked for next: on the line, about as unlike as LIKE."""
        import torch

        for i, goal in enumerate(goals):
            back = False
            if self.first is not None:
                if self.last[i] < 0.5 * self.LIKE:
                    kept = 1 / (1 + math.exp(math.log(9) / (0.6 * self.LIKE) * (float(self.last[i]) - 0.2 * self.LIKE)))
                    self.wanted[i].lerp_(fmap(self.aims[i] + self.patch * fmap.cell), kept)
                elif self.last[i] < self.first[i]:
                    continue  # it comes nearer: the same place again
                else:
                    back = True
            way = goal - self.places[i]
            reach = min(1.0, (2 if back else 1) * self.FURTHEST * fmap.cell / max(float(way.norm()), 1e-6))
            shares = torch.arange(1, self.TRIES + 1).to(way)[:, None] * (reach / self.TRIES)
            tries = self.places[i] + shares * way  # [10, 2]
            seen = fmap(tries[:, None] + self.patch * fmap.cell)  # [10, 9, C]
            self.aims[i] = tries[((seen - self.wanted[i]).abs().mean((1, 2)) - self.LIKE).abs().argmin()]
        self.first, self.steps = self.unlike(fmap, self.aims), 0


WAYS = {"track": Track, "free": Free}


# ---------------------------------------------------------------------------------------------------------------------
# The drag


@dataclass
class Dragged:
    """What a drag came to.

    ws: [1, L, 512]. places [P, 2]: where the points are, and left [P]: in pixels, from their targets. tracked [P, 2]: where the
    features alone say that they are. steps: until then. seen [P, 2]: where the landmarks say, NaN where none is near; or None.
    stopped: "reached", "limit" or "interrupted". path: all (latent, places) on the way.
    """

    ws: object
    places: object
    left: object
    tracked: object
    steps: int
    seen: object = None
    stopped: str = "limit"
    interrupted: BaseException | None = None
    path: list = field(default_factory=list)


class Followed:
    """The landmarks of the rendered face, where points lie near them: they say how far features run ahead of what they show.

    Features partly stay in their places when a face turns, and a tracker with them; landmarks go with the face (benchmarks/README.md).
    """

    def __init__(self, locate, marks, points, side, only=False):
        """locate: ws -> landmarks [68, 2], or ValueError. marks: those of the start."""
        import torch

        self.locate, self.first = locate, torch.as_tensor(marks, dtype=torch.float32)
        apart = [torch.cdist(torch.tensor([p.start]), self.first)[0] for p in points]
        self.of = [p.landmark if p.landmark is not None else int(a.argmin()) for p, a in zip(points, apart, strict=True)]
        self.near = torch.tensor([bool(a[j] <= NEAR * side) for a, j in zip(apart, self.of, strict=True)])
        if only and not self.near.all():
            lost = points[int(self.near.int().argmin())]
            raise ValueError(f"{lost.text}: no landmark is near {shown(lost.start)}, by which --find landmarks would find it; use auto")

    def __call__(self, ws, starts):
        """[P, 2] where the points are, NaN where no landmark is near; None where no face is found."""
        import torch

        try:
            now = torch.as_tensor(self.locate(ws), dtype=torch.float32)
        except ValueError:
            return None
        moved = (now - self.first)[self.of]
        return (starts + moved.to(starts)).masked_fill(~self.near.to(starts.device)[:, None], math.nan)


class Look:
    """Where the points are, step by step: by the features, and every LOOK_EVERY steps by the landmarks."""

    def __init__(self, way, starts, targets, followed):
        self.way, self.starts, self.targets, self.followed = way, starts, targets, followed
        self.ahead, self.since = starts * 0, LOOK_EVERY  # how far what is shown is ahead of the features

    def __call__(self, step, ws, fmap, last=False):
        """The features of a step -> Dragged as of now, and whether its `left` is sure."""
        if step:
            self.way.find(fmap)
        found, self.since = Dragged(ws, *self.now(), self.way.places, step), self.since + 1
        if self.followed is None:
            return found, True
        if not (last or self.since > LOOK_EVERY or found.left.max() <= STOP):
            return found, False
        seen, self.since = self.followed(ws, self.starts), 0
        if seen is None:
            return found, False
        self.ahead = self.ahead.where(seen.isnan(), seen - self.way.places)
        return Dragged(ws, *self.now(), self.way.places, step, seen), True

    def now(self):
        """Places [P, 2], and how far each is from its target, [P]."""
        places = self.way.places + self.ahead
        return places, (self.targets - places).norm(dim=1)


def drag(G, person, points, config, mask=None, followed=None, callback=None):
    """Move the latent until the points are at their targets.

    Args:
        G: the generator as it is for the face, frozen. person: `face.Face` of one latent.
        points: list of placed `Point`s. config: `Config`.
        mask: [1, 1, R, R] in 0..1, 1 where it may move; None: everywhere.
        followed: `Followed`, or None: features alone say where points are.
        callback: called with (steps done, mean pixels left).

    Returns:
        Dragged: of the step that was nearest. Ctrl-C ends it early, and `interrupted` is what to raise then.

    Raises:
        ValueError: the loss stopped being finite.
    """
    import torch

    starts, targets = (torch.tensor([getattr(p, end) for p in points]).to(person.ws) for end in ("start", "target"))
    moving = torch.tensor(movable(G) if config.layers is None else config.layers, device=person.ws.device)
    seen = Seen(G, person, mask)
    way = WAYS[config.method](seen.first, starts, config)
    look, best, path, stopped, interrupted = Look(way, starts, targets, followed), None, [], "limit", None
    move = torch.zeros_like(person.ws[:, moving]).requires_grad_()
    optimiser = torch.optim.Adam([move], lr=config.lr)
    try:
        for step in range(config.iteration + 1):
            ws = person.ws.index_add(1, moving, move)
            fmap = seen(ws)
            with torch.no_grad():
                found, sure = look(step, ws.detach(), Map(fmap.values.detach(), fmap.side), step == config.iteration)
            path.append((found.ws, found.places))
            if best is None or (sure and found.left.mean() < best.left.mean()):
                best = found
            if callback:
                callback(step, found.left.mean().item())
            if sure and found.left.max() <= STOP:
                stopped = "reached"
            if stopped == "reached" or step == config.iteration:
                break
            losses = way.losses(fmap, targets - look.ahead) * (found.left > STOP)
            loss = losses.sum() + config.lambda_mask * seen.outside(fmap) + config.lambda_start * move.square().mean()
            if not torch.isfinite(loss):
                raise ValueError(f"the loss stopped being finite after {step} steps, and nothing was written; lower --lr")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    except KeyboardInterrupt as error:
        if best is None:
            raise
        stopped, interrupted = "interrupted", error
    return replace(best, stopped=stopped, interrupted=interrupted, path=path)


# ---------------------------------------------------------------------------------------------------------------------
# Results


def destination(args):
    """The result's picture: --out, or in FOLDER the face's name."""
    from editor import images

    name = f"{Path(args.latent_file).stem}_drag.png"
    if args.out is None:
        return FOLDER / name
    out = Path(args.out)
    if args.out.endswith(("/", "\\")) or out.is_dir():
        return out / name
    if out.suffix.lower() not in images.WRITES:
        out = out.with_name(out.name.removesuffix(".npy") + ".png")
    return out if out.parent != Path(".") or args.out.startswith("./") else FOLDER / out


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

    frames = [(ws, places) for ws, places in found.path[: found.steps + 1]]
    frames += [frames[-1]] * max(1, round(args.fps / 2))  # it rests at the end
    ws = torch.cat([one for one, _ in frames])
    pictures = render.pictures(session.wearing(person).G, ws, person.maps, dtype=session.dtype)
    with Animation(path, fps=args.fps, width=args.width) as movie:
        for picture, (_, places) in zip(pictures, frames, strict=True):
            movie.add(drawn(picture, places.tolist(), [p.target for p in points]))


def drawn(picture, places, targets):
    """A picture, uint8 [R, R, 3], with its points (red) and their targets (blue): a PIL image."""
    from PIL import ImageDraw

    from editor import images

    image = images.to_pil(picture).copy()
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


def prepared(args, session, person, points):
    """The points with their places, and what finds them again by landmarks, or None; or ValueError."""
    locate, named = landmarks_of(session, person), any(p.landmark is not None for p in points)
    if args.find == "features" and not named:
        return points and [p.placed(None) for p in points], None
    try:
        marks = locate(person.ws)
    except (ValueError, OSError) as error:  # no face; no dlib
        if named or args.find == "landmarks":
            raise ValueError(f"{args.latent_file}: {str(error).split(', so')[0]}: give points in pixels, and --find features") from None
        return [p.placed(None) for p in points], None
    points = [p.placed(marks) for p in points]
    if args.find == "features":
        return points, None
    followed = Followed(locate, marks, points, session.G.resolution, only=args.find == "landmarks")
    return points, followed if followed.near.any() else None


def configured(args, session):
    """The flags -> Config, or ValueError for layers that the feature map does not depend on."""
    from editor import face

    layers = None if args.layers is None else face.layer_range(args.layers, session.G.num_ws)
    most = movable(session.G)[-1]
    if layers and max(layers) > most:
        raise ValueError(f"--layers {args.layers}: the feature map is made of layers 0-{most}; those above it cannot be dragged")
    names = ("method", "iteration", "lr", "r1", "r2", "lambda_mask", "lambda_start")
    return Config(**{name: getattr(args, name) for name in names}, layers=layers)


def write(found, person, rows, session, named, picture, settings, seconds):
    """The face that was found, its picture and its record. Returns the paths."""
    info = session.record(
        "drag_edit.py", named, settings=settings, points=rows, steps=found.steps, stopped=found.stopped,
        complete=found.interrupted is None, seconds=round(seconds, 1),
    )  # fmt: skip
    return session.save(picture, replace(person, ws=found.ws), info)


def main(argv):
    args = flags().parse_args(argv)
    from editor import render
    from editor import session as sessions

    if args.animation:
        from editor.animation import Animation

        Animation(f"way.{args.animation}", fps=args.fps, width=args.width)  # what it cannot do is said at once
    else:
        cli.require_default(args.parser, args, ("fps", "width"), "of the animation; give --animation as well")
    points, picture, began = asked(args), destination(args), time.time()
    movie = picture.with_suffix(f".{args.animation}") if args.animation else None
    files_of = {"points": args.points, "mask": args.mask if args.mask and Path(args.mask).is_file() else None}
    named = {"latent_file": args.latent_file} | {role: path for role, path in files_of.items() if path}
    sessions.reserve(picture.with_suffix(".npy"), named, picture, *[movie] * bool(movie))
    session = sessions.open(args)
    G = session.G
    if G.kind == "stylegan3":
        raise ValueError("drag_edit.py takes StyleGAN1 and StyleGAN2; StyleGAN3's maps have margins and sides of their own")
    config, person = configured(args, session), session.read_one(args.latent_file)
    cli.warn_of(session)
    points, followed = prepared(args, session, person, points)
    shown_first = render.one(G, person, session.dtype)
    mask = read_mask(args, G.resolution, as_tensor(shown_first)).to(session.device) if args.mask else None
    check(points, G.resolution, mask)
    with cli.progress(config.iteration, args.quiet) as show, render.one_thread(G):
        found = drag(
            session.wearing(person).G, person, points, config, mask, followed, lambda step, left: show(step, None, left=f"{left:.1f} px")
        )
    with cli.kept_whole():
        rows = reached(points, found)
        settings = asdict(config) | {"find": args.find, "mask": args.mask, "invert_mask": args.invert_mask}
        paths = write(found, person, rows, session, named, picture, settings, time.time() - began)
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
