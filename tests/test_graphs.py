"""A step recorded as a CUDA graph, held to the plain one by what stands in for the card."""

import contextlib
import dataclasses
import functools
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from editor import coarse, graphs, projection, session, settings


class Card:
    """What stands in for torch.cuda: a graph keeps PyTorch's operations that ran while it was recorded, with their tensors, and replays
    those alone. So what a step computes outside of them, or from values that Python saw once, comes out wrong, as it would on a card.
    """

    FORBIDDEN = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal")  # they wait for the card, which no graph can

    def __init__(self):
        self.graphs, self.fails, self.current = [], None, None

    def CUDAGraph(self):
        self.graphs.append(SimpleNamespace(operations=[], replays=0))
        self.graphs[-1].replay = functools.partial(self.again, self.graphs[-1])
        return self.graphs[-1]

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda other: None)

    current_stream = Stream

    def stream(self, one):
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def device(self, one):
        before, self.current = self.current, one
        yield
        self.current = before

    @contextlib.contextmanager
    def graph(self, one, stream, capture_error_mode):
        if self.fails:
            raise RuntimeError(self.fails)
        assert self.current == torch.device("cpu")  # the tensors' own card, and not whichever was the process's
        forbidden = self.FORBIDDEN

        class Recorder(TorchDispatchMode):
            def __torch_dispatch__(self, operation, types, words=(), named=None):
                if operation.name().split(".")[0] in forbidden:
                    raise RuntimeError(f"{operation.name()} is not permitted when stream is capturing")
                found = operation(*words, **(named or {}))
                one.operations.append((operation, words, named or {}, found))
                return found

        with Recorder():
            yield

    @torch.no_grad()
    def again(self, one):
        assert self.current == torch.device("cpu")
        one.replays += 1
        for operation, words, named, found in one.operations:
            new = operation(*words, **named)
            for old, one_new in zip(*(tree_leaves(x) for x in (found, new)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != one_new.data_ptr():  # neither a view nor in place
                    old.copy_(one_new)


@pytest.fixture
def card(monkeypatch):
    one = Card()
    monkeypatch.setattr(graphs.Captured.__init__, "__defaults__", (one,))
    return one


@pytest.mark.parametrize(
    "settings_of",
    [
        {"iteration": 6},
        {"iteration": 4, "layers": [2, 3], "lambda_start": 0.5, "lambda_cosine": 0.1},
        {"iteration": 3, "noise_iteration": 4},
        {"iteration": 4, "joint": True, "lambda_noise": 0.1},
        {"iteration": 2, "w_iteration": 3, "low_memory": True},
        {"iteration": 3, "space": "z", "init": "z"},
    ],
    ids=lambda said: "-".join(said),
)
def test_a_recorded_step_finds_what_plain_steps_find(small_G, card, settings_of):
    config = settings.Config(lambda_percep=0, check_every=1, **settings_of)
    target = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wanted = projection.project(small_G, None, target, config)
    found = projection.project(small_G, None, target, dataclasses.replace(config, capture=True))
    assert found.not_compiled is None and sum(one.replays for one in card.graphs) == config.steps
    assert len(card.graphs) == sum(map(bool, (config.w_iteration, config.iteration, config.noise_iteration)))
    assert torch.allclose(found.ws, wanted.ws, atol=1e-5) and torch.allclose(found.loss, wanted.loss, atol=1e-5)
    assert all(map(torch.allclose, found.noise or [], wanted.noise or []))
    assert all(torch.allclose(mine, other, atol=1e-5) for (_, mine), (_, other) in zip(found.history, wanted.history, strict=True))


def test_a_recorded_step_takes_a_distance_and_pictures_of_half_the_side(G, card):
    target = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config, distance = settings.Config(iteration=coarse.FEWEST, coarse=0.5), session.load_distance("bundled", torch.device("cpu"))
    wanted = projection.project(G, distance, target, config)
    found = projection.project(G, distance, target, dataclasses.replace(config, capture=True))
    assert len(card.graphs) == 2 and torch.allclose(found.ws, wanted.ws, atol=1e-3)


def test_a_gradient_of_a_recorded_step_goes_with_each_images_weight(small_G, card):
    def plain(ws, maps):
        images = small_G.synthesis(ws, noise=maps)
        return images.square().mean((1, 2, 3)), images

    ws = torch.randn(2, small_G.num_ws, small_G.config.w_dim, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    weights = torch.tensor([0.5, -2.0])
    recorded = graphs.Captured(plain)
    for scale in (1.0, 0.3):
        (wanted,) = torch.autograd.grad((plain(ws * scale, "const")[0] * weights).sum(), ws)
        losses, images = recorded(ws * scale, "const")
        (found,) = torch.autograd.grad((losses * weights).sum(), ws)
        assert torch.allclose(found, wanted, atol=1e-6) and torch.allclose(images, plain(ws * scale, "const")[1], atol=1e-5)


def test_what_cannot_be_recorded_is_said_and_the_steps_run(small_G, card):
    card.fails = "operation not permitted\nwhen stream is capturing"
    on_card = type("OnCard", (session.Session,), {"captures": property(lambda self: self.compile == "auto")})
    found = on_card(small_G, torch.device("cpu"), torch.float32, perceptual="none")
    parts = list(found.embed(projection.Goal(torch.zeros(2, 3, 16, 16)), settings.Config(iteration=3, lambda_percep=0), size=1))
    assert [part.steps for *_, part in parts] == [3, 3] and found.compile == "off" and len(found.remarks) == 1
    assert "operation not permitted when stream is capturing" in found.remarks[0]
    card.fails = "CUDA out of memory"
    with pytest.raises(ValueError, match="out of memory with a single image"):
        config = settings.Config(iteration=3, lambda_percep=0, capture=True)
        list(projection.project_in_parts(small_G, None, projection.Goal(torch.zeros(1, 3, 16, 16)), config))


def test_cards_record_unless_they_are_told_otherwise():
    def one(device, choice):
        return session.Session(SimpleNamespace(resolution=1024), torch.device(device), torch.float32, compile=choice)

    assert one("cuda", "auto").captures and "CUDA graph" in one("cuda", "auto").way(settings.Config())
    assert not any(one(*words).captures for words in (("cuda", "on"), ("cuda", "off"), ("cpu", "auto"), ("mps", "auto")))
    assert one("cuda", "on").way(settings.Config()) == "compile on"
