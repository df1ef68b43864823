import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import image_morphing
from editor import face, images, render
from stylegan_layers import Config, Generator

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def small():
    """A random StyleGAN1 generator, 16x16."""
    torch.manual_seed(0)
    return Generator(Config("stylegan1", 16, channel_base=256)).freeze()


@pytest.fixture(scope="module")
def place(G, tmp_path_factory):
    """A folder with four latents, a.npy ... d.npy, in W+: one w a layer."""
    folder = tmp_path_factory.mktemp("latents")
    z = torch.randn(4 * G.num_ws, 512, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        ws = G.truncate(G.mapping(z), 0.6)[:, 0].view(4, G.num_ws, 512)
    for name, w in zip("abcd", ws, strict=True):
        face.save(folder / f"{name}.npy", w[None], {"generator_hash": G.meta["hash"]})
    return folder


def pixels(path):
    return np.array(Image.open(path))


def rendered(G, path):
    """A latent file's own rendering, uint8 [R, R, 3], by the generator alone."""
    with torch.no_grad():
        return images.to_uint8(G.synthesis(face.load(path, G)))[0]


def test_hundred_frames_end_at_the_latents_to_the_bit_and_are_linear_in_w(run, tmp_path, G, place):
    done = run("image_morphing.py", "--latent_file1", place / "a.npy", "--latent_file2", place / "b.npy", "--out_dir", tmp_path / "frames",
               "--animation", tmp_path / "m.png", "--save_latents", tmp_path / "path.npy", "--quiet")  # fmt: skip
    assert done.returncode == 0 and done.stderr == done.stdout == "", done.stderr
    frames = images.list_images(tmp_path / "frames")
    assert len(frames) == 100
    assert np.array_equal(pixels(frames[0]), rendered(G, place / "a.npy"))
    assert np.array_equal(pixels(frames[99]), rendered(G, place / "b.npy"))
    path = np.load(tmp_path / "path.npy").astype(np.float64)
    a, b = np.load(place / "a.npy"), np.load(place / "b.npy")
    assert np.array_equal(path[0], a[0]) and np.array_equal(path[99], b[0])
    steps = np.diff(path, axis=0)
    assert np.abs(steps - steps.mean(0)).max() < 1e-5 * np.abs(path).max() and np.abs(steps).max() > 1e-3
    with Image.open(tmp_path / "m.png") as movie:  # the animation was written on the way, from the same frames
        assert movie.n_frames == 100
        for k in (0, 50, 99):
            movie.seek(k)
            assert np.array_equal(np.array(movie.convert("RGB")), pixels(frames[k]))
    assert json.loads((tmp_path / "path.json").read_text())["generator_hash"] == G.meta["hash"]


def test_every_latent_of_a_longer_path_is_a_frame_and_a_loop_closes(run, tmp_path, G, place):
    folder = tmp_path / "frames"
    files = [place / f"{name}.npy" for name in "abc"]
    assert run("image_morphing.py", "--latent_files", *files, "--frames", 5, "--out_dir", folder, "--quiet").returncode == 0
    frames = images.list_images(folder)
    assert len(frames) == 9
    for k, file in zip((0, 4, 8), files, strict=True):
        assert np.array_equal(pixels(frames[k]), rendered(G, file))
    images.save(folder / "mine.png", np.zeros((8, 8, 3), np.uint8))
    done = run(
        "image_morphing.py", "--latent_files", *files[:2], "--frames", 4, "--loop", "--easing", "smooth", "--out_dir", folder, "--quiet"
    )
    assert done.returncode == 0 and "removed 3 frames" in done.stderr
    assert [p.name for p in images.list_images(folder)] == ["mine.png", *(f"morph_{k:04}.png" for k in range(6))]
    frames = images.list_images(folder)[1:]
    for there, back in ((1, 5), (2, 4)):  # the way back, but for the rounding of sums in another order
        assert np.abs(pixels(frames[there]).astype(int) - pixels(frames[back])).max() <= 1
    assert np.array_equal(pixels(frames[0]), rendered(G, files[0])) and np.array_equal(pixels(frames[3]), rendered(G, files[1]))


def test_batches_change_nothing_but_the_rounding(G, place):
    ws = torch.cat([face.load(place / f"{name}.npy", G) for name in "abcdab"])
    single = np.stack(list(render.pictures(G, ws, batch_size=1)))
    for size in (4, 100):
        batched = np.stack(list(render.pictures(G, ws, batch_size=size)))
        assert np.abs(batched.astype(int) - single).max() <= 1
        exact = np.stack(list(render.pictures(G, ws, batch_size=size, alone=(0, 3, 5))))
        assert np.array_equal(exact[[0, 3, 5]], single[[0, 3, 5]])
    with pytest.raises(ValueError, match="0 latents"):
        next(render.pictures(G, ws[:0]))


def test_noise_moves_from_one_end_to_the_other(small):
    ends = torch.randn(2, small.num_ws, 512, generator=torch.Generator().manual_seed(1))
    noise = [torch.randn(1, 1, layer.resolution, layer.resolution) * 3 for layer in small.synthesis.layers()]
    for layer in small.synthesis.layers():
        torch.nn.init.ones_(layer.noise_strength)
        layer.freeze()
    steps = image_morphing.schedule(2, 5)
    ws = image_morphing.between(ends, steps)
    assert image_morphing.noise_between(small, [None, None], steps) == "const"
    frames = list(render.pictures(small, ws, image_morphing.noise_between(small, [noise, None], steps), 2, alone=(0, 4)))
    assert np.array_equal(frames[0], next(render.pictures(small, ends[:1], noise)))
    assert np.array_equal(frames[4], next(render.pictures(small, ends[1:])))
    half = [(m + layer.noise_const) / 2 for m, layer in zip(noise, small.synthesis.layers(), strict=True)]
    middle = next(render.pictures(small, ws[2:3], half))
    assert np.abs(frames[2].astype(int) - middle).max() <= 1
    assert np.abs(next(render.pictures(small, ws[2:3])).astype(int) - middle).max() > 10


numbers = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=200, deadline=None)
@given(a=numbers, b=numbers, frames=st.integers(2, 40), easing=st.sampled_from(list(image_morphing.EASINGS)))
def test_morph_is_the_same_from_either_end(a, b, frames, easing):
    steps = image_morphing.schedule(2, frames, easing)
    there = image_morphing.between(torch.tensor([[[a]], [[b]]]), steps).flatten()
    back = image_morphing.between(torch.tensor([[[b]], [[a]]]), steps).flatten().flip(0)
    assert there[0] == back[0] == torch.tensor(a) and there[-1] == back[-1] == torch.tensor(b)  # to the bit
    assert torch.allclose(there, back, rtol=0, atol=1e-6 * max(abs(a), abs(b)) + 1e-30)
    assert (there >= min(a, b) - 1e-3).all() and (there <= max(a, b) + 1e-3).all()


@settings(max_examples=50, deadline=None)
@given(a=numbers, frames=st.integers(2, 40), count=st.integers(2, 5), loop=st.booleans())
def test_morph_of_a_latent_with_itself_stands_still(a, frames, count, loop):
    steps = image_morphing.schedule(count, frames, "smooth", loop)
    assert len(steps) == (count if loop else count - 1) * (frames - 1) + (not loop)
    assert (image_morphing.between(torch.full((count, 2, 3), a), steps) == torch.tensor(a)).all()


def test_bad_calls_say_so_in_one_line(run, tmp_path, place):
    a, b = place / "a.npy", place / "b.npy"
    np.save(tmp_path / "short.npy", np.zeros((1, 7, 512), np.float32))
    np.save(tmp_path / "nan.npy", np.full((1, 512), np.nan, np.float32))
    np.save(tmp_path / "two.npy", np.zeros((2, 1, 512), np.float32))
    face.save(tmp_path / "other.npy", torch.zeros(1, 1, 512), {"generator_hash": "0123456789abcdef"})
    for words, said in (
        ([], "--latent_file1 A.npy --latent_file2 B.npy"),
        (["--latent_file1", a], "--latent_file2"),
        (["--latent_files", a], "a.npy: one latent"),
        (["--latent_files", a, b, "--latent_file1", a], "either"),
        (["--latent_file1", a, "--latent_file2", place / "z.npy"], "z.npy: no such file"),
        (["--latent_file1", a, "--latent_file2", ROOT / "README.md"], "README.md"),
        (["--latent_file1", a, "--latent_file2", tmp_path / "short.npy"], "[1, 7, 512]"),
        (["--latent_file1", a, "--latent_file2", tmp_path / "nan.npy"], "NaN"),
        (["--latent_file1", a, "--latent_file2", tmp_path / "two.npy"], "holds 2 latents"),
        (["--latent_file1", a, "--latent_file2", tmp_path / "other.npy"], "another generator"),
        (["--latent_file1", a, "--latent_file2", b, "--frames", 1], "--frames 1"),
        (["--latent_file1", a, "--latent_file2", b, "--animation", tmp_path / "x.txt"], ".txt"),
    ):
        with pytest.raises((ValueError, OSError)) as caught:  # cli.run makes them one line and exit code 2
            image_morphing.main([str(word) for word in [*words, "--out_dir", tmp_path / "frames", "--quiet"]])
        assert said in str(caught.value)
    done = run("image_morphing.py", "--latent_file1", a, "--latent_file2", b, "--frames", 1)
    assert (
        done.returncode == 2
        and done.stderr == "image_morphing.py: --frames 1 --batch_size 8: at least 2 frames, in batches of at least 1\n"
    )
    assert not (tmp_path / "frames").exists()
