"""Masks from words and files: where they lie, of which picture they are, and what is no mask."""

import os
import warnings

import pytest
import torch
from PIL import Image

from editor import images, masks


@pytest.fixture(scope="module")
def two(G):
    """Two pictures [2, 3, R, R] in [-1, 1]: the mean face, and the same face moved up by an eighth of the side."""
    with torch.no_grad():
        face = G(torch.zeros(1, 512), truncation_psi=0.0).clamp(-1, 1)
    return torch.cat([face, face.roll(-G.resolution // 8, 2)])


def middle(mask):
    """(x, y) of a mask's centre, as fractions of its side."""
    weights = mask.double() / mask.sum()
    at = (torch.arange(mask.shape[-1]) + 0.5) / mask.shape[-1]
    return (weights.sum(0) * at).sum().item(), (weights.sum(1) * at).sum().item()


def test_parts_lie_on_the_face_of_their_own_picture(G, two):
    eyes, mouth = (masks.read(f"part:{name}", G.resolution, two) for name in ("eyes", "mouth"))
    assert eyes.shape == mouth.shape == (2, 1, G.resolution, G.resolution)
    for mask, height in ((eyes, 0.325), (mouth, 0.72)):  # of the bundled generator's crops, read from its mean face
        x, y = middle(mask[0, 0])
        assert abs(x - 0.5) < 0.04 and abs(y - height) < 0.04
        assert middle(mask[1, 0])[1] == pytest.approx(y - 1 / 8, abs=0.04)


def test_hair_lies_above_the_mouth_and_outside_of_the_face(two):
    hair, whole = (masks.read(f"part:{name}", 64, two)[0, 0] for name in ("hair", "face"))
    assert hair[0, [0, -1]].min() == 1 and hair[-8:].max() == 0 and (hair * whole).max() < 0.3


@pytest.mark.parametrize("size", [64, 256])
def test_parts_have_the_size_that_was_asked_for(two, size):
    assert masks.read("part:mouth", size, two[:1]).shape == (1, 1, size, size)


@pytest.mark.parametrize(
    "text, said",
    [
        ("box:nan,0,1,1", "fractions 0..1"),
        ("box:0,0,inf,1", "fractions 0..1"),
        ("ellipse:0.5,0.5,-0.1,0.1", "radii above 0"),
        ("ellipse:0.5,0.5,nan,0.1", "fractions 0..1"),
        ("ellipse:0.5,0.5,1e-300,1e-300", "outside"),
        ("ellipse:1e308,0.5,1e-300,1", "outside"),
        ("box:-1e300,-1e300,-1e299,-1e299", "outside"),
        ("box:1" + "0" * 5000 + ",0,1,1", "fractions 0..1"),
        ("box:0,0,1", "fractions 0..1"),
        ("box:0,0,1,1,1", "fractions 0..1"),
        ("box:", "fractions 0..1"),
        ("box:0,0,1,1+", "box:x0,y0,x1,y1"),
        ("part:", "known parts"),
        ("", "Is a directory"),
        ("fifo.png", "a pipe"),
        ("/dev/zero", "a device"),
        ("folder.png", "Is a directory"),
        ("eps.png", "a PostScript file"),
        ("x" * 300, "File name too long"),
    ],
)
def test_senseless_masks_are_one_line(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.png")
    os.mkdir("folder.png")
    (tmp_path / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((ValueError, OSError), match=said):
            masks.read(text, 16, torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("blur", [float("nan"), float("inf"), -0.1, 1.5, 1e300])
def test_senseless_blurs(blur):
    with pytest.raises(ValueError, match="blur .*: a fraction"):
        masks.read("box:0,0,1,1", 16, blur=blur)
    with pytest.raises(ValueError, match="a blur of"):
        masks.blurred(torch.zeros(1, 1, 16, 16), blur * 16)


def test_many_shapes_are_no_file_name():
    text = "+".join(["box:0.25,0.25,0.75,0.75"] * 20)
    assert torch.equal(masks.read(text, 16), masks.read("box:0.25,0.25,0.75,0.75", 16)) and not masks.needs_picture(text)


def test_a_mask_in_16_bits(tmp_path):
    Image.new("I;16", (16, 16), 257 * 51).save(tmp_path / "m.png")
    assert torch.allclose(masks.read(str(tmp_path / "m.png"), 16), torch.tensor(0.2))
    assert images.load_mask(tmp_path / "m.png", 8).shape == (1, 1, 8, 8)
