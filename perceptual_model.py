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
VGG_CHANNELS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)
VGG_LAYERS = (
    *("conv1_1", "conv1_2", "pool", "conv2_1", "conv2_2", "pool", "conv3_1", "conv3_2", "conv3_3", "pool"),
    *("conv4_1", "conv4_2", "conv4_3", "pool", "conv5_1", "conv5_2", "conv5_3"),
)
IMAGE2STYLEGAN_LAYERS = ("conv1_1", "conv1_2", "conv3_2", "conv4_2")
LPIPS_LAYERS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")


def resized(images, size):
    """Images with their shorter side brought to `size`: averaged when larger, bilinear when smaller."""
    side = min(images.shape[-2:])
    if side == size:
        return images
    if side % size == 0:
        return F.avg_pool2d(images, side // size)
    return F.interpolate(images, scale_factor=size / side, mode="bilinear", antialias=side > size)


def squares(a, b):
    """Mean squared difference of each image, [N, ...] and [N or 1, ...] -> [N]."""
    return fast_conv.alone(lambda d: d.square().flatten(1).mean(1), a - b, always=True)


def pointwise(conv, x):
    """A 1x1 convolution as one product of matrices per image: faster on a CPU, and alike for an image alone and in a batch."""
    return (conv.weight.flatten(1) @ x.flatten(2)).unflatten(2, x.shape[2:]) + conv.bias.view(-1, 1, 1)


class Distance(nn.Module):
    """Sum over layers of the mean squared difference of features (Image2StyleGAN, equation 2, all lambda 1)."""

    def features(self, images):
        raise NotImplementedError

    def compare(self, a, b):
        """Feature lists of equal shapes (the second may have one image for all) -> [N]."""
        return sum(squares(x, y) for x, y in zip(a, b, strict=True))

    def grams(self, images):
        """[N, 3, H, W] in [-1, 1] -> the Gram matrix [N, C, C] of each layer."""
        return [gram(f) for f in self.features(images)]

    def forward(self, images, targets):
        return self.compare(self.features(images), self.features(targets))


class VGG16(Distance):
    """VGG16 features by name: conv1_1 ... conv5_3.

    Args:
        layers: which features to compare.
        after_relu: taken after the ReLU (LatentEditor) or before it.
        normalise: ImageNet mean and variance, as the network was trained; False gives it [0, 1] images, as LatentEditor does.
        size: images are brought to this side first; None leaves them.

    The weights are passed in with `load_torchvision`: torchvision's `vgg16().features` state dict.
    """

    def __init__(self, layers=IMAGE2STYLEGAN_LAYERS, after_relu=True, normalise=True, size=256):
        super().__init__()
        self.layers, self.after_relu, self.size = tuple(layers), after_relu, size
        unknown = set(self.layers) - set(VGG_LAYERS)
        if unknown or not self.layers:
            raise ValueError(f"VGG16 layers {sorted(unknown)}; known are {', '.join(n for n in VGG_LAYERS if n != 'pool')}")
        self.order = VGG_LAYERS[: 1 + max(VGG_LAYERS.index(layer) for layer in self.layers)]  # nothing deeper is asked for
        fan_in = 3
        for name, channels in zip(self.order, VGG_CHANNELS, strict=False):
            if name != "pool":
                self.add_module(name, fast_conv.Conv3(fan_in, channels))
                fan_in = channels
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if normalise else ((0, 0, 0), (1, 1, 1))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def load_torchvision(self, state):
        """Take the weights of torchvision's vgg16 (`features.0.weight`, ... or `0.weight`, ...). Returns self, frozen."""
        state = {k.removeprefix("features."): v for k, v in state.items() if not k.startswith("classifier")}
        index, mine = 0, {}
        for name in self.order:
            if name == "pool":
                index += 1
                continue
            for part in ("weight", "bias"):
                mine[f"{name}.{part}"] = state[f"{index}.{part}"]
            index += 2
        self.load_state_dict(mine)
        return self.eval().requires_grad_(False)

    def features(self, images):
        x = images if self.size is None else resized(images, self.size)
        x = ((x + 1) / 2 - self.mean) / self.std
        found = {}
        for name in self.order:
            if name == "pool":
                x = F.max_pool2d(x, 2)
                continue
            x = getattr(self, name)(x)
            if not self.after_relu:
                found[name] = x
            x = F.relu(x)
            if self.after_relu:
                found[name] = x
        return [found[name] for name in self.layers]


class LPIPS(VGG16):
    """Learned perceptual distance (Zhang et al. 2018) on VGG16: unit-normalised features, weighted by channel.

    `load_linear` takes the weights that the `lpips` package ships (vgg.pth, version 0.1).
    """

    def __init__(self, size=256):
        super().__init__(LPIPS_LAYERS, size=size)
        # lpips' own constants: what it does to [-1, 1] images, written for (x + 1) / 2
        self.mean.copy_((torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1) + 1) / 2)
        self.std.copy_(torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1) / 2)
        self.linear = None

    def load_linear(self, state):
        self.linear = [state[f"lin{i}.model.1.weight"].flatten() for i in range(len(self.layers))]
        return self

    def features(self, images):
        found = super().features(images)
        return [f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in found]

    def compare(self, a, b):
        terms = zip(self.linear, a, b, strict=True)
        return sum(((x - y).square() * w.to(x.device).view(-1, 1, 1)).sum(1).flatten(1).mean(1) for w, x, y in terms)


def gram(features):
    """[N, C, H, W] -> [N, C, C]: inner products of the channels, divided by C H W (Gatys et al. 2016)."""
    n, c, h, w = features.shape
    flat = features.reshape(n, c, h * w)
    return flat @ flat.transpose(1, 2) / (c * h * w)


class ContentAndStyle(Distance):
    """A distance joined by the Gram loss of its deepest features, which says what is there and not where.

    The Gram term is |A - B|^2 / |B|^2, a share: its weight then means the same on VGG16 and on the bundled network.

    Args:
        distance: the content.
        content, style: the weights of the two.
    """

    def __init__(self, distance, content=1.0, style=1.0):
        super().__init__()
        self.distance, self.content, self.style = distance, content, style

    def features(self, images):
        found = self.distance.features(images)
        return [*found, gram(found[-1])]

    def compare(self, a, b):
        *content_a, gram_a = a
        *content_b, gram_b = b
        style = (gram_a - gram_b).square().flatten(1).sum(1) / gram_b.square().flatten(1).sum(1)
        return self.content * self.distance.compare(content_a, content_b) + self.style * style


@dataclass(frozen=True)
class FeatureConfig:
    """The layers of a `Features` network: for each, what it is, its channels, kernel and stride."""

    kind: str
    size: int
    stages: list  # of blocks: {"expand": c or 0, "out": c, "kernel": k, "stride": s}; the first is the stem
    taps: list  # the blocks whose output is compared


class Features(Distance):
    """The first stages of EfficientNet-lite0 (Apache 2.0), batch norm folded in: small, fast, trained on ImageNet.

    Each tap is divided by its spread on real faces (`scale`), so that all layers count alike.
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

    def _padded(self, conv, x):
        k, stride = conv.kernel_size[0], conv.stride[0]
        total = k - stride if stride > 1 else k - 1  # TensorFlow's SAME, for even sizes
        return conv(F.pad(x, (total // 2, total - total // 2) * 2))

    def features(self, images):
        x, found = resized(images, self.config.size), []
        for i, s in enumerate(self.config.stages[: max(self.config.taps) + 1]):
            if i == 0:
                x = F.relu6(self._padded(self.block0_conv, x))
            else:
                y = F.relu6(pointwise(getattr(self, f"block{i}_expand"), x)) if s["expand"] else x
                y = F.relu6(self._padded(getattr(self, f"block{i}_depthwise"), y))
                y = pointwise(getattr(self, f"block{i}_project"), y)
                x = x + y if y.shape == x.shape else y
            if i in self.config.taps:
                found.append(x * self.scale[len(found)])
        return found
