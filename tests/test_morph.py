import json
import multiprocessing
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import image_morphing
from editor import animation, face, files, images, render


def pixels(path):
    return np.array(Image.open(path))


def frames_in(folder):
    """{name: pixels} of the pictures of a folder."""
    return {path.name: pixels(path) for path in files.visible(folder, "*.png")}


@pytest.fixture
def morph(tiny, tmp_path):
    """morph(*words) -> {name: pixels} of --out_dir, tmp_path/frames; from a to b in 5 frames unless the words say otherwise."""

    def morph(*words, ends=("--latent_file1", tiny.folder / "a.npy", "--latent_file2", tiny.folder / "b.npy")):
        words = ["--weight_file", tiny.weights, "--out_dir", tmp_path / "frames", "--frames", 5, "--precision", "fp32", *ends, *words]
        assert image_morphing.main([str(word) for word in words]) is None
        return frames_in(tmp_path / "frames")

    return morph


# --- what lies between -----------------------------------------------------------------------------------------------


def test_hundred_frames_end_at_the_latents_to_the_bit_and_are_linear_in_w(run, tmp_path, G):
    """With the bundled generator, as a person runs it."""
    with torch.no_grad():
        ws = G.truncate(G.mapping(torch.randn(2, 512, generator=torch.Generator().manual_seed(5))), 0.6)
    for name, w in zip("ab", ws, strict=True):
        face.write(tmp_path / f"{name}.npy", w[None], {"generator_hash": G.meta["hash"]})
    done = run("image_morphing.py", "--latent_file1", "a.npy", "--latent-file2", "b.npy", "--animation", "m.png",
               "--save_latents", "path.npy", "--precision", "fp32", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0 and "100 frames" in done.stderr, done.stderr
    assert done.stdout.split() == ["morph_result/encode1", "m.png", "path.npy"]
    frames = images.list_images(tmp_path / "morph_result/encode1")
    assert len(frames) == 100
    for k, w in ((0, ws[:1]), (99, ws[1:])):
        assert np.array_equal(pixels(frames[k]), next(render.pictures(G, w)))
    path = np.load(tmp_path / "path.npy").astype(np.float64)
    assert np.array_equal(path[0], ws[0]) and np.array_equal(path[99], ws[1])
    steps = np.diff(path, axis=0)
    assert np.abs(steps - steps.mean(0)).max() < 1e-5 * np.abs(path).max() and np.abs(steps).max() > 1e-3
    with Image.open(tmp_path / "m.png") as movie:  # the animation was written on the way, from the same frames
        assert movie.n_frames == 100
        for k in (0, 50, 99):
            movie.seek(k)
            assert np.array_equal(np.array(movie.convert("RGB")), pixels(frames[k]))
    assert face.read(tmp_path / "path.npy", G).ws.shape == (100, G.num_ws, 512)


def test_every_face_of_a_longer_way_is_a_frame(morph, tiny):
    ends = ("--latent_files", *(tiny.folder / f"{name}.npy" for name in "abcd"))
    frames = list(morph("--frames", 3, ends=ends).values())
    assert len(frames) == 7
    for k, name in zip((0, 2, 4, 6), "abcd", strict=True):
        assert np.array_equal(frames[k], pixels(tiny.folder / f"{name}.png"))


def test_a_folder_and_a_file_of_several_mean_their_faces(morph, tiny, tmp_path):
    (tmp_path / "some").mkdir()
    several = torch.cat([face.read(tiny.folder / f"{name}.npy").ws for name in "cd"])
    face.write(tmp_path / "some" / "two.npy", several, {"generator_hash": tiny.G.meta["hash"]})
    (tmp_path / "some" / ".tmp-123456-1-x.npy").write_bytes(b"left behind")
    for words in ("some", "some/two.npy"):
        frames = list(morph(ends=("--latent_files", tmp_path / words)).values())
        assert np.array_equal(frames[0], pixels(tiny.folder / "c.png")) and np.array_equal(frames[4], pixels(tiny.folder / "d.png"))


def test_noise_moves_from_one_end_to_the_other(tiny):
    a, c = (face.read_one(tiny.folder / f"{name}.npy", tiny.G) for name in "ac")
    steps = image_morphing.schedule(2, 5)
    assert image_morphing.morph(tiny.G, [c, c], steps).maps is None
    way = image_morphing.morph(tiny.G, [a, c], steps)
    frames = list(way.pictures(tiny.G, 2))
    assert np.array_equal(frames[0], tiny.render(tiny.folder / "a.npy")) and np.array_equal(frames[4], tiny.render(tiny.folder / "c.npy"))
    half = [(m + own) / 2 for m, own in zip(a.noise, face.own_noise(tiny.G), strict=True)]
    middle = next(render.pictures(tiny.G, way[2:3], half))
    assert np.abs(frames[2].astype(int) - middle).max() <= 1
    assert np.abs(next(render.pictures(tiny.G, way[2:3])).astype(int) - middle).max() > 10


def test_frames_asked_for_in_parts_are_the_same_to_the_bit(tiny):
    faces = [face.read_one(tiny.folder / f"{name}.npy", tiny.G) for name in "abc"]
    way = image_morphing.morph(tiny.G, faces, image_morphing.schedule(3, 20, "smooth"))
    assert torch.equal(torch.cat([way[i : i + 7] for i in range(0, 39, 7)]), way[:])


def test_batches_change_nothing_but_the_rounding(G):
    with torch.no_grad():
        ws = G.truncate(G.mapping(torch.randn(6, 512, generator=torch.Generator().manual_seed(5))), 0.6)
    single = np.stack(list(render.pictures(G, ws, batch_size=1)))
    for size in (4,):
        batched = np.stack(list(render.pictures(G, ws, batch_size=size)))
        assert np.abs(batched.astype(int) - single).max() <= 1
        exact = np.stack(list(render.pictures(G, ws, batch_size=size, alone=(0, 3, 5))))
        assert np.array_equal(exact[[0, 3, 5]], single[[0, 3, 5]])
    with pytest.raises(ValueError, match="0 latents"):
        next(render.pictures(G, ws[:0]))


def test_a_frame_that_stands_alone_is_never_in_a_batch(G):
    sizes = []

    class Counts:
        w_avg, resolution = G.w_avg, G.resolution

        def synthesis(self, ws, **options):
            sizes.append(len(ws))
            return torch.zeros(len(ws), 3, 4, 4)

    list(render.pictures(Counts(), torch.zeros(6, G.num_ws, 512), batch_size=3, alone=(0, 3, 5)))
    assert sizes == [1, 2, 1, 1, 1]


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


# --- the flags, each by what it does to the result --------------------------------------------------------------------


def latents_after(morph, tmp_path, *words):
    morph("--save_latents", tmp_path / "path.npy", *words)
    return np.load(tmp_path / "path.npy")


def ends_of(tiny):
    return [np.load(tiny.folder / f"{name}.npy") for name in "ab"]


def check_frames(morph, tiny, tmp_path, capfd):
    assert len(morph("--frames", 3)) == 3


def check_easing(morph, tiny, tmp_path, capfd):
    a, b = ends_of(tiny)
    assert np.allclose(latents_after(morph, tmp_path, "--easing", "linear")[1], 0.75 * a + 0.25 * b, atol=1e-5)
    assert np.allclose(latents_after(morph, tmp_path, "--easing", "smooth")[1], (1 - 0.15625) * a + 0.15625 * b, atol=1e-5)


def check_loop(morph, tiny, tmp_path, capfd):
    once, round_ = latents_after(morph, tmp_path), latents_after(morph, tmp_path, "--loop")
    assert len(once) == 5 and len(round_) == 8 and np.array_equal(round_[4], once[4])
    assert np.allclose(round_[5:], once[3:0:-1], atol=1e-5)


def check_latent_files(morph, tiny, tmp_path, capfd):
    assert len(morph(ends=("--latent_files", *(tiny.folder / f"{name}.npy" for name in "abc")))) == 9


def check_ends(morph, tiny, tmp_path, capfd):
    frames = list(morph().values())
    assert np.array_equal(frames[0], pixels(tiny.folder / "a.png")) and np.array_equal(frames[-1], pixels(tiny.folder / "b.png"))


def check_out_dir(morph, tiny, tmp_path, capfd):
    assert not morph("--out_dir", tmp_path / "elsewhere") and len(frames_in(tmp_path / "elsewhere")) == 5


def check_save_latents(morph, tiny, tmp_path, capfd):
    assert latents_after(morph, tmp_path).shape == (5, tiny.G.num_ws, 512)
    assert "noise maps and tuned weights of so many frames are not kept" in capfd.readouterr().err
    assert json.loads((tmp_path / "path.json").read_text())["noise"] == "not kept"


def check_animation(morph, tiny, tmp_path, capfd):
    frames = list(morph("--animation", tmp_path / "m.png").values())
    with Image.open(tmp_path / "m.png") as movie:
        assert movie.n_frames == 5 and np.array_equal(np.array(movie.convert("RGB")), frames[0])


def check_fps(morph, tiny, tmp_path, capfd):
    for fps, milliseconds in ((10, 100), (25, 40)):
        morph("--animation", tmp_path / "m.gif", "--fps", fps)
        with Image.open(tmp_path / "m.gif") as movie:
            assert movie.info["duration"] == milliseconds


def check_width(morph, tiny, tmp_path, capfd):
    morph("--animation", tmp_path / "m.png", "--width", 40)
    with Image.open(tmp_path / "m.png") as movie:
        assert movie.size == (40, 40) and movie.n_frames == 5


def check_batch_size(morph, tiny, tmp_path, capfd):
    sizes, synthesis = [], type(tiny.G.synthesis)
    forward = synthesis.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "forward", lambda self, ws, *a, **k: sizes.append(len(ws)) or forward(self, ws, *a, **k))
        morph("--batch_size", 2, "--frames", 6)
    assert sizes == [1, 2, 2, 1]


def check_no_saved_noise(morph, tiny, tmp_path, capfd):
    plain = list(morph("--no_saved_noise").values())
    assert np.array_equal(plain[0], tiny.render(tiny.folder / "a.npy", "--no_saved_noise"))
    assert not np.array_equal(plain[0], pixels(tiny.folder / "a.png"))


def check_tuned_strength(morph, tiny, tmp_path, capfd):
    ends = [tiny.tuned(tmp_path / f"{name}.npy", seed) for seed, name in enumerate("tu")]
    words = ("--latent_file1", ends[0], "--latent_file2", ends[1])
    for strength in ("1", "0.5", "0"):
        frames = list(morph("--tuned_strength", strength, ends=words).values())
        for frame, end in ((frames[0], ends[0]), (frames[-1], ends[1])):
            assert np.array_equal(frame, tiny.render(end, "--tuned_strength", strength, "--precision", "fp32"))
        if strength == "0":
            assert not np.array_equal(frames[0], tiny.render(ends[0]))


def check_force(morph, tiny, tmp_path, capfd):
    ends = ("--latent_file1", tiny.folder / "a.npy", "--latent_file2", tiny.folder / "other.npy")
    with pytest.raises(ValueError, match="another generator"):
        morph(ends=ends)
    assert len(morph("--force", ends=ends)) == 5


def check_precision(morph, tiny, tmp_path, capfd):
    exact, coarse = morph(), morph("--precision", "bf16")
    assert any(not np.array_equal(exact[name], coarse[name]) for name in exact)


def check_recorded(name, value, said):
    def check(morph, tiny, tmp_path, capfd):
        morph(f"--{name}", value)
        assert json.loads((tmp_path / "frames" / "morph.json").read_text())[name] == said

    return check


def check_weight_file(morph, tiny, tmp_path, capfd):
    with pytest.raises(ValueError, match=r"takes \[1, 12, 512\]"):
        morph("--weight_file", "weight_files/faces128.safetensors")


def check_quiet(morph, tiny, tmp_path, capfd):
    capfd.readouterr()
    morph("--quiet")
    assert capfd.readouterr() == ("", "")
    morph()
    said = capfd.readouterr()
    assert said.out == f"{tmp_path / 'frames'}\n" and "5 frames" in said.err


def check_list(morph, tiny, tmp_path, capfd):
    with pytest.raises(SystemExit):
        image_morphing.main(["--list"])
    assert "smile" in capfd.readouterr().out


EFFECTS = {
    "latent_file1": check_ends, "latent_file2": check_ends, "latent_files": check_latent_files, "frames": check_frames,
    "easing": check_easing, "loop": check_loop, "out_dir": check_out_dir, "animation": check_animation, "fps": check_fps,
    "width": check_width, "save_latents": check_save_latents, "batch_size": check_batch_size, "no_saved_noise": check_no_saved_noise,
    "tuned_strength": check_tuned_strength,
    "force": check_force, "weight_file": check_weight_file, "device": check_recorded("device", "cpu", "cpu"),
    "precision": check_precision, "seed": check_recorded("seed", 7, 7), "quiet": check_quiet, "list": check_list,
}  # fmt: skip


def test_every_flag_has_a_test_of_its_effect():
    flags = {option for action in image_morphing.flags()._actions for option in action.option_strings if option.startswith("--")}
    assert flags == {f"--{name}" for name in EFFECTS} | {"--help", "--version"}


@pytest.mark.parametrize("flag", EFFECTS)
def test_the_flag_acts(flag, morph, tiny, tmp_path, capfd):
    EFFECTS[flag](morph, tiny, tmp_path, capfd)


# --- the folder -------------------------------------------------------------------------------------------------------


def said_in(folder):
    return json.loads((folder / "morph.json").read_text())


def test_a_morph_removes_an_earlier_ones_frames_and_nothing_else(morph, tiny, tmp_path, capfd):
    morph()
    for name in ("mine.png", "morph_2024.png", "morph_1.png"):
        images.save(tmp_path / "frames" / name, np.zeros((8, 8, 3), np.uint8))
    frames = morph("--frames", 3)
    assert list(frames) == ["mine.png", "morph_0000.png", "morph_0001.png", "morph_0002.png", "morph_1.png", "morph_2024.png"]
    said = said_in(tmp_path / "frames")
    assert said["frames"] == [f"morph_{k:04}.png" for k in range(3)] and said["complete"] is True
    assert "replaced" not in capfd.readouterr().err  # the same faces
    morph(ends=("--latent_files", tiny.folder / "c.npy", tiny.folder / "d.npy"))
    assert "3 frames of an earlier morph of other faces are replaced" in capfd.readouterr().err


def test_pictures_that_no_morph_wrote_are_never_replaced(morph, tmp_path):
    images.save(tmp_path / "frames" / "morph_0002.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"morph_0002.png: would be replaced"):
        morph()
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["morph_0002.png"]


@pytest.mark.parametrize(
    "text", ["[]", '{"frames": []}', '{"made_by": "image_morphing.py", "frames": ["../x.png"]}', "{", '{"made_by": 1}']
)
def test_a_record_that_is_none_of_ours_stops_the_morph(morph, tmp_path, text):
    (tmp_path / "frames").mkdir()
    (tmp_path / "x.png").write_text("")
    (tmp_path / "frames" / "morph.json").write_text(text)
    with pytest.raises(ValueError, match="morph.json"):
        morph()
    assert (tmp_path / "frames" / "morph.json").read_text() == text and (tmp_path / "x.png").exists()


def test_a_stopped_morph_is_done_again_as_if_nothing_had_been(morph, tmp_path, monkeypatch, capfd):
    """Stopped in the 7th of 12 frames, then a shorter one in the same folder: the bytes of an undisturbed one, and no more."""
    save = images.save

    def stopped(path, frame):
        if path.name == "morph_0006.png":
            raise KeyboardInterrupt
        save(path, frame)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(images, "save", stopped)
        morph("--frames", 12)
    said = said_in(tmp_path / "frames")
    assert said["complete"] is False and len(said["frames"]) == 12 and "of 12 frames are in" in capfd.readouterr().err
    assert (tmp_path / "frames" / "morph_0005.png").exists()
    morph()
    there = {path.name: path.read_bytes() for path in (tmp_path / "frames").iterdir()}
    for path in (tmp_path / "frames").iterdir():
        path.unlink()
    morph()
    assert there == {path.name: path.read_bytes() for path in (tmp_path / "frames").iterdir()}


def hold(folder, ready, go):
    with image_morphing.alone_in(folder):
        ready.set()
        go.wait(60)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot lock a folder")
def test_two_morphs_never_share_a_folder(morph, tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "frames", ready, go))
    other.start()
    assert ready.wait(60)
    with pytest.raises(ValueError, match="another morph is being written there"):
        morph()
    assert not any((tmp_path / "frames").iterdir())
    other.kill()  # as kill -9: nothing is left that would stop the next one
    other.join()
    assert len(morph()) == 5


NO_MEMORY = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."


@pytest.mark.parametrize("words", [NO_MEMORY, "could not create a primitive"])  # the allocator's, and oneDNN's, seen under RLIMIT_AS
def test_a_batch_that_does_not_fit_is_halved(morph, tiny, monkeypatch, capfd, words):
    whole, synthesis = morph("--frames", 9, "--batch_size", 3), type(tiny.G.synthesis)
    forward = synthesis.forward

    def small_memory(self, ws, *rest, **options):
        if len(ws) > 3:
            raise RuntimeError(words)
        return forward(self, ws, *rest, **options)

    monkeypatch.setattr(synthesis, "forward", small_memory)
    halved = morph("--frames", 9, "--batch_size", 6)
    assert "out of memory with 6 pictures at once; going on with 3" in capfd.readouterr().err
    assert all(np.array_equal(whole[name], halved[name]) for name in whole)

    def none(self, ws, *rest, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(synthesis, "forward", none)
    with pytest.raises(ValueError, match="single picture of 16x16"):
        morph()


def test_a_full_disk_ends_the_morph_soon(morph, monkeypatch):
    tried = []

    def full(path, frame):
        tried.append(path)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(images, "save", full)
    with pytest.raises(OSError, match="No space left"):
        morph("--frames", 400)
    assert len(tried) < 100


def test_a_frame_that_cannot_be_written_at_the_very_end_is_no_success(morph, tmp_path, monkeypatch):
    save = images.save

    def full(path, frame):
        if path.name == "morph_0004.png":
            raise OSError(28, "No space left on device", str(path))
        save(path, frame)

    monkeypatch.setattr(images, "save", full)
    with pytest.raises(OSError, match="No space left"):
        morph()
    assert said_in(tmp_path / "frames")["complete"] is False


# --- bad calls --------------------------------------------------------------------------------------------------------


def test_bad_calls_say_so_in_one_line(tiny, tmp_path, capsys):
    a, b = tiny.folder / "a.npy", tiny.folder / "b.npy"
    pair = ["--latent_file1", a, "--latent_file2", b]
    np.save(tmp_path / "short.npy", np.zeros((1, 7, 512), np.float32))
    np.save(tmp_path / "nan.npy", np.full((1, 512), np.nan, np.float32))
    np.save(tmp_path / "two.npy", np.zeros((2, 1, 512), np.float32))
    np.save(tmp_path / "bare.npy", np.load(a))
    (tmp_path / "empty").mkdir()
    out = tmp_path / "frames"
    for words, said in (
        ([], "--latent_file1 A.npy --latent_file2 B.npy"),
        (["--latent_file1", a], "--latent_file2"),
        (["--latent_files", a], "a.npy: one latent"),
        (["--latent_files", tmp_path / "empty"], "no .npy in this folder"),
        (["--latent_files", a, b, "--latent_file1", a], "either"),
        (["--latent_file1", a, "--latent_file2", tmp_path / "z.npy"], "z.npy: no such file"),
        (["--latent_file1", a, "--latent_file2", tmp_path], "a folder, not a file"),
        (["--latent_file1", a, "--latent_file2", tmp_path / "short.npy"], "[1, 7, 512]"),
        (["--latent_file1", a, "--latent_file2", tmp_path / "nan.npy"], "NaN"),
        (["--latent_file1", a, "--latent_file2", tmp_path / "two.npy"], "holds 2 latents"),
        ([*pair, "--animation", tmp_path / "x.txt"], ".txt"),
        ([*pair, "--animation", tiny.folder / "c.png"], "c.png: exists and is no animation"),
        ([*pair, "--animation", out / "m.gif"], "in the folder of its own frames"),
        ([*pair, "--animation", tmp_path / "m.gif", "--fps", 100], "fps 100"),
        ([*pair, "--fps", 20], "--fps: of an animation"),
        ([*pair, "--width", 20], "--width: of an animation"),
        ([*pair, "--save_latents", tmp_path / "x.png"], "written as .npy"),
        ([*pair, "--save_latents", out / "morph.npy"], "the record of the frames"),
        ([*pair, "--save_latents", a], "what the result is made of"),
        ([*pair, "--save_latents", tiny.folder / "c.npy"], "c.npy: holds the result of"),
        (
            ["--latent_file1", tmp_path / "bare.npy", "--latent_file2", b, "--save_latents", tmp_path / "bare.npy"],
            "what the result is made of",
        ),
        (["--latent_files", a, b, a, b, "--frames", 50_000], "at most 100000 in all"),
        ([*pair, "--frames", 1], "--frames: 1: expected a whole number at least 2 and at most 100000"),
        ([*pair, "--frames", 99999999999], "--frames: 99999999999: expected"),
        ([*pair, "--frames", "nan"], "--frames: nan: expected"),
        ([*pair, "--batch_size", 0], "--batch_size: 0: expected"),
        ([*pair, "--fps", "inf"], "--fps: inf: expected"),
        ([*pair, "--width", -3], "--width: -3: expected"),
    ):
        with pytest.raises((ValueError, OSError, SystemExit)) as caught:  # cli.run makes them one line and exit code 2
            image_morphing.main([str(word) for word in [*words, "--weight_file", tiny.weights, "--out_dir", out, "--quiet"]])
        assert said in (capsys.readouterr().err if caught.type is SystemExit else str(caught.value)), words
    assert not out.exists()


def test_help_names_every_ending(capsys):
    with pytest.raises(SystemExit):
        image_morphing.main(["--help"])
    shown = capsys.readouterr().out
    assert all(ending in shown for ending in animation.ANIMATES)
