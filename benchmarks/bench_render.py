"""Seconds of a morph: image_morphing.py against a plain loop, one frame after the other.

    python -m benchmarks.bench_render --resolutions 128 1024 --frames 24

A StyleGAN1 of random weights and the official size at each resolution; frames are written as PNG by both. The plain loop renders
with all weights' gains applied anew for each frame, float32, and writes each frame before it renders the next.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.bench_step import machine, networks, plain_synthesis
from editor import checkpoints, cli, face, files


def plain_loop(G, a, b, frames, folder):
    for i in range(frames):
        t = i / (frames - 1)
        with torch.no_grad():
            image = plain_synthesis(G, (1 - t) * a + t * b)
        pixels = ((image[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")


def ours(weights, folder, frames):
    """Seconds of rendering alone: a long run less a short one, so that starting Python and loading weights count for nothing."""
    seconds = []
    for count in (2, frames + 2):
        began = time.perf_counter()
        subprocess.run([sys.executable, "image_morphing.py", "--weight_file", weights, "--latent_file1", folder / "a.npy",
                        "--latent_file2", folder / "b.npy", "--frames", str(count), "--out_dir", folder / "ours", "--quiet"],
                       check=True, cwd=checkpoints.HERE)  # fmt: skip
        seconds.append(time.perf_counter() - began)
    return seconds[1] - seconds[0]


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--resolutions", nargs="+", type=int, default=[128, 1024])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--out", default="benchmarks/render.json")
    args = parser.parse_args(argv)
    rows = []
    for resolution in args.resolutions:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            G, _ = networks("stylegan1", resolution, torch.device("cpu"))
            checkpoints.save(folder / "g.safetensors", G)
            a, b = torch.randn(2, 1, G.num_ws, 512, generator=torch.Generator().manual_seed(0)).unbind(0)
            face.write(folder / "a.npy", a)
            face.write(folder / "b.npy", b)
            began = time.perf_counter()
            plain_loop(G, a, b, args.frames, folder)
            plain = time.perf_counter() - began
            mine = ours(folder / "g.safetensors", folder, args.frames)
        row = {
            "resolution": resolution,
            "frames": args.frames,
            "plain": round(plain, 2),
            "ours": round(mine, 2),
            "times faster": round(plain / mine, 2),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    with files.atomic(args.out) as temporary:
        temporary.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
