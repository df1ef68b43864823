"""What many tests share: the bundled generator, a command run as a person runs it, and arithmetic alike on every machine."""

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
def run():
    """run("encode_image.py", *words, cwd=..., env=...) -> the finished process, with stdout and stderr as text."""

    def run(script, *words, cwd=ROOT, env=None, timeout=300):
        command = [sys.executable, str(ROOT / script), *map(str, words)]
        env = os.environ | ENVIRONMENT | (env or {})
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A random 16x16 generator for tests that need no good one: `weights` (its file), `G`, and `folder` with faces a, b, c, d of it
    (NAME.npy, and NAME.png, which each renders to); a and b have noise maps of their own, `other.npy` is another generator's.

    `render(path)` -> the picture of a latent file, uint8 [R, R, 3], by a session of its own.
    """
    from types import SimpleNamespace

    import torch

    from editor import checkpoints, cli, face, images, render
    from editor import session as sessions
    from stylegan_layers import Config, Generator

    folder, random = tmp_path_factory.mktemp("tiny"), torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    network = Generator(Config("stylegan1", 16, channel_base=256, mapping_layers=2))
    for layer in network.synthesis.layers():
        layer.noise_strength.data.fill_(0.3)
    checkpoints.save(folder / "tiny.safetensors", network, perceptual="bundled")
    parser = cli.Parser("")
    cli.add_face_flags(parser)
    cli.add_model_flags(parser)

    def open_session(*words):
        return sessions.open(parser.parse_args(["--weight_file", str(folder / "tiny.safetensors"), *words]))

    def again(path, *words):
        session = open_session(*words)
        return render.one(session.G, session.read_one(path), session.dtype)

    session = open_session()
    for i, name in enumerate(("a", "b", "c", "d", "other")):
        ws = torch.randn(1, session.G.num_ws, 512, generator=random)
        maps = [m + torch.randn(m.shape, generator=random) for m in face.own_noise(session.G)] if i < 2 else None
        info = {"generator_hash": "0" * 64 if name == "other" else session.G.meta["hash"], "sources": {}}
        face.write(folder / f"{name}.npy", ws, info, maps)
        if name != "other":
            images.save(folder / f"{name}.png", again(folder / f"{name}.npy"))
    return SimpleNamespace(weights=folder / "tiny.safetensors", G=session.G, folder=folder, render=again)
