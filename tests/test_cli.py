"""What the commands share on the command line: numbers, messages, exit codes, signals."""

import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from editor import cli

ROOT = Path(__file__).resolve().parent.parent


def start(*words, code=None, **options):
    """A process that a signal may be sent to, though the shell around the tests ignores Ctrl-C; `code` instead of a command."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT} | options
    arguments = ["-c", code] if code else words
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **options
    )


WAITING = """
import sys, time
from editor import cli
def main(argv):
    print('ready', flush=True)
    {body}
cli.run(main)
"""


@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_in_one_line(sent, code):
    process = start(code=WAITING.format(body="time.sleep(60)"))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and said == "-c: stopped\n"


@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_within_an_import_does_too(sent, code, tmp_path):
    (tmp_path / "slow.py").write_text(
        "print('ready', flush=True)\nimport time\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
    )
    process = start(code=f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n" + WAITING.format(body="import slow"))
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and said == "-c: stopped\n"


def test_what_is_being_written_is_finished_first():
    body = "with cli.kept_whole():\n        print('in', flush=True)\n        input()\n        print('written')\n    print('too far')"
    process = start(code=WAITING.format(body=body), stdin=subprocess.PIPE)
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "in\n"]
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    out, said = process.communicate("\n", timeout=60)
    assert (process.returncode, out, said) == (143, "written\n", "-c: stopped\n")


@pytest.mark.parametrize("command", ["encode_image.py"])
def test_ctrl_c_while_a_command_opens(command, portraits, tmp_path):
    """A tenth of a second after the command stands ready for signals, and later: one line."""
    from editor import images

    images.save(tmp_path / "in" / "a.png", portraits[0])
    for wait in (0.1, 0.7):
        trace = f"import sys, runpy\nsys.argv = ['{command}', '--src_dir', 'in', '--quiet']\nsys.path.insert(0, {str(ROOT)!r})\n"
        trace += "from editor import cli\nrun = cli.run\n"
        trace += "def ready(main):\n    from builtins import print\n    keep = cli.keep_buffers\n"
        trace += "    cli.keep_buffers = lambda: (keep(), print('ready', flush=True))\n    run(main)\n"
        trace += f"cli.run = ready\nrunpy.run_path({str(ROOT / command)!r}, run_name='__main__')"
        process = start(code=trace, cwd=tmp_path)
        assert process.stdout.readline() == "ready\n"
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130 and said == f"{command}: stopped\n", said


@pytest.mark.parametrize(
    "error, code, said",
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (KeyboardInterrupt("the best is kept"), 130, "stopped; the best is kept"),
        (cli.Terminated(), 143, "stopped"),
        (ValueError("a\nb\x1b[31m"), 2, r"a b\x1b[31m"),
        (OSError(28, "No space left on device", "f.npy"), 2, "f.npy: No space left on device"),
        (None, 0, None),
    ],
)
def test_exit_codes(monkeypatch, capsys, error, code, said):
    def main(argv):
        if error:
            raise error

    monkeypatch.setattr(sys, "argv", ["/x/command.py"])
    monkeypatch.setattr(cli, "open_streams", lambda: None)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.run(main)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert ended.value.code == code
    assert capsys.readouterr().err == (f"command.py: {said}\n" if said else "")


def test_threads_that_wait_yield_unless_told_otherwise():
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | ({"OMP_WAIT_POLICY": given} if given else {})
        process = start(code="import os\nfrom editor import cli\ncli.run(lambda argv: print(os.environ['OMP_WAIT_POLICY']))", env=env)
        assert process.communicate(timeout=60)[0] == expected + "\n"


def test_closed_streams_and_odd_characters(tmp_path):
    code = "from editor import cli\ndef main(argv):\n    print('\\xe9\\udce9')\n    cli.say('words')\n    open('f', 'w').write('x')"
    for closing in ("2>&-", "0<&- 2>&-", "0<&- >&- 2>&-", ""):
        command = f'{sys.executable} -c "$CODE" {closing}'
        env = os.environ | {"CODE": code + "\ncli.run(main)", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, shell=True, capture_output=True, env=env, cwd=tmp_path, timeout=60)
        assert done.returncode == 0 and (tmp_path / "f").read_text() == "x", (closing, done)
        assert done.stdout == (b"" if ">&- 2" in closing else b"\\xe9\\udce9\n")


def test_a_reader_that_leaves(run):
    code = "from editor import cli\ncli.run(lambda argv: [print('x' * 99) for _ in range(9999)] and 0)"
    process = start(code=code)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 141


# ---------------------------------------------------------------------------------------------------------------------
# Flags


@pytest.mark.parametrize(
    "kind, bounds, good, bad",
    [
        (float, {"least": 0}, ["0", "1e3", "0.5"], ["-1", "nan", "inf", "1e999", "x", "", "-0.001"]),
        (float, {"above": 0}, ["1e-9"], ["0", "-0.0", "nan", "-inf"]),
        (int, {"least": 1, "most": 9}, ["1", "9"], ["0", "10", "1.5", "1e1", "9" * 5000, "nan"]),
        (float, {}, ["-5"], ["nan", "inf"]),
    ],
)
def test_numbers(kind, bounds, good, bad):
    read = cli.number(kind, **bounds)
    assert [read(text) for text in good] == [kind(text) for text in good]
    for text in bad:
        with pytest.raises(cli.argparse.ArgumentTypeError, match="expected a"):
            read(text)


def parser():
    p = cli.Parser("Does it.\n\n    python x.py")
    p.add_argument("--save_dir", default="d")
    p.add_argument("--names", nargs="+")
    p.add_argument("files", nargs="*")
    return p


def test_kebab_case_is_understood_and_names_after_two_dashes_are_names():
    args = parser().parse_args(["--save-dir", "a-b", "--", "--my-photo.jpg"])
    assert args.save_dir == "a-b" and args.files == ["--my-photo.jpg"]
    assert parser().parse_args(["--save-dir=a-b"]).save_dir == "a-b"


@pytest.mark.parametrize("words", [["--save_dir", ""], ["--save_dir="], ["--names", "a", ""], ["a", ""]])
def test_empty_words_are_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    assert ended.value.code == 2 and ": empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, name",
    [
        (["--some-names", "a", "--some_names", "b"], "--some_names"),
        (["--some_names=a", "-n", "b"], "--some_names"),
        (["--any", "--any", "x"], "--any"),
        (["inner", "--deep", "a", "--deep=b"], "--deep"),
        (["--numbers", "0-3", "--number=7"], "--numbers"),
    ],
)
def test_a_list_given_twice_is_refused(words, name, capsys):
    """argparse would drop the first values in silence."""
    p = cli.Parser("x")
    p.add_argument("--some_names", "-n", nargs="+")
    p.add_argument("--any", nargs="*")
    p.add_argument("--numbers", "--number").once = True
    p.add_subparsers().add_parser("inner", doc="y").add_argument("--deep", nargs="+")
    with pytest.raises(SystemExit) as ended:
        p.parse_args(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and len(said.splitlines()) == 1
    assert f"{name} is given twice; give all of its values after one: {name} A" in said


def test_flags_of_one_value_may_come_twice_and_those_that_gather(capsys):
    p = cli.Parser("x")
    p.add_argument("--name")
    p.add_argument("--names", nargs="+")
    p.add_argument("--drag", action="append", nargs="+")
    p.add_argument("files", nargs="*")
    args = p.parse_args(["--name", "a", "--drag", "1", "--name", "b", "--drag", "2", "3", "--names", "c", "--", "--names", "d"])
    assert args.name == "b" and args.drag == [["1"], ["2", "3"]] and args.names == ["c"] and args.files == ["--names", "d"]


def test_flags_are_not_guessed_and_errors_are_escaped(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--save", "x", "\x1b]0;title\x07"])
    said = capsys.readouterr().err
    assert "unrecognized" in said and "\x1b" not in said and len(said.splitlines()) == 1


def test_list_shows_what_can_be_named(capsys):
    p = cli.Parser("x")
    cli.add_model_flags(p)
    with pytest.raises(SystemExit) as ended:
        p.parse_args(["--list"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and all(word in shown for word in ("stylegan2-ffhq-256", "smile", "left_brow"))


# ---------------------------------------------------------------------------------------------------------------------
# Messages


def test_paths_go_to_stdout_whole_and_words_to_stderr(capsys):
    class Args:
        quiet = False

    paths = ["x" * 2000 + ".npy", " a \x1b[31m\nb "]
    cli.written(Args, *paths, what="two\tfiles")
    shown = capsys.readouterr()
    assert shown.out == paths[0] + "\n" + r" a \x1b[31m\nb " + "\n" and shown.err == r"two\tfiles" + "\n"
    Args.quiet = True
    cli.written(Args, *paths, what="x")
    assert capsys.readouterr() == ("", "")


def test_messages_are_short_and_escaped():
    assert cli.plain("\x9b1m\u202ea") == r"\x9b1m\u202ea"
    assert len(cli.plain("x" * 10**6)) < 600 and "1000000 characters" in cli.plain("x" * 10**6)
    assert cli.plain("x" * 10**6 + ": File name too long").partition(" (")[0].endswith("File name too long")
    assert cli.one_line(ValueError()) == "ValueError"


def test_failures_are_named_once_and_the_rest_is_done(capsys):
    failures = cli.Failures()
    for name, error in (("a.png", ValueError("a.png: no image")), ("b\n.png", OSError(2, "No such file", "c")), ("d", None)):
        with failures.catch(name):
            if error:
                raise error
    assert failures.exit_code == 1 and failures.names == ["a.png", "b\n.png"]
    assert capsys.readouterr().err == "failed: a.png: no image\nfailed: b\\n.png: c: No such file\n"
    for error in (KeyboardInterrupt, TypeError, BrokenPipeError):
        with pytest.raises(error), failures.catch("x"):
            raise error
    with pytest.raises(ValueError), cli.Failures(single=True).catch("x"):
        raise ValueError
    assert cli.Failures().exit_code == 0


def test_two_inputs_of_one_name():
    cli.require_different_names(["a/x.png", "a/y.png"], "results")
    cli.require_different_names(["a/x.png", "a/x.png"][:1], "results")
    for other in ("b/x.png", "a/x.jpg", "a/X.png"):
        with pytest.raises(ValueError, match="x.png.*rename one"):
            cli.require_different_names(["a/x.png", other], "results")
    with pytest.raises(ValueError, match="rename one"):  # composed and decomposed
        cli.require_different_names(["a/\u00e9.png", "a/E\u0301.png"], "results")


def test_progress_shows_small_losses(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with cli.progress(10) as show:
        show(10, 0.0000123)
    assert "1.23e-05" in capsys.readouterr().err
    with cli.progress(10, quiet=True) as show:
        show(10, 1.0)
    assert capsys.readouterr().err == ""


def test_progress_in_a_log_is_a_line_a_minute(capsys, monkeypatch):
    now = iter([0.0, 30.0, 61.0, 100.0, 122.0, 200.0])
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(now))
    with cli.progress(400) as show:
        for done in (10, 61, 80, 122, 400):
            show(done, 0.5, failed=2)
    assert capsys.readouterr().err.splitlines() == [
        "15% of 400 steps, 1 steps a second, 0:05:39 left, 2 failed, loss 0.5",
        "30% of 400 steps, 1 steps a second, 0:04:38 left, 2 failed, loss 0.5",
    ]


@pytest.mark.parametrize("program", ["train_generator", "train_encoder", "measure"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_stopped_while_it_imports_ends_with_one_line(program, number, tmp_path):
    """train_generator.py imports PyTorch once its flags are read, and says what it begins with."""
    (tmp_path / "torch.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(9)\n")
    words = [sys.executable, "-m", f"training.{program}"]
    words += ["--data", str(tmp_path), "--out", str(tmp_path / "run")] * (program == "train_generator")
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=30)
    assert done.returncode == 128 + number
    assert done.stderr.splitlines()[-1] == f"{program}.py: stopped" and len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("program", ["align_images.py", "train_boundary.py", "weight_convert.py", "make_morphinggif.py"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stopped_while_it_imports_numpy_ends_with_one_line(program, number, tmp_path):
    (tmp_path / "numpy.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(9)\n")
    words = [sys.executable, str(ROOT / program), "--help"]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=30)
    assert done.returncode == 128 + number
    assert done.stderr == f"{program}: stopped\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stopped_before_it_runs_ends_with_one_line(number, tmp_path):
    """After its imports, while its own functions are being defined."""
    program = (
        "import dataclasses, os, runpy, sys\nmake = dataclasses.dataclass\n"
        f"def stop(*words, **options):\n    if words and words[0].__module__ == '__main__':\n        os.kill(os.getpid(), {int(number)})\n"
        f"    return make(*words, **options)\ndataclasses.dataclass = stop\nsys.argv[0] = {str(ROOT / 'train_boundary.py')!r}\n"
        f"sys.path.insert(0, {str(ROOT)!r})\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (128 + number, "train_boundary.py: stopped\n")


def typed():
    """The commands that README and the demo show, but for weight_convert.py, whose flags are read where it runs."""
    from docs import demo

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^    \.venv/bin/python (\w+\.py.*)$", text, re.M)
    found += [words for row in demo.ROWS for words in row.commands]
    return [words for words in found if not words.startswith("weight_convert.py")]


@pytest.mark.parametrize("words", typed())
def test_what_is_shown_can_be_typed(words):
    """A flag that is renamed is renamed where people read of it, too."""
    script, *rest = shlex.split(words, comments=True)
    importlib.import_module(script.removesuffix(".py")).flags().parse_args(rest)
