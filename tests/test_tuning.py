"""Weights tuned around a face (editor/tuning.py): worn, found, moved and mixed, on disk. Commands: test_wearing.py."""

import copy
import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import image_morphing
from editor import checkpoints, face, fast_conv, files, projection, render, tuning
from editor.settings import Config, Tuning
from stylegan_layers import Config as Network
from stylegan_layers import Freezable, Generator

KINDS = ["stylegan1", "stylegan2"]
PIXELS = Config(lambda_percep=0)


def network(kind, resolution=16, channel_base=128, **more):
    """A frozen random generator whose noise acts and whose mean latent is that of its mapping."""
    torch.manual_seed(0)
    G = Generator(Network(kind, resolution, channel_base, mapping_layers=2, **more))
    for layer in G.synthesis.layers():
        layer.noise_strength.data.fill_(0.1)
    with torch.no_grad():
        G.w_avg.copy_(G.mapping(torch.randn(256, 512)).mean(0))
    G.meta = {"hash": "1" * 64, "path": "random", "perceptual": None}
    return G.freeze()


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    """G; ws [3, L, 512], three of its faces; image [3, 3, 16, 16], what three others render to; tuned, random weights of two faces."""
    G = network(request.param)
    with torch.no_grad():
        w = G.mapping(torch.randn(6, 512, generator=torch.Generator().manual_seed(1)))[:, None].repeat(1, G.num_ws, 1)
        image = G.synthesis(w[3:]).clamp(-1, 1)
    return SimpleNamespace(G=G, ws=w[:3], image=image, tuned=[some(G, 1), some(G, 2)])


def some(G, seed, form="kernel", size=0.2):
    """Random tuned weights."""
    random = torch.Generator().manual_seed(seed)
    return {name: (size * torch.randn(value.shape, generator=random)).half() for name, value in tuning.zeros(G, form).items()}


def alike(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def drawn(G, ws, noise="const"):
    with torch.no_grad():
        return G.synthesis(ws, noise=noise)


# ---------------------------------------------------------------------------------------------------------------------
# Worn


@pytest.mark.parametrize("form", ["kernel", "full"])
def test_worn_is_a_generator_whose_weights_were_changed(case, form):
    tuned, other = some(case.G, 3, form), copy.deepcopy(case.G)
    for name, delta in tuned.items():
        value = other.synthesis.get_parameter(name)
        value.data.copy_(value * (1 + delta.float()) if "conv" in name and "weight" in name and form == "kernel" else value + delta.float())
    wanted = drawn(other.freeze(), case.ws)
    assert torch.equal(drawn(tuning.worn(case.G, tuned), case.ws), wanted)
    assert (wanted - drawn(case.G, case.ws)).abs().mean() > 0.05
    for name in tuned:  # each of them acts
        assert not torch.equal(drawn(tuning.worn(case.G, {name: tuned[name]}), case.ws), drawn(case.G, case.ws)), name


def test_nothing_to_wear_is_the_generator(case, tmp_path):
    G, (a, _) = case.G, case.tuned
    assert tuning.worn(G, None) is G and tuning.worn(G, {}) is G and tuning.scaled(a, 0.0, G) is None and alike(tuning.scaled(a, 1.0, G), a)
    face.write(tmp_path / "a.npy", case.ws[:1], {"generator_hash": G.meta["hash"]}, None, a)
    base = face.read(tmp_path / "a.npy", G, strength=0.0)
    assert base.tuned is None and np.array_equal(render.one(G, base), render.one(G, face.Face(case.ws[:1])))
    half = face.read(tmp_path / "a.npy", G, strength=0.5).tuned
    assert all(torch.equal(half[name], (0.5 * a[name].float()).half()) for name in a)


def test_worn_leaves_the_generator_as_it_is(case):
    G = case.G
    frozen = {name: module.frozen for name, module in G.named_modules() if isinstance(module, Freezable)}
    before, picture, values = {k: v.clone() for k, v in G.state_dict().items()}, drawn(G, case.ws), dict(G.named_parameters())
    net = tuning.worn(G, case.tuned[0])
    net.synthesis.b8.conv1.register_forward_hook(lambda *_: torch.zeros(()))
    net.synthesis.b4.const.zero_()
    assert all(torch.equal(v, before[k]) for k, v in G.state_dict().items()) and torch.equal(drawn(G, case.ws), picture)
    assert all(value is values[name] and not value.requires_grad for name, value in G.named_parameters())
    assert all(module.frozen is frozen[name] for name, module in G.named_modules() if isinstance(module, Freezable))
    assert not any(module._forward_hooks for module in G.modules())
    assert net.mapping is G.mapping and net.synthesis.b8.conv1.affine is G.synthesis.b8.conv1.affine, "what is not changed is shared"


def test_worn_takes_the_fast_way_which_is_the_plain_one(case, monkeypatch):
    net = tuning.worn(case.G, case.tuned[0])
    assert all(module.frozen is not None for module in net.modules() if isinstance(module, Freezable))
    fast, usable = drawn(net, case.ws), []
    monkeypatch.setattr(fast_conv, "usable", lambda layer, x: usable.append(layer))  # None: the plain way
    plain = drawn(net, case.ws)
    assert usable and torch.allclose(fast, plain, rtol=1e-3, atol=1e-4 * plain.abs().max())


# ---------------------------------------------------------------------------------------------------------------------
# Found


def tuned_by(case, config=PIXELS, first=0, last=1, **settings):
    goal = projection.Goal(case.image[first:last])
    return tuning.tune(case.G, None, goal, case.ws[first:last], config, Tuning(**{"steps": 20, "locality": 0.0, "from_side": 4} | settings))


@pytest.mark.parametrize("form", ["kernel", "full"])
def test_tuning_comes_nearer_and_changes_nothing_else(case, form):
    G, before, ws = case.G, {k: v.clone() for k, v in case.G.state_dict().items()}, case.ws.clone()
    found = tuned_by(case, form=form, locality=0.5)
    (tuned,) = found.tuned
    error = [(drawn(net, ws[:1]) - case.image[:1]).square().mean().item() for net in (G, tuning.worn(G, tuned))]
    assert error[1] < 0.5 * error[0] and found.steps == 20 and found.stopped is None and found.diverged == [False]
    assert found.loss.tolist() == pytest.approx([4 * error[1]], rel=0.05), "the loss is that of the float16 weights, with pixels = 4"
    assert torch.equal(found.ws, ws[:1]) and all(torch.equal(v, before[k]) for k, v in G.state_dict().items())
    assert alike(tuned_by(case, form=form, locality=0.5).tuned[0], tuned), "seeded"
    for name, delta in tuned.items():
        shape = list(G.synthesis.get_parameter(name).shape)
        kernels = name.endswith("weight") and "conv" in name and form == "kernel"
        assert delta.dtype == torch.float16 and list(delta.shape) == ([*shape[:2], 1, 1] if kernels else shape)
    left = {name for name, _ in G.synthesis.named_parameters()} - tuned.keys()
    assert all("affine" in name or "noise_strength" in name for name in left)


def test_coarse_layers_stay_as_they_are(case):
    all_of_them, without = (set(tuned_by(case, steps=2, from_side=side).tuned[0]) for side in (4, 8))
    assert without == {name for name in all_of_them if not name.startswith("b4.")} and any("b8." in name for name in without)
    assert Tuning().from_side > 8 and tuned_by(case, steps=2, from_side=64).tuned[0].keys() < without, "the last block, at least"


@torch.no_grad()
def drift(case, tuned):
    """Mean squared change of faces as near the pivot as the regulariser's, drawn otherwise."""
    G, random = case.G, torch.Generator().manual_seed(9)
    near = Tuning().reach * tuning.usual_distance(G)
    away = G.truncate(G.mapping(torch.randn(8, 512, generator=random)), 0.7) - case.ws[:1]
    ws = case.ws[:1] + away * (near / away.norm(dim=2, keepdim=True))
    return (drawn(tuning.worn(G, tuned), ws) - drawn(G, ws)).square().mean().item()


def test_locality_holds_other_faces(case):
    free, held = (drift(case, tuned_by(case, steps=30, locality=locality, locality_every=1).tuned[0]) for locality in (0.0, 3.0))
    assert held < 0.6 * free


def test_sizes_of_files(G, tmp_path):
    def size(G, form):
        return 2 * sum(value.numel() for value in tuning.zeros(G, form).values())

    with torch.device("meta"):
        official = {kind: Generator(Network(kind, 1024, 32768)) for kind in KINDS}
    for large in official.values():
        assert 5e6 < size(large, "kernel") < 6e6 < 40e6 < size(large, "full")
    tuning.write(tmp_path / "a.tuned.safetensors", {name: value.half() for name, value in tuning.zeros(G, "kernel").items()}, "")
    assert size(G, "kernel") < (tmp_path / "a.tuned.safetensors").stat().st_size < 1e6


def test_low_memory_and_other_formats_find_weights_too(case, monkeypatch):
    plain, kept = tuned_by(case, locality=0.5).tuned[0], []
    monkeypatch.setattr(projection, "LOW_MEMORY_FROM", 8)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        tuned_by(case, steps=1)
        much, _ = sum(kept), kept.clear()
        tuned_by(case, dataclasses.replace(PIXELS, low_memory=True), steps=1)
    assert sum(kept) < 0.8 * much
    little = tuned_by(case, dataclasses.replace(PIXELS, low_memory=True), locality=0.5).tuned[0]
    assert all(torch.allclose(little[name].float(), plain[name].float(), atol=2e-3) for name in plain)
    coarse = tuned_by(case, dataclasses.replace(PIXELS, dtype=torch.bfloat16))
    net = tuning.worn(case.G, coarse.tuned[0])
    error = [(drawn(g, case.ws[:1]) - case.image[:1]).square().mean() for g in (case.G, net)]
    assert error[1] < 0.5 * error[0] and coarse.tuned[0]["b4.const"].dtype == torch.float16


def test_tune_until_ends_when_every_image_is_near_enough(case):
    def near(tuned, i):
        image = drawn(tuning.worn(case.G, tuned), case.ws[i : i + 1]).clamp(-1, 1)
        return render.psnr(image, case.image[i : i + 1]).item()

    start = near(None, 0)
    found = tuned_by(case, steps=200, until=start + 2)
    assert found.stopped == "near enough" and found.steps < 200 and near(found.tuned[0], 0) > start + 1.5
    assert tuned_by(case, steps=11, until=90.0).stopped is None
    same = SimpleNamespace(G=case.G, ws=case.ws[:2], image=torch.cat([drawn(case.G, case.ws[:1]).clamp(-1, 1), case.image[1:2]]))
    assert tuned_by(same, first=0, last=2, steps=11, until=60.0, together=1).stopped is None, "the second is looked at, too"


def test_a_mask_says_where_it_must_be_near(case):
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    image = torch.where(mask > 0, drawn(case.G, case.ws[:1]).clamp(-1, 1), torch.ones(()))
    assert tuning.is_near(drawn(case.G, case.ws[:1]), projection.Goal(image, mask), 60) and not tuning.is_near(
        drawn(case.G, case.ws[:1]), projection.Goal(image), 60
    )


def test_several_faces_may_share_their_weights(case):
    for together in (4, 1):
        found = tuned_by(case, last=3, steps=45, together=together)
        assert len(found.tuned) == 3 and found.tuned[0] is found.tuned[1] is found.tuned[2] and len(found.loss) == 1
        errors = [(drawn(g, case.ws) - case.image).square().mean((1, 2, 3)) for g in (case.G, tuning.worn(case.G, found.tuned[0]))]
        assert (errors[1] < 0.8 * errors[0]).all(), together
        assert found.loss.item() == pytest.approx(4 * errors[1].mean().item(), rel=0.15), "the loss is that of all images, not of one"


def test_ctrl_c_keeps_the_best_so_far(case, monkeypatch):
    rate, steps = projection.rate, []

    def stops(*words):
        steps.append(words)
        if len(steps) > 12 * len(tuning.zeros(case.G, "kernel")):
            raise KeyboardInterrupt
        return rate(*words)

    monkeypatch.setattr(projection, "rate", stops)
    found = tuned_by(case, steps=500)
    assert isinstance(found.interrupted, KeyboardInterrupt) and found.steps == 12 and found.stopped == "Ctrl-C"
    error = [(drawn(g, case.ws[:1]) - case.image[:1]).square().mean() for g in (case.G, tuning.worn(case.G, found.tuned[0]))]
    assert error[1] < 0.9 * error[0]


def test_what_is_not_finite_diverged(case):
    spoiled = SimpleNamespace(G=case.G, ws=case.ws, image=case.image * torch.nan)
    found = tuned_by(spoiled)
    assert found.diverged == [True] and found.steps == 1 and found.tuned == [None]
    several = tuned_by(case, lr=1e30, last=2, together=2)
    latents = projection.Projection(ws=case.ws[:2], loss=torch.ones(2), diverged=[False, False])
    tuning.follow(case.G, None, projection.Goal(case.image[:2]), latents, PIXELS, Tuning(steps=20, lr=1e30, from_side=4), together=True)
    assert several.diverged == [True] and latents.diverged == [True, True]


def followed(case, together=False, **settings):
    config = dataclasses.replace(PIXELS, noise_iteration=15, lambda_prior=0.1)
    found = projection.Projection(ws=case.ws[:2], loss=torch.full((2,), 99.0), diverged=[False, False], steps=7)
    heard = []
    weights = Tuning(steps=15, locality=0.0, from_side=4, **settings)
    goal = projection.Goal(case.image[:2])
    tuning.follow(case.G, None, goal, found, config, weights, together, lambda steps, losses: heard.append(steps))
    return found, heard, goal


@pytest.mark.parametrize("together", [False, True])
def test_noise_follows_under_the_tuned_generator(case, together):
    found, heard, goal = followed(case, together)
    assert heard == sorted(heard) and heard[-1] == 2 * 30 and found.steps == 7 + 30
    for i in range(2):
        steps, losses = zip(*found.curve(i), strict=True)
        assert list(steps) == [7, 17, 21, 22, 32, 36] and losses[2] < losses[0] and losses[-1] < losses[3]
    assert (found.tuned[0] is found.tuned[1]) == together and [len(m) for m in found.noise] == [2] * len(case.G.synthesis.layers())
    for i in range(2):
        net, ws, image = tuning.worn(case.G, found.tuned[i]), case.ws[i : i + 1], goal.image[i : i + 1]
        maps = [m[i : i + 1] for m in found.noise]
        with_it, without, elsewhere = (
            (drawn(g, ws, noise) - image).square().mean() for g, noise in ((net, maps), (net, "const"), (case.G, maps))
        )
        assert with_it < 0.98 * without and with_it < 0.8 * elsewhere


# ---------------------------------------------------------------------------------------------------------------------
# Moved and mixed


def test_parameters_go_with_the_w_that_their_layer_takes(case):
    G, seen = case.G, {}
    modules = {name.rpartition(".")[0] for name in tuning.zeros(G, "kernel")}
    hooks = [
        part.affine.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0]))
        for name, part in G.synthesis.named_modules()
        if name in modules and hasattr(part, "affine")
    ]
    try:
        ws = [case.ws[:1], *(case.ws[:1].index_fill(1, torch.tensor([i]), 0.5) for i in range(G.num_ws))]
        for one in ws:
            drawn(G, one)
    finally:
        for hook in hooks:
            hook.remove()
    takes = {name: [i - 1 for i, w in enumerate(inputs) if not torch.equal(w, inputs[0])] for name, inputs in seen.items()}
    for name in [*tuning.zeros(G, "kernel"), *tuning.zeros(G, "full")]:
        module = name.rpartition(".")[0]
        expected = takes.get(module) or ([0] if name == "b4.const" else [G.num_ws - 1])
        assert [tuning.layer_of(G, name)] == expected, name
    assert sorted({tuning.layer_of(G, name) for name in tuning.zeros(G, "kernel")}) == list(range(G.num_ws))
    assert ("b4.torgb" in takes) == (G.kind == "stylegan2") and tuning.layer_of(G, "b4.conv1.weight") == (1 if G.kind == "stylegan1" else 0)


def test_between_two_faces(case):
    G, (a, b) = case.G, case.tuned
    assert alike(tuning.between(a, b, lambda _: 0.0, G), a) and alike(tuning.between(a, b, lambda _: 1.0, G), b)
    assert tuning.between(None, a, lambda _: 0, G) is None and alike(tuning.between(None, a, lambda _: 1, G), a)
    assert tuning.between(None, None, lambda _: 0.5, G) is None
    middle = tuning.between(a, b, lambda _: 0.25, G)
    assert all(torch.allclose(middle[name].float(), 0.75 * a[name].float() + 0.25 * b[name].float(), atol=1e-3) for name in a)
    assert all(value.dtype == torch.float16 for value in middle.values())
    full, first = some(G, 5, "full"), "b8.conv1.weight"
    for one, other in ((full, b), (b, full)):  # a difference and a factor
        found = tuning.between(one, other, lambda _: 0.25, G)[first]
        weights = [tuning.changed(G.synthesis.get_parameter(first), each[first]) for each in (one, other)]
        wanted = torch.lerp(*weights, 0.25)
        assert torch.allclose(tuning.changed(G.synthesis.get_parameter(first), found), wanted, atol=5e-3)
    assert {name: 1 for name in b} == {name: 1 for name in tuning.between(None, b, lambda _: 0.5, G)}
    few = tuning.between(a, b, lambda name: 1.0 if name == first else 0.0, G)
    assert torch.equal(few[first], b[first]) and all(torch.equal(few[name], a[name]) for name in a if name != first)


def test_a_style_mix_takes_each_layers_weights_from_its_face(case):
    G = case.G
    a, b = (face.Face(case.ws[i : i + 1], tuned=case.tuned[i]) for i in range(2))
    layers = [1, G.num_ws - 1]
    mixed = face.mix(a, b, layers, G=G)
    for name in a.tuned:
        assert torch.equal(mixed.tuned[name], (b if tuning.layer_of(G, name) in layers else a).tuned[name]), name
    every = face.mix(a, b, list(range(G.num_ws)), G=G)
    assert alike(every.tuned, b.tuned) and np.array_equal(render.one(G, every), render.one(G, b))
    assert alike(face.mix(a, b, [], G=G).tuned, a.tuned) and alike(face.mix(a, b, list(range(G.num_ws)), 3.0, G).tuned, b.tuned)
    half = face.mix(a, b, layers, 0.5, G).tuned
    assert torch.allclose(half["torgb.bias" if G.kind == "stylegan1" else "b16.torgb.bias"].float(), sum(
        0.5 * one.tuned["torgb.bias" if G.kind == "stylegan1" else "b16.torgb.bias"].float() for one in (a, b)), atol=1e-3)  # fmt: skip
    plain = face.Face(case.ws[2:])
    assert face.mix(plain, plain, [0], G=G).tuned is None
    assert {tuning.layer_of(G, name) for name in face.mix(plain, b, layers, G=G).tuned} == set(layers)
    assert face.mix(b, plain, list(range(G.num_ws)), G=G).tuned is None


def test_a_morph_interpolates_the_weights(case):
    """Two faces that differ in their weights alone: the frames go from one to the other, and so do those of three with a plain one."""
    G, ws = case.G, case.ws[:1]
    people = [face.Face(ws, tuned=case.tuned[0]), face.Face(ws, tuned=case.tuned[1]), face.Face(ws)]
    path = image_morphing.morph(G, people, image_morphing.schedule(3, 5))
    frames = [frame.astype(float) for frame in path.pictures(G)]
    assert len(frames) == 9
    for frame, person in zip(frames[::4], people, strict=True):
        assert np.array_equal(frame, render.one(G, person))
    for first in (0, 4):
        leg = frames[first : first + 5]
        away = [np.abs(frame - leg[0]).mean() for frame in leg]
        assert away == sorted(away) and 0.2 < away[2] / away[4] < 0.8
    assert image_morphing.morph(G, people[2:] * 2, image_morphing.schedule(2, 3)).tuned is None


# ---------------------------------------------------------------------------------------------------------------------
# Files


def saved(folder, G, tuned, name="a"):
    face.write(folder / f"{name}.npy", torch.zeros(1, G.num_ws, 512), {"generator_hash": G.meta["hash"], "steps": 1}, None, tuned)
    return folder / f"{name}.npy", tuning.path_of(folder / f"{name}.npy")


def test_a_file_renders_to_the_bit_and_is_the_same_each_time(case, tmp_path):
    found = tuned_by(case, steps=3)
    person = face.Face(found.ws, tuned=found.tuned[0])
    for name in "abcdefgh":
        face.write(tmp_path / f"{name}\udce9.npy", person.ws, {"generator_hash": case.G.meta["hash"]}, None, person.tuned)
    again = face.read(tmp_path / "a\udce9.npy", case.G)  # a name that is no UTF-8, too
    assert alike(again.tuned, person.tuned) and np.array_equal(render.one(case.G, again), render.one(case.G, person))
    assert len({path.read_bytes() for path in tmp_path.glob("*.tuned.safetensors")}) == 1
    assert sorted(path.suffix for path in tmp_path.glob("a*")) == [".json", ".npy", ".safetensors"]
    face.write(tmp_path / "a\udce9.npy", person.ws, {"generator_hash": case.G.meta["hash"]})
    assert not tuning.path_of(tmp_path / "a\udce9.npy").exists(), "an older face's"


def test_read_on_split_and_moved_along(case, tmp_path):
    face.write(tmp_path / "a.npy", case.ws, {}, None, case.tuned[0])
    whole = face.read(tmp_path / "a.npy", case.G)
    assert all(alike(one.tuned, case.tuned[0]) for one in whole.split()) and alike(whole.to("cpu").tuned, case.tuned[0])
    assert face.read(tmp_path / "a.npy").tuned is None, "without a generator there is nothing to tune"


def other_metadata(**said):
    return lambda path, tuned: save_file(tuned, path, {"format": tuning.FORMAT, "generator_hash": "1" * 64} | said)


def with_one(name, value):
    return lambda path, tuned: other_metadata()(path, tuned | {name: value})


BAD = {
    "cut": (lambda path, tuned: path.write_bytes(path.read_bytes()[:-7]), "not readable"),
    "empty": (lambda path, tuned: path.write_bytes(b""), "not readable"),
    "a header of 2**63": (lambda path, tuned: path.write_bytes(b"\xff" * 7 + b"\x7f" + b"{}"), "not readable"),
    "text": (lambda path, tuned: path.write_text("tuned weights of a face"), "not readable"),
    "too large": (lambda path, tuned: os.truncate(path, 3 << 20), "larger than all weights"),
    "a checkpoint": (lambda path, tuned: save_file({"a": torch.ones(3)}, path), "no tuned weights of this toolkit"),
    "another format": (other_metadata(format="stylegan-latent-editor tuned weights 2"), "no tuned weights of this toolkit"),
    "another generator's": (other_metadata(generator_hash="2" * 64), "weights for another generator"),
    "of no generator": (lambda path, tuned: save_file(tuned, path, {"format": tuning.FORMAT}), "weights for another generator"),
    "unknown": (with_one("b8.conv7.weight", torch.zeros(3).half()), "b8.conv7.weight.* is no weight of this generator"),
    "never tuned": (with_one("b8.conv1.noise_strength", torch.zeros(16).half()), "noise_strength.* is no weight"),
    "the affine layer": (with_one("b8.conv1.affine.weight", torch.zeros(32, 512).half()), "affine.weight.* is no weight"),
    "of another shape": (with_one("b8.conv1.weight", torch.zeros(16, 16, 3, 1).half()), "b8.conv1.weight.* is no weight"),
    "a factor for a bias": (with_one("b8.conv1.bias", torch.zeros(1).half()), "b8.conv1.bias.* is no weight"),
    "float32": (with_one("b4.const", torch.zeros(32, 4, 4)), "b4.const is no float16"),
    "NaN": (with_one("b4.const", torch.full((32, 4, 4), torch.nan).half()), "b4.const is no float16, or holds NaN"),
    "infinity": (with_one("b4.const", torch.full((32, 4, 4), torch.inf).half()), "b4.const is no float16, or holds NaN"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line_that_names_them(small_G, tmp_path, name):
    spoil, said = BAD[name]
    latent, path = saved(tmp_path, small_G, some(small_G, 1))
    spoil(path, load_file(path))
    record = json.loads(latent.with_suffix(".json").read_text())
    latent.with_suffix(".json").write_text(json.dumps(record | {"files": record["files"] | {"tuned": "x" * 64}}))
    with pytest.raises(ValueError, match="unfinished write"):
        face.read(latent, small_G)
    latent.with_suffix(".json").write_text(json.dumps(record | {"files": record["files"] | {"tuned": files.file_hash(path)}}))
    with pytest.raises(ValueError, match=f"a.tuned.safetensors: .*{said}.*encode again, or use --tuned_strength 0") as raised:
        face.read(latent, small_G)
    assert len(str(raised.value)) < 500 and "\n" not in str(raised.value)
    assert face.read(latent, small_G, strength=0.0).tuned is None
    if "generator" in said and name != "unknown" and "no weight" not in said:
        assert face.read(latent, small_G, force=True).tuned.keys() == some(small_G, 1).keys()


def test_a_file_that_is_gone_or_that_no_record_names(small_G, tmp_path):
    latent, path = saved(tmp_path, small_G, some(small_G, 1))
    path.unlink()
    for there in (False, True):
        if there:
            path.mkdir()
        with pytest.raises(ValueError, match=r"its tuned weights \(a.tuned.safetensors\) are gone.*--tuned_strength 0"):
            face.read(latent, small_G)
    assert face.read(latent, small_G, strength=0).tuned is None
    with pytest.raises((ValueError, OSError), match="a.tuned.safetensors"):
        tuning.read(path, small_G)
    path.rmdir()
    latent, path = saved(tmp_path, small_G, some(small_G, 1))
    latent.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match="a.tuned.safetensors: no a.json says that it belongs to a.npy"):
        face.read(latent, small_G)
    plain, beside = saved(tmp_path, small_G, None, "b")
    beside.write_bytes(path.read_bytes())
    found = face.read(plain, small_G)
    assert found.tuned is None and "left out" in found.remarks[0] and "no tuned weights" in found.remarks[0]


def test_a_full_disk_is_an_oserror_and_leaves_nothing(small_G, tmp_path, monkeypatch):
    import safetensors.torch
    from safetensors import SafetensorError

    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, small_G, some(small_G, 1))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_official_sizes_go_the_same_way(kind, tmp_path):
    """256x256, the clamp of the official StyleGAN2s; few channels, three steps, and the bundled distance."""
    G = network(kind, 256, 1024, **({"conv_clamp": 256.0} if kind == "stylegan2" else {}))
    distance = checkpoints.load_features(checkpoints.BUNDLED["features"])
    ws, image = G.w_avg.expand(1, G.num_ws, -1).contiguous(), torch.zeros(1, 3, 256, 256)
    found = tuning.tune(G, distance, projection.Goal(image), ws, Config(low_memory=True), Tuning(steps=3))
    latent, _ = saved(tmp_path, G, found.tuned[0])
    face.write(latent, ws, {"generator_hash": G.meta["hash"]}, None, found.tuned[0])
    person = face.Face(ws, tuned=found.tuned[0])
    assert np.array_equal(render.one(G, face.read(latent, G)), render.one(G, person)) and found.steps == 3
    assert Path(tuning.path_of(latent)).is_file() and any(value.abs().max() > 0 for value in found.tuned[0].values())
