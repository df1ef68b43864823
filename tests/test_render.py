"""How near a picture is to another (editor/render.py), and what is written behind the next rendering (`images.Behind`)."""

import threading
import time

import numpy as np
import pytest
from skimage.metrics import structural_similarity

import generate
from editor import images, render


def by_skimage(picture, target, known):
    """`render.measures` in float64, by scikit-image."""
    window = min(7, picture.shape[0] - (picture.shape[0] + 1) % 2)
    error = np.square(target[known].astype(np.float64) - picture[known]).mean()
    _, ssim = structural_similarity(target, picture, channel_axis=2, data_range=255, win_size=window, full=True)
    inner = np.zeros_like(known)
    inner[window // 2 : -(window // 2), window // 2 : -(window // 2)] = True
    inner &= known
    return 10 * np.log10(255**2 / error), ssim[inner if inner.any() else known].mean()


def pair(name, side):
    """Two pictures of a kind, uint8 [side, side, 3]."""
    rng = np.random.default_rng(0)
    noise, ramp = rng.integers(0, 256, (2, side, side, 3)), np.linspace(0, 255, side)[:, None, None] * np.ones((side, side, 3))
    return [picture.clip(0, 255).astype(np.uint8) for picture in {
        "noise": noise,
        "near": (ramp, ramp + rng.normal(0, 3, ramp.shape)),
        "black and white": (ramp * 0, ramp * 0 + 255),  # the largest sums
        "chequered": (np.indices((side, side)).sum(0)[..., None] % 2 * 255 + ramp * 0, ramp),
        "white": (ramp * 0 + 255, ramp * 0 + 254),
    }[name]]  # fmt: skip


@pytest.mark.parametrize("known", ["all", "half", "border"])
@pytest.mark.parametrize("name", ["noise", "near", "black and white", "chequered", "white"])
@pytest.mark.parametrize("side", [4, 5, 8, 100])
def test_psnr_and_ssim_are_skimages(name, side, known):
    """At the border windows are mirrored, where nothing else is known; sides that strips of rows do not divide are among them."""
    mask = np.ones((side, side), bool)
    if known == "half":
        mask[:, side // 2 :] = False
    if known == "border":
        mask[1:] = False
    for picture, target in (pair(name, side), pair(name, side)[::-1]):
        assert render.measures(picture, target, mask) == pytest.approx(by_skimage(picture, target, mask), abs=1e-9)
    assert render.measures(target, target, mask) == (100.0, pytest.approx(1, abs=1e-12))


# ---------------------------------------------------------------------------------------------------------------------
# Behind the next rendering


class Trouble(OSError):
    pass


def fails_from(first):
    """A call that notes its number in `done`, and from `first` on raises Trouble of it."""
    done = []

    def call(i):
        time.sleep(0.002 * (3 - i % 4))  # they do not end in their order
        done.append(i)
        if i >= first:
            raise Trouble(i)
        return i

    return call, done


def test_what_is_done_behind_is_told_in_order_and_beside_the_caller():
    call, done = fails_from(99)
    told, callers = [], set()
    with images.Behind(lambda i: told.append(i) or callers.add(threading.current_thread()), threads=4) as behind:
        for i in range(40):
            behind.add(call, i)
            assert i - len(told) < images.WAITING  # what waits holds pictures
    assert told == list(range(40)) and sorted(done) == told and done != told and callers == {threading.current_thread()}


def test_the_callers_time_is_not_taken():
    going, waits = threading.Event(), 0
    with images.Behind() as behind:
        behind.add(going.wait, 30)
        waits = len(behind._calls)
        going.set()  # never reached if `add` waited for its call
    assert waits == 1 and going.is_set()


def test_the_first_error_comes_soon_and_what_was_added_is_done():
    call, done = fails_from(3)
    told, added = [], []
    with pytest.raises(Trouble) as error, images.Behind(told.append) as behind:
        for i in range(400):
            added.append(i)
            behind.add(call, i)
    assert error.value.args == (3,) and told == [0, 1, 2] and len(added) < 60
    assert sorted(done) == added[:-1]  # the last was refused
    with pytest.raises(Trouble) as error, images.Behind(told.append) as behind:  # at the very end
        behind.add(call, 4)
        behind.add(call, 5)
    assert error.value.args == (4,)


@pytest.mark.parametrize("ended", [KeyboardInterrupt, ValueError])
def test_what_ends_the_block_loses_nothing(ended):
    call, done = fails_from(5)
    told = []
    with pytest.raises(ended), images.Behind(told.append) as behind:
        for i in range(5):
            behind.add(call, i)
        raise ended
    assert told == list(range(5)) and sorted(done) == told
    with pytest.raises(Trouble), images.Behind(told.append) as behind:  # what was not written is said first
        behind.add(call, 6)
        raise ended


def test_ctrl_c_while_the_last_are_written_waits_for_them_and_a_second_one_does_not(monkeypatch):
    for times in (1, 2):
        call, _ = fails_from(9)
        told, wait, left = [], images.wait, [KeyboardInterrupt] * times
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), images.Behind(told.append) as behind:
            for i in range(5):
                behind.add(call, i)
            before = len(told)

            def interrupted(calls, wait=wait, left=left):
                if left:
                    raise left.pop()
                return wait(calls)

            patch.setattr(images, "wait", interrupted)
            behind.__exit__(None, None, None)
        assert told == list(range(5 if times == 1 else before))


def test_generate_writes_behind_the_rendering(tmp_path, monkeypatch, tiny, capsys):
    """The next face is drawn before the one before is written; a full disk ends the run, and tells of no picture that is not there."""
    events, one, save = [], render.one, images.save
    drawn = threading.Event()

    def slow(path, picture):
        if path.name == "seed0000.png":
            assert drawn.wait(30)
        if path.name == "seed0002.png":
            raise OSError(28, "No space left on device", str(path))
        save(path, picture)

    def draws(*words):
        events.append(words)
        if len(events) == 2:
            drawn.set()
        return one(*words)

    monkeypatch.setattr(images, "save", slow)
    monkeypatch.setattr(render, "one", draws)
    with pytest.raises(OSError, match="No space left.*seed0002.png"):
        generate.main(["--weight_file", str(tiny.weights), "--device", "cpu", "--seeds", "0-3", "--out_dir", str(tmp_path)])
    told = capsys.readouterr().out.split()
    assert told[:4] == [str(tmp_path / f"seed000{i}.{ending}") for i in (0, 1) for ending in ("png", "npy")]
    assert all((tmp_path / name).exists() for name in told) and not any("seed0002" in name for name in told)
    assert not list((tmp_path / "all").iterdir())
