"""An encoder that is trained beside the generator: real faces -> latents -> renderings, which must look like the faces.

Why: a generator that a GAN alone has trained renders few photographs well. Here half of each batch are renderings of encoded
photographs. They must look like the photographs, and they must fool the discriminator, as samples must (Larsen et al. 2016).

How samples and photographs come to share one W: a critic learns to tell latents of the encoder from latents of the mapping network
(e4e, Tov et al. 2021), and both networks learn to make it fail (ALAE, Pidhorskyi et al. 2020).
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


def weight_groups(encoder, lr):
    """Adam's groups of an encoder's weights: each is moved by `lr` times its own size a step, in place of `lr`.

    The frozen features' values reach hundreds, so the dense layer after them has weights of a thousandth, and steps of one size for all
    drown what it says: the latents of photographs then keep some thirty directions of W, and those of samples follow them there.

    Returns:
        [{"params": [weight], "lr": its rate at most, "scale": that divided by `lr`}]
    """
    groups = []
    for p in encoder.parameters():
        if p.requires_grad:
            inputs = p[0].numel() if p.ndim > 1 else len(p)
            size = p.detach().square().mean().sqrt().item() or (3 * inputs) ** -0.5  # of what starts at 0: about a new layer's
            groups.append({"params": [p], "lr": lr * size, "scale": size})
    return groups


def fit_mapping(G, encoder, images, spread=1.4, steps=1500, batch=256, lr=2.0):
    """Teach G's mapping network to draw its w from where `encoder` puts photographs, so that samples look as their renderings do.

    What it learns is a Gaussian with the mean of the encoded photographs and `spread` times their deviations.

    Args:
        images: uint8 [N, 3, R, R]; some thousands.
        spread: 1.0 draws latents as far apart as the photographs' are.

    Returns:
        The share of that Gaussian's variance which the network does not explain, 0 to 1.

    Raises:
        ValueError: one image has no deviations.
    """
    if len(images) < 2:
        raise ValueError("--fit_mapping: one picture says nothing of how far apart they are; give more, or leave it (and --preset) out")
    device = G.w_avg.device
    G.mapping.train()  # a generator from a file computes with weights that were derived once
    with torch.no_grad():
        w = torch.cat([encoder(x.to(device).float() / 127.5 - 1).mean(1) for x in images.split(50)])
        values, vectors = torch.linalg.eigh(torch.cov(w.T))
        deviations = (spread * vectors * values.clamp(min=0).sqrt())[:, -G.config.z_dim :]  # [w_dim, at most z_dim], the largest
    weights = [p.requires_grad_(True) for p in G.mapping.parameters()]
    optimiser = torch.optim.Adam(weights, lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 100) * (1 - step / steps)
        z = F.normalize(torch.randn(batch, G.config.z_dim, device=device)) * G.config.z_dim**0.5  # [batch, z_dim]
        wanted = w.mean(0) + z[:, : deviations.shape[1]] @ deviations.T
        loss = (G.mapping(z) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    G.w_avg.copy_(w.mean(0))
    return (loss / deviations.square().sum(1).mean()).item()


class Critic(nn.Module):
    """w [N, w_dim] -> scores [N]; above 0: it takes w for one of the mapping network, below 0: for one of the encoder."""

    def __init__(self, w_dim, hidden=256):
        super().__init__()
        sizes = (w_dim, hidden, hidden)
        layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (spectral_norm(nn.Linear(a, b)), nn.LeakyReLU(0.2))]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Linear(hidden, 1)))
        self.register_buffer("mean", torch.zeros(w_dim))
        self.register_buffer("spread", torch.ones(()))

    def measure(self, G, count=4096):
        """Take mean and spread of W from `count` samples of a generator, so that the critic sees values of size 1. Returns self."""
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
    """Latents of three images in four brought into W: each of their layers becomes the mean over the layers.

    A generator that is taught by W+ latents alone renders photographs well, but only far from W, where no sample comes from.

    Args:
        ws: [N, L, 512]. The images 0, 4, 8, ... stay as they are.
    """
    return torch.where(torch.arange(len(ws), device=ws.device).view(-1, 1, 1) % 4 == 0, ws, ws.mean(1, keepdim=True))


def loss_of(made, images, ws, distance):
    """How unlike renderings of `ws` are to `images`: Image2StyleGAN's loss, and a little pull of all layers towards one w (e4e's delta)."""
    unlike = (made - images).square().flatten(1).mean(1) + distance(made, images)
    return unlike.mean() + 0.02 * (ws - ws.mean(1, keepdim=True)).square().mean()


def critic_loss(critic, mapped, encoded):
    """The critic's own loss: low when it scores w [N, 512] of the mapping network above 0 and w of the encoder below 0."""
    return F.softplus(-critic(mapped)).mean() + F.softplus(critic(encoded)).mean()


def loss_against_critic(critic, mapped, encoded):
    """The loss of mapping network and encoder: low when the critic takes each one's w [N, 512] for the other's."""
    return F.softplus(critic(mapped)).mean() + F.softplus(-critic(encoded)).mean()
