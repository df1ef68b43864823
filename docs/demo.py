"""Everything once, on one photograph: what `make demo` runs, and where the README's pictures come from.

    python -m docs.demo

Prints each command as one would type it, and runs it. The photograph is scikit-image's astronaut; the second face is a
sample of the generator. The result is save_image/demo.png; --docs FOLDER also writes the README's pictures there.
"""

import importlib
import shlex
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from editor import cli, files, images

ME, YOU = "astronaut_01", "seed0057"  # the photograph's face, and a sample of the generator
MINE, YOURS = f"latent_W/{ME}.npy", f"save_image/generate/{YOU}.npy"
UPPER, TOP = "box:0,0,1,0.5", "box:0,0,1,0.25"
EDITS = ("gender", "age", "pose", "eyeglasses", "smile")
FOUND = "faces128_pca_00"  # the first direction that nobody labelled
COMMANDS = f"""
align_images.py raw_images/ aligned_images/
encode_image.py --src_im {ME}.png
generate.py --seeds 57 --trunc 0.7
image_morphing.py --latent_file1 {MINE} --latent_file2 {YOURS} --frames 24 --easing smooth --loop --animation save_result/morph.gif
image_crossover.py --latent_file1 {MINE} --latent_file2 {YOURS}
facial_exchange.py --latent_file1 {YOURS} --latent_file2 {MINE}
semantic_edit.py --latent_file {MINE} --steps 5
find_directions.py --method pca --count 4 --faces 6 --out_dir save_image/directions
semantic_edit.py --latent_file {MINE} --boundary save_image/directions/{FOUND}.npy --start_distance -1.5 --end_distance 1.5 --steps 5
encode_image.py --src_im {ME}.png --mask part:mouth --invert_mask --composite --iteration 120
image_crossover.py --src_im1 {ME}.png --src_im2 save_image/generate/{YOU}.png --mask {UPPER} --iteration 80 --noise_iteration 80
local_edit.py scribble --latent_file {MINE} --scribble save_image/scribble.png --iteration 80 --noise_iteration 40
local_edit.py style --latent_file {MINE} --style_im save_image/texture.png --mask {TOP} --iteration 80 --noise_iteration 60
local_edit.py transfer --latent_file1 {MINE} --latent_file2 {YOURS} --mask part:mouth
"""  # fmt: skip


def drawings():
    """A rendering with brows drawn on it, and a texture."""
    picture = Image.open("save_image/encode/astronaut_01.png").convert("RGB")
    side, brush = picture.width, ImageDraw.Draw(picture)
    for x in (0.3, 0.7):
        box = [(x - 0.13) * side, 0.33 * side, (x + 0.13) * side, 0.48 * side]
        brush.arc(box, 200, 340, fill=(30, 18, 12), width=max(2, side // 24))
    picture.save("save_image/scribble.png")
    y, x = np.mgrid[:side, :side] * (2 * np.pi * 8 / side)
    waves = np.stack([np.sin(x + np.sin(y)), np.sin(x - y), np.sin(y)], -1)
    Image.fromarray(np.uint8(waves * 80 + 128)).save("save_image/texture.png")


def run(words):
    """One command, shown as it would be typed; run in this process, since starting Python and PyTorch twelve times takes half a minute."""
    print("python", words, flush=True)
    script, *rest = shlex.split(words)
    code = importlib.import_module(script.removesuffix(".py")).main([*rest, "--quiet"])
    if code:
        raise ValueError(f"python {words} ended with exit code {code}")


def picture(path):
    return Image.open(f"save_image/{path}.png").convert("RGB")


def rows():
    """{name: pictures}: the rows of the sheet; and {attribute: its strip}."""
    frames = images.list_images("morph_result/encode1")
    photograph = Image.open(f"aligned_images/{ME}.png").convert("RGB")
    exchanged = [picture(f"exchange/{YOU}_x_{ME}_exchange{i}") for i in (2, 1)]
    return {
        "photograph, embedding": [photograph, picture(f"encode/{ME}")],
        "morph to a second face": [images.open_image(frames[i]) for i in np.linspace(0, 23, 6).round().astype(int)],
        "style mix; expression swapped": [picture(f"generate/{YOU}"), picture(f"crossover/{ME}_x_{YOU}"), *exchanged],
        "mouth filled in; two photographs joined": [picture(f"encode/{ME}_fill_mouth"), picture(f"crossover/{ME}_x_{YOU}_box-0-0-1-0.5")],
        "scribble: drawn, result": [picture("scribble"), picture(f"local/{ME}_scribble")],
        "texture above; the other's mouth": [picture(f"local/{ME}_style"), picture(f"local/{ME}_x_{YOU}_mouth")],
    }, {name: picture(f"boundary/{ME}_{name}") for name in (*EDITS, FOUND)}


def page(side=128):
    """The contact sheet: rows of pictures, then the strips of the edits."""
    found, strips = rows()
    names = [name.replace("; ", ";\n") for name in found]
    top = images.sheet(list(found.values()), names=names, size=side)
    strips = [strip.resize((top.width, strip.height * top.width // strip.width)) for strip in strips.values()]
    whole = Image.new("RGB", (top.width, top.height + sum(s.height for s in strips)), "white")
    y = 0
    for part in (top, *strips):
        whole.paste(part, (0, y))
        y += part.height
    return whole


def small(image, path, width):
    """A JPEG for the README."""
    image = image.convert("RGB")
    image = image.resize((width, image.height * width // image.width), Image.Resampling.LANCZOS)
    with files.atomic(path) as temporary:
        image.save(temporary, quality=85)


def write_docs(folder):
    """The README's pictures."""
    folder, (found, strips) = Path(folder), rows()
    for name, key in (
        ("embed", "photograph"),
        ("mix", "style mix"),
        ("fill", "mouth filled"),
        ("scribble", "scribble"),
        ("local", "texture"),
    ):
        row = next(v for k, v in found.items() if k.startswith(key))
        small(images.sheet([row], size=160), folder / f"{name}.jpg", 170 * len(row))
    for name in EDITS:
        small(strips[name], folder / f"{name}.jpg", 640)
    small(picture("directions/faces128_pca"), folder / "directions.jpg", 640)
    with files.atomic(folder / "morph.gif") as temporary:
        temporary.write_bytes(Path("save_result/morph.gif").read_bytes())


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--docs", metavar="FOLDER", help="write the README's pictures there")
    args = parser.parse_args(argv)
    import skimage.data

    Path("raw_images").mkdir(exist_ok=True)
    Image.fromarray(skimage.data.astronaut()).save("raw_images/astronaut.png")
    for words in COMMANDS.strip().splitlines():
        if words.startswith("local_edit.py scribble"):
            drawings()
        run(words)
    images.save("save_image/demo.png", page())
    if args.docs:
        write_docs(args.docs)
    print("save_image/demo.png: everything on one sheet")


if __name__ == "__main__":
    cli.run(main)
