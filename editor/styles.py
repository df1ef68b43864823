"""Style space (Wu et al. 2021, "StyleSpace Analysis"): what each layer's affine makes of w, and edits of single channels of it.

An edit adds a constant to channels of a layer's style, which is a change of the affine's bias. So it is carried as a face's tuned
weights are (`editor/tuning.py`): every command mixes, moves, renders and writes it with the face.

A channel is called L:C: the C-th number that the convolution with the L-th w of W+ takes, or b16.torgb:C, b16.conv0:C by its layer's
name. StyleGAN1's layers have two numbers a feature map: all scales, then all shifts.
"""

import functools
import re
from dataclasses import dataclass

import torch

from editor import classes, tuning

SAMPLES = 4096  # faces that the spread of channels is found from
MOST = 6e4  # of a style's change: weights are kept as float16


@dataclass(frozen=True)
class Affine:
    """The affine of a layer. name: of its layer. layer: of W+. torgb: whether it makes RGB. first: its first channel among all."""

    name: str
    layer: int
    torgb: bool
    first: int
    count: int

    @property
    def bias(self):
        """The parameter that an edit changes."""
        return f"{self.name}.affine.bias"


def affines(G):
    """All of a generator's `Affine`, in the order of its layers; their channels, one after the other, are its style space."""
    found, first = [], 0
    for name, module in G.synthesis.named_modules():
        if hasattr(module, "affine"):
            torgb = name.split(".")[-1] == "torgb" or bool(getattr(module, "torgb", False))
            count = len(module.affine.bias)
            found.append(Affine(name, tuning.layer_of(G, f"{name}.affine.bias"), torgb, first, count))
            first += count
    return found


def count(G):
    """How many channels a generator's style space has."""
    return sum(affine.count for affine in affines(G))


def rows(G, chosen=None):
    """How w makes styles: style = rows @ w + a constant, float64 [S, w_dim]; of some affines only, one after the other."""
    each = [G.synthesis.get_submodule(affine.name).affine for affine in chosen or affines(G)]
    return torch.cat([(dense.weight.detach().cpu().double() * dense.weight_gain) for dense in each])


@torch.no_grad()
def moments(G, number, seed=0, callback=None):
    """Mean [512] and covariance [512, 512] of w over `number` random z, float64, in one pass; of all classes evenly.

    Args:
        callback: called with how many were drawn so far.
    """
    generator, drawn = torch.Generator().manual_seed(seed), 0
    total, products = torch.zeros(G.config.w_dim, dtype=torch.float64), torch.zeros(G.config.w_dim, G.config.w_dim, dtype=torch.float64)
    origin = G.w_avg.detach().cpu().double()  # near the mean, so that nothing is lost where squares are subtracted
    while drawn < number:
        z = torch.randn(min(2048, number - drawn), G.config.z_dim, generator=generator)
        w = classes.latents(G, z.to(G.w_avg.device), evenly=True).cpu().double() - origin
        total, products, drawn = total + w.sum(0), products + w.t() @ w, drawn + len(z)
        if callback:
            callback(drawn)
    mean = total / number
    return origin + mean, (products - number * mean.outer(mean)) / max(number - 1, 1)


@functools.lru_cache(maxsize=2)
def spread(G):
    """The standard deviation of each channel over random faces, float64 [S]: an affine of w has the spread that w's covariance says."""
    _, covariance = moments(G, SAMPLES)
    return spread_of(G, covariance)


def spread_of(G, covariance):
    """The standard deviation of each channel where w has this covariance, float64 [S]."""
    a = rows(G)
    return ((a @ covariance) * a).sum(1).clamp(min=0).sqrt()


# ---------------------------------------------------------------------------------------------------------------------
# By name


def index(G, text):
    """'6:501' or 'b16.torgb:3' -> the channel's place in style space.

    Raises:
        ValueError: it is not written so, or not there.
    """
    matched = re.fullmatch(r"([\w.]{1,60}):([0-9]{1,6})", text)
    if not matched:
        raise ValueError(f"channel {text[:40]!r}: write LAYER:CHANNEL, such as 6:50, or b16.torgb:3")
    wanted, channel, there = matched[1], int(matched[2]), affines(G)
    for affine in there:
        if wanted == affine.name or (wanted == str(affine.layer) and not affine.torgb):
            if channel >= affine.count:
                raise ValueError(f"channel {text}: layer {wanted} has the channels 0 to {affine.count - 1}")
            return affine.first + channel
    numbers = sorted({affine.layer for affine in there if not affine.torgb})
    by_name = ", ".join(affine.name for affine in there if affine.torgb)
    raise ValueError(
        f"channel {text}: this generator has the layers {numbers[0]} to {numbers[-1]}" + (f", and for RGB {by_name}" if by_name else "")
    )


def label(G, place):
    """The name of a channel by its place in style space; what `index` reads."""
    affine = next(a for a in affines(G) if a.first <= place < a.first + a.count)
    return f"{affine.name if affine.torgb else affine.layer}:{place - affine.first}"


# ---------------------------------------------------------------------------------------------------------------------
# Edits as weights


def weights(G, delta, tuned=None):
    """A change of styles [S] as tuned weights, added to a face's own (None: it has none); None where nothing is changed.

    Raises:
        ValueError: a change that float16 does not hold.
    """
    if not (delta.abs() <= MOST).all():
        raise ValueError(f"a style changed by {delta.abs().max():.0e}; at most {MOST:.0e} can be kept")
    found = dict(tuned or {})
    for affine in affines(G):
        part = delta[affine.first : affine.first + affine.count]
        if part.any():
            before = found.pop(affine.bias, None)
            part = (part.to(G.w_avg.device, torch.float32) / G.synthesis.get_submodule(affine.name).affine.lr_mul).half()
            part = part if before is None else (before.float() + part).half()  # so that there and back is nothing
            if part.any():
                found[affine.bias] = part
    return found or None
