"""What comes bundled beside the generator: the attribute network and the encoder."""

import reprlib
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import nn

from perceptual_model import FeatureConfig, Features

FEATURES = "efficientnet-lite0"  # the kind of the bundled feature network


def whole(name, value, low, high):
    """value, a whole number in low..high, or ValueError."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} {reprlib.repr(value)}; it must be a whole number from {low} to {high}")
    return value


def widths(name, values, count, low=1, high=4096):
    """A tuple of `count` whole numbers, or ValueError."""
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ValueError(f"{name} {reprlib.repr(values)}; it must be {count} numbers")
    return tuple(whole(name, value, low, high) for value in values)


def checked_features(config):
    """A FeatureConfig whose sizes a network can have, or ValueError."""
    if config.kind != FEATURES:
        raise ValueError(f"features of the kind {reprlib.repr(config.kind)}; known is {FEATURES}")
    whole("size", config.size, 32, 1024)
    if not isinstance(config.stages, list | tuple) or not 1 <= len(config.stages) <= 32:
        raise ValueError("stages must be a list of 1 to 32 blocks")
    for stage in config.stages:
        if not isinstance(stage, dict) or stage.keys() != {"expand", "out", "kernel", "stride"}:
            raise ValueError(f"the stage {reprlib.repr(stage)}; it must have expand, out, kernel and stride, and no more")
        for key, low, high in [("expand", 0, 4096), ("out", 1, 4096), ("kernel", 1, 15), ("stride", 1, 2)]:
            whole(f"stages: {key}", stage[key], low, high)
    if not isinstance(config.taps, list | tuple) or not 1 <= len(config.taps) <= len(config.stages):
        raise ValueError("taps must be a list of the stages that are compared")
    taps = [whole("taps", tap, 0, len(config.stages) - 1) for tap in config.taps]
    if taps != sorted(set(taps)):
        raise ValueError(f"taps {taps}; they must rise")
    return config


@dataclass(frozen=True)
class AttributeConfig:
    """What a checkpoint says of an AttributeNet: channels of its five blocks, and of its hidden dense layer."""

    kind: str = "attributes"
    resolution: int = 128
    channels: tuple = (16, 32, 64, 128, 192)
    hidden: int = 128

    def __post_init__(self):
        whole("resolution", self.resolution, 32, 1024)
        widths("channels", self.channels, 5)
        whole("hidden", self.hidden, 1, 4096)


class AttributeNet(nn.Module):
    """A small VGG for faces: five blocks of two 3x3 convolutions with ReLU, each followed by 2x2 max pooling; two dense layers.

    Trained by training/train_attributes.py for several attributes at once. Its convolutions are named like VGG's (conv1_1,
    conv1_2, conv2_1, ... conv5_2). Batch normalisation, used in training, is folded into the weights.
    """

    OUTPUTS = {"gender": 1, "age": 5, "yaw": 1, "smile": 1, "glasses": 1}  # raw outputs of each attribute

    def __init__(self, config=None):
        super().__init__()
        self.config = config or AttributeConfig()
        fan_in = 3
        for block, width in enumerate(self.config.channels, 1):
            for i in (1, 2):
                self.add_module(f"conv{block}_{i}", nn.Conv2d(fan_in, width, 3, padding=1))
                fan_in = width
        side = self.config.resolution >> len(self.config.channels)
        self.fc1 = nn.Linear(fan_in * side * side, self.config.hidden)
        self.fc2 = nn.Linear(self.config.hidden, sum(self.OUTPUTS.values()))

    @property
    def layers(self):
        """["conv1_1", "conv1_2", ..., "conv5_2"]"""
        return [f"conv{block}_{i}" for block in range(1, len(self.config.channels) + 1) for i in (1, 2)]

    def features(self, x, names, relu=True):
        """Feature maps [N, C, H/s, W/s] of named layers, in the order of `names`; s is 1, 2, 4, 8, 16 in the five blocks.

        Args:
            x: images [N, 3, H, W] in [-1, 1], sides divisible by 32; the network was trained at 128.
            names: of `layers`.
            relu: after the ReLU (default) or before.

        Raises:
            ValueError: a name that is not in `layers`.
        """
        unknown = [name for name in names if name not in self.layers]
        if unknown:
            raise ValueError(f"layer {unknown[0]!r}; the attribute network has {', '.join(self.layers)}")
        found, last = {}, max((self.layers.index(name) for name in names), default=-1)
        for name in self.layers[: last + 1]:
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)  # [N, C, H/2s, W/2s]
            before = getattr(self, name)(x)
            x = F.relu(before)
            found[name] = x if relu else before
        return [found[name] for name in names]

    def embed(self, x):
        """Images [N, 3, 128, 128] in [-1, 1] -> the hidden dense layer [N, hidden], for Frechet distances and neighbours."""
        x = F.max_pool2d(self.features(x, self.layers[-1:])[0], 2)  # [N, C, 4, 4]
        return F.relu(self.fc1(x.flatten(1)))

    def forward(self, x):
        """Images [N, 3, 128, 128] in [-1, 1] -> raw outputs, {attribute: [N, k]}, as the training losses want them."""
        r = self.config.resolution
        if x.shape[1:] != (3, r, r):
            raise ValueError(f"images {list(x.shape)}; the attribute network takes [N, 3, {r}, {r}]")
        return dict(zip(self.OUTPUTS, self.fc2(self.embed(x)).split(list(self.OUTPUTS.values()), dim=1), strict=True))

    def scores(self, x):
        """Images [N, 3, 128, 128] in [-1, 1] -> {attribute: [N]}.

        gender (male positive), smile and glasses are log-odds: above 0 is yes. age is in years. yaw is 0 for a frontal face;
        its sign is the side: positive where the nose tip lies to the right of the eyes' middle in the picture.
        """
        raw = self(x)
        scores = {name: raw[name][:, 0] for name in self.OUTPUTS}
        scores["age"] = 25 + 10 * raw["age"].sigmoid().sum(dim=1)  # outputs: over 30, 40, 50, 60, 70; 25: middle of 20-29
        return scores


@dataclass(frozen=True)
class EncoderConfig:
    """What a checkpoint says of an `Encoder`: the features it looks at, and its own sizes."""

    features: dict  # a FeatureConfig, as a dict
    num_ws: int
    w_dim: int = 512
    channels: tuple = (64, 128, 256)  # at an eighth, a sixteenth and a thirty-second of the features' input
    hidden: int = 320
    ranks: tuple = (192, 160)  # of the two dense layers, each a product of two narrow ones: half the file
    kind: str = "encoder"

    def __post_init__(self):
        names = [f.name for f in fields(FeatureConfig)]
        if not isinstance(self.features, dict) or sorted(self.features) != sorted(names):
            raise ValueError(f"features must have {', '.join(names)}, and no more")
        if len(checked_features(FeatureConfig(**self.features)).taps) != 4:
            raise ValueError("features must have 4 taps")
        whole("num_ws", self.num_ws, 1, 64)
        whole("w_dim", self.w_dim, 1, 4096)
        widths("channels", self.channels, 3)
        whole("hidden", self.hidden, 1, 4096)
        widths("ranks", self.ranks, 2)


class Encoder(nn.Module):
    """Guesses the latent of a picture.

    The frozen features (shared with the distance) are read at three scales; two dense layers give one w a layer, as an
    offset from the mean latent. Trained by training/train_encoder.py; `--init encoder` starts from its guess.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.features = Features(FeatureConfig(**config.features)).requires_grad_(False)
        widths = [self.features.config.stages[t]["out"] for t in self.features.config.taps]
        a, b, c = config.channels
        self.conv1 = nn.Conv2d(widths[1], a, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(a + widths[2], b, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(b + widths[3], c, 3, padding=1)
        self.conv4 = nn.Conv2d(c, c, 3, stride=2, padding=1)
        self.narrow1 = nn.Linear(c * (self.features.config.size // 32) ** 2, config.ranks[0], bias=False)
        self.fc1 = nn.Linear(config.ranks[0], config.hidden)
        self.norm = nn.LayerNorm(config.hidden)
        self.narrow2 = nn.Linear(config.hidden, config.ranks[1], bias=False)
        self.fc2 = nn.Linear(config.ranks[1], config.num_ws * config.w_dim)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, images):
        """images [N, 3, R, R] in [-1, 1] -> ws [N, L, 512], w_avg added"""
        _, fine, middle, coarse = self.features.features(images)  # at a quarter, an eighth, a sixteenth of the features' input
        x = F.leaky_relu(self.conv1(fine), 0.2)  # [N, a, S/8, S/8]
        x = F.leaky_relu(self.conv2(torch.cat([x, middle], 1)), 0.2)  # [N, b, S/16, S/16]
        x = F.leaky_relu(self.conv3(torch.cat([x, coarse], 1)), 0.2)  # [N, c, S/16, S/16]
        x = F.leaky_relu(self.conv4(x), 0.2).flatten(1)  # [N, c (S/32)^2]
        x = self.norm(F.leaky_relu(self.fc1(self.narrow1(x)), 0.2))  # [N, hidden]
        offset = 0.1 * self.fc2(self.narrow2(x))  # [N, L * 512]; 0.1: a step of Adam moves w by a tenth of its spread
        return self.w_avg + offset.view(len(images), self.config.num_ws, self.config.w_dim)
