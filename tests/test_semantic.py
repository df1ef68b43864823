"""Semantic edits: the arithmetic, and the script on the bundled generator."""

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

import semantic_edit
from editor import boundaries, downloads, face, images
from stylegan_layers import Config, Generator

ROOT = Path(__file__).resolve().parent.parent
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


seeds = st.integers(0, 10**6)
steps = st.floats(-5, 5)
layer_sets = st.none() | st.sets(st.integers(0, LAYERS - 1), min_size=1).map(sorted)


# ---------------------------------------------------------------------------------------------------------------------
# The edit


@QUICK
@given(seeds, steps, steps, layer_sets, st.sampled_from([1, LAYERS]))
def test_relative_edits_add_up(seed, a, b, layers, rows):
    ws, boundary, other = some_ws(seed), boundaries.Boundary(unit(seed + 1, rows)), boundaries.Boundary(unit(seed + 2))
    twice = boundaries.moved(boundaries.moved(ws, boundary, a, layers=layers), boundary, b, layers=layers)
    assert torch.allclose(twice, boundaries.moved(ws, boundary, a + b, layers=layers), rtol=0, atol=1e-12)
    one, two = ((boundary, a), (other, b)), ((other, b), (boundary, a))
    results = []
    for edits in (one, two):
        moving = ws
        for which, amount in edits:
            moving = boundaries.moved(moving, which, amount, layers=layers)
        results.append(moving)
    assert torch.allclose(*results, rtol=0, atol=1e-12)  # in any order
    assert torch.equal(boundaries.moved(ws, boundary, 0.0), ws.double())


@QUICK
@given(seeds, steps, steps, layer_sets, st.booleans())
def test_absolute_edits_end_at_their_distance_and_forget_the_last(seed, a, b, layers, conditional):
    ws, boundary = some_ws(seed), boundaries.Boundary(unit(seed + 1), offset=0.7)
    direction = boundaries.conditioned(boundary.normal, [unit(seed + 2), unit(seed + 3)]) if conditional else None

    def edit(ws, d):
        return boundaries.moved(ws, boundary, d, direction, "absolute", layers)

    assert torch.allclose(distance(edit(ws, a), boundary, layers), torch.full((2,), a, dtype=torch.float64), rtol=0, atol=1e-10)
    assert torch.allclose(edit(edit(ws, a), b), edit(ws, b), rtol=0, atol=1e-10)
    assert torch.allclose(edit(edit(ws, a), a), edit(ws, a), rtol=0, atol=1e-10)


def test_absolute_is_interfacegans_formula_on_one_w():
    w, n = some_ws(0)[:1, :1].double().expand(1, LAYERS, 512), unit(1)
    expected = w[:, 0] + (2.5 - w[:, 0] @ n.T) * n
    found = boundaries.moved(w, boundaries.Boundary(n), 2.5, mode="absolute")
    assert torch.allclose(found, expected[:, None].expand(-1, LAYERS, -1), rtol=0, atol=1e-12)


@QUICK
@given(seeds, steps)
def test_conditions_keep_their_distance(seed, a):
    ws, boundary = some_ws(seed), boundaries.Boundary(unit(seed + 1))
    kept = [boundaries.Boundary(unit(seed + i)) for i in (2, 3, 4)]
    direction = boundaries.conditioned(boundary.normal, [k.normal for k in kept])
    found = boundaries.moved(ws, boundary, a, direction)
    for k in kept:
        assert torch.allclose(distance(found, k), distance(ws, k), rtol=0, atol=1e-9)


@QUICK
@given(layer_sets)
def test_only_chosen_layers_move(layers):
    ws = some_ws(0)
    moved = (boundaries.moved(ws, boundaries.Boundary(unit(1)), 2.0, layers=layers) - ws).abs().amax(dim=(0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == (layers if layers is not None else list(range(LAYERS)))


def test_layers_in_which_nothing_moves_cannot_reach_a_distance():
    normal = unit(0, LAYERS)
    normal[2] = 0
    with pytest.raises(ValueError, match="--mode relative"):
        boundaries.moved(some_ws(0), boundaries.Boundary(normal), 1.0, mode="absolute", layers=[2])


# ---------------------------------------------------------------------------------------------------------------------
# The script


@pytest.fixture
def place(tmp_path, monkeypatch, G):
    """A folder with a latent and two boundaries of the bundled generator."""
    monkeypatch.chdir(tmp_path)
    w = G.mapping(torch.randn(2, 512, generator=torch.Generator().manual_seed(4)))
    ws = G.truncate(w, 0.7)
    face.save("face.npy", ws[:1], {"generator_hash": G.meta["hash"]})
    face.save("other.npy", ws[1:], {"generator_hash": G.meta["hash"]})
    for i, name in enumerate(("one", "two")):
        info = {"generator_hash": G.meta["hash"]}
        boundaries.save(f"bounds/{name}.npy", boundaries.Boundary(unit(i), info=info))
    return tmp_path


def call(*words, quiet=True):
    return semantic_edit.main([*map(str, words), "--boundary_dir", "bounds", "--device", "cpu", *["--quiet"] * quiet])


def test_all_that_fit_are_followed(place, G):
    boundaries.save("bounds/foreign.npy", boundaries.Boundary(unit(9), info={"generator_hash": "0" * 64}))
    np.save("bounds/short.npy", np.ones((1, 100)))
    assert call("--latent_file", "face.npy", "--steps", 3, "--save-latents", "--condition", "two") == 0
    out = place / "save_image" / "boundary"
    assert sorted(p.name for p in out.iterdir()) == ["one.json", "one.npy", "one.png", "two.json", "two.npy", "two.png"]
    ws, start = face.load(out / "one.npy", G), face.load("face.npy", G)
    direction = boundaries.conditioned(unit(0), [unit(1)])
    expected = torch.cat([boundaries.moved(start, boundaries.Boundary(unit(0)), d, direction) for d in (-3, 0, 3)]).float()
    assert torch.equal(ws, expected) and torch.equal(ws[1:2], start)
    said = json.loads((out / "one.json").read_text())
    assert said["distances"] == [-3, 0, 3] and said["conditions"] == ["two"] and said["generator_hash"] == G.meta["hash"]
    assert Image.open(out / "one.png").width > 3 * G.resolution


def test_one_step_is_the_picture_itself(place, G):
    words = ["--latent_file", "face.npy", "--boundary", "bounds/one.npy", "--steps", 1, "--start_distance", 2, "--layers", "0-2"]
    assert call(*words, "--out_dir", "out", "--save_latents") == 0
    ws = face.load("out/one.npy", G)
    assert ((ws - face.load("face.npy", G)).abs().amax(dim=(0, 2)) > 0).nonzero().flatten().tolist() == [0, 1, 2]
    with torch.no_grad():
        expected = images.to_uint8(G.synthesis(ws))[0]
    assert np.array_equal(np.asarray(Image.open("out/one.png")), expected)


def test_several_latents_share_a_strip_and_a_bad_one_is_named(place, G, capsys):
    np.save("bad.npy", np.full((1, G.num_ws, 512), np.nan))
    words = ["--latent_file", "face.npy", "bad.npy", "other.npy", "--boundary", "one", "--steps", 2, "--save_latents", "--out_dir", "out"]
    assert call(*words) == 1
    assert "bad.npy: holds NaN" in capsys.readouterr().err
    assert sorted(p.name for p in Path("out").glob("*.npy")) == ["face_one.npy", "other_one.npy"]
    assert Image.open("out/one.png").height > 2 * G.resolution


def test_saved_noise_is_used_and_said(place, G, capsys):
    rng = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 1, layer.resolution, layer.resolution, generator=rng) for layer in G.synthesis.layers()]
    np.savez("face.noise.npz", **{str(i): m.numpy() for i, m in enumerate(maps)})
    words = ["--latent_file", "face.npy", "--boundary", "one", "--steps", 1, "--start_distance", 0, "--save_latents", "--out_dir", "out"]
    assert call(*words, quiet=False) == 0 and "noise saved beside it" in capsys.readouterr().err
    with torch.no_grad():
        expected = images.to_uint8(G.synthesis(face.load("face.npy", G), noise=maps))[0]
    assert np.array_equal(np.asarray(Image.open("out/one.png")), expected)
    assert Path("out/one.noise.npz").read_bytes() == Path("face.noise.npz").read_bytes()
    assert call(*words, "--no_saved_noise") == 0
    assert not np.array_equal(np.asarray(Image.open("out/one.png")), expected)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_animations_go_there_and_back(place, G, kind):
    words = ["--latent_file", "face.npy", "other.npy", "--boundary", "one", "--steps", 2, "--frames", 5, "--out_dir", "out"]
    assert call(*words, "--animation", kind) == 0
    with Image.open(f"out/one.{kind}") as movie:
        assert movie.n_frames == 8 and movie.size == (2 * G.resolution, G.resolution)


def test_official_boundaries_are_found_by_name(tmp_path, monkeypatch):
    """Made-up files under the official names, as no official file may lie here."""
    G = Generator(Config("stylegan1", 1024, 1024, channel_max=2))
    G.meta = {"hash": "a" * 64}
    official = tmp_path / "stylegan_ffhq_age_w_boundary.npy"
    np.save(official, unit(0).numpy())
    monkeypatch.setattr(downloads, "fetch", lambda name: official if name == "age" else pytest.fail(name))
    (tmp_path / "bounds").mkdir()
    boundaries.save(tmp_path / "bounds" / "age.npy", boundaries.Boundary(unit(1), info={"generator_hash": "b" * 64}))
    found = boundaries.read(["age"], tmp_path / "bounds", G, False)
    assert torch.allclose(found["stylegan_ffhq_age_w_boundary"].normal, unit(0), rtol=0, atol=1e-15)
    boundaries.save(tmp_path / "bounds" / "age.npy", boundaries.Boundary(unit(1), info={"generator_hash": "a" * 64}))
    assert list(boundaries.read(["age"], tmp_path / "bounds", G, False)) == ["age"]  # one's own comes first


def test_doubtful_boundaries_are_warned_of(tmp_path, G, capsys):
    np.save(tmp_path / "long.npy", 4 * unit(0).numpy())
    np.save(tmp_path / "stylegan_ffhq_age_boundary.npy", unit(0).numpy())
    boundaries.read([tmp_path / "long.npy", tmp_path / "stylegan_ffhq_age_boundary.npy"], tmp_path, G, False)
    said = capsys.readouterr().err
    assert "length 4" in said and "for Z" in said and len(said.splitlines()) == 2


@pytest.mark.parametrize(
    "words, said",
    [
        (["--latent_file", "missing.npy"], "missing.npy"),
        (["--latent_file", "face.npy", "--boundary", "thee"], "there: one, two"),
        (["--latent_file", "face.npy", "--boundary", "zero.npy"], "length zero"),
        (["--latent_file", "face.npy", "--boundary", "short.npy"], "another generator"),
        (["--latent_file", "face.npy", "--boundary", "foreign.npy"], "--force"),
        (["--latent_file", "face.npy", "--boundary", "one", "bounds/one.npy"], "two boundaries are named one"),
        (["--latent_file", "face.npy", "--boundary", "one", "--condition", "same.npy"], "nothing is left"),
        (["--latent_file", "face.npy", "--layers", "0-99"], "0-99"),
        (["--latent_file", "face.npy", "--steps", "0"], "--steps 0"),
        (["--latent_file", "face.npy", "--end_distance", "nan"], "--end_distance nan"),
        (["--latent_file", "face.npy", "--boundary_dir", "empty"], "train_boundary.py"),
        (["--latent_file", "face.npy", "--distance", "3"], "unrecognized"),
    ],
)
def test_bad_calls_say_so_in_one_line(place, monkeypatch, capsys, words, said):
    np.save("zero.npy", np.zeros((1, 512)))
    np.save("short.npy", np.ones((1, 100)))
    np.save("same.npy", unit(0).numpy())
    boundaries.save("foreign.npy", boundaries.Boundary(unit(9), info={"generator_hash": "0" * 64}))
    folder = [] if "--boundary_dir" in words else ["--boundary_dir", "bounds"]
    monkeypatch.setattr(sys, "argv", ["semantic_edit.py", *words, *folder, "--quiet"])
    with pytest.raises(SystemExit) as left:
        semantic_edit.cli.run(semantic_edit.main)
    error = capsys.readouterr().err
    assert left.value.code == 2 and said in error and len(error.strip().splitlines()) == 1, error
    assert not list(place.glob("save_image/boundary/*"))


def test_the_command_in_the_docstring_works(place):
    """As a process of its own, with the bundled boundaries."""
    words = [sys.executable, ROOT / "semantic_edit.py", "--latent_file", "face.npy", "--boundary", "smile", "--steps", "2"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0 and (place / "save_image" / "boundary" / "smile.png").is_file(), done.stderr
