"""Seconds and peak memory of StyleGAN3, T and R: the fast way of its layers beside the plain one, for a rendering and for a step.

    python -m benchmarks.bench_stylegan3 --resolutions 256 --kinds T R

Random weights of the official sizes. A step is a rendering with the gradient of ws. Each figure comes from a process of its own; its
seconds are of the processor (all threads together), which other work on the machine disturbs least, and of the clock.
`--most` leaves out plain runs that are expected to need more memory. Prints a line for each, and the ratios; writes nothing.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

import stylegan3_layers
from editor import fast_conv, filtered

WAYS, TASKS = ("fast", "plain"), ("rendering", "step")
KEPT = 6  # maps at the high rate that the plain way keeps of each layer for its backward pass, and at least has at a time in a rendering


def config(kind, resolution):
    """The official settings: train.py's of `stylegan3-t` and `stylegan3-r`, halved below 512."""
    base, more = (32768 if resolution >= 512 else 16384), 2 if kind == "R" else 1
    settings = {"conv_kernel": 1, "use_radial_filters": True} if kind == "R" else {}
    return stylegan3_layers.Config3("stylegan3", resolution, channel_base=base * more, channel_max=512 * more, **settings)


def high_rate(kind, resolution):
    """Bytes of each layer's map at the high rate, float32."""
    synthesis = stylegan3_layers.Synthesis3(config(kind, resolution))
    found = []
    for name in synthesis.names[:-1]:
        sampling = getattr(synthesis, name).sampling
        side = (sampling.out_size - 1) * sampling.down + len(sampling.down_filter)
        found.append(4 * sampling.after.channels * side**2)
    return found


def measure(kind, resolution, task, way):
    """{"cpu": s, "clock": s, "peak": MiB} of the better of two runs (of one, where it takes longer than a minute)."""
    torch.manual_seed(0)
    G = stylegan3_layers.Generator3(config(kind, resolution)).freeze()
    if way == "plain":
        filtered.usable = fast_conv.usable = lambda *_: False
    ws, found = torch.randn(1, G.num_ws, 512), []
    while not found or (len(found) < 2 and found[0][1] < 60):
        start = time.process_time(), time.perf_counter()
        if task == "step":
            codes = ws.clone().requires_grad_()
            G.synthesis(codes).square().mean().backward()
        else:
            with torch.no_grad():
                G.synthesis(ws)
        found.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    cpu, clock = map(min, zip(*found, strict=True))
    return {"cpu": cpu, "clock": clock, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=("T", "R"), default=["T", "R"])
    parser.add_argument("--resolutions", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--most", type=float, default=18, help="GiB that a plain run may need (default: 18)")
    parser.add_argument("--one", action="store_true", help="measure the first of each in this process")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(args.kinds[0], args.resolutions[0], args.tasks[0], args.ways[0])))
        return
    for kind, resolution, task in [(k, r, t) for r in args.resolutions for k in args.kinds for t in args.tasks]:
        found = {}
        for way in args.ways:
            name = f"StyleGAN3-{kind}, {resolution}, {task}, {way}"
            maps = high_rate(kind, resolution)
            need = (KEPT * sum(maps) if task == "step" else 3 * max(maps)) / 2**30
            if way == "plain" and need > args.most:
                print(f"{name}: left out, it needs about {need:.0f} GiB", flush=True)
                continue
            words = ["--kinds", kind, "--resolutions", str(resolution), "--tasks", task, "--ways", way, "--one"]
            done = subprocess.run([sys.executable, "-m", "benchmarks.bench_stylegan3", *words], capture_output=True, text=True, check=True)
            found[way] = json.loads(done.stdout)
            print("{}: {cpu:.1f} s of the processor, {clock:.1f} s, peak {peak:.0f} MiB".format(name, **found[way]), flush=True)
        if len(found) == len(WAYS):
            ratios = ", ".join(f"{key} {found['fast'][key] / found['plain'][key]:.2f}" for key in found["fast"])
            print(f"    fast to plain: {ratios}", flush=True)


if __name__ == "__main__":
    main()
