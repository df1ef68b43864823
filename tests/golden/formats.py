"""The golden networks in the formats of others, written from their descriptions and not from weight_convert's tables."""

import pickle
import sys
import types

import numpy as np
import torch

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


def ada_pickle(path, values, protocol=4, save=None, holds=None, **settings):
    """The official pickle of StyleGAN2-ADA-PyTorch: modules that are rebuilt by `_reconstruct_persistent_obj`.

    Args:
        save: (data, path) writes the file; None: pickle.
        holds: (G, D, unaveraged G) -> what is written; None: what the official training writes.
    """
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
    mapping = EasyDict({"num_layers": 8} | settings.pop("mapping_kwargs", {}))
    attributes = settings.pop("attributes", {})  # {"synthesis.b8.conv0": {name: value}}, what a layer says of itself
    G, raw = (Persistent("Generator", z_dim=512, c_dim=0, w_dim=512, img_resolution=128, img_channels=3, mapping_kwargs=mapping,
                         synthesis_kwargs=EasyDict(kwargs)) for _ in range(2))  # fmt: skip
    D = Persistent("Discriminator", c_dim=0, img_resolution=128, epilogue_kwargs=EasyDict(mbstd_group_size=4), **settings)
    for name, value in ada_generator(values).items():
        grow(G, name, value)
        grow(raw, name, torch.randn_like(value) if "resample" not in name else value)
    for name, value in ada_discriminator(values).items():
        grow(D, name, value)
    for name, said in attributes.items():
        G.get_submodule(name).__dict__.update(said)
    data = {"G": raw, "D": D, "G_ema": G, "augment_pipe": None, "training_set_kwargs": EasyDict(resolution=128, mean=np.float32(0.5))}
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        if save:
            save(holds(G, D, raw) if holds else data, path)
        else:
            path.write_bytes(pickle.dumps(holds(G, D, raw) if holds else data, protocol=protocol))
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


def equal(network, other, without=()):
    a, b = network.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    return network.config == other.config and all(torch.equal(a[k], b[k]) for k in a if not k.endswith(tuple(without) or ("-",)))
