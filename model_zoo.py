"""Weights: our checkpoint files, the ones that come with the project, and what can be downloaded by name.

A checkpoint is one `.safetensors` file that rebuilds its network: weights, mean latent and noise maps as tensors, and in
the header, as strings, `format`, `kind`, `config` (JSON), `alignment` (JSON), `perceptual`, `source`, `license`.
"""

import dataclasses
import functools
import hashlib
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

import files

FORMAT = "1"
HERE = Path(__file__).resolve().parent
BUNDLED = {
    "generator": HERE / "weight_files" / "faces128.safetensors",
    "features": HERE / "weight_files" / "features.safetensors",
    "encoder": HERE / "weight_files" / "encoder.safetensors",
    "attributes": HERE / "weight_files" / "attributes.safetensors",
}
DISTANCES = {  # what --perceptual may say
    "bundled": "first stages of EfficientNet-lite0, comes with the project",
    "vgg16": "torchvision's VGG16 (downloaded once), Image2StyleGAN's layers",
    "lpips": "LPIPS on VGG16 (downloaded once)",
    "none": "mean squared error alone",
}
FFHQ_ALIGNMENT = {"scale": 1.0, "em_scale": 0.1}

NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files"
INTERFACEGAN = "https://raw.githubusercontent.com/genforce/interfacegan/master/boundaries"
NVIDIA = "NVIDIA Source Code License-NC (non-commercial)"


@dataclasses.dataclass(frozen=True)
class Download:
    """A file that can be had by name. `sha256` None: its publisher gives none and we have not seen the file."""

    url: str
    license: str
    what: str
    sha256: str | None = None


def _boundary(name, sha256):
    return Download(f"{INTERFACEGAN}/stylegan_ffhq_{name}_boundary.npy", "MIT", f"InterFaceGAN boundary {name}, StyleGAN1 FFHQ", sha256)


DOWNLOADS = {
    "stylegan1-ffhq-1024": Download(
        "https://drive.google.com/uc?id=1MEGjdvVpUsu1jB4zrXZN7Y4kBBOzizDQ", "CC BY-NC 4.0", "StyleGAN1, FFHQ, 1024x1024, about 300 MB"
    ),
    "stylegan2-ffhq-1024": Download(f"{NGC}/stylegan2-ffhq-1024x1024.pkl", NVIDIA, "StyleGAN2, FFHQ, 1024x1024, about 360 MB"),
    "stylegan2-ffhq-512": Download(f"{NGC}/stylegan2-ffhq-512x512.pkl", NVIDIA, "StyleGAN2, FFHQ, 512x512, about 350 MB"),
    "stylegan2-ffhq-256": Download(f"{NGC}/stylegan2-ffhq-256x256.pkl", NVIDIA, "StyleGAN2, FFHQ, 256x256, about 270 MB"),
    "landmarks": Download(
        "https://github.com/davisking/dlib-models/raw/master/shape_predictor_68_face_landmarks.dat.bz2",
        "iBUG 300-W: non-commercial",
        "dlib's 68 landmarks, about 64 MB, bzip2",
    ),
    "age": _boundary("age_w", "f92c72c6621fd9630a2100168462a15a531bee410099847fdcdf844159eb7e30"),
    "eyeglasses": _boundary("eyeglasses_w", "ac826235cc7347eb1f57ba9e6e2904e52f34a6052a4db03dc693648a4f231cc5"),
    "gender": _boundary("gender_w", "077953b129bbb52605b3391d4824938c9ded35337f60d282478c72dcc3c5c28f"),
    "pose": _boundary("pose_w", "688585cf4d2bc3eead7bc18b4cf6e0985a0beb8a5ed46f25a08b2925d33efc1a"),
    "smile": _boundary("smile_w", "5a729c200c2c933806116cb77624ccedbd6fce21aa98fca8be49aeaa35caa1c7"),
}


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
    return file_hash(path)


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
    from perceptual_model import Encoder, EncoderConfig

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
    from perceptual_model import AttributeConfig, AttributeNet

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
    network.meta = info | {"hash": file_hash(info["path"])}
    return network


def load_distance(name, device="cpu"):
    """A key of DISTANCES -> the perceptual distance, frozen; None for "none".

    Raises:
        ValueError: an unknown name.
        OSError: VGG16 could not be downloaded.
    """
    import perceptual_model

    if name not in DISTANCES:
        raise ValueError(f"--perceptual {name}: use {', '.join(DISTANCES)}")
    if name == "none":
        return None
    if name == "bundled":
        return perceptual_model.load_features(BUNDLED["features"]).to(device)
    return _vgg(perceptual_model.LPIPS() if name == "lpips" else perceptual_model.VGG16(), name).to(device)


def _vgg(distance, name):
    import torch
    import torchvision

    try:
        weights = torchvision.models.VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True)
    except OSError as error:
        raise OSError(f"--perceptual {name}: VGG16 could not be downloaded ({error}); use --perceptual bundled") from None
    distance.load_torchvision(weights)
    if name == "lpips":
        import lpips

        distance.load_linear(torch.load(Path(lpips.__file__).parent / "weights/v0.1/vgg.pth", weights_only=True, map_location="cpu"))
    return distance


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


@functools.lru_cache(maxsize=16)
def _hash(path, size, modified):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def file_hash(path):
    """sha256 of a file, as hex; remembered while the file does not change."""
    stat = os.stat(path)
    return _hash(str(path), stat.st_size, stat.st_mtime_ns)


# ---------------------------------------------------------------------------------------------------------------------
# Names and downloads


def cache_folder():
    """Where downloads go: $STYLEGAN_EDITOR_CACHE, else ~/.cache/stylegan_editor."""
    return Path(os.environ.get("STYLEGAN_EDITOR_CACHE") or Path.home() / ".cache" / "stylegan_editor")


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
    if str(name) in DOWNLOADS:
        converted = HERE / "weight_files" / f"{name}.safetensors"
        if converted.is_file():
            return converted
        raise ValueError(f"{name}: not converted yet; run: python weight_convert.py {name}")
    known = ", ".join(n for n in DOWNLOADS if n.startswith("stylegan"))
    raise ValueError(f"{name}: no such file, and no known model; models that can be downloaded: {known}")


def fetch(name, report=None):
    """Download a file of DOWNLOADS once, into the cache; goes on where a broken download stopped.

    Args:
        name: a key of DOWNLOADS.
        report: called with (bytes so far, bytes in all or None) now and then.

    Returns:
        The file's path.

    Raises:
        ValueError: unknown name, or the file that came is not the published one (sha256), or a web page.
        OSError: off line or refused; says where to put the file by hand.
    """
    if name not in DOWNLOADS:
        raise ValueError(f"{name}: unknown; known are {', '.join(DOWNLOADS)}")
    item = DOWNLOADS[name]
    suffix = ".pkl" if name.startswith("stylegan") else Path(item.url).suffix
    target = cache_folder() / f"{name}{suffix}"
    if target.is_file():
        return target
    partial = target.with_name(target.name + ".part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        _download(item.url, partial, report)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise OSError(f"{name}: download failed ({reason}); try again, or fetch {item.url} yourself and save it as {target}") from None
    with open(partial, "rb") as f:
        start = f.read(256).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        partial.unlink()
        raise ValueError(f"{name}: {item.url} answered with a web page; open it in a browser and save the file as {target}")
    if item.sha256 and file_hash(partial) != item.sha256:
        partial.unlink()
        raise ValueError(f"{name}: what {item.url} sent is not the published file (sha256 differs); it was removed, try again")
    os.replace(partial, target)
    return target


def _download(url, partial, report):
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing is left to send
            return
        raise
    with response:
        resumed = response.status == 206
        done = done if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with open(partial, "ab" if resumed else "wb") as f:
            while block := response.read(1 << 20):
                f.write(block)
                done += len(block)
                if report:
                    report(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection broke after {done} of {total} bytes")
