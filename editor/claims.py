"""Whose a result is: what a record says of the files that it was made of, and that no result replaces another's.

`origins` is for records; `reserve`, or `claim` alone, is asked before any work.
"""

import hashlib
import os
from pathlib import Path

from editor import face, files, tuning

RECORDS = {"made_by", "generator_hash", "sources", "files", "offset"}  # of these the record of a face or a boundary, however old, has one


def reserve(latent, sources, *pictures):
    """Before any work: `claim` each file of a result, and see that all of them can be written.

    Raises:
        ValueError, OSError: as `claim` and `files.check_writable`.
    """
    for path in (latent, *pictures):
        claim(path, sources)
    files.check_writable(*face.outputs(latent), *pictures)


def claim(path, sources, ours=False):
    """See, before any work, that a result replaces neither what it is made of nor what is another's.

    Args:
        path: NAME.npy, about to be written with what goes with it, or its picture.
        sources: {role: path} as for a record, files or folders; a source is the same if its name or its content is.
        ours: something else than a record says that this toolkit wrote NAME.npy.

    Raises:
        ValueError: one of its files is a source, NAME.json is no record of a result, or NAME is the result of other sources or, without
            a record, another tool's.
    """
    path = Path(path)
    whole = path.suffix == ".npy"
    for output in face.outputs(path) if whole else [path]:
        if any(os.path.exists(output) and os.path.exists(source) and os.path.samefile(output, source) for source in sources.values()):
            raise ValueError(f"{output}: what the result is made of; give the result another name")
    if whole and in_the_way(path.with_suffix(".json")):
        raise ValueError(
            f"{path.with_suffix('.json')}: the result's record would replace it, and it is none of such a result; give the result another "
            "name or folder, or move that file"
        )
    if whole and path.is_file() and not ours and not recorded(path):
        raise ValueError(
            f"{path}: no record of ours lies beside it, so another tool made it; give the result another name or folder, or remove it first"
        )
    before = made_of(path)
    if before is not None:
        require_same(path, before, origins(sources) if before.keys() == sources.keys() else None)


def claim_again(path, now):
    """See, just before a result is written, that no other process wrote one of other sources there since `claim`; nothing is hashed.

    Args:
        path: NAME.npy. now: {role: entry} of its record.

    Raises:
        ValueError: another one did.
    """
    before = made_of(path)
    if before is not None:
        require_same(path, before, now)


def in_the_way(beside):
    """Whether the file that would be a result's record is something else: a user's, a crop's record or that of a morph's frames.

    What is empty or no JSON is not: a system that went down may leave that of a record.
    """
    if not beside.is_file():
        return False
    try:
        said = files.read_json(beside, "a record of a result is expected")
    except ValueError:
        return False
    if not isinstance(said, dict) or not said:
        return bool(said)
    return not RECORDS & said.keys() or said.get("made_by") == "image_morphing.py" and "frames" in said


def recorded(latent):
    """Whether a record lies beside a latent, damaged or not: `face.write` writes one first."""
    try:
        return bool(face.record(latent))
    except ValueError:
        return True


def made_of(path):
    """{role: entry} as the record of a result has them; None without a record that says it."""
    try:
        found = face.record(path).get("sources")
    except ValueError:
        return None
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        return None
    return {role: entry | {"in": files.folder_in(path, entry.get("in"))} for role, entry in found.items()}


def require_same(path, before, now):
    """Raise ValueError unless two results are of the same sources: that at `path` and the new one, {role: entry} (None: others)."""

    def same(one, other):
        content = one.get("sha256") == other.get("sha256") and one.get("parts") == other.get("parts")
        return content or files.same_name(one.get("path"), one.get("in"), str(other.get("path")))

    if now is None or before.keys() != now.keys() or not all(same(before[role], entry) for role, entry in now.items()):
        made_of = ", ".join(map(called, before.values()))
        raise ValueError(f"{path}: holds the result of {made_of}; give another name or folder, or remove it first")


def called(entry):
    """What to call a file of a record: its path, with the folder in which that counts where it is another one than this."""
    path, folder = str(entry.get("path")), entry.get("in")
    return os.path.join(folder, path) if isinstance(folder, str) and folder != os.getcwd() else path


def origins(sources):
    """{role: file or folder} -> what a record says of them; `in` is the folder in which a relative path counts."""
    entries = {
        role: {"path": str(path), "in": files.inside(path), "sha256": content_hash(path), "parts": parts_of(path)}
        for role, path in sources.items()
    }
    return {role: {k: v for k, v in entry.items() if v is not None} for role, entry in entries.items()}


def parts_of(path):
    """{part: sha256} of the noise maps and tuned weights beside a latent, which make it another face; None without any."""
    if Path(path).suffix != ".npy":
        return None
    beside = {"noise": face.noise_path(path), "tuned": tuning.path_of(Path(path))}
    return {part: files.file_hash(file) for part, file in beside.items() if file.is_file()} or None


def content_hash(path):
    """sha256 of a file, or of a folder's latents: their names and their own hashes."""
    if not Path(path).is_dir():
        files.require_regular(path, "a result is made of files")  # hashing a pipe would never end
        return files.file_hash(path)
    text = "\n".join(f"{p.name} {files.file_hash(p)}" for p in files.visible(path, "*.npy"))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
