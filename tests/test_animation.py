from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from editor import animation, images

ROOT = Path(__file__).resolve().parent.parent


def moving(count=6, size=(32, 24)):
    """Frames, uint8 [H, W, 3]: a smooth colour field with a bright square that moves, so that order can be told."""
    w, h = size
    y, x = np.mgrid[:h, :w]
    frames = []
    for i in range(count):
        frame = np.stack([60 + 4 * x, 40 + 6 * y, 200 - 3 * x], -1).clip(0, 255).astype(np.uint8)
        frame[4:12, 4 * i : 4 * i + 8] = (250, 250, 240)
        frames.append(frame)
    return frames


def read(path):
    """The frames of an animation, and what Pillow or ffmpeg says of it."""
    if path.suffix == ".mp4":
        stream = imageio_ffmpeg.read_frames(path)
        said = next(stream)
        w, h = said["size"]
        return [np.frombuffer(f, np.uint8).reshape(h, w, 3) for f in stream], said
    with Image.open(path) as image:
        return [np.array(f.convert("RGB")) for f in ImageSequence.Iterator(image)], dict(image.info)


def psnr(a, b):
    error = np.square(a.astype(float) - b).mean()
    return 99 if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("ending, least", [(".gif", 33), (".mp4", 30), (".webp", 28), (".png", 98), (".apng", 98)])
def test_every_format_gives_the_frames_back(tmp_path, ending, least):
    frames, path = moving(), tmp_path / f"movie{ending}"
    with animation.Animation(path, fps=10) as movie:
        for frame in frames:
            movie.add(frame)
    assert movie.count == 6
    back, said = read(path)
    assert len(back) == 6
    assert min(psnr(a, b) for a, b in zip(back, frames, strict=True)) > least
    assert said["fps"] == 10 if ending == ".mp4" else said["duration"] == 100 and said["loop"] == 0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_mp4_plays_everywhere_and_starts_at_once(tmp_path):
    path = tmp_path / "odd.mp4"
    frame = np.full((25, 33, 3), (180, 60, 90), np.uint8)
    with animation.Animation(path, fps=29.97) as movie:
        for _ in range(3):
            movie.add(frame)
    back, said = read(path)
    assert said["codec"] == "h264" and said["pix_fmt"].startswith("yuv420p(tv, bt709") and said["size"] == (34, 26)
    assert np.abs(back[1].astype(int) - (180, 60, 90)).max() <= 4  # the repeated row and column too
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart: the index comes first


@pytest.mark.parametrize("ending, loops", [(".gif", 2), (".webp", 3), (".png", 3)])
def test_loop_is_how_often_it_plays(tmp_path, ending, loops):
    for loop in (1, 3):
        with animation.Animation(tmp_path / f"{loop}{ending}", loop=loop) as movie:
            for frame in moving(2):
                movie.add(frame)
    said = read(tmp_path / f"3{ending}")[1]
    assert said["loop"] == loops  # GIF counts repetitions
    once = read(tmp_path / f"1{ending}")[1]
    assert "loop" not in once if ending == ".gif" else once["loop"] == 1


@pytest.mark.parametrize("ending", animation.ANIMATES)
def test_nothing_is_left_when_it_ends_badly(tmp_path, ending):
    path = tmp_path / f"movie{ending}"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), animation.Animation(path) as movie:
        movie.add(moving(1)[0])
        process = movie._process
        raise KeyboardInterrupt
    assert process.poll() is not None
    with pytest.raises(ValueError, match="frame 1 is 10x24, the first was 32x24"), animation.Animation(path) as movie:
        movie.add(moving(1)[0])
        movie.add(moving(1, size=(10, 24))[0])
    with pytest.raises(ValueError, match="no frames"), animation.Animation(path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b"older"


def test_bad_settings_are_said_before_any_work(tmp_path):
    for path, options, words in (
        ("a.avi", {}, r"\.avi.*\.gif \.mp4 \.webp"),
        ("a", {}, "without ending"),
        ("a.gif", {"fps": 60}, "at most 50"),
        ("a.mp4", {"fps": 0}, "fps 0"),
        ("a.gif", {"loop": -1}, "loop -1"),
    ):
        with pytest.raises(ValueError, match=words):
            animation.Animation(tmp_path / path, **options)
    assert not list(tmp_path.iterdir())


def test_ffmpeg_that_fails_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setitem(animation.ANIMATES, ".mp4", "-c:v no_such_codec -f mp4")
    with pytest.raises(OSError, match="no_such_codec"), animation.Animation(tmp_path / "a.mp4") as movie:
        for _ in range(100):
            movie.add(np.zeros((256, 256, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_script_takes_frames_in_natural_order(run, tmp_path):
    frames = moving(12, (48, 24))
    for i, frame in enumerate(frames):
        images.save(tmp_path / "frames" / f"img{i}.png", frame)
    done = run("make_morphinggif.py", tmp_path / "frames", tmp_path / "out" / "a.png", "--pingpong", "--quiet")
    assert done.returncode == 0, done.stderr
    back, _ = read(tmp_path / "out" / "a.png")
    wanted = [*frames, *frames[-2:0:-1]]
    assert len(back) == 22 and all(np.array_equal(a, b) for a, b in zip(back, wanted, strict=True))
    done = run("make_morphinggif.py", tmp_path / "frames", tmp_path / "b.gif", "--width", 24, "--fps", 20, "--quiet")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    back, said = read(tmp_path / "b.gif")
    assert back[0].shape == (12, 24, 3) and said["duration"] == 50


def test_script_names_what_is_wrong_with_the_frames(run, tmp_path):
    (tmp_path / "none").mkdir()
    images.save(tmp_path / "one" / "a.png", moving(1)[0])
    for i, side in enumerate((16, 16, 20)):
        images.save(tmp_path / "unequal" / f"{i}.png", np.zeros((16, side, 3), np.uint8))
    for words, said in (
        ([tmp_path / "none"], "no images"),
        ([tmp_path / "nowhere"], "no such folder"),
        ([tmp_path / "one"], "one frame (a.png)"),
        ([tmp_path / "unequal", tmp_path / "x.gif"], "2.png: 20x16, but 0.png is 16x16"),
        ([tmp_path / "unequal", tmp_path / "x.gif", "--width", 16], "2.png: 20x16"),
        ([tmp_path / "unequal", tmp_path / "x.avi"], ".avi"),
        ([tmp_path / "unequal", tmp_path / "x.gif", "--fps", 0], "fps 0"),
        ([tmp_path / "unequal", tmp_path / "x.gif", "--width", 1], "width 1"),
    ):
        done = run("make_morphinggif.py", *words, "--quiet")
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "x.gif").exists()
