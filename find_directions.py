"""Find directions of a generator that nobody labelled, and say what each does: SeFa, GANSpace's components, StyleSpace's channels.

    python find_directions.py --method sefa

It writes the first --count directions as boundaries (directions/faces128_sefa_00.npy, ..., which semantic_edit.py takes with --boundary,
--edit and --condition) and a sheet, directions/faces128_sefa.png: for each a face moved to either side, and what the bundled networks
read of it, such as "yaw +1.9, smile -0.2 per sigma; identity 0.31": so the one that opens the mouth is found without trying eighty.

    python find_directions.py --method channels --attribute smile

ranks single channels of style space by how they go with an attribute over --samples random faces, or with --scores of --latents.
A channel's file is followed as the others are; semantic_edit.py --channel 6:50=3 needs none. --purify takes out what else changes.
"""

import functools
from pathlib import Path

from editor import cli, files, settings

METHODS = {
    "sefa": "closed form: what the layers' affines see most of",
    "pca": "what w varies most in, over --samples random faces",
    "channels": "single channels of style space, by how they go with --attribute or --scores",
}
OF_CHANNELS = ("attribute", "scores", "latents", "column", "torgb")
SHOWN = 192  # pixels a side of a face on the sheet
LEAST = 0.1  # correlation with the attribute of channels that are ranked by what they do


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("--method", required=True, choices=METHODS, help="; ".join(f"{name}: {what}" for name, what in METHODS.items()))
    p.add_argument("--count", type=cli.number(int, 1, most=512), default=10, metavar="K", help="directions to write (default: 10)")
    p.add_argument("--layers", help="W+ layers, such as 0-3: whose affines SeFa asks, whose channels are ranked, and what moves "
                   "(default: all)")  # fmt: skip
    p.add_argument("--samples", type=cli.number(int, 20, most=10_000_000), default=20_000, metavar="N", help="random faces that sigma, "
                   "components and correlations are found from (default: 20000)")  # fmt: skip
    p.add_argument("--attribute", choices=settings.ATTRIBUTES, help="that channels are ranked by; every face is rendered and read")
    p.add_argument("--scores", metavar="FILE", help="instead: a number a face, .npy or .csv, of --latents")
    p.add_argument("--latents", metavar="FILE|DIR", help="latents of the faces that --scores are of")
    p.add_argument("--column", metavar="NAME", help="of a .csv with several columns")
    p.add_argument("--torgb", action="store_true", help="rank ToRGB's channels, which colour the picture, instead of the others")
    p.add_argument("--distance", type=cli.number(float, above=0, most=1000), help="how far faces are moved on the sheet and for the "
                   "readings, in sigma (default: 1; of single channels 4)")  # fmt: skip
    p.add_argument("--out_dir", default="directions", metavar="DIR", help="where results go (default: %(default)s)")
    p.add_argument("--name", help="begins the results' names (default: the generator's, the method and the layers)")
    cli.add_reading_flags(p)
    cli.add_model_flags(p)
    return p


def check(args, parser):
    """Raise ValueError for flags that do not go together."""
    if args.method != "channels":
        cli.require_default(parser, args, OF_CHANNELS, "is of --method channels")
    elif bool(args.attribute) == bool(args.scores) or bool(args.scores) != bool(args.latents):
        raise ValueError("--method channels: give --attribute, or --scores and the --latents that they are of")
    if args.column and not args.scores:
        raise ValueError("--column is of --scores")
    if not args.purify:
        cli.require_default(parser, args, ("keep", "channels"), "say what --purify does, which is not given")
    elif not args.faces:
        raise ValueError("--purify looks at what changes; give it --faces 16")
    elif args.method == "channels" and args.purify != "channels":
        raise ValueError(f"--purify {args.purify} is of directions in W; of channels it is --purify channels")
    if args.name and (Path(args.name).name != args.name or args.name.startswith(".")):
        raise ValueError(f"--name {args.name}: the beginning of a file's name is expected; --out_dir says the folder")


def distance_of(args):
    """How far faces are moved. A sigma of w is a long way for a truncated face; a single channel hardly shows what it does."""
    return args.distance or (4.0 if args.method == "channels" and not args.purify else 1.0)


# ---------------------------------------------------------------------------------------------------------------------
# Found


def reader_of(session, args):
    """A `readings.Reader`, or None: not asked for, or the generator draws no faces."""
    from editor import readings

    if not args.faces:
        return None
    try:
        return readings.Reader(session.G, args.faces, seed=args.seed + 1)
    except ValueError as error:
        if args.attribute:
            raise ValueError(f"--attribute: {error}; rank channels by --scores of --latents of your own") from None
        if args.purify:
            raise
        cli.warn(f"{session.G.meta['path']}: {error}")
        return None


def given(session, args):
    """--latents and --scores: ws [N, 1 or L, 512], float64 [N]; None where the attribute network scores faces."""
    import torch

    from editor.scored import read_latents, read_scores

    if not args.scores:
        return None
    (ws, hashes), scores = read_latents(args.latents, session.G), read_scores(args.scores, args.column)
    if hashes - {session.G.meta["hash"]}:
        raise ValueError(f"{args.latents}: latents of another generator ({min(hashes)[:12]}); give theirs with --weight_file")
    if len(ws) != len(scores):
        raise ValueError(f"{args.scores}: {len(scores)} scores for the {len(ws)} latents of {args.latents}; one a face is needed")
    return torch.from_numpy(ws), torch.from_numpy(scores)


def scored(session, args, reader):
    """Random faces as the attribute network reads them: W [N, 1, 512], float64 [N]."""
    import torch

    from editor import classes

    G, generator, ws, found = session.G, torch.Generator().manual_seed(args.seed), [], []
    with cli.progress(args.samples, args.quiet, "face") as show, torch.no_grad():
        for first in range(0, args.samples, 64):
            z = torch.randn(min(64, args.samples - first), G.config.z_dim, generator=generator).to(G.w_avg.device)
            w = G.truncate(classes.latents(G, z), 0.7)
            ws.append(w[:, :1].cpu())
            found.append(torch.from_numpy(reader.read(reader.pictures(w))[args.attribute]))
            show(first + len(z))
    return torch.cat(ws), torch.cat(found)


@functools.cache
def slopes_of(reader, quiet):
    """What style channels do at random faces: `readings.Slopes`."""
    from editor import readings

    with cli.progress(readings.SLOPES, quiet, "face") as show:
        return readings.slopes(reader, callback=show)


def of_channels(session, args, reader, layers, scores):
    """Channels as directions in style space, by their correlation with the score.

    Styles are made of one w, so that many go with an attribute and few make it: with --attribute those come first that do most by their
    gradient, of all whose correlation has the same sign.
    """
    from editor import directions, styles

    G = session.G
    ws, scores = scores or scored(session, args, reader)
    ranked = directions.channels(G, ws, scores, layers, args.torgb)
    if not ranked:
        where = f"layers {args.layers}" if args.layers else "any layer"
        raise ValueError(f"no channels there: no {'ToRGB' if args.torgb else 'layer'} with a style in {where}")
    tried, effects = ranked[: args.count], {}
    if args.attribute:
        found = slopes_of(reader, args.quiet)
        slope = found.effects[found.names.index(args.attribute)]
        effects = {one.place: float(slope[one.place]) * one.unit for one in ranked}
        makes = [one for one in ranked if abs(one.correlation) >= LEAST and effects[one.place] * one.correlation > 0] or ranked
        tried = sorted(makes, key=lambda one: -abs(effects[one.place]))[: args.count]
        if args.purify:
            tried = tried[:1]  # what --purify channels finds for an attribute asks no channel
    made = []
    for number, one in enumerate(tried):
        info = {"method": "channels", "number": number, "channel": styles.label(G, one.place), "correlation": one.correlation,
                "sigma": one.unit, "score": args.attribute or args.column or Path(args.scores).name, "faces": len(ws)}  # fmt: skip
        if effects:
            info["effect"] = effects[one.place]  # spreads of the attribute a sigma, by its gradient
        made.append(directions.of_channels(G, {one.place: one.unit}, **info))
    return made


def found(session, args, reader, layers, scores):
    """The directions asked for: list of `boundaries.Boundary`."""
    from editor import directions

    if args.method == "channels":
        return of_channels(session, args, reader, layers, scores)
    with cli.progress(args.samples, args.quiet, "sample") as show:
        return directions.found(session.G, args.method, args.count, layers, args.samples, args.seed, show)


# ---------------------------------------------------------------------------------------------------------------------
# Results


def chosen(args):
    """The settings that make a direction what it is; how many there are does not."""
    names = ["method", "layers", "samples", "seed", "attribute", "column", "torgb", "faces", "purify"]
    names += ["keep", "channels"] if args.purify else []
    return {name: vars(args)[name] for name in names} | {"distance": distance_of(args)}


def results(args, G):
    """The sheet's path and those of the directions, checked: nothing of other sources, nor of other settings, is replaced."""
    from editor import face
    from editor.session import claim

    parts = [Path(G.meta["path"]).stem, args.method, args.attribute or args.scores and Path(args.scores).stem,
             args.torgb and "torgb", args.layers and args.layers.replace(",", "_"), args.purify]  # fmt: skip
    name, out = args.name or "_".join(part for part in parts if part), Path(args.out_dir)
    sources = {"generator": G.meta["path"]} | ({"latents": args.latents, "scores": args.scores} if args.scores else {})
    paths = [out / f"{name}_{i:02}.npy" for i in range(args.count)]
    for path in paths:
        said = face.record(path) if path.exists() else None
        if said is not None and said.get("made_by") != "find_directions.py":
            raise ValueError(f"{path}: is there already, and find_directions.py did not make it; give another --name or --out_dir")
        if said is not None and said.get("settings") != chosen(args):
            raise ValueError(f"{path}: found with other settings ({said.get('settings')}); give another --name or --out_dir, or remove it")
        claim(path, sources)
    if (out / f"{name}.png").exists() and not paths[0].exists():
        raise ValueError(f"{out / name}.png: is there already, and find_directions.py did not make it; give another --name or --out_dir")
    files.check_writable(out / f"{name}.png", paths[0], paths[0].with_suffix(".json"))
    return out / f"{name}.png", paths, sources


def title(boundary, path):
    """What a direction is called on the sheet."""
    return boundary.info["channel"] if "channel" in boundary.info else path.stem.rsplit("_", 1)[-1]


def lines(words):
    """What is read of a direction, in lines short enough for the sheet."""
    named, semicolon, rest = words.partition(" per sigma; ")
    each = named.split(", ") if words else []
    return [", ".join(each[i : i + 2]) for i in range(0, len(each), 2)] + ([f"per sigma; {part}" if not i else part
            for i, part in enumerate(rest.split(", "))] if semicolon else [])  # fmt: skip


def settled(session, args, reader, made):
    """Each direction as it is written, with its reading and the pictures at either side: (Boundary, Reading or None, low, high)."""
    from editor import purify

    for boundary in made:
        reading, low, high = reader(boundary, distance_of(args))
        if args.purify:
            slopes, before = slopes_of(reader, args.quiet), reading
            with cli.progress(args.channels, args.quiet or args.purify != "channels", "channel") as show:
                boundary = purify.purified(
                    session.G, slopes, boundary, args.purify, reading, args.keep, args.channels, show, args.attribute
                )
            reading, low, high = reader(boundary, distance_of(args))
            boundary.info["purified"]["before"] = before.record()
        boundary.info["reading"] = reading.record() | {"words": reading.words("sigma", distance_of(args)), "distance": distance_of(args)}
        yield boundary, reading, low, high


def shown(session, args, reader, made):
    """As `settled`; without a reader, two faces are moved, to be looked at."""
    import torch

    from editor import boundaries, classes, render, styles, tuning

    if reader is not None:
        for boundary, reading, low, high in settled(session, args, reader, made):
            yield boundary, reading, [low[0], reader.before[0], high[0]]
        return
    G = session.G
    z = torch.randn(1, G.config.z_dim, generator=torch.Generator().manual_seed(args.seed + 1)).to(G.w_avg.device)
    with torch.no_grad():
        ws = G.truncate(classes.latents(G, z, evenly=True), 0.7)
    for boundary in made:
        row = []
        for amount in (-distance_of(args), 0.0, distance_of(args)):
            worn, moved = G, ws
            if boundary.space == "style":
                worn = tuning.worn(G, styles.weights(G, amount * boundary.way(1)[0]))
            else:
                moved = boundaries.moved(ws, [(boundary, amount)]).float()
            row += render.pictures(worn, moved, dtype=session.dtype)
        yield boundary, None, row


def main(argv):
    parser = flags()
    args = parser.parse_args(argv)
    check(args, parser)
    from editor import boundaries, face, images
    from editor import session as sessions

    session = sessions.open(args)
    layers = None if args.layers is None else face.layer_range(args.layers, session.G.num_ws)
    sheet, paths, sources = results(args, session.G)
    scores, reader = given(session, args), reader_of(session, args)
    if args.attribute and reader is None:
        raise ValueError("--attribute is read on random faces; give --faces 16")
    rows, names, written = [], [], []
    info = session.record("find_directions.py", sources, settings=chosen(args))
    made = found(session, args, reader, layers, scores)
    for path, (boundary, reading, row) in zip(paths, shown(session, args, reader, made), strict=False):
        boundary.info = boundary.info | info
        boundaries.save(path, boundary)
        words = reading.words("sigma", distance_of(args)) if reading else ""
        if not args.quiet:
            more = f" (correlation {boundary.info['correlation']:+.2f})" if "correlation" in boundary.info else ""
            cli.say(f"{title(boundary, path)}{more}: {words or 'not read'}; 1 is {boundary.unit:.3g}")
        rows.append(row)
        names.append("\n".join([title(boundary, path), *lines(words)]))
        written.append(path)
    images.save(sheet, images.sheet(rows, [f"{d:+g}" for d in (-distance_of(args), 0, distance_of(args))], names, SHOWN))
    cli.written(args, sheet, *written, what=f"{len(written)} directions by {settings_words(args)}")
    cli.warn_of(session)
    return 0


def settings_words(args):
    purified = f", purified: {settings.PURIFY[args.purify]}" if args.purify else ""
    return f"{args.method} ({METHODS[args.method]}{purified})"


if __name__ == "__main__":
    cli.run(main)
