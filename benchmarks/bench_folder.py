"""Does a folder of a thousand images cost a thousand times one image, and no more memory?

    python -m benchmarks.bench_folder --counts 10 100 1000

encode_image.py on folders of copies of one sample of the bundled generator, --iteration steps each: seconds an image
(less the start of Python and the loading of weights, which the first, smallest folder tells) and peak memory. Writes
benchmarks/folder.json.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.bench_step import machine
from editor import checkpoints, cli, files, images


def encode(folder, iteration):
    """(seconds, peak MiB) of encode_image.py on a folder of images."""
    command = [sys.executable, "encode_image.py", "--src_dir", folder / "in", "--latent_dir", folder / "w", "--save_dir", folder / "out",
               "--iteration", str(iteration), "--batch_size", "auto", "--quiet"]  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=checkpoints.HERE)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"encode_image.py ended with exit code {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--counts", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--iteration", type=int, default=1)
    parser.add_argument("--out", default="benchmarks/folder.json")
    args = parser.parse_args(argv)
    G, rows = checkpoints.load_generator(), []
    with torch.no_grad():
        sample = images.to_uint8(G(torch.randn(1, G.config.z_dim, generator=torch.Generator().manual_seed(0)), 0.7))[0]
    for count in [1, *args.counts]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "in").mkdir()
            images.save(folder / "in" / "0000.png", sample)
            for i in range(1, count):
                shutil.copy(folder / "in" / "0000.png", folder / "in" / f"{i:04}.png")
            seconds, peak = encode(folder, args.iteration)
        start = rows[0]["seconds"] if rows else 0.0
        rows.append({"images": count, "seconds": round(seconds, 1), "seconds an image": round((seconds - start) / max(1, count - 1), 3),
                     "peak MiB": round(peak)})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    with files.atomic(args.out) as temporary:
        temporary.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
