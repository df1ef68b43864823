"""Make a trained generator and discriminator wider, and one block larger, without changing what they do.

    python -m training.grow --generator G64.safetensors --discriminator D64.safetensors --data faces.zip

New channels see the old ones but are not looked at yet (zero outgoing weights); a new block adds nothing yet to the
picture (zero ToRGB). The discriminator's new first block is fitted to say what its old 1x1 convolution said of the
halved image. Training goes on from there (`train_generator --init --init_d`).
"""

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F

import cli
import model_zoo
from stylegan_layers import Discriminator, Generator, upsample
from training import data


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
    old, state = G.state_dict(), new.state_dict()
    for name, value in state.items():
        if name not in old:
            if name.startswith(f"synthesis.b{resolution}.torgb.weight"):
                value.zero_()
        elif name.endswith(("conv0.weight", "conv1.weight", "torgb.weight")):
            outputs, inputs = old[name].shape[:2]
            value[:outputs] = 0  # old channels do not look at new ones
            value[:outputs, :inputs] = old[name] * (value.shape[1] / inputs) ** 0.5  # the gain is 1 / sqrt(inputs)
        elif value.shape != old[name].shape:
            value[tuple(slice(n) for n in old[name].shape)] = old[name]
        else:
            value.copy_(old[name])
    new.load_state_dict(state)
    return new


def grown_discriminator(D, images, steps=300, lr=0.01):
    """D with one more block in front, fitted on images uint8 [N, 3, 2R, 2R] to the output of D's old first layer.

    Returns:
        (Discriminator, the share of that output's variance that is left unexplained)
    """
    torch.manual_seed(0)
    size = D.config.resolution * 2
    new = Discriminator(dataclasses.replace(D.config, resolution=size))
    state = new.state_dict()
    state.update({k: v for k, v in D.state_dict().items() if k in state})
    new.load_state_dict(state)
    first, old = getattr(new, f"b{size}"), getattr(D, f"b{size // 2}").fromrgb
    optimiser = torch.optim.Adam(first.parameters(), lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        x = images[torch.randint(len(images), (16,))].float() / 127.5 - 1
        with torch.no_grad():
            want = old(F.avg_pool2d(x, 2))
        loss = (first(x) - want).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return new, (loss / want.var()).item()


def main(argv):
    parser = cli.Parser(__doc__)
    for name in ("generator", "discriminator", "data"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--channel_base", type=int, default=2048)
    parser.add_argument("--channel_max", type=int, default=256)
    parser.add_argument("--out", default="runs/start", help="folder for generator.safetensors and discriminator.safetensors")
    args = parser.parse_args(argv)
    G, D = model_zoo.load_generator(args.generator), model_zoo.load_discriminator(args.discriminator)
    size = G.resolution * 2
    new_g = grown_generator(G, args.channel_base, args.channel_max, size)
    _, images = data.load(args.data, size)
    new_d, left = grown_discriminator(D, images[data.split(len(images))[0]])
    ws = G.mapping(torch.randn(4, G.config.z_dim))[:, None]
    with torch.no_grad():
        small, large = G.synthesis(ws.repeat(1, G.num_ws, 1), noise="none"), new_g.synthesis(ws.repeat(1, new_g.num_ws, 1), noise="none")
    print(f"largest difference from the old picture, up-sampled: {(large - upsample(small)).abs().max():.1e}")
    print(f"unexplained variance of the discriminator's first layer: {left:.4f}")
    keep = {k: G.meta[k] for k in ("alignment", "perceptual", "source", "license")}
    for name, network in (("generator", new_g), ("discriminator", new_d)):
        print(model_zoo.save(Path(args.out) / f"{name}.safetensors", network, **keep))


if __name__ == "__main__":
    cli.run(main)
