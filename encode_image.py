"""Find the latent of aligned images: the W+ code whose rendering looks like the photograph (Image2StyleGAN).

    python encode_image.py --src_im aligned_images/me_01.png

For each image it writes latent_W/NAME.npy (float32 [1, L, 512]), NAME.json (settings, losses, PSNR, SSIM) and the
reconstruction save_image/encode/NAME.png. Without --src_im every image of --src_dir is encoded, --batch_size at a time.

Finer, with the noise maps (latent_W/NAME.noise.npz), as in Image2StyleGAN++:

    python encode_image.py --src_im aligned_images/me_01.png --noise_iteration 500

Fill in what is hidden: white in the mask must match, the rest is the generator's guess:

    python encode_image.py --src_im aligned_images/me_01.png --mask part:mouth --invert_mask --composite --noise_iteration 300
"""

import contextlib
import csv
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np

from editor import animation, checkpoints, cli, face, fast_conv, files, images, masks, projection, render, session, settings


def flags():
    config = settings.Config()
    p = cli.Parser(__doc__)
    p.add_argument("--src_im", help="an image: a name in --src_dir, or a path (default: all of --src_dir)")
    p.add_argument("--src_dir", default="source_image/", help="folder of aligned images")
    p.add_argument("--latent_dir", default="latent_W/", help="where latents go")
    p.add_argument("--save_dir", default="save_image/encode/", help="where reconstructions go")
    p.add_argument("--iteration", type=int, default=config.iteration, help="steps of the optimiser (default: %(default)s)")
    p.add_argument("--batch_size", default="1", metavar="N|auto", help="images optimised together; auto: as many as pay (default: 1)")
    p.add_argument(
        "--low_memory", action="store_true", help="keep less for the backward pass: less memory at high resolutions, a quarter more time"
    )
    p.add_argument("--resolution", type=int, help="checked against the generator")
    p.add_argument("--space", default=config.space, choices=settings.SPACES)
    p.add_argument(
        "--init",
        help=f"{', '.join([*settings.INITS, 'encoder'])}, or a latent or encoder file (default: encoder where there is one, else mean)",
    )
    p.add_argument("--lr", type=float, default=config.lr, help="Adam's learning rate (default: %(default)s)")
    p.add_argument("--schedule", default=config.schedule, choices=settings.SCHEDULES)
    p.add_argument("--lambda_mse", type=float, default=config.lambda_mse)
    p.add_argument("--lambda_percep", type=float, default=config.lambda_percep)
    p.add_argument("--perceptual", choices=session.DISTANCES, help="distance (default: what the generator's checkpoint names)")
    p.add_argument("--layers", help="W+ layers that may move, such as 0-8,11 (default: all; with --mask the first and last two)")
    p.add_argument("--noise_iteration", type=int, default=config.noise_iteration, help="then steps of the noise maps alone (default: 0)")
    p.add_argument("--noise_lr", type=float, default=config.noise_lr, help="their learning rate (default: %(default)s)")
    p.add_argument("--noise_layers", help="noise maps that may move, such as 4-8 (default: all that act)")
    p.add_argument("--lambda_noise", type=float, default=config.lambda_noise, help="holds the maps near the generator's own (default: 0)")
    p.add_argument("--joint", action="store_true", help="move the noise maps with the latent from the first step on")
    p.add_argument("--lambda_start", type=float, help="holds the latent near --init (default: 0; with --mask 1, near one w for all)")
    p.add_argument("--lambda_prior", type=float, default=config.lambda_prior, help="holds it where the mapping network puts w (default: 0)")
    p.add_argument("--mask", help="where the rendering must match, white: a picture, ellipse:cx,cy,rx,ry, box:x0,y0,x1,y1 or part:NAME")
    p.add_argument("--invert_mask", action="store_true", help="black must match instead")
    p.add_argument("--composite", action="store_true", help="save the photograph with only the masked-out part taken from the rendering")
    p.add_argument("--save_every", type=int, default=0, metavar="N", help="a picture every N steps, in SAVE_DIR/NAME_steps/")
    p.add_argument("--save_video", metavar="FILE.mp4", help="target and rendering side by side (several images: FILE_NAME.mp4)")
    p.add_argument("--compile", default="auto", choices=("on", "off", "auto"), help="torch.compile (default: auto, where it pays)")
    p.add_argument("--early_stop", action="store_true", help="stop when the loss no longer falls")
    p.add_argument("--resume", action="store_true", help="skip images whose latent is there already")
    p.add_argument("--force", action="store_true", help="take an --init latent of another generator")
    cli.add_model_flags(p)
    return p


def sources(args):
    """The images to encode."""
    if not args.src_im:
        return images.list_images(args.src_dir)
    return [images.find(args.src_im, args.src_dir)]


class Steps:
    """What --save_every and --save_video write on the way."""

    def __init__(self, args, names, targets, stack):
        self.names, self.args, self.targets = names, args, images.to_uint8(targets)
        self.videos = []
        if args.save_video:
            path = Path(args.save_video)
            paths = [path] if args.single else [path.with_name(f"{path.stem}_{n.stem}{path.suffix}") for n in names]
            self.videos = [stack.enter_context(animation.Animation(p, fps=20)) for p in paths]

    def show(self, step, rendered):
        for i, picture in enumerate(images.to_uint8(rendered.nan_to_num())):
            if self.args.save_every:
                images.save(Path(self.args.save_dir) / f"{self.names[i].stem}_steps" / f"{step:05}.png", picture)
            if self.videos:
                both = np.concatenate([self.targets[i], picture], axis=1)
                enlarged = max(1, 256 // len(picture))
                self.videos[i].add(both.repeat(enlarged, 0).repeat(enlarged, 1))


def settings_of(config):
    """A `settings.Config` as JSON holds it."""
    plain = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)} | {"dtype": str(config.dtype)}
    return {k: v if isinstance(v, (int, float, str, list, type(None))) else "file" for k, v in plain.items()}


def encode(G, distance, batch, config, args, bar):
    """Optimise one batch, [(path, image, mask or None)], and write its files; returns the table's rows and whether Ctrl-C ended it."""
    import torch

    device = G.w_avg.device
    names, targets = [path for path, _, _ in batch], torch.cat([image for _, image, _ in batch]).to(device)
    mask = torch.cat([m for _, _, m in batch]).to(device) if args.mask else None
    began = time.time()
    if args.encoder:
        with torch.no_grad():
            config = dataclasses.replace(config, init=fast_conv.image_by_image(args.encoder, targets, always=True))
    with contextlib.ExitStack() as stack:
        steps = Steps(args, names, targets, stack)
        goal = projection.Goal(targets, mask)
        found = projection.project(G, distance, goal, config, lambda step, losses: bar(step, losses.mean().item()), steps.show)
    seconds = (time.time() - began) / len(names)
    settings = settings_of(config) | {"init": args.init, "mask": args.mask, "invert_mask": args.invert_mask}
    rows = []
    for i, path in enumerate(names):
        noise = None if found.noise is None else [m[i : i + 1] for m in found.noise]
        with torch.no_grad():
            picture = images.to_uint8(G.synthesis(found.ws[i : i + 1], noise="const" if noise is None else noise))[0]
        target, known = images.to_uint8(targets[i : i + 1])[0], np.ones(picture.shape[:2])
        if mask is not None:
            known = mask[i, 0].cpu().numpy()
        psnr, ssim = render.measures(picture, target, known > 0.5)
        row = {"name": path.stem, "psnr": round(psnr, 2), "ssim": round(ssim, 4), "loss": round(float(found.loss[i]), 5),
               "steps": found.steps, "seconds": round(seconds, 1)}  # fmt: skip
        if found.diverged[i]:
            cli.warn(f"{path}: the loss stopped being finite; the best latent before that is kept (lower --lr?)")
        images.save(Path(args.save_dir) / f"{path.stem}.png", render.composite(picture, target, known) if args.composite else picture)
        info = row | {"source": str(path), "generator": str(G.meta["path"]), "generator_hash": G.meta["hash"],
                      "perceptual": args.perceptual, "settings": settings, "stopped": found.stopped, "toolkit": cli.__version__,
                      "torch": torch.__version__, "numpy": np.__version__}  # fmt: skip
        face.save(Path(args.latent_dir) / f"{path.stem}.npy", found.ws[i : i + 1], info, face.changed(noise, G))
        rows.append(row)
    return rows, found.stopped == "Ctrl-C"


def auto_batch(count, resolution, device):
    """How many images of `count` to optimise together: until the hardware is busy (benchmarks/README.md); memory is seen to by halving."""
    busy = (32 if device.type == "cuda" else 4) * 256**2 // resolution**2
    return max(1, min(count, busy, 64))


def encode_what_fits(G, distance, batch, config, args, bar):
    """`encode`, in halves where the batch does not fit into memory; later batches are then smaller too."""
    try:
        return encode(G, distance, batch, config, args, bar)
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises a plain one
        if not any(sign in str(error) for sign in ("out of memory", "not enough memory", "can't allocate memory")):
            raise
    if len(batch) == 1:
        advice = "a smaller generator, or another device" if args.low_memory else "--low_memory"
        raise ValueError(f"{batch[0][0]}: out of memory with a single image; try {advice}")
    half = (len(batch) + 1) // 2
    cli.warn(f"out of memory with {len(batch)} images at once; going on with {half}")
    args.batch_size, rows, stopped = half, [], False
    for part in (batch[:half], batch[half:]):
        if not stopped:
            done, stopped = encode_what_fits(G, distance, part, config, args, bar)
            rows += done
    return rows, stopped


def write_table(rows, folder):
    with files.atomic(Path(folder) / "metrics.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, rows[0].keys())
        table.writeheader()
        table.writerows(rows)


def check(args):
    """Raise ValueError for flags that do not go together."""
    if args.batch_size != "auto" and not (args.batch_size.isdecimal() and int(args.batch_size) > 0):
        raise ValueError(f"--batch_size {args.batch_size}: 1 or more, or auto")
    if args.save_every < 0:
        raise ValueError(f"--save_every {args.save_every}: 0 or more steps")
    for name in ("composite", "invert_mask"):
        if getattr(args, name) and not args.mask:
            raise ValueError(f"--{name} needs --mask")


def start(args, G, device):
    """`--init` -> (what `settings.Config` takes, encoder or None)."""
    if args.init is None:  # an encoder's guess needs the whole face
        args.init = "encoder" if checkpoints.has_encoder(G) and not args.mask and args.space != "z" else "mean"
        args.init = "z" if args.space == "z" else args.init
    if args.init == "encoder" or args.init.endswith(".safetensors"):
        path = checkpoints.BUNDLED["encoder"] if args.init == "encoder" else args.init
        return "mean", checkpoints.load_encoder(path, G, device)
    return args.init if args.init in settings.INITS else face.load(args.init, G, args.force), None


def configure(args, G, device, init):
    """The flags as a `settings.Config`."""
    total = args.iteration + args.noise_iteration
    dtype = session.dtype(args.precision, device, G.resolution)
    config = settings.Config(
        iteration=args.iteration, space=args.space, init=init, lr=args.lr, schedule=args.schedule, lambda_mse=args.lambda_mse,
        lambda_percep=args.lambda_percep, lambda_prior=args.lambda_prior, noise_iteration=args.noise_iteration,
        noise_lr=args.noise_lr, noise_layers=face.layer_range(args.noise_layers, G.num_ws) if args.noise_layers else None,
        lambda_noise=args.lambda_noise, joint=args.joint, early_stop=1e-3 if args.early_stop else 0.0, seed=args.seed,
        show_every=args.save_every or (max(1, total // 100) if args.save_video else 0), dtype=dtype,
        compile=session.compiles(args.compile, device, dtype, G.resolution, total), low_memory=args.low_memory,
    )  # fmt: skip
    if args.mask and args.space == "w+":
        config = dataclasses.replace(config, **projection.inpainting(G, args.iteration))
    if args.layers:
        config.layers = face.layer_range(args.layers, G.num_ws)
    if args.lambda_start is not None:
        config.lambda_start = args.lambda_start
    return config


def main(argv):
    args = flags().parse_args(argv)
    check(args)
    paths = sources(args)
    import torch
    from tqdm import tqdm

    device = session.device(args.device)
    torch.manual_seed(args.seed)
    G = checkpoints.load_generator(args.weight_file, device)
    if args.resolution not in (None, G.resolution):
        raise ValueError(f"--resolution {args.resolution}: this generator makes {G.resolution}x{G.resolution}")
    args.perceptual = args.perceptual or G.meta["perceptual"] or "vgg16"
    distance = session.load_distance(args.perceptual, device)
    init, args.encoder = start(args, G, device)
    config = configure(args, G, device, init)
    if args.resume:
        paths = [p for p in paths if not (Path(args.latent_dir) / f"{p.stem}.npy").is_file()]
    args.single = len(paths) == 1
    args.batch_size = auto_batch(len(paths), G.resolution, device) if args.batch_size == "auto" else int(args.batch_size)
    if not args.quiet:
        chosen = f"{str(config.dtype).removeprefix('torch.')}, compile {'on' if config.compile else 'off'}, batches of {args.batch_size}"
        print(f"{device.type}: {chosen}", file=sys.stderr)
    if args.mask and not masks.needs_picture(args.mask):
        masks.read(args.mask, G.resolution)  # a mask that cannot be read ends the run now, not once for each image
    failures, rows, batch, stopped = cli.Failures(single=args.single), [], [], False
    total = args.iteration + args.noise_iteration
    progress = tqdm(total=len(paths) * total, disable=args.quiet, unit="step", file=sys.stderr)
    for position, path in enumerate(paths):
        with failures.catch(path):
            image = images.load(path, G.resolution)
            mask = masks.read(args.mask, G.resolution, image, args.invert_mask) if args.mask else None
            if mask is not None and mask.max() <= 0.5:
                raise ValueError(f"--mask {args.mask}: leaves nothing that must match; white is what must (--invert_mask swaps)")
            batch.append((path, image, mask))
        if batch and (len(batch) >= args.batch_size or position == len(paths) - 1):
            base, count = progress.n, len(batch)

            def bar(step, loss, base=base, count=count):
                progress.n = base + (step + 1) * count
                progress.set_postfix(loss=f"{loss:.4f}", refresh=False)
                progress.update(0)

            done, stopped = encode_what_fits(G, distance, batch, config, args, bar)
            rows, batch = rows + done, []
            if stopped:
                break
    progress.close()
    return report(rows, stopped, args) or failures.exit_code


def report(rows, stopped, args):
    """Write and print the table; returns the exit code of a run that Ctrl-C ended, else 0."""
    if rows:
        write_table(rows, args.save_dir)
    if not args.quiet:
        for row in rows:
            print(f"{row['name']:30} PSNR {row['psnr']:5.2f} dB  SSIM {row['ssim']:.3f}  {row['seconds']:.1f} s")
    if stopped:
        print(f"stopped with Ctrl-C: the best latents so far are in {args.latent_dir}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    cli.run(main)
