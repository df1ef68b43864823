import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import align_images
from editor import images

ROOT = Path(__file__).resolve().parent.parent


def published(landmarks):
    """FFHQ's quad (Karras et al. 2019), written with complex numbers instead of vectors."""
    p = landmarks[:, 0] + 1j * landmarks[:, 1]
    left, right, mouth = p[36:42].mean(), p[42:48].mean(), (p[48] + p[54]) / 2
    middle = (left + right) / 2
    e, m = right - left, mouth - middle
    x = e + (m.imag - 1j * m.real)
    x = x / abs(x) * max(2 * abs(e), 1.8 * abs(m))
    y, c = 1j * x, middle + 0.1 * m
    corners = [c - x - y, c - x + y, c + x + y, c + x - y]
    return np.array([[q.real, q.imag] for q in corners])


def a_face(seed=0):
    rng = np.random.RandomState(seed)
    marks = rng.uniform(0, 10, (68, 2))
    marks[36:42] += [30, 40]
    marks[42:48] += [70, 42]
    marks[48:55] += [50, 85]
    return marks


@pytest.mark.parametrize("seed", range(5))
def test_quad_is_the_published_one(seed):
    marks = a_face(seed) * 7.3 + 100
    assert np.abs(align_images.face_quad(marks) - published(marks)).max() < 1e-9


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3), st.floats(0.3, 5), st.floats(-500, 500))
def test_quad_follows_the_face(angle, size, shift):
    c, s = np.cos(angle), np.sin(angle)
    move = lambda p: size * p @ np.array([[c, s], [-s, c]]) + shift  # noqa: E731
    marks = a_face()
    got = align_images.face_quad(move(marks), 0.68, 0.45)
    assert np.allclose(got, move(align_images.face_quad(marks, 0.68, 0.45)), atol=1e-6)


@pytest.fixture(scope="module")
def astronaut(tmp_path_factory):
    folder = tmp_path_factory.mktemp("astronaut")
    Image.fromarray(skimage.data.astronaut()).save(folder / "astronaut.png")
    return folder


def test_the_astronaut_has_one_face_and_it_goes_back(run, astronaut, tmp_path):
    (astronaut / "empty.png").write_bytes(b"")
    done = run("align_images.py", astronaut, tmp_path, "--output-size", 96)
    assert done.returncode == 1 and "empty.png" in done.stderr, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["astronaut_01.json", "astronaut_01.png"]
    said = json.loads((tmp_path / "astronaut_01.json").read_text())
    crop, photo = images.open_image(tmp_path / "astronaut_01.png"), images.open_image(astronaut / "astronaut.png")
    assert crop.size == (96, 96) and said["score"] > 1
    assert np.abs(np.array(said["quad"]).mean(0) - [225, 125]).max() < 25  # where her face is
    back = align_images.paste_back(photo, crop, said["quad"])
    assert np.abs(np.asarray(back, float) - np.asarray(photo, float)).mean() < 0.5
    brighter = Image.fromarray((np.asarray(crop) * 0.5).astype(np.uint8))
    dark = np.asarray(align_images.paste_back(photo, brighter, said["quad"]), float)
    centre = np.array(said["quad"]).mean(0).astype(int)
    window = np.s_[centre[1] - 5 : centre[1] + 5, centre[0] - 5 : centre[0] + 5]
    assert abs(dark[window].mean() / np.asarray(photo, float)[window].mean() - 0.5) < 0.05
    assert np.array_equal(dark[-50:], np.asarray(photo, float)[-50:])


def test_a_face_at_the_edge_is_padded_smoothly():
    image = Image.fromarray(np.full((100, 100, 3), 120, np.uint8))
    crop = align_images.crop_quad(image, [[-30, -30], [-30, 60], [60, 60], [60, -30]], 64)
    assert np.abs(np.asarray(crop, int) - 120).max() <= 1


@pytest.mark.parametrize(
    "words, said",
    [
        (["{dir}/astronaut.png", "{out}", "--face", "3"], "1 found"),
        (["{dir}/missing.png", "{out}"], "missing.png"),
        (["{dir}/grey.png", "{out}"], "no face"),
        (["{dir}/astronaut.png"], "ALIGNED"),
        (["{dir}/astronaut.png", "{dir}/astronaut.png/out"], "astronaut.png"),
    ],
)
def test_bad_calls_say_so_in_one_line(run, astronaut, tmp_path, words, said):
    Image.new("L", (200, 200), 128).save(astronaut / "grey.png")
    done = run("align_images.py", *[w.format(dir=astronaut, out=tmp_path) for w in words])
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
