"""What many tests share: generators, a command run as a person runs it, and arithmetic alike on every machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="session")
def G():
    """The bundled generator, on the CPU; read only."""
    from editor import checkpoints

    return checkpoints.load_generator()


@pytest.fixture(scope="session")
def small_G():
    """A generator of side 16 with 6 layers and random weights; read only."""
    import torch

    import stylegan_layers

    torch.manual_seed(0)
    G = stylegan_layers.Generator(stylegan_layers.Config("stylegan1", resolution=16, channel_base=128))
    for layer in G.synthesis.layers():
        layer.noise_strength.data.fill_(0.1)
    G.w_avg.normal_(std=0.1)
    G.meta = {"hash": "1" * 64, "path": "small", "perceptual": None}
    return G.freeze()


@pytest.fixture(scope="session")
def run():
    """run("encode_image.py", *words, cwd=..., env=...) -> the finished process, with stdout and stderr as text."""

    def run(script, *words, cwd=ROOT, env=None, timeout=300):
        command = [sys.executable, str(ROOT / script), *map(str, words)]
        env = os.environ | ENVIRONMENT | (env or {})
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def portraits(G):
    """Four renderings of the bundled generator, uint8 [4, R, R, 3]."""
    import torch

    from editor import images

    z = torch.randn(4, 512, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return images.to_uint8(G(z, truncation_psi=0.7))


@pytest.fixture
def encode(G, tmp_path, monkeypatch):
    """encode(*words) -> the exit code of encode_image.py in this process, in tmp_path, with few steps and the generator at hand.

    It reads in/, and writes w/ and s/.
    """
    import encode_image
    from editor import checkpoints

    load = checkpoints.load_generator
    monkeypatch.setattr(checkpoints, "load_generator", lambda name, device: load(name, device) if name else G)
    monkeypatch.chdir(tmp_path)
    usual = {"--src_dir": "in", "--latent_dir": "w", "--save_dir": "s", "--iteration": 2, "--perceptual": "none", "--init": "mean",
             "--compile": "off", "--precision": "fp32", "--lr": 0.02}  # fmt: skip

    def encode(*words):
        words = [str(word) for word in words]
        flags = [str(part) for pair in usual.items() if pair[0] not in words for part in pair]
        return encode_image.main(flags + words)

    return encode
