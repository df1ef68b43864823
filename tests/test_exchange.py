import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import facial_exchange
from editor import boundaries, checkpoints, face, files, images, landmarks, networks, projection, render
from editor import session as sessions
from editor.settings import Config as Settings
from stylegan_layers import Config, Generator


def pixels(path):
    return np.array(Image.open(path))


@pytest.fixture
def exchange(tiny, tmp_path, monkeypatch):
    """exchange(*words): the command in an empty folder, with the tiny generator -> {name: (latent, picture, record)} of what is there."""
    monkeypatch.chdir(tmp_path)

    def exchange(*words, out="save_image/exchange"):
        words = [str(word) for word in ["--weight_file", tiny.weights, "--precision", "fp32", *words]]
        assert facial_exchange.main(words) is None
        found = {}
        for latent in files.visible(out, "*.npy"):
            picture = pixels(latent.with_suffix(".png"))
            options = [word for word in words if word == "--force"] + (["--precision", "bf16"] if "bf16" in words else [])
            assert np.array_equal(tiny.render(latent, *options), picture), "what was written renders to its picture"
            found[latent.stem] = np.load(latent), picture, json.loads(latent.with_suffix(".json").read_text())
        return found

    return exchange


@pytest.fixture
def pair(tiny):
    """The flags for faces: a's expression (with noise maps), c's appearance (without)."""
    return ["--latent_file1", tiny.folder / "a.npy", "--latent_file2", tiny.folder / "c.npy"]


@pytest.fixture
def learnt(tiny):
    """The flags for arithmetic: a + (c - b)."""
    return [
        word
        for flag, name in (("target", "a"), ("neutral", "b"), ("expression", "c"))
        for word in (f"--{flag}", tiny.folder / f"{name}.npy")
    ]


@pytest.fixture
def photographs(tiny):
    """The flags for photographs, in a few steps."""
    return [
        *("--src_im1", "a.png", "--src_im2", "b.png", "--src_dir", tiny.folder, "--iteration", 2, "--w_iteration", 0, "--tune", 0),
    ]


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
    mixed = face.mix(face.Face(appearance), face.Face(expression), facial_exchange.default_layers(G)).ws
    return [scores(G, attributes, x) for x in (appearance, expression, mixed)]


def shares(a, e, m):
    """How far each score went from the first faces' to the others', 0..1."""
    return {name: float((m[name] - a[name]) @ (e[name] - a[name]) / (e[name] - a[name]).square().sum()) for name in a}


def test_the_default_layers_carry_the_expression(swapped):
    """Swapped between random faces, they bring the smile of one that smiles to one that does not."""
    a, e, m = swapped
    smiling = e["smile"] - a["smile"] > 3  # the donor smiles, the other does not
    assert ((m["smile"] > a["smile"])[smiling]).float().mean() > 0.85 and smiling.sum() >= 10


@pytest.fixture(scope="module")
def moved(G, attributes):
    """Scores of 80 faces, of 80 others, and of the first with what of the difference is expression."""
    ws = sample(G, 160, 1)
    appearance, other = ws[:80], ws[80:]
    args = facial_exchange.flags().parse_args(["--latent_file1", "a", "--latent_file2", "b"])
    found, _ = facial_exchange.expression_of(args, SimpleNamespace(G=G, force=False, remarks=[]))
    changed = appearance + found(other - appearance, facial_exchange.REST)
    return [scores(G, attributes, x) for x in (appearance, other, changed)]


def test_an_expression_carries_the_smile_and_hardly_anything_else(moved):
    share = shares(*moved)
    assert share["smile"] > 0.7 and all(abs(share[name]) < 0.25 for name in share if name != "smile"), share


def test_what_is_held_stays_and_what_counts_is_taken(G):
    held = [boundaries.load(checkpoints.HERE / "boundaries" / f"{name}.npy", G).normal for name in ("pose", "age")]
    smile = boundaries.load(checkpoints.HERE / "boundaries" / "smile.npy", G).normal
    difference = torch.randn(1, 12, 512, generator=torch.Generator().manual_seed(2))
    found = facial_exchange.Expression(held, [smile], [1, 2])(difference).double()
    assert all((found @ normal.T).abs().max() < 1e-5 for normal in held)
    along = boundaries.conditioned(smile, held)
    amount = 2 * (difference.double() @ along.T).mean()
    alone = found - amount * along  # the rest, in its layers alone
    assert alone[:, [0, *range(3, 12)]].abs().max() < 1e-5 and alone[:, [1, 2]].abs().min() > 0
    assert torch.allclose(
        facial_exchange.Expression(held, [smile], [1, 2])(difference, 0.0).double(), amount * along.expand(12, -1)[None], atol=1e-5
    )
    plain = facial_exchange.Expression([], [], [1, 2])(difference)
    assert torch.equal(plain[:, [1, 2]], difference[:, [1, 2]]) and not plain[:, 3:].any()


def test_the_strength_ends_where_it_would_be_someone_else(G, monkeypatch):
    monkeypatch.setattr(landmarks, "Descriptors", lambda: lambda picture: np.array([picture.mean() / 255]))
    monkeypatch.setattr(render, "one", lambda G, person, dtype: np.full((4, 4, 3), 255 * float(person.ws.mean()), np.float64))
    session, args = SimpleNamespace(G=G, dtype=None), SimpleNamespace(strength="auto")
    target, change = face.Face(torch.zeros(1, 12, 512)), torch.ones(1, 12, 512)
    person, amount = facial_exchange.changed(target, change, args, session, "arithmetic")
    assert facial_exchange.SAME_PERSON - 0.1 < amount <= facial_exchange.SAME_PERSON and torch.equal(person.ws, amount * change)
    assert facial_exchange.changed(target, 0.01 * change, args, session, "arithmetic")[1] == 3.0
    assert facial_exchange.changed(target, 0.01 * change, args, session, "exchange")[1] == 1.5
    args.strength = -2.0
    assert torch.equal(facial_exchange.changed(target, change, args, session, "exchange")[0].ws, -2 * change)


def test_default_layers_are_the_same_convolutions_in_both_kinds():
    for kind, wanted in (("stylegan1", ("b8.conv1", "b16.conv0")), ("stylegan2", ("b8.conv1", "b16.conv0"))):
        G = Generator(Config(kind, 32, channel_base=256))
        names = {module: name for name, module in G.synthesis.named_modules()}
        assert tuple(names[G.synthesis.layers()[i]] for i in facial_exchange.default_layers(G)) == wanted
    assert facial_exchange.default_layers(Generator(Config("stylegan1", 1024, channel_base=4096))) == [3, 4]


# --- faces ------------------------------------------------------------------------------------------------------------


def test_faces_are_exchanged_both_ways(run, tmp_path, G):
    """With the bundled generator, as a person runs it."""
    for name, ws in zip("ab", sample(G, 2, 7), strict=True):
        face.write(tmp_path / f"{name}.npy", ws[None], {"generator_hash": G.meta["hash"]})
    words = ["--latent-file1", "a.npy", "--latent_file2", "b.npy", "--precision", "fp32", "--change", "layers"]
    done = run("facial_exchange.py", *words, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    names = [os.path.join("save_image", "exchange", f"a_x_b_exchange{i}.{ending}") for i in (1, 2) for ending in ("png", "npy")]
    assert done.stdout.split() == names
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    one, two = np.load(tmp_path / names[1]), np.load(tmp_path / names[3])
    layers = facial_exchange.default_layers(G)
    others = [i for i in range(G.num_ws) if i not in layers]
    assert np.array_equal(two[:, layers], a[:, layers]) and np.array_equal(two[:, others], b[:, others])
    assert np.array_equal(one[:, layers], b[:, layers]) and np.array_equal(one[:, others], a[:, others])
    said = json.loads((tmp_path / names[2]).with_suffix(".json").read_text())
    assert said["layers"] == layers and said["mode"] == "latents" and said["generator_hash"] == G.meta["hash"]


def test_noise_goes_with_the_layers(exchange, pair, tiny):
    """Each result has its own face's noise, and the other's in the layers that are the other's."""
    found = exchange(*pair)
    assert list(found) == ["a_x_c_exchange1", "a_x_c_exchange2"]
    a, own = face.read_one(tiny.folder / "a.npy", tiny.G).noise, face.own_noise(tiny.G)
    for i, name in enumerate(found):
        got = face.read_one(f"save_image/exchange/{name}.npy", tiny.G).noise
        for layer, m in enumerate(got):
            assert torch.equal(m, own[layer] if (layer in (3, 4)) == (i == 0) else a[layer]), (name, layer)


def test_arithmetic(exchange, learnt, tiny):
    t, n, e, d = (np.load(tiny.folder / f"{name}.npy") for name in "abcd")
    found = exchange(*learnt)
    assert list(found) == ["a_x_c"] and np.allclose(found["a_x_c"][0], t + e - n, atol=1e-5)
    noise = face.read_one("save_image/exchange/a_x_c.npy", tiny.G).noise  # the target's
    assert all(map(torch.equal, noise, face.read_one(tiny.folder / "a.npy", tiny.G).noise))
    people = ["--neutral", tiny.folder / "b.npy", tiny.folder / "d.npy", "--expression", tiny.folder / "c.npy", tiny.folder / "b.npy"]
    found = exchange(*learnt[:2], *people, "--out_dir", "two", "--strength", 0.5, out="two")  # the mean over two people
    (name,) = found
    assert name.startswith("a_x_c_and_1_more_") and np.allclose(found[name][0], t + 0.25 * (e - n + n - d), atol=1e-5)


def test_a_folder_means_its_people(exchange, learnt, tiny, tmp_path):
    for folder, name in (("without", "b"), ("with", "c")):
        (tmp_path / folder).mkdir()
        face.write(tmp_path / folder / "x.npy", face.read(tiny.folder / f"{name}.npy").ws)
    exchange(*learnt)
    found = exchange(*learnt[:2], "--neutral", "without", "--expression", "with")
    assert np.array_equal(found["a_x_x"][0], found["a_x_c"][0])


def test_other_people_give_another_name(tiny):
    def name(letters):
        paths = [tiny.folder / f"{letter}.npy" for letter in letters]
        return facial_exchange.people_name(paths, [face.read(path) for path in paths])

    assert name("a") == "a" and name("abc") == name("abc") and len({name("abc"), name("abd"), name("acb")}) == 3
    assert name("abc").startswith("a_and_2_more_")


def test_results_never_replace_others(exchange, pair, learnt, tiny):
    exchange(*pair)
    with pytest.raises(ValueError, match="a_x_c_exchange1.npy: holds the result of"):
        exchange("--src_im1", tiny.folder / "a.png", "--src_im2", tiny.folder / "c.png", "--iteration", 1)
    exchange(*learnt)
    with pytest.raises(ValueError, match="a_x_c.npy: holds the result of"):
        exchange(*learnt[:3], tiny.folder / "d.npy", *learnt[4:])


# --- photographs ------------------------------------------------------------------------------------------------------


def test_two_photographs(tmp_path, G):
    """With the bundled generator and its encoder: both are found, in one batch, and their layers exchanged."""
    for name, ws in zip("ab", sample(G, 2, 7), strict=True):
        with torch.no_grad():
            images.save(tmp_path / f"{name}.png", G.synthesis(ws[None])[0])
    words = [
        "--src_im1",
        "a.png",
        "--src_im2",
        tmp_path / "b.png",
        "--src_dir",
        tmp_path,
        "--iteration",
        12,
        "--out_dir",
        tmp_path,
        "--quiet",
        *("--w_iteration", 0, "--tune", 0, "--change", "layers"),
    ]
    assert facial_exchange.main([str(word) for word in words]) is None
    one, two = (face.read_one(tmp_path / f"a_x_b_exchange{i}.npy", G) for i in (1, 2))
    layers = facial_exchange.default_layers(G)
    e, a = face.mix(one, two, layers), face.mix(two, one, layers)  # undone: the two latents that were found
    for found, name, other in ((e, "a", "b"), (a, "b", "a")):
        image = images.load(tmp_path / f"{name}.png", G.resolution)
        with torch.no_grad():
            error = (G.synthesis(found.ws) - image).square().mean()
        assert error < 0.25 * (image - images.load(tmp_path / f"{other}.png", G.resolution)).square().mean()
    said = json.loads((tmp_path / "a_x_b_exchange1.json").read_text())
    assert said["mode"] == "images" and len(said["losses"]) == 2 and said["lambda_style"] == 1.0 and said["complete"] is True


@pytest.fixture
def goals(monkeypatch):
    """A list that gets the goal and config of each call of the optimiser."""
    seen, project = [], projection.project
    monkeypatch.setattr(sessions, "ONE_THREAD_UP_TO", 0)  # in one batch

    def spy(G, distance, goal, config, *rest):
        seen.append((goal, config))
        return project(G, distance, goal, config, *rest)

    monkeypatch.setattr(projection, "project", spy)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    return seen


def test_the_expression_has_the_gram_loss_and_the_appearance_the_content_loss(exchange, photographs, goals, tiny):
    exchange(*photographs, "--lambda_style", 3, "--lambda_content", 2)
    ((goal, _),) = goals
    assert goal.content.tolist() == [2, 1] and goal.gram.tolist() == [3, 0]
    assert np.array_equal(images.to_uint8(goal.image), [pixels(tiny.folder / f"{name}.png") for name in "ab"])


def test_the_two_losses_are_the_papers(G):
    """content * (squared error + distance) + gram * Gram loss, of each image its own; the Gram loss hardly minds where things are."""
    distance = checkpoints.load_features(checkpoints.BUNDLED["features"])
    with torch.no_grad():
        y, ws = G.synthesis(sample(G, 1, 3)).clamp(-1, 1), sample(G, 1, 9)

        def loss(content, gram, image):
            goal = projection.Goal(image.repeat(2, 1, 1, 1), content=torch.tensor([content, 1.0]), gram=torch.tensor([gram, 0.0]))
            return projection.objective(G, distance, goal, Settings())(ws.repeat(2, 1, 1), "const")[0]

        both, content, gram = loss(2.0, 3.0, y), loss(1.0, 0.0, y), loss(0.0, 1.0, y)
        assert torch.allclose(both[0], 2 * content[0] + 3 * gram[0], rtol=1e-5) and both[1] == content[1] == gram[1]
        drawn = G.synthesis(ws)
        plain = (drawn - y).square().mean() + distance(drawn, y)[0]
        assert torch.allclose(content, plain.repeat(2), rtol=1e-4)
        rolled = drawn.roll(16, dims=3)
        assert loss(0.0, 1.0, rolled)[0] / gram[0] < 0.7 * loss(1.0, 0.0, rolled)[0] / content[0]


def test_ctrl_c_keeps_the_best_so_far_of_both(exchange, photographs, monkeypatch, capfd, tiny):
    share, count = projection.share, []
    monkeypatch.setattr(sessions, "ONE_THREAD_UP_TO", 0)  # in one batch

    def stopping(a, b):
        count.append(1)
        if len(count) == 6:
            raise KeyboardInterrupt
        return share(a, b)

    monkeypatch.setattr(projection, "share", stopping)
    with pytest.raises(KeyboardInterrupt):
        exchange(*photographs, "--iteration", 200)
    for i in (1, 2):
        latent = f"save_image/exchange/a_x_b_exchange{i}.npy"
        assert np.array_equal(tiny.render(latent), pixels(latent[:-3] + "png"))
        said = json.loads(open(latent[:-3] + "json").read())
        assert said["stopped"] == "Ctrl-C" and said["complete"] is False and said["steps"] == 5
    assert "the best of 5 steps is in" in capfd.readouterr().err


def test_divergence_writes_nothing(exchange, photographs, monkeypatch, tmp_path):
    monkeypatch.setattr(projection, "share", lambda a, b: (a - b).sum((1, 2)) * float("nan"))
    with pytest.raises(ValueError, match="stopped being finite"):
        exchange(*photographs)
    assert not any((tmp_path / "save_image" / "exchange").iterdir())


def test_what_does_not_fit_is_optimised_one_after_the_other(exchange, photographs, monkeypatch, capfd):
    project = projection.project
    monkeypatch.setattr(sessions, "ONE_THREAD_UP_TO", 0)

    def small_memory(G, distance, goal, config, *rest):
        if len(goal.image) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return project(G, distance, goal, config, *rest)

    whole = exchange(*photographs)
    monkeypatch.setattr(projection, "project", small_memory)
    halved = exchange(*photographs)
    assert "out of memory with 2 images at once" in capfd.readouterr().err
    assert all(np.allclose(whole[name][0], halved[name][0], atol=1e-4) for name in whole) and len(halved) == 2


# --- arithmetic -------------------------------------------------------------------------------------------------------

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


# --- the flags, each by what it does to the result --------------------------------------------------------------------


class Case:
    """The three modes, ready to be called with one more flag."""

    def __init__(self, exchange, pair, learnt, photographs, goals, tiny, capfd):
        self.exchange, self.goals, self.tiny, self.capfd = exchange, goals, tiny, capfd
        self.words = {"pair": pair, "learnt": learnt, "photographs": photographs}

    def __call__(self, mode, *words):
        """The latent, picture and record of the first result."""
        return next(iter(self.exchange(*self.words[mode], *words).values()))

    def parents(self, names):
        return (np.load(self.tiny.folder / f"{name}.npy") for name in names)


def check_layers(case):
    a, c = case.parents("ac")
    ws, _, _ = case("pair", "--layers", "0-1")
    assert np.array_equal(ws[:, :2], c[:, :2]) and np.array_equal(ws[:, 2:], a[:, 2:])
    t, n, e = case.parents("abc")
    ws = next(v[0] for k, v in case.exchange(*case.words["learnt"], "--layers", "2-3").items() if k == "a_x_c")
    assert (np.abs(ws - t).max((0, 2)) > 0).nonzero()[0].tolist() == [2, 3]


def check_strength(case):
    a, c = case.parents("ac")
    ws, _, said = case("pair", "--strength", 0.25)
    assert np.allclose(ws[:, 3:5], 0.75 * a[:, 3:5] + 0.25 * c[:, 3:5], atol=1e-5) and said["strengths"] == [0.25, 0.25]
    other = np.load("save_image/exchange/a_x_c_exchange2.npy")
    assert np.allclose(other[:, 3:5], 0.75 * c[:, 3:5] + 0.25 * a[:, 3:5], atol=1e-5)
    t, n, e = case.parents("abc")
    ws = case.exchange(*case.words["learnt"], "--strength", -2)["a_x_c"][0]
    assert np.allclose(ws, t - 2 * (e - n), atol=1e-4)


def check_change(case):
    t, n, e = case.parents("abc")
    assert np.allclose(case("learnt", "--change", "mean")[0], t + (e - n).mean(1, keepdims=True), atol=1e-5)
    assert np.allclose(case("learnt", "--change", "layers")[0], t + e - n, atol=1e-5)


def directions():
    """Two boundaries' files, orthogonal."""
    for i, name in enumerate(("held", "along")):
        np.save(f"{name}.npy", np.eye(512)[i : i + 1])
    return ["--hold", "held.npy", "--along", "along.npy", "--strength", "1"]


def check_hold(case):
    a, c = case.parents("ac")
    ws, _, said = case("pair", *directions())
    assert np.abs((ws - a)[..., 0]).max() < 1e-5 < np.abs((c - a)[..., 0]).max() and said["change"] == "expression"
    assert np.allclose((ws - a)[:, :3, 2:], 0.25 * (c - a)[:, :3, 2:], atol=1e-5) and not (ws - a)[:, 3:, 2:].any()
    with pytest.raises(ValueError, match="--hold and --along are of --change expression"):
        case("pair", *directions(), "--change", "layers")


def check_along(case):
    a, c = case.parents("ac")
    ws, _, _ = case("pair", *directions())
    assert np.allclose((ws - a)[:, 3:, 1], 2 * (c - a)[..., 1].mean(), atol=1e-4)
    t, n, e = case.parents("abc")
    ws, _, _ = case("learnt", *directions())  # of one person all of the rest counts
    assert np.allclose((ws - t)[:, :3, 2:], (e - n)[:, :3, 2:], atol=1e-5)


def check_w_iteration(case):
    case("photographs", "--w_iteration", 3)
    assert [config.space for _, config in case.goals] == ["w+", "w"] and case.goals[1][1].iteration == 3


def check_tune(case):
    plain, tuned = case("photographs")[2], case("photographs", "--tune", 2)[2]
    assert tuned["steps"] == plain["steps"] + 2 and len(files.visible("save_image/exchange", "*.tuned.safetensors")) == 2


def check_tuned_strength(case):
    case("photographs", "--tune", 2)
    words = [word for i in (1, 2) for word in (f"--latent_file{i}", f"save_image/exchange/a_x_b_exchange{i}.npy")]
    case.exchange(*words, "--tuned_strength", 0, "--out_dir", "none", out="none")
    case.exchange(*words, "--out_dir", "all", out="all")
    assert not files.visible("none", "*.tuned.safetensors") and len(files.visible("all", "*.tuned.safetensors")) == 2


def check_threshold(case):
    t, n, e = case.parents("abc")
    ws, _, said = case("learnt", "--threshold", 3.5)
    kept = np.linalg.norm((e - n)[0], axis=0) >= 3.5
    assert ((np.abs(ws - t).max((0, 1)) > 0) == kept).all() and said["channels"] == kept.sum() and 0 < kept.sum() < 512
    assert np.array_equal(case("learnt", "--threshold", 1e6)[0], t)
    assert "no channel changes that much" in case.capfd.readouterr().err


def check_lambda_style(case):
    words = ["photographs", "--tune", 3]  # a single step of Adam's is the gradient's sign
    assert not np.array_equal(case(*words)[1], case(*words, "--lambda_style", 50)[1])


def check_lambda_content(case):
    words = ["photographs", "--tune", 3]  # a single step of Adam's is the gradient's sign
    assert not np.array_equal(case(*words)[1], case(*words, "--lambda_content", 0)[1])


def check_iteration(case):
    start, _, said = case("photographs", "--iteration", 0)
    assert said["steps"] == 0 and np.allclose(start, case.tiny.G.w_avg.numpy()) and case("photographs")[2]["losses"] < said["losses"]


def check_perceptual(case):
    with pytest.raises(ValueError, match="Gram loss"):
        case("photographs", "--perceptual", "none")
    assert case("photographs", "--perceptual", "bundled")[2]["perceptual"] == "bundled"


def check_compile(case):
    case("photographs")
    case("photographs", "--compile", "on")
    assert [config.compile for _, config in case.goals] == [False, True]


def check_low_memory(case):
    case("photographs")
    case("photographs", "--low_memory")
    assert [config.low_memory for _, config in case.goals] == [False, True]


def check_sources(case):
    ws, _, said = case("photographs")
    assert [os.path.basename(said["sources"][role]["path"]) for role in ("expression", "appearance")] == ["a.png", "b.png"]


def check_faces(case):
    a, c = case.parents("ac")
    ws, _, _ = case("pair")
    assert np.array_equal(ws[:, :3], a[:, :3]) and np.array_equal(ws[:, 3:5], c[:, 3:5])


def check_people(case):
    t, n, e = case.parents("abc")
    assert np.allclose(case("learnt")[0], t + e - n, atol=1e-5)


def check_out_dir(case):
    assert not case.exchange(*case.words["pair"], "--out_dir", "mine") and len(files.visible("mine", "*.png")) == 2


def check_no_saved_noise(case):
    assert not np.array_equal(case("pair")[1], case("pair", "--no_saved_noise")[1])


def check_force(case):
    other = ["--latent_file2", case.tiny.folder / "other.npy"]
    with pytest.raises(ValueError, match="another generator"):
        case("pair", *other)
    assert np.array_equal(case("pair", *other, "--force")[0][:, 3:5], np.load(case.tiny.folder / "other.npy")[:, 3:5])


def check_weight_file(case):
    with pytest.raises(ValueError, match=r"takes \[1, 12, 512\]"):
        case("pair", "--weight_file", checkpoints.HERE / "weight_files" / "faces128.safetensors")


def check_precision(case):
    assert not np.array_equal(case("pair")[1], case("pair", "--precision", "bf16")[1])


def check_recorded(name, value, said):
    def check(case):
        assert case("pair", f"--{name}", value)[2][name] == said

    return check


def check_quiet(case):
    case.capfd.readouterr()
    case("photographs", "--quiet")
    assert case.capfd.readouterr() == ("", "")
    case("photographs")
    assert len(case.capfd.readouterr().out.split()) == 4


def check_list(case):
    with pytest.raises(SystemExit):
        facial_exchange.main(["--list"])
    assert "smile" in case.capfd.readouterr().out


EFFECTS = {
    "src_im1": check_sources, "src_im2": check_sources, "src_dir": check_sources, "iteration": check_iteration,
    "lambda_style": check_lambda_style, "lambda_content": check_lambda_content, "perceptual": check_perceptual, "compile": check_compile,
    "low_memory": check_low_memory, "latent_file1": check_faces, "latent_file2": check_faces, "target": check_people,
    "neutral": check_people, "expression": check_people, "layers": check_layers, "strength": check_strength, "change": check_change,
    "hold": check_hold, "along": check_along, "w_iteration": check_w_iteration, "tune": check_tune, "tuned_strength": check_tuned_strength,
    "threshold": check_threshold, "out_dir": check_out_dir, "no_saved_noise": check_no_saved_noise, "force": check_force,
    "weight_file": check_weight_file, "device": check_recorded("device", "cpu", "cpu"), "precision": check_precision,
    "seed": check_recorded("seed", 7, 7), "quiet": check_quiet, "list": check_list,
}  # fmt: skip


def test_every_flag_has_a_test_of_its_effect():
    flags = {option for action in facial_exchange.flags()._actions for option in action.option_strings if option.startswith("--")}
    assert flags == {f"--{name}" for name in EFFECTS} | {"--help", "--version", "--class"}  # test_classes.py has it


@pytest.mark.parametrize("flag", EFFECTS)
def test_the_flag_acts(flag, exchange, pair, learnt, photographs, goals, tiny, capfd):
    EFFECTS[flag](Case(exchange, pair, learnt, photographs, goals, tiny, capfd))


# --- bad calls --------------------------------------------------------------------------------------------------------


def test_bad_calls_say_so(tiny, tmp_path, capsys):
    a, b, picture = tiny.folder / "a.npy", tiny.folder / "b.npy", tiny.folder / "a.png"
    pair, learnt = ["--latent_file1", a, "--latent_file2", b], ["--target", a, "--neutral", b, "--expression", b]
    photographs = ["--src_im1", picture, "--src_im2", tiny.folder / "b.png"]
    for words, said in (
        ([], "give one of: --src_im1 --src_im2; --latent_file1"),
        ([*pair, "--target", a], "give one of"),
        (pair[2:], "needs --latent_file1"),
        (learnt[:4], "needs --expression"),
        (["--target", a, "--neutral", b, b, "--expression", b], "--neutral has 2 latents, --expression 1"),
        (photographs[:2], "needs --src_im2"),
        ([*photographs[:2], "--src_im2", "no.png"], "no.png"),
        ([*photographs[:2], "--src_im2", a], "a.npy"),
        ([*photographs, "--perceptual", "none"], "Gram"),
        ([*photographs, "--lambda_style", 0, "--lambda_content", 0], "both 0"),
        ([*photographs, "--force"], "--force: cannot act on --src_im1 and --src_im2"),
        ([*pair, "--layers", "3-6"], "0-5"),
        ([*pair, "--threshold", 1], "--threshold: cannot act on"),
        ([*pair, "--change", "mean"], "--change mean: cannot act on"),
        ([*pair, "--iteration", 5], "--iteration: cannot act on"),
        ([*pair[:2], "--latent_file2", picture], "a.png"),
        ([*pair[:2], "--latent_file2", tiny.folder], "a folder, not a file"),
        ([*learnt, "--threshold", -1], "--threshold: -1: expected"),
        ([*pair, "--strength", "nan"], "--strength: nan: expected"),
        ([*pair, "--strength", "1e9"], "--strength: 1e9: expected"),
        ([*photographs, "--lambda_style", "nan"], "--lambda_style: nan: expected"),
        ([*photographs, "--lambda_content", -1], "--lambda_content: -1: expected"),
    ):
        words = [str(word) for word in [*words, "--weight_file", tiny.weights, "--quiet"]]
        with pytest.raises((ValueError, OSError, SystemExit)) as caught:
            facial_exchange.main([*words, "--out_dir", str(tmp_path / "out")])
        assert said in (capsys.readouterr().err if caught.type is SystemExit else str(caught.value)), words
    assert not (tmp_path / "out").exists()
