"""training/widen.py: each of its four steps, and the command."""

import pytest
import torch

from editor import checkpoints, images
from stylegan_layers import Config, Generator
from training import reconstruct, widen

SIZE = Config("stylegan2", 16, 256, 32, 2, z_dim=24, w_dim=24)


@pytest.fixture
def pair():
    """A small generator in training mode, and an encoder whose guesses lie along three directions of W."""
    torch.manual_seed(0)
    G = Generator(SIZE).requires_grad_(False)
    for name, value in G.synthesis.named_parameters():
        if name.endswith("affine.weight"):
            value *= 0.5
    encoder = reconstruct.new_encoder(G, checkpoints.BUNDLED["features"])
    few = torch.randn(24, 3) @ torch.randn(3, encoder.config.ranks[1])
    encoder.fc2.weight.data.copy_(0.02 * few.repeat(G.num_ws, 1))
    return G.train(), encoder.train()


def pictures(G, count=60):
    """Its own samples, uint8 [count, 3, 16, 16]."""
    with torch.no_grad():
        w = G.w_avg + 0.7 * torch.randn(count, 24, generator=torch.Generator().manual_seed(1))
        return ((widen.rendered(G, w).clamp(-1, 1) + 1) * 127.5).byte()


def used(w):
    """How many directions the latents [N, w_dim] lie along, as a sum of shares of the largest variance."""
    variances = torch.linalg.eigvalsh(torch.cov(w.T)).clamp(min=0)
    return (variances.sum() / variances.max()).item()


def test_the_derivative_foretells_a_small_change(pair):
    G, _ = pair
    slope, apart = widen.derivative(G), 0.05 * torch.randn(1, 24)
    with torch.no_grad():
        change = widen.small(widen.rendered(G, G.w_avg + apart)) - widen.small(widen.rendered(G, G.w_avg[None]))
    assert (change - apart @ slope).norm() < 0.15 * change.norm()


def test_latents_are_nearer_than_the_guess_and_in_more_directions(pair):
    G, encoder = pair
    x = pictures(G).float() / 127.5 - 1
    with torch.no_grad():
        guess = encoder(x).mean(1)
        features, w = widen.latents(G, encoder, x.split(25), widen.derivative(G))
        before, after = ((widen.rendered(G, latents) - x).square().mean() for latents in (guess, w))
    assert len(features) == len(w) == 60 and after < 0.5 * before and used(w) > 2 * used(guess)


def test_a_new_head_says_the_latents_it_is_given(pair):
    G, encoder = pair
    x = pictures(G).float() / 127.5 - 1
    slope = widen.derivative(G)
    features, _ = widen.latents(G, encoder, [x], slope)
    w = 3 + (features - features.mean(0)) @ torch.randn(features.shape[1], 24) / features.std() / features.shape[1] ** 0.5
    widen.new_head(encoder, features, w, slope)
    with torch.no_grad():
        said = encoder(x)
    assert torch.allclose(said, said[:, :1].expand_as(said), atol=1e-5)  # one w for all layers
    assert (said[:, 0] - w).square().sum() < 0.3 * (w - w.mean(0)).square().sum()


def test_a_head_of_few_photographs_can_learn_in_all_its_units(pair):
    G, encoder = pair
    x = pictures(G, 9).float() / 127.5 - 1
    slope = widen.derivative(G)
    widen.new_head(encoder, *widen.latents(G, encoder, [x], slope), slope)
    encoder.requires_grad_(True)(x).square().sum().backward()
    assert (encoder.fc2.weight.grad.abs().max(0).values > 0).all()


def test_a_stretched_w_draws_the_same_pictures(pair):
    G, encoder = pair
    encoder.fc2.bias.data.normal_()
    x = pictures(G).float() / 127.5 - 1
    with torch.no_grad():
        before, ws = G.synthesis(encoder(x), noise="none"), encoder(x)
        directions = widen.spread(G, encoder, ws.mean(1))
        after, stretched = G.synthesis(encoder(x), noise="none"), encoder(x)
    assert (after - before).abs().max() < 1e-4 * before.abs().max()
    assert directions == 3 and used(stretched.mean(1)) > 1.2 * used(ws.mean(1))
    assert torch.allclose(stretched.mean((0, 1)), G.w_avg, atol=1e-4) and torch.equal(encoder.w_avg, G.w_avg)


def test_the_command_writes_a_pair_that_knows_photographs_better(pair, tmp_path, capsys):
    G, encoder = pair
    for i, picture in enumerate(pictures(G)):
        images.save(tmp_path / "faces" / f"{i:02d}.png", picture.permute(1, 2, 0).numpy())
    generator_hash = checkpoints.save(tmp_path / "g.safetensors", G, alignment={"scale": 0.7, "em_scale": 0.4})
    checkpoints.save(tmp_path / "e.safetensors", encoder, generator_hash=generator_hash)
    words = [
        "--data",
        str(tmp_path / "faces"),
        "--generator",
        str(tmp_path / "g.safetensors"),
        "--encoder",
        str(tmp_path / "e.safetensors"),
    ]
    widen.main([*words, "--out", str(tmp_path / "wide"), "--images", "32", "--batch", "4"])
    said = capsys.readouterr()
    assert "directions of W are used" in said.err and said.out.splitlines()[-2:] == [
        str(tmp_path / "wide" / "generator.safetensors"), str(tmp_path / "wide" / "encoder.safetensors")]  # fmt: skip
    new = checkpoints.load_generator(tmp_path / "wide" / "generator.safetensors")
    assert new.meta["alignment"] == {"scale": 0.7, "em_scale": 0.4}
    guess, x = checkpoints.load_encoder(tmp_path / "wide" / "encoder.safetensors", new), pictures(G).float() / 127.5 - 1
    with torch.no_grad():
        before, after = (a.synthesis(b(x)).sub(x).square().mean() for a, b in ((G, encoder), (new, guess)))
    assert after < 0.9 * before
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").touch()
    (tmp_path / "file").touch()
    own = ["--generator", str(tmp_path / "wide" / "generator.safetensors"), "--encoder", str(tmp_path / "wide" / "encoder.safetensors")]
    for out, more, match in (("wide", own, "this run reads it"), ("run", [], "a training goes on"), ("file", [], "expected a folder"),
                             (checkpoints.BUNDLED["encoder"].parent, [], "comes with the project")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            widen.main([*words, *more, "--out", str(tmp_path / out)])
    before = (tmp_path / "wide" / "generator.safetensors").read_bytes()
    with pytest.raises(ValueError, match="safetensors: not written"):  # nor a generator without its encoder
        widen.main([*words, "--out", str(tmp_path / "wide"), "--images", "12", "--batch", "4", "--encoder_lr", "1e30", "--quiet"])
    assert (tmp_path / "wide" / "generator.safetensors").read_bytes() == before
    widen.main([*words, "--out", str(tmp_path / "few"), "--faces", "12", "--images", "0", "--quiet"])  # fewer than a code each
    assert (tmp_path / "few" / "encoder.safetensors").is_file()
    with pytest.raises(ValueError, match="--faces 9"):
        widen.main([*words, "--faces", "9"])


def test_only_a_stylegan2_is_widened(tmp_path):
    checkpoints.save(tmp_path / "g.safetensors", Generator(Config("stylegan1", 8, 64, 8, 2)))
    with pytest.raises(ValueError, match="a stylegan1; only a StyleGAN2"):
        widen.main(["--data", "x", "--generator", str(tmp_path / "g.safetensors")])
