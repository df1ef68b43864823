"""Convert a published StyleGAN checkpoint to this toolkit's: one `.safetensors` file that describes itself. No TensorFlow.

    python weight_convert.py karras2019stylegan-ffhq-1024x1024.pkl

Reads the official pickles of StyleGAN1, StyleGAN2 (-ADA) for TensorFlow and StyleGAN2-ADA-PyTorch, the `.pt` files of LatentEditor /
lernapparat (StyleGAN1) and rosinality (StyleGAN2), and `.safetensors` files with StyleGAN2-ADA-PyTorch's names. SOURCE may also be a
name that is downloaded (stylegan1-ffhq-1024, ...). Nothing that a file names is ever imported or called: the reader knows a
short list of names and refuses the rest.
"""

import json
import operator
import pickle
import re
import sys
from pathlib import Path

import numpy as np

from editor import checkpoints, cli, downloads, pickles

# ---------------------------------------------------------------------------------------------------------------------
# Names of others -> ours, which are StyleGAN2-ADA-PyTorch's. A row is a pattern, our name (a template or a function of the match; in
# braces what `renamed` is given) and the change of layout. A row without our name is not needed, and only checked where it can be.


def _tf(v):
    """TensorFlow's layout -> ours: convolutions HWIO -> OIHW, dense layers [in, out] -> [out, in]."""
    return v.transpose(3, 2, 0, 1) if v.ndim == 4 else v.T


def _turned(v):
    return _tf(v)[:, :, ::-1, ::-1]


def _all_equal(v):
    """A mean latent, repeated for each layer in some files."""
    if np.abs(v - v.flat[: v.shape[-1]]).max() > 0:
        raise ValueError
    return v.reshape(-1, v.shape[-1])[0]


def _filter(*taps, total=1):
    """Accepts a constant filter of just these taps and nothing else."""

    def check(v):
        if v.squeeze().shape != (len(taps), len(taps)) or np.abs(v / total - np.outer(taps, taps) / sum(taps) ** 2).max() > 1e-4:
            raise ValueError

    return check


SAME = np.asarray
FIRST = operator.itemgetter(0)
MAP = operator.itemgetter((0, 0))  # [1, 1, r, r] -> [r, r]
DENSE = (r"Dense(\d+)/(weight|bias)", r"mapping.fc\1.\2", _tf)
SG1_LAYER = {"Const": "conv0", "Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1"}
SG1 = [
    (r"4x4/Const/const", r"synthesis.b4.const", FIRST),
    (r"noise(\d+)", lambda m: f"synthesis.b{4 << int(m[1]) // 2}.conv{int(m[1]) % 2}.noise_const", MAP),
    (r"(\d+)x\d+/(\w+)/(weight|bias)", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.{m[3]}", _tf),
    (r"(\d+)x\d+/(\w+)/Noise/weight", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.noise_strength", SAME),
    (r"(\d+)x\d+/(\w+)/StyleMod/(weight|bias)", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.affine.{m[3]}", _tf),
    (r"ToRGB_lod0/(weight|bias)", r"synthesis.torgb.\1", _tf),
    (r"ToRGB_lod[1-9]\d*/(weight|bias)|lod", None, None),  # other resolutions of progressive growing
    DENSE,
]


def _noise2(m):
    i = int(m[1])
    return f"synthesis.b{1 << (i + 5) // 2}.conv{(i + 1) % 2}.noise_const"


SG2_LAYER = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}
SG2 = [
    (r"4x4/Const/const", r"synthesis.b4.const", FIRST),
    (r"noise(\d+)", _noise2, MAP),
    (r"(\d+)x\d+/Conv0_up/weight", r"synthesis.b\1.conv0.weight", _turned),
    (r"(\d+)x\d+/(\w+)/(weight|bias|noise_strength)", lambda m: f"synthesis.b{m[1]}.{SG2_LAYER[m[2]]}.{m[3]}", _tf),
    (r"(\d+)x\d+/(\w+)/mod_weight", lambda m: f"synthesis.b{m[1]}.{SG2_LAYER[m[2]]}.affine.weight", _tf),
    (r"(\d+)x\d+/(\w+)/mod_bias", lambda m: f"synthesis.b{m[1]}.{SG2_LAYER[m[2]]}.affine.bias", lambda v: v + 1),
    (r"lod", None, None),
    DENSE,
]
TENSORFLOW_D = [  # of both kinds
    (r"FromRGB_lod0/(weight|bias)", r"b{0}.fromrgb.\1", _tf),
    (r"(\d+)x\d+/(FromRGB|Conv0|Conv1|Conv|Skip)(?:_down)?/(weight|bias)", lambda m: f"b{m[1]}.{m[2].lower()}.{m[3]}", _tf),
    (r"4x4/Dense0/(weight|bias)", r"b4.fc.\1", _tf),
    (r"(?:4x4/Dense1|Output)/(weight|bias)", r"b4.out.\1", _tf),
    (r"FromRGB_lod[1-9]\d*/(weight|bias)|lod", None, None),
]

BLOCK = r"g_synthesis\.blocks\.(\d+)x\d+\."
LERNAPPARAT_LAYER = {"conv0_up": "conv0", "conv1": "conv1", "conv": "conv1", "epi1": "conv0", "epi2": "conv1"}
LERNAPPARAT = [  # LatentEditor's too
    (r"g_mapping\.dense(\d+)\.(weight|bias)", r"mapping.fc\1.\2", SAME),
    (r"truncation\.avg_latent", r"mapping.w_avg", _all_equal),
    (BLOCK + r"const", r"synthesis.b\1.const", FIRST),
    (BLOCK + r"bias", r"synthesis.b\1.conv0.bias", SAME),
    (BLOCK + r"(\w+)\.(weight|bias)", lambda m: f"synthesis.b{m[1]}.{LERNAPPARAT_LAYER[m[2]]}.{m[3]}", SAME),
    (BLOCK + r"(\w+)\.top_epi\.noise\.weight", lambda m: f"synthesis.b{m[1]}.{LERNAPPARAT_LAYER[m[2]]}.noise_strength", SAME),
    (BLOCK + r"(\w+)\.style_mod\.lin\.(weight|bias)", lambda m: f"synthesis.b{m[1]}.{LERNAPPARAT_LAYER[m[2]]}.affine.{m[3]}", SAME),
    (BLOCK + r"conv0_up\.intermediate\.kernel", None, _filter(1, 2, 1)),
    (r"g_synthesis\.torgb\.(weight|bias)", r"synthesis.torgb.\1", SAME),
]
LERNAPPARAT_D = [
    (r"fromrgb\.(weight|bias)", r"b{0}.fromrgb.\1", SAME),
    (r"(\d+)x\d+\.(conv0|conv1|conv)(?:_down)?\.(weight|bias)", r"b\1.\2.\3", SAME),
    (r"4x4\.dense0\.(weight|bias)", r"b4.fc.\1", SAME),
    (r"4x4\.dense1\.(weight|bias)", r"b4.out.\1", SAME),
    (r"\d+x\d+\.blur\.kernel", None, _filter(1, 2, 1)),
    (r"\d+x\d+\.conv1_down\.downscale\.blur\.kernel", None, _filter(1, 1)),
]


def _rosinality(layer, ours):
    """The rows of one layer: `layer` is a pattern of its names, `ours(m)` our name."""
    return [
        (layer + r"\.conv\.weight", lambda m: f"{ours(m)}.weight", FIRST),
        (layer + r"\.conv\.modulation\.(weight|bias)", lambda m: f"{ours(m)}.affine.{m[m.lastindex]}", SAME),
        (layer + r"\.noise\.weight", lambda m: f"{ours(m)}.noise_strength", FIRST),
        (layer + r"\.activate\.bias", lambda m: f"{ours(m)}.bias", SAME),
        (layer + r"\.bias", lambda m: f"{ours(m)}.bias", lambda v: v[0, :, 0, 0]),
        (layer + r"\.(?:conv\.blur|upsample)\.kernel", None, _filter(1, 3, 3, 1, total=4)),
    ]


ROSINALITY = [
    (r"style\.(\d+)\.(weight|bias)", lambda m: f"mapping.fc{int(m[1]) - 1}.{m[2]}", SAME),
    (r"latent_avg", r"mapping.w_avg", np.ravel),
    (r"input\.input", r"synthesis.b4.const", FIRST),
    *_rosinality(r"conv1", lambda m: "synthesis.b4.conv1"),
    *_rosinality(r"to_rgb1", lambda m: "synthesis.b4.torgb"),
    *_rosinality(r"convs\.(\d+)", lambda m: f"synthesis.b{8 << int(m[1]) // 2}.conv{int(m[1]) % 2}"),
    *_rosinality(r"to_rgbs\.(\d+)", lambda m: f"synthesis.b{8 << int(m[1])}.torgb"),
    (r"noises\.noise_(\d+)", _noise2, MAP),
]
ROSINALITY_D = [  # convs.1 works on the full resolution {0}, convs.2 on half of it, {1}, ...
    (r"convs\.0\.[01]\.(weight|bias)", r"b{0}.fromrgb.\1", SAME),
    (r"convs\.(\d+)\.conv1\.[01]\.(weight|bias)", lambda m: f"b{{{int(m[1]) - 1}}}.conv0.{m[2]}", SAME),
    (r"convs\.(\d+)\.conv2\.[12]\.(weight|bias)", lambda m: f"b{{{int(m[1]) - 1}}}.conv1.{m[2]}", SAME),
    (r"convs\.(\d+)\.skip\.1\.weight", lambda m: f"b{{{int(m[1]) - 1}}}.skip.weight", SAME),
    (r"convs\.\d+\.(?:conv2|skip)\.0\.kernel", None, _filter(1, 3, 3, 1)),
    (r"final_conv\.[01]\.(weight|bias)", r"b4.conv.\1", SAME),
    (r"final_linear\.0\.(weight|bias)", r"b4.fc.\1", SAME),
    (r"final_linear\.1\.(weight|bias)", r"b4.out.\1", SAME),
]


# ---------------------------------------------------------------------------------------------------------------------
# From names to networks


def _numpy(value):
    """A number, array or tensor, in the file or here -> float32, maybe a view."""
    value = value.read() if isinstance(value, (pickles.Array, pickles.Later)) else value
    return np.asarray(value.detach() if hasattr(value, "detach") else value, np.float32)


def renamed(variables, table, *sides):
    """Another project's variables {name: value} -> our names and layouts.

    Args:
        sides: of a discriminator, its resolutions from the largest down: what the braces in our names stand for.

    Raises:
        ValueError: names a variable that the table does not have, or of a shape or value that it cannot have.
    """
    state = {}
    for name, value in variables.items():
        try:
            ours, change, m = next((ours, change, m) for pattern, ours, change in table if (m := re.fullmatch(pattern, name)))
            if ours:
                ours = (m.expand(ours) if isinstance(ours, str) else ours(m)).format(*sides)
        except (StopIteration, KeyError, IndexError):
            raise ValueError(f"the variable {name} is left over: this is not the architecture that the toolkit knows") from None
        try:
            value = change(_numpy(value)) if change else None
        except (ValueError, IndexError):
            said = "another filter than the toolkit's" if not ours else f"{list(_numpy(value).shape)}, which cannot be"
            raise ValueError(f"the variable {name} is {said}: this is not the architecture that the toolkit knows") from None
        if ours:
            state[ours] = np.array(value, np.float32, order="C")
    return state


def _config(kind, state, key, clamp=None):
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
    return Config(kind, sides[-1], base, top, **more, conv_clamp=clamp)


KNOWN = {  # settings that would make another network, and what they may be
    "label_size": [0], "use_styles": [True], "use_noise": [True], "use_pixel_norm": [False], "use_instance_norm": [True],
    "use_wscale": [True], "fmap_decay": [1], "nonlinearity": ["lrelu"], "num_channels": [3], "c_dim": [0], "img_channels": [3],
    "fused_modconv": [True], "normalize_latents": [True], "demodulate": [True], "mbstd_group_size": [4], "mbstd_num_features": [1],
    "mbstd_num_channels": [1], "architecture": ["skip", "resnet"],
}  # fmt: skip


def _check_settings(*settings):
    for said in settings:
        for name, value in (said or {}).items():
            if value not in KNOWN.get(name, [value]):
                raise ValueError(f"it was made with {name}={value!r}; the toolkit knows {' and '.join(map(repr, KNOWN[name]))} only")


def from_tensorflow(networks, role):
    """The tuple (G, D, Gs) of an official TensorFlow pickle -> network."""
    _, d, gs = networks
    parts = gs.state["components"]
    synthesis = dict(parts["synthesis"].state["variables"])
    first = any("StyleMod" in name for name in synthesis)
    kind = "stylegan1" if first else "stylegan2"
    said = (gs if role == "generator" else d).state.get("static_kwargs") or {}
    if role == "discriminator":
        _check_settings(said)
        side = max(int(m[1]) for m in (re.match(r"(\d+)x", name) for name in synthesis) if m)
        state = renamed(dict(d.state["variables"]), TENSORFLOW_D, side)
        return _filled(role, _config(kind, state, "", said.get("conv_clamp")), state)
    _check_settings(said, *(parts[p].state.get("static_kwargs") for p in ("synthesis", "mapping")))
    variables = dict(gs.state["variables"])
    if "dlatent_avg" not in variables:
        raise ValueError("the variable dlatent_avg is missing")
    mean = np.array(_numpy(variables.pop("dlatent_avg")))
    state = renamed(variables | synthesis | dict(parts["mapping"].state["variables"]), SG1 if first else SG2)
    return _filled(role, _config(kind, state, "synthesis.", said.get("conv_clamp")), state | {"mapping.w_avg": mean})


def _flatten(module, prefix=""):
    """The parameters and buffers of a StyleGAN2-ADA-PyTorch module by their full names."""
    own = {**(module.state.get("_parameters") or {}), **(module.state.get("_buffers") or {})}
    found = {prefix + name: value for name, value in own.items() if value is not None}
    for name, child in (module.state.get("_modules") or {}).items():
        found |= _flatten(child, f"{prefix}{name}.")
    return found


def from_ada(state, role, clamp=None):
    """A state dict with StyleGAN2-ADA-PyTorch's names (which are ours) -> network."""
    table = [(r"(?:.*\.)?resample_filter", None, _filter(1, 3, 3, 1)), (r".*", r"\g<0>", SAME)]
    state = renamed(state, table)
    return _filled(role, _config("stylegan2", state, "synthesis." if role == "generator" else "", clamp), state)


def from_ada_pickle(data, role):
    """The dict of an official StyleGAN2-ADA-PyTorch pickle -> network, or None where it has none of that role."""
    module = data.get("G_ema" if role == "generator" else "D")
    if module is None:
        return None
    if not isinstance(module, pickles.Module) or role.title() not in module.class_name:
        raise ValueError(f"what should be the {role} is something else")
    settings = module.state.get("_init_kwargs") or {}
    inner = settings.get("synthesis_kwargs") or {}
    state = _flatten(module)
    if any(re.match(r"synthesis\.L\d", name) for name in state):
        raise ValueError("a StyleGAN3 generator; the toolkit knows StyleGAN1 and StyleGAN2")
    _check_settings(settings, inner, settings.get("epilogue_kwargs"))
    return from_ada(state, role, inner.get("conv_clamp", settings.get("conv_clamp")))


def from_safetensors(path, role):
    """A `.safetensors` file that says it has StyleGAN2-ADA-PyTorch's names -> network or None, metadata."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as f:
            said = f.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"not a readable .safetensors file ({error}); is it whole?") from None
    if said.get("format"):
        raise ValueError("this is a checkpoint of this toolkit already; use it as it is")
    if said.get("names") != "stylegan2-ada-pytorch":
        raise ValueError("a .safetensors file whose metadata do not say names: stylegan2-ada-pytorch")
    if role != ("discriminator" if said.get("kind", "").endswith("discriminator") else "generator"):
        return None, {}
    meta = {k: said[k] for k in ("source", "license", "data") if k in said}
    if "alignment" in said:
        meta["alignment"] = json.loads(said["alignment"])
    return from_ada(load_file(path), role), meta


def from_pt(data, role):
    """What a `.pt` of lernapparat, LatentEditor (StyleGAN1) or rosinality (StyleGAN2) holds -> network or None, metadata."""
    if not isinstance(data, dict):
        raise ValueError("a PyTorch file, but of no StyleGAN that the toolkit knows; it holds no dict")
    if any(str(name).startswith("g_synthesis.") for name in data):
        G, D, kind, tables = data, None, "stylegan1", (LERNAPPARAT, LERNAPPARAT_D)
    elif "fromrgb.weight" in data:
        G, D, kind, tables = None, data, "stylegan1", (LERNAPPARAT, LERNAPPARAT_D)
    elif "g_ema" in data or "input.input" in data:
        G, D, kind, tables = data.get("g_ema", data), data.get("d"), "stylegan2", (ROSINALITY, ROSINALITY_D)
        G = G | {"latent_avg": data["latent_avg"]} if data.get("latent_avg") is not None else G
    else:
        raise ValueError(f"a PyTorch file, but of no StyleGAN that the toolkit knows; it holds {', '.join(map(str, list(data)[:4]))}, ...")
    if (G if role == "generator" else D) is None:
        return None, {}
    if role == "generator":
        state = renamed(G, tables[0])
        config = _config(kind, state, "synthesis.")
        said = _draw(config, state)
        return _filled(role, config, state), {"estimated": said}
    halvings = sum(1 for name in D if re.fullmatch(r"convs\.\d+\.skip\.1\.weight|\d+x\d+\.conv0\.weight", name))
    sides = [4 << i for i in range(halvings, -1, -1)]
    state = renamed(D, tables[1], *sides)
    return _filled(role, _config(kind, state, ""), state), {}


SAMPLES = 10_000  # for the mean latent: its standard error is 1% of the spread of w


def _draw(config, state):
    """Add to `state` what `.pt` files leave out, drawn with seed 0: the mean latent, the noise maps. Returns what, in words, or None."""
    import torch

    from stylegan_layers import Generator, Mapping

    said = []
    if "mapping.w_avg" not in state:
        state["mapping.w_avg"] = np.zeros(config.w_dim, np.float32)
        mapping = _filled(Mapping, config, {n.removeprefix("mapping."): v for n, v in state.items() if n.startswith("mapping.")}).double()
        z = np.random.RandomState(0).standard_normal((SAMPLES, config.z_dim))
        with torch.no_grad():  # in float64, so that every machine comes to the same float32
            total = sum(mapping(torch.from_numpy(part)).sum(0) for part in np.array_split(z, 20))
        state["mapping.w_avg"] = (total / SAMPLES).float().numpy()
        said.append(f"mean latent: estimated from {SAMPLES} samples, seed 0")
    with torch.device("meta"):
        maps = [(n, tuple(v.shape)) for n, v in Generator(config).state_dict().items() if n.endswith("noise_const")]
    if not any(name in state for name, _ in maps):
        rng = np.random.RandomState(0)
        state |= {name: rng.standard_normal(shape).astype(np.float32) for name, shape in maps}
        said.append("noise maps: drawn, seed 0")
    return "; ".join(said) or None


def _filled(role, config, state):
    """Build a network and fill it; every tensor must be there, fit and be finite."""
    import torch

    import stylegan_layers

    with torch.device("meta"):  # shapes only: the file's values come in their place
        network = (getattr(stylegan_layers, role.title()) if isinstance(role, str) else role)(config)
    wanted = network.state_dict()
    bad = [f"{n} is missing" for n in wanted.keys() - state.keys()] + [f"{n} is left over" for n in state.keys() - wanted.keys()]
    bad += [f"{n} is {list(state[n].shape)}, not {list(wanted[n].shape)}" for n in wanted.keys() & state.keys()
            if tuple(state[n].shape) != tuple(wanted[n].shape)]  # fmt: skip
    if not bad:
        bad = [f"{n} holds NaN or infinity" for n in wanted if not np.isfinite(state[n]).all()]
    if bad:
        raise ValueError(f"{role}: {'; '.join(sorted(bad)[:4])}" + (f" and {len(bad) - 4} more" if len(bad) > 4 else ""))
    network.load_state_dict({n: torch.from_numpy(v) for n, v in state.items()}, assign=True)
    return network


# ---------------------------------------------------------------------------------------------------------------------
# The script

LEGACY_PT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how PyTorch's files of before 2020 begin: a pickled magic number
BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, MemoryError, OverflowError, RuntimeError,
          pickle.UnpicklingError)  # fmt: skip
CUT = re.compile("not enough data|exhausted|Ran out|truncated|expected|central directory|EOF")  # how Python and PyTorch say it


def convert(path, role="generator"):
    """One network of any checkpoint that is known.

    Args:
        role: "generator" (the averaged one where there are several) or "discriminator".

    Returns:
        The network, or None when the file has none of that role; and metadata, a dict.

    Raises:
        ValueError: says what the file is, or what is wrong with it. Nothing that it names was run.
    """
    path = Path(path)
    if not path.is_file():
        names = ", ".join(n for n in downloads.DOWNLOADS if n.startswith("style"))
        raise ValueError(f"{path}: no such file; give a file, or one of {names}")
    try:
        return _convert(path, role)
    except BROKEN as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else cli.one_line(error)
    foreign = re.search(r"GLOBAL ([\w.]+)", reason)  # PyTorch's own words advise to load it without protection
    reason = f"it names {foreign[1]}, which no StyleGAN file needs; nothing of it was run" if foreign else reason[:300]
    raise ValueError(f"{path}: {'the file is cut off: download it again; ' if CUT.search(reason) else ''}{reason}")


def _convert(path, role):
    with open(path, "rb") as f:
        start = f.read(200)
    if not start:
        raise ValueError("an empty file; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError("a Git LFS pointer, not the file itself; run `git lfs pull` where it came from")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ValueError("a web page saved under this name; open the link in a browser and save the file itself")
    if path.suffix == ".safetensors":
        return from_safetensors(path, role)
    if start[:2] == b"PK" or start.startswith(LEGACY_PT):
        return from_pt(pickles.read_pt(path), role)
    if start[:1] != b"\x80":
        raise ValueError("neither a pickle, a PyTorch file nor a .safetensors file")
    data = pickles.Reader(path).load()
    if isinstance(data, tuple) and len(data) == 3 and all(type(n) is pickles.Stub for n in data):
        return from_tensorflow(data, role), {}
    if isinstance(data, dict) and "G_ema" in data:
        return from_ada_pickle(data, role), {}
    raise ValueError("a pickle, but of no StyleGAN that the toolkit knows (neither (G, D, Gs) nor a dict with G_ema)")


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("source", metavar="SOURCE", help="a checkpoint file, or a name to download (see below)")
    parser.add_argument("--out", help="where the generator goes (default: weight_files/NAME.safetensors)")
    parser.add_argument("--discriminator", metavar="FILE", help="write the discriminator too")
    args = parser.parse_args(argv)
    source, meta = args.source, {}
    if source in downloads.DOWNLOADS:
        item = downloads.DOWNLOADS[source]
        meta = {"license": item.license, "source": item.url, "perceptual": "vgg16", "alignment": checkpoints.FFHQ_ALIGNMENT}
        source = downloads.fetch(source, lambda done, total: print(f"\r{done >> 20} MB", end="", file=sys.stderr))
    meta = {"source": Path(args.source).name} | meta
    G, said = convert(source)
    if G is None and not args.discriminator:
        raise ValueError(f"{args.source}: no generator is in it; with --discriminator FILE its discriminator is written")
    if G is not None:
        out = Path(args.out or checkpoints.HERE / "weight_files" / f"{Path(args.source).stem}.safetensors")
        sha = checkpoints.save(out, G, **meta | said)
        count = sum(p.numel() for p in G.parameters())
        print(f"{out}: {G.kind}, {G.resolution}x{G.resolution}, {G.num_ws} layers, {count:,} parameters, sha256 {sha}")
        if said.get("estimated"):
            print(f"{out}: not in the source: {said['estimated']}")
    if args.discriminator:
        del G  # one network at a time
        D, said = convert(source, "discriminator")
        if D is None:
            raise ValueError(f"{args.source}: no discriminator is in it")
        print(f"{args.discriminator}: discriminator, sha256 {checkpoints.save(args.discriminator, D, **meta | said)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
