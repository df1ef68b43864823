"""Exchange expressions: between two photographs, between two faces, or one learnt from a person's two pictures.

    python facial_exchange.py --src_im1 expression_01.png --src_im2 appearance_01.png

finds a latent for each (Unconstrained Facial Expression Transfer, Yang & Lim 2019) and swaps their --layers: ..._exchange2 is the
second face with the first one's expression, ..._exchange1 the other way round. Faces that are there already, with their noise maps:

    python facial_exchange.py --latent_file1 latent_W/expression_01.npy --latent_file2 latent_W/appearance_01.npy

Arithmetic (Image2StyleGAN): add what a smile changed in one person to another, target + strength * (expression - neutral):

    python facial_exchange.py --target latent_W/me_01.npy --neutral latent_W/you_01.npy --expression latent_W/you_smiling_01.npy

Two latents found apart also differ in much that their own pictures hardly show and another face does. --change mean adds the
mean over the layers to all of them, in which that cancels: weaker, so give --strength 2 or 3. The mean of several people is
cleaner still: --neutral A.npy B.npy --expression A_smiling.npy B_smiling.npy. The target keeps its own noise maps.

Results go to --out_dir: A_x_B_exchange1 and A_x_B_exchange2, each .png and .npy; of arithmetic TARGET_x_EXPRESSION.
"""

import hashlib
import time
from pathlib import Path

from editor import cli, files, settings

MODES = {  # the flags that must come together
    "images": ("src_im1", "src_im2"),
    "latents": ("latent_file1", "latent_file2"),
    "arithmetic": ("target", "neutral", "expression"),
}
ONLY = {  # flags that act in some modes only
    "images": ("src_dir", "iteration", "lambda_style", "lambda_content", "perceptual", "compile", "low_memory"),
    "latents": ("force", "no_saved_noise"),
    "arithmetic": ("threshold", "change", "force", "no_saved_noise"),
}
CHANGES = {"layers": "each layer by its own difference (default)", "mean": "all by the mean over the layers"}


def flags():
    weight = cli.number(float, 0)
    p = cli.Parser(__doc__)
    p.add_argument("--src_im1", metavar="IMAGE", help="aligned image that gives the expression: a name in --src_dir, or a path")
    p.add_argument("--src_im2", metavar="IMAGE", help="aligned image that gives the appearance")
    p.add_argument("--src_dir", metavar="DIR", help="folder of aligned images (default: aligned_images/, else source_image/)")
    cli.add_embedding_flags(p, settings.Config.iteration)
    p.add_argument("--lambda_style", type=weight, default=1.0, help="weight of the expression's Gram loss (default: %(default)s)")
    p.add_argument("--lambda_content", type=weight, default=1.0, help="weight of its content loss (default: %(default)s; 0: Gram alone)")
    p.add_argument("--latent_file1", metavar="FILE", help="latent that gives the expression")
    p.add_argument("--latent_file2", metavar="FILE", help="latent that gives the appearance")
    p.add_argument("--target", metavar="FILE", help="latent to change")
    p.add_argument("--neutral", metavar="FILE", nargs="+", help="latents of people without the expression, or a folder of them")
    p.add_argument("--expression", metavar="FILE", nargs="+", help="latents of the same people with it, in the same order")
    p.add_argument(
        "--layers", help="layers that carry the expression, such as 3-4 (default: StyleGAN1 3-4, StyleGAN2 2-3; arithmetic: all)"
    )
    p.add_argument(
        "--strength", type=cli.number(float, -100, most=100), default=1.0,
        help="how much of the expression: 1 all of it, less or more (default: 1)",
    )  # fmt: skip
    p.add_argument("--change", default="layers", choices=CHANGES, help="arithmetic: " + "; ".join(f"{k}: {v}" for k, v in CHANGES.items()))
    p.add_argument(
        "--threshold", type=weight, default=0.0, help="arithmetic: leave out channels that the expression changes less (default: 0)"
    )
    p.add_argument("--out_dir", default="save_image/exchange/", metavar="DIR", help="folder of the results (default: %(default)s)")
    cli.add_face_flags(p)
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


# ---------------------------------------------------------------------------------------------------------------------
# The modes: each reads, reserves the files of its results, and gives (latents' paths, faces, sources, what is to be noted)


def reserved(args, sources, *names):
    """NAME.npy and NAME.png in --out_dir, for each name: -> the latents' paths; `session.reserve` has seen to them."""
    from editor import session as sessions

    latents = [Path(args.out_dir) / f"{name}.npy" for name in names]
    for latent in latents:
        sessions.reserve(latent, sources, latent.with_suffix(".png"))
    return latents


def layers_of(args, G):
    from editor import face

    return face.layer_range(args.layers, G.num_ws) if args.layers else default_layers(G)


def swapped(expression, appearance, layers, strength, G):
    """Two faces -> each with the other's layers, latent, noise and tuned weights: exchange1 and exchange2."""
    from editor import face

    return [face.mix(expression, appearance, layers, strength, G), face.mix(appearance, expression, layers, strength, G)]


def exchange_faces(args, session):
    """Two faces from files."""
    one, other = session.read_one(args.latent_file1), session.read_one(args.latent_file2)
    layers, sources = layers_of(args, session.G), {"expression": one.path, "appearance": other.path}
    latents = reserved(args, sources, *(f"{one.name}_x_{other.name}_exchange{i}" for i in (1, 2)))
    return latents, swapped(one, other, layers, args.strength, session.G), sources, {"layers": layers}


def exchange_photographs(args, session):
    """Two photographs, optimised together.

    Each has its own loss: the appearance the content loss, the expression the Gram loss of the deepest features as well.
    The paper's expression has the Gram loss alone, which leaves open where the face is and who it is (--lambda_content 0).
    """
    import torch

    from editor import face, projection
    from editor import session as sessions

    if session.perceptual == "none":
        raise ValueError("--perceptual none has no features for the Gram loss; use bundled, vgg16 or lpips")
    if args.lambda_content == args.lambda_style == 0:
        raise ValueError("--lambda_content and --lambda_style are both 0: nothing would be wanted of the expression's latent")
    paths = [sessions.aligned_image(name, args.src_dir) for name in (args.src_im1, args.src_im2)]
    pictures = torch.cat([session.photo(path) for path in paths]).to(session.device)  # [2, 3, R, R]
    cli.warn_of(session)
    layers, sources = layers_of(args, session.G), {"expression": paths[0], "appearance": paths[1]}
    latents = reserved(args, sources, *(f"{paths[0].stem}_x_{paths[1].stem}_exchange{i}" for i in (1, 2)))
    start, encoder = session.start(None)
    config = settings.Config(iteration=args.iteration, seed=args.seed, low_memory=args.low_memory, **start)
    content, gram = (torch.tensor(pair, device=session.device) for pair in ([args.lambda_content, 1.0], [args.lambda_style, 0.0]))
    session.distance()  # read, or downloaded, before the bar starts
    with cli.progress(2 * config.steps, args.quiet) as show:
        found = session.embed_one(
            projection.Goal(pictures, content=content, gram=gram), config, encoder,
            lambda steps, losses: show(steps, losses.mean().item()), cli.warn,
        )  # fmt: skip
    noted = {
        "layers": layers, "losses": [round(float(loss), 5) for loss in found.loss], "iteration": args.iteration, "steps": found.steps,
        "perceptual": session.perceptual, "lambda_style": args.lambda_style, "lambda_content": args.lambda_content,
        "stopped": found.stopped, "complete": found.interrupted is None,
    }  # fmt: skip
    faces = swapped(face.Face(found.ws[:1]), face.Face(found.ws[1:]), layers, args.strength, session.G)
    return latents, faces, sources, noted, found.interrupted


def people_name(paths, people):
    """NAME of one; of several the first's, how many more, and a hash of all, so that no others have it."""
    count = sum(len(found.ws) for found in people)
    if count == 1:
        return people[0].name
    said = repr([(path.name, files.file_hash(path)) for path in paths])
    return f"{people[0].name}_and_{count - 1}_more_{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def add_expression(args, session):
    """Arithmetic: target + strength * (expression - neutral), with the target's noise."""
    import torch

    from editor import face

    target = session.read_one(args.target)
    neutral, expression = (face.expand(paths) for paths in (args.neutral, args.expression))
    without, smiling = ([session.read(path) for path in paths] for paths in (neutral, expression))
    before, after = (torch.cat([found.ws for found in people]) for people in (without, smiling))  # [K, L, 512]
    if len(before) != len(after):
        raise ValueError(f"--neutral has {len(before)} latents, --expression {len(after)}; give each person in both")
    layers = face.layer_range(args.layers, session.G.num_ws) if args.layers else None
    sources = {"target": target.path}
    sources |= {f"{role}{i}": path for role, paths in (("neutral", neutral), ("expression", expression)) for i, path in enumerate(paths, 1)}
    latents = reserved(args, sources, f"{target.name}_x_{people_name(expression, smiling)}")
    ws, channels = transferred(target.ws, before, after, args.strength, layers, args.threshold, args.change)
    if not channels:
        cli.warn(f"--threshold {args.threshold}: no channel changes that much; the result is the target itself")
    noted = {"layers": layers, "threshold": args.threshold, "change": args.change, "channels": channels}
    return latents, [face.Face(ws, target.noise, target.tuned)], sources, noted


def main(argv):
    parser = flags()
    args = parser.parse_args(argv)
    mode = mode_of(args)
    elsewhere = sorted({flag for names in ONLY.values() for flag in names} - set(ONLY[mode]))
    cli.require_default(parser, args, elsewhere, f"cannot act on --{' and --'.join(MODES[mode])}")
    from editor import session as sessions

    session, began = sessions.open(args), time.time()
    work = {"images": exchange_photographs, "latents": exchange_faces, "arithmetic": add_expression}[mode]
    latents, faces, sources, noted, *interrupted = work(args, session)
    cli.warn_of(session)
    noted |= {"mode": mode, "strength": args.strength, "seconds": round(time.time() - began, 1)}
    for latent, person in zip(latents, faces, strict=True):
        cli.written(args, *session.save(latent, person, session.record("facial_exchange.py", sources, **noted)))
    cli.warn_of(session)
    if any(interrupted):
        cli.say(f"the best of {noted['steps']} steps is in {args.out_dir}")
        raise interrupted[0]


if __name__ == "__main__":
    cli.run(main)
