"""Generators with classes: --class N of the commands, and what is drawn where none is asked for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import encode_image
import facial_exchange
import generate
import image_crossover
import local_edit
from editor import checkpoints, classes, face, images, projection, tuning
from stylegan_layers import Config, Generator

FAST = ["--device", "cpu", "--precision", "fp32", "--quiet"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A checkpoint of side 16 with ten classes that matter."""
    torch.manual_seed(0)
    G = Generator(Config("stylegan2", 16, channel_base=128, mapping_layers=2, z_dim=32, c_dim=10))
    with torch.no_grad():
        G.w_avg.copy_(torch.cat([G.mapping(torch.randn(200, 32), torch.eye(10)[[i]]) for i in range(10)]).mean(0))
    checkpoints.save(tmp_path_factory.mktemp("classes") / "ten.safetensors", G, perceptual="none")
    return tmp_path_factory.getbasetemp() / "classes0" / "ten.safetensors"


@pytest.fixture
def ten(file):
    """Its generator, of no class yet."""
    return checkpoints.load_generator(file)


def w_of(G, z, number):
    with torch.no_grad():
        return G.mapping(z, torch.eye(10)[[number]])


def test_generate_draws_the_class_and_the_record_says_it(tmp_path, monkeypatch, file, ten):
    monkeypatch.chdir(tmp_path)
    for number in (3, 9):
        assert generate.main([*FAST, "--weight_file", str(file), "--seeds", "0-1", "--class", str(number), "--out_dir", f"of{number}"]) == 0
        for seed in (0, 1):
            found = face.read_one(f"of{number}/seed000{seed}.npy", ten)
            z = torch.from_numpy(np.random.RandomState(seed).randn(1, 32)).float()
            assert torch.equal(found.ws, w_of(ten, z, number)[:, None].expand(-1, ten.num_ws, -1))
            assert found.info["class"] == number and found.info["settings"]["class"] == number
    assert not np.array_equal(np.load("of3/seed0000.npy"), np.load("of9/seed0000.npy"))
    with pytest.raises(ValueError, match="seed 0 with other settings"):
        generate.main([*FAST, "--weight_file", str(file), "--seeds", "0", "--class", "4", "--out_dir", "of3"])


def test_a_class_is_asked_for_in_one_line(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    words = [*FAST, "--weight_file", str(file), "--seeds", "0"]
    with pytest.raises(ValueError, match="this generator has 10 classes: --class 0 to 9"):
        generate.main(words)
    with pytest.raises(ValueError, match="--class 10: this generator has 10 classes: --class 0 to 9"):
        generate.main([*words, "--class", "10"])
    with pytest.raises(ValueError, match="--class 0: this generator has no classes"):
        generate.main([*FAST, "--seeds", "0", "--class", "0"])
    for bad in ("-1", "cat"):
        with pytest.raises(SystemExit):
            generate.main([*words, "--class", bad])
    assert not Path("save_image").exists()


def test_encode_begins_with_the_class(tmp_path, monkeypatch, file, ten):
    monkeypatch.chdir(tmp_path)
    images.save(tmp_path / "in/a.png", torch.zeros(1, 3, 16, 16))
    words = [*FAST, "--weight_file", str(file), "--src_dir", "in", "--iteration", "0", "--w_iteration", "0", "--tune", "0"]
    words += ["--compile", "off", "--perceptual", "none", "--redo"]

    def found(*more):
        assert encode_image.main([*words, *more]) == 0
        assert json.loads(Path("latent_W/a.json").read_text()).get("class") == (int(more[-1]) if "--class" in more else None)
        return torch.from_numpy(np.load("latent_W/a.npy"))[:, 0]

    z = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    for number in (2, 7):
        assert torch.equal(found("--init", "z", "--class", str(number)), w_of(ten, z, number))
    many = torch.randn(4096, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(found("--init", "mean", "--class", "2"), w_of(ten, many, 2).mean(0), atol=1e-5)
    assert torch.equal(found("--init", "mean")[0], ten.w_avg)  # of all classes
    assert not torch.allclose(found("--space", "z", "--class", "2"), found("--space", "z", "--class", "3"))
    for draws in (["--init", "z"], ["--space", "z"]):
        with pytest.raises(ValueError, match="10 classes: --class 0 to 9"):
            encode_image.main([*words, *draws])


def test_another_class_is_another_result(tmp_path, monkeypatch, file, capsys):
    """What was done for a class is skipped for this class only."""
    monkeypatch.chdir(tmp_path)
    images.save(tmp_path / "in/a.png", torch.zeros(1, 3, 16, 16))
    words = ["--device", "cpu", "--weight_file", str(file), "--src_dir", "in", "--iteration", "0", "--w_iteration", "0", "--tune", "0"]
    words += ["--compile", "off", "--perceptual", "none", "--init", "z"]
    seen = []
    for number in ("2", "2", "5"):
        assert encode_image.main([*words, "--class", number]) == 0
        seen.append(Path("latent_W/a.npy").stat().st_mtime_ns)
    assert seen[0] == seen[1] != seen[2]


def test_what_is_drawn_of_no_class_is_drawn_of_all_evenly(ten):
    z = torch.randn(5000, 32, generator=torch.Generator().manual_seed(1))
    w = classes.latents(ten, z)
    each = torch.stack([w_of(ten, z, number) for number in range(10)], 1)  # [N, 10, 512]
    which = (each - w[:, None]).norm(dim=2).argmin(1)
    assert torch.allclose(each[torch.arange(5000), which], w, atol=1e-5)
    assert 400 < which.bincount(minlength=10).min() and which.bincount().max() < 600
    assert abs(np.corrcoef(which.numpy(), z[:, 0].numpy())[0, 1]) < 0.05
    assert torch.allclose(classes.latents(ten, z[4:5])[0], w[4], atol=1e-5)  # alone as in company
    usual = tuning.usual_distance(ten)
    classes.choose(ten, 3)
    assert torch.allclose(classes.latents(ten, z), each[:, 3], atol=1e-5) and torch.equal(classes.latents(ten, z, evenly=True), w)
    tuning.usual_distance.cache_clear()
    assert tuning.usual_distance(ten) == usual


def test_the_prior_is_that_of_the_class(ten):
    def at(number, of):
        z = torch.randn(500, 32, generator=torch.Generator().manual_seed(2))
        classes.choose(ten, of)
        return projection.Prior(ten, "cpu")(w_of(ten, z, number)[:, None]).mean().item()

    own, other = at(3, 3), at(8, 3)
    assert own < 1.5 and 2 * own < other and at(8, None) < other


@pytest.mark.parametrize(
    "command, words",
    [
        (image_crossover, ["--src_im1", "a.png", "--src_im2", "b.png"]),
        (facial_exchange, ["--src_im1", "a.png", "--src_im2", "b.png"]),
        (local_edit, ["style", "--latent_file", "a.npy", "--style_im", "b.png", "--mask", "box:0,0,1,1"]),
    ],
)
def test_commands_that_embed_take_it(tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--class 2: this generator has no classes"):
        command.main([*words, *FAST, "--class", "2"])
