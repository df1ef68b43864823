"""The optimiser: its settings do what they say, on a small_G generator; it finds faces, on the bundled one; distances are the papers'."""

import math
from pathlib import Path

import pytest
import torch
import torchvision

import perceptual_model
import stylegan_layers
from editor import checkpoints, projection, settings


class Pixels:
    """A perceptual distance that is plain to compute: the mean absolute difference."""

    def features(self, images):
        return [images]

    def compare(self, a, b):
        return (a[0] - b[0]).abs().flatten(1).mean(1)


@pytest.fixture(scope="module")
def aim():
    """[2, 3, 16, 16]."""
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) - 0.5


def found(small_G, aim, distance=None, **chosen):
    return projection.project(small_G, distance, aim, settings.Config(**{"iteration": 10, "lr": 0.05} | chosen))


def moved(result, small_G):
    return (result.ws - small_G.w_avg).square().mean().item()


@pytest.mark.parametrize("weight", ["lambda_percep", "lambda_mse"])
def test_weights_of_the_losses_count(small_G, aim, weight):
    none = {"lambda_mse": 0.0, "lambda_percep": 0.0}
    one, two = (found(small_G, aim, Pixels(), iteration=0, **none | {weight: w}).loss for w in (1.0, 2.0))
    assert torch.allclose(two, 2 * one) and (one > 0.01).all()


def test_lambda_start_holds_the_latent(small_G, aim):
    assert moved(found(small_G, aim, lambda_start=100.0), small_G) < 0.1 * moved(found(small_G, aim), small_G)


@pytest.mark.parametrize("kind, flag", [(projection.Prior, "lambda_prior"), (projection.Cosine, "lambda_cosine")])
def test_latents_are_held_where_edits_work(small_G, aim, kind, flag):
    far = kind(small_G, "cpu")
    free, held = (far(found(small_G, aim, **{flag: weight}).ws) for weight in (0.0, 1.0))
    assert (held < 0.9 * free).all()


def test_cosine_is_of_the_styles_that_the_layers_take(small_G, G):
    """LSAP's formula anew, on both kinds of generators: it is least for what points as styles do."""
    torch.manual_seed(0)
    second = stylegan_layers.Generator(stylegan_layers.Config("stylegan2", 16, channel_base=256)).freeze()
    for net in (small_G, G, second):
        far, w = projection.Cosine(net, "cpu"), net.mapping(torch.randn(300, 512, generator=torch.Generator().manual_seed(1)))
        ws = w[:3, None].expand(-1, net.num_ws, -1)
        styles = [layer.affine(w) / layer.affine(w).norm(dim=1, keepdim=True) for layer in net.synthesis.layers()]
        cosines = torch.stack([style[:3] @ style.mean(0) for style in styles]).mean(0)
        assert torch.allclose(far(ws), 1 - cosines, atol=0.02) and (far(w.mean(0).expand(1, net.num_ws, -1)) < far(ws)).all()


@pytest.mark.parametrize("space, init", [("w+", "z"), ("w+", "uniform"), ("w", "z"), ("z", "z")])
def test_seed_draws_the_start(small_G, aim, space, init):
    a, b, again = (found(small_G, aim, iteration=0, space=space, init=init, seed=seed).ws for seed in (0, 1, 0))
    assert torch.equal(a, again) and (a - b).abs().max() > 0.01
    assert torch.equal(a[0], a[1])  # one draw for all images


def test_the_rate_rises_stays_and_falls():
    rates = [projection.rate(0.1, "cosine", step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.05) and rates[1:75] == pytest.approx([0.1] * 74)
    assert rates[74:] == sorted(rates[74:], reverse=True) and rates[86] > 0.05 > rates[87] and rates[99] == pytest.approx(0)
    assert [projection.rate(0.1, "constant", step, 100) for step in (0, 99)] == [0.1, 0.1]


def test_starts(small_G, aim):
    for init, expected in (("mean", small_G.w_avg.expand(2, 6, -1)), ("zeros", torch.zeros(2, 6, 512))):
        assert torch.equal(found(small_G, aim, iteration=0, init=init).ws, expected)
    given = torch.randn(2, 6, 512, generator=torch.Generator().manual_seed(2))
    assert torch.equal(found(small_G, aim, iteration=0, init=given).ws, given)
    assert torch.equal(found(small_G, aim, iteration=0, init=given[1:]).ws, given[1:].expand(2, -1, -1))
    with pytest.raises(ValueError, match="3 latents to start 2"):
        found(small_G, aim, init=torch.zeros(3, 6, 512))


@pytest.mark.parametrize("init", ["mean", "zeros", torch.zeros(1, 6, 512)])
def test_space_z_starts_from_z_alone(small_G, aim, init):
    with pytest.raises(ValueError, match="starts from --init z"):
        found(small_G, aim, space="z", init=init)


def test_inpainting_moves_the_first_and_the_last_two_layers(small_G):
    assert projection.inpainting(small_G, 101) == {"w_iteration": 50, "iteration": 51, "layers": [0, 1, 4, 5], "lambda_start": 1.0}


def test_why_the_first_stage_stopped_is_not_why_the_last_did(small_G, aim, monkeypatch):
    descend, seen = projection.descend, []

    def first_stops(variables, evaluate, iteration, config, result, *rest):
        loss = descend(variables, evaluate, iteration, config, result, *rest)
        seen.append(config.space)
        if len(seen) == 1:
            result.stopped = "the loss no longer falls"
        return loss

    monkeypatch.setattr(projection, "descend", first_stops)
    both = found(small_G, aim, w_iteration=1, iteration=1)
    assert seen == ["w", "w+"] and both.stopped is None and both.steps == 2


def test_early_stop_ends_a_descent_that_no_longer_falls(small_G, aim):
    flat = found(small_G, aim, iteration=400, lambda_mse=0.0, early_stop=1e-3, check_every=1000)
    assert flat.stopped == "the loss no longer falls" and flat.steps == 201
    assert found(small_G, aim, iteration=110, early_stop=0.0).steps == 110


def test_stopped_in_the_first_stage_nothing_follows(small_G, aim):
    def stop(step, losses):
        raise KeyboardInterrupt

    config = settings.Config(w_iteration=5, iteration=5, noise_iteration=5)
    result = projection.project(small_G, None, aim, config, stop)
    assert isinstance(result.interrupted, KeyboardInterrupt) and result.steps == 1 and result.stopped == "Ctrl-C"
    assert torch.equal(result.ws[:, 0], result.ws[:, -1]) and result.noise_loss is None


def test_each_image_says_whether_it_diverged(small_G, aim):
    bad = aim.clone()
    bad[1, 0, 0, 0] = math.nan
    result = found(small_G, bad, iteration=3)
    assert result.diverged == [False, True] and result.steps == 3 and result.stopped is None
    assert torch.equal(result.ws[1], small_G.w_avg.expand(6, -1)) and not torch.equal(result.ws[0], result.ws[1])


@pytest.mark.parametrize("name", ["lr", "noise_lr", *settings.WEIGHTS])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_senseless_rates_and_weights_are_refused(name, value):
    with pytest.raises(ValueError, match=f"--{name}"):
        settings.Config(**{name: value})


@pytest.mark.parametrize(
    "chosen, said",
    [
        ({"iteration": -1}, "--iteration"),
        ({"noise_iteration": -1}, "--noise_iteration"),
        ({"lr": 0.0}, "above 0"),
        ({"space": "x"}, "--space"),
        ({"schedule": "x"}, "--schedule"),
        ({"init": "x"}, "--init"),
        ({"layers": [1], "space": "w"}, "--layers needs"),
    ],
)
def test_other_senseless_settings_are_refused(chosen, said):
    with pytest.raises(ValueError, match=said):
        settings.Config(**chosen)


@pytest.mark.parametrize("layers", [[6], [-1]])
def test_layers_that_are_not_there(small_G, aim, layers):
    with pytest.raises(ValueError, match="0 to 5"):
        found(small_G, aim, layers=layers)


def test_parts_take_their_own_start_and_noise(small_G):
    three = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) - 0.5
    ws = torch.randn(3, 6, 512, generator=torch.Generator().manual_seed(2))
    maps = [torch.randn(3, 1, y.resolution, y.resolution, generator=torch.Generator().manual_seed(4)) for y in small_G.synthesis.layers()]
    config = settings.Config(iteration=0, init=ws, noise=maps)
    parts = list(projection.project_in_parts(small_G, None, projection.Goal(three), config, size=2))
    assert [(first, last) for first, last, _ in parts] == [(0, 2), (2, 3)]
    for first, last, part in parts:
        assert torch.equal(part.ws, ws[first:last])
        assert all(torch.equal(a, b[first:last]) for a, b in zip(part.noise, maps, strict=True))


def test_a_goals_part_is_of_its_images(aim):
    goal = projection.Goal(aim, mask=torch.ones(1, 1, 16, 16), gram=torch.tensor([1.0, 0.0]))
    part = goal.part(1, 2)
    assert torch.equal(part.image, aim[1:]) and len(part.mask) == 1 and part.gram.tolist() == [0.0] and part.style is None


def test_content_weighs_each_image(small_G, aim):
    whole = projection.project(small_G, None, projection.Goal(aim), settings.Config(iteration=0)).loss
    halves = projection.project(small_G, None, projection.Goal(aim, content=torch.tensor([1.0, 0.5])), settings.Config(iteration=0)).loss
    assert torch.allclose(halves, whole * torch.tensor([1.0, 0.5]))


def test_the_gram_loss_looks_at_the_deepest_features(small_G, aim):
    class Two(Pixels):
        def features(self, images):
            return [images, 2 + images[:, :1] * images[:, 1:2]]

    goal = projection.Goal(aim, content=torch.zeros(2), gram=torch.ones(2))
    found = projection.project(small_G, Two(), goal, settings.Config(iteration=0))
    drawn = small_G.synthesis(found.ws)
    ours, wanted = (perceptual_model.gram(2 + x[:, :1] * x[:, 1:2]) for x in (drawn, aim))
    assert torch.allclose(found.loss, (ours - wanted).square().sum((1, 2)) / wanted.square().sum((1, 2)))


def test_noise_maps_move_by_their_rate_however_small_the_gradient(small_G, aim):
    maps = projection.NoiseMaps(small_G, settings.Config(noise_iteration=1), 2, "cpu")
    evaluate = lambda: (sum(v.value.flatten(1).sum(1) for v in maps.variables) * 1e-9, aim)  # noqa: E731
    projection.descend(maps.variables, [(0, evaluate)], 1, settings.Config(schedule="constant"), projection.Projection(ws=None, loss=None))
    assert all(torch.allclose(v.value, torch.full_like(v.value, -0.02), rtol=0.01) for v in maps.variables)


# ---------------------------------------------------------------------------------------------------------------------
# On the bundled generator


@pytest.fixture(scope="module")
def made(G):
    """Two images of known latents."""
    z = torch.randn(2, 512, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return G(z, truncation_psi=0.7)


def test_made_images_are_recovered_and_a_batch_equals_singles(G, made):
    config = settings.Config(iteration=100, lr=0.05)
    distance = checkpoints.load_features(checkpoints.BUNDLED["features"])
    both = projection.project(G, distance, made, config)

    def psnr(ws, target):
        with torch.no_grad():
            return -10 * ((G.synthesis(ws).clamp(-1, 1) - target.clamp(-1, 1)) / 2).square().mean().log10().item()

    assert psnr(both.ws[1:], made[1:]) > 27
    assert both.history[0][1].mean() > 5 * both.loss.mean()
    # what no latent can show ends the descent where photographs end it, not where rounding decides
    grain = 0.2 * torch.randn(made.shape, generator=torch.Generator().manual_seed(0))
    grainy = made + grain
    both, one = (projection.project(G, distance, part, config) for part in (grainy, grainy[1:]))
    assert abs(psnr(both.ws[1:], grainy[1:]) - psnr(one.ws, grainy[1:])) < 0.1


@pytest.mark.parametrize("space, init", [("w", "mean"), ("z", "z"), ("w+", "zeros"), ("w+", "uniform"), ("w+", "z")])
def test_spaces_and_starts_lower_the_loss(G, made, space, init):
    found = projection.project(G, None, made, settings.Config(iteration=15, space=space, init=init, lr=0.05))
    assert (found.loss < found.history[0][1]).all() and found.ws.shape == (2, G.num_ws, 512)
    if space != "w+":
        assert torch.equal(found.ws[:, 0], found.ws[:, -1])


def test_bfloat16_finds_about_the_same(G, made):
    full = projection.project(G, None, made, settings.Config(iteration=10, lr=0.02))  # not chaotic yet, as at 0.1
    half = projection.project(G, None, made, settings.Config(iteration=10, lr=0.02, dtype=torch.bfloat16))
    assert torch.allclose(half.loss, full.loss, rtol=0.05) and not torch.equal(half.ws, full.ws)


def test_only_chosen_layers_move(G, made):
    found = projection.project(G, None, made, settings.Config(iteration=5, layers=[2, 3]))
    moved = (found.ws - G.w_avg).abs().amax(dim=(0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == [2, 3]


def test_divergence_keeps_the_best(G, made):
    found = projection.project(G, None, made, settings.Config(iteration=40, lr=1e30, schedule="constant"))
    assert found.ws.isfinite().all() and found.loss.isfinite().all()


def test_interruption_keeps_the_best(G, made):
    def stop(step, losses):
        if step >= 20:
            raise KeyboardInterrupt

    found = projection.project(G, None, made, settings.Config(iteration=500), stop)
    assert found.stopped == "Ctrl-C" and (found.loss < found.history[0][1]).all()


def test_vgg_features_are_torchvisions():
    torch.manual_seed(0)
    vgg = torchvision.models.vgg16(weights=None).eval()
    ours = perceptual_model.VGG16(("conv1_1", "conv3_2", "conv4_2"), size=None).load_torchvision(vgg.state_dict())
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    normalised = torchvision.transforms.functional.normalize((x + 1) / 2, perceptual_model.IMAGENET_MEAN, perceptual_model.IMAGENET_STD)
    for got, index in zip(ours.features(x), (1, 13, 20), strict=True):
        with torch.no_grad():
            expected = vgg.features[: index + 1](normalised)
        assert got.shape == expected.shape and torch.allclose(got, expected, atol=1e-4)


def test_lpips_is_the_packages():
    import lpips

    torch.manual_seed(0)
    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    state = {f"features.{i}.{p}": getattr(m, p) for s in range(1, 6) for i, m in getattr(theirs.net, f"slice{s}").named_children()
             if hasattr(m, "weight") for p in ("weight", "bias")}  # fmt: skip
    ours = perceptual_model.LPIPS(size=None).load_torchvision(state)
    path = Path(lpips.__file__).parent / "weights/v0.1/vgg.pth"
    ours.load_linear(torch.load(path, weights_only=True, map_location="cpu"))
    a, b = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(ours(a, b), theirs(a, b).flatten(), rtol=1e-4)
