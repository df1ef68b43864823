"""Cross two faces: mix them by layer (style transfer), or join two photographs along a mask (Image2StyleGAN++).

    python image_crossover.py --latent_file1 latent_W/content_01.npy --latent_file2 latent_W/style_01.npy

gives the second's colours and finish to the first's face: the style's --layers (default: the finer half), latent and noise maps,
replace the content's. It writes save_image/crossover/content_01_x_style_01.png and .npy. Several for each flag (or folders of
them) give each pair that is not there already (--redo: all), and a sheet of all contents in all styles.

    python image_crossover.py --src_im1 a_01.png --src_im2 b_01.png --mask box:0,0,0.5,1 --noise_iteration 500

finds one latent, and noise maps, that look like the first image where the mask is white and like the second where it is black:
a_01_x_b_01_box-0-0-0.5-1.png and .npy, and ..._target.png, which they were to look like.
"""

import hashlib
import math
import time
from pathlib import Path

from editor import cli, files, settings

OUT_DIR = Path("save_image/crossover")
OF_IMAGES = ("src_dir", "mask", "invert_mask", "blur", "iteration", "noise_iteration", "perceptual", "compile", "low_memory")
OF_LATENTS = ("layers", "force", "no_saved_noise", "redo", "retry", "shard")
SMALLEST = 32  # pixels of a sheet's cell


def flags():
    number, config = cli.number, settings.Config()
    p = cli.Parser(__doc__)
    p.add_argument("--latent_file1", metavar="CONTENT", nargs="+", help="latents that give the face: pose, shape, features")
    p.add_argument("--latent_file2", metavar="STYLE", nargs="+", help="latents that give colour, light and finish")
    p.add_argument("--layers", help="layers taken from the style, such as 0-8,12 (default: the finer half)")
    p.add_argument("--src_im1", metavar="IMAGE", help="aligned image shown where the mask is white: a name in --src_dir, or a path")
    p.add_argument("--src_im2", metavar="IMAGE", help="aligned image shown where it is black")
    p.add_argument("--src_dir", metavar="DIR", help="folder of aligned images (default: aligned_images/, else source_image/)")
    p.add_argument("--mask", help="white: from image 1; black: from image 2. A picture, ellipse:cx,cy,rx,ry, box:x0,y0,x1,y1, or part:NAME")
    p.add_argument("--invert_mask", action="store_true", help="black: from image 1")
    p.add_argument(
        "--blur",
        type=number(float, 0, most=0.5),
        default=0.06,
        help="softening of the mask's edge, 0 to 0.5 of the side (default: %(default)s)",
    )
    cli.add_embedding_flags(p, 1500)
    p.add_argument(
        "--noise_iteration", type=number(int, 0), default=config.noise_iteration, help="then steps of the noise maps alone (default: 0)"
    )
    p.add_argument("--out", metavar="NAME", help="name of the results, without ending (default: save_image/crossover/A_x_B)")
    cli.add_folder_flags(p)
    cli.add_face_flags(p)
    cli.add_model_flags(p)
    return p


def result(args, name):
    """--out without a .png or .npy that was typed, or a name in OUT_DIR -> the latent's path; the picture lies beside it."""
    out = args.out or str(OUT_DIR / name)
    return Path((out[:-4] if out.lower().endswith((".png", ".npy")) else out) + ".npy")


# ---------------------------------------------------------------------------------------------------------------------
# Faces, by layer


def finer_half(num_ws):
    """[L/2, ..., L-1]: 9-17 of 18, as Image2StyleGAN's style transfer takes them."""
    return list(range(num_ws // 2, num_ws))


def read_side(paths, session):
    """What --latent_file1 or 2 names -> list of (file, `face.Face` of one latent)."""
    from editor import face

    return [(path, one) for path in face.expand(paths) for one in session.read(path).split()]


def sheet_name(contents, styles):
    """A name that no other sheet has: the first of either side, how many more, and a hash of them all."""
    said = repr([[(one.name, files.file_hash(path)) for path, one in side] for side in (contents, styles)])
    first = [side[0][1].name + (f"_and_{len(side) - 1}_more" if len(side) > 1 else "") for side in (contents, styles)]
    return f"{'_x_'.join(first)}_{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def cell(G, rows, columns):
    """The side in pixels of a sheet's cells: the generator's, smaller where the sheet would be too large a picture.

    Raises:
        ValueError: too many to be seen on one sheet.
    """
    from editor import images

    side = min(max(128, G.resolution), math.isqrt(images.MAX_PIXELS // (rows * columns)))
    if side < SMALLEST:
        raise ValueError(f"a sheet of {rows - 1} contents in {columns - 1} styles: too many for one picture; give fewer at a time")
    return side


def pairs(contents, styles, args, sheet):
    """Each content with each style, in rows: (latent's path, sources, the two faces).

    Raises:
        ValueError: two results have one name.
    """
    taken, rows = {cli.alike(sheet): "the sheet"}, []
    for path1, one in contents:
        rows.append([])
        for path2, other in styles:
            name = f"{one.name}_x_{other.name}"
            latent = sheet.with_name(f"{sheet.stem}_{name}.npy") if sheet and args.out else result(args, name)
            other_pair = taken.get(cli.alike(latent))
            if other_pair:
                raise ValueError(f"{path1} in {path2}, and {other_pair}: both results would be {latent}; rename one, or leave one out")
            taken[cli.alike(latent)] = f"{path1} in {path2}"
            rows[-1].append((latent, {"content": path1, "style": path2}, one, other))
    return rows


def mix_faces(args, session):
    """Style transfer by layer: each content in each style; where there are several, a sheet of them too."""
    from editor import face, folder
    from editor import session as sessions

    if not args.latent_file1 or not args.latent_file2:
        raise ValueError("give both --latent_file1 CONTENT.npy and --latent_file2 STYLE.npy")
    layers = face.layer_range(args.layers, session.G.num_ws) if args.layers else finer_half(session.G.num_ws)
    contents, styles = (read_side(paths, session) for paths in (args.latent_file1, args.latent_file2))
    cli.warn_of(session)
    several = len(contents) * len(styles) > 1
    sheet = result(args, sheet_name(contents, styles)) if several else None
    side = cell(session.G, len(contents) + 1, len(styles) + 1)
    rows = pairs(contents, styles, args, sheet)
    everything = {f"{role}{i}": path for role, found in (("content", contents), ("style", styles)) for i, (path, _) in enumerate(found, 1)}
    for latent, sources, *_ in [pair for row in rows for pair in row] + ([(sheet, everything)] if several else []):
        sessions.reserve(latent, sources, latent.with_suffix(".png"))
    run = mix_pairs([pair for row in rows for pair in row], layers, several, args, session)
    if several and not args.shard and not run.failures.names:
        said = {"layers": layers, "sheet": sheet.with_suffix(".png").name} | folder.carried(args, session)
        if args.redo or run.counts["done"] or why_again(sheet, everything, said, session, whole=False):
            picture = write_sheet(sheet.with_suffix(".png"), rows, contents, styles, side, session)
            said["picture"] = {"path": str(picture), "sha256": files.file_hash(picture)}
            files.write_json(sheet.with_suffix(".json"), session.record("image_crossover.py", everything, **said))
            cli.written(args, picture, what=f"{len(contents) * len(styles)} mixes, and all of them on a sheet")
    return run.failures.exit_code or None


def why_again(latent, sources, said, session, whole=True):
    """Why a mix, or a sheet, must be made (again); None where its record says that it is done."""
    from editor import folder

    said = said | {"made_by": "image_crossover.py", "generator_hash": session.G.meta["hash"]}
    return folder.why_again(latent, latent.with_suffix(".png"), sources, said, session.G, whole=whole)


def mix_pairs(pairs, layers, several, args, session):
    """The mixes of (latent's path, sources, the two faces) that are not done already; returns the `folder.Run`."""
    from editor import face, folder

    said, items = {"layers": layers} | folder.carried(args, session), {}
    for pair in pairs:
        latent, sources, one, other = pair
        names = {"content": one.name, "style": other.name}
        items[latent.stem] = folder.Item(latent.stem, latent, sources, said | names | {"generator_hash": session.G.meta["hash"]}), pair
    journal = folder.Journal(pairs[0][0].parent) if several else None
    run = folder.Run(args, journal, "image_crossover.py", single=not several)
    found = folder.plan(
        folder.of_shard([item for item, _ in items.values()], args.shard), journal,
        lambda item: why_again(item.path, item.sources, item.settings, session), redo=args.redo or not several, retry=args.retry,
    )  # fmt: skip
    run.start(found)
    for item in found.left:
        latent, sources, one, other = items[item.name][1]
        with run.item(item):
            made = session.record("image_crossover.py", sources, **said | {"content": one.name, "style": other.name})
            cli.written(args, *session.save(latent, face.mix(one, other, layers, G=session.G), made))
            cli.warn_of(session)
    return run


def write_sheet(picture, rows, contents, styles, side, session):
    """The contents at the left, the styles above, the mixes between; returns the picture's path."""
    from PIL import Image, ImageOps

    from editor import images, render

    def fitted(image):
        return ImageOps.contain(images.to_pil(image), (side, side), Image.Resampling.LANCZOS)

    def rendered(person):
        return fitted(render.one(session.G, person, session.dtype))

    head = [None, *(rendered(other) for _, other in styles)]
    body = [
        [rendered(one), *(fitted(images.open_image(latent.with_suffix(".png"))) for latent, *_ in row)]
        for (_, one), row in zip(contents, rows, strict=True)
    ]
    labels, names = ["content \\ style", *(other.name for _, other in styles)], ["", *(one.name for _, one in contents)]
    images.save(picture, images.sheet([head, *body], labels, names, side))
    return picture


# ---------------------------------------------------------------------------------------------------------------------
# Photographs, along a mask


def read_mask(args, G, image):
    """--mask, blurred: [1, 1, R, R] in 0..1.

    Raises:
        ValueError, OSError: as `masks.read`, or it is of one shade.
    """
    from editor import masks

    soft = masks.read(args.mask, G.resolution, image, args.invert_mask, args.blur, turned=G.kind == "stylegan3")
    if float(soft.min()) == float(soft.max()):
        raise ValueError(
            f"{args.mask}: the mask is of one shade, {float(soft.max()):.2f}; white parts come from image 1, black from image 2"
        )
    return soft


def require_own_target(wanted, latent):
    """Raise ValueError if a picture is where NAME_target.png goes, and beside it no record of a join: an earlier run did not write it."""
    from editor import face

    said = face.record(latent) if wanted.exists() else None
    if said is not None and not (said.get("made_by") == "image_crossover.py" and "mask" in said):
        raise ValueError(f"{wanted}: is there already, and no earlier run wrote it by its record; give another --out, or remove it first")


def join_photographs(args, session):
    """Two photographs, one face.

    The papers' masked errors, |m (G - x)|^2 + |(1 - m) (G - y)|^2, are for a 0/1 mask the error towards one composite target;
    with a soft edge its minimum is nearly the blend, m x + (1 - m) y, which is what stands as the target here.
    """
    from editor import face, images, masks, projection
    from editor import session as sessions

    missing = [f"--{name}" for name in ("src_im1", "src_im2", "mask") if not getattr(args, name)]
    if missing:
        raise ValueError(f"joining two images needs {', '.join(missing)} too")
    paths = [sessions.aligned_image(name, args.src_dir) for name in (args.src_im1, args.src_im2)]
    x, y = (session.photo(path) for path in paths)  # [1, 3, R, R]
    cli.warn_of(session)
    soft = read_mask(args, session.G, x)
    target = soft * x + (1 - soft) * y
    sources = dict(zip(("image1", "image2"), paths, strict=True)) | ({"mask": Path(args.mask)} if Path(args.mask).is_file() else {})
    latent = result(args, f"{paths[0].stem}_x_{paths[1].stem}_{masks.name(args.mask)}")
    wanted = latent.with_name(f"{latent.stem}_target.png")
    sessions.reserve(latent, sources, latent.with_suffix(".png"), wanted)
    require_own_target(wanted, latent)
    start, encoder = session.start(None)
    config = settings.Config(
        iteration=args.iteration, noise_iteration=args.noise_iteration, seed=args.seed, low_memory=args.low_memory, **start
    )
    session.distance()  # read, or downloaded, before the bar starts
    began = time.time()
    with cli.progress(config.steps, args.quiet) as show:
        found = session.embed_one(
            projection.Goal(target.to(session.device)), config, encoder,
            lambda steps, losses: show(steps, losses.mean().item()), cli.warn,
        )  # fmt: skip
    said = session.record(
        "image_crossover.py", sources, mask=args.mask, invert_mask=args.invert_mask, blur=args.blur, perceptual=session.perceptual,
        iteration=args.iteration, noise_iteration=args.noise_iteration, steps=found.steps, loss=round(float(found.loss[0]), 5),
        seconds=round(time.time() - began, 1), stopped=found.stopped, complete=found.interrupted is None,
    )  # fmt: skip
    paths = session.save(latent, face.Face(found.ws, found.noise), said)
    images.save(wanted, target)  # after the record, by which a later run knows it
    cli.written(args, *paths, wanted)
    cli.warn_of(session)
    if found.interrupted:
        cli.say(f"the best of {found.steps} steps is in {latent}")
        raise found.interrupted


def main(argv):
    parser = flags()
    args = parser.parse_args(argv)
    of_latents = bool(args.latent_file1 or args.latent_file2)
    if of_latents == bool(args.src_im1 or args.src_im2):
        raise ValueError("give either two latents (--latent_file1, --latent_file2) or two images (--src_im1, --src_im2, --mask)")
    names, whose = (OF_IMAGES, "two images") if of_latents else (OF_LATENTS, "latents")
    cli.require_default(parser, args, names, f"goes with {whose}, and cannot act here")
    from editor import session as sessions

    session = sessions.open(args)
    return mix_faces(args, session) if of_latents else join_photographs(args, session)


if __name__ == "__main__":
    cli.run(main)
