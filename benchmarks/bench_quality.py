"""Loss and PSNR against steps and seconds: our defaults, LatentEditor's recipe, NVIDIA's projector's, on the same images.

    python -m benchmarks.bench_quality --data faces.zip --count 10

Ours starts from the encoder where the project has one for the generator, as encode_image.py does. Held-out images of the
data file, one batch, the bundled generator (or --weight_file), the same distance for all. How many of our steps, and what
share of its time, reach the loss that LatentEditor's recipe has after 1000? What do bfloat16 and compiling cost? Each of our
rows is a run of its own, since the schedule depends on its length. Writes benchmarks/quality.json and quality.png.
"""

import json
import time

import torch

from benchmarks.bench_step import machine
from editor import checkpoints, cli, files, projection, render, session, settings
from training import data

BUDGETS = (50, 75, 100, 150, 250, 500, 1000)
RECIPES = {
    "LatentEditor": {"init": "zeros", "lr": 0.01, "schedule": "constant", "iteration": 1000},
    "NVIDIA projector (W)": {"init": "mean", "space": "w", "lr": 0.1, "schedule": "cosine", "iteration": 1000},
    "ours, bfloat16, 100 steps": {"dtype": torch.bfloat16, "iteration": 100},
    "ours, compiled, 100 steps": {"compile": True, "iteration": 100},
    "ours, bfloat16 compiled, 100 steps": {"dtype": torch.bfloat16, "compile": True, "iteration": 100},
} | {f"ours, {n} steps": {"iteration": n} for n in BUDGETS}


def run(G, distance, targets, options, encoder=None):
    """[(step, seconds, median loss)], then the losses and PSNRs [N] of the result."""
    curve, began = [], time.perf_counter()
    if encoder:
        with torch.no_grad():
            options = options | {"init": encoder(targets)}

    def callback(step, losses):
        curve.append((step, time.perf_counter() - began, losses.median().item()))

    found = projection.project(G, distance, targets, settings.Config(check_every=5, **options), callback)
    with torch.no_grad():
        pictures = G.synthesis(found.ws).clamp(-1, 1)
    return curve, found.loss, render.psnr(pictures, targets)


def plot(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for name, row in results.items():
        steps, seconds, losses = zip(*row["curve"], strict=True)
        axes[0].plot(steps, losses, label=name)
        axes[1].plot(seconds, losses, label=name)
    for axis, label in zip(axes, ("step", "seconds (the whole batch)"), strict=True):
        axis.set(xlabel=label, ylabel="median loss", yscale="log", xscale="log")
    axes[1].legend(fontsize=7)
    with files.atomic(path) as temporary:
        figure.savefig(temporary, dpi=100, bbox_inches="tight")


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--data", required=True, help="folder, .zip or .tar of aligned faces")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--only", nargs="+", help=f"of: {', '.join(RECIPES)}")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of settings.Config to try in our rows")
    parser.add_argument("--out", default="benchmarks/quality.json")
    cli.add_model_flags(parser)
    args = parser.parse_args(argv)
    device = session.device(args.device)
    G = checkpoints.load_generator(args.weight_file, device)
    _, images = data.load(args.data, G.resolution)
    held = images[data.split(len(images))[1]]
    targets = (held[torch.linspace(0, len(held) - 1, args.count).long()].float() / 127.5 - 1).to(device)
    distance = session.load_distance(G.meta["perceptual"] or "vgg16", device)
    changed = {k: type(getattr(settings.Config(), k))(v) for k, v in (s.split("=") for s in args.set)}
    encoder = checkpoints.load_encoder(checkpoints.BUNDLED["encoder"], G, device) if checkpoints.has_encoder(G) else None
    results, bar = {}, None
    for name, options in RECIPES.items():
        if args.only and name not in args.only:
            continue
        ours = name.startswith("ours")
        curve, losses, psnr = run(G, distance, targets, options | (changed if ours else {}), encoder if ours else None)
        results[name] = row = {"steps": options["iteration"], "seconds": round(curve[-1][1], 1), "loss": losses.median().item(),
                               "psnr": psnr.median().item(), "psnrs": psnr.tolist(), "curve": curve}  # fmt: skip
        if name == "LatentEditor":
            bar = losses
        if bar is not None:
            row["as good as LatentEditor"] = (losses <= bar).float().mean().item()
        print(name, json.dumps({k: v for k, v in row.items() if not isinstance(v, list)}), flush=True)
    with files.atomic(args.out) as temporary:
        temporary.write_text(json.dumps({"machine": machine(), "generator": G.meta["hash"], "rows": results}, indent=1), encoding="utf-8")
    plot(results, args.out.removesuffix(".json") + ".png")


if __name__ == "__main__":
    cli.run(main)
