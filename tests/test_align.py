"""Faces cut out of photographs, and put back where they were."""

import bz2
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import align_images
from editor import checkpoints, cli, downloads, images, landmarks
from stylegan_layers import Config, Generator

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


# where her eyes and the corners of her mouth are in skimage's astronaut, to a few pixels, read from an enlarged picture
EYES, MOUTH = [(203, 101), (247, 103)], [(202, 140), (246, 141)]


def test_the_astronaut_has_one_face_and_it_goes_back(run, astronaut, tmp_path):
    (astronaut / "empty.png").write_bytes(b"")
    done = run("align_images.py", astronaut, tmp_path, "--output-size", 96)
    assert done.returncode == 1 and "empty.png" in done.stderr, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["astronaut_01.json", "astronaut_01.png", "runs.jsonl"]
    assert done.stdout == f"{tmp_path / 'astronaut_01.png'}\n"
    said = json.loads((tmp_path / "astronaut_01.json").read_text())
    crop, photo = images.open_image(tmp_path / "astronaut_01.png"), images.open_image(astronaut / "astronaut.png")
    assert crop.size == (96, 96) and said["score"] > 1 and said["source_size"] == [512, 512]
    alignment = checkpoints.read_metadata()["alignment"]
    assert {k: said[k] for k in ("scale", "em_scale")} == alignment  # the generator's, and not FFHQ's
    marks = np.array(said["landmarks"])
    found = [marks[36:42].mean(0), marks[42:48].mean(0), marks[48], marks[54]]
    assert np.abs(np.array(found) - [*EYES, *MOUTH]).max() < 5
    assert np.allclose(said["quad"], align_images.face_quad(marks, **alignment))
    back = align_images.paste_back(photo, crop, said["quad"])
    assert np.array_equal(np.asarray(back), np.asarray(photo))
    darker = Image.fromarray((np.asarray(crop) * 0.5).astype(np.uint8))
    dark = np.asarray(align_images.paste_back(photo, darker, said["quad"]), float)
    centre = np.array(said["quad"]).mean(0).astype(int)
    window = np.s_[centre[1] - 5 : centre[1] + 5, centre[0] - 5 : centre[0] + 5]
    assert abs(dark[window].mean() / np.asarray(photo, float)[window].mean() - 0.5) < 0.05
    assert np.array_equal(dark[-50:], np.asarray(photo, float)[-50:])


def test_squares_that_are_not_turned(run, astronaut, tmp_path):
    """--upright: the same middle and side; the astronaut turned by 25 degrees is cut as it lies, and its place in the crop is known."""
    from editor import landmarks

    photo = images.open_image(astronaut / "astronaut.png").rotate(25, center=(225, 120))
    (tmp_path / "in").mkdir()
    images.save(tmp_path / "in/turned.png", np.asarray(photo))
    for flags, folder in (([], "as_ever"), (["--upright"], "upright"), (["--upright"], "upright")):
        done = run("align_images.py", "in", folder, *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert not done.stdout  # done already
    plain, upright = (json.loads((tmp_path / folder / "turned_01.json").read_text()) for folder in ("as_ever", "upright"))
    one, other = np.array(plain["quad"]), np.array(upright["quad"])
    assert np.abs(one.mean(0) - other.mean(0)).max() < 1 and abs(landmarks.side_of(one) / landmarks.side_of(other) - 1) < 0.01
    assert other[0, 1] == other[3, 1] and other[0, 0] == other[1, 0] and other[3, 0] > other[0, 0]
    across = one[3] - one[0]
    assert abs(np.degrees(np.arctan2(-across[1], across[0])) - 25) < 5
    crop = images.open_image(tmp_path / "upright/turned_01.png")
    by_record, found = landmarks.in_square(crop, upright), landmarks.landmarks_of_crop(crop)
    assert np.abs(by_record - found).mean() < 0.03 * crop.width
    images.save(tmp_path / "far.png", np.asarray(images.open_image(astronaut / "astronaut.png").rotate(70, center=(225, 120))))
    assert run("align_images.py", "far.png", "far", cwd=tmp_path).returncode == 2  # dlib knows upright faces
    assert run("align_images.py", "far.png", "far", "--upright", cwd=tmp_path).returncode == 0
    far = json.loads((tmp_path / "far/far_01.json").read_text())
    eyes = np.array(far["landmarks"])[[36, 45]]
    assert abs(np.degrees(np.arctan2(*(eyes[0] - eyes[1])[::-1] * [1, -1])) - 70) < 6


def turned(centre, side, angle):
    """A square [4, 2] around `centre`."""
    c, s = np.cos(angle) * side / 2, np.sin(angle) * side / 2
    return np.array([(-c + s, -s - c), (-c - s, -s + c), (c - s, s + c), (c + s, s - c)]) + centre


@pytest.mark.parametrize("side, size, angle", [(64, 64, 0), (90, 64, 0.3), (300, 64, 0), (611, 64, -0.2), (70, 256, 0.5), (64.5, 64, 0)])
def test_a_change_lands_where_it_was_cut_from(side, size, angle):
    """A mark in the photograph, seen in the crop, is put into the photograph without the mark: same place, to a tenth of a crop's pixel."""
    photo = np.full((700, 800, 3), 100, np.uint8)
    marked, block = photo.copy(), max(4, round(4 * side / size))
    x, y = 410 + round(side * 0.1), 343 - round(side * 0.2)
    marked[y : y + block, x : x + block] = 200
    quad = turned((407.3, 351.6), side, angle)
    crop = align_images.crop_quad(Image.fromarray(marked), quad, size)
    back = np.asarray(align_images.paste_back(Image.fromarray(photo), crop, quad), float)[..., 1] - 100
    rows, columns = np.mgrid[:700, :800]
    middle = np.array([(back * columns).sum(), (back * rows).sum()]) / back.sum()
    assert np.abs(middle - [x + (block - 1) / 2, y + (block - 1) / 2]).max() < 0.1 * max(1, side / size)
    assert back.max() > 60 and abs(back.sum() / (100 * block**2) - 1) < 0.15


def test_a_change_fades_out_towards_the_edge_of_the_crop():
    photo, quad = Image.new("RGB", (300, 300), (100, 100, 100)), turned((150, 150), 100, 0)
    crop = Image.fromarray(np.asarray(align_images.crop_quad(photo, quad, 50)) + np.uint8(100))
    change = np.asarray(align_images.paste_back(photo, crop, quad), float)[150, :, 0] - 100
    assert change[150] == 100 and change[:100].max() == change[201:].max() == 0
    assert 0 < change[101] < 30 and 30 < change[104] < 80 and (np.diff(change[100:110]) >= 0).all()


def test_a_face_at_the_edge_is_padded_smoothly():
    image = Image.fromarray(np.full((100, 100, 3), 120, np.uint8))
    crop = align_images.crop_quad(image, [[-30, -30], [-30, 60], [60, 60], [60, -30]], 64)
    assert np.abs(np.asarray(crop, int) - 120).max() <= 1


@pytest.fixture(scope="module")
def two_faces(tmp_path_factory):
    """A photograph of a large face at the right and one of two thirds at the left; its folder also holds what is no photograph."""
    folder = tmp_path_factory.mktemp("two")
    face = Image.fromarray(skimage.data.astronaut()[:300, 80:380])
    photo = Image.new("RGB", (660, 320), (120, 130, 140))
    photo.paste(face.resize((200, 200)), (10, 10))
    photo.paste(face, (340, 10))
    photo.save(folder / "two.png")
    return folder


@pytest.mark.parametrize(
    "face, numbers, places", [("all", ["01", "02"], [340, 10]), ("largest", ["01"], [340]), ("1", ["01"], [340]), ("2", ["02"], [10])]
)
def test_faces_are_numbered_by_size(two_faces, tmp_path, capsys, face, numbers, places):
    words = [str(two_faces / "two.png"), str(tmp_path), "--face", face]
    assert align_images.main(words) == 0 and capsys.readouterr() == ("".join(f"{tmp_path / f'two_{n}.png'}\n" for n in numbers), "")
    assert align_images.main([*words, "--quiet"]) == 0 and capsys.readouterr() == ("", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"two_{n}.{e}" for n in numbers for e in ("json", "png")]
    for number, left in zip(numbers, places, strict=True):
        middle = np.mean(json.loads((tmp_path / f"two_{number}.json").read_text())["quad"], 0)
        assert left < middle[0] < left + (300 if left == 340 else 200)


def test_a_face_of_150_pixels_is_found_in_a_large_photograph():
    photo = Image.new("RGB", (6000, 4000), (120, 130, 140))
    face = Image.fromarray(skimage.data.astronaut()[:300, 80:380]).resize((420, 420))
    photo.paste(face, (4100, 3000))
    photo.paste(face.resize((1200, 1200)), (500, 500))  # seen from afar and from near: one face
    (_, large), (_, marks), *others = landmarks.Detector()(photo)
    assert not others and 500 < large.min() < large.max() < 1700
    assert 4100 < marks[:, 0].min() < marks[:, 0].max() < 4520 and np.ptp(marks[:, 0]) < 160
    assert [landmarks.smallest(size) for size in ((800, 600), (3000, 2000), (4032, 3024), (8000, 6000))] == [40, 120, 161, 150]


def test_a_small_face_and_what_is_left_out_are_said(astronaut, tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    shutil.copy(astronaut / "astronaut.png", tmp_path / "raw" / "a.png")
    (tmp_path / "raw" / "b.heic").write_bytes(b"")
    (tmp_path / "raw" / "c.png").symlink_to("nowhere")
    marks = tmp_path / "marks.json"
    marks.write_text(json.dumps((a_face() * 2 + 100).tolist()))
    words = [str(tmp_path / "raw"), str(tmp_path / "out"), "--landmarks", str(marks), "--output_size"]
    for size, said in ((1024, 1), (128, 0)):
        assert align_images.main([*words, str(size)]) == 0
        err = capsys.readouterr().err
        assert err.count("left out: b.heic: a HEIC picture") == 1 and err.count("left out: c.png: a link to nothing") == 1
        assert err.count("enlarged to 1024") == said


# ---------------------------------------------------------------------------------------------------------------------
# What is refused, before anything is written


def refusal(*words):
    """The one line that a call of the command's main ends with."""
    with pytest.raises((ValueError, OSError)) as error:
        align_images.main([str(word) for word in words])
    line = cli.one_line(error.value)
    assert "\n" not in line
    return line


def test_what_would_be_lost_is_refused(astronaut, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("Me.jpg", "other.png", "me.png"):
        shutil.copy(astronaut / "astronaut.png", raw / name)
    assert "Me.jpg and me.png would both become" in refusal(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (raw / "Me.jpg").unlink()
    (tmp_path / "link").symlink_to(raw)
    for folder in (raw, tmp_path / "link", raw / ".." / "raw"):
        assert "the folder of the photographs" in refusal(raw, folder)
    marks = tmp_path / "marks.json"
    marks.write_text(json.dumps((a_face() * 2 + 100).tolist()))
    assert "of one photograph, and" in refusal(raw, tmp_path / "out", "--landmarks", marks)
    shutil.copy(astronaut / "astronaut.png", raw / "me_01.png")  # a photograph of this name, and no crop of ours
    before = sorted(os.listdir(raw))
    assert "me_01.png: a picture beside me.png" in refusal(raw / "me.png", raw, "--landmarks", marks)
    assert sorted(os.listdir(raw)) == before


def test_the_record_is_written_last(astronaut, tmp_path, monkeypatch):
    """Killed while the picture is written, an older record must not stand beside it; killed before the record, none does."""
    marks = tmp_path / "marks.json"
    marks.write_text(json.dumps((a_face() * 2 + 100).tolist()))
    words = [str(astronaut / "astronaut.png"), str(tmp_path / "out"), "--landmarks", str(marks), "--quiet"]
    align_images.main(words)
    save = images.save

    def killed(path, image):
        assert not path.with_suffix(".json").exists()
        save(path, image)
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        align_images.main(words)
    assert os.listdir(tmp_path / "out") == ["astronaut_01.png"]


GOOD = [[100, 100], [100, 300], [300, 300], [300, 100]]
QUADS = {
    "{}": "4 pairs",
    "[1]": "4 pairs",
    "5": "4 pairs",
    "null": "4 pairs",
    '"x"': "4 pairs",
    '{"quad": null}': "4 pairs",
    '{"quad": []}': "4 pairs",
    '{"quad": {"a": 1}}': "4 pairs",
    '{"quad": [[1, 2], [3, 4], [5, 6]]}': "4 pairs",
    '{"quad": [[[1]], [[2]], [[3]], [[4]]]}': "4 pairs",
    '{"quad": [[1%s, 0], [0, 1], [1, 1], [1, 0]]}' % ("0" * 400): "4 pairs",  # noqa: UP031
    '{"quad": [[1%s, 0], [0, 1], [1, 1], [1, 0]]}' % ("0" * 5000): "no JSON",  # noqa: UP031
    '{"quad": [[NaN, 0], [0, 1], [1, 1], [1, 0]]}': "NaN",
    '{"quad": [[0, 0], [0, 1e300], [1e300, 1e300], [1e300, 0]]}': "more than",
    '{"quad": [[0, 0], [0, 10000000], [1, 10000000], [1, 0]]}': "more than",
    '{"quad": [[0, 0], [0, 100000], [1, 100000], [1, 0]]}': "no square",
    '{"quad": [[-20000, -20000], [-20000, 20000], [20000, 20000], [20000, -20000]]}': "a square of 40000 pixels",
    '{"quad": [[9000, 9000], [9000, 9100], [9100, 9100], [9100, 9000]]}': "outside",
    '{"quad": [[5, 5], [5, 5], [5, 5], [5, 5]]}': "no square",
    '{"quad": [[300, 100], [300, 300], [100, 300], [100, 100]]}': "no square",  # mirrored
    '{"quad": [[100, 100], [120, 300], [300, 280], [250, 90]]}': "no square",
    json.dumps({"quad": GOOD, "source_size": [4000, 3000], "source": "beach.jpg"}): "belongs to a photograph of [4000, 3000], beach.jpg",
    json.dumps({"quad": GOOD, "source_size": "large"}): "belongs to a photograph of large",
    "{": "no JSON",
    "": "no JSON",
    "[" * 100_000: "no JSON",
    "\x00": "no JSON",
}


@pytest.mark.parametrize("text", QUADS, ids=range(len(QUADS)))
def test_bad_records_are_one_line_that_names_them(tmp_path, text):
    photo, edited, quad = (tmp_path / name for name in ("photo.png", "edited.png", "q.json"))
    Image.new("RGB", (800, 600), "blue").save(photo)
    Image.new("RGB", (64, 64), "red").save(edited)
    quad.write_text(text)
    line = refusal("--paste_back", edited, "--onto", photo, "--quad", quad, "--out", tmp_path / "out.png")
    assert QUADS[text] in line and str(quad) in line and not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"--quad": "fifo"}, "a pipe"),
        ({"--onto": "fifo"}, "a pipe"),
        ({"--paste_back": "fifo"}, "a pipe"),
        ({"--quad": "."}, "Is a directory"),
        ({"--quad": "nope.json"}, "nope.json"),
        ({"--paste_back": "wide.png"}, "64x50; an edited crop is square"),
        ({"--out": "photo.png"}, "the file of --onto"),
        ({"--out": "edited.png"}, "the file of --paste_back"),
        ({"--out": "out.txt"}, "cannot write .txt"),
        ({"--out": None}, "missing: --out"),
    ],
)
def test_what_cannot_be_put_back(tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    for name, size in (("photo.png", (800, 600)), ("edited.png", (64, 64)), ("wide.png", (64, 50))):
        Image.new("RGB", size, "red").save(name)
    Path("q.json").write_text(json.dumps({"quad": GOOD}))
    os.mkfifo("fifo")
    words = {"--paste_back": "edited.png", "--onto": "photo.png", "--quad": "q.json", "--out": "out.png"} | change
    before = sorted(os.listdir())
    assert said in refusal(*[word for pair in words.items() if pair[1] for word in pair])
    assert sorted(os.listdir()) == before


def test_another_photograph_of_the_same_size_is_warned_of(astronaut, tmp_path, capsys):
    marks = tmp_path / "marks.json"
    marks.write_text(json.dumps((a_face() * 2 + 100).tolist()))
    align_images.main([str(astronaut / "astronaut.png"), str(tmp_path), "--landmarks", str(marks), "--quiet"])
    Image.new("RGB", (512, 512), "blue").save(tmp_path / "sea.png")
    words = [
        "--paste_back",
        tmp_path / "astronaut_01.png",
        "--quad",
        tmp_path / "astronaut_01.json",
        "--out",
        tmp_path / "out.png",
        "--onto",
    ]
    for photo, warned in ((astronaut / "astronaut.png", 0), (tmp_path / "sea.png", 1)):
        assert not align_images.main([str(word) for word in [*words, photo]])
        assert capsys.readouterr().err.count("warning: ") == warned


def test_another_photographs_crop_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("marks.json").write_text(json.dumps((a_face() * 2 + 100).tolist()))
    words = ["faces", "--landmarks", "marks.json", "--quiet"]
    for folder, colour in (("a", "red"), ("b", "blue")):
        Path(folder).mkdir()
        Image.new("RGB", (512, 512), colour).save(f"{folder}/me.png")
    assert not align_images.main(["a/me.png", *words])
    before = Path("faces/me_01.png").read_bytes(), Path("faces/me_01.json").read_bytes()
    with pytest.raises(ValueError, match="holds a face of a/me.png"):
        align_images.main(["b/me.png", *words])
    assert (Path("faces/me_01.png").read_bytes(), Path("faces/me_01.json").read_bytes()) == before
    shutil.copy("a/me.png", "b/me.png")  # the same photograph elsewhere
    assert not align_images.main(["b/me.png", *words])
    Image.new("RGB", (512, 512), "green").save("b/me.png")  # the file that the record names, changed since
    assert not align_images.main(["b/me.png", *words])
    shutil.copytree("a", "c/b")  # another project's photograph of that name
    monkeypatch.chdir("c")
    with pytest.raises(ValueError, match=f"holds a face of b/me.png in {tmp_path}"):
        align_images.main(["b/me.png", "../faces", "--landmarks", "../marks.json", "--quiet"])
    Path("../faces/me_01.json").write_text('{"sources": {}}')  # a face's record
    with pytest.raises(ValueError, match="me_01.json: no crop's record"):
        align_images.main(["b/me.png", "../faces", "--landmarks", "../marks.json", "--quiet"])


def test_a_crop_that_an_earlier_run_left_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (512, 512), "red").save("me.png")
    Path("marks.json").write_text(json.dumps((a_face() * 2 + 100).tolist()))
    words = ["me.png", "faces", "--landmarks", "marks.json", "--quiet"]
    assert not align_images.main(words) and capsys.readouterr().err == ""
    for ending in ("png", "json"):
        shutil.copy(f"faces/me_01.{ending}", f"faces/me_02.{ending}")
    assert not align_images.main(words)
    assert capsys.readouterr().err.startswith("warning: faces/me_02.png: left by an earlier run that found more faces")


def pairs(f):
    return json.dumps([f(i) for i in range(68)])


MARKS = {
    "{}": "68 pairs",
    "null": "68 pairs",
    "[[1, 2]]": "68 pairs",
    "[[1, 2], [3]]": "68 pairs",
    pairs(lambda i: ["a", "b"]): "68 pairs",
    pairs(lambda i: [float("nan"), 1]): "NaN",
    pairs(lambda i: [i * 1e200, 1]): "more than",
    pairs(lambda i: [5, 5]): "in one place",
    pairs(lambda i: [i * 1e3 * (i % 7), i * 1e3 * (i % 5)]): "photograph has 512x512",
    "[" * 100_000: "no JSON",
    '{"landmarks": "68"}': "68 pairs",
}


@pytest.mark.parametrize("text", MARKS, ids=range(len(MARKS)))
def test_bad_landmarks_are_one_line_that_names_them(astronaut, tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    line = refusal(astronaut / "astronaut.png", tmp_path / "out", "--landmarks", tmp_path / "m.json")
    assert MARKS[text] in line and "m.json" in line and not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    "meta, said",
    [
        ({"alignment": ["scale"]}, "its alignment is no"),
        ({"alignment": "0.68"}, "its alignment is no"),
        ({"alignment": {"em_scale": 0.1}}, "its scale is None"),
        ({"alignment": {"scale": "large", "em_scale": 0.1}}, "its scale is large"),
        ({"alignment": {"scale": -1, "em_scale": 0.1}}, "its scale is -1"),
        ({"alignment": {"scale": 1, "em_scale": float("nan")}}, "its em_scale is nan"),
        ({"resolution": None}, "its resolution is None"),
        ({"resolution": 10**12}, "its resolution is 1000000000000"),
    ],
)
def test_a_checkpoint_that_says_nonsense_is_named(astronaut, tmp_path, monkeypatch, meta, said):
    held = {"alignment": None, "resolution": 128, "path": "g.safetensors"} | meta
    monkeypatch.setattr(checkpoints, "read_metadata", lambda path: held)
    assert f"g.safetensors: {said}" in refusal(astronaut / "astronaut.png", tmp_path / "out")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--scale", "nan"], "--scale nan"),
        (["--em_scale", "inf"], "--em_scale inf"),
        (["--output_size", "0"], "--output_size 0"),
        (["--output_size", "99999999"], "--output_size"),
        (["--min_score", "nan"], "--min_score nan"),
        (["--face", "0"], "--face 0"),
        (["--face", "-1"], "--face -1"),
        (["--face", "\N{SUPERSCRIPT TWO}"], "use all, largest"),
        (["--shape_predictor", "nope.dat"], "nope.dat: no such file"),
        (["--shape_predictor", "."], ".: not a file"),
        (["--shape_predictor", __file__], "no landmark model"),
    ],
)
def test_senseless_flags(astronaut, tmp_path, words, said):
    assert said in refusal(astronaut / "astronaut.png", tmp_path / "out", *words) and not (tmp_path / "out").exists()


def test_min_score_says_what_is_a_face(astronaut, tmp_path):
    assert "no face found" in refusal(astronaut / "astronaut.png", tmp_path / "out", "--min_score", 50)


def test_faces_are_cut_for_the_generator_that_is_named(astronaut, tmp_path):
    torch.manual_seed(0)
    network = Generator(Config("stylegan2", 16, 64))
    checkpoints.save(tmp_path / "g.safetensors", network, alignment={"scale": 1.3, "em_scale": 0.2})
    (tmp_path / "marks.json").write_text(json.dumps((a_face() * 2 + 100).tolist()))
    words = [
        astronaut / "astronaut.png",
        tmp_path / "out",
        "--landmarks",
        tmp_path / "marks.json",
        "--weight_file",
        tmp_path / "g.safetensors",
    ]
    assert align_images.main([str(word) for word in words]) == 0
    said = json.loads((tmp_path / "out" / "astronaut_01.json").read_text())
    assert (said["scale"], said["em_scale"]) == (1.3, 0.2)
    assert images.open_image(tmp_path / "out" / "astronaut_01.png").size == (16, 16)


def test_the_landmark_model_is_fetched_and_unpacked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_EDITOR_CACHE", str(tmp_path))
    asked = []

    def fetch(name, report=None):
        asked.append(name)
        (tmp_path / "landmarks.bz2").write_bytes(packed)
        return tmp_path / "landmarks.bz2"

    monkeypatch.setattr(downloads, "fetch", fetch)
    packed = b"no bzip2"
    with pytest.raises(ValueError, match="landmarks.bz2: no landmark model packed"):
        landmarks.landmark_model("landmarks")
    packed = bz2.compress(b"model" * 1000)[:40]
    with pytest.raises(ValueError, match="landmarks.bz2: no landmark model packed"):
        landmarks.landmark_model("landmarks")
    assert os.listdir(tmp_path) == ["landmarks.bz2"]
    packed = bz2.compress(b"model" * 1000)
    monkeypatch.setattr(landmarks.importlib.util, "find_spec", lambda name: None)  # the package is not there
    for name in (None, "landmarks", None):
        assert landmarks.landmark_model(name).read_bytes() == b"model" * 1000
    assert asked == ["landmarks"] * 3


@pytest.mark.parametrize(
    "words, said",
    [
        (["{dir}/astronaut.png", "{out}", "--face", "3"], "astronaut.png: --face 3: 1 found"),
        (["{dir}/missing.png", "{out}"], "missing.png: No such file"),
        (["{dir}/grey.png", "{out}"], "grey.png: no face found; it must be upright, from the front, and 40 pixels or more"),
        (["{dir}/astronaut.png"], "ALIGNED"),
        ([], "ALIGNED"),
    ],
)
def test_bad_calls_say_so_in_one_line(astronaut, tmp_path, words, said):
    Image.new("L", (200, 200), 128).save(astronaut / "grey.png")
    assert said in refusal(*[w.format(dir=astronaut, out=tmp_path) for w in words])


def test_a_folder_that_cannot_be_made_ends_it_with_exit_code_2(run, astronaut):
    done = run("align_images.py", astronaut / "astronaut.png", astronaut / "astronaut.png" / "out")
    assert done.returncode == 2 and "astronaut.png" in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_folder_skips_what_is_done_and_names_what_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()
    for name in ("a", "b", "c", "d"):
        Image.fromarray(np.random.default_rng(ord(name)).integers(0, 255, (300, 300, 3), np.uint8)).save(f"raw/{name}.png")
    calls = []

    def find(image):  # one face, two in b's photograph, none in d's
        calls.append(image)
        kind = np.asarray(image)[0, 0].tolist()
        many = {tuple(np.asarray(Image.open(f"raw/{n}.png"))[0, 0].tolist()): i for n, i in zip("abcd", (1, 2, 1, 0), strict=True)}
        return [(1.0, a_face() + 60)] * many[tuple(kind)]

    monkeypatch.setattr(align_images, "Detector", lambda *words: find)
    monkeypatch.setattr(align_images, "check_quad", lambda *words: None)

    def run(*words, code):
        calls.clear()
        assert align_images.main(["raw", "faces", "--quiet", *words]) == code
        return len(calls), sorted(path.name for path in Path("faces").glob("*.png"))

    assert run("--shard", "1/2", code=0) == (3, ["a_01.png", "b_01.png", "b_02.png", "c_01.png"])
    assert run(code=1) == (1, ["a_01.png", "b_01.png", "b_02.png", "c_01.png"])
    capsys.readouterr()
    assert run(code=1)[0] == 0 and "failed: raw/d.png: no face found" in capsys.readouterr().err
    assert run("--retry", code=1)[0] == 1
    Path("faces/b_02.json").unlink()  # killed between its two faces
    assert run(code=1)[0] == 1 and Path("faces/b_02.json").is_file()
    Image.open("raw/c.png").transpose(Image.Transpose.ROTATE_180).save("raw/new.png")
    os.replace("raw/new.png", "raw/d.png")
    monkeypatch.setattr(align_images, "Detector", lambda *words: lambda image: calls.append(image) or [(1.0, a_face() + 60)])
    assert run(code=0)[0] == 1 and run("--output_size", "64", code=0)[0] == 4 and run("--output_size", "64", "--redo", code=0)[0] == 4
    states = [line["state"] for line in map(json.loads, Path("faces/runs.jsonl").read_text().splitlines())]
    assert states.count("failed") == 2 and states.count("done") == 3 + 1 + 1 + 4 + 4
    monkeypatch.setattr("editor.folder.Run.note", lambda *words, **figures: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        run("--redo", code=0)
    with pytest.raises(ValueError, match="--redo: of a folder"):
        align_images.main(["raw/a.png", "faces", "--redo"])


def test_workers_cut_what_one_process_cuts(run, astronaut, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    photo = Image.open(astronaut / "astronaut.png")
    for i in range(3):
        photo.crop((0, 0, photo.width - i, photo.height - i)).save(raw / f"{i}.png")
    (raw / "bad.png").write_bytes(b"no picture")
    for where, words in (("one", ()), ("two", ("--workers", 2))):
        done = run("align_images.py", raw, tmp_path / where, *words)
        assert done.returncode == 1 and "failed: " in done.stderr and "bad.png" in done.stderr, done.stderr
        assert sorted(Path(line).name for line in done.stdout.splitlines()) == ["0_01.png", "1_01.png", "2_01.png"]
    lines = [json.loads(line) for line in (tmp_path / "two" / "runs.jsonl").read_text().splitlines()]
    assert {line["worker"] for line in lines} <= {1, 2} and len({line["name"] for line in lines}) == len(lines) == 4
    for name in ("0_01", "1_01", "2_01"):
        one, two = (tmp_path / where / name for where in ("one", "two"))
        assert one.with_suffix(".png").read_bytes() == two.with_suffix(".png").read_bytes()
        first, second = (json.loads(path.with_suffix(".json").read_text()) for path in (one, two))
        assert first | {"argv": second["argv"]} == second and second["argv"][-1] == "2"
    assert run("align_images.py", raw / "0.png", tmp_path / "one", "--workers", 2).returncode == 2


def test_a_folder_that_goes_away_while_a_face_is_cut_is_not_made_anew(tmp_path, monkeypatch):
    raw, aligned, marks, crop_quad = tmp_path / "raw", tmp_path / "aligned", tmp_path / "marks.json", align_images.crop_quad
    raw.mkdir()
    Image.new("RGB", (512, 512)).save(raw / "a.png")
    marks.write_text(json.dumps(a_face().tolist()))

    def goes(*words):
        aligned.rename(tmp_path / "away")
        return crop_quad(*words)

    monkeypatch.setattr(align_images, "crop_quad", goes)
    with pytest.raises(OSError, match="aligned: gone since this run began"):
        align_images.main([str(raw), str(aligned), "--landmarks", str(marks), "--quiet"])
    assert not aligned.exists()
