"""Distortion beside editability: how near embeddings are to their photographs, and what is left once the face is changed.

    python -m benchmarks.bench_editability --photos aligned_images/ --data faces.zip --count 15 --sheet runs/editability.png

Each setting is a line of encode_image.py's flags; its faces are written, read again and edited as semantic_edit.py and
image_crossover.py do it. Printed as Markdown tables, and written with each face's own figures to --out:

distortion    PSNR, the generator's distance, identity: Euclidean distance of dlib's descriptors to the photograph's, which below
              0.6 are the same person's; seconds an image, bytes of latent and weights. Medians over the faces.
edits         smile by 3, gender and age by 2 towards the side where the photograph is not; pose by +2 and by -2, both counted.
              An edit is judged changed if the bundled attribute network's score went the right way by at least one spread (its
              standard deviation over the generator's own random faces at psi 0.7), or, of smile and gender, crossed 0 the right
              way; both against the embedding's score. Beside it how far the score went the right way, in spreads (mean), and the
              median identity after the edit.
equal loss    how far the score goes, in spreads, until identity is 0.5, at most 4 along the boundary, read off between steps of
              0.5. A mean over the faces: one that starts beyond 0.5 counts 0.
mixes         all ordered pairs of --mix: coarse half of the content, finer half of the style. A face found (dlib's detector),
              identity to the content, and CIELAB distance of the mean colour of the face's region to the style photograph's.
drawn         the same edits of the generator's own random faces: what its boundaries do where nothing had to be embedded.
drift         PSNR of random samples (psi 0.7) of the tuned generator against the base's: median, and worst of all.

The network that judges has also labelled the boundaries: what it mistakes, both mistake.
"""

import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import encode_image
import image_crossover
from benchmarks.bench_step import machine
from editor import boundaries, checkpoints, cli, face, files, images, landmarks, masks, projection, render
from editor import session as sessions
from training import data, make_boundaries, measure

SETTINGS = {  # flags of encode_image.py; STEPS is --steps
    "encoder": "--preset exact --iteration 0",
    "W": "--preset editable --lambda_cosine 0 --tune 0",
    "W+": "--preset exact --iteration STEPS",
    "W+ prior": "--preset exact --iteration STEPS --lambda_prior 0.0003",
    "tuned, not held": "--preset editable --lambda_cosine 0",
    "tuned": "--preset editable",
    "tuned full": "--preset editable --tune_form full",
}
AMOUNTS = {"smile": (3,), "pose": (2, -2), "gender": (2,), "age": (2,)}  # where there are two, both; else away from where the face is
CROSSING = ("smile", "gender")  # scores whose 0 parts yes and no
STRIDE, FARTHEST = 0.5, 4.0  # along a boundary, in units of W; AMOUNTS are multiples of it
SAME_ENOUGH, SAME_PERSON = 0.5, 0.6  # distances of dlib's descriptors
PSI, RANDOM = 0.7, 500  # of the faces whose scores' spread is the unit
DRAWN = 12  # of its own faces that are edited
SAMPLES = 32  # whose drift is measured
REGION = "ellipse:0.5,0.58,0.28,0.32"  # of an aligned crop: skin, eyes, mouth


@dataclass
class Photo:
    """A photograph: [1, 3, R, R] in [-1, 1], its pixels uint8 [R, R, 3], dlib's descriptor [128], and {boundary: score}."""

    name: str
    image: torch.Tensor
    pixels: np.ndarray
    descriptor: np.ndarray
    scores: dict


class Judge:
    """What looks at pictures, and the boundaries along which they are changed."""

    def __init__(self, session):
        self.session, self.G = session, session.G
        self.net, self.describe = checkpoints.load_attributes(), landmarks.Descriptors()
        folder = Path(encode_image.__file__).resolve().parent / "boundaries"
        self.boundaries, _ = boundaries.read(list(AMOUNTS), folder, self.G)
        random = self.scores(render.pictures(self.G, self.random_faces(RANDOM, 0)))
        self.spread = {name: float(values.std()) for name, values in random.items()}
        self.middle = {name: 0.0 if name in CROSSING else float(values.mean()) for name, values in random.items()}
        self.region = masks.read(REGION, self.G.resolution)[0, 0].numpy() > 0.5

    def random_faces(self, count, seed):
        """Latents [count, L, 512] as faces are usually drawn."""
        return make_boundaries.random_w(self.G, count, PSI, seed)[:, None].expand(-1, self.G.num_ws, -1).clone()

    @torch.no_grad()
    def scores(self, pictures):
        """uint8 pictures -> {boundary: [N]}."""
        x = torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).float() / 127.5 - 1
        parts = [self.net.scores(measure.brought_to(part, self.net.config.resolution)) for part in x.split(64)]
        return {name: torch.cat([p[make_boundaries.ATTRIBUTES[name]] for p in parts]).numpy() for name in AMOUNTS}

    def identity(self, picture, photo):
        return float(np.linalg.norm(self.describe(picture) - photo.descriptor))

    def colour(self, a, b):
        """CIELAB distance of the mean colours of two pictures, where an aligned crop shows the face."""
        from skimage.color import rgb2lab

        return float(np.linalg.norm(rgb2lab(a)[self.region].mean(0) - rgb2lab(b)[self.region].mean(0)))

    def photo(self, name, image):
        pixels = images.to_uint8(image)[0]
        scores = {key: float(value[0]) for key, value in self.scores([pixels]).items()}
        return Photo(name, image, pixels, self.describe(pixels), scores)


def is_face(picture):
    """Whether dlib's detector finds a face in a picture, uint8 [R, R, 3]."""
    try:
        landmarks.landmarks_of_crop(images.to_pil(picture))
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Measured


def embed(session, photo, folder, words):
    """A photograph embedded by encode_image.py's flags, as it is read from its files: (face.Face, seconds, bytes)."""
    args = encode_image.settled(encode_image.flags().parse_args(words))
    config, encoder, tuning, _ = encode_image.configure(args, session)
    found = session.embed_one(projection.Goal(photo.image.to(session.device)), config, encoder, tuned=tuning)
    path = Path(folder) / f"{photo.name}.npy"
    face.write(path, found.ws, {"generator_hash": session.G.meta["hash"]}, tuned=found.tuned and found.tuned[0])
    parts = [part for part in face.outputs(path) if part.suffix != ".json" and part.is_file()]
    return session.read_one(path), found.seconds, sum(part.stat().st_size for part in parts)


def distortion(judge, photo, picture):
    psnr, _ = render.measures(picture, photo.pixels, np.ones(picture.shape[:2], bool))
    mine = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        apart = judge.session.distance()(mine.to(judge.session.device), photo.image.to(judge.session.device)).item()
    return {"psnr": psnr, "distance": apart, "identity": judge.identity(picture, photo)}


def edits(judge, photo, person, picture):
    """A face moved along each boundary: a row for each of AMOUNTS, and the edited pictures {label: uint8 [R, R, 3]}."""
    G, start, rows, shown = judge.session.wearing(person).G, judge.scores([picture]), [], {}
    identity = judge.identity(picture, photo)
    distances = np.arange(1, round(FARTHEST / STRIDE) + 1) * STRIDE
    for name, amounts in AMOUNTS.items():
        away = 1 if photo.scores[name] <= judge.middle[name] else -1
        for amount in amounts if len(amounts) > 1 else [amounts[0] * away]:
            way, place = np.sign(amount), round(abs(amount) / STRIDE) - 1
            ws = torch.cat([boundaries.moved(person.ws, [(judge.boundaries[name], way * d)]).float() for d in distances])
            pictures = list(render.pictures(G, ws, person.maps))
            identity_at = functools.cache(lambda i, pictures=pictures: judge.identity(pictures[i], photo))
            gained = way * (judge.scores(pictures)[name] - start[name][0]) / judge.spread[name]
            before, after = way * start[name][0], way * start[name][0] + gained[place] * judge.spread[name]
            rows.append({
                "boundary": name, "amount": float(amount), "gained": float(gained[place]), "identity": identity_at(place),
                "changed": bool(gained[place] >= 1 or name in CROSSING and before <= 0 < after),
                "at equal loss": reached(gained, identity, identity_at),
            })  # fmt: skip
            shown[f"{name} {amount:+g}" if len(amounts) > 1 else name] = pictures[place]
    return rows, shown


def reached(gained, identity, identity_at):
    """What is gained where identity reaches SAME_ENOUGH, between two steps along a straight line.

    Args:
        gained: [steps]. identity: before the first step. identity_at: number of a step -> identity after it.
    """
    before, here = 0.0, identity
    if here >= SAME_ENOUGH:
        return 0.0
    for i, value in enumerate(gained):
        there = identity_at(i)
        if there >= SAME_ENOUGH:
            return float(before + (value - before) * (SAME_ENOUGH - here) / (there - here))
        before, here = float(value), there
    return before


def mixes(judge, photos, people):
    """All ordered pairs, the content's coarse and the style's finer half: a row for each, and the pictures in rows."""
    layers, rows, shown = image_crossover.finer_half(judge.G.num_ws), [], []
    for content, one in zip(photos, people, strict=True):
        shown.append([content.pixels])
        for style, other in zip(photos, people, strict=True):
            mixed = render.one(judge.G, face.mix(one, other, layers, G=judge.G))
            shown[-1].append(mixed)
            if content is not style:
                rows.append({
                    "content": content.name, "style": style.name, "face": is_face(mixed), "identity": judge.identity(mixed, content),
                    "colour": judge.colour(mixed, style.pixels),
                })  # fmt: skip
    return rows, [[None, *(style.pixels for style in photos)], *shown]


@torch.no_grad()
def drift(judge, people):
    """PSNR of samples of the tuned generators against the base's: (median, worst) over SAMPLES of each; None where nothing is tuned."""
    ws = judge.random_faces(SAMPLES, 1).to(judge.session.device)
    base, found = torch.cat([judge.G.synthesis(part).clamp(-1, 1) for part in ws.split(8)]), []
    for person in people:
        if person.tuned:
            G = judge.session.wearing(person).G
            found.append(render.psnr(torch.cat([G.synthesis(part).clamp(-1, 1) for part in ws.split(8)]), base))
    found = torch.cat(found) if found else None
    return None if found is None else (found.median().item(), found.min().item())


# ---------------------------------------------------------------------------------------------------------------------
# Settings


def measured(judge, photos, embedded, mixed, sheet=None):
    """A setting's figures: {"faces": rows, "mixes": rows, "drift": (median, worst) or None}.

    Args:
        embedded: (photo, folder) -> (face.Face, seconds, bytes). mixed: names. sheet: where a picture of them goes, to the eye.
    """
    rows, people, shown = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for photo in photos:
            person, seconds, size = embedded(photo, folder)
            picture = render.one(judge.G, person)
            row, edited = edits(judge, photo, person, picture)
            rows.append({"name": photo.name, **distortion(judge, photo, picture), "seconds": seconds, "bytes": size, "edits": row})
            people.append(person)
            shown.append([photo.pixels, picture, *edited.values()])
            cli.say(f"  {photo.name}: {rows[-1]['psnr']:.1f} dB, identity {rows[-1]['identity']:.2f}, {seconds:.1f} s")
    pairs, cells = mixes(judge, *zip(*[(p, q) for p, q in zip(photos, people, strict=True) if p.name in mixed], strict=True))
    if sheet:
        labels = ["photograph", "embedding", *edited]
        images.save(sheet, images.sheet(shown, labels, [photo.name for photo in photos], 160))
        images.save(sheet.with_stem(f"{sheet.stem}_mixes"), images.sheet(cells, names=["content \\ style", *mixed], size=160))
    return {"faces": rows, "mixes": pairs, "drift": drift(judge, people)}


def drawn(judge):
    """Random faces of the generator as photographs, and what gives the latent of each."""
    people = [face.Face(ws) for ws in judge.random_faces(DRAWN, 2).to(judge.session.device).split(1)]
    with torch.no_grad():
        photos = [judge.photo(f"drawn{i}", judge.G.synthesis(one.ws).clamp(-1, 1).cpu()) for i, one in enumerate(people)]
    return photos, lambda photo, folder: (people[int(photo.name.removeprefix("drawn"))], 0.0, 0)


def median(rows, key):
    return float(np.median([row[key] for row in rows]))


def share(values):
    return f"{100 * np.mean(values):.0f} %"


def tables(results):
    """The results as Markdown."""

    def table(head, rows):
        return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])

    near, far = [], []
    for name, result in results.items():
        rows, cells, reach = result["faces"], [], []
        for boundary in AMOUNTS:
            of = [edit for row in rows for edit in row["edits"] if edit["boundary"] == boundary]
            gained = np.mean([edit["gained"] for edit in of])
            cells.append(f"{share([edit['changed'] for edit in of])}, {gained:.2f}, {median(of, 'identity'):.3f}")
            reach.append(f"{np.mean([edit['at equal loss'] for edit in of]):.2f}")
        near.append([name, f"{median(rows, 'psnr'):.1f}", f"{median(rows, 'distance'):.3f}", f"{median(rows, 'identity'):.3f}", *cells,
                     f"{median(rows, 'seconds'):.1f}", f"{median(rows, 'bytes') / 1000:.0f}"])  # fmt: skip
        pairs, moved = result["mixes"], result["drift"]
        far.append([name, *reach, share([p["face"] for p in pairs]), f"{median(pairs, 'identity'):.3f}",
                    share([p["identity"] < SAME_PERSON for p in pairs]), f"{median(pairs, 'colour'):.1f}",
                    f"{moved[0]:.1f}, {moved[1]:.1f}" if moved else ""])  # fmt: skip
    head = ["setting", "PSNR dB", "distance", "identity", *(f"{b}: changed, score, identity" for b in AMOUNTS), "seconds", "kB"]
    more = ["setting", *(f"{b} at identity {SAME_ENOUGH}" for b in AMOUNTS), "mixes: a face", "identity to the content", f"< {SAME_PERSON}",
            "colour to the style", "drift dB: median, worst"]  # fmt: skip
    return table(head, near) + "\n\n" + table(more, far)


def between(judge, photos):
    """What the mixes' figures are between the photographs themselves: medians over all pairs."""
    pairs = [(a, b) for a in photos for b in photos if a is not b]
    return {
        "identity": float(np.median([np.linalg.norm(a.descriptor - b.descriptor) for a, b in pairs])),
        "colour": float(np.median([judge.colour(a.pixels, b.pixels) for a, b in pairs])),
    }


def read(args, judge):
    """The photographs of --photos, then --count held-out faces of --data, spread over it."""
    found = [(path.stem, judge.session.photo(path)) for path in images.list_images(args.photos)] if args.photos else []
    if args.data:
        names, pixels = data.load(args.data, judge.G.resolution)
        held = data.split(len(pixels))[1]
        chosen = held[torch.linspace(0, len(held) - 1, min(args.count, len(held))).long()]
        found += [(Path(names[i]).stem, pixels[i : i + 1].float() / 127.5 - 1) for i in chosen.tolist()]
    if not found:
        raise ValueError("no faces: give --photos FOLDER of aligned crops, or --data FILE of aligned faces")
    return [judge.photo(*one) for one in found]


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("--photos", metavar="FOLDER", help="aligned crops, such as align_images.py writes")
    p.add_argument("--data", metavar="FILE", help="folder, .zip or .tar of aligned faces, of which held-out ones are taken")
    p.add_argument("--count", type=cli.number(int, 1), default=15, help="of them (default: %(default)s)")
    p.add_argument("--steps", type=cli.number(int, 0), default=300, help="of W+ (default: %(default)s)")
    p.add_argument("--only", nargs="+", choices=SETTINGS, help="of the settings (default: all)")
    p.add_argument("--mix", nargs="+", metavar="NAME", help="faces that are mixed with each other, two or more (default: the first five)")
    p.add_argument(
        "--drift", type=cli.number(int, 0), default=3, help="faces tuned once more with --tune_locality 0 (default: %(default)s)"
    )
    p.add_argument("--sheet", metavar="FILE.png", help="pictures to the eye: FILE_SETTING.png, and FILE_SETTING_mixes.png")
    p.add_argument("--out", default="benchmarks/editability.json", help="(default: %(default)s)")
    cli.add_model_flags(p)
    return p


def main(argv):
    args = flags().parse_args(argv)
    session = sessions.open(args)
    judge = Judge(session)
    photos = read(args, judge)
    mixed = args.mix or [photo.name for photo in photos[:5]]
    if len(mixed) < 2 or (unknown := set(mixed) - {photo.name for photo in photos}):
        raise ValueError(f"--mix {', '.join(sorted(unknown)) if len(mixed) > 1 else mixed[0]}: two or more faces are needed")
    chosen = [photo for photo in photos if photo.name in mixed]
    said = {"machine": machine(), "generator": session.G.meta["hash"], "steps": args.steps, "spread": judge.spread,
            "mixed": [photo.name for photo in chosen], "photographs themselves": between(judge, chosen), "rows": {},
            "drift without locality": {}}  # fmt: skip
    own, latent_of = drawn(judge)
    said["rows"]["drawn"] = measured(judge, own, latent_of, [photo.name for photo in own[:5]])
    for name in args.only or SETTINGS:
        words = [*SETTINGS[name].replace("STEPS", str(args.steps)).split(), "--seed", str(args.seed)]
        cli.say(f"{name}: {' '.join(words)}")
        sheet = Path(args.sheet).with_stem(f"{Path(args.sheet).stem}_{name.replace(' ', '_')}") if args.sheet else None
        way = functools.partial(embed, session, words=words)
        said["rows"][name] = measured(judge, photos, way, said["mixed"], sheet)
        if said["rows"][name]["drift"] and args.drift:
            with tempfile.TemporaryDirectory() as folder:
                free = [embed(session, photo, folder, [*words, "--tune_locality", "0"])[0] for photo in photos[: args.drift]]
            said["drift without locality"][name] = drift(judge, free)
        files.write_json(args.out, json.loads(json.dumps(said), parse_float=lambda text: round(float(text), 4)))
    print(tables(said["rows"]))
    for name, (middle, worst) in said["drift without locality"].items():
        print(f"\nDrift of {name} with --tune_locality 0, {min(args.drift, len(photos))} faces: median {middle:.1f} dB, worst {worst:.1f}.")
    apart = said["photographs themselves"]
    print(f"\nBetween the mixed photographs themselves: identity {apart['identity']:.3f}, colour {apart['colour']:.1f}.")


if __name__ == "__main__":
    cli.run(main)
