"""Everything once, on one photograph: what `make demo` runs, and where the README's pictures come from.

    python -m docs.demo

Prints each command as one would type it, and runs it. The photograph is scikit-image's astronaut; the second face is a
sample of the generator. The result is save_image/demo.png; --docs FOLDER also writes the README's pictures there.
"""

import importlib
import shlex
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from editor import checkpoints, cli, face, files, images, render

NOISE, FILL, JOIN = "save_image/noise", "save_image/fill", "save_image/crossover/join"
UPPER, TOP = "box:0,0,1,0.5", "box:0,0,1,0.25"
ME, YOU = "latent_W/astronaut_01.npy", "latent_W/second.npy"
PHOTO = "aligned_images/astronaut_01.png"
EDITS = ("gender", "age", "pose", "eyeglasses", "smile")
COMMANDS = f"""
align_images.py raw_images aligned_images
encode_image.py --src_im {PHOTO} --iteration 300
image_morphing.py --latent_file1 {ME} --latent_file2 {YOU} --frames 24 --easing smooth --loop --animation save_result/morph.gif
image_crossover.py --latent_file1 {ME} --latent_file2 {YOU}
facial_exchange.py --latent_file1 {YOU} --latent_file2 {ME}
semantic_edit.py --latent_file {ME} --steps 5
encode_image.py --src_im {PHOTO} --init {ME} --iteration 0 --noise_iteration 120 --latent_dir {NOISE} --save_dir {NOISE}
encode_image.py --src_im {PHOTO} --mask part:mouth --invert_mask --composite --iteration 120 --latent_dir {FILL} --save_dir {FILL}
image_crossover.py --src_im1 {PHOTO} --src_im2 save_image/second.png --mask {UPPER} --iteration 80 --noise_iteration 80 --out {JOIN}
local_edit.py scribble --latent_file {ME} --scribble save_image/scribble.png --iteration 80 --noise_iteration 40 --out scribble
local_edit.py style --latent_file {ME} --style_im save_image/texture.png --mask {TOP} --iteration 80 --noise_iteration 60 --out style
local_edit.py transfer --latent_file1 {ME} --latent_file2 {YOU} --mask part:mouth --out transfer
"""  # fmt: skip


def second_face(G, seed):
    """A sample of the generator, saved as a latent would be."""
    z = torch.randn(1, G.config.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        ws = G.truncate(G.mapping(z), 0.6)
    face.save(YOU, ws, {"generator_hash": G.meta["hash"], "made_by": f"sample, seed {seed}, psi 0.6"})
    images.save("save_image/second.png", next(render.pictures(G, ws)))


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
    return Image.open(path).convert("RGB")


def rows():
    """{name: pictures}: the rows of the sheet."""
    frames = images.list_images("morph_result/encode1")
    hidden = picture(PHOTO)
    strips = {}
    for name in EDITS:  # the strip's last picture
        strip = picture(f"save_image/boundary/{name}.png")
        strips[name] = strip
    return {
        "photograph, W+, W+ then noise": [hidden, *(picture(f"save_image/{d}/astronaut_01.png") for d in ("encode", "noise"))],
        "morph to a second face": [picture(frames[i]) for i in np.linspace(0, 23, 6).round().astype(int)],
        "style mix; expression swapped": [picture(p) for p in (YOU_PNG, "save_image/crossover/mix.png", *EXCHANGED)],
        "mouth filled in; two photographs joined": [
            picture(p) for p in ("save_image/fill/astronaut_01.png", "save_image/crossover/join.png")
        ],
        "scribble: drawn, result": [picture(p) for p in ("save_image/scribble.png", "save_image/local/scribble.png")],
        "texture above; the other's mouth": [picture(p) for p in ("save_image/local/style.png", "save_image/local/transfer.png")],
    }, strips


YOU_PNG = "save_image/second.png"
EXCHANGED = ("save_image/exchange/exchange2.png", "save_image/exchange/exchange1.png")


def page(side=128):
    """The contact sheet: rows of pictures, then the strips of the edits."""
    found, strips = rows()
    names = [name.replace("; ", ";\n").replace(", W", ",\nW") for name in found]
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
    for name, strip in strips.items():
        small(strip, folder / f"{name}.jpg", 640)
    with files.atomic(folder / "morph.gif") as temporary:
        temporary.write_bytes(Path("save_result/morph.gif").read_bytes())


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--seed", type=int, default=29, help="of the second face (default: %(default)s)")
    parser.add_argument("--docs", metavar="FOLDER", help="write the README's pictures there")
    args = parser.parse_args(argv)
    import skimage.data

    Path("raw_images").mkdir(exist_ok=True)
    Image.fromarray(skimage.data.astronaut()).save("raw_images/astronaut.png")
    G = checkpoints.load_generator()
    second_face(G, args.seed)
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
