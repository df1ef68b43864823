"""Semantic edits: the arithmetic, and the script on the bundled generator."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import semantic_edit
from editor import boundaries, checkpoints, cli, downloads, face, folder, images, render
from stylegan_layers import Config, Generator

LAYERS = 6
QUICK = settings(deadline=None, max_examples=40)  # no deadline: a busy machine is no failure


def unit(seed, rows=1):
    d = torch.randn(rows, 512, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return d / boundaries.length(d)


def some_ws(seed, count=2):
    return torch.randn(count, LAYERS, 512, generator=torch.Generator().manual_seed(seed))


def distance(ws, boundary, layers=None):
    normal = boundary.normal.expand(LAYERS, -1)
    layers = layers or range(LAYERS)
    return (ws.double()[:, layers] * normal[layers]).sum(2).mean(1) + boundary.offset


def moved(ws, boundary, amount, layers=None, absolute=False):
    return boundaries.moved(ws, [(boundary, amount)], absolute, layers)


seeds = st.integers(0, 10**6)
steps = st.floats(-5, 5)
layer_sets = st.none() | st.sets(st.integers(0, LAYERS - 1), min_size=1).map(sorted)


# ---------------------------------------------------------------------------------------------------------------------
# The edit


@QUICK
@given(seeds, steps, steps, layer_sets, st.sampled_from([1, LAYERS]))
def test_relative_edits_add_up(seed, a, b, layers, rows):
    ws, boundary, other = some_ws(seed), boundaries.Boundary(unit(seed + 1, rows)), boundaries.Boundary(unit(seed + 2))
    twice = moved(moved(ws, boundary, a, layers), boundary, b, layers)
    assert torch.allclose(twice, moved(ws, boundary, a + b, layers), rtol=0, atol=1e-12)
    one_by_one = moved(moved(ws, boundary, a, layers), other, b, layers)
    for edits in ([(boundary, a), (other, b)], [(other, b), (boundary, a)]):  # at once, in any order
        assert torch.allclose(boundaries.moved(ws, edits, layers=layers), one_by_one, rtol=0, atol=1e-12)
    assert torch.equal(moved(ws, boundary, 0.0), ws.double())


@QUICK
@given(seeds, steps, steps, layer_sets, st.booleans())
def test_absolute_edits_end_at_their_distance_and_forget_the_last(seed, a, b, layers, conditional):
    ws, boundary = some_ws(seed), boundaries.Boundary(unit(seed + 1), offset=0.7)
    if conditional:
        boundary = replace(boundary, direction=boundaries.conditioned(boundary.normal, [unit(seed + 2), unit(seed + 3)]))

    def edit(ws, d):
        return moved(ws, boundary, d, layers, absolute=True)

    assert torch.allclose(distance(edit(ws, a), boundary, layers), torch.full((2,), a, dtype=torch.float64), rtol=0, atol=1e-10)
    assert torch.allclose(edit(edit(ws, a), b), edit(ws, b), rtol=0, atol=1e-10)
    assert torch.allclose(edit(edit(ws, a), a), edit(ws, a), rtol=0, atol=1e-10)


@QUICK
@given(seeds, steps, steps, layer_sets)
def test_several_absolute_edits_all_end_at_their_distances(seed, a, b, layers):
    """Though the boundaries are not orthogonal, so that each move changes the other's distance."""
    first, second = unit(seed + 1), unit(seed + 2)
    near = (first + second) / boundaries.length(first + second)
    edits = [(boundaries.Boundary(first, 0.3), a), (boundaries.Boundary(near, -0.4), b)]
    found = boundaries.moved(some_ws(seed), edits, absolute=True, layers=layers)
    for boundary, wanted in edits:
        assert torch.allclose(distance(found, boundary, layers), torch.full((2,), wanted, dtype=torch.float64), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="--mode relative"):  # one plane cannot be at two distances
        boundaries.moved(some_ws(seed), [(boundaries.Boundary(first), 1.0), (boundaries.Boundary(first), 2.0)], absolute=True)


@QUICK
@given(seeds, layer_sets, st.sampled_from([1, LAYERS]))
def test_signed_distance_is_the_mean_over_layers(seed, layers, rows):
    ws, boundary = some_ws(seed), boundaries.Boundary(unit(seed + 1, rows), 0.5)
    found = boundaries.signed_distance(ws, boundary, layers)
    assert torch.allclose(found, distance(ws, boundary, layers), rtol=0, atol=1e-5)
    assert torch.equal(boundaries.signed_distance(ws.numpy(), boundary, layers), found)  # an array is taken, too
    w = ws[:, :1]
    assert torch.allclose(boundaries.signed_distance(w, boundary), distance(w.expand(-1, LAYERS, -1), boundary), rtol=0, atol=1e-5)


def test_absolute_is_interfacegans_formula_on_one_w():
    w, n = some_ws(0)[:1, :1].double().expand(1, LAYERS, 512), unit(1)
    expected = w[:, 0] + (2.5 - w[:, 0] @ n.T) * n
    found = moved(w, boundaries.Boundary(n), 2.5, absolute=True)
    assert torch.allclose(found, expected[:, None].expand(-1, LAYERS, -1), rtol=0, atol=1e-12)


@QUICK
@given(seeds, steps)
def test_conditions_keep_their_distance(seed, a):
    ws, kept = some_ws(seed), [boundaries.Boundary(unit(seed + i)) for i in (2, 3, 4)]
    direction = boundaries.conditioned(unit(seed + 1), [k.normal for k in kept])
    found = moved(ws, boundaries.Boundary(unit(seed + 1), direction=direction), a)
    for k in kept:
        assert torch.allclose(distance(found, k), distance(ws, k), rtol=0, atol=1e-9)


@QUICK
@given(layer_sets)
def test_only_chosen_layers_move(layers):
    ws = some_ws(0)
    changed = (moved(ws, boundaries.Boundary(unit(1)), 2.0, layers) - ws).abs().amax(dim=(0, 2)) > 0
    assert changed.nonzero().flatten().tolist() == (layers if layers is not None else list(range(LAYERS)))


def test_layers_in_which_nothing_moves_cannot_reach_a_distance():
    normal = unit(0, LAYERS)
    normal[2] = 0
    with pytest.raises(ValueError, match="--mode relative"):
        moved(some_ws(0), boundaries.Boundary(normal), 1.0, [2], absolute=True)


# ---------------------------------------------------------------------------------------------------------------------
# The command


OUT = Path("save_image/boundary")


@pytest.fixture
def place(tmp_path, monkeypatch, G):
    """A folder with two faces, the second with noise, and two boundaries of the bundled generator."""
    monkeypatch.chdir(tmp_path)
    load = checkpoints.load_generator
    monkeypatch.setattr(checkpoints, "load_generator", lambda path=None, device="cpu": G if path is None else load(path, device))
    ws = G.truncate(G.mapping(torch.randn(2, 512, generator=torch.Generator().manual_seed(4))), 0.7)
    rng = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 1, layer.resolution, layer.resolution, generator=rng) for layer in G.synthesis.layers()]
    face.write("face.npy", ws[:1], {"generator_hash": G.meta["hash"]})
    face.write("noisy.npy", ws[1:], {"generator_hash": G.meta["hash"]}, maps)
    for i, name in enumerate(("one", "two")):
        boundaries.save(f"bounds/{name}.npy", boundaries.Boundary(unit(i), 0.25, info={"generator_hash": G.meta["hash"]}))
    return tmp_path


def call(*words, quiet=True):
    options = [
        *["--boundary_dir", "bounds"] * ("--boundary_dir" not in words),
        "--device",
        "cpu",
        "--precision",
        "fp32",
        *["--quiet"] * quiet,
    ]
    return semantic_edit.main([*options, *map(str, words)])


def pixels(path):
    return np.asarray(Image.open(path))


def names(folder=OUT):
    return sorted(p.name for p in Path(folder).iterdir())


def start(G, name="face.npy"):
    return face.read(name, G).ws


def along(G, amounts, boundary=None, layers=None, absolute=False, name="face.npy"):
    """What a strip's latents should be."""
    boundary = boundary or boundaries.load("bounds/one.npy")
    return torch.cat([boundaries.moved(start(G, name), [(boundary, d)], absolute, layers) for d in amounts]).float()


def test_all_that_fit_are_followed_and_hidden_files_are_none(place, G):
    boundaries.save("bounds/foreign.npy", boundaries.Boundary(unit(9), info={"generator_hash": "0" * 64}))
    np.save("bounds/short.npy", np.ones((1, 100)))
    Path("bounds/.one.ab12.npy").write_bytes(Path("bounds/one.npy").read_bytes())  # what a killed run left
    assert call("--latent_file", "face.npy", "--steps", 3, "--save-latents", "--condition", "two") == 0
    assert names() == [f"face_{name}.{ending}" for name in ("one", "two") for ending in ("json", "npy", "png")]
    one = boundaries.Boundary(unit(0), direction=boundaries.conditioned(unit(0), [unit(1)]))
    found = face.read(OUT / "face_one.npy", G)
    assert torch.equal(found.ws, along(G, (-3, 0, 3), one)) and torch.equal(found.ws[1:2], start(G))
    assert found.info["distances"] == {"one": [-3, 0, 3]} and found.info["conditions"] == ["two"]
    assert found.info["made_by"] == "semantic_edit.py" and found.info["generator_hash"] == G.meta["hash"]


def test_a_strip_is_a_sheet_of_its_latents_pictures(place, G):
    flags = ["--boundary", "one", "--start_distance", -1, "--end_distance", 2, "--steps", 4, "--save_latents", "--out_dir", "out"]
    assert call("--latent_file", "noisy.npy", *flags) == 0
    assert torch.equal(np_read("out/noisy_one.npy"), along(G, (-1, 0, 1, 2), name="noisy.npy"))
    found = face.read("out/noisy_one.npy", G)  # with its noise
    again = list(render.pictures(G, found.ws, found.maps))
    expected = images.sheet([again], labels=["-1.0", "+0.0", "+1.0", "+2.0"])
    assert found.noise is not None and np.array_equal(pixels("out/noisy_one.png"), np.asarray(expected))
    assert call("--latent_file", "noisy.npy", *flags, "--no_saved_noise") == 0
    assert face.read("out/noisy_one.npy", G).noise is None and not np.array_equal(pixels("out/noisy_one.png"), np.asarray(expected))


def np_read(path):
    return torch.from_numpy(np.load(path))


def test_one_step_is_the_picture_itself(place, G):
    flags = ["--boundary", "bounds/one.npy", "--steps", 1, "--start_distance", 2, "--layers", "0-2", "--save_latents", "--out_dir", "out"]
    assert call("--latent_file", "face.npy", *flags) == 0
    found = face.read("out/face_one.npy", G)
    assert torch.equal(found.ws, along(G, [2], layers=[0, 1, 2]))
    assert np.array_equal(pixels("out/face_one.png"), render.one(G, found))


def test_absolute_ends_at_the_distance_asked_for(place, G):
    assert call("--latent_file", "face.npy", "--boundary", "one", "--mode", "absolute", "--steps", 2, "--save_latents") == 0
    boundary = boundaries.load("bounds/one.npy")
    found = boundaries.signed_distance(face.read(OUT / "face_one.npy", G).ws, boundary)
    assert torch.allclose(found, torch.tensor([-3.0, 3.0], dtype=torch.float64), rtol=0, atol=1e-3)
    assert abs(boundaries.signed_distance(start(G), boundary).item()) > 0.01  # so that relative would not end there


def test_several_edits_make_one_whole_face(place, G):
    boundaries.save("mine.npy", boundaries.Boundary(unit(5)))
    assert call("--latent_file", "noisy.npy", "--edit", "one=2", "mine.npy=-0.5", "--condition", "two", "--layers", "1-3") == 0
    assert names() == [f"noisy_one+2_mine-0.5.{ending}" for ending in ("json", "noise.npz", "npy", "png")]
    both = [boundaries.Boundary(n, direction=boundaries.conditioned(n, [unit(1)])) for n in (unit(0), unit(5))]
    expected = boundaries.moved(start(G, "noisy.npy"), list(zip(both, (2, -0.5), strict=True)), layers=[1, 2, 3]).float()
    found = face.read(OUT / "noisy_one+2_mine-0.5.npy", G)
    assert torch.allclose(found.ws, expected, rtol=0, atol=1e-6) and found.noise is not None
    assert np.array_equal(pixels(OUT / "noisy_one+2_mine-0.5.png"), render.one(G, found))
    assert call("--latent_file", "face.npy", "--edit", "one=1", "two=-2", "--mode", "absolute", "--out_dir", "abs") == 0
    ws = face.read("abs/face_one+1_two-2.npy", G).ws
    reached = [boundaries.signed_distance(ws, boundaries.load(f"bounds/{n}.npy")).item() for n in ("one", "two")]
    assert reached == pytest.approx([1, -2], abs=1e-3)


def test_several_faces_get_a_strip_each_and_a_sheet_of_all(place, G, capsys):
    np.save("bad.npy", np.full((1, G.num_ws, 512), np.nan))
    assert call("--latent_file", "face.npy", "bad.npy", "noisy.npy", "--boundary", "one", "--steps", 2, quiet=False) == 1
    said = capsys.readouterr()
    assert "bad.npy: holds NaN" in said.err
    (sheet,) = OUT.glob("face_and_1_more_*_one.png")
    assert said.out.splitlines() == [str(OUT / "face_one.png"), str(OUT / "noisy_one.png"), str(sheet)]
    assert pixels(sheet).shape[0] > 2 * G.resolution and pixels(OUT / "noisy_one.png").shape[0] < 2 * G.resolution
    face.write("noisy.npy", start(G, "noisy.npy") + 0.1)  # other faces of these names: the sheet stays
    assert call("--latent_file", "face.npy", "noisy.npy", "--boundary", "one", "--steps", 2) == 0
    assert sheet in OUT.iterdir() and len(list(OUT.glob("face_and_1_more_*_one.png"))) == 2


def test_too_many_pictures_make_no_sheet_of_all(place, monkeypatch, capsys):
    monkeypatch.setattr(semantic_edit, "MOST_CELLS", 3)
    assert call("--latent_file", "face.npy", "noisy.npy", "--boundary", "one", "--steps", 2) == 0
    assert [n for n in names() if n.endswith(".png")] == ["face_one.png", "noisy_one.png"]
    assert "no sheet of all: 2 faces times 2 pictures" in capsys.readouterr().err


def test_a_folder_means_its_latents_and_a_file_may_hold_several(place, G):
    face.write("some/pair.npy", torch.cat([start(G), start(G, "noisy.npy")]))
    face.write("some/third.npy", start(G))
    Path("some/.tmp-000000-1-x.npy").write_bytes(b"")  # what a killed run left
    assert call("--latent_file", "some", "--boundary", "one", "--steps", 1, "--start_distance", 0) == 0
    assert [n for n in names() if n.endswith(".png") and "more" not in n] == ["pair_0_one.png", "pair_1_one.png", "third_one.png"]
    assert np.array_equal(pixels(OUT / "pair_0_one.png"), pixels(OUT / "third_one.png"))


def test_results_never_replace_others(place, G):
    """Two faces of one name, another face's result, another boundary of the name; the same again is no other."""
    face.write("other/face.npy", start(G) + 0.1)
    boundaries.save("other/one.npy", boundaries.Boundary(unit(7)))
    with pytest.raises(ValueError, match="named after them"):
        call("--latent_file", "face.npy", "other/face.npy", "--boundary", "one")
    assert not OUT.exists()
    words = ["--boundary", "one", "--steps", 1]
    assert call("--latent_file", "face.npy", *words, "--save_latents") == 0 and call("--latent_file", "face.npy", *words) == 0
    before = {p: p.read_bytes() for p in OUT.iterdir()}
    for others in (["other/face.npy", *words], ["face.npy", "--boundary", "other/one.npy"]):
        with pytest.raises(ValueError, match="holds the result of face.npy"):
            call("--latent_file", *others)
    assert {p: p.read_bytes() for p in OUT.iterdir()} == before
    face.write("pair_0.npy", start(G))
    face.write("pair.npy", torch.cat([start(G)] * 2))
    assert call("--latent_file", "pair.npy", "pair_0.npy", *words, "--out_dir", "out") == 1  # named, the rest done
    face.write("\u00e9_0.npy", start(G))
    face.write("e\u0301.npy", torch.cat([start(G)] * 2))
    assert call("--latent_file", "\u00e9_0.npy", "e\u0301.npy", *words, "--out_dir", "other_out") == 1  # as some file systems do


def test_a_picture_alone_leaves_no_older_latents(place, capsys):
    words = ["--latent_file", "noisy.npy", "--boundary", "one", "--steps", 1]
    assert call(*words, "--save_latents") == 0 and len(names()) == 4
    assert call(*words, "--start_distance", 1) == 0
    assert names() == ["noisy_one.json", "noisy_one.png"] and "removed" in capsys.readouterr().err


@pytest.mark.parametrize("kind, width", [("gif", None), ("webp", 64)])
def test_animations_go_there_and_back(place, G, kind, width):
    words = ["--latent_file", "face.npy", "noisy.npy", "--boundary", "one", "--steps", 2, "--frames", 5, "--fps", 10, "--out_dir", "out"]
    assert call(*words, "--animation", kind, *["--width", width] * bool(width)) == 0
    (both,) = Path("out").glob(f"face_and_1_more_*_one.{kind}")
    for path, side in ((f"out/face_one.{kind}", 1), (f"out/noisy_one.{kind}", 1), (both, 2)):
        with Image.open(path) as movie:
            assert movie.n_frames == 8 and movie.size == ((side * G.resolution, G.resolution) if width is None else (width, width // side))
            movie.load()
            assert movie.info["duration"] == 100


def test_an_animation_replaces_animations_alone(place, G, monkeypatch):
    words = ["--boundary", "one", "--steps", 1, "--frames", 2, "--out_dir", "out", "--animation", "webp"]
    two = ["--latent_file", "face.npy", "noisy.npy", *words]
    assert call(*two) == 0 and call(*two, "--redo") == 0
    (both,) = Path("out").glob("face_and_1_more_*.webp")
    monkeypatch.setattr(semantic_edit, "write_strips", None)
    images.save(both, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="more_.*webp: exists and is no animation"):
        call(*two, "--redo")
    images.save("out/face_one.webp", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="face_one.webp: exists and is no animation"):
        call("--latent_file", "face.npy", *words)


def test_official_boundaries_are_found_by_name(tmp_path, monkeypatch):
    """Made-up files under the official names, as no official file may lie here."""
    G = Generator(Config("stylegan1", 1024, 1024, channel_max=2))
    G.meta = {"hash": "a" * 64}
    official = tmp_path / "stylegan_ffhq_age_w_boundary.npy"
    np.save(official, unit(0).numpy())
    monkeypatch.setattr(downloads, "fetch", lambda name: official if name == "age" else pytest.fail(name))
    (tmp_path / "bounds").mkdir()
    boundaries.save(tmp_path / "bounds" / "age.npy", boundaries.Boundary(unit(1), info={"generator_hash": "b" * 64}))
    found, _ = boundaries.read(["age"], tmp_path / "bounds", G)
    assert torch.allclose(found["stylegan_ffhq_age_w_boundary"].normal, unit(0), rtol=0, atol=1e-15)
    boundaries.save(tmp_path / "bounds" / "age.npy", boundaries.Boundary(unit(1), info={"generator_hash": "a" * 64}))
    assert list(boundaries.read(["age"], tmp_path / "bounds", G)[0]) == ["age"]  # one's own comes first


def test_doubtful_boundaries_are_warned_of(place, G, capsys):
    np.save("long.npy", 4 * unit(0).numpy())
    np.save("stylegan_ffhq_age_boundary.npy", unit(0).numpy())
    assert call("--latent_file", "face.npy", "--boundary", "long.npy", "stylegan_ffhq_age_boundary.npy", "--steps", 1) == 0
    said = capsys.readouterr().err
    assert "length 4" in said and "for Z" in said and len(said.splitlines()) == 2


@pytest.mark.parametrize(
    "words, said",
    [
        (["--latent_file", "missing.npy"], "missing.npy"),
        (["--latent_file", "bounds/none"], "bounds/none"),
        (["--boundary", "thee"], "there: one, two"),
        (["--boundary", "zero.npy"], "length zero"),
        (["--boundary", "huge.npy"], "too large"),
        (["--boundary", "short.npy"], "another generator"),
        (["--boundary", "foreign.npy"], "--force"),
        (["--boundary", "noisy.npy"], "a boundary is [1, 512]"),
        (["--boundary", "w.npy"], "a latent by its record"),
        (["--boundary", "one", "bounds/one.npy"], "two boundaries are named one"),
        (["--boundary", "one", "--condition", "same.npy"], "nothing is left"),
        (["--edit", "one=1", "two"], "NAME=AMOUNT"),
        (["--edit", "one=1", "one=2"], "two boundaries are named one"),
        (["--edit", "one=inf"], "a finite number"),
        (["--edit", "one=1", "--steps", "3"], "--steps"),
        (["--edit", "one=1", "same.npy=1", "--mode", "absolute"], "cannot be told apart"),
        (["--edit", "one=1", "two=1", "--condition", "same.npy"], "nothing is left"),
        (["--layers", "0-99"], "0-99"),
        (["--steps", "0"], "--steps"),
        (["--steps", "1000000000"], "--steps"),
        (["--end_distance", "nan"], "--end_distance"),
        (["--start_distance", "1e300"], "--start_distance"),
        (["--frames", "1000000000"], "--frames"),
        (["--frames", "5"], "--animation"),
        (["--animation", "gif", "--fps", "100"], "fps 100"),
        (["--animation", "gif", "--width", "1"], "--width"),
        (["--boundary_dir", "empty"], "train_boundary.py"),
        (["--weight_file", "none.safetensors"], "none.safetensors"),
        (["--device", "cuda:99"], "--device"),
        (["--device", "meta"], "--device meta: unknown"),
        (["--animation", "gif", "--fps", "1e-300"], "--fps"),
        (["--out_dir", "face.npy"], "face.npy"),
        (["--distance", "3"], "unrecognized"),
    ],
)
def test_bad_calls_say_so_in_one_line(place, monkeypatch, capsys, G, words, said):
    np.save("zero.npy", np.zeros((1, 512)))
    np.save("huge.npy", np.full((1, 512), 1e300))
    np.save("short.npy", np.ones((1, 100)))
    np.save("same.npy", unit(0).numpy())
    face.write("w.npy", start(G)[0, :1])
    boundaries.save("foreign.npy", boundaries.Boundary(unit(9), info={"generator_hash": "0" * 64}))
    words = words if "--latent_file" in words else ["--latent_file", "face.npy", *words]
    monkeypatch.setattr("sys.argv", ["semantic_edit.py"])
    monkeypatch.setattr(semantic_edit.cli, "open_streams", lambda: None)
    monkeypatch.setattr(semantic_edit.cli.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as left:
        cli.run(lambda _: call(*words))
    error = capsys.readouterr().err
    assert left.value.code == 2 and said in error and len(error.strip().splitlines()) == 1, error
    assert not list(OUT.glob("*"))


def test_force_takes_another_generators(place, G):
    boundaries.save("foreign.npy", boundaries.Boundary(unit(9), info={"generator_hash": "0" * 64}))
    assert call("--latent_file", "face.npy", "--boundary", "foreign.npy", "--steps", 1, "--force") == 0
    with pytest.raises(ValueError, match="made for another generator"):
        call("--latent_file", "face.npy", "--boundary", "one", "--condition", "foreign.npy", "--steps", 1)
    assert call("--latent_file", "face.npy", "--boundary", "one", "--condition", "foreign.npy", "--steps", 1, "--force") == 0


def test_a_boundary_of_which_nothing_is_left_fails_alone(place, capsys):
    np.save("same.npy", unit(0).numpy())  # as one
    assert call("--latent_file", "face.npy", "--boundary", "one", "two", "--condition", "same.npy", "--steps", 1) == 1
    assert names() == ["face_two.json", "face_two.png"] and "failed: boundary one: nothing is left" in capsys.readouterr().err


def test_the_command_in_the_docstring_works(place, run):
    """As a process of its own, with the bundled boundaries."""
    done = run("semantic_edit.py", "--latent_file", "face.npy", "--boundary", "smile", "--steps", "2", cwd=place)
    assert done.returncode == 0 and done.stdout == f"{OUT}/face_smile.png\n" and (place / OUT / "face_smile.png").is_file(), done.stderr


def test_a_folder_skips_what_is_done(place, G, monkeypatch, capsys):
    Path("faces").mkdir()
    for name in ("face", "noisy"):
        for path in Path().glob(f"{name}.*"):
            path.rename(Path("faces", path.name))
    usual = ["--latent_file", "faces", "--boundary", "one", "--steps", 2, "--animation", "--frames", 2]

    def stamps():
        return {path.name: path.stat().st_mtime_ns for path in OUT.iterdir() if path.suffix in (".png", ".gif")}

    def strips():
        return {name: stamp for name, stamp in stamps().items() if name in before and name.endswith(".png")}

    def lines():
        return [(line["name"], line["state"]) for line in folder.Journal(OUT).lines()]

    shard = {(i + 1): folder.of_shard([folder.Item(f"{n}_one", "", {}, {}) for n in ("face", "noisy")], (i + 1, 5)) for i in range(5)}
    first = next(i for i, items in shard.items() if [item.name for item in items] == ["face_one"])
    assert call(*usual, "--shard", f"{first}/5") == 0 and sorted(stamps()) == ["face_one.gif", "face_one.png"]
    before, write = {"face_one.png": stamps()["face_one.png"]}, semantic_edit.write

    def bad(*words):
        raise ValueError("bad")

    monkeypatch.setattr(semantic_edit, "write", bad)
    for words in ([], [], ["--retry"]):
        assert call(*usual, *words) == 1
        assert strips() == before
    assert [line for line in lines() if line[1] == "failed"] == [("noisy_one", "failed")] * 2, "not tried again but with --retry"
    monkeypatch.setattr(semantic_edit, "write", write)
    assert call(*usual, "--retry") == 0
    (sheet,) = OUT.glob("face_and_1_more_*_one.png")
    after = stamps()
    assert strips() == before and "noisy_one.gif" in after and len(after) == 6
    capsys.readouterr()
    assert call(*usual, quiet=False) == 0 and stamps() == after and "2 of 2 are done already\n" in capsys.readouterr().err
    sheet.unlink()
    assert call(*usual) == 0 and sheet.is_file() and {**stamps(), sheet.name: 0} == {**after, sheet.name: 0}
    Path(OUT, "noisy_one.gif").unlink()
    assert call(*usual) == 0 and Path(OUT, "noisy_one.gif").is_file()
    for offset in (0.5, 1.5):  # of the boundary, which its record says
        said = json.loads(Path("bounds/one.json").read_text()) if Path("bounds/one.json").exists() else {}
        Path("bounds/one.json").write_text(json.dumps(said | {"offset": offset}))
        before = stamps()
        assert call(*usual, "--mode", "absolute") == 0 and all(stamp != before[name] for name, stamp in stamps().items()), offset
        assert call(*usual, "--mode", "absolute") == 0
    for words in (["--end_distance", 2], ["--condition", "two"], ["--no_saved_noise"], ["--redo"]):
        before = stamps()
        assert call(*usual, *words) == 0 and all(stamp != before[name] for name, stamp in stamps().items()), words
