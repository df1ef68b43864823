"""Edit a part of a face (Image2StyleGAN++): draw on it, give it the texture of another picture, or a feature of another face.

    python local_edit.py transfer --latent_file1 latent_W/me.npy --latent_file2 latent_W/you.npy --mask part:mouth --out you_on_me
    python local_edit.py scribble --latent_file latent_W/me.npy --scribble drawn_on.png --out scribbled
    python local_edit.py style --latent_file latent_W/me.npy --style_im texture.png --mask box:0,0,1,0.3 --out styled

`scribble` makes strokes plausible: draw on the latent's rendering (save_image/encode/me.png) or, with --base, on another
picture. `style` brings a texture into a part and leaves the rest. `transfer` copies a part of another latent's
activations while rendering. Masks: white is where the edit happens; a picture, ellipse:cx,cy,rx,ry, box:x0,y0,x1,y1 in
fractions, or part:mouth, part:eyes, part:nose, part:face, ...
Written are save_image/local/NAME.png and, where a latent results, NAME.npy with NAME.noise.npz.
"""

import time
from pathlib import Path

from editor import checkpoints, cli, face, images, masks, projection, session, settings

FOLDER = Path("save_image/local")
AMOUNTS = {"replace": 1.0, "average": 0.5, "interpolate": None}  # how much of the source's activations; None: --amount
STROKE = 24 / 127.5  # a pixel that differs by more grey levels than this from what was drawn on is stroke; JPEG differs by less
REACH = 0.03  # strokes and copied parts are widened by this share of the side: the face around them may bend to them


def flags():
    config = settings.Config()
    p = cli.Parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True, metavar="scribble|style|transfer")

    s = commands.add_parser("scribble", doc="Strokes on a face become plausible content.", help="strokes become plausible content")
    s.add_argument("--latent_file", required=True, help="of the face that was drawn on")
    s.add_argument("--scribble", required=True, metavar="IMAGE", help="the picture with strokes")
    s.add_argument("--base", metavar="IMAGE", help="the picture without them (default: the latent's rendering)")
    s.add_argument("--lambda_start", type=float, default=0.02, help="holds the latent near the one it starts from (default: %(default)s)")
    _common(s, "where the strokes are (default: where the two pictures differ)", iteration=300, noise_iteration=300, lr=0.01)

    s = commands.add_parser("style", doc="A part takes the texture of another picture.", help="the texture of another picture")
    s.add_argument("--latent_file", required=True, help="of the face")
    s.add_argument("--style_im", required=True, metavar="IMAGE", help="square; its texture under the same mask is taken")
    s.add_argument("--lambda_style", type=float, default=0.05, help="weight of the texture (default: %(default)s)")
    _common(s, "where the texture goes (required)", iteration=300, noise_iteration=200, lr=0.02)

    s = commands.add_parser("transfer", doc="A part is rendered with another face's activations.", help="a feature of another face")
    s.add_argument("--latent_file1", required=True, metavar="TARGET", help="of the face that is changed")
    s.add_argument("--latent_file2", required=True, metavar="SOURCE", help="of the face that the feature is taken from")
    s.add_argument("--resolutions", help="of the activations that are copied, such as 8-32 (default: 8 to half the generator's)")
    s.add_argument("--mode", default="replace", choices=AMOUNTS, help="replace, average, or interpolate by --amount (default: replace)")
    s.add_argument("--amount", type=float, default=0.5, help="of the source, 0 to 1 (default: %(default)s)")
    s.add_argument("--embed", action="store_true", help="find a latent of the result, too")
    _common(
        s,
        "what is copied (required), and a little around it; part: is looked for in both faces",
        iteration=300,
        noise_iteration=0,
        lr=config.lr,
    )
    return p


def _common(p, mask_help, iteration, noise_iteration, lr):
    p.add_argument("--mask", help=mask_help)
    p.add_argument("--invert_mask", action="store_true", help="black is where the edit happens")
    p.add_argument("--blur", type=float, default=0.02, help="softens the mask's edge: sigma, as a share of the side (default: %(default)s)")
    p.add_argument("--iteration", type=int, default=iteration, help="steps of the latent (default: %(default)s)")
    p.add_argument("--noise_iteration", type=int, default=noise_iteration, help="then of the noise maps (default: %(default)s)")
    p.add_argument("--lr", type=float, default=lr, help="Adam's learning rate (default: %(default)s)")
    p.add_argument("--perceptual", choices=session.DISTANCES, help="distance (default: what the generator's checkpoint names)")
    p.add_argument("--out", default="edited", metavar="NAME", help=f"NAME in {FOLDER}/, or a path (default: %(default)s)")
    p.add_argument("--force", action="store_true", help="take latents of another generator")
    cli.add_noise_flag(p)
    cli.add_model_flags(p)


class Face:
    """A latent file, ready to be edited: ws [1, L, 512], its noise (as `G.synthesis` takes it) and its rendering [1, 3, R, R]."""

    def __init__(self, path, G, args):
        import torch

        self.path, device = path, G.w_avg.device
        self.ws = face.load_one(path, G, args.force).to(device)
        maps = session.noise_of(path, G, args)
        self.noise = "const" if maps is None else [m.to(device) for m in maps]
        with torch.no_grad():
            self.image = G.synthesis(self.ws, noise=self.noise).clamp(-1, 1)


def mask_of(args, G, images, blur):
    """--mask for pictures [N, 3, R, R], joined where there are several: [1, 1, R, R] in 0..1."""
    mask = masks.read(args.mask, G.resolution, images, args.invert_mask).amax(0, keepdim=True)
    if float(mask.max()) < 0.5:
        raise ValueError(f"--mask {args.mask}: nothing is white, so nothing would be edited")
    return masks.blurred(mask, blur * G.resolution).to(G.w_avg.device)


def widened(mask):
    """[N, 1, R, R], its white parts larger by REACH on all sides."""
    import torch.nn.functional as F

    reach = max(1, round(REACH * mask.shape[-1]))
    return F.max_pool2d(mask, 2 * reach + 1, stride=1, padding=reach)


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


def scribble(args, G, distance, config, progress):
    """w near w0 that renders the scribbled picture; then noise outside of the strokes, towards the picture without them."""
    person = Face(args.latent_file, G, args)
    drawn = images.load(args.scribble, G.resolution).to(person.image.device)
    base = images.load(args.base, G.resolution).to(person.image.device) if args.base else person.image
    where = mask_of(args, G, drawn, 0.0) if args.mask else strokes(drawn, base)
    config.init, config.noise, config.lambda_start = person.ws, person.noise, args.lambda_start
    soft = masks.blurred(where, args.blur * G.resolution)
    found = projection.project(G, distance, projection.Goal(drawn, noise_mask=(1 - soft).clamp(0, 1)), config, progress)
    return found, None, {"latent": str(args.latent_file), "scribble": str(args.scribble)}


# ---------------------------------------------------------------------------------------------------------------------
# Local style


def style(args, G, distance, config, progress):
    """w and noise for the texture inside and the rendering outside; then noise outside alone."""
    if not args.mask:
        raise ValueError("style needs --mask: where the texture goes")
    if distance is None:
        raise ValueError("style needs features: --perceptual none has none")
    person = Face(args.latent_file, G, args)
    texture = images.load(args.style_im, G.resolution).to(person.image.device)
    inside = mask_of(args, G, person.image, 0.0)
    soft = masks.blurred(inside, args.blur * G.resolution)
    config.init, config.noise, config.lambda_style, config.joint = person.ws, person.noise, args.lambda_style, True
    goal = projection.Goal(person.image, mask=1 - inside, noise_mask=1 - inside, style=texture, style_mask=soft)
    found = projection.project(G, distance, goal, config, progress)
    return found, None, {"latent": str(args.latent_file), "style": str(args.style_im)}


# ---------------------------------------------------------------------------------------------------------------------
# Attribute-level feature transfer


def resolution_range(text, G):
    """'8-32' or '16' -> the generator's resolutions among them. None: 8 to half of what it makes.

    Raises:
        ValueError: none of its resolutions.
    """
    if text is None:
        return [r for r in G.config.resolutions if 8 <= r <= G.resolution // 2]
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise ValueError(f"--resolutions {text}: write one or a range, as in 8-32")
    chosen = [r for r in G.config.resolutions if int(first) <= r <= int(last or first)]
    if not chosen:
        raise ValueError(f"--resolutions {text}: this generator has {', '.join(map(str, G.config.resolutions))}")
    return chosen


def blend_activations(G, target, source, mask, resolutions, amount=1.0):
    """Render `target` with the masked part of its activations mixed with `source`'s.

    What leaves the last layer of each chosen resolution is a + m (b - a) of target's a and source's b, with m the mask, averaged
    down to that resolution, times `amount`. Noise maps are mixed alike: one that was optimised for a face fits only that face.

    Args:
        target, source: (ws [1, L, 512], noise).
        mask: [1, 1, R, R] in 0..1.

    Returns:
        [1, 3, R, R].
    """
    import torch
    import torch.nn.functional as F

    own = [layer.noise_const[None, None] for layer in G.synthesis.layers()]
    pairs = zip(*(own if noise == "const" else noise for _, noise in (target, source)), strict=True)
    target = target[0], [torch.lerp(a, b, F.adaptive_avg_pool2d(mask, a.shape[-1]) * amount) for a, b in pairs]
    layers = {r: getattr(G.synthesis, f"b{r}").conv1 for r in resolutions}
    seen = {}

    def watch(r):
        def hook(layer, inputs, output):
            seen[r] = output

        return hook

    def mix(r):
        part = F.adaptive_avg_pool2d(mask, r) * amount
        return lambda layer, inputs, output: torch.lerp(output, seen[r], part.to(output.dtype))

    for make, (ws, noise) in ((watch, source), (mix, target)):
        hooks = [layer.register_forward_hook(make(r)) for r, layer in layers.items()]
        try:
            with torch.no_grad():
                image = G.synthesis(ws, noise=noise)
        finally:
            for hook in hooks:
                hook.remove()
    return image


def transfer(args, G, distance, config, progress):
    """Rendering with mixed activations; with --embed then a latent of it."""
    import torch

    if not args.mask:
        raise ValueError("transfer needs --mask: what is copied")
    amount = AMOUNTS[args.mode] if AMOUNTS[args.mode] is not None else args.amount
    if not 0 <= amount <= 1:
        raise ValueError(f"--amount {amount}: from 0 (the target's) to 1 (the source's)")
    target, source = Face(args.latent_file1, G, args), Face(args.latent_file2, G, args)
    mask = masks.blurred(widened(mask_of(args, G, torch.cat([target.image, source.image]), 0.0)), args.blur * G.resolution)
    chosen = resolution_range(args.resolutions, G)
    image = blend_activations(G, (target.ws, target.noise), (source.ws, source.noise), mask, chosen, amount)
    found = None
    if args.embed:
        config.init = target.ws
        found = projection.project(G, distance, image.clamp(-1, 1), config, progress)
    said = {"target": str(args.latent_file1), "source": str(args.latent_file2), "resolutions": chosen, "amount": amount}
    return found, image, said


COMMANDS = {"scribble": scribble, "style": style, "transfer": transfer}


# ---------------------------------------------------------------------------------------------------------------------


def write(args, G, found, image, said, seconds):
    """The picture, and the latent with its noise where there is one. Returns the paths."""
    import torch

    out = Path(args.out)
    target = out if out.suffix.lower() in images.WRITES else out.with_name(out.name + ".png")
    target = FOLDER / target if target.parent == Path() else target
    written = [target]
    if found is not None:
        noise = "const" if found.noise is None else found.noise
        said |= {"stopped": found.stopped, "steps": found.steps, "loss": round(float(found.loss[0]), 5)}
        with torch.no_grad():
            rendered = G.synthesis(found.ws, noise=noise)
        said |= {"made_by": f"local_edit.py {args.command}", "mask": args.mask, "invert_mask": args.invert_mask, "seed": args.seed,
                 "perceptual": args.perceptual, "seconds": round(seconds, 1), "generator": str(G.meta["path"]),
                 "generator_hash": G.meta["hash"], "toolkit": cli.__version__}  # fmt: skip
        face.save(target.with_suffix(".npy"), found.ws, said, face.changed(found.noise, G))
        written.append(target.with_suffix(".npy"))
        if image is not None:  # both: what the activations gave, and what was found for it
            written.append(target.with_name(target.stem + "_embedded" + target.suffix))
            images.save(written[-1], rendered)
        else:
            image = rendered
    images.save(target, image)
    return written


def main(argv):
    args = flags().parse_args(argv)
    if not 0 <= args.blur <= 0.5:
        raise ValueError(f"--blur {args.blur}: a share of the side, from 0 to 0.5")
    import torch

    began = time.time()
    device = session.device(args.device)
    torch.manual_seed(args.seed)
    G = checkpoints.load_generator(args.weight_file, device)
    optimises = args.command != "transfer" or args.embed
    args.perceptual = args.perceptual or G.meta["perceptual"] or "vgg16"
    distance = session.load_distance(args.perceptual, device) if optimises else None
    config = settings.Config(
        iteration=args.iteration,
        lr=args.lr,
        noise_iteration=args.noise_iteration,
        seed=args.seed,
        dtype=session.dtype(args.precision, device, G.resolution),
    )
    with cli.progress(args.iteration + args.noise_iteration, args.quiet or not optimises) as progress:
        found, image, said = COMMANDS[args.command](args, G, distance, config, progress)
    written = write(args, G, found, image, said, time.time() - began)
    if not args.quiet:
        print(*written)
    return 130 if found is not None and found.stopped == "Ctrl-C" else 0


if __name__ == "__main__":
    cli.run(main)
