"""What of the toolkit carries over to StyleGAN3: each command on small random networks, and what it refuses."""

import importlib
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import local_edit
import make_report
from editor import boundaries, coarse, face, images, landmarks, motion, projection, render, results, settings, tuning

NO_NOISE = "this generator has no noise maps"


@pytest.fixture
def work(sg3, tmp_path, monkeypatch):
    """work("generate", *words, kind="T") runs a command in a folder with faces a and b, their pictures (in in/, too) and a boundary."""
    monkeypatch.chdir(tmp_path)

    def work(command, *words, kind="T"):
        place = sg3[kind]
        for name in ("a", "b"):
            for ending in ("npy", "json", "png"):
                (tmp_path / f"{name}.{ending}").write_bytes((place.folder / f"{name}.{ending}").read_bytes())
            (tmp_path / "in").mkdir(exist_ok=True)
            (tmp_path / f"in/{name}.png").write_bytes((place.folder / f"{name}.png").read_bytes())
        direction = torch.randn(1, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        info = {"generator_hash": place.G.meta["hash"]}
        boundaries.save("smile.npy", boundaries.Boundary(direction / direction.norm(), 0.0, info=info))
        words = [*words, "--weight_file", place.weights, "--precision", "fp32", "--quiet"]
        assert not importlib.import_module(command).main([str(word) for word in words])

    return work


def drawn(G, path):
    return render.one(G, face.read_one(path, G))


def picture(path):
    return np.asarray(images.open_image(path))


# ---------------------------------------------------------------------------------------------------------------------
# Each command: what it writes renders to its picture

ENCODE = ["--src_dir", "in", "--src_im", "a.png", "--latent_dir", "out", "--save_dir", "out", "--perceptual", "none", "--compile", "off"]
PAIR = ["--latent_file1", "a.npy", "--latent_file2", "b.npy"]
FEW = ["--perceptual", "none", "--iteration", "2", "--out", "out/"]
COMMANDS = {
    "generate": ["--seeds", "0,1", "--trunc", "0.5", "--trunc_cutoff", "1", "--out_dir", "out"],
    "encode_image exact": [*ENCODE, "--preset", "exact", "--iteration", "3", "--coarse", "0.5", "--lambda_prior", "0.1", "--low_memory"],
    "encode_image latenteditor": [*ENCODE, "--preset", "latenteditor", "--iteration", "2"],
    "encode_image editable": [*ENCODE, "--w_iteration", "2", "--tune", "2"],
    "encode_image full": [*ENCODE, "--w_iteration", "2", "--tune", "2", "--tune_form", "full", "--tune_together", "--tune_locality", "0"],
    "encode_image z": [*ENCODE, "--space", "z", "--iteration", "2", "--tune", "0"],
    "encode_image mask": [*ENCODE, "--mask", "box:0,0,1,0.5", "--iteration", "4"],
    "image_crossover": [*PAIR, "--layers", "0-3,15", "--out", "out/x"],
    "image_crossover mask": ["--src_dir", "in", "--src_im1", "a.png", "--src_im2", "b.png", "--mask", "box:0,0,.5,1",
                             *FEW[:4], "--out", "out/x"],
    "facial_exchange": [*PAIR, "--out_dir", "out"],
    "facial_exchange arithmetic": ["--target", "a.npy", "--neutral", "a.npy", "--expression", "b.npy", "--out_dir", "out"],
    "semantic_edit": ["--latent_file", "a.npy", "--boundary_dir", ".", "--edit", "smile=2", "--layers", "1-15", "--out_dir", "out"],
    "local_edit scribble": ["scribble", "--latent_file", "a.npy", "--scribble", "b.png", *FEW],
    "local_edit style": ["style", "--latent_file", "a.npy", "--style_im", "b.png", "--mask", "box:0,0,1,.5", *FEW[2:]],
    "local_edit transfer": ["transfer", *PAIR, "--mask", "box:0,0,1,.5", "--embed", *FEW],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name, work, sg3, tmp_path):
    work(name.split()[0], *COMMANDS[name])
    latents = sorted(p for p in (tmp_path / "out").glob("*.npy"))
    assert latents
    for latent in latents:
        assert np.array_equal(drawn(sg3["T"].G, latent), picture(latent.with_suffix(".png"))), latent
    assert not list(tmp_path.rglob("*.noise.npz"))


def test_r_is_embedded_and_tuned(work, sg3, tmp_path):
    """Its kernels of one pixel have no factor beside a difference: what is tuned is added, and found again."""
    work("encode_image", *ENCODE, "--w_iteration", "2", "--tune", "3", "--tune_locality", "0", kind="R")
    found = face.read_one(tmp_path / "out/a.npy", sg3["R"].G)
    assert found.tuned and np.array_equal(render.one(sg3["R"].G, found), picture("out/a.png"))


def test_a_morph_begins_and_ends_as_its_faces(work, sg3):
    work("image_morphing", *PAIR, "--frames", "3", "--out_dir", "m")
    seen = [picture(f"m/morph_000{i}.png") for i in range(3)]
    assert np.array_equal(seen[0], picture("a.png")) and np.array_equal(seen[2], picture("b.png"))
    assert not np.array_equal(seen[1], seen[0]) and not np.array_equal(seen[1], seen[2])


@torch.no_grad()
@pytest.mark.parametrize("way", [[], ["--per_layer"]])
def test_a_boundary_is_trained_and_followed(work, sg3, way):
    G = sg3["T"].G
    ws = G.truncate(G.mapping(torch.randn(80, 64, generator=torch.Generator().manual_seed(1)))).numpy()
    np.save("many.npy", ws)
    np.save("scores.npy", ws[:, 0, 3])
    words = ["--latents", "many.npy", "--scores", "scores.npy", "--ratio", "0.3", "--out", "third.npy", *way]
    assert not importlib.import_module("train_boundary").main(words + ["--weight_file", str(sg3["T"].weights)])
    found = boundaries.load("third.npy", G)
    assert len(found.normal) == (16 if way else 1) and found.normal[:, 3].mean() > 0.2
    work("semantic_edit", "--latent_file", "a.npy", "--boundary", "third.npy", "--steps", "2", "--out_dir", "out")
    assert picture("out/a_third.png").shape[1] > 64


NOISE = {
    "generate": ["--seeds", "0", "--noise_mode", "random", "--out_dir", "out"],
    "encode_image": [*ENCODE, "--preset", "exact", "--iteration", "1", "--noise_iteration", "2"],
    "encode_image joint": [*ENCODE, "--joint", "--iteration", "1"],
    "image_crossover": [*COMMANDS["image_crossover mask"], "--noise_iteration", "2"],
    "local_edit": [*COMMANDS["local_edit scribble"], "--noise_iteration", "2"],
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_refused_in_one_sentence(name, work, tmp_path):
    with pytest.raises(ValueError, match=NO_NOISE):
        work(name.split()[0], *NOISE[name])
    assert not list(tmp_path.glob("out/*.npy"))


# ---------------------------------------------------------------------------------------------------------------------
# Its layers


def test_layers_by_their_names(sg3):
    """The input has the first w, and is never tuned; coarse layers are told by the detail that they hold, not by their samples."""
    G = sg3["T"].G
    assert [tuning.layer_of(G, f"{name}.weight") for name in G.synthesis.names] == list(range(1, 16))
    assert tuning.layer_of(G, "input.weight") == tuning.layer_of(G, tuning.TRANSFORM) == 0
    every, fine = (tuning.zeros(G, "kernel", side) for side in (4, 16))
    assert set(every) == {f"{name}.{part}" for name in G.synthesis.names for part in ("weight", "bias")}
    coarse_ones = {tuning.layer_of(G, name) - 1 for name in every.keys() - fine.keys()}
    assert coarse_ones == {i for i, place in enumerate(G.config.places) if round(2 * place.cutoff) < 16} and len(coarse_ones) > 3


def test_the_terms_that_hold_a_latent_see_its_layers(sg3):
    """All but the first, which says where the face lies and which has no style."""
    G, far = sg3["T"].G, projection.Cosine(sg3["T"].G, "cpu", 500)
    mean = G.w_avg.expand(1, 16, -1)
    for i in range(16):
        ws = mean.clone()
        ws[:, i] += 20 * torch.randn(64, generator=torch.Generator().manual_seed(i))
        assert (abs(far(ws) - far(mean)) > 1e-3) == (i > 0), i


def test_there_are_no_steps_at_half_the_side(sg3):
    config = settings.Config(iteration=100, coarse=0.7)
    assert not coarse.can(SimpleNamespace(kind="stylegan3", resolution=1024))
    assert coarse.can(SimpleNamespace(kind="stylegan2", resolution=1024))
    for kind in ("T", "R"):
        assert coarse.first(sg3[kind].G, config, projection.Goal(torch.zeros(1, 3, 32, 32))) == 0
        assert not coarse.missing(sg3[kind].G, config)


def test_filling_in_leaves_the_place_of_the_face(sg3):
    assert projection.inpainting(sg3["T"].G, 10)["layers"] == [1, 2, 14, 15]


@torch.no_grad()
def test_a_part_of_another_faces_activations(sg3):
    """Of all rates, everywhere: the other's picture, but for ToRGB's own w; nowhere: the face itself; the rest of a part stays."""
    G = sg3["R"].G
    a, b = (face.read_one(sg3["R"].folder / f"{name}.npy", G) for name in "ab")
    every = local_edit.resolution_range("1-1024", G)
    assert every == [16, 32] and local_edit.resolution_range(None, G) == [16]
    ones = torch.ones(1, 1, 32, 32)
    both = b.ws.clone()
    both[:, 15] = a.ws[:, 15]  # ToRGB's
    assert torch.allclose(local_edit.blend_activations(G, a, b, ones, every), G.synthesis(both), atol=1e-5)
    assert torch.allclose(local_edit.blend_activations(G, a, b, 0 * ones, every), G.synthesis(a.ws), atol=1e-5)
    last = [place.rate for place in G.config.places].index(32)  # of the coarse rate it is the layer before, with a margin around it
    both = torch.cat([b.ws[:, : last + 1], a.ws[:, last + 1 :]], 1)
    assert torch.allclose(local_edit.blend_activations(G, a, b, ones, [16]), G.synthesis(both), atol=1e-5)
    part = ones.clone()
    part[..., 8:] = 0
    found, still = local_edit.blend_activations(G, a, b, part, [32]), G.synthesis(a.ws)
    assert torch.allclose(found[..., 16:], still[..., 16:], atol=1e-5) and (found - still)[..., :8].abs().max() > 0.1
    with pytest.raises(ValueError, match="has 16, 32"):
        local_edit.resolution_range("4", G)


# ---------------------------------------------------------------------------------------------------------------------
# Turned and shifted


def test_a_turned_face_is_a_face(work, sg3, tmp_path):
    """Its picture is turned; whoever reads it draws it so, in what they make of it, too."""
    work("generate", "--seeds", "3", "--out_dir", "still", kind="R")
    work("generate", "--seeds", "3", "--rotate", "90", "--out_dir", "turned", kind="R")
    work("generate", "--seeds", "3", "--translate", "0.25,0.125", "--out_dir", "moved", kind="R")
    still, turned, moved = (picture(f"{name}/seed0003.png").astype(float) for name in ("still", "turned", "moved"))
    inner = slice(8, -8)
    for found, wanted in ((turned, np.rot90(still)), (moved, np.roll(still, (4, 8), (0, 1)))):  # y points down
        near, before = (np.abs(found - one)[inner, inner].mean() for one in (wanted, still))
        assert near < 3 < before, (near, before)
    assert np.array_equal(drawn(sg3["R"].G, "turned/seed0003.npy"), picture("turned/seed0003.png"))
    edit = ["--latent_file", "turned/seed0003.npy", "--boundary_dir", ".", "--edit", "smile=0"]
    work("semantic_edit", *edit, "--out_dir", "out", kind="R")
    assert np.array_equal(picture("out/seed0003_smile+0.png"), picture("turned/seed0003.png"))
    assert np.array_equal(drawn(sg3["R"].G, "out/seed0003_smile+0.npy"), picture("turned/seed0003.png"))
    work("semantic_edit", *edit, "--tuned_strength", "0", "--out_dir", "out0", kind="R")
    assert np.array_equal(picture("out0/seed0003_smile+0.png"), picture("still/seed0003.png"))


def test_the_file_of_all_seeds_turns_too(work, sg3):
    work("generate", "--seeds", "3,4", "--rotate", "20", "--out_dir", "out", kind="R")
    found = face.read("out/all/seeds_3-4.npy", sg3["R"].G).split()
    for one, name in zip(found, ("seed0003", "seed0004"), strict=True):
        assert np.array_equal(render.one(sg3["R"].G, one), picture(f"out/{name}.png"))


def test_a_morph_turns(work, sg3):
    for degrees, name in ((0, "p"), (90, "q"), (45, "half")):
        work("generate", "--seeds", "3", "--rotate", degrees, "--translate=-0.1,0", "--out_dir", name, kind="R")
    work("image_morphing", "--latent_files", "p/seed0003.npy", "q/seed0003.npy", "--frames", "3", "--out_dir", "m", kind="R")
    seen = [picture(f"m/morph_000{i}.png").astype(int) for i in range(3)]
    for one, name in zip(seen, ("p", "half", "q"), strict=True):
        assert np.abs(one - picture(f"{name}/seed0003.png")).max() <= 1, name


def test_between_two_transforms():
    """The shorter way; the motion of gen_images.py, inverted."""
    a, b = motion.transform(170, (0.2, 0)), motion.transform(-170, (0, 0.4))
    assert torch.allclose(motion.between(a, b, 0.5), motion.transform(180, (0.1, 0.2)), atol=1e-6)
    c, s = math.cos(math.radians(30)), math.sin(math.radians(30))
    wanted = torch.tensor([[c, s, 0.1], [-s, c, -0.2], [0, 0, 1]]).inverse()
    assert torch.allclose(motion.transform(30, (0.1, -0.2)), wanted, atol=1e-6)
    assert motion.is_one(a) and not motion.is_one(torch.diag(torch.tensor([1.0, 2, 1]))) and not motion.is_one(torch.zeros(3, 3))


def test_motions_that_cannot_be(sg3, tiny, tmp_path, run):
    import generate

    with pytest.raises(ValueError, match="StyleGAN3's input"):
        generate.main(["--seeds", "0", "--rotate", "5", "--weight_file", str(tiny.weights), "--out_dir", str(tmp_path)])
    for wrong in ("1", "1,2,3", "a,b", "99,0"):
        with pytest.raises(SystemExit):
            generate.flags().parse_args(["--seeds", "0", f"--translate={wrong}"])
    G, path = sg3["T"].G, tmp_path / "x.tuned.safetensors"
    far = motion.transform(0, (1e6, 0))
    huge = torch.diag(torch.tensor([1e4, 1e4, 1.0]))
    endless = motion.transform(0, (math.inf, 0)).nan_to_num(math.inf)
    for wrong in (torch.eye(3).half(), torch.zeros(3, 3), torch.full((3, 3), math.nan), torch.eye(2), far, huge, endless):
        tuning.write(path, {tuning.TRANSFORM: wrong}, G.meta["hash"])
        with pytest.raises(ValueError, match="input.transform"):
            tuning.read(path, G)


def lies(turn, shift, size, side):
    """The record beside a square picture in which a face lies turned (radians, clockwise), shifted (in widths) and of that size."""
    marks = np.zeros((68, 2))  # at 1, in the middle: FFHQ's square around it is the picture's
    marks[landmarks.LEFT_EYE], marks[landmarks.RIGHT_EYE], marks[list(landmarks.MOUTH)] = (-0.125, -0.025), (0.125, -0.025), (0, 0.225)
    c, s = size * math.cos(turn), size * math.sin(turn)
    marks = (marks @ np.array([[c, s], [-s, c]]) + shift) * 8 * side + [100, 200]  # of a photograph that is cut at 8 times the side
    square = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]]) * 8 * side + [100, 200]
    return {"quad": square.tolist(), "landmarks": marks.tolist(), "source": "photo.jpg"}


def turned(place, folder, size=1.0):
    """Face a as it lies by the record that is written beside its picture; the transform that it was drawn with."""
    degrees, shift = 20, (0.06, -0.04)
    motion_seen = motion.transform(-degrees, shift).inverse() @ torch.diag(torch.tensor([size, size, 1.0]))
    person = face.Face(face.read_one(place.folder / "a.npy", place.G).ws, None, {tuning.TRANSFORM: motion_seen.inverse()})
    folder.mkdir(exist_ok=True)
    images.save(folder / "t.png", render.one(place.G, person))
    (folder / "t.json").write_text(json.dumps(lies(math.radians(degrees), shift, size, place.G.resolution)))
    return motion_seen.inverse()


@pytest.mark.parametrize("size", [1.0, 0.85])
def test_a_face_is_encoded_as_it_lies(size, work, sg3, tmp_path):
    """The transform comes from the landmarks; the latent stays upright, and every command draws the face as it lies."""
    matrix = turned(sg3["R"], tmp_path / "in", size)
    words = ["--src_dir", "in", "--src_im", "t.png", "--latent_dir", "out", "--save_dir", "out", "--perceptual", "none", "--compile", "off"]
    work("encode_image", *words, "--unaligned", "--init", "a.npy", "--iteration", "2", "--lr", "1e-6", kind="R")
    found = face.read_one("out/t.npy", sg3["R"].G)
    assert torch.allclose(found.tuned[tuning.TRANSFORM], matrix, atol=1e-5)
    assert np.abs(picture("out/t.png").astype(int) - picture("in/t.png")).max() <= 1
    assert np.array_equal(render.one(sg3["R"].G, found), picture("out/t.png"))
    still = render.one(sg3["R"].G, face.read("out/t.npy", sg3["R"].G, strength=0))  # upright again
    assert np.abs(still.astype(int) - picture("a.png")).max() <= 1
    half = face.read("out/t.npy", sg3["R"].G, strength=0.5)
    assert torch.equal(half.tuned[tuning.TRANSFORM], found.tuned[tuning.TRANSFORM])  # how it lies is no matter of the weights' strength


def test_unaligned_faces_are_tuned_together_and_by_workers(work, sg3, tmp_path):
    """Each keeps its own transform beside the weights that they share; processes find what one does."""
    matrix = turned(sg3["R"], tmp_path / "in")
    (tmp_path / "in/a.json").write_text(json.dumps(lies(0, (0, 0), 1, 32)))
    (tmp_path / "in/b.json").write_text(json.dumps(lies(-0.2, (0, 0.1), 1, 32)))
    words = ["--src_dir", "in", "--unaligned", "--perceptual", "none", "--compile", "off", "--w_iteration", "2", "--tune", "2",
             "--tune_locality", "0"]  # fmt: skip
    work("encode_image", *words, "--tune_together", "--latent_dir", "out", "--save_dir", "out", kind="R")
    found = {name: face.read_one(f"out/{name}.npy", sg3["R"].G) for name in "abt"}
    assert torch.allclose(found["t"].tuned[tuning.TRANSFORM], matrix, atol=1e-5)
    assert torch.allclose(found["a"].tuned[tuning.TRANSFORM], torch.eye(3), atol=1e-5)
    shared = set(found["a"].tuned) - {tuning.TRANSFORM}
    assert shared and all(torch.equal(found["a"].tuned[name], found["b"].tuned[name]) for name in shared)
    for name, person in found.items():
        assert np.array_equal(render.one(sg3["R"].G, person), picture(f"out/{name}.png"))
    work("encode_image", *words, "--latent_dir", "one", "--save_dir", "one", kind="R")
    work("encode_image", *words, "--workers", "2", "--latent_dir", "two", "--save_dir", "two", kind="R")
    for name in found:
        assert np.array_equal(picture(f"one/{name}.png"), picture(f"two/{name}.png"))


def test_a_face_whose_record_changes_is_encoded_again(sg3, tmp_path, run):
    """What says how it lies is what a result is made of, too; and the report's command says --unaligned."""
    turned(sg3["R"], tmp_path / "in")
    words = ["encode_image.py", "--src_dir", "in", "--unaligned", "--perceptual", "none", "--iteration", "1", "--tune", "0"]
    words += ["--w_iteration", "0", "--weight_file", str(sg3["R"].weights)]
    assert run(*words, cwd=tmp_path).returncode == 0
    first = face.read_one(tmp_path / "latent_W/t.npy", sg3["R"].G).tuned[tuning.TRANSFORM]
    assert "done already" in run(*words, cwd=tmp_path).stderr
    (tmp_path / "in/t.json").write_text(json.dumps(lies(0.6, (0, 0), 1, 32)))
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0 and "t.npy" in done.stdout, done.stderr
    assert not torch.allclose(face.read_one(tmp_path / "latent_W/t.npy", sg3["R"].G).tuned[tuning.TRANSFORM], first, atol=0.1)
    said = face.record(tmp_path / "latent_W/t.npy")
    assert "--unaligned" in make_report.encoded(said, results.sources(said), tmp_path / "latent_W/t.npy")


def test_a_record_that_changes_meanwhile_is_no_result(work, sg3, tmp_path, monkeypatch):
    """The transform was read from the old one; a face that says that it is by the new one would never be made again."""
    from editor import session

    turned(sg3["R"], tmp_path / "in")
    embed = session.Session.embed

    def slowly(*args):
        (tmp_path / "in/t.json").write_text(json.dumps(lies(0.6, (0, 0), 1, 32)))
        return embed(*args)

    monkeypatch.setattr(session.Session, "embed", slowly)
    words = ["--src_dir", "in", "--src_im", "t.png", "--latent_dir", "out", "--save_dir", "out", "--perceptual", "none", "--iteration", "1"]
    with pytest.raises(OSError, match="record beside it"):
        work("encode_image", *words, "--unaligned", "--preset", "exact", kind="R")
    assert not (tmp_path / "out/t.npy").exists()


def test_where_a_face_lies_is_found_at_every_turn():
    """dlib knows upright faces: a crop turned by 40 and by 90 degrees is looked at turned back."""
    astronaut_crop = Image.fromarray(skimage.data.astronaut()).crop((140, 20, 310, 190))
    upright = landmarks.landmarks_of_crop(astronaut_crop)
    assert np.array_equal(landmarks.landmarks_of_crop(astronaut_crop, turned=True), upright)
    for degrees in (40, 90):
        found = landmarks.landmarks_of_crop(astronaut_crop.rotate(degrees, resample=3), turned=True)
        c, s, middle = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), (astronaut_crop.width - 1) / 2
        wanted = (upright - middle) @ np.array([[c, -s], [s, c]]) + middle
        assert np.abs(found - wanted).mean() < 0.03 * astronaut_crop.width


def test_squares_that_are_not_turned_are_no_crops(sg3, tiny, tmp_path, run):
    """Taken for aligned ones they would give other faces: the commands say so."""
    turned(sg3["R"], tmp_path / "in")
    said = json.loads((tmp_path / "in/t.json").read_text())
    (tmp_path / "in/t.json").write_text(json.dumps(said | {"settings": {"upright": True}}))
    words = ["encode_image.py", "--src_dir", "in", "--iteration", "1", "--perceptual", "none", "--quiet"]
    for weights, how in ((sg3["R"].weights, "encode_image.py --unaligned"), (tiny.weights, "without --upright")):
        done = run(*words, "--weight_file", str(weights), "--latent_dir", str(how[0]), "--save_dir", str(how[0]), cwd=tmp_path)
        assert done.returncode == 0 and how in done.stderr, done.stderr


def test_faces_that_cannot_be_placed(sg3, tiny, tmp_path, run):
    words = ["encode_image.py", "--src_dir", "in", "--src_im", "t.png", "--unaligned", "--iteration", "1", "--quiet"]
    turned(sg3["R"], tmp_path / "in", 0.7)
    three = "--weight_file", str(sg3["R"].weights)
    done = run(*words, *three, cwd=tmp_path)
    assert done.returncode == 2 and "0.70 of the size" in done.stderr and "--upright" in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "in/t.json").write_text(json.dumps(lies(0, (0.6, 0), 1, 32)))
    done = run(*words, *three, cwd=tmp_path)
    assert done.returncode == 2 and "outside" in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "in/t.json").unlink()
    done = run(*words, *three, cwd=tmp_path)
    assert done.returncode == 2 and "no face found to place" in done.stderr and done.stderr.count("\n") == 1
    mirrored = lies(0, (0, 0), 1, 32)
    mirrored["quad"] = [mirrored["quad"][i] for i in (3, 2, 1, 0)]
    for wrong in (
        mirrored,
        {"quad": 3, "landmarks": []},
        {"quad": [[0, 0]] * 4, "landmarks": [[1, 1]] * 68},
        {"quad": "x", "landmarks": None},
    ):
        (tmp_path / "in/t.json").write_text(json.dumps(wrong))
        done = run(*words, *three, cwd=tmp_path)
        assert done.returncode == 2 and "68 landmarks" in done.stderr and done.stderr.count("\n") == 1, wrong
    done = run(*words, "--weight_file", str(tiny.weights), cwd=tmp_path)
    assert done.returncode == 2 and "StyleGAN3's input" in done.stderr and done.stderr.count("\n") == 1


def test_a_turned_face_leaves_for_another_project(sg3):
    import weight_convert

    G, turned = sg3["T"].G, {tuning.TRANSFORM: motion.transform(20)}
    person = face.Face(torch.zeros(1, 16, 64), None, turned)
    data = weight_convert.exported(G, "ada", {}, person)
    found = [value for value in flat(data) if value.shape == (3, 3)]
    assert len(found) == 1 and torch.equal(found[0], turned[tuning.TRANSFORM])


def flat(data):
    """The tensors in dicts of dicts."""
    return [t for value in data.values() for t in (flat(value) if type(value) is dict else [value] if torch.is_tensor(value) else [])]


@torch.no_grad()
def test_faces_of_another_place_are_mixed_by_layer(sg3):
    """The input's w and its transform go together."""
    G, turned = sg3["T"].G, {tuning.TRANSFORM: motion.transform(20)}
    a = face.read_one(sg3["T"].folder / "a.npy", G)
    b = face.Face(face.read_one(sg3["T"].folder / "b.npy", G).ws, None, turned)
    assert face.mix(a, b, [1, 2], G=G).tuned is None and torch.equal(
        face.mix(a, b, [0], G=G).tuned[tuning.TRANSFORM], turned[tuning.TRANSFORM]
    )
    half = face.mix(a, b, [0], 0.5, G).tuned[tuning.TRANSFORM]
    assert torch.allclose(half, motion.transform(10), atol=1e-6)
