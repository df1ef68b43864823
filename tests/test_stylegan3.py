"""StyleGAN3: NVIDIA's own outputs, its filters, the fast way against the plain one, what the paper promises, and checkpoints."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import stylegan3_layers
from editor import checkpoints, fast_conv, filtered
from stylegan3_layers import Config3, Generator3, Place, Sampling

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
import seeded3  # noqa: E402

SMALL = {"T": {}, "R": {"conv_kernel": 1, "use_radial_filters": True}}


def golden(kind):
    """(what NVIDIA's code computes, the state dict that it does so from, but for most of its filters)"""
    stored = dict(np.load(GOLDEN / f"sg3{kind.lower()}_64_small.npz"))
    state, seed = {}, {"T": 3, "R": 4}[kind]
    for name, shape in zip(stored["names"].tolist(), stored["shapes"].tolist(), strict=True):
        if f"filter/{name}" in stored:
            state[name] = torch.from_numpy(stored[f"filter/{name}"])
        elif name.endswith("transform"):
            state[name] = torch.eye(3)
        elif not name.endswith("_filter"):
            state[name] = torch.from_numpy(
                np.asarray(seeded3.value(name, tuple(map(int, shape.strip("[]").split(",") if shape != "[]" else ())), seed))
            )
    return stored, state


def without_filters(state):
    return {name: value for name, value in state.items() if not name.endswith("_filter")}


def small(kind, frozen=True, **settings):
    """A random generator of side 32 with few channels, whose w turns and shifts the picture a little."""
    torch.manual_seed(0)
    G = Generator3(
        Config3("stylegan3", **{"resolution": 32, "channel_base": 256, "channel_max": 8, "z_dim": 64, "w_dim": 64} | SMALL[kind] | settings)
    )
    G.synthesis.input.affine.weight.data.normal_(std=0.1)
    for layer in (getattr(G.synthesis, name) for name in G.synthesis.names):
        layer.bias.data.normal_(std=0.1)
        layer.magnitude_ema.fill_(0.8)
    return G.freeze() if frozen else G


def plainly(monkeypatch):
    """From here on, layers take the plain way."""
    monkeypatch.setattr(filtered, "usable", lambda *_: False)
    monkeypatch.setattr(fast_conv, "usable", lambda *_: False)


def off(a, b):
    """The largest difference, as a part of b's standard deviation."""
    return float((a - b).detach().abs().max() / b.detach().std())


# ---------------------------------------------------------------------------------------------------------------------
# NVIDIA's own


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("kind", SMALL)
def test_parity(kind, frozen):
    stored, state = golden(kind)
    G = Generator3(stylegan3_layers.infer(state))
    stylegan3_layers.check_filters(G, state)
    G.load_state_dict(without_filters(state))
    G = G.freeze() if frozen else G
    random = np.random.RandomState({"T": 3, "R": 4}[kind])
    z, ws = (torch.from_numpy(random.standard_normal(shape).astype(np.float32)) for shape in ((2, 512), (2, G.num_ws, 512)))
    with torch.no_grad():
        image = G.synthesis(ws)
        pictures = {
            "image": image,
            "image_trunc": G(z, truncation_psi=0.7, truncation_cutoff=8),
            "image_moved": G.synthesis(ws, transform=torch.from_numpy(stored["transform"])),
        }
    for name, picture in pictures.items():
        assert off(picture[:, :, 1::4, 2::4], torch.from_numpy(stored[name])) < 1e-4, name
    spread = stored["image_std"].min()
    assert np.abs(image[:, :, -4:, -4:].numpy() - stored["corner"]).max() < 1e-4 * spread
    assert np.abs(image.mean((2, 3)).numpy() - stored["image_mean"]).max() < 1e-4 * spread
    assert np.abs(image.std((2, 3), unbiased=False).numpy() / stored["image_std"] - 1).max() < 1e-3
    assert off(G.mapping(z), torch.from_numpy(stored["w"])) < 1e-4


@pytest.mark.parametrize("kind", SMALL)
def test_filters(kind):
    stored, _ = golden(kind)
    network, seen = Generator3(stylegan3_layers.infer(golden(kind)[1])), set()
    for name, taps in stored.items():
        if name.startswith("filter/"):
            layer, which = name.removeprefix("filter/").rsplit(".", 1)
            made = getattr(network.get_submodule(layer).sampling, which)
            assert np.abs(made.numpy() - taps).max() <= 1e-6 * np.abs(taps).max(), name
            seen.add((which, taps.ndim))
    assert seen == {("up_filter", 1), ("down_filter", 1)} | ({("down_filter", 2)} if kind == "R" else set())


def test_channels_and_sizes_at_1024():
    """As the paper's T and R have them (figure 4)."""
    T, R = (Config3("stylegan3", 1024, channel_base=b, channel_max=m).places for b, m in ((32768, 512), (65536, 1024)))
    assert [p.size for p in T] == [36, 36, 52, 52, 84, 148, 148, 276, 276, 532, 1044, 1044, 1044, 1024, 1024]
    assert [p.channels for p in T] == [512] * 7 + [323, 203, 128, 81, 51, 32, 32, 3]
    assert [p.channels for p in R] == [1024] * 7 + [645, 406, 256, 161, 102, 64, 64, 3]


# ---------------------------------------------------------------------------------------------------------------------
# The fast way


def odd(radial):
    """A layer's sampling with odd sides, 4 times up and 2 times down."""
    return Sampling(Place(3.0, 5.0, 8, 13, 4), Place(4.0, 4.0, 16, 21, 4), 3, 6, 2, radial)


@pytest.mark.parametrize("clamp", [256, 0.5, None])
@pytest.mark.parametrize("name", ["odd", "odd, radial", "L0", "L4", "L12"])
def test_filtered_leaky_relu_is_the_plain_one(name, clamp, monkeypatch):
    """Values and gradients, in many small bands; a radial filter is a sum of its largest parts, to 3e-8."""
    monkeypatch.setattr(filtered, "CHUNK", {"cpu": 1 << 15})
    monkeypatch.setattr(filtered, "BAND", {"cpu": 1 << 12})
    synthesis = small("R").synthesis
    by_name = {n.split("_")[0]: getattr(synthesis, n).sampling for n in synthesis.names}
    sampling = odd("radial" in name) if "odd" in name else by_name[name]
    torch.manual_seed(1)
    x = torch.randn(2, 5, sampling.size, sampling.size, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, 1, 1, dtype=torch.float64, requires_grad=True)
    fast, plain = (f.filtered_leaky_relu(x, bias, sampling, 0.2, clamp) for f in (filtered, stylegan3_layers))
    weights = torch.randn_like(plain)
    assert fast.shape == plain.shape == (2, 5, sampling.out_size, sampling.out_size) and off(fast, plain) < 1e-7
    for a, b in zip(*(torch.autograd.grad(y, (x, bias), weights) for y in (fast, plain)), strict=True):
        assert off(a, b) < 1e-7


@pytest.mark.parametrize("clamp", [None, 1.0])
@pytest.mark.parametrize("radial", [False, True])
def test_gradcheck_filters(radial, clamp):
    sampling = Sampling(Place(2.0, 3.0, 4, 4, 2), Place(2.0, 3.0, 4, 5, 2), 1, 2, 2, radial)
    torch.manual_seed(2)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, b: filtered.filtered_leaky_relu(x, b, sampling, 0.2, clamp), (x, bias), atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 3])
def test_gradcheck_convolution(kernel):
    torch.manual_seed(2)
    x, style, demodulation, weight = torch.randn(2, 3, 4, 4), torch.randn(2, 3), torch.rand(2, 4) + 0.5, torch.randn(4, 3, kernel, kernel)
    x, style, demodulation = (t.double().requires_grad_() for t in (x, style, demodulation))
    assert torch.autograd.gradcheck(lambda *t: filtered.ModulatedConv.apply(*t, weight.double()), (x, style, demodulation))


@pytest.mark.parametrize("kind", SMALL)
def test_a_frozen_generator_is_the_plain_one(kind, monkeypatch):
    """Pictures and gradients of ws; with --low_memory's recomputing, too."""
    G, ws = small(kind), torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    fast, again = G.synthesis(ws), G.synthesis(ws, recompute_from=30)
    weights = torch.randn_like(fast)
    (g,), (h,) = (torch.autograd.grad(y, ws, weights) for y in (fast, again))
    assert torch.equal(fast, again) and torch.equal(g, h)
    plainly(monkeypatch)
    plain = G.synthesis(ws)
    assert off(fast, plain) < 1e-5 and off(g, torch.autograd.grad(plain, ws, weights)[0]) < 1e-5


def test_weights_have_gradients(monkeypatch):
    """For tuning: convolutions in the plain way, filters in the fast one."""
    G, ws = small("T", frozen=False), torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(1))
    parameters = dict(G.synthesis.named_parameters())
    found = torch.autograd.grad(G.synthesis(ws).square().sum(), list(parameters.values()))
    plainly(monkeypatch)
    plain = torch.autograd.grad(G.synthesis(ws).square().sum(), list(parameters.values()))
    for name, a, b in zip(parameters, found, plain, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max(), name


@pytest.mark.parametrize("kind", SMALL)
def test_an_image_is_alike_in_any_batch(kind):
    G, z = small(kind), torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(G(z)[1:2], G(z[1:2]))


def test_bfloat16_takes_the_fast_way():
    G, ws = small("R"), torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    exact, rough = G.synthesis(ws), G.synthesis(ws, dtype=torch.bfloat16)
    a, b = (torch.autograd.grad(y.square().sum(), ws)[0] for y in (rough, exact))
    assert rough.dtype == torch.float32 and 1e-5 < off(rough, exact) < 0.2 and off(a, b) < 0.5


def test_settings_that_the_fast_way_does_not_take():
    """Three layers jump from rate to rate by more than a tile: the plain way is there."""
    G = small("T", num_layers=3, num_critical=1, first_cutoff=0.5, first_stopband=1.0, lrelu_upsampling=4)
    factors = [getattr(G.synthesis, name).sampling.up for name in G.synthesis.names]
    assert max(factors) > filtered.DOWN and G(torch.randn(1, 64)).isfinite().all()


# ---------------------------------------------------------------------------------------------------------------------
# What the paper promises


def moved(angle=0.0, x=0.0, y=0.0):
    """The transform for a picture turned by an angle (radians), then shifted, in widths of the image: the inverse of that motion."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, x], [s, c, y], [0, 0, 1]], dtype=torch.float64).inverse().float()


def middle(image):
    """Without the border of 8 pixels."""
    return image[:, :, 8:-8, 8:-8]


@torch.no_grad()
def test_r_turns_with_its_input():
    """By a quarter: to the right, as y points down. T does not, so what is seen is R's filters and kernels."""
    ws, worst = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(1)), {}
    for kind in SMALL:
        G = small(kind)
        still, turned = G.synthesis(ws, transform=torch.eye(3)), G.synthesis(ws, transform=moved(math.pi / 2))
        worst[kind] = off(middle(turned), middle(torch.rot90(still, -1, (2, 3))))
    assert worst["R"] < 0.02 and worst["T"] > 0.1, worst


@torch.no_grad()
@pytest.mark.parametrize("kind", SMALL)
def test_a_shifted_input_shifts_the_picture(kind):
    """By 4 pixels to the right and 2 down of 32, which is 2 and 1 samples of the coarsest layers."""
    G, ws = small(kind), torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(1))
    still, shifted = G.synthesis(ws, transform=torch.eye(3)), G.synthesis(ws, transform=moved(x=4 / 32, y=2 / 32))
    assert off(middle(shifted), middle(still.roll((2, 4), (2, 3)))) < 0.02
    assert off(middle(shifted), middle(still)) > 0.1


def test_a_transform_for_each_image():
    G, ws = small("T"), torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(1))
    both = torch.stack([moved(0.3), moved(x=0.1)])
    with torch.no_grad():
        assert off(G.synthesis(ws, transform=both)[1:], G.synthesis(ws[1:], transform=both[1])) < 1e-5
        assert torch.equal(G.synthesis(ws), G.synthesis(ws, transform=torch.eye(3)))
        G.synthesis.input.transform.copy_(both[1])
        assert torch.equal(G.synthesis(ws), G.synthesis(ws, transform=both[1]))
    for wrong in (torch.eye(2), torch.eye(3).expand(3, 3, 3), torch.full((3, 3), math.nan)):
        with pytest.raises(ValueError, match="transform of shape"):
            G.synthesis(ws, transform=wrong)


def test_there_is_no_noise():
    G, ws = small("T"), torch.zeros(1, 16, 64)
    with torch.no_grad():
        pictures = [G.synthesis(ws, noise=noise) for noise in ("const", "none", "random", [])]
    assert all(torch.equal(pictures[0], p) for p in pictures) and G.synthesis.layers() == []
    with pytest.raises(ValueError, match="noise maps"):
        G.synthesis(ws, noise=[torch.zeros(1, 1, 4, 4)])


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints


@pytest.mark.parametrize("half", [False, True])
def test_checkpoint(tmp_path, half):
    G, z = small("R", resolution=64), torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    checkpoints.save(tmp_path / "r.safetensors", G, half=half)
    again = checkpoints.load_generator(tmp_path / "r.safetensors")
    assert (type(again), again.kind, again.num_ws, again.config) == (Generator3, "stylegan3", 16, G.config)
    with torch.no_grad():
        a, b = G(z), again(z)
    assert off(b, a) < 0.05 if half else torch.equal(a, b)
    assert checkpoints.save(tmp_path / "s.safetensors", again, half=half) == checkpoints.save(tmp_path / "t.safetensors", again, half=half)


HOSTILE = {
    "mapping_layers": 10**9,
    "channel_base": 10**12,
    "channel_max": 10**9,
    "resolution": 24,
    "num_layers": 10**9,
    "margin_size": 10**6,
    "conv_kernel": 5,
    "use_radial_filters": 1,
    "first_cutoff": -1.0,
    "first_stopband": 1e5,
    "last_stopband_rel": 0.1,
    "filter_size": 5,
    "lrelu_upsampling": 64,
    "num_critical": 14,
    "conv_clamp": math.inf,
    "output_scale": math.nan,
    "c_dim": -1,
    "w_dim": True,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_settings_that_cannot_be(name):
    with pytest.raises(ValueError, match=name):
        Config3("stylegan3", **{"resolution": 64, name: HOSTILE[name]})


def test_a_lying_checkpoint_takes_no_memory(tmp_path):
    """Its config says a million times what its tensors hold: refused from their shapes, before a network of that size is there."""
    G = small("T")
    G.config = dataclasses.replace(G.config, channel_base=1 << 24, channel_max=8192, w_dim=8192)
    checkpoints.save(tmp_path / "lie.safetensors", G)
    with pytest.raises(ValueError, match="does not fit its own description"):
        checkpoints.load_generator(tmp_path / "lie.safetensors")


@pytest.mark.parametrize(("base", "most"), [(32768, 512), (65536, 1024), (16384, 512), (2048, 48), (3000, 100), (32768, 16)])
def test_settings_told_from_names(base, most):
    """T's state dict without its filters; where several bases make the same channels, one of them."""
    with checkpoints.without_memory():
        G = Generator3(Config3("stylegan3", 256, channel_base=base, channel_max=most, mapping_layers=3))
    found = stylegan3_layers.infer(G.state_dict())
    assert found.places == G.config.places
    assert dataclasses.replace(found, channel_base=base, channel_max=most) == G.config


def test_state_dicts_of_others_are_refused():
    state = small("T").state_dict()
    renamed = {name.replace("L5_", "L5_1"): value for name, value in state.items()}
    for wrong in ({}, {"mapping.fc0.weight": torch.zeros(2, 2)}, renamed, state | {"synthesis.input.weight": torch.zeros(3)}):
        with pytest.raises(ValueError, match="StyleGAN3"):
            stylegan3_layers.infer(wrong)


def test_other_filters_are_refused():
    G = small("R")
    name = f"synthesis.{G.synthesis.names[3]}"
    taps = {f"{name}.up_filter": G.synthesis.get_submodule(G.synthesis.names[3]).sampling.up_filter.float()}
    stylegan3_layers.check_filters(G, taps)
    for wrong in (taps[f"{name}.up_filter"] * 1.001, torch.ones(5), taps[f"{name}.up_filter"] * math.nan):
        with pytest.raises(ValueError, match=f"{name}.up_filter"):
            stylegan3_layers.check_filters(G, {f"{name}.up_filter": wrong})
    with pytest.raises(ValueError, match="no such layer"):
        stylegan3_layers.check_filters(G, {"synthesis.L99_1_1.up_filter": torch.ones(1)})
