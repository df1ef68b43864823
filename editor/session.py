"""What every command opens first: device, number format, generator, distance."""

import os
import shutil
import sys
from pathlib import Path

from editor import checkpoints, face

DISTANCES = {  # what --perceptual may say
    "bundled": "first stages of EfficientNet-lite0, comes with the project",
    "vgg16": "torchvision's VGG16 (downloaded once), Image2StyleGAN's layers",
    "lpips": "LPIPS on VGG16 (downloaded once)",
    "none": "mean squared error alone",
}


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
        return checkpoints.load_features(checkpoints.BUNDLED["features"]).to(device)
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


def noise_of(path, G, args):
    """The noise maps that were optimised with a latent, list of [1, 1, r, r], said on stderr; None: the generator's own.

    Args:
        path: the latent's file; its noise is NAME.noise.npz beside it.
        args: has `no_saved_noise` and `quiet`.

    Raises:
        ValueError, OSError: the file is not noise of this generator.
    """

    maps = None if args.no_saved_noise else face.load_noise(path, G)
    if maps is not None and not args.quiet:
        print(f"{path}: rendered with the noise saved beside it", file=sys.stderr, flush=True)
    return maps


def device(name):
    """`--device` -> torch.device; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ValueError: the name is unknown, or the device is not there.
    """
    import torch  # here, so that --help answers at once

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: unknown; use auto, cpu, cuda, cuda:N or mps") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: this machine shows {torch.cuda.device_count()} CUDA devices to PyTorch; use --device cpu")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name}: not available here; use --device cpu")
    return chosen


def dtype(name, device, resolution=0):
    """`--precision` -> the torch.dtype of the convolutions; "auto" takes bfloat16 where the hardware multiplies it and it pays:
    CUDA cards from Ampere on, CPUs with AMX, and those with AVX-512's bfloat16 from `resolution` 512 on; else float32.
    """
    import torch

    if name == "auto":
        if device.type == "cpu":
            pays = torch.cpu._is_amx_tile_supported() or (resolution >= 512 and torch.cpu._is_avx512_bf16_supported())
        else:
            pays = device.type == "cuda" and torch.cuda.is_bf16_supported()
        name = "bf16" if pays else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def compiles(choice, device, dtype, resolution, steps):
    """`--compile` -> whether to take torch.compile; "auto" takes it on CUDA, and on a CPU where it wins back the minute that it
    costs (measured with bfloat16 only; benchmarks/README.md), if there is a C++ compiler for it.
    """
    import torch

    long = dtype == torch.bfloat16 and resolution >= 512 and steps >= 500
    compiler = any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl")))
    return choice == "on" or (choice == "auto" and (device.type == "cuda" or (device.type == "cpu" and long and compiler)))
