"""Coarse first (editor/coarse.py): the read-out is a fit, early steps stop at half the side, and what counts is the whole picture."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import stylegan_layers
from editor import checkpoints, coarse, projection, settings


@pytest.fixture(scope="module", params=["stylegan1", "stylegan2"])
def small(request):
    torch.manual_seed(0)
    G = stylegan_layers.Generator(stylegan_layers.Config(request.param, 64, channel_base=512, channel_max=32, mapping_layers=2))
    for layer in G.synthesis.layers():
        layer.noise_strength.data.fill_(0.1)
    yield G.freeze()
    coarse._found.cache_clear()


@pytest.fixture(autouse=True)
def any_guess(monkeypatch):
    """Networks of random weights: features of one face say nothing of another one's."""
    monkeypatch.setattr(coarse, "LEAST", -100)


def goal_of(G, seed=1):
    with torch.no_grad():
        return projection.Goal(G(torch.randn(1, 512, generator=torch.Generator().manual_seed(seed))).clamp(-1, 1))


def test_the_readout_is_the_best_linear_guess(small):
    fitted, generator = coarse.fit(small, count=4), torch.Generator().manual_seed(0)
    assert fitted.weight.shape == (3, 16) and fitted.bias.shape == (3,)
    with torch.no_grad():
        ws = torch.cat([small.truncate(small.mapping(torch.randn(1, 512, generator=generator))) for _ in range(4)])
        whole = F.avg_pool2d(small.synthesis(ws), 2)

        def error(by):
            half = coarse.Half(small, lambda torgb: coarse.ReadOut(by * fitted.weight, fitted.bias, torgb))
            image = half.synthesis(ws)
            assert image.shape == (4, 3, 32, 32)
            return (image - whole).square().mean().item()

        assert error(1) < min(error(0.9), error(1.1), error(0))
    assert small.synthesis(ws).shape == (4, 3, 64, 64), "the generator itself is as it was"


def test_the_bundled_readout_is_the_bundled_generators(G):
    kept = coarse.read(checkpoints.BUNDLED["readout"], G)
    again = coarse.fit(G, count=24)  # of eight alone the cosine is 0.89
    assert kept.psnr > kept.plain + 2 and abs(kept.psnr - again.psnr) < 1.5
    assert F.cosine_similarity(kept.weight.flatten(), again.weight.flatten(), dim=0) > 0.9


def test_a_readout_is_found_once_for_a_generator(small, tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_EDITOR_CACHE", str(tmp_path))
    monkeypatch.setattr(small, "meta", {"hash": "ab" * 32}, raising=False)
    coarse._found.cache_clear()
    config = settings.Config(iteration=30, coarse=0.5)
    assert coarse.missing(small, config) and not coarse.missing(small, settings.Config(iteration=30))
    assert not coarse.missing(small, settings.Config(iteration=10, coarse=0.5))
    first = coarse._found(small)
    assert not coarse.missing(small, config)
    (path,) = tmp_path.rglob("*.safetensors")
    monkeypatch.setattr(coarse, "fit", None)
    coarse._found.cache_clear()
    assert torch.equal(coarse._found(small).weight, first.weight)
    for bad in (b"no file of tensors", b""):  # or another generator's: found anew
        path.write_bytes(bad)
        assert coarse.read(path, small) is None
    coarse.write(path, first, small)
    monkeypatch.setattr(small, "meta", {"hash": "cd" * 32})
    assert coarse.read(path, small) is None
    coarse._found.cache_clear()


@pytest.mark.parametrize("share, half", [(0.5, 10), (0.0, 0), (1.0, 20)])
def test_early_steps_see_half_the_side_and_the_loss_is_the_whole_pictures(small, share, half):
    goal, sides = goal_of(small), []
    config = settings.Config(iteration=20, coarse=share, show_every=1)
    objective = projection.objective

    def seen(G, distance, goal, config):
        look = objective(G, distance, goal, config)
        return lambda ws, maps: sides.append(goal.image.shape[2]) or look(ws, maps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "objective", seen)
        shown = []
        found = projection.project(small, None, goal, config, show=lambda step, images: shown.append(tuple(images.shape[2:])))
    assert sides == [32] * half + [64] * (20 - half) + [64] and shown == [(64, 64)] * 20
    with torch.no_grad():
        images = small.synthesis(found.ws)
    assert torch.allclose(found.loss, (images - goal.image).square().flatten(1).mean(1), atol=1e-5)


def test_ctrl_c_among_the_early_steps_keeps_what_they_found_with_the_whole_pictures_loss(small):
    goal, steps = goal_of(small), []

    def stop(step, losses):
        steps.append(step)
        if len(steps) == 8:
            raise KeyboardInterrupt

    config = settings.Config(iteration=100, coarse=0.9, check_every=1)
    found = projection.project(small, None, goal, config, stop)
    with torch.no_grad():
        loss = (small.synthesis(found.ws) - goal.image).square().mean()
    assert found.interrupted and torch.allclose(found.loss, loss, atol=1e-5) and found.steps == 8


def test_where_it_does_not_pay_or_is_more_than_an_image_no_step_is_coarse(small, small_G):
    goal, config = goal_of(small), settings.Config(iteration=100, coarse=0.5)
    assert coarse.first(small, config, goal) == 50
    mask = torch.ones(1, 1, 64, 64)
    others = [projection.Goal(goal.image, mask=mask), projection.Goal(goal.image, style=goal.image), projection.Goal(goal.image, gram=mask)]
    assert not any(coarse.first(small, config, one) for one in others)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coarse, "LEAST", coarse.found(small).psnr + 1)
        assert not coarse.first(small, config, goal)
    few = [settings.Config(iteration=10, coarse=0.5), settings.Config(iteration=100)]
    few += [settings.Config(iteration=100, coarse=0.5, **{name: True}) for name in ("joint", "compile")]
    few.append(settings.Config(iteration=100, coarse=0.5, layers=[small.num_ws - 1]))  # a layer that pictures of half the side have not
    assert not any(coarse.first(small, one, goal) for one in few) and not coarse.first(small_G, config, goal)
    with pytest.raises(ValueError, match="--coarse 1.5: a share"):
        settings.Config(coarse=1.5)


def test_rows_that_may_not_move_cost_no_gradient(small):
    ws, layers = small.w_avg.repeat(2, small.num_ws, 1), [6, 7, 9]
    ws += 0.1 * torch.randn(ws.shape, generator=torch.Generator().manual_seed(0))
    ws.requires_grad_(True)
    (whole,) = torch.autograd.grad(small.synthesis(ws).square().sum(), ws)
    reached, hooks = {}, []
    for i, layer in enumerate(small.synthesis.layers()):
        hooks.append(layer.register_forward_hook(lambda _, __, out, i=i: reached.__setitem__(i, out.requires_grad)))
    image = small.synthesis(projection.Rows(ws, layers))
    for hook in hooks:
        hook.remove()
    (part,) = torch.autograd.grad(image.square().sum(), ws)
    assert torch.equal(part[:, layers], whole[:, layers]) and reached == {i: i >= 6 for i in reached}
    assert not part[:, [i for i in range(small.num_ws) if i not in layers]].any()
    found = projection.project(small, None, goal_of(small), settings.Config(iteration=4, layers=layers))
    assert ((found.ws - small.w_avg).abs().sum((0, 2)) > 0).nonzero().flatten().tolist() == layers


def test_a_folder_finds_its_generators_readout_before_its_processes_start_and_says_so(encode, photographs, G, monkeypatch, capsys):
    found = []
    monkeypatch.setattr(coarse, "missing", lambda G, config: True)
    monkeypatch.setattr(coarse, "found", lambda G: found.append(G))
    assert encode() == 0 and found == [G] and "once for this generator: finding" in capsys.readouterr().err
    assert encode() == 0 and found == [G]  # all is done


def test_adams_betas_are_the_presets(monkeypatch, tmp_path):
    import encode_image

    for words, betas in (([], (0.8, 0.95)), (["--preset", "exact"], (0.8, 0.95)), (["--preset", "latenteditor"], (0.9, 0.999))):
        args = encode_image.settled(encode_image.flags().parse_args([*words, "--perceptual", "none", "--device", "cpu"]))
        from editor import session as sessions

        config, *_ = encode_image.configure(args, sessions.open(args))
        assert config.betas == betas and bool(config.coarse) == (betas == (0.8, 0.95))
    used, adam = [], torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *words, **more: used.append(more["betas"]) or adam(*words, **more))
    value = projection.Variable(torch.zeros(1), 0.1, torch.ones(()))
    result = projection.Projection(ws=None, loss=None)
    projection.descend([value], [(0, lambda: (value.value.square(), value.value))], 2, settings.Config(betas=(0.5, 0.6)), result)
    assert used == [(0.5, 0.6)] and Path(checkpoints.BUNDLED["readout"]).is_file()
