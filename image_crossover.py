"""Cross two faces: mix their latents by layer (style transfer), or join two photographs along a mask (Image2StyleGAN++).

    python image_crossover.py --latent_file1 latent_W/content_01.npy --latent_file2 latent_W/style_01.npy

gives the second's colours and finish to the first's face: the style's --layers (default: the finer half) replace the content's.
Several files for each flag make a sheet of all contents in all styles. It writes --out .png and .npy.

    python image_crossover.py --src_im1 a_01.png --src_im2 b_01.png --mask box:0,0,0.5,1 --noise_iteration 500

finds one latent, and noise maps, that look like the first image where the mask is white and like the second where it is black.
"""

import sys
import time
from pathlib import Path

from editor import checkpoints, cli, face, images, masks, projection, render, session, settings

DEFAULT_OUT = "save_image/crossover/mix"


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("--latent_file1", metavar="CONTENT", nargs="+", help="latents that give the face: pose, shape, features")
    p.add_argument("--latent_file2", metavar="STYLE", nargs="+", help="latents that give colour, light and finish")
    p.add_argument("--layers", help="layers taken from the style, such as 0-8,12 (default: the finer half)")
    p.add_argument("--src_im1", metavar="IMAGE", help="aligned image shown where the mask is white: a name in --src_dir, or a path")
    p.add_argument("--src_im2", metavar="IMAGE", help="aligned image shown where it is black")
    p.add_argument("--src_dir", default="source_image/", help="folder of aligned images (default: %(default)s)")
    p.add_argument("--mask", help="white: from image 1; black: from image 2. A picture, ellipse:cx,cy,rx,ry, box:x0,y0,x1,y1, or part:NAME")
    p.add_argument("--invert_mask", action="store_true", help="black: from image 1")
    p.add_argument("--blur", type=float, default=0.06, help="softening of the mask's edge, a share of the side (default: %(default)s)")
    p.add_argument("--iteration", type=int, default=1500, help="steps of the optimiser, for images (default: %(default)s)")
    p.add_argument("--noise_iteration", type=int, default=0, help="then steps of the noise maps alone, for images (default: 0)")
    p.add_argument("--perceptual", choices=session.DISTANCES, help="distance, for images (default: what the checkpoint names)")
    p.add_argument("--out", default=DEFAULT_OUT, help="name of the results, without ending (default: %(default)s)")
    p.add_argument("--force", action="store_true", help="take latents that another generator of this shape made")
    cli.add_noise_flag(p)
    cli.add_model_flags(p)
    return p


def named(out):
    """`--out` -> (picture, latent): a .png or .npy that was typed is left off first."""
    stem = out[:-4] if out.lower().endswith((".png", ".npy")) else out
    return Path(stem + ".png"), Path(stem + ".npy")


def finer_half(num_ws):
    """[L/2, ..., L-1]: 9-17 of 18, as Image2StyleGAN's style transfer takes them."""
    return list(range(num_ws // 2, num_ws))


def mixed_noise(G, content, style, layers):
    """Noise for a mix: each map comes from the latent that drives its layer.

    Args:
        content, style: lists of maps, or None for the generator's own.

    Returns:
        "const" when neither has noise of its own, else a list of maps.
    """
    if content is None and style is None:
        return "const"
    own = [layer.noise_const[None, None] for layer in G.synthesis.layers()]
    return [(style or own)[i] if i in layers else (content or own)[i] for i in range(len(own))]


def cross_latents(args, G, dtype):
    """Style transfer by layer; one picture, or a sheet."""
    import torch

    if not args.latent_file1 or not args.latent_file2:
        raise ValueError("give both --latent_file1 CONTENT.npy and --latent_file2 STYLE.npy")
    layers = face.layer_range(args.layers, G.num_ws) if args.layers else finer_half(G.num_ws)
    sides = [[(path, face.load_one(path, G, args.force), session.noise_of(path, G, args)) for path in paths]
             for paths in (args.latent_file1, args.latent_file2)]  # fmt: skip

    def picture(ws, noise):
        return next(render.pictures(G, ws, "const" if noise is None else noise, dtype=dtype))

    contents, styles = sides
    mixes = [[(face.mix(c, s, layers), mixed_noise(G, cn, sn, layers)) for _, s, sn in styles] for _, c, cn in contents]
    pictures = [[picture(*mix) for mix in row] for row in mixes]
    if len(contents) == len(styles) == 1:
        image = pictures[0][0]
    else:
        parents = [[picture(ws, noise) for _, ws, noise in side] for side in sides]
        rows = [[None, *parents[1]], *([parents[0][i], *row] for i, row in enumerate(pictures))]
        heads, names = ([Path(path).stem for path in paths] for paths in (args.latent_file2, args.latent_file1))
        image = images.sheet(rows, ["content \\ style", *heads], ["", *names], max(128, G.resolution))
    target, latent = named(args.out)
    images.save(target, image)
    said = {"content": [str(p) for p in args.latent_file1], "style": [str(p) for p in args.latent_file2], "layers": layers}
    face.save(latent, torch.cat([ws for row in mixes for ws, _ in row]), said | made_with(G))
    return target, latent


def made_with(G):
    """What the `.json` beside every result says."""
    return {"made_by": "image_crossover.py", "generator": str(G.meta["path"]), "generator_hash": G.meta["hash"], "toolkit": cli.__version__}


def cross_images(args, G, dtype, device):
    """Two photographs, one latent.

    The papers' masked errors, |m (G - x)|^2 + |(1 - m) (G - y)|^2, are for a 0/1 mask the error towards one composite target;
    with a soft edge its minimum is nearly the blend, m x + (1 - m) y, which is what stands as the target here.
    """

    missing = [f"--{name}" for name in ("src_im1", "src_im2", "mask") if not getattr(args, name)]
    if missing:
        raise ValueError(f"joining two images needs {', '.join(missing)} too")
    if not 0 <= args.blur <= 0.5:
        raise ValueError(f"--blur {args.blur}: a share of the side, from 0 to 0.5")
    x, y = (images.load(images.find(name, args.src_dir), G.resolution) for name in (args.src_im1, args.src_im2))  # [1, 3, R, R]
    soft = masks.read(args.mask, G.resolution, x, args.invert_mask, args.blur)
    if float(soft.min()) == float(soft.max()):
        raise ValueError(
            f"{args.mask}: the mask is of one shade, {float(soft.max()):.2f}; white parts come from image 1, black from image 2"
        )
    target = soft * x + (1 - soft) * y
    perceptual = args.perceptual or G.meta["perceptual"] or "vgg16"
    config = settings.Config(iteration=args.iteration, noise_iteration=args.noise_iteration, seed=args.seed, dtype=dtype)
    began = time.time()
    with cli.progress(args.iteration + args.noise_iteration, args.quiet) as show:
        found = projection.project(G, session.load_distance(perceptual, device), target.to(device), config, show)
    image, latent = named(args.out)
    images.save(image, next(render.pictures(G, found.ws, found.noise or "const")))
    images.save(image.with_name(image.stem + "_target.png"), target)
    said = {"image1": args.src_im1, "image2": args.src_im2, "mask": args.mask, "blur": args.blur, "perceptual": perceptual,
            "iteration": args.iteration, "noise_iteration": args.noise_iteration, "steps": found.steps, "seed": args.seed,
            "loss": round(float(found.loss[0]), 5),
            "seconds": round(time.time() - began, 1), "stopped": found.stopped}  # fmt: skip
    face.save(latent, found.ws, said | made_with(G), face.changed(found.noise, G))
    if found.stopped == "Ctrl-C":
        print(f"stopped with Ctrl-C: the best so far is in {latent}", file=sys.stderr)
        return None
    return image, latent


def main(argv):
    args = flags().parse_args(argv)
    of_latents = bool(args.latent_file1 or args.latent_file2)
    of_images = bool(args.src_im1 or args.src_im2 or args.mask)
    if of_latents == of_images:
        raise ValueError("give either two latents (--latent_file1, --latent_file2) or two images (--src_im1, --src_im2, --mask)")
    if of_images and args.layers:
        raise ValueError("--layers mixes latents; for two images the mask says what comes from where")
    device = session.device(args.device)
    G = checkpoints.load_generator(args.weight_file, device)
    dtype = session.dtype(args.precision, device, G.resolution)
    written = cross_latents(args, G, dtype) if of_latents else cross_images(args, G, dtype, device)
    if written is None:
        return 130
    if not args.quiet:
        print(*written)


if __name__ == "__main__":
    cli.run(main)
