"""Masks, inpainting, and the three edits of local_edit.py."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import local_edit
import stylegan_layers
from editor import checkpoints, cli, face, images, landmarks, masks, projection, render, session, settings


@pytest.fixture(scope="module")
def made(G):
    """Two latents [2, L, 512] and their renderings."""
    with torch.no_grad():
        ws = G.truncate(G.mapping(torch.randn(2, 512, generator=torch.Generator().manual_seed(12))), 0.5)
        return ws, G.synthesis(ws).clamp(-1, 1)


@pytest.fixture
def place(tmp_path, monkeypatch, G, made):
    """A folder with the faces a.npy, b.npy and noisy.npy (b with noise of its own), and their renderings."""
    monkeypatch.chdir(tmp_path)
    load = checkpoints.load_generator
    monkeypatch.setattr(checkpoints, "load_generator", lambda path=None, device="cpu": G if path is None else load(path, device))
    rng, own = torch.Generator().manual_seed(0), face.own_noise(G)
    noisy = [torch.randn(m.shape, generator=rng) for m in own]
    for name, ws, noise in (("a", made[0][:1], None), ("b", made[0][1:], None), ("noisy", made[0][1:], noisy)):
        face.write(f"{name}.npy", ws, {"generator_hash": G.meta["hash"]}, noise)
        images.save(f"{name}.png", render.one(G, face.read(f"{name}.npy", G)))
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


def test_slugs_name_masks(tmp_path):
    (tmp_path / "my brush.png").touch()
    assert masks.name(str(tmp_path / "my brush.png")) == "my-brush" and masks.name("part:mouth") == "mouth"
    assert masks.name("part:eyes+box:0,0,1,0.3") == "eyes-box-0-0-1-0.3"


def test_parts_lie_where_they_should(G):
    with torch.no_grad():
        image = G(torch.zeros(1, 512), truncation_psi=0.0)
    part = {name: masks.read(f"part:{name}", G.resolution, image)[0, 0].numpy() for name in landmarks.NAMES}
    rows, columns = np.mgrid[: G.resolution, : G.resolution] / G.resolution
    middle = {name: ((rows * m).sum() / m.sum(), (columns * m).sum() / m.sum()) for name, m in part.items()}
    assert middle["brows"][0] < middle["eyes"][0] < middle["nose"][0] < middle["mouth"][0]
    assert middle["left_eye"][1] < middle["nose"][1] < middle["right_eye"][1]
    for name in ("eyes", "nose", "mouth", "face"):  # the mean face looks ahead, from the middle of the picture
        assert middle[name][1] == pytest.approx(0.5, abs=0.06), name
    assert middle["eyes"][0] == pytest.approx(0.4, abs=0.08) and middle["mouth"][0] == pytest.approx(0.7, abs=0.08)
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


def test_each_picture_has_its_own_part(G, made):
    """Moved by 16 pixels, the second face's mask moves too."""
    moved = torch.roll(made[1][:1], 16, dims=3)
    both = masks.read("part:mouth", G.resolution, torch.cat([made[1][:1], moved]))
    columns = torch.arange(G.resolution).float()
    middle = [(m.sum((0, 1)) * columns).sum() / m.sum() for m in both]
    assert len(both) == 2 and middle[1] - middle[0] == pytest.approx(16, abs=3)


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


def test_prior_tells_typical_latents_from_others_and_holds_them(G, made):
    prior = projection.Prior(G, "cpu")
    w = G.mapping(torch.randn(64, 512, generator=torch.Generator().manual_seed(1)))[:, None]
    assert 0.5 < prior(w).mean() < 1.5 and prior(w + 0.3 * torch.randn_like(w)).mean() > 10
    found = [projection.project(G, None, made[1][:1], settings.Config(iteration=15, lambda_prior=x)) for x in (0.0, 1.0)]
    assert prior(found[1].ws) < 0.5 * prior(found[0].ws)


def test_lambda_start_holds_the_latent(G, made):
    config = {"iteration": 10, "init": made[0][1:], "lr": 0.05}
    found = [projection.project(G, None, made[1][:1], settings.Config(**config, lambda_start=x)) for x in (0.0, 100.0)]
    moved = [(one.ws - made[0][1:]).norm() for one in found]
    assert moved[1] < 0.3 * moved[0]


def test_script_fills_a_hole(run, place, G):
    words = ["--src_im", "a.png", "--mask", "box:0.25,0.25,0.75,0.75", "--invert_mask", "--composite", "--precision", "fp32", "--quiet"]
    where = ["--latent_dir", "w", "--save_dir", "png"]
    done = run("encode_image.py", *words, *where, "--iteration", 4, "--noise_iteration", 3, cwd=place)
    assert done.returncode == 0, done.stderr
    name = "a_fill_box-0.25-0.25-0.75-0.75"
    before, after, q = pixels("a.png"), pixels(f"png/{name}.png"), G.resolution // 4
    hole = np.zeros(before.shape[:2], bool)
    hole[q : 3 * q, q : 3 * q] = True
    assert np.abs(before - after)[~hole].max() <= 1 and np.abs(before - after)[hole].mean() > 2
    found = face.read(f"w/{name}.npy", G)
    assert found.info["settings"]["mask"].startswith("box") and found.info["settings"]["layers"] == [0, 1, 10, 11]
    assert found.noise is not None and G.num_ws == 12
    error = np.square(render.one(G, found).astype(float) - before)
    assert found.info["psnr"] == pytest.approx(10 * np.log10(255**2 / error[~hole].mean()), abs=0.01)  # of what is known alone


def test_measures_look_at_the_known_pixels_alone():
    target = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    picture, known = target.copy(), np.ones((32, 32), bool)
    picture[:, 24:], known[:, 16:] = 0, False
    assert render.measures(picture, target, known) == (100.0, pytest.approx(1))
    psnr, ssim = render.measures(picture, target, ~known)
    assert psnr < 12 and 0.3 < ssim < 0.7  # half of it is the same


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
def test_bad_encode_calls_say_so_in_one_line(run, place, words, said):
    done = run("encode_image.py", "--src_im", "a.png", "--latent_dir", "w", "--save_dir", "s", "--quiet", *words, cwd=place)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


# ---------------------------------------------------------------------------------------------------------------------
# local_edit.py

OUT = "save_image/local"
SCRIBBLE = ["scribble", "--scribble", "drawn.png"]
TRANSFER = ["transfer", "--latent_file1", "a.npy", "--latent_file2", "b.npy", "--mask", "part:mouth"]


def call(*words, quiet=True):
    return local_edit.main([*map(str, words), "--device", "cpu", "--precision", "fp32", *["--quiet"] * quiet])


def draw(name="a", fill=(150, 20, 30)):
    picture = images.open_image(f"{name}.png").resize((256, 256), Image.Resampling.BICUBIC)  # as one draws on it
    ImageDraw.Draw(picture).ellipse((96, 170, 160, 205), fill=fill)
    picture.save("drawn.png")


def names(pattern="*"):
    return sorted(p.name for p in Path(OUT).glob(pattern))


@pytest.fixture
def seen(monkeypatch):
    """What reaches the optimiser: [(goal, config)]; it takes no step."""
    found, project = [], projection.project

    def spy(G, distance, goal, config, *rest):
        found.append((goal, config, distance))
        return project(G, distance, goal, dataclasses.replace(config, iteration=0, noise_iteration=0, compile=False), *rest)

    monkeypatch.setattr(projection, "project", spy)
    return found


def test_scribble_moves_the_stroke_and_leaves_the_rest(place, G):
    draw()
    assert call(*SCRIBBLE, "--latent_file", "a.npy", "--iteration", 25, "--noise_iteration", 15, "--lr", 0.01) == 0
    before, after = pixels("a.png"), pixels(f"{OUT}/a_scribble.png")
    drawn = np.asarray(images.to_pil(images.load("drawn.png", G.resolution)), np.float64)
    stroke = np.abs(drawn - before).max(2) > 40
    assert 20 < stroke.sum() < 0.1 * stroke.size
    assert np.square(after - drawn)[stroke].mean() < 0.85 * np.square(before - drawn)[stroke].mean()
    far = local_edit.strokes(images.load("drawn.png", G.resolution), images.load("a.png", G.resolution))[0, 0].numpy() == 0
    assert 10 * np.log10(255**2 / np.square(after - before)[far].mean()) > 28
    found = face.read(f"{OUT}/a_scribble.npy", G)
    assert np.array_equal(render.one(G, found), after)
    if found.noise is not None:  # it works outside of the strokes
        without = render.one(G, dataclasses.replace(found, noise=None))
        assert np.square(after - before)[far].mean() < np.square(without - before)[far].mean()


def test_scribble_works_where_the_strokes_are_and_noise_elsewhere(place, G, seen):
    draw()
    assert call(*SCRIBBLE, "--latent_file", "a.npy", "--lambda_start", 0.5, "--iteration", 7, "--noise_iteration", 9, "--lr", 0.03) == 0
    goal, config, _ = seen[0]
    y, x = (188 * G.resolution) // 256, G.resolution // 2
    assert goal.noise_mask[0, 0, y, x] < 0.01 and goal.noise_mask[0, 0, 5, 5] > 0.99 and goal.mask is None
    assert (config.iteration, config.noise_iteration, config.lr, config.lambda_start) == (7, 9, 0.03, 0.5)
    assert torch.equal(config.init, face.read("a.npy", G).ws)
    call(*SCRIBBLE, "--latent_file", "a.npy", "--mask", "box:0,0,0.5,0.5", "--blur", 0)
    assert torch.equal(seen[1][0].noise_mask, 1 - masks.read("box:0,0,0.5,0.5", G.resolution))
    call(*SCRIBBLE, "--latent_file", "a.npy", "--mask", "box:0,0,0.5,0.5", "--blur", 0.1, "--invert_mask")
    assert torch.allclose(seen[2][0].noise_mask, masks.read("box:0,0,0.5,0.5", G.resolution, blur=0.1), atol=1e-5)
    images.save("base.png", np.uint8(pixels("a.png") * 0 + 90))
    images.save("drawn.png", np.uint8(pixels("base.png") + np.eye(G.resolution)[..., None] * 100))
    call(*SCRIBBLE, "--latent_file", "a.npy", "--base", "base.png", "--out", "based")
    assert seen[3][0].noise_mask[0, 0, 60, 60] < 0.05 and seen[3][0].noise_mask[0, 0, 100, 20] > 0.99


def test_scribble_keeps_the_noise_it_was_found_under(place, G, seen):
    draw("noisy")
    assert call(*SCRIBBLE, "--latent_file", "noisy.npy", "--noise_iteration", 0) == 0
    assert names() == [f"noisy_scribble.{ending}" for ending in ("json", "noise.npz", "npy", "png")]
    found, was = face.read(f"{OUT}/noisy_scribble.npy", G), face.read("noisy.npy", G)
    assert all(torch.equal(a, b) for a, b in zip(found.noise, was.noise, strict=True))
    assert np.array_equal(render.one(G, found), pixels(f"{OUT}/noisy_scribble.png"))
    assert call(*SCRIBBLE, "--latent_file", "noisy.npy", "--noise_iteration", 0, "--no_saved_noise") == 0
    assert seen[1][1].noise == "const" and names() == [f"noisy_scribble.{ending}" for ending in ("json", "npy", "png")]


def test_style_brings_the_texture_in_and_leaves_the_rest(place, G):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8], stripes[:, 1::8], stripes[:, 2::8] = 255, 255, 255
    Image.fromarray(stripes).save("stripes.png")
    words = ["style", "--latent_file", "a.npy", "--style_im", "stripes.png", "--mask", "box:0,0,1,0.35"]
    assert call(*words, "--iteration", 40, "--noise_iteration", 15) == 0
    inside = masks.read("box:0,0,1,0.35", G.resolution)
    distance = checkpoints.load_features(checkpoints.BUNDLED["features"])
    before, after, wanted = (images.load(n, G.resolution) for n in ("a.png", f"{OUT}/a_style.png", "stripes.png"))
    grams = [distance.grams(x * inside) for x in (before, after, wanted)]
    apart = [sum((a - b).square().sum() / b.square().sum() for a, b in zip(g, grams[2], strict=True)) for g in grams[:2]]
    assert apart[1] < 0.6 * apart[0]
    rest = (((after - before) / 2).square() * (1 - inside)).sum() / ((1 - inside).sum() * 3)
    assert -10 * rest.log10() > 24
    found = face.read(f"{OUT}/a_style.npy", G)
    assert found.noise is not None and np.array_equal(render.one(G, found), pixels(f"{OUT}/a_style.png"))
    assert found.info["complete"] and found.info["sources"].keys() == {"latent_file", "style_im"}


def test_style_asks_for_texture_inside_and_the_face_outside(place, G, seen):
    words = ["style", "--latent_file", "noisy.npy", "--style_im", "a.png", "--mask", "box:0,0,1,0.5", "--lambda_style", 0.7]
    assert call(*words, "--blur", 0, "--perceptual", "bundled", "--low_memory", "--seed", 3) == 0
    (goal, config, distance), inside = seen[0], masks.read("box:0,0,1,0.5", G.resolution)
    assert torch.equal(goal.mask, 1 - inside) and torch.equal(goal.noise_mask, 1 - inside) and torch.equal(goal.style_mask, inside)
    assert config.lambda_style == 0.7 and config.joint and config.low_memory and config.seed == 3 and distance is not None
    assert torch.equal(goal.style, images.load("a.png", G.resolution)) and isinstance(config.noise, list)


def test_transfer_changes_the_part_and_hardly_the_rest(place, G):
    assert call(*TRANSFER) == 0
    before, after = pixels("a.png"), pixels(f"{OUT}/a_x_b_mouth.png")
    rows = np.abs(after - before).mean((1, 2))
    assert rows[G.resolution // 2 :].mean() > 3 * rows[: G.resolution // 3].mean()
    assert call(*TRANSFER, "--mode", "average", "--out", "half") == 0
    half = np.abs(pixels(f"{OUT}/half.png") - before).mean()
    assert 0.3 < half / np.abs(after - before).mean() < 0.8
    assert call(*TRANSFER, "--resolutions", "64", "--out", "fine") == 0  # what only fine layers carry
    assert 0 < np.abs(pixels(f"{OUT}/fine.png") - before).mean() < 0.8 * np.abs(after - before).mean()
    assert names("*.npy") == []


@pytest.mark.parametrize(
    "words, amount", [(["replace"], 1), (["average"], 0.5), (["interpolate"], 0.5), (["interpolate", "--amount", 0.2], 0.2)]
)
def test_modes_say_how_much(place, monkeypatch, words, amount):
    found, blend = [], local_edit.blend_activations
    monkeypatch.setattr(local_edit, "blend_activations", lambda *given: found.append(given[5]) or blend(*given))
    assert call(*TRANSFER, "--mode", *words) == 0 and found == [amount]


def test_transfer_takes_a_little_more_than_the_part_of_either_face(place, G, monkeypatch):
    found, blend = [], local_edit.blend_activations
    monkeypatch.setattr(local_edit, "blend_activations", lambda *given: found.append(given[3]) or blend(*given))
    assert call(*TRANSFER[:-1], "box:0.4,0.4,0.6,0.6", "--blur", 0) == 0
    assert torch.equal(found[0], local_edit.widened(masks.read("box:0.4,0.4,0.6,0.6", G.resolution)))
    halves = torch.cat([masks.read(box, G.resolution) for box in ("box:0,0,0.5,1", "box:0.5,0,1,1")])
    monkeypatch.setattr(masks, "read", lambda *_, **__: halves)  # a part is elsewhere in the other face
    assert call(*TRANSFER, "--blur", 0) == 0 and (found[1] == 1).all()


def test_a_part_comes_with_its_noise(G, made):
    one, other = (face.Face(made[0][i : i + 1]) for i in range(2))
    other.noise = [m + 1 for m in face.own_noise(G)]
    everywhere = torch.ones(1, 1, G.resolution, G.resolution)
    with_it = local_edit.blend_activations(G, dataclasses.replace(one, noise=other.noise), other, everywhere, [8])
    assert torch.equal(local_edit.blend_activations(G, one, other, everywhere, [8]), with_it)


def test_an_embedded_transfer_is_two_results(place, G):
    words = [*TRANSFER[:4], "noisy.npy", *TRANSFER[5:], "--embed", "--iteration", 2, "--noise_iteration", 2]
    assert call(*words) == 0
    name = "a_x_noisy_mouth"
    assert names("*.png") == [f"{name}.png", f"{name}_embedded.png"] and names("*.npy") == [f"{name}_embedded.npy"]
    found = face.read(f"{OUT}/{name}_embedded.npy", G)
    assert found.noise is not None and np.array_equal(render.one(G, found), pixels(f"{OUT}/{name}_embedded.png"))


def test_results_never_replace_others(place, G, seen):
    draw()
    assert call(*SCRIBBLE, "--latent_file", "a.npy", "--out", "mine") == 0
    before = {n: Path(OUT, n).read_bytes() for n in names()}
    for words in ([*TRANSFER, "--out", "mine"], [*SCRIBBLE, "--latent_file", "b.npy", "--out", "mine.npy"]):
        with pytest.raises(ValueError, match="holds the result of a.npy, drawn.png"):
            call(*words)
    assert {n: Path(OUT, n).read_bytes() for n in names()} == before
    for out in ("./a", "./drawn.png", "./drawn"):
        with pytest.raises(ValueError, match="would replace the --"):
            call(*SCRIBBLE, "--latent_file", "a.npy", "--out", out)
    assert call(*SCRIBBLE, "--latent_file", "a.npy", "--out", "some/") == 0 and Path("some/a_scribble.npy").is_file()
    assert call(*TRANSFER, "--invert_mask") == 0 and Path(OUT, "a_x_b_mouth-inverted.png").is_file()


def test_ctrl_c_keeps_the_best_so_far_and_divergence_writes_nothing(place, G, monkeypatch, capsys):
    draw()
    with pytest.raises(ValueError, match="stopped being finite"):
        call(*SCRIBBLE, "--latent_file", "a.npy", "--iteration", 12, "--noise_iteration", 0, "--lr", 1e30)
    assert not names()
    rate, steps = projection.rate, []

    def stop(*given):
        steps.append(given)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return rate(*given)

    monkeypatch.setattr(projection, "rate", stop)
    with pytest.raises(KeyboardInterrupt):
        call(*SCRIBBLE, "--latent_file", "a.npy", quiet=False)
    found = face.read(f"{OUT}/a_scribble.npy", G)
    assert found.info["steps"] == 3 and not found.info["complete"] and found.info["stopped"] == "Ctrl-C"
    assert capsys.readouterr().out.splitlines() == [f"{OUT}/a_scribble.png", f"{OUT}/a_scribble.npy"]
    assert np.array_equal(render.one(G, found), pixels(f"{OUT}/a_scribble.png"))


def test_compile_is_passed_on(place, monkeypatch, seen):
    draw()
    monkeypatch.setattr(session, "compiles", lambda choice, *rest: choice == "on")
    for choice in ("off", "on"):
        call(*SCRIBBLE, "--latent_file", "a.npy", "--compile", choice, "--iteration", 0)
    assert [config.compile for _, config, _ in seen] == [False, True]


def test_what_is_copied_reaches_a_little_around_the_mask():
    mask = torch.zeros(1, 1, 100, 100)
    mask[..., 50, 50] = 1
    assert local_edit.widened(mask)[0, 0].nonzero().amin(0).tolist() == [47, 47]
    assert local_edit.widened(mask).sum() == 49


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
def test_blended_activations_at_the_ends(kind):
    torch.manual_seed(0)
    G = stylegan_layers.Generator(stylegan_layers.Config(kind, resolution=32, channel_base=256)).freeze()
    a, b = (face.Face(torch.randn(1, G.num_ws, 512)) for _ in range(2))
    everywhere, nowhere = torch.ones(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    with torch.no_grad():
        plain = G.synthesis(a.ws)
    assert torch.equal(local_edit.blend_activations(G, a, b, nowhere, [8, 16]), plain)
    assert torch.equal(local_edit.blend_activations(G, a, b, everywhere, [8, 16], 0.0), plain)
    half = everywhere.clone()
    half[..., 16:] = 0
    mixed = local_edit.blend_activations(G, a, b, half, [16])
    assert not torch.equal(mixed, plain)
    with torch.no_grad():
        assert torch.equal(G.synthesis(a.ws), plain)  # no hook stays behind
    every = [r for r in G.config.resolutions]
    if kind == "stylegan1":  # one RGB layer without style: with all activations it is the source's picture
        with torch.no_grad():
            assert torch.allclose(local_edit.blend_activations(G, a, b, everywhere, every), G.synthesis(b.ws), atol=1e-5)


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
        (["scribble", "--latent_file", "a.npy", "--scribble", "none.png"], "none.png"),
        (["scribble", "--latent_file", "a.npy", "--scribble", "b.png", "--mask", "box:0,0,0.001,0.001"], "nothing is white"),
        (["scribble", "--latent_file", "pair.npy", "--scribble", "b.png"], "holds 2 latents"),
        (["scribble", "--latent_file", "a.npy", "--scribble", "b.png", "--lambda_start", "-1"], "--lambda_start"),
        (["scribble", "--latent_file", "a.npy", "--scribble", "b.png", "--lr", "nan"], "--lr"),
        (["scribble", "--latent_file", "foreign.npy", "--scribble", "b.png"], "--force"),
        (["style", "--latent_file", "a.npy", "--style_im", "b.png"], "--mask"),
        (["style", "--latent_file", "a.npy", "--style_im", "b.png", "--mask", "part:mouth", "--perceptual", "none"], "--perceptual none"),
        (["style", "--latent_file", "a.npy", "--style_im", "b.png", "--mask", "part:mouth", "--lambda_style", "inf"], "--lambda_style"),
        (
            ["style", "--latent_file", "a.npy", "--style_im", "b.png", "--mask", "part:mouth", "--noise_iteration", "-1"],
            "--noise_iteration",
        ),
        (["style", "--latent_file", "a.npy", "--style_im", "b.png", "--mask", "part:mouth", "--blur", "0.6"], "--blur"),
        (["transfer", "--latent_file1", "a.npy", "--latent_file2", "b.npy"], "--mask"),
        ([*TRANSFER, "--mode", "interpolate", "--amount", "2.0"], "--amount"),
        ([*TRANSFER, "--amount", "0.2"], "--mode interpolate"),
        ([*TRANSFER, "--resolutions", "3"], "--resolutions"),
        ([*TRANSFER, "--iteration", "9", "--low_memory"], "--iteration, --low_memory: nothing is optimised without --embed"),
        ([*TRANSFER, "--out", "/proc/none/x"], "/proc"),
        ([*TRANSFER, "--weight_file", "none.safetensors"], "none.safetensors"),
        (["erase"], "erase"),
    ],
)
def test_bad_calls_say_so_in_one_line(place, made, monkeypatch, capsys, words, said):
    face.write("pair.npy", made[0])
    face.write("foreign.npy", made[0][:1], {"generator_hash": "0" * 64})
    monkeypatch.setattr("sys.argv", ["local_edit.py"])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli, "open_streams", lambda: None)
    with pytest.raises(SystemExit) as left:
        cli.run(lambda _: local_edit.main(words + ["--quiet"] * (len(words) > 1)))
    error = capsys.readouterr().err
    assert left.value.code == 2 and said in error and len(error.strip().splitlines()) == 1, error
    assert not names()


def test_force_takes_another_generators(place, made, seen):
    draw()
    face.write("foreign.npy", made[0][:1], {"generator_hash": "0" * 64})
    assert call(*SCRIBBLE, "--latent_file", "foreign.npy", "--force") == 0


def test_as_a_process_of_its_own(place, run):
    done = run("local_edit.py", *TRANSFER, cwd=place)
    assert done.returncode == 0 and done.stdout == f"{OUT}/a_x_b_mouth.png\n", done.stderr
