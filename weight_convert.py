"""Convert a published StyleGAN checkpoint to this toolkit's: one `.safetensors` file that describes itself. No TensorFlow.

    python weight_convert.py karras2019stylegan-ffhq-1024x1024.pkl

Reads the official pickles of StyleGAN1, StyleGAN2 (-ADA) for TensorFlow and StyleGAN2-ADA-PyTorch, and `.safetensors` files with
the latter's names. SOURCE may also be a name that model_zoo downloads (stylegan1-ffhq-1024, ...). Nothing that a file names is
ever imported or called: the reader knows a short list of names and refuses the rest.
"""

import io
import json
import pickle
import pickletools
import re
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np

import cli
import model_zoo

# ---------------------------------------------------------------------------------------------------------------------
# The restricted unpickler: a stand-in of ours for each name that an official file needs


class _Sealed(type):
    def __setattr__(cls, name, value):
        raise ValueError("the file tries to change a class")


class Stub(metaclass=_Sealed):
    """An object of a class that we do not import; `state` is what the file gives it."""

    __slots__ = ("state",)

    def __init__(self, *args):
        self.state = {}

    def __setstate__(self, state):
        self.state = state


class EasyDict(dict, metaclass=_Sealed):
    """dnnlib's dict with attributes, without the attributes."""

    __slots__ = ()

    def __setstate__(self, state):
        if state:
            raise ValueError("an EasyDict with attributes")


class DType(Stub):
    """numpy.dtype: only plain numbers."""

    __slots__ = ("code", "order")

    def __init__(self, code="", *_):
        if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise ValueError(f"an array of type {code!r}, not numbers")
        self.code, self.order = code, "<"

    def __setstate__(self, state):
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self):
        return np.dtype(self.order + self.code)


class Array(Stub):
    """numpy.ndarray: shape, type and bytes."""

    __slots__ = ("value",)

    def __setstate__(self, state):
        _, shape, dtype, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if type(dtype) is not DType or type(raw) is not bytes:
            raise ValueError("an array of objects")
        self.value = np.frombuffer(raw, dtype.numpy()).reshape(shape, order="F" if fortran else "C")


class _Function:
    """A callable that the file may call and may not change."""

    __slots__ = ("call",)

    def __init__(self, call):
        self.call = call

    def __call__(self, *args):
        return self.call(*args)

    def __setstate__(self, state):
        raise ValueError("the file tries to change a function")


class Module:
    """A module of StyleGAN2-ADA-PyTorch: its class name and its `__dict__`."""

    __slots__ = ("class_name", "state")

    def __init__(self, meta):
        self.class_name, self.state = meta["class_name"], meta["state"]

    def __setstate__(self, state):
        raise ValueError("the file tries to change a module")


def _scalar(dtype, raw):
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, dtype.numpy())[0].item()


def _encode(text, encoding):
    if encoding != "latin1" or type(text) is not str:
        raise ValueError("an encoding other than latin1")
    return text.encode("latin1")


def _storage(raw):
    import torch

    storage = torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu")
    if not isinstance(storage, (torch.storage.TypedStorage, torch.UntypedStorage)):
        raise ValueError("what should be a tensor's storage is something else")
    return storage


def _tensor(storage, offset, size, stride, *_):
    import torch

    flat = torch.tensor([], dtype=storage.dtype).set_(storage)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if min(size, default=1) > 0 and not 0 <= last < len(flat) or min(stride, default=0) < 0:
        raise ValueError("a tensor larger than its storage")
    return flat.as_strided(size, stride, offset)


def _names():
    names = {
        "dnnlib.tflib.network.Network": Stub,
        "dnnlib.util.EasyDict": EasyDict,
        "collections.OrderedDict": OrderedDict,
        "numpy.ndarray": Array,
        "numpy.dtype": DType,
        "_codecs.encode": _Function(_encode),
        "torch_utils.persistence._reconstruct_persistent_obj": _Function(Module),
        "torch._utils._rebuild_parameter": _Function(lambda data, *_: data),
        "torch._utils._rebuild_tensor_v2": _Function(_tensor),
        "torch.storage._load_from_bytes": _Function(_storage),
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[f"{core}._reconstruct"] = _Function(lambda *_: Array())
        names[f"{core}.scalar"] = _Function(_scalar)
    return names


class Reader(pickle.Unpickler):
    """An unpickler that knows `_names()` and nothing else."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")
        self.names = _names()

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.names:
            raise ValueError(f"it names {module}.{name}, which no StyleGAN1 or StyleGAN2 file needs; nothing of it was run")
        return self.names[f"{module}.{name}"]

    def persistent_load(self, pid):
        raise ValueError("it refers to objects outside the file")


def read_pickle(path):
    """A pickle of plain data, arrays and stand-ins.

    Raises:
        ValueError: the file is cut off, or names anything that an official checkpoint does not; nothing was run.
    """
    size = Path(path).stat().st_size
    try:
        with open(path, "rb") as f:
            for op, argument, _ in pickletools.genops(f):  # a memo index sizes a table before anything else is looked at
                if "PUT" in op.name and int(argument) > size:
                    raise ValueError("a memo index past the end of the file")
        with open(path, "rb") as f:
            return Reader(f).load()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, RecursionError, MemoryError, OverflowError,
            RuntimeError, pickle.UnpicklingError) as error:  # fmt: skip
        reason = cli.one_line(error)
        cut = "not enough data" in reason or "exhausted" in reason or "Ran out" in reason or "truncated" in reason or "expected" in reason
        hint = "the file is cut off: download it again; " if cut else ""
        raise ValueError(f"{path}: not a checkpoint that can be read: {hint}{reason[:300]}") from None


# ---------------------------------------------------------------------------------------------------------------------
# TensorFlow names -> ours. A table maps a pattern to our name and the change of layout.

CONV = (3, 2, 0, 1)  # HWIO -> OIHW


def _conv(v):
    return v.transpose(CONV)


def _flipped(v):
    return v.transpose(CONV)[:, :, ::-1, ::-1]


def _plain(v):
    return v


def _map(v):
    return v[0, 0]


SG1_LAYER = {"Const": "conv0", "Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1"}
SG2_LAYER = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1"}
DENSE = (r"Dense(\d+)/(weight|bias)", lambda m: f"mapping.fc{m[1]}.{m[2]}", np.transpose)

SG1 = [
    (r"4x4/Const/const", lambda m: "synthesis.b4.const", lambda v: v[0]),
    (r"noise(\d+)", lambda m: f"synthesis.b{4 << int(m[1]) // 2}.conv{int(m[1]) % 2}.noise_const", _map),
    (r"(\d+)x\d+/(\w+)/weight", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.weight", _conv),
    (r"(\d+)x\d+/(\w+)/bias", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.bias", _plain),
    (r"(\d+)x\d+/(\w+)/Noise/weight", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.noise_strength", _plain),
    (r"(\d+)x\d+/(\w+)/StyleMod/(weight|bias)", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.affine.{m[3]}", np.transpose),
    (r"ToRGB_lod0/weight", lambda m: "synthesis.torgb.weight", _conv),
    (r"ToRGB_lod0/bias", lambda m: "synthesis.torgb.bias", _plain),
    (r"ToRGB_lod[1-9]\d*/(weight|bias)|lod", None, None),  # other resolutions of progressive growing
    DENSE,
]
SG1_D = [
    (r"FromRGB_lod0/weight", lambda m: "b{R}.fromrgb.weight", _conv),
    (r"FromRGB_lod0/bias", lambda m: "b{R}.fromrgb.bias", _plain),
    (r"(\d+)x\d+/(Conv0|Conv1_down|Conv)/weight", lambda m: f"b{m[1]}.{m[2].lower().removesuffix('_down')}.weight", _conv),
    (r"(\d+)x\d+/(Conv0|Conv1_down|Conv)/bias", lambda m: f"b{m[1]}.{m[2].lower().removesuffix('_down')}.bias", _plain),
    (r"4x4/Dense0/(weight|bias)", lambda m: f"b4.fc.{m[1]}", np.transpose),
    (r"4x4/Dense1/(weight|bias)", lambda m: f"b4.out.{m[1]}", np.transpose),
    (r"FromRGB_lod[1-9]\d*/(weight|bias)|lod", None, None),
]


def _noise2(m):
    i = int(m[1])
    return f"synthesis.b{1 << (i + 5) // 2}.conv{(i + 1) % 2}.noise_const"


SG2 = [
    (r"4x4/Const/const", lambda m: "synthesis.b4.const", lambda v: v[0]),
    (r"noise(\d+)", _noise2, _map),
    (r"(\d+)x\d+/Conv0_up/weight", lambda m: f"synthesis.b{m[1]}.conv0.weight", _flipped),
    (r"(\d+)x\d+/(Conv|Conv1)/weight", lambda m: f"synthesis.b{m[1]}.conv1.weight", _conv),
    (r"(\d+)x\d+/(Conv\w*)/(bias|noise_strength)", lambda m: f"synthesis.b{m[1]}.{SG2_LAYER[m[2]]}.{m[3]}", _plain),
    (r"(\d+)x\d+/(Conv\w*)/mod_weight", lambda m: f"synthesis.b{m[1]}.{SG2_LAYER[m[2]]}.affine.weight", np.transpose),
    (r"(\d+)x\d+/(Conv\w*)/mod_bias", lambda m: f"synthesis.b{m[1]}.{SG2_LAYER[m[2]]}.affine.bias", lambda v: v + 1),
    (r"(\d+)x\d+/ToRGB/weight", lambda m: f"synthesis.b{m[1]}.torgb.weight", _conv),
    (r"(\d+)x\d+/ToRGB/bias", lambda m: f"synthesis.b{m[1]}.torgb.bias", _plain),
    (r"(\d+)x\d+/ToRGB/mod_weight", lambda m: f"synthesis.b{m[1]}.torgb.affine.weight", np.transpose),
    (r"(\d+)x\d+/ToRGB/mod_bias", lambda m: f"synthesis.b{m[1]}.torgb.affine.bias", lambda v: v + 1),
    (r"lod", None, None),
    DENSE,
]
SG2_D = [
    (r"(\d+)x\d+/FromRGB/weight", lambda m: f"b{m[1]}.fromrgb.weight", _conv),
    (r"(\d+)x\d+/FromRGB/bias", lambda m: f"b{m[1]}.fromrgb.bias", _plain),
    (r"(\d+)x\d+/(Conv0|Conv1_down|Conv|Skip)/weight", lambda m: f"b{m[1]}.{m[2].lower().removesuffix('_down')}.weight", _conv),
    (r"(\d+)x\d+/(Conv0|Conv1_down|Conv)/bias", lambda m: f"b{m[1]}.{m[2].lower().removesuffix('_down')}.bias", _plain),
    (r"4x4/Dense0/(weight|bias)", lambda m: f"b4.fc.{m[1]}", np.transpose),
    (r"Output/(weight|bias)", lambda m: f"b4.out.{m[1]}", np.transpose),
    (r"lod", None, None),
]


def renamed(variables, table, **known):
    """TensorFlow variables {name: array} -> our names and layouts.

    Raises:
        ValueError: names a variable that the table does not have.
    """
    state = {}
    for name, value in variables.items():
        for pattern, ours, change in table:
            match = re.fullmatch(pattern, name)
            if match:
                if ours:
                    state[ours(match).format(**known)] = np.array(change(value), np.float32, order="C")
                break
        else:
            raise ValueError(f"the variable {name} is left over: this is not the architecture that the toolkit knows")
    return state


def _variables(network):
    out = {}
    for name, value in network.state["variables"]:
        out[name] = value.value if isinstance(value, Array) else np.float32(value)
    return out


def _config(kind, state, key):
    """Resolution, widths and depths, read from the tensors themselves. `key` is a prefix: 'synthesis.' or ''."""
    from stylegan_layers import Config

    sides = sorted({int(m[1]) for m in (re.match(rf"{re.escape(key)}b(\d+)\.", k) for k in state) if m})
    if not sides:
        raise ValueError("no layers of a StyleGAN are in it")
    last = "conv1.weight" if key else ("conv0.weight" if sides[-1] > 4 else "conv.weight")
    widths = {r: state[f"{key}b{r}.{last if key or r > 4 else 'conv.weight'}"].shape[0] for r in sides}
    top = max(widths.values())
    base = max((r * c for r, c in widths.items() if c < top), default=top * sides[-1])
    more = {}
    if key:
        depth = len([k for k in state if re.fullmatch(r"mapping\.fc\d+\.weight", k)])
        first = state["mapping.fc0.weight"]
        more = {"mapping_layers": depth, "z_dim": first.shape[1], "w_dim": first.shape[0]}
    return Config(kind, sides[-1], base, top, **more)


EXPECTED = {  # settings that would make another network, and what they must be
    "label_size": 0, "use_styles": True, "use_noise": True, "use_pixel_norm": False, "use_instance_norm": True, "use_wscale": True,
    "fmap_decay": 1.0, "nonlinearity": "lrelu", "num_channels": 3, "c_dim": 0, "img_channels": 3, "fused_modconv": True,
    "normalize_latents": True, "demodulate": True,
}  # fmt: skip


def _check_settings(*settings):
    for said in settings:
        for name, value in (said or {}).items():
            if name in EXPECTED and value != EXPECTED[name]:
                raise ValueError(f"it was made with {name}={value!r}; the toolkit knows {EXPECTED[name]!r} only")
            if name == "architecture" and value not in ("skip", "resnet"):
                raise ValueError(f"architecture {value!r}; the toolkit knows skip (generator) and resnet (discriminator)")


def from_tensorflow(networks):
    """The tuple (G, D, Gs) of an official TensorFlow pickle -> generator, discriminator."""
    _, d, gs = networks
    variables = _variables(gs)
    mean = variables.pop("dlatent_avg", None)
    if mean is None:
        raise ValueError("the variable dlatent_avg is missing")
    parts = gs.state["components"]
    synthesis = _variables(parts["synthesis"])
    _check_settings(gs.state.get("static_kwargs"), d.state.get("static_kwargs"))
    first = any("StyleMod" in name for name in synthesis)
    kind, tables = ("stylegan1", (SG1, SG1_D)) if first else ("stylegan2", (SG2, SG2_D))
    state = renamed(variables | synthesis | _variables(parts["mapping"]), tables[0])
    state["mapping.w_avg"] = np.asarray(mean, np.float32)
    G = _filled("Generator", _config(kind, state, "synthesis."), state)
    side = G.resolution
    critic = renamed(_variables(d), tables[1], R=side)
    return G, _filled("Discriminator", _config(kind, critic, ""), critic)


# ---------------------------------------------------------------------------------------------------------------------
# StyleGAN2-ADA-PyTorch


def _flatten(module, prefix=""):
    """A module's parameters and buffers by their full names."""
    found = {}
    for group in ("_parameters", "_buffers"):
        for name, value in (module.state.get(group) or {}).items():
            if value is not None:
                found[prefix + name] = value
    for name, child in (module.state.get("_modules") or {}).items():
        found |= _flatten(child, f"{prefix}{name}.")
    return found


def _without_filters(state):
    """Drop the constant [1, 3, 3, 1] filters, once they are seen to be just that."""
    k = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    for name in [n for n in state if n.endswith("resample_filter")]:
        value = np.asarray(state.pop(name))
        if value.shape != (4, 4) or np.abs(value - k).max() > 1e-4:
            raise ValueError(f"{name} is another filter than [1, 3, 3, 1]")
    return state


def from_ada(state, kind, key, clamp=None):
    """A state dict with StyleGAN2-ADA-PyTorch's names (which are ours) -> network."""
    import dataclasses

    state = {n: np.asarray(v, np.float32) for n, v in _without_filters(dict(state)).items()}
    config = dataclasses.replace(_config(kind, state, key), conv_clamp=clamp)
    return _filled("Generator" if key else "Discriminator", config, state)


def from_ada_pickle(data):
    G, D = data["G_ema"], data.get("D")
    if not isinstance(G, Module) or "Generator" not in G.class_name:
        raise ValueError("G_ema is no generator")
    settings = G.state.get("_init_kwargs") or {}
    synthesis = settings.get("synthesis_kwargs") or {}
    state = _flatten(G)
    if any(re.match(r"synthesis\.L\d", name) for name in state):
        raise ValueError("a StyleGAN3 generator; the toolkit knows StyleGAN1 and StyleGAN2")
    _check_settings(settings, synthesis)
    generator = from_ada(state, "stylegan2", "synthesis.", synthesis.get("conv_clamp"))
    if D is None:
        return generator, None
    said = D.state.get("_init_kwargs") or {}
    _check_settings(said)
    return generator, from_ada(_flatten(D), "stylegan2", "", said.get("conv_clamp"))


def _filled(role, config, state):
    """Build the network and fill it; every tensor must be there, fit and be finite."""
    import torch

    import stylegan_layers

    network = getattr(stylegan_layers, role)(config)
    wanted = network.state_dict()
    bad = [f"{n} is missing" for n in wanted.keys() - state.keys()] + [f"{n} is left over" for n in state.keys() - wanted.keys()]
    bad += [f"{n} is {list(state[n].shape)}, not {list(wanted[n].shape)}" for n in wanted.keys() & state.keys()
            if tuple(state[n].shape) != tuple(wanted[n].shape)]  # fmt: skip
    if not bad:
        bad = [f"{n} holds NaN or infinity" for n in wanted if not np.isfinite(state[n]).all()]
    if bad:
        raise ValueError(f"{role.lower()}: {'; '.join(sorted(bad)[:4])}" + (f" and {len(bad) - 4} more" if len(bad) > 4 else ""))
    network.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in state.items()})
    return network


# ---------------------------------------------------------------------------------------------------------------------
# The script


def convert(path):
    """Any checkpoint that is known -> generator, discriminator (each may be None), metadata.

    Raises:
        ValueError: says what the file is, or what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a file, or one of {', '.join(n for n in model_zoo.DOWNLOADS if n.startswith('style'))}")
    with open(path, "rb") as f:
        start = f.read(200)
    if not start:
        raise ValueError(f"{path}: an empty file; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` where it came from")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ValueError(f"{path}: a web page saved under this name; open the link in a browser and save the file itself")
    if path.suffix == ".safetensors":
        return _convert_safetensors(path)
    if start[:2] == b"PK":
        raise ValueError(f"{path}: a PyTorch .pt file; this version reads official pickles and .safetensors only")
    if start[:1] != b"\x80":
        raise ValueError(f"{path}: neither a pickle nor a .safetensors file")
    data = read_pickle(path)
    try:
        if isinstance(data, tuple) and len(data) == 3 and all(type(n) is Stub for n in data):
            return *from_tensorflow(data), {}
        if isinstance(data, dict) and "G_ema" in data:
            return *from_ada_pickle(data), {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else cli.one_line(error)
        raise ValueError(f"{path}: {what}") from None
    raise ValueError(f"{path}: a pickle, but of no StyleGAN that the toolkit knows (neither (G, D, Gs) nor a dict with G_ema)")


def _convert_safetensors(path):
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as f:
        said = f.metadata() or {}
    if said.get("format"):
        raise ValueError(f"{path}: this is a checkpoint of this toolkit already; use it as it is")
    if said.get("names") != "stylegan2-ada-pytorch":
        raise ValueError(f"{path}: a .safetensors file whose metadata do not say names: stylegan2-ada-pytorch")
    meta = {k: said[k] for k in ("source", "license", "data") if k in said}
    if "alignment" in said:
        meta["alignment"] = json.loads(said["alignment"])
    state = {k: v.numpy() for k, v in load_file(path).items()}
    if said.get("kind", "").endswith("discriminator"):
        return None, from_ada(state, "stylegan2", ""), meta
    return from_ada(state, "stylegan2", "synthesis."), None, meta


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("source", metavar="SOURCE", help="a checkpoint file, or a name that model_zoo downloads")
    parser.add_argument("--out", help="where the generator goes (default: weight_files/NAME.safetensors)")
    parser.add_argument("--discriminator", metavar="FILE", help="write the discriminator too")
    args = parser.parse_args(argv)
    source, meta = args.source, {}
    if source in model_zoo.DOWNLOADS:
        item = model_zoo.DOWNLOADS[source]
        meta = {"license": item.license, "source": item.url, "perceptual": "vgg16", "alignment": model_zoo.FFHQ_ALIGNMENT}
        source = model_zoo.fetch(source, lambda done, total: print(f"\r{done >> 20} MB", end="", file=sys.stderr))
    G, D, said = convert(source)
    meta = {"source": Path(args.source).name} | meta | said
    if G is not None:
        out = Path(args.out or model_zoo.HERE / "weight_files" / f"{Path(args.source).stem}.safetensors")
        sha = model_zoo.save(out, G, **meta)
        count = sum(p.numel() for p in G.parameters())
        print(f"{out}: {G.kind}, {G.resolution}x{G.resolution}, {G.num_ws} layers, {count:,} parameters, sha256 {sha}")
    if args.discriminator:
        if D is None:
            raise ValueError(f"{args.source}: no discriminator is in it")
        print(f"{args.discriminator}: discriminator, sha256 {model_zoo.save(args.discriminator, D, **meta)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
