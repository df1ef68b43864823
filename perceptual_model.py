"""How alike two images look: VGG16 features, LPIPS, and a small network that comes with the project.

Each distance is an `nn.Module` with two steps, so that the target's side is computed once:
`features(images [N, 3, H, W] in [-1, 1]) -> list of tensors`, and `compare(a, b) -> [N]`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from editor import fast_conv

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG_LAYERS = {  # name -> channels (Simonyan & Zisserman 2015, table 1, D); max pooling stands between the blocks
    **{"conv1_1": 64, "conv1_2": 64, "conv2_1": 128, "conv2_2": 128, "conv3_1": 256, "conv3_2": 256, "conv3_3": 256},
    **{"conv4_1": 512, "conv4_2": 512, "conv4_3": 512, "conv5_1": 512, "conv5_2": 512, "conv5_3": 512},
}
IMAGE2STYLEGAN_LAYERS = ("conv1_1", "conv1_2", "conv3_2", "conv4_2")  # Abdal et al. 2019, below equation 2
LPIPS_LAYERS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")  # Zhang et al. 2018; the last of each block
LPIPS_EPS = 1e-10  # below a float32's rounding of any feature that is not 0; where all are, values and gradients stay finite
LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # the lpips package's own, for images in [-1, 1]


def resized(images, size):
    """images [N, 3, H, W] -> their shorter side brought to `size`: squares averaged where it divides the side, else bilinear."""
    side = min(images.shape[-2:])
    if side == size:
        return images
    if side % size == 0:
        return F.avg_pool2d(images, side // size)
    return F.interpolate(images, scale_factor=size / side, mode="bilinear", antialias=side > size)


class Distance(nn.Module):
    """Sum over layers of the mean squared difference of features (Abdal et al. 2019, equation 2, all lambda 1).

    A distance has `features(images [N, 3, H, W] in [-1, 1])`, which returns a list of tensors [N, ...].
    """

    def compare(self, a, b):
        """Feature lists of equal shapes (the second may have one image for all) -> [N]."""
        return sum(fast_conv.mean_squared_error(x, y) for x, y in zip(a, b, strict=True))

    def grams(self, images):
        """[N, 3, H, W] in [-1, 1] -> the Gram matrix [N, C, C] of each layer."""
        return [gram(f) for f in self.features(images)]

    def forward(self, images, targets):
        """[N, 3, H, W] and [N or 1, 3, H, W], in [-1, 1] -> [N]"""
        return self.compare(self.features(images), self.features(targets))


class VGG16(Distance):
    """VGG16 features (Simonyan & Zisserman 2015).

    Args:
        layers: which features to compare, of VGG_LAYERS.
        after_relu: taken after the ReLU (LatentEditor) or before it.
        normalise: ImageNet mean and variance, as the network was trained; False gives it [0, 1] images, as LatentEditor does.
        size: images are brought to this side first; None leaves them.

    The weights are passed in with `load_torchvision`.

    Raises:
        ValueError: no layer, or an unknown one.
    """

    def __init__(self, layers=IMAGE2STYLEGAN_LAYERS, after_relu=True, normalise=True, size=256):
        super().__init__()
        self.layers, self.after_relu, self.size = tuple(layers), after_relu, size
        unknown = [layer for layer in self.layers if layer not in VGG_LAYERS]
        if unknown or not self.layers:
            raise ValueError(f"VGG16 layers {', '.join(unknown) or 'none'}; known are {', '.join(VGG_LAYERS)}")
        names = list(VGG_LAYERS)
        self.needed = names[: 1 + max(map(names.index, self.layers))]  # nothing deeper is asked for
        fan_in = 3
        for name in self.needed:
            self.add_module(name, fast_conv.Conv3(fan_in, VGG_LAYERS[name]))
            fan_in = VGG_LAYERS[name]
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if normalise else ((0, 0, 0), (1, 1, 1))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def load_torchvision(self, state):
        """Take the weights of torchvision's vgg16 (`features.0.weight`, ... or `0.weight`, ...). Returns self, frozen."""
        state = {k.removeprefix("features."): v for k, v in state.items() if not k.startswith("classifier")}
        places = sorted({int(k.split(".")[0]) for k in state})  # of the convolutions: 0, 2, 5, ...
        mine = {f"{name}.{part}": state[f"{i}.{part}"] for name, i in zip(self.needed, places, strict=False) for part in ("weight", "bias")}
        self.load_state_dict(mine)
        return self.eval().requires_grad_(False)

    def computed_in(self, dtype):
        """Convolutions in another number format; what goes in and what is compared stay float32. Returns self."""
        for name in self.needed:
            getattr(self, name).to(dtype)
        return self

    def features(self, images):
        """images [N, 3, H, W] in [-1, 1] -> for each layer [N, C, h, w]"""
        x = images if self.size is None else resized(images, self.size)
        x = ((x + 1) / 2 - self.mean) / self.std  # [N, 3, size, size], about of mean 0 and variance 1
        x = x.to(self.conv1_1.weight.dtype)
        found = {}
        for name in self.needed:
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)  # [N, C, h/2, w/2]
            before = getattr(self, name)(x)  # [N, C, h, w]
            x = F.relu(before)
            found[name] = (x if self.after_relu else before).float()
        return [found[name] for name in self.layers]


class LPIPS(VGG16):
    """Learned perceptual distance (Zhang et al. 2018, equation 1) on VGG16: unit-normalised features, weighted by channel.

    `load_linear` takes the weights that the `lpips` package ships (vgg.pth, version 0.1).
    """

    def __init__(self, size=256):
        super().__init__(LPIPS_LAYERS, size=size)
        self.mean.copy_((torch.tensor(LPIPS_SHIFT).view(3, 1, 1) + 1) / 2)  # `features` normalises (x + 1) / 2
        self.std.copy_(torch.tensor(LPIPS_SCALE).view(3, 1, 1) / 2)
        for i, layer in enumerate(self.layers):
            self.register_buffer(f"linear{i}", torch.ones(VGG_LAYERS[layer], 1, 1), persistent=False)

    def load_linear(self, state):
        """Take the channels' weights, `lin0.model.1.weight` [1, C, 1, 1], ... Returns self."""
        for i in range(len(self.layers)):
            getattr(self, f"linear{i}").copy_(state[f"lin{i}.model.1.weight"].view(-1, 1, 1))
        return self

    def features(self, images):
        """images [N, 3, H, W] in [-1, 1] -> for each layer [N, C, h, w], of length 1 over the channels"""
        found = super().features(images)
        return [f / (f.square().sum(1, keepdim=True) + LPIPS_EPS).sqrt() for f in found]

    def compare(self, a, b):
        weights = (getattr(self, f"linear{i}") for i in range(len(self.layers)))
        return sum(((x - y).square() * w).sum(1).flatten(1).mean(1) for w, x, y in zip(weights, a, b, strict=True))


def gram(features):
    """[N, C, H, W] -> [N, C, C]: inner products of the channels (Gatys et al. 2016, equation 3), divided by C H W."""
    n, c, h, w = features.shape
    flat = features.reshape(n, c, h * w)  # [N, C, H W]
    return flat @ flat.transpose(1, 2) / (c * h * w)


@dataclass(frozen=True)
class FeatureConfig:
    """The layers of a `Features` network: for each, what it is, its channels, kernel and stride."""

    kind: str
    size: int
    stages: list  # of blocks: {"expand": c or 0, "out": c, "kernel": k, "stride": s}; the first is the stem
    taps: list  # the blocks whose output is compared


class Features(Distance):
    """The first stages of EfficientNet-lite0 (Tan & Le 2019; Apache 2.0), batch norm folded in: small, fast, trained on ImageNet.

    Each tap is multiplied by `scale`, one over its spread on real faces, so that all layers count alike.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        fan_in = 3
        for i, s in enumerate(config.stages):
            width = s["expand"] or fan_in
            if i == 0:
                self.add_module("block0_conv", nn.Conv2d(3, s["out"], s["kernel"], s["stride"]))
            else:
                if s["expand"]:
                    self.add_module(f"block{i}_expand", nn.Conv2d(fan_in, width, 1))
                self.add_module(f"block{i}_depthwise", nn.Conv2d(width, width, s["kernel"], s["stride"], groups=width))
                self.add_module(f"block{i}_project", nn.Conv2d(width, s["out"], 1))
            fan_in = s["out"]
        self.register_buffer("scale", torch.ones(len(config.taps)))

    def padded(self, conv, x):
        """conv(x) with zeros around x as TensorFlow's SAME puts them, for even sides: [N, I, H, W] -> [N, O, H/s, W/s], s the stride."""
        k, stride = conv.kernel_size[0], conv.stride[0]
        total = k - stride if stride > 1 else k - 1
        return conv(F.pad(x, (total // 2, total - total // 2) * 2))

    def features(self, images):
        """images [N, 3, H, W] in [-1, 1] -> for each tap [N, C, h, w]"""
        x, found = resized(images, self.config.size), []  # [N, 3, size, size]
        for i, s in enumerate(self.config.stages[: max(self.config.taps) + 1]):
            if i == 0:
                x = F.relu6(self.padded(self.block0_conv, x))  # [N, C, size/2, size/2]
            else:  # widen, filter each channel, narrow; added to what came in where the shapes agree
                y = F.relu6(fast_conv.pointwise(getattr(self, f"block{i}_expand"), x)) if s["expand"] else x
                y = F.relu6(self.padded(getattr(self, f"block{i}_depthwise"), y))
                y = fast_conv.pointwise(getattr(self, f"block{i}_project"), y)
                x = x + y if y.shape == x.shape else y
            if i in self.config.taps:
                found.append(x * self.scale[len(found)])
        return found
