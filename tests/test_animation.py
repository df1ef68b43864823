"""Frames become animations, whole or not at all."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

import make_morphinggif
from editor import animation, cli, images

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


@pytest.mark.parametrize("size", [(33, 24), (32, 25)])
def test_an_mp4_of_one_odd_side_is_not_sheared(tmp_path, size):
    frames = moving(3, size)
    with animation.Animation(tmp_path / "odd.mp4") as movie:
        for frame in frames:
            movie.add(frame)
    back, _ = read(tmp_path / "odd.mp4")
    assert len(back) == 3 and min(psnr(a[: size[1], : size[0]], b) for a, b in zip(back, frames, strict=True)) > 28


@pytest.mark.parametrize("ending", animation.ANIMATES)
def test_the_slowest_rate_can_be_written(tmp_path, ending):
    with animation.Animation(tmp_path / f"a{ending}", fps=animation.MIN_FPS) as movie:
        for frame in moving(3):
            movie.add(frame)
    back, said = read(tmp_path / f"a{ending}")
    assert len(back) == 3 and (ending == ".mp4" or said.get("duration", 100_000) == 100_000)


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
        ("a.mp4", {"fps": 1e-300}, "fps 1e-300: at least 0.01, and at most 240"),
        ("a.mp4", {"fps": float("nan")}, "fps nan"),
        ("a.gif", {"loop": -1}, "loop -1"),
        ("a.gif", {"width": 3}, "width 3: from 4 to 8192"),
        ("a.gif", {"width": 10**9}, "width 1000000000"),
    ):
        with pytest.raises(ValueError, match=words):
            animation.Animation(tmp_path / path, **options)
    assert not list(tmp_path.iterdir())


def test_ffmpeg_that_fails_is_quoted(tmp_path, monkeypatch):
    """In its own words; whether a disk is full is only asked where it says nothing."""
    monkeypatch.setitem(animation.ANIMATES, ".mp4", "-c:v no_such_codec -f mp4")
    with pytest.raises(OSError, match="no_such_codec") as error, animation.Animation(tmp_path / "a.mp4") as movie:
        for _ in range(100):
            movie.add(np.zeros((256, 256, 3), np.uint8))
    line = cli.one_line(error.value)
    assert line.startswith(f"{tmp_path / 'a.mp4'}: ffmpeg failed: ") and "disk" not in line and line.count(str(tmp_path / "a.mp4")) == 1
    with pytest.raises(OSError, match="disk full") as error, animation.Animation(tmp_path / "a.gif") as movie:
        for _ in range(100):
            movie.add(np.zeros((256, 256, 3), np.uint8))
            movie._process.kill()
    assert not list(tmp_path.iterdir())


def test_no_folder_for_temporaries(tmp_path, monkeypatch):
    """ffmpeg's words go beside the animation then."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with animation.Animation(tmp_path / "a.png") as movie:
        for frame in moving(2):
            movie.add(frame)
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("ending", [".gif", ".mp4", ".webp", ".png"])
def test_width_enlarges_and_keeps_the_shape(tmp_path, ending):
    with animation.Animation(tmp_path / f"a{ending}", width=128) as movie:
        for frame in moving(3):
            movie.add(frame)
    back, _ = read(tmp_path / f"a{ending}")
    assert [frame.shape for frame in back] == [(96, 128, 3)] * 3
    wanted = [np.asarray(Image.fromarray(frame).resize((128, 96), Image.Resampling.LANCZOS)) for frame in moving(3)]
    assert min(psnr(a, b) for a, b in zip(back, wanted, strict=True)) > 28
    with pytest.raises(ValueError, match="would be 512000 pixels high"), animation.Animation(tmp_path / "b.gif", width=8000) as movie:
        movie.add(np.zeros((1024, 16, 3), np.uint8))


def test_equal_frames_are_told(tmp_path):
    for frames, still in ((moving(1) * 3, True), (moving(1) * 3 + moving(2), False)):
        with animation.Animation(tmp_path / "a.webp") as movie:
            for frame in frames:
                movie.add(frame)
        assert movie.still == still and len(read(tmp_path / "a.webp")[0]) == (1 if still else 2)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("ending", animation.ANIMATES)
def test_an_animation_may_be_replaced_were_it_of_one_frame(tmp_path, ending, count):
    path = tmp_path / f"a{ending}"
    for _ in range(2):
        animation.require_replaceable(path)
        with animation.Animation(path, fps=8, loop=3) as movie:
            for frame in moving(count):
                movie.add(frame)
    back, said = read(path)
    assert len(back) == count and np.abs(back[0].astype(int) - moving(1)[0]).mean() < 12
    if count == 1 and ending not in (".mp4", ".gif"):
        assert said["duration"] == 125 and said["loop"] == 3


def not_animations(folder):
    """Files that an animation must not replace, though some have a name that an animation could have."""
    for ending in ("png", "webp", "jpg"):
        images.save(folder / f"photo.{ending}", moving(1)[0])
    for name, data in {
        "empty.gif": b"",
        "broken.gif": b"GIF8",
        "broken.mp4": b"\0\0\0\x20moov",
        "heic.png": b"\0\0\0\x20ftypheic",
        "avif.webp": b"\0\0\0\x20ftypavif",
        "broken.png": b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
        "broken.webp": b"RIFF\x20\0\0\0WEBPVP8X",
        "text.apng": b"mine",
    }.items():
        (folder / name).write_bytes(data)
    os.rename(folder / "photo.jpg", folder / "photo.gif")
    os.mkfifo(folder / "pipe.mp4")
    return sorted(folder.iterdir())


def test_what_is_no_animation_is_not_replaced_by_one(tmp_path):
    paths = not_animations(tmp_path)
    assert len(paths) == 12
    for path in paths:
        with pytest.raises(ValueError, match="exists and is no animation; choose another name, or remove it first"):
            animation.require_replaceable(path)
    animation.require_replaceable(tmp_path / "new.gif")


def test_a_killed_animation_leaves_nothing_that_is_read(tmp_path):
    program = (
        "import sys, time, numpy as np\nfrom editor import animation\n"
        "with animation.Animation(sys.argv[1]) as movie:\n"
        "    while True:\n"
        "        movie.add(np.random.randint(0, 255, (64, 64, 3)).astype(np.uint8))\n"
        "        print('added', flush=True)\n"
    )
    images.save(tmp_path / "frame.png", moving(1)[0])
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "a.gif")], cwd=ROOT, stdout=subprocess.PIPE)
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    time.sleep(0.2)
    assert images.list_images(tmp_path) == [tmp_path / "frame.png"] and not images.left_out(tmp_path)
    assert not (tmp_path / "a.gif").exists()


# ---------------------------------------------------------------------------------------------------------------------
# make_morphinggif.py


@pytest.fixture
def frames_folder(tmp_path):
    for i, frame in enumerate(moving(3)):
        images.save(tmp_path / "frames" / f"{i}.png", frame)
    return tmp_path / "frames"


@pytest.mark.parametrize("name", ["morph.gif", "morph.webp", "morph.png", "0.png"])
def test_an_animation_is_never_made_into_its_own_frames(frames_folder, monkeypatch, name):
    before = {p.name: p.read_bytes() for p in frames_folder.iterdir()}
    monkeypatch.chdir(frames_folder)
    for frames, out in ((frames_folder, frames_folder / name), (".", name), ("../frames", f"./{name}")):
        with pytest.raises(ValueError, match="in the folder of its own frames"):
            make_morphinggif.main([str(frames), str(out)])
    assert {p.name: p.read_bytes() for p in frames_folder.iterdir()} == before


def test_the_script_replaces_animations_alone(frames_folder, tmp_path):
    out = tmp_path / "photo.png"
    images.save(out, moving(1)[0])
    before = out.read_bytes()
    with pytest.raises(ValueError, match="photo.png: exists and is no animation"):
        make_morphinggif.main([str(frames_folder), str(out), "--quiet"])
    assert out.read_bytes() == before
    out.unlink()
    for _ in range(2):
        assert not make_morphinggif.main([str(frames_folder), str(out), "--quiet"])
    assert len(read(out)[0]) == 3


def test_the_script_passes_on_how_often_it_plays(frames_folder, tmp_path):
    for loop, said in ((None, 0), (3, 2)):  # GIF counts repetitions
        words = [str(frames_folder), str(tmp_path / "m.gif"), "--quiet", *["--loop", str(loop)] * (loop is not None)]
        assert not make_morphinggif.main(words) and read(tmp_path / "m.gif")[1]["loop"] == said


def test_an_older_animation_is_no_frame(frames_folder, capsys):
    """A GIF that another command left there, an MP4 that this one did, a HEIC: 3 frames each time."""
    with animation.Animation(frames_folder / "old.gif") as movie:
        for frame in moving(4):
            movie.add(frame)
    (frames_folder / "a.heic").write_bytes(b"")
    for _ in range(2):
        assert not make_morphinggif.main([str(frames_folder), str(frames_folder / "morph.mp4"), "--quiet"])
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 2, err
        assert "old.gif: an animation, no frame" in err and "left out: a.heic" in err
        assert len(read(frames_folder / "morph.mp4")[0]) == 3


def test_paths_on_stdout_and_what_they_are_on_stderr(run, frames_folder):
    out = frames_folder.parent / "wide.gif"
    done = run("make_morphinggif.py", frames_folder, out, "--width", 64)
    assert done.returncode == 0 and done.stdout == f"{out}\n" and "an animation of 3 frames, 0.3 s" in done.stderr
    assert read(out)[0][0].shape == (48, 64, 3)
    for path in frames_folder.iterdir():
        images.save(path, moving(1)[0])
    done = run("make_morphinggif.py", frames_folder, out.with_suffix(".webp"), "--quiet")
    assert done.returncode == 0 and "all 3 frames are equal, which WebP keeps as one picture" in done.stderr


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
