"""What lies in a folder of results: records, the pictures that they name, what failed, and what was made of what.

Records come from other people and other times: what they name is looked for, and nothing that they say is trusted.
"""

import csv
import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from editor import files, images

SIDE, STRIP, SHEET = (256, 256), (1600, 256), (512, 512)  # pixels of a small copy: of a face; of a row of faces; of a sheet
FRAMES = 24  # of a morph that are shown
LONGEST_LIST = 2000  # of what a record says
SHOWN = (*images.SUFFIXES, ".gif", ".mp4", ".webm", ".apng")  # of sheets and animations, which have no record
FIGURES = {  # numbers of a record or a line of runs.jsonl, and what they are called
    "psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "identity": "identity", "loss": "loss", "steps": "steps", "seconds": "seconds",
    "held_out_accuracy": "held out", "train_accuracy": "trained on", "accuracy_on_all": "on all", "trained_on": "latents to train",
    "held_out": "latents held out", "offset": "offset",
}  # fmt: skip
COMMANDS = (
    "encode_image.py", "semantic_edit.py", "image_morphing.py", "image_crossover.py", "facial_exchange.py", "local_edit.py", "drag_edit.py",
    "edit_video.py", "generate.py", "train_boundary.py", "find_directions.py", "align_images.py",
)  # fmt: skip


@dataclass
class Picture:
    """A file to show: what stands under it, and how many pixels a small copy may have."""

    label: str
    path: Path
    size: tuple = SIDE


@dataclass
class Result:
    """What a command made of one thing.

    said: its record, or {}. path: the record's file, or None. state: done, stopped (before its end), failed or "no record"; error: why.
    faults: what is wrong with its files; remarks: what else one should know. before, after: pictures to compare. others: more that it was
    made of. edits: pictures of what was made of it, or the frames of a morph. made: the results that these are of.
    """

    name: str
    said: dict = field(default_factory=dict)
    path: Path | None = None
    state: str = "done"
    error: str = ""
    faults: list = field(default_factory=list)
    remarks: list = field(default_factory=list)
    figures: dict = field(default_factory=dict)
    before: Picture | None = None
    after: Picture | None = None
    others: list = field(default_factory=list)
    edits: list = field(default_factory=list)
    made: list = field(default_factory=list)
    of_folder: bool = False  # whether a command made it that skips what is done

    @property
    def made_by(self):
        return maker(self.said, self.path) if self.said else ""


# ---------------------------------------------------------------------------------------------------------------------
# Records


def maker(said, path):
    """The command that wrote a record; boundaries and crops of older versions do not say it.

    Raises:
        ValueError: none of ours.
    """
    made_by = said.get("made_by")
    if isinstance(made_by, str) and made_by.split(" ")[0] in COMMANDS:
        return made_by
    if made_by is None and "quad" in said and "source" in said:
        return "align_images.py"
    if made_by is None and "offset" in said and path.with_suffix(".npy").is_file():
        return "train_boundary.py"
    raise ValueError(f"{path}: no record of a command of this toolkit" + (f" (made by {str(made_by)[:60]!r})" if made_by else ""))


def read_record(path):
    """NAME.json -> a Result without pictures.

    Raises:
        ValueError, OSError: damaged, no plain file, or another program's.
    """
    said = files.read_json(path, "a record of a result is expected")
    if not isinstance(said, dict):
        raise ValueError(f"{path}: a JSON {type(said).__name__}, not a record of a result")
    try:
        said = tamed(said)
    except RecursionError:
        raise ValueError(f"{path}: nested too deep for a record") from None
    maker(said, path)
    return Result(path.stem, said, path, "stopped" if said.get("complete") is False else "done", figures=numbers(said))


def tamed(value):
    """A value of a record without endless lists and without infinity (1e999), which JSON has no word for."""
    if isinstance(value, dict):
        return {k: tamed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [tamed(v) for v in value[:LONGEST_LIST]]
    return value if not isinstance(value, float) or math.isfinite(value) else None


def number(value):
    """A finite number that is none too large, or None."""
    fits = type(value) in (int, float) and abs(value) < 1e15
    return value if fits else None


def numbers(said):
    """The figures that a record, or a line of runs.jsonl, holds."""
    found = {**said, **entry(said, "figures")}
    return {name: found[name] for name in FIGURES if number(found.get(name)) is not None}


def entry(said, key):
    """A dict that a record holds; {} where it holds none, or something else."""
    found = said.get(key)
    return found if isinstance(found, dict) else {}


def sources(said):
    """{role: {"path": ..., "sha256": ...}} of what a result was made of."""
    if isinstance(said.get("source"), str):  # of a crop
        return {"photograph": {"path": said["source"], "in": said.get("source_in"), "sha256": said.get("source_sha256")}}
    return {role: e for role, e in entry(said, "sources").items() if isinstance(e, dict) and isinstance(e.get("path"), str)}


def is_file(path):
    """Whether a plain file is there, whatever the name holds (a null character, 5,000 letters)."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def locate(text, record, sha256=None, inside=None):
    """The file that a record names: from the folder `inside` in which it says that the command ran, or from here, the record's folder or
    one above it, as in a project that was moved.

    Returns:
        Path and whether its content is what the record says; None and False where it is nowhere.
    """
    named = Path(text)
    places = [Path(files.folder_in(record, inside), named)] if isinstance(inside, str) else []
    places += [named, record.parent / named.name] + (
        [] if named.is_absolute() else [parent / named for parent in record.absolute().parents]
    )
    there = list(dict.fromkeys(place for place in places if is_file(place)))
    for place in there:
        if sha256 is None or sha256 == files.file_hash(place):
            return place, True
    return (there[0], False) if there else (None, False)


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def read(folders):
    """All results of some folders, with what they look like; what cannot be read is a result that failed, with its fault.

    Returns:
        list[Result]: failed ones first, then those stopped, done, without a record; each kind by name.

    Raises:
        ValueError: no folder, or nothing in any of them that a command of ours wrote.
    """
    shown, last = {}, {}
    for folder in folders:
        last |= _read_folder(folder, shown)
    results = list(shown.values())
    _add_outcomes(results, last)
    if not last and not any(result.said or result.after for result in results):
        reason = f" ({results[0].faults[0]})" if results and results[0].faults else ""
        raise ValueError(
            f"{', '.join(map(str, folders[:3]))}: no records of results{reason}; give a folder that encode_image.py or another command "
            "wrote to (its --save_dir, --latent_dir or --out_dir)"
        )
    for result in results:
        _attach_pictures(result)
    results = _grouped(results)
    results += _unclaimed(folders, results)
    order = ("failed", "stopped", "done", "no record")
    return sorted(results, key=lambda result: (order.index(result.state), images.natural_key(result.name)))


def _read_folder(folder, shown):
    """Add the results in a folder to `shown`, {absolute path of a record: Result}; returns {name: its last line in runs.jsonl}."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: {'not a folder' if os.path.lexists(folder) else 'no such folder'}; a folder of results is expected")
    found = sorted(p for p in folder.iterdir() if p.suffix == ".json" and not p.name.startswith("."))
    rows = {Path(row["latent"]).with_suffix(".json"): row for row in _table_rows(folder)}
    for path in [*found, *rows]:
        key = os.path.realpath(path)
        if key in shown:
            continue
        if path in rows and not os.path.lexists(path):
            shown[key] = _of_row(rows[path], path, folder)
            continue
        try:
            shown[key] = read_record(path)
        except (ValueError, OSError) as error:
            shown[key] = Result(path.stem, state="failed", error=f"its record cannot be used: {path}", faults=[str(error)])
    last, damaged = {}, Result("runs.jsonl", state="failed", error="it is the list of outcomes")
    try:
        last = _outcomes(folder / "runs.jsonl", damaged.faults)
    except (ValueError, OSError) as error:
        damaged.faults.append(str(error))
    if damaged.faults:
        shown[os.path.realpath(folder / "runs.jsonl")] = damaged
    return last


def _table_rows(folder):
    """The rows of encode_image.py's metrics.csv, which says where the latents of a folder's pictures lie; [] without one."""
    path = folder / "metrics.csv"
    if not is_file(path) or path.stat().st_size > files.MAX_TEXT:
        return []
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as f:
            rows = [row for row in csv.DictReader(f) if None not in row and row.get("name") and Path(row.get("latent") or "").name]
    except csv.Error:
        return []
    return [{k: _unescaped(v or "") for k, v in row.items()} for row in rows if "\0" not in row["latent"]]


def _unescaped(text):
    r"""Text of metrics.csv with the bytes that are no UTF-8, which stand there as \udce9, as names of files have them."""
    return re.sub(r"\\udc[89a-f][0-9a-f]", lambda m: chr(int(m[0][2:], 16)), text)


def _of_row(row, path, folder):
    """A row of metrics.csv whose record is gone."""
    said = {}
    for name in FIGURES:
        try:
            said[name] = float(row.get(name, ""))
        except ValueError:
            continue
    found = Result(row["name"], figures=numbers(said), after=_there("rendering", folder / f"{Path(row['name']).name}.png"))
    found.remarks.append(f"its record is not where metrics.csv says, {path}; give the folder of the latents, too")
    return found


def _outcomes(path, faults):
    """{name: its last line} of a folder's runs.jsonl, to which a command that works on a folder adds a line for each thing."""
    last, damaged = {}, 0
    if not os.path.lexists(path):
        return last
    files.require_regular(path, "a line for each outcome is expected")
    with open(path, encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            try:
                said = tamed(json.loads(line)) if len(line) < files.MAX_TEXT else None
            except (ValueError, RecursionError):
                said = None
            if isinstance(said, dict) and isinstance(said.get("name"), str):
                last[said["name"]] = said
            else:
                damaged += bool(line.strip())
    if damaged:
        faults.append(f"{path}: {damaged} damaged lines were passed by")
    return last


def _add_outcomes(results, last):
    """What runs.jsonl says, to the results that it says it of; what failed has no other."""
    named = {}
    for result in results:
        named.setdefault(result.name, result)
    for name, said in last.items():
        result = named.get(name) or named.get(Path(name).stem)
        if result is None and said.get("state") == "done" and Path(name).suffix.lower() in SHOWN:
            continue  # a sheet or an animation, which has no record: it is shown as what it is
        if result is None:
            image = next((said[key] for key in ("image", "source", "path") if isinstance(said.get(key), str)), "")
            result = Result(name, before=_there("photograph", image))
            results.append(result)
            if said.get("state") != "failed":
                result.remarks.append("its record is in none of these folders")
        result.of_folder = True
        result.figures = numbers(said) | result.figures
        result.said = {"history": said["history"]} | result.said if result.said and "history" in said else result.said
        if said.get("state") == "failed":
            result.remarks += ["what is shown is an earlier run's"] * bool(result.said)
            result.state, result.error = "failed", str(said.get("error") or "no reason is noted")


# ---------------------------------------------------------------------------------------------------------------------
# Which pictures belong to it


def _there(label, path, size=SIDE):
    return Picture(label, Path(path), size) if is_file(path) else None


def own_picture(result, label="result", size=SIDE):
    """The picture that a record is of, or None; says where it is gone or another."""
    said = entry(result.said, "picture")
    if not isinstance(said.get("path"), str):
        return next((p for ending in (".png", ".jpg", ".webp") if (p := _there(label, result.path.with_suffix(ending), size))), None)
    path, same = locate(said["path"], result.path, said.get("sha256"))
    if path is None:
        result.faults.append(f"{result.path}: its picture is gone: {said['path']}")
    elif not same:
        result.remarks.append(f"its picture was changed after its record was written: {path}")
    return Picture(label, path, size) if path else None


def _source_picture(role, said, result):
    """What a source looks like: itself, or the picture of a latent; None for boundaries, and where nothing is left of it."""
    path, same = locate(said["path"], result.path, said.get("sha256"), said.get("in"))
    if path is None or not same:
        result.remarks.append(f"{role} {'is not there any more' if path is None else 'was changed since'}: {said['path']}")
    if path is None or role.startswith("boundary"):
        return None
    if path.suffix.lower() in images.SUFFIXES:
        return Picture("photograph" if role == "image" else role, path)
    try:
        return own_picture(read_record(path.with_suffix(".json")), f"{role}: {path.stem}") if path.suffix == ".npy" else None
    except (ValueError, OSError):
        return None


def _attach_pictures(result):
    """Fill in what a result was made of, and what it looks like."""
    if not result.said:
        return
    result.after = own_picture(result, "rendering" if result.made_by == "encode_image.py" else "result")
    result.others = [p for role, said in sources(result.said).items() if (p := _source_picture(role, said, result))]
    if result.others and result.after and "sheet" not in result.said:
        result.before = result.others.pop(0)
    names = _frames(result.said)
    chosen = [names[round(i * (len(names) - 1) / (FRAMES - 1))] for i in range(FRAMES)] if len(names) > FRAMES else names
    found = [p for name in chosen if (p := _there(Path(name).stem, result.path.parent / Path(name).name))]
    result.edits += found
    if len(found) < len(chosen):
        result.faults.append(f"{result.path}: {len(chosen) - len(found)} of {len(chosen)} frames that were looked for are gone")
    _check_parts(result)


def _frames(said):
    """The names of a morph's frames."""
    frames = said.get("frames")
    return [name for name in frames if isinstance(name, str)] if isinstance(frames, list) else []


def _animation(result):
    """Of a drag: the way to it, beside its record, or None."""
    name = result.said.get("animation")
    fits = isinstance(name, str) and Path(name).suffix.lower() in images.SUFFIXES and result.path
    return _there(f"{result.name}: the way", result.path.parent / Path(name).name) if fits else None


def _check_parts(result):
    """Say where the files that a record names are gone or others: an unfinished write, or a face that was replaced."""
    endings = {"latent": ".npy", "direction": ".npy", "noise": ".noise.npz", "tuned": ".tuned.safetensors"}
    for part, sha256 in entry(result.said, "files").items():
        path = result.path.with_suffix(endings[part]) if part in endings else None
        if path and not is_file(path):
            result.remarks.append(f"its {part} is gone: {path}")
        elif path and files.file_hash(path) != sha256:
            result.remarks.append(f"its {part} is not what its record names: {path}")


def _only(said, start):
    """The source of the one role that begins so; None where there are several or none."""
    found = [e for role, e in sources(said).items() if role.startswith(start) and isinstance(e.get("sha256"), str)]
    return found[0] if len(found) == 1 else None


def dragged(said):
    """What a drag came to, in words: part:chin>+0,-6: 92%; "" where a record does not say it."""
    points = said.get("points")
    rows = [row for row in points if isinstance(row, dict)] if isinstance(points, list) else []
    rows = [row for row in rows if isinstance(row.get("point"), str) and number(row.get("way")) is not None]
    words = [f"{row['point'][:60]}: {row['way']:.0%}" for row in rows]
    more = [f"{len(words) - 4} more"] * (len(words) > 4) + ["no nearer"] * (said.get("stopped") == "no nearer")
    return ", ".join(words[:4] + more)


def caption(result):
    """What was done to a face, in words: smile +2, age -1."""
    if result.made_by == "drag_edit.py":
        return dragged(result.said) or result.name
    moves = {
        k: v for k, v in entry(result.said, "distances").items() if isinstance(v, list) and v and all(number(d) is not None for d in v)
    }
    return ", ".join(f"{k} {v[0]:+g}" if len(v) == 1 else f"{k} {v[0]:+g} to {v[-1]:+g}" for k, v in moves.items()) or result.name


def _grouped(results):
    """Results without those that are edits of one face or along one boundary: these are now edits of it.

    A face that is in none of the folders is read from where its edits name it.
    """
    heads = {}
    for result in results:
        parts = entry(result.said, "files")
        heads |= {parts[part]: result for part in ("latent", "direction") if isinstance(parts.get(part), str)}
        if result.made_by == "train_boundary.py" and is_file(result.path.with_suffix(".npy")):
            heads.setdefault(files.file_hash(result.path.with_suffix(".npy")), result)
    left = []
    for result in results:
        face, along = _only(result.said, "latent"), _only(result.said, "boundary")
        if not face or "frames" in result.said or result.state == "failed":
            left.append(result)
            continue
        boundary = heads.get(along["sha256"]) if along else None
        head = boundary or heads.get(face["sha256"])
        if head is None:
            head = heads[face["sha256"]] = _face_of(face, result)
            left.append(head)
        if result.after:
            label = f"{result.said.get('name', result.name)}: {caption(result)}" if boundary else caption(result)
            head.edits.append(Picture(label, result.after.path, STRIP))
        if way := _animation(result):
            head.edits.append(way)
        head.made.append(result)
        head.faults += result.faults
        head.remarks += [f"{result.name}: {remark}" for remark in result.remarks]
    return left


def _face_of(said, edit):
    """The face that an edit was made of, read from beside the latent that the edit names."""
    path, same = locate(said["path"], edit.path, said["sha256"], said.get("in"))
    try:
        found = read_record(path.with_suffix(".json")) if path and same else None
    except (ValueError, OSError):
        found = None
    if found is None:
        return Result(Path(said["path"]).stem)
    _attach_pictures(found)
    return found


def _unclaimed(folders, results):
    """Pictures of the folders that belong to no record: sheets of several faces, strips of boundaries."""
    used = {os.path.realpath(p.path) for r in results for p in (r.before, r.after, *r.others, *r.edits) if p}
    used |= {os.path.realpath(r.path.parent / Path(name).name) for r in results for name in _frames(r.said)}
    found = [p for folder in folders for p in files.visible(folder, "*") if p.suffix.lower() in images.SUFFIXES]
    return [Result(p.stem, state="no record", after=Picture(p.name, p, SHEET)) for p in found if os.path.realpath(p) not in used]
