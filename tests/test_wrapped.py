"""Checkpoints that hold several networks, values that no weights are, and what stands beside a network."""

import pytest
import safetensors.torch
import torch

import weight_convert
from stylegan_layers import Config, Generator


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "held, taken",
    [
        (lambda a, b: {f"generator.{k}": v for k, v in b.items()} | {f"g_ema.{k}": v for k, v in a.items()}, "a"),
        (lambda a, b: {"state_dict": {f"generator.{k}": v for k, v in b.items()} | {f"g_ema.{k}": v for k, v in a.items()}}, "a"),
        (lambda a, b: {"generator": b, "generator_ema": a}, "a"),
        (lambda a, b: {"generator": b, "state_dict": a}, None),
        (lambda a, b: {"g_ema": b, "G_ema": a}, None),
        (lambda a, b: {"state_dict": {f"module.{k}": v for k, v in a.items()} | {f"decoder.{k}": v for k, v in b.items()}}, None),
    ],
)
def test_of_several_generators_the_averaged_one_is_taken_or_none(tmp_path, held, taken):
    torch.manual_seed(0)
    config = Config("stylegan2", 8, channel_base=64, mapping_layers=2, z_dim=24, w_dim=24)
    a, b = Generator(config), Generator(config)
    torch.save(held(a.state_dict(), b.state_dict()), tmp_path / "n.pt")
    if taken:
        assert equal(weight_convert.convert(tmp_path / "n.pt")[0], a)
    else:
        with pytest.raises(ValueError, match="several networks are in it .*save the one that you want in a file of its own"):
            weight_convert.convert(tmp_path / "n.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64])
def test_weights_of_whole_or_complex_numbers_are_refused(tmp_path, suffix, kind):
    G = Generator(Config("stylegan2", 8, channel_base=64, mapping_layers=2, z_dim=24, w_dim=24))
    state = G.state_dict()
    state["synthesis.b8.conv0.weight"] = state["synthesis.b8.conv0.weight"].to(kind)
    path = tmp_path / f"n{suffix}"
    torch.save(state, path) if suffix == ".pt" else safetensors.torch.save_file(state, path)
    with pytest.raises(ValueError, match="n.*conv0.weight: of .*which no weights are|a storage without size"):
        weight_convert.convert(path)


def test_what_stands_beside_a_state_dict_is_heard(tmp_path):
    """The settings that --to ada writes, and a mean latent, are used where they are kept with the network alone."""
    G = Generator(Config("stylegan2", 8, channel_base=64, mapping_layers=2, z_dim=24, w_dim=24))
    state, mean = G.state_dict(), torch.randn(24)
    without = {k: v for k, v in state.items() if k != "mapping.w_avg"}
    for held in (
        {"G_ema": without, "latent_avg": mean},
        {"state_dict": {f"decoder.{k}": v for k, v in without.items()} | {"latent_avg": mean}},
    ):
        torch.save(held, tmp_path / "n.pt")
        assert torch.equal(weight_convert.convert(tmp_path / "n.pt")[0].w_avg, mean)
    torch.save({"G_ema": state, "init_kwargs": {"synthesis_kwargs": {"conv_clamp": 0.5}}}, tmp_path / "n.pt")
    assert weight_convert.convert(tmp_path / "n.pt")[0].config.conv_clamp == 0.5
    torch.save({"G_ema": state, "init_kwargs": {"synthesis_kwargs": {"resample_filter": [1, 2, 1]}}}, tmp_path / "n.pt")
    with pytest.raises(ValueError, match="resample_filter"):
        weight_convert.convert(tmp_path / "n.pt")
