"""Cut the faces out of photographs, turned and scaled as a generator expects them (FFHQ alignment, Karras et al. 2019).

    python align_images.py photographs/ aligned_images/

Each face becomes ALIGNED/NAME_01.png, NAME_02.png, ... by size, and a .json with its quad, so that an edited face can go back. What is
done already is skipped (--redo: all), ALIGNED/runs.jsonl says what became of each photograph. Back again:

    python align_images.py --paste_back edited.png --onto photo.jpg --quad aligned_images/photo_01.json --out result.png

Faces are found with dlib's 68 landmarks; that model was trained on iBUG 300-W, which is for non-commercial use.
"""

from editor import cli  # isort: skip (first: from here on Ctrl-C ends the command as it should)

import collections
import functools
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from editor import batches, checkpoints, files, folder, images, workers
from editor.landmarks import Detector, at_every_turn, face_quad, smallest, upright

MAX_SIDE = 4096  # of a crop, in pixels
MAX_JSON = 5_000_000  # bytes; a record of ours has 3,000
MAX_PLACE = 1e6  # pixels: no photograph reaches there
Cut = collections.namedtuple("Cut", "scale em_scale size")  # how faces are cut: see `face_quad`, and the crop's side in pixels


# ---------------------------------------------------------------------------------------------------------------------
# The square around a face, cut out and put back


def check_quad(quad, photo_size):
    """Refuse four corners [4, 2] that are no square as `face_quad` makes them, or one that no face of this photograph can have.

    Raises:
        ValueError: says which.
    """
    if not np.isfinite(quad).all():
        raise ValueError("the eyes and the mouth lie in one place, so there is no square around them")
    corners = ", ".join(f"({x:.6g}, {y:.6g})" for x, y in quad)
    across, down = quad[3] - quad[0], quad[1] - quad[0]
    side = np.hypot(*across)
    off = max(np.abs(down - across[::-1] * [-1, 1]).max(), np.abs(quad[2] - quad[1] - across).max())
    if not off <= max(1.0, 0.01 * side) or side < 2:
        raise ValueError(f"the corners {corners} are no square; upper left, lower left, lower right, upper right are needed")
    if side > 4 * max(photo_size):
        raise ValueError(f"a square of {side:.0f} pixels, and the photograph has {photo_size[0]}x{photo_size[1]}")
    if (quad.max(0) <= 0).any() or (quad.min(0) >= photo_size).any():
        raise ValueError(f"the square {corners} lies outside of the photograph, which has {photo_size[0]}x{photo_size[1]} pixels")


def shrunk_size(photo_size, quad, size):
    """The (width, height) that a photograph is shrunk to before a crop of `size` is cut: far smaller crops would alias."""
    shrink = int(np.floor(np.hypot(*(quad[3] - quad[0])) / size * 0.5))
    return tuple(max(1, round(v / shrink)) for v in photo_size) if shrink > 1 else tuple(photo_size)


def crop_quad(image, quad, size):
    """The quad of a photograph as a square picture; past the photograph's edge it goes on mirrored and blurred.

    Args:
        image: PIL RGB. quad: [4, 2] in its pixels, whose centres are whole numbers. size: side of the result.
    """
    quad = np.array(quad, float)
    side = np.hypot(*(quad[3] - quad[0]))
    small = shrunk_size(image.size, quad, size)
    if small != image.size:
        side /= int(np.floor(side / size * 0.5))
        quad *= np.array(small) / image.size
        image = image.resize(small, Image.Resampling.BOX)
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
    change = np.asarray(edited, np.float32) - np.asarray(crop_quad(photo, quad, size), np.float32)  # [S, S, 3]
    ramp = np.clip((0.5 - np.abs((np.arange(size) + 0.5) / size - 0.5)) / feather, 0, 1)
    change *= np.minimum(ramp[:, None], ramp[None])[..., None]
    # Where `crop_quad` took its pixels from, in places of the photograph counted from its edge (its first pixel's centre is 0.5).
    # A photograph that was shrunk first keeps FFHQ's half pixel, which is then larger.
    quad += 0.5 * np.array(photo.size) / shrunk_size(photo.size, quad, size)
    layers = [Image.fromarray(np.ascontiguousarray(change[..., i])) for i in range(3)]
    side = round(np.hypot(*(quad[3] - quad[0])))
    if side < size:  # a crop finer than the photograph
        layers, size = [layer.resize((side, side), Image.Resampling.BILINEAR) for layer in layers], side
    # photograph pixel (x, y) -> crop pixel, an affine map: the quad is a square. Only the part around it changes
    low = np.clip(np.floor(quad.min(0)).astype(int) - 1, 0, photo.size)
    high = np.clip(np.ceil(quad.max(0)).astype(int) + 1, 0, photo.size)
    across, down = (quad[3] - quad[0]) / size, (quad[1] - quad[0]) / size
    inverse = np.linalg.inv(np.stack([across, down], 1))
    offset = inverse @ (low - quad[0])
    matrix = (*inverse[0], offset[0], *inverse[1], offset[1])
    layers = [layer.transform(tuple(high - low), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR) for layer in layers]
    part = np.asarray(photo.crop((*low, *high)), np.float32) + np.stack([np.asarray(layer) for layer in layers], -1)
    result = photo.copy()
    result.paste(Image.fromarray(part.round().clip(0, 255).astype(np.uint8)), tuple(low))
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Files


def read_json(path):
    """What a .json file holds.

    Raises:
        OSError, ValueError: missing, no ordinary file, too large, or no JSON.
    """
    with images.open_file(path) as file:
        text = file.read(MAX_JSON + 1)
    if len(text) > MAX_JSON:
        raise ValueError(f"{path}: more than {MAX_JSON} bytes; what align_images.py writes is far smaller")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error})") from None


def points(held, key, count, path):
    """`count` places [count, 2] from what a .json file holds: {key: [[x, y], ...]} or the list alone.

    Raises:
        ValueError: names `path`.
    """
    values = held.get(key) if isinstance(held, dict) else held
    try:
        places = np.array(values, float)
    except (ValueError, TypeError, OverflowError):
        places = np.empty(0)
    if places.shape != (count, 2):
        raise ValueError(f'{path}: {count} pairs of numbers are needed, {{"{key}": [[x, y], ...]}}, as align_images.py writes them')
    if not (np.abs(places) <= MAX_PLACE).all():
        raise ValueError(f"{path}: {key}: places in a photograph's pixels are needed, and not NaN, infinity or more than {MAX_PLACE:.0f}")
    return places


def require_writable(folder):
    """Make the folder and try a file in it, so that no work is lost at its end."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


def paste(args):
    """Put an edited crop back, if it belongs to the photograph."""
    missing = [f"--{flag}" for flag in ("onto", "quad", "out") if not getattr(args, flag)]
    if missing:
        raise ValueError(f"--paste_back needs --onto RAW, --quad FILE.json and --out OUT.png; missing: {' '.join(missing)}")
    out = Path(args.out)
    if out.suffix.lower() not in images.WRITES:
        raise ValueError(f"--out {out}: cannot write {out.suffix or 'a file without ending'}; use {' '.join(images.WRITES)}")
    for flag in ("onto", "paste_back", "quad"):
        if out.exists() and Path(getattr(args, flag)).exists() and out.samefile(getattr(args, flag)):
            raise ValueError(f"--out {out}: that is the file of --{flag}, which would be lost; choose another name")
    held = read_json(args.quad)
    quad = points(held, "quad", 4, args.quad)
    photo, edited = images.open_image(args.onto), images.open_image(args.paste_back)
    if edited.width != edited.height or edited.width > MAX_SIDE:
        raise ValueError(f"{args.paste_back}: {edited.width}x{edited.height}; an edited crop is square, and at most {MAX_SIDE} pixels wide")
    held = held if isinstance(held, dict) else {}
    size, source = held.get("source_size"), held.get("source")
    if size is not None and size != list(photo.size):
        other = f"{args.quad} belongs to a photograph of {str(size)[:40]}, {str(source)[:200]}"
        raise ValueError(f"{args.onto}: {photo.width}x{photo.height} pixels, but {other}")
    if held.get("source_sha256") not in (None, files.file_hash(args.onto)):
        cli.warn(f"{args.onto}: not the file that {args.quad} was cut from ({str(source)[:200]}), though of its size; is it the right one?")
    try:
        check_quad(quad, photo.size)
    except ValueError as error:
        raise ValueError(f"{args.quad}: {error}") from None
    images.save(out, paste_back(photo, edited, quad))
    cli.written(args, out, what="the photograph with the edited face")


def chosen(found, face, path):
    """(number, score, landmarks) of the faces that --face asks for; numbers count from 1, by size."""
    faces = [(number, *one) for number, one in enumerate(found, start=1)]
    if face == "all":
        return faces
    number = 1 if face == "largest" else int(face)
    if number > len(faces):
        raise ValueError(f"{path}: --face {face}: {len(faces)} found; use all, largest, or a number from 1 to {len(faces)}")
    return faces[number - 1 : number]


def require_own(target, photo):
    """Raise ValueError if `target` is, by its record, cut from another photograph, or that is no crop's: those are never replaced.

    A photograph is the same if its name or its content is.
    """
    try:
        said = read_json(target.with_suffix(".json"))
    except (OSError, ValueError):
        return  # no record that says anything
    if said and not (isinstance(said, dict) and said.keys() & {"source", "quad"}):
        raise ValueError(f"{target.with_suffix('.json')}: no crop's record, which would replace it; give another folder, or move that file")
    source = said.get("source") if isinstance(said, dict) else None
    if not isinstance(source, str) or said.get("source_sha256") == files.file_hash(photo):
        return
    folder = files.folder_in(target, said.get("source_in"))
    if not files.same_name(source, folder, photo):
        where = f" in {folder[:200]}" if folder not in (None, os.getcwd()) else ""
        raise ValueError(f"{target}: holds a face of {source[:200]}{where}; give another folder, or remove it first")


def why_again(item, args):
    """Why a photograph is to be aligned (again), None where all its faces' records say that they are cut from it, with these settings."""
    records, source = {}, files.file_hash(item.path)
    try:
        first = read_json(Path(args.aligned) / f"{item.name}_{1 if args.face in ('all', 'largest') else int(args.face):02}.json")
        for number in first["faces"]:
            target = Path(args.aligned) / f"{item.name}_{number:02}.png"
            records[number] = read_json(target.with_suffix(".json")) if target.is_file() else {}
    except (OSError, ValueError, TypeError, KeyError):
        return "not done before"
    if any(said.get("source_sha256") != source for said in records.values()):
        return "the photograph changed, or a face is gone"
    if not records or any(said.get("settings") != item.settings for said in records.values()):
        return "done with other settings"
    return None


def settings_of(args, cut, marks):
    """What makes a crop what it is besides its photograph."""
    chosen = {"face": args.face, "min_score": args.min_score, **cut._asdict(), "landmarks": None if marks is None else marks.tolist()}
    own = args.shape_predictor and Path(args.shape_predictor).is_file()
    chosen |= {"upright": True} if args.upright else {}
    return chosen | {"shape_predictor": files.file_hash(args.shape_predictor) if own else None}


class Work:
    """What cuts the faces out of photographs, one in each process that does; what becomes of them is told, not printed (`folder.Run`)."""

    def __init__(self, args):
        self.args, self.cut, marks = args, cut_of(args), None
        if args.landmarks:
            marks = points(read_json(args.landmarks), "landmarks", 68, args.landmarks)
            self.find = lambda _: [(None, marks)]
        else:
            detector = Detector(args.shape_predictor, args.min_score, downloading(args.quiet))
            self.find = functools.partial(at_every_turn, detector) if args.upright else detector
        self.settings = settings_of(args, self.cut, marks)
        self.places = folder.Places(*{Path(args.raw) if Path(args.raw).is_dir() else Path(args.raw).parent, Path(args.aligned)})

    def why(self, item):
        return why_again(item, self.args)

    def batch(self, items, tell):
        for item in items:
            began = time.time()
            self.places.check()
            with folder.caught(item, tell, not Path(self.args.raw).is_dir()):
                faces = self.align(item.path, tell)
                tell("outcome", item, "done", {"seconds": round(time.time() - began, 1), "faces": faces})

    def align(self, path, tell):
        """Cut the faces out of one photograph and write them; returns how many."""
        image = images.open_image(path)
        found = self.find(image)
        if not found:
            least = smallest(image.size)
            how = "from the front" if self.args.upright else "upright, from the front"
            raise ValueError(
                f"{path}: no face found; it must be {how}, and {least} pixels or more in this photograph of {image.width}x{image.height}; "
                "lower --min_score, or pass --landmarks"
            )
        faces = chosen(found, self.args.face, path)
        for number, score, marks in faces:
            quad = face_quad(marks, self.cut.scale, self.cut.em_scale)
            quad = upright(quad) if self.args.upright else quad
            try:
                check_quad(quad, image.size)
            except ValueError as error:
                raise ValueError(f"{self.args.landmarks or path}: {error}") from None
            side = np.hypot(*(quad[3] - quad[0]))
            if 2 * side < self.cut.size:
                tell("warn", f"{path}: face {number} has {side:.0f} pixels a side, enlarged to {self.cut.size}: it will look soft")
            said = {"source": str(path), "source_in": files.inside(path), "source_size": image.size,
                    "source_sha256": files.file_hash(path), "quad": quad.tolist(),
                    "landmarks": marks.tolist(), "score": score, "scale": self.cut.scale, "em_scale": self.cut.em_scale,
                    "faces": [one[0] for one in faces], "settings": self.settings, **files.typed("align_images.py")}  # fmt: skip
            target = Path(self.args.aligned) / f"{path.stem}_{number:02}.png"
            crop = crop_quad(image, quad, self.cut.size)
            self.places.check()  # finding and cutting took long
            write(target, path, crop, said)
            tell("written", [target])
        older = Path(self.args.aligned) / f"{path.stem}_{len(found) + 1:02}.png"
        if self.args.face == "all" and older.exists() and older.with_suffix(".json").exists():
            tell("warn", f"{older}: left by an earlier run that found more faces; encode_image.py will take it too unless you remove it")
        return len(faces)


def write(target, photo, crop, said):
    """A face's picture, and last the record of what it is."""
    record = target.with_suffix(".json")
    if target.exists() and not record.exists() and target.parent.resolve() == photo.parent.resolve():
        raise ValueError(f"{target}: a picture beside {photo.name} that align_images.py did not write; choose another folder")
    require_own(target, photo)
    record.unlink(missing_ok=True)  # a crop without a record is unfinished, one with another's would be wrong
    images.save(target, crop)
    files.write_json(record, said)


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("raw", nargs="?", metavar="RAW", help="a photograph, or a folder of them")
    p.add_argument("aligned", nargs="?", metavar="ALIGNED", help="folder for the faces")
    p.add_argument("--output_size", type=int, help="side in pixels (default: the generator's)")
    p.add_argument("--face", default="all", help="all, largest, or a number from 1, by size (default: all)")
    p.add_argument("--scale", type=float, help="size of the crop (default: the generator's; FFHQ 1.0)")
    p.add_argument("--em_scale", type=float, help="its centre, from the eyes towards the mouth (default: the generator's; FFHQ 0.1)")
    p.add_argument("--min_score", type=float, default=0.3, help="detections below are no faces (default: %(default)s)")
    p.add_argument("--upright", action="store_true", help="cut squares that are not turned, around faces that may be, for StyleGAN3: "
                   "encode_image.py --unaligned")  # fmt: skip
    p.add_argument("--landmarks", metavar="FILE.json", help="68 pairs [x, y] instead of detection")
    p.add_argument("--shape_predictor", metavar="FILE", help="dlib's 68-landmark model; landmarks: download it")
    p.add_argument("--weight_file", metavar="FILE|NAME", help="the generator to align for (default: the bundled one)")
    p.add_argument("--paste_back", metavar="EDITED", help="put this edited crop back into --onto")
    p.add_argument("--onto", metavar="RAW", help="the photograph")
    p.add_argument("--quad", metavar="FILE.json", help="what align_images.py wrote beside the crop")
    p.add_argument("--out", metavar="OUT.png", help="the photograph with the edited face")
    cli.add_folder_flags(p)
    cli.add_workers_flag(p, "work on a folder in N processes (default: in this one)")
    cli.add_quiet_flag(p)
    return p


def cut_of(args):
    """How faces are cut: as the flags say, else as the generator was trained.

    Raises:
        ValueError: senseless numbers, from the flags or the checkpoint.
    """
    said = checkpoints.read_metadata(args.weight_file)
    alignment = said["alignment"] or checkpoints.FFHQ_ALIGNMENT
    if not isinstance(alignment, dict):
        raise ValueError(f"{said['path']}: its alignment is no {{scale, em_scale}}; convert the checkpoint again")
    given = (args.scale, args.em_scale, args.output_size)
    kept = (alignment.get("scale"), alignment.get("em_scale"), said["resolution"])
    cut = Cut(*(k if g is None else g for g, k in zip(given, kept, strict=True)))
    bounds = {"scale": (0.1, 10), "em_scale": (-10, 10), "size": (4, MAX_SIDE)}
    for (name, (low, high)), value, flag in zip(bounds.items(), cut, given, strict=True):
        if not isinstance(value, (int, float)) or not low <= value <= high or name == "size" and value != int(value):
            ours, theirs = ("output_size", "resolution") if name == "size" else (name, name)
            where = f"--{ours}" if flag is not None else f"{said['path']}: its {theirs} is"
            raise ValueError(f"{where} {str(value)[:40]}: a number from {low} to {high} is needed")
    return cut


def photographs(args):
    """The photographs to align. Refuses, before any work, those that would be written over or become one file.

    Raises:
        ValueError, OSError: nothing to align, two of one name, or the folder of the photographs is the folder of the faces.
    """
    raw, aligned = Path(args.raw), Path(args.aligned)
    os.stat(raw)
    if not raw.is_dir():
        return [raw]
    if aligned.exists() and aligned.samefile(raw):
        raise ValueError(f"{aligned}: the folder of the photographs; the faces would be taken for photographs: choose another one")
    for line in images.left_out(raw):
        cli.warn(f"{raw}: {line}")
    paths, names = images.list_images(raw), {}
    for path in paths:
        first = names.setdefault(cli.alike(path.stem), path)
        if first != path:
            raise ValueError(f"{raw}: {first.name} and {path.name} would both become {first.stem}_01.png; rename one of them")
    if args.landmarks and len(paths) > 1:
        raise ValueError(f"--landmarks {args.landmarks}: of one photograph, and {raw} holds {len(paths)}")
    return paths


def downloading(quiet):
    """What to call with the progress of the landmark model's download: says once that it runs, and under which licence."""
    said = []

    def report(done, total):
        if not said and not quiet:
            said.append(True)
            print("fetching dlib's landmark model, 64 MB (trained on iBUG 300-W: non-commercial use)", file=sys.stderr, flush=True)

    return report


def main(argv):
    args = flags().parse_args(argv)
    if args.paste_back:
        return paste(args)
    if not args.aligned:
        raise ValueError("give a photograph or a folder, and the folder for the faces: align_images.py RAW ALIGNED")
    if args.face not in ("all", "largest") and not (args.face.isascii() and args.face.isdecimal() and 1 <= int(args.face[:9]) < 10**6):
        raise ValueError(f"--face {args.face}: use all, largest, or a number from 1")
    if not math.isfinite(args.min_score):
        raise ValueError(f"--min_score {args.min_score}: a number is needed")
    paths, work = photographs(args), Work(args)
    require_writable(args.aligned)
    return align_all(paths, args, work)


def align_all(paths, args, work):
    """The photographs of a folder that are not done already, or the one that is named; returns the exit code."""
    of_folder = Path(args.raw).is_dir()
    if not of_folder:
        cli.require_default(flags(), args, ("redo", "retry", "shard", "workers"), f"of a folder, and {args.raw} is one photograph")
    items = folder.of_shard([folder.Item(path.stem, path, {"photograph": path}, work.settings) for path in paths], args.shard)
    journal = folder.Journal(args.aligned) if of_folder else None
    run = folder.Run(args, journal, "align_images.py", single=not of_folder)
    found = folder.plan(items, journal, work.why, redo=args.redo or not of_folder, retry=args.retry)
    run.start(found)
    with run.shown(len(found.left), args.quiet or not of_folder):
        waiting = batches.of(found.left, 1)
        try:
            if args.workers and waiting:
                done = batches.unless(work.why, lambda item: {})
                workers.Workers(("align_images", "Work"), args, ["cpu"] * args.workers, 1, run.hear).run(waiting, done)
            else:
                batches.alone(work, waiting, run.hear)
        except KeyboardInterrupt as error:
            error.args = ("the same command goes on",)
            raise
    return run.failures.exit_code


if __name__ == "__main__":
    cli.run(main)
