"""Points of a face dragged through the generator's features (DragGAN, Pan et al. 2023; FreeDrag, Ling et al. 2023).

The latent moves until patches of a feature map have come where they should be. The map is a quarter as fine as the picture (128 pixels
at most), and what lies above it is not computed. Written from the papers' formulas. A point is anything with `start` and `target`, (x, y)
in pixels of the picture, `landmark` (dlib's index, or None) and `text` (for errors).
"""

import copy
import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from stylegan_layers import noise_maps

STOP = 1.0  # pixels from its target at which a point is there
LOOK_EVERY = 5  # steps between looks at the landmarks: a look costs some ten steps at 128
TAKEN_IN = 0.5  # of what is seen where a landmark says that the point is
NEAR = 0.04  # a point so near to a landmark, as a share of the side, goes where that goes
ALIKE = 0.6  # how unlike its first look a patch may be, in standard deviations of the features: beyond, most faces are smeared
PATIENCE = 15  # steps that come no nearer; then it goes back to the nearest
HALVINGS = 2  # of the learning rate, one each time that it goes back; then it ends


# ---------------------------------------------------------------------------------------------------------------------
# The feature map


def level(G):
    """Side of the feature map that is looked at: a quarter of the picture's, 32 at least, 128 (DragGAN's) at most."""
    return min(G.resolution, max(32, min(128, G.resolution // 4)))


def movable(G):
    """The W+ layers that the feature map is made of."""
    return [i for i, layer in enumerate(G.synthesis.layers()) if layer.resolution <= level(G)]


def features(G, ws, side, noise="const"):
    """What leaves the last layer of `side` pixels: ws [1, L, 512] -> [1, C, side, side]. Nothing is computed above it.

    Float32: half a pixel is a small difference of features.
    """
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
        grid = (at + 0.5) * (2 / self.side) - 1  # the corners of the pictures, not the centres of their pixels, are -1 and 1
        found = F.grid_sample(self.values, grid.reshape(1, 1, -1, 2), align_corners=False, padding_mode="border")  # [1, C, 1, M]
        return found[0, :, 0].t().reshape(*at.shape[:-1], -1)


class Seen:
    """A face's feature maps, in units of their standard deviation, so that losses and weights mean the same in all generators."""

    def __init__(self, G, person, mask=None):
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

    Equation 1 asks that F(q + d) be the F(q) of the step before. Here it has to be the patch of the first step: it drifts less, and
    points come nearer (benchmarks/README.md). d is a pixel of the map long, or what is left.
    """

    def __init__(self, fmap, starts, config):
        self.places, self.reach = starts, max(config.r2, 1.0)
        self.patch, self.around = disc(max(config.r1, 1.0)).to(starts), disc(1).to(starts)
        self.wanted = fmap(starts[:, None] + self.patch * fmap.cell)  # [P, K, C]
        self.template = fmap(starts[:, None] + self.around * fmap.cell)  # [P, 5, C]

    def find(self, fmap):
        self.places = tracked(fmap, self.places, self.template, self.around, self.reach)

    def anchor(self, fmap, places, where):
        """Points are at other places, [P, 2] where [P]: half of what is seen there is their patch from now on."""
        self.places = places.where(where[:, None], self.places)
        for name, offsets in (("wanted", self.patch), ("template", self.around)):
            before = getattr(self, name)
            now = before.lerp(fmap(self.places[:, None] + offsets * fmap.cell), TAKEN_IN)
            setattr(self, name, now.where(where[:, None, None], before))

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

    def anchor(self, fmap, places, where):
        """As `Track.anchor`; the next round begins there."""
        self.places = places.where(where[:, None], self.places)
        now = self.wanted.lerp(fmap(self.places[:, None] + self.patch * fmap.cell), TAKEN_IN)
        self.wanted, self.first = now.where(where[:, None, None], self.wanted), None

    def losses(self, fmap, goals):
        """goals [P, 2] -> [P], the mean |F - T| at the places that this round asks for."""
        if self.first is None or self.steps >= self.ROUND:
            self.next_round(Map(fmap.values.detach(), fmap.side), goals)
        return self.unlike(fmap, self.aims)

    def next_round(self, fmap, goals):
        """Take in what came well, and choose what is asked for next: on the line, about as unlike as LIKE."""
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


ENDS = {"reached": "all points are there", "limit": "no more steps were asked for", "no nearer": "it came no nearer, or the face tore",
        "interrupted": "by Ctrl-C"}  # fmt: skip


@dataclass
class Dragged:
    """What a drag came to.

    ws: [1, L, 512]. places [P, 2]: where the points are, and left [P]: in pixels, from their targets. tracked [P, 2]: where the
    features alone say that they are. seen [P, 2]: where the landmarks say, NaN where none is near; or None. sure: whether this could be
    looked at, and the patches are still alike. stopped: of ENDS. path: all (latent, places) on the way there. steps: that were taken in
    all, those that it went back from among them.
    """

    ws: object
    places: object
    left: object
    tracked: object
    seen: object = None
    sure: bool = True
    steps: int = 0
    stopped: str = "limit"
    interrupted: BaseException | None = None
    path: list = field(default_factory=list)


class Followed:
    """The landmarks of the rendered face, where points lie near them: they say where those are.

    Features partly stay in their places when a face turns, and a tracker with them; landmarks go with the face (benchmarks/README.md).
    One that is near is where its point is: the patch moves there.
    """

    def __init__(self, locate, marks, points, side, sure=None, only=False):
        """locate: ws -> landmarks [68, 2], or ValueError. marks: those of the start; sure [68]: which of them can be relied on (None: all).

        only: ValueError where a point has none.
        """
        self.locate, self.first = locate, torch.as_tensor(marks, dtype=torch.float32)
        apart = [torch.cdist(torch.tensor([p.start], dtype=torch.float32), self.first)[0] for p in points]
        self.of = [p.landmark if p.landmark is not None else int(a.argmin()) for p, a in zip(points, apart, strict=True)]
        near = [bool(a[j] <= NEAR * side) for a, j in zip(apart, self.of, strict=True)]
        self.doubted = [p.text for p, j, n in zip(points, self.of, near, strict=True) if n and sure is not None and not sure[j]]
        self.near = torch.tensor([n and p.text not in self.doubted for p, n in zip(points, near, strict=True)])
        if only and not self.near.all():
            lost = points[int(self.near.int().argmin())]
            why = "dlib is not sure of the landmark" if lost.text in self.doubted else "no landmark is"
            x, y = lost.start
            raise ValueError(f"{lost.text}: {why} near {x:.4g},{y:.4g}, by which --find landmarks would find it; use auto")

    def __call__(self, ws, starts):
        """[P, 2] where the points are, NaN where no landmark is near; None where no face is found."""
        try:
            now = torch.as_tensor(self.locate(ws), dtype=torch.float32)
        except ValueError:
            return None
        moved = (now - self.first)[self.of]
        return (starts + moved.to(starts)).masked_fill(~self.near.to(starts.device)[:, None], math.nan)


class Look:
    """Where the points are, step by step: by the features, and every LOOK_EVERY steps by the landmarks.

    A landmark at whose place nothing is like the point's first patch is not believed, and a face on which no such place is left is
    smeared: neither is what one looks for, however near it is (as StableDrag, Cui et al. 2024, has a confidence; theirs is learnt).
    """

    def __init__(self, way, fmap, starts, targets, followed, radius):
        self.way, self.starts, self.targets, self.followed, self.since = way, starts, targets, followed, LOOK_EVERY
        self.patch = disc(max(radius, 1.0)).to(starts) * fmap.cell
        self.first = fmap(starts[:, None] + self.patch)  # [P, K, C]

    def alike(self, fmap, places):
        """[P, 2] -> [P], whether it still looks so there; never at NaN."""
        return (fmap(places[:, None] + self.patch) - self.first).abs().mean((1, 2)) <= ALIKE

    def __call__(self, moved, ws, fmap, last=False):
        """The features of a latent that was moved, or is the first -> Dragged as of now."""
        if moved:
            self.way.find(fmap)
        found, self.since = self.now(ws, fmap), self.since + 1
        if self.followed is None:
            return found
        if not (last or self.since > LOOK_EVERY or found.left.max() <= STOP):
            return replace(found, sure=False)
        seen, self.since = self.followed(ws, self.starts), 0
        if seen is None:
            return replace(found, sure=False)
        where = self.alike(fmap, seen)
        if moved:
            self.way.anchor(fmap, seen, where)
        unsure = ~where & ~seen[:, 0].isnan()
        seen = seen.where(where[:, None], math.nan)
        looked = self.now(ws, fmap)
        return replace(looked, tracked=found.tracked, seen=seen, sure=looked.sure and not unsure.any())

    def now(self, ws, fmap):
        places = self.way.places
        return Dragged(ws, places, (self.targets - places).norm(dim=1), places, sure=bool(self.alike(fmap, places).all()))


class Walk:
    """The latent on its way, by Adam, and the nearest place of it so far, to which it can go back.

    ws [1, L, 512]: where it begins. moving: the layers that move.
    """

    def __init__(self, ws, moving, lr, way):
        self.first, self.moving, self.lr, self.way = ws, moving, lr, way
        self.move = torch.zeros_like(ws[:, moving]).requires_grad_()
        self.optimiser = torch.optim.Adam([self.move], lr=lr)
        self.best, self.path, self.since, self.halvings = None, [], 0, 0

    def ws(self):
        return self.first.index_add(1, self.moving, self.move)

    def arrive(self, found):
        """Note what a step came to."""
        self.path.append((found.ws, found.places))
        self.since += 1
        if self.best is None or (found.sure and found.left.mean() < self.best.left.mean()):
            self.best, self.since = replace(found, path=list(self.path)), 0
            self.kept = self.move.detach().clone(), copy.deepcopy(vars(self.way))

    def step(self, loss):
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def back(self):
        """To the nearest place, to go on from there by smaller steps; False where that was tried often enough."""
        if self.halvings == HALVINGS:
            return False
        self.halvings, self.since, self.path = self.halvings + 1, 0, list(self.best.path)
        move, way = self.kept
        vars(self.way).update(copy.deepcopy(way))
        self.move.data.copy_(move)
        self.optimiser = torch.optim.Adam([self.move], lr=self.lr / 2**self.halvings)
        return True


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
    starts, targets = (torch.tensor([getattr(p, end) for p in points]).to(person.ws) for end in ("start", "target"))
    moving = torch.tensor(movable(G) if config.layers is None else config.layers, device=person.ws.device)
    seen = Seen(G, person, mask)
    way = WAYS[config.method](seen.first, starts, config)
    look = Look(way, seen.first, starts, targets, followed, config.r1)
    walk, stopped, interrupted, step = Walk(person.ws, moving, config.lr, way), "limit", None, 0
    try:
        for step in range(config.iteration + 1):
            fmap = seen(ws := walk.ws())
            with torch.no_grad():
                found = look(step > 0, ws.detach(), Map(fmap.values.detach(), fmap.side), step == config.iteration)
            walk.arrive(found)
            if callback:
                callback(step, found.left.mean().item())
            if found.sure and found.left.max() <= STOP:
                stopped = "reached"
            elif walk.since >= PATIENCE:
                if walk.back():
                    fmap, found = seen(walk.ws()), walk.best
                else:
                    stopped = "no nearer"
            if stopped != "limit" or step == config.iteration:
                break
            losses = way.losses(fmap, targets) * (found.left > STOP)
            loss = losses.sum() + config.lambda_mask * seen.outside(fmap) + config.lambda_start * walk.move.square().mean()
            if not torch.isfinite(loss):
                raise ValueError(f"the loss stopped being finite after {step} steps, and nothing was written; lower --lr")
            walk.step(loss)
    except KeyboardInterrupt as error:
        if walk.best is None:
            raise
        stopped, interrupted = "interrupted", error
    return replace(walk.best, steps=step, stopped=stopped, interrupted=interrupted)
