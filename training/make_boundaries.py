"""Make the boundaries that come with the project: gender, age, pose, eyeglasses and smile, in W of a generator.

    python -m training.make_boundaries --out boundaries/

Faces of the generator are scored by the attribute network (weight_files/attributes.safetensors), and the highest and lowest of
each score are parted by a linear SVM (train_boundary.py). It writes boundaries/NAME.npy and NAME.json, and boundaries/README.md with
what was measured: accuracy, cosines, and how far each score moves when each boundary is followed.

Scored faces are kept in --cache as they are made: a stopped run goes on there. Same generator, seed and machine: same files.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import cli
import files
import latents
import media
import model_zoo
import train_boundary
from perceptual_model import AttributeConfig, AttributeNet, resized

ATTRIBUTES = {"gender": "gender", "age": "age", "pose": "yaw", "eyeglasses": "glasses", "smile": "smile"}  # boundary -> score
CHUNK = 500  # faces a file of the cache
RENDER, SCORE = 50, 8  # images at a time; found by timing on one core


# ---------------------------------------------------------------------------------------------------------------------
# Scored faces


def load_scorer(path):
    """The attribute network, frozen; twice as fast with channels last."""
    net = AttributeNet(AttributeConfig(kind="attributes", **model_zoo.read_metadata(path)["config"]))
    model_zoo.load_strictly(net, path)
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.inference_mode()
def score(G, net, ws):
    """ws [N, L, 512] -> scores float64 [N, 5] of their renderings, in the order of ATTRIBUTES.

    The network takes the training crop, which is what the generator makes, at 128x128.
    """
    found = []
    for part in ws.split(RENDER):
        images = resized(G.synthesis(part).clamp(-1, 1), net.config.resolution)
        for x in images.contiguous(memory_format=torch.channels_last).split(SCORE):
            scores = net.scores(x)
            found.append(torch.stack([scores[s] for s in ATTRIBUTES.values()], dim=1))
    return torch.cat(found).double().numpy()


def random_w(G, count, psi, seed):
    """count random w [N, 512], truncated by psi: W, sampled as faces are usually made."""
    z = torch.randn(count, G.config.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return G.truncate(G.mapping(z), psi)[:, 0]


def scored_faces(G, net, count, psi, seed, cache, bar):
    """w float32 [count, 512] and scores float64 [count, 5]; made a chunk at a time, each kept in a file of `cache`."""
    parts = []
    for chunk in range(-(-count // CHUNK)):
        path = Path(cache) / f"{chunk:04}.npz"
        if not path.is_file():
            w = random_w(G, CHUNK, psi, seed * 1_000_000 + chunk)
            scores = score(G, net, w[:, None].expand(-1, G.num_ws, -1))
            with files.atomic(path) as temporary:
                np.savez(temporary, w=w.numpy(), scores=scores)
        with np.load(path) as kept:
            parts.append((kept["w"], kept["scores"]))
        bar.update(CHUNK)
    w, scores = (np.concatenate(p)[:count] for p in zip(*parts, strict=True))
    return w, scores
