"""Coarse first: synthesis that stops at half the side, with a linear read-out, for the early steps of the optimiser.

Early steps ask for pose and colours, which the coarse layers decide, while the last block holds half of the arithmetic. What it would
make is guessed: full renderings, averaged down to half the side, are fitted by least squares from the features before it, 1x1
(StyleGAN2: what the image that its ToRGB layers have summed so far misses of them). The read-out is found once for a generator, with
its own figure, and kept in the cache; the bundled generator's comes with it. StyleGAN3, which has no blocks, has no such steps.
"""

import contextlib
import functools
import threading
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from editor import checkpoints, classes, downloads, files
from editor.fast_conv import branch

SMALLEST = 64  # side of a generator's pictures; below, there is nothing to save
FEWEST = 20  # steps of a stage; of fewer none is coarse
LEAST = 20.0  # dB that a read-out has to reach; a worse one leads astray
JUDGED = 8  # faces that a read-out is judged by
FORMAT = "stylegan-latent-editor read-out 1"
LOCK = threading.Lock()


class ReadOut(nn.Module):
    """Features -> what is missing of the image; in the place of a ToRGB layer, whose own share (StyleGAN2) is added."""

    def __init__(self, weight, bias, torgb=None):
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.torgb = torgb

    def forward(self, x, w=None):
        """x [N, C, r, r], w [N, 512] -> [N, 3, r, r]"""
        y = (self.weight @ x.float().flatten(2)).unflatten(2, x.shape[2:]) + self.bias.view(-1, 1, 1)
        return y if self.torgb is None else y + self.torgb(x, w)


class Half:
    """A generator that stops at half the side. `synthesis` takes what G's own takes, and makes [N, 3, R / 2, R / 2]."""

    def __init__(self, G, readout):
        """readout: (ToRGB of StyleGAN2, or None) -> what stands in its place."""
        side = G.resolution // 2
        self.net = branch(G.synthesis)
        self.net.config = replace(G.config, resolution=side)
        if hasattr(self.net, "torgb"):
            self.net.torgb = readout(None)
        else:
            block = branch(getattr(G.synthesis, f"b{side}"))
            block.torgb = readout(block.torgb)
            setattr(self.net, f"b{side}", block)

    def synthesis(self, ws, noise="const", **options):
        maps = noise if isinstance(noise, str) else noise[: len(self.net.layers())]
        return self.net(ws[:, : self.net.config.num_ws], noise=maps, **options)


class Kept(ReadOut):
    """A read-out of nothing that keeps the features it sees."""

    def __init__(self, channels, torgb):
        super().__init__(torch.zeros(3, channels), torch.zeros(3), torgb)

    def forward(self, x, w=None):
        self.seen = x.float()
        return super().forward(x, w)


@dataclass(frozen=True)
class Fitted:
    """weight [3, C], bias [3] of a read-out. psnr: of faces that it was not fitted to, in dB; plain: of StyleGAN2's image without it."""

    weight: torch.Tensor
    bias: torch.Tensor
    psnr: float
    plain: float


@torch.no_grad()
def fit(G, count=None):
    """The `Fitted` of a frozen generator, from random faces (default: as many as give two million pixels)."""
    side, device = G.resolution // 2, G.w_avg.device
    count = count or min(64, max(12, 2_000_000 // side**2))
    generator, kept = torch.Generator().manual_seed(0), []
    half = Half(G, lambda torgb: kept.append(Kept(G.config.channels(side), torgb).to(device)) or kept[0])
    size = G.config.channels(side) + 1
    square, product, errors = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, 3, dtype=torch.float64), []
    for i in range(count + JUDGED):
        z = torch.randn(1, G.config.z_dim, generator=generator).to(device)
        ws = G.truncate(classes.latents(G, z, evenly=True))  # whatever class is asked for: the outcome is kept
        wanted = F.avg_pool2d(G.synthesis(ws), 2) - half.synthesis(ws)
        x, y = (t[0].flatten(1).cpu().double() for t in (kept[0].seen, wanted))
        x = torch.cat([x, torch.ones(1, x.shape[1], dtype=torch.float64)])  # [C + 1, pixels]
        if i < count:
            square, product = square + x @ x.t(), product + x @ y.t()
            continue
        if i == count:  # features that never act have no share
            solved = torch.linalg.lstsq(square, product, driver="gelsd").solution.half().double()
        errors.append([(y - solved.t() @ x).square().mean(), y.square().mean()])
    psnr, plain = (10 * (4 / torch.tensor(errors).mean(0)).log10()).tolist()
    return Fitted(solved[:-1].t().float().contiguous(), solved[-1].float(), psnr, plain)


def read(path, G):
    """A kept `Fitted` of a generator, or None: no such file, or another one's."""
    try:
        with safe_open(path, "pt") as held:
            said = held.metadata() or {}
            if said.get("format") == FORMAT and said.get("generator_hash") == G.meta["hash"]:
                return Fitted(held.get_tensor("weight"), held.get_tensor("bias"), float(said["psnr"]), float(said["plain"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        pass
    return None


def write(path, fitted, G):
    said = {"format": FORMAT, "generator_hash": G.meta["hash"], "psnr": f"{fitted.psnr:.2f}", "plain": f"{fitted.plain:.2f}"}
    with files.atomic(path) as temporary:
        save_file({"weight": fitted.weight, "bias": fitted.bias}, temporary, metadata=said)


def found(G):
    """The `Fitted` of a frozen generator: the one that is kept, else found now, and kept."""
    with LOCK:  # threads with an image each
        return _found(G)


@functools.lru_cache(maxsize=2)
def _found(G):
    fitted, path = kept(G)
    if not fitted:
        fitted = fit(G)
        if path:
            with contextlib.suppress(OSError):  # it cannot be kept: the next command finds it again
                write(path, fitted, G)
    return fitted


def kept(G):
    """The `Fitted` of a generator that is kept, or None; and where it is kept, or None."""
    if not hasattr(G, "meta"):  # no file's
        return None, None
    try:
        path = downloads.cache_folder() / "readouts" / f"{G.meta['hash']}.safetensors"
    except ValueError:  # no home folder
        path = None
    return read(checkpoints.BUNDLED["readout"], G) or (path and read(path, G)), path


def can(G):
    """Whether steps at half the side are there for a generator, and save anything."""
    return G.kind != "stylegan3" and G.resolution >= SMALLEST


def missing(G, config):
    """Whether steps as a Config says need a read-out that is yet to be found: some twenty renderings, at 1024 most of a minute."""
    long = max(config.iteration, config.w_iteration) >= FEWEST
    return bool(config.coarse and long and can(G) and not config.compile and not kept(G)[0])


def first(G, config, goal):
    """How many steps of a stage stop at half the side: none where that saves nothing, where the goal is more than an image, or where
    the read-out does not guess well.
    """
    plain = goal.mask is None and goal.style is None and goal.gram is None and config.layers is None  # the last layers are not in it
    plain = plain and not config.joint and not config.compile
    steps = round(config.coarse * config.iteration) if plain and can(G) and config.iteration >= FEWEST else 0
    return steps if steps and found(G).psnr >= LEAST else 0


def half(G):
    """`Half` of a frozen generator."""
    fitted = found(G)
    weight, bias = (t.to(G.w_avg.device) for t in (fitted.weight, fitted.bias))
    return Half(G, lambda torgb: ReadOut(weight, bias, torgb))
