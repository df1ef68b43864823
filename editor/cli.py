"""What the scripts share on the command line: flags, messages, exit codes.

Exit codes: 0 done; 1 some inputs of a batch failed (each was named); 2 the command cannot run (one line on stderr);
130 stopped with Ctrl-C.
"""

import argparse
import os
import sys
from contextlib import contextmanager

__version__ = "0.1.0"


class Parser(argparse.ArgumentParser):
    """argparse that takes `--save_dir` and `--save-dir` alike, never guesses at a shortened flag, and knows --version.

    The script's docstring is the help: what it does, and a command that works as written.
    """

    def __init__(self, doc, **options):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args([_snake(a) for a in args], namespace)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _snake(argument):
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def add_model_flags(parser):
    """Add --weight_file, --device, --precision, --seed and --quiet."""
    parser.add_argument(
        "--weight_file", metavar="FILE|NAME", help="generator: a checkpoint, or a name of editor.downloads (default: the bundled one)"
    )
    add_run_flags(parser)


def add_run_flags(parser):
    """Add --device, --precision, --seed and --quiet."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16"), help="number format of the convolutions (default: auto)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, errors only")


def add_noise_flag(parser):
    """Add --no_saved_noise."""
    parser.add_argument("--no_saved_noise", action="store_true", help="leave out the noise maps saved beside a latent (NAME.noise.npz)")


def one_line(error):
    """What an exception says, on one line; an OSError from the system with its file."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def warn(message):
    """Print one line on stderr, after `warning:`."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


@contextmanager
def progress(steps, quiet=False):
    """A progress bar on stderr for an optimiser; yields what to call with (step, losses [N])."""
    from tqdm import tqdm

    with tqdm(total=steps, disable=quiet, unit="step", file=sys.stderr) as bar:

        def show(step, losses):
            bar.set_postfix(loss=f"{losses.mean().item():.4f}", refresh=False)
            bar.update(step + 1 - bar.n)

        yield show


class Failures:
    """The inputs of a batch that failed. `with failures.catch(name): work` names the failure and goes on.

    Only ValueError and OSError are taken for bad input; anything else is our bug and keeps its traceback. When the
    whole batch was one input, `single=True` lets the error through, so that the command ends with exit code 2.
    """

    def __init__(self, single=False):
        self.names, self.single = [], single

    def catch(self, name):
        return _Catch(self, name)

    @property
    def exit_code(self):
        return 1 if self.names else 0


class _Catch:
    def __init__(self, failures, name):
        self.failures, self.name = failures, name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if self.failures.single or not isinstance(error, (ValueError, OSError)):
            return False
        print(f"failed: {self.name}: {one_line(error)}", file=sys.stderr, flush=True)
        self.failures.names.append(self.name)
        return True


def keep_buffers():
    """Let glibc keep large freed buffers instead of handing them to the kernel, which zeroes them page by page at the next step.

    On a CPU this is worth more than most arithmetic (benchmarks/README.md). Elsewhere than on Linux with glibc nothing happens.
    """
    import ctypes
    import platform

    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3
        for option in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(option, 2**31 - 1)


def run(main):
    """Run a script's `main(argv) -> exit code or None` and leave Python with its exit code.

    ValueError and OSError (bad input, a missing file, a full disk) become one line on stderr and exit code 2.
    """
    program = os.path.basename(sys.argv[0])
    keep_buffers()
    try:
        code = main(sys.argv[1:]) or 0
    except (ValueError, OSError) as error:
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        code = 130
    sys.exit(code)
