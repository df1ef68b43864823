"""Open more of W to a generator and its encoder.

    python -m training.widen --data faces.zip --generator weight_files/faces128.safetensors --encoder weight_files/encoder.safetensors

An encoder that learns by reconstruction finds the strongest directions of W first, and a mapping network that is fitted to it
(`train_generator --fit_mapping`) draws samples from those alone: few kinds of faces. Here more of them are opened, in four steps:

1. What the encoder's guess misses of a photograph goes back to W by the derivative of the picture at the mean latent (Gauss-Newton).
2. The encoder's dense layers become the linear map that guesses these latents best: ridge regression, by codes that are whitened.
3. W is stretched along the directions that photographs use little, and the style layers undo it: pictures stay, gradients grow.
4. Generator and encoder learn photographs together, by Image2StyleGAN's loss alone: much faster than beside a discriminator.

Afterwards the mapping network fits no more: go on with `train_generator --init --init_encoder --init_d --fit_mapping 1.4`.
"""

import copy
import dataclasses
import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from editor import checkpoints, classes, cli, session
from training import data, outputs, reconstruct, resume
from training.config import add_device_flag, add_flags, check, from_flags, setting
from training.measure import brought_to
from training.train_encoder import measure

SIDE = 32  # of the pictures that Gauss-Newton compares
DAMPING = 0.7  # of its steps; the derivative's singular values are 14 to 0.02 in the bundled generator
STEPS = (0.8, 0.5)  # of the way that it points
RIDGE = 0.3  # in the mean square of a photograph's features
USED = 2e-4  # least variance of latents along a direction, as a share of the largest: below, the direction stays as it is
STRETCH = 6.0  # at most


@dataclasses.dataclass
class Config:
    """How much is learned from."""

    faces: int = setting(5000, "photographs that the encoder's dense layers are fitted to", least=10)
    images: int = setting(9600, "photographs shown in the last step", least=0)
    batch: int = setting(16, "of them a step", least=1)
    lr: float = setting(0.001, "highest learning rate of the generator (Adam)", above=0)
    encoder_lr: float = setting(0.006, "learning rate of the encoder, as a share of each weight's size", above=0)
    seed: int = setting(0, "of everything drawn at random", least=0, most=10**12)

    __post_init__ = check
    steps = property(lambda self: math.ceil(self.images / self.batch))


def rendered(G, w):
    """w [N, w_dim], one for all layers -> pictures [N, 3, R, R]."""
    return G.synthesis(w[:, None].expand(-1, G.num_ws, -1))


def small(pictures):
    """[N, 3, R, R] -> [N, 3 SIDE^2]"""
    return brought_to(pictures, SIDE).flatten(1)


@torch.no_grad()
def derivative(G, step=0.5):
    """How the small picture changes with each number of w at the mean latent: [w_dim, 3 SIDE^2], by central differences."""
    apart = step * torch.eye(G.config.w_dim, device=G.w_avg.device)
    return torch.cat([small(rendered(G, G.w_avg + x)) - small(rendered(G, G.w_avg - x)) for x in apart.split(32)]) / (2 * step)


@torch.no_grad()
def latents(G, encoder, batches, slope):
    """Latents whose renderings are nearer to photographs than the encoder's are.

    Args:
        batches: of photographs [n, 3, R, R] in [-1, 1]. slope: what `derivative` gives.

    Returns:
        (what the encoder's dense layers see [N, F], w [N, w_dim])
    """
    u, s, v = torch.linalg.svd(slope, full_matrices=False)
    back = v.T @ torch.diag(s / (s.square() + DAMPING**2)) @ u.T  # [3 SIDE^2, w_dim]
    seen, found = [], []
    hook = encoder.narrow1.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    try:
        for x in batches:
            w, wanted = encoder(x).mean(1), small(x)
            for share in STEPS:
                w = w + share * (wanted - small(rendered(G, w))) @ back
            found.append(w)
    finally:
        hook.remove()
    return torch.cat(seen), torch.cat(found)


def fitted(features, w, slope, codes):
    """The linear map features -> w of ridge regression, through few codes: those that change the small picture most.

    Args:
        features [N, F], w [N, w_dim]: without their means. slope: what `derivative` gives. codes: how many.

    Returns:
        (to codes of variance 1 [F, codes], from codes to w [codes, w_dim])
    """
    kernel = features @ features.T
    kernel.diagonal().add_(RIDGE * kernel.diagonal().mean())
    to_w = features.T @ torch.linalg.solve(kernel, w)  # [F, w_dim]
    metric = slope @ slope.T
    metric.diagonal().add_(0.05 * metric.diagonal().mean())
    root = torch.linalg.cholesky(metric)
    _, s, v = torch.linalg.svd(features @ to_w @ root, full_matrices=False)
    deviations = (s[:codes] / len(w) ** 0.5).clamp(min=1e-6)
    return to_w @ root @ v[:codes].T / deviations, torch.linalg.solve(root.T, v[:codes].T * deviations).T


@torch.no_grad()
def new_head(encoder, features, w, slope):
    """Replace the encoder's dense layers by the linear map that guesses `w` [N, w_dim] from `features` [N, F] best.

    A code passes the leaky ReLU as two units, it and its opposite, whose difference is linear.
    """
    c = encoder.config
    codes = min(c.ranks[0], c.ranks[1], c.hidden // 2, c.w_dim, len(w) - 1)
    middle, mean = features.mean(0), w.mean(0)
    to_codes, to_w = fitted(features - middle, w - mean, slope, codes)
    one = torch.eye(codes, device=w.device)
    for layer in (encoder.narrow1, encoder.fc1, encoder.norm, encoder.narrow2, encoder.fc2):
        for p in layer.parameters():
            p.zero_()
    torch.nn.init.normal_(encoder.narrow1.weight[codes:], std=0.1 * to_codes.std().item())  # spare units, to be learned
    torch.nn.init.normal_(encoder.fc1.weight[:, codes:], std=0.02)
    encoder.narrow1.weight[:codes] = to_codes.T
    encoder.fc1.weight[: 2 * codes, :codes] = torch.cat([one, -one])
    encoder.fc1.bias[: 2 * codes] = torch.cat([-middle @ to_codes, middle @ to_codes])
    torch.nn.init.normal_(encoder.narrow2.weight[codes:], std=0.02)  # else few photographs leave units that nothing ever teaches
    encoder.norm.weight.fill_(1.0)
    exact = (features - middle) @ to_codes
    units = encoder.norm(F.leaky_relu(encoder.fc1(encoder.narrow1(features)), 0.2))
    passed = units[:, :codes] - units[:, codes : 2 * codes]
    gain = (passed * exact).sum(0) / passed.square().sum(0)
    encoder.narrow2.weight[:codes, : 2 * codes] = torch.cat([torch.diag(gain), -torch.diag(gain)], 1)
    encoder.fc2.weight[:, :codes] = 10 * to_w.T.repeat(c.num_ws, 1)  # the encoder takes a tenth of it
    encoder.fc2.bias.copy_(10 * (mean - encoder.w_avg).repeat(c.num_ws))


@torch.no_grad()
def spread(G, encoder, w):
    """Stretch W along the directions that latents `w` [N, w_dim] of photographs use little; every picture stays.

    Along a direction with a share q of the largest variance by q^(-1/4), so that the deviations come half as near to each other.
    The mapping network is not changed, and draws no latents of this W.

    Returns:
        How many directions are used.
    """
    mean = w.mean(0)
    variances, directions = torch.linalg.eigh(torch.cov(w.T))
    share = (variances / variances.max()).clamp(min=1e-9)
    factors = torch.where(share >= USED, share**-0.25, torch.ones_like(share)).clamp(max=STRETCH)
    there, back = (directions * factors) @ directions.T, (directions / factors) @ directions.T
    for name, layer in G.synthesis.named_modules():
        if name.endswith("affine"):  # of mean + back (w - mean)
            layer.bias += (layer.weight @ (mean - back @ mean)) * layer.weight_gain / layer.lr_mul
            layer.weight.copy_(layer.weight @ back)
    c = encoder.config
    weight, bias = encoder.fc2.weight.view(c.num_ws, c.w_dim, -1), encoder.fc2.bias.view(c.num_ws, c.w_dim)
    bias = 10 * (0.1 * bias + encoder.w_avg - mean) @ there.T
    encoder.fc2.weight.copy_((there @ weight).flatten(0, 1))
    encoder.fc2.bias.copy_(bias.flatten())
    encoder.w_avg.copy_(mean)
    G.w_avg.copy_(mean)
    return int((share >= USED).sum())


def learn(G, encoder, distance, real, config, report=None):
    """The last step: `config.images` photographs; returns moving averages of (generator, encoder).

    Args:
        real: real[step] is a batch [batch, 3, R, R] in [-1, 1]. report: called after each step with the mean squared error.
    """
    weights = [p.requires_grad_(True) for p in G.synthesis.parameters()]
    groups = [{"params": weights, "lr": config.lr}, *reconstruct.weight_groups(encoder, config.encoder_lr)]
    optimiser = torch.optim.Adam(groups, betas=(0.0, 0.99), eps=1e-10)
    highest = [group["lr"] for group in groups]
    averages = [copy.deepcopy(network).requires_grad_(False) for network in (G, encoder)]
    steps = config.steps
    for step in range(steps):
        torch.manual_seed(resume.seed(config.seed, step))
        share = min(1.0, (step + 1) / 30) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        for group, rate in zip(optimiser.param_groups, highest, strict=True):
            group["lr"] = rate * share
        x = real[step]
        ws = reconstruct.mostly_in_w(encoder(x))
        made = G.synthesis(ws, noise="random")
        optimiser.zero_grad()
        reconstruct.loss_of(made, x, ws, distance).backward()
        optimiser.step()
        with torch.no_grad():
            for average, network in zip(averages, (G, encoder), strict=True):
                for mean, value in zip(average.parameters(), network.parameters(), strict=True):
                    mean.lerp_(value, 0.02)
        if report:
            report((made.detach() - x).square().mean().item())
    return averages


def widen(G, encoder, pictures, indices, config, say, bar=None):
    """All four steps, on networks in training mode; (generator, encoder)."""
    device, slope = G.w_avg.device, derivative(G)
    chosen = indices[torch.randperm(len(indices))[: config.faces]].split(50)

    def shown():
        for n, part in enumerate(chosen):
            x = pictures[part].to(device).float() / 127.5 - 1
            yield x if n % 2 else x.flip(3)

    new_head(encoder, *latents(G, encoder, shown(), slope), slope)
    with torch.no_grad():
        w = torch.cat([encoder(x).mean(1) for x in shown()])
    say(f"{spread(G, encoder, w)} of {G.config.w_dim} directions of W are used")
    real = data.Batches(pictures, indices, config.batch, config.seed, device=device)
    distance = checkpoints.load_features(checkpoints.BUNDLED["features"]).to(device)
    return learn(G, encoder, distance, real, config, bar)


def flags():
    parser = cli.Parser(__doc__)
    parser.add_argument("--data", required=True, help="the training pictures, as given to train_generator; every tenth is held out")
    parser.add_argument("--generator", metavar="FILE", help="a StyleGAN2 (default: the bundled one)")
    parser.add_argument("--encoder", metavar="FILE", default=checkpoints.BUNDLED["encoder"], help="its encoder (default: the bundled one)")
    parser.add_argument(
        "--out", default="runs/wide", help="folder for generator.safetensors and encoder.safetensors (default: %(default)s)"
    )
    add_flags(parser, Config)
    add_device_flag(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar, errors only")
    return parser


def main(argv):
    args = flags().parse_args(argv)
    config, device = from_flags(Config, args), session.device(args.device)
    G = checkpoints.load_generator(args.generator, device)
    classes.refuse(G)
    if G.kind != "stylegan2":
        raise ValueError(f"{G.meta['path']}: a {G.kind}; only a StyleGAN2 can be widened")
    encoder = checkpoints.load_encoder(args.encoder, G, device)
    outputs.check_folder(args.out, {"generator.safetensors": G.kind, "encoder.safetensors": "encoder"}, [G.meta["path"], args.encoder])
    _, pictures = data.read(args.data, G.resolution, args.quiet)
    indices, held = data.parts(args.data, pictures)
    torch.manual_seed(config.seed)
    G.train()
    encoder.train().requires_grad_(True).features.requires_grad_(False)
    say = (lambda words: None) if args.quiet else cli.say
    with tqdm(total=config.steps, disable=args.quiet, unit="step", file=sys.stderr, mininterval=1) as bar:
        G_mean, encoder_mean = widen(G, encoder, pictures, indices, config, say, lambda mse: bar.update())
    kept = {key: G.meta[key] for key in ("alignment", "perceptual", "source", "license") if G.meta[key]}
    paths = [Path(args.out) / f"{name}.safetensors" for name in ("generator", "encoder")]
    kept_e = {key: kept[key] for key in ("source", "license") if key in kept}
    for path, network in zip(paths, (G_mean, encoder_mean), strict=True):  # both or neither: a pair of two runs is none
        outputs.require_finite(path, network)
    with cli.kept_whole():
        generator_hash = checkpoints.save(paths[0], G_mean, half=True, **kept)
        checkpoints.save(paths[1], encoder_mean, half=True, generator_hash=generator_hash, **kept_e)
    if not args.quiet:
        figures, _ = measure(G_mean, encoder_mean, pictures[held[:100]].to(device).float() / 127.5 - 1)
        print(json.dumps(figures))
    print(*paths, sep="\n")


if __name__ == "__main__":
    cli.run(main)
