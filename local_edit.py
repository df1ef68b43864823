"""Edit a part of a face (Image2StyleGAN++): draw on it, give it the texture of another picture, or a feature of another face.

    python local_edit.py transfer --latent_file1 latent_W/me_01.npy --latent_file2 latent_W/you_01.npy --mask part:mouth
    python local_edit.py scribble --latent_file latent_W/me_01.npy --scribble drawn_on.png
    python local_edit.py style --latent_file latent_W/me_01.npy --style_im texture.png --mask box:0,0,1,0.3

`scribble` makes strokes plausible: draw on the latent's rendering (save_image/encode/me_01.png) or, with --base, on another
picture. `style` brings a texture into a part and leaves the rest. `transfer` copies a part of another latent's
activations while rendering. Masks: white is where the edit happens; a picture, ellipse:cx,cy,rx,ry, box:x0,y0,x1,y1 in
fractions, or part:mouth, part:eyes, part:nose, part:face, ...
Written are save_image/local/me_01_scribble.png (me_01_style, me_01_x_you_01_mouth) and, where a latent results, the face that
renders to it: the same name with .npy, .noise.npz and .json.
"""

import time
from dataclasses import replace
from pathlib import Path

from editor import cli, files, settings

FOLDER = Path("save_image/local")
AMOUNTS = {"replace": 1.0, "average": 0.5, "interpolate": None}  # how much of the source's activations; None: --amount
STROKE = 24 / 127.5  # a pixel that differs by more grey levels than this from what was drawn on is stroke; JPEG differs by less
REACH = 0.03  # strokes and copied parts are widened by this share of the side: the face around them may bend to them


OPTIMISER = ("iteration", "noise_iteration", "lr", "perceptual", "compile", "low_memory")  # the flags that say how it works


def flags():
    weight = cli.number(float, 0)
    p = cli.Parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True, metavar="scribble|style|transfer")

    s = commands.add_parser("scribble", doc="Strokes on a face become plausible content.", help="strokes become plausible content")
    s.add_argument("--latent_file", required=True, metavar="FILE", help="of the face that was drawn on")
    s.add_argument("--scribble", required=True, metavar="IMAGE", help="the picture with strokes")
    s.add_argument("--base", metavar="IMAGE", help="the picture without them (default: the latent's rendering)")
    s.add_argument("--lambda_start", type=weight, default=0.02, help="holds the latent near the one it starts from (default: %(default)s)")
    _common(s, "where the strokes are (default: where the two pictures differ)", iteration=300, noise_iteration=300, lr=0.01)

    s = commands.add_parser("style", doc="A part takes the texture of another picture.", help="the texture of another picture")
    s.add_argument("--latent_file", required=True, metavar="FILE", help="of the face")
    s.add_argument("--style_im", required=True, metavar="IMAGE", help="square; its texture under the same mask is taken")
    s.add_argument("--lambda_style", type=weight, default=0.05, help="weight of the texture (default: %(default)s)")
    _common(s, "where the texture goes (required)", iteration=300, noise_iteration=200, lr=0.02)

    s = commands.add_parser("transfer", doc="A part is rendered with another face's activations.", help="a feature of another face")
    s.add_argument("--latent_file1", required=True, metavar="TARGET", help="of the face that is changed")
    s.add_argument("--latent_file2", required=True, metavar="SOURCE", help="of the face that the feature is taken from")
    s.add_argument("--resolutions", help="of the activations that are copied, such as 8-32 (default: 8 to half the generator's)")
    s.add_argument("--mode", default="replace", choices=AMOUNTS, help="replace, average, or interpolate by --amount (default: replace)")
    s.add_argument("--amount", type=cli.number(float, 0, most=1), help="of the source, for --mode interpolate, 0 to 1 (default: 0.5)")
    s.add_argument("--embed", action="store_true", help="find a face that renders to the result, too: NAME_embedded")
    _common(
        s, "what is copied (required), and a little around it; part: is looked for in both faces",
        iteration=300, noise_iteration=0, lr=settings.Config().lr,
    )  # fmt: skip
    return p


def _common(p, mask_help, iteration, noise_iteration, lr):
    p.add_argument("--mask", help=mask_help)
    p.add_argument("--invert_mask", action="store_true", help="black is where the edit happens")
    p.add_argument("--blur", type=cli.number(float, 0, most=0.5), default=0.02, help="softens the mask's edge: sigma, as a share of "
                   "the side (default: %(default)s)")  # fmt: skip
    p.add_argument("--noise_iteration", type=cli.number(int, 0), help="then steps of the noise maps alone "
                   f"(default: {noise_iteration}; StyleGAN3, which has none: 0)")  # fmt: skip
    p.add_argument("--lr", type=cli.number(float, above=0), default=lr, help="Adam's learning rate (default: %(default)s)")
    p.add_argument("--out", metavar="NAME", help=f"NAME in {FOLDER}/, or a path (default: named after the faces)")
    cli.add_embedding_flags(p, iteration)
    cli.add_face_flags(p)
    cli.add_model_flags(p)
    p.set_defaults(parser=p, usual_noise_iteration=noise_iteration)


# ---------------------------------------------------------------------------------------------------------------------
# What all three share


def sources(args):
    """{role: file} of what the result is made of."""
    given = {role: getattr(args, role, None) for role in ("latent_file", "latent_file1", "latent_file2", "scribble", "base", "style_im")}
    mask = {"mask": args.mask} if args.mask and Path(args.mask).is_file() else {}
    return {role: path for role, path in given.items() if path is not None} | mask


def destination(args):
    """The result's picture: --out, or in FOLDER a name made of the inputs' names."""
    from editor import images, masks

    if args.command == "transfer":
        names = [Path(args.latent_file1).stem, "x", Path(args.latent_file2).stem, masks.name(args.mask) + "-inverted" * args.invert_mask]
    else:
        names = [Path(args.latent_file).stem, args.command]
    return images.destination(args.out, FOLDER, "_".join(names) + ".png")


def rendered(session, person):
    """A face's picture [1, 3, R, R] in [-1, 1]."""
    import torch

    with torch.no_grad():
        return session.wearing(person).G.synthesis(person.ws, noise=person.maps).clamp(-1, 1)


def read_mask(args, G, pictures):
    """--mask for pictures [N, 3, R, R], joined where there are several: [1, 1, R, R] in 0..1.

    Raises:
        ValueError: it has no white.
    """
    from editor import masks

    mask = masks.read(args.mask, G.resolution, pictures, args.invert_mask, turned=G.kind == "stylegan3").amax(0, keepdim=True)
    if float(mask.max()) < 0.5:
        raise ValueError(f"--mask {args.mask}: nothing is white, so nothing would be edited")
    return mask.to(G.w_avg.device)


def softened(mask, args):
    """A mask [N, 1, R, R] with its edges blurred by --blur."""
    from editor import masks

    return masks.blurred(mask, args.blur * mask.shape[-1])


def widened(mask):
    """[N, 1, R, R], its white parts larger by REACH on all sides."""
    import torch.nn.functional as F

    reach = max(1, round(REACH * mask.shape[-1]))
    return F.max_pool2d(mask, 2 * reach + 1, stride=1, padding=reach)


def noise_steps(args, G):
    """--noise_iteration; by default none where the generator has no noise maps."""
    if args.noise_iteration is None:
        return args.usual_noise_iteration if G.synthesis.layers() else 0
    return args.noise_iteration


# ---------------------------------------------------------------------------------------------------------------------
# Scribble


def strokes(scribbled, base):
    """Where two pictures [1, 3, R, R] differ, widened by REACH: [1, 1, R, R], 0 or 1.

    Raises:
        ValueError: nowhere.
    """
    differs = ((scribbled - base).abs().amax(1, keepdim=True) > STROKE).float()
    if not differs.any():
        raise ValueError("the scribbled picture does not differ from the one below; draw on the rendering, or name the other with --base")
    return widened(differs)


def scribble(person, args, session, config):
    """w near w0 that renders the scribbled picture; then noise outside of the strokes, towards the picture without them.

    Returns:
        The `projection.Goal`, and the `settings.Config` to reach it.
    """
    from editor import images, projection

    G = session.G
    drawn = images.load(args.scribble, G.resolution).to(session.device)
    base = images.load(args.base, G.resolution).to(session.device) if args.base else rendered(session, person)
    where = read_mask(args, G, drawn) if args.mask else strokes(drawn, base)
    goal = projection.Goal(drawn, noise_mask=(1 - softened(where, args)).clamp(0, 1))
    return goal, replace(config, init=person.ws, noise=person.maps, lambda_start=args.lambda_start)


# ---------------------------------------------------------------------------------------------------------------------
# Local style


def style(person, args, session, config):
    """w and noise for the texture inside and the rendering outside; then noise outside alone. Returns as `scribble`."""
    from editor import images, projection

    G = session.G
    texture = images.load(args.style_im, G.resolution).to(session.device)
    image = rendered(session, person)
    inside = read_mask(args, G, image)
    goal = projection.Goal(image, mask=1 - inside, noise_mask=1 - inside, style=texture, style_mask=softened(inside, args))
    return goal, replace(config, init=person.ws, noise=person.maps, lambda_style=args.lambda_style, joint=bool(G.synthesis.layers()))


# ---------------------------------------------------------------------------------------------------------------------
# Attribute-level feature transfer


def resolution_range(text, G):
    """'8-32' or '16' -> the generator's resolutions among them. None: 8 to half of what it makes.

    Raises:
        ValueError: none of its resolutions.
    """
    there = list(layers_by_resolution(G))
    if text is None:
        return [r for r in there if 8 <= r <= G.resolution // 2]
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise ValueError(f"--resolutions {text}: write one or a range, as in 8-32")
    chosen = [r for r in there if int(first) <= r <= int(last or first)]
    if not chosen:
        raise ValueError(f"--resolutions {text}: this generator has {', '.join(map(str, there))}")
    return chosen


def layers_by_resolution(G):
    """{resolution: name of the last layer whose activations have it}; StyleGAN3's have a margin around them."""
    if G.kind == "stylegan3":
        return {place.rate: name for place, name in zip(G.config.places, G.synthesis.names[:-1], strict=False)}  # all but ToRGB
    return {r: f"b{r}.conv1" for r in G.config.resolutions}


def blended_noise(G, target, source, mask, amount=1.0):
    """The target's noise maps with the masked part of the source's: one that was optimised for a face fits only that face."""
    import torch
    import torch.nn.functional as F

    from editor import face

    pairs = zip(*(one.noise or face.own_noise(G) for one in (target, source)), strict=True)
    return [torch.lerp(a, b, F.adaptive_avg_pool2d(mask, a.shape[-1]) * amount) for a, b in pairs]


def blend_activations(G, target, source, mask, resolutions, amount=1.0):
    """Render `target` with the masked part of its activations mixed with `source`'s.

    What leaves the last layer of each chosen resolution is a + m (b - a) of target's a and source's b, with m the mask, averaged
    down to that resolution, times `amount`. Noise maps are mixed alike.

    Args:
        target, source: `face.Face` of one latent.
        mask: [1, 1, R, R] in 0..1.

    Returns:
        [1, 3, R, R].
    """
    import torch
    import torch.nn.functional as F

    from editor import tuning

    seen, names = {}, layers_by_resolution(G)

    def watch(r):
        def hook(layer, inputs, output):
            seen[r] = output

        return hook

    def mix(r):
        part = F.adaptive_avg_pool2d(mask, r) * amount

        def hook(layer, inputs, output):
            margin = (output.shape[-1] - r) // 2
            return torch.lerp(output, seen[r], F.pad(part, [margin] * 4, mode="replicate").to(output.dtype))

        return hook

    for make, one, noise in ((watch, source, source.maps), (mix, target, blended_noise(G, target, source, mask, amount))):
        synthesis = tuning.worn(G, one.tuned).synthesis
        hooks = [synthesis.get_submodule(names[r]).register_forward_hook(make(r)) for r in resolutions]
        try:
            with torch.no_grad():
                image = synthesis(one.ws, noise=noise)
        finally:
            for hook in hooks:
                hook.remove()
    return image


def transfer(target, source, args, session, config):
    """The rendering with mixed activations; a face for it is looked for from the target on, under the noise it was made with.

    Returns:
        [1, 3, R, R], and as `scribble`.
    """
    import torch

    from editor import projection

    G, amount = session.G, AMOUNTS[args.mode]
    if amount is None:
        amount = 0.5 if args.amount is None else args.amount
    mask = softened(widened(read_mask(args, G, torch.cat([rendered(session, one) for one in (target, source)]))), args)
    image = blend_activations(G, target, source, mask, resolution_range(args.resolutions, G), amount)
    noise = "const" if target.noise is source.noise is None else blended_noise(G, target, source, mask, amount)
    return image, projection.Goal(image.clamp(-1, 1)), replace(config, init=target.ws, noise=noise)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def check(args):
    """Raise ValueError for flags that do not go together."""
    if args.command != "scribble" and not args.mask:
        raise ValueError(f"{args.command} needs --mask: {'where the texture goes' if args.command == 'style' else 'what is copied'}")
    if args.command == "style" and args.perceptual == "none":
        raise ValueError("style needs features: --perceptual none has none")
    if args.command == "transfer" and args.amount is not None and args.mode != "interpolate":
        raise ValueError(f"--amount {args.amount:g} is of --mode interpolate; --mode {args.mode} has its own")


def free(picture, named):
    """Raise ValueError or OSError unless a result may be written: a picture, and the face beside it."""
    from editor import face
    from editor.session import claim

    latent = picture.with_suffix(".npy")
    for output in [picture, *face.outputs(latent)]:
        for role, path in named.items():
            if output.exists() and Path(path).exists() and output.samefile(path):
                raise ValueError(f"{output}: would replace the --{role} it is made of; give another --out")
    claim(latent, named)
    files.check_writable(picture, *face.outputs(latent))


def write(found, tuned, picture, args, session, named, seconds):
    """What the optimiser found: the face and what it renders to."""
    from editor import face, render

    person = face.Face(found.ws, found.noise, tuned)
    info = session.record(
        f"local_edit.py {args.command}", named, **remembered(args, session), steps=found.steps, loss=round(float(found.loss[0]), 5),
        stopped=found.stopped, complete=found.interrupted is None, seconds=round(seconds, 1),
    )  # fmt: skip
    paths = session.write(picture, render.one(session.G, person, session.dtype), person, info)
    cli.written(args, *paths, what=f"the edited face, after {found.steps} steps")
    cli.warn_of(session)
    if found.interrupted:
        raise found.interrupted


def remembered(args, session):
    """The settings that the record keeps."""
    names = (
        "mask",
        "invert_mask",
        "blur",
        "iteration",
        "lr",
        "lambda_start",
        "lambda_style",
        "resolutions",
        "mode",
        "amount",
    )
    said = {name: getattr(args, name) for name in names if hasattr(args, name)}
    return {"perceptual": session.perceptual, "settings": said | {"noise_iteration": noise_steps(args, session.G)}}


def main(argv):
    args = flags().parse_args(argv)
    check(args)
    if args.command == "transfer" and not args.embed:
        given = [name for name in OPTIMISER if name != "noise_iteration" or args.noise_iteration]  # 0 steps are as good as none
        cli.require_default(args.parser, args, given, "nothing is optimised without --embed; give --embed too")
    from editor import session as sessions

    named, picture, began = sources(args), destination(args), time.time()
    embedded = picture.with_name(f"{picture.stem}_embedded{picture.suffix}")
    for path in [picture, embedded] if args.command == "transfer" and args.embed else [picture]:
        free(path, named)
    session = sessions.open(args)
    people = [session.read_one(path) for role, path in named.items() if role.startswith("latent")]
    cli.warn_of(session)
    config = settings.Config(
        iteration=args.iteration, lr=args.lr, noise_iteration=noise_steps(args, session.G), seed=args.seed, low_memory=args.low_memory
    )
    if args.command == "transfer":
        image, goal, config = transfer(*people, args, session, config)
        session.remarks.clear()
        paths = session.write(picture, image, None, session.record("local_edit.py transfer", named, **remembered(args, session)))
        cli.written(args, *paths, what="the part transferred")
        cli.warn_of(session)
        if not args.embed:
            return 0
        picture = embedded
    else:
        goal, config = {"scribble": scribble, "style": style}[args.command](*people, args, session, config)
    with cli.progress(config.steps, args.quiet) as show:
        found = session.wearing(people[0]).embed_one(
            goal, config, callback=lambda steps, losses: show(steps, losses.mean().item()), warn=cli.warn
        )
    write(found, people[0].tuned, picture, args, session, named, time.time() - began)
    return 0


if __name__ == "__main__":
    cli.run(main)
