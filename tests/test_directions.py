"""Directions that nobody labelled: closed forms against computations of the test's own, style channels through every command."""

import argparse
import functools
import importlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import find_directions
import semantic_edit
import train_boundary
from editor import boundaries, checkpoints, classes, cli, directions, face, images, purify, readings, render, styles, tuning
from stylegan3_layers import Config3, Generator3
from stylegan_layers import Config, Generator

CONFIGS = {
    "stylegan1": Config("stylegan1", 16, channel_base=256, mapping_layers=2),
    "stylegan2": Config("stylegan2", 16, channel_base=256, mapping_layers=2),
    "stylegan3": Config3("stylegan3", 16, channel_base=128, num_layers=4),
    "stylegan2, conditional": Config("stylegan2", 16, channel_base=128, mapping_layers=2, z_dim=32, w_dim=96, c_dim=3),
    "stylegan3, conditional": Config3("stylegan3", 16, channel_base=128, num_layers=4, w_dim=96, c_dim=2),
    "stylegan3, R": Config3("stylegan3", 16, channel_base=64, num_layers=4, conv_kernel=1, use_radial_filters=True),
}


def built(kind):
    torch.manual_seed(1)
    G = (Generator3 if "3" in kind else Generator)(CONFIGS[kind])
    if "3" in kind:
        G.synthesis.input.affine.weight.data.normal_(std=0.1)
    G.w_avg.normal_(std=0.1)
    G.meta = {"hash": "2" * 64, "path": "net", "alignment": None}
    return G.freeze()


@pytest.fixture(scope="module", params=["stylegan1", "stylegan2", "stylegan3"])
def network(request):
    return built(request.param)


def makes_rgb(G, name):
    return "torgb" in name or (G.kind == "stylegan3" and name.startswith(f"{G.synthesis.names[-1]}."))


def weights(G, torgb=False):
    """{W+ layer: the affine's weights [rows, 512]}, by the names of the layers."""
    found = {}
    for name, value in G.synthesis.named_parameters():
        if name.endswith("affine.weight") and makes_rgb(G, name) == torgb:
            found[tuning.layer_of(G, name)] = value.detach().numpy().astype(np.float64)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Closed forms


@pytest.mark.parametrize("layers", [None, [0, 1], [2]])
def test_sefa_is_the_svd_of_the_normalised_weights(network, layers):
    """Singular vectors by NumPy: another way to the eigenvectors of A A^T."""
    rows = np.concatenate([w for layer, w in weights(network).items() if layers is None or layer in layers])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    _, values, expected = np.linalg.svd(rows, full_matrices=False)
    vectors, found = (t.numpy() for t in directions.sefa(network, layers))
    assert np.allclose(found[:9], values[:9] ** 2, rtol=0, atol=1e-6)
    assert np.allclose(np.abs(np.sum(vectors[:9] * expected[:9], 1)), 1, rtol=0, atol=1e-6)
    for vector in vectors[:9]:
        assert vector[np.abs(vector).argmax()] > 0


def test_components_are_those_of_the_covariance(network):
    found = directions.found(network, "pca", 5, samples=700, seed=7)
    w = network.mapping(torch.randn(700, 512, generator=torch.Generator().manual_seed(7))).detach().numpy().astype(np.float64)
    _, values, expected = np.linalg.svd(w - w.mean(0), full_matrices=False)
    for i, one in enumerate(found):
        assert abs(abs(one.normal[0].numpy() @ expected[i]) - 1) < 1e-6
        assert one.unit == pytest.approx(values[i] / np.sqrt(699), rel=1e-6)
        assert boundaries.signed_distance(torch.from_numpy(w.mean(0))[None, None], one).abs() < 1e-9
        edited = boundaries.moved(torch.zeros(1, network.num_ws, 512), [(one, 2.0)])
        assert np.allclose(edited[0, 3], 2 * one.unit * one.normal[0], rtol=0, atol=1e-12)  # GANSpace: w += x * std * v


def test_the_first_direction_is_the_one_that_was_put_there(network):
    """Styles that all follow one direction of w; and a w that varies along another one alone."""
    import copy

    G = copy.deepcopy(network)
    wanted, other = torch.nn.functional.normalize(torch.randn(2, 512, generator=torch.Generator().manual_seed(3)), dim=1)
    for name, value in G.synthesis.named_parameters():
        if name.endswith("affine.weight"):
            value.data = 0.01 * value.data + torch.randn(len(value), 1) * wanted
    last = G.mapping.fc1
    last.weight.data = 0.001 * last.weight.data + other[:, None] * torch.randn(1, 512) * 100
    last.bias.data.fill_(1e4)  # so far from 0 that the leaky ReLU bends nothing
    G.freeze()
    began = time.process_time()
    sefa = directions.found(G, "sefa", 1, samples=500)[0].normal[0]
    pca = directions.found(G, "pca", 1, samples=500)[0].normal[0]
    assert time.process_time() - began < 2
    assert abs(sefa @ wanted.double()) > 0.99 and abs(pca @ other.double()) > 0.99


def test_moments_are_one_pass_in_any_blocks(network):
    mean, covariance = styles.moments(network, 2500, seed=1)
    generator = torch.Generator().manual_seed(1)
    z = torch.cat([torch.randn(n, 512, generator=generator) for n in (2048, 452)])
    w = network.mapping(z).detach().double()
    assert torch.allclose(mean, w.mean(0), rtol=0, atol=1e-6) and torch.allclose(covariance, torch.cov(w.t()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("plus", [False, True])
def test_channels_are_ranked_by_their_correlation(network, plus):
    """A score that is one channel's own style, and noise: NumPy's correlation of every channel."""
    random = torch.Generator().manual_seed(0)
    ws = network.mapping(torch.randn(400 * (network.num_ws if plus else 1), 512, generator=random)).detach()
    ws = ws.view(400, -1, 512)
    layer, channel = 2, 5
    rows = weights(network)[layer]
    style = ws[:, layer if plus else 0].double().numpy() @ rows[channel] / np.sqrt(512)
    scores = style + 0.1 * style.std() * np.random.default_rng(0).standard_normal(400)
    ranked = directions.channels(network, ws, -scores)
    assert styles.label(network, ranked[0].place) == f"{layer}:{channel}" and ranked[0].correlation < -0.99
    found = {styles.label(network, one.place): one.correlation for one in ranked}
    for i in (0, 3, len(rows) - 1):
        expected = np.corrcoef(ws[:, layer if plus else 0].double().numpy() @ rows[i], -scores)[0, 1]
        assert found[f"{layer}:{i}"] == pytest.approx(expected, abs=1e-6)
    apart = directions.channels(network, ws, scores, torgb=True)
    assert all(makes_rgb(network, f"{styles.label(network, one.place).split(':')[0]}.") for one in apart)
    assert bool(apart) == (network.kind != "stylegan1")
    assert {label.split(":")[0] for label in found} == {str(layer) for layer in weights(network)}
    with pytest.raises(ValueError, match="the same for all faces"):
        directions.channels(network, ws, np.ones(400))


# ---------------------------------------------------------------------------------------------------------------------
# Style channels


def test_a_channels_name_leads_to_it_and_back(network):
    seen = set()
    for place in range(0, styles.count(network), 5):
        assert styles.index(network, styles.label(network, place)) == place
        seen.add(styles.label(network, place))
    assert len(seen) == -(-styles.count(network) // 5)
    first = styles.affines(network)[0]
    assert styles.index(network, f"{first.name}:1") == styles.index(network, f"{first.layer}:1")


def test_the_spread_of_a_channel_is_that_of_its_styles(network):
    w = network.mapping(torch.randn(4000, 512, generator=torch.Generator().manual_seed(9))).detach()
    for affine in styles.affines(network)[:4]:
        found = styles.spread(network)[affine.first : affine.first + affine.count]
        measured = network.synthesis.get_submodule(affine.name).affine(w).detach().double().std(0)
        assert torch.allclose(found, measured, rtol=0.08)


def test_a_channel_moves_its_style_and_nothing_else(network):
    """What is rendered with an edit is what layers make whose affine's output was changed, by the plain way too."""
    affine = styles.affines(network)[1]
    one = boundaries.of_channel(network, f"{affine.name}:2")
    delta = 3 * one.way(1)[0]
    assert one.unit == pytest.approx(styles.spread(network)[affine.first + 2].item())
    worn = tuning.worn(network, styles.weights(network, delta))
    ws = network.truncate(network.mapping(torch.randn(2, 512, generator=torch.Generator().manual_seed(2)))).detach()
    layer = network.synthesis.get_submodule(affine.name)

    def added(module, inputs, output):
        output = output.clone()
        output[:, 2] += 3 * one.unit
        return output

    hook = layer.affine.register_forward_hook(added)
    try:
        with torch.no_grad():
            expected = network.synthesis(ws)
    finally:
        hook.remove()
    with torch.no_grad():
        plain, found = network.synthesis(ws), worn.synthesis(ws)
        offsets = torch.zeros(2, styles.count(network))
        offsets[:, affine.first + 2] = 3 * one.unit
        by_offsets = readings.with_offsets(network, offsets).synthesis(ws)
    tolerance = 2e-3 * expected.abs().max()  # float16 of the change
    assert torch.allclose(found, expected, rtol=0, atol=tolerance) and not torch.allclose(found, plain, rtol=0, atol=5 * tolerance)
    assert torch.allclose(by_offsets, expected, rtol=0, atol=1e-4 * expected.abs().max())


def test_changes_add_up_and_beyond_float16_they_are_refused(network):
    delta = torch.zeros(styles.count(network), dtype=torch.float64)
    delta[3] = 0.5
    name = styles.affines(network)[0].bias
    twice = styles.weights(network, delta, styles.weights(network, delta))
    assert twice[name].dtype == torch.float16 and twice[name][3] == 1 and twice[name].count_nonzero() == 1
    assert styles.weights(network, 0 * delta) is None
    for bad in (1e6, float("nan")):
        delta[3] = bad
        with pytest.raises(ValueError, match="at most"):
            styles.weights(network, delta)


@pytest.fixture(scope="module")
def prepared(tiny, tmp_path_factory):
    """Two faces of the tiny generator, t with a style channel moved; kept for all tests: each works on a copy."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, name in enumerate("tu"):
            tiny.tuned(f"{name}.npy", seed)
        edit("--channel", "1:5=40", "--latent_file", "t.npy", weights=tiny.weights)
    return folder


@pytest.fixture
def place(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(*words, weights, out="out"):
    words = [*words, "--weight_file", weights, "--precision", "fp32", "--quiet", "--out_dir", out, "--boundary_dir", "."]
    return semantic_edit.main([str(word) for word in words])


def test_every_command_carries_a_channel(place, tiny):
    """The face with a channel moved is a face as any other: rendered, edited again, mixed, morphed, exchanged."""
    path = Path("out/t_1c5+40.npy")
    found, before = face.read(path, tiny.G), face.read("t.npy", tiny.G)
    assert torch.equal(found.ws, before.ws) and set(found.tuned) - set(before.tuned) == {"b4.conv1.affine.bias"}
    picture = np.asarray(images.open_image(path.with_suffix(".png")))
    assert np.array_equal(tiny.render(path), picture) and not np.array_equal(tiny.render("t.npy"), picture)
    assert not edit("--channel", "1:5=-40", "--latent_file", path, weights=tiny.weights, out="back")
    assert np.array_equal(tiny.render("back/t_1c5+40_1c5-40.npy"), tiny.render("t.npy"))
    usual = ["--weight_file", tiny.weights, "--precision", "fp32", "--quiet"]
    runs = {
        "image_crossover": ["--latent_file1", "u.npy", "--latent_file2", path, "--layers", "0-1", "--out", "mix/x"],
        "facial_exchange": ["--latent_file1", path, "--latent_file2", "u.npy", "--out_dir", "exchange"],
        "image_morphing": ["--latent_file1", path, "--latent_file2", "u.npy", "--frames", "3", "--out_dir", "morph"],
    }
    for name, words in runs.items():
        assert not importlib.import_module(name).main([str(word) for word in [*words, *usual]])
    mixed = face.read("mix/x.npy", tiny.G)
    assert torch.equal(mixed.tuned["b4.conv1.affine.bias"], found.tuned["b4.conv1.affine.bias"])  # the layer came from it
    assert np.array_equal(np.asarray(images.open_image("mix/x.png")), tiny.render("mix/x.npy"))
    frames = sorted(Path("morph").rglob("*.png"))
    assert np.array_equal(np.asarray(images.open_image(frames[0])), picture)
    half = tuning.between(found.tuned, face.read("u.npy", tiny.G).tuned, lambda name: 0.5, tiny.G)
    assert torch.allclose(half["b4.conv1.affine.bias"].float(), found.tuned["b4.conv1.affine.bias"].float() / 2, rtol=1e-3)
    ws = torch.lerp(found.ws, face.read("u.npy", tiny.G).ws, 0.5)
    assert len(frames) == 3 and ws.shape == found.ws.shape
    assert not np.array_equal(tiny.render(path, "--tuned_strength", "0.5"), picture)


def test_a_direction_of_channels_is_followed_as_others_are(place, tiny):
    made = directions.of_channels(tiny.G, {7: 30.0, 100: -20.0}, generator_hash=tiny.G.meta["hash"])
    boundaries.save("mine.npy", made)
    again = boundaries.load("mine.npy", tiny.G)
    assert again.space == "style" and again.unit == pytest.approx(made.unit) and torch.allclose(again.way(1), made.way(1))
    assert not edit("--latent_file", "u.npy", "--boundary", "mine", "--steps", 3, "--start_distance", -1, "--end_distance", 1,
                    weights=tiny.weights)  # fmt: skip
    person = face.read("u.npy", tiny.G)
    row = [render.one(tiny.G, replace(person, tuned=styles.weights(tiny.G, d * made.way(1)[0], person.tuned))) for d in (-1, 0, 1)]
    expected = np.asarray(images.sheet([row], labels=["-1.0", "+0.0", "+1.0"]))
    assert np.array_equal(np.asarray(images.open_image("out/u_mine.png")), expected) and not np.array_equal(row[0], row[2])
    assert not edit("--latent_file", "u.npy", "--edit", "mine=1", weights=tiny.weights)
    assert np.array_equal(np.asarray(images.open_image("out/u_mine+1.png")), row[2])


# ---------------------------------------------------------------------------------------------------------------------
# What is read, and purified


def test_purified_channels_keep_others_to_first_order(network):
    """Slopes of the test's own: what is found changes its attribute by one spread, the others not, in so few channels."""
    random, size = torch.Generator().manual_seed(0), styles.count(network)
    slopes = readings.Slopes(
        ["smile", "age", "yaw"],
        torch.randn(3, size, generator=random, dtype=torch.float64),
        torch.randn(40, size, generator=random, dtype=torch.float64),
    )
    reading = readings.Reading({"smile": -2.0, "age": 1.0, "yaw": 0.1}, {}, 0.1, None)
    plain = boundaries.Boundary(torch.nn.functional.normalize(torch.randn(1, 512, generator=random, dtype=torch.float64)))
    moved = purify.purified(network, slopes, plain, "channels", reading, count=9)
    effects = slopes.effects @ moved.way(1)[0]
    assert torch.allclose(effects, torch.tensor([-1.0, 0, 0], dtype=torch.float64), rtol=0, atol=1e-4)
    assert moved.way(1).count_nonzero() == 9 and all(name[0].isdecimal() for name in moved.info["channels"])
    for way in ("condition", "layers", "gradient"):
        moved = purify.purified(network, slopes, plain, way, reading, kept=["age"])
        effects = slopes.effects @ purify.along_w(network, moved.layers) @ moved.normal[0]
        assert boundaries.length(moved.normal) == pytest.approx(1) and abs(effects[1]) < 1e-4 * abs(effects[0])
        assert (moved.layers is None) == (way != "layers") and moved.info["purified"]["kept"] == ["age"]
    assert effects[0] < 0  # as the direction's own reading
    wplus = replace(plain, normal=torch.randn(network.num_ws, 512, generator=random, dtype=torch.float64))
    found = purify.conditioned(network, slopes, wplus.normal, ["age"])
    steps = sum(slopes.effects[1] @ purify.along_w(network, [layer]) @ found[layer] for layer in range(network.num_ws))
    assert abs(steps) < 1e-9
    with pytest.raises(ValueError, match="what this direction changes most is smile"):
        purify.purified(network, slopes, plain, "channels", reading, kept=["smile"])
    with pytest.raises(ValueError, match="directions in W"):
        purify.purified(network, slopes, directions.of_channels(network, {3: 1.0}), "layers", reading)


def test_channels_that_change_who_it_is_are_used_less(network, monkeypatch):
    """What channels do to identity, of the test's own: the way found moves it less, and is as long by the attributes."""
    random, size = torch.Generator().manual_seed(0), styles.count(network)
    slopes = readings.Slopes(
        ["smile", "age"],
        torch.randn(2, size, generator=random, dtype=torch.float64),
        torch.randn(60, size, generator=random, dtype=torch.float64),
    )
    moves, asked = torch.randn(90, size, generator=random, dtype=torch.float64) * torch.rand(size, generator=random).square(), []

    def likeness(reader, places, steps, callback=None):
        assert torch.allclose(steps.square() * slopes.cost[places], torch.tensor(0.04, dtype=torch.float64), rtol=0.01)
        asked.append(callback)
        return moves[:, places]

    monkeypatch.setattr(readings, "likeness", likeness)
    plain = purify.by_channels(network, slopes, "smile", ["age"], 30)
    found = purify.by_channels(network, replace(slopes, reader="one"), "smile", ["age"], 30, "shown")
    places = list(found)
    assert asked == ["shown"] and places == list(plain)
    before, after = (torch.tensor([amounts[place] for place in places], dtype=torch.float64) for amounts in (plain, found))
    assert (moves[:, places] @ after).norm() < 0.8 * (moves[:, places] @ before).norm()
    assert torch.allclose(slopes.effects[:, places] @ after, torch.tensor([1.0, 0], dtype=torch.float64), rtol=0, atol=1e-4)


def test_the_picture_is_cut_as_the_network_knows_it():
    pictures = torch.zeros(1, 3, 100, 100)
    pictures[:, :, 50, 50] = 1
    ffhq, tight = {"scale": 1.0, "em_scale": 0.1}, {"scale": 0.5, "em_scale": 0.1}
    assert readings.cropped(pictures, ffhq, ffhq) is pictures
    found = readings.cropped(pictures, ffhq, tight)
    assert found.shape == (1, 3, 50, 50) and found[0, 0, 25, 25] == 1
    assert readings.cropped(pictures, tight, ffhq).shape == (1, 3, 200, 200)
    low = readings.cropped(pictures, ffhq, {"scale": 0.5, "em_scale": 0.46})  # lower: 0.36 of 100 / 2 / 1.8
    assert low[0, 0, 15, 25] == 1


@pytest.fixture(scope="module", autouse=True)
def few_faces():
    """Spreads of few faces: what is read does not ask for them to be exact."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readings, "SPREAD", 4)
        patch.setattr(styles, "SAMPLES", 1500)
        yield


@pytest.fixture(scope="module")
def reader(G, few_faces):
    return readings.Reader(G, 2)


def test_readings_are_of_the_faces_that_were_moved(G, reader):
    smile = boundaries.load(checkpoints.HERE / "boundaries/smile.npy", G)
    reading, low, high = reader(smile)
    assert reading.attributes["smile"] > 0.3 and reading.agreeing["smile"] == 1 and reading.identity > 0 and reading.outside > 0
    again = render.one(G, face.Face(boundaries.moved(reader.ws[1:2], [(smile, 2.0)]).float()))
    assert np.abs(again.astype(int) - high[1]).max() <= 1  # a batch may round otherwise
    net = checkpoints.load_attributes()
    with torch.no_grad():
        a, b = (net.scores(torch.from_numpy(p).permute(0, 3, 1, 2).float() / 127.5 - 1)["smile"] for p in (low, high))
    assert reading.attributes["smile"] == pytest.approx(((b - a).mean() / 4 / reader.spread["smile"]).item(), rel=1e-3)
    assert reading.words("sigma").startswith("smile +") and "per sigma; identity 0." in reading.words("sigma")
    weak = replace(reading, attributes={"smile": 0.06, "yaw": -0.04})
    assert weak.words().startswith("no attribute") and weak.words("sigma", 4).startswith("smile +0.06 per sigma;")


@pytest.mark.parametrize("kind", list(CONFIGS)[3:])
def test_the_commands_take_every_kind_of_generator(kind, tmp_path, monkeypatch):
    """Classes, narrow w, 1x1 convolutions: each method finds directions that are followed, and a channel's change is what is rendered."""
    monkeypatch.chdir(tmp_path)
    checkpoints.save("net.safetensors", built(kind))
    G = checkpoints.load_generator("net.safetensors")
    z = torch.randn(60, G.config.z_dim, generator=torch.Generator().manual_seed(0))
    ws = classes.latents(G, z, evenly=True)
    np.save("one.npy", ws[:1, None].expand(-1, G.num_ws, -1).numpy())
    np.save("ws.npy", ws.numpy())
    np.save("s.npy", ws[:, 3].numpy())
    for method in find_directions.METHODS:
        words = ["--scores", "s.npy", "--latents", "ws.npy"] if method == "channels" else ["--samples", 100]
        assert find("--method", method, *words, "--count", 1, "--faces", 0, "--quiet", weights="net.safetensors") == 0
    found = [f"{path}=5" for path in sorted(Path("directions").glob("*.npy"))]
    last = styles.affines(G)[-1]
    assert len(found) == 3 and last.torgb and Path("directions/net_sefa.png").is_file()
    assert edit("--latent_file", "one.npy", "--edit", *found, "--channel", f"{last.name}:0=40", weights="net.safetensors") == 0
    moved = face.read(next(Path("out").glob("*.npy")), G)
    step = sum(5 * boundaries.load(name[:-2], G).way(G.num_ws) for name in found[1:])
    assert (
        torch.allclose(moved.ws[0].double(), ws[:1].double() + step, rtol=0, atol=1e-5)
        and last.bias in moved.tuned
        and len(moved.tuned) == 2
    )
    written = np.asarray(images.open_image(next(Path("out").glob("*.png"))))
    assert np.array_equal(render.one(G, moved), written) and not np.array_equal(render.one(G, replace(moved, tuned=None)), written)


@functools.cache
def slopes_of(reader):
    return readings.slopes(reader, count=2, seed=5)


@pytest.fixture
def opened(reader, monkeypatch):
    """Commands take the reader and the slopes that are there, and no dlib: loading, rendering and describing are what takes time."""
    slopes, calls = replace(slopes_of(reader), reader=None), []
    monkeypatch.setattr(reader, "describe", lambda picture, before=None: picture.reshape(128, -1).mean(1) / 1000)
    monkeypatch.setattr(readings, "Reader", lambda G, count=16, seed=1: calls.append(count) or reader)
    monkeypatch.setattr(readings, "slopes", lambda reader, callback=None: slopes)
    return calls


def test_slopes_are_what_a_small_step_does(G, reader):
    """Central differences, along a direction in style space."""
    slopes = slopes_of(reader)
    random = torch.randn(styles.count(G), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = 0.005 * random * styles.spread(G)
    scores = []
    for sign in (1, -1):
        offsets = (sign * step).float().expand(2, -1)
        with torch.no_grad():
            scores.append(reader.attributes(readings.with_offsets(G, offsets).synthesis(reader.drawn(2, 5))))
    for i, name in enumerate(slopes.names):
        measured = (scores[0][name] - scores[1][name]).mean().item() / 2 / reader.spread[name]
        assert measured == pytest.approx((slopes.effects[i] @ step).item(), rel=0.15, abs=1e-3), name


def test_likeness_is_how_far_a_descriptor_moves(G, reader):
    place, ws, calls = styles.index(G, "1:3"), reader.drawn(1, 4), []
    step = 6 * styles.spread(G)[place].item()
    found = readings.likeness(reader, torch.tensor([place]), torch.tensor([step]), count=1, callback=calls.append)
    delta = torch.zeros(styles.count(G), dtype=torch.float64)
    delta[place] = step
    (before,), (after,) = reader.pictures(ws), reader.pictures(ws, tuning.worn(G, styles.weights(G, delta)))
    expected = (reader.describe(after, before) - reader.describe(before)) / step
    assert found.shape == (128, 1) and calls == [1] and np.linalg.norm(expected) * step > 0.02
    assert np.allclose(found[:, 0], expected, rtol=0, atol=0.05 * np.linalg.norm(expected))


# ---------------------------------------------------------------------------------------------------------------------
# The command


def find(*words, weights=None):
    more = ["--weight_file", weights] if weights else []
    return find_directions.main([str(word) for word in [*words, *more, "--precision", "fp32"]])


def test_directions_of_other_settings_are_not_replaced(place, tiny, monkeypatch, capsys):
    words = ["--samples", 100, "--faces", 0, "--name", "s"]
    assert find("--method", "sefa", "--count", 3, *words, weights=tiny.weights) == 0
    before = Path("directions/s_00.npy").read_bytes()
    for other in (["--method", "sefa", "--layers", "1-2"], ["--method", "pca"], ["--method", "sefa", "--seed", 1]):
        one_line(lambda _, o=other: find(*o, *words, weights=tiny.weights), "found with other settings", monkeypatch, capsys)
    assert Path("directions/s_00.npy").read_bytes() == before
    assert find("--method", "sefa", "--count", 2, *words, weights=tiny.weights) == 0  # fewer of the same
    Path("directions/mine.png").write_bytes(b"mine")
    mine = ["--method", "pca", *words[:-1], "mine"]
    one_line(lambda _: find(*mine, weights=tiny.weights), "did not make it", monkeypatch, capsys)
    assert Path("directions/mine.png").read_bytes() == b"mine"


def test_what_is_rounding_is_no_direction(tiny):
    """Of 20 faces there are 19 ways that w varies along."""
    assert len(directions.found(tiny.G, "pca", 512, samples=20)) == 19


def test_the_command_writes_what_other_commands_take(place, tiny, capsys):
    assert find("--method", "sefa", "--count", 3, "--layers", "1-2", "--faces", 0, "--samples", 500, weights=tiny.weights) == 0
    said = capsys.readouterr()
    names = [f"directions/tiny_sefa_1-2{end}" for end in (".png", "_00.npy", "_01.npy", "_02.npy")]
    assert said.out.splitlines() == names and "01: not read; 1 is " in said.err
    found = boundaries.load(names[2], tiny.G)
    expected = directions.found(tiny.G, "sefa", 2, [1, 2], 500)[1]
    assert torch.allclose(found.normal, expected.normal, rtol=0, atol=1e-12) and found.layers == [1, 2] and found.unit == expected.unit
    assert found.info["method"] == "sefa" and found.info["generator_hash"] == tiny.G.meta["hash"]
    assert not edit("--latent_file", "u.npy", "--edit", f"{names[2]}=2", weights=tiny.weights)
    moved = face.read("out/u_tiny_sefa_1-2_01+2.npy", tiny.G).ws - face.read("u.npy", tiny.G).ws
    assert moved[0, [0, 3]].abs().max() == 0 and torch.allclose(moved[0, 1].double(), 2 * found.unit * found.normal[0], atol=1e-5)
    assert find("--method", "pca", "--name", "w", "--out_dir", "x", "--distance", 1, "--faces", 0, "--samples", 300, "--seed", 4,
                "--count", 1, "--quiet", weights=tiny.weights) == 0  # fmt: skip
    again = boundaries.load("x/w_00.npy").normal
    assert torch.allclose(again, directions.found(tiny.G, "pca", 1, None, 300, 4)[0].normal, rtol=0, atol=1e-12)
    assert not capsys.readouterr().out


def test_channels_by_scores_of_ones_own(place, tiny):
    ws = torch.randn(200, 512, generator=torch.Generator().manual_seed(0))
    np.save("ws.npy", ws.numpy())
    rows = weights(tiny.G)[1]
    scores = ws.double().numpy() @ rows[5]
    Path("s.csv").write_text("a,b\n" + "".join(f"0,{s}\n" for s in scores))
    words = ["--method", "channels", "--scores", "s.csv", "--column", "b", "--latents", "ws.npy", "--faces", 0, "--count", 2, "--quiet"]
    assert find(*words, weights=tiny.weights) == 0
    found = json.loads(Path("directions/tiny_channels_s_00.json").read_text())
    assert found["channel"] == "1:5" and found["correlation"] == pytest.approx(1, abs=1e-6) and found["space"] == "style"
    assert not edit("--latent_file", "u.npy", "--edit", "directions/tiny_channels_s_00.npy=3", weights=tiny.weights)
    assert not edit("--latent_file", "u.npy", "--channel", "1:5=3", weights=tiny.weights, out="same")
    a, b = Path("out/u_tiny_channels_s_00+3.png"), Path("same/u_1c5+3.png")
    assert np.abs(np.asarray(images.open_image(a)).astype(int) - np.asarray(images.open_image(b))).max() <= 1
    with pytest.raises(ValueError, match="no channels there"):  # StyleGAN1's ToRGB has no style
        find(*words, "--torgb", weights=tiny.weights)


def test_an_attributes_channels_are_read_and_purified(G, opened, tmp_path, monkeypatch, capsys):
    """On the bundled generator, small: the sheet has a row a direction, and the record what was read."""
    monkeypatch.chdir(tmp_path)
    words = ["--method", "channels", "--attribute", "smile", "--samples", 24, "--count", 3, "--faces", 2]
    assert find(*words, "--purify", "channels", "--keep", "gender", "--channels", 20) == 0
    said = json.loads(Path("directions/faces128_channels_smile_channels_00.json").read_text())
    assert (
        opened == [2]
        and said["purified"]["kept"] == ["gender"]
        and said["purified"]["attribute"] == "smile"
        and len(said["channels"]) == 20
        and said["reading"]["distance"] == 1
    )
    assert not Path("directions/faces128_channels_smile_channels_01.npy").exists() and said["reading"]["attributes"]["smile"] > 0.2
    assert "per sigma; identity" in capsys.readouterr().err and Path("directions/faces128_channels_smile_channels.png").is_file()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--method", "eig"], "invalid choice"),
        (["--method", "sefa", "--layers", "2-9"], "2-9 is not within 0-5"),
        (["--method", "sefa", "--count", "0"], "at least 1"),
        (["--method", "sefa", "--distance", "nan"], "finite"),
        (["--method", "sefa", "--attribute", "smile"], "--attribute"),
        (["--method", "channels"], "--attribute, or --scores"),
        (["--method", "channels", "--scores", "s.npy"], "--latents"),
        (["--method", "channels", "--scores", "s.npy", "--latents", "ws.npy"], "3 scores for the 200 latents"),
        (["--method", "channels", "--scores", "s.npy", "--latents", "narrow.npy"], "narrow.npy: shape"),
        (["--method", "pca", "--keep", "age"], "--purify"),
        (["--method", "pca", "--purify", "layers", "--faces", "0"], "--faces 16"),
        (["--method", "channels", "--attribute", "smile", "--purify", "layers"], "directions in W"),
        (["--method", "pca", "--name", "../x"], "--name"),
        (["--method", "pca", "--purify", "layers", "--faces", "2"], "no face is seen"),
        (["--method", "channels", "--attribute", "smile", "--faces", "2"], "no face is seen"),
        (["--method", "channels", "--attribute", "smile", "--faces", "0"], "give --faces 16"),
        (["--method", "channels", "--attribute", "smile", "--scores", "s.npy", "--latents", "three.npy"], "--attribute, or --scores"),
        (["--method", "channels", "--attribute", "smile", "--column", "a"], "--column is of --scores"),
        (["--method", "channels", "--scores", "nan.csv", "--latents", "three.npy"], "score 2 of 3 is not a finite number"),
        (["--method", "channels", "--scores", "same.npy", "--latents", "three.npy", "--faces", "0"], "the same for all faces"),
        (["--method", "channels", "--scores", "s.npy", "--latents", "holes.npy"], "holds NaN"),
        (["--method", "channels", "--scores", "s.npy", "--latents", "foreign"], "latents of another generator"),
        (["--method", "channels", "--scores", "gone.npy", "--latents", "three.npy"], "gone.npy"),
        (["--method", "pca", "--purify", "layers", "--keep", "hair"], "invalid choice: 'hair'"),
        (["--method", "pca", "--weight_file", "gone.safetensors"], "gone.safetensors"),
    ],
)
def test_bad_calls_say_so_in_one_line(place, tiny, monkeypatch, capsys, words, said):
    np.save("s.npy", np.arange(3.0))
    np.save("ws.npy", np.zeros((200, 512), np.float32))
    np.save("narrow.npy", np.zeros((3, 100), np.float32))
    np.save("three.npy", np.random.default_rng(0).standard_normal((3, 512), np.float32))
    np.save("holes.npy", np.full((3, 512), np.nan, np.float32))
    np.save("same.npy", np.ones(3))
    Path("nan.csv").write_text("1\nnan\n2\n")
    if "foreign" in words:
        for name in "abc":
            face.write(f"foreign/{name}.npy", torch.zeros(1, tiny.G.num_ws, 512), {"generator_hash": "0" * 64, "sources": {}})
    one_line(lambda _: find(*words, weights=None if "--weight_file" in words else tiny.weights), said, monkeypatch, capsys)
    assert not Path("directions").exists() or not list(Path("directions").glob("*"))


@pytest.mark.parametrize(
    "words, said",
    [
        (["--channel", "99:1=2"], "the layers 0 to"),
        (["--channel", "1:99999=2"], "has the channels 0 to"),
        (["--channel", "b64.torgb:1=2"], "the layers 0 to"),
        (["--channel", "1=2"], "LAYER:CHANNEL=AMOUNT"),
        (["--channel", "1:5=nan"], "finite"),
        (["--channel", "1:5=1", "1:5=2"], "given twice"),
        (["--channel", "1:5=1", "--steps", "3"], "--channel makes none"),
        (["--edit", "style.npy=1", "--layers", "1"], "directions in W"),
        (["--boundary", "style.npy", "--mode", "absolute"], "directions in W"),
        (["--boundary", "style.npy", "--save_latents"], "--edit makes whole faces"),
        (["--boundary", "foreign.npy"], "another generator"),
        (["--boundary", "size.npy"], "style channels; this generator has"),
        (["--boundary", "unit.npy"], "unit"),
        (["--boundary", "layers.npy"], "by its layers"),
        (["--boundary", "holes.npy"], "holds NaN"),
        (["--edit", "others.npy=1"], "another generator"),
        (["--edit", "w.npy=1", "--condition", "style.npy"], "--condition takes directions in W"),
        (["--edit", "w.npy=1", "--condition", "others.npy"], "another generator"),
        (["--channel", "1:5=1", "--condition", "w.npy"], "--condition is of directions in W"),
        (["--channel", "1:5=1", "--edit", "w.npy=1", "--condition", "w.npy"], "--condition is of directions in W"),
        (["--channel", "1:5=1", "--layers", "0"], "--layers is of directions in W"),
        (["--channel", "1:5=1", "--mode", "absolute"], "--mode absolute is of directions in W"),
        (["--channel", "1:5=100000"], "at most 1000"),
    ],
)
def test_bad_edits_say_so_in_one_line(place, tiny, monkeypatch, capsys, words, said):
    made = directions.of_channels(tiny.G, {7: 30.0})
    boundaries.save("style.npy", made)
    boundaries.save("foreign.npy", replace(made, info={"generator_hash": "0" * 64}))
    boundaries.save("size.npy", replace(made, normal=made.normal[:, :-1]))
    plain = boundaries.Boundary(torch.ones(1, 512, dtype=torch.float64) / 512**0.5)
    boundaries.save("unit.npy", replace(plain, info={"unit": -1}))
    boundaries.save("layers.npy", replace(plain, layers=[77]))
    boundaries.save("w.npy", plain)
    boundaries.save("others.npy", replace(plain, info={"generator_hash": "0" * 64}))
    np.save("holes.npy", np.full((1, 512), np.nan))
    one_line(lambda _: edit("--latent_file", "u.npy", *words, weights=tiny.weights, out="bad"), said, monkeypatch, capsys)
    assert not Path("bad").exists() or not list(Path("bad").glob("*"))


def one_line(main, said, monkeypatch, capsys):
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["command.py"])
    monkeypatch.setattr(cli, "open_streams", lambda: None)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as left:
        cli.run(main)
    error = capsys.readouterr().err
    assert left.value.code == 2 and said in error and len(error.strip().splitlines()) == 1, error


def test_an_exchange_goes_along_directions_in_w(place, tiny, monkeypatch, capsys):
    boundaries.save("style.npy", directions.of_channels(tiny.G, {7: 30.0}))
    boundaries.save("w.npy", boundaries.Boundary(torch.ones(1, 512, dtype=torch.float64) / 512**0.5))
    words = ["--latent_file1", "t.npy", "--latent_file2", "u.npy", "--hold", "w.npy", "--along", "style.npy", "--weight_file", tiny.weights]
    main = importlib.import_module("facial_exchange").main
    one_line(lambda _: main([str(word) for word in words]), "--hold or --along takes directions in W", monkeypatch, capsys)


def test_train_boundary_says_what_else_changes(G, opened, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ws = G.mapping(torch.randn(60, 512, generator=torch.Generator().manual_seed(0))).detach()
    smile = boundaries.load(checkpoints.HERE / "boundaries/smile.npy", G)
    np.save("scores.npy", boundaries.signed_distance(ws[:, None], smile).numpy())
    np.save("ws.npy", ws.numpy())
    words = ["--latents", "ws.npy", "--scores", "scores.npy", "--ratio", "0.4", "--weight_file", str(checkpoints.BUNDLED["generator"])]
    assert train_boundary.main([*words, "--out", "mine.npy", "--faces", "2", "--purify", "gradient", "--keep", "gender", "age"]) == 0
    said, found = capsys.readouterr().err, boundaries.load("mine.npy", G)
    assert "before --purify: " in said and "what it changes: " in said and "identity" in said
    assert found.info["purified"]["way"] == "gradient" and found.info["purified"]["kept"] == ["gender", "age"]
    assert "smile" in found.info["reading"]["attributes"]
    other = boundaries.Boundary(torch.eye(512)[:1], 0.0)
    with pytest.raises(ValueError, match="the latents have 3 layers"):  # and never a boundary that is not purified, in silence
        train_boundary.look(other, 3, checkpoints.load_generator(), argparse.Namespace(faces=2, purify="gradient"))
    train_boundary.own_generator({"0" * 64}, argparse.Namespace(faces=16, purify=None))
    assert "--weight_file" in capsys.readouterr().err
    train_boundary.own_generator({"0" * 64}, argparse.Namespace(faces=0, purify=None))
    assert not capsys.readouterr().err
