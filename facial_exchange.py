"""Exchange expressions: between two photographs, between two faces, or one learnt from a person's two pictures.

    python facial_exchange.py --src_im1 expression_01.png --src_im2 appearance_01.png

finds each (as encode_image.py does) and gives each the other's expression: ..._exchange2 is the second face with the first one's
expression, ..._exchange1 the other way round. Faces that are there already, with their noise maps and tuned weights:

    python facial_exchange.py --latent_file1 latent_W/expression_01.npy --latent_file2 latent_W/appearance_01.npy

Arithmetic (Image2StyleGAN): add what a smile changed in one person to another, target + strength * (expression - neutral):

    python facial_exchange.py --target latent_W/me_01.npy --neutral latent_W/you_01.npy --expression latent_W/you_smiling_01.npy

Several people are cleaner: --neutral A.npy B.npy --expression A_smiling.npy B_smiling.npy (their mean counts).

What two latents differ in is mostly who the people are. So where the generator has boundaries, only the coarse half of the layers
counts, without the directions of --hold, and --along (smile) counts more; and the change goes as far as the face stays the same
person (--strength auto). --change layers is the papers' way: whole layers (--layers) change places (Yang & Lim 2019).

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
    "images": ("src_dir", "iteration", "w_iteration", "tune", "lambda_style", "lambda_content", "perceptual", "compile", "low_memory"),
    "latents": ("force", "no_saved_noise", "tuned_strength"),
    "arithmetic": ("threshold", "force", "no_saved_noise", "tuned_strength"),
}
CHANGES = {
    "expression": "what --hold and --along leave (default where the generator has these boundaries)",
    "layers": "whole layers, the papers' way",
    "mean": "arithmetic: all layers by their mean",
}
HELD, ALONG = ("pose", "gender", "age", "eyeglasses"), ("smile",)  # what an expression is not, and what it is known by
GAIN = 2.0  # how much more the part along ALONG counts: embeddings understate it
REST = 0.25  # how much the rest of a difference between two people counts: it is who they are, too
SAME_PERSON = 0.45  # distance of dlib's descriptors to the face before; 0.6 is another person
MOST = {"arithmetic": 3.0}  # the strength where identity never forbids it; else 1.5


def flags():
    weight = cli.number(float, 0)
    p = cli.Parser(__doc__)
    p.add_argument("--src_im1", metavar="IMAGE", help="aligned image that gives the expression: a name in --src_dir, or a path")
    p.add_argument("--src_im2", metavar="IMAGE", help="aligned image that gives the appearance")
    p.add_argument("--src_dir", metavar="DIR", help="folder of aligned images (default: aligned_images/, else source_image/)")
    preset = settings.PRESETS["editable"]
    cli.add_embedding_flags(p, preset["iteration"])
    p.add_argument(
        "--w_iteration", type=cli.number(int, 0), default=preset["w_iteration"], help="before, steps with one w (default: %(default)s)"
    )
    p.add_argument("--tune", type=cli.number(int, 0), default=preset["tune"], help="steps of the weights (default: %(default)s)")
    p.add_argument("--lambda_style", type=weight, default=1.0, help="weight of the expression's Gram loss (default: %(default)s)")
    p.add_argument("--lambda_content", type=weight, default=1.0, help="weight of its content loss (default: %(default)s; 0: Gram alone)")
    p.add_argument("--latent_file1", metavar="FILE", help="latent that gives the expression")
    p.add_argument("--latent_file2", metavar="FILE", help="latent that gives the appearance")
    p.add_argument("--target", metavar="FILE", help="latent to change")
    p.add_argument("--neutral", metavar="FILE", nargs="+", help="latents of people without the expression, or a folder of them")
    p.add_argument("--expression", metavar="FILE", nargs="+", help="latents of the same people with it, in the same order")
    p.add_argument(
        "--layers",
        help="layers that carry the expression, such as 3-4 (default: StyleGAN1 3-4, StyleGAN2 2-3, StyleGAN3's at 1024 3-4; "
        "arithmetic: all)",
    )
    p.add_argument(
        "--strength", type=strength, metavar="N|auto",
        help="how much of the expression; auto: as far as it stays the same person (default: auto; of --change layers and mean 1)",
    )  # fmt: skip
    p.add_argument("--change", choices=CHANGES, help="; ".join(f"{k}: {v}" for k, v in CHANGES.items()))
    p.add_argument("--hold", nargs="+", metavar="NAME|FILE", help=f"boundaries that no expression moves along (default: {' '.join(HELD)})")
    p.add_argument("--along", nargs="+", metavar="NAME|FILE", help=f"boundaries that expressions move along (default: {' '.join(ALONG)})")
    p.add_argument(
        "--threshold", type=weight, default=0.0, help="arithmetic: leave out channels that the expression changes less (default: 0)"
    )
    p.add_argument("--out_dir", default="save_image/exchange/", metavar="DIR", help="folder of the results (default: %(default)s)")
    cli.add_face_flags(p)
    cli.add_model_flags(p)
    return p


def strength(text):
    """--strength -> a number, or "auto"."""
    return text if text == "auto" else cli.number(float, -100, most=100)(text)


def default_layers(G):
    """The finer 8x8 and the coarser 16x16 convolution: LatentEditor's 3-4, in StyleGAN2's counting 2-3.

    They are the same parts of a face whatever the generator's size. Measured on the bundled generator, 200 pairs of random
    faces: they carry 33 % of a difference in smile, of turn 53 %, gender 38 %, age 30 %, glasses 33 %; the layer before
    them adds 30 % of the smile and 17 to 25 % of all else, the layer after them 8 %. Of StyleGAN3, not measured: the layers that
    first hold as much detail.
    """
    if G.kind == "stylegan3":  # 2 * cutoff samples hold what a signal holds
        return [i for i, place in enumerate(G.config.places, 1) if 8 < round(2 * place.cutoff, 6) <= 16] or [3]
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
# What of a difference is expression


class Expression:
    """The part of a difference between two latents that is expression.

    Of the layers that count, what is left without the directions that are held; and along each direction that expressions are
    known by, GAIN times the difference's mean over all layers.

    Measured with 80 pairs of random faces, between people: smile goes 0.91 of the way, gender 0.07, age 0.08, turn 0.00, glasses
    0.13; the papers' swap of layers 2 and 3: 0.30, 0.37, 0.32, 0.50, 0.37.
    """

    def __init__(self, held, along, layers):
        """held, along: lists of directions [1 or L, 512]. layers: those that count."""
        from editor import boundaries

        self.held, self.layers = held, layers
        self.along = [boundaries.conditioned(direction, held) for direction in along]

    def __call__(self, difference, rest=1.0):
        """[1, L, 512] -> [1, L, 512]; rest: how much what is not along counts."""
        import torch

        whole = difference.cpu().double()  # Apple's MPS has no float64
        kept = torch.zeros_like(whole)
        kept[:, self.layers] = whole[:, self.layers]
        if self.held:
            count = whole.shape[1]
            basis = torch.linalg.qr(torch.stack([d.to(whole).expand(count, -1) for d in self.held], 2))[0]  # [L, 512, held]
            kept = kept - torch.einsum("nlh,lwh->nlw", torch.einsum("nlw,lwh->nlh", kept, basis), basis)
        found = rest * kept
        for direction in self.along:
            direction = direction.to(whole)
            found = found + GAIN * (whole * direction).sum(2, keepdim=True).mean(1, keepdim=True) * direction
        return found.float().to(difference)


def expression_of(args, session):
    """The `Expression` that the flags ask for, or None for the papers' way; and what the record says of its boundaries.

    Raises:
        ValueError: flags that do not go together, or boundaries that do not fit the generator.
    """
    from editor import boundaries, checkpoints, face, files
    from editor import session as sessions

    folder, named = checkpoints.HERE / "boundaries", args.hold or args.along
    there = [path.stem for path in files.visible(folder, "*.npy") if boundaries.fits(path, session.G)]
    chosen = args.change or ("expression" if named or set(HELD + ALONG) <= set(there) and not args.layers else "layers")
    if chosen == "mean":
        raise ValueError("--change mean: cannot act on two faces; it is of --target, --neutral and --expression")
    if chosen != "expression":
        if named:
            raise ValueError(f"--hold and --along are of --change expression; --change {chosen} moves whole layers")
        layers_of(args, session.G)  # a range that is not there is said before any work
        return None, {}
    hold, along = args.hold or HELD, args.along or ALONG
    if both := sorted(set(hold) & set(along)):
        raise ValueError(f"--hold and --along both name {both[0]}; --hold {both[0]} takes another --along")
    found, remarks = boundaries.read([*hold, *along], folder, session.G, session.force, "--hold or --along")
    session.remarks += remarks
    normals = [boundary.normal for boundary in found.values()]
    layers = face.layer_range(args.layers, session.G.num_ws) if args.layers else list(range(session.G.num_ws // 2))
    named = sessions.origins({f"boundary {name}": boundary.path for name, boundary in found.items()})
    return Expression(normals[: len(hold)], normals[len(hold) :], layers), {"boundaries": named}


def changed(target, change, args, session, mode):
    """A face with an expression added to its latent, and how much of it: --strength, or as much as leaves it the same person."""
    from dataclasses import replace

    from editor import landmarks, render

    def at(amount):
        return replace(target, ws=target.ws + amount * change)

    if args.strength not in (None, "auto"):
        return at(args.strength), args.strength
    describe = landmarks.Descriptors()
    before = describe(render.one(session.G, target, session.dtype))

    def same(amount):
        return ((describe(render.one(session.G, at(amount), session.dtype)) - before) ** 2).sum() <= SAME_PERSON**2

    low, high = 0.0, MOST.get(mode, 1.5)
    if same(high):
        return at(high), high
    for _ in range(5):
        middle = (low + high) / 2
        low, high = (middle, high) if same(middle) else (low, middle)
    return at(low), low


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


def swapped(one, other, args, session, found):
    """Two faces -> each with the other's expression, exchange1 and exchange2; and what is to be noted.

    Args:
        found: an `Expression`; None: whole layers, with their noise and tuned weights, change places.
    """
    from editor import face

    if found is None:
        layers, amount = layers_of(args, session.G), 1.0 if args.strength in (None, "auto") else args.strength
        faces = [face.mix(one, other, layers, amount, session.G), face.mix(other, one, layers, amount, session.G)]
        return faces, {"change": "layers", "layers": layers, "strengths": [amount, amount]}
    difference = other.ws - one.ws
    pairs = [changed(person, found(way, REST), args, session, "exchange") for person, way in ((one, difference), (other, -difference))]
    return [person for person, _ in pairs], {"change": "expression", "layers": found.layers, "strengths": [amount for _, amount in pairs]}


def exchange_faces(args, session):
    """Two faces from files."""
    one, other = session.read_one(args.latent_file1), session.read_one(args.latent_file2)
    found, named = expression_of(args, session)
    sources = {"expression": one.path, "appearance": other.path}
    latents = reserved(args, sources, *(f"{one.name}_x_{other.name}_exchange{i}" for i in (1, 2)))
    faces, noted = swapped(one, other, args, session, found)
    return latents, faces, sources, noted | named


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
    expression, named = expression_of(args, session)
    sources = {"expression": paths[0], "appearance": paths[1]}
    latents = reserved(args, sources, *(f"{paths[0].stem}_x_{paths[1].stem}_exchange{i}" for i in (1, 2)))
    start, encoder = session.start(None)
    config = settings.Config(
        iteration=args.iteration, w_iteration=args.w_iteration, lambda_cosine=settings.PRESETS["editable"]["lambda_cosine"],
        seed=args.seed, low_memory=args.low_memory, **start,
    )  # fmt: skip
    tuned = settings.Tuning(steps=args.tune)
    content, gram = (torch.tensor(pair, device=session.device) for pair in ([args.lambda_content, 1.0], [args.lambda_style, 0.0]))
    session.distance()  # read, or downloaded, before the bar starts
    with cli.progress(2 * (config.steps + tuned.steps), args.quiet) as show:
        found = session.embed_one(
            projection.Goal(pictures, content=content, gram=gram), config, encoder,
            lambda steps, losses: show(steps, losses.mean().item()), cli.warn, tuned,
        )  # fmt: skip
    people = [face.Face(found.ws[i : i + 1], tuned=found.tuned and found.tuned[i]) for i in (0, 1)]
    faces, noted = swapped(*people, args, session, expression)
    noted |= named | {
        "losses": [round(float(loss), 5) for loss in found.loss], "iteration": args.iteration,
        "w_iteration": args.w_iteration, "tune": args.tune, "steps": found.steps,
        "perceptual": session.perceptual, "lambda_style": args.lambda_style, "lambda_content": args.lambda_content,
        "stopped": found.stopped, "complete": found.interrupted is None,
    }  # fmt: skip
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
    found, named = (None, {}) if args.change == "mean" else expression_of(args, session)
    sources = {"target": target.path}
    sources |= {f"{role}{i}": path for role, paths in (("neutral", neutral), ("expression", expression)) for i, path in enumerate(paths, 1)}
    latents = reserved(args, sources, f"{target.name}_x_{people_name(expression, smiling)}")
    if found is not None:
        if args.threshold:
            raise ValueError("--threshold is of --change layers and mean")
        before, after = (torch.cat([session.guess(one) for some in people for one in some.split()]) for people in (without, smiling))
        person, amount = changed(target, found((after - before).mean(0, keepdim=True)), args, session, "arithmetic")
        return latents, [person], sources, {"change": "expression", "layers": found.layers, "strengths": [amount]} | named
    amount, change = 1.0 if args.strength in (None, "auto") else args.strength, args.change or "layers"
    ws, channels = transferred(target.ws, before, after, amount, layers, args.threshold, change)
    if not channels:
        cli.warn(f"--threshold {args.threshold}: no channel changes that much; the result is the target itself")
    noted = {"layers": layers, "threshold": args.threshold, "change": change, "channels": channels, "strengths": [amount]}
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
    noted |= {"mode": mode, "seconds": round(time.time() - began, 1)}
    for latent, person, amount in zip(latents, faces, noted["strengths"], strict=True):
        what = f"strength {amount:.2f}" if noted["change"] == "expression" else None
        cli.written(args, *session.save(latent, person, session.record("facial_exchange.py", sources, **noted)), what=what)
    cli.warn_of(session)
    if any(interrupted):
        cli.say(f"the best of {noted['steps']} steps is in {args.out_dir}")
        raise interrupted[0]


if __name__ == "__main__":
    cli.run(main)
