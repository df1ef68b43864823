"""kill -9 at every point at which a face is written: afterwards it is the old one, the new one, or said to be unfinished."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from editor import boundaries, face, files, images, session, tuning

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")


def killed(point, work):
    """Whether `work`, in a process of its own, was killed at its `point`-th rename or removal of a file (just before it happened)."""
    child = os.fork()
    if child == 0:
        left = point

        def dies(original):
            def call(*words, **options):
                nonlocal left
                left -= 1
                if left == 0:
                    os._exit(9)
                return original(*words, **options)

            return call

        os.replace, Path.unlink = dies(os.replace), dies(Path.unlink)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def person(G, seed, noisy, tuned=False):
    """ws, maps or None, record, tuned weights or None."""
    generator = torch.Generator().manual_seed(seed)
    ws = torch.randn(1, G.num_ws, 512, generator=generator)
    maps = [torch.randn(m.shape, generator=generator) for m in face.own_noise(G)] if noisy else None
    weights = {name: torch.full_like(v, seed).half() for name, v in tuning.zeros(G, "kernel").items()} if tuned else None
    return ws, maps, {"steps": seed, "generator_hash": G.meta["hash"]}, weights


def write(path, ws, maps, info, tuned=None):
    face.write(path, ws, info, maps, tuned)


def same_weights(a, b):
    return a is b if a is None or b is None else a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same(a, b):
    return a is b if a is None or b is None else all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("old", ["nothing", "plain", "noise", "tuned", "tuned noise", "older toolkit's", "older toolkit's noise"])
@pytest.mark.parametrize("new", ["plain", "noise", "tuned", "tuned noise"])
def test_never_a_mixture(small_G, tmp_path, old, new):
    before, after = person(small_G, 1, "noise" in old, "tuned" in old), person(small_G, 2, "noise" in new, "tuned" in new)
    seen = []
    for point in range(1, 20):
        folder = tmp_path / str(point)
        path = folder / "a.npy"
        folder.mkdir()
        if old != "nothing":
            write(path, *before)
        if "older" in old:  # records were without hashes
            (folder / "a.json").write_text(json.dumps(before[2]))
        if not killed(point, lambda path=path: write(path, *after)):
            break
        try:
            found = face.read(path, small_G)
        except ValueError as error:
            assert not path.exists() or "unfinished write" in str(error) or "no a.json says" in str(error), error
            seen.append("told")
        else:
            which, (ws, maps, info, tuned) = ("old", before) if torch.equal(found.ws, before[0]) else ("new", after)
            assert torch.equal(found.ws, ws) and same(found.noise, maps) and same_weights(found.tuned, tuned), "a mixture"
            assert found.info.get("steps", info["steps"] if which == "new" else None) == info["steps"], "a mixture"
            seen.append(which)
        files._sweep.cache_clear()
        write(path, *after)
        found = face.read(path, small_G)
        assert torch.equal(found.ws, after[0]) and same(found.noise, after[1]) and same_weights(found.tuned, after[3]) and not found.remarks
        parts = ["a.noise.npz"] * ("noise" in new) + ["a.tuned.safetensors"] * ("tuned" in new)
        assert sorted(os.listdir(folder)) == sorted(["a.json", "a.npy", *parts])
    assert len(seen) >= 3 and (old == "nothing" or "old" in seen) and point < 19


@pytest.mark.parametrize("what", ["face", "boundary"])
def test_a_killed_write_is_known_as_ours_and_goes_on(small_G, tmp_path, what):
    (tmp_path / "photo.png").write_bytes(b"a photograph")
    sources = {"image": tmp_path / "photo.png"}
    info, direction = {"made_by": "x.py", "sources": session.origins(sources)}, torch.eye(512)[:1].double()
    shown = []
    for point in range(1, 20):
        path = tmp_path / str(point) / "a.npy"

        def work(path=path):
            if what == "face":
                face.write(path, torch.zeros(1, 6, 512), info)
            else:
                boundaries.save(path, boundaries.Boundary(direction, 0.0, dict(info)))

        if not killed(point, work):
            break
        assert not path.exists() or path.with_suffix(".json").exists(), "taken for another tool's"
        session.claim(path, sources)
        if path.exists() and not face.record(path).get("complete", True):
            with pytest.raises(ValueError, match="unfinished write"):
                face.read(path, small_G) if what == "face" else boundaries.load(path)
            shown.append(point)
    assert shown and point < 19


def test_leftovers_are_never_read_as_faces(small_G, tmp_path):
    write(tmp_path / "a.npy", *person(small_G, 1, False))
    assert killed(1, lambda: write(tmp_path / "b.npy", *person(small_G, 2, False)))
    assert len(list(tmp_path.iterdir())) == 3  # one of them the temporary
    assert face.expand([tmp_path]) == [tmp_path / "a.npy"]


KILLED = """
import os, sys
sys.path.insert(0, {root!r})
left, replace = {point}, os.replace
def dies(*words):
    global left
    left -= 1
    if left == 0:
        os._exit(9)
    replace(*words)
os.replace = dies
import encode_image
sys.exit(encode_image.main({words!r}))
"""


def test_a_killed_and_resumed_folder_gives_the_bytes_of_an_undisturbed_one(encode, portraits, tmp_path, capsys):
    for name, picture in zip("abc", portraits, strict=False):
        images.save(tmp_path / "in" / f"{name}.png", picture)
    words = "--src_dir in --preset exact --iteration 3 --noise_iteration 2 --lr 0.02 --perceptual none --init mean".split()
    words += "--compile off --precision fp32".split()
    assert encode(*words, "--latent_dir", "whole/w", "--save_dir", "whole/s") == 0
    broken = [*words, "--latent_dir", "broken/w", "--save_dir", "broken/s", "--resume"]
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    for point in (4, 6):  # a is whole but for its record; then b's latent
        done = subprocess.run([sys.executable, "-c", KILLED.format(root=str(ROOT), point=point, words=broken)], cwd=tmp_path, env=env)
        assert done.returncode == 9
    capsys.readouterr()
    assert encode(*broken) == 0
    assert "1 of 3 are done already; " in capsys.readouterr().err, "a was whole after the second kill"
    names = sorted(str(path.relative_to("whole")) for path in Path("whole").rglob("*") if path.is_file())
    assert sorted(str(path.relative_to("broken")) for path in Path("broken").rglob("*") if path.is_file()) == names
    for name in names:
        whole, other = Path("whole", name), Path("broken", name)
        if name.endswith(".npz"):
            with np.load(whole) as a, np.load(other) as b:
                assert list(a) == list(b) and all(np.array_equal(a[key], b[key]) for key in a)
        elif name.endswith((".npy", ".png")):
            assert whole.read_bytes() == other.read_bytes(), name
    rows = Path("broken/s/metrics.csv").read_text().splitlines()
    assert [row.split(",")[:5] for row in rows] == [row.split(",")[:5] for row in Path("whole/s/metrics.csv").read_text().splitlines()]
    assert len(rows) == 4
