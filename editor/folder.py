"""A folder of inputs, run so that nothing is lost and nothing done twice, whoever else works on it and whenever one of them is killed.

An item is a source with the files of its result. It is done when its record is there, whole, and says that it was made of this source
with these settings (`why_again`); a record is written last, so that half a result never counts. What became of an item is a line in
`runs.jsonl` beside the results (`Journal`): what failed is known from there, and metrics.csv is made from it.
"""

import contextlib
import csv
import hashlib
import json
import os
import platform
import stat
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from editor import cli, files

STOPPED = "stopped before its end"  # why a result is made again
STATES = ("done", "failed", "stopped")  # stopped: the best so far of what Ctrl-C ended
LONGEST = 100_000  # bytes of a line; a longer one is none of ours


@dataclass
class Item:
    """What is to be made.

    name: the result's, which no other of the run has. path: what is named where it fails. sources: {role: file} that it is made of.
    settings: dict, as JSON holds it: what else makes the result what it is.
    """

    name: str
    path: Path
    sources: dict
    settings: dict

    @property
    def mark(self):
        """A hash of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    def content(self):
        """sha256 of what the sources hold; None where they cannot be read."""
        try:
            told = contents(self.sources)
        except (ValueError, OSError):
            return None
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def contents(sources):
    """{role: [sha256, {part: sha256} of a face's other files or None]}, as records hold them under other names.

    Raises:
        ValueError, OSError: a source is missing, or no plain file.
    """
    if any(Path(path).suffix == ".npy" or Path(path).is_dir() for path in sources.values()):
        from editor import session  # here: photographs alone need no torch

        return {role: [one["sha256"], one.get("parts")] for role, one in session.origins(sources).items()}
    for path in sources.values():
        files.require_regular(path, "a result is made of files")  # hashing a pipe would never end
    return {role: [files.file_hash(path), None] for role, path in sources.items()}


def everyone(paths):
    """A hash of what all files hold that can be read."""
    found = []
    for path in paths:
        with contextlib.suppress(ValueError, OSError):
            files.require_regular(path, "a photograph is a file")
            found.append(files.file_hash(path))
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()


def of_shard(items, shard):
    """The items of shard (i, n), i = 1 .. n: chosen by a hash of the name, so that no two shards share one and all have all."""
    if shard is None:
        return items
    i, n = shard
    return [item for item in items if int.from_bytes(hashlib.sha256(os.fsencode(item.name)).digest()[:8]) % n == i - 1]


class Places:
    """The folders that a run reads and writes. One that goes away in mid-run ends it, before results go to where it was.

    Each is held open where the system lets it be: so long, no other folder gets its number, nor it another one on a network.
    """

    def __init__(self, *folders):
        self.known, self.held = {str(path): self._found(path) for path in folders}, set()

    def _found(self, path):
        """What tells a folder from another one in its place, or a share from the folder that it hides; None where there is no folder."""
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return None
        return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None

    def _hold(self, path):
        self.held.add(path)
        with contextlib.suppress(OSError):  # Windows opens no folder
            weakref.finalize(self, os.close, os.open(path, os.O_RDONLY))

    def check(self, *more):
        """Those, and `more`, are where they were.

        Raises:
            Gone: a folder is gone, or another one is where it was.
        """
        for path, before in (dict.fromkeys(map(str, more)) | self.known).items():
            now = self._found(path)
            if before is not None and now != before:
                raise Gone(f"{path}: gone since this run began; what was done is in it, and once it is back the same command goes on")
            if path not in self.held and now is not None:
                self._hold(path)
            self.known[path] = now


class Gone(OSError):
    """A folder that a run needs is not where it was: no matter of an item's."""


# ---------------------------------------------------------------------------------------------------------------------
# runs.jsonl


class Journal:
    """`runs.jsonl` of a folder: a line for each outcome, only ever added to, by any number of processes."""

    def __init__(self, folder):
        self.folder, self.path, self.made = Path(folder), Path(folder) / "runs.jsonl", Path(folder).is_dir()

    @contextlib.contextmanager
    def locked(self):
        """The open file, which no other process writes to meanwhile (where the file system has locks; a line is one write anyway)."""
        if self.path.exists():
            files.require_regular(self.path, "remove it: lines of outcomes go there")
        if not self.made:  # once, so that a share that goes away is not taken for a folder that is yet to be made
            self.folder.mkdir(parents=True, exist_ok=True)
        self.made = True
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            with contextlib.suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)

    def append(self, **line):
        """Add a line, in one write; after one that a killed process left torn, on a line of its own."""
        text = json.dumps(line | {"host": platform.node(), "process": os.getpid(), "time": round(time.time(), 1)}, allow_nan=False)
        with self.locked() as handle:
            size = os.fstat(handle).st_size
            torn = size and os.pread(handle, 1, size - 1) != b"\n" if hasattr(os, "pread") else size
            data = ("\n" * bool(torn) + text + "\n").encode()
            if os.write(handle, data) < len(data):
                raise OSError(28, "No space left on device", str(self.path))

    def lines(self):
        """The lines, each a dict with a name and a state; what is torn, or none of ours, is passed by."""
        if not self.path.exists():
            return
        files.require_regular(self.path, "remove it: lines of outcomes go there")
        with open(self.path, "rb") as f:
            while text := f.readline(LONGEST):
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(line, dict) and isinstance(line.get("name"), str) and line.get("state") in STATES:
                    yield line

    def last(self):
        """{(name, sources' hash, settings' hash): the last line of them}."""
        keys = ("name", "content", "settings")
        return {tuple(line[key] for key in keys): line for line in self.lines() if all(isinstance(line.get(key), str) for key in keys)}


# ---------------------------------------------------------------------------------------------------------------------
# What is done, what is not


def entry(said, key):
    """A dict that a record holds; {} where it holds none, or something else."""
    found = said.get(key)
    return found if isinstance(found, dict) else {}


def why_again(latent, picture, sources, expected, G=None, *, whole=True, what="a source"):
    """Why a result must be made (again), or None: its record says that all of it is done.

    Args:
        latent: NAME.npy. picture: its picture's file. sources: {role: file} that it is made of. expected: entries of the record.
        G: the generator. whole: whether a face belongs to it; else there is only a picture.

    Raises:
        ValueError, OSError: a source is not to be read.
    """
    from editor import face

    if not (latent if whole else latent.with_suffix(".json")).exists():
        return "not done before"
    try:
        said = face.read(latent, G).info if whole else face.record(latent)
    except (ValueError, OSError):
        return "unfinished, damaged or of another generator"
    if {key: said.get(key) for key in expected} != json.loads(json.dumps(expected)):
        return "done with other settings"
    before = entry(said, "sources")
    if {role: [entry(before, role).get("sha256"), entry(before, role).get("parts")] for role in before} != contents(sources):
        return f"{what} changed"
    if not said.get("complete", True):
        return STOPPED
    if not picture.is_file() or entry(said, "picture").get("sha256") != files.file_hash(picture):
        return "its picture is gone or changed"
    return None


def stays(latent, picture, sources, expected, G, *, steps):
    """What an earlier run's face is, in words, that one which was stopped after so many steps must not replace; None: no better one.

    Other arguments: as of `why_again`.
    """
    from editor import face

    try:
        said = face.read(latent, G).info
        why = why_again(latent, picture, sources, expected, G)
    except (ValueError, OSError):
        return None
    further = why == STOPPED and isinstance(said.get("steps"), int) and said["steps"] >= steps
    return "the finished one" if said.get("complete") else "one that came further" if further else None


@dataclass
class Plan:
    """What is to do: `left` items, and why ({reason: how many}); `done` ones are skipped; `failed`, {name: (item, error)}, did before."""

    left: list = field(default_factory=list)
    done: list = field(default_factory=list)
    failed: dict = field(default_factory=dict)
    reasons: dict = field(default_factory=dict)

    def __str__(self):
        total = len(self.left) + len(self.done) + len(self.failed)
        words = [f"{len(self.done)} of {total} are done already"]
        if self.failed:
            words.append(f"{len(self.failed)} failed before (--retry tries them again)")
        words += [f"to do: {'; '.join(f'{count} {reason}' for reason, count in self.reasons.items())}"] * bool(self.left)
        return "; ".join(words)

    @property
    def plain(self):
        """Whether there is nothing to say of it: nothing was done before."""
        return not self.done and not self.failed and set(self.reasons) <= {"not done before", "once more"}


def noted(item, journal, paths):
    """Why files without a record (animations, a sheet) are to be made again; None where the journal says that these were."""
    line = journal.last().get((item.name, item.content(), item.mark), {})
    if line.get("state") != "done" or not all(path.is_file() for path in paths) or line.get("sha256") != [*map(files.file_hash, paths)]:
        return "not done before"
    return None


def carried(args, session):
    """What of a face's files counts, by the flags of `cli.add_face_flags`, and --precision: a record that is to be skipped says it."""
    said = {"saved_noise": not args.no_saved_noise, "tuned_strength": args.tuned_strength}
    return said if args.precision == "auto" else said | {"precision": session.dtype_name}


def plan(items, journal, why, *, redo=False, retry=False, together=None):
    """What of the items is to do.

    Args:
        why: item -> reason, or None where it is done. redo: do all again. retry: try again what failed before.
        together: a reason to do all again where one is to be done.
    """
    if redo:
        return Plan(items, reasons={"once more": len(items)} if items else {})
    found, last = Plan(), journal.last()
    names = {name for (name, *_), line in last.items() if line["state"] == "failed" and line.get("final")}
    for item in items:
        try:
            reason = why(item)
        except (ValueError, OSError):
            reason = "not readable"
        line = last.get((item.name, item.content(), item.mark), {}) if reason and item.name in names else {}
        failed = line.get("state") == "failed" and line.get("final")
        if failed and not retry:
            found.failed[item.name] = item, str(line.get("error"))
        elif reason:
            reason = "failed before" if failed else reason
            found.left.append(item)
            found.reasons[reason] = found.reasons.get(reason, 0) + 1
        else:
            found.done.append(item)
    if together and found.left and found.done:
        return Plan(items, reasons={together: len(items)})
    return found


# ---------------------------------------------------------------------------------------------------------------------
# What becomes of it


class Run:
    """The outcomes of a run: each a line in runs.jsonl; failures are named, progress and paths are shown.

    What works on a batch of items tells it here, in this process or from another one (`batches`): `hear(worker, kind, *words)` with

        "steps", done of this batch, loss     "outcome", item, state, figures       "batch", its items: it ended
        "say" | "warn", text                  "written", paths, what          "trouble", name, error: not an item's

    Args:
        args: with `quiet`. journal: a `Journal`, or None to keep none. command: its name, for the lines.
        single: one item, whose error is the command's. steps: of an item, for the bar.
    """

    def __init__(self, args, journal, command, *, single=False, steps=1):
        self.args, self.journal, self.command, self.steps = args, journal, command, max(1, steps)
        self.failures, self.show = cli.Failures(single), None
        self.figures, self.counts = [], dict.fromkeys(STATES, 0)
        self.behind, self.doing = 0, {}  # items of batches that ended; worker: steps of its batch
        self.full = False  # whether the journal could not be written to
        self.places = Places(journal.folder) if journal else Places()

    def hear(self, worker, kind, *words):
        getattr(self, f"_{kind}")(worker, *words)

    def _steps(self, worker, done, loss=None):
        self.doing[worker] = done
        self.update(loss)

    @contextlib.contextmanager
    def shown(self, count, quiet):
        """A bar over so many items; at its end, of several, what became of them."""
        try:
            with cli.progress(count * self.steps, quiet) as self.show:
                yield
        finally:
            self.show = None
            if sum(self.counts.values()) > 1 and not quiet:
                cli.say(self.closing())

    def update(self, loss=None):
        if self.show:
            told = {state: count for state, count in self.counts.items() if count}
            self.show(self.behind * self.steps + sum(self.doing.values()), loss, **told)

    def _batch(self, worker, items):
        self.behind += len(items)
        self.doing.pop(worker, None)
        self.update()

    def _say(self, worker, text):
        cli.say(text)

    def _warn(self, worker, text):
        cli.warn(text)

    def _trouble(self, worker, name, error):
        if not self.failures.single:
            self.failures.add(name, error)

    def _written(self, worker, paths, what=None):
        cli.written(self.args, *paths, what=what)

    def _outcome(self, worker, item, state, figures):
        self.counts[state] += 1
        if state == "failed" and not self.failures.single:
            self.failures.add(item.path, figures["error"])
        elif state == "done":
            self.figures.append({key: figures.get(key) for key in ("psnr", "ssim", "seconds")})
        self.note(item, state, worker=worker, **figures)

    def note(self, item, state, **figures):
        """A line in the journal. The records are what counts: where it cannot be written the run goes on, and says so."""
        line = {"name": item.name, "state": state, "command": self.command, "source": str(item.path), "content": item.content(),
                "settings": item.mark, **figures}  # fmt: skip
        try:
            if self.journal:
                self.journal.append(**line)
        except (OSError, ValueError) as error:
            if not self.full:
                self.full = True
                self.failures.add(self.journal.path, cli.one_line(error))

    @contextlib.contextmanager
    def item(self, item):
        """A block that makes an item, for commands that do so one by one; what it adds to the dict that is yielded goes to the journal."""
        figures, began = {}, time.time()
        self.places.check()
        with self.failures.catch(item.path):
            try:
                yield figures
            except BrokenPipeError:
                raise
            except (ValueError, OSError) as error:
                self.counts["failed"] += 1
                self.note(item, "failed", **failure(error))
                raise
            self.counts["done"] += 1
            self.note(item, "done", seconds=round(time.time() - began, 1), **figures)

    def start(self, found, again=lambda item: {}):
        """Say what a `Plan` found; name what failed before. `again`: done item -> its figures, for lines that a killed run left out."""
        for item, error in found.failed.values():
            self.failures.add(item.path, f"{error} (in an earlier run; --retry tries again)")
        lines = self.journal.lines() if found.done and self.journal else ()
        known = {line["name"]: (line.get("content"), line.get("settings")) for line in lines if line["state"] == "done"}
        for item in found.done:
            if known.get(item.name) != (item.content(), item.mark):
                self.note(item, "done", **again(item))
        if not (self.args.quiet or found.plain):
            cli.say(str(found))

    def closing(self):
        """What became of a run's items, in words."""
        import statistics  # here, since align_images.py's --help waits for this module

        words = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        middle = {key: [one[key] for one in self.figures if isinstance(one[key], (int, float))] for key in ("psnr", "ssim", "seconds")}
        if all(middle.values()):
            psnr, ssim, seconds = map(statistics.median, middle.values())
            words += f"; medians: PSNR {psnr:.2f} dB, SSIM {ssim:.3f}, {seconds:.1f} s"
        return words


class Passing(ValueError):
    """An error that another file is to blame for, which may be gone next time."""


@contextlib.contextmanager
def of_the_moment():
    """A block whose errors are no property of the item: it is tried again by the next run."""
    try:
        yield
    except ValueError as error:
        raise Passing(*error.args) from None


def failure(error):
    """What a line says of a ValueError or OSError; final: what the item's own files hold, which does not change by itself."""
    return {"error": cli.one_line(error), "final": isinstance(error, ValueError) and not isinstance(error, Passing)}


@contextlib.contextmanager
def caught(item, tell, single=False):
    """A block whose errors are the item's, and told; of a single one, the command's."""
    try:
        yield
    except (BrokenPipeError, Gone):
        raise
    except (ValueError, OSError) as error:
        tell("outcome", item, "failed", failure(error))
        if single:
            raise


# ---------------------------------------------------------------------------------------------------------------------
# metrics.csv

COLUMNS = ("name", "psnr", "ssim", "loss", "steps", "seconds", "latent")
OLDER = [COLUMNS[:-1]]  # of older toolkits


def require_own_table(folder):
    """See, before any work, that metrics.csv of a folder is one that may be replaced: empty, or beginning with a header of ours.

    Beside a runs.jsonl it is ours, too, whatever became of it: the run that wrote the one wrote the other.

    Raises:
        ValueError: a table of somebody else's, or no file.
        OSError: it cannot be read.
    """
    path = Path(folder) / "metrics.csv"
    if not os.path.exists(path) or os.path.isdir(path) or Journal(folder).path.exists():  # a folder is said by `files.check_writable`
        return
    files.require_regular(path, "a table goes there; give another folder")
    with open(path, "rb") as f:
        first = f.readline(1000).decode(errors="replace").removeprefix("\ufeff")
    if first and tuple(first.strip().split(",")) not in [COLUMNS, *OLDER]:
        raise ValueError(f"{path}: a table that this command did not write, and would replace; give another --save_dir, or move it away")


def write_table(folder):
    """metrics.csv of a folder of pictures: a row for each face whose picture is there, whichever run made it."""
    journal = Journal(folder)
    if not journal.path.exists():
        return
    with journal.locked():  # of two that write it, the later one has read all
        rows = table_rows(folder)
        if not rows:
            return
        with files.atomic(journal.folder / "metrics.csv") as temporary:
            with open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as f:
                table = csv.DictWriter(f, COLUMNS)
                table.writeheader()
                table.writerows(rows)


def table_rows(folder):
    """The rows of metrics.csv, by name: those of an older toolkit's table, and what the journal says, where the picture is still there."""
    rows = {row["name"]: row for row in older_rows(folder)}
    for line in Journal(folder).lines():
        if line["state"] != "failed" and line.get("command") == "encode_image.py" and isinstance(line.get("latent"), str):
            rows[line["name"]] = {key: line.get(key) if isinstance(line.get(key), (str, int, float)) else None for key in COLUMNS}
    return [row for _, row in sorted(rows.items()) if has_picture(folder, row["name"])]


def has_picture(folder, name):
    try:
        return Path(name).name == name and (Path(folder) / f"{name}.png").is_file()
    except (OSError, ValueError):  # no name of a file
        return False


def older_rows(folder):
    """The rows of a metrics.csv that is one of ours."""
    path = Path(folder) / "metrics.csv"
    if not path.is_file() or path.stat().st_size > files.MAX_TEXT:
        return []
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as f:
            table = csv.DictReader(f)
            ours = tuple(table.fieldnames or ()) == COLUMNS
            return [row for row in table if None not in row and None not in row.values()] if ours else []
    except csv.Error:
        return []
