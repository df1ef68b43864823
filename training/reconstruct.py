"""An encoder trained beside the generator: real faces -> W+, and back to the same faces.

A GAN alone leaves most photographs far from W; here half of each batch are renderings of encoded photographs, which must
look like them (the decoder of a VAE-GAN, Larsen et al. 2016) and fool the discriminator like any sample. A critic in W tells
encoded latents from those of the mapping network (e4e, Tov et al. 2021); both learn to be mistaken for the other, so that
random samples and photographs come to live in one place (ALAE, Pidhorskyi et al. 2020).
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from editor import checkpoints, networks


def new_encoder(G, features_path):
    """A new encoder for a generator; its last layer starts at 0, so its first guess is the mean latent."""
    features = checkpoints.load_features(features_path)
    encoder = networks.Encoder(networks.EncoderConfig(dataclasses.asdict(features.config), G.num_ws, G.config.w_dim))
    encoder.features.load_state_dict(features.state_dict())
    encoder.w_avg.copy_(G.w_avg)
    torch.nn.init.zeros_(encoder.fc2.weight)
    torch.nn.init.zeros_(encoder.fc2.bias)
    return encoder


def fit_mapping(G, encoder, images, spread=1.4, steps=1500, batch=256, lr=2.0):
    """Teach G's mapping network to draw its w from where `encoder` puts photographs: a Gaussian of their mean and, `spread`
    times in each direction, their deviations. Samples then look as photographs' renderings do; training sharpens them.

    Args:
        images: uint8 [N, 3, R, R]; some thousands.

    Returns:
        the share of that Gaussian's variance which the network does not explain.
    """
    device = G.w_avg.device
    with torch.no_grad():
        w = torch.cat([encoder(x.to(device).float() / 127.5 - 1).mean(1) for x in images.split(50)])
        values, vectors = torch.linalg.eigh(torch.cov(w.T))
        deviations = (spread * vectors * values.clamp(min=0).sqrt())[:, -G.config.z_dim :]  # [w_dim, at most z_dim], the largest
    weights = [p.requires_grad_(True) for p in G.mapping.parameters()]
    optimiser = torch.optim.Adam(weights, lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 100) * (1 - step / steps)
        z = F.normalize(torch.randn(batch, G.config.z_dim, device=device)) * G.config.z_dim**0.5
        wanted = w.mean(0) + z[:, : deviations.shape[1]] @ deviations.T
        loss = (G.mapping(z) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    G.w_avg.copy_(w.mean(0))
    return (loss / deviations.square().sum(1).mean()).item()


class Critic(nn.Module):
    """w [N, 512] -> [N]; above 0: the mapping network's, below: the encoder's."""

    def __init__(self, w_dim, hidden=256):
        super().__init__()
        sizes = (w_dim, hidden, hidden)
        layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (spectral_norm(nn.Linear(a, b)), nn.LeakyReLU(0.2))]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Linear(hidden, 1)))
        self.register_buffer("mean", torch.zeros(w_dim))
        self.register_buffer("spread", torch.ones(()))

    def measure(self, G, count=4096):
        """Take mean and spread of W from a generator, so that the critic sees values of size 1. Returns self."""
        with torch.no_grad():
            w = G.mapping(torch.randn(count, G.config.z_dim, device=self.mean.device))
        self.mean.copy_(w.mean(0))
        self.spread.copy_(w.std(0).mean())
        return self

    def forward(self, w):
        return self.layers((w - self.mean) / self.spread).flatten()


def one_layer(ws):
    """ws [N, L, 512] -> [N, 512]: of each image a layer drawn at random."""
    return ws[torch.arange(len(ws), device=ws.device), torch.randint(ws.shape[1], (len(ws),), device=ws.device)]


def mostly_in_w(ws):
    """ws [N, L, 512], of three images in four one w, the mean over its layers, for all of them: a generator that is taught by W+
    latents alone renders photographs well, and only off the W that its samples come from.
    """
    return torch.where(torch.arange(len(ws), device=ws.device).view(-1, 1, 1) % 4 == 0, ws, ws.mean(1, keepdim=True))


def loss_of(made, images, ws, distance):
    """Image2StyleGAN's loss of renderings of `ws`, and a little pull of all layers towards one w (e4e's delta)."""
    alike = (made - images).square().flatten(1).mean(1) + distance(made, images)
    return alike.mean() + 0.02 * (ws - ws.mean(1, keepdim=True)).square().mean()


def fooled(critic, known, guessed):
    """What mapping network and encoder want of the critic: that it takes the one's w [N, 512] for the other's."""
    return F.softplus(critic(known)).mean() + F.softplus(-critic(guessed)).mean()


def told_apart(critic, known, guessed):
    """The critic's own loss."""
    return F.softplus(-critic(known)).mean() + F.softplus(critic(guessed)).mean()
