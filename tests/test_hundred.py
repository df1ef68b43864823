"""Two hundred kinds of hostile files, each read by its real entry: none runs anything, hangs, or costs more than its size tells."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hostile_kinds import SAME, kinds

ROOT = Path(__file__).resolve().parent.parent
MOST_SECONDS, MOST_BYTES = 5, 200 << 20  # of a kind; the memory beside twice the file

CHILD = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import torch, weight_convert
from editor import checkpoints, face
from tests.hostile_kinds import honest
torch.set_num_threads(1)

def status(key):
    with open("/proc/self/status") as f:
        return int(f.read().split(key)[1].split()[0]) << 10

expected = honest().state_dict()
entries = {"convert": lambda path: weight_convert.convert(path)[0], "load": checkpoints.load_generator, "face": face.read}
for line in sys.stdin:
    kind, entry, path = json.loads(line)
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak begins anew
    before, began = status("VmRSS:"), time.monotonic()
    try:
        found = entries[entry](path)
        if found is None:
            raise ValueError("no generator is in it")
        same = entry == "convert" and all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
        said = "same" if same else "another network, or a face"
    except (ValueError, OSError) as error:
        said = f"{type(error).__name__}: {error}"
    except BaseException as error:
        said = f"NOT REFUSED BUT {type(error).__name__}: {error}"
    found = None
    print(json.dumps([kind, said, time.monotonic() - began, status("VmHWM:") - before]), flush=True)
"""


def read_all(listed, folder):
    """{kind: (what was said, seconds, bytes)}, read by a process with a limit of memory; one that stops answering is ended."""
    results, left = {}, [[kind, entry, str(path)] for kind, entry, path, _ in listed]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    while left:
        (folder / "asked").write_text("".join(json.dumps(one) + "\n" for one in left))
        with open(folder / "asked") as asked, open(folder / "done", "w+") as done, open(folder / "errors", "w") as errors:
            child = subprocess.Popen([sys.executable, "-c", CHILD, str(ROOT)], stdin=asked, stdout=done, stderr=errors, env=environment)
            try:
                _wait(child, folder / "done")
            finally:
                child.kill()
                child.wait()
        answers = [json.loads(line) for line in (folder / "done").read_text().splitlines()]
        results |= {kind: rest for kind, *rest in answers}
        left = left[len(answers) :]
        if left and child.returncode:  # it hung, or crashed, at the next one
            end = "it hung, or took all memory" if child.returncode == -9 else (folder / "errors").read_text()[-300:]
            results[left.pop(0)[0]] = [f"ENDED with {child.returncode}: {end}", float("inf"), 0]
    return results


def _wait(child, done):
    """Until the child has ended, gives no new answer for a while, or takes 2 GB."""
    size, since = 0, time.monotonic() + 30  # for its imports
    while child.poll() is None and time.monotonic() - since < 2 * MOST_SECONDS:
        time.sleep(0.05)
        if done.stat().st_size > size:
            size, since = done.stat().st_size, time.monotonic()
        try:
            with open(f"/proc/{child.pid}/statm") as f:
                if int(f.read().split()[1]) * 4096 > 2 << 30:
                    return
        except OSError:
            pass


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("memory is measured by Linux's /proc")
    folder = tmp_path_factory.mktemp("hostile")
    marker = folder / "marker"
    listed = kinds(folder, marker)
    return listed, read_all(listed, folder), marker


def table(listed, results):
    """All kinds, a line each, the dearest last."""
    rows = [(results[kind][1], results[kind][2] / 2**20, kind, results[kind][0]) for kind, *_ in listed]
    return "\n".join(f"{seconds:6.2f} s {size:6.0f} MB  {kind}: {said[:150]}" for seconds, size, kind, said in sorted(rows))


def test_there_are_more_than_two_hundred(answers):
    listed, results, _ = answers
    assert len({kind for kind, *_ in listed}) == len(listed) == len(results) > 200


def test_nothing_of_them_runs(answers):
    assert not answers[2].exists()


def test_each_is_refused_in_a_line_or_does_nothing(answers):
    listed, results, _ = answers
    wrong = []
    for kind, _, path, expected in listed:
        said = results[kind][0]
        line = said.startswith(("ValueError: ", "OSError: ")) and said.isprintable() and len(said) < 500 + len(str(path))
        if said != SAME if expected == SAME else not (line and expected in said):
            wrong.append(f"{kind}: expected {expected or 'a refusal'!r}, and it said {said[:300]!r}")
    assert not wrong, "\n".join(wrong)


def test_each_is_quick_and_small(answers):
    listed, results, _ = answers
    wrong = [kind for kind, _, path, _ in listed
             if results[kind][1] > MOST_SECONDS or results[kind][2] > MOST_BYTES + 2 * path.stat().st_size]  # fmt: skip
    assert not wrong, f"{wrong}\n{table(listed, results)}"
