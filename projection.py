"""The optimiser: images -> latents whose renderings look like them (Image2StyleGAN, Abdal et al. 2019).

    w* = argmin  lambda_percep * distance(G(w), I) + lambda_mse / N * |G(w) - I|^2

Several images are optimised together, each on its own: losses are summed, Adam's steps are per value, and each image
keeps its own best latent.
"""

import math
from dataclasses import dataclass, field

import torch

SPACES = {"w+": "one w per layer", "w": "one w for all layers", "z": "the input of the mapping network"}
INITS = {"mean": "the mean latent", "zeros": "zeros (LatentEditor)", "uniform": "uniform in [-1, 1]", "z": "the mapping of a random z"}
SCHEDULES = {"cosine": "short warm-up, constant, then a cosine to 0 over the last quarter", "constant": "the same all along"}


@dataclass
class Config:
    """Settings of `project`. Defaults suit faces; LatentEditor: init zeros, lr 0.01, schedule constant."""

    iteration: int = 1000
    space: str = "w+"
    init: object = "mean"  # a key of INITS, or latents [N or 1, L, 512]
    lr: float = 0.05
    schedule: str = "cosine"
    lambda_mse: float = 1.0
    lambda_percep: float = 1.0
    layers: list | None = None  # the W+ layers that may move; None: all
    noise: object = "const"
    early_stop: float = 0.0  # stop when 100 steps lower the loss by less than this share; 0: never
    check_every: int = 10  # steps between looks at the losses (each look waits for the device)
    seed: int = 0
    dtype: torch.dtype = torch.float32  # of the generator's convolutions; latents, losses and RGB stay float32


@dataclass
class Projection:
    """What `project` found.

    ws: [N, L, 512]. loss: [N], the best of each. history: (step, [N] losses). stopped: why it ended early, or None.
    diverged: for each image, whether its loss stopped being finite (ws is then the best before).
    """

    ws: torch.Tensor
    loss: torch.Tensor
    history: list = field(default_factory=list)
    stopped: str | None = None
    diverged: list = field(default_factory=list)
    steps: int = 0


def start(G, config, count, device):
    """The variable to optimise and how it becomes ws: z or w [N, 512], or ws [N, L, 512]."""
    generator = torch.Generator().manual_seed(config.seed)
    dim = G.config.z_dim if config.space == "z" else G.config.w_dim
    if isinstance(config.init, torch.Tensor):
        if config.space == "z":
            raise ValueError("--space z starts from --init z: a latent file holds w, and the mapping network has no inverse")
        ws = config.init.to(device).expand(count, G.num_ws, dim).clone()
        return ws if config.space == "w+" else ws.mean(1)
    if config.init not in INITS:
        raise ValueError(f"--init {config.init}: use {', '.join(INITS)}, or a latent file")
    # one draw for all images: the result of an image must not depend on its place in a batch
    if config.space == "z":
        return torch.randn(1, dim, generator=generator).to(device).expand(count, dim).clone()
    w = {
        "mean": lambda: G.w_avg.detach()[None].cpu(),
        "zeros": lambda: torch.zeros(1, dim),
        "uniform": lambda: torch.rand(1, dim, generator=generator) * 2 - 1,
        "z": lambda: G.mapping(torch.randn(1, G.config.z_dim, generator=generator).to(device)).detach().cpu(),
    }[config.init]()
    w = w.to(device).expand(count, dim).clone()
    return w[:, None].repeat(1, G.num_ws, 1) if config.space == "w+" else w


def rate(config, step):
    """The learning rate of a step (0 .. iteration - 1)."""
    if config.schedule == "constant":
        return config.lr
    if config.schedule != "cosine":
        raise ValueError(f"schedule {config.schedule!r}; use {', '.join(SCHEDULES)}")
    t = (step + 1) / config.iteration
    warm = min(1.0, t / 0.02)
    fall = 0.5 * (1 + math.cos(math.pi * max(0.0, (t - 0.75) / 0.25)))
    return config.lr * warm * fall


def check(G, targets, config):
    """Raise ValueError for targets of another size, or a setting that is not known."""
    if config.space not in SPACES:
        raise ValueError(f"--space {config.space}: use {', '.join(SPACES)}")
    if targets.shape[1:] != (3, G.resolution, G.resolution):
        raise ValueError(f"targets of shape {list(targets.shape)}; this generator makes [N, 3, {G.resolution}, {G.resolution}]")
    if config.iteration < 0:
        raise ValueError(f"--iteration {config.iteration}: 0 or more")
    if config.layers is not None and config.space != "w+":
        raise ValueError("--layers needs --space w+: the other spaces have one vector for all layers")


def movable(G, config, device):
    """[1, L, 1]: 1 for the W+ layers that may move, 0 for the others."""
    moves = torch.ones(1, G.num_ws, 1, device=device)
    if config.layers is not None:
        moves.zero_()[:, config.layers] = 1
    return moves


def to_ws(G, variable, space):
    """The optimised variable, z or w [N, 512] or ws [N, L, 512] -> ws [N, L, 512]."""
    w = G.mapping(variable) if space == "z" else variable
    return w[:, None].expand(-1, G.num_ws, -1) if w.ndim == 2 else w


def project(G, distance, targets, config, callback=None):
    """Find latents for images.

    Args:
        G: a frozen generator.
        distance: a perceptual_model distance, or None for the mean squared error alone.
        targets: [N, 3, R, R] in [-1, 1].
        config: a `Config`.
        callback: called with (step, losses [N]) every `check_every` steps.

    Returns:
        Projection. Ctrl-C ends it early with the best so far (`stopped` says so); so does a loss that is not finite.

    Raises:
        ValueError: targets of another size, or a setting that is not known.
    """
    check(G, targets, config)
    n, device = len(targets), targets.device
    variable = start(G, config, n, device)
    moves = movable(G, config, device)
    variable.requires_grad_(True)
    wanted = distance.features(targets) if distance is not None and config.lambda_percep else None
    optimiser = torch.optim.Adam([variable], lr=config.lr, betas=(0.9, 0.999), eps=1e-8)

    def losses_of(ws):
        images = G.synthesis(ws, noise=config.noise, dtype=config.dtype)
        total = config.lambda_mse * (images - targets).square().flatten(1).mean(1)
        if wanted is not None:
            total = total + config.lambda_percep * distance.compare(distance.features(images), wanted)
        return total

    best = variable.detach().clone()
    best_loss = torch.full((n,), math.inf, device=device)
    result = Projection(ws=None, loss=None)

    def keep(losses):  # on the device, without waiting for it
        nonlocal best, best_loss
        better = losses.detach() < best_loss  # NaN is never better
        best_loss = torch.where(better, losses.detach(), best_loss)
        best = torch.where(better.view(-1, *[1] * (variable.ndim - 1)), variable.detach(), best)

    try:
        marker = math.inf
        for step in range(config.iteration):
            for group in optimiser.param_groups:
                group["lr"] = rate(config, step)
            losses = losses_of(to_ws(G, variable, config.space))
            keep(losses)
            (gradient,) = torch.autograd.grad(losses.sum(), variable)
            variable.grad = gradient * moves if config.space == "w+" else gradient
            optimiser.step()
            result.steps = step + 1
            if step % config.check_every == 0 or step == config.iteration - 1:
                result.history.append((step, losses.detach().cpu()))
                if callback:
                    callback(step, losses.detach())
                if not torch.isfinite(losses).any():
                    result.stopped = "the loss is no longer finite"
                    break
            if config.early_stop and step and step % 100 == 0:
                now = best_loss.sum().item()
                if now > marker * (1 - config.early_stop):
                    result.stopped = "the loss no longer falls"
                    break
                marker = now
    except KeyboardInterrupt:
        result.stopped = "Ctrl-C"
    with torch.no_grad():
        last = losses_of(to_ws(G, variable, config.space))
        keep(last)
        result.diverged = [bool(x) for x in ~torch.isfinite(last)]
        result.ws, result.loss = to_ws(G, best, config.space).contiguous().clone(), best_loss
    return result
