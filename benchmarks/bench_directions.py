"""What found and purified directions change, on the bundled generator; tables in Markdown.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_directions

time       SeFa and PCA as find_directions.py finds them, seconds of one core.
readings   the first --count directions of SeFa and PCA, read on 16 faces; each attribute that a reading names (0.2 spreads a sigma and
           more) must go the same way on 50 faces that were not looked at: the mean's sign.
purified   for smile, yaw, gender and age: the plain boundary of boundaries/, it conditioned on the four others' boundaries, and what
           --purify makes of it, each moved as far as changes its attribute by one spread (a mean over faces that neither the slopes nor
           the boundary were found from). Beside it identity (dlib's descriptors, mean), the other attributes' changes in spreads: of the
           mean face, summed, and each face's, summed; share of faces that go the right way; the mouth's width between landmarks in
           parts of the eyes' distance, which no network of ours has labelled; and the picture's root mean square change.
           "smile, only gender and age": the same with --keep gender age; the others' column counts those two.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from editor import boundaries, checkpoints, cli, directions, images, landmarks, purify, readings, settings
from editor import session as sessions

NAMES = {"smile": "smile", "yaw": "pose", "gender": "gender", "age": "age", "glasses": "eyeglasses"}
SHOWN = ("smile", "yaw", "gender", "age")
UNSEEN = 50
COUNTS = (60, 300)  # of channels


def seconds(f):
    began = time.process_time()
    f()
    return time.process_time() - began


def readings_table(G, reader, count):
    unseen, right, named = readings.Reader(G, UNSEEN, seed=100), 0, 0
    unseen.spread = reader.spread
    print("| direction | read on 16 faces | agrees on 50 others |\n| --- | --- | --- |")
    for method in ("sefa", "pca"):
        for one in directions.found(G, method, count):
            reading, *_ = reader(one, 1.0)
            below, above = (unseen.read(unseen.moved(one, d)) for d in (-1.0, 1.0))
            says = {n: v for n, v in reading.attributes.items() if abs(v) >= readings.NAMED}
            agree = [float((above[n] - below[n]).mean()) * v > 0 for n, v in says.items()]
            right, named = right + sum(agree), named + len(agree)
            print(f"| {method} {one.info['number']} | {reading.words('sigma')} | {sum(agree)} of {len(agree)} |", flush=True)
    print(f"\nsame sign: {right} of {named}, {right / max(named, 1):.0%}\n")


def mouth(pictures):
    """The mouth's width in parts of the eyes' distance, [N]; NaN where no face is found."""
    found = []
    for picture in pictures:
        try:
            marks = landmarks.landmarks_of_crop(images.to_pil(picture))
        except ValueError:
            found.append(np.nan)
            continue
        eyes = marks[landmarks.LEFT_EYE].mean(0) - marks[landmarks.RIGHT_EYE].mean(0)
        found.append(np.hypot(*(marks[48] - marks[54])) / np.hypot(*eyes))
    return np.array(found)


def at_one_spread(reader, boundary, name, tries=5):
    """How far, and the pictures, where the mean face's attribute has changed by one spread (the secant's way)."""
    before, reached, amount = (0.0, 0.0), None, 1.0
    for _ in range(tries):
        pictures = reader.moved(boundary, amount)
        reached = float(reader.changes(pictures)[name].mean())
        if abs(reached - 1) < 0.04:
            break
        slope = (reached - before[1]) / (amount - before[0])
        before = amount, reached
        amount = float(np.clip(amount + (1 - reached) / slope, -3 * abs(amount), 3 * abs(amount))) if slope else 2 * amount
    return amount, pictures


def row(reader, label, boundary, name, kept):
    amount, pictures = at_one_spread(reader, boundary, name)
    moved, identity = reader.changes(pictures), float(reader.identity(pictures).mean())
    mean, each = sum(abs(moved[k].mean()) for k in kept), sum(np.abs(moved[k]).mean() for k in kept)
    apart = float(np.sqrt(np.mean((pictures.astype(float) - reader.before) ** 2)))
    wider = float(np.nanmean(mouth(pictures) - mouth(reader.before)))
    print(f"| {label} | {amount:.2f} | {moved[name].mean():+.2f} | {identity:.3f} | {mean:.2f} | {each:.2f} | "
          f"{np.mean(moved[name] > 0):.0%} | {wider:+.3f} | {apart:.1f} |", flush=True)  # fmt: skip
    return pictures


def purified_table(G, reader, slopes, name, kept=None):
    folder = checkpoints.HERE / "boundaries"
    plain = {n: boundaries.load(folder / f"{file}.npy", G) for n, file in NAMES.items()}
    others = kept or [n for n in NAMES if n != name]
    reading = readings.Reading({n: float(n == name) for n in NAMES}, {}, 0.0, None)
    print(f"**{name}{', only ' + ' and '.join(kept) if kept else ''}**\n")
    print("| way | amount | reached | identity | others, mean face | others, each face | right way | mouth | RMS, grey levels |")
    print("| --- " * 9 + "|")
    conditioned = boundaries.conditioned(plain[name].normal, [plain[n].normal for n in others])
    shown = [row(reader, "plain", plain[name], name, others), row(reader, "--condition", boundaries.Boundary(conditioned), name, others)]
    for way in settings.PURIFY:
        for count in COUNTS if way == "channels" else (0,):
            try:
                found = purify.purified(G, slopes, replace(plain[name]), way, reading, kept, count)
            except ValueError as error:
                print(f"| {way} | {error} |")
                continue
            layers = f" {found.layers[0]}-{found.layers[-1]}" if found.layers else ""
            shown.append(row(reader, f"--purify {way}{f' {count}' if count else ''}{layers}", found, name, others))
    print()
    return shown


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--count", type=cli.number(int, 1), default=6, help="directions of each method that are read (default: 6)")
    parser.add_argument("--faces", type=cli.number(int, 4), default=24, help="that boundaries are compared on (default: 24)")
    parser.add_argument("--only", choices=("readings", "purified"), help="one of the tables (default: both)")
    parser.add_argument("--names", nargs="+", choices=("smile_kept", *SHOWN), default=["smile_kept", *SHOWN], help="tables of purified "
                        "directions; smile_kept: with --keep gender age (default: all)")  # fmt: skip
    parser.add_argument("--out", default="runs/directions", metavar="DIR", help="where pictures go (default: %(default)s)")
    cli.add_run_flags(parser)
    args = parser.parse_args(argv)
    args.weight_file = None
    torch.set_num_threads(1)
    G = sessions.open(args).G
    for method in ("sefa", "pca") if args.only != "purified" else ():
        print(f"{method}: {seconds(lambda method=method: directions.found(G, method, 10)):.2f} s", flush=True)
    if args.only != "purified":
        readings_table(G, readings.Reader(G, 16), args.count)
    if args.only != "readings":
        slopes, reader = readings.slopes(readings.Reader(G, 4)), readings.Reader(G, args.faces, seed=50)
        for name, kept in [("smile", ["gender", "age"]) if name == "smile_kept" else (name, None) for name in args.names]:
            shown = purified_table(G, reader, slopes, name, kept)
            cells = [reader.before[:8], *(pictures[:8] for pictures in shown)]
            images.save(Path(args.out) / f"{name}{'_kept' if kept else ''}.png", images.sheet([list(c) for c in cells], size=128, gap=2))
    return 0


if __name__ == "__main__":
    cli.run(main)
