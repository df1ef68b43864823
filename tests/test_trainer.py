"""The step of a training: each loss has its weight and sign, each setting does something, and a resumed run is the same run."""

import copy
import dataclasses
import math

import pytest
import torch

from editor import checkpoints
from stylegan_layers import Config as NetworkConfig
from stylegan_layers import Discriminator, Generator
from training import trainer
from training.settings import Config
from training.trainer import Trainer

SIZE = NetworkConfig("stylegan2", 8, 64, 8, 2, z_dim=16, w_dim=16)
N = 4


def new(seed=0, trained=False, rank=0, **settings):
    """A Trainer of small networks, with batches of 4."""
    torch.manual_seed(seed)
    return Trainer(Generator(SIZE), Discriminator(SIZE), Config(**{"batch": N, "warm": 0} | settings), trained=trained, rank=rank)


def real(seed=0):
    return torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tensors(state):
    """All tensors of a state, in order."""
    if torch.is_tensor(state):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [t for part in parts for t in tensors(part)]


def alike(a, b):
    a, b = tensors(a), tensors(b)
    return len(a) == len(b) and all(map(torch.equal, a, b))


@pytest.fixture(autouse=True)
def features_at_64(monkeypatch):
    """The bundled features look at 64x64 instead of 128x128: four times as fast."""
    load = checkpoints.load_features

    def small(path):
        network = load(path)
        network.config = dataclasses.replace(network.config, size=64)
        return network

    monkeypatch.setattr(checkpoints, "load_features", small)


@pytest.fixture
def steps(monkeypatch):
    """A list of (optimiser, loss, rate) of each step that is asked for; none is made."""
    found = []
    monkeypatch.setattr(Trainer, "_step", lambda self, optimiser, loss, weights, rate: found.append((optimiser, loss.item(), rate)))
    return found


def test_a_resumed_run_is_the_same_run():
    settings = {"heads": 0.3, "reconstruct": 2.0, "path_length": 1.0, "augment": "ada", "ada_target": -2.0, "r1_every": 2}
    first, second = new(0, **settings), new(1, **settings)
    for i in range(4):
        first.step(real(i))
    state = copy.deepcopy(first.state())
    first.step(real(4))
    second.load_state(state)
    assert second.shown == 16 and second.p > 0 and second.path_mean != 0 and not alike(first.state(), second.state())
    second.step(real(4))
    assert alike(first.state(), second.state()) and first.path_mean == second.path_mean


@pytest.mark.parametrize("settings, match", [({"heads": 0.1}, "without --heads"), ({"reconstruct": 1.0}, "without --reconstruct"),
                                             ({"batch": 8}, "with --batch 4, not 8")])  # fmt: skip
def test_a_run_does_not_go_on_as_another(settings, match):
    with pytest.raises(ValueError, match=match):
        new(**settings).load_state(new().state())
    if "heads" in settings:
        with pytest.raises(ValueError, match="with --heads"):
            new().load_state(new(**settings).state())


def test_a_state_of_an_older_version_is_read():
    run, other = new(), new(1)
    run.step(real())
    state = copy.deepcopy(run.state()) | {"random": torch.get_rng_state()}
    other.load_state({k: v for k, v in state.items() if k != "batch"})
    run.step(real(1))
    other.step(real(1))
    assert alike(run.state(), other.state())


def test_each_step_draws_anew_and_each_process_for_itself():
    drawn = []
    for rank, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        run = new(rank=rank)
        run.step_count = step
        run._generator_step = lambda *_: drawn.append(torch.rand(1).item()) or trainer.Made(real(), torch.zeros(16))
        run.step(real())
    assert drawn[0] == drawn[3] and len(set(drawn)) == 3


# ---------------------------------------------------------------------------------------------------------------------
# Losses


def test_scores_of_the_real_are_to_rise_and_of_the_fake_to_fall():
    nine = torch.full((4, 1), 9.0)
    assert trainer.log_sigmoid_loss(nine, real=True) < 0.01 < 8 < trainer.log_sigmoid_loss(nine, real=False)


def test_the_discriminator_and_the_heads_learn_to_tell_real_from_fake():
    run = new(heads=1.0, lr=0.01, r1_every=100, heads_share=1.0)
    black, white = -torch.ones(N, 3, 8, 8), torch.ones(N, 3, 8, 8)
    for _ in range(12):
        run._discriminator_step(black, white, 0.01)
        run._heads_step(run._head_features(black), white, 0.01)
    with torch.no_grad():
        assert run.D(white).mean() > run.D(black).mean() + 1
        assert run.heads(run._head_features(white)).mean() > run.heads(run._head_features(black)).mean() + 1


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
def test_fakes_and_real_images_are_scored_as_if_alone(kind):
    """In every batch: minibatch_stddev never puts both kinds into a group, nor other numbers of them than the generator's step does."""
    torch.manual_seed(0)
    size = dataclasses.replace(SIZE, kind=kind)
    run, passes = Trainer(Generator(size), Discriminator(size), Config()), []
    run.D.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    for n in range(1, 33):
        fake, x = torch.randn(2, n, 3, 8, 8)
        passes.clear()
        found = run._both_scores(fake.requires_grad_(True), x)
        assert sum(passes) == 2 * n and (n % 4 or passes == [2 * n])  # the usual batches take one pass
        for scores, images in zip(found, (fake, x), strict=True):
            torch.testing.assert_close(scores, run.D(images)[:, 0], rtol=1e-4, atol=1e-5, msg=f"batch {n}")
        (gradient,) = torch.autograd.grad(found[1].sum() + 0 * fake.sum(), fake)
        assert not gradient.any(), f"batch {n}: a real image's score depends on a fake"


def test_the_generator_learns_to_be_believed():
    run, z = new(lr=0.01), torch.randn(16, 16)
    scores = []
    for _ in range(12):
        with torch.no_grad():
            scores.append(run.D(run.G.synthesis(run.G.mapping(z)[:, None].repeat(1, 4, 1), noise="const")).mean().item())
        run._generator_step(real(), 0.01)
    assert scores[-1] > scores[0] + 0.05


@pytest.mark.parametrize("gamma, r1_every", [(1.0, 1), (3.0, 8)])
def test_r1_is_the_slope_at_real_images(steps, gamma, r1_every):
    run, x = new(gamma=gamma, r1_every=r1_every), real().requires_grad_(True)
    run.step(real())
    (slope,) = torch.autograd.grad(run.D(x).sum(), x)
    generator, discriminator, penalty = steps
    assert [s[0] for s in steps] == [run.opt_g, run.opt_d, run.opt_d] and generator[1] != discriminator[1]
    assert penalty[1] == pytest.approx(gamma / 2 * r1_every * slope.square().sum((1, 2, 3)).mean().item(), rel=1e-4)
    steps.clear()
    run.step(real())
    assert len(steps) == (3 if r1_every == 1 else 2)  # only every `r1_every` steps


def test_the_heads_weight_rises_over_the_ramp(steps):
    run, shares = new(heads=0.5, ramp=2 * N), []
    for _ in range(4):
        run.step(real())
        found, loss = run.tick(), steps[0][1]
        shares.append((loss - found["loss_g"]) / found["loss_g_heads"] / 0.5)
        steps.clear()
    assert shares == pytest.approx([0.0, 0.5, 1.0, 1.0], abs=2e-3)


def test_path_length_is_asked_for_every_eight_steps_with_its_weight(steps):
    run, asked = new(path_length=3.0, r1_every=100), []
    for _ in range(9):
        run.step(real())
        found = run.tick()
        asked.append("path" in found)
        if asked[-1]:
            optimiser, loss, _ = steps[1]
            assert optimiser is run.opt_g and loss == pytest.approx(found["path"] * 3.0 * 8, abs=2e-3) and loss > 0
        steps.clear()
    assert asked == [True, *[False] * 7, True] and 0 < run.path_mean


def test_path_length_is_the_length_of_steps_in_w(steps):
    """Of a generator whose picture is a matrix times the sum of its w, that is the matrix times the noise, whatever w is."""
    run = new(path_length=1.0)
    run.path_mean = 5.0
    matrix = torch.randn(16, 3 * 64)
    run.G.synthesis.forward = lambda ws, noise, dtype: (ws.sum(1) @ matrix).view(-1, 3, 8, 8)
    torch.manual_seed(7)
    trainer.sample_ws(run.G, N // 2, 0.0, "cpu")
    noises = torch.randn(N // 2, 3, 8, 8) / 8  # drawn after the latents, of variance 1 / pixels
    torch.manual_seed(7)
    run._path_length(N, 0.1)
    lengths = (noises.flatten(1) @ matrix.T).norm(dim=1)  # the same for each layer
    mean = 5.0 + 0.01 * (lengths.mean() - 5.0)
    assert run.path_mean == pytest.approx(mean.item()) and steps[0][1] == pytest.approx(
        8 * (lengths - mean).square().mean().item(), rel=1e-4
    )


def test_reconstructions_and_critic_have_their_weights(steps):
    losses = {}
    for name, weights in {"none": (1e-9, 0.0), "reconstruct": (2.0, 0.0), "critic": (1e-9, 2.0)}.items():
        run = new(reconstruct=weights[0], critic=weights[1], r1_every=100)
        torch.manual_seed(3)
        run.step(real())
        losses[name], found = steps[0][1], run.tick()
        assert [s[0] for s in steps] == [run.opt_g, run.opt_c, run.opt_d, run.opt_d]
        steps.clear()
    assert losses["reconstruct"] - losses["none"] == pytest.approx(2 * found["loss_alike"], abs=1e-3)
    assert losses["critic"] - losses["none"] == pytest.approx(
        2 * found["loss_critic"], abs=0.2
    )  # about 2 log 2 each, while it knows nothing


# ---------------------------------------------------------------------------------------------------------------------
# Steps and averages


def test_learning_rates_rise_and_fall(steps):
    run = new(images=1000, warm=100, fall=0.4, lr=0.01)
    expected = {0: 0.04, 40: 0.44, 96: 1.0, 600: 1.0, 800: 0.5, 980: 0.1, 2000: 0.1}
    for shown, share in expected.items():
        run.step_count = shown // N
        assert run.rate(N) == pytest.approx(0.01 * share)
    assert new(images=1000, fall=0.0).rate(N) == 0.0025
    run = new(images=1000, lr=0.01, fall=1.0, heads=1.0, heads_lr=0.003, r1_every=100)
    run.step_count = 125  # the middle
    run.step(real())
    assert [(s[0] is run.opt_h, round(s[2], 6)) for s in steps] == [(False, 0.005), (False, 0.005), (True, 0.0015)]


def test_a_step_has_the_rate_of_its_group():
    run = new(reconstruct=1.0, lr=0.01, encoder_lr=0.002)
    weights = [p for p in run.encoder.parameters() if p.requires_grad]
    sizes = [p.detach().square().mean().sqrt().item() for p in weights]
    run.step(real())
    first, *others = run.opt_g.param_groups
    assert first["lr"] == pytest.approx(0.01) and [group["params"] for group in others] == [[p] for p in weights]
    started = [(group["lr"], 0.002 * size) for group, size in zip(others, sizes, strict=True) if size]
    assert len(started) == len(weights) - 3  # the last layer and the norm's bias start at 0
    for rate, expected in started:
        assert rate == pytest.approx(expected, rel=1e-5)
    assert all(0 < group["lr"] <= 0.002 * (1 + 1e-6) for group in others)  # the norm's weight starts at 1
    assert not any(p.requires_grad for p in run.encoder.features.parameters())


def test_nan_and_infinite_gradients_do_no_harm():
    run = new()
    weight = run.G.mapping.fc0.weight
    before = weight.detach().clone()
    run._step(run.opt_g, (weight * math.nan).sum(), [weight], 0.01)
    assert torch.equal(weight, before)
    run._step(run.opt_g, (weight * math.inf).sum(), [weight], 0.01)
    assert weight.isfinite().all() and (weight < before).all()


def test_a_new_generators_mean_latent_is_learned():
    run = new()
    assert run.G.w_avg.abs().sum() == 0
    run.step(real())
    assert run.G.w_avg.abs().sum() > 0 and run.ema.w_avg.abs().sum() > 0
    before = run.G.w_avg.clone()
    run._average(torch.full((16,), 3.0), N)
    assert torch.allclose(run.G.w_avg, before + 0.005 * (3 - before))


@pytest.mark.parametrize("ranks, share", [(1, 0.5), (2, 0.75)])
def test_averages_halve_what_is_old_in_the_images_of_ema(ranks, share, monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(ranks))
    run = new(trained=True, ema=float(N), reconstruct=1.0)
    run.ranks = ranks
    pairs = [(run.ema.mapping.fc0.weight, run.G.mapping.fc0.weight), (run.encoder_ema.fc1.weight, run.encoder.fc1.weight)]
    before = [average.clone() for average, _ in pairs]
    with torch.no_grad():
        for _, now in pairs:
            now.add_(1.0)
    run._average(torch.zeros(16), N)
    for old, (average, _) in zip(before, pairs, strict=True):
        assert torch.allclose(average, old + share, atol=1e-5)


def test_frozen_blocks_of_the_discriminator_stay():
    run, names = new(freeze_d=1, r1_every=1), ("b8", "b4")
    before = {name: copy.deepcopy(getattr(run.D, name).state_dict()) for name in names}
    run.step(real())
    assert [alike(before[name], getattr(run.D, name).state_dict()) for name in names] == [True, False]
    with pytest.raises(ValueError, match="freeze_d 2: the discriminator has 2 blocks"):
        new(freeze_d=2)


@pytest.mark.parametrize("mixing, low, high", [(0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)])
def test_styles_are_mixed_from_a_layer_on(mixing, low, high):
    torch.manual_seed(0)
    G = Generator(SIZE)
    ws, mean = trainer.sample_ws(G, 200, mixing, "cpu")
    assert ws.shape == (200, 4, 16) and mean.shape == (16,) and not mean.requires_grad and ws.requires_grad
    changes = (ws[:, 1:] != ws[:, :-1]).any(2).sum(1)  # how often w changes from layer to layer
    assert changes.max() <= 1 and low <= changes.sum() <= high
    assert len({tuple(w) for w in ws[:, 0].tolist()}) == 200


def test_augmentation_follows_the_scores():
    run = new(augment="ada", ada_target=-2.0)
    for i in range(8):
        run.step(real(i))
        assert run.p == pytest.approx(4 * N / 500_000 * ((i + 1) // 4))
    run = new(augment="ada", ada_target=1.0)
    run.p = 0.5
    run.sums["sign_real"] = (torch.tensor(-8.0), 8)
    run.step_count = 3
    run.step(real())
    assert run.p == pytest.approx(0.5 - 4 * N / 500_000)
    run.p, run.step_count = 0.0, 7
    run.step(real())
    assert run.p == 0.0
    assert new(augment="diff").p == 1.0 and new().p == 0.0


# ---------------------------------------------------------------------------------------------------------------------
# Settings

CHANGES = {  # each setting: others that it needs, and two values of it that must give other networks after a few steps
    "images": ({"fall": 1.0}, 20, 200),
    "lr": ({}, 0.001, 0.01),
    "fall": ({"images": 16}, 0.0, 1.0),
    "warm": ({}, 0, 100),
    "gamma": ({}, 0.0, 10.0),
    "r1_every": ({"gamma": 5.0}, 1, 3),
    "ema": ({}, 0.5, 50.0),
    "mixing": ({}, 0.0, 1.0),
    "path_length": ({}, 0.0, 2.0),
    "augment": ({}, "none", "diff"),
    "ada_target": ({"augment": "ada"}, -2.0, 1.0),
    "ada_images": ({"augment": "ada", "ada_target": -2.0}, 500_000, 5),
    "heads": ({"ramp": 0}, 0.1, 1.0),
    "ramp": ({"heads": 1.0}, 0, 100),
    "heads_share": ({"heads": 1.0}, 0.5, 1.0),
    "heads_lr": ({"heads": 1.0}, 0.001, 0.01),
    "reconstruct": ({}, 0.1, 8.0),
    "encoder_lr": ({"reconstruct": 1.0}, 0.0001, 0.01),
    "critic": ({"reconstruct": 1.0}, 0.0, 5.0),
    "freeze_d": ({}, 0, 1),
}
ELSEWHERE = {"batch", "tick", "seed"}  # read by the command; test_training.py sees their effect there


def test_every_setting_is_tried():
    assert CHANGES.keys() | ELSEWHERE == {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_does_something(name):
    others, *values = CHANGES[name]
    states = []
    for value in values:
        run = new(**others | {name: value})
        for i in range(5 if name.startswith("ada_") else 3):
            torch.manual_seed(i)
            run.step(real(i))
        states.append(run.state())
    assert not alike(*states)


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda field: field.name)
def test_senseless_settings_are_refused_by_name(field):
    assert len(field.metadata["help"].split()) > 3
    senseless = ["sometimes"] if field.name == "augment" else [-3] if isinstance(field.default, int) else [math.nan, math.inf, -3.0]
    for value in senseless:
        with pytest.raises(ValueError, match=f"--{field.name} {value}: (expected|use) "):
            Config(**{field.name: value})
