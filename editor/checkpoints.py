"""Weights: our checkpoint files, the ones that come with the project, and what can be downloaded by name.

A checkpoint is one `.safetensors` file that rebuilds its network: weights, mean latent and noise maps as tensors, and in
the header, as strings, `format`, `kind`, `config` (JSON), `alignment` (JSON), `perceptual`, `source`, `license`.
"""

import dataclasses
import json
from pathlib import Path

from editor import downloads, files

FORMAT = "1"
HERE = Path(__file__).resolve().parent.parent
BUNDLED = {
    "generator": HERE / "weight_files" / "faces128.safetensors",
    "features": HERE / "weight_files" / "features.safetensors",
    "encoder": HERE / "weight_files" / "encoder.safetensors",
    "attributes": HERE / "weight_files" / "attributes.safetensors",
}
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
    role = "_discriminator" if type(network).__name__ == "Discriminator" else ""
    header = {"format": FORMAT, "kind": kind + role, "config": json.dumps(config)}
    header |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in meta.items() if v is not None}
    tensors = {k: (v.half() if half else v.float()).cpu().contiguous() for k, v in network.state_dict().items()}
    with files.atomic(path) as temporary:
        try:
            save_file(tensors, temporary, header)
        except SafetensorError as error:  # a full disk
            raise OSError(str(error)) from None
        _sort_metadata(temporary)
    return files.file_hash(path)


def _sort_metadata(path):
    """safetensors writes metadata in random order; in one order, the same network is the same file and the same hash."""
    with open(path, "r+b") as f:
        length = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length
        f.seek(8)
        f.write(text.ljust(length))


def read_metadata(path=None):
    """What a checkpoint says of itself (default: the bundled generator), without reading its weights.

    Returns:
        dict: `path`, `kind`, `config` (dict), `resolution` (int or None), `alignment` (dict or None), `perceptual`, `source`,
        `license` (str or None) and whatever else the header holds.

    Raises:
        ValueError, OSError: not a checkpoint of ours, or missing.
    """
    from safetensors import SafetensorError, safe_open

    path = resolve(path)
    _refuse_other_formats(path)
    try:
        with safe_open(path, "pt") as f:
            header = f.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable .safetensors file ({error}); is it whole?") from None
    if "format" not in header:
        raise ValueError(f"{path}: no checkpoint of this toolkit; convert it first: python weight_convert.py {path}")
    if header["format"] != FORMAT:
        raise ValueError(f"{path}: checkpoint format {header['format']}; this version reads {FORMAT}: update the toolkit")
    info = {"alignment": None, "perceptual": None, "source": None, "license": None} | header | {"path": path}
    for key in ("config", "alignment"):
        info[key] = json.loads(info[key]) if info[key] else info[key]
    info["resolution"] = info["config"].get("resolution")
    return info


def load_generator(path=None, device="cpu"):
    """A generator, in eval mode and frozen.

    Args:
        path: a checkpoint, a name in DOWNLOADS that was converted before, or None for the bundled generator.

    Returns:
        stylegan_layers.Generator; `G.meta` is `read_metadata(path)`, with `hash` (the file's sha256) added.
    """
    from stylegan_layers import SYNTHESIS, Generator

    return _load(path, SYNTHESIS, Generator, "generator").freeze().to(device)


def load_discriminator(path, device="cpu"):
    """A discriminator, ready to train (images [N, 3, R, R] -> [N, 1])."""
    from stylegan_layers import SYNTHESIS, Discriminator

    return _load(path, [f"{kind}_discriminator" for kind in SYNTHESIS], Discriminator, "discriminator").to(device)


def load_encoder(path, G, device="cpu"):
    """An encoder, frozen: images -> ws of the generator G that it was trained for.

    Raises:
        ValueError, OSError: no encoder, or another generator's.
    """
    from editor.networks import Encoder, EncoderConfig

    info = read_metadata(path)
    if info["kind"] != "encoder":
        raise ValueError(f"{path}: holds a {info['kind']}, not an encoder (training/train_encoder.py makes one)")
    if info.get("generator_hash") != G.meta["hash"]:
        raise ValueError(f"{path}: an encoder of another generator ({str(info.get('generator_hash'))[:12]}, not {G.meta['hash'][:12]})")
    network = Encoder(EncoderConfig(**info["config"]))
    load_strictly(network, info["path"])
    return network.eval().requires_grad_(False).to(device)


def load_attributes(path=None):
    """The attribute network (default: the bundled one), frozen: images [N, 3, 128, 128] in [-1, 1] -> scores of faces."""
    from editor.networks import AttributeConfig, AttributeNet

    info = read_metadata(path or BUNDLED["attributes"])
    if info["kind"] != "attributes":
        raise ValueError(f"{info['path']}: holds a {info['kind']}, not an attribute network (training/train_attributes.py makes one)")
    network = AttributeNet(AttributeConfig(**info["config"]))
    load_strictly(network, info["path"])
    return network.eval().requires_grad_(False)


def has_encoder(G):
    """Whether the project comes with an encoder for this generator."""
    path = BUNDLED["encoder"]
    return path.is_file() and read_metadata(path).get("generator_hash") == G.meta["hash"]


def _load(path, kinds, network_class, role):
    from stylegan_layers import Config

    info = read_metadata(path)
    if info["kind"] not in kinds:
        raise ValueError(f"{info['path']}: holds a {info['kind']}, not a {role} ({', '.join(kinds)})")
    network = network_class(Config(kind=info["kind"].removesuffix("_discriminator"), **info["config"]))
    load_strictly(network, info["path"])
    network.meta = info | {"hash": files.file_hash(info["path"])}
    return network


def load_strictly(network, path):
    """Fill a network from a checkpoint; each tensor must be there, fit, and be finite.

    Raises:
        ValueError: names the tensors that are missing, left over, misshapen or not finite.
    """
    from safetensors.torch import load_file

    tensors, wanted = load_file(path), network.state_dict()
    bad = [f"{k} is missing" for k in wanted.keys() - tensors.keys()] + [f"{k} is left over" for k in tensors.keys() - wanted.keys()]
    for name in sorted(wanted.keys() & tensors.keys()):
        if tensors[name].shape != wanted[name].shape:
            bad.append(f"{name} is {list(tensors[name].shape)}, not {list(wanted[name].shape)}")
        elif not tensors[name].isfinite().all():
            bad.append(f"{name} holds NaN or infinity")
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(f"{path}: does not fit its own description: {'; '.join(sorted(bad)[:5])}{more}")
    network.load_state_dict({k: v.float() for k, v in tensors.items()})


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
    known = ", ".join(n for n in downloads.DOWNLOADS if n.startswith("stylegan"))
    raise ValueError(f"{name}: no such file, and no known model; models that can be downloaded: {known}")


def load_features(path):
    """The bundled feature network from its checkpoint, frozen."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as f:
        header = f.metadata()
    from perceptual_model import FeatureConfig, Features

    network = Features(FeatureConfig(kind=header["kind"], **json.loads(header["config"])))
    network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return network.eval().requires_grad_(False)
