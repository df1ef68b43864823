"""How other projects name, lay out and configure what we have: a table for each, read by `weight_convert.py` and written by it too.

Our names are StyleGAN2-ADA-PyTorch's and StyleGAN3's. A setting that makes another network than ours is refused by its name.
"""

import dataclasses
import operator
import re

import numpy as np

from editor import pickles
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
    if v.ndim == 0:
        raise ValueError("a single number; a mean latent is [512]")
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


SAME = np.asarray
FIRST = operator.itemgetter(0)
MAP = operator.itemgetter((0, 0))  # [1, 1, r, r] -> [r, r]
LOD = (r"lod", None, None)  # see `grown`
DENSE = (r"Dense(\d{1,2})/(weight|bias)", r"mapping.fc\1.\2", _tf)
SG1_LAYER = {"Const": "conv0", "Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1"}
SG1 = [
    (r"4x4/Const/const", r"synthesis.b4.const", FIRST),
    (r"noise(\d{1,2})", lambda m: f"synthesis.b{4 << int(m[1]) // 2}.conv{int(m[1]) % 2}.noise_const", MAP),
    (r"(\d{1,4})x\d{1,4}/(\w+)/(weight|bias)", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.{m[3]}", _tf),
    (r"(\d{1,4})x\d{1,4}/(\w+)/Noise/weight", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.noise_strength", SAME),
    (r"(\d{1,4})x\d{1,4}/(\w+)/StyleMod/(weight|bias)", lambda m: f"synthesis.b{m[1]}.{SG1_LAYER[m[2]]}.affine.{m[3]}", _tf),
    (r"ToRGB_lod0/(weight|bias)", r"synthesis.torgb.\1", _tf),
    (r"ToRGB_lod[1-9]\d*/(weight|bias)", None, None),  # of resolutions that were grown out of
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


def as_numpy(value, whole=True):
    """A number, array or tensor, in the file or here -> float32, maybe a view. whole: arrays of whole numbers may be it, too."""
    if isinstance(value, pickles.Array | pickles.Tensor):
        value = value.read()
    elif hasattr(value, "detach"):  # of a .safetensors file
        if value.ndim and not value.is_floating_point() and not whole:
            raise ValueError(f"of {str(value.dtype).removeprefix('torch.')}, which no weights are")
        value = value.detach().float()
    elif not isinstance(value, bool | int | float | np.ndarray):
        raise TypeError
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind != "f" and not whole:  # one number may be a level of detail
        raise ValueError(f"of {value.dtype}, which no weights are")
    with np.errstate(over="ignore"):  # infinity is refused by its name, later
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
            value = as_numpy(value, whole=False)
        except TypeError:
            raise ValueError(f"the variable {shown(name)} is no tensor but {shown(value)}") from None
        except ValueError as error:
            raise ValueError(f"the variable {shown(name)}: {shown(str(error), 300)}") from None
        try:
            value = change(value)
        except (ValueError, IndexError) as error:
            said = f"{list(value.shape)}, which cannot be" if ours and change is not _all_equal else shown(str(error), 300)
            raise ValueError(f"the variable {shown(name)} is {said}: this is not the architecture that the toolkit knows") from None
        if ours:
            state[ours] = np.require(value, np.float32, "CW")  # a copy only where it lies in the file, or in another order
    return state


OURS = [(r"(?:.*\.)?resample_filter", None, _filter(1, 3, 3, 1)), (r".*", r"\g<0>", SAME)]


def grown(variables):
    """TensorFlow's variables of one network without the resolutions that progressive growing has not reached.

    Karras et al. 2018, section 3: at a level of detail of k the network's picture is that of ToRGB_lod{k}, 2^k times smaller; the
    official code repeats its pixels. Between two whole levels two pictures are faded into each other, which is no StyleGAN of its own.

    Returns:
        The variables, those of lod k called lod 0; and k.

    Raises:
        ValueError: between two levels.
    """
    lod = float(as_numpy(variables.get("lod", 0)))
    if not lod.is_integer() or lod < 0:
        raise ValueError(
            f"the variable lod is {lod:g}: a snapshot from the middle of progressive growing, while a resolution fades in; take a later one"
        )
    if not lod:
        return variables, 0
    kept = {}
    sides = [int(m[1]) for m in (re.match(r"(\d{1,4})x", name, re.ASCII) for name in variables) if m]
    side = max(sides, default=0) >> int(lod)
    for name, value in variables.items():
        colour, layer, noise = (re.match(p, name, re.ASCII) for p in (r"(To|From)RGB_lod(\d{1,2})", r"(\d{1,4})x", r"noise(\d{1,2})$"))
        if colour and int(colour[2]) >= lod:
            kept[f"{colour[1]}RGB_lod{int(colour[2]) - int(lod)}{name[colour.end() :]}"] = value
        elif not colour and (int(layer[1]) if layer else 4 << int(noise[1]) // 2 if noise else 0) <= side:
            kept[name] = value
    return kept, int(lod)


# ---------------------------------------------------------------------------------------------------------------------
# Settings of others

ANY = None  # the tensors show it, or the network is the same whatever it is
LRELU, YES, NONE = ["lrelu"], [True], [0]
FIR = [[1, 3, 3, 1], (1, 3, 3, 1)]
CRITIC = {"mbstd_group_size": [4], "mbstd_num_features": [1], "mbstd_num_channels": [1]}
SETTINGS = {  # project: {setting: what it may be, or that by role}; other values are refused, and so is a name that is not here
    "tensorflow": {  # StyleGAN1, StyleGAN2, StyleGAN2-ADA: static_kwargs of a network and of its parts
        "label_size": NONE, "normalize_latents": YES, "mapping_lrmul": [0.01], "mapping_nonlinearity": LRELU, "use_wscale": YES,
        "const_input_layer": YES, "use_styles": YES, "use_noise": YES, "use_pixel_norm": [False], "use_instance_norm": YES,
        "nonlinearity": LRELU, "fused_scale": ["auto"], "blur_filter": [[1, 2, 1], (1, 2, 1)], "resample_kernel": FIR,
        "architecture": {"generator": ["skip"], "discriminator": ["resnet"]}, "num_channels": [3], "fmap_decay": [1],
        "mapping_func": ["G_mapping"], "synthesis_func": ["G_synthesis", "G_synthesis_stylegan2"], **CRITIC,
        **dict.fromkeys("""resolution fmap_base fmap_max fmap_min fmap_const latent_size dlatent_size mapping_layers mapping_fmaps
        label_fmaps num_fp16_res fp16_channels_last conv_clamp fused_modconv dtype structure randomize_noise dlatent_broadcast
        dlatent_avg_beta style_mixing_prob truncation_psi truncation_cutoff truncation_psi_val truncation_cutoff_val freeze_layers
        is_training is_validation is_template_graph force_clean_graph components func_name name""".split()),
    },
    "pytorch": {  # StyleGAN2-ADA-PyTorch, and the StyleGAN2 of StyleGAN3's repository: _init_kwargs and what each module says of itself
        "c_dim": {"generator": ANY, "discriminator": NONE}, "img_channels": [3], "lr_multiplier": [0.01], "activation": LRELU,
        "architecture": {"generator": ["skip"], "discriminator": ["resnet"]}, "resample_filter": FIR, "kernel_size": [3], "use_noise": YES,
        **CRITIC,
        **dict.fromkeys("""z_dim w_dim img_resolution num_layers num_ws embed_features layer_features w_avg_beta channel_base channel_max
        num_fp16_res use_fp16 fp16_channels_last channels_last conv_clamp fused_modconv_default cmap_dim freeze_layers class_name
        resolution""".split()),
    },
    "rosinality": {"lr_mul": [0.01], "activation": ["fused_lrelu"]},  # of the layers of `style`, where a whole module was saved
    "stylegan3": {
        "img_channels": [3], "lr_multiplier": [0.01], "num_critical": [2], "first_cutoff": [2], "first_stopband": [2**2.1],
        "last_stopband_rel": [2**0.3], "margin_size": [10], "output_scale": [0.25], "filter_size": [6], "lrelu_upsampling": [2],
        **dict.fromkeys("""z_dim c_dim w_dim img_resolution num_layers num_ws w_avg_beta channel_base channel_max num_fp16_res use_fp16
        conv_clamp conv_kernel use_radial_filters magnitude_ema_beta class_name""".split()),
    },
}  # fmt: skip
POSITIONS = {  # of arguments that are given without a name: _init_args
    "generator": "z_dim c_dim w_dim img_resolution img_channels mapping_kwargs synthesis_kwargs".split(),
    "discriminator": "c_dim img_resolution img_channels architecture channel_base channel_max num_fp16_res conv_clamp cmap_dim".split(),
}


def project_of(kind, table):
    """The key of SETTINGS for modules with the names of a table, None for NVIDIA's; or ValueError."""
    if table in (LERNAPPARAT, LERNAPPARAT_D, ROSINALITY_D):
        raise ValueError("a whole module of that project, whose settings the toolkit does not know; save its state_dict() instead")
    return "stylegan3" if kind == "stylegan3" else "pytorch" if table is None else "rosinality"


def init_settings(module, role):
    """What a module of NVIDIA's was made with, {name: value}; {} of others."""
    given, named = module.state.get("_init_args") or (), module.state.get("_init_kwargs") or {}
    if type(given) not in (tuple, list) or not isinstance(named, dict) or len(given) > len(POSITIONS[role]):
        raise ValueError(f"it was made with {shown(given)} and {shown(named)}, which are no settings")
    return dict(zip(POSITIONS[role], given, strict=False)) | named


def check_settings(project, role, *settings, depth=0):
    """ValueError names a setting that would make another network than ours, or one that the toolkit does not know.

    Args:
        project: a key of SETTINGS.
        settings: dicts, or None; a setting whose name ends in _kwargs is such a dict itself.
    """
    for said in settings:
        if not isinstance(said or {}, dict) or depth > 3 or len(said or {}) > 100:  # a dict may be in another a hundred times
            raise ValueError(f"settings that are no dict, too many, or nested too deep: {shown(said)}")
        for name, value in (said or {}).items():
            allowed = SETTINGS[project].get(name, ())
            allowed = allowed[role] if isinstance(allowed, dict) else allowed
            if str(name).endswith("_kwargs"):
                check_settings(project, role, value, depth=depth + 1)
            elif allowed is not ANY and value not in allowed:
                said = f"{shown(name)}={repr(shown(value)) if isinstance(value, str) else shown(value)}"
                known = " and ".join(repr(v) for v in allowed if type(v) is not tuple)
                raise ValueError(f"it was made with {said}; the toolkit knows {f'{known} only' if known else 'no such setting'}")


ATTRIBUTES = [  # of a module of this name: an attribute, and the setting that it comes from
    (r"mapping\.fc\d+\.", "bias_gain", "lr_multiplier"),
    (r"b4\.mbstd\.", "group_size", "mbstd_group_size"),
    (r"b4\.mbstd\.", "num_channels", "mbstd_num_channels"),
]
LINEAR = re.compile(r"(.*\.)?(affine|out|skip|embed)\.")  # the layers without activation


def check_modules(project, role, modules):
    """As `check_settings`, of [(prefix, module)]: they say more than the settings that were given, whose defaults have changed."""
    for prefix, module in modules:
        if project == "rosinality" and not prefix.startswith("style."):
            continue
        said = {name: value for name, value in module.state.items() if name in SETTINGS[project]}
        if LINEAR.fullmatch(prefix):
            said.pop("activation", None)
        for pattern, theirs, name in ATTRIBUTES:
            if re.fullmatch(pattern, prefix) and theirs in module.state:
                said[name] = module.state[theirs]
        check_settings(project, role, said)


# ---------------------------------------------------------------------------------------------------------------------
# Ours -> the names of others


def _square(*taps, gain=1):
    return np.outer(taps, taps).astype(np.float32) * (gain / sum(taps) ** 2)


def to_rosinality(config, state, _):
    """A generator's state dict {name: float32 array} -> what rosinality's Generator(size, style_dim, n_mlp) loads strictly, and its mean.

    Raises:
        ValueError: its Generator is no such network.
    """
    classes, widths = getattr(config, "c_dim", 0), (config.z_dim, config.w_dim)
    if config.kind != "stylegan2" or classes or widths[0] != widths[1]:
        what = f"of {classes} classes" if classes else f"with z of {widths[0]} and w of {widths[1]}" if widths[0] != widths[1] else ""
        raise ValueError(f"a {config.kind} generator {what}".rstrip() + "; rosinality's is StyleGAN2, without classes, z and w of one size")
    sides = sorted({int(m[1]) for m in (re.match(r"synthesis\.b(\d+)\.", name) for name in state) if m})
    layers = [("conv1", "b4.conv1"), ("to_rgb1", "b4.torgb")]
    for i, side in enumerate(sides[1:]):
        layers += [(f"convs.{2 * i}", f"b{side}.conv0"), (f"convs.{2 * i + 1}", f"b{side}.conv1"), (f"to_rgbs.{i}", f"b{side}.torgb")]
    out, maps = {"input.input": state["synthesis.b4.const"][None]}, 0
    out |= {f"style.{int(m[1]) + 1}.{m[2]}": v for k, v in state.items() if (m := re.fullmatch(r"mapping\.fc(\d+)\.(\w+)", k))}
    for theirs, name in layers:
        ours = {k: state[f"synthesis.{name}.{k}"] for k in ("weight", "bias", "affine.weight", "affine.bias")}
        out |= {f"{theirs}.conv.weight": ours["weight"][None], f"{theirs}.conv.modulation.weight": ours["affine.weight"],
                f"{theirs}.conv.modulation.bias": ours["affine.bias"]}  # fmt: skip
        if name.endswith("torgb"):
            out[f"{theirs}.bias"] = ours["bias"].reshape(1, -1, 1, 1)
        else:
            out[f"{theirs}.activate.bias"] = ours["bias"]
            out[f"{theirs}.noise.weight"] = state[f"synthesis.{name}.noise_strength"].reshape(1)
            out[f"noises.noise_{maps}"] = state[f"synthesis.{name}.noise_const"][None, None]
            maps += 1
        if theirs.startswith("to_rgbs") or name.endswith("conv0"):
            out[f"{theirs}.{'upsample' if name.endswith('torgb') else 'conv.blur'}.kernel"] = _square(1, 3, 3, 1, gain=4)
    return {"g_ema": out, "latent_avg": state["mapping.w_avg"]}


def to_ada(config, state, filters):
    """A generator's state dict {name: float32 array} -> what the G_ema of NVIDIA's PyTorch code loads strictly, with its filters.

    Args:
        filters: those that StyleGAN3 designs, by their names.
    """
    if config.kind == "stylegan1":
        raise ValueError("a stylegan1 generator; NVIDIA's PyTorch code has StyleGAN2 and StyleGAN3")
    init = ada_settings(config)
    if config.kind == "stylegan3":
        return {"G_ema": state | filters, "init_kwargs": init}
    blocks = {m[1] for m in (re.match(r"(synthesis\.b\d+\.(?:conv\d\.)?)", name) for name in state) if m}
    blocks |= {re.sub(r"conv\d\.$", "", name) for name in blocks}
    return {"G_ema": state | {f"{name}resample_filter": _square(1, 3, 3, 1) for name in sorted(blocks)}, "init_kwargs": init}


def ada_settings(config):
    """What the Generator of StyleGAN2-ADA-PyTorch, or StyleGAN3's, is made with."""
    said = {name: value for name, value in dataclasses.asdict(config).items() if name != "kind"}
    init = {name: said.pop(name) for name in ("z_dim", "c_dim", "w_dim")} | {"img_resolution": said.pop("resolution"), "img_channels": 3}
    init |= {"mapping_kwargs": {"num_layers": said.pop("mapping_layers")}}
    return init | (said if config.kind == "stylegan3" else {"synthesis_kwargs": said})


PROJECTS = {"rosinality": to_rosinality, "ada": to_ada}  # what --to knows


def remarks(config, project):
    """What a user of an exported generator must know, in sentences: settings that a state dict does not hold."""
    if project == "ada":
        return ["Generator(**data['init_kwargs']) builds its network, data['G_ema'] is its state dict"]
    said, multipliers = [], [config.channels(r) * r / 16384 for r in config.resolutions if r > 32]
    few = [r for r in config.resolutions if r <= 32 and config.channels(r) != 512]
    if few or len(set(multipliers)) > 1 or any(m % 1 for m in multipliers):
        widths = ", ".join(f"{r}: {config.channels(r)}" for r in config.resolutions)
        said = [f"its channels are not the ones that rosinality's Generator has: there, set self.channels = {{{widths}}}"]
    elif multipliers and multipliers[0] != 2:
        said = [f"build it with channel_multiplier={multipliers[0]:g}"]
    said += [f"build it with n_mlp={config.mapping_layers}"] if config.mapping_layers != 8 else []
    if config.conv_clamp is not None:
        said += [f"it clamps activations to +-{config.conv_clamp:g}, which rosinality's does not: where that acts, pictures differ"]
    return said
