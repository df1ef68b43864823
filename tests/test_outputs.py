"""What training commands may replace, and that they say so before the work."""

import numpy as np
import pytest
import torch

from editor import checkpoints
from stylegan3_layers import Config3, Generator3
from stylegan_layers import Config, Discriminator, Generator
from training import grow, make_boundaries, measure, outputs, reconstruct, train_encoder, train_generator, widen


def test_a_network_that_diverged_is_not_written():
    G = Generator(Config("stylegan2", 8, 64, 8))
    outputs.require_finite("g.safetensors", G)
    for wrong in (float("nan"), 1e6):  # which float16 does not hold
        G.synthesis.b4.conv1.bias.data.fill_(wrong)
        with pytest.raises(ValueError, match="g.safetensors: not written: synthesis.b4.conv1.bias holds NaN"):
            outputs.require_finite("g.safetensors", G)


def test_a_generator_that_cannot_be_trained_is_one_line(tmp_path):
    checkpoints.save(tmp_path / "classes.safetensors", Generator(Config("stylegan2", 8, 64, 8, c_dim=3)))
    checkpoints.save(tmp_path / "d.safetensors", Discriminator(Config("stylegan2", 8, 64, 8)))
    size = Config3("stylegan3", 16, 512, 32, num_layers=6, num_critical=1)
    checkpoints.save(tmp_path / "three.safetensors", Generator3(size))
    out, G = ["--data", "x", "--out"], str(tmp_path / "classes.safetensors")
    with pytest.raises(ValueError, match="classes, which training does not know"):
        grow.main([*out, str(tmp_path / "out"), "--generator", G, "--discriminator", str(tmp_path / "d.safetensors")])
    for command in (widen, measure, train_encoder):
        with pytest.raises(ValueError, match="classes, which training does not know"):
            command.main([*out, str(tmp_path / "out"), "--generator", G])
    args = train_generator.flags().parse_args(["--data", "x", "--init", G])
    with pytest.raises(ValueError, match="classes, which training does not know"):
        train_generator.networks(args)
    args.init = str(tmp_path / "three.safetensors")
    with pytest.raises(ValueError, match="three.safetensors: a StyleGAN3; StyleGAN1 and StyleGAN2 are trained here"):
        train_generator.networks(args)


def test_boundaries_that_cannot_be_written_are_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(make_boundaries, "scored_faces", None)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        make_boundaries.main(["--out", str(tmp_path / "file" / "out")])


def test_networks_grow_together_or_not_at_all(tmp_path):
    checkpoints.save(tmp_path / "g.safetensors", Generator(Config("stylegan2", 8, 64, 8)))
    checkpoints.save(tmp_path / "discriminator.safetensors", Discriminator(Config("stylegan2", 16, 128, 16)))
    words = ["--discriminator", str(tmp_path / "discriminator.safetensors"), "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="pictures of side 16; the generator's is 8"):
        grow.main([*words, "--generator", str(tmp_path / "g.safetensors"), "--data", "x"])
    with pytest.raises(ValueError, match="this run reads it"):
        grow.main([*words, "--channel_base_d", "256", "--out", str(tmp_path)])


def test_measure_sees_to_its_files_before_its_samples(tmp_path):
    checkpoints.save(tmp_path / "g.safetensors", Generator(Config("stylegan2", 8, 64, 8)), perceptual="bundled")
    words = ["--data", "none", "--generator", str(tmp_path / "g.safetensors"), "--out"]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="ends in .json"):
        measure.main([*words, str(tmp_path / "g.safetensors")])
    with pytest.raises(OSError, match="Not a directory"):
        measure.main([*words, str(tmp_path / "file" / "m.json")])
    with pytest.raises(ValueError, match="another generator"):
        measure.main([*words, str(tmp_path / "m.json"), "--inversion", "1", "--starts", "w+ encoder"])


def test_scored_faces_that_are_damaged_are_named(tmp_path):
    for content in (b"PK", b"", b"text"):
        (tmp_path / "0000.npz").write_bytes(content)
        with pytest.raises(ValueError, match="0000.npz: damaged; remove it"):
            make_boundaries.scored_faces(None, None, 5, 0.7, 0, tmp_path, None)
    np.savez(tmp_path / "0000.npz", w=np.zeros((5, 8)))
    with pytest.raises(ValueError, match="0000.npz: damaged; remove it"):
        make_boundaries.scored_faces(None, None, 5, 0.7, 0, tmp_path, None)


def test_one_picture_has_no_spread_to_fit():
    with pytest.raises(ValueError, match="one picture says nothing"):
        reconstruct.fit_mapping(None, None, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
