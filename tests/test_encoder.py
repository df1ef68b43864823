"""The learned start: the bundled encoder, its checkpoint, and training one for another generator."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import align_images
import encode_image
from editor import checkpoints, images, projection, render, settings
from stylegan_layers import Config, Generator
from training import train_encoder


@pytest.fixture(scope="module")
def made(G):
    z = torch.randn(2, G.config.z_dim, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return G(z, truncation_psi=1.0).clamp(-1, 1)


def test_the_bundled_encoder_beats_the_mean_latent(G, made):
    encoder = checkpoints.load_encoder(checkpoints.BUNDLED["encoder"], G)
    with torch.no_grad():
        guess, mean = G.synthesis(encoder(made)), G.synthesis(G.w_avg.expand(2, G.num_ws, -1))
    assert (render.psnr(guess.clamp(-1, 1), made) > render.psnr(mean.clamp(-1, 1), made) + 2).all()


def test_it_is_the_default_start_and_shortens_the_way(tmp_path):
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "a.png")
    align_images.main([str(tmp_path / "a.png"), str(tmp_path), "--quiet"])
    words = [
        "--src_im",
        str(tmp_path / "a_01.png"),
        *("--preset", "exact", "--iteration"),
        "10",
        "--latent_dir",
        str(tmp_path / "w"),
        "--save_dir",
        str(tmp_path / "out"),
    ]
    losses = {}
    for init, flag in (("encoder", []), ("mean", ["--init", "mean"])):
        assert not encode_image.main([*words, *flag, "--quiet"])
        said = json.loads((tmp_path / "w" / "a_01.json").read_text())
        assert said["settings"]["init"] == init
        losses[init] = said["loss"]
    assert losses["encoder"] < 0.9 * losses["mean"]


def test_another_generators_encoder_is_refused(G, tmp_path):
    other = Generator(Config("stylegan2", 16, 128, 16, 2, 512, 512)).freeze()
    checkpoints.save(tmp_path / "g.safetensors", other)
    with pytest.raises(ValueError, match="another generator"):
        checkpoints.load_encoder(checkpoints.BUNDLED["encoder"], checkpoints.load_generator(tmp_path / "g.safetensors"))
    with pytest.raises(ValueError, match="no encoder"):
        checkpoints.load_encoder(tmp_path / "g.safetensors", G)


def test_one_is_trained_for_any_generator_and_goes_on_where_it_stopped(tmp_path, capsys):
    torch.manual_seed(0)
    checkpoints.save(tmp_path / "g.safetensors", Generator(Config("stylegan2", 16, 128, 16, 2)))
    (tmp_path / "faces").mkdir()
    for i, value in enumerate(np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)):
        images.save(tmp_path / "faces" / f"{i}.png", value)
    words = ["--data", str(tmp_path / "faces"), "--generator", str(tmp_path / "g.safetensors"), "--out", str(tmp_path / "e.safetensors"),
             "--state", str(tmp_path / "state.pt"), "--batch", "2"]  # fmt: skip
    train_encoder.main([*words, "--steps", "100"])
    capsys.readouterr()
    train_encoder.main([*words, "--steps", "101"])
    assert '"step": 100' not in capsys.readouterr().out  # went on from 100
    G = checkpoints.load_generator(tmp_path / "g.safetensors")
    ws = checkpoints.load_encoder(tmp_path / "e.safetensors", G)(torch.zeros(3, 3, 16, 16))
    assert ws.shape == (3, G.num_ws, 512) and ws.isfinite().all()
    found = projection.project(G, None, torch.zeros(3, 3, 16, 16), settings.Config(iteration=2, init=ws))
    assert found.loss.isfinite().all()

    for other in (["--seed", "1"], ["--init", str(tmp_path / "e.safetensors"), "--out", str(tmp_path / "e2.safetensors")]):
        with pytest.raises(ValueError, match=f"state.pt: .* of a run with another {other[0]};"):
            train_encoder.main([*words, *other])
    images.save(tmp_path / "faces" / "0.png", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="state.pt: .* of a run with another --data;"):
        train_encoder.main(words)
    before = (tmp_path / "e.safetensors").read_bytes()
    with pytest.raises(ValueError, match="e.safetensors: not written"):
        train_encoder.main([*words, "--steps", "3", "--lr", "1e30", "--state", str(tmp_path / "diverged.pt")])
    assert (tmp_path / "e.safetensors").read_bytes() == before
    path = tmp_path / "state.pt"
    state = torch.load(path, weights_only=True)
    assert state.pop("run")  # as states of older versions are
    assert state["generator_hash"] == G.meta["hash"]
    for wrong, match in ((b"", "cannot go on"), (state | {"generator_hash": "x"}, "another generator"), ({"encoder": {}}, "cannot go on")):
        path.write_bytes(wrong) if wrong == b"" else torch.save(wrong, path)
        with pytest.raises(ValueError, match=f"state.pt: .*{match}"):
            train_encoder.main([*words, "--steps", "102"])


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    torch.manual_seed(0)
    checkpoints.save(tmp_path / "g.safetensors", Generator(Config("stylegan2", 16, 128, 16, 2)))
    for i, value in enumerate(np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)):
        images.save(tmp_path / "faces" / f"{i}.png", value)
    monkeypatch.setattr(train_encoder, "EVERY", 3)
    save, stops = train_encoder.resume.save, []

    def stopped(path, state):
        save(path, state)
        if path in stops:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_encoder.resume, "save", stopped)

    def train(name):
        paths = {"data": "faces", "generator": "g.safetensors", "out": "e.safetensors", "state": name}
        words = [part for flag, path in paths.items() for part in (f"--{flag}", str(tmp_path / path))]
        train_encoder.main([*words, "--steps", "6", "--batch", "2", "--quiet"])

    train("whole.pt")
    stops.append(str(tmp_path / "parts.pt"))
    with pytest.raises(KeyboardInterrupt):
        train("parts.pt")
    stops.clear()
    train("parts.pt")
    whole, parts = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "parts.pt"))
    assert whole["step"] == 6 and all(whole.pop(what) == parts.pop(what) for what in ("generator_hash", "run"))
    torch.testing.assert_close(whole, parts, rtol=0, atol=0)


@pytest.mark.parametrize("flag", ["--steps 0", "--batch 0", "--lr -1", "--seed -1"])
def test_senseless_settings_are_refused(flag):
    with pytest.raises(ValueError, match=f"{flag}[.0]*: expected"):
        train_encoder.main(["--data", "x", *flag.split()])


def test_a_tenth_of_the_pictures_must_be_there_to_hold_out(tmp_path, G):
    images.save(tmp_path / "one.png", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="1 pictures; give 10 or more"):
        train_encoder.main(["--data", str(tmp_path)])


def test_what_may_not_be_replaced_is_known_before_the_work(tmp_path, capsys):
    G, e = Generator(Config("stylegan2", 8, 64, 8, 2)), tmp_path / "e.safetensors"
    checkpoints.save(tmp_path / "g.safetensors", G)
    words = ["--data", "none", "--generator", str(tmp_path / "g.safetensors")]
    (tmp_path / "a folder.safetensors").mkdir()
    for out, match in ((tmp_path / "g.safetensors", "this run reads it"), (tmp_path / "e.png", "ends in .safetensors"),
                       (tmp_path / "a folder.safetensors", "folder"), (checkpoints.BUNDLED["encoder"], "for its own generator"),
                       (checkpoints.BUNDLED["attributes"], "holds attributes, not encoder")):  # fmt: skip
        with pytest.raises((ValueError, OSError), match=match):
            train_encoder.main([*words, "--out", str(out)])
    with pytest.raises(ValueError, match="call it s.pt"):
        train_encoder.main([*words, "--out", str(e), "--state", str(tmp_path / "s.png")])


def test_an_encoder_is_pulled_to_the_mean_latent_alike_in_a_w_of_any_scale():
    """The bundled W was stretched: with a pull in its own units, photographs came out three quarters as far from the mean."""
    made = torch.zeros(2, 3, 8, 8)

    def loss(scale):
        G = SimpleNamespace(w_avg=torch.ones(4), synthesis=lambda ws: made)
        ws = 1 + scale * torch.arange(2 * 3 * 4.0).view(2, 3, 4)
        return train_encoder.reconstruction_loss(G, lambda x: ws, lambda a, b: torch.zeros(2), made, spread=scale)

    assert loss(1.0) > 0
    torch.testing.assert_close(loss(1.0), loss(7.0))
