"""The projected discriminator: small trained heads on a frozen network's features (Projected GANs, Sauer et al. 2021).

Beside StyleGAN's own discriminator it knows from the first image on what eyes and mouths look like (vision-aided
training, Kumari et al. 2022); alone it lets the generator forget variety. The frozen network is EfficientNet-lite0.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS = (32, 32, 64, 128)  # maps a scale, after the random projection


def _head(width, side):
    """Halve `side` down to 4, then one logit for each 4x4 window: [N, width, side, side] -> [N, 1]."""
    layers = []
    while side > 4:
        layers += [spectral_norm(nn.Conv2d(width, 64, 4, stride=2, padding=1, bias=False)), nn.BatchNorm2d(64), nn.LeakyReLU(0.2)]
        width, side = 64, side // 2
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 4)), nn.Flatten())


class ProjectedHeads(nn.Module):
    """Features of the frozen network -> one logit for each scale, [N, 4].

    Channels and scales are mixed by fixed random 1x1 convolutions, coarse added to fine, so that no head can look at a
    few easy features alone.
    """

    def __init__(self, channels, sides):
        super().__init__()
        self.mix = nn.ModuleList(nn.Conv2d(c, w, 1, bias=False).requires_grad_(False) for c, w in zip(channels, WIDTHS, strict=True))
        below = WIDTHS[1:] + (None,)
        self.down = nn.ModuleList(nn.Conv2d(b, w, 1, bias=False).requires_grad_(False) for w, b in zip(WIDTHS, below, strict=True) if b)
        for conv in [*self.mix, *self.down]:
            nn.init.normal_(conv.weight, std=conv.in_channels**-0.5)
        self.heads = nn.ModuleList(_head(w, s) for w, s in zip(WIDTHS, sides, strict=True))

    def forward(self, features):
        mixed = [m(f) for m, f in zip(self.mix, features, strict=True)]
        for i in reversed(range(len(mixed) - 1)):
            coarse = F.interpolate(mixed[i + 1], size=mixed[i].shape[2:], mode="nearest")
            mixed[i] = (mixed[i] + self.down[i](coarse)) * 0.5**0.5
        return torch.cat([head(m) for head, m in zip(self.heads, mixed, strict=True)], dim=1)


def build(network, size):
    """Heads for a frozen `perceptual_model.Features` fed with [N, 3, size, size]."""
    with torch.no_grad():
        features = network.features(torch.zeros(1, 3, size, size))
    return ProjectedHeads([f.shape[1] for f in features], [f.shape[2] for f in features])
