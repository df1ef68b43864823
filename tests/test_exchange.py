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

import facial_exchange
import perceptual_model
from editor import checkpoints, face, images, networks, render
from stylegan_layers import Config, Generator

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def attributes():
    path = checkpoints.HERE / "weight_files" / "attributes.safetensors"
    config = networks.AttributeConfig(kind="attributes", **checkpoints.read_metadata(path)["config"])
    network = networks.AttributeNet(config)
    checkpoints.load_strictly(network, path)
    return network.eval()


def sample(G, count, seed, psi=0.8):
    """Latents [count, L, 512] of random faces."""
    with torch.no_grad():
        return G.truncate(G.mapping(torch.randn(count, 512, generator=torch.Generator().manual_seed(seed))), psi)


@pytest.fixture(scope="module")
def place(G, tmp_path_factory):
    """a.npy ... d.npy, and a.png, b.png."""
    folder = tmp_path_factory.mktemp("faces")
    for name, ws in zip("abcd", sample(G, 4, 7), strict=True):
        face.save(folder / f"{name}.npy", ws[None], {"generator_hash": G.meta["hash"]})
        images.save(folder / f"{name}.png", next(render.pictures(G, ws[None])))
    return folder


def call(*words):
    return facial_exchange.main([str(word) for word in words])


def scores(G, attributes, ws):
    """{attribute: [N]} of the pictures of ws [N, L, 512]."""
    side = attributes.config.resolution
    with torch.no_grad():
        images = torch.cat([G.synthesis(part) for part in ws.split(16)]).clamp(-1, 1)
        return attributes.scores(torch.nn.functional.interpolate(images, size=(side, side), mode="bilinear"))


@pytest.fixture(scope="module")
def swapped(G, attributes):
    """Scores of 80 faces, of 80 others, and of the first with the default layers of the second."""
    n = 80
    ws = sample(G, 2 * n, 1)
    appearance, expression = ws[:n], ws[n:]
    mixed = face.mix(appearance, expression, facial_exchange.default_layers(G))
    return [scores(G, attributes, x) for x in (appearance, expression, mixed)]


def shares(a, e, m):
    """How far each score went from the first faces' to the others', 0..1."""
    return {name: float((m[name] - a[name]) @ (e[name] - a[name]) / (e[name] - a[name]).square().sum()) for name in a}


def test_the_default_layers_carry_the_expression(swapped):
    """Swapped between random faces, they bring the smile of one that smiles to one that does not."""
    a, e, m = swapped
    smiling = e["smile"] - a["smile"] > 3  # the donor smiles, the other does not
    assert ((m["smile"] > a["smile"])[smiling]).float().mean() > 0.85 and smiling.sum() >= 10


@pytest.mark.xfail(strict=True, reason="the bundled generator: 0.30; those before 0.37, 0.41 and 0.61")
def test_the_default_layers_carry_the_smile_a_good_part_of_the_way(swapped):
    assert shares(*swapped)["smile"] > 0.4


@pytest.mark.xfail(strict=True, reason="the bundled generator: turn of the head more than the smile; one before 0.61 and 0.49")
def test_the_default_layers_carry_the_expression_more_than_anything_else(swapped):
    share = shares(*swapped)
    assert share["smile"] == max(share.values()), share


def test_default_layers_are_the_same_convolutions_in_both_kinds():
    for kind, wanted in (("stylegan1", ("b8.conv1", "b16.conv0")), ("stylegan2", ("b8.conv1", "b16.conv0"))):
        G = Generator(Config(kind, 32, channel_base=256))
        names = {module: name for name, module in G.synthesis.named_modules()}
        assert tuple(names[G.synthesis.layers()[i]] for i in facial_exchange.default_layers(G)) == wanted
    assert facial_exchange.default_layers(Generator(Config("stylegan1", 1024, channel_base=4096))) == [3, 4]


def test_latents_are_exchanged_both_ways(tmp_path, G, place):
    done = subprocess.run(
        [sys.executable, "facial_exchange.py", "--latent-file1", place / "a.npy", "--latent_file2", place / "b.npy", "--out_dir", tmp_path],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "" and "exchange2.png" in done.stdout, done.stderr
    a, b = np.load(place / "a.npy"), np.load(place / "b.npy")
    one, two = np.load(tmp_path / "exchange1.npy"), np.load(tmp_path / "exchange2.npy")
    layers = facial_exchange.default_layers(G)
    others = [i for i in range(G.num_ws) if i not in layers]
    assert np.array_equal(two[:, layers], a[:, layers]) and np.array_equal(two[:, others], b[:, others])
    assert np.array_equal(one[:, layers], b[:, layers]) and np.array_equal(one[:, others], a[:, others])
    assert np.array_equal(np.array(Image.open(tmp_path / "exchange2.png")), next(render.pictures(G, torch.from_numpy(two))))
    said = json.loads((tmp_path / "exchange2.json").read_text())
    assert said["layers"] == layers and said["mode"] == "latents" and said["generator_hash"] == G.meta["hash"]
    call(
        "--latent_file1",
        place / "a.npy",
        "--latent_file2",
        place / "b.npy",
        "--layers",
        "0-1",
        "--strength",
        0.25,
        "--out_dir",
        tmp_path,
        "--quiet",
    )
    assert np.allclose(np.load(tmp_path / "exchange2.npy")[:, :2], 0.25 * a[:, :2] + 0.75 * b[:, :2], atol=1e-5)


def test_arithmetic(tmp_path, G, place):
    t, n, e = (np.load(place / f"{name}.npy") for name in "abc")
    words = ["--target", place / "a.npy", "--neutral", place / "b.npy", "--expression", place / "c.npy", "--out_dir", tmp_path, "--quiet"]
    call(*words, "--strength", 0.5)
    assert np.allclose(np.load(tmp_path / "exchange1.npy"), t + 0.5 * (e - n), atol=1e-5)
    assert not (tmp_path / "exchange2.npy").exists()
    people = ["--target", place / "a.npy", "--neutral", place / "b.npy", place / "d.npy", "--expression", place / "c.npy", place / "b.npy"]
    call(*people, "--out_dir", tmp_path, "--quiet")  # the mean over two people
    assert np.allclose(np.load(tmp_path / "exchange1.npy"), t + 0.5 * (e - np.load(place / "d.npy")), atol=1e-5)
    call(*words, "--change", "mean", "--strength", 2)
    assert np.allclose(np.load(tmp_path / "exchange1.npy"), t + 2 * (e - n).mean(1, keepdims=True), atol=1e-5)
    call(*words, "--layers", "2-3", "--threshold", 0.5)
    changed = np.load(tmp_path / "exchange1.npy") - t
    assert (np.abs(changed).max((0, 2)) > 0).nonzero()[0].tolist() == [2, 3]
    length = np.linalg.norm((e - n)[0, 2:4], axis=0)
    assert ((np.abs(changed).max((0, 1)) > 0) == (length >= 0.5)).all()
    said = json.loads((tmp_path / "exchange1.json").read_text())
    assert said["channels"] == (length >= 0.5).sum() and 0 < said["channels"] < 512


def test_two_photographs(tmp_path, G, place):
    words = ["--src_im1", "a.png", "--src_im2", place / "b.png", "--src_dir", place, "--iteration", 25, "--out_dir", tmp_path, "--quiet"]
    assert call(*words) is None
    one, two = (face.load(tmp_path / f"exchange{i}.npy", G) for i in (1, 2))
    layers = facial_exchange.default_layers(G)
    others = [i for i in range(G.num_ws) if i not in layers]
    e, a = face.mix(one, two, layers), face.mix(two, one, layers)  # undone: the two latents that were found
    for found, name, other in ((e, "a", "b"), (a, "b", "a")):
        image = images.load(place / f"{name}.png", G.resolution)
        with torch.no_grad():
            error = (G.synthesis(found) - image).square().mean()
        assert error < 0.5 * (image - images.load(place / f"{other}.png", G.resolution)).square().mean()
    assert torch.equal(two[:, others], a[:, others]) and torch.equal(two[:, layers], e[:, layers])
    said = json.loads((tmp_path / "exchange1.json").read_text())
    assert said["mode"] == "images" and len(said["losses"]) == 2 and said["lambda_style"] == 1.0


def test_content_and_style(G):
    inner = checkpoints.load_features(checkpoints.BUNDLED["features"])
    with torch.no_grad():
        x, y = G.synthesis(sample(G, 2, 3)).split(1)
        rolled = x.roll(16, dims=3)

        def loss(content, style, image):
            both = perceptual_model.ContentAndStyle(inner, content, style)
            return both.compare(both.features(image), both.features(x)).item()

        assert loss(1, 1, x) == 0 and loss(1, 0, y) == pytest.approx(inner(y, x).item())
        assert loss(2, 3, y) == pytest.approx(2 * loss(1, 0, y) + 3 * loss(0, 1, y), rel=1e-5)
        # the Gram loss hardly minds where things are
        assert loss(0, 1, rolled) / loss(0, 1, y) < 0.7 * loss(1, 0, rolled) / loss(1, 0, y)


vectors = st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6)


@settings(max_examples=150, deadline=None)
@given(t=vectors, n=vectors, e=vectors, strength=st.floats(-3, 3), threshold=st.floats(0, 50))
def test_adding_an_expression(t, n, e, strength, threshold):
    t, n, e = (torch.tensor(v).view(1, 2, 3) for v in (t, n, e))
    f = facial_exchange.transferred
    scale = 1e-4 * (1 + float(torch.cat([t, n, e]).abs().max()))
    assert torch.equal(f(t, n, n, strength)[0], t) and torch.equal(f(t, n, e, 0.0)[0], t)
    assert torch.allclose(f(n, n, e)[0], e, atol=scale)  # its own expression
    assert torch.allclose(f(f(t, n, e, strength)[0], n, e, -strength)[0], t, atol=scale)  # and back
    assert torch.allclose(f(f(t, n, e, 1.0)[0], n, e, strength)[0], f(t, n, e, 1.0 + strength)[0], atol=scale)  # steps add up
    kept, channels = f(t, n, e, 1.0, threshold=threshold)
    assert channels == ((e - n).norm(dim=1) >= threshold).sum()
    assert ((kept == t).all(1) | torch.isclose(kept, t + e - n, atol=scale).all(1)).all()


def test_bad_calls_say_so(tmp_path, G, place):
    a, b = place / "a.npy", place / "b.npy"
    pair = ["--latent_file1", a, "--latent_file2", b]
    for words, said in (
        ([], "give one of: --src_im1 --src_im2; --latent_file1"),
        ([*pair, "--target", a], "give one of"),
        (["--latent_file2", b], "needs --latent_file1"),
        (["--target", a, "--neutral", b], "needs --expression"),
        (["--target", a, "--neutral", b, b, "--expression", b], "--neutral has 2 latents, --expression 1"),
        (["--src_im1", place / "a.png"], "needs --src_im2"),
        (["--src_im1", place / "a.png", "--src_im2", "no.png"], "no.png"),
        (["--src_im1", place / "a.png", "--src_im2", a], "a.npy"),
        (["--src_im1", place / "a.png", "--src_im2", place / "b.png", "--perceptual", "none"], "Gram"),
        ([*pair, "--layers", f"3-{G.num_ws}"], f"0-{G.num_ws - 1}"),
        ([*pair, "--threshold", 1], "--threshold and --change go with"),
        ([*pair, "--change", "mean"], "--threshold and --change go with"),
        (["--target", a, "--neutral", b, "--expression", b, "--threshold", -1], "--threshold -1"),
        (["--latent_file1", a, "--latent_file2", place / "b.png"], "b.png"),
    ):
        with pytest.raises((ValueError, OSError)) as caught:
            call(*words, "--out_dir", tmp_path / "out", "--quiet")
        assert said in str(caught.value)
    assert not (tmp_path / "out").exists()
