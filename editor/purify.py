"""A direction kept to the one attribute that it changes most: what else it changes is measured, and taken out.

All ways ask the same slopes (`readings.slopes`): what each style channel does to each attribute and to the picture, a mean over random
faces. Styles are affine in w, so the slopes of w follow from those of the styles.
"""

from dataclasses import replace

import torch

from editor import boundaries, directions, readings, styles
from editor.readings import Slopes

SHRINK = 0.5  # of the measured products of channels' changes, which a hundred looks give, towards none
CARRIED = 0.5  # of what the direction does to its attribute: ranges of layers that do less would have to be moved too far
STEP = 0.2  # of the features' change, by which channels are moved to see what that does to identity
FLOOR = 1e-3  # of a mean channel's cost, for channels that seem to change nothing


def purified(G, slopes, boundary, way, reading, kept=None, count=300, callback=None, main=None):
    """A direction that keeps to its main attribute.

    Args:
        slopes: `readings.Slopes`. way: a key of `settings.PURIFY`. reading: of the direction, a `readings.Reading`.
        kept: names of attributes that shall stay; None: all others. count: of channels. callback: called with how many of these are
            measured. main: the attribute, of which there is then more along the direction; None: what its reading names first.

    Returns:
        boundaries.Boundary: in W a step of 1 as long as the direction's own, in style space one spread of the attribute; its info says
        how it was found.

    Raises:
        ValueError: an attribute that is not read, or nothing is left.
    """
    sign = 1.0 if main else None
    main = main or max(reading.attributes, key=lambda name: abs(reading.attributes[name]))
    unknown = [name for name in kept or [] if name not in slopes.names]
    if unknown or (kept and main in kept):
        known = ", ".join(name for name in slopes.names if name != main)
        raise ValueError(f"--keep {unknown[0] if unknown else main}: what this direction changes most is {main}; kept can be {known}")
    kept = list(kept or [name for name in slopes.names if name != main])
    sign = sign or (1.0 if reading.attributes[main] > 0 else -1.0)
    info = {k: v for k, v in boundary.info.items() if k != "reading"} | {"purified": {"way": way, "attribute": main, "kept": kept}}
    if way == "channels":
        amounts = by_channels(G, slopes, main, kept, count, callback)
        return directions.of_channels(G, {place: sign * amount for place, amount in amounts.items()}, **info)
    if boundary.space == "style":
        raise ValueError(f"--purify {way} is of directions in W; for style channels there is --purify channels")
    if way == "gradient":
        return in_w(boundary, sign * by_gradient(G, slopes, main, kept), None, info)
    layers = boundary.layers if way == "condition" else best_layers(G, slopes, boundary, main, kept)
    return in_w(boundary, conditioned(G, slopes, boundary.normal, kept, layers), layers, info)


def in_w(boundary, normal, layers, info):
    """A Boundary along another normal, through the same point of the old plane, which is the mean of the latents or between classes."""
    normal = normal / boundaries.length(normal)
    centre = -boundary.offset * boundary.normal[0] if len(boundary.normal) == 1 else None
    offset = 0.0 if centre is None else -float(normal.mean(0) @ centre)
    return replace(boundary, normal=normal, offset=offset, layers=layers, info=info)


# ---------------------------------------------------------------------------------------------------------------------
# The ways


def along_w(G, layers=None):
    """What a step of w in some layers (None: all) does to the styles: float64 [S, 512]."""
    found = styles.rows(G)
    for affine in styles.affines(G):
        if layers is not None and affine.layer not in layers:
            found[affine.first : affine.first + affine.count] = 0
    return found


def conditioned(G, slopes, normal, kept, layers=None):
    """A direction [1 or L, 512] without its share along the mean gradients of attributes: to first order, they stay."""
    of = [slopes.names.index(name) for name in kept]
    if len(normal) == 1:
        gradients = list(slopes.effects[of] @ along_w(G, layers))
        others = [g[None] for g in gradients if g.norm() > 0]
    else:
        each = torch.stack([slopes.effects[of] @ along_w(G, [layer]) for layer in range(len(normal))], 1)  # [kept, L, 512]
        others = [g for g in each if g.norm() > 0]
    return boundaries.conditioned(normal, others)


def best_layers(G, slopes, boundary, main, kept):
    """The range of layers in which the conditioned direction changes the picture least for the same change of its attribute, of those
    that carry at least half of it.
    """
    at, best = slopes.names.index(main), (float("inf"), None)
    whole = abs(float(slopes.effects[at] @ along_w(G) @ conditioned(G, slopes, boundary.normal[:1], kept)[0]))
    for first in range(G.num_ws):
        for last in range(first, G.num_ws):
            layers = list(range(first, last + 1))
            try:
                step = conditioned(G, slopes, boundary.normal[:1], kept, layers)[0]
            except ValueError:
                continue  # nothing is left of it there
            styled = along_w(G, layers) @ step  # [S]
            own = abs(float(slopes.effects[at] @ styled))
            if own < CARRIED * whole:
                continue
            change = float((slopes.looks @ styled).square().mean().sqrt()) / max(own, 1e-12)
            best = min(best, (change, layers), key=lambda found: found[0])
    return best[1]


def by_channels(G, slopes, main, kept, count, callback=None):
    """{place: amount} of the `count` style channels that change an attribute by one spread, keep others, and change least else.

    First of all channels, by their own costs; then those whose share is largest, by the products of their changes as well, to which
    what they do to identity counts as much (where the slopes have a reader). ToRGB's, which only colour the picture, are left out.
    """
    cost = slopes.cost
    there = torch.cat([torch.full((a.count,), not a.torgb) for a in styles.affines(G)]) & (styles.spread(G) > 1e-9)
    all_places = there.nonzero()[:, 0]
    cost = cost + FLOOR * cost[all_places].mean()
    first = least(Slopes(slopes.names, slopes.effects[:, all_places], slopes.looks[:, :0]), torch.diag(cost[all_places]), main, kept)
    places = all_places[(first.square() * cost[all_places]).topk(min(count, len(all_places))).indices].sort().values
    looks = slopes.looks[:, places]
    products = shrunk(looks.t() @ looks / len(looks), cost[places])
    if slopes.reader is not None:
        moves = readings.likeness(slopes.reader, places, STEP * cost[places].rsqrt(), callback=callback)
        of_identity = moves.t() @ moves
        of_identity = shrunk(of_identity, of_identity.diagonal())
        products = products + of_identity * (products.diagonal().mean() / of_identity.diagonal().mean().clamp(min=1e-30))
    chosen = least(Slopes(slopes.names, slopes.effects[:, places], looks), products, main, kept)
    return dict(zip(places.tolist(), chosen.tolist(), strict=True))


def shrunk(products, own):
    """Measured products [P, P] of channels' changes, half way to a diagonal of what each changes alone, [P]."""
    return (1 - SHRINK) * products + SHRINK * torch.diag(own)


def by_gradient(G, slopes, main, kept):
    """The direction in W [1, 512] that changes an attribute, keeps others, and changes the picture least."""
    rows = along_w(G)
    looks = slopes.looks @ rows
    products = (1 - SHRINK) * (looks.t() @ looks) / len(looks) + SHRINK * rows.t() @ (slopes.cost[:, None] * rows)
    products = products + FLOOR * products.diagonal().mean() * torch.eye(len(products), dtype=torch.float64)
    return least(Slopes(slopes.names, slopes.effects @ rows, looks), products, main, kept)[None]


def least(slopes, products, main, kept):
    """The d of least d^T products d that changes an attribute by 1 and others by 0, to first order: float64 [S].

    Lagrange: d = P^-1 J^T (J P^-1 J^T)^-1 e, with J the attributes' slopes.
    """
    of = [slopes.names.index(name) for name in [main, *kept]]
    effects = slopes.effects[of]
    if not effects[0].norm() > 0:
        raise ValueError(f"nothing here changes {main}")
    towards = torch.linalg.solve(products, effects.t())  # [S, attributes]
    gains = effects @ towards
    gains = gains + 1e-6 * gains.diagonal().mean() * torch.eye(len(gains), dtype=torch.float64)
    return towards @ torch.linalg.inv(gains)[:, 0]
