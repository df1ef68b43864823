"""Everything once, on one photograph: what `make demo` runs, and where the README's pictures come from.

    python -m docs.demo

Prints each command as one would type it, runs it, and lays what came out under it on one page, save_image/demo.png. The photograph is
scikit-image's astronaut; two samples of the generator keep her company. --docs FOLDER also writes the README's pictures there.
"""

import importlib
import shlex
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from editor import cli, files, images

ME, SHE, HE = "astronaut_01", "seed0093", "seed0016"  # the photograph's face, and two samples of the generator
EVERYONE = {ME: f"latent_W/{ME}.npy", SHE: f"save_image/generate/{SHE}.npy", HE: f"save_image/generate/{HE}.npy"}
PICTURES = {ME: f"save_image/encode/{ME}.png", SHE: f"save_image/generate/{SHE}.png", HE: f"save_image/generate/{HE}.png"}
MINE, HERS, HIS = EVERYONE.values()
UPPER, TOP = "box:0,0,1,0.5", "box:0,0,1,0.25"
CELL, COLUMNS = 256, 6  # a picture of the bundled generator at twice its size
FRAMES = 24
FOUND = "faces128_pca_00"


@dataclass
class Row:
    """Part of the page: a caption, the commands that made it, and their pictures (files). name: of the README's picture, or None."""

    name: str | None
    caption: str
    commands: list
    pictures: list


def edits(name, caption, **amounts):
    """A row of edits: {attribute: amounts for the three faces}."""
    (attribute, by), *_ = amounts.items()
    commands = [
        f"semantic_edit.py --latent_file {' '.join(path for path, b in zip(EVERYONE.values(), by, strict=True) if b == amount)} "
        f"--edit {attribute}={amount:g}"
        for amount in dict.fromkeys(by)
    ]
    after = [f"save_image/boundary/{who}_{attribute}{amount:+g}.png" for who, amount in zip(EVERYONE, by, strict=True)]
    return Row(name, caption, commands, [path for pair in zip(PICTURES.values(), after, strict=True) for path in pair])


ROWS = [
    Row("first", "A photograph, its embedding, and what becomes of it below",
        ["align_images.py raw_images/ aligned_images/", f"encode_image.py --src_im {ME}.png", "generate.py --seeds 93,16 --trunc 0.7"],
        [f"aligned_images/{ME}.png", PICTURES[ME], *(f"save_image/boundary/{ME}_{how}.png" for how in ("smile-3", "pose+2.5", "gender+3")),
         f"save_image/local/{ME}_scribble.png"]),
    edits("smile", "More and less of a smile", smile=(-3, 3, -3)),
    edits("pose", "Turned", pose=(2.5, -2.5, 2.5)),
    edits("gender", "The other gender", gender=(3, 3, -3)),
    Row(None, "A direction that nobody labelled: the first of GANSpace's components",
        ["find_directions.py --method pca --count 1 --faces 0 --out_dir save_image/directions",
         f"semantic_edit.py --latent_file {MINE} {HERS} {HIS} --edit save_image/directions/{FOUND}.npy=1"],
        [path for who in EVERYONE for path in (PICTURES[who], f"save_image/boundary/{who}_{FOUND}+1.png")]),
    Row(None, "A morph", [f"image_morphing.py --latent_file1 {MINE} --latent_file2 {HERS} --frames {FRAMES} --easing smooth --loop",
                             "make_morphinggif.py --width 256"],
        [f"morph_result/encode1/morph_{i:04}.png" for i in np.linspace(0, FRAMES - 1, COLUMNS).round().astype(int)]),
    Row("mix", "Whose shape, and whose colours: mixed by layers, both ways; his expression on her face, and hers on his",
        [f"image_crossover.py --latent_file1 {MINE} --latent_file2 {HERS}",
         f"image_crossover.py --latent_file1 {HERS} --latent_file2 {MINE}",
         f"facial_exchange.py --latent_file1 {HERS} --latent_file2 {HIS}"],
        [PICTURES[ME], f"save_image/crossover/{ME}_x_{SHE}.png", f"save_image/crossover/{SHE}_x_{ME}.png", PICTURES[SHE],
         *(f"save_image/exchange/{SHE}_x_{HE}_exchange{i}.png" for i in (1, 2))]),
    Row("local", "A drawing taken in; a texture; another's mouth",
        [f"local_edit.py scribble --latent_file {MINE} --scribble save_image/scribble.png --iteration 40 --noise_iteration 20",
         f"local_edit.py style --latent_file {MINE} --style_im save_image/texture.png --mask {TOP} --iteration 30 --noise_iteration 20",
         f"local_edit.py transfer --latent_file1 {MINE} --latent_file2 {HIS} --mask part:mouth"],
        ["save_image/scribble.png", f"save_image/local/{ME}_scribble.png", "save_image/texture.png", f"save_image/local/{ME}_style.png",
         PICTURES[HE], f"save_image/local/{ME}_x_{HE}_mouth.png"]),
    Row("drag", "Two photographs joined; points dragged: the corners of the mouth apart and up, and together",
        [f"image_crossover.py --src_im1 {ME}.png --src_im2 {PICTURES[SHE]} --mask {UPPER} --iteration 40 --noise_iteration 20",
         f'drag_edit.py --latent_file {MINE} --drag "part:mouth_left>-2,-4" --drag "part:mouth_right>+2,-4" --out laughing',
         f'drag_edit.py --latent_file {MINE} --drag "part:mouth_left>+3,+2" --drag "part:mouth_right>-3,+2" --out serious'],
        [f"aligned_images/{ME}.png", PICTURES[SHE], f"save_image/crossover/{ME}_x_{SHE}_box-0-0-1-0.5.png", PICTURES[ME],
         "save_image/drag/laughing.png", "save_image/drag/serious.png"]),
]  # fmt: skip


def drawings():
    """A rendering with brows drawn on it, and a texture."""
    picture = Image.open(PICTURES[ME]).convert("RGB")
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


def strip(row, cell=CELL):
    """A row's pictures, edge to edge."""
    page = Image.new("RGB", (cell * len(row.pictures), cell), "white")
    for i, path in enumerate(row.pictures):
        page.paste(images.open_image(path).resize((cell, cell), Image.Resampling.LANCZOS), (i * cell, 0))
    return page


def page(margin=24):
    """All rows on one page: a caption, the commands, and what they made."""
    caption, command = ImageFont.load_default(26), ImageFont.load_default(17)
    width, parts = CELL * COLUMNS, []
    for row in ROWS:
        wrapped = [textwrap.wrap(f"python {words}", 170, subsequent_indent="    ", break_on_hyphens=False) for words in row.commands]
        lines = [line for words in wrapped for line in words]
        parts.append((row, lines, 40 + 22 * len(lines) + 8))
    whole = Image.new("RGB", (width + 2 * margin, 2 * margin + sum(words + CELL + margin for *_, words in parts)), "white")
    draw, y = ImageDraw.Draw(whole), margin
    for row, lines, words in parts:
        draw.text((margin, y), row.caption, "black", caption)
        for i, line in enumerate(lines):
            draw.text((margin, y + 40 + 22 * i), line, "#555", command)
        whole.paste(strip(row), (margin, y + words))
        y += words + CELL + margin
    return whole


def write_docs(folder):
    """The README's pictures: each row's strip as a JPEG, the sheet of directions, and the morph."""
    for row in [row for row in ROWS if row.name]:
        with files.atomic(Path(folder) / f"{row.name}.jpg") as temporary:
            strip(row, 160).save(temporary, quality=88)
    run("find_directions.py --method pca --count 4 --faces 6 --out_dir save_image/four_directions")
    sheet = images.open_image("save_image/four_directions/faces128_pca.png")
    with files.atomic(Path(folder) / "directions.jpg") as temporary:
        sheet.resize((640, sheet.height * 640 // sheet.width), Image.Resampling.LANCZOS).save(temporary, quality=88)
    morph = Path("save_result/morph.webp")  # an eighth of the GIF
    run(f"make_morphinggif.py morph_result/encode1 {morph} --width 256")
    with files.atomic(Path(folder) / morph.name) as temporary:
        temporary.write_bytes(morph.read_bytes())


def main(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("--docs", metavar="FOLDER", help="write the README's pictures there")
    args, began = parser.parse_args(argv), time.time()
    import skimage.data

    Path("raw_images").mkdir(exist_ok=True)
    Image.fromarray(skimage.data.astronaut()).save("raw_images/astronaut.png")
    for words in (words for row in ROWS for words in row.commands):
        if words.startswith("local_edit.py scribble"):
            drawings()
        run(words)
    images.save("save_image/demo.png", page())
    if args.docs:
        write_docs(args.docs)
    print(f"save_image/demo.png: everything on one page ({time.time() - began:.0f} s)")


if __name__ == "__main__":
    cli.run(main)
