"""Weights: our checkpoint files, the ones that come with the project, and what can be downloaded by name.

A checkpoint is one `.safetensors` file that rebuilds its network: weights, mean latent and noise maps as tensors, and in
the header, as strings, `format`, `kind`, `config` (JSON), `alignment` (JSON), `perceptual`, `source`, `license`.

A file may lie. So its sizes are checked before a network of these sizes is built, the network is built without memory (on
PyTorch's meta device), and its tensors are compared with the file's before one of them is read.
"""

import dataclasses
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from editor import downloads, files
from editor.pickles import shown

FORMAT = "1"
HERE = Path(__file__).resolve().parent.parent
BUNDLED = {
    "generator": HERE / "weight_files" / "faces128.safetensors",
    "features": HERE / "weight_files" / "features.safetensors",
    "encoder": HERE / "weight_files" / "encoder.safetensors",
    "attributes": HERE / "weight_files" / "attributes.safetensors",
    "readout": HERE / "weight_files" / "readout.safetensors",
}
PROTECTED = [*BUNDLED.values(), HERE / "weight_files" / "faces128_discriminator.safetensors"]  # never written by a command
MOST_HEADER, MOST_TENSORS = 2_000_000, 10_000  # bytes and names; those of the largest networks take some 50,000 and 300
FFHQ_ALIGNMENT = {"scale": 1.0, "em_scale": 0.1}


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints


def save(path, network, half=False, **meta):
    """Write a Generator, Discriminator or feature network as a checkpoint, whole or not at all.

    Args:
        network: has `config` (a dataclass with `kind`) and `state_dict()`.
        half: store weights as float16 (half the size; loading gives float32 again).
        meta: `alignment` (dict with scale and em_scale), `perceptual` (a distance's name), `source`, `license`, ...; None is left out.

    Returns:
        The file's sha256, as hex.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    config = dataclasses.asdict(network.config)
    kind = config.pop("kind")
    if not config.get("c_dim", True):
        del config["c_dim"]  # files without classes are the same as before there were any, and their hash, which records name
    role = "_discriminator" if type(network).__name__ == "Discriminator" else ""
    header = {"format": FORMAT, "kind": kind + role, "config": json.dumps(config)}
    header |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in meta.items() if v is not None}
    tensors = {k: (v.half() if half else v.float()).cpu().contiguous() for k, v in network.state_dict().items()}
    with files.atomic(path) as temporary:
        try:
            save_file(tensors, temporary, header)
        except SafetensorError as error:  # a full disk
            raise OSError(str(error)) from None
        sort_metadata(temporary)
    return files.file_hash(path)


def sort_metadata(path):
    """safetensors writes metadata in random order; in one order, the same network is the same file and the same hash."""
    with open(path, "r+b") as f:
        length = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length
        f.seek(8)
        f.write(text.ljust(length))


def read_header(path):
    """The strings that a `.safetensors` file says of itself, {name: text}, whoever made it.

    Raises:
        ValueError, OSError: no such file, or none that is whole: each tensor must lie inside it.
    """
    from safetensors import SafetensorError, safe_open

    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
    if MOST_HEADER < length <= os.path.getsize(path):
        raise ValueError(f"{path}: a header of {length:,} bytes; a network's is no longer than {MOST_HEADER:,}")
    try:
        with safe_open(path, "pt") as f:
            if len(f.keys()) > MOST_TENSORS:
                raise ValueError(f"{path}: more than {MOST_TENSORS:,} tensors; no network has so many")
            return f.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable .safetensors file ({shown(str(error))}); is it whole?") from None


def is_ours(header):
    """Whether a `.safetensors` header is of this toolkit; others write `format: pt`."""
    return header.get("format", "pt") != "pt"


def read_metadata(path=None):
    """What a checkpoint says of itself (default: the bundled generator), without reading its weights.

    Returns:
        dict: `path`, `kind`, `config` (dict), `resolution` (int or None), `alignment` (dict or None), `perceptual`, `source`,
        `license` (str or None) and whatever else the header holds.

    Raises:
        ValueError, OSError: not a checkpoint of ours, or missing, or with metadata that cannot be.
    """
    path = resolve(path)
    _refuse_other_formats(path)
    header = read_header(path)
    if not is_ours(header):
        raise ValueError(f"{path}: no checkpoint of this toolkit; convert it first: python weight_convert.py {path}")
    if header["format"] != FORMAT:
        raise ValueError(f"{path}: checkpoint format {shown(header['format'])}; this version reads {FORMAT}: update the toolkit")
    if "kind" not in header or "config" not in header:
        raise ValueError(f"{path}: its metadata have no {'config' if 'kind' in header else 'kind'}; convert or train it again")
    info = {"alignment": None, "perceptual": None, "source": None, "license": None} | header | {"path": path}
    try:
        info["config"] = parse_dict(info["config"], "config")
        info["alignment"] = info["alignment"] and parse_alignment(info["alignment"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    info["resolution"] = info["config"].get("resolution")
    return info


def parse_dict(text, name):
    """JSON text of a header -> dict; ValueError names it where it is something else, repeats a key or holds NaN or infinity."""

    def once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    def refuse(constant):
        raise ValueError(constant)

    try:
        found = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {name} is no JSON that can be read ({shown(str(error))}): {shown(text, 60)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"its {name} is {shown(text, 60)}, not a dict")
    return found


def parse_alignment(text):
    """JSON text -> {"scale": ..., "em_scale": ...}, how a generator's faces were cropped; ValueError where it is something else."""
    found = parse_dict(text, "alignment")
    for key in FFHQ_ALIGNMENT:
        value = found.get(key)
        if type(value) not in (int, float) or not -10 <= value <= 10 or (key == "scale" and value <= 0):
            raise ValueError(f"its alignment has {key} {shown(value)}; it must be a number {'above 0 ' if key == 'scale' else ''}up to 10")
    return found


def load_generator(path=None, device="cpu"):
    """A generator, in eval mode and frozen.

    Args:
        path: a checkpoint, a name in DOWNLOADS that was converted before, or None for the bundled generator.

    Returns:
        stylegan_layers.Generator, or StyleGAN3's Generator3; `G.meta` is `read_metadata(path)`, with `hash` (the file's sha256) added.
    """
    from stylegan3_layers import Config3, Generator3
    from stylegan_layers import SYNTHESIS, Config, Generator

    info = _kind(path, [*SYNTHESIS, "stylegan3"], "generator")
    classes = (Config3, Generator3) if info["kind"] == "stylegan3" else (Config, Generator)
    network = _load(info, *classes).freeze().to(device)
    network.meta = info | {"hash": files.file_hash(info["path"])}
    return network


def load_discriminator(path, device="cpu"):
    """A discriminator, ready to train (images [N, 3, R, R] -> [N, 1])."""
    from stylegan_layers import SYNTHESIS, Config, Discriminator

    info = _kind(path, [f"{kind}_discriminator" for kind in SYNTHESIS], "discriminator")
    network = _load(info | {"kind": info["kind"].removesuffix("_discriminator")}, Config, Discriminator).to(device)
    network.meta = info | {"hash": files.file_hash(info["path"])}
    return network


def load_encoder(path, G, device="cpu"):
    """An encoder, frozen: images -> ws of the generator G that it was trained for.

    Raises:
        ValueError, OSError: no encoder, or another generator's.
    """
    from editor.networks import Encoder, EncoderConfig

    info = _kind(path, ["encoder"], "encoder", "training/train_encoder.py makes one")
    if info.get("generator_hash") != G.meta["hash"]:
        other = shown(info.get("generator_hash"), 15)
        raise ValueError(f"{info['path']}: an encoder of another generator ({other}, not {G.meta['hash'][:12]})")
    network = _load(info, EncoderConfig, Encoder)
    if (network.config.num_ws, network.config.w_dim) != (G.num_ws, G.config.w_dim):
        raise ValueError(f"{info['path']}: an encoder for {network.config.num_ws} layers of {network.config.w_dim}, not this generator's")
    return network.eval().requires_grad_(False).to(device)


def load_attributes(path=None):
    """The attribute network (default: the bundled one), frozen: images [N, 3, 128, 128] in [-1, 1] -> scores of faces."""
    from editor.networks import AttributeConfig, AttributeNet

    info = _kind(path or BUNDLED["attributes"], ["attributes"], "attribute network", "training/train_attributes.py makes one")
    return _load(info, AttributeConfig, AttributeNet).eval().requires_grad_(False)


def load_features(path=None):
    """The feature network of the distance (default: the bundled one), frozen: images -> its features at several depths."""
    from editor.networks import FEATURES, checked_features
    from perceptual_model import FeatureConfig, Features

    info = _kind(path or BUNDLED["features"], [FEATURES], "feature network", "training/make_features.py makes one")
    return _load(info, FeatureConfig, lambda config: Features(checked_features(config))).eval().requires_grad_(False)


def has_encoder(G):
    """Whether the project comes with an encoder for this generator."""
    path = BUNDLED["encoder"]
    return path.is_file() and read_metadata(path).get("generator_hash") == G.meta["hash"]


def _kind(path, kinds, role, origin=None):
    """The metadata of a checkpoint that must hold one of these kinds."""
    info = read_metadata(path)
    if info["kind"] not in kinds:
        article = "an" if str(info["kind"])[:1] in "ae" else "a"
        raise ValueError(f"{info['path']}: holds {article} {shown(info['kind'], 40)}, no {role} ({origin or ', '.join(kinds)})")
    return info


def _load(info, config_class, network_class):
    """The network that a checkpoint describes, strictly: its settings, then its tensors."""
    path, fields = info["path"], {f.name: f for f in dataclasses.fields(config_class) if f.name != "kind"}
    unknown = [k for k in info["config"] if k not in fields]
    missing = [k for k, f in fields.items() if k not in info["config"] and f.default is dataclasses.MISSING]
    if unknown or missing:
        said = f"knows no setting {shown(unknown[0])}" if unknown else f"misses {missing[0]}"
        raise ValueError(f"{path}: its config {said}; a {shown(info['kind'])} has {', '.join(fields)}")
    try:
        with without_memory():
            network = network_class(config_class(kind=info["kind"], **info["config"]))
    except ValueError as error:
        raise ValueError(f"{path}: its config: {error}") from None
    load_strictly(network, path)
    return network


@contextmanager
def without_memory():
    """Networks that are built inside have shapes and no values: `fill` gives them theirs."""
    import torch

    class Plain(torch.overrides.TorchFunctionMode):
        """Leaves out drawing and dividing: for the meta device PyTorch imports nine hundred modules to do it, in a second or two."""

        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.Tensor.div:
                return args[0]
            if function is torch.eye:
                return torch.empty(args[0], args[0])
            return (torch.empty if function is torch.randn else function)(*args, **(kwargs or {}))

    with torch.device("meta"), Plain():
        yield


def load_strictly(network, path):
    """Fill a network, which may be on the meta device, from a checkpoint; each tensor must be there, fit, and be finite.

    Raises:
        ValueError: names the tensors that are missing, left over, misshapen, of whole numbers, or not finite.
    """
    import torch
    from safetensors import safe_open

    floats = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    with safe_open(path, "pt") as f:
        slices = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118
        bad = misfits(network, {name: s.get_shape() for name, s in slices.items()})
        bad += [f"{shown(name)} is {s.get_dtype()}, not {', '.join(floats)}" for name, s in slices.items() if s.get_dtype() not in floats]
        tensors = {} if bad else {name: f.get_tensor(name).to(torch.float32, copy=True) for name in slices}  # the file may be replaced
    fill(network, tensors, bad, f"{path}: does not fit its own description")


def misfits(network, shapes):
    """What is wrong with tensors {name: shape} for a network, each in a few words."""
    wanted = {name: list(value.shape) for name, value in network.state_dict().items()}
    bad = [f"{k} is missing" for k in wanted.keys() - shapes.keys()] + [f"{shown(k)} is left over" for k in shapes.keys() - wanted.keys()]
    return bad + [f"{k} is {list(shapes[k])}, not {wanted[k]}" for k in wanted.keys() & shapes.keys() if list(shapes[k]) != wanted[k]]


def fill(network, tensors, bad, what):
    """Give a network its tensors {name: float32}; ValueError begins with `what` and names those in `bad` and those not finite."""
    bad = bad or [f"{name} holds NaN or infinity" for name, value in tensors.items() if not value.isfinite().all()]
    bad += [f"{name} is not above 0" for name, value in tensors.items() if name.endswith("magnitude_ema") and not value > 0]
    if bad:
        raise ValueError(f"{what}: {'; '.join(sorted(bad)[:5])}" + (f" and {len(bad) - 5} more" if len(bad) > 5 else ""))
    network.load_state_dict(tensors, assign=True)


def _refuse_other_formats(path):
    with open(path, "rb") as f:
        start = f.read(16)
    ours = start[8:9] == b"{"  # a safetensors header after its length, whose first byte may be that of a pickle
    if path.suffix in (".pkl", ".pt", ".pth", ".bin") or (not ours and (start[:1] == b"\x80" or start[:2] == b"PK")):
        raise ValueError(f"{path}: a pickle or PyTorch file; convert it first: python weight_convert.py {path}")
    if not start:
        raise ValueError(f"{path}: an empty file; download or convert it again")


def resolve(name=None):
    """What a user may call a generator -> the path of its checkpoint.

    None is the bundled generator; an existing file is itself; a name of DOWNLOADS is its converted checkpoint.

    Raises:
        ValueError: there is no such file or name, or it was not converted yet; says what to run.
    """
    if name is None:
        return BUNDLED["generator"]
    path = Path(name)
    if path.is_file():
        return path
    if str(name) in downloads.DOWNLOADS:
        converted = HERE / "weight_files" / f"{name}.safetensors"
        if converted.is_file():
            return converted
        raise ValueError(f"{name}: not converted yet; run: python weight_convert.py {name}")
    if path.stem in downloads.DOWNLOADS:  # the file that a conversion will make
        raise ValueError(f"{name}: no such file; weight_files/{path.stem}.safetensors is made by: python weight_convert.py {path.stem}")
    known = ", ".join(n for n in downloads.DOWNLOADS if n.startswith("stylegan"))
    raise ValueError(f"{name}: no such file, and no known model; models that can be downloaded: {known}")


def check_target(path, flag, source=None, origin=None):
    """See that a checkpoint may and can be written, before the work for it begins.

    Args:
        flag: the command's flag that names the file, for the messages.
        source: the file that is read.
        origin: where the path is not the user's own choice: what an older file there must name as its source.

    Raises:
        ValueError: it comes with the project, is the source, or is something else than a checkpoint.
        OSError: nothing can be written there.
    """
    path, other = Path(path), f"choose another name with {flag} FILE.safetensors"
    if path.suffix != ".safetensors":
        raise ValueError(f"{flag} {path}: the name of a checkpoint ends in .safetensors")
    if any(same_file(path, bundled) for bundled in PROTECTED):
        raise ValueError(f"{path}: comes with the project and is not replaced; {other}")
    if source is not None and same_file(path, source):
        raise ValueError(f"{path}: is the source itself; {other}")
    if path.exists():
        try:
            header = read_header(path)
        except (ValueError, OSError):
            header = {}
        if not is_ours(header):
            raise ValueError(f"{path}: exists and is no checkpoint of this toolkit; {other}")
        if origin is not None and header.get("source") != origin:
            raise ValueError(f"{path}: exists and was made from {shown(header.get('source'))}; {other}")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=path.name[-200:]):
            os.stat(path)  # a name that is too long
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def same_file(a, b):
    """Whether two paths, which may not exist, are one file."""
    a, b = Path(a), Path(b)
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and os.path.samefile(a, b))
