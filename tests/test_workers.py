"""Several processes on a folder (editor/workers.py): the bytes of one, and nothing lost when one is killed."""

import argparse
import contextlib
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import encode_image
from editor import folder, images, render, workers
from tests.test_cli import start

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
FAST = "--src_dir in --preset exact --init mean --perceptual none --compile off --precision fp32 --lr 0.02 --batch_size 3".split()
ENV = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


STARTED = []


@pytest.fixture
def six(tmp_path, portraits):
    """in/a.png to in/f.png, and in/aa.png, which is none."""
    for i, name in enumerate("abcdef"):
        images.save(tmp_path / "in" / f"{name}.png", portraits[i % 4] // (1 + i // 4))
    (tmp_path / "in" / "aa.png").write_text("<html>")
    yield tmp_path
    while STARTED:
        process = STARTED.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever a test that failed left of it
        process.communicate()


def begin(place, *words, iteration=3, **options):
    """encode_image.py in `place` -> process; its results go to w/ and s/."""
    words = [ROOT / "encode_image.py", *FAST, "--iteration", iteration, "--latent_dir", "w", "--save_dir", "s", *words]
    STARTED.append(start(*words, cwd=place, env=ENV, start_new_session=True, **options))
    return STARTED[-1]


def content(place):
    """{file: what must not depend on who made it}: pictures, latents, and records without their seconds."""
    found = {}
    for path in sorted([*(place / "w").iterdir(), *(place / "s").iterdir()]):
        if path.name.startswith(".tmp-"):  # of whoever was killed while writing
            continue
        if path.suffix in (".npy", ".png"):
            found[path.name] = path.read_bytes()
        elif path.suffix == ".json":
            found[path.name] = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("seconds", "generator", "argv")}
    return found


def children(pid):
    """The worker processes of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"\nPPid:\t{pid}\n" in (entry / "status").read_text()
            if ours and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def until(ready, seconds=400):
    """Wait for something; its value."""
    for _ in range(seconds * 20):
        if found := ready():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def names(place, state="done"):
    return sorted(line["name"] for line in folder.Journal(place / "s").lines() if line["state"] == state)


def test_workers_give_one_process_bytes_and_survive_a_kill(six, tmp_path_factory):
    alone = tmp_path_factory.mktemp("alone")
    os.symlink(six / "in", alone / "in")
    process = begin(alone, iteration=20)
    process.communicate(timeout=120)
    assert process.returncode == 1
    process = begin(six, "--workers", "2", iteration=20)
    until(lambda: names(six))  # something is done, and the next batch begun
    first = next(line["worker"] for line in folder.Journal(six / "s").lines() if line["state"] == "done")
    victim = sorted(children(process.pid))[first - 1]  # they are numbered as they are started; the other one does the rest
    os.kill(victim, signal.SIGKILL)
    out, said = process.communicate(timeout=120)
    assert process.returncode == 1 and said.count("was killed by SIGKILL (is memory short?); another one takes its place") == 1, said
    assert said.count("failed: ") == 1 and "failed: in/aa.png: a web page" in said and "6 done, 1 failed" in said
    assert names(six) == list("abcdef") and content(six) == content(alone), "nothing lost, nothing double"
    assert sorted(out.split()) == sorted(path for name in "abcdef" for path in (f"w/{name}.npy", f"s/{name}.png"))
    assert {line["worker"] for line in folder.Journal(six / "s").lines()} == {1, 2}


def test_ctrl_c_keeps_the_best_so_far_of_each_worker_and_a_second_one_ends_at_once(six):
    for twice in (False, True):
        process = begin(six, "--workers", "2", "--quiet", "--redo", iteration=100000)
        crew = until(lambda process=process: len(found := children(process.pid)) == 2 and found)
        until(lambda twice=twice: names(six, "failed") == ["aa"] * (1 + twice))  # a batch is read
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        if twice:
            time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers as well
        began = time.time()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in said and said.count("stopped") == 1, said
        assert not any(map(running, crew)) and (not twice or time.time() - began < 10)
        if not twice:
            assert "the best so far is in w, and the same command goes on" in said and names(six, "stopped")


def test_a_worker_for_each_device_ends_with_the_process_that_started_them(six):
    process = begin(six, "--devices", "cpu,cpu", "--quiet", iteration=100000)
    crew = until(lambda: len(found := children(process.pid)) == 2 and found)
    process.kill()
    process.communicate()
    until(lambda: not any(map(running, crew)), 30)


def test_a_picture_does_not_depend_on_the_threads(G):
    with torch.no_grad():
        ws = G.truncate(G.mapping(torch.randn(40, 512, generator=torch.Generator().manual_seed(0))), 0.7)
    before, shown = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        shown.append([next(render.pictures(G, w[None])) for w in ws])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert all(map(np.array_equal, *shown))


def test_devices_that_are_not_there_and_two_flags_for_one_thing():
    for words, why in ((["--devices", "cuda:77"], "cuda:77"), (["--devices", "cpu", "--workers", "2"], "--workers 2: --devices has")):
        with pytest.raises(ValueError, match=why):
            workers.devices(encode_image.flags().parse_args(words))


ODD = """
import os, pathlib, signal, time
PID = pathlib.Path(__file__ + ".pid")
class Deadly:
    def __init__(self, args):
        self.args = args
    def batch(self, items, tell):
        for item in items:
            if item.name == "b":
                os.kill(os.getpid(), signal.SIGKILL)
            tell("outcome", item, "done", {"threads": os.environ["OMP_NUM_THREADS"], "device": self.args.device})
class Told(Deadly):
    def batch(self, items, tell):
        for item in items:
            first = not os.path.exists(__file__ + ".told")
            open(__file__ + ".told", "w").close()
            tell("outcome", item, "stopped" if first else "done", {})
            if first:
                raise KeyboardInterrupt
class Adrift(Deadly):
    def batch(self, items, tell):
        raise OSError("the share is gone")
def closed(args):
    raise ValueError("no memory on the card")
def bug(args):
    1 / 0
def half(args):
    if args.device != "cpu":
        PID.write_text(str(os.getpid()))
        closed(args)
    while True:  # until the other was heard and cleared away, however slow it opens
        try:
            os.kill(int(PID.read_text()), 0)
        except (OSError, ValueError) as error:
            if isinstance(error, ProcessLookupError):
                return Deadly(args)
        time.sleep(0.01)
"""


@pytest.fixture
def crew(tmp_path, monkeypatch):
    """crew(name in ODD, devices, batches) -> what is heard."""
    (tmp_path / "odd.py").write_text(ODD)
    monkeypatch.syspath_prepend(str(tmp_path))

    def crew(name, devices, waiting):
        heard = []
        many = workers.Workers(("odd", name), argparse.Namespace(), devices, 3, lambda *words: heard.append(words))
        many.run([[folder.Item(n, Path(n), {}, {}) for n in batch] for batch in waiting], lambda item: None)
        return heard

    return crew


def test_what_a_worker_left_half_done_when_somebody_stopped_it_is_done_by_another(crew):
    heard = crew("Told", ["cpu"], ["ab"])
    assert [(words[0].name, words[1]) for _, kind, *words in heard if kind == "outcome"] == [("a", "done"), ("b", "done")]


def test_what_kills_its_worker_twice_is_named_and_its_neighbours_are_done(crew):
    heard = crew("Deadly", ["cpu"], ["abc", "d"])
    outcomes = [(words[0].name, *words[1:]) for _, kind, *words in heard if kind == "outcome"]
    done = {"threads": "3", "device": "cpu"}
    error = {"error": "b: the worker was killed by SIGKILL (is memory short?), a second time with it alone", "final": False}
    assert outcomes == [("a", "done", done), ("b", "failed", error), ("c", "done", done), ("d", "done", done)]
    assert sorted(item.name for _, kind, *words in heard if kind == "batch" for item in words[0]) == list("abcd")


def test_a_worker_that_cannot_open_is_one_line_and_a_bug_keeps_its_traceback(crew):
    with pytest.raises(OSError, match="no memory on the card"):
        crew("closed", ["cpu"], ["a"])
    with pytest.raises(OSError, match="^the share is gone$"):
        crew("Adrift", ["cpu", "cpu"], ["a", "b"])
    with pytest.raises(RuntimeError, match="in worker 1:\n(?s:.*)ZeroDivisionError"):
        crew("bug", ["cpu"], ["a"])
    heard = crew("half", ["cuda:0", "cpu"], ["a", "c"])
    assert [words[0].name for _, kind, *words in heard if kind == "outcome"] == ["a", "c"]
    assert ("warn", "worker 1 cannot work on cuda:0: no memory on the card; the others go on") in [words[1:] for words in heard]
