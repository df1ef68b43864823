"""Find the latent of aligned images whose rendering looks like the photograph, and tune the generator around it.

    python encode_image.py --src_im aligned_images/me_01.png

For each image it writes the reconstruction save_image/encode/NAME.png, latent_W/NAME.npy (float32 [1, L, 512]), what the weights
are changed by (NAME.tuned.safetensors) and NAME.json (settings, losses, PSNR, SSIM). Without --src_im every image of --src_dir is
encoded that is not done already (--redo: all), --batch_size at a time, by --workers N processes, --devices cuda:0,cuda:1 or several
machines (--shard 1/2); save_image/encode/runs.jsonl says what became of each, metrics.csv how good it is.

The latent stays near one w, where edits work, and the generator's weights learn what it misses (pivotal tuning, Roich et al. 2021).
A latent that is free in W+ (Image2StyleGAN) comes near without tuning, but melts when it is edited:

    python encode_image.py --src_im aligned_images/me_01.png --preset exact

Finer, with the noise maps (latent_W/NAME.noise.npz), as in Image2StyleGAN++:

    python encode_image.py --src_im aligned_images/me_01.png --noise_iteration 500

Fill in what is hidden (NAME_fill_MASK): white in the mask must match, the rest is the generator's guess:

    python encode_image.py --src_im aligned_images/me_01.png --mask part:mouth --invert_mask --composite --noise_iteration 300
"""

import argparse
import contextlib
import dataclasses
import os
import shlex
from pathlib import Path

from editor import cli, files, settings

FILES = (".npy", ".npz", ".pt", ".safetensors")  # of --init
DIVIDES = ("workers", "devices", "ray", "shard")
OF_A_FOLDER = (*DIVIDES, "redo", "retry")


def flags():
    config = settings.Config()
    weight = cli.number(float, 0)
    p = cli.Parser(__doc__)
    p.add_argument("--src_im", metavar="IMAGE", help="an image: a name in --src_dir, or a path (default: all of --src_dir)")
    p.add_argument("--src_dir", metavar="DIR", help="folder of aligned images (default: aligned_images/, else source_image/)")
    p.add_argument("--latent_dir", default="latent_W/", metavar="DIR", help="where latents go (default: %(default)s)")
    p.add_argument("--save_dir", default="save_image/encode/", metavar="DIR", help="where reconstructions go (default: %(default)s)")
    presets = "; ".join(f"{name}: {what}" for name, what in settings.PRESET_HELP.items())
    p.add_argument(
        "--preset", choices=settings.PRESETS,
        help=f"defaults of the flags below. {presets} (default: editable; exact with --mask, --layers, --joint or --init FILE, which say "
        "what is to be found)",
    )  # fmt: skip
    cli.add_embedding_flags(p, None)
    p.add_argument("--w_iteration", type=cli.number(int, 0), help="before them, steps with one w for all layers (default: the preset's)")
    cli.add_tuning_flags(p)
    p.add_argument("--batch_size", type=batch_size, default="auto", metavar="N|auto", help="images at a time (default: auto, what pays)")
    p.add_argument("--unaligned", action="store_true", help="StyleGAN3: the face as it lies in a square picture, by turning its input")
    p.add_argument("--resolution", type=int, help="side of the generator's pictures in pixels; checked against the generator")
    p.add_argument(
        "--space", default=config.space, choices=settings.SPACES, help="; ".join(f"{k}: {v}" for k, v in settings.SPACES.items())
    )
    p.add_argument(
        "--init", metavar="WORD|FILE", help=f"{', '.join([*settings.INITS, 'encoder'])}, or a latent (its noise maps with it) or encoder "
        "file (default: encoder where there is one, else mean)",
    )  # fmt: skip
    p.add_argument("--lr", type=cli.number(float, above=0), help=f"Adam's learning rate (default: {config.lr})")
    p.add_argument("--schedule", choices=settings.SCHEDULES, help=f"of the learning rate (default: {config.schedule})")
    p.add_argument("--lambda_mse", type=weight, default=config.lambda_mse, help="weight of the squared error (default: %(default)s)")
    p.add_argument("--lambda_percep", type=weight, default=config.lambda_percep, help="weight of the distance (default: %(default)s)")
    p.add_argument("--coarse", type=cli.number(float, 0, most=1), help="share of first steps at half the side (default: the preset's)")
    p.add_argument("--layers", help="W+ layers that may move, such as 0-8,11 (default: all; with --mask the first and last two)")
    p.add_argument("--noise_iteration", type=cli.number(int, 0), default=0, help="then steps of the noise maps alone (default: 0)")
    p.add_argument("--noise_lr", type=cli.number(float, above=0), default=config.noise_lr, help="their rate (default: %(default)s)")
    p.add_argument("--noise_layers", help="noise maps that may move, such as 4-8 (default: all that act)")
    p.add_argument("--lambda_noise", type=weight, default=0.0, help="holds the maps near those they start from (default: 0)")
    p.add_argument("--joint", action="store_true", help="move the noise maps with the latent from the first step on")
    p.add_argument("--lambda_start", type=weight, help="holds the latent near --init (default: 0; with --mask 1, near one w for all)")
    p.add_argument("--lambda_prior", type=weight, help="holds it where the mapping network puts w (default: the preset's)")
    p.add_argument("--lambda_cosine", type=weight, help="holds each layer's style where styles point (default: the preset's)")
    p.add_argument("--mask", help="where the rendering must match, white: a picture, ellipse:cx,cy,rx,ry, box:x0,y0,x1,y1 or part:NAME")
    p.add_argument("--invert_mask", action="store_true", help="black must match instead")
    p.add_argument("--composite", action="store_true", help="save the photograph with only the masked-out part taken from the rendering")
    p.add_argument("--save_every", type=cli.number(int, 0), default=0, metavar="N", help="a picture every N steps, in SAVE_DIR/NAME_steps/")
    p.add_argument("--save_video", metavar="FILE.mp4", help="target and rendering side by side (of a folder: FILE_NAME.mp4)")
    p.add_argument("--early_stop", action="store_true", help="stop when the loss no longer falls")
    p.add_argument("--resume", action="store_true", help="skip what is done alike: photograph, generator, settings (default of a folder)")
    cli.add_folder_flags(p)
    cli.add_worker_flags(p)
    cli.add_face_flags(p)
    cli.add_model_flags(p)
    return p


def settled(args):
    """The flags with what the preset says of those that were not given.

    Raises:
        ValueError: flags of the tuning where nothing is tuned.
    """
    free = args.mask or args.layers or args.joint or (args.init or "").endswith(FILES)
    preset = args.preset or ("exact" if free else "editable")
    chosen = {"lr": settings.Config.lr, "schedule": settings.Config.schedule} | settings.PRESETS[preset]
    if args.space != "w+":  # one stage: its steps take the first one's place too
        chosen |= {"iteration": chosen["iteration"] + chosen["w_iteration"], "w_iteration": 0}
    found = argparse.Namespace(**vars(args) | {k: v for k, v in chosen.items() if getattr(args, k) is None})
    cli.require_default(flags(), args, ("tuned_strength",), "is of what reads faces; here the weights are found")
    if found.w_iteration and args.space != "w+":
        raise ValueError(f"--w_iteration is of --space w+; --space {args.space} has --iteration")
    if found.w_iteration and not found.iteration:
        cli.require_default(flags(), args, ("layers", "joint", "lambda_start"), "of the steps after --w_iteration; give --iteration N")
    if not found.tune:
        cli.require_default(flags(), args, ("tune_form", "tune_lr", "tune_locality", "tune_until", "tune_together"), "needs --tune N")
    return found


def batch_size(text):
    """--batch_size -> a number, or "auto"."""
    return text if text == "auto" else cli.number(int, 1)(text)


# ---------------------------------------------------------------------------------------------------------------------
# One photograph's files


@dataclasses.dataclass
class Photo:
    """A photograph to encode: its file, the pixels [1, 3, R, R] in [-1, 1], the mask [1, 1, R, R] or None, and where its results go."""

    path: Path
    image: object
    mask: object
    latent: Path
    picture: Path
    place: object = None  # --unaligned: `Session.place`
    item: object = None  # folder.Item
    content: tuple = ()  # sha256 of the file that was read, and `placed_by`


def result_name(path, args):
    """NAME; with a mask NAME_fill_MASK, since what is filled in must not replace the embedding."""
    from editor import masks

    return f"{path.stem}_fill_{masks.name(args.mask)}" if args.mask else path.stem


def sources(path, args):
    """The files that a result is made of, as its record names them."""
    return {"image": path} | ({"mask": args.mask} if args.mask and Path(args.mask).is_file() else {})


def destination(path, args):
    """Where a photograph's latent and picture go."""
    name = result_name(path, args)
    return Path(args.latent_dir) / f"{name}.npy", Path(args.save_dir) / f"{name}.png"


def read_mask(args, G, image=None):
    """--mask as [1, 1, R, R] in 0..1: 1 where the rendering must match."""
    from editor import masks

    mask = masks.read(args.mask, G.resolution, image, args.invert_mask, turned=G.kind == "stylegan3")
    if mask.max() <= 0.5:
        raise ValueError(f"--mask {args.mask}: leaves nothing that must match; white is what must (--invert_mask swaps)")
    return mask


def read(item, args, session, owners):
    """A photograph, checked with all that its results need; owners: {name of a picture in --save_dir: its latent's file}."""
    from editor import face, folder
    from editor.session import claim, content_hash

    path = item.path
    latent, picture = destination(path, args)
    content, image = (content_hash(path), placed_by(path, args)), session.photo(path, args.unaligned)
    mask = read_mask(args, session.G, image) if args.mask else None
    files.check_writable(*face.outputs(latent), picture)
    with folder.of_the_moment():
        owner = owners.get(picture.stem, "")
        ours = os.path.abspath(owner) == os.path.abspath(latent)
        claim(latent, sources(path, args), ours)
        if os.path.isfile(owner) and not ours:
            raise ValueError(f"{picture}: the picture of {owner}; give another --save_dir than that one's")
    return Photo(path, image, mask, latent, picture, session.place(path) if args.unaligned else None, item, content)


class Steps:
    """What --save_every and --save_video write on the way; an animation begins with its first frame and ends well with Ctrl-C, too.

    What cannot be written (a full disk) must not cost the latents: it is kept in `error`, and nothing more is shown.
    """

    def __init__(self, args, photos, stack):
        from editor import animation

        self.args, self.photos, self.stack, self.videos, self.error = args, photos, stack, {}, None
        for photo in photos if args.save_every else ():
            animation.remove_steps(photo.picture)

    def show(self, first, step, rendered):
        """Images [N, 3, R, R] of the photographs from number `first` on."""
        from editor import images

        if self.error is None:
            try:
                for photo, picture in zip(self.photos[first:], images.to_uint8(rendered.nan_to_num()), strict=False):
                    self.show_one(photo, step, picture)
            except (OSError, ValueError) as error:
                self.error = error

    def show_one(self, photo, step, picture):
        """One rendering, uint8 [R, R, 3], as a picture and as a frame."""
        import numpy as np

        from editor import animation, images

        if self.args.save_every:
            animation.save_step(photo.picture, step, picture)
        if self.args.save_video:
            if photo.path not in self.videos:
                self.videos[photo.path] = self.stack.enter_context(animation.Animation(video(photo.path, self.args), fps=20))
            both = np.concatenate([images.to_uint8(photo.image)[0], picture], axis=1)
            enlarged = max(1, 256 // len(picture))
            self.videos[photo.path].add(both.repeat(enlarged, 0).repeat(enlarged, 1))


def video(path, args):
    """Where the animation of a photograph goes: FILE.mp4, of a folder FILE_NAME.mp4."""
    file = Path(args.save_video)
    return file if args.src_im else file.with_name(f"{file.stem}_{result_name(path, args)}{file.suffix}")


def write(photo, found, i, args, session, chosen):
    """The picture, the latent and the record of the i-th image of a `projection.Projection`; returns what the record says.

    Raises:
        ValueError: its loss stopped being finite; the photograph's file is another one by now.
    """
    import numpy as np

    from editor import face, images, render, tuning
    from editor.session import DIVERGED, content_hash

    if found.diverged[i]:
        raise ValueError(DIVERGED.format(steps=found.steps))
    if (content_hash(photo.path), placed_by(photo.path, args)) != photo.content:
        raise OSError(f"{photo.path}: another picture than when it was read, or another record beside it; nothing was written; run again")
    noise = None if found.noise is None else [m[i : i + 1] for m in found.noise]
    person = face.Face(found.ws[i : i + 1], noise, found.tuned and found.tuned[i])
    picture, target = render.one(session.G, person, session.dtype), images.to_uint8(photo.image)[0]
    known = np.ones(picture.shape[:2]) if photo.mask is None else photo.mask[0, 0].cpu().numpy()
    psnr, ssim = render.measures(picture, target, known > 0.5)
    info = session.record(
        "encode_image.py", sources(photo.path, args), name=photo.latent.stem, psnr=round(psnr, 2), ssim=round(ssim, 4),
        loss=round(float(found.loss[i]), 5), steps=found.steps, seconds=round(found.seconds, 1), stopped=found.stopped,
        **expected(args, session, chosen, photo.path), history=found.curve(i),
        complete=found.interrupted is None,
    )  # fmt: skip
    shown = render.composite(picture, target, known) if args.composite else picture
    session.write(photo.picture, shown, person, info, photo.latent)
    if args.tune and set(person.tuned or {}) <= {tuning.TRANSFORM} and not found.interrupted:
        session.remarks.append(f"{photo.latent}: no step of the weights came nearer to the photograph, and none are saved; lower --tune_lr")
    return info


# ---------------------------------------------------------------------------------------------------------------------
# What was asked, what is done


def configure(args, session):
    """The flags as a `settings.Config`, the encoder to start from or None, a `settings.Tuning`, and what the record keeps of them all."""
    from editor import face, projection

    num_ws = session.G.num_ws
    if args.unaligned and session.G.kind != "stylegan3":
        raise ValueError("--unaligned turns and shifts StyleGAN3's input; for this generator cut faces out with align_images.py")
    total = args.w_iteration + args.iteration + args.tune + args.noise_iteration
    start, encoder = session.start(args.init, args.space, whole=not args.mask)
    config = settings.Config(
        iteration=args.iteration, w_iteration=args.w_iteration, space=args.space, lr=args.lr, schedule=args.schedule,
        lambda_mse=args.lambda_mse, lambda_percep=args.lambda_percep, lambda_prior=args.lambda_prior, lambda_cosine=args.lambda_cosine,
        noise_iteration=args.noise_iteration, noise_lr=args.noise_lr,
        noise_layers=face.layer_range(args.noise_layers, num_ws) if args.noise_layers else None, lambda_noise=args.lambda_noise,
        joint=args.joint, coarse=0.0 if args.mask else args.coarse, betas=settings.BETAS.get(args.preset, settings.Config.betas),
        early_stop=1e-3 if args.early_stop else 0.0, seed=args.seed, low_memory=args.low_memory,
        show_every=args.save_every or (max(1, total // 100) if args.save_video else 0), **start,
    )  # fmt: skip
    if args.mask and args.space == "w+":
        hole = projection.inpainting(session.G, args.iteration)
        given = {"w_iteration": args.w_iteration, "iteration": args.iteration} if args.w_iteration else {}
        config = dataclasses.replace(config, **hole | given)
    if args.layers:
        config = dataclasses.replace(config, layers=face.layer_range(args.layers, num_ws))
    if args.lambda_start is not None:
        config.lambda_start = args.lambda_start
    tuning = settings.Tuning(steps=args.tune, form=args.tune_form, lr=args.tune_lr, locality=args.tune_locality, until=args.tune_until)
    return config, encoder, tuning, remembered(config, encoder, tuning, args, session)


def remembered(config, encoder, tuning, args, session):
    """The settings that make a result what it is, as JSON holds them; files by their content, not by their name."""
    from editor import face

    plain = {k: v for k, v in dataclasses.asdict(dataclasses.replace(config, init="mean", noise="const")).items() if k not in PASSING}
    init = "encoder" if encoder else config.init
    if args.init and Path(args.init).is_file():
        init, noise = args.init, face.noise_path(args.init)
        init = [files.file_hash(init), files.file_hash(noise) if config.noise != "const" and noise.is_file() else None]
    mask = files.file_hash(args.mask) if args.mask and Path(args.mask).is_file() else args.mask
    return plain | {
        "tuning": dataclasses.asdict(tuning) | {"together": args.tune_together} if tuning.steps else None,
        "init": init,
        "mask": mask,
        "invert_mask": args.invert_mask,
        "composite": args.composite,
        "perceptual": session.perceptual,
        **session.said_class,
        **({"unaligned": True} if args.unaligned else {}),
    }


PASSING = ("dtype", "compile", "capture", "low_memory", "show_every", "check_every", "noise")  # settings that do not make another result


def expected(args, session, chosen, path):
    """What a record says besides its sources where --resume may skip its photograph."""
    return {"settings": chosen} | ({} if args.precision == "auto" else {"precision": session.dtype_name}) | placed_by(path, args)


def placed_by(path, args):
    """With --unaligned {"placed_by": sha256 of the record beside a picture, whose landmarks say how the face lies}; else {}."""
    beside = path.with_suffix(".json")
    return {"placed_by": files.file_hash(beside) if beside.is_file() else None} if args.unaligned else {}


def done_again(item, args):
    """A record's figures, for a line that a killed run left out of runs.jsonl."""
    from editor import face

    latent, _ = destination(item.path, args)
    return figures(face.record(latent), latent)


def figures(said, latent):
    """What a line of runs.jsonl keeps of a record."""
    kept = {key: said.get(key) for key in ("psnr", "ssim", "loss", "steps", "seconds")}
    return kept | {"latent": os.path.abspath(latent)}


# ---------------------------------------------------------------------------------------------------------------------
# The command


def auto_batch(count, resolution, device):
    """How many images of `count` to optimise together: until the hardware is busy (benchmarks/README.md); memory is seen to by halving."""
    busy = (32 if device.startswith("cuda") else 4) * 256**2 // resolution**2
    return max(1, min(count, busy, 64))


def check(args, paths):
    """Raise ValueError for flags that do not go together, and for results that would replace inputs or each other."""
    for name in ("composite", "invert_mask"):
        if getattr(args, name) and not args.mask:
            raise ValueError(f"--{name} needs --mask")
    if args.src_im:
        cli.require_default(flags(), args, OF_A_FOLDER, "of a folder, and --src_im names one image")
    if args.tune_together:
        cli.require_default(flags(), args, DIVIDES, "divides what --tune_together keeps together")
    for name in ("noise_layers", "lambda_noise"):
        if getattr(args, name) and not (args.joint or args.noise_iteration):
            raise ValueError(f"--{name} needs --noise_iteration or --joint: no noise map moves otherwise")
    cli.require_different_names(paths, "latents and pictures")
    for flag in ("latent_dir", "save_dir"):
        folder = Path(getattr(args, flag)).resolve()  # where a photograph lies, and where the link to one does
        inside = [path for path in paths if folder in (path.resolve().parent, path.parent.resolve())]
        if inside:
            raise ValueError(
                f"--{flag} {getattr(args, flag)}: the folder of {inside[0].name}, whose files results would replace; give another"
            )
    check_shown(args, paths)


def check_shown(args, paths):
    """Raise ValueError for what --save_every and --save_video cannot write, or that would replace something else or be taken for it."""
    from editor import animation, images

    for path in paths if args.save_every else ():
        animation.require_own_steps(destination(path, args)[1])
    taken = {Path(one).resolve() for path in paths for one in (*sources(path, args).values(), destination(path, args)[1])}
    for file in (video(path, args) for path in paths if args.save_video):
        animation.Animation(file)  # a bad ending is said at once
        if file.resolve() in taken:
            raise ValueError(f"--save_video {file}: would replace a photograph, or its picture, or the mask; give another name")
        if file.suffix.lower() in images.suffixes() and file.resolve().parent == paths[0].resolve().parent:
            raise ValueError(f"--save_video {file}: in the photographs' folder, and would be taken for one; write it elsewhere, or as .mp4")
        animation.require_replaceable(file)
        files.check_writable(file)


def stages(config, tuning):
    """What is done for an image, in words."""
    first = f"{config.iteration} of {'W+' if config.space == 'w+' else config.space}"
    every = [(config.w_iteration, f"{config.w_iteration} of one w"), (config.iteration, first)]
    every += [(tuning.steps, f"{tuning.steps} of the weights (each two to three times as long)")]
    every += [(config.noise_iteration, f"{config.noise_iteration} of the noise")]
    return "steps for an image: " + (", ".join(words for steps, words in every if steps) or "none")


class Work:
    """What encodes batches of photographs, one in each process that does; what becomes of them is told, not printed (`folder.Run`)."""

    def __init__(self, args, session=None):
        from editor import folder
        from editor import session as sessions

        self.args, self.session = args, session or sessions.open(args)
        self.config, self.encoder, self.tuning, self.chosen = configure(args, self.session)
        self.steps = max(1, self.config.steps + self.tuning.steps)  # an image
        auto = auto_batch(1 << 30, self.session.G.resolution, self.session.device.type)
        self.size = auto if args.batch_size == "auto" else args.batch_size  # images that fit together
        self.owners = {row["name"]: row["latent"] for row in folder.table_rows(args.save_dir)}
        self.places = folder.Places(args.latent_dir, args.save_dir)
        self.stopping = False  # whether to keep the best so far and end
        self.session.distance()  # read, or downloaded, before the bar starts

    def why(self, item):
        """Why a photograph is to be encoded (again), None where its record says that it is done."""
        from editor import animation, folder

        now = expected(self.args, self.session, self.chosen, item.path)
        picture = destination(item.path, self.args)[1]
        if self.args.save_video and not video(item.path, self.args).is_file():
            return "its animation is not there"
        if self.args.save_every and not animation.steps_of(picture).is_dir():
            return "its pictures on the way are not there"
        return folder.why_again(*destination(item.path, self.args), item.sources, now, self.session.G, what="the photograph")

    def remarks(self, tell):
        while self.session.remarks:
            tell("warn", self.session.remarks.pop(0))

    def batch(self, items, tell):
        """Read, encode and write; raises KeyboardInterrupt once the best so far is written."""
        from editor import folder

        photos = []
        for item in items:
            self.places.check(item.path.parent)
            with folder.caught(item, tell, self.args.src_im):
                photos.append(read(item, self.args, self.session, self.owners))
            self.remarks(tell)
            if self.stopping:
                raise KeyboardInterrupt
        if photos:
            self.encode(photos, len(items) - len(photos), tell)

    def encode(self, photos, failed, tell):
        """Optimise a batch and write its files; `failed` of its photographs could not be read."""
        import torch

        from editor import parallel, projection

        device, stopped = self.session.device, None
        masks = None if photos[0].mask is None else torch.cat([photo.mask for photo in photos]).to(device)
        places = torch.stack([photo.place for photo in photos]) if self.args.unaligned else None
        goal = projection.Goal(torch.cat([photo.image for photo in photos]).to(device), masks, transform=places)
        with contextlib.ExitStack() as stack:
            shown = Steps(self.args, photos, stack)

            def bar(steps, losses):
                tell("steps", failed * self.steps + steps, losses.mean().item())
                if self.stopping:
                    raise KeyboardInterrupt

            parts = self.session.embed(
                goal, self.config, self.encoder, min(self.size, len(photos)), bar, shown.show, lambda text: tell("warn", text),
                self.tuning, self.args.tune_together,
            )  # fmt: skip
            part = next(parts, None)
            while part:
                first, last, found = part
                self.size = min(self.size, last - first) if last < len(photos) and last - first > 1 else self.size
                stopped = stopped or found.interrupted
                try:
                    with cli.kept_whole():
                        self.write(photos[first:last], found, tell)
                    part = next(parts, None)
                except KeyboardInterrupt as error:  # while a result was written: what is found of others is written, too
                    stopped, part = error, parallel.thrown_in(parts, error)
            self.finish(shown, stack, tell)
        if stopped:
            raise stopped

    def finish(self, shown, stack, tell):
        """The animations end; what could not be written of them is told."""
        try:
            try:
                stack.close()
            finally:
                if shown.error:
                    raise shown.error
        except (ValueError, OSError) as error:
            tell("trouble", self.args.save_video or self.args.save_dir, cli.one_line(error))
            if self.args.src_im:
                raise

    def write(self, photos, found, tell):
        """The files of a batch's results, and what became of them."""
        from editor import folder

        for i, photo in enumerate(photos):
            self.places.check()
            with folder.caught(photo.item, tell, self.args.src_im):
                now = expected(self.args, self.session, self.chosen, photo.path)
                known = photo.latent, photo.picture, sources(photo.path, self.args), now, self.session.G
                if found.interrupted and (what := folder.stays(*known, steps=found.steps)):
                    tell("say", f"{photo.latent}: stopped before its end; {what} of an earlier run stays")
                    continue
                said = write(photo, found, i, self.args, self.session, self.chosen)
                tell("outcome", photo.item, "stopped" if found.interrupted else "done", figures(said, photo.latent))
                line = f"{said['name']}: PSNR {said['psnr']:.2f} dB, SSIM {said['ssim']:.3f}, {said['seconds']:.1f} s"
                tell("written", [photo.latent, photo.picture], line)
                self.remarks(tell)


def planned(items, args, work, journal):
    """What of the photographs is to do."""
    from editor import folder

    single = bool(args.src_im)
    return folder.plan(
        items, journal, work.why, redo=args.redo or (single and not args.resume), retry=args.retry or single,
        together="shares its weights with those to do" if args.tune_together else None,
    )  # fmt: skip


def divided(items, args, work, devices):
    """The photographs in batches; `devices`: those of the processes that work on them, none: this one does."""
    from editor import batches

    kind = devices[0] if devices else work.session.device.type
    size = auto_batch(len(items), work.session.G.resolution, kind) if args.batch_size == "auto" else args.batch_size
    if args.batch_size == "auto" and devices:
        size = min(size, -(-len(items) // len(devices)))
    return batches.of(items, max(1, len(items) if args.tune_together else size))


def main(argv):
    args = settled(flags().parse_args(argv))
    from editor import coarse, folder, images, masks, workers
    from editor import session as sessions

    if args.src_im:
        paths = [sessions.aligned_image(args.src_im, args.src_dir)]
    else:
        paths = images.list_images(sessions.aligned_folder(args.src_dir))
        for line in images.left_out(paths[0].parent):
            cli.warn(f"{paths[0].parent}: {line}")
    check(args, paths)
    folder.require_own_table(args.save_dir)
    files.check_writable(Path(args.save_dir) / "metrics.csv", Path(args.latent_dir) / "check.npy")
    devices = workers.devices(args)
    session = sessions.open(argparse.Namespace(**vars(args) | {"device": "cpu"}) if devices else args)
    if args.resolution not in (None, session.G.resolution):
        raise ValueError(f"--resolution {args.resolution}: this generator makes {session.G.resolution}x{session.G.resolution}")
    if args.mask and not masks.needs_picture(args.mask):
        read_mask(args, session.G)  # a mask that cannot be read ends the run now, not once for each image
    work, journal = Work(args, session), folder.Journal(args.save_dir)
    run = folder.Run(args, journal, "encode_image.py", single=bool(args.src_im), steps=work.steps)
    if args.tune_together:  # with others it would be another result
        work.chosen["tuning"]["together"] = folder.everyone(paths)
    made_by = {"generator_hash": session.G.meta["hash"]}
    marks = [expected(args, session, work.chosen, path) | made_by for path in paths]
    items = [folder.Item(result_name(path, args), path, sources(path, args), mark) for path, mark in zip(paths, marks, strict=True)]
    items = folder.of_shard(items, args.shard)
    found = planned(items, args, work, journal)
    session.images = len(found.left)
    batches = divided(found.left, args, work, devices)
    opener, known = ("encode_image", "Work"), lambda item: done_again(item, args)
    run.start(found, known)
    if not args.quiet and batches:
        cli.warn_of(session)
        how = f"{session.device.type}: {session.formats}, {session.way(work.config)}"
        how = f"{len(devices)} {'actors' if args.ray else 'processes'}" if devices else how
        cli.say(f"{how}, batches of {max(map(len, batches))}; {stages(work.config, work.tuning)}")
    if batches and coarse.missing(session.G, work.config):  # here, so that processes with a part each find it there
        if not args.quiet:
            cli.say("once for this generator: finding what its pictures of half the side show (--coarse 0 does without)")
        coarse.found(session.G)
    folders = {str(paths[0].parent): False, args.latent_dir: True, args.save_dir: True}
    try:
        with run.shown(len(found.left), args.quiet):
            workers.share(opener, args, work, batches, run, known, folders, args.latent_dir)
    finally:
        folder.write_table(args.save_dir)
    if not args.src_im and not args.quiet:
        cli.say(f"all of it as a page: make_report.py {shlex.quote(args.save_dir)}")
    return run.failures.exit_code


if __name__ == "__main__":
    cli.run(main)
