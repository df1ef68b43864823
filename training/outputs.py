"""Where a training may write its networks: seen to before the work, which must not end at a file that cannot or must not be replaced."""

import re
from pathlib import Path

from editor import checkpoints, files


def check_checkpoint(path, kind, inputs=(), flag="--out"):
    """See that a network of this kind may and can be written to `path`.

    An older network of the same kind is replaced, as a run that goes on replaces its own.

    Args:
        kind: what the checkpoint's header will say. inputs: the files that are read (None: none).

    Raises:
        ValueError: no name of a checkpoint, one of `inputs`, or there lies something else.
        OSError: nothing can be written there.
    """
    path, other = Path(path), f"choose another {flag}"
    if path.suffix != ".safetensors":
        raise ValueError(f"{flag} {path}: the name of a checkpoint ends in .safetensors")
    if any(source is not None and checkpoints.same_file(path, source) for source in inputs):
        raise ValueError(f"{path}: this run reads it, and would replace it; {other}")
    files.check_writable(path)
    if path.exists():
        try:
            found = checkpoints.read_header(path).get("kind", "something else")
        except ValueError:
            found = "something else"
        if found != kind:
            raise ValueError(f"{path}: exists and holds {found}, not {kind}; {other}")


def check_folder(folder, kinds, inputs=()):
    """`check_checkpoint` of each {NAME.safetensors: its kind} in a folder that is given as --out.

    Raises:
        ValueError: also where a training goes on from the folder, or a network there comes with the project.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: a file, expected a folder; choose another --out")
    if (folder / "state.pt").exists():
        raise ValueError(f"{folder}: a training goes on from state.pt there, and its networks would be replaced; choose another --out")
    for name, kind in kinds.items():
        if any(checkpoints.same_file(folder / name, bundled) for bundled in checkpoints.PROTECTED):
            raise ValueError(f"{folder / name}: comes with the project and is not replaced; choose another --out")
        check_checkpoint(folder / name, kind, inputs)


def check_run(folder, names, inputs, data):
    """See that a training of a generator may begin in a folder that is given as --out, or go on there from its state.pt.

    Args:
        names: of the files that it writes there, beside sheets/. inputs: the files that it begins with (None: none).
        data: its --data, which the sheets must not join.

    Raises:
        ValueError: no folder, the project's or the pictures' own, or a file there is read by this run or of something else.
    """
    folder, other = Path(folder), "choose another --out"
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: a file, expected a folder; {other}")
    if any(checkpoints.same_file(folder, bundled.parent) for bundled in checkpoints.PROTECTED):
        raise ValueError(f"{folder}: holds networks that come with the project and are not replaced; {other}")
    if Path(data).is_dir() and (folder / "sheets").resolve().is_relative_to(Path(data).resolve()):
        raise ValueError(f"{folder}: its sheets would be written among the pictures of --data; {other}")
    if (folder / "state.pt").is_file():  # a state says itself which run it is of
        return
    paths = [folder / name for name in names]
    for path in paths:
        if any(source is not None and checkpoints.same_file(path, source) for source in inputs):
            raise ValueError(f"{path}: this run reads it, and would replace it; {other}")
    if any(re.fullmatch(r"[0-9]{9}\.jpg", sheet.name) for sheet in (folder / "sheets").glob("*.jpg")):
        return  # written before all else: here a run was killed within its first tick, or its state was removed to start anew
    for path in paths:
        if path.exists() and path.stat().st_size:
            raise ValueError(f"{path}: exists, and is not of a training (no sheets/ beside it); move it away, or {other}")


def check_sheet(path, flag):
    """See that a sheet NAME.png, which is written beside --state and after it, replaces no other picture.

    Where there is no state, no sheet is ours.

    Raises:
        ValueError: there is a picture, and no such file beside it.
    """
    path, sheet = Path(path), Path(path).with_suffix(".png")
    if sheet.exists() and not path.exists():
        raise ValueError(f"{sheet}: exists, and no {path.name} beside it says what it is; move it away, or choose another {flag}")


def check_state(path):
    """See that --state can be written, and is not a file that something else is written to or read from, judged by its ending.

    Raises:
        ValueError, OSError: it is called like a checkpoint or a picture, or cannot be written.
    """
    path = Path(path)
    if path.suffix in (".safetensors", ".png"):
        raise ValueError(f"--state {path}: this ending is a network's or a picture's; call it {path.stem}.pt")
    files.check_writable(path)


def not_finite(network):
    """Names of weights that are not finite as float16, in which checkpoints are written; no command reads such back."""
    return [name for name, value in network.state_dict().items() if not value.half().isfinite().all()]


def require_finite(path, network):
    """Raise ValueError, so that an older file at `path` stays, where weights are `not_finite`."""
    if bad := not_finite(network):
        raise ValueError(f"{path}: not written: {bad[0]} holds NaN, infinity or more than float16 does; train it with a lower --lr")
