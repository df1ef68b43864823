"""Whose a result is: what a record says of the files that it was made of, and that no result replaces another's.

`origins` is for records; `reserve`, or `claim` alone, is asked before any work.
"""

import hashlib
import os
from pathlib import Path

from editor import face, files, tuning


def reserve(latent, sources, *pictures):
    """Before any work: `claim` each file of a result, and see that all of them can be written.

    Raises:
        ValueError, OSError: as `claim` and `files.check_writable`.
    """
    for path in (latent, *pictures):
        claim(path, sources)
    files.check_writable(*face.outputs(latent), *pictures)


def claim(path, sources):
    """Raise ValueError if `path` is a source itself, or holds a result of other sources: a result never replaces another's.

    Args:
        path: NAME.npy, about to be written, or its picture.
        sources: {role: path} as for `record`, files or folders; a source is the same if its name or its content is.
    """
    for source in sources.values():
        if os.path.exists(path) and os.path.samefile(path, source):
            raise ValueError(f"{path}: what the result is made of; give the result another name")
    try:
        before = face.record(path).get("sources")
    except ValueError:
        return  # no record that says anything
    if not isinstance(before, dict) or not all(isinstance(entry, dict) for entry in before.values()):
        return

    def same(entry, source):
        content = entry.get("sha256") == content_hash(source) and entry.get("parts") == parts_of(source)
        return content or files.same_name(entry.get("path"), entry.get("in"), source)

    if before.keys() != sources.keys() or not all(same(before[role], source) for role, source in sources.items()):
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
