"""The first blocks of a generator with a linear read-out: what a picture will look like, at a quarter or half of its side.

Early steps of the optimiser ask for pose and colours, which the coarse layers decide; the fine ones hold most of the arithmetic (at
1024x1024 those above 256 hold three quarters of the activations). So synthesis stops after the block of `side` pixels. What is
missing is guessed there: full renderings, averaged down to `side`, are fitted by least squares from that block's features, 1x1 (and,
StyleGAN2, from the image that its ToRGB layers have summed so far). The read-out is found once for a generator, and kept.
"""

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F

COUNT = 64  # faces that are fitted to; 16 more judge
PSI = 1.0


class Blocks:
    """`synthesis` as far as `side` pixels, with a read-out (weight [3, C], bias [3]), or None: as its ToRGB layers show it."""

    def __init__(self, synthesis, side, readout=None):
        self.side, self.readout = side, readout
        self.net = copy.copy(synthesis)
        self.net.config = replace(synthesis.config, resolution=side)
        self.num_ws, self.count = self.net.config.num_ws, len(self.net.layers())
        self.features = None

    def layers(self):
        return self.net.layers()

    def __call__(self, ws, noise="const", dtype=torch.float32, recompute_from=float("inf")):
        """ws [N, L, 512] of the whole generator -> image [N, 3, side, side]."""
        block, seen = getattr(self.net, f"b{self.side}"), []
        hook = block.conv1.register_forward_hook(lambda _, __, out: seen.append(out))
        try:
            image = self.net(ws[:, : self.num_ws], noise if isinstance(noise, str) else noise[: self.count], dtype, recompute_from)
        finally:
            hook.remove()
        self.features = seen[0]
        if self.readout is None:
            return image
        weight, bias = self.readout
        more = torch.einsum("oc,nchw->nohw", weight, self.features.float()) + bias.view(-1, 1, 1)
        return image + more


@torch.no_grad()
def fit(G, side, count=COUNT, judged=16, seed=0):
    """(weight [3, C], bias [3]), and its PSNR in dB on other faces, and that of the plain skip image."""
    blocks = Blocks(G.synthesis, side)
    generator = torch.Generator().manual_seed(seed)
    c = G.config.channels(side)
    square, product = torch.zeros(c + 1, c + 1, dtype=torch.float64), torch.zeros(c + 1, 3, dtype=torch.float64)
    solved, errors, plain = None, [], []
    for i in range(count + judged):
        z = torch.randn(1, G.config.z_dim, generator=generator)
        ws = G.truncate(G.mapping(z), PSI)
        full = F.avg_pool2d(G.synthesis(ws), G.resolution // side)
        image = blocks(ws)
        x = blocks.features[0].flatten(1).double()
        x = torch.cat([x, torch.ones(1, x.shape[1], dtype=torch.float64)])
        y = (full - image)[0].flatten(1).double()
        if i < count:
            square += x @ x.t()
            product += x @ y.t()
            continue
        if solved is None:
            solved = torch.linalg.solve(square + 1e-6 * square.diagonal().mean() * torch.eye(c + 1), product)
        errors.append((y - solved.t() @ x).square().mean())
        plain.append(y.square().mean())
    db = lambda e: 10 * torch.log10(4 / torch.stack(e).mean()).item()
    return (solved[:-1].t().float().contiguous(), solved[-1].float()), db(errors), db(plain)


SCHEDULE = ()  # (share of the steps, part of the side) of each stage before the last
_known = {}


class View:
    def __init__(self, G, side):
        key = id(G), side
        if key not in _known:
            _known[key] = fit(G, side)[0]
        self.synthesis = Blocks(G.synthesis, side, _known[key])


def smaller(distance, side):
    if distance is None:
        return None
    found = copy.copy(distance)
    if hasattr(found, "config"):
        found.config = replace(distance.config, size=min(side, distance.config.size))
    else:
        found.size = min(side, distance.size or side)
    return found


def stages(G, distance, goal, config):
    found, first = [], 0
    for share, part in SCHEDULE:
        side = G.resolution // part
        found.append((first, View(G, side), smaller(distance, side), replace(goal, image=F.avg_pool2d(goal.image, part))))
        first += round(share * config.iteration)
    return [*found, (first, G, distance, goal)]
