"""Convert a published StyleGAN checkpoint to this toolkit's: one `.safetensors` file that describes itself. No TensorFlow.

    python weight_convert.py karras2019stylegan-ffhq-1024x1024.pkl
    python weight_convert.py weight_files/me.safetensors --to rosinality

Reads the official pickles of StyleGAN1, StyleGAN2 (-ADA) for TensorFlow, StyleGAN2-ADA-PyTorch and StyleGAN3, whole or a generator
pickled alone; a generator that was saved with `torch.save(G)` (PTI's `model_*.pt`) or as its `state_dict()`; the `.pt` files of
LatentEditor / lernapparat (StyleGAN1), rosinality and StyleGAN-NADA (StyleGAN2), and of e4e, pSp and ReStyle (their decoder). SOURCE may
also be a name that is downloaded (stylegan1-ffhq-1024, ...). Nothing that a file names is ever imported or called: the reader knows a
short list of names and refuses the rest. A setting that makes another network than the toolkit's is refused by its name.

With --to SOURCE may be a checkpoint of this toolkit too, and a `.pt` is written that the other project loads. The paths written go to
stdout, one a line; what they are, to stderr.
"""

from editor import cli  # isort: skip (first: from here on Ctrl-C ends the command as it should)

import copy
import dataclasses
import json
import re
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

from editor import checkpoints, dialects, downloads, files, pickles
from editor.dialects import check_settings, renamed
from editor.pickles import shown

# ---------------------------------------------------------------------------------------------------------------------
# From names to networks


def _config(kind, state, role, said):
    """Resolution, widths and depths, read from the tensors themselves; `said`: settings that no tensor shows, `conv_clamp`."""
    from stylegan3_layers import infer
    from stylegan_layers import Config

    if kind == "stylegan3":
        return dataclasses.replace(infer(state), **said)
    key = "synthesis." if role == "generator" else ""
    sides = sorted({int(m[1]) for m in (re.match(rf"{re.escape(key)}b(\d{{1,4}})\.", k, re.ASCII) for k in state) if m})
    if not sides:
        raise ValueError("no layers of a StyleGAN are in it")

    def shape(name, dims):
        if name not in state:
            raise ValueError(f"{name} is missing")
        if state[name].ndim != dims:
            raise ValueError(f"{name} is {list(state[name].shape)}, which cannot be")
        return state[name].shape

    const = shape("synthesis.b4.const", 3)[1:] if key else (4, 4)
    if const[0] != const[1]:
        raise ValueError(f"it begins with {const[0]}x{const[1]} pixels: a generator of pictures that are not square; the toolkit's are")
    last = "conv1.weight" if key else ("conv0.weight" if sides[-1] > 4 else "conv.weight")
    widths = {r: shape(f"{key}b{r}.{last if key or r > 4 else 'conv.weight'}", 4)[0] for r in sides}
    top = max(widths.values())
    base = max((r * c for r, c in widths.items() if c < top), default=top * sides[-1])
    more = {}
    if key:
        depth = len([k for k in state if re.fullmatch(r"mapping\.fc\d+\.weight", k)])
        first = shape("mapping.fc0.weight", 2)
        classes = shape("mapping.embed.weight", 2)[1] if "mapping.embed.weight" in state else 0
        more = {"mapping_layers": depth, "z_dim": first[1] - (first[0] if classes else 0), "w_dim": first[0], "c_dim": classes}
    return Config(kind, sides[-1], base, top, **more, **said)


def _variables(network):
    """The variables {name: value} of a TensorFlow network's stand-in."""
    pairs = network.state.get("variables") or []
    if type(pairs) is not list or any(type(p) is not tuple or len(p) != 2 or type(p[0]) is not str for p in pairs):
        raise ValueError("variables that are no list of names and arrays")
    return dict(pairs)


def _is_tensorflow(data):
    """Whether a file holds a TensorFlow network, or the official tuple of three."""
    networks = data if type(data) is tuple and len(data) == 3 else (data,)
    return any(type(network) is pickles.Stub and isinstance(network.state, dict) and "variables" in network.state for network in networks)


def from_tensorflow(data, role):
    """The tuple (G, D, Gs) of an official TensorFlow pickle, or one network of it -> network or None, metadata."""
    networks = data if type(data) is tuple else (data, data)
    network = networks[-1] if role == "generator" else networks[1]
    if type(network) is not pickles.Stub or ("components" in network.state and bool(network.state["components"])) != (role == "generator"):
        return None, {}
    said = network.state.get("static_kwargs") or {}
    check_settings("tensorflow", role, said)
    if role == "discriminator":
        return _tensorflow_discriminator(_variables(network), said), {}
    parts = network.state["components"]
    inner = parts["synthesis"].state.get("static_kwargs") or {}
    check_settings("tensorflow", role, inner, parts["mapping"].state.get("static_kwargs"))
    own, synthesis = _variables(network), _variables(parts["synthesis"])
    if "dlatent_avg" not in own:
        raise ValueError("the variable dlatent_avg is missing")
    _, lod = dialects.grown(own)
    kind, remark = "stylegan1" if any("StyleMod" in name for name in synthesis) else "stylegan2", None
    if kind == "stylegan1":
        synthesis, lod = dialects.grown(synthesis | {"lod": lod or synthesis.get("lod", 0)})
        remark = f"a snapshot from progressive growing: its last {lod} resolutions are not trained yet, and left out" if lod else None
    state = renamed(own, [(r"dlatent_avg", "mapping.w_avg", dialects.SAME), dialects.LOD])
    state |= renamed(synthesis | _variables(parts["mapping"]), {"stylegan1": dialects.SG1, "stylegan2": dialects.SG2}[kind])
    return _filled(role, _config(kind, state, role, _clamp(inner, said)), state), {"remark": remark}


def _tensorflow_discriminator(variables, said):
    variables, _ = dialects.grown(variables)
    kind = "stylegan2" if any("Skip" in name for name in variables) else "stylegan1"
    side = max((int(m[1]) for m in (re.match(r"(\d{1,4})x", name, re.ASCII) for name in variables) if m), default=0)
    state = renamed(variables, dialects.TENSORFLOW_D, side)
    return _filled("discriminator", _config(kind, state, "discriminator", _clamp(said)), state)


DECLARED = {"z_dim": "z_dim", "w_dim": "w_dim", "c_dim": "c_dim", "img_resolution": "resolution"}  # by NVIDIA's settings; our names
UNSAVED = "_non_persistent_buffers_set"  # a module's names of buffers that its state_dict() leaves out


def from_module(module, role, mean=None):
    """A network that was saved as the object it is, rebuilt from its pickle -> network or None, metadata.

    Args:
        mean: a `latent_avg` that stands beside it in the file, or None.
    """
    modules, state = module.parts(), {}
    for prefix, part in modules:
        own, unsaved = {**(part.state.get("_parameters") or {}), **(part.state.get("_buffers") or {})}, part.state.get(UNSAVED)
        unsaved = unsaved if isinstance(unsaved, set) else ()
        state |= {prefix + str(name): value for name, value in own.items() if value is not None and name not in unsaved}
    state, prefix = _plain_names(state)
    sign = _sign(state)
    if sign is None:
        raise ValueError(f"a {shown(module.class_name, 60)}, which is no StyleGAN that the toolkit knows")
    if sign[1] != role:
        return None, {}
    modules = [(name.removeprefix(prefix), part) for name, part in modules if name.startswith(prefix)]
    project = dialects.project_of(*sign[2:])
    settings = dialects.init_settings(modules[0][1], role)
    check_settings(project, role, settings)
    dialects.check_modules(project, role, modules)
    layers = [part.state for _, part in modules if "conv_clamp" in part.state][:1]
    said = _clamp(settings, settings.get("synthesis_kwargs") or {}, *layers)
    if role == "generator" and not sign[3] and "mapping.w_avg" not in state:
        raise ValueError("mapping.w_avg is missing")
    network, estimated = _from_state(_with_mean(state, mean, sign), *sign[1:], said)
    for theirs, ours in DECLARED.items() if role == "generator" else ():
        if theirs in settings and settings[theirs] != getattr(network.config, ours):
            raise ValueError(f"it says {theirs} {shown(settings[theirs])}, and its tensors have {getattr(network.config, ours)}")
    return network, {"estimated": estimated}


def _clamp(*settings):
    """{"conv_clamp": ...} as the last of these settings says it that says it; {}: none does."""
    found = [said["conv_clamp"] for said in settings if "conv_clamp" in said]
    if found and type(found[-1]) not in (int, float, type(None)):  # anything else in a file may be endless to print
        raise ValueError(f"conv_clamp {shown(found[-1])}; it must be a number above 0, or none")
    return {"conv_clamp": found[-1]} if found else {}


ASSUMED = "a state dict holds no settings: those of NVIDIA's configurations are taken"


def from_safetensors(path, role):
    """A `.safetensors` file with names that are known, mostly StyleGAN2-ADA-PyTorch's -> network or None, metadata."""
    from safetensors.torch import load_file

    said = checkpoints.read_header(path)
    if checkpoints.is_ours(said):
        raise ValueError("this is a checkpoint of this toolkit already; use it as it is, or give it to another project with --to")
    meta = {k: said[k] for k in ("source", "license", "data") if k in said}
    if "alignment" in said:
        meta["alignment"] = checkpoints.parse_alignment(said["alignment"])
    network, more = from_objects(load_file(path), role)
    return network, meta | more


def _with_mean(state, mean, sign):
    """A state dict with the mean latent that stands beside it in the file; NVIDIA's generators, and ours, have one of their own."""
    name = "latent_avg" if sign[3] else "mapping.w_avg"
    return state if mean is None or name in state else state | {name: mean}


SIGNS = [  # a name that shows whose file it is; its network; its kind, or None: the tensors show it; its table, or None: our names
    (r"g_synthesis\..*", "generator", "stylegan1", dialects.LERNAPPARAT),
    (r"fromrgb\.weight", "discriminator", "stylegan1", dialects.LERNAPPARAT_D),
    (r"input\.input|style\.\d+\.weight|convs\.\d+\.conv\.weight", "generator", "stylegan2", dialects.ROSINALITY),
    (r"final_linear\.\d\.weight", "discriminator", "stylegan2", dialects.ROSINALITY_D),
    (r"synthesis\.(L\d+_.*|input\..*)", "generator", "stylegan3", None),
    (r"synthesis\..*", "generator", None, None),
    (r"b4\.out\.weight", "discriminator", None, None),
]
AVERAGED = ("G_ema", "g_ema", "generator_ema", "params_ema")  # where files keep the averaged generator
PLACES = {"generator": (AVERAGED, ("generator", "state_dict"), ("G", "g")), "discriminator": (("D", "d", "discriminator", "state_dict"),)}
WRAPPERS = (tuple(f"{name}." for name in AVERAGED), ("module.", "decoder.", "generator."))  # of names; DataParallel's, e4e's, ...


def _sign(state):
    """Which row of SIGNS a state dict {name: tensor} fits, or None."""
    if not isinstance(state, dict) or not all(type(name) is str for name in state):
        return None
    return next((sign for sign in SIGNS if any(re.fullmatch(sign[0], name, re.ASCII) for name in state)), None)


def _plain_names(state):
    """A state dict without what wraps its names; and that."""
    for prefixes in () if _sign(state) or not isinstance(state, dict) else WRAPPERS:
        fitting = {}
        for prefix in prefixes:
            inside = {name.removeprefix(prefix): value for name, value in state.items() if str(name).startswith(prefix)}
            found, more = _plain_names(inside) if inside else (None, "")
            if _sign(found):
                fitting[prefix + more] = found
        _require_one(fitting)
        if fitting:
            return next((found, prefix) for prefix, found in fitting.items())
    return state, ""


def _require_one(found):
    if len(found) > 1:
        raise ValueError(f"several networks are in it ({', '.join(found)}); save the one that you want in a file of its own")


def _inside(data, role):
    """The network of that role in what a file holds -> a Module or a state dict, or None; and a remark or None."""
    if isinstance(data, pickles.Module):
        return data, None
    data, _ = _plain_names(data)
    if _sign(data):
        return (data if _sign(data)[1] == role else None), None
    for names in PLACES[role]:
        held = {name: _plain_names(data[name])[0] for name in names if data.get(name) is not None}
        fitting = {name: found for name, found in held.items() if isinstance(found, pickles.Module) or (_sign(found) or (0, 0))[1] == role}
        _require_one(fitting)
        found = fitting or {name: found for name, found in held.items() if name != "state_dict"}  # what is said there to be one
        for name, network in found.items():
            return network, f"the file has no averaged generator; the one under {name} was taken" if name in ("G", "g") else None
    return None, None


def from_objects(data, role):
    """What a pickle or `.pt` holds beside TensorFlow's -> network or None, metadata."""
    if not isinstance(data, dict | pickles.Module):
        raise ValueError(f"a file of no StyleGAN that the toolkit knows; it holds {shown(data, 100)}; save one network's state_dict()")
    found, remark = _inside(data, role)
    if found is None:
        if _inside(data, "discriminator" if role == "generator" else "generator")[0] is None:
            held = ", ".join(shown(name, 30) for name in list(data)[:4])
            said = "latents and directions need no conversion, the commands read them"
            raise ValueError(f"a file of no StyleGAN that the toolkit knows; it holds {held or 'nothing'}, ... ({said})")
        return None, {}
    beside = [one for one in (data, isinstance(data, dict) and data.get("state_dict")) if isinstance(one, dict) and "latent_avg" in one]
    mean = beside[0]["latent_avg"] if beside and role == "generator" else None
    if isinstance(found, pickles.Module):
        network, meta = from_module(found, role, mean)
        return network, meta | {"remark": remark} if network else {}
    sign = _sign(found)
    if sign is None or sign[1] != role:
        raise ValueError(f"no layers of a StyleGAN are in what should be the {role}")
    ours = _own_metadata(data)
    config = ours.pop("config", None)
    settings = data.get("init_kwargs") or {}
    if settings:
        check_settings(dialects.project_of(*sign[2:]), role, settings)
    said = _clamp(settings, settings.get("synthesis_kwargs") or {})
    network, estimated = _from_state(_with_mean(found, mean, sign), *sign[1:], said, config if role == "generator" else None)
    assumed = None if sign[3] or ours or settings else ASSUMED + ", for StyleGAN2 without clamping" * (network.config.kind == "stylegan2")
    remark = "; ".join(filter(None, [remark, assumed])) or None
    if "half" in ours:  # and nobody has trained it since
        ours["half"] = all(bool((value == value.half().float()).all()) for value in network.state_dict().values())
    return network, {"estimated": estimated, "remark": remark} | ours


def _from_state(state, role, kind, table, said=None, config=None):
    """A state dict with names of SIGNS -> network, what was estimated or None.

    Args:
        said: settings that no tensor shows, as for `_config`.
        config: the Config, where the file says it.
    """
    if kind is None:
        sg1 = "synthesis.torgb.weight" in state or (role == "discriminator" and not any(".skip." in name for name in state))
        kind = "stylegan1" if sg1 else "stylegan2"
    sides = sum(1 for name in state if re.fullmatch(r"convs\.\d+\.skip\.1\.weight|\d+x\d+\.conv0\.weight", name))  # of a discriminator
    state = renamed(state, table or dialects.OURS, *(4 << i for i in range(min(sides, 8), -1, -1)))
    config = config or _config(kind, state, role, said or {})
    return _completed(config, state) if role == "generator" else (_filled(role, config, state), None)


KEPT = "source license data perceptual alignment estimated remark half".split()  # of a checkpoint's header, in what --to writes
OWN = "stylegan_latent_editor"  # where they stand there


def _own_metadata(data):
    """What a file that --to wrote says of its origin: metadata and `config`, a Config; {} of other files."""
    from stylegan3_layers import Config3
    from stylegan_layers import Config

    if (said := data.get(OWN)) is None:
        return {}
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise ValueError(f"{OWN} is {shown(said)}, not a dict of texts")
    found = {name: said[name] for name in KEPT if name in said}
    if "alignment" in found:
        found["alignment"] = checkpoints.parse_alignment(found["alignment"])
    try:
        settings = checkpoints.parse_dict(said["config"], "config")
        found["config"] = (Config3 if said["kind"] == "stylegan3" else Config)(said["kind"], **settings)
    except TypeError:
        raise ValueError(f"{OWN}: a config that this version does not know: {shown(said['config'])}") from None
    return found


SAMPLES = 10_000  # for the mean latent: its standard error is 1% of the spread of w


def _completed(config, state):
    """A generator from its tensors; what state dicts may leave out, the mean latent and all noise maps, is drawn with seed 0.

    Returns:
        The generator; and what was drawn, in words, or None.
    """
    import torch

    with checkpoints.without_memory():
        maps = [(n, tuple(v.shape)) for n, v in _network("generator", config).state_dict().items() if n.endswith("noise_const")]
    no_mean, no_maps = "mapping.w_avg" not in state, bool(maps) and not any(name in state for name, _ in maps)
    drawn = {"mapping.w_avg": np.zeros(config.w_dim, np.float32)} if no_mean else {}
    if no_maps:
        rng = np.random.RandomState(0)
        drawn |= {name: rng.standard_normal(shape).astype(np.float32) for name, shape in maps}
    G = _filled("generator", config, state | drawn)
    if no_mean:
        mapping, rng, parts = copy.deepcopy(G.mapping).double(), np.random.RandomState(0), 20
        with torch.no_grad():  # in float64, so that every machine comes to the same float32
            total = sum(mapping(*_drawn(rng, SAMPLES // parts, config)).sum(0) for _ in range(parts))
        G.mapping.w_avg.copy_((total / SAMPLES).float())
    said = [f"mean latent: estimated from {SAMPLES} samples, seed 0"] * no_mean + ["noise maps: drawn, seed 0"] * no_maps
    return G, "; ".join(said) or None


def _drawn(rng, count, config):
    """z [count, z_dim] and, of a generator with classes, a class each [count, c_dim]; float64."""
    import torch

    z = torch.from_numpy(rng.standard_normal((count, config.z_dim)))
    return (z, torch.eye(config.c_dim, dtype=z.dtype)[rng.randint(config.c_dim, size=count)]) if config.c_dim else (z,)


def _network(role, config):
    import stylegan3_layers
    import stylegan_layers

    if role == "generator" and config.kind == "stylegan3":
        return stylegan3_layers.Generator3(config)
    return getattr(stylegan_layers, role.title())(config)


def _filled(role, config, state):
    """Build a network, without memory, and fill it; every tensor must be there, fit and be finite."""
    import torch

    import stylegan3_layers

    with checkpoints.without_memory():
        network = _network(role, config)
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    designed = {name: tensors.pop(name) for name in state if stylegan3_layers.FILTER.fullmatch(name)}
    bad = checkpoints.misfits(network, {name: value.shape for name, value in tensors.items()})
    if designed and not bad:
        half = all(torch.equal(taps, taps.half().float()) for taps in designed.values())  # the file is in float16
        stylegan3_layers.check_filters(network, designed, 1e-3 if half else 1e-6)
    checkpoints.fill(network, {} if bad else tensors, bad, role)
    return network


# ---------------------------------------------------------------------------------------------------------------------
# From files to names

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
    if _is_tensorflow(data):
        return from_tensorflow(data, role)
    return from_objects(data, role)


# ---------------------------------------------------------------------------------------------------------------------
# Ours -> a file for another project


def exported(G, project, header, person=None):
    """What a `.pt` holds that another project loads.

    Args:
        G: a generator.
        project: a key of `dialects.PROJECTS`.
        header: what its checkpoint says of itself, {name: text}.
        person: a Face whose tuned weights and noise maps it wears, or None.

    Raises:
        ValueError: the project has no such network.
    """
    import torch

    import stylegan3_layers
    from editor import tuning

    def tensor(value):  # arrays in dicts -> tensors
        if type(value) is dict:
            return {k: tensor(v) for k, v in value.items()}
        return torch.from_numpy(np.array(value, order="C")) if isinstance(value, np.ndarray | np.generic) else value

    state = {name: value.detach().float().cpu() for name, value in G.state_dict().items()}
    if person is not None:
        changes = {f"synthesis.{k}": value for k, value in tuning.weights(G, person.tuned or {}).items()}
        maps = [name for name in state if name.endswith("noise_const")]  # in the order of G.synthesis.layers()
        changes |= {name: m[0, 0] for name, m in zip(maps, person.noise, strict=True)} if person.noise else {}
        state, header = state | changes, header | {"remark": f"the weights are tuned around the face {person.name}"}
    filters = stylegan3_layers.filters(G) if G.kind == "stylegan3" else {}
    data = dialects.PROJECTS[project](G.config, *({name: v.float().numpy() for name, v in part.items()} for part in (state, filters)))
    config, header = dataclasses.asdict(G.config), header | ({"half": None} if person else {})
    said = {k: v if isinstance(v, str) else json.dumps(v) for k, v in header.items() if k in KEPT and v is not None}
    return tensor(data) | {OWN: said | {"kind": config.pop("kind"), "config": json.dumps(config)}}


def _export(args, out, G, meta):
    """Write a generator for another project; its path on stdout, what it is on stderr."""
    import torch

    from editor import face

    if args.tuned and not hasattr(G, "meta"):
        raise ValueError(f"--tuned {args.tuned}: belongs to one of our checkpoints; convert {args.source} first, and give that")
    person = face.read_one(args.tuned, G) if args.tuned else None
    if person is not None and not person.tuned and person.noise is None:
        raise ValueError(f"{args.tuned}: has neither tuned weights nor noise maps of its own; encode_image.py --tune N makes them")
    data = exported(G, args.to, meta, person)
    with files.atomic(out) as temporary, open(temporary, "wb") as f:
        try:
            torch.save(data, f)
        except RuntimeError as error:
            raise OSError(f"{out}: could not be written whole ({str(error)[:60]}); is the disk full?") from None
        _require_free(out)
    cli.written(args, out, what=f"{out}: {_described(G)}, with the names of {args.to}, sha256 {files.file_hash(out)}")
    for remark in person.remarks if person else []:
        cli.warn(remark)
    for remark in [] if args.quiet else dialects.remarks(G.config, args.to):
        cli.say(f"{out}: note: {remark}")


# ---------------------------------------------------------------------------------------------------------------------
# The script


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("source", metavar="SOURCE", help="a checkpoint file, or a name to download (see below)")
    parser.add_argument("--out", metavar="FILE", help="where the generator goes (default: weight_files/NAME.safetensors, or NAME.TO.pt)")
    parser.add_argument("--discriminator", metavar="FILE", help="write the discriminator too")
    parser.add_argument("--to", choices=list(dialects.PROJECTS), help="write a .pt that this project loads (ada: NVIDIA's own)")
    parser.add_argument("--tuned", metavar="FACE", help="with --to: the generator as this face has tuned it, a latent_W/NAME.npy")
    parser.add_argument("--list", action=cli.Listing, help="show the models that can be named, and exit")
    cli.add_quiet_flag(parser)
    args = parser.parse_args(argv)
    if (args.tuned and not args.to) or (args.to and args.discriminator):
        parser.error("--tuned belongs to --to" if not args.to else "--to writes a generator; leave --discriminator out")
    source, meta = args.source, {}
    item = downloads.DOWNLOADS.get(source)
    name = source if item else Path(source).name
    out = _target(args, name, item)
    if item:
        meta = {"license": item.license, "source": item.url, "perceptual": "vgg16", "alignment": checkpoints.FFHQ_ALIGNMENT}
        source = downloads.fetch(source, None if args.quiet else lambda done, total: print(f"\r{done >> 20} MB", end="", file=sys.stderr))
    meta = {"source": name} | meta
    try:
        if args.discriminator and convert(source, "discriminator")[0] is None:  # before anything is written
            raise ValueError(f"{args.source}: no discriminator is in it")
        G, said = _own(source) if args.to and _is_own(source) else convert(source)
    except ValueError as error:
        raise ValueError(f"{error}; remove {source} to have it downloaded again" if item else str(error)) from None
    if G is None and not args.discriminator:
        raise ValueError(f"{args.source}: no generator is in it; with --discriminator FILE its discriminator is written")
    if args.to:
        _export(args, out, G, meta | said)
    elif G is not None:
        _write(out, G, meta | said, args)
    if args.discriminator:
        del G  # one network at a time
        D, said = convert(source, "discriminator")
        _write(Path(args.discriminator), D, meta | said, args)
    return 0


def _target(args, name, item):
    """Where the generator goes, once it is seen that it may and can be written there."""
    folder, stem = checkpoints.HERE / "weight_files", Path(name).stem or name
    if args.to:
        out = Path(args.out or folder / f"{stem}{'_' + Path(args.tuned).stem if args.tuned else ''}.{args.to}.pt")
        if out.suffix not in (".pt", ".pth"):
            raise ValueError(f"--out {out}: with --to the name ends in .pt")
        _require_free(out)
        files.check_writable(out)
        return out
    out = Path(args.out or folder / f"{stem}.safetensors")
    checkpoints.check_target(out, "--out", args.source, None if args.out else item.url if item else name)
    if args.discriminator:
        checkpoints.check_target(args.discriminator, "--discriminator", args.source)
    if args.discriminator and checkpoints.same_file(args.discriminator, out):
        raise ValueError(f"{out}: --out and --discriminator are the same file")
    for path in [] if item else filter(None, (out, args.discriminator)):
        _require_free(path)
    return out


def _require_free(out):
    """A result never replaces another's; two runs of NVIDIA's code give their snapshots the same names."""
    if Path(out).exists():
        raise ValueError(f"{out}: exists; remove it, or choose another name with --out FILE{Path(out).suffix}")


def _is_own(source):
    """Whether a file is a checkpoint of this toolkit."""
    return Path(source).suffix == ".safetensors" and Path(source).is_file() and checkpoints.is_ours(checkpoints.read_header(source))


def _own(source):
    """A generator of this toolkit -> it, frozen; what its file says of itself, {name: text}, and `half`, whether it is in float16."""
    from safetensors import safe_open

    with safe_open(source, "pt") as f:
        half = all(f.get_slice(name).get_dtype() == "F16" for name in f.keys())  # noqa: SIM118
    return checkpoints.load_generator(source), checkpoints.read_header(source) | {"half": half or None}


def _described(network):
    config, what = network.config, f"{network.config.num_ws} layers" if hasattr(network, "mapping") else "discriminator"
    return f"{config.kind}, {config.resolution}x{config.resolution}, {what}, {sum(p.numel() for p in network.parameters()):,} parameters"


def _write(path, network, meta, args):
    """Write a checkpoint; its path on stdout, what it is on stderr."""
    sha = checkpoints.save(path, network, **meta)
    cli.written(args, path, what=f"{path}: {_described(network)}, sha256 {sha}")
    for label, key in [("not in the source", "estimated"), ("note", "remark")]:
        if meta.get(key) and not args.quiet:
            cli.say(f"{path}: {label}: {meta[key]}")


if __name__ == "__main__":
    cli.run(main)
