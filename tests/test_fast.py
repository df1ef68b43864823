"""The hand-written backward passes of frozen layers give what autograd gives."""

import pytest
import torch

import stylegan_layers
from editor import fast_conv
from stylegan_layers import Config, Generator, noise_maps


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
@pytest.mark.parametrize("noise", ["const", "given", "each", "none"])
def test_gradients_of_frozen_layers_equal_autograds(kind, noise, monkeypatch):
    torch.manual_seed(0)
    G = Generator(Config(kind, 32, 512, 24, 2))
    for layer in G.synthesis.layers():
        layer.noise_strength.data.normal_()
        layer.bias.data.normal_()
    G.synthesis.b4.const.data.normal_()
    G.freeze()
    ws, weights = torch.randn(3, G.num_ws, 512, requires_grad=True), torch.randn(3, 3, 32, 32)
    maps, inputs = noise, [ws]
    if noise in ("given", "each"):  # one map for all images, or one for each
        maps = [torch.randn(3 if noise == "each" else 1, *m.shape[1:]) for m in noise_maps(G.synthesis.layers(), "const", ws)]
        inputs = [ws, *(m.requires_grad_() for m in maps)]

    def outcome():
        image = G.synthesis(ws, noise=maps)
        return [image.detach(), *torch.autograd.grad((image * weights).sum(), inputs)]

    quick = outcome()
    monkeypatch.setattr(stylegan_layers, "fast", lambda *_: False)
    for a, b in zip(quick, outcome(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=2e-5 * b.abs().max().item())


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
def test_low_memory_gives_the_same_gradients(kind):
    torch.manual_seed(0)
    G = Generator(Config(kind, 32, 512, 24, 2)).freeze()
    G.synthesis.b4.const.normal_()
    ws, weights = torch.randn(2, G.num_ws, 512, requires_grad=True), torch.randn(2, 3, 32, 32)

    def outcome(recompute_from):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            loss = (G.synthesis(ws, recompute_from=recompute_from) * weights).sum()
        return torch.autograd.grad(loss, ws)[0], sum(saved)

    (a, much), (b, little) = outcome(float("inf")), outcome(16)
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-6) and little < 0.8 * much


@pytest.mark.parametrize("side, channels", [(16, 128), (32, 160), (20, 128), (8, 128), (16, 24)])
def test_convolutions_of_frozen_weights_equal_pytorchs(side, channels):
    torch.manual_seed(0)
    x, g = torch.randn(2, channels, side, side, requires_grad=True), torch.randn(2, 144, side, side)
    weight, bias = torch.randn(144, channels, 3, 3), torch.randn(144)
    kernels = fast_conv.transformed(weight)
    assert (kernels is None) == (channels < 128)
    wanted = torch.nn.functional.conv2d(x, weight, bias, padding=1)
    (wanted_gradient,) = torch.autograd.grad(wanted, x, g)
    found = fast_conv.conv(x, weight, bias, kernels)
    (gradient,) = torch.autograd.grad(found, x, g)
    assert (found - wanted).abs().max() < 1e-4 * wanted.std() and (gradient - wanted_gradient).abs().max() < 1e-4 * wanted_gradient.std()
    with torch.no_grad():  # pictures come from PyTorch's convolution (where maps are small, of each image), to the bit
        if side <= fast_conv.ALONE_UP_TO:
            wanted = torch.cat([torch.nn.functional.conv2d(one[None], weight, bias, padding=1) for one in x])
        assert torch.equal(fast_conv.conv(x, weight, bias, kernels), wanted)


def test_what_else_is_in_a_batch_is_not_seen(monkeypatch):
    x, sizes = torch.randn(5, 3, 8, 8), []
    doubled = fast_conv.alone(lambda a, b: sizes.append(len(a)) or a + b, x, x)
    assert sizes == [1] * 5 and torch.equal(doubled, 2 * x)
    fast_conv.alone(lambda a: sizes.append(len(a)) or a, torch.randn(5, 3, 64, 64))
    assert sizes[5:] == [5]
    x, weight, bias, linear = torch.randn(11, 7), torch.randn(4, 7), torch.randn(4), torch.nn.functional.linear
    monkeypatch.setattr(fast_conv.F, "linear", lambda x, *more: sizes.append(len(x)) or linear(x, *more))
    assert torch.allclose(fast_conv.rows(x, weight, bias), x @ weight.t() + bias, atol=1e-5)
    assert sizes[6:] == [16]


def test_up_convolution_and_blur_equal_pytorchs():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 12, 10, 14, dtype=torch.double, requires_grad=True), torch.randn(12, 6, 4, 4, dtype=torch.double)
    kernel = torch.randn(3, 3, dtype=torch.double)
    kernel = kernel + kernel.flip(0, 1)
    pairs = [
        (
            fast_conv.UpConv.apply(x, weight, fast_conv.phases_of(weight), 1),
            torch.nn.functional.conv_transpose2d(x, weight, stride=2, padding=1),
        ),
        (fast_conv.UpConv.apply(x, weight[..., 1:, 1:], None, 0), torch.nn.functional.conv_transpose2d(x, weight[..., 1:, 1:], stride=2)),
        (fast_conv.Blur.apply(x, kernel, None, 1), stylegan_layers.F.conv2d(x, kernel.expand(12, 1, 3, 3), padding=1, groups=12)),
    ]
    for found, wanted in pairs:
        g = torch.randn_like(wanted)
        assert torch.allclose(found, wanted) and torch.allclose(torch.autograd.grad(found, x, g)[0], torch.autograd.grad(wanted, x, g)[0])


def test_a_frozen_convolution_follows_its_weights():
    torch.manual_seed(0)
    layer, x = fast_conv.Conv3(128, 128).requires_grad_(False), torch.randn(1, 128, 16, 16, requires_grad=True)
    before = layer(x)
    layer.load_state_dict({k: 2 * v for k, v in layer.state_dict().items()})
    assert torch.allclose(layer(x), 2 * before, atol=1e-5)
    layer.double()
    assert torch.allclose(layer(x.double()).float(), 2 * before, atol=1e-3)
