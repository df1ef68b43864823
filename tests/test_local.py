"""Masks, inpainting, and the three edits of local_edit.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import local_edit
import stylegan_layers
from editor import checkpoints, face, images, landmarks, masks, projection, render, settings

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def made(G):
    """Two latents [2, L, 512] and their renderings."""
    with torch.no_grad():
        ws = G.truncate(G.mapping(torch.randn(2, 512, generator=torch.Generator().manual_seed(12))), 0.5)
        return ws, G.synthesis(ws).clamp(-1, 1)


@pytest.fixture
def files(tmp_path, G, made):
    """tmp_path with a.npy, b.npy and their renderings."""
    for name, ws, image in zip("ab", *made, strict=True):
        face.save(tmp_path / f"{name}.npy", ws[None], {"generator_hash": G.meta["hash"]})
        images.save(tmp_path / f"{name}.png", image)
    return tmp_path


def pixels(path):
    return np.asarray(images.open_image(path), np.float64)


# ---------------------------------------------------------------------------------------------------------------------
# Masks


def test_drawn_shapes_cover_what_they_say():
    box = masks.read("box:0.25,0.5,0.75,1", 64)
    assert box.shape == (1, 1, 64, 64) and box[0, 0, 32:, 16:48].min() == 1 and box.sum() == 32 * 32
    ellipse = masks.read("ellipse:0.5,0.5,0.25,0.125", 64)
    assert abs(ellipse.mean() - np.pi * 0.25 * 0.125) < 1e-3
    both = masks.read("box:0.25,0.5,0.75,1+ellipse:0.5,0.5,0.25,0.125", 64)
    assert torch.equal(both, torch.maximum(box, ellipse))
    assert torch.equal(masks.read("box:0.25,0.5,0.75,1", 64, invert=True), 1 - box)


@pytest.mark.parametrize("size", [16, 64, 200])
def test_picture_masks_of_any_size_and_grey(tmp_path, size):
    grey = np.zeros((size, size), np.uint8)
    grey[:, size // 2 :] = 128
    Image.fromarray(grey).save(tmp_path / "m.png")
    mask = masks.read(str(tmp_path / "m.png"), 64)
    assert mask[..., :28].max() == 0 and torch.allclose(mask[..., 36:], torch.tensor(128 / 255))


def test_blur_keeps_the_mean_and_the_range():
    mask = masks.read("box:0.25,0.25,0.75,0.75", 64, blur=0.05)
    assert 0 <= mask.min() and mask.max() <= 1 and abs(mask.mean() - 0.25) < 1e-3 and 0.4 < mask[0, 0, 16, 32] < 0.6


def test_parts_lie_where_they_should(G):
    with torch.no_grad():
        image = G(torch.zeros(1, 512), truncation_psi=0.0)
    part = {name: masks.read(f"part:{name}", G.resolution, image)[0, 0].numpy() for name in landmarks.NAMES}
    rows, columns = np.mgrid[: G.resolution, : G.resolution] / G.resolution
    middle = {name: ((rows * m).sum() / m.sum(), (columns * m).sum() / m.sum()) for name, m in part.items()}
    assert middle["brows"][0] < middle["eyes"][0] < middle["nose"][0] < middle["mouth"][0]
    assert middle["left_eye"][1] < middle["nose"][1] < middle["right_eye"][1]
    assert (part["mouth"] * part["face"]).sum() > 0.95 * part["mouth"].sum() and (part["hair"] + part["face"]).max() <= 1
    assert part["face"].mean() > 3 * part["mouth"].mean()


@pytest.mark.parametrize(
    "text, said",
    [("ellipse:1,2", "ellipse:cx,cy,rx,ry"), ("box:0.5,0,0.2,1", "x0 < x1"), ("ellipse:0,0,0,1", "radii"), ("part:ear", "known parts"),
     ("box:2,2,3,3", "outside"), ("missing.png", "missing.png"), ("box:a,b,c,d", "fractions"), ("box:0,0,1,1+oval:1", "oval")],
)  # fmt: skip
def test_bad_masks_say_so(text, said):
    with pytest.raises((ValueError, OSError), match=said):
        masks.read(text, 16, torch.zeros(1, 3, 16, 16))


def test_a_part_needs_a_face():
    with pytest.raises(ValueError, match="no face"):
        masks.read("part:mouth", 64, torch.zeros(1, 3, 64, 64))


# ---------------------------------------------------------------------------------------------------------------------
# Inpainting


def test_what_the_mask_hides_has_no_influence(G, made):
    known = masks.read("box:0,0,1,0.625", G.resolution)
    distance = checkpoints.load_features(checkpoints.BUNDLED["features"])
    other = made[1][:1] * known + (1 - known) * 0.8
    found = [projection.project(G, distance, projection.Goal(x, known), settings.Config(iteration=3)) for x in (made[1][:1], other)]
    assert torch.equal(found[0].ws, found[1].ws)


def test_prior_tells_typical_latents_from_others(G):
    prior = projection.Prior(G, "cpu")
    w = G.mapping(torch.randn(64, 512, generator=torch.Generator().manual_seed(1)))[:, None]
    assert 0.5 < prior(w).mean() < 1.5 and prior(w + 0.3 * torch.randn_like(w)).mean() > 10


def test_script_fills_a_hole(run, files, G):
    done = run("encode_image.py", "--src_im", files / "a.png", "--mask", "box:0.25,0.25,0.75,0.75", "--invert_mask", "--composite",
               "--iteration", 4, "--noise_iteration", 3, "--latent_dir", files / "w", "--save_dir", files / "png", "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after, q = pixels(files / "a.png"), pixels(files / "png" / "a.png"), G.resolution // 4
    hole = np.zeros(before.shape[:2], bool)
    hole[q : 3 * q, q : 3 * q] = True
    assert np.abs(before - after)[~hole].max() <= 1 and np.abs(before - after)[hole].mean() > 2
    said = json.loads((files / "w" / "a.json").read_text())["settings"]
    assert said["mask"].startswith("box") and said["layers"] == projection.inpainting(G, 4)["layers"]
    assert face.load_noise(files / "w" / "a.npy", G) is not None


def test_composite_keeps_what_is_known_and_has_no_seam():
    rng = np.random.default_rng(0)
    photo = rng.integers(60, 200, (32, 32, 3)).astype(np.uint8)
    mask = np.ones((32, 32))
    mask[8:24, 8:] = 0
    hidden = photo.copy()
    hidden[mask == 0] = 0
    assert np.array_equal(render.composite(photo, hidden, mask), photo)  # a perfect rendering: what is hidden does not matter
    assert np.abs(render.composite(photo - 40, hidden, mask).astype(float) - photo).max() <= 1  # off by a constant: put right


@pytest.mark.parametrize(
    "words, said",
    [(["--composite"], "--mask"), (["--mask", "nothing.png"], "nothing.png"), (["--mask", "box:0,0,1,1", "--invert_mask"], "nothing that"),
     (["--mask", "part:ear"], "part:ear"), (["--save_every", "-1"], "--save_every"), (["--noise_iteration", "-1"], "--noise_iteration")],
)  # fmt: skip
def test_bad_encode_calls_say_so_in_one_line(run, files, words, said):
    done = run("encode_image.py", "--src_im", files / "a.png", "--latent_dir", files, "--save_dir", files, "--quiet", *words)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


# ---------------------------------------------------------------------------------------------------------------------
# local_edit.py


def test_scribble_moves_the_stroke_and_leaves_the_rest(run, files, G):
    picture = images.open_image(files / "a.png").resize((256, 256), Image.Resampling.BICUBIC)  # as one draws on it
    ImageDraw.Draw(picture).ellipse((96, 170, 160, 205), fill=(150, 20, 30))
    picture.save(files / "drawn.png")
    done = run("local_edit.py", "scribble", "--latent_file", files / "a.npy", "--scribble", files / "drawn.png", "--out", files / "out",
               "--iteration", 25, "--noise_iteration", 15, "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = pixels(files / "a.png"), pixels(files / "out.png")
    drawn = np.asarray(images.to_pil(images.load(files / "drawn.png", G.resolution)), np.float64)
    stroke = np.abs(drawn - before).max(2) > 40
    assert 20 < stroke.sum() < 0.1 * stroke.size
    assert np.square(after - drawn)[stroke].mean() < 0.85 * np.square(before - drawn)[stroke].mean()
    far = local_edit.strokes(images.load(files / "drawn.png", G.resolution), images.load(files / "a.png", G.resolution))[0, 0].numpy() == 0
    assert 10 * np.log10(255**2 / np.square(after - before)[far].mean()) > 28
    with torch.no_grad():
        again = G.synthesis(face.load(files / "out.npy", G), noise=face.load_noise(files / "out.npy", G))
    assert np.array_equal(images.to_uint8(again)[0], after)


def test_style_brings_the_texture_in_and_leaves_the_rest(run, files, G, made):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8], stripes[:, 1::8], stripes[:, 2::8] = 255, 255, 255
    Image.fromarray(stripes).save(files / "stripes.png")
    done = run("local_edit.py", "style", "--latent_file", files / "a.npy", "--style_im", files / "stripes.png", "--out", files / "out",
               "--mask", "box:0,0,1,0.35", "--iteration", 40, "--noise_iteration", 15, "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    inside = masks.read("box:0,0,1,0.35", G.resolution)
    distance = checkpoints.load_features(checkpoints.BUNDLED["features"])
    before, after, wanted = (images.load(files / f"{n}.png", G.resolution) for n in ("a", "out", "stripes"))
    grams = [distance.grams(x * inside) for x in (before, after, wanted)]
    apart = [sum((a - b).square().sum() / b.square().sum() for a, b in zip(g, grams[2], strict=True)) for g in grams[:2]]
    assert apart[1] < 0.6 * apart[0]
    rest = (((after - before) / 2).square() * (1 - inside)).sum() / ((1 - inside).sum() * 3)
    assert -10 * rest.log10() > 24


def test_transfer_changes_the_part_and_hardly_the_rest(run, files, G):
    done = run("local_edit.py", "transfer", "--latent_file1", files / "a.npy", "--latent_file2", files / "b.npy", "--mask", "part:mouth",
               "--out", files / "out.png", "--embed", "--iteration", 3, "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = pixels(files / "a.png"), pixels(files / "out.png")
    rows = np.abs(after - before).mean((1, 2))
    assert rows[G.resolution // 2 :].mean() > 3 * rows[: G.resolution // 3].mean()
    assert face.load(files / "out.npy", G).shape == (1, G.num_ws, 512) and (files / "out_embedded.png").is_file()


def test_what_is_copied_reaches_a_little_around_the_mask():
    mask = torch.zeros(1, 1, 100, 100)
    mask[..., 50, 50] = 1
    assert local_edit.widened(mask)[0, 0].nonzero().amin(0).tolist() == [47, 47]
    assert local_edit.widened(mask).sum() == 49


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
def test_blended_activations_at_the_ends(kind):
    torch.manual_seed(0)
    G = stylegan_layers.Generator(stylegan_layers.Config(kind, resolution=32, channel_base=256)).freeze()
    a, b = ((torch.randn(1, G.num_ws, 512), "const") for _ in range(2))
    everywhere, nowhere = torch.ones(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    with torch.no_grad():
        plain = G.synthesis(a[0])
    assert torch.equal(local_edit.blend_activations(G, a, b, nowhere, [8, 16]), plain)
    assert torch.equal(local_edit.blend_activations(G, a, b, everywhere, [8, 16], 0.0), plain)
    half = everywhere.clone()
    half[..., 16:] = 0
    mixed = local_edit.blend_activations(G, a, b, half, [16])
    assert not torch.equal(mixed, plain)
    with torch.no_grad():
        assert torch.equal(G.synthesis(a[0]), plain)  # no hook stays behind
    every = [r for r in G.config.resolutions]
    if kind == "stylegan1":  # one RGB layer without style: with all activations it is the source's picture
        with torch.no_grad():
            assert torch.allclose(local_edit.blend_activations(G, a, b, everywhere, every), G.synthesis(b[0]), atol=1e-5)


def test_resolutions_are_read_and_checked(G):
    assert local_edit.resolution_range("8-16", G) == [8, 16] and local_edit.resolution_range("4", G) == [4]
    assert local_edit.resolution_range(None, G)[0] == 8 and local_edit.resolution_range(None, G)[-1] == G.resolution // 2
    for text in ("3", "a-b", "2048-4096"):
        with pytest.raises(ValueError, match="--resolutions"):
            local_edit.resolution_range(text, G)


@pytest.mark.parametrize(
    "words, said",
    [
        (["scribble", "--latent_file", "a.npy", "--scribble", "a.png"], "does not differ"),
        (["scribble", "--latent_file", "missing.npy", "--scribble", "a.png"], "missing.npy"),
        (["style", "--latent_file", "a.npy", "--style_im", "b.png"], "--mask"),
        (["transfer", "--latent_file1", "a.npy", "--latent_file2", "b.npy"], "--mask"),
        (
            ["transfer", "--latent_file1", "a.npy", "--latent_file2", "b.npy", "--mask", "x", "--mode", "interpolate", "--amount", "2.0"],
            "--amount",
        ),
        (["erase"], "erase"),
    ],
)
def test_bad_calls_say_so_in_one_line(run, files, words, said):
    words = [files / w if w.endswith((".npy", ".png")) else w for w in words]
    done = run("local_edit.py", *words, *(["--quiet"] if len(words) > 1 else []))
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
