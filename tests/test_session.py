"""What every command opens first."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from editor import checkpoints, face, files, projection, session, settings


def args(**given):
    return SimpleNamespace(**{"device": "cpu", "precision": "fp32", "weight_file": None, "seed": 0} | given)


@pytest.fixture
def opened(small_G, monkeypatch):
    """A session with the small_G generator."""
    monkeypatch.setattr(checkpoints, "load_generator", lambda name, device: small_G)
    return session.open(args(perceptual="none"))


@pytest.mark.parametrize("name", ["meta", "gpu", "cuda:-1", "cuda:x", "cuda:99999999999999999999", "cpu:1", "", "cuda:77", "xla"])
def test_devices_that_are_not_there(name):
    with pytest.raises(ValueError, match="--device"):
        session.device(name)


def test_flags_reach_the_session(opened, small_G, monkeypatch):
    assert opened.G is small_G and opened.dtype == torch.float32 and not opened.force and opened.saved_noise and opened.distance() is None
    other = session.open(args(perceptual=None, force=True, no_saved_noise=True, compile="on", seed=7, precision="bf16"))
    assert (other.force, other.saved_noise, other.compile, other.seed, other.dtype_name) == (True, False, "on", 7, "bfloat16")
    assert other.perceptual == "vgg16"  # where a checkpoint names none
    assert other.compiles(settings.Config()) and torch.initial_seed() == 7


def test_the_checkpoint_names_the_distance(G, monkeypatch):
    monkeypatch.setattr(checkpoints, "load_generator", lambda name, device: G)
    opened = session.open(args())
    assert opened.perceptual == "bundled" and opened.distance() is opened.distance() is not None


@pytest.mark.parametrize("name", ["x", ""])
def test_unknown_distances(name):
    with pytest.raises(ValueError, match="use bundled, vgg16"):
        session.load_distance(name)


def test_no_network_is_said_with_what_works_without(monkeypatch):
    import torchvision

    def unreachable(*words, **options):
        assert options["check_hash"] and options["weights_only"]
        raise OSError("<urlopen error>")

    monkeypatch.setattr(type(torchvision.models.VGG16_Weights.IMAGENET1K_V1), "get_state_dict", unreachable)
    with pytest.raises(OSError, match="--perceptual bundled"):
        session.load_distance("vgg16")


def test_remarks_of_faces_are_kept_for_the_command(opened, small_G, tmp_path):
    z = np.random.default_rng(0).normal(size=(1, 512)).astype(np.float32) * 30
    np.save(tmp_path / "z.npy", z)
    assert opened.read(tmp_path / "z.npy").ws.shape == (1, 6, 512)
    assert len(opened.remarks) == 1 and "is it a z" in opened.remarks[0]
    np.save(tmp_path / "two.npy", np.zeros((2, 6, 512), np.float32))
    with pytest.raises(ValueError, match="holds 2 latents"):
        opened.read_one(tmp_path / "two.npy")


def test_a_picture_that_nothing_aligned_is_remarked_upon(G, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "load_generator", lambda name, device: G)
    opened, astronaut = session.open(args()), Image.fromarray(skimage.data.astronaut())
    far, near = astronaut.crop((80, 0, 380, 300)), astronaut.crop((150, 50, 300, 200))
    pictures = {"far": far, "near": near, "small": far.resize((128, 128)), "cut": far, "grey": Image.new("RGB", (300, 300), "grey")}
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
    files.write_json(tmp_path / "cut.json", {"quad": [[0, 0]]})  # as align_images.py leaves beside a crop
    files.write_json(tmp_path / "far.json", {"sources": {}})
    for name in pictures:
        assert opened.photo(tmp_path / f"{name}.png").shape == (1, 3, 128, 128)
    (remark,) = opened.remarks
    assert remark.startswith(f"{tmp_path / 'far.png'}: its face fills ") and "align_images.py" in remark


def test_starts(opened, small_G, tmp_path):
    assert opened.start(None) == ({"init": "mean"}, None)  # no encoder for this generator
    assert opened.start(None, "z") == ({"init": "z"}, None)
    assert opened.start("uniform") == ({"init": "uniform"}, None)
    maps = [m + 1 for m in face.own_noise(small_G)]
    face.write(tmp_path / "a.npy", torch.ones(1, 6, 512), {}, maps)
    start, encoder = opened.start(str(tmp_path / "a.npy"))
    assert torch.equal(start["init"], torch.ones(1, 6, 512)) and torch.equal(start["noise"][0], maps[0]) and encoder is None
    np.save(tmp_path / "three.npy", np.zeros((3, 6, 512), np.float32))
    with pytest.raises(ValueError, match="three.npy: holds 3 latents"):
        opened.start(str(tmp_path / "three.npy"))
    for word in ("encoder", str(tmp_path / "no.safetensors")):
        with pytest.raises((ValueError, OSError)):
            opened.start(word)


def test_the_encoder_is_the_start_where_there_is_one(G, monkeypatch):
    monkeypatch.setattr(checkpoints, "load_generator", lambda name, device: G)
    opened = session.open(args())
    start, encoder = opened.start(None)
    assert encoder is not None and start == {"init": "mean"}
    assert opened.start(None, whole=False) == ({"init": "mean"}, None)


def embed(opened, found, count):
    """What embed_one makes of these parts for `count` images."""
    opened.embed = lambda *rest: iter([(0, 0, part) for part in found])
    return opened.embed_one(projection.Goal(torch.zeros(count, 3, 16, 16)), settings.Config())


def part(count, **more):
    return projection.Projection(torch.zeros(count, 6, 512), torch.zeros(count), diverged=[False] * count, **more)


def test_one_result_of_all_images(opened):
    whole = embed(opened, [part(1, noise=[torch.zeros(1, 1, 4, 4)]), part(2, noise=[torch.ones(2, 1, 4, 4)])], 3)
    assert whole.ws.shape == (3, 6, 512) and whole.loss.shape == (3,) and whole.noise[0][:, 0, 0, 0].tolist() == [0, 1, 1]
    stop = KeyboardInterrupt()
    assert embed(opened, [part(2, interrupted=stop)], 2).interrupted is stop  # the best so far of both
    with pytest.raises(KeyboardInterrupt):
        embed(opened, [part(1, interrupted=stop)], 2)
    diverged = part(2, steps=5)
    diverged.diverged = [False, True]
    with pytest.raises(ValueError, match="after 5 steps, and nothing was written"):
        embed(opened, [diverged], 2)


def test_the_record_names_its_sources(opened, tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    said = opened.record("x.py", {"image": tmp_path / "a.png"}, psnr=3.0)
    assert said["sources"] == {"image": {"path": str(tmp_path / "a.png"), "sha256": files.file_hash(tmp_path / "a.png")}}
    assert said["generator_hash"] == "1" * 64 and said["psnr"] == 3.0 and said["made_by"] == "x.py" and said["seed"] == 0
    json.dumps(said, allow_nan=False)


def test_a_result_never_replaces_anothers(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    (tmp_path / "copy.png").write_bytes(b"a")
    entry = {"path": str(tmp_path / "a.png"), "sha256": files.file_hash(tmp_path / "a.png")}
    face.write(tmp_path / "a.npy", torch.zeros(1, 6, 512), {"sources": {"image": entry}})
    session.claim(tmp_path / "a.npy", {"image": tmp_path / "a.png"})
    session.claim(tmp_path / "a.npy", {"image": tmp_path / "copy.png"})  # the same photograph under another name
    (tmp_path / "a.png").write_bytes(b"retouched")
    session.claim(tmp_path / "a.npy", {"image": tmp_path / "a.png"})
    session.claim(tmp_path / "new.npy", {"image": tmp_path / "b.png"})
    for other in ({"image": tmp_path / "b.png"}, {"image": tmp_path / "a.png", "mask": tmp_path / "c.png"}, {"latent": tmp_path / "a.png"}):
        with pytest.raises(ValueError, match="holds the result of .*a.png"):
            session.claim(tmp_path / "a.npy", other)


def test_another_tools_latent_is_not_replaced(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    np.save(tmp_path / "a.npy", np.ones((1, 6, 512), np.float32))
    sources = {"image": tmp_path / "a.png"}
    for ask in (session.claim, session.reserve):
        with pytest.raises(ValueError, match="a.npy: no record of ours lies beside it, so another tool made it; give the result another"):
            ask(tmp_path / "a.npy", sources)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="another tool"):
        session.claim(tmp_path / "a.npy", sources)
    files.write_json(tmp_path / "a.json", {"complete": False, "files": {"latent": ""}})  # as a write of ours that was killed leaves it
    session.reserve(tmp_path / "a.npy", sources)


def test_what_another_process_wrote_meanwhile_is_not_replaced(opened, small_G, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    person = face.Face(torch.zeros(1, 6, 512))
    first, second = (opened.record("x.py", {"image": tmp_path / f"{name}.png"}) for name in "ab")
    opened.save(tmp_path / "r.png", person, first)
    before = (tmp_path / "r.npy").read_bytes(), (tmp_path / "r.json").read_bytes()
    with pytest.raises(ValueError, match="r.npy: holds the result of .*a.png; give another name"):
        opened.save(tmp_path / "r.png", face.Face(torch.ones(1, 6, 512)), second)
    assert ((tmp_path / "r.npy").read_bytes(), (tmp_path / "r.json").read_bytes()) == before
    opened.save(tmp_path / "r.png", person, first)


@pytest.mark.parametrize("name", ["r.json", "r.noise.npz", "r.tuned.safetensors", "r.npy", "r.png"])
def test_no_file_of_a_result_replaces_what_it_is_made_of(tmp_path, name):
    (tmp_path / name).write_text("[1]")
    with pytest.raises(ValueError, match=f"{name}: what the result is made of; give the result another name"):
        session.reserve(tmp_path / "r.npy", {"points": tmp_path / name}, tmp_path / "r.png")


@pytest.mark.parametrize(
    "held",
    [[1], {"colours": ["red"]}, {"source": "photo.png", "quad": [[0, 0]]}, {"made_by": "image_morphing.py", "sources": {}, "frames": []}],
)
def test_a_file_in_a_records_place_is_not_replaced(tmp_path, held):
    (tmp_path / "a.png").write_bytes(b"a")
    files.write_json(tmp_path / "r.json", held)
    with pytest.raises(ValueError, match="r.json: the result's record would replace it, and it is none of such a result; give the result"):
        session.reserve(tmp_path / "r.npy", {"image": tmp_path / "a.png"})
    files.write_json(tmp_path / "r.json", {"generator_hash": "1", "steps": 3})  # an older toolkit's
    session.reserve(tmp_path / "r.npy", {"image": tmp_path / "a.png"})


def test_a_relative_path_counts_in_the_folder_that_the_record_names(tmp_path, monkeypatch):
    for project in "ab":
        (tmp_path / project / "faces").mkdir(parents=True)
        (tmp_path / project / "faces/me.png").write_bytes(project.encode())
    sources, shared = {"image": "faces/me.png"}, tmp_path / "shared/me.npy"

    def claim(folder, path="faces/me.png"):
        monkeypatch.chdir(folder)
        session.claim(shared, {"image": path})

    monkeypatch.chdir(tmp_path / "a")
    face.write(shared, torch.zeros(1, 6, 512), {"sources": session.origins(sources)})
    with pytest.raises(ValueError, match=f"holds the result of {tmp_path}/a/faces/me.png"):
        claim(tmp_path / "b")  # another person's photograph of that name
    (tmp_path / "a/faces/me.png").write_bytes(b"retouched")
    claim(tmp_path / "a")
    claim(tmp_path / "a/faces", "me.png")
    with pytest.raises(ValueError, match="holds the result of"):
        claim(tmp_path / "b")
    (tmp_path / "b/faces/me.png").write_bytes(b"a")
    claim(tmp_path / "b")  # the same photograph
    os.rename(tmp_path / "a", tmp_path / "moved")
    claim(tmp_path / "moved")  # and retouched


@pytest.mark.parametrize("content", ['{"sources": []}', '{"sources": {"image": 3}}', '{"sources": null}', "[]", "{", "{}"])
def test_absurd_records_claim_nothing(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    (tmp_path / "b.png").write_bytes(b"")
    session.claim(tmp_path / "a.npy", {"image": tmp_path / "b.png"})


def test_aligned_images_are_found_where_align_images_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="aligned_images or source_image here.*--src_dir"):
        session.aligned_folder()
    os.mkdir("source_image")
    assert str(session.aligned_folder()) == "source_image"
    (tmp_path / "source_image" / "a.png").write_bytes(b"")
    assert str(session.aligned_image("a.png")) == "source_image/a.png"
    os.mkdir("aligned_images")
    assert str(session.aligned_folder()) == "aligned_images" and str(session.aligned_folder("x")) == "x"
    (tmp_path / "b.png").write_bytes(b"")
    assert str(session.aligned_image("b.png")) == "b.png" and str(session.aligned_image("b.png", "aligned_images")) == "b.png"
    with pytest.raises(ValueError, match="neither in aligned_images nor in source_image nor as a path"):
        session.aligned_image("c.png")


def test_number_format_and_compiling_are_chosen_by_what_the_machine_has(monkeypatch):
    cpu = torch.device("cpu")
    for amx, avx512, side, best in ((0, 0, 1024, "float32"), (1, 0, 128, "bfloat16"), (0, 1, 1024, "bfloat16"), (0, 1, 128, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: bool(amx))
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx512=avx512: bool(avx512))
        assert session.dtype("auto", cpu, side) == getattr(torch, best)
    assert session.dtype("bf16", cpu) == torch.bfloat16
    monkeypatch.setattr(session.shutil, "which", lambda name: "/usr/bin/" + name)
    assert session.compiles("auto", cpu, torch.bfloat16, 1024, 1000)
    assert not session.compiles("auto", cpu, torch.bfloat16, 1024, 100) and not session.compiles("auto", cpu, torch.float32, 1024, 1000)
    assert session.compiles("on", cpu, torch.float32, 64, 1) and not session.compiles(
        "off", torch.device("cuda"), torch.bfloat16, 1024, 1000
    )
    monkeypatch.setattr(session.shutil, "which", lambda name: None)
    assert not session.compiles("auto", cpu, torch.bfloat16, 1024, 1000)


def test_a_damaged_vgg16_in_the_cache_is_one_line_that_says_what_to_remove(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints/vgg16-397923af.pth").write_bytes(b"cut")
    with pytest.raises(OSError, match="the file is cut or damaged.*--perceptual bundled, or remove what lies in") as error:
        session.load_distance("vgg16")
    assert str(tmp_path) in str(error.value)
