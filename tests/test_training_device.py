"""The trainings on a stand-in for a CUDA card: PyTorch's fake tensors compute nothing, but two devices in one operation are an error."""

import dataclasses

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from editor import networks
from editor.networks import AttributeConfig
from perceptual_model import FeatureConfig
from stylegan_layers import Config, Generator
from training import make_boundaries, measure, train_attributes, train_encoder

CARD = torch.device("cuda")


@pytest.fixture
def card(monkeypatch):
    """card(make) -> a network made on the stand-in. What is turned into NumPy's must have come to the CPU before."""

    def numpy(self):
        assert self.device.type == "cpu"
        return np.zeros(tuple(self.shape))

    def make(made):
        with CARD:
            found = made()
        for module in found.modules():  # constants lie on the CPU before, and `to` cannot swap stand-ins
            module._buffers.update({name: value.to(CARD) for name, value in module._buffers.items() if value is not None})
        return found

    monkeypatch.setattr(torch.Tensor, "numpy", numpy)
    monkeypatch.setattr(torch.Tensor, "__int__", lambda self: 48)  # of a random number, which is not computed
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield make


def test_attributes_are_trained_on_the_card(card):
    trainee = card(lambda: train_attributes.Trainee(AttributeConfig()))
    x = train_attributes.augment(torch.zeros(6, 3, 128, 128, dtype=torch.uint8).to(CARD), torch.rand(6) < 0.5, 128, torch.Generator())
    raw = trainee(x)
    assert {v.device.type for v in (x, *raw.values())} == {"cuda"}
    opinions = train_attributes.Opinions(6)
    opinions.update(torch.arange(6), raw)
    assert {v.device.type for v in opinions.mean.values()} == {"cpu"}
    scores = train_attributes.score(trainee.net, torch.zeros(6, 3, 128, 128, dtype=torch.uint8), torch.arange(6))
    assert {v.device.type for v in scores.values()} == {"cpu"}


def test_an_encoder_is_trained_on_the_card(card):
    G = card(lambda: Generator(Config("stylegan2", 16, 128, 16, 2)))
    stages = [{"expand": 0, "out": 8, "kernel": 3, "stride": 2}, *({"expand": 16, "out": 8, "kernel": 3, "stride": 2} for _ in range(3))]
    features = dataclasses.asdict(FeatureConfig("efficientnet-lite0", 64, stages, [0, 1, 2, 3]))
    config = networks.EncoderConfig(features, G.num_ws, 512)
    encoder = card(lambda: networks.Encoder(config))
    made, ws = train_encoder.known_batch(G, 4)
    assert made.device.type == ws.device.type == "cuda"
    assert train_encoder.reconstruction_loss(G, encoder, lambda a, b: (a - b).flatten(1).mean(1), made, spread=0.5).device.type == "cuda"


def test_boundaries_and_measures_are_made_on_the_card(card):
    G = card(lambda: Generator(Config("stylegan2", 128, 512, 16, 2)))
    network = card(lambda: networks.AttributeNet(AttributeConfig()))
    w = make_boundaries.random_w(G, 4, 0.7, 0)
    assert w.device.type == "cuda" and make_boundaries.score(G, network, w[:, None].expand(-1, G.num_ws, -1)).shape == (4, 5)
    assert make_boundaries.follow(w[:, None], torch.zeros(1, 512, dtype=torch.float64), 3.0).device.type == "cuda"
    assert measure.samples(G, 4).device.type == "cpu"
    assert measure.embed(network, torch.zeros(3, 3, 64, 64)).shape == (3, 128)
