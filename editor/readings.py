"""What a direction changes: attributes, as the bundled network reads them; identity, as dlib's does; and pixels outside of the face.

Effects are counted in spreads: the standard deviation of an attribute's score over the generator's own random faces. The network was
trained on faces: of a generator in whose pictures dlib sees none, there is nothing to read.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from editor import checkpoints, classes, images, landmarks, render, styles
from editor.fast_conv import branch, own_part

PSI = 0.7  # truncation of the faces that are looked at
SPREAD = 128  # faces that the spreads are found from
NAMED = 0.2  # spreads; what is less is not named
BATCH = 8
SLOPES = 96  # faces whose gradients say what channels change
HIDDEN = 3  # random looks at the features of each face, for what a channel changes at all


@dataclass
class Reading:
    """Of a direction, over several faces, each moved by -d and by +d.

    attributes: {name: spreads a unit}, a mean; agreeing: {name: share of faces that go the mean's way}. identity: mean distance of
    dlib's descriptors between a face and itself moved by d, per unit. outside: mean change of pixels outside of the face, in grey
    levels (0..255) per unit; None where no face was found.
    """

    attributes: dict
    agreeing: dict
    identity: float
    outside: float | None

    def words(self, unit="unit", distance=1.0):
        """'yaw +1.9, smile -0.2 per sigma; identity 0.31, outside 4.1': what changes by NAMED or more over the distance."""
        digits = 1 if distance <= 1 else 2
        named = sorted(self.attributes.items(), key=lambda item: -abs(item[1]))
        said = ", ".join(f"{name} {value:+.{digits}f}" for name, value in named if abs(value) * max(distance, 1) >= NAMED) or "no attribute"
        outside = "" if self.outside is None else f", outside {self.outside:.1f}"
        return f"{said} per {unit}; identity {self.identity:.2f}{outside}"

    def others(self, name, kept=None):
        """The sum of what else changes, in spreads for each spread of `name`: of the attributes `kept`, or of all others."""
        rest = [abs(value) for other, value in self.attributes.items() if (other in kept if kept else other != name)]
        return sum(rest) / max(abs(self.attributes[name]), 1e-9)

    def record(self):
        return {"attributes": self.attributes, "agreeing": self.agreeing, "identity": self.identity, "outside": self.outside}


def cropped(pictures, alignment, wanted):
    """Images [N, 3, R, R] cut out as one alignment cuts faces -> the square of them that another one cuts out, [N, 3, r, r].

    Eyes and mouth stand upright in an aligned picture; the distance between them is taken for what most faces have.
    """
    if alignment == wanted:
        return pictures
    side = pictures.shape[2]
    half = wanted["scale"] / alignment["scale"] * side / 2
    down = side / 2 / alignment["scale"] / 1.8  # from the eyes to the mouth, where the face is longer than wide
    middle = side / 2 + (wanted["em_scale"] - alignment["em_scale"]) * down
    left, top, low, right = (round(v) for v in (side / 2 - half, middle - half, middle + half, side / 2 + half))
    pad = max(0, -left, -top, low - side, right - side)
    pictures = F.pad(pictures, (pad,) * 4, "replicate") if pad else pictures
    return pictures[:, :, top + pad : low + pad, left + pad : right + pad]


class Reader:
    """Faces of a generator that directions are tried on.

    Args:
        count: of faces. seed: they are drawn by.

    Raises:
        ValueError: dlib sees no face in most of the generator's pictures.
    """

    def __init__(self, G, count=16, seed=1):
        self.G, self.net = G, checkpoints.load_attributes().to(G.w_avg.device)
        bundled = checkpoints.read_metadata()["alignment"]
        self.alignment, self.wanted = G.meta.get("alignment") or checkpoints.FFHQ_ALIGNMENT, bundled
        self.ws = self.drawn(count, seed)
        self.describe = landmarks.Descriptors()
        self.before = self.pictures(self.ws)
        self.faces = [self._outside(picture) for picture in self.before]  # float [R, R], 1 outside of the face; None: none found
        if sum(mask is None for mask in self.faces) > len(self.faces) / 2:
            raise ValueError("no face is seen in most of this generator's pictures, so nothing reads what directions change")
        self.scores, self.people = self.read(self.before), self._described(self.before)
        random = self.read(self.pictures(self.drawn(SPREAD, seed + 1)))
        self.spread = {name: max(float(values.std()), 1e-6) for name, values in random.items()}

    def drawn(self, count, seed):
        """Random faces, [count, L, 512]."""
        z = torch.randn(count, self.G.config.z_dim, generator=torch.Generator().manual_seed(seed)).to(self.G.w_avg.device)
        with torch.no_grad():
            return self.G.truncate(classes.latents(self.G, z, evenly=True), PSI).clone()

    def pictures(self, ws, G=None):
        """uint8 [N, R, R, 3]"""
        return np.stack(list(render.pictures(G or self.G, ws)))

    def attributes(self, x):
        """Images [N, 3, R, R] in [-1, 1] -> {attribute: [N]}, with gradients."""
        x, size = cropped(x.clamp(-1, 1), self.alignment, self.wanted), self.net.config.resolution
        x = x if x.shape[2] == size else F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        return self.net.scores(x)

    @torch.no_grad()
    def read(self, pictures):
        """uint8 [N, R, R, 3] -> {attribute: float64 [N]}"""
        x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().to(self.G.w_avg.device) / 127.5 - 1
        parts = [self.attributes(part) for part in x.split(BATCH)]
        return {name: torch.cat([part[name] for part in parts]).cpu().double().numpy() for name in parts[0]}

    def _described(self, pictures):
        return np.stack([self.describe(p, before) for p, before in zip(pictures, self.before, strict=True)])

    def identity(self, pictures):
        """How far dlib's descriptors of the faces' pictures lie from those that they had before, float64 [N]."""
        return np.linalg.norm(self._described(pictures) - self.people, axis=1)

    def changes(self, pictures):
        """How the faces' attributes have changed in their pictures, in spreads: {attribute: float64 [N]}."""
        after = self.read(pictures)
        return {name: (after[name] - self.scores[name]) / spread for name, spread in self.spread.items()}

    def _outside(self, picture):
        try:
            marks = landmarks.landmarks_of_crop(images.to_pil(picture))
        except ValueError:
            return None
        return 1 - landmarks.draw_part("face", (marks + 0.5) / picture.shape[0], picture.shape[0])

    def moved(self, boundary, amount):
        """Pictures of the faces moved by an amount of a direction's units: uint8 [N, R, R, 3]."""
        from editor import boundaries, tuning

        if boundary.space == "style":
            return self.pictures(self.ws, tuning.worn(self.G, styles.weights(self.G, amount * boundary.way(1)[0])))
        return self.pictures(boundaries.moved(self.ws, [(boundary, amount)]).float())

    def __call__(self, boundary, distance=2.0):
        """A direction -> Reading, and the pictures at -distance and +distance."""
        low, high = self.moved(boundary, -distance), self.moved(boundary, distance)
        below, above, effects, agreeing = self.changes(low), self.changes(high), {}, {}
        for name in self.spread:
            each = (above[name] - below[name]) / (2 * distance)
            effects[name], agreeing[name] = float(each.mean()), float(np.mean(each * each.mean() > 0))
        apart, away = [], []
        for pictures in (low, high):
            apart.append(self.identity(pictures).mean())
            for picture, before, mask in zip(pictures, self.before, self.faces, strict=True):
                if mask is not None:
                    away.append((np.abs(picture.astype(float) - before).mean(2) * mask).sum() / mask.sum())
        reading = Reading(effects, agreeing, float(np.mean(apart)) / distance, float(np.mean(away)) / distance if away else None)
        return reading, low, high


# ---------------------------------------------------------------------------------------------------------------------
# By gradients


class Added(nn.Module):
    """An affine, and what is added to its style, [N, channels]."""

    def __init__(self, affine, offset):
        super().__init__()
        self.affine, self.offset = affine, offset

    def forward(self, w):
        return self.affine(w) + self.offset


def with_offsets(G, offsets):
    """A generator whose layers add offsets [N, S] to their styles: of each image its own; what they leave alone is shared with G."""
    found = branch(G)
    found.synthesis = branch(G.synthesis)
    made = {}
    for affine in styles.affines(G):
        module = own_part(found.synthesis, affine.name, made)
        module.affine = Added(module.affine, offsets[:, affine.first : affine.first + affine.count])
    return found


@dataclass
class Slopes:
    """What style channels do, at the generator's own random faces.

    names: of the attributes. effects: spreads of each attribute for a change of 1 of each channel, float64 [attributes, S], a mean over
    the faces. looks: changes of random combinations of the network's features, float64 [looks, S]; their squares' mean is how much the
    picture changes, as the network that reads the attributes sees it. reader: whose faces tell what channels do to identity; None:
    nobody asks.
    """

    names: list
    effects: torch.Tensor
    looks: torch.Tensor
    reader: Reader | None = None

    @property
    def cost(self):
        """How much the picture changes with each channel, float64 [S]."""
        return self.looks.square().mean(0)


def slopes(reader, count=SLOPES, seed=3, callback=None):
    """The gradients of a `Reader`'s attributes by style -> Slopes. callback: called with how many faces are done."""
    from editor import session

    G, names, random = reader.G, list(reader.spread), torch.Generator().manual_seed(seed)
    distance, total, looks = session.load_distance("bundled", G.w_avg.device), 0, []
    for first, part in enumerate(reader.drawn(count, seed).split(4)):
        offsets = torch.zeros(len(part), styles.count(G), device=part.device, requires_grad=True)
        pictures = with_offsets(G, offsets).synthesis(part)
        scores, features = reader.attributes(pictures), distance.features(cropped(pictures, reader.alignment, reader.wanted))
        each = [torch.autograd.grad(scores[n].sum() / reader.spread[n], offsets, retain_graph=True)[0] for n in names]
        total = total + torch.stack(each).sum(1).cpu().double()
        for _ in range(HIDDEN):
            seen = sum((_unit(f) * torch.randn(f.shape, generator=random).to(f.device)).sum() for f in features)
            looks.append(torch.autograd.grad(seen, offsets, retain_graph=True)[0].cpu().double())
        if callback:
            callback(min(4 * (first + 1), count))
    return Slopes(names, total / count, torch.cat(looks), reader)


def likeness(reader, places, steps, count=2, seed=4, callback=None):
    """How dlib's descriptors of random faces move for a change of 1 of each of some style channels -> float64 [count * 128, P].

    dlib gives no gradients: each channel is moved by its step and the pictures are described again, 0.13 s a face on one core. The sum
    of a column's squares is the mean over the faces of the squared distance.

    Args:
        places: of the channels, [P]. steps: of each, [P]; small, but of several grey levels. callback: called with how many are done.
    """
    ws, found = reader.drawn(count, seed), []
    before = reader.pictures(ws)
    start = np.stack([reader.describe(picture) for picture in before])
    for place, step in zip(places.tolist(), steps.tolist(), strict=True):
        offsets = torch.zeros(1, styles.count(reader.G), device=ws.device)
        offsets[0, place] = step
        after = reader.pictures(ws, with_offsets(reader.G, offsets))
        described = np.stack([reader.describe(*pair) for pair in zip(after, before, strict=True)])
        found.append(torch.from_numpy((described - start).ravel() / step))
        if callback:
            callback(len(found))
    return torch.stack(found, 1) / count**0.5


def _unit(f):
    """Features [N, C, h, w] of about length 1 at each place, where the length stands still, divided by the root of the places."""
    return f / (f.detach().norm(dim=1, keepdim=True) + 1e-8) / (f.shape[2] * f.shape[3]) ** 0.5
