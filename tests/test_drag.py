"""Dragged points: the feature map, the two ways, what holds the outside, the command."""

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import drag_edit
import stylegan_layers
from editor import checkpoints, cli, dragging, face, images, landmarks, render, settings

OUT = "save_image/drag"


def blob(x, y, side=32, sigma=2.0):
    """A feature map [1, 2, side, side] of a blob at a pixel of the map, and a gradient that tells left from right."""
    rows, columns = torch.meshgrid(torch.arange(side) * 1.0, torch.arange(side) * 1.0, indexing="ij")
    one = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return torch.stack([one, one * (columns - x) / sigma])[None]


def at(x, y, cell=4):
    """A pixel of the map in pixels of the picture, [1, 2]."""
    return (torch.tensor([[x, y]]) + 0.5) * cell - 0.5


@pytest.fixture(scope="module")
def person(G):
    with torch.no_grad():
        return face.Face(G.truncate(G.mapping(torch.randn(1, 512, generator=torch.Generator().manual_seed(12))), 0.5))


@pytest.fixture
def place(tmp_path, monkeypatch, G, person):
    """A folder with a.npy, and the generator at hand."""
    monkeypatch.chdir(tmp_path)
    load = checkpoints.load_generator
    monkeypatch.setattr(checkpoints, "load_generator", lambda path=None, device="cpu": G if path is None else load(path, device))
    face.write("a.npy", person.ws, {"generator_hash": G.meta["hash"]})
    return tmp_path


def call(*words):
    return drag_edit.main([str(word) for word in (*words, "--quiet")])


def run_line(monkeypatch, capsys, words):
    """The exit code of a call as a person makes it, and what it says."""
    monkeypatch.setattr("sys.argv", ["drag_edit.py"])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli, "open_streams", lambda: None)
    with pytest.raises(SystemExit) as left:
        cli.run(lambda _: call(*words))
    return left.value.code, capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# The feature map


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
def test_features_are_what_leaves_the_last_layer_of_that_side(kind):
    torch.manual_seed(0)
    G = stylegan_layers.Generator(stylegan_layers.Config(kind, resolution=32, channel_base=256))
    ws, seen = torch.randn(1, G.num_ws, 512), []
    for layer in G.synthesis.layers():
        layer.noise_strength.data.fill_(0.3)
    maps = [torch.randn(1, 1, layer.resolution, layer.resolution) for layer in G.freeze().synthesis.layers()]
    hook = G.synthesis.b16.conv1.register_forward_hook(lambda layer, inputs, output: seen.append(output.detach().clone()))
    with torch.no_grad():
        G.synthesis(ws, noise=maps)
        hook.remove()
        assert torch.equal(dragging.features(G, ws, 16, maps), seen[0])
        assert not torch.allclose(dragging.features(G, ws, 16), seen[0])


def test_a_small_map_is_read_at_the_pixels_of_the_picture():
    picture = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 1, 16, 16)  # x itself, and its mean over 4 x 4 pixels
    fmap = dragging.Map(torch.nn.functional.avg_pool2d(picture, 4), 16)
    places = torch.tensor([[1.5, 3.0], [5.0, 9.0], [8.25, 2.0], [13.5, 7.0]])
    assert torch.allclose(fmap(places)[:, 0], places[:, 0], atol=1e-5)


def test_a_shifted_patch_is_found_to_a_fraction_of_a_pixel():
    first, offsets = dragging.Map(blob(12.0, 15.0), 128), dragging.disc(1)
    template = first(at(12.0, 15.0)[:, None] + offsets * 4)
    for dx, dy in ((0.5, -0.25), (2.3, 1.7), (-3.4, 0.2)):
        now = dragging.Map(blob(12.0 + dx, 15.0 + dy), 128)
        found = dragging.tracked(now, at(12.0, 15.0), template, offsets, 6.0)
        assert (found - at(12.0 + dx, 15.0 + dy)).abs().max() < 1  # pixel of the picture, a quarter of one of the map
    far = dragging.tracked(dragging.Map(blob(22.0, 15.0), 128), at(12.0, 15.0), template, offsets, 2.0)
    assert (far - at(12.0, 15.0)).norm() < 19  # r2 bounds how far is looked


@pytest.mark.parametrize("goal", [(20.0, 15.0), (4.0, 15.0), (12.0, 23.0), (7.0, 10.0)])
@pytest.mark.parametrize("method", dragging.WAYS)
def test_a_blob_is_pulled_towards_its_goal(method, goal):
    where = torch.tensor([12.0, 15.0], requires_grad=True)
    way = dragging.WAYS[method](dragging.Map(blob(12.0, 15.0), 128), at(12.0, 15.0), settings.Drag())
    pull = -torch.autograd.grad(way.losses(dragging.Map(blob(*where), 128), at(*goal)).sum(), where)[0]
    wanted = torch.tensor(goal) - where.detach()
    assert torch.cosine_similarity(pull, wanted, dim=0) > 0.85


@pytest.mark.parametrize("method", dragging.WAYS)
def test_a_blob_arrives(method):
    where, goal = torch.tensor([12.0, 15.0], requires_grad=True), at(17.0, 13.0)
    way, optimiser = dragging.WAYS[method](dragging.Map(blob(12.0, 15.0), 128), at(12.0, 15.0), settings.Drag(r2=2)), None
    optimiser = torch.optim.Adam([where], lr=0.1)
    for step in range(200):
        fmap = dragging.Map(blob(*where), 128)
        if step:
            way.find(dragging.Map(fmap.values.detach(), 128))
        if (way.places - goal).norm() <= dragging.STOP:
            break
        optimiser.zero_grad()
        way.losses(fmap, goal).sum().backward()
        optimiser.step()
    assert (at(*where.detach()) - goal).norm() < 4 and step < 199


def test_what_a_landmark_says_moves_the_patch_there():
    way = dragging.Track(dragging.Map(blob(12.0, 15.0), 128), at(12.0, 15.0), settings.Drag())
    before, now = way.wanted.clone(), dragging.Map(blob(15.0, 15.0), 128)
    way.anchor(now, torch.full((1, 2), math.nan), torch.tensor([False]))
    assert torch.equal(way.wanted, before) and torch.equal(way.places, at(12.0, 15.0))
    way.anchor(now, at(14.0, 15.0), torch.tensor([True]))
    assert torch.equal(way.places, at(14.0, 15.0)) and not torch.allclose(way.wanted, before)


# ---------------------------------------------------------------------------------------------------------------------
# The drag


def points(*pairs):
    return [drag_edit.Point("x", start, target) for start, target in pairs]


def test_a_small_drag_reaches_its_target_and_few_steps_do_not(G, person):
    asked = points(((64.0, 70.0), (70.0, 70.0)))
    found = dragging.drag(G, person, asked, settings.Drag(iteration=60))
    assert found.stopped == "reached" and found.left.max() <= dragging.STOP and found.steps < 60 and len(found.path) <= found.steps + 1
    assert torch.equal(found.ws[:, 7:], person.ws[:, 7:]) and not torch.equal(found.ws[:, :7], person.ws[:, :7])
    few = dragging.drag(G, person, asked, settings.Drag(iteration=2))
    assert few.stopped == "limit" and few.left.max() > dragging.STOP
    some = dragging.drag(G, person, asked, settings.Drag(iteration=2, layers=[1, 2]))
    assert {i for i in range(G.num_ws) if not torch.equal(some.ws[:, i], person.ws[:, i])} <= {1, 2}
    again = dragging.drag(G, person, asked, settings.Drag(iteration=2))
    assert torch.equal(few.ws, again.ws)


def test_the_mask_holds_the_outside(G, person):
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 50:95, 40:90] = 1
    asked, off = points(((64.0, 70.0), (70.0, 70.0))), {}
    before = render.one(G, person).astype(float)
    for weight in (0.0, 20.0):
        found = dragging.drag(G, person, asked, settings.Drag(iteration=8, r2=2, lambda_mask=weight, lambda_start=0.0), mask)
        path = render.one(G, face.Face(found.path[-1][0])).astype(float)
        off[weight] = np.abs(path - before)[(mask[0, 0] == 0).numpy()].mean()
    assert off[20.0] < 0.6 * off[0.0]


def test_the_start_holds_the_latent(G, person):
    asked = points(((64.0, 70.0), (74.0, 70.0)))
    moved = [
        (dragging.drag(G, person, asked, settings.Drag(iteration=6, r2=2, lambda_start=weight)).path[-1][0] - person.ws).norm()
        for weight in (0.0, 100.0)
    ]
    assert moved[1] < 0.7 * moved[0]


def test_landmarks_say_where_points_are_and_how_it_ends(G, person):
    """Of landmarks that never move, no point is ever reached; of those that are there, at once."""
    asked, marks = points(((64.0, 70.0), (70.0, 70.0))), np.full((68, 2), 64.0) + [0, 6]
    still = dragging.Followed(lambda ws: marks, marks, asked, 128)
    found = dragging.drag(G, person, asked, settings.Drag(iteration=7), None, still)
    assert found.stopped == "limit" and abs(found.left.item() - 6) < 1e-4 and torch.equal(found.ws, person.ws) and found.steps == 7
    there = dragging.Followed(lambda ws: marks + [6, 0] * (not torch.equal(ws, person.ws)), marks, asked, 128)
    found = dragging.drag(G, person, asked, settings.Drag(iteration=7), None, there)
    assert found.stopped == "reached" and found.steps <= dragging.LOOK_EVERY + 1
    gone = dragging.Followed(lambda ws: marks + 50, marks - [40, 0], asked, 128)
    assert gone.near.tolist() == [False]
    doubted = dragging.Followed(lambda ws: marks, marks, asked, 128, np.zeros(68, bool))
    assert doubted.near.tolist() == [False] and doubted.doubted == ["x"]


def test_what_comes_no_nearer_ends_at_the_nearest(G, person, monkeypatch):
    """It goes back to the nearest place twice, each time by smaller steps; what is nearer but smeared is not taken."""
    asked, marks, rates = points(((64.0, 70.0), (74.0, 70.0))), np.full((68, 2), 64.0) + [0, 6], []
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda them, lr: rates.append(lr) or adam(them, lr=lr))
    monkeypatch.setattr(dragging, "PATIENCE", 8)
    goes = iter([0, 3, 9.5, *[0] * 40])  # pixels that the landmark has moved, look by look
    monkeypatch.setattr(dragging.Look, "alike", lambda look, fmap, places: places[:, 0] < 73)
    followed = dragging.Followed(lambda ws: marks + [next(goes), 0], marks, asked, 128)
    found = dragging.drag(G, person, asked, settings.Drag(iteration=90), None, followed)
    assert found.stopped == "no nearer" and abs(found.left.item() - 7) < 0.01 and rates == [0.02, 0.01, 0.005]
    assert len(found.path) == dragging.LOOK_EVERY + 2 and torch.equal(found.path[-1][0], found.ws)
    assert 3 * dragging.PATIENCE <= found.steps < 90


def test_a_landmark_where_nothing_is_alike_is_not_believed(G, person):
    """Dlib says at once that the point is there; what is there is another part of the face."""
    asked, marks = points(((64.0, 70.0), (45.0, 55.0))), np.full((68, 2), 64.0) + [0, 6]
    wrong = dragging.Followed(lambda ws: marks - [19, 15] * (not torch.equal(ws, person.ws)), marks, asked, 128)
    found = dragging.drag(G, person, asked, settings.Drag(iteration=6), None, wrong)
    assert found.stopped == "limit" and found.left.item() > 10


def test_a_torn_patch_is_not_alike(G, person):
    seen = dragging.Seen(G, person)
    starts = torch.tensor([[45.0, 55.0], [64.0, 70.0]])
    look = dragging.Look(None, seen.first, starts, starts, None, 2.0)
    assert look.alike(seen.first, starts).tolist() == [True, True]
    assert look.alike(seen.first, starts.flip(0)).tolist() == [False, False]
    assert look.alike(seen.first, torch.full((2, 2), math.nan)).tolist() == [False, False]


def test_landmarks_that_jump_are_not_steady(G, person, monkeypatch):
    picture, marks = render.one(G, person), np.full((68, 2), 64.0)
    moves, jumps = {}, np.zeros((68, 1))

    def located(image):
        pixels = np.asarray(image).astype(int)
        (dx, dy) = min(((2, 0), (-2, 0), (0, 2)), key=lambda by: abs(np.roll(picture, by[::-1], (0, 1)) - pixels)[8:-8, 8:-8].sum())
        moves[dx, dy] = True
        return marks + (dx, dy) + jumps * (dx == 2)

    monkeypatch.setattr(landmarks, "landmarks_of_crop", located)
    assert drag_edit.steady(picture, marks).all() and len(moves) == 3
    jumps[3] = 5
    assert np.flatnonzero(~drag_edit.steady(picture, marks)).tolist() == [3]
    jumps[:] = 1.6  # each alone would do
    assert not drag_edit.steady(picture, marks).any()
    monkeypatch.setattr(landmarks, "landmarks_of_crop", no_face)
    assert not drag_edit.steady(picture, marks).any()


def test_ctrl_c_keeps_the_best_so_far(G, person):
    def stop(step, left):
        if step == 4:
            raise KeyboardInterrupt

    found = dragging.drag(G, person, points(((64.0, 70.0), (74.0, 70.0))), settings.Drag(), None, None, stop)
    assert found.stopped == "interrupted" and isinstance(found.interrupted, KeyboardInterrupt) and 0 < found.steps <= 4


# ---------------------------------------------------------------------------------------------------------------------
# The command


def test_texts_of_points():
    one = drag_edit.parsed("10,20.5>30,25")
    assert (one.start, one.target, one.relative, one.landmark) == ((10, 20.5), (30, 25), False, None)
    assert drag_edit.parsed("part:chin>+0,-4").placed(np.arange(136.0).reshape(68, 2)).target == (16, 13)
    assert drag_edit.parsed("10,20>-3,+1").placed(None).target == (7, 21)
    assert drag_edit.entered({"from": [1, 2], "by": [3, 4]}, "f").placed(None).target == (4, 6)
    assert set(drag_edit.NAMED.values()) <= set(range(68))


def test_the_face_is_written_whole_with_its_way(place, G, person, monkeypatch):
    """Noise, tuned weights, record, animation; and the picture is what the face renders to."""
    from editor import tuning

    noise = [m + 0.3 * torch.randn(m.shape, generator=torch.Generator().manual_seed(1)) for m in face.own_noise(G)]
    tuned = {name: torch.full_like(v, 0.05).half() for name, v in tuning.zeros(G, "kernel").items()}
    face.write("t.npy", person.ws, {"generator_hash": G.meta["hash"]}, noise, tuned)
    Path("more.json").write_text(json.dumps(["50,60>54,60", {"from": [80, 60], "by": [4, 0]}]))
    words = ["--latent_file", "t.npy", "--drag", "64,70>70,70", "--points", "more.json", "--find", "features", "--iteration", 3]
    assert call(*words, "--animation", "gif", "--fps", 5, "--width", 64, "--lr", 0.05, "--layers", "0-3", "--r1", 3, "--r2", 4) == 0
    found = face.read(f"{OUT}/t_drag.npy", G)
    assert found.tuned and all(torch.equal(found.tuned[name], tuned[name]) for name in tuned)
    assert all(torch.equal(a, b) for a, b in zip(found.noise, noise, strict=True)) and not torch.equal(found.ws, person.ws)
    assert np.array_equal(render.one(G, found), np.asarray(images.open_image(f"{OUT}/t_drag.png")))
    said = found.info
    assert said["made_by"] == "drag_edit.py" and set(said["sources"]) == {"latent_file", "points"} and len(said["points"]) == 3
    chosen = {"lr": 0.05, "layers": [0, 1, 2, 3], "r1": 3, "r2": 4, "iteration": 3, "method": "track", "find": "features"}
    assert chosen.items() <= said["settings"].items()
    from PIL import Image

    with Image.open(f"{OUT}/t_drag.gif") as movie:
        assert movie.size == (64, 64) and 2 <= movie.n_frames <= said["steps"] + 1 + 2


@pytest.mark.parametrize("out, kind, picture", [
    ("a.gif", "gif", "save_image/drag/a.png"), ("a", "mp4", "save_image/drag/a.png"),
    ("b/a.webp", "webp", "b/a.png"), ("b/a.webp", None, "b/a.webp"),
])  # fmt: skip
def test_an_animation_and_its_picture_have_names_of_their_own(out, kind, picture):
    words = ["--latent_file", "x.npy", "--out", out, *(["--animation", kind] if kind else [])]
    assert str(drag_edit.destination(drag_edit.flags().parse_args(words))) == picture


def test_the_picture_is_written_under_the_name_that_was_asked_for(place, G):
    images.save("x.png", np.full((128, 128, 3), 255, np.uint8))  # the mask, which a picture x.png would replace
    before = Path("x.png").read_bytes()
    words = ["--latent_file", "a.npy", "--drag", "64,70>70,70", "--find", "features", "--iteration", 0, "--mask", "x.png"]
    assert call(*words, "--out", "./x.jpg") == 0
    assert Path("x.png").read_bytes() == before and images.open_image("x.jpg").size == (128, 128)
    assert face.record("x.npy")["picture"]["path"] == "x.jpg"


def test_a_report_says_what_a_drag_came_to(place, G):
    """As an edit of its face, with the way there; a record that lies does no harm."""
    from editor import results

    words = ["--latent_file", "a.npy", "--drag", "64,70>68,70", "--find", "features", "--iteration", 1, "--animation", "gif"]
    assert call(*words) == 0
    row = face.record(f"{OUT}/a_drag.npy")["points"][0]
    (found,) = results.read([Path(OUT)])
    assert found.name == "a" and [p.label for p in found.edits] == [f"64,70>68,70: {row['way']:.0%}", "a_drag: the way"]
    path = Path(OUT, "a_drag.json")
    said = json.loads(path.read_text())
    for points in (None, [3, {"point": 5, "way": 1}, {"point": "x", "way": "y"}]):
        path.write_text(json.dumps(said | {"points": points, "animation": "../../a.npy", "stopped": "no nearer"}))
        (found, gif) = results.read([Path(OUT)])
        assert [p.label for p in found.edits] == ["no nearer"] and gif.name == "a_drag"


def test_points_are_drawn_where_they_are():
    shown = np.asarray(drag_edit.drawn(np.zeros((128, 128, 3), np.uint8), [[30, 40]], [[90, 100]]))
    assert shown[40, 30].argmax() == 0 and shown[100, 90].argmax() == 2 and shown[70, 60].min() == 255 and not shown[10, 10].any()
    large = np.asarray(drag_edit.drawn(np.zeros((128, 128, 3), np.uint8), [[30, 40]], [[90, 100]], 256))
    assert large.shape == (256, 256, 3) and large[80, 60].argmax() == 0 and large[200, 180].argmax() == 2


def test_landmarks_of_a_face_are_dragged(place, G, monkeypatch):
    mask = ["--mask", "ellipse:0.5,0.7,0.4,0.3", "--lambda_mask", 7, "--lambda_start", 0.2, "--method", "free"]
    words = ["--latent_file", "a.npy", "--drag", "part:mouth_left>-3,-3", *mask, "--iteration", 2, "--out", "up"]
    assert call(*words) == 0
    said = face.record(f"{OUT}/up.npy")
    assert said["settings"]["lambda_mask"] == 7 and said["settings"]["method"] == "free" and "way_by_landmarks" in said["points"][0]
    assert said["settings"]["lambda_start"] == 0.2
    monkeypatch.setattr(drag_edit, "steady", lambda picture, marks: np.ones(68, bool))
    with pytest.raises(ValueError, match="its start .* lies where the mask is black"):
        call(*words[:4], *mask, "--invert_mask")
    with pytest.raises(ValueError, match="no landmark is near"):
        call("--latent_file", "a.npy", "--drag", "2,2>9,9", "--find", "landmarks")


def test_a_result_never_replaces_its_source_or_anothers(place, G, person):
    face.write("b.npy", person.ws + 0.01, {"generator_hash": G.meta["hash"]})
    words = ["--drag", "64,70>70,70", "--iteration", 0, "--find", "features"]
    assert call("--latent_file", "a.npy", *words, "--out", "x") == 0 and call("--latent_file", "a.npy", *words, "--out", "x") == 0
    with pytest.raises(ValueError, match="holds the result of a.npy"):
        call("--latent_file", "b.npy", *words, "--out", "x")
    with pytest.raises(ValueError, match="what the result is made of"):
        call("--latent_file", "a.npy", *words, "--out", "./a")


def test_an_animation_replaces_animations_alone(place):
    images.save("mine.webp", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="mine.webp: exists and is no animation"):
        call("--latent_file", "a.npy", "--drag", "64,70>70,70", "--out", "./mine.webp", "--animation", "webp")


def test_force_takes_another_generators(place, person):
    face.write("foreign.npy", person.ws, {"generator_hash": "0" * 64})
    words = ["--latent_file", "foreign.npy", "--drag", "64,70>70,70", "--iteration", 0, "--find", "features"]
    with pytest.raises(ValueError, match="another generator"):
        call(*words)
    assert call(*words, "--force") == 0


def test_where_dlib_is_not_sure(place, monkeypatch, capsys):
    """A part is refused, a pixel is found again by features alone, and that is said; --find landmarks is refused."""
    monkeypatch.setattr(drag_edit, "steady", lambda picture, marks: np.zeros(68, bool))
    part = ["--latent_file", "a.npy", "--iteration", 2, "--drag", "part:nose>+0,-4"]
    for more in ([], ["--find", "features"]):
        code, error = run_line(monkeypatch, capsys, [*part, *more])
        assert code == 2 and "part:nose>+0,-4: dlib is not sure" in error and len(error.strip().splitlines()) == 1
    pixel = [*part[:-1], "64,72>64,68"]
    code, error = run_line(monkeypatch, capsys, [*pixel, "--find", "landmarks"])
    assert code == 2 and "not sure of the landmark near 64,72" in error
    code, error = run_line(monkeypatch, capsys, pixel)
    assert not code and "64,72>64,68: dlib is not sure" in error
    said = face.record(f"{OUT}/a_drag.npy")
    assert "way_by_landmarks" not in said["points"][0] and said["stopped"] in dragging.ENDS


def no_face(image):
    raise ValueError("no face found, so its parts are not known")


ONE = ["--latent_file", "a.npy", "--find", "features", "--drag"]


@pytest.mark.parametrize(
    "words, said",
    [
        (ONE[:-1], "0 points"),
        ([*ONE, "64,70>130,70"], "outside of the picture"),
        ([*ONE, "128,70>100,70"], "outside of the picture"),
        ([*ONE, "4,70>-5,+0"], "outside of the picture"),
        ([*ONE, "64,70>64,70"], "at its target already"),
        ([*ONE, "64,70>+0.3,+0"], "at its target already"),
        ([*ONE, "nan,70>64,70"], "write FROM>TO"),
        ([*ONE, "64,70"], "write FROM>TO"),
        ([*ONE, "64;70>1,2"], "write FROM>TO"),
        ([*ONE, "64,70>70,70", "--drag", "64.2,70>60,70"], "two targets for one point"),
        ([*ONE, "part:ear>+1,+1"], "no part 'ear'"),
        ([*ONE, "64,70>70,70", "--mask", "box:0,0,0.2,0.2"], "its start 64,70 lies where the mask is black"),
        ([*ONE, "64,70>64,110", "--mask", "box:0,0,1,0.7"], "its target 64,110 lies where the mask is black"),
        ([*ONE, "64,70>70,70", "--mask", "box:0,0,0.001,0.001"], "nothing is white"),
        ([*ONE, "64,70>70,70", "--mask", "none.png"], "none.png"),
        ([*ONE, "64,70>70,70", "--layers", "9"], "layers 0-6"),
        ([*ONE, "64,70>70,70", "--layers", "x"], "layers 'x'"),
        ([*ONE, "64,70>70,70", "--lr", "nan"], "--lr"),
        ([*ONE, "64,70>70,70", "--fps", "5"], "give --animation"),
        ([*ONE, "64,70>70,70", "--animation", "gif", "--fps", "90"], "fps 90"),
        ([*ONE, "64,70>70,70", "--points", "none.json"], "none.json"),
        ([*ONE[:-1], "--points", "bad.json"], "a point is"),
        ([*ONE[:-1], "--points", "far.json"], "a point is"),
        ([*ONE[:-1], "--points", "words.json"], "a list of points"),
        ([*ONE[:-1], "--points", "many.json"], "33 points; 1 to 32"),
        ([*ONE, "64,70>70,70", "--out", "/proc/none/x"], "/proc"),
        (["--latent_file", "none.npy", "--drag", "64,70>70,70"], "none.npy"),
        (["--latent_file", "noface.npy", "--drag", "part:chin>+0,+4"], "no face found"),
        (["--latent_file", "noface.npy", "--find", "landmarks", "--drag", "64,70>70,70"], "no face found"),
    ],
)
def test_bad_calls_say_so_in_one_line(place, G, person, monkeypatch, capsys, words, said):
    Path("bad.json").write_text('[{"from": [1, NaN], "to": [4, 5]}]'.replace("NaN", "null"))
    Path("far.json").write_text('[{"from": [1' + "0" * 400 + ', 5], "to": [1, 1]}]')
    Path("words.json").write_text('{"from": 1}')
    Path("many.json").write_text(json.dumps([f"{i},5>{i},50" for i in range(33)]))
    if "noface.npy" in words:
        face.write("noface.npy", person.ws, {})
        monkeypatch.setattr(landmarks, "landmarks_of_crop", no_face)
    code, error = run_line(monkeypatch, capsys, words)
    assert code == 2 and said in error and len(error.strip().splitlines()) == 1, error
    assert not Path(OUT).exists() or not list(Path(OUT).iterdir())


def test_a_stopped_drag_does_not_replace_a_finished_one(place, monkeypatch, capsys):
    """And an animation that shows the way of an older one is said to."""
    assert call(*ONE, "64,70>68,70", "--find", "features", "--iteration", 2, "--out", "o.png", "--animation", "gif") == 0
    before = Path(f"{OUT}/o.npy").read_bytes()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(cli, "progress", stopped_at_once)
        call(*ONE, "64,70>72,70", "--find", "features", "--iteration", 9, "--out", "o.png")
    assert Path(f"{OUT}/o.npy").read_bytes() == before and "the finished one of an earlier run stays" in capsys.readouterr().err
    assert call(*ONE, "64,70>70,70", "--find", "features", "--iteration", 2, "--out", "o.png") == 0
    assert "o.gif: shows the way of the face that was here before" in capsys.readouterr().err


@contextlib.contextmanager
def stopped_at_once(*_):
    def show(*_, **__):
        raise KeyboardInterrupt

    yield show


def test_stylegan3_is_refused(sg3, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--weight_file", sg3["T"].weights, "--latent_file", sg3["T"].folder / "a.npy", "--drag", "9,9>12,9"]
    code, error = run_line(monkeypatch, capsys, words)
    assert code == 2 and "StyleGAN3" in error and len(error.strip().splitlines()) == 1 and not [*tmp_path.rglob("*.*")]


@pytest.mark.parametrize("kind, classes", [("stylegan1", 0), ("stylegan2", 0), ("stylegan2", 10)])
def test_generators_of_other_kinds(kind, classes, tmp_path, monkeypatch):
    """A drag needs no class: the latent has it already. What is written renders to its picture."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = stylegan_layers.Config(kind, 64, channel_base=512, mapping_layers=2, z_dim=32, w_dim=32, c_dim=classes)
    made = stylegan_layers.Generator(config)
    checkpoints.save("g.safetensors", made, perceptual="none")
    G = checkpoints.load_generator("g.safetensors")
    with torch.no_grad():
        ws = G.truncate(G.mapping(torch.randn(1, 32), *[torch.eye(10)[[3]]] * bool(classes)))
    face.write("x.npy", ws, {"generator_hash": G.meta["hash"]})
    words = ["--weight_file", "g.safetensors", "--latent_file", "x.npy", "--drag", "30,30>34,30", "--find", "features", "--iteration", 9]
    assert call(*words) == 0
    found = face.read(f"{OUT}/x_drag.npy", G)
    assert not torch.equal(found.ws, ws) and face.record(f"{OUT}/x_drag.npy")["points"][0]["way"] > 0
    assert np.array_equal(render.one(G, found), np.asarray(images.open_image(f"{OUT}/x_drag.png")))


@pytest.mark.parametrize("side, wanted", [(16, 16), (64, 32), (128, 32), (256, 64), (512, 128), (1024, 128)])
def test_the_side_of_the_map(side, wanted):
    class Any:
        resolution = side

    assert dragging.level(Any) == wanted
