"""Convert a published StyleGAN checkpoint to this toolkit's: one `.safetensors` file that describes itself. No TensorFlow.

    python weight_convert.py karras2019stylegan-ffhq-1024x1024.pkl

Reads the official pickles of StyleGAN1, StyleGAN2 (-ADA) for TensorFlow and StyleGAN2-ADA-PyTorch, whole or a generator pickled alone
(PTI's `model_*.pt`); the `.pt` files of LatentEditor / lernapparat (StyleGAN1), rosinality (StyleGAN2) and e4e / pSp (their decoder);
a generator's `state_dict()` with StyleGAN2-ADA-PyTorch's or our names, as `.pt` or `.safetensors`. SOURCE may also be a name that is
downloaded (stylegan1-ffhq-1024, ...). Nothing that a file names is ever imported or called: the reader knows a short list of names
and refuses the rest. The paths written go to stdout, one a line; what they are, to stderr.
"""

from editor import cli  # isort: skip (first: from here on Ctrl-C ends the command as it should)

import copy
import operator
import re
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

from editor import checkpoints, downloads, pickles
from editor.pickles import shown

# ---------------------------------------------------------------------------------------------------------------------
# Names of others -> ours, which are StyleGAN2-ADA-PyTorch's. A row is a pattern, our name (a template or a function of the match; in
# braces what `renamed` is given) and the change of layout. A row without our name is not needed, and only checked where it can be.


def _tf(v):
    """TensorFlow's layout -> ours: convolutions HWIO -> OIHW, dense layers [in, out] -> [out, in]."""
    return v.transpose(3, 2, 0, 1) if v.ndim == 4 else v.T


def _turned(v):
    return _tf(v)[:, :, ::-1, ::-1]


def _all_equal(v):
    """A mean latent, repeated for each layer in some files: [512], [1, 512] or [18, 512] -> [512]."""
    rows = v.reshape(-1, v.shape[-1])
    if (rows != rows[:1]).any():
        raise ValueError("another mean for each layer; the toolkit has one for all")
    return rows[0]


def _filter(*taps, total=1):
    """Accepts a constant filter of just these taps and nothing else."""

    def check(v):
        if v.squeeze().shape != (len(taps), len(taps)) or np.abs(v / total - np.outer(taps, taps) / sum(taps) ** 2).max() > 1e-4:
            raise ValueError("another filter than the toolkit's")

    return check


def _no_growing(v):
    """StyleGAN1's level of detail: 0 when all resolutions were trained."""
    if v.item() != 0:
        raise ValueError(
            f"{v.item():g}: a snapshot from the middle of progressive growing, whose ToRGB_lod0 is not trained; take a later one"
        )


SAME = np.asarray
FIRST = operator.itemgetter(0)
MAP = operator.itemgetter((0, 0))  # [1, 1, r, r] -> [r, r]
LOD = (r"lod", None, _no_growing)
DENSE = (r"Dense(\d{1,2})/(weight|bias)", r"mapping.fc\1.\2", _tf)
SG1_LAYER = {"Const": "conv0", "Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1"}
SG1 = [
    (r"4x4/Const/const", r"synthesis.b4.const", FIRST),
    (r"noise(\d{1,2})", lambda m: f"synthesis.b{4 << int(m[1]) // 2}.conv{int(m[1]) % 2}.noise_const", MAP),
    (r"(\d{1,4})x\d{1,4}/(\w+)/(weight|bias)", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.{m[3]}", _tf),
    (r"(\d{1,4})x\d{1,4}/(\w+)/Noise/weight", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.noise_strength", SAME),
    (r"(\d{1,4})x\d{1,4}/(\w+)/StyleMod/(weight|bias)", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.affine.{m[3]}", _tf),
    (r"ToRGB_lod0/(weight|bias)", r"synthesis.torgb.\1", _tf),
    (r"ToRGB_lod[1-9]\d*/(weight|bias)", None, None),  # other resolutions of progressive growing
    LOD,
    DENSE,
]


def _noise2(m):
    i = int(m[1])
    return f"synthesis.b{1 << (i + 5) // 2}.conv{(i + 1) % 2}.noise_const"


SG2_LAYER = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}
SG2 = [
    (r"4x4/Const/const", r"synthesis.b4.const", FIRST),
    (r"noise(\d{1,2})", _noise2, MAP),
    (r"(\d{1,4})x\d{1,4}/Conv0_up/weight", r"synthesis.b\1.conv0.weight", _turned),
    (r"(\d{1,4})x\d{1,4}/(\w+)/(weight|bias|noise_strength)", lambda m: f"synthesis.b{m[1]}.{SG2_LAYER[m[2]]}.{m[3]}", _tf),
    (r"(\d{1,4})x\d{1,4}/(\w+)/mod_weight", lambda m: f"synthesis.b{m[1]}.{SG2_LAYER[m[2]]}.affine.weight", _tf),
    (r"(\d{1,4})x\d{1,4}/(\w+)/mod_bias", lambda m: f"synthesis.b{m[1]}.{SG2_LAYER[m[2]]}.affine.bias", lambda v: v + 1),
    LOD,
    DENSE,
]
TENSORFLOW_D = [  # of both kinds
    (r"FromRGB_lod0/(weight|bias)", r"b{0}.fromrgb.\1", _tf),
    (r"(\d{1,4})x\d{1,4}/(FromRGB|Conv0|Conv1|Conv|Skip)(?:_down)?/(weight|bias)", lambda m: f"b{m[1]}.{m[2].lower()}.{m[3]}", _tf),
    (r"4x4/Dense0/(weight|bias)", r"b4.fc.\1", _tf),
    (r"(?:4x4/Dense1|Output)/(weight|bias)", r"b4.out.\1", _tf),
    (r"FromRGB_lod[1-9]\d*/(weight|bias)", None, None),
    LOD,
]

BLOCK = r"g_synthesis\.blocks\.(\d{1,4})x\d{1,4}\."
LERNAPPARAT_LAYER = {"conv0_up": "conv0", "conv1": "conv1", "conv": "conv1", "epi1": "conv0", "epi2": "conv1"}
LERNAPPARAT = [  # LatentEditor's too
    (r"g_mapping\.dense(\d{1,2})\.(weight|bias)", r"mapping.fc\1.\2", SAME),
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
    (r"(\d{1,4})x\d{1,4}\.(conv0|conv1|conv)(?:_down)?\.(weight|bias)", r"b\1.\2.\3", SAME),
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
    (r"style\.(\d{1,2})\.(weight|bias)", lambda m: f"mapping.fc{int(m[1]) - 1}.{m[2]}", SAME),
    (r"latent_avg", r"mapping.w_avg", _all_equal),
    (r"input\.input", r"synthesis.b4.const", FIRST),
    *_rosinality(r"conv1", lambda m: "synthesis.b4.conv1"),
    *_rosinality(r"to_rgb1", lambda m: "synthesis.b4.torgb"),
    *_rosinality(r"convs\.(\d{1,2})", lambda m: f"synthesis.b{8 << int(m[1]) // 2}.conv{int(m[1]) % 2}"),
    *_rosinality(r"to_rgbs\.(\d{1,2})", lambda m: f"synthesis.b{8 << int(m[1])}.torgb"),
    (r"noises\.noise_(\d{1,2})", _noise2, MAP),
]
ROSINALITY_D = [  # convs.1 works on the full resolution {0}, convs.2 on half of it, {1}, ...
    (r"convs\.0\.[01]\.(weight|bias)", r"b{0}.fromrgb.\1", SAME),
    (r"convs\.(\d{1,2})\.conv1\.[01]\.(weight|bias)", lambda m: f"b{{{int(m[1]) - 1}}}.conv0.{m[2]}", SAME),
    (r"convs\.(\d{1,2})\.conv2\.[12]\.(weight|bias)", lambda m: f"b{{{int(m[1]) - 1}}}.conv1.{m[2]}", SAME),
    (r"convs\.(\d{1,2})\.skip\.1\.weight", lambda m: f"b{{{int(m[1]) - 1}}}.skip.weight", SAME),
    (r"convs\.\d+\.(?:conv2|skip)\.0\.kernel", None, _filter(1, 3, 3, 1)),
    (r"final_conv\.[01]\.(weight|bias)", r"b4.conv.\1", SAME),
    (r"final_linear\.0\.(weight|bias)", r"b4.fc.\1", SAME),
    (r"final_linear\.1\.(weight|bias)", r"b4.out.\1", SAME),
]


# ---------------------------------------------------------------------------------------------------------------------
# From names to networks


def _numpy(value):
    """A number, array or tensor, in the file or here -> float32, maybe a view."""
    if isinstance(value, pickles.Array | pickles.Tensor):
        value = value.read()
    elif hasattr(value, "detach"):  # of a .safetensors file
        value = value.detach().float()
    elif not isinstance(value, bool | int | float | np.ndarray):
        raise TypeError
    return np.asarray(value, np.float32)


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
            ours, change, m = next((ours, change, m) for pattern, ours, change in table if (m := re.fullmatch(pattern, name, re.ASCII)))
            if ours:
                ours = (m.expand(ours) if isinstance(ours, str) else ours(m)).format(*sides)
        except (StopIteration, KeyError, IndexError):
            raise ValueError(f"the variable {shown(name)} is left over: this is not the architecture that the toolkit knows") from None
        if not change:
            continue
        try:
            value = _numpy(value)
        except TypeError:
            raise ValueError(f"the variable {shown(name)} is no tensor but {shown(value)}") from None
        try:
            value = change(value)
        except (ValueError, IndexError) as error:
            said = f"{list(value.shape)}, which cannot be" if ours and change is not _all_equal else cli.one_line(error)
            raise ValueError(f"the variable {shown(name)} is {said}: this is not the architecture that the toolkit knows") from None
        if ours:
            state[ours] = np.array(value, np.float32, order="C")
    return state


def _config(kind, state, key, clamp=None):
    """Resolution, widths and depths, read from the tensors themselves. `key` is a prefix: 'synthesis.' or ''."""
    from stylegan_layers import Config

    sides = sorted({int(m[1]) for m in (re.match(rf"{re.escape(key)}b(\d{{1,4}})\.", k, re.ASCII) for k in state) if m})
    if not sides:
        raise ValueError("no layers of a StyleGAN are in it")

    def shape(name, dims):
        if name not in state:
            raise ValueError(f"{name} is missing")
        if state[name].ndim != dims:
            raise ValueError(f"{name} is {list(state[name].shape)}, which cannot be")
        return state[name].shape

    last = "conv1.weight" if key else ("conv0.weight" if sides[-1] > 4 else "conv.weight")
    widths = {r: shape(f"{key}b{r}.{last if key or r > 4 else 'conv.weight'}", 4)[0] for r in sides}
    top = max(widths.values())
    base = max((r * c for r, c in widths.items() if c < top), default=top * sides[-1])
    more = {}
    if key:
        depth = len([k for k in state if re.fullmatch(r"mapping\.fc\d+\.weight", k)])
        first = shape("mapping.fc0.weight", 2)
        more = {"mapping_layers": depth, "z_dim": first[1], "w_dim": first[0]}
    if type(clamp) not in (int, float, type(None)):  # anything else in a file may be endless to print
        raise ValueError(f"conv_clamp {shown(clamp)}; it must be a number above 0, or none")
    return Config(kind, sides[-1], base, top, **more, conv_clamp=clamp)


KNOWN = {  # settings that would make another network, and what they may be
    "label_size": [0], "use_styles": [True], "use_noise": [True], "use_pixel_norm": [False], "use_instance_norm": [True],
    "use_wscale": [True], "fmap_decay": [1], "nonlinearity": ["lrelu"], "num_channels": [3], "c_dim": [0], "img_channels": [3],
    "normalize_latents": [True], "demodulate": [True], "mbstd_group_size": [4], "mbstd_num_features": [1], "mbstd_num_channels": [1],
    "architecture": ["skip", "resnet"], "mapping_lrmul": [0.01], "lr_multiplier": [0.01], "mapping_nonlinearity": ["lrelu"],
    "activation": ["lrelu"], "const_input_layer": [True], "fused_scale": ["auto"], "blur_filter": [[1, 2, 1], (1, 2, 1)],
    "resample_kernel": [[1, 3, 3, 1], (1, 3, 3, 1), None], "resample_filter": [[1, 3, 3, 1], (1, 3, 3, 1)], "kernel_size": [3],
    "mapping_func": ["G_mapping"], "synthesis_func": ["G_synthesis", "G_synthesis_stylegan2"],
}  # fmt: skip
READ = """resolution img_resolution fmap_base fmap_max fmap_min fmap_const latent_size dlatent_size mapping_layers mapping_fmaps z_dim
w_dim num_layers layer_features channel_base channel_max num_ws conv_clamp num_fp16_res use_fp16 fp16_channels_last channels_last
fused_modconv fused_modconv_default dtype structure randomize_noise dlatent_broadcast dlatent_avg_beta w_avg_beta style_mixing_prob
truncation_psi truncation_cutoff truncation_psi_val truncation_cutoff_val freeze_layers is_training is_validation is_template_graph
force_clean_graph components func_name embed_features label_fmaps cmap_dim class_name name""".split()  # seen in the tensors, or harmless


def _check_settings(*settings, depth=0):
    """ValueError names a setting that would make another network than ours, or one that the toolkit does not know."""
    for said in settings:
        if not isinstance(said or {}, dict) or depth > 3 or len(said or {}) > 100:  # a dict may be in another a hundred times
            raise ValueError(f"settings that are no dict, too many, or nested too deep: {shown(said)}")
        for name, value in (said or {}).items():
            if str(name).endswith("_kwargs"):  # settings in settings
                _check_settings(value, depth=depth + 1)
            elif name not in READ and value not in KNOWN.get(name, ()):
                said = f"{shown(name)}={repr(shown(value)) if isinstance(value, str) else shown(value)}"
                known = " and ".join(repr(v) for v in KNOWN.get(name, ()) if type(v) is not tuple)
                raise ValueError(f"it was made with {said}; the toolkit knows {f'{known} only' if known else 'no such setting'}")


def _variables(network):
    """The variables {name: value} of a TensorFlow network's stand-in."""
    pairs = network.state.get("variables") or []
    if type(pairs) is not list or any(type(p) is not tuple or len(p) != 2 or type(p[0]) is not str for p in pairs):
        raise ValueError("variables that are no list of names and arrays")
    return dict(pairs)


def from_tensorflow(networks, role):
    """The tuple (G, D, Gs) of an official TensorFlow pickle -> network."""
    _, d, gs = networks
    parts = gs.state["components"]
    synthesis = _variables(parts["synthesis"])
    kind = "stylegan1" if any("StyleMod" in name for name in synthesis) else "stylegan2"
    said = (gs if role == "generator" else d).state.get("static_kwargs") or {}
    _check_settings(said)
    if role == "discriminator":
        side = max((int(m[1]) for m in (re.match(r"(\d{1,4})x", name, re.ASCII) for name in synthesis) if m), default=0)
        state = renamed(_variables(d), TENSORFLOW_D, side)
        return _filled(role, _config(kind, state, "", said.get("conv_clamp")), state)
    _check_settings(*(parts[p].state.get("static_kwargs") for p in ("synthesis", "mapping")))
    inner = parts["synthesis"].state.get("static_kwargs") or {}
    variables = _variables(gs)
    if "dlatent_avg" not in variables:
        raise ValueError("the variable dlatent_avg is missing")
    state = renamed(variables, [(r"dlatent_avg", "mapping.w_avg", SAME), LOD])
    state |= renamed(synthesis | _variables(parts["mapping"]), {"stylegan1": SG1, "stylegan2": SG2}[kind])
    return _filled(role, _config(kind, state, "synthesis.", said.get("conv_clamp", inner.get("conv_clamp"))), state)


LINEAR = re.compile(r"(.*\.)?(affine|out|skip)\.")  # the layers without activation


def _check_modules(modules):
    """The modules say more than the settings that were given: defaults have changed between versions of the official code."""
    for prefix, module in modules:
        said = {k: module.state[k] for k in ("architecture", "use_noise") if k in module.state}
        if not LINEAR.fullmatch(prefix) and "activation" in module.state:
            said["activation"] = module.state["activation"]
        if re.fullmatch(r"mapping\.fc\d+\.", prefix) and "bias_gain" in module.state:
            said["lr_multiplier"] = module.state["bias_gain"]
        _check_settings(said)


def _refuse_others(state):
    if any(re.match(r"synthesis\.(L\d|input\.)", name) for name in state):
        raise ValueError("a StyleGAN3 generator; the toolkit knows StyleGAN1 and StyleGAN2")
    if any(name.startswith("mapping.embed.") for name in state):
        raise ValueError("a generator with classes (mapping.embed); the toolkit knows such without")


def from_ada(state, role, clamp=None, kind="stylegan2"):
    """A state dict with StyleGAN2-ADA-PyTorch's names (which are ours) -> network, what was estimated or None."""
    _refuse_others(state)
    table = [(r"(?:.*\.)?resample_filter", None, _filter(1, 3, 3, 1)), (r".*", r"\g<0>", SAME)]
    state = renamed(state, table)
    if role == "discriminator":
        return _filled(role, _config(kind, state, "", clamp), state), None
    return _completed(_config(kind, state, "synthesis.", clamp), state)


def from_ada_module(module, role):
    """A module of StyleGAN2-ADA-PyTorch, rebuilt from its pickle -> network, metadata."""
    if not isinstance(module, pickles.Module) or role.title() not in module.class_name:
        raise ValueError(f"what should be the {role} is something else")
    modules, state = module.parts(), {}
    for prefix, part in modules:
        own = {**(part.state.get("_parameters") or {}), **(part.state.get("_buffers") or {})}
        state |= {prefix + str(name): value for name, value in own.items() if value is not None}
    settings = module.state.get("_init_kwargs") or {}
    _refuse_others(state)
    _check_settings(settings)
    _check_modules(modules)
    if role == "generator" and "mapping.w_avg" not in state:
        raise ValueError("mapping.w_avg is missing")
    inner = settings.get("synthesis_kwargs") or {}
    own = next((m.state["conv_clamp"] for _, m in modules if "conv_clamp" in m.state), None)
    network, estimated = from_ada(state, role, inner.get("conv_clamp", settings.get("conv_clamp", own)))
    return network, {"estimated": estimated}


ASSUMED = "a state dict holds no settings: those of StyleGAN2-ADA-PyTorch's configurations are taken, without clamping"


def from_safetensors(path, role):
    """A `.safetensors` file with names that are known, mostly StyleGAN2-ADA-PyTorch's -> network or None, metadata."""
    from safetensors.torch import load_file

    said = checkpoints.read_header(path)
    if checkpoints.is_ours(said):
        raise ValueError("this is a checkpoint of this toolkit already; use it as it is")
    meta = {k: said[k] for k in ("source", "license", "data") if k in said}
    if "alignment" in said:
        meta["alignment"] = checkpoints.parse_alignment(said["alignment"])
    network, more = from_objects(load_file(path), role)
    return network, meta | more


SIGNS = [  # a name that shows whose file it is; its network; what reads it
    (r"g_synthesis\..*", "generator", "stylegan1", LERNAPPARAT),
    (r"fromrgb\.weight", "discriminator", "stylegan1", LERNAPPARAT_D),
    (r"input\.input|style\.\d+\.weight|convs\.\d+\.conv\.weight", "generator", "stylegan2", ROSINALITY),
    (r"final_linear\.\d\.weight", "discriminator", "stylegan2", ROSINALITY_D),
    (r"synthesis\..*", "generator", None, None),  # StyleGAN2-ADA-PyTorch's names, and ours
    (r"b4\.out\.weight", "discriminator", None, None),
]


def _sign(state):
    """Which row of SIGNS a state dict {name: tensor} fits, or None."""
    if not isinstance(state, dict) or not all(type(name) is str for name in state):
        return None
    return next((sign for sign in SIGNS if any(re.fullmatch(sign[0], name, re.ASCII) for name in state)), None)


def _plain_names(state):
    """A state dict without what wraps its names: `module.` (DataParallel), `decoder.` beside an encoder (e4e, pSp)."""
    for prefix in () if _sign(state) or not isinstance(state, dict) else ("module.", "decoder."):
        inside = {name.removeprefix(prefix): value for name, value in state.items() if str(name).startswith(prefix)}
        if inside and _sign(found := _plain_names(inside)):
            return found
    return state


def _inside(data, role):
    """The network of that role in what a file holds -> a Module or a state dict, or None; and a remark or None."""
    if isinstance(data, pickles.Module):
        return (data if role.title() in data.class_name else None), None
    data = _plain_names(data)
    if _sign(data):
        return (data if _sign(data)[1] == role else None), None
    averaged, others = ("G_ema", "g_ema", "generator_ema", "generator"), ("G", "g")  # where files keep their networks, best first
    names = (*averaged, *others) if role == "generator" else ("D", "d", "discriminator")
    name = next((name for name in (*names, "state_dict") if data.get(name) is not None), None)
    found = _plain_names(data.get(name))
    if name == "state_dict" and (_sign(found) or (0, 0))[1] != role:
        return None, None
    return found, f"the file has no averaged generator; the one under {name} was taken" if name in others else None


def from_objects(data, role):
    """What a pickle or `.pt` holds beside TensorFlow's -> network or None, metadata."""
    if not isinstance(data, dict | pickles.Module):
        raise ValueError(f"a file of no StyleGAN that the toolkit knows; it holds {shown(data)}")
    found, remark = _inside(data, role)
    if found is None:
        if _inside(data, "discriminator" if role == "generator" else "generator")[0] is None:
            held = [data.class_name] if isinstance(data, pickles.Module) else [shown(name, 30) for name in data]
            raise ValueError(f"a file of no StyleGAN that the toolkit knows; it holds {', '.join(held[:4]) or 'nothing'}, ...")
        return None, {}
    if isinstance(found, pickles.Module):
        network, meta = from_ada_module(found, role)
        return network, meta | {"remark": remark}
    sign = _sign(found)
    if sign is None or sign[1] != role:
        raise ValueError(f"no layers of a StyleGAN are in what should be the {role}")
    mean = data.get("latent_avg") if isinstance(data, dict) and role == "generator" else None
    network, estimated = _from_state(found if mean is None else found | {"latent_avg": mean}, *sign[1:])
    return network, {"estimated": estimated, "remark": "; ".join(filter(None, [remark, None if sign[3] else ASSUMED])) or None}


def _from_state(state, role, kind, table):
    """A state dict with names of SIGNS -> network, what was estimated or None."""
    if table is None:
        sg1 = "synthesis.torgb.weight" in state or (role == "discriminator" and not any(".skip." in name for name in state))
        return from_ada(state, role, kind="stylegan1" if sg1 else "stylegan2")
    if role == "generator":
        state = renamed(state, table)
        return _completed(_config(kind, state, "synthesis."), state)
    halvings = sum(1 for name in state if re.fullmatch(r"convs\.\d+\.skip\.1\.weight|\d+x\d+\.conv0\.weight", name))
    state = renamed(state, table, *(4 << i for i in range(min(halvings, 8), -1, -1)))
    return _filled(role, _config(kind, state, ""), state), None


SAMPLES = 10_000  # for the mean latent: its standard error is 1% of the spread of w


def _completed(config, state):
    """A generator from its tensors; what state dicts may leave out, the mean latent and all noise maps, is drawn with seed 0.

    Returns:
        The generator; and what was drawn, in words, or None.
    """
    import torch

    from stylegan_layers import Generator

    with checkpoints.without_memory():
        maps = [(n, tuple(v.shape)) for n, v in Generator(config).state_dict().items() if n.endswith("noise_const")]
    no_mean, no_maps = "mapping.w_avg" not in state, not any(name in state for name, _ in maps)
    drawn = {"mapping.w_avg": np.zeros(config.w_dim, np.float32)} if no_mean else {}
    if no_maps:
        rng = np.random.RandomState(0)
        drawn |= {name: rng.standard_normal(shape).astype(np.float32) for name, shape in maps}
    G = _filled("generator", config, state | drawn)
    if no_mean:
        mapping, rng, parts = copy.deepcopy(G.mapping).double(), np.random.RandomState(0), 20
        with torch.no_grad():  # in float64, so that every machine comes to the same float32
            total = sum(mapping(torch.from_numpy(rng.standard_normal((SAMPLES // parts, config.z_dim)))).sum(0) for _ in range(parts))
        G.mapping.w_avg.copy_((total / SAMPLES).float())
    said = [f"mean latent: estimated from {SAMPLES} samples, seed 0"] * no_mean + ["noise maps: drawn, seed 0"] * no_maps
    return G, "; ".join(said) or None


def _filled(role, config, state):
    """Build a network, without memory, and fill it; every tensor must be there, fit and be finite."""
    import torch

    import stylegan_layers

    with checkpoints.without_memory():
        network = getattr(stylegan_layers, role.title())(config)
    bad = checkpoints.misfits(network, {name: value.shape for name, value in state.items()})
    checkpoints.fill(network, {} if bad else {name: torch.from_numpy(value) for name, value in state.items()}, bad, role)
    return network


BROKEN = (ValueError, EOFError, MemoryError, OverflowError, RuntimeError, zipfile.BadZipFile, zlib.error)
CUT = re.compile("not enough data|exhausted|Ran out|truncated|no newline|CRC")  # how Python says it


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
    except KeyError as error:
        reason = f"{shown(error.args[0])} is missing"
    except (TypeError, AttributeError, IndexError) as error:  # Python's own words, about something that is not where it should be
        reason = f"it is not built as a StyleGAN file is ({cli.one_line(error)})"
    except BROKEN as error:
        reason = cli.one_line(error).removeprefix(f"{path}: ")
    raise ValueError(f"{path}: {'the file is cut off or damaged: download it again; ' if CUT.search(reason) else ''}{reason[:300]}")


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
    if start[:2] == b"PK" or start.startswith(pickles.LEGACY_PT):
        return from_objects(pickles.read_pt(path), role)
    if start[:1] != b"\x80":
        raise ValueError("neither a pickle, a PyTorch file nor a .safetensors file")
    data = pickles.Reader(path).load()
    if isinstance(data, tuple) and len(data) == 3 and all(type(n) is pickles.Stub for n in data):
        return from_tensorflow(data, role), {}
    return from_objects(data, role)


# ---------------------------------------------------------------------------------------------------------------------
# The script


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("source", metavar="SOURCE", help="a checkpoint file, or a name to download (see below)")
    parser.add_argument("--out", metavar="FILE", help="where the generator goes (default: weight_files/NAME.safetensors)")
    parser.add_argument("--discriminator", metavar="FILE", help="write the discriminator too")
    parser.add_argument("--list", action=cli.Listing, help="show the models that can be named, and exit")
    cli.add_quiet_flag(parser)
    args = parser.parse_args(argv)
    source, meta = args.source, {}
    name = source if source in downloads.DOWNLOADS else Path(source).name
    out = Path(args.out) if args.out else checkpoints.HERE / "weight_files" / f"{Path(name).stem or name}.safetensors"
    item = downloads.DOWNLOADS.get(source)
    checkpoints.check_target(out, "--out", source, None if args.out else item.url if item else name)
    if args.discriminator:
        checkpoints.check_target(args.discriminator, "--discriminator", source)
        if checkpoints.same_file(args.discriminator, out):
            raise ValueError(f"{out}: --out and --discriminator are the same file")
    if item:
        meta = {"license": item.license, "source": item.url, "perceptual": "vgg16", "alignment": checkpoints.FFHQ_ALIGNMENT}
        source = downloads.fetch(source, None if args.quiet else lambda done, total: print(f"\r{done >> 20} MB", end="", file=sys.stderr))
    meta = {"source": name} | meta
    try:
        G, said = convert(source)
    except ValueError as error:
        raise ValueError(f"{error}; remove {source} to have it downloaded again" if item else str(error)) from None
    if G is None and not args.discriminator:
        raise ValueError(f"{args.source}: no generator is in it; with --discriminator FILE its discriminator is written")
    if G is not None:
        _write(out, G, meta | said, args)
    if args.discriminator:
        del G  # one network at a time
        D, said = convert(source, "discriminator")
        if D is None:
            raise ValueError(f"{args.source}: no discriminator is in it")
        _write(Path(args.discriminator), D, meta | said, args)
    return 0


def _write(path, network, meta, args):
    """Write a checkpoint; its path on stdout, what it is on stderr."""
    sha = checkpoints.save(path, network, **meta)
    config, count = network.config, sum(p.numel() for p in network.parameters())
    what = f"{config.num_ws} layers" if hasattr(network, "mapping") else "discriminator"
    size = f"{config.resolution}x{config.resolution}"
    cli.written(args, path, what=f"{path}: {config.kind}, {size}, {what}, {count:,} parameters, sha256 {sha}")
    for label, key in [("not in the source", "estimated"), ("note", "remark")]:
        if meta.get(key) and not args.quiet:
            cli.say(f"{path}: {label}: {meta[key]}")


if __name__ == "__main__":
    cli.run(main)
