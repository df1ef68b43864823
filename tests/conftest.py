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
def tiny(tmp_path_factory):
    """A random 16x16 generator for tests that need no good one: `weights` (its file), `G`, and `folder` with faces a, b, c, d of it
    (NAME.npy, and NAME.png, which each renders to); a and b have noise maps of their own, `other.npy` is another generator's.

    `render(path)` -> the picture of a latent file, uint8 [R, R, 3], by a session of its own. `tuned(path, seed)` writes a face that has
    noise maps and tuned weights, and returns its path.
    """
    from types import SimpleNamespace

    import torch

    from editor import checkpoints, cli, face, images, render, tuning
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

    def tuned(path, seed):
        random = torch.Generator().manual_seed(seed)
        weights = {name: (0.3 * torch.randn(v.shape, generator=random)).half() for name, v in tuning.zeros(session.G, "kernel").items()}
        ws = torch.randn(1, session.G.num_ws, 512, generator=random)
        maps = [m + torch.randn(m.shape, generator=random) for m in face.own_noise(session.G)]
        face.write(path, ws, {"generator_hash": session.G.meta["hash"], "sources": {}}, maps, weights)
        return path

    return SimpleNamespace(weights=folder / "tiny.safetensors", G=session.G, folder=folder, render=again, tuned=tuned)


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

    It reads in/, and writes w/ and s/. Without other words it is free in W+ (--preset exact), an image at a time.
    """
    import encode_image
    from editor import checkpoints

    load = checkpoints.load_generator
    monkeypatch.setattr(checkpoints, "load_generator", lambda name, device: load(name, device) if name else G)
    monkeypatch.chdir(tmp_path)
    usual = {"--src_dir": "in", "--latent_dir": "w", "--save_dir": "s", "--preset": "exact", "--batch_size": 1, "--iteration": 2,
             "--perceptual": "none",
             "--init": "mean", "--compile": "off", "--precision": "fp32", "--lr": 0.02}  # fmt: skip

    def encode(*words):
        words = [str(word) for word in words]
        flags = [str(part) for pair in usual.items() if pair[0] not in words for part in pair]
        return encode_image.main(flags + words)

    return encode


@pytest.fixture
def photographs(tmp_path, portraits):
    """in/a.png, in/b.png and in/c.png in tmp_path."""
    from editor import images

    for name, pixels in zip("abc", portraits, strict=False):
        images.save(tmp_path / "in" / f"{name}.png", pixels)


@pytest.fixture(scope="session")
def sg3(tmp_path_factory):
    """Random StyleGAN3 generators of side 32, {"T": ..., "R": ...}, each as `tiny` has them: `weights`, `G`, and `folder` with faces a
    and b (NAME.npy, and NAME.png, which each renders to); read only.
    """
    from types import SimpleNamespace

    import torch

    from editor import checkpoints, face, images, render
    from stylegan3_layers import Config3, Generator3

    found = {}
    for kind, settings in {"T": {}, "R": {"conv_kernel": 1, "use_radial_filters": True}}.items():
        folder = tmp_path_factory.mktemp(f"sg3{kind}")
        torch.manual_seed(5)
        G = Generator3(Config3("stylegan3", 32, channel_base=512, channel_max=16, z_dim=64, w_dim=64, **settings))
        G.synthesis.input.affine.weight.data.normal_(std=0.1)
        with torch.no_grad():
            for layer in (getattr(G.synthesis, name) for name in G.synthesis.names):
                layer.bias.normal_(std=0.1)
            layer.weight.mul_(10)  # ToRGB's: pictures of some contrast
            G.w_avg.copy_(G.mapping(torch.randn(1000, 64)).mean(0))
        checkpoints.save(folder / "sg3.safetensors", G, perceptual="bundled")
        G = checkpoints.load_generator(folder / "sg3.safetensors")
        for name in ("a", "b"):
            with torch.no_grad():
                ws = G.truncate(G.mapping(torch.randn(1, 64)), 0.7)
            face.write(folder / f"{name}.npy", ws, {"generator_hash": G.meta["hash"], "sources": {}})
            images.save(folder / f"{name}.png", render.one(G, face.read_one(folder / f"{name}.npy", G)))
        found[kind] = SimpleNamespace(weights=folder / "sg3.safetensors", G=G, folder=folder)
    return found
