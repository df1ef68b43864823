"""Pickles of the official formats, written here, must give the official networks' outputs (tests/golden)."""

import argparse
import os
import pickle
import struct
import sys
import tracemalloc
import types

import numpy as np
import pytest
import torch

import weight_convert
from editor import checkpoints, pickles
from stylegan_layers import Config, Generator
from tests.golden import official, seeded


def named(module, name):
    """A class that pickles under a module path that is not there when the file is read."""
    cls = type(name, (), {"__module__": module})
    path = ""
    for part in module.split("."):
        path = f"{path}.{part}".lstrip(".")
        sys.modules.setdefault(path, types.ModuleType(path))
    setattr(sys.modules[module], name, cls)
    return cls


@pytest.fixture
def Network():
    before = set(sys.modules)
    yield named("dnnlib.tflib.network", "Network")
    for name in set(sys.modules) - before:
        if name.startswith("dnnlib"):
            del sys.modules[name]


def variables(shapes, prefix, seed):
    return {k: seeded.value(prefix + k, s, seed) for k, s in shapes.items()}


def network(Network, values, components=None, version=2, **settings):
    n = Network()
    n.__dict__.update(version=version, name="x", static_kwargs={"num_channels": 3} | settings, components=components or {},
                      build_func_name="f", build_module_src="import os", variables=list(values.items()))  # fmt: skip
    return n


def official_pickle(Network, path, kind, seed, protocol=4, **settings):
    size = (128, 1024, 64)
    if kind == "sg1":
        shapes, critic, prefix = official.sg1_synthesis(*size), official.sg1_discriminator(*size), "Gs/"
    else:
        shapes, critic, prefix = official.sg2_synthesis(*size), official.sg2_discriminator(*size), ""
    parts = {
        "synthesis": network(Network, variables(shapes, prefix + "G_synthesis/", seed)),
        "mapping": network(Network, variables(official.mapping(""), prefix + "G_mapping/", seed)),
    }
    own = {"lod": np.float32(0), "dlatent_avg": seeded.value("Gs/dlatent_avg", (512,), seed)}
    Gs = network(Network, own, parts, **settings)
    D = network(Network, variables(critic, "D/", seed), **settings)
    with open(path, "wb") as f:
        pickle.dump((network(Network, {}), D, Gs), f, protocol=protocol)
    return path


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
    said = dict(license="a", source="b", alignment={"scale": 1.0, "em_scale": 0.1}, perceptual="c", extra="\N{SNOWMAN} \"quoted\"")  # fmt: skip
    G, _ = weight_convert.convert(path)
    hashes = {checkpoints.save(tmp_path / "g.safetensors", G, **dict(sorted(said.items(), reverse=i % 2))) for i in range(6)}
    assert len(hashes) == 1 and checkpoints.read_metadata(tmp_path / "g.safetensors")["extra"] == said["extra"]


# ---------------------------------------------------------------------------------------------------------------------
# The golden networks in the formats of others, written from their descriptions and not from weight_convert's tables


def golden_values(kind, seed):
    """The variables of the golden network by their official names, as the TensorFlow session had them."""
    size = (128, 1024, 64)
    synthesis, critic = getattr(official, f"{kind}_synthesis")(*size), getattr(official, f"{kind}_discriminator")(*size)
    top = "Gs/" if kind == "sg1" else ""
    values = {f"G_synthesis/{k}": seeded.value(f"{top}G_synthesis/{k}", s, seed) for k, s in synthesis.items()}
    values |= {f"G_mapping/{k}": seeded.value(f"{top}G_mapping/{k}", s, seed) for k, s in official.mapping("").items()}
    values |= {f"D/{k}": seeded.value(f"D/{k}", s, seed) for k, s in critic.items()}
    values["dlatent_avg"] = seeded.value("Gs/dlatent_avg", (512,), seed)
    return {k: torch.from_numpy(np.array(v)) for k, v in values.items()}


def native(v):
    """HWIO -> OIHW, [in, out] -> [out, in]."""
    return {4: lambda: v.permute(3, 2, 0, 1), 2: v.t}.get(v.ndim, lambda: v)().contiguous()


def kernel(*taps, gain=1.0):
    k = torch.tensor(taps, dtype=torch.float32)
    return torch.outer(k, k) / k.sum() ** 2 * gain


def lernapparat(values):
    """The state dicts of lernapparat's generator and discriminator, without noise maps and mean latent."""
    words = [("Const/const", "const"), ("Const/bias", "bias"), ("Const/", "epi1."), ("ToRGB_lod0", "torgb"), ("FromRGB_lod0", "fromrgb"),
             ("Noise/weight", "top_epi.noise.weight"), ("StyleMod/", "style_mod.lin."), ("Dense", "dense")]  # fmt: skip
    G, D = {}, {}
    for name, value in values.items():
        if "lod" in name and "lod0" not in name or "noise" in name or name == "dlatent_avg":
            continue
        scope, _, rest = name.partition("/")
        inside = "Noise" in rest or "StyleMod" in rest
        for old, new in words:
            rest = rest.replace(old, new)
        if inside:
            rest = rest.replace("Conv0_up/", "epi1.").replace("Conv1/", "epi2.").replace("Conv/", "epi2.")
        rest = rest.replace("Conv", "conv").replace("/", ".")
        value = native(value) if name.endswith("weight") else value
        if scope == "D":
            D[rest] = value
        elif scope == "G_mapping":
            G[f"g_mapping.{rest}"] = value
        else:
            G[f"g_synthesis.{'' if rest.startswith('torgb') else 'blocks.'}{rest}"] = value
    for r in (8, 16, 32, 64, 128):
        G[f"g_synthesis.blocks.{r}x{r}.conv0_up.intermediate.kernel"] = kernel(1, 2, 1)[None, None]
        D[f"{r}x{r}.blur.kernel"] = kernel(1, 2, 1)[None, None]
        D[f"{r}x{r}.conv1_down.downscale.blur.kernel"] = torch.full((1, 1, 2, 2), 0.25)
    return G, D


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
        weight_convert.main([str(tmp_path / "n.pt"), "--out", str(tmp_path / "g.safetensors"), "--discriminator", str(tmp_path / "x")])
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
    assert (H.w_avg - w.mean(0)).abs().max() < 0.06 * w.std(0).max()
    twice, _ = converted(tmp_path / "n.pt", tmp_path, discriminator=False)
    assert twice.meta["hash"] == H.meta["hash"]


def rosinality(values):
    """The state dicts of rosinality's generator and discriminator."""
    G = {"input.input": values["G_synthesis/4x4/Const/const"]}
    G |= {f"style.{i + 1}.{p}": native(values[f"G_mapping/Dense{i}/{p}"]) for i in range(8) for p in ("weight", "bias")}
    G |= {f"noises.noise_{i}": values[f"G_synthesis/noise{i}"] for i in range(11)}

    def modulated(theirs, name, up=False):
        v = {p: values[f"G_synthesis/{name}/{p}"] for p in ("weight", "mod_weight", "mod_bias", "bias")}
        weight = native(v["weight"])
        G[f"{theirs}.conv.weight"] = (weight.flip(2, 3) if up else weight)[None]
        G[f"{theirs}.conv.modulation.weight"], G[f"{theirs}.conv.modulation.bias"] = native(v["mod_weight"]), v["mod_bias"] + 1
        if theirs.startswith("to_rgb"):
            G[f"{theirs}.bias"] = v["bias"].view(1, 3, 1, 1)
        else:
            G[f"{theirs}.activate.bias"] = v["bias"]
            G[f"{theirs}.noise.weight"] = values[f"G_synthesis/{name}/noise_strength"].view(1)
        if up:
            G[f"{theirs}.conv.blur.kernel"] = kernel(1, 3, 3, 1, gain=4)

    modulated("conv1", "4x4/Conv")
    modulated("to_rgb1", "4x4/ToRGB")
    D = {}
    for i, r in enumerate((8, 16, 32, 64, 128)):
        modulated(f"convs.{2 * i}", f"{r}x{r}/Conv0_up", up=True)
        modulated(f"convs.{2 * i + 1}", f"{r}x{r}/Conv1")
        modulated(f"to_rgbs.{i}", f"{r}x{r}/ToRGB")
        G[f"to_rgbs.{i}.upsample.kernel"] = kernel(1, 3, 3, 1, gain=4)
        block = f"convs.{5 - i}"
        parts = [("conv1.0.weight", "Conv0/weight"), ("conv1.1.bias", "Conv0/bias"), ("conv2.1.weight", "Conv1_down/weight"),
                 ("conv2.2.bias", "Conv1_down/bias"), ("skip.1.weight", "Skip/weight")]  # fmt: skip
        D |= {f"{block}.{theirs}": native(values[f"D/{r}x{r}/{name}"]) for theirs, name in parts}
        D |= {f"{block}.{part}.0.kernel": kernel(1, 3, 3, 1) for part in ("conv2", "skip")}
    for theirs, name in [("convs.0.0.weight", "128x128/FromRGB/weight"), ("convs.0.1.bias", "128x128/FromRGB/bias"),
                         ("final_conv.0.weight", "4x4/Conv/weight"), ("final_conv.1.bias", "4x4/Conv/bias"),
                         ("final_linear.0.weight", "4x4/Dense0/weight"), ("final_linear.0.bias", "4x4/Dense0/bias"),
                         ("final_linear.1.weight", "Output/weight"), ("final_linear.1.bias", "Output/bias")]:  # fmt: skip
        D[theirs] = native(values[f"D/{name}"])
    return G, D


def test_rosinalitys_file_gives_the_official_images(tmp_path, monkeypatch):
    values = golden_values("sg2", 2)
    G, D = rosinality(values)
    flags = argparse.Namespace(size=128, lr=0.002)  # training saves its flags too
    torch.save(
        {"g": G, "d": D, "g_ema": G, "d_optim": {"state": {}}, "args": flags, "latent_avg": values["dlatent_avg"]}, tmp_path / "n.pt"
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


def ada_pickle(path, values, protocol, **settings):
    """The official pickle of StyleGAN2-ADA-PyTorch: modules that are rebuilt by `_reconstruct_persistent_obj`."""
    module = types.ModuleType("torch_utils.persistence")
    exec("def _reconstruct_persistent_obj(meta): raise AssertionError('called')", module.__dict__)
    EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    stand_ins = {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": module, "dnnlib": types.ModuleType("dnnlib"),
                 "dnnlib.util": types.ModuleType("dnnlib.util")}  # fmt: skip
    stand_ins["dnnlib.util"].EasyDict = EasyDict

    class Persistent(torch.nn.Module):
        def __init__(self, class_name, *args, **kwargs):
            super().__init__()
            self.class_name, self._init_args, self._init_kwargs = class_name, args, EasyDict(kwargs)

        def __reduce__(self):
            meta = {"type": "class", "version": 6, "module_src": "import os\nos.abort()\n", "class_name": self.class_name}
            return module._reconstruct_persistent_obj, (meta | {"state": dict(self.__dict__)},), None

    def grow(root, name, value):
        """Put a tensor into the tree of modules: parameters as they train, the rest as buffers."""
        *parents, leaf = name.split(".")
        for parent in parents:
            if not hasattr(root, parent):
                setattr(root, parent, Persistent(parent.title()))
            root = getattr(root, parent)
        if leaf in ("noise_const", "w_avg", "resample_filter"):
            root.register_buffer(leaf, value)
        else:
            setattr(root, leaf, torch.nn.Parameter(value))

    kwargs = {"channel_base": 2048, "channel_max": 64, "num_fp16_res": 0, "conv_clamp": None} | settings.pop("synthesis_kwargs", {})
    G = Persistent("Generator", z_dim=512, c_dim=0, w_dim=512, img_resolution=128, img_channels=3, mapping_kwargs=EasyDict(num_layers=8),
                   synthesis_kwargs=EasyDict(kwargs))  # fmt: skip
    D = Persistent("Discriminator", c_dim=0, img_resolution=128, epilogue_kwargs=EasyDict(mbstd_group_size=4), **settings)
    for name, value in ada_generator(values).items():
        grow(G, name, value)
    for name, value in ada_discriminator(values).items():
        grow(D, name, value)
    data = {"G": G, "D": D, "G_ema": G, "augment_pipe": None, "training_set_kwargs": EasyDict(resolution=128, mean=np.float32(0.5))}
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        with open(path, "wb") as f:
            pickle.dump(data, f, protocol=protocol)
    finally:
        for name, old in before.items():
            sys.modules.pop(name) if old is None else sys.modules.update({name: old})
    return path


def ada_generator(values):
    out = {"mapping.w_avg": values["dlatent_avg"], "synthesis.b4.const": values["G_synthesis/4x4/Const/const"][0]}
    out |= {f"mapping.fc{i}.{p}": native(values[f"G_mapping/Dense{i}/{p}"]) for i in range(8) for p in ("weight", "bias")}
    maps = iter(range(11))
    for r in (4, 8, 16, 32, 64, 128):
        for name, ours in [("Conv0_up", "conv0"), ("Conv" if r == 4 else "Conv1", "conv1"), ("ToRGB", "torgb")]:
            if r == 4 and name == "Conv0_up":
                continue
            theirs, ours = f"G_synthesis/{r}x{r}/{name}/", f"synthesis.b{r}.{ours}."
            weight = native(values[theirs + "weight"])
            out[ours + "weight"] = weight.flip(2, 3) if name == "Conv0_up" else weight
            out[ours + "bias"] = values[theirs + "bias"]
            out[ours + "affine.weight"], out[ours + "affine.bias"] = native(values[theirs + "mod_weight"]), values[theirs + "mod_bias"] + 1
            if name != "ToRGB":
                out[ours + "noise_strength"] = values[theirs + "noise_strength"]
                out[ours + "noise_const"] = values[f"G_synthesis/noise{next(maps)}"][0, 0]
                out[ours + "resample_filter"] = kernel(1, 3, 3, 1)
        out[f"synthesis.b{r}.resample_filter"] = kernel(1, 3, 3, 1)
    return out


def ada_discriminator(values):
    out = {}
    for name, value in values.items():
        scope, _, rest = name.partition("/")
        if scope == "D" and rest != "lod":
            block, _, rest = rest.replace("Output", "4x4/Output").partition("/")
            for old, new in [
                ("FromRGB", "fromrgb"),
                ("Conv1_down", "conv1"),
                ("Conv", "conv"),
                ("Skip", "skip"),
                ("Dense0", "fc"),
                ("Output", "out"),
            ]:
                rest = rest.replace(old, new)
            out[f"b{block.split('x')[0]}.{rest.replace('/', '.')}"] = native(value)
    for r in (8, 16, 32, 64, 128):
        out |= {f"b{r}.{part}resample_filter": kernel(1, 3, 3, 1) for part in ("", "conv1.", "skip.")}
    return out


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


# ---------------------------------------------------------------------------------------------------------------------
# Memory


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


# ---------------------------------------------------------------------------------------------------------------------
# Bad files


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


class Evil:
    def __init__(self, *reduce):
        self.reduce = reduce

    def __reduce__(self):
        return self.reduce


def hostile(marker):
    touch = f"touch {marker}"
    zipped = pickle.dumps(Evil(os.system, (touch,)))
    deep = b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b"."
    return {
        "system": pickle.dumps(Evil(os.system, (touch,))),
        "eval": pickle.dumps(Evil(eval, (f"open({str(marker)!r}, 'w')",))),
        "nested": pickle.dumps({"G_ema": [Evil(exec, (f"open({str(marker)!r}, 'w')",))]}),
        "inner": b"\x80\x04ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(zipped)) + zipped + b"tR.",
        "attribute": b"\x80\x04cdnnlib.tflib.network\nNetwork\n(N}\x8c\x01a\x8c\x01bsttb.",
        "memo": b"\x80\x04Nr\xff\xff\xff\xff.",
        "count": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
        "deep": deep,
        "getattr": b"\x80\x04cbuiltins\ngetattr\n.",
        "pid": b"\x80\x04\x8c\x01aQ.",
        "place": b"\x80\x04K\x00K\x09\x86Q.",
        "tensor": hostile_tensor(marker),
        "set": b"\x80\x04cbuiltins\nset\n]]a\x85R.",
    }


def hostile_tensor(marker):
    """A StyleGAN2-ADA-PyTorch pickle whose one tensor has a command where its numbers should be: it is read late."""
    inner = pickle.dumps(Evil(os.system, (f"touch {marker}",)))
    storage = Evil(torch.storage._load_from_bytes, (inner + b"\0" * 2000,))
    tensor = Evil(torch._utils._rebuild_tensor_v2, (storage, 0, (1,), (1,), False, {}))
    meta = pickle.dumps({"class_name": "Generator", "state": {"_parameters": {"synthesis.b4.const": tensor}}}, protocol=2)[2:-1]
    return b"\x80\x02}X\5\0\0\0G_emactorch_utils.persistence\n_reconstruct_persistent_obj\n" + meta + b"\x85Rs."


@pytest.mark.parametrize("name", list(hostile("")))
def test_hostile_pickles_run_nothing(tmp_path, name):
    (tmp_path / "x.pkl").write_bytes(hostile(tmp_path / "marker")[name])
    with pytest.raises(ValueError) as error:
        weight_convert.convert(tmp_path / "x.pkl")
    assert not (tmp_path / "marker").exists() and "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("call", [os.system, eval])
def test_hostile_pt_files_run_nothing(tmp_path, zipped, call):
    marker = tmp_path / "marker"
    command = f"touch {marker}" if call is os.system else f"open({str(marker)!r}, 'w')"
    torch.save({"g_ema": Evil(call, (command,))}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=f"it names .*{call.__name__}, which no StyleGAN file needs") as error:
        weight_convert.convert(tmp_path / "x.pt")
    assert not marker.exists() and "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_pt_that_is_cut_off(tmp_path, zipped, part):
    torch.save(
        {"g_ema": {f"style.{i}.weight": torch.zeros(99, 99) for i in range(20)}}, tmp_path / "x", _use_new_zipfile_serialization=zipped
    )
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ValueError, match="cut off"):
        weight_convert.convert(tmp_path / "x.pt")


@pytest.mark.parametrize("data", [{"model": torch.zeros(3)}, [1, 2], torch.zeros(3), {}, {1: 2}])
def test_a_pt_of_something_else(tmp_path, data):
    torch.save(data, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="no StyleGAN"):
        weight_convert.convert(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "content, said",
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"", "empty"),
        (b"hello", "neither"),
        (b"PK\x05\x06" + bytes(18), "x.pkl: "),
        (pickle.dumps({"a": 1}), "no StyleGAN"),
        (pickle.dumps([1] * 1000)[:-20], "cut off"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, said):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        weight_convert.convert(tmp_path / "x.pkl")
