"""A page to look at: what lies in a folder of results, as one HTML file that opens from disk and asks no network.

    python make_report.py save_image/encode

It writes save_image/encode/report.html: for each face the photograph, the rendering, a slider between the two, their difference times
four, its edits, its loss curve, figures, settings, hashes and the command that repeats it; a table of all that sorts and filters; what
failed comes first. Folders of latents, edits, morphs and boundaries are shown, too. Several folders make one page, and edits then stand
beside their face:

    python make_report.py save_image/encode save_image/boundary --out look.html

Above 20 MB it goes on in report_2.html, ... Small pictures are inside, full ones are linked to where they lie. Only pages of the
same report are replaced.
"""

import base64
import contextlib
import json
import math
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from editor import cli, files, settings

HERE = Path(__file__).resolve().parent
TEMPLATES = HERE / "editor" / "report"
MARK = "StyleGAN Latent Editor: make_report.py"  # in <meta name="generator">: a page of ours, with what report it is of
LIMIT = 20_000_000  # bytes of a page: what a browser opens in a second or two
ROW = 800  # bytes that a row of the table is taken for
MOST_ROWS = 8000  # with more results each page has a table of its own alone
TOGETHER = 64  # results whose pictures are made at a time


def flags():
    p = cli.Parser(__doc__)
    p.add_argument(
        "folder", nargs="+", metavar="FOLDER", help="folders of pictures, latents, edits, frames or boundaries with their records"
    )
    p.add_argument("--out", metavar="FILE.html", help="where the page goes (default: report.html in the first FOLDER)")
    cli.add_quiet_flag(p)
    return p


# ---------------------------------------------------------------------------------------------------------------------
# Pictures for the page


@dataclass
class Drawn:
    """A small picture in the page: label, data URI, width and height, the link to the full one, and its role in what is compared."""

    label: str
    data: str
    width: int
    height: int
    link: str = ""
    role: str = ""


def small(picture, size):
    """A PIL.Image at most as large as `size`: WebP without loss, since JPEG hides what one looks for; without what a camera noted.

    Returns:
        (data URI, width, height).
    """
    import io

    from PIL import Image

    picture = picture.copy()
    picture.thumbnail(size, Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    picture.save(kept, "WEBP", lossless=True, method=0, quality=50, exif=b"", icc_profile=b"")
    return "data:image/webp;base64," + base64.b64encode(kept.getvalue()).decode(), *picture.size


def difference(before, after):
    """Two PIL.Images of one shape -> four times how far they are apart, each colour by itself; the first is resized as embedding does."""
    import numpy as np
    from PIL import Image

    if before.size != after.size:
        before = before.resize(after.size, Image.Resampling.LANCZOS)
    apart = np.abs(np.asarray(before, np.int16) - np.asarray(after, np.int16))
    return Image.fromarray(np.uint8(np.minimum(4 * apart, 255)))


def link(path, out):
    """The address of a file relative to the page, each byte as an address may hold it."""
    try:
        relative = os.path.relpath(path, out.parent)
    except ValueError:  # another drive of Windows
        return Path(path).absolute().as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def drawn(result, out):
    """The small pictures of a result, (what it was made of, itself and the difference; its edits); what cannot be shown is said."""
    from editor import images, results

    def opened(picture):
        try:
            return images.open_image(picture.path)
        except (OSError, ValueError) as error:
            result.remarks.append(f"cannot be shown: {cli.one_line(error)}")

    def copy(picture, image, role=""):
        size = results.STRIP if image.width > 2 * image.height else picture.size
        return Drawn(picture.label, *small(image, size), link(picture.path, out), role)

    parts = {"before": result.before, "after": result.after}
    found = {role: image for role, picture in parts.items() if picture and (image := opened(picture))}
    pair = len(found) == 2 and same_shape(*found.values())
    shown = [copy(result.before, found["before"], pair and "before")] if "before" in found else []
    shown += [copy(picture, image) for picture in result.others if (image := opened(picture))]
    shown += [copy(result.after, found["after"], pair and "after")] if "after" in found else []
    if pair:
        shown.append(Drawn("difference, times four", *small(difference(*found.values()), results.SIDE)))
    return shown, [copy(picture, image) for picture in result.edits if (image := opened(picture))]


def same_shape(before, after):
    """Whether two PIL.Images show the same, at one size or two: within the pixel that an aligned crop may be off."""
    return abs(before.width * after.height - after.width * before.height) <= max(after.size)


def curve(history):
    """A loss curve as points of a 300x80 drawing, on a logarithmic scale where it can be; None without [[step, loss], ...]."""
    from editor.results import number

    pairs = [(number(p[0]), number(p[1])) for p in history if isinstance(p, list) and len(p) == 2] if isinstance(history, list) else []
    pairs = [pair for pair in pairs if None not in pair]
    if len(pairs) < 2 or any(b <= a for (a, _), (b, _) in zip(pairs, pairs[1:], strict=False)):
        return None
    shown = pairs[:: math.ceil(len(pairs) / 300)]
    shown += [pairs[-1]] if shown[-1] != pairs[-1] else []
    logarithmic = all(loss > 0 for _, loss in shown)
    heights = [math.log(loss) if logarithmic else loss for _, loss in shown]
    low, left, tall, wide = min(heights), shown[0][0], max(heights) - min(heights) or 1, shown[-1][0] - shown[0][0]
    places = [(298 * (step - left) / wide + 1, 78 - 76 * (height - low) / tall) for (step, _), height in zip(shown, heights, strict=True)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return {"points": points, "first": pairs[0], "last": pairs[-1], "scale": "logarithmic" if logarithmic else "linear"}


# ---------------------------------------------------------------------------------------------------------------------
# The command that repeats a result


def word(text):
    """A word as a shell reads it; bytes that a terminal would obey, or that are no text, as bash and zsh take them, $'\\n'."""
    text = str(text)
    if cli.escaped(text) == text and text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(chr(b) if 32 <= b < 127 and b not in b"\\'" else f"\\x{b:02x}" for b in os.fsencode(text)) + "'"


def command(result):
    """What one types to make a result again, in the folder where it was made; "" where its record does not say enough."""
    from editor import results

    said, made_by, argv = result.said, result.made_by, result.said.get("argv")
    try:
        known = {"encode_image.py": encoded, "semantic_edit.py": moved, "generate.py": sampled, "image_morphing.py": morphed}.get(made_by)
        words = known and known(said, results.sources(said), result.path)
        if made_by.startswith("local_edit.py"):
            words = edited(said, results.sources(said), made_by.split()[1])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):  # a record that lacks what its command writes
        words = None
    if not words and isinstance(argv, list) and all(isinstance(w, str) for w in argv):
        words = argv + ["--redo"] * (result.of_folder and "--redo" not in argv)
    return " ".join(word(w) for w in ["python", made_by.split()[0], *words]) if words else ""


def given(values):
    """{flag: value} -> words; nothing for None and False, the flag alone for True."""
    words = []
    for name, value in values.items():
        if value is not None and value is not False:
            words += [f"--{name}"] + ([] if value is True else [f"{v:g}" if isinstance(v, float) else str(v) for v in listed(value)])
    return words


def listed(value):
    return value if isinstance(value, (list, tuple)) else [value]


PRECISIONS = {("float32", "float32"): "fp32", ("tf32", "float32"): "tf32", ("bfloat16", "bfloat16"): "bf16"}  # of steps, pictures


def opened_with(said):
    """The flags of the model, where they are not the defaults."""
    bundled = Path(said["generator"]).name == "faces128.safetensors"
    return {
        "weight_file": None if bundled else said["generator"],
        "seed": said["seed"] or None,
        "precision": PRECISIONS.get((said["precision"], said.get("pictures", said["precision"]))),
    }


def encoded(said, sources, path):
    """encode_image.py; None where it began from a file that is known by its hash alone."""
    chosen, config = said["settings"], settings.Config()
    if not isinstance(chosen["init"], str):
        return None
    flags = {"src_im": sources["image"]["path"], "iteration": chosen["iteration"], "init": chosen["init"]}
    flags |= {"w_iteration": chosen["w_iteration"] or None, "perceptual": chosen["perceptual"]}
    names = (
        "space",
        "lr",
        "schedule",
        "lambda_mse",
        "lambda_percep",
        "lambda_prior",
        "lambda_cosine",
        "noise_iteration",
        "noise_lr",
        "lambda_noise",
        "joint",
    )
    flags["preset"] = "latenteditor" if chosen.get("betas") == list(settings.BETAS["latenteditor"]) else "exact"
    flags["coarse"] = chosen.get("coarse", 0.0)
    usual = {} if flags["preset"] == "latenteditor" else vars(config)
    flags |= {name: chosen[name] for name in names if name in chosen and (name not in usual or chosen[name] != usual[name])}
    flags |= {name: ",".join(map(str, chosen[name])) for name in ("layers", "noise_layers") if chosen[name] is not None}
    if chosen["lambda_start"] or chosen["mask"]:
        flags["lambda_start"] = chosen["lambda_start"]
    flags |= {"early_stop": bool(chosen["early_stop"]), "invert_mask": chosen["invert_mask"], "composite": chosen["composite"]}
    flags["unaligned"] = chosen.get("unaligned", False)
    flags["mask"] = sources["mask"]["path"] if "mask" in sources else chosen["mask"]
    if chosen["tuning"]:
        tuning, plain = chosen["tuning"], settings.Tuning()
        flags |= {"tune": tuning["steps"], "tune_together": bool(tuning["together"])}
        flags |= {f"tune_{name}": tuning[name] for name in ("form", "lr", "locality", "until") if tuning[name] != getattr(plain, name)}
    flags |= opened_with(said) | {"latent_dir": path.parent, "save_dir": Path(said["picture"]["path"]).parent}
    return given(flags)


def moved(said, sources, path):
    """semantic_edit.py: a strip along one boundary, or some edits at once."""
    files_of = {role.removeprefix("boundary "): e["path"] for role, e in sources.items() if role.startswith("boundary ")}
    own = {name: name if Path(file).parent == HERE / "boundaries" else file for name, file in files_of.items()}
    flags, moves = {"latent_file": sources["latent"]["path"]}, said["distances"]
    first = next(iter(moves))
    if len(moves) == 1 and path.stem == f"{said['name']}_{first}":
        flags |= {"boundary": own[first], "start_distance": moves[first][0], "end_distance": moves[first][-1], "steps": len(moves[first])}
        flags["save_latents"] = "latent" in said["files"]
    else:
        flags["edit"] = [f"{own[name]}={distances[0]:g}" for name, distances in moves.items()]
    flags |= {
        "mode": said["mode"] if said["mode"] != "relative" else None,
        "condition": said["conditions"] or None,
        "layers": said["layers"],
    }
    return given(flags | opened_with(said) | {"out_dir": path.parent})


def sampled(said, sources, path):
    """generate.py: one seed."""
    chosen = said["settings"]
    flags = opened_with(said) | {"seed": None, "seeds": said["z_seed"], "trunc": chosen["trunc"], "trunc_cutoff": chosen["trunc_cutoff"]}
    return given(flags | {"noise_mode": chosen["noise_mode"], "out_dir": path.parent})


def morphed(said, sources, path):
    """image_morphing.py: the frames of a folder."""
    flags = {
        "latent_files": [e["path"] for e in sources.values()],
        "frames": said["per_leg"],
        "easing": said["easing"],
        "loop": said["loop"],
    }
    return given(flags | opened_with(said) | {"out_dir": path.parent})


def edited(said, sources, what):
    """local_edit.py: its roles and settings are called as its flags are; None for what --embed made of a transfer, which no record says."""
    if what == "transfer" and "steps" in said:
        return None
    chosen = {name: value for name, value in said["settings"].items() if value != []}
    flags = {role: e["path"] for role, e in sources.items()} | {"mask": chosen.get("mask")} | chosen | opened_with(said)
    flags |= {"perceptual": said["perceptual"] if what != "transfer" else None, "out": said["picture"]["path"]}
    return [what, *given(flags)]


# ---------------------------------------------------------------------------------------------------------------------
# The page


# What a record says that is not among the settings
ELSEWHERE = ("made_by", "name", "sources", "source_in", "picture", "files", "history", "frames", "landmarks", "quad", "argv")


def plain_settings(result):
    """What a record says of how it was made, as (name, text) pairs."""
    from editor import results

    pairs, left = [], [("", result.said)]
    while left:
        before, values = left.pop(0)
        for name, value in values.items():
            if isinstance(value, dict) and name not in ELSEWHERE:
                left.append((f"{name}: " if name != "settings" else "", value))
            elif name not in (*ELSEWHERE, *results.FIGURES) and value not in (None, [], ""):
                pairs.append((before + name, json.dumps(value) if not isinstance(value, str) else value))
    return pairs


def hashes(result):
    """(what, where, sha256) of the files that belong to a result."""
    from editor import results

    rows = [(role, e["path"], e.get("sha256") or "") for role, e in results.sources(result.said).items()]
    picture = results.entry(result.said, "picture")
    rows += [("picture", picture.get("path", ""), picture["sha256"])] if picture.get("sha256") else []
    return rows + [(part, "", sha256) for part, sha256 in results.entry(result.said, "files").items() if part != "picture"]


def shown_figures(result):
    """{name: (number, text)} of a result."""
    from editor import results

    shares = {name for name in results.FIGURES if "accuracy" in name}
    return {name: (v, f"{v:.1%}" if name in shares else f"{v:.5g}") for name, v in result.figures.items()}


def environment():
    """Jinja2 with autoescape; what is printed has neither control characters nor bytes that are no text."""
    import jinja2
    from markupsafe import Markup

    def visible(value):
        return value if isinstance(value, Markup) or not isinstance(value, str) else text(value)

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, finalize=visible, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def text(value):
    """A string as a page may show it."""
    return cli.escaped(value).encode("utf-8", "backslashreplace").decode()


def block(value):
    """A value as JSON that can stand within <script>: no letter that could end it."""
    kept = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII alone: surrogates are written as \udce9
    return kept.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@dataclass
class Entry:
    """A result as it stands in a page: its address #anchor in page number `page`, its HTML, and its data as JSON."""

    result: object
    anchor: str
    html: object
    data: str
    page: int = 1


def entries(found, out, template, show):
    """Results -> Entry, as their pictures are made, by as many threads as there are processors."""
    from concurrent.futures import ThreadPoolExecutor

    from markupsafe import Markup

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for first in range(0, len(found), TOGETHER):
            some = found[first : first + TOGETHER]
            for i, (result, (pictures, edits)) in enumerate(zip(some, pool.map(lambda r: drawn(r, out), some), strict=True), first + 1):
                figures = shown_figures(result)
                html = template.render(
                    r=result, anchor=f"r{i}", pictures=pictures, edits=edits, figures=figures, curve=curve(result.said.get("history")),
                    settings=plain_settings(result), hashes=hashes(result), names=names(),
                    commands=[line for made in (result, *result.made) if (line := command(made))],
                )  # fmt: skip
                data = {"name": result.name, "state": result.state, "error": result.error, "figures": result.figures, "record": result.said}
                data |= {"edits": [{"name": made.name, "record": made.said} for made in result.made]} if result.made else {}
                yield Entry(result, f"r{i}", Markup(html), block(data))
                show(i)


def names():
    from editor import results

    return results.FIGURES


def pages(stream, first_room):
    """Entries -> lists of those that stand on a page together; the first page has less room, since the table of all is there."""
    page, room = [], first_room
    for one in stream:
        size = len(one.html.encode()) + len(one.data) + ROW
        if page and size > room:
            yield page
            page, room = [], LIMIT
        page.append(one)
        room -= size
    yield page


def file_of(out, number):
    """report.html, report_2.html, ..."""
    return out if number == 1 else out.with_name(f"{out.stem}_{number}{out.suffix}")


def mark(out, number):
    """What a page says of itself, so that only the same report replaces it: its number, and of which report, named by the first page."""
    import hashlib
    import unicodedata

    name = unicodedata.normalize("NFC", out.name)  # as some file systems give it back decomposed
    return f"page {number} of {hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def is_of(path, out, number):
    """Whether a file is page `number` of the report `out`. An older toolkit's page says its number alone, and only from the second on."""
    if not path.is_file():  # a folder, or a pipe, whose reading might never end
        return False
    try:
        with open(path, "rb") as f:
            start = f.read(100_000).partition(b"</title>")
    except OSError:  # of another user
        return False
    said = re.search(re.escape(MARK.encode()) + rb" [^;\"]*(?:; (page [0-9]+ of [0-9a-f]+))?\"", start[0])
    if said and said[1]:
        return said[1] == mark(out, number).encode()
    return bool(said and start[1]) and number == 1 and not re.search(rb", page [0-9]+$", start[0])


def require_ours(out, number):
    """Raise ValueError if a file is there that page `number` of the report `out` must not replace."""
    path = file_of(out, number)
    if os.path.lexists(path):
        files.require_regular(path, "the name of a page is expected; give another --out")
        if not is_of(path, out, number):
            raise ValueError(f"{path}: is there already, and is no page {number} of this report; give another --out, or remove it first")


def write_page(stack, out, number, rows, own, last, title, template):
    """One page: a table of `rows`, and the entries that are its own; `last` says whether no other follows.

    It appears under its name when `stack`, an ExitStack, ends well: a report is replaced whole, or not at all.
    """
    import hashlib

    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    allowed = {kind: base64.b64encode(hashlib.sha256(kept.encode()).digest()).decode() for kind, kept in (("css", style), ("js", script))}
    columns = [name for name in names() if any(name in one.result.figures for one in rows)]
    states = [one.result.state for one in rows]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    path = file_of(out, number)
    require_ours(out, number)
    with open(stack.enter_context(files.atomic(path)), "w", encoding="utf-8", newline="\n") as f:
        parts = template.generate(
            mark=MARK, version=cli.__version__, page=mark(out, number), title=title, style=style, script=script, allowed=allowed,
            number=number, last=last, address=lambda k: quote(os.fsencode(file_of(out, k).name)), rows=rows, own=own, columns=columns,
            names=names(), counts=counts, figures=shown_figures, block=block,
        )  # fmt: skip
        f.writelines(parts)
    return path


def write(found, out, title, show):
    """All pages; the first one last, since its table says on which page each result is.

    Returns:
        list[Path], the first page first.
    """
    env = environment()
    page, one = env.get_template("page.html"), env.get_template("entry.html")
    of_all = len(found) <= MOST_ROWS
    stream = pages(entries(found, out, one, show), LIMIT - (ROW * len(found) if of_all else 0))
    first, everything, paths, number = next(stream), [], [], 1
    everything += first
    waiting = next(stream, None)
    with contextlib.ExitStack() as stack:
        while waiting is not None:
            number, following = number + 1, next(stream, None)
            for entry in waiting:
                entry.page = number
            paths.append(write_page(stack, out, number, waiting, waiting, following is None, title, page))
            for entry in waiting:  # what the table needs is kept, the pictures are not
                entry.html = entry.data = ""
            everything += waiting
            waiting = following
        paths.insert(0, write_page(stack, out, 1, everything if of_all else first, first, number == 1, title, page))
    for path in out.parent.glob("*"):  # of this report when it was longer
        other = re.fullmatch(re.escape(out.stem) + r"_([1-9][0-9]{0,5})" + re.escape(out.suffix), path.name)
        if other and int(other[1]) > number and is_of(path, out, int(other[1])):
            path.unlink()
    return paths


def main(argv):
    args = flags().parse_args(argv)
    folders = [Path(folder) for folder in dict.fromkeys(args.folder)]
    out = Path(args.out) if args.out else folders[0] / "report.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out}: a page is written; give a name that ends in .html")
    from editor import results

    found = results.read(folders)
    require_ours(out, 1)
    files.check_writable(out)
    with cli.progress(len(found), args.quiet, unit="result") as show:
        paths = write(found, out, ", ".join(map(str, folders)), show)
    failures = cli.Failures()
    for result in found:
        for fault in dict.fromkeys(result.faults):
            failures.add(result.path or result.name, fault)
    failed = sum(result.state == "failed" for result in found)
    cli.written(args, *paths, what=f"{len(found)} result{'s' * (len(found) != 1)}" + (f", {failed} failed" if failed else ""))
    return failures.exit_code


if __name__ == "__main__":
    cli.run(main)
