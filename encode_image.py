"""Find the latent of aligned images: the W+ code whose rendering looks like the photograph (Image2StyleGAN).

    python encode_image.py --src_im aligned_images/me_01.png

For each image it writes latent_W/NAME.npy (float32 [1, L, 512]), NAME.json (settings, losses, PSNR, SSIM) and the
reconstruction save_image/encode/NAME.png. Without --src_im every image of --src_dir is encoded, --batch_size at a time.
"""

import csv
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np

import cli
import files
import latents
import media
import model_zoo
import projection


def flags():
    config = projection.Config()
    p = cli.Parser(__doc__)
    p.add_argument("--src_im", help="an image: a name in --src_dir, or a path (default: all of --src_dir)")
    p.add_argument("--src_dir", default="source_image/", help="folder of aligned images")
    p.add_argument("--latent_dir", default="latent_W/", help="where latents go")
    p.add_argument("--save_dir", default="save_image/encode/", help="where reconstructions go")
    p.add_argument("--iteration", type=int, default=config.iteration, help="steps of the optimiser (default: %(default)s)")
    p.add_argument("--batch_size", type=int, default=1, help="images optimised together (default: 1)")
    p.add_argument("--resolution", type=int, help="checked against the generator")
    p.add_argument("--space", default=config.space, choices=projection.SPACES)
    p.add_argument("--init", default=config.init, help=f"{', '.join(projection.INITS)}, or a latent file (default: mean)")
    p.add_argument("--lr", type=float, default=config.lr, help="Adam's learning rate (default: %(default)s)")
    p.add_argument("--schedule", default=config.schedule, choices=projection.SCHEDULES)
    p.add_argument("--lambda_mse", type=float, default=config.lambda_mse)
    p.add_argument("--lambda_percep", type=float, default=config.lambda_percep)
    p.add_argument("--perceptual", choices=model_zoo.DISTANCES, help="distance (default: what the generator's checkpoint names)")
    p.add_argument("--layers", help="W+ layers that may move, such as 0-8,11 (default: all)")
    p.add_argument("--early_stop", action="store_true", help="stop when the loss no longer falls")
    p.add_argument("--resume", action="store_true", help="skip images whose latent is there already")
    p.add_argument("--force", action="store_true", help="take an --init latent of another generator")
    cli.add_model_flags(p)
    return p


def sources(args):
    """The images to encode."""
    if not args.src_im:
        return media.list_images(args.src_dir)
    return [media.find(args.src_im, args.src_dir)]


def measures(picture, target):
    """PSNR in dB and SSIM of two uint8 images [H, W, 3]."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    window = min(7, picture.shape[0] - (picture.shape[0] + 1) % 2)
    return (
        float(peak_signal_noise_ratio(target, picture, data_range=255)) if (target != picture).any() else 100.0,
        float(structural_similarity(target, picture, channel_axis=2, data_range=255, win_size=window)),
    )


def encode(G, distance, names, targets, config, args, bar):
    """Optimise one batch and write its files; returns the table's rows and whether Ctrl-C ended it."""
    import torch

    began = time.time()
    found = projection.project(G, distance, targets, config, lambda step, losses: bar(step, losses.mean().item()))
    seconds = (time.time() - began) / len(names)
    settings = {k: v if isinstance(v, (int, float, str, list, type(None))) else str(v) if k == "dtype" else "file" for k, v in dataclasses.asdict(config).items()}
    rows = []
    for i, path in enumerate(names):
        with torch.no_grad():
            pixels = media.to_uint8(G.synthesis(found.ws[i : i + 1]))
        psnr, ssim = measures(pixels[0], media.to_uint8(targets[i : i + 1])[0])
        row = {"name": path.stem, "psnr": round(psnr, 2), "ssim": round(ssim, 4), "loss": round(float(found.loss[i]), 5),
               "steps": found.steps, "seconds": round(seconds, 1)}  # fmt: skip
        if found.diverged[i]:
            cli.warn(f"{path}: the loss stopped being finite; the best latent before that is kept (lower --lr?)")
        media.save(Path(args.save_dir) / f"{path.stem}.png", pixels[0])
        info = row | {"source": str(path), "generator": str(G.meta["path"]), "generator_hash": G.meta["hash"], "perceptual": args.perceptual,
                      "settings": settings, "stopped": found.stopped, "toolkit": cli.__version__, "torch": torch.__version__,
                      "numpy": np.__version__}  # fmt: skip
        latents.save(Path(args.latent_dir) / f"{path.stem}.npy", found.ws[i : i + 1], info)
        rows.append(row)
    return rows, found.stopped == "Ctrl-C"


def write_table(rows, folder):
    with files.atomic(Path(folder) / "metrics.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, rows[0].keys())
        table.writeheader()
        table.writerows(rows)


def main(argv):
    args = flags().parse_args(argv)
    if args.batch_size < 1:
        raise ValueError(f"--batch_size {args.batch_size}: 1 or more")
    paths = sources(args)
    import torch
    from tqdm import tqdm

    device = cli.device(args.device)
    torch.manual_seed(args.seed)
    G = model_zoo.load_generator(args.weight_file, device)
    if args.resolution not in (None, G.resolution):
        raise ValueError(f"--resolution {args.resolution}: this generator makes {G.resolution}x{G.resolution}")
    args.perceptual = args.perceptual or G.meta["perceptual"] or "vgg16"
    distance = model_zoo.load_distance(args.perceptual, device)
    init = args.init if args.init in projection.INITS else latents.load(args.init, G, args.force)
    config = projection.Config(
        iteration=args.iteration, space=args.space, init=init, lr=args.lr, schedule=args.schedule, lambda_mse=args.lambda_mse,
        lambda_percep=args.lambda_percep, layers=latents.layer_range(args.layers, G.num_ws) if args.layers else None,
        early_stop=1e-3 if args.early_stop else 0.0, seed=args.seed, dtype=cli.dtype(args.precision, device),
    )  # fmt: skip
    if args.resume:
        paths = [p for p in paths if not (Path(args.latent_dir) / f"{p.stem}.npy").is_file()]
    failures, rows, batch = cli.Failures(single=len(paths) == 1), [], []
    progress = tqdm(total=len(paths) * args.iteration, disable=args.quiet, unit="step", file=sys.stderr)
    stopped = False
    for position, path in enumerate(paths):
        with failures.catch(path):
            batch.append((path, media.load(path, G.resolution)))
        if batch and (len(batch) == args.batch_size or position == len(paths) - 1):
            names, images = zip(*batch, strict=True)
            base = progress.n

            def bar(step, loss, base=base, count=len(names)):
                progress.n = base + (step + 1) * count
                progress.set_postfix(loss=f"{loss:.4f}", refresh=False)
                progress.update(0)

            done, stopped = encode(G, distance, names, torch.cat(images).to(device), config, args, bar)
            rows, batch = rows + done, []
            if stopped:
                break
    progress.close()
    if rows:
        write_table(rows, args.save_dir)
    if not args.quiet:
        for row in rows:
            print(f"{row['name']:30} PSNR {row['psnr']:5.2f} dB  SSIM {row['ssim']:.3f}  {row['seconds']:.1f} s")
    if stopped:
        print(f"stopped with Ctrl-C: the best latents so far are in {args.latent_dir}", file=sys.stderr)
        return 130
    return failures.exit_code


if __name__ == "__main__":
    cli.run(main)
