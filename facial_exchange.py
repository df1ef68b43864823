"""Exchange expressions: between two photographs, between two latents, or one learnt from a person's two pictures.

    python facial_exchange.py --src_im1 expression_01.png --src_im2 appearance_01.png

finds a latent for each (Unconstrained Facial Expression Transfer, Yang & Lim 2019) and swaps their --layers: exchange2 is the
second face with the first one's expression, exchange1 the other way round. Latents that are there already:

    python facial_exchange.py --latent_file1 latent_W/expression_01.npy --latent_file2 latent_W/appearance_01.npy

Arithmetic (Image2StyleGAN): add what a smile changed in one person to another, target + strength * (expression - neutral):

    python facial_exchange.py --target me_01.npy --neutral you_01.npy --expression you_smiling_01.npy

Two latents found apart also differ in much that their own pictures hardly show and another face does. --change mean adds the
mean over the layers to all of them, in which that cancels: weaker, so give --strength 2 or 3. The mean of several people is
cleaner still: --neutral A.npy B.npy --expression A_smiling.npy B_smiling.npy.

Results go to --out_dir: exchange1.png and .npy, exchange2.png and .npy (arithmetic: exchange1).
"""

import time
from pathlib import Path

from editor import checkpoints, cli, face, images, projection, render, session, settings

MODES = {  # the flags that must come together
    "images": ("src_im1", "src_im2"),
    "latents": ("latent_file1", "latent_file2"),
    "arithmetic": ("target", "neutral", "expression"),
}
CHANGES = {"layers": "each layer by its own difference (default)", "mean": "all by the mean over the layers"}


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("--src_im1", metavar="IMAGE", help="aligned image that gives the expression: a name in --src_dir, or a path")
    p.add_argument("--src_im2", metavar="IMAGE", help="aligned image that gives the appearance")
    p.add_argument("--src_dir", default="source_image/", help="folder of aligned images (default: %(default)s)")
    p.add_argument("--iteration", type=int, default=1000, help="steps of the optimiser, for images (default: %(default)s)")
    p.add_argument(
        "--lambda_style", type=float, default=1.0, help="weight of the Gram loss on the expression's latent (default: %(default)s)"
    )
    p.add_argument("--lambda_content", type=float, default=1.0, help="weight of its content loss (default: %(default)s; 0: Gram alone)")
    p.add_argument("--perceptual", choices=session.DISTANCES, help="distance, for images (default: what the checkpoint names)")
    p.add_argument("--latent_file1", metavar="FILE", help="latent that gives the expression")
    p.add_argument("--latent_file2", metavar="FILE", help="latent that gives the appearance")
    p.add_argument("--target", metavar="FILE", help="latent to change")
    p.add_argument("--neutral", metavar="FILE", nargs="+", help="latents of people without the expression")
    p.add_argument("--expression", metavar="FILE", nargs="+", help="latents of the same people with it, in the same order")
    p.add_argument(
        "--layers", help="layers that carry the expression, such as 3-4 (default: StyleGAN1 3-4, StyleGAN2 2-3; arithmetic: all)"
    )
    p.add_argument("--strength", type=float, default=1.0, help="how much of the expression: 1 all of it, less or more (default: 1)")
    p.add_argument("--change", default="layers", choices=CHANGES, help="arithmetic: " + "; ".join(f"{k}: {v}" for k, v in CHANGES.items()))
    p.add_argument(
        "--threshold", type=float, default=0.0, help="arithmetic: leave out channels that the expression changes less (default: 0)"
    )
    p.add_argument("--out_dir", default="save_image/exchange/", help="folder of the results (default: %(default)s)")
    p.add_argument("--force", action="store_true", help="take latents that another generator of this shape made")
    cli.add_noise_flag(p)
    cli.add_model_flags(p)
    return p


def default_layers(G):
    """The finer 8x8 and the coarser 16x16 convolution: LatentEditor's 3-4, in StyleGAN2's counting 2-3.

    They are the same parts of a face whatever the generator's size. Measured on the bundled generator, 200 pairs of random
    faces: they carry 33 % of a difference in smile, of turn 53 %, gender 38 %, age 30 %, glasses 33 %; the layer before
    them adds 30 % of the smile and 17 to 25 % of all else, the layer after them 8 %.
    """
    first = 3 if G.kind == "stylegan1" else 2  # StyleGAN2 has one layer at 4x4, not two
    return [layer for layer in (first, first + 1) if layer < G.num_ws]


def mode_of(args):
    """Which of MODES the flags ask for.

    Raises:
        ValueError: none, several, or one of its flags is missing.
    """
    given = {mode: [n for n in names if getattr(args, n)] for mode, names in MODES.items()}
    chosen = [mode for mode, names in given.items() if names]
    ways = "; ".join(" ".join(f"--{n}" for n in names) for names in MODES.values())
    if len(chosen) != 1:
        raise ValueError(f"give one of: {ways}")
    missing = [f"--{n}" for n in MODES[chosen[0]] if n not in given[chosen[0]]]
    if missing:
        raise ValueError(f"--{given[chosen[0]][0]} needs {' and '.join(missing)} too; or give another of: {ways}")
    return chosen[0]


def transferred(target, neutral, expression, strength=1.0, layers=None, threshold=0.0, change="layers"):
    """target + strength * (expression - neutral), latents [1, L, 512] (Image2StyleGAN, section 4.3).

    Args:
        neutral, expression: [K, L, 512] each, K people; their mean difference is added.
        layers: where it is added (default: all).
        threshold: a channel is left out where the change, as a length over these layers, is smaller.
        change: a key of CHANGES. "mean" is ours: W+ has far more directions than a picture shows, and embeddings wander along
            them layer by layer; what all layers agree on is what the picture did. Measured with one woman's neutral and smiling
            photograph on 100 random faces, at strength 2: smile +0.58 standard deviations (96 % of the faces), the others 0.36 or
            less; "layers" at strength 1: smile +0.51 (81 %), gender +0.98, age -0.76.

    Returns:
        The latent [1, L, 512], and how many of the 512 channels were changed.
    """
    layers = list(range(target.shape[1])) if layers is None else layers
    added = (expression - neutral).mean(0, keepdim=True)[:, layers]  # [1, layers, 512]
    if change == "mean":
        added = added.mean(1, keepdim=True).expand_as(added)
    keep = added.norm(dim=1, keepdim=True) >= threshold  # [1, 1, 512]
    result = target.clone()
    result[:, layers] += strength * added * keep
    return result, int(keep.sum())


def embedded(args, G, device, dtype):
    """Two photographs -> the latents of expression and appearance, [1, L, 512] each, and the loss of each.

    Each has its own loss and its own optimiser: the appearance the content loss, the expression the Gram loss of the deepest
    features as well. The paper's expression has the Gram loss alone, which leaves open where the face is and who it is.
    """
    import perceptual_model

    x, y = (images.load(images.find(name, args.src_dir), G.resolution).to(device) for name in (args.src_im1, args.src_im2))
    content = session.load_distance(args.perceptual, device)
    if content is None:
        raise ValueError("--perceptual none has no features for the Gram loss; use bundled, vgg16 or lpips")
    both = perceptual_model.ContentAndStyle(content, args.lambda_content, args.lambda_style)
    found = []
    for image, distance, mse in ((x, both, args.lambda_content), (y, content, 1.0)):
        config = settings.Config(iteration=args.iteration, lambda_mse=mse, seed=args.seed, dtype=dtype)
        with cli.progress(args.iteration, args.quiet) as show:
            found.append(projection.project(G, distance, image, config, show))
        if found[-1].stopped == "Ctrl-C":
            raise KeyboardInterrupt  # half of a pair is no exchange
    return [f.ws.cpu() for f in found], [round(float(f.loss[0]), 5) for f in found]


def exchanged(args, G, mode, layers, device, dtype):
    """The results of a mode: {name: (latent [1, L, 512], noise)}, and what is to be noted of them."""
    import torch

    names = MODES[mode]
    said = {name: getattr(args, name) for name in names} | {"mode": mode, "layers": layers, "strength": args.strength}
    noises = [None, None]
    if mode == "images":
        (expression, appearance), losses = embedded(args, G, device, dtype)
        said |= {"losses": losses, "iteration": args.iteration, "perceptual": args.perceptual, "lambda_style": args.lambda_style,
                 "lambda_content": args.lambda_content, "seed": args.seed}  # fmt: skip
    else:

        def one(path):
            return face.load_one(path, G, args.force)

        if mode == "arithmetic":
            if len(args.neutral) != len(args.expression):
                raise ValueError(
                    f"--neutral has {len(args.neutral)} latents, --expression {len(args.expression)}; give each person in both"
                )
            people = (torch.cat([one(path) for path in paths]) for paths in (args.neutral, args.expression))
            ws, channels = transferred(one(args.target), *people, args.strength, layers, args.threshold, args.change)
            return {"exchange1": (ws, session.noise_of(args.target, G, args))}, said | {
                "threshold": args.threshold,
                "change": args.change,
                "channels": channels,
            }
        noises = [session.noise_of(path, G, args) for path in (args.latent_file1, args.latent_file2)]
        expression, appearance = one(args.latent_file1), one(args.latent_file2)
    return {
        "exchange1": (face.mix(expression, appearance, layers, args.strength), noises[0]),
        "exchange2": (face.mix(appearance, expression, layers, args.strength), noises[1]),
    }, said


def main(argv):
    args = flags().parse_args(argv)
    mode = mode_of(args)
    if args.threshold < 0:
        raise ValueError(f"--threshold {args.threshold}: 0 or more")
    if mode != "arithmetic" and (args.threshold or args.change != "layers"):
        raise ValueError("--threshold and --change go with --target, --neutral and --expression")

    began = time.time()
    device = session.device(args.device)
    G = checkpoints.load_generator(args.weight_file, device)
    args.perceptual = args.perceptual or G.meta["perceptual"] or "vgg16"
    layers = face.layer_range(args.layers, G.num_ws) if args.layers else None if mode == "arithmetic" else default_layers(G)
    dtype = session.dtype(args.precision, device, G.resolution)
    results, said = exchanged(args, G, mode, layers, device, dtype)
    said |= {
        "made_by": "facial_exchange.py",
        "generator": str(G.meta["path"]),
        "generator_hash": G.meta["hash"],
        "toolkit": cli.__version__,
    }
    for name, (ws, noise) in results.items():
        images.save(Path(args.out_dir) / f"{name}.png", next(render.pictures(G, ws, noise or "const", dtype=dtype)))
        face.save(Path(args.out_dir) / f"{name}.npy", ws, said | {"seconds": round(time.time() - began, 1)})
        if not args.quiet:
            print(Path(args.out_dir) / f"{name}.png")
    if mode == "arithmetic" and not said["channels"]:
        cli.warn(f"--threshold {args.threshold}: no channel changes that much; the result is the target itself")


if __name__ == "__main__":
    cli.run(main)
