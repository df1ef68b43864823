"""The hand-written backward passes of frozen layers give what autograd gives."""

import pytest
import torch

import stylegan_layers
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
