"""What the commands share on the command line: flags, messages, exit codes.

Exit codes: 0 done; 1 some inputs of a batch failed (each was named); 2 the command cannot run (one line on stderr);
130 stopped with Ctrl-C, 143 with SIGTERM. Paths of what was written go to stdout, one a line; all words go to stderr.
"""

import argparse
import atexit
import math
import os
import re
import signal
import sys
import time
import unicodedata
from contextlib import contextmanager
from pathlib import Path

from editor import __version__, settings

LONGEST = 500  # characters of a message; what a file says of itself may be endless


class Parser(argparse.ArgumentParser):
    """argparse that takes `--save_dir` and `--save-dir` alike, never guesses at a shortened flag, takes no list twice, and knows --version.

    The command's docstring is the help: what it does, and a command that works as written.
    """

    def __init__(self, doc, **options):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        flags = args.index("--") if "--" in args else len(args)  # what follows is names of files
        words = [_snake(a) for a in args[:flags]]
        found, left = super().parse_known_args(words + args[flags:], namespace)
        self._require_lists_once(words)
        for name, value in vars(found).items():  # a script's variable that is not set; as a name it would mean all, or this folder
            if value == "" or (isinstance(value, list) and "" in value):
                self.error(f"{name}: empty")
        return found, left

    def _require_lists_once(self, words):
        """End with one line if a flag that takes several values is given twice: argparse would drop the first ones in silence.

        Of a flag with one value the last counts, which scripts rely on; `once` on its action says that the value is a list in one word.
        """
        given = set()
        for word in words:
            action = self._option_string_actions.get(word.partition("=")[0])
            several, once = getattr(action, "nargs", None) in ("+", "*"), getattr(action, "once", False)
            if not (several or once) or isinstance(action, argparse._AppendAction):
                continue
            if action in given:
                name = action.option_strings[0]
                self.error(f"{name} is given twice; give all of its values after one: {name} {'A B' if several else 'A,B'}")
            given.add(action)

    def error(self, message):
        self.exit(2, f"{self.prog}: {plain(message)} (see {self.prog} --help)\n")


def _snake(argument):
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def number(kind=float, least=None, above=None, most=None):
    """The `type` of a flag: a finite number, or a whole one (kind int), in a range that the error message states.

    Args:
        least, most: bounds that are allowed themselves. above: a bound that is not.
    """
    bounds = [f"{word} {bound:g}" for word, bound in (("at least", least), ("above", above), ("at most", most)) if bound is not None]
    expected = f"a {'whole' if kind is int else 'finite'} number {' and '.join(bounds)}".strip()

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        low = (least is None or value >= least) and (above is None or value > above)
        if not (low and (most is None or value <= most) and (kind is int or math.isfinite(value))):
            raise argparse.ArgumentTypeError(f"{text[:40]}: expected {expected}")
        return value

    return read


def add_model_flags(parser):
    """Add --weight_file, --device, --precision, --seed and --quiet."""
    parser.add_argument("--weight_file", metavar="FILE|NAME", help="generator: a checkpoint, or the name of an official one (see --list) "
                        "(default: the bundled one)")  # fmt: skip
    add_run_flags(parser)


def add_run_flags(parser):
    """Add --device, --precision, --seed, --list and --quiet."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "tf32", "bf16"),
        help="number format; auto: steps in what pays, pictures in fp32; tf32: steps on CUDA; bf16: of pictures too (default: auto)",
    )  # fmt: skip
    parser.add_argument("--seed", type=number(int, 0, most=2**63 - 1), default=0, help="of everything drawn at random (default: 0)")
    parser.add_argument("--list", action=Listing, help="show the models, boundaries and parts of masks that can be named, and exit")
    add_quiet_flag(parser)


def add_quiet_flag(parser):
    """Add --quiet."""
    parser.add_argument("--quiet", action="store_true", help="errors and warnings only: no progress bar, no paths")


def add_face_flags(parser):
    """Add --no_saved_noise, --tuned_strength and --force, of all commands that read faces."""
    parser.add_argument("--no_saved_noise", action="store_true", help="leave out the noise maps saved beside a latent (NAME.noise.npz)")
    parser.add_argument(
        "--tuned_strength", type=number(float, 0, most=1), default=1.0, metavar="0..1",
        help="how much of the weights that were tuned around a face (NAME.tuned.safetensors); 0: the generator as it is (default: 1)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="take latents and directions that another generator of the same shape made")


def add_embedding_flags(parser, iteration):
    """Add --iteration, --perceptual, --compile, --low_memory and --class, of all commands that optimise; session.open reads them."""
    default = "the preset's" if iteration is None else iteration
    parser.add_argument("--iteration", type=number(int, 0), default=iteration, help=f"steps of the optimiser (default: {default})")
    parser.add_argument("--perceptual", choices=settings.DISTANCES, help="distance (default: what the generator's checkpoint names)")
    parser.add_argument("--compile", default="auto", choices=settings.COMPILES, help="torch.compile (default: auto, where it pays)")
    parser.add_argument(
        "--low_memory", action="store_true", help="keep less for the backward pass: less memory at high resolutions, a third more time"
    )
    add_class_flag(parser)


def add_class_flag(parser):
    """Add --class, of all commands that draw latents; `session.open` reads it, `editor.classes` says what it means."""
    parser.add_argument(
        "--class", type=number(int, 0), metavar="N", help="of a generator with classes: the one that latents are drawn of, from 0"
    )


def add_motion_flags(parser):
    """Add --rotate and --translate, of commands that draw faces; a face keeps them."""
    parser.add_argument("--rotate", type=number(float, -3600, most=3600), default=0.0, metavar="DEGREES", help="StyleGAN3: turn the face, "
                        "counter-clockwise (default: 0)")  # fmt: skip
    parser.add_argument("--translate", type=shift, default=(0.0, 0.0), metavar="X,Y", help="StyleGAN3: then shift it, in widths of the "
                        "picture, to the right and down: 0.1,0 or --translate=-0.1,0 (default: 0,0)")  # fmt: skip


def shift(text):
    """--translate X,Y -> (x, y)."""
    each = text.split(",")
    if len(each) != 2:
        raise argparse.ArgumentTypeError(f"{text[:40]}: expected X,Y, such as 0.1,-0.05")
    return tuple(number(float, -10, most=10)(part) for part in each)


def add_tuning_flags(parser):
    """Add --tune and how, of all commands that embed photographs."""
    tuning = settings.Tuning()
    parser.add_argument(
        "--tune", type=number(int, 0), metavar="N",
        help="then steps of the generator's weights, around the latent; each takes two to three times as long (default: the preset's)",
    )  # fmt: skip
    parser.add_argument(
        "--tune_form", default=tuning.form, choices=settings.TUNED_FORMS,
        help="; ".join(f"{k}: {v}" for k, v in settings.TUNED_FORMS.items()) + f" (default: {tuning.form})",
    )  # fmt: skip
    parser.add_argument("--tune_lr", type=number(float, above=0), default=tuning.lr, help="their learning rate (default: %(default)s)")
    parser.add_argument(
        "--tune_locality", type=number(float, 0), default=tuning.locality,
        help="holds the generator's other faces as they are (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--tune_until", type=number(float, 0), default=tuning.until, metavar="DB", help="stop when the PSNR is so high (default: never)"
    )
    parser.add_argument(
        "--tune_together", action="store_true", help="all images are of one person, and share their weights: truer where they differ"
    )


def add_reading_flags(parser):
    """Add --faces, --purify, --keep and --channels, of all commands that find directions; `readings` and `purify` act by them."""
    parser.add_argument(
        "--faces",
        type=number(int, 0, most=1000),
        default=16,
        metavar="N",
        help="random faces that directions are read on; 0: none (default: 16)",
    )
    parser.add_argument(
        "--purify",
        choices=settings.PURIFY,
        help="; ".join(f"{name}: {what}" for name, what in settings.PURIFY.items()) + " (default: as found)",
    )
    parser.add_argument(
        "--keep",
        nargs="+",
        type=lambda name: {"pose": "yaw", "eyeglasses": "glasses"}.get(name, name),  # as boundaries/ calls them
        choices=settings.ATTRIBUTES,
        help="with --purify: attributes that shall stay (default: all but the one that changes most)",
    )
    parser.add_argument(
        "--channels", type=number(int, 1, most=100_000), default=300, metavar="K", help="of --purify channels: how many (default: 300)"
    )


def add_folder_flags(parser):
    """Add --redo, --retry and --shard, of all commands that take a folder; `editor.folder` acts by them."""
    parser.add_argument("--redo", action="store_true", help="of a folder, do again what is done (default: skip it)")
    parser.add_argument("--retry", action="store_true", help="of a folder, try again what failed in an earlier run (default: name it)")
    parser.add_argument(
        "--shard", type=shard, metavar="I/N", help="do part I of N of a folder, by a hash of the names: for several machines on one share"
    )


def add_workers_flag(parser, text):
    """Add --workers, of commands whose batches other processes can work on."""
    parser.add_argument("--workers", type=number(int, 1, most=1024), metavar="N", help=text)


def add_worker_flags(parser):
    """Add --workers, --devices and --ray, of commands whose batches other processes and machines can work on."""
    add_workers_flag(parser, "work on a folder in N processes, which share the cores' threads (default: in this one; with --ray, actors)")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="work on a folder on a Ray cluster: auto, HOST:6379 or ray://HOST:10001 (requirements-ray.txt)"
    )
    parser.add_argument("--devices", type=devices, metavar="A,B", help="a process for each, such as cuda:0,cuda:1 (default: --device)")


def shard(text):
    """--shard I/N -> (I, N)."""
    i, slash, n = text.partition("/")
    if not (i.isascii() and i.isdecimal() and n.isascii() and n.isdecimal() and len(text) < 20 and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text[:40]}: expected I/N with I from 1 to N, such as 1/2")
    return int(i), int(n)


def devices(text):
    """--devices A,B -> list."""
    names = text.split(",")
    if not all(re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,3})?", name) for name in names):
        raise argparse.ArgumentTypeError(f"{text[:80]}: expected devices such as cuda:0,cuda:1, or cpu,cpu")
    return names


class Listing(argparse.Action):
    """--list: print what can be named, from the dicts that the commands themselves look names up in."""

    def __init__(self, option_strings, dest, **options):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser, namespace, values, option_string=None):
        from editor import checkpoints, downloads, landmarks

        names = sorted(p.stem for p in (checkpoints.HERE / "boundaries").glob("*.npy"))
        models = [f"  {name:22} {item.what}; {item.license}" for name, item in downloads.DOWNLOADS.items() if name.startswith("stylegan")]
        print("models for --weight_file (weight_convert.py NAME downloads and converts one):", *models, sep="\n")
        print(f"boundaries that come with the bundled generator:\n  {', '.join(names)}")
        print(f"parts of a face for masks (part:NAME):\n  {', '.join(landmarks.NAMES)}")
        parser.exit()


# ---------------------------------------------------------------------------------------------------------------------
# Messages


def escaped(text):
    """Text from files and names without what a terminal would obey: control characters are written out."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", lambda m: repr(m[0])[1:-1], str(text))


def plain(text):
    """A message as a terminal may show it: escaped, one line, not endless (its end often says what is wrong)."""
    text = escaped(str(text).strip())
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]} ({len(text)} characters)"


def one_line(error):
    """What an exception says, on one line; an OSError from the system with its file."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        advice = "; set TMPDIR to a folder that can be written to" if "temporary directory" in error.strerror else ""
        return plain(f"{where}{error.strerror}{advice}")
    return plain(" ".join(str(error).split())) or type(error).__name__


def say(message):
    """Print one line on stderr, above a progress bar if there is one."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(plain(message), file=sys.stderr)
    else:
        print(plain(message), file=sys.stderr, flush=True)


def warn(message):
    """Print one line on stderr, after `warning:`."""
    say(f"warning: {message}")


def warn_of(session):
    """Warn, once, of what a session noticed in the files that it read."""
    while session.remarks:
        warn(session.remarks.pop(0))


def written(args, *paths, what=None):
    """Print the paths of results on stdout, one a line, and what they are on stderr; nothing with --quiet."""
    if args.quiet:
        return
    if what:
        say(what)
    for path in paths:
        print(escaped(path), flush=True)  # whole: another program may read it


@contextmanager
def progress(total, quiet=False, unit="step"):
    """A progress bar on stderr, or where that is no terminal a line a minute; yields what to call with (how many are done, loss of
    them or None, more to show by name).
    """
    from tqdm import tqdm

    if not (quiet or sys.stderr.isatty()):
        yield Minutes(total, unit)
        return
    with tqdm(total=total, disable=quiet, unit=unit, file=sys.stderr) as bar:

        def show(done, loss=None, /, **more):
            if loss is not None:
                more["loss"] = f"{loss:.3g}"
            if more:
                bar.set_postfix(more, refresh=False)
            bar.update(done - bar.n)

        yield show


class Minutes:
    """A line of progress a minute, for logs: how much is done, the rate, the time left."""

    EVERY = 60.0  # seconds

    def __init__(self, total, unit):
        self.total, self.unit = total, unit
        self.began = self.said = time.monotonic()

    def __call__(self, done, loss=None, /, **more):
        now = time.monotonic()
        if now - self.said < self.EVERY or not 0 < done < self.total:
            return
        self.said, rate = now, done / (now - self.began)
        left = round((self.total - done) / rate)
        more = [f"{count} {name}" for name, count in more.items()] + ([] if loss is None else [f"loss {loss:.3g}"])
        each = f"{rate:.3g} {self.unit}s a second" if rate > 0.1 else f"{3600 * rate:.3g} {self.unit}s an hour"
        say(
            ", ".join(
                [
                    f"{done / self.total:.0%} of {self.total} {self.unit}s",
                    each,
                    f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left",
                    *more,
                ]
            )
        )


def require_default(parser, args, names, why):
    """Raise ValueError if one of these flags was given a value that `why` says cannot act."""
    given = [f"--{name}" for name in names if getattr(args, name) != parser.get_default(name)]
    if given:
        raise ValueError(f"{', '.join(given)}: {why}")


class Failures:
    """The inputs of a batch that failed. `with failures.catch(name): work` names the failure and goes on.

    Only ValueError and OSError are taken for bad input; anything else is our bug and keeps its traceback. When the
    command was given one input, `single=True` lets the error through, so that it ends with exit code 2.
    """

    def __init__(self, single=False):
        self.names, self.single = [], single

    def catch(self, name):
        return _Catch(self, name)

    def add(self, name, reason):
        """Name a failure: `failed: NAME: REASON` on stderr, NAME once."""
        reason = plain(reason).removeprefix(f"{plain(name)}: ")
        say(f"failed: {plain(name)}: {reason}")
        self.names.append(name)

    @property
    def exit_code(self):
        return 1 if self.names else 0


class _Catch:
    def __init__(self, failures, name):
        self.failures, self.name = failures, name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if self.failures.single or not isinstance(error, (ValueError, OSError)) or isinstance(error, BrokenPipeError):
            return False
        self.failures.add(self.name, one_line(error))
        return True


def alike(name):
    """What names have in common that file systems may take for one: in upper and lower case, composed and decomposed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(name)).casefold())


def require_different_names(paths, what):
    """Raise ValueError if two inputs have one stem: their results would have one name. Being not `alike` is what makes a difference."""
    first = {}
    for path in map(Path, paths):
        other = first.setdefault(alike(path.stem), path)
        if other is not path:
            raise ValueError(f"{other} and {path}: {what} are named after them, and one would replace the other; rename one")


# ---------------------------------------------------------------------------------------------------------------------
# Running a command


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does, with exit code 143."""


BUFFERS_KEPT = None  # what `keep_buffers` was answered; None: not asked


def keep_buffers():
    """Let glibc keep large freed buffers instead of handing them to the kernel, which zeroes them page by page at the next step.

    On a CPU this is worth more than most arithmetic (benchmarks/README.md). Elsewhere than on Linux with glibc nothing happens;
    whether it was granted there stands in BUFFERS_KEPT, for who computes with large buffers to say.
    """
    import ctypes
    import platform

    global BUFFERS_KEPT
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3
        BUFFERS_KEPT = all([ctypes.CDLL(None).mallopt(option, 2**31 - 1) == 1 for option in (trim_threshold, mmap_threshold)])


def open_streams():
    """Standard streams that a shell closed (2>&-) lead nowhere, instead of into the next file opened; none fails for a character."""
    for place, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(place)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(place, "r" if place == 0 else "w", closefd=False))
        if place and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def on_signal(number, frame):
    """Ctrl-C and SIGTERM raise KeyboardInterrupt; before `run`, and inside an import, which would be left half done, they end at once."""
    error, inner = (Terminated if number == signal.SIGTERM else KeyboardInterrupt), frame
    while inner is not None and WAITING is None:
        if not RUNNING or inner.f_code.co_filename.startswith("<frozen importlib"):
            if "--multiprocessing-fork" not in sys.orig_argv:  # else a worker of the command that has this name
                os.write(2, f"{os.path.basename(sys.argv[0])}: stopped\n".encode())
            os._exit(128 + number)
        inner = inner.f_back
    if WAITING is None:
        raise error
    WAITING.append(error)


def stand_ready():
    """From here on Ctrl-C and SIGTERM end the process as `run` says; for programs that import for seconds before they call it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)


RUNNING = False  # whether `run` has begun
WAITING = None  # a list while `kept_whole` runs: the signals that came meanwhile

if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent.parent:  # a command of the toolkit's, which is still importing
    stand_ready()


@contextmanager
def kept_whole():
    """A block that Ctrl-C and SIGTERM do not cut: they come into force at its end. For writing what long work has found."""
    global WAITING
    if WAITING is not None:  # within another one
        yield
        return
    WAITING = came = []
    try:
        yield
    finally:
        WAITING = None
    if came:
        raise came[0]


def _nothing_left_to_stop():
    """While Python ends, a signal must not change the exit code of what is done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def begin():
    """How a process begins whose main thread works: signals, streams, memory."""
    global RUNNING
    RUNNING = True
    stand_ready()
    open_streams()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait yield: on a busy machine spinning ones crawl
    if not {"--low_memory", "--low-memory"} & set(sys.argv[1:]):  # a worker has the words of who started it
        keep_buffers()


def run(main):
    """Run a command's `main(argv) -> exit code or None` and leave Python with its exit code.

    ValueError and OSError (bad input, a missing file, a full disk) become one line on stderr and exit code 2.
    """
    program = os.path.basename(sys.argv[0])
    begin()
    atexit.register(_nothing_left_to_stop)
    try:
        code = main(sys.argv[1:]) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output is gone (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 128 + 13
    except (ValueError, OSError) as error:
        say(f"{program}: {one_line(error)}")
        code = 2
    except KeyboardInterrupt as error:
        say(f"{program}: stopped" + (f"; {error}" if str(error) else ""))
        code = 143 if isinstance(error, Terminated) else 130
    _nothing_left_to_stop()  # torch's own farewells come before those registered first
    sys.exit(code)
