"""How alike two images look: VGG16 and LPIPS as torchvision and the lpips package compute them, Gram matrices, the bundled features."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import perceptual_model
from perceptual_model import LPIPS, VGG16, FeatureConfig, Features, gram, resized

TORCHVISION = {  # Simonyan & Zisserman's names -> the place of the convolution in torchvision's vgg16().features; its ReLU is the next
    **{"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12, "conv3_3": 14},
    **{"conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24, "conv5_2": 26, "conv5_3": 28},
}


@pytest.fixture(scope="module")
def vgg():
    """torchvision's VGG16 without its dense layers, with random weights: features alike in size at every depth."""
    torch.manual_seed(0)
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]).eval().requires_grad_(False)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
    return features


@pytest.mark.parametrize("after_relu", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_vgg_features_are_torchvisions(vgg, after_relu, normalise):
    made = VGG16(tuple(TORCHVISION), after_relu, normalise, size=None).load_torchvision(vgg.state_dict())
    x = torch.rand(1, 3, 48, 48) * 2 - 1
    wanted = (x + 1) / 2
    if normalise:
        preset = torchvision.models.VGG16_Weights.IMAGENET1K_V1.transforms()
        wanted = torchvision.transforms.functional.normalize(wanted, preset.mean, preset.std)
    found = dict(zip(TORCHVISION, made.features(x), strict=True))
    for i, layer in enumerate(vgg):
        wanted = layer(wanted.clone())
        for name, place in TORCHVISION.items():
            if i == place + after_relu:
                largest = wanted.abs().max().item()
                assert found[name].shape == wanted.shape and torch.allclose(found[name], wanted, atol=1e-4 * largest), name


def test_vgg_compares_the_papers_layers(vgg):
    """Image2StyleGAN: conv1_1, conv1_2, conv3_2, conv4_2 at 256 x 256; a sum of mean squared differences."""
    made = VGG16().load_torchvision({f"features.{k}": v for k, v in vgg.state_dict().items()} | {"classifier.0.weight": torch.zeros(1)})
    assert made.layers == ("conv1_1", "conv1_2", "conv3_2", "conv4_2") and made.size == 256 and made.after_relu
    assert not any(p.requires_grad for p in made.parameters()) and not made.training
    a, b = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(1, 3, 64, 64) * 2 - 1
    made.size = 64
    pairs = list(zip(made.features(a), made.features(b), strict=True))
    assert [x.shape[1:] for x, _ in pairs] == [(64, 64, 64), (64, 64, 64), (256, 16, 16), (512, 8, 8)]
    wanted = [sum((x[i] - y[0]).square().mean() for x, y in pairs) for i in range(2)]
    assert torch.allclose(made(a, b), torch.stack(wanted), rtol=1e-5)


def test_vgg_knows_its_layers():
    for layers, message in [(["conv1_3"], "conv1_3.*conv5_3"), ([], "none"), (["pool"], "pool")]:
        with pytest.raises(ValueError, match=message):
            VGG16(layers)


def test_lpips_is_the_packages(vgg, monkeypatch):
    import lpips

    monkeypatch.setattr(torchvision.models, "vgg16", lambda *_, **__: SimpleNamespace(features=vgg))
    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    ours = LPIPS(size=None).load_torchvision(vgg.state_dict())
    path = Path(lpips.__file__).parent / "weights/v0.1/vgg.pth"
    ours.load_linear(torch.load(path, weights_only=True, map_location="cpu"))
    a, b = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(ours(a, b), theirs(a, b).flatten(), rtol=1e-4)
        # (x - shift) / scale is what their first layer computes of [-1, 1]
        assert torch.allclose(((a + 1) / 2 - ours.mean) / ours.std, lpips.ScalingLayer()(a), atol=1e-5)
    assert ours.layers == ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3") and LPIPS().size == 256


def test_gram_matrix_is_the_products_of_channels():
    torch.manual_seed(0)
    f = torch.randn(2, 3, 4, 5)
    for n in range(2):
        for i in range(3):
            for j in range(3):
                assert torch.isclose(gram(f)[n, i, j], (f[n, i] * f[n, j]).sum() / (3 * 4 * 5), atol=1e-6)
    assert torch.allclose(gram(f.flip(2, 3)), gram(f), atol=1e-6)  # says what is there and not where


def test_images_are_brought_to_a_side():
    x = torch.rand(2, 3, 8, 12)
    assert resized(x, 8) is x
    assert torch.allclose(resized(x, 4)[:, :, 1, 2], x[:, :, 2:4, 4:6].mean((2, 3))) and resized(x, 4).shape == (2, 3, 4, 6)
    assert resized(x, 16).shape == (2, 3, 16, 24) and resized(x, 6).shape == (2, 3, 6, 9)
    ramp = torch.arange(12.0).expand(1, 1, 8, 12)
    for size in (16, 6):  # bilinear: a ramp stays one, away from the border, and pixel centres stay where they are
        wanted = (torch.arange(12.0 * size / 8) + 0.5) * 8 / size - 0.5
        assert torch.allclose(resized(ramp, size)[0, 0, 0, 2:-2], wanted[2:-2], atol=0.02)
    stripes = torch.tensor([0.0, 1]).repeat(50).expand(1, 1, 100, 100)
    assert (resized(stripes, 30)[..., 2:-2] - 0.5).abs().max() < 0.2  # finer than the pixels: grey, not aliased


def features(**more):
    torch.manual_seed(0)
    stages = [{"expand": 0, "out": 4, "kernel": 3, "stride": 2}, {"expand": 6, "out": 4, "kernel": 5, "stride": 1},
              {"expand": 0, "out": 5, "kernel": 3, "stride": 2}, {"expand": 0, "out": 6, "kernel": 3, "stride": 1}]  # fmt: skip
    return Features(FeatureConfig(**({"kind": "efficientnet-lite0", "size": 16, "stages": stages, "taps": [0, 1, 2]} | more)))


def test_features_are_inverted_residual_blocks():
    made, x = features(), torch.randn(2, 3, 16, 16)
    stem, second, third = made.features(x)
    assert [f.shape for f in (stem, second, third)] == [(2, 4, 8, 8), (2, 4, 8, 8), (2, 5, 4, 4)]
    pad, relu6 = nn.functional.pad, nn.functional.relu6
    assert torch.allclose(stem, relu6(made.block0_conv(pad(x, (0, 1, 0, 1)))), atol=1e-5)  # TensorFlow's SAME: the odd zero comes last
    y = relu6(made.block1_depthwise(pad(relu6(made.block1_expand(stem)), (2, 2, 2, 2))))
    assert torch.allclose(second, stem + made.block1_project(y), atol=1e-5)  # same shape: added to what came in
    y = relu6(made.block2_depthwise(pad(second, (0, 1, 0, 1))))
    assert torch.allclose(third, made.block2_project(y), atol=1e-5)
    assert made.features(nn.functional.interpolate(x, scale_factor=2))[0].allclose(stem, atol=1e-5)  # brought to `size`


def test_taps_count_by_their_scale():
    made, a, b = features(), torch.randn(2, 3, 16, 16), torch.randn(1, 3, 16, 16)
    plain, other = made.features(a), made.features(b)
    made.load_state_dict(made.state_dict() | {"scale": torch.tensor([2.0, 0.5, 3.0])})
    for f, g, scale in zip(made.features(a), plain, (2.0, 0.5, 3.0), strict=True):
        assert torch.allclose(f, g * scale, atol=1e-5)
    wanted = sum(s**2 * (x - y).square().mean((1, 2, 3)) for x, y, s in zip(plain, other, (2.0, 0.5, 3.0), strict=True))
    assert torch.allclose(made(a, b), wanted, rtol=1e-4)


def test_grams_are_of_each_layer():
    made, x = features(), torch.randn(2, 3, 16, 16)
    for found, f in zip(made.grams(x), made.features(x), strict=True):
        assert torch.equal(found, perceptual_model.gram(f)) and found.shape == (2, f.shape[1], f.shape[1])


@pytest.mark.parametrize("kind", [perceptual_model.VGG16, perceptual_model.LPIPS])
def test_vgg_in_bfloat16_gives_nearly_the_gradient_of_float32(kind):
    torch.manual_seed(0)
    distance = kind(size=32)
    for name in distance.needed:
        torch.nn.init.kaiming_normal_(getattr(distance, name).weight, nonlinearity="relu")
    distance.eval().requires_grad_(False)
    target, image = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    image.requires_grad_(True)

    def gradient():
        loss = distance(image, target)
        assert loss.dtype == torch.float32 and all(f.dtype == torch.float32 for f in distance.features(image))
        return torch.autograd.grad(loss.sum(), image)[0]

    exact, seen, convolve = gradient(), [], F.conv2d
    distance.computed_in(torch.bfloat16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", lambda x, *words, **more: seen.append(x.dtype) or convolve(x, *words, **more))
        near = gradient()
    assert set(seen) == {torch.bfloat16} and distance.mean.dtype == torch.float32
    assert not torch.equal(near, exact) and F.cosine_similarity(near.flatten(), exact.flatten(), dim=0) > 0.98
