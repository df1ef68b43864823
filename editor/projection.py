"""The optimiser: images -> latents, and noise maps, whose renderings look like them.

    w* = argmin  lambda_percep * distance(M G(w, n), M x) + lambda_mse / N * |M (G(w, n) - x)|^2
                 + lambda_style * styles(M_s G(w, n), M_s y) + lambda_start * mean (w - w0)^2
    n* = argmin  1 / N * |G(w*, n) - (M_n x + (1 - M_n) G(w*, n0))|^2 + lambda_noise * mean (strength (n - n0))^2

Image2StyleGAN (Abdal et al. 2019) is the first line without masks; Image2StyleGAN++ (Abdal et al. 2020) adds the masks M,
the style term and the noise maps n, moved one after the other and not jointly. Its second image, wanted where M is 0, is
not a term here: for the squared error it equals a target that is put together from both images. So it is in the noise
stage, where the second image is what w* renders: convolutions carry noise over the mask's edge, and this holds it there.

Several images are optimised together, each on its own: losses are summed, Adam's steps are per value, and each image
keeps its own best latent.
"""

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from editor import classes, coarse, fast_conv, graphs
from perceptual_model import gram, resized

LOW_MEMORY_FROM = 128
NO_STRENGTH = 1e-6  # a layer that multiplies its map by less cannot show it; training leaves 1e-5 and more


@dataclass
class Goal:
    """What is wanted where. Images [N or 1, 3, R, R] in [-1, 1]; masks [N or 1, 1, R, R] in 0..1, None: everywhere."""

    image: torch.Tensor  # x, [N, 3, R, R]
    mask: torch.Tensor | None = None  # M: where the rendering must look like the image
    noise_mask: torch.Tensor | None = None  # M_n: where the noise stage works, the rest keeping what w renders; None: M
    style: torch.Tensor | None = None  # y: the image whose texture is wanted
    style_mask: torch.Tensor | None = None  # M_s: where
    content: torch.Tensor | None = None  # [N], of each image the weight of its squared error and perceptual distance; None: 1
    gram: torch.Tensor | None = None  # [N], of each image the weight of the Gram loss of its deepest features (Yang & Lim 2019); None: 0
    transform: torch.Tensor | None = None  # [N, 3, 3], how StyleGAN3's input is turned and shifted for each image; None: as it is

    def part(self, first, last):
        """The goal of images first .. last - 1."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Goal(**{k: v if v is None or len(v) == 1 else v[first:last] for k, v in fields.items()})


@dataclass
class Projection:
    """What `project` found.

    ws: [N, L, 512]. noise: list of maps [N, 1, r, r], or None: the generator's own. tuned: of each image what the synthesis weights
    are changed by (`editor.tuning`), or None. loss: [N], the best of each; noise_loss: [N], after the noise stage, or None.
    history: (step, [N] losses; NaN of those images that it is not of). seconds: an image. stopped: why its last stage ended early, or None.
    diverged: for each image, whether its loss stopped being finite (ws is then the best before). interrupted: the KeyboardInterrupt
    that ended it, or None; whoever has saved the best so far raises it again.
    """

    ws: torch.Tensor
    loss: torch.Tensor
    noise: list | None = None
    noise_loss: torch.Tensor | None = None
    tuned: list | None = None
    history: list = field(default_factory=list)
    stopped: str | None = None
    diverged: list = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    interrupted: KeyboardInterrupt | None = None
    not_compiled: str | None = None  # why the steps were not compiled, though asked for

    def curve(self, i):
        """[[step, loss], ...] of image i, as a record keeps it."""
        return [[step, round(float(losses[i]), 5)] for step, losses in self.history if torch.isfinite(losses[i])]


def alone(history, first, last, count, start=0):
    """The history of images first .. last - 1 as that of `count` images, its steps counted from `start`."""
    found = []
    for step, losses in history:
        found.append((start + step, torch.full((count,), math.nan)))
        found[-1][1][first:last] = losses
    return found


def joined(parts):
    """The Projections of some images, one after the other, as one."""
    if len(parts) == 1:
        return parts[0]
    whole = replace(parts[-1], diverged=[bad for found in parts for bad in found.diverged])
    for found in parts:
        whole.interrupted = whole.interrupted or found.interrupted
    places = list(itertools.accumulate((len(found.ws) for found in parts), initial=0))
    whole.history = [one for found, i, j in zip(parts, places, places[1:], strict=False) for one in alone(found.history, i, j, places[-1])]
    whole.ws, whole.loss = (torch.cat([getattr(found, name) for found in parts]) for name in ("ws", "loss"))
    if whole.noise is not None:
        whole.noise = [torch.cat(maps) for maps in zip(*(found.noise for found in parts), strict=True)]
    if whole.tuned is not None:
        whole.tuned = [one for found in parts for one in found.tuned]
    return whole


@dataclass
class Variable:
    """A tensor that `descend` moves."""

    value: torch.Tensor  # [N, ...]
    lr: float
    moves: torch.Tensor  # 0..1, broadcasts: gradients are multiplied by it
    eps: float = 1e-8  # Adam's


def first_value(G, config, count, device):
    """The variable to optimise and how it becomes ws: z or w [N, 512], or ws [N, L, 512]."""
    generator = torch.Generator().manual_seed(config.seed)
    dim = G.config.z_dim if config.space == "z" else G.config.w_dim
    if config.space == "z" and not (isinstance(config.init, str) and config.init == "z"):
        raise ValueError("--space z starts from --init z: every other start is a w, and the mapping network has no inverse")
    if isinstance(config.init, torch.Tensor):
        if len(config.init) not in (1, count):
            raise ValueError(f"{len(config.init)} latents to start {count} images from; give one, or one for each image")
        ws = config.init.to(device).expand(count, G.num_ws, dim).clone()
        return ws if config.space == "w+" else ws.mean(1)
    # one draw for all images: the result of an image must not depend on its place in a batch
    if config.space == "z":
        return torch.randn(1, dim, generator=generator).to(device).expand(count, dim).clone()
    w = {
        "mean": lambda: classes.mean(G)[None].cpu(),
        "zeros": lambda: torch.zeros(1, dim),
        "uniform": lambda: torch.rand(1, dim, generator=generator) * 2 - 1,
        "z": lambda: classes.latents(G, torch.randn(1, G.config.z_dim, generator=generator).to(device)).detach().cpu(),
    }[config.init]()
    w = w.to(device).expand(count, dim).clone()
    return w[:, None].repeat(1, G.num_ws, 1) if config.space == "w+" else w


def rate(lr, schedule, step, iteration):
    """The learning rate of a step (0 .. iteration - 1)."""
    if schedule == "constant":
        return lr
    t = (step + 1) / iteration
    warm = min(1.0, t / 0.02)
    fall = 0.5 * (1 + math.cos(math.pi * max(0.0, (t - 0.75) / 0.25)))
    return lr * warm * fall


def require_fit(G, goal, config):
    """Raise ValueError for images or masks of another size than the generator's, or layers that it does not have."""
    n, r = len(goal.image), G.resolution
    for what in ("image", "mask", "noise_mask", "style", "style_mask"):
        found, channels = getattr(goal, what), 1 if "mask" in what else 3
        if found is not None and (list(found.shape[1:]) != [channels, r, r] or len(found) not in (1, n)):
            raise ValueError(f"{what} of shape {list(found.shape)}; this generator makes [{n}, {channels}, {r}, {r}]")
    if config.layers is not None and any(i not in range(G.num_ws) for i in config.layers):
        raise ValueError(f"layers {config.layers}; this generator has 0 to {G.num_ws - 1}")


def movable(G, config, device):
    """[1, L, 1]: 1 for the W+ layers that may move, 0 for the others."""
    moves = torch.ones(1, G.num_ws, 1, device=device)
    if config.layers is not None:
        moves.zero_()[:, config.layers] = 1
    return moves


def inpainting(G, iteration):
    """Settings for a `Config` where a part of the image is to be filled in: half the steps with one w, then few layers near it.

    What moves is held by the known pixels only, so the less may move, the more plausible the hole. Image2StyleGAN++ moves
    layers 1-9 and 17-18 of 18 from the mean latent; here first one w for all layers, then the first and last two: the least
    error in holes of held-out faces (benchmarks/README.md).
    """
    first = 1 if G.kind == "stylegan3" else 0  # the first code says where the face lies
    layers = sorted({first, first + 1, G.num_ws - 2, G.num_ws - 1})
    return {"w_iteration": iteration // 2, "iteration": iteration - iteration // 2, "layers": layers, "lambda_start": 1.0}


def to_ws(G, variable, space):
    """The optimised variable, z or w [N, 512] or ws [N, L, 512] -> ws [N, L, 512]."""
    w = classes.latents(G, variable) if space == "z" else variable
    return w[:, None].expand(-1, G.num_ws, -1) if w.ndim == 2 else w


class Rows:
    """ws [N, L, 512] as `G.synthesis` takes them, whose rows that may not move have no gradient: so layers below the first that moves
    have none at all, and cost no backward pass.
    """

    ndim = 3

    def __init__(self, ws, layers):
        self.ws, self.layers = ws, layers
        self.shape, self.device = ws.shape, ws.device

    def __len__(self):
        return len(self.ws)

    def __getitem__(self, key):
        """[:, i] -> [N, 512]; [:, :n] -> the first n rows."""
        _, i = key
        if isinstance(i, slice):
            return Rows(self.ws[key], self.layers)
        return self.ws[key] if i in self.layers else self.ws[key].detach()


def require_noise(G):
    """Raise ValueError for a generator whose noise maps cannot be found or drawn, since it has none."""
    if not G.synthesis.layers():
        raise ValueError("this generator has no noise maps (StyleGAN3)")


class NoiseMaps:
    """The noise maps as variables: map = where it starts + added / strength.

    What moves is `added`, what a map adds to the activations, since layers differ a thousandfold in the strength they give
    their map: one learning rate for the maps themselves would leave most of them without effect. Layers whose strength is
    below NO_STRENGTH keep their map.
    """

    def __init__(self, G, config, count, device):
        require_noise(G)
        layers = G.synthesis.layers()
        if config.noise == "random":
            raise ValueError("random noise cannot be optimised: start from const, none or a list of maps")
        own = [layer.noise_const[None, None] for layer in layers]
        self.start = own if config.noise == "const" else [torch.zeros_like(m) for m in own] if config.noise == "none" else config.noise
        strengths = [layer.noise_strength.detach().square().mean().sqrt().item() for layer in layers]
        wanted = range(len(layers)) if config.noise_layers is None else config.noise_layers
        if any(i not in range(len(layers)) for i in wanted):
            raise ValueError(f"noise layers {list(wanted)}; this generator has 0 to {len(layers) - 1}")
        self.strength = {i: strengths[i] for i in wanted if strengths[i] > NO_STRENGTH}
        if not self.strength:
            raise ValueError("the noise maps cannot act: this generator multiplies those chosen by 0")
        self.variables = []
        for i in self.strength:
            r = layers[i].resolution
            value = torch.zeros(count, 1, r, r, device=device)
            # the gradients of a mean over 3 million pixels are as small as Adam's usual eps
            self.variables.append(Variable(value, config.noise_lr, torch.ones((), device=device), eps=1e-12))

    def maps(self):
        """list of [N or 1, 1, r, r], one a layer, as `G.synthesis` takes them."""
        maps = list(self.start)
        for (i, strength), variable in zip(self.strength.items(), self.variables, strict=True):
            maps[i] = maps[i] + variable.value / strength
        return maps

    def drift(self):
        """[N]: the mean square of what was added, over all pixels of all maps."""
        values = torch.cat([v.value.flatten(1) for v in self.variables], 1)
        return values.square().mean(1)


class Prior:
    """How far w lies from where the mapping network puts it: the mean square of its whitened coordinates, 1 for a typical w.

    Whitened after undoing the mapping's last leaky ReLU, where w is nearly Gaussian (Zhu et al. 2020, "Improved StyleGAN
    embedding: where are the good latents?").
    """

    def __init__(self, G, device, count=8192):
        z = torch.randn(count, G.config.z_dim, generator=torch.Generator().manual_seed(0)).to(device)
        with torch.no_grad():
            x = self.undo(classes.latents(G, z)).cpu().double()  # Apple's MPS has neither float64 nor eigh
        values, vectors = torch.linalg.eigh(torch.cov(x.T))
        self.mean = x.mean(0).float().to(device)
        self.whiten = (vectors / values.clamp(min=values.max() * 1e-4).sqrt()).float().to(device)  # [512, 512]

    @staticmethod
    def undo(w):
        return torch.where(w < 0, 5 * w, w)

    def __call__(self, ws):
        """ws [N, L, 512] -> [N]"""
        return ((self.undo(ws) - self.mean) @ self.whiten).square().flatten(1).mean(1)


def affines(G):
    """[(which w of W+, what makes a style of it)] of the layers of a generator, without StyleGAN2's ToRGB and StyleGAN3's input."""
    if G.kind == "stylegan3":
        return [(i, getattr(G.synthesis, name).affine) for i, name in enumerate(G.synthesis.names, 1)]
    return [(i, layer.affine) for i, layer in enumerate(G.synthesis.layers())]


class Cosine:
    """How far each layer's style turns from where styles point: 1 - cosine to the mean of normalised styles, mean over the layers.

    LSAP (Cao et al. 2022, "Rethinking inversion fidelity, perception and editability in GAN latent space"): where it is small, edits
    work. The mean is over 8192 drawn w.
    """

    def __init__(self, G, device, count=8192):
        z = torch.randn(count, G.config.z_dim, generator=torch.Generator().manual_seed(0)).to(device)
        self.affines = affines(G)
        with torch.no_grad():
            w = classes.latents(G, z)
            self.usual = [F.normalize(affine(w), dim=1).mean(0) for _, affine in self.affines]  # of [I] (StyleGAN1: [2 O])

    def __call__(self, ws):
        """ws [N, L, 512] -> [N]"""
        styles = [F.normalize(affine(ws[:, i]), dim=1) for i, affine in self.affines]
        return 1 - sum((style * usual).sum(1) for style, usual in zip(styles, self.usual, strict=True)) / len(styles)


def share(a, b):
    """|A - B|^2 / |B|^2 of Gram matrices [N, C, C] -> [N]: 1 is as far as a blank image, whatever network they come from."""
    return (a - b).square().sum((1, 2)) / b.square().sum((1, 2))


def objective(G, distance, goal, config):
    """The terms that look at the image, as a function (ws, maps) -> (losses [N], images [N, 3, R, R])."""

    def seen(images):  # both sides are blank in the same place, so that what lies there counts for nothing
        return images if goal.mask is None else images * goal.mask

    def styled(images):
        return distance.grams(images if goal.style_mask is None else images * goal.style_mask)

    targets = seen(goal.image)
    wanted = distance.features(targets) if distance is not None and (config.lambda_percep or goal.gram is not None) else None
    style = styled(goal.style) if goal.style is not None else None

    recompute_from = LOW_MEMORY_FROM if config.low_memory else math.inf
    placed = {} if goal.transform is None else {"transform": goal.transform}

    def losses_of(ws, maps):
        ws = ws if config.layers is None or config.compile else Rows(ws, config.layers)
        images = G.synthesis(ws, noise=maps, dtype=config.dtype or torch.float32, recompute_from=recompute_from, **placed)
        total = config.lambda_mse * fast_conv.mean_squared_error(seen(images), targets)
        if wanted is not None:
            features = distance.features(seen(images))
            total = total + config.lambda_percep * distance.compare(features, wanted)
        if goal.content is not None:
            total = total * goal.content
        if goal.gram is not None:
            total = total + goal.gram * share(gram(features[-1]), gram(wanted[-1]))
        if style is not None:  # relative to the style's own size: 1 is as far as a blank image
            total = total + config.lambda_style * sum(share(a, b) for a, b in zip(styled(images), style, strict=True))
        return total, images

    if config.compile:
        return graphs.Compiled(losses_of, goal.image.is_cuda)
    return graphs.Captured(losses_of) if config.capture else losses_of


def looks(G, distance, goal, config):
    """[(first step, `objective`)]: what the latents are judged by, the last until their end."""
    whole = objective(G, distance, goal, config)
    early = coarse.first(G, config, goal) if config.coarse else 0
    small = early and objective(coarse.half(G), distance, replace(goal, image=F.avg_pool2d(goal.image, 2)), config)
    return [(0, small), (early, whole)] if early else [(0, whole)]


class Best:
    """For each image the values of the variables at which its own loss was lowest."""

    def __init__(self, variables):
        self.variables, self.loss = variables, None
        self.values = [v.value.detach().clone() for v in variables]

    def keep(self, losses):  # on the device, without waiting for it
        losses = losses.detach()
        if self.loss is None:
            self.loss = torch.full_like(losses, math.inf)
        better = losses < self.loss  # NaN is never better
        self.loss = torch.where(better, losses, self.loss)
        for i, v in enumerate(self.variables):
            self.values[i] = torch.where(better.view(-1, *[1] * (v.value.ndim - 1)), v.value.detach(), self.values[i])

    @torch.no_grad()
    def restore(self):
        for v, kept in zip(self.variables, self.values, strict=True):
            v.value.copy_(kept)


def holding(G, config, device):
    """What keeps latents where edits work: (weight, what gives how far each of ws [N, L, 512] is from there) of each that counts."""
    kinds = ((config.lambda_prior, Prior), (config.lambda_cosine, Cosine))
    return [(weight, _of(kind, G, device)) for weight, kind in kinds if weight]


@functools.lru_cache(maxsize=4)
def _of(kind, G, device):
    return kind(G, device)  # a second of drawing w, which many images share


@torch.no_grad()
def noise_goal(G, goal, ws, maps, config):
    """What the noise stage aims at: the image where its mask is 1, what ws renders where it is 0."""
    mask = goal.mask if goal.noise_mask is None else goal.noise_mask
    if mask is None:
        return Goal(goal.image)
    drawn = G.synthesis(ws, noise=maps, dtype=config.dtype or torch.float32)
    return Goal(torch.lerp(drawn, goal.image, mask))


def descend(variables, stages, iteration, config, result, callback=None, show=None, enough=None, also=None):
    """Adam on `variables`, in place; in the end each image has the values at which its own loss was lowest.

    Args:
        variables: list of `Variable`.
        stages: [(first step, evaluate)]; evaluate: () -> (losses [N], images), at the variables' values. The last one's losses count.
        enough: images -> whether they are near enough to end here; asked every `check_every` steps.
        also: step -> one more loss [1] whose gradient is added, or None; after the others', so that both are never in memory at once.
        result: a `Projection`; history, steps, stopped, interrupted and diverged are written to it.

    Returns:
        [N]: the lowest losses. Ctrl-C, and losses that are not finite, end the descent early.
    """
    values = [v.value.requires_grad_(True) for v in variables]
    optimiser = torch.optim.Adam(
        [{"params": [v.value], "lr": v.lr, "eps": v.eps} for v in variables], betas=config.betas, fused=values[0].device.type != "mps"
    )
    best, first, marker, starts, evaluate = Best(variables), result.steps, math.inf, dict(stages), stages[0][1]
    result.stopped = None  # an earlier stage's reason is not this one's
    try:
        for step in range(iteration):
            if step and step in starts:
                evaluate, best, marker = starts[step], Best(variables), math.inf
            for group, v in zip(optimiser.param_groups, variables, strict=True):
                group["lr"] = rate(v.lr, config.schedule, step, iteration)
            losses, images = evaluate()
            best.keep(losses)
            for v, gradient in zip(variables, torch.autograd.grad(losses.sum(), values), strict=True):
                v.value.grad = gradient * v.moves
            if also and (more := also(step)) is not None:
                for v, gradient in zip(variables, torch.autograd.grad(more.sum(), values), strict=True):
                    v.value.grad += gradient * v.moves
            optimiser.step()
            result.steps = first + step + 1
            if show and config.show_every and (first + step) % config.show_every == 0:
                show(first + step, images.detach())
            if step % config.check_every == 0 or step == iteration - 1:
                result.history.append((first + step, losses.detach().cpu()))
                if callback:
                    callback(first + step, losses.detach())
                if not torch.isfinite(losses).any():
                    result.stopped = "the loss is no longer finite"
                    break
                if enough and enough(images.detach()):
                    result.stopped = "near enough"
                    break
            if config.early_stop and step and step % 100 == 0:
                now = best.loss.sum().item()
                if now >= marker * (1 - config.early_stop):  # 0, too, falls no more
                    result.stopped = "the loss no longer falls"
                    break
                marker = now
    except KeyboardInterrupt as interruption:
        result.stopped, result.interrupted = "Ctrl-C", interruption
    with torch.no_grad():
        best = best if evaluate is stages[-1][1] else Best(variables)  # what ended it may have come before the stage that counts
        best.keep(last := stages[-1][1]()[0])
    best.restore()
    result.diverged = [bool(x) for x in ~torch.isfinite(last).cpu() | torch.tensor(result.diverged or [False] * len(last))]
    return best.loss


def project(G, distance, targets, config, callback=None, show=None):
    """Find latents for images, then, if asked, noise maps; all images in one batch (see `project_in_parts`).

    Args:
        G: a frozen generator.
        distance: a perceptual_model distance, or None for the mean squared error alone.
        targets: [N, 3, R, R] in [-1, 1], or a `Goal`.
        config: a `Config`.
        callback: called with (step, losses [N]) every `check_every` steps; the noise stage counts on.
        show: called with (step, images [N, 3, R, R]) every `show_every` steps.

    Returns:
        Projection. Ctrl-C ends it early with the best so far (`interrupted`); so does a loss that is not finite (`diverged`).

    Raises:
        ValueError: targets of another size, or a setting that is not known.
    """
    goal = targets if isinstance(targets, Goal) else Goal(targets)
    require_fit(G, goal, config)
    n, device, result = len(goal.image), goal.image.device, Projection(ws=None, loss=None)
    if config.w_iteration and config.space == "w+":
        first = replace(
            config, space="w", iteration=config.w_iteration, w_iteration=0, noise_iteration=0, joint=False, layers=None, lambda_start=0
        )
        result = project(G, distance, goal, first, callback, show)
        if result.interrupted:
            return result
        config = replace(config, init=result.ws)
    noise = NoiseMaps(G, config, n, device) if config.joint or config.noise_iteration else None
    value = first_value(G, config, n, device)
    latent = Variable(value, config.lr, movable(G, config, device) if config.space == "w+" else torch.ones((), device=device))
    w0, held = value.detach().clone(), holding(G, config, device)

    def latent_losses(losses_of):
        ws = to_ws(G, latent.value, config.space)
        losses, images = losses_of(ws, noise.maps() if config.joint else config.noise)
        if config.lambda_start:
            losses = losses + config.lambda_start * fast_conv.mean_squared_error(latent.value, w0)
        for weight, far in held:
            losses = losses + weight * far(ws)
        return losses + config.lambda_noise * noise.drift() if config.joint else losses, images

    judges = looks(G, distance, goal, config)
    stages = [(step, functools.partial(latent_losses, look)) for step, look in judges]
    seen = (lambda step, images: show(step, resized(images, G.resolution))) if show else None
    result.loss = descend([latent, *(noise.variables if config.joint else [])], stages, config.iteration, config, result, callback, seen)
    result.not_compiled = next(filter(None, (getattr(look, "failed", None) for _, look in judges)), None)
    del judges, stages  # and what they recorded: the noise stage needs the memory
    result.ws = to_ws(G, latent.value.detach(), config.space).contiguous().clone()
    if config.noise_iteration and not result.interrupted:
        find_noise(G, goal, noise, config, result, callback, show)
    maps = config.noise if noise is None else noise.maps()
    if not isinstance(maps, str):  # maps that were given belong to the result even if they did not move: it was found under them
        result.noise = [m.detach().expand(n, -1, -1, -1).clone() for m in maps]
    return result


def find_noise(G, goal, noise, config, result, callback, show):
    """The noise stage of `project`: moves the `NoiseMaps` under result.ws."""
    pixels = objective(G, None, noise_goal(G, goal, result.ws, noise.maps(), config), replace(config, lambda_mse=1.0))

    def losses():
        found, images = pixels(result.ws, noise.maps())
        return found + config.lambda_noise * noise.drift(), images

    result.noise_loss = descend(noise.variables, [(0, losses)], config.noise_iteration, config, result, callback, show)
    result.not_compiled = result.not_compiled or getattr(pixels, "failed", None)


def project_in_parts(G, distance, goal, config, size=None, start=None, callback=None, show=None, warn=None, later=0):
    """As `project`, of as many images at a time as fit into memory: where a batch does not, its halves are tried.

    Args:
        goal: a `Goal`.
        size: images in a batch (default: all).
        start: images [N, 3, R, R] -> latents [N, L, 512] to start from, such as an encoder; None: config.init.
        callback: called with (steps done of all images, losses); each image takes config.steps and `later`.
        show: called with (first image's number, step, images).
        warn: called with a sentence when a batch is halved.
        later: steps an image that follow elsewhere before the next images begin.

    Yields:
        (first, last, Projection of images first .. last - 1), until all are done or one was interrupted.

    Raises:
        ValueError: a single image does not fit.
    """
    count, first = len(goal.image), 0
    size = size or count
    while first < count:
        last = min(first + size, count)
        part, chosen = goal.part(first, last), config
        if not isinstance(config.noise, str):
            chosen = replace(config, noise=[m[first:last] if len(m) == count > 1 else m for m in config.noise])
        try:
            if start is not None:
                with torch.no_grad():
                    chosen = replace(chosen, init=fast_conv.image_by_image(start, part.image, always=True))
            elif isinstance(config.init, torch.Tensor) and len(config.init) == count > 1:
                chosen = replace(chosen, init=config.init[first:last])
            found = project(
                G, distance, part, chosen,
                (lambda step, losses, first=first, n=last - first: callback(first * (config.steps + later) + n * (step + 1), losses))
                if callback
                else None,
                (lambda step, images, first=first: show(first, step, images)) if show else None,
            )  # fmt: skip
        except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises a plain one
            if not any(sign in str(error) for sign in graphs.OUT_OF_MEMORY):
                raise
            if last - first == 1:
                advice = "a smaller generator, or another device" if config.low_memory else "--low_memory"
                raise ValueError(f"out of memory with a single image; try {advice}") from None
            size = (last - first + 1) // 2
            if warn:
                warn(f"out of memory with {last - first} images at once; going on with {size}")
            continue
        yield first, last, found
        if found.interrupted:
            return
        first = last
