"""Make an animation of a folder of frames: GIF, MP4, WebP or APNG, as the ending says.

    python make_morphinggif.py morph_result/encode1 save_result/morph.gif

Frames are taken in the natural order of their names (img2 before img10) and must all be of one size. An animation among them, such
as one that was made of them earlier, is no frame: it is left out, and named.
"""

from editor import cli  # isort: skip (first: from here on Ctrl-C ends the command as it should)

import sys
from pathlib import Path

from editor import animation, images


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("frames_dir", nargs="?", default="morph_result/encode1", metavar="FRAMES_DIR", help="default: %(default)s")
    p.add_argument(
        "out", nargs="?", default="save_result/morph.gif", metavar="OUT", help=f"{' '.join(animation.ANIMATES)} (default: %(default)s)"
    )
    p.add_argument("--fps", type=float, default=10, help="frames a second (default: %(default)s)")
    p.add_argument("--loop", type=int, default=0, help="how often it plays, 0: for ever; an MP4 leaves that to the player (default: 0)")
    p.add_argument("--pingpong", action="store_true", help="there and back again")
    p.add_argument("--width", type=int, metavar="PIXELS", help="resize the frames to this width, their shape kept (default: as they are)")
    cli.add_quiet_flag(p)
    return p


def frames_of(folder, out):
    """The frames of a folder, in order: its images, but no animation, and never the file that is about to be written.

    Raises:
        ValueError: fewer than two frames, or `out` lies among them under a name that is read as a frame.
    """
    if out.suffix.lower() in images.suffixes() and out.parent.resolve() == Path(folder).resolve():
        raise ValueError(f"{out}: in the folder of its own frames, where the next run would find it; write it elsewhere, or as .mp4")
    for line in images.left_out(folder) if Path(folder).is_dir() else ():
        cli.warn(f"{folder}: {line}")
    paths = []
    for path in images.list_images(folder):
        if images.is_animation(path):
            cli.warn(f"{path}: an animation, no frame; left out")
        else:
            paths.append(path)
    if len(paths) < 2:
        found = f"one frame ({paths[0].name})" if paths else "no frame"
        raise ValueError(f"{folder}: {found}; an animation needs two or more")
    return paths


def main(argv):
    args = flags().parse_args(argv)
    movie = animation.Animation(args.out, args.fps, args.loop, args.width)  # before any work: bad settings are said at once
    paths = frames_of(args.frames_dir, Path(args.out))
    animation.require_replaceable(args.out)
    order = paths + paths[-2:0:-1] if args.pingpong else paths
    from tqdm import tqdm

    size = None
    with movie:
        for path in tqdm(order, disable=args.quiet, unit="frame", file=sys.stderr):
            image = images.open_image(path)
            size = size or image.size
            if image.size != size:
                raise ValueError(
                    f"{path}: {image.width}x{image.height}, but {order[0].name} is {size[0]}x{size[1]}; all frames must be of one size"
                )
            movie.add(image)
    if movie.still:
        one = ", which WebP keeps as one picture that does not move" if movie.path.suffix.lower() == ".webp" else ""
        cli.warn(f"{args.out}: all {movie.count} frames are equal{one}")
    cli.written(args, args.out, what=f"an animation of {movie.count} frames, {movie.count / args.fps:.1f} s")


if __name__ == "__main__":
    cli.run(main)
