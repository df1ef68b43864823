"""Make a trained generator and discriminator wider, or one block larger, without changing what they do.

    python -m training.grow --generator G64.safetensors --discriminator D64.safetensors --data faces.zip
    python -m training.grow --discriminator D128.safetensors --channel_base_d 2048

New channels see the old ones but are not looked at yet (zero outgoing weights); a new block adds nothing yet to the
picture (zero ToRGB). The discriminator's new first block is fitted to say what its old 1x1 convolution said of the
halved image. Training goes on from there (`train_generator --init --init_d`).
"""

import dataclasses
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from editor import checkpoints, classes, cli
from stylegan_layers import Discriminator, Generator, upsample
from training import data, outputs
from training.config import add_flags, check, from_flags, setting


def grown_generator(G, channel_base, channel_max, resolution):
    """A StyleGAN2 generator that renders G's pictures (up-sampled, where `resolution` is larger), with more channels.

    Raises:
        ValueError: the new size is smaller than the old one, or G is no StyleGAN2.
    """
    config = dataclasses.replace(G.config, channel_base=channel_base, channel_max=channel_max, resolution=resolution)
    if G.kind != "stylegan2" or any(config.channels(r) < G.config.channels(r) for r in G.config.resolutions) or resolution < G.resolution:
        raise ValueError("only a StyleGAN2 can be grown, and no layer may get narrower")
    torch.manual_seed(0)
    new = Generator(config).requires_grad_(False)
    if resolution > G.resolution:
        getattr(new.synthesis, f"b{resolution}").torgb.weight.zero_()
    return _widened(G, new)


def _widened(old, new):
    """`new` with the weights of `old`, whose channels do not look at the new ones."""
    old, state = old.state_dict(), new.state_dict()
    for name, value in state.items():
        if name in old and value.ndim == 4:  # a convolution
            outputs, inputs = old[name].shape[:2]
            value[:outputs] = 0
            value[:outputs, :inputs] = old[name] * (value.shape[1] / inputs) ** 0.5  # the gain is 1 / sqrt(inputs)
        elif name in old:
            value[tuple(slice(n) for n in old[name].shape)] = old[name]
    new.load_state_dict(state)
    return new


def widened_discriminator(D, channel_base):
    """A StyleGAN2 discriminator that says what D says, with more channels.

    Raises:
        ValueError: the last block's channels, of which it takes the deviation over the batch, would change.
    """
    config = dataclasses.replace(D.config, channel_base=channel_base)
    if config.kind != "stylegan2" or config.channels(4) != D.config.channels(4) or channel_base < D.config.channel_base:
        raise ValueError("only a StyleGAN2's discriminator can be widened, and only where its last block has channel_max channels already")
    torch.manual_seed(0)
    return _widened(D, Discriminator(config).requires_grad_(False)).requires_grad_(True)


def grown_discriminator(D, images, indices=None, steps=300, lr=0.01):
    """D with one more block in front, fitted on images uint8 [N, 3, 2R, 2R] to the output of D's old first layer.

    Args:
        indices: of the images to take (default: all).

    Returns:
        (Discriminator, the share of that output's variance that is left unexplained)
    """
    torch.manual_seed(0)
    indices = torch.arange(len(images)) if indices is None else indices
    size = D.config.resolution * 2
    new = Discriminator(dataclasses.replace(D.config, resolution=size))
    state = new.state_dict()
    state.update({k: v for k, v in D.state_dict().items() if k in state})
    new.load_state_dict(state)
    first, old = getattr(new, f"b{size}"), getattr(D, f"b{size // 2}").fromrgb
    optimiser = torch.optim.Adam(first.parameters(), lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        x = images[indices[torch.randint(len(indices), (16,))]].float() / 127.5 - 1
        with torch.no_grad():
            want = old(F.avg_pool2d(x, 2))
        loss = (first(x) - want).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return new, (loss / want.var()).item()


def grow_both(args, D):
    """(generator, discriminator) one block larger, and their metadata."""
    G = checkpoints.load_generator(args.generator)
    classes.refuse(G)
    if D.config.resolution != G.resolution:
        raise ValueError(f"--discriminator: looks at pictures of side {D.config.resolution}; the generator's is {G.resolution}")
    size = G.resolution * 2
    new_g = grown_generator(G, args.channel_base, args.channel_max, size)
    _, images = data.read(args.data, size)
    new_d, left = grown_discriminator(D, images, data.split(len(images))[0])
    ws = G.mapping(torch.randn(4, G.config.z_dim))[:, None]
    with torch.no_grad():
        small, large = G.synthesis(ws.repeat(1, G.num_ws, 1), noise="none"), new_g.synthesis(ws.repeat(1, new_g.num_ws, 1), noise="none")
    print(f"largest difference from the old picture, up-sampled: {(large - upsample(small)).abs().max():.1e}", file=sys.stderr)
    print(f"unexplained variance of the discriminator's first layer: {left:.4f}", file=sys.stderr)
    return new_g, new_d, {k: G.meta[k] for k in ("alignment", "perceptual", "source", "license")}


@dataclasses.dataclass
class Sizes:
    """Of the new networks."""

    channel_base: int = setting(
        2048, "channels of the grown generator at a resolution: this divided by the resolution", least=4, most=2**16
    )
    channel_max: int = setting(256, "and at most so many channels", least=1, most=2048)
    channel_base_d: int = setting(0, "the first of these of a wider discriminator; 0: as it is", least=0, most=2**16)

    __post_init__ = check


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--discriminator", metavar="FILE", required=True, help="the trained discriminator")
    parser.add_argument("--generator", metavar="FILE", help="grow both by a block; without it, only the discriminator gets wider")
    parser.add_argument("--data", help="the training images, for the discriminator's new block")
    add_flags(parser, Sizes)
    parser.add_argument("--out", default="runs/start", help="folder for generator.safetensors and discriminator.safetensors")
    args = parser.parse_args(argv)
    from_flags(Sizes, args)
    if bool(args.generator) != bool(args.data) or not (args.generator or args.channel_base_d):
        parser.error("give --generator and --data to grow by a block, --channel_base_d to widen the discriminator, or all three")
    D = checkpoints.load_discriminator(args.discriminator)
    origin = {k: D.meta[k] for k in ("source", "license")}
    kinds = {"discriminator.safetensors": f"{D.config.kind}_discriminator"}
    kinds |= {"generator.safetensors": "stylegan2"} if args.generator else {}
    outputs.check_folder(args.out, kinds, [args.generator, args.discriminator])
    if args.channel_base_d:
        D = widened_discriminator(D, args.channel_base_d)
    if args.generator:
        G, D, origin = grow_both(args, D)
        checkpoints.save(Path(args.out) / "generator.safetensors", G, **origin)
        print(Path(args.out) / "generator.safetensors")
    checkpoints.save(Path(args.out) / "discriminator.safetensors", D, **origin)
    print(Path(args.out) / "discriminator.safetensors")


if __name__ == "__main__":
    cli.run(main)
