import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import image_crossover
from editor import face, images, render
from stylegan_layers import Config, Generator

ROOT = Path(__file__).resolve().parent.parent


def sample(G, count, seed, psi=0.8):
    """Latents [count, L, 512] of random faces."""
    with torch.no_grad():
        return G.truncate(G.mapping(torch.randn(count, 512, generator=torch.Generator().manual_seed(seed))), psi)


def pictures(G, ws):
    """[N, L, 512] -> images [N, 3, R, R] in [-1, 1]."""
    with torch.no_grad():
        return torch.cat([G.synthesis(part) for part in ws.split(16)]).clamp(-1, 1)


@pytest.fixture(scope="module")
def place(G, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    for name, ws in zip(("one", "two", "three"), sample(G, 3, 7), strict=True):
        face.save(folder / f"{name}.npy", ws[None], {"generator_hash": G.meta["hash"]})
    return folder


def call(*words):
    return image_crossover.main([str(word) for word in words])


# --- what a style mix keeps of its parents -------------------------------------------------------------------------


def structure(images):
    """Light and shade at 16x16, standardised: [N, 256]."""
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    small = torch.nn.functional.adaptive_avg_pool2d(luma, 16).flatten(1)
    return (small - small.mean(1, keepdim=True)) / small.std(1, keepdim=True)


def chroma(images):
    """Mean red - green and blue - green of the middle: [N, 2]."""
    q = images.shape[-1] // 4
    r, g, b = images[:, :, q:-q, q:-q].mean((2, 3)).T
    return torch.stack([r - g, b - g], 1)


def correlation(a, b):
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


@pytest.fixture(scope="module")
def parents_and_mix(G):
    """Pictures of 200 mixes (30 leave correlations 0.1 and more off), of their contents and of their styles, and of 600 faces in all."""
    n = 200
    faces = sample(G, 3 * n, 1)
    mixed = face.mix(faces[:n], faces[n : 2 * n], image_crossover.finer_half(G.num_ws))
    images = pictures(G, faces)
    return pictures(G, mixed), images[:n], images[n : 2 * n], images


def test_a_mix_has_the_structure_of_the_content_and_the_colour_of_the_style(parents_and_mix):
    *three, faces = parents_and_mix
    common = structure(faces).mean(0)  # all faces are alike; what is left tells them apart
    m, c, s = (structure(images) - common for images in three)
    to_content, to_style = correlation(m, c), correlation(m, s)
    assert to_content.mean() > 0.8 and to_style.mean().abs() < 0.3
    assert (to_content > to_style).float().mean() >= 0.95
    m, c, s = (chroma(images) for images in three)
    assert correlation(m.T, s.T).mean() > correlation(m.T, c.T).mean() + 0.1
    assert (m - s).norm(dim=1).mean() < (m - c).norm(dim=1).mean()


@pytest.mark.parametrize("bar", ["above 0.7", "above content"])
def test_both_colour_axes_of_a_mix_follow_the_style(parents_and_mix, bar):
    m, c, s = (chroma(images).T for images in parents_and_mix[:3])
    assert (correlation(m, s) > (0.7 if bar == "above 0.7" else correlation(m, c) + 0.1)).all()


# --- latent arithmetic ---------------------------------------------------------------------------------------------

values = st.floats(-1e3, 1e3, width=32)
layers = st.lists(st.integers(0, 5), unique=True)


@settings(max_examples=150, deadline=None)
@given(a=values, b=values, chosen=layers, amount=st.floats(0, 1))
def test_mixing(a, b, chosen, amount):
    a, b = torch.full((1, 6, 4), a), torch.full((1, 6, 4), b)
    others = [i for i in range(6) if i not in chosen]
    assert torch.equal(face.mix(a, a, chosen, amount), a)  # with itself: the identity
    assert torch.equal(face.mix(a, b, range(6)), b) and torch.equal(face.mix(a, b, [], amount), a)
    mixed = face.mix(a, b, chosen)
    assert torch.equal(mixed, face.mix(b, a, others))  # what one keeps the other takes
    assert torch.equal(face.mix(mixed, a, chosen), a)  # and back
    part = face.mix(a, b, chosen, amount)
    assert torch.equal(part[:, others], a[:, others])
    expected = a + amount * (b - a)
    assert torch.allclose(
        part[:, chosen], expected[:, chosen], rtol=1e-5, atol=1e-5 * max(1.0, float(expected.abs().max()), float((b - a).abs().max()))
    )


def test_noise_of_a_mix_follows_the_layers():
    torch.manual_seed(0)
    for kind in ("stylegan1", "stylegan2"):
        G = Generator(Config(kind, 16, channel_base=256)).freeze()
        own = [layer.noise_const[None, None] for layer in G.synthesis.layers()]
        c, s = [m + 1 for m in own], [m + 2 for m in own]
        assert image_crossover.mixed_noise(G, None, None, [1]) == "const"
        for content, style in ((c, s), (None, s), (c, None)):
            mixed = image_crossover.mixed_noise(G, content, style, [1, 3])
            for i, m in enumerate(mixed):
                assert torch.equal(m, ((style or own) if i in (1, 3) else (content or own))[i])


# --- the script ----------------------------------------------------------------------------------------------------


def test_one_content_in_one_style(tmp_path, G, place):
    words = ["--latent-file1", place / "one.npy", "--latent_file2", place / "two.npy", "--out", tmp_path / "mix"]
    done = subprocess.run([sys.executable, "image_crossover.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and "mix.png" in done.stdout, done.stderr
    ws, half = np.load(tmp_path / "mix.npy"), G.num_ws // 2
    one, two = np.load(place / "one.npy"), np.load(place / "two.npy")
    assert np.array_equal(ws[:, :half], one[:, :half]) and np.array_equal(ws[:, half:], two[:, half:])
    shown = np.array(Image.open(tmp_path / "mix.png"))
    assert np.array_equal(shown, next(render.pictures(G, torch.from_numpy(ws))))
    said = json.loads((tmp_path / "mix.json").read_text())
    assert said["layers"] == list(range(half, G.num_ws)) and said["generator_hash"] == G.meta["hash"]
    assert (
        call(
            "--latent_file1",
            place / "one.npy",
            "--latent_file2",
            place / "two.npy",
            "--layers",
            "0-1,3",
            "--out",
            tmp_path / "b.png",
            "--quiet",
        )
        is None
    )
    moved = np.abs(np.load(tmp_path / "b.npy") - one).max((0, 2)) > 0
    assert moved.nonzero()[0].tolist() == [0, 1, 3]


def test_several_of_each_make_a_sheet(tmp_path, G, place):
    files = [place / f"{name}.npy" for name in ("one", "two", "three")]
    assert call("--latent_file1", *files[:2], "--latent_file2", *files, "--out", tmp_path / "sheet", "--quiet") is None
    ws = face.load(tmp_path / "sheet.npy", G)
    assert len(ws) == 6
    assert torch.equal(ws[0], face.load(files[0])[0]) and torch.equal(ws[4], face.load(files[1])[0])  # with themselves
    page = Image.open(tmp_path / "sheet.png")
    side = max(128, G.resolution)
    assert page.width > 4 * side and page.height > 3 * side


def test_two_photographs_are_joined_along_the_mask(tmp_path, G):
    x, y = pictures(G, sample(G, 2, 11))
    images.save(tmp_path / "x.png", x)
    images.save(tmp_path / "y.png", y)
    mask = np.zeros((G.resolution, G.resolution, 3), np.uint8)
    mask[:, : G.resolution // 2] = 255
    images.save(tmp_path / "mask.png", mask)
    words = ["--src_im1", "x.png", "--src_im2", tmp_path / "y.png", "--src_dir", tmp_path, "--mask", tmp_path / "mask.png"]
    assert call(*words, "--iteration", 60, "--noise_iteration", 5, "--out", tmp_path / "join", "--quiet") is None
    target = images.load(tmp_path / "join_target.png", G.resolution)[0]
    quarter = G.resolution // 4
    assert (target[:, :, :quarter] - x[:, :, :quarter]).abs().max() < 0.02 and (
        target[:, :, -quarter:] - y[:, :, -quarter:]
    ).abs().max() < 0.02
    middle = target[:, :, G.resolution // 2] - (x[:, :, G.resolution // 2] + y[:, :, G.resolution // 2]) / 2
    assert middle.abs().mean() < 0.5 * (x - y)[:, :, G.resolution // 2].abs().mean()  # soft, not a step
    found = images.load(tmp_path / "join.png", G.resolution)[0]

    def error(a, b, part):
        return (a[:, :, part] - b[:, :, part]).square().mean().item()

    left, right = slice(0, quarter), slice(-quarter, None)
    assert error(found, x, left) < 0.5 * error(found, y, left) and error(found, y, right) < 0.5 * error(found, x, right)
    said = json.loads((tmp_path / "join.json").read_text())
    assert said["steps"] == 65 and (tmp_path / "join.noise.npz").is_file() and np.load(tmp_path / "join.npy").shape == (1, G.num_ws, 512)
