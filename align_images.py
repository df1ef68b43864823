"""Cut the faces out of photographs, turned and scaled as a generator expects them (FFHQ alignment, Karras et al. 2019).

    python align_images.py photographs/ aligned_images/

Each face becomes ALIGNED/NAME_01.png, NAME_02.png, ... and a .json with its quad, so that an edited face can go back:

    python align_images.py --paste_back edited.png --onto photo.jpg --quad aligned_images/photo_01.json --out result.png

Faces are found with dlib's 68 landmarks; that model was trained on iBUG 300-W, which is for non-commercial use.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from editor import checkpoints, cli, files, images
from editor.landmarks import LEFT_EYE, MOUTH, RIGHT_EYE, Detector


def face_quad(landmarks, scale=1.0, em_scale=0.1):
    """The square to cut out, from 68 landmarks.

    Args:
        landmarks: [68, 2] in pixels, dlib's order.
        scale: size of the square (FFHQ 1.0).
        em_scale: how far its centre lies from the eyes towards the mouth (FFHQ 0.1).

    Returns:
        [4, 2] corners: upper left, lower left, lower right, upper right.
    """
    left, right = landmarks[LEFT_EYE].mean(0), landmarks[RIGHT_EYE].mean(0)
    eyes, between = (left + right) / 2, right - left
    down = landmarks[list(MOUTH)].mean(0) - eyes
    x = between - down[::-1] * [-1, 1]
    x *= scale * max(2 * np.hypot(*between), 1.8 * np.hypot(*down)) / np.hypot(*x)
    y = x[::-1] * [-1, 1]
    c = eyes + em_scale * down
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y])


def crop_quad(image, quad, size):
    """The quad of a photograph as a square picture; past the photograph's edge it goes on mirrored and blurred.

    Args:
        image: PIL RGB. quad: [4, 2] in its pixels. size: side of the result.
    """
    quad = np.array(quad, float)
    side = np.hypot(*(quad[3] - quad[0]))
    shrink = int(np.floor(side / size * 0.5))
    if shrink > 1:
        small = (round(image.width / shrink), round(image.height / shrink))
        quad *= np.array(small) / image.size
        image = image.resize(small, Image.Resampling.BOX)
        side /= shrink
    border = max(round(side * 0.1), 3)
    low, high = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    box = (max(low[0] - border, 0), max(low[1] - border, 0), min(high[0] + border, image.width), min(high[1] + border, image.height))
    if box[2] - box[0] < 2 or box[3] - box[1] < 2:
        raise ValueError("the quad lies outside the photograph")
    image, quad = image.crop(box), quad - box[:2]
    low, high = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    pad = np.array([border - low[0], border - low[1], high[0] + border - image.width, high[1] + border - image.height]).clip(0)
    if pad.max() > border - 4:
        image, quad = _padded(image, np.maximum(pad, round(side * 0.3)), side), quad + np.maximum(pad, round(side * 0.3))[:2]
    # four samples a pixel, then averaged: what FFHQ does at 4096 for 1024
    big = image.transform((4 * size, 4 * size), Image.Transform.QUAD, (quad + 0.5).flatten(), Image.Resampling.BILINEAR)
    return big.resize((size, size), Image.Resampling.LANCZOS)


def _padded(image, pad, side):
    """Reflected borders, blurred towards the outside and faded to the median colour."""
    x = np.pad(np.asarray(image, np.float32), ((pad[1], pad[3]), (pad[0], pad[2]), (0, 0)), "reflect")
    h, w = x.shape[:2]
    rows, columns = np.arange(h)[:, None, None], np.arange(w)[None, :, None]
    inner = np.minimum(
        np.minimum(columns / max(pad[0], 1), (w - 1 - columns) / max(pad[2], 1)),
        np.minimum(rows / max(pad[1], 1), (h - 1 - rows) / max(pad[3], 1)),
    )
    mask = 1 - inner
    blurred = Image.fromarray(x.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(float(side) * 0.02))
    x += (np.asarray(blurred, np.float32) - x) * np.clip(mask * 3 + 1, 0, 1)
    x += (np.median(x, axis=(0, 1)) - x) * np.clip(mask, 0, 1)
    return Image.fromarray(x.round().clip(0, 255).astype(np.uint8))


def paste_back(photo, edited, quad, feather=0.08):
    """Put an edited crop back into its photograph.

    Only the change is pasted: the edited crop minus the crop cut anew, enlarged. So an unedited crop changes nothing and the
    photograph keeps detail that the crop never had. The change fades out over `feather` of the side.
    """
    size, quad = edited.width, np.array(quad, float)
    change = np.asarray(edited, np.float32) - np.asarray(crop_quad(photo, quad, size), np.float32)
    ramp = np.clip((0.5 - np.abs((np.arange(size) + 0.5) / size - 0.5)) / feather, 0, 1)
    change *= np.minimum(ramp[:, None], ramp[None])[..., None]
    # photograph pixel (x, y) -> crop pixel, an affine map: the quad is a square
    across, down = (quad[3] - quad[0]) / size, (quad[1] - quad[0]) / size
    inverse = np.linalg.inv(np.stack([across, down], 1))
    offset = -inverse @ quad[0]
    matrix = (*inverse[0], offset[0], *inverse[1], offset[1])
    layers = [
        Image.fromarray(change[..., i]).transform(photo.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR) for i in range(3)
    ]
    result = np.asarray(photo, np.float32) + np.stack([np.asarray(c) for c in layers], -1)
    return Image.fromarray(result.round().clip(0, 255).astype(np.uint8))


def align(path, args, detector):
    """Cut the faces out of one photograph and write them."""
    image = images.open_image(path)
    if args.landmarks:
        marks = np.array(json.loads(Path(args.landmarks).read_text(encoding="utf-8")), float)
        if marks.shape != (68, 2):
            raise ValueError(f"{args.landmarks}: landmarks of shape {list(marks.shape)}; 68 pairs [x, y] are needed")
        faces = [(None, marks)]
    else:
        faces = detector(image)
    if not faces:
        raise ValueError("no face found; it must be upright, from the front, 80 pixels or more; lower --min_score, or pass --landmarks")
    if args.face == "largest":
        faces = faces[:1]
    elif args.face != "all":
        if not args.face.isdigit() or not 1 <= int(args.face) <= len(faces):
            raise ValueError(f"--face {args.face}: {len(faces)} found; use all, largest, or a number from 1 to {len(faces)}")
        faces = [faces[int(args.face) - 1]]
    for i, (score, marks) in enumerate(faces, start=1):
        quad = face_quad(marks, args.scale, args.em_scale)
        target = Path(args.aligned) / f"{path.stem}_{i:02}.png"
        images.save(target, crop_quad(image, quad, args.output_size))
        said = {"source": str(path), "source_size": image.size, "quad": quad.tolist(), "landmarks": marks.tolist(), "score": score,
                "scale": args.scale, "em_scale": args.em_scale}  # fmt: skip
        with files.atomic(target.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(said) + "\n", encoding="utf-8")
        if not args.quiet:
            print(target)


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("raw", nargs="?", metavar="RAW", help="a photograph, or a folder of them")
    p.add_argument("aligned", nargs="?", metavar="ALIGNED", help="folder for the faces")
    p.add_argument("--output_size", type=int, help="side in pixels (default: the generator's)")
    p.add_argument("--face", default="all", help="all, largest, or a number from 1, by size (default: all)")
    p.add_argument("--scale", type=float, help="size of the crop (default: the generator's; FFHQ 1.0)")
    p.add_argument("--em_scale", type=float, help="its centre, from the eyes towards the mouth (default: the generator's; FFHQ 0.1)")
    p.add_argument("--min_score", type=float, default=0.3, help="detections below are no faces (default: %(default)s)")
    p.add_argument("--landmarks", metavar="FILE.json", help="68 pairs [x, y] instead of detection")
    p.add_argument("--shape_predictor", metavar="FILE", help="dlib's 68-landmark model")
    p.add_argument("--weight_file", metavar="FILE|NAME", help="the generator to align for (default: the bundled one)")
    p.add_argument("--paste_back", metavar="EDITED", help="put this edited crop back into --onto")
    p.add_argument("--onto", metavar="RAW", help="the photograph")
    p.add_argument("--quad", metavar="FILE.json", help="what align_images.py wrote beside the crop")
    p.add_argument("--out", metavar="OUT.png")
    p.add_argument("--quiet", action="store_true")
    return p


def main(argv):
    args = flags().parse_args(argv)
    if args.paste_back:
        if not (args.onto and args.quad and args.out):
            raise ValueError("--paste_back needs --onto RAW, --quad FILE.json and --out OUT.png")
        quad = json.loads(Path(args.quad).read_text(encoding="utf-8"))["quad"]
        images.save(args.out, paste_back(images.open_image(args.onto), images.open_image(args.paste_back), quad))
        return 0
    if not args.aligned:
        raise ValueError("give a photograph or a folder, and the folder for the faces: align_images.py RAW ALIGNED")

    said = checkpoints.read_metadata(args.weight_file)
    alignment = said["alignment"] or checkpoints.FFHQ_ALIGNMENT
    args.scale = alignment["scale"] if args.scale is None else args.scale
    args.em_scale = alignment["em_scale"] if args.em_scale is None else args.em_scale
    args.output_size = said["resolution"] if args.output_size is None else args.output_size
    if not 4 <= args.output_size <= 4096 or args.scale <= 0:
        raise ValueError(f"--output_size {args.output_size} --scale {args.scale}: a side from 4 to 4096, a scale above 0")
    paths = images.list_images(args.raw) if Path(args.raw).is_dir() else [Path(args.raw)]
    detector = None if args.landmarks else Detector(args.shape_predictor, args.min_score)
    failures = cli.Failures(single=len(paths) == 1)
    for path in paths:
        with failures.catch(path):
            align(path, args, detector)
    return failures.exit_code


if __name__ == "__main__":
    cli.run(main)
