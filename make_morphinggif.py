"""Make an animation of a folder of frames: GIF, MP4, WebP or APNG, as the ending says.

    python make_morphinggif.py morph_result/encode1 save_result/morph.gif

Frames are taken in the natural order of their names (img2 before img10) and must all be of one size.
"""

import sys

from editor import animation, cli, images


def flags():
    p = cli.Parser(__doc__)
    p.add_argument("frames_dir", nargs="?", default="morph_result/encode1", metavar="FRAMES_DIR", help="default: %(default)s")
    p.add_argument(
        "out", nargs="?", default="save_result/morph.gif", metavar="OUT", help=f"{' '.join(animation.ANIMATES)} (default: %(default)s)"
    )
    p.add_argument("--fps", type=float, default=10, help="frames a second (default: %(default)s)")
    p.add_argument("--loop", type=int, default=0, help="how often it plays, 0: for ever; an MP4 leaves that to the player (default: 0)")
    p.add_argument("--pingpong", action="store_true", help="there and back again")
    p.add_argument("--width", type=int, help="resize the frames to this width (default: as they are)")
    p.add_argument("--quiet", action="store_true", help="no progress bar, errors only")
    return p


def resized(image, width):
    """PIL image at another width, its shape kept."""
    if width in (None, image.width):
        return image
    from PIL import Image

    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)


def main(argv):
    args = flags().parse_args(argv)
    if args.width is not None and not 4 <= args.width <= 8192:
        raise ValueError(f"--width {args.width}: from 4 to 8192")
    paths = images.list_images(args.frames_dir)
    if len(paths) == 1:
        raise ValueError(f"{args.frames_dir}: one frame ({paths[0].name}); an animation needs two or more")
    order = paths + paths[-2:0:-1] if args.pingpong else paths
    from tqdm import tqdm

    size = None
    with animation.Animation(args.out, args.fps, args.loop) as movie:
        for path in tqdm(order, disable=args.quiet, unit="frame", file=sys.stderr):
            image = images.open_image(path)
            size = size or image.size
            if image.size != size:
                raise ValueError(
                    f"{path}: {image.width}x{image.height}, but {order[0].name} is {size[0]}x{size[1]}; all frames must be of one size"
                )
            movie.add(resized(image, args.width))
    if not args.quiet:
        print(f"{args.out}: {movie.count} frames, {movie.count / args.fps:.1f} s")


if __name__ == "__main__":
    cli.run(main)
