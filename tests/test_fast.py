"""The fast ways of frozen layers (editor/fast_conv.py) give what the plain ones give: outputs, and gradients by autograd."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from editor import fast_conv
from stylegan_layers import Config, Dense, Generator, Pointwise1, StyledConv1, StyledConv2, noise_maps


def both_ways(monkeypatch, outcome):
    """What `outcome()` returns, by the fast way and by the plain one; the fast one was really taken, and only there."""
    taken, usable = [], fast_conv.usable
    monkeypatch.setattr(fast_conv, "usable", lambda layer, x: taken.append(layer) or usable(layer, x))
    fast = outcome()
    assert taken and all(layer.frozen is not None for layer in taken)
    monkeypatch.setattr(fast_conv, "usable", lambda *_: False)
    for name in ("styled1", "styled2", "conv", "linear"):
        monkeypatch.setattr(fast_conv, name, None)
    return fast, outcome()


def close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() <= 1e-4 * b.abs().max()  # float32: sums of some thousand terms in another order
    return True


@pytest.mark.parametrize("noise", ["none", "one", "each"])
@pytest.mark.parametrize("kind, up, clamp", [(1, False, None), (1, True, None), (1, None, None), (2, False, None), (2, True, None),
                                             (2, False, 0.5), (2, True, 0.5)])  # fmt: skip
def test_a_styled_layer_is_the_same_both_ways(kind, up, clamp, noise, monkeypatch):
    """`up` None: StyleGAN1's first layer, without a convolution."""
    torch.manual_seed(0)
    fan_in, side = (12 if up is None else 10), (16 if up else 8)
    layer = (
        StyledConv2(fan_in, 12, 32, side, up, clamp) if kind == 2 else StyledConv1(None if up is None else fan_in, 12, 32, side, bool(up))
    )
    layer.bias.data.normal_()
    layer.noise_strength.data.normal_()
    layer.requires_grad_(False).freeze()
    for part in layer.modules():
        if part is not layer:
            part.freeze()
    x, w, weights = torch.randn(3, fan_in, 8, 8, requires_grad=True), torch.randn(3, 32, requires_grad=True), torch.randn(3, 12, side, side)
    noise = None if noise == "none" else torch.randn(1 if noise == "one" else 3, 1, side, side, requires_grad=True)

    def outcome():
        y = layer(x, w, noise)
        with torch.no_grad():
            assert torch.equal(layer(x, w, noise), y)  # alike without a gradient
        return [y.detach(), *torch.autograd.grad((y * weights).sum(), [t for t in (x, w, noise) if t is not None])]

    fast, plain = both_ways(monkeypatch, outcome)
    assert close(fast, plain)
    assert clamp is None or (fast[0].abs().max() == clamp and (plain[0].abs() == clamp).float().mean() > 0.05)


def test_a_wide_styled_layer_is_the_same_both_ways(monkeypatch):
    """From 128 channels and 16 pixels on Winograd's way is taken; and StyleGAN1's up-convolution at many channels, and mirrored."""
    torch.manual_seed(0)
    for layer, side in [(StyledConv1(128, 128, 8, 16), 16), (StyledConv2(128, 128, 8, 16), 16), (StyledConv1(144, 4, 8, 16, True), 8),
                        (StyledConv1(4, 4, 8, 128, True), 64)]:  # fmt: skip
        for part in layer.requires_grad_(False).modules():
            part.freeze()
        assert (layer.fast_kernels() is None) == (layer.up and layer.resolution == 16)
        x, w = torch.randn(2, layer.weight.shape[1], side, side, requires_grad=True), torch.randn(2, 8, requires_grad=True)
        weights = torch.randn(2, layer.weight.shape[0], layer.resolution, layer.resolution)

        def outcome(layer=layer, x=x, w=w, weights=weights):
            y = layer(x, w, layer.noise_const[None, None])
            return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, w])]

        with monkeypatch.context() as patch:
            assert close(*both_ways(patch, outcome))


def test_dense_and_pointwise_layers_are_the_same_both_ways(monkeypatch):
    torch.manual_seed(0)
    for layer, x in [(Dense(20, 7, lr_mul=0.5), torch.randn(5, 20)), (Pointwise1(20, 3, 1.0), torch.randn(2, 20, 6, 6))]:
        layer.bias.data.normal_()
        layer.requires_grad_(False).freeze()
        x.requires_grad_()

        def outcome(layer=layer, x=x):
            y = layer(x)
            return [y.detach(), *torch.autograd.grad(y.square().sum(), x)]

        with monkeypatch.context() as patch:
            assert close(*both_ways(patch, outcome))


def test_fast_ways_are_for_frozen_float32_alone():
    layer = Dense(4, 4)
    x = torch.randn(1, 4)
    assert not fast_conv.usable(layer, x)
    layer.freeze()
    assert fast_conv.usable(layer, x) and not fast_conv.usable(layer, x.bfloat16())
    layer.train()
    assert not fast_conv.usable(layer, x)


def test_filters_are_those_of_the_plain_way():
    """[1, 2, 1] and [1, 3, 3, 1], normalised; StyleGAN2's times 4, since three of four pixels are zeros."""
    for found, taps, gain in [(fast_conv.BLUR1, [1, 2, 1], 1), (fast_conv.BLUR2, [1, 3, 3, 1], 4)]:
        taps = torch.tensor(taps, dtype=torch.float32)
        assert torch.equal(found, taps[:, None] * taps * gain / taps.sum() ** 2)


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

    for a, b in zip(*both_ways(monkeypatch, outcome), strict=True):
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
    kernels = fast_conv.winograd_kernels(weight)
    assert (kernels is None) == (channels < 128)
    wanted = torch.nn.functional.conv2d(x, weight, bias, padding=1)
    (wanted_gradient,) = torch.autograd.grad(wanted, x, g)
    found = fast_conv.conv(x, weight, bias, lambda: kernels)
    (gradient,) = torch.autograd.grad(found, x, g)
    assert (found - wanted).abs().max() < 1e-4 * wanted.std() and (gradient - wanted_gradient).abs().max() < 1e-4 * wanted_gradient.std()
    with torch.no_grad():  # pictures come from PyTorch's convolution (where maps are small, of each image), to the bit
        if side <= fast_conv.SEPARATE_UP_TO:
            wanted = torch.cat([torch.nn.functional.conv2d(one[None], weight, bias, padding=1) for one in x])
        assert torch.equal(fast_conv.conv(x, weight, bias, lambda: kernels), wanted)


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
def test_winograds_kernels_are_made_when_a_gradient_is_first_asked_for(kind, monkeypatch):
    """Rendering waits for none; threads that share the layers (`editor/parallel.py`) make them once; new weights have new ones."""
    torch.manual_seed(0)
    G = Generator(Config(kind, 32, 128 * 32, 128, 2)).freeze()
    made, make = [], fast_conv.winograd_kernels

    def slow(weight, side):
        time.sleep(0.05)  # other threads come by meanwhile
        made.append(make(weight, side))
        return made[-1]

    monkeypatch.setattr(fast_conv, "winograd_kernels", slow)
    ws = torch.randn(1, G.num_ws, 512)
    with torch.no_grad():
        picture = G.synthesis(ws)
    G.synthesis(ws)
    assert not made
    wanting = [layer for layer in G.synthesis.layers() if not layer.up and layer.weight is not None and layer.resolution >= 16]

    def gradient(_):
        moving = ws.clone().requires_grad_()
        return torch.autograd.grad(G.synthesis(moving).sum(), moving)[0]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(gradient, range(4)))
    assert len([kernels for kernels in made if kernels is not None]) == len(wanting) == 2
    assert all(torch.equal(one, found[0]) for one in found) and all(layer.kernels.shape == (36, 128, 128) for layer in wanting)
    with torch.no_grad():
        assert torch.equal(G.synthesis(ws), picture)
    G.load_state_dict({k: 2 * v for k, v in G.state_dict().items()})
    before = [layer.kernels for layer in wanting]
    G.freeze()
    assert before == [None, None] and torch.equal(wanting[0].fast_kernels(), make(wanting[0].frozen[0], 16))


def test_what_else_is_in_a_batch_is_not_seen(monkeypatch):
    x, sizes = torch.randn(5, 3, 8, 8), []
    doubled = fast_conv.image_by_image(lambda a, b: sizes.append(len(a)) or a + b, x, x)
    assert sizes == [1] * 5 and torch.equal(doubled, 2 * x)
    fast_conv.image_by_image(lambda a: sizes.append(len(a)) or a, torch.randn(5, 3, 64, 64))
    assert sizes[5:] == [5]
    x, weight, bias, linear = torch.randn(11, 7), torch.randn(4, 7), torch.randn(4), torch.nn.functional.linear
    monkeypatch.setattr(fast_conv.F, "linear", lambda x, *more: sizes.append(len(x)) or linear(x, *more))
    assert torch.allclose(fast_conv.linear(x, weight, bias), x @ weight.t() + bias, atol=1e-5)
    assert sizes[6:] == [16]


def test_up_convolution_and_blur_equal_pytorchs():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 12, 10, 14, dtype=torch.double, requires_grad=True), torch.randn(12, 6, 4, 4, dtype=torch.double)
    kernel = torch.randn(3, 3, dtype=torch.double)
    kernel = kernel + kernel.flip(0, 1)
    pairs = [
        (
            fast_conv.UpConv.apply(x, weight, fast_conv.phase_kernels(weight), 1),
            torch.nn.functional.conv_transpose2d(x, weight, stride=2, padding=1),
        ),
        (fast_conv.UpConv.apply(x, weight[..., 1:, 1:], None, 0), torch.nn.functional.conv_transpose2d(x, weight[..., 1:, 1:], stride=2)),
        (fast_conv.Blur.apply(x, kernel, None, 1), torch.nn.functional.conv2d(x, kernel.expand(12, 1, 3, 3), padding=1, groups=12)),
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


@pytest.mark.parametrize("shape", [(3, 3, 128, 128), (2, 14, 512), (3, 24, 7, 5)])
def test_mean_squared_error_is_of_each_image(shape, monkeypatch):
    torch.manual_seed(0)
    a, b = torch.randn(shape), torch.randn(shape)
    for other in (b, b[:1]):
        wanted = torch.stack([(x - y).square().mean() for x, y in zip(a, other.expand_as(a), strict=True)])
        assert torch.equal(fast_conv.mean_squared_error(a, other), wanted)
        with monkeypatch.context() as patch:  # all images at once, as on a GPU
            patch.setattr(fast_conv, "image_by_image", lambda f, *tensors, always: f(*tensors))
            assert torch.allclose(fast_conv.mean_squared_error(a, other), wanted, rtol=1e-5)


def test_pointwise_is_a_1x1_convolution():
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(6, 9, 1), torch.randn(2, 6, 5, 7)
    assert torch.allclose(fast_conv.pointwise(conv, x), conv(x), atol=1e-6)
