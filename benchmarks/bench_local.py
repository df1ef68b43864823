"""Measure Image2StyleGAN++'s applications on held-out faces; prints the lines of a Markdown table.

    python -m benchmarks.bench_local --faces FACES.zip --only noise,inpaint

FACES.zip: aligned face images; those whose place in the list, by name, ends in 9 were never trained on, and are taken.
"""

import io
import zipfile

import numpy as np
import torch
from PIL import Image

import local_edit
from editor import checkpoints, cli, face, images, landmarks, masks, projection, render, session, settings

EYES_NOSE, MOUTH = slice(17, 48), slice(48, 68)  # of dlib's 68 landmarks


def read(path, G, count, skip=5):
    """`count` held-out faces, spread over the file: [N, 3, R, R] in [-1, 1]."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith(images.SUFFIXES))[9::10]
        pictures = [
            Image.open(io.BytesIO(archive.read(n))).convert("RGB") for n in names[skip :: max(1, (len(names) - skip) // count)][:count]
        ]
    arrays = [np.array(i.resize((G.resolution, G.resolution), Image.Resampling.LANCZOS)) for i in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def rendered(G, found):
    return G.synthesis(found.ws, noise="const" if found.noise is None else found.noise).clamp(-1, 1)


def rms(a, b, mask):
    """[N]: root mean square difference in grey levels where the mask is 1."""
    return (((a - b) * 127.5).square() * mask).sum((1, 2, 3)).div(mask.expand(len(a), -1, -1, -1).sum((1, 2, 3)) * 3).sqrt()


def line(*cells):
    print("|", " | ".join(f"{c:.1f}" if isinstance(c, float) else str(c) for c in cells), "|", flush=True)


def noise(G, distance, x, n):
    """W+ alone, joint, and W+ then noise, at equal steps in all."""
    settings_of = {
        "W+": {"iteration": 2 * n},
        "joint": {"iteration": 2 * n, "joint": True},
        "W+ then noise": {"iteration": n, "noise_iteration": n},
    }
    for name, setting in settings_of.items():
        db = render.psnr(rendered(G, projection.project(G, distance, x, settings.Config(**setting))), x)
        line(f"noise: {name}, {2 * n} steps, PSNR dB", db.mean().item(), db.min().item())


def inpaint(G, distance, x, n):
    """A hole of a quarter of the area: error inside, against W+ over all layers and OpenCV's Telea."""
    hole = masks.read("box:0.25,0.25,0.75,0.75", G.resolution)
    known = (1 - hole)[0, 0].numpy()
    shown = images.to_uint8(x)
    try:
        import cv2

        filled = [cv2.inpaint(s, np.uint8(hole[0, 0].numpy() * 255), 3, cv2.INPAINT_TELEA) for s in shown]
        line("inpainting: Telea, rms in the hole", rms(as_images(filled), x, hole).mean().item(), "")
    except ImportError:
        line("inpainting: Telea, rms in the hole", "OpenCV is not installed", "")
    for name, setting in (("W+, all layers", {"iteration": n}), ("--mask", projection.inpainting(G, n))):
        found = projection.project(G, distance, projection.Goal(x, 1 - hole), settings.Config(**setting))
        picture = rendered(G, found)
        finished = as_images([render.composite(p, s, known) for p, s in zip(images.to_uint8(picture), shown, strict=True)])
        line(f"inpainting: {name}, rms in the hole; composited", rms(picture, x, hole).mean().item(), rms(finished, x, hole).mean().item())
        line(f"inpainting: {name}, largest error of known pixels", ((finished - x).abs() * 127.5 * (1 - hole)).max().item(), "")


def as_images(arrays):
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def crossover(G, distance, x, n):
    """Two photographs, left and right half: PSNR of each half to its source, and the gradient across the edge to that inside."""
    half = masks.read("box:0,0,0.5,1", G.resolution)
    soft = masks.blurred(half, 0.06 * G.resolution)
    a, b = x[0::2], x[1::2]
    found = projection.project(G, distance, torch.lerp(b, a, soft), settings.Config(iteration=n, noise_iteration=n))
    y, middle, away = rendered(G, found), G.resolution // 2, max(1, round(0.06 * G.resolution))
    columns = torch.arange(G.resolution).view(1, 1, 1, -1)
    for source, side in ((a, columns < middle - away), (b, columns >= middle + away)):
        line(
            "crossover: PSNR dB of a half, away from the edge",
            render.psnr(y, source, side.float()).mean().item(),
            render.psnr(y, source, side.float()).min().item(),
        )
    steps = (y[..., 1:] - y[..., :-1]).abs().mean((0, 1, 2)) * 127.5
    inside = torch.cat([((s[..., 1:] - s[..., :-1]).abs().mean((0, 1, 2)) * 127.5) for s in (a, b)])
    line("crossover: gradient at the edge; mean inside the sources", steps[middle - 2 : middle + 1].mean().item(), inside.mean().item())


def apart(a, b, part, shape=False):
    """Mean distance of landmarks [68, 2]; `shape`: after both parts were moved to the same middle."""
    difference = (a - b)[part]
    return np.hypot(*(difference - difference.mean(0) * shape).T).mean()


def transfer(G, distance, x, n):
    """The mouth of the face that is turned most alike: how far landmarks lie from the source's and the target's, in % of the side."""
    found = projection.project(G, distance, x, settings.Config(iteration=n))
    pictures, rows = rendered(G, found), []
    marks = [landmarks.landmarks_of_crop(images.to_pil(image)) / G.resolution * 100 for image in pictures]
    for i in range(len(x)):
        j = min((j for j in range(len(x)) if j != i), key=lambda j: apart(marks[i], marks[j], EYES_NOSE))
        pair = pictures[[i, j]]
        mask = local_edit.widened(masks.read("part:mouth", G.resolution, pair).amax(0, keepdim=True))
        mixed = local_edit.blend_activations(
            G,
            face.Face(found.ws[i : i + 1]),
            face.Face(found.ws[j : j + 1]),
            masks.blurred(mask, 0.02 * G.resolution),
            local_edit.resolution_range(None, G),
        )
        made = landmarks.landmarks_of_crop(images.to_pil(mixed[0].clamp(-1, 1))) / G.resolution * 100
        between = (made, marks[j]), (made, marks[i]), (marks[i], marks[j])
        rows.append([apart(*two, part, shape) for part, shape in ((MOUTH, True), (MOUTH, False), (EYES_NOSE, False)) for two in between])
    for what, figures in zip(("the mouth's shape", "the mouth in place", "brows, eyes, nose"), np.mean(rows, 0).reshape(3, 3), strict=True):
        text = " / ".join(f"{f:.2f}" for f in figures)
        line(f"transfer, landmarks in % of the side, {what}: to the source's / the target's / between the two", text, "")


def scribble(G, distance, x, n):
    """A dark bar over the brows: error to the stroke before and after, and PSNR of the rest to the rendering before."""
    found = projection.project(G, distance, x, settings.Config(iteration=n))
    before, bar = rendered(G, found), masks.read("box:0.2,0.22,0.45,0.27+box:0.55,0.22,0.8,0.27", G.resolution)
    drawn = torch.lerp(before, torch.full_like(before, -0.7), bar)
    far = 1 - torch.cat([local_edit.strokes(d[None], b[None]) for d, b in zip(drawn, before, strict=True)])
    config = settings.Config(iteration=n, noise_iteration=n, lr=0.01, init=found.ws, lambda_start=0.02)
    after = rendered(G, projection.project(G, distance, projection.Goal(drawn, noise_mask=far), config))
    line("scribble: rms to the stroke, before; after", rms(before, drawn, bar).mean().item(), rms(after, drawn, bar).mean().item())
    line(
        "scribble: PSNR dB of the rest to the rendering before",
        render.psnr(after, before, far).mean().item(),
        render.psnr(after, before, far).min().item(),
    )


def style(G, distance, x, n):
    """The texture of a drawn pattern in the upper third: Gram distance inside, PSNR outside."""
    found = projection.project(G, distance, x, settings.Config(iteration=n))
    before, inside = rendered(G, found), masks.read("box:0,0,1,0.3", G.resolution)
    at = torch.arange(G.resolution) * 64 / G.resolution
    wave = torch.stack([(at[:, None] / 3.5 + at / 2.25).sin(), (at[:, None] / 2.25).sin() + 0 * at, (at / 2.25 - at[:, None] / 3.5).sin()])
    texture = (0.8 * wave)[None]
    soft = masks.blurred(inside, 0.02 * G.resolution)
    config = settings.Config(iteration=n, noise_iteration=n, lr=0.02, init=found.ws, lambda_style=0.05, joint=True)
    goal = projection.Goal(before, mask=1 - inside, noise_mask=1 - inside, style=texture, style_mask=soft)
    after = rendered(G, projection.project(G, distance, goal, config))
    with torch.no_grad():
        wanted, *grams = (distance.grams(i * soft) for i in (texture, before, after))
    gap = [sum((a - b).square().sum((1, 2)) / b.square().sum((1, 2)) for a, b in zip(g, wanted, strict=True)) for g in grams]
    line("style: Gram distance inside falls by a factor of (mean; least)", (gap[0] / gap[1]).mean().item(), (gap[0] / gap[1]).min().item())
    line(
        "style: PSNR dB outside to the rendering before",
        render.psnr(after, before, 1 - inside).mean().item(),
        render.psnr(after, before, 1 - inside).min().item(),
    )


PARTS = {"noise": noise, "inpaint": inpaint, "crossover": crossover, "scribble": scribble, "style": style, "transfer": transfer}


def main(argv):
    p = cli.Parser(__doc__)
    p.add_argument("--faces", required=True, metavar="ZIP")
    p.add_argument("--count", type=int, default=6, help="faces (default: 6)")
    p.add_argument("--iteration", type=int, default=150, help="steps of each stage (default: 150)")
    p.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    cli.add_model_flags(p)
    args = p.parse_args(argv)
    unknown = set(args.only.split(",")) - set(PARTS)
    if unknown:
        raise ValueError(f"--only {', '.join(sorted(unknown))}: use {', '.join(PARTS)}")
    G = checkpoints.load_generator(args.weight_file)
    distance = session.load_distance(G.meta["perceptual"])
    x = read(args.faces, G, args.count)
    line("what", "mean", "least")
    line("---", "---", "---")
    for name in args.only.split(","):
        PARTS[name](G, distance, x, args.iteration)


if __name__ == "__main__":
    cli.run(main)
