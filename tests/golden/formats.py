"""The golden networks in the formats of others, written from their descriptions and not from weight_convert's tables."""

import contextlib
import json
import pickle
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch

from tests.golden import official, seeded, seeded3


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


BUFFERS = ("noise_const", "w_avg", "resample_filter", "magnitude_ema", "up_filter", "down_filter", "freqs", "phases", "transform")


@contextlib.contextmanager
def modules_of(names):
    """While it lasts there are modules of these names, {name: what is in them}; nothing that reads a file may find them."""
    before, made = {}, {}
    for name, inside in names.items():
        made[name] = types.ModuleType(name)
        made[name].__dict__.update(inside)
        for parent in [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]:
            made.setdefault(parent, types.ModuleType(parent))
    for name, module in made.items():
        before[name] = sys.modules.get(name)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, old in before.items():
            sys.modules.pop(name) if old is None else sys.modules.update({name: old})


def grown_module(make, class_name, state, **said):
    """A tree of modules that holds a state dict: parameters as they train, the rest as buffers. `said`: attributes of the first."""

    def put(root, name, value):
        *parents, leaf = name.split(".")
        for parent in parents:
            if not hasattr(root, parent):
                setattr(root, parent, make(parent.title()))
            root = getattr(root, parent)
        if leaf in BUFFERS or leaf.startswith("noise_") and leaf != "noise_strength" or leaf == "kernel":
            root.register_buffer(leaf, value)
        else:
            setattr(root, leaf, torch.nn.Parameter(value))

    root = make(class_name)
    for name, value in state.items():
        put(root, name, value)
    root.__dict__.update(said)
    return root


def persistent_file(path, fill, protocol=4, save=None):
    """A file with modules of StyleGAN2-ADA-PyTorch and StyleGAN3: they are rebuilt by `_reconstruct_persistent_obj`.

    Args:
        fill: (make, EasyDict) -> what is written; `make(class name)` makes a module.
        save: (data, path) writes the file; None: pickle.
    """

    def reconstruct(meta):
        raise AssertionError("called")

    reconstruct.__module__, reconstruct.__qualname__, reconstruct.__name__ = "torch_utils.persistence", *["_reconstruct_persistent_obj"] * 2
    EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})

    class Persistent(torch.nn.Module):
        def __init__(self, class_name):
            super().__init__()
            self.class_name, self._init_args, self._init_kwargs = class_name, (), EasyDict()

        def __reduce__(self):
            meta = {"type": "class", "version": 6, "module_src": "import os\nos.abort()\n", "class_name": self.class_name}
            return reconstruct, (meta | {"state": dict(self.__dict__)},), None

    with modules_of({"torch_utils.persistence": {"_reconstruct_persistent_obj": reconstruct}, "dnnlib.util": {"EasyDict": EasyDict}}):
        data = fill(Persistent, EasyDict)
        save(data, path) if save else path.write_bytes(pickle.dumps(data, protocol=protocol))
    return path


def class_file(path, fill, module="training.networks", zipped=True):
    """A file with `torch.save(G)` of classes that are named by the module that defines them; `fill`: (make, dict) -> what is written."""
    classes = {}

    def make(class_name):
        if class_name not in classes:
            classes[class_name] = type(class_name, (torch.nn.Module,), {"__module__": module})
            setattr(sys.modules[module], class_name, classes[class_name])
        return classes[class_name]()

    with modules_of({module: {}}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its source cannot be found
        torch.save(fill(make, dict), path, _use_new_zipfile_serialization=zipped)
    return path


def ada_pickle(path, values, protocol=4, save=None, holds=None, **settings):
    """The official pickle of StyleGAN2-ADA-PyTorch.

    Args:
        save: (data, path) writes the file; None: pickle.
        holds: (G, D, unaveraged G) -> what is written; None: what the official training writes.
    """
    kwargs = {"channel_base": 2048, "channel_max": 64, "num_fp16_res": 0, "conv_clamp": None} | settings.pop("synthesis_kwargs", {})
    mapping = {"num_layers": 8} | settings.pop("mapping_kwargs", {})
    attributes = settings.pop("attributes", {})  # {"synthesis.b8.conv0": {name: value}}, what a layer says of itself
    args = settings.pop("args", ())

    def fill(make, EasyDict):
        init = EasyDict(z_dim=512, c_dim=0, w_dim=512, img_resolution=128, img_channels=3, mapping_kwargs=EasyDict(mapping),
                        synthesis_kwargs=EasyDict(kwargs))  # fmt: skip
        state = ada_generator(values)
        G = grown_module(make, "Generator", state, _init_kwargs=init, _init_args=args)
        noisy = {name: torch.randn_like(value) if "resample" not in name else value for name, value in state.items()}
        raw = grown_module(make, "Generator", noisy, _init_kwargs=init)
        critic = EasyDict(c_dim=0, img_resolution=128, epilogue_kwargs=EasyDict(mbstd_group_size=4), **settings)
        D = grown_module(make, "Discriminator", ada_discriminator(values), _init_kwargs=critic)
        for name, said in attributes.items():
            G.get_submodule(name).__dict__.update(said)
        data = {"G": raw, "D": D, "G_ema": G, "augment_pipe": None}
        return holds(G, D, raw) if holds else data | {"training_set_kwargs": EasyDict(resolution=128, mean=np.float32(0.5))}

    return persistent_file(path, fill, protocol, save)


def sg3_state(kind):
    """The state dict of StyleGAN3's golden network, 't' or 'r', as the official code saves it, filters and all."""
    from stylegan3_layers import Generator3, filters, infer

    golden = np.load(Path(__file__).parent / f"sg3{kind}_64_small.npz", allow_pickle=False)
    shapes = {str(name): json.loads(str(shape)) for name, shape in zip(golden["names"], golden["shapes"], strict=True)}
    made = {name: seeded3.value(name, tuple(shape), {"t": 3, "r": 4}[kind]) for name, shape in shapes.items() if "_filter" not in name}
    state = {name: torch.from_numpy(np.array(value)) for name, value in made.items()}
    state["synthesis.input.transform"] = torch.eye(3)
    state |= {name: taps.float() for name, taps in filters(Generator3(infer(state))).items()}
    state |= {name.removeprefix("filter/"): torch.from_numpy(golden[name]) for name in golden.files if name.startswith("filter/")}
    assert {name: list(value.shape) for name, value in state.items()} == shapes
    return state, golden


SG3_KWARGS = {"t": {"channel_base": 2048, "channel_max": 48},
              "r": {"channel_base": 2048, "channel_max": 48, "conv_kernel": 1, "use_radial_filters": True}}  # fmt: skip


def sg3_module(make, EasyDict, kind, state, **settings):
    """StyleGAN3's generator as a module that says of itself what the official one says."""
    init = dict(z_dim=512, c_dim=0, w_dim=512, img_resolution=64, img_channels=3, mapping_kwargs=EasyDict(num_layers=2),
                magnitude_ema_beta=0.999, **SG3_KWARGS[kind]) | settings  # fmt: skip
    G = grown_module(
        make, "Generator", state, _init_kwargs=EasyDict(init), z_dim=512, c_dim=0, w_dim=512, img_resolution=64, img_channels=3
    )
    G.synthesis.__dict__.update(num_layers=14, num_critical=2, margin_size=10, output_scale=0.25, num_fp16_res=4, num_ws=16)
    G.mapping.__dict__.update(num_layers=2, num_ws=16, c_dim=0, w_avg_beta=0.998)
    for name, layer in G.synthesis.named_children():
        if name != "input":
            layer.__dict__.update(conv_clamp=init.get("conv_clamp", 256), use_fp16=False, is_torgb=name.startswith("L14"))
            layer.__dict__.update(in_size=np.array([36, 36]), in_cutoff=np.float64(2.5), padding=[np.int64(4), 5, 4, 5])
        layer.affine.__dict__.update(activation="linear", bias_gain=1)
    for i in range(2):
        getattr(G.mapping, f"fc{i}").__dict__.update(activation="lrelu", bias_gain=0.01)
    return G


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
