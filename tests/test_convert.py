"""Pickles of the official formats, written by tests/golden/formats.py, must give the official networks' outputs (tests/golden)."""

import argparse
import copy
import os
import pickle
import re
import sys
import tracemalloc

import numpy as np
import pytest
import torch

import weight_convert
from editor import checkpoints, dialects, pickles
from stylegan_layers import Config, Discriminator, Generator
from tests.golden import official
from tests.golden.formats import (
    ada_discriminator,
    ada_pickle,
    class_file,
    equal,
    golden_values,
    grown_module,
    kernel,
    lernapparat,
    named,
    network,
    official_pickle,
    persistent_file,
    rosinality,
    sg3_module,
    sg3_state,
    variables,
)


@pytest.fixture
def Network():
    before = set(sys.modules)
    yield named("dnnlib.tflib.network", "Network")
    for name in set(sys.modules) - before:
        if name.startswith("dnnlib"):
            del sys.modules[name]


def golden_inputs(kind, seed, layers):
    rng = np.random.RandomState(seed)
    z = torch.from_numpy(rng.standard_normal((2, 512)).astype(np.float32))
    ws = torch.from_numpy(rng.standard_normal((2, layers, 512)).astype(np.float32))
    img = (rng.uniform(-1, 1, (4, 3, 128, 128)) * np.array([0.1, 0.4, 0.7, 1]).reshape(4, 1, 1, 1)).astype(np.float32)
    return (
        z,
        ws,
        torch.from_numpy(img),
        np.load(os.path.join(os.path.dirname(__file__), "golden", f"{kind}_128_small.npz"), allow_pickle=False),
    )


def assert_golden(kind, seed, G=None, D=None, noise="const", without=()):
    """Everything that G and D give must be what the official networks gave."""
    z, ws, img, golden = golden_inputs(kind, seed, G.num_ws if G else 12)
    got = {}
    with torch.no_grad():
        if G:
            image = G.synthesis(ws, noise).numpy()
            got |= {
                "w": G.mapping(z).numpy(),
                "image": image[:, :, 2::8, 4::8],
                "corner": image[:, :, -4:, -4:],
                "image_trunc": G(z, truncation_psi=0.7, truncation_cutoff=8, noise=noise).numpy()[:, :, 2::8, 4::8],
            }
        if D:
            got["score"] = D(img).numpy()
    for key in got.keys() - set(without):
        bar = 1e-4 * (1 if key == "score" else max(golden[key].std(), 1e-9))
        error = np.abs(got[key] - golden[key].reshape(got[key].shape)).max()
        assert error <= bar, f"{key}: {error / bar:.2f} of what is allowed"


def converted(source, folder, discriminator=True):
    out, critic = folder / "g.safetensors", folder / "d.safetensors"
    out.unlink(missing_ok=True)
    assert weight_convert.main([str(source), "--out", str(out), *(["--discriminator", str(critic)] if discriminator else [])]) == 0
    return checkpoints.load_generator(out), checkpoints.load_discriminator(critic) if discriminator else None


@pytest.mark.parametrize("kind, seed, protocol", [("sg1", 1, 2), ("sg1", 1, 4), ("sg2", 2, 4)])
def test_parity_with_the_official_networks(tmp_path, Network, kind, seed, protocol):
    path = official_pickle(Network, tmp_path / "n.pkl", kind, seed, protocol)
    del sys.modules["dnnlib.tflib.network"]  # reading must not need it
    assert_golden(kind, seed, *converted(path, tmp_path))


def test_the_same_source_gives_the_same_bytes(tmp_path, Network):
    """The hash of a generator goes into the files of its latents, so it may not change with the day of the conversion."""
    path = official_pickle(Network, tmp_path / "n.pkl", "sg2", 2)
    said = dict(license="a", source="b", alignment=checkpoints.FFHQ_ALIGNMENT, perceptual="c", extra="\N{SNOWMAN} \"quoted\"")  # fmt: skip
    G, _ = weight_convert.convert(path)
    hashes = {checkpoints.save(tmp_path / "g.safetensors", G, **dict(sorted(said.items(), reverse=i % 2))) for i in range(6)}
    assert len(hashes) == 1 and checkpoints.read_metadata(tmp_path / "g.safetensors")["extra"] == said["extra"]


# ---------------------------------------------------------------------------------------------------------------------
# The golden networks in the formats of others, written from their descriptions and not from weight_convert's tables


@pytest.mark.parametrize("zipped", [True, False])
def test_lernapparats_file_gives_the_official_images(tmp_path, zipped, capsys):
    values = golden_values("sg1", 1)
    G, D = lernapparat(values)
    G["truncation.avg_latent"] = values["dlatent_avg"].expand(12, -1)  # as in lernapparat's notebook
    torch.save(G, tmp_path / "n.pt", _use_new_zipfile_serialization=zipped)
    torch.save(D, tmp_path / "n_d.pt", _use_new_zipfile_serialization=zipped)
    generator, _ = converted(tmp_path / "n.pt", tmp_path, discriminator=False)
    assert generator.meta["estimated"] == "noise maps: drawn, seed 0" and "noise maps: drawn" in capsys.readouterr().err
    noise = [values[f"G_synthesis/noise{i}"] for i in range(12)]
    assert_golden("sg1", 1, generator, noise=noise)
    drawn = [layer.noise_const for layer in generator.synthesis.layers()]
    assert all(0.5 < d.std() < 1.5 for d in drawn) and not torch.equal(drawn[2], drawn[3])
    again, _ = weight_convert.convert(tmp_path / "n.pt")
    assert torch.equal(again.synthesis.b128.conv1.noise_const, drawn[-1])
    with pytest.raises(ValueError, match="no discriminator"):
        weight_convert.main([str(tmp_path / "n.pt"), f"--out={tmp_path}/h.safetensors", f"--discriminator={tmp_path}/x.safetensors"])
    assert not (tmp_path / "h.safetensors").exists()  # half of what was asked for is not written
    with pytest.raises(ValueError, match="no generator"):
        weight_convert.main([str(tmp_path / "n_d.pt"), "--out", str(tmp_path / "x.safetensors")])
    assert weight_convert.main([str(tmp_path / "n_d.pt"), "--discriminator", str(tmp_path / "d.safetensors")]) == 0
    assert_golden("sg1", 1, D=checkpoints.load_discriminator(tmp_path / "d.safetensors"))


def test_a_mean_latent_that_is_not_there_is_estimated(tmp_path, capsys):
    torch.manual_seed(0)
    source = Generator(Config("stylegan1", 8, 128, 16, mapping_layers=2, z_dim=32, w_dim=32))
    G = {f"g_mapping.dense{i}.{p}": source.mapping.state_dict()[f"fc{i}.{p}"] for i in range(2) for p in ("weight", "bias")}
    G |= {f"g_synthesis.torgb.{p}": source.synthesis.torgb.state_dict()[p] for p in ("weight", "bias")}
    for r in (4, 8):
        state, block = source.synthesis.state_dict(), f"g_synthesis.blocks.{r}x{r}."
        for i, conv in enumerate(["", "conv."] if r == 4 else ["conv0_up.", "conv1."]):
            for p in ("weight", "bias"):
                if f"b{r}.conv{i}.{p}" in state:
                    G[f"{block}{conv}{p}"] = state[f"b{r}.conv{i}.{p}"]
                G[f"{block}epi{i + 1}.style_mod.lin.{p}"] = state[f"b{r}.conv{i}.affine.{p}"]
            G[f"{block}epi{i + 1}.top_epi.noise.weight"] = state[f"b{r}.conv{i}.noise_strength"]
    G["g_synthesis.blocks.4x4.const"] = source.synthesis.b4.const[None]
    torch.save(G, tmp_path / "n.pt")
    H, _ = converted(tmp_path / "n.pt", tmp_path, discriminator=False)
    assert "mean latent: estimated from 10000 samples" in H.meta["estimated"] and "estimated" in capsys.readouterr().err
    z = torch.randn(20_000, 32)
    source.freeze()
    with torch.no_grad():
        w = source.mapping(z)
        assert torch.equal(H.mapping(z[:2]), source.mapping(z[:2]))
        assert torch.equal(H.synthesis(H.truncate(w[:2]), "none"), source.synthesis(H.truncate(w[:2]), "none"))
        drawn = torch.from_numpy(np.random.RandomState(0).standard_normal((10_000, 32)))  # the seed that the checkpoint names
        exact = copy.deepcopy(source.mapping).train().double()(drawn).mean(0).float()
    assert torch.allclose(H.w_avg, exact, atol=1e-6)
    assert (H.w_avg - w.mean(0)).abs().max() < 0.06 * w.std(0).max()
    twice, _ = converted(tmp_path / "n.pt", tmp_path, discriminator=False)
    assert twice.meta["hash"] == H.meta["hash"]


def test_rosinalitys_file_gives_the_official_images(tmp_path, monkeypatch):
    values = golden_values("sg2", 2)
    G, D = rosinality(values)
    flags = argparse.Namespace(size=128, lr=0.002)  # training saves its flags too
    raw = {name: torch.randn_like(value) for name, value in G.items()}  # what is not averaged gives other images
    torch.save(
        {"g": raw, "d": D, "g_ema": G, "d_optim": {"state": {}}, "args": flags, "latent_avg": values["dlatent_avg"]}, tmp_path / "n.pt"
    )
    generator, critic = converted(tmp_path / "n.pt", tmp_path)
    assert "estimated" not in generator.meta
    assert_golden("sg2", 2, generator, critic)
    torch.save(G, tmp_path / "n.pt")  # the generator alone, without its mean
    monkeypatch.setattr(weight_convert, "SAMPLES", 100)
    alone, meta = weight_convert.convert(tmp_path / "n.pt")
    assert meta["estimated"].startswith("mean latent") and "noise" not in meta["estimated"]
    assert_golden("sg2", 2, alone, without=["image_trunc"])


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda G: G.pop("convs.1.activate.bias"), "synthesis.b8.conv1.bias is missing"),
        (lambda G: G.pop("noises.noise_3"), "synthesis.b16.conv0.noise_const is missing"),
        (lambda G: G.pop("convs.3.conv.weight"), "synthesis.b16.conv1.weight is missing"),
        (lambda G: G.update({"convs.3.conv.bias": torch.zeros(3)}), "convs.3.conv.bias is left over"),
        (lambda G: G.update({"convs.3.activate.bias": torch.zeros(3)}), r"synthesis.b16.conv1.bias is \[3\], not"),
        (lambda G: G.update({"to_rgb1.bias": torch.zeros(3)}), r"to_rgb1.bias is \[3\]"),
        (lambda G: G.update({"convs.0.conv.blur.kernel": torch.ones(4, 4)}), "convs.0.conv.blur.kernel is another filter"),
        (lambda G: G.update({"convs.3.activate.bias": torch.full((64,), torch.nan)}), "NaN"),
        (lambda G: G.clear(), "no layers"),
    ],
)
def test_wrong_variables_of_a_pt_are_named(tmp_path, change, said):
    G, _ = rosinality(golden_values("sg2", 2))
    change(G)
    torch.save({"g_ema": G, "latent_avg": torch.zeros(1, 512)}, tmp_path / "n.pt")
    with pytest.raises(ValueError, match=said) as error:
        weight_convert.convert(tmp_path / "n.pt")
    assert str(tmp_path / "n.pt") in str(error.value)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_ada_pytorchs_pickle_gives_the_official_images(tmp_path, protocol):
    path = ada_pickle(tmp_path / "n.pkl", golden_values("sg2", 2), protocol)
    assert "torch_utils" not in sys.modules  # reading must not need it
    assert_golden("sg2", 2, *converted(path, tmp_path))


def test_tensorflow_settings_are_kept_or_refused(tmp_path, Network):
    path = official_pickle(Network, tmp_path / "n.pkl", "sg2", 2, conv_clamp=256)  # StyleGAN2-ADA's training in float16
    assert all(weight_convert.convert(path, role)[0].config.conv_clamp == 256 for role in ("generator", "discriminator"))
    path = official_pickle(Network, tmp_path / "n.pkl", "sg2", 2, label_size=10)
    for role in ("generator", "discriminator"):
        with pytest.raises(ValueError, match="label_size=10; the toolkit knows 0 only"):
            weight_convert.convert(path, role)


def test_ada_settings_are_kept_or_refused(tmp_path):
    values = golden_values("sg2", 2)
    path = ada_pickle(tmp_path / "n.pkl", values, 4, synthesis_kwargs={"conv_clamp": 256}, conv_clamp=256)
    assert all(weight_convert.convert(path, role)[0].config.conv_clamp == 256 for role in ("generator", "discriminator"))
    path = ada_pickle(tmp_path / "n.pkl", values, 4, synthesis_kwargs={"architecture": "orig"})
    with pytest.raises(ValueError, match="architecture='orig'"):
        weight_convert.convert(path)


SETTINGS = {  # of StyleGAN2-ADA-PyTorch, where they stand, and one that makes another network
    "mapping_kwargs": [("lr_multiplier", 0.1), ("activation", "relu"), ("unheard_of", 1)],
    "synthesis_kwargs": [("architecture", "orig"), ("use_noise", False), ("resample_filter", [1, 1]), ("block_kwargs", {"kernel_size": 5}),
                         ("block_kwargs", {"layer_kwargs": {"activation": "relu"}})],
    "attributes": [("mapping.fc0", {"bias_gain": 1}), ("mapping.fc7", {"activation": "relu"}), ("synthesis.b8.conv1", {"use_noise": False}),
                   ("synthesis.b8", {"architecture": "orig"}), ("synthesis.b4.conv1", {"activation": "linear"})],
}  # fmt: skip


@pytest.mark.parametrize("where, name, value", [(where, *row) for where, rows in SETTINGS.items() for row in rows])
def test_settings_of_another_network_are_refused_by_name(tmp_path, where, name, value):
    path = ada_pickle(tmp_path / "n.pkl", golden_values("sg2", 2), **{where: {name: value}})
    while isinstance(value, dict):
        name, value = next(iter(value.items()))
    with pytest.raises(ValueError, match=f"{'lr_multiplier' if name == 'bias_gain' else name}=.*; the toolkit knows"):
        weight_convert.convert(path)


def test_what_the_layers_say_of_themselves_may_be_right(tmp_path):
    """The official modules carry these attributes; the clamp of newer versions stands nowhere else."""
    said = {"mapping.fc0": {"bias_gain": 0.01, "activation": "lrelu"}, "synthesis.b8": {"architecture": "skip"}}
    said |= {"synthesis.b8.conv0": {"conv_clamp": 256, "activation": "lrelu"}, "synthesis.b8.conv0.affine": {"activation": "linear"}}
    holds = lambda G, D, raw: (G._init_kwargs["synthesis_kwargs"].pop("conv_clamp"), G)[1]  # noqa: E731
    G, _ = weight_convert.convert(ada_pickle(tmp_path / "n.pkl", golden_values("sg2", 2), holds=holds, attributes=said))
    assert G.config.conv_clamp == 256


ROWS = [(project, name) for project, rows in dialects.SETTINGS.items() for name in rows]


@pytest.mark.parametrize("project, name", ROWS)
@pytest.mark.parametrize("role", ["generator", "discriminator"])
def test_each_setting_that_is_known_is_looked_at(project, name, role):
    allowed = dialects.SETTINGS[project][name]
    allowed = allowed[role] if isinstance(allowed, dict) else allowed
    for right in [7, "other"] if allowed is None else allowed:
        dialects.check_settings(project, role, {name: right}, {"synthesis_kwargs": {"block_kwargs": {name: right}}})
    for wrong in [] if allowed is None else [not allowed[0]] if type(allowed[0]) is bool else [[2, 1], "other", 7, None]:
        for said in ({name: wrong}, {"synthesis_kwargs": {"block_kwargs": {name: wrong}}}):
            with pytest.raises(ValueError, match=f"{name}=.*; the toolkit knows .* only"):
                dialects.check_settings(project, role, said)


@pytest.mark.parametrize("project", dialects.SETTINGS)
def test_a_setting_that_nobody_knows_is_refused(project):
    for name in ("unheard_of", "normalize_labels", 3):
        with pytest.raises(ValueError, match=f"{name}=True; the toolkit knows no such setting"):
            dialects.check_settings(project, "generator", {name: True})


@pytest.mark.parametrize(
    "kind, part, name, value",
    [
        ("sg2", "mapping", "mapping_lrmul", 0.1),
        ("sg2", "mapping", "mapping_nonlinearity", "relu"),
        ("sg2", "synthesis", "resample_kernel", [1, 1]),
        ("sg1", "synthesis", "blur_filter", [1, 3, 3, 1]),
        ("sg1", "synthesis", "const_input_layer", False),
        ("sg1", "synthesis", "fused_scale", True),
    ],
)
def test_tensorflow_settings_of_a_part_are_looked_at(tmp_path, Network, kind, part, name, value):
    path = official_pickle(Network, tmp_path / "n.pkl", kind, 2)
    g, d, gs = pickle.loads(path.read_bytes())
    gs.components[part].static_kwargs[name] = value
    path.write_bytes(pickle.dumps((g, d, gs)))
    with pytest.raises(ValueError, match=f"{name}=.*; the toolkit knows"):
        weight_convert.convert(path)


@pytest.mark.parametrize("kind", ["sg1"])
@pytest.mark.parametrize("where", ["Gs", "synthesis", "D"])
def test_a_snapshot_from_the_middle_of_growing_is_refused(tmp_path, Network, kind, where):
    path = official_pickle(Network, tmp_path / "n.pkl", kind, 3)
    g, d, gs = pickle.loads(path.read_bytes())
    part = {"Gs": gs, "synthesis": gs.components["synthesis"], "D": d}[where]
    part.variables = [v for v in part.variables if v[0] != "lod"] + [("lod", np.float32(2.5))]
    path.write_bytes(pickle.dumps((g, d, gs)))
    with pytest.raises(ValueError, match=r"the variable lod is 2\.5: a snapshot from the middle of progressive growing"):
        weight_convert.convert(path, "discriminator" if where == "D" else "generator")


# ---------------------------------------------------------------------------------------------------------------------
# The same networks as other projects pass them on


@pytest.fixture(scope="module")
def official_networks(tmp_path_factory):
    """(G, D) of StyleGAN2's golden weights, whose images test_rosinalitys_file_gives_the_official_images compares."""
    values = golden_values("sg2", 2)
    G, D = rosinality(values)
    path = tmp_path_factory.mktemp("official") / "n.pt"
    torch.save({"g_ema": G, "d": D, "latent_avg": values["dlatent_avg"]}, path)
    return weight_convert.convert(path)[0], weight_convert.convert(path, "discriminator")[0]


@pytest.mark.parametrize(
    "save, holds",
    [
        (torch.save, lambda G, D, raw: G),  # PTI
        (torch.save, lambda G, D, raw: {"generator": G, "pivots": torch.zeros(3, 12, 512), "quads": [np.eye(4), None, (1, 2)]}),  # STIT
        (lambda data, path: torch.save(data, path, _use_new_zipfile_serialization=False), lambda G, D, raw: G),
        (None, lambda G, D, raw: G),
        (None, lambda G, D, raw: {"G": raw, "D": D, "G_ema": G}),
        (None, lambda G, D, raw: {"G": raw, "G_ema": None, "generator": G}),
    ],
)
def test_modules_however_they_are_saved(tmp_path, official_networks, save, holds):
    G, said = weight_convert.convert(ada_pickle(tmp_path / "n.pt", golden_values("sg2", 2), save=save, holds=holds))
    assert equal(G, official_networks[0]) and not any(said.values())


def test_a_generator_that_is_not_averaged_is_told_of(tmp_path, capsys):
    path = ada_pickle(tmp_path / "n.pkl", golden_values("sg2", 2), holds=lambda G, D, raw: {"G": G, "D": D})
    weight_convert.main([str(path), "--out", str(tmp_path / "g.safetensors")])
    assert "no averaged generator; the one under G was taken" in capsys.readouterr().err
    assert checkpoints.read_metadata(tmp_path / "g.safetensors")["remark"]


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"G_ema": s}, lambda s: {"g_ema": s, "step": 3}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_state_dicts_with_official_names(tmp_path, official_networks, prefix, wrap, suffix):
    G, D = official_networks
    state = wrap({prefix + name: value for name, value in G.state_dict().items()})
    if suffix == ".pt":
        torch.save(state, tmp_path / "n.pt")
    elif all(isinstance(value, torch.Tensor) for value in state.values()):
        from safetensors.torch import save_file

        save_file(state, tmp_path / "n.safetensors", {"format": "pt"})
    else:
        pytest.skip("a .safetensors file holds tensors only")
    found, said = weight_convert.convert(tmp_path / f"n{suffix}")
    assert equal(found, G) and "holds no settings" in said["remark"] and not said["estimated"]
    assert weight_convert.convert(tmp_path / f"n{suffix}", "discriminator") == (None, {})
    torch.save({"D": D.state_dict()}, tmp_path / "d.pt")
    assert equal(weight_convert.convert(tmp_path / "d.pt", "discriminator")[0], D)


def test_our_own_stylegan1_as_a_state_dict(tmp_path):
    torch.manual_seed(0)
    config = Config("stylegan1", 16, 256, 16, 2, 32, 32)
    G, D = Generator(config), Discriminator(config)
    torch.save({"G": G.state_dict(), "D": D.state_dict()}, tmp_path / "n.pt")
    assert equal(weight_convert.convert(tmp_path / "n.pt")[0], G)
    found = weight_convert.convert(tmp_path / "n.pt", "discriminator")[0]
    assert found.config.kind == "stylegan1" and torch.equal(found(torch.ones(1, 3, 16, 16)), D(torch.ones(1, 3, 16, 16)))


@pytest.mark.parametrize("rows", [1, 12, None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_decoder_of_e4e_and_psp(tmp_path, official_networks, rows, prefix):
    values = golden_values("sg2", 2)
    G, _ = rosinality(values)
    mean = values["dlatent_avg"] if rows is None else values["dlatent_avg"].repeat(rows, 1)
    state = {"encoder.input_layer.0.weight": torch.zeros(4, 3, 3, 3)} | {f"decoder.{name}": value for name, value in G.items()}
    data = {"state_dict": {prefix + k: v for k, v in state.items()}, "latent_avg": mean, "opts": {"stylegan_size": 128, "lr": 1e-4}}
    torch.save(data, tmp_path / "e4e.pt")
    found, said = weight_convert.convert(tmp_path / "e4e.pt")
    assert equal(found, official_networks[0]) and not any(said.values())
    data["latent_avg"] = torch.randn(12, 512)
    torch.save(data, tmp_path / "e4e.pt")
    with pytest.raises(ValueError, match="latent_avg is another mean for each layer"):
        weight_convert.convert(tmp_path / "e4e.pt")


# ---------------------------------------------------------------------------------------------------------------------
# Whole modules, saved as `torch.save(G)`


def small(kind="stylegan2", **more):
    torch.manual_seed(0)
    return Generator(Config(kind, 16, 256, 32, **{"mapping_layers": 2, "z_dim": 24, "w_dim": 24} | more))


def ada_names(G):
    """The state dict of one of our StyleGAN2 generators, as StyleGAN2-ADA-PyTorch saves it."""
    state = {name: value.clone() for name, value in G.state_dict().items()}
    for r in G.config.resolutions:
        state |= {f"synthesis.b{r}.{part}resample_filter": kernel(1, 3, 3, 1) for part in ["", "conv1."] + ["conv0."] * (r > 4)}
    return state


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("module", ["training.networks", "models.StyleCLIP.models.stylegan2.networks", "__main__"])
def test_a_generator_saved_by_its_class(tmp_path, module, zipped):
    """PTI's tuned generators, and whatever scripts write with torch.save(G): their source is not there, and not needed."""
    G = small()

    def fill(make, _):
        init = {"synthesis_kwargs": {"conv_clamp": 256}}
        module = grown_module(make, "Generator", ada_names(G), z_dim=24, c_dim=0, _init_kwargs=init)
        module.register_buffer("grid", torch.zeros(3), persistent=False)
        return module

    found, said = weight_convert.convert(class_file(tmp_path / "model_XY_me.pt", fill, module, zipped))
    assert found.config.conv_clamp == 256 and not any(said.values())
    ws = torch.randn(1, found.num_ws, 24)
    assert torch.equal(found.synthesis(ws), G.synthesis(ws)) and torch.equal(found.w_avg, G.w_avg)
    assert module == "__main__" or module not in sys.modules


def test_rosinalitys_module_saved_by_its_class(tmp_path, official_networks):
    G, _ = rosinality(golden_values("sg2", 2))
    said = {"style.1": {"lr_mul": 0.01, "activation": "fused_lrelu"}, "conv1.conv.modulation": {"lr_mul": 1, "activation": None}}

    def fill(make, _):
        module = grown_module(make, "Generator", G)
        for name, attributes in said.items():
            module.get_submodule(name).__dict__.update(attributes)
        return {"g_ema": module, "latent_avg": golden_values("sg2", 2)["dlatent_avg"]}

    found, _ = weight_convert.convert(class_file(tmp_path / "n.pt", fill, "model"))
    assert equal(found, official_networks[0]) and torch.equal(found.w_avg, golden_values("sg2", 2)["dlatent_avg"])
    said["style.1"]["lr_mul"] = 0.1
    with pytest.raises(ValueError, match="lr_mul=0.1; the toolkit knows 0.01 only"):
        weight_convert.convert(class_file(tmp_path / "n.pt", fill, "model"))


def test_a_module_of_something_else_is_named(tmp_path):
    path = class_file(
        tmp_path / "n.pt", lambda make, _: grown_module(make, "ResNet", {"layer1.weight": torch.zeros(3)}), "torchvision.models"
    )
    with pytest.raises(ValueError, match="a ResNet, which is no StyleGAN that the toolkit knows"):
        weight_convert.convert(path)


@pytest.mark.parametrize(
    "at, value, said",
    [
        (1, 10, "it says c_dim 10, and its tensors have 0"),
        (4, 1, "img_channels=1"),
        (6, {"conv_clamp": 256}, None),
        (6, {"bogus": 3}, "bogus=3"),
    ],
)
def test_settings_without_a_name_are_looked_at(tmp_path, at, value, said):
    args = (512, 0, 512, 128, 3, {}, {})
    path = ada_pickle(tmp_path / "n.pkl", golden_values("sg2", 2), args=args[:at] + (value,) + args[at + 1 :],
                      holds=lambda G, D, raw: (G.__dict__.update(_init_kwargs={}), G)[1])  # fmt: skip
    if said:
        with pytest.raises(ValueError, match=said):
            weight_convert.convert(path)
    else:
        assert weight_convert.convert(path)[0].config.conv_clamp == (256 if at == 6 else None)


# ---------------------------------------------------------------------------------------------------------------------
# StyleGAN3


def assert_golden3(G, golden, kind, bar=1e-4):
    rng = np.random.RandomState({"t": 3, "r": 4}[kind])
    z, ws = (torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for shape in [(2, 512), (2, G.num_ws, 512)])
    with torch.no_grad():
        image = G.synthesis(ws).numpy()
        got = {"w": G.mapping(z).numpy(), "image": image[:, :, 1::4, 2::4], "corner": image[:, :, -4:, -4:]}
    for key, value in got.items():
        assert np.abs(value - golden[key]).max() <= bar * golden[key].std(), key


@pytest.fixture(scope="module")
def sg3():
    return {kind: sg3_state(kind) for kind in "tr"}


@pytest.mark.parametrize("kind", ["t", "r"])
def test_stylegan3s_official_pickle_gives_its_images(tmp_path, sg3, kind):
    state, golden = sg3[kind]

    def fill(make, EasyDict):
        G, raw = (sg3_module(make, EasyDict, kind, state) for _ in range(2))
        D = grown_module(make, "Discriminator", ada_discriminator(golden_values("sg2", 2)), _init_kwargs=EasyDict(c_dim=0))
        return {"G": raw, "D": D, "G_ema": G, "training_set_kwargs": EasyDict(), "augment_pipe": None}

    G, D = converted(persistent_file(tmp_path / "n.pkl", fill), tmp_path)
    assert "torch_utils" not in sys.modules and G.kind == "stylegan3" and G.config.use_radial_filters == (kind == "r")
    assert (G.config.channel_base, G.config.channel_max, G.config.conv_clamp) == (2048, 48, 256)
    assert_golden3(G, golden, kind)
    assert_golden("sg2", 2, D=D)


SG3_FILES = {
    "a generator alone": lambda kind, state: dict(fill=lambda make, E: sg3_module(make, E, kind, state)),
    "torch.save": lambda kind, state: dict(fill=lambda make, E: sg3_module(make, E, kind, state), save=torch.save),
    "by class": lambda kind, state: lambda path: class_file(path, lambda make, E: sg3_module(make, E, kind, state), "training.networks3"),
    "state dict": lambda kind, state: lambda path: torch.save(state, path),
    "stylegan3-editing": lambda kind, state: lambda path: torch.save(
        {"state_dict": {f"decoder.{k}": v for k, v in state.items()} | {"encoder.body.0.weight": torch.zeros(3)},
         "opts": argparse.Namespace(lr=1), "latent_avg": torch.zeros(16, 512)}, path),
    "float16": lambda kind, state: lambda path: torch.save({"G_ema": {k: v.half() for k, v in state.items()}}, path),
}  # fmt: skip


@pytest.mark.parametrize("file", SG3_FILES)
@pytest.mark.parametrize("kind", ["t", "r"])
def test_stylegan3_however_it_is_saved(tmp_path, sg3, kind, file):
    state, _ = sg3[kind]
    how = SG3_FILES[file](kind, state)
    persistent_file(tmp_path / "n.pt", **how) if isinstance(how, dict) else how(tmp_path / "n.pt")
    G, said = weight_convert.convert(tmp_path / "n.pt")
    assert not said["estimated"] and weight_convert.convert(tmp_path / "n.pt", "discriminator") == (None, {})
    if file != "float16":  # its pictures are compared in test_stylegan3s_official_pickle_gives_its_images
        assert all(torch.equal(value, state[name]) for name, value in G.state_dict().items())
        return
    assert all(torch.equal(value, state[name].half().float()) for name, value in G.state_dict().items())
    torch.save({name: value.bfloat16() for name, value in state.items()}, tmp_path / "n.pt")  # coarser than filters may be
    with pytest.raises(ValueError, match="_filter differs from what its settings give"):
        weight_convert.convert(tmp_path / "n.pt")


def test_stylegan3s_filters_and_settings_are_looked_at(tmp_path, sg3):
    state, _ = sg3["t"]
    torch.save(state | {"synthesis.L3_36_48.up_filter": state["synthesis.L3_36_48.up_filter"] * 1.01}, tmp_path / "n.pt")
    with pytest.raises(ValueError, match="L3_36_48.up_filter"):
        weight_convert.convert(tmp_path / "n.pt")
    for clamp in (256, None, 64):
        path = persistent_file(tmp_path / "n.pkl", lambda make, E, clamp=clamp: sg3_module(make, E, "t", state, conv_clamp=clamp))
        assert weight_convert.convert(path)[0].config.conv_clamp == clamp
    for name, value in [("output_scale", 1), ("filter_size", 8), ("unheard_of", 1), ("mapping_kwargs", {"lr_multiplier": 1})]:
        path = persistent_file(tmp_path / "n.pkl", lambda make, E, more={name: value}: sg3_module(make, E, "t", state, **more))
        with pytest.raises(ValueError, match=f"{'lr_multiplier' if name == 'mapping_kwargs' else name}=.*; the toolkit knows"):
            weight_convert.convert(path)


# ---------------------------------------------------------------------------------------------------------------------
# Classes, growing, shapes


@pytest.mark.parametrize("save", ["pickle", "state dict"])
def test_classes_come_along(tmp_path, save):
    G = small(c_dim=3)
    if save == "pickle":
        init = dict(z_dim=24, c_dim=3, w_dim=24, img_resolution=16, img_channels=3, mapping_kwargs={"num_layers": 2})
        persistent_file(tmp_path / "n.pt", lambda make, E: {"G_ema": grown_module(make, "Generator", ada_names(G), _init_kwargs=E(init))})
    else:
        torch.save({"G_ema": {k: v for k, v in ada_names(G).items() if k != "mapping.w_avg"}}, tmp_path / "n.pt")
    found, said = weight_convert.convert(tmp_path / "n.pt")
    z, c = torch.randn(2, 24), torch.eye(3)[:2]
    assert found.config.c_dim == 3 and found.config.z_dim == 24
    assert torch.equal(found.mapping(z, c), G.mapping(z, c)) and torch.equal(found.synthesis(found.truncate(z)), G.synthesis(G.truncate(z)))
    if save == "state dict":  # the mean of all classes
        assert said["estimated"].startswith("mean latent")
        means = torch.stack([G.mapping(torch.randn(5000, 24), row[None].expand(5000, -1)).mean(0) for row in torch.eye(3)])
        assert (found.w_avg - means.mean(0)).abs().max() < 0.05


def test_a_discriminator_with_another_minibatch_is_refused(tmp_path):
    """Its configuration may leave the size to the code's default, which the layer itself knows."""

    def fill(make, _):
        D = grown_module(make, "Discriminator", ada_discriminator(golden_values("sg2", 2)))
        D.b4.mbstd = make("MinibatchStdLayer")
        D.b4.mbstd.__dict__.update(group_size=size, num_channels=1)
        return {"D": D}

    for size in (4, 8):
        persistent_file(tmp_path / f"{size}.pkl", fill)
    assert weight_convert.convert(tmp_path / "4.pkl", "discriminator")[0] is not None
    with pytest.raises(ValueError, match="mbstd_group_size=8; the toolkit knows 4 only"):
        weight_convert.convert(tmp_path / "8.pkl", "discriminator")


def test_a_discriminator_with_classes_is_refused(tmp_path):
    path = ada_pickle(tmp_path / "n.pkl", golden_values("sg2", 2), holds=lambda G, D, raw: (D._init_kwargs.update(c_dim=5), {"D": D})[1])
    with pytest.raises(ValueError, match="c_dim=5; the toolkit knows 0 only"):
        weight_convert.convert(path, "discriminator")


def test_a_snapshot_from_a_whole_level_of_growing_is_the_smaller_network(tmp_path, Network):
    """At lod 2 of 128 the official code shows ToRGB_lod2's 32x32 pixels, each repeated 4 times a side."""
    values = {k: v.numpy() for k, v in golden_values("sg1", 3).items()}
    split = lambda scope: {k.removeprefix(scope): v for k, v in values.items() if k.startswith(scope)}  # noqa: E731

    def file(synthesis, critic, lod):
        parts = {"synthesis": network(Network, synthesis | {"lod": np.float32(lod)}), "mapping": network(Network, split("G_mapping/"))}
        Gs = network(Network, {"lod": np.float32(lod), "dlatent_avg": values["dlatent_avg"]}, parts)
        path.write_bytes(pickle.dumps((network(Network, {}), network(Network, critic | {"lod": np.float32(lod)}), Gs)))

    path = tmp_path / "n.pkl"
    whole_G, whole_D = split("G_synthesis/"), split("D/")
    file(whole_G, whole_D, 2)
    (G, said), (D, _) = (weight_convert.convert(path, role) for role in ("generator", "discriminator"))
    assert G.resolution == 32 and "its last 2 resolutions are not trained" in said["remark"]
    small = lambda v: {k.replace("_lod2", "_lod0"): w for k, w in v.items()  # noqa: E731
                       if not re.match(r"(64|128)x|noise([89]|1\d)|.*_lod[013-9]", k)}  # fmt: skip
    file(small(whole_G), small(whole_D), 0)
    assert equal(G, weight_convert.convert(path)[0]) and equal(D, weight_convert.convert(path, "discriminator")[0])


@pytest.mark.parametrize("part", ["Gs", "D"])
def test_a_tensorflow_network_pickled_alone(tmp_path, Network, part):
    path = official_pickle(Network, tmp_path / "n.pkl", "sg2", 2)
    g, d, gs = pickle.loads(path.read_bytes())
    whole = [weight_convert.convert(path, role)[0] for role in ("generator", "discriminator")]
    for data in [gs if part == "Gs" else d, (None, None, gs) if part == "Gs" else (None, d, None)]:
        path.write_bytes(pickle.dumps(data))
        found = [weight_convert.convert(path, role)[0] for role in ("generator", "discriminator")]
        mine = 0 if part == "Gs" else 1
        assert equal(found[mine], whole[mine]) and found[1 - mine] is None


@pytest.mark.parametrize("whose", ["ada", "rosinality"])
def test_pictures_that_are_not_square_are_refused_by_name(tmp_path, whose):
    if whose == "ada":
        state = ada_names(small()) | {"synthesis.b4.const": torch.zeros(32, 4, 2)}
    else:
        state = rosinality(golden_values("sg2", 2))[0] | {"input.input": torch.zeros(1, 64, 4, 2)}
    torch.save({"g_ema": state}, tmp_path / "n.pt")
    with pytest.raises(ValueError, match="begins with 4x2 pixels: a generator of pictures that are not square"):
        weight_convert.convert(tmp_path / "n.pt")


def test_rosinalitys_variants(tmp_path, official_networks, monkeypatch):
    """Older files have no noise maps; StyleGAN-NADA's have the optimiser beside; a mean may stand in the file."""
    monkeypatch.setattr(weight_convert, "SAMPLES", 100)
    values = golden_values("sg2", 2)
    G, _ = rosinality(values)
    torch.save({"g_ema": {k: v for k, v in G.items() if "noises" not in k}, "g_optim": {"state": {}}, "latent_avg": values["dlatent_avg"]},
               tmp_path / "n.pt")  # fmt: skip
    found, said = weight_convert.convert(tmp_path / "n.pt")
    assert said["estimated"] == "noise maps: drawn, seed 0" and equal(found, official_networks[0], without=["noise_const"])
    torch.save({"g_ema": {f"generator.module.{k}": v for k, v in G.items()}, "g_optim": {"state": {}}}, tmp_path / "n.pt")
    found, said = weight_convert.convert(tmp_path / "n.pt")
    assert said["estimated"].startswith("mean latent") and equal(found, official_networks[0], without=["w_avg"])


def test_each_row_of_the_tables_is_needed():
    """A pattern that no official name fits is one that nobody has tried; which value goes where, the golden images say."""
    v1, v2 = golden_values("sg1", 1), golden_values("sg2", 2)
    # _rosinality writes the rows of all its layers alike, and no layer has all of them
    idle = re.compile(r"conv1\\\.bias|convs.*d\{1,2\}\)\\\.bias|to_rgb.*(noise|activate).*|(conv1|to_rgb1).*kernel")
    used = {"SG1": v1, "SG2": v2, "TENSORFLOW_D": v1 | v2, "LERNAPPARAT": lernapparat(v1)[0] | {"truncation.avg_latent": 0},
            "LERNAPPARAT_D": lernapparat(v1)[1], "ROSINALITY": rosinality(v2)[0] | {"latent_avg": 0},
            "ROSINALITY_D": rosinality(v2)[1]}  # fmt: skip
    for name, values in used.items():
        bare = {"lod", "ToRGB_lod1/weight", "FromRGB_lod1/weight"} | {k.split("/", 1)[-1] if "/" in k else k for k in values}
        for pattern, _, _ in getattr(dialects, name):
            assert idle.fullmatch(pattern) or any(re.fullmatch(pattern, k) for k in bare), (name, pattern)


@pytest.mark.parametrize("change, said", [("drop", "missing"), ("extra", "left over"), ("shape", "not")])
def test_wrong_variables_are_named(tmp_path, Network, change, said):
    values = variables(official.sg1_synthesis(8, 64, 8), "s/", 0)
    if change == "drop":
        del values["8x8/Conv1/bias"]
    elif change == "extra":
        values["8x8/Conv9/other"] = np.zeros(3, np.float32)
    else:
        values["8x8/Conv1/bias"] = np.zeros(5, np.float32)
    parts = {"synthesis": network(Network, values), "mapping": network(Network, variables(official.mapping("", 2), "m/", 0))}
    Gs = network(Network, {"dlatent_avg": np.zeros(512, np.float32)}, parts)
    with open(tmp_path / "n.pkl", "wb") as f:
        pickle.dump((Gs, network(Network, variables(official.sg1_discriminator(8, 64, 8), "d/", 0)), Gs), f)
    with pytest.raises(ValueError, match=said) as error:
        weight_convert.convert(tmp_path / "n.pkl")
    assert "Conv" in str(error.value) or "conv1" in str(error.value)


def test_our_own_bundled_weights_have_native_names(tmp_path):
    from safetensors.torch import save_file

    G = checkpoints.load_generator()
    state = {k: v.contiguous() for k, v in G.state_dict().items()}
    k = torch.tensor([1.0, 3, 3, 1])
    state["synthesis.b8.conv0.resample_filter"] = torch.outer(k, k) / 64
    save_file(state, tmp_path / "a.safetensors", {"names": "stylegan2-ada-pytorch", "kind": "stylegan2", "license": "CC BY 4.0"})
    weight_convert.main([str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "b.safetensors")])
    H = checkpoints.load_generator(tmp_path / "b.safetensors")
    assert H.config == G.config and torch.equal(H(torch.ones(1, 512)), G(torch.ones(1, 512)))
    state["synthesis.b8.conv0.resample_filter"] = torch.ones(4, 4)
    save_file(state, tmp_path / "a.safetensors", {"names": "stylegan2-ada-pytorch"})
    with pytest.raises(ValueError, match="filter"):
        weight_convert.convert(tmp_path / "a.safetensors")


def test_only_the_wanted_network_is_read(tmp_path, Network):
    """Of three networks one is held at a time, and once. (A full 1024 file: the process grows by 0.9 of its size.)"""
    path = official_pickle(Network, tmp_path / "n.pkl", "sg1", 1)
    reader = pickles.Reader(path)
    tracemalloc.start()
    reader.load()
    skeleton = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    G, _ = weight_convert.convert(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert skeleton < 0.1 * path.stat().st_size
    assert peak < 2 * sum(p.nbytes for p in G.state_dict().values())
