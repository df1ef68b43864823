"""Seconds and peak memory of one optimisation step: ours against a plain one, written here as LatentEditor does it.

    python -m benchmarks.bench_step --kinds stylegan1 --resolutions 1024 --batches 1

Random weights of the official sizes and a VGG16 of random weights at 256: speed does not depend on their values. Each
figure comes from a process of its own, the variants in turn, several rounds; seconds are the least over the rounds.
Writes benchmarks/step.json and step.png.
"""

import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from editor import checkpoints, cli, coarse, files, projection, session, settings, tuning
from perceptual_model import VGG16
from stylegan_layers import Config, Generator

VARIANTS = {
    "plain": "float32, eager; weight gradients computed in vain, the target's features recomputed (LatentEditor)",
    "LatentEditor": "the same with the rest of VGG16 run in vain (its fifth block), noise drawn anew for each layer and step",
    "ours": "projection.project with its defaults on this machine",
    "ours, half the side": "its first steps, --coarse",
    "ours, float32 eager": "the same, --precision fp32 --compile off",
    "ours, bfloat16": "--precision bf16",
    "ours, compiled": "--compile on",
    "ours, bfloat16 compiled": "--precision bf16 --compile on",
    "ours, bfloat16 recorded": "--precision bf16 on a CUDA card: the step as a CUDA graph",
    "ours, low memory": "--low_memory",
    "ours, noise stage": "--noise_iteration: the maps alone, without the perceptual distance",
    "ours, weights": "--tune, a factor for each kernel, the other faces looked at every fourth step (the mean of four)",
    "ours, weights, full": "--tune_form full",
    "ours, weights, low memory": "--tune --low_memory",
}
OPTIONS = {
    "ours": {"compile": "auto"},
    "ours, half the side": {"coarse": 1.0},
    "ours, float32 eager": {"precision": "fp32"},
    "ours, bfloat16": {"precision": "bf16"},
    "ours, compiled": {"precision": "fp32", "compile": True},
    "ours, bfloat16 compiled": {"precision": "bf16", "compile": True},
    "ours, bfloat16 recorded": {"precision": "bf16", "capture": True},
    "ours, low memory": {"low_memory": True},
    "ours, noise stage": {"noise": True},
    "ours, weights": {"precision": "fp32", "form": "kernel"},
    "ours, weights, full": {"precision": "fp32", "form": "full"},
    "ours, weights, low memory": {"precision": "fp32", "form": "kernel", "low_memory": True},
}


def networks(kind, resolution, device):
    """The official sizes: 512 channels up to 32x32 (StyleGAN1) or 64x64 (StyleGAN2), then halved."""
    torch.manual_seed(0)
    G = Generator(Config(kind, resolution, 16384 if kind == "stylegan1" else 32768, 512, 8)).to(device)
    for layer in G.synthesis.layers():  # without noise StyleGAN1 normalises maps that are flat, and its gradients are not finite
        layer.noise_strength.data.fill_(0.1)
    return G, VGG16().eval().requires_grad_(False).to(device)


def plain_layer1(layer, x, w):
    """StyleGAN1's layer, an operation a line, everything derived anew."""
    if layer.weight is not None:
        weight = layer.weight * layer.weight_gain
        if layer.up and layer.resolution >= 128:
            wide = F.pad(weight.transpose(0, 1), (1, 1, 1, 1))
            wide = wide[:, :, 1:, 1:] + wide[:, :, :-1, 1:] + wide[:, :, 1:, :-1] + wide[:, :, :-1, :-1]
            x = F.conv_transpose2d(x, wide, stride=2, padding=1)
        else:
            x = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest") if layer.up else x, weight, padding=1)
        if layer.up:
            kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], device=x.device) / 16
            x = F.conv2d(x, kernel.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])
    x = x + layer.noise_strength.view(1, -1, 1, 1) * layer.noise_const
    x = F.leaky_relu(x + layer.bias.view(1, -1, 1, 1), 0.2)
    x = F.instance_norm(x)
    style = F.linear(w, layer.affine.weight * layer.affine.weight_gain, layer.affine.bias).view(len(w), 2, -1, 1, 1)
    return x * (style[:, 0] + 1) + style[:, 1]


def plain_layer2(layer, x, w):
    """StyleGAN2's layer with modulated weights for each image and a grouped convolution."""
    n, c, h, width = x.shape
    style = F.linear(w, layer.affine.weight * layer.affine.weight_gain, layer.affine.bias)
    weight = layer.weight * layer.weight_gain * style[:, None, :, None, None]
    weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x, out = x.reshape(1, n * c, h, width), weight.shape[1]
    if layer.up:
        x = F.conv_transpose2d(x, weight.transpose(1, 2).reshape(n * c, out, 3, 3), stride=2, groups=n)
        x = x.view(n, out, 2 * h + 1, 2 * width + 1)
        k = torch.tensor([1.0, 3, 3, 1], device=x.device) / 4
        x = F.conv2d(x, k.outer(k).expand(out, 1, 4, 4), padding=1, groups=out)
    else:
        x = F.conv2d(x, weight.reshape(n * out, c, 3, 3), padding=1, groups=n).view(n, out, h, width)
    x = x + layer.noise_strength * layer.noise_const
    return F.leaky_relu(x + layer.bias.view(1, -1, 1, 1), 0.2) * 2**0.5


def plain_synthesis(G, ws):
    """ws [N, L, 512] -> images, by the plain layers."""
    S, x, image, i = G.synthesis, G.synthesis.b4.const.expand(len(ws), -1, -1, -1), None, 0
    for r in G.config.resolutions:
        block = getattr(S, f"b{r}")
        for name in ("conv0", "conv1"):
            if hasattr(block, name):
                x = (plain_layer1 if G.kind == "stylegan1" else plain_layer2)(getattr(block, name), x, ws[:, i])
                i += 1
        if G.kind == "stylegan2":
            rgb = block.torgb
            style = F.linear(ws[:, i], rgb.affine.weight * rgb.affine.weight_gain, rgb.affine.bias)
            y = F.conv2d(x * style[:, :, None, None], rgb.weight * rgb.weight_gain, rgb.bias)
            if image is not None:
                k = torch.tensor([1.0, 3, 3, 1], device=x.device) / 4
                image = F.conv_transpose2d(image, k.outer(k).expand(3, 1, 4, 4), stride=2, padding=1, groups=3)
            image = y if image is None else image + y
    return image if G.kind == "stylegan2" else F.conv2d(x, S.torgb.weight * S.torgb.weight_gain, S.torgb.bias)


def plain_steps(G, distance, targets, count, draw=False, rest=None):
    """Yield the seconds of each step. draw: new noise in each. rest: what is done with the deepest features, in vain."""
    ws = torch.zeros(len(targets), G.num_ws, G.config.w_dim, device=targets.device, requires_grad=True)
    optimiser = torch.optim.Adam([ws], lr=0.01)
    for _ in range(count):
        began = time.perf_counter()
        for layer in G.synthesis.layers() if draw else ():
            layer.noise_const = torch.randn_like(layer.noise_const)
        image = plain_synthesis(G, ws)
        loss = F.mse_loss(image, targets)
        ours, theirs = distance.features(image), distance.features(targets)
        for a, b in zip(ours, theirs, strict=True):
            loss = loss + F.mse_loss(a, b)
        if rest:
            rest(ours[-1]), rest(theirs[-1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()
        yield time.perf_counter() - began


def fifth_block():
    """What follows conv4_2's ReLU in VGG16."""
    from torch import nn

    layers = []
    for width in (1, 3):  # conv4_3, then conv5_1 to conv5_3, a pooling after either
        layers += [layer for _ in range(width) for layer in (nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(inplace=True))] + [nn.MaxPool2d(2)]
    return nn.Sequential(*layers).requires_grad_(False)


def our_steps(G, distance, targets, count, options):
    """The seconds of each step of `project`."""
    import inspect

    coarse.fit = lambda G: coarse.Fitted(torch.zeros(3, G.config.channels(G.resolution // 2)), torch.zeros(3), 0.0, 0.0)
    known = inspect.signature(settings.Config).parameters.keys() - {"noise"}
    precision = options.get("precision", "auto")
    chosen = {"dtype": session.dtype(precision, targets.device, G.resolution)} | {k: v for k, v in options.items() if k in known}
    if chosen.get("compile") == "auto":  # as a run of encode_image.py's usual length chooses
        chosen["compile"] = session.compiles("auto", targets.device, chosen["dtype"], G.resolution, 1000)
    times = [time.perf_counter()]

    def callback(step, losses):
        losses.sum().item()
        times.append(time.perf_counter())

    if not options.get("low_memory"):  # as every script does
        cli.keep_buffers()
    if "form" in options:  # the first step is slower; a step with a look at another face, and three without
        ws, tuning_config = G.w_avg.expand(1, G.num_ws, -1), settings.Tuning(steps=5, form=options["form"])
        config = settings.Config(check_every=1, **chosen)
        tuning.tune(G.freeze(), distance, projection.Goal(targets), ws, config, tuning_config, callback=callback)
        return [times[1] - times[0], (times[5] - times[1]) / 4]
    coarse.FEWEST, coarse.LEAST = 1, -100.0  # random weights: what a read-out guesses does not matter, its seconds do
    stages = {"iteration": 0, "noise_iteration": count} if options.get("noise") else {"iteration": count}
    projection.project(G.freeze(), distance, targets, settings.Config(**stages, check_every=1, **chosen), callback)
    return [b - a for a, b in zip(times, times[1:], strict=False)]


def measure(kind, resolution, batch, variant, count, device):
    """Seconds (least after the first) and peak memory (MiB above the networks' own) of one variant, in this process."""
    device = session.device(device)
    G, distance = networks(kind, resolution, device)
    targets = torch.rand(batch, 3, resolution, resolution, device=device) * 2 - 1

    def peak():
        return (
            torch.cuda.max_memory_allocated() / 2**20
            if device.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        )

    if variant == "LatentEditor":
        steps = plain_steps(G, distance, targets, count, True, fifth_block().to(device))
    elif variant == "plain":
        steps = plain_steps(G, distance, targets, count)
    else:
        steps = our_steps(G, distance, targets, count, OPTIONS[variant])
    steps = list(steps)
    return {"seconds": min(steps[1:] or steps), "first": steps[0], "peak MiB": round(peak())}


def plot(rows, path):
    """Bars: seconds of each variant, for each size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    keys = list(dict.fromkeys((r["kind"], r["resolution"], r["batch"]) for r in rows))
    variants = [v for v in VARIANTS if any(r["variant"] == v for r in rows)]
    figure, axis = plt.subplots(figsize=(2 + 1.5 * len(keys), 4))
    for j, v in enumerate(variants):
        values = [next((r["seconds"] for r in rows if (r["kind"], r["resolution"], r["batch"], r["variant"]) == (*k, v)), 0) for k in keys]
        axis.bar([i + j * 0.8 / len(variants) for i in range(len(keys))], values, 0.8 / len(variants), label=v)
    axis.set_xticks(range(len(keys)), [f"{k}\n{r}, batch {b}" for k, r, b in keys])
    axis.set(ylabel="seconds a step", yscale="log")
    axis.legend(fontsize=7)
    with files.atomic(path) as temporary:
        figure.savefig(temporary, dpi=100, bbox_inches="tight")


def machine():
    """What the figures were taken on."""
    names = (
        [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")] if sys.platform == "linux" else []
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": names[0] if names else "",
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--kinds", nargs="+", default=["stylegan1", "stylegan2"])
    parser.add_argument("--resolutions", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--variants", nargs="+", default=["plain", "ours"], choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="benchmarks/step.json")
    parser.add_argument("--one", help="(inside) measure one variant and print JSON")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(args.kinds[0], args.resolutions[0], args.batches[0], args.one, args.steps, args.device)))
        return 0
    rows = []
    for kind, resolution, batch in [(k, r, b) for k in args.kinds for r in args.resolutions for b in args.batches]:
        found = {}
        for v in args.variants * args.rounds:
            command = [sys.executable, "-m", "benchmarks.bench_step", "--one", v, "--kinds", kind, "--resolutions", str(resolution),
                       "--batches", str(batch), "--steps", str(args.steps), "--device", args.device]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, cwd=checkpoints.HERE)
            if done.returncode:
                print(f"{v}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            row = json.loads(done.stdout)
            best = found.setdefault(v, row)
            best["seconds"] = min(best["seconds"], row["seconds"])
        for v, row in found.items():
            rows.append({"kind": kind, "resolution": resolution, "batch": batch, "variant": v} | row)
            if "plain" in found:
                rows[-1] |= {
                    "times faster": round(found["plain"]["seconds"] / row["seconds"], 2),
                    "memory": round(row["peak MiB"] / found["plain"]["peak MiB"], 2),
                }
            print(json.dumps(rows[-1]), flush=True)
    with files.atomic(args.out) as temporary:
        temporary.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1), encoding="utf-8")
    plot(rows, args.out.removesuffix(".json") + ".png")


if __name__ == "__main__":
    cli.run(main)
