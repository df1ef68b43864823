import dataclasses

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from editor import checkpoints
from stylegan_layers import Config, Conv2, Discriminator, Generator, StyledConv2, ToRGB2, minibatch_stddev, upsample


def small(kind, resolution, layers=2):
    torch.manual_seed(0)
    return Config(kind, resolution, channel_base=max(512, 4 * resolution), channel_max=16, mapping_layers=layers, z_dim=32, w_dim=32)


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
@pytest.mark.parametrize("resolution", [4, 8, 64, 256, 1024])
def test_shapes_at_every_resolution(kind, resolution):
    c = small(kind, resolution, layers=8 if resolution == 8 else 2)
    G, D = Generator(c).freeze(), Discriminator(c)
    with torch.no_grad():
        image = G(torch.randn(1, 32), truncation_psi=0.7, truncation_cutoff=8)
        assert image.shape == (1, 3, resolution, resolution) and image.isfinite().all()
        assert D(image).shape == (1, 1)
    assert G.num_ws == 2 * (resolution.bit_length() - 1) - 2


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
def test_freezing_changes_nothing_and_training_goes_on(kind):
    G = Generator(small(kind, 128))
    z = torch.randn(2, 32)
    before = G(z)
    assert torch.allclose(G.freeze()(z), before, atol=1e-4)  # frozen layers round differently
    G.train().requires_grad_(True)
    G(z).square().mean().backward()
    assert all(p.grad is not None for n, p in G.named_parameters())
    with torch.no_grad():
        for p in G.parameters():
            p.add_(0.1)
    assert not torch.allclose(G(z), before)


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
def test_noise_modes(kind):
    G = Generator(small(kind, 16)).freeze()
    for layer in G.synthesis.layers():
        layer.noise_strength.fill_(0.5)
    G.freeze()
    ws = torch.randn(2, G.num_ws, 32)
    const, none = G.synthesis(ws), G.synthesis(ws, "none")
    assert torch.equal(const, G.synthesis(ws)) and not torch.allclose(const, none)
    maps = [layer.noise_const[None, None] for layer in G.synthesis.layers()]
    assert torch.equal(const, G.synthesis(ws, maps))
    assert not torch.equal(G.synthesis(ws, "random"), G.synthesis(ws, "random"))
    with pytest.raises(ValueError, match="noise maps"):
        G.synthesis(ws, maps[:-1])
    with pytest.raises(ValueError, match="takes"):
        G.synthesis(ws[:, 1:])


def test_upsampling_is_zero_insertion_and_a_filter():
    x = np.random.RandomState(0).randn(5, 5)
    zeros = np.zeros((10, 10))
    zeros[::2, ::2] = x
    k = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16
    expected = convolve2d(zeros, k)[1:-2, 1:-2]
    got = upsample(torch.from_numpy(x)[None, None])[0, 0].numpy()
    assert np.abs(got - expected).max() < 1e-12


def test_minibatch_stddev_groups_strided_images():
    x = torch.randn(8, 2, 4, 4)
    got = minibatch_stddev(x)[:, 2, 0, 0]
    for i in range(2):
        group = x[i::2]
        expected = (group.var(0, unbiased=False) + 1e-8).sqrt().mean()
        assert torch.allclose(got[i::2], expected.expand(4))


def test_truncation_moves_the_first_layers_only():
    G = Generator(small("stylegan2", 16))
    G.w_avg.normal_()
    w = torch.randn(2, 32)
    each = torch.randn(2, G.num_ws, 32)
    for given in (w, each):
        whole = given[:, None].expand(2, G.num_ws, 32) if given is w else given
        ws = G.truncate(given, 0.25, cutoff=3)
        assert torch.allclose(ws[:, :3], 0.75 * G.w_avg + 0.25 * whole[:, :3], atol=1e-6)
        assert torch.allclose(ws[:, 3:], whole[:, 3:], atol=1e-6)
        assert torch.allclose(G.truncate(given, 0.0), G.w_avg.expand(2, G.num_ws, 32), atol=1e-6)
        assert torch.equal(G.truncate(given), whole)
    z = torch.randn(1, 32)
    assert torch.allclose(G(z, truncation_psi=0.0), G.synthesis(G.w_avg.expand(1, G.num_ws, 32)), atol=1e-4)
    assert not torch.allclose(G(z, truncation_psi=0.0), G(z), atol=1e-2)


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
def test_a_frozen_network_follows_new_weights(kind):
    """Loading weights drops what `freeze()` kept, moving to another number format carries it along."""
    first, second = Generator(small(kind, 32)), Generator(small(kind, 32))
    with torch.no_grad():
        for p in second.parameters():
            p.mul_(1.5).add_(0.1)
    second.synthesis.load_state_dict({k: v for k, v in first.synthesis.state_dict().items() if "noise_const" in k}, strict=False)
    z = torch.randn(2, 32)
    old, new = first(z).detach(), second(z).detach()
    assert not torch.allclose(old, new, atol=1e-2)
    first.freeze()
    assert torch.allclose(first(z), old, atol=1e-4)
    first.load_state_dict(second.state_dict())
    assert torch.allclose(first(z), new, atol=1e-4 * new.abs().max().item())
    first.freeze().double()
    ws = first.truncate(first.mapping(z.double()))
    assert torch.allclose(first.synthesis(ws, dtype=torch.float64).float(), new, atol=1e-4 * new.abs().max().item())


@pytest.mark.parametrize("frozen", [False, True])
def test_activations_are_clamped(frozen):
    """StyleGAN2-ADA's conv_clamp: each layer's output, in the discriminator times the layer's gain; its skip is not clamped."""
    c, largest = dataclasses.replace(small("stylegan2", 16), conv_clamp=0.25), {}
    G, D = Generator(c), Discriminator(c)
    for network in (G, D):
        for name, layer in network.named_modules():
            if isinstance(layer, StyledConv2 | ToRGB2 | Conv2):
                layer.register_forward_hook(lambda layer, _, y, name=name: largest.update({name: y.abs().max().item()}))
                if layer.bias is not None:
                    layer.bias.data.normal_(std=3)
        if frozen:
            network.freeze()
    G(torch.randn(2, 32))
    D(torch.randn(2, 3, 16, 16) * 9)
    skips, halved = [largest.pop(f"b{r}.skip") for r in (16, 8)], [largest.pop(f"b{r}.conv1") for r in (16, 8)]
    assert min(skips) > 0.25 and halved == pytest.approx([0.25 * 0.5**0.5] * 2)
    assert len(largest) == 12 and list(largest.values()) == pytest.approx([0.25] * 12)


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
@pytest.mark.parametrize("half", [False, True])
def test_checkpoint_round_trip(tmp_path, kind, half):
    G = Generator(small(kind, 32))
    D = Discriminator(small(kind, 32))
    checkpoints.save(tmp_path / "g.safetensors", G, half=half, alignment={"scale": 1.0, "em_scale": 0.1}, license="CC0")
    checkpoints.save(tmp_path / "d.safetensors", D)
    z = torch.randn(2, 32)
    loaded = checkpoints.load_generator(tmp_path / "g.safetensors")
    assert loaded.config == G.config and loaded.meta["alignment"] == {"scale": 1.0, "em_scale": 0.1}
    assert torch.allclose(loaded(z), G(z), atol=0.05 if half else 1e-4)
    assert torch.equal(checkpoints.load_discriminator(tmp_path / "d.safetensors")(G(z)), D(G(z)))
    with pytest.raises(ValueError, match="no generator"):
        checkpoints.load_generator(tmp_path / "d.safetensors")


def test_files_that_are_no_checkpoint(tmp_path):
    for name, content, message in [
        ("a.pkl", b"\x80\x02.", "weight_convert"),
        ("b.safetensors", b"", "empty"),
        ("c.safetensors", b"<html>" * 9, "not a readable"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            checkpoints.load_generator(tmp_path / name)
    with pytest.raises(ValueError, match="no such file"):
        checkpoints.load_generator(tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match="python weight_convert.py stylegan1-ffhq-1024"):
        checkpoints.load_generator("stylegan1-ffhq-1024")


def test_a_checkpoint_whose_first_byte_is_a_pickles_is_still_ours(tmp_path):
    G, path, seen = Generator(Config("stylegan2", 8, 64, 8, 2)), tmp_path / "g.safetensors", set()
    for padding in range(0, 264, 8):  # the file begins with its header's length
        checkpoints.save(path, G, source="x" * padding)
        seen.add(path.read_bytes()[0])
        assert checkpoints.read_metadata(path)["source"] == "x" * padding
    assert 0x80 in seen


def mapped(values, z, c, depth):
    """The conditional mapping network of StyleGAN2-ADA, written out: float64 z [N, Z], c [N, C] -> w [N, W]."""
    values = {name: value.double().numpy() for name, value in values.items()}
    y = c @ values["embed.weight"].T / np.sqrt(c.shape[1]) + values["embed.bias"]
    x = np.concatenate([v / np.sqrt(np.mean(v**2, axis=1, keepdims=True) + 1e-8) for v in (z, y)], axis=1)
    for i in range(depth):
        weight, bias = values[f"fc{i}.weight"], values[f"fc{i}.bias"]
        x = x @ weight.T * (0.01 / np.sqrt(x.shape[1])) + bias * 0.01
        x = np.where(x < 0, 0.2 * x, x) * np.sqrt(2)
    return x


def test_a_class_is_embedded_and_joined_to_z(tmp_path):
    G = Generator(dataclasses.replace(small("stylegan2", 16), z_dim=24, c_dim=10))
    with torch.no_grad():
        for name, value in G.mapping.named_parameters():  # biases begin at 0, and would hide a mistake
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))) / (1 if "embed" in name else 0.01))
    assert G.mapping.embed.weight.shape == (32, 10) and G.mapping.fc0.weight.shape == (32, 24 + 32)
    z, c = torch.randn(3, 24), torch.eye(10)[[3, 0, 9]]
    want = mapped(G.mapping.state_dict(), z.double().numpy(), c.double().numpy(), 2)
    checkpoints.save(tmp_path / "c.safetensors", G)
    for net in (G, G.freeze(), checkpoints.load_generator(tmp_path / "c.safetensors")):
        assert np.allclose(net.mapping(z, c).detach(), want, rtol=1e-4, atol=1e-4 * want.std())
    assert torch.allclose(G.mapping(z, c[:1])[0], G.mapping(z, c)[0]) and not torch.allclose(G.mapping(z, c[:1])[1], G.mapping(z, c)[1])
    with torch.no_grad():
        assert torch.equal(G(z, 0.7, 2, "none", c), G.synthesis(G.truncate(G.mapping(z, c), 0.7, 2), "none"))


def test_a_class_is_given_where_there_are_classes_and_nowhere_else():
    one, none = Generator(dataclasses.replace(small("stylegan2", 8), c_dim=10)), Generator(small("stylegan2", 8))
    for wrong in (None, torch.eye(10)[0], torch.eye(9)[:2], torch.eye(10)[:, None]):
        with pytest.raises(ValueError, match=r"this generator takes classes \[N, 10\]"):
            one(torch.randn(2, 32), c=wrong)
    with pytest.raises(ValueError, match="has no classes"):
        none(torch.randn(2, 32), c=torch.eye(10)[:2])
    for bad in (-1, True, 1.0, 9000):
        with pytest.raises(ValueError, match="c_dim .* from 0 to 8192"):
            dataclasses.replace(one.config, c_dim=bad)
    with pytest.raises(ValueError, match="c_dim 3.* 0 in StyleGAN1"):
        Config("stylegan1", 8, 512, c_dim=3)
    with pytest.raises(ValueError, match="a discriminator of 10 classes"):
        Discriminator(one.config)


def test_a_file_without_classes_is_as_it_was(tmp_path):
    """Records name generators by their hash, which a new setting at its default must not change."""
    checkpoints.save(tmp_path / "a.safetensors", Generator(small("stylegan2", 8)))
    assert "c_dim" not in checkpoints.read_metadata(tmp_path / "a.safetensors")["config"]
