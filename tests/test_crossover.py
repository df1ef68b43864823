import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import image_crossover
from editor import checkpoints, cli, face, files, folder, images, projection, render
from stylegan_layers import Config, Generator


def sample(G, count, seed, psi=0.8):
    """Latents [count, L, 512] of random faces."""
    with torch.no_grad():
        return G.truncate(G.mapping(torch.randn(count, 512, generator=torch.Generator().manual_seed(seed))), psi)


def pictures(G, ws):
    """[N, L, 512] -> images [N, 3, R, R] in [-1, 1]."""
    with torch.no_grad():
        return torch.cat([G.synthesis(part) for part in ws.split(16)]).clamp(-1, 1)


def pixels(path):
    return np.array(Image.open(path))


@pytest.fixture
def cross(tiny, tmp_path, monkeypatch):
    """cross(*words): the command in an empty folder, with the tiny generator; returns its folder of results."""
    monkeypatch.chdir(tmp_path)

    def cross(*words):
        words = ["--weight_file", tiny.weights, "--precision", "fp32", *words]
        assert image_crossover.main([str(word) for word in words]) is None
        return tmp_path / "save_image" / "crossover"

    return cross


@pytest.fixture
def of(tiny):
    """of("ab", "c"): the flags for these contents and styles."""

    def latents(names):
        return [tiny.folder / f"{name}.npy" for name in names]

    return lambda contents, styles: ["--latent_file1", *latents(contents), "--latent_file2", *latents(styles)]


@pytest.fixture
def photographs(tiny):
    """The flags for joining a.png (left) and b.png (right) in a few steps."""
    return ["--src_im1", "a.png", "--src_im2", "b.png", "--src_dir", tiny.folder, "--mask", "box:0,0,0.5,1", "--iteration", 3]


def check_pairs(folder, tiny, *words):
    """Every .npy of a folder renders to the very picture beside it."""
    latents = files.visible(folder, "*.npy")
    for latent in latents:
        assert np.array_equal(tiny.render(latent, *words), pixels(latent.with_suffix(".png"))), latent
    return [latent.stem for latent in latents]


# --- what a style mix keeps of its parents -------------------------------------------------------------------------


def structure(images):
    """Light and shade at 16x16, standardised: [N, 256]."""
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    small = torch.nn.functional.adaptive_avg_pool2d(luma, 16).flatten(1)
    return (small - small.mean(1, keepdim=True)) / small.std(1, keepdim=True)


def chroma(images):
    """Mean red - green and blue - green of the middle: [N, 2]."""
    q = images.shape[-1] // 4
    r, g, b = images[:, :, q:-q, q:-q].mean((2, 3)).T
    return torch.stack([r - g, b - g], 1)


def correlation(a, b):
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


@pytest.fixture(scope="module")
def parents_and_mix(G):
    """Pictures of 200 mixes (30 leave correlations 0.1 and more off), of their contents and of their styles, and of 600 faces in all."""
    n = 200
    faces = sample(G, 3 * n, 1)
    mixed = face.mix(face.Face(faces[:n]), face.Face(faces[n : 2 * n]), image_crossover.finer_half(G.num_ws)).ws
    images = pictures(G, faces)
    return pictures(G, mixed), images[:n], images[n : 2 * n], images


def test_a_mix_has_the_structure_of_the_content_and_the_colour_of_the_style(parents_and_mix):
    *three, faces = parents_and_mix
    common = structure(faces).mean(0)  # all faces are alike; what is left tells them apart
    m, c, s = (structure(images) - common for images in three)
    to_content, to_style = correlation(m, c), correlation(m, s)
    assert to_content.mean() > 0.8 and to_style.mean().abs() < 0.3
    assert (to_content > to_style).float().mean() >= 0.95
    m, c, s = (chroma(images) for images in three)
    assert correlation(m.T, s.T).mean() > correlation(m.T, c.T).mean() + 0.1
    assert (m - s).norm(dim=1).mean() < (m - c).norm(dim=1).mean()


def test_both_colour_axes_of_a_mix_follow_the_style(parents_and_mix):
    m, c, s = (chroma(images).T for images in parents_and_mix[:3])
    assert (correlation(m, s) > 0.7).all() and (correlation(m, s) > correlation(m, c) + 0.1).all()


# --- latent arithmetic ---------------------------------------------------------------------------------------------

values = st.floats(-1e3, 1e3, width=32)
layers = st.lists(st.integers(0, 5), unique=True)


@settings(max_examples=150, deadline=None)
@given(a=values, b=values, chosen=layers, amount=st.floats(0, 1))
def test_mixing(a, b, chosen, amount):
    a, b = (face.Face(torch.full((1, 6, 4), value)) for value in (a, b))
    others = [i for i in range(6) if i not in chosen]
    assert torch.equal(face.mix(a, a, chosen, amount).ws, a.ws)  # with itself: the identity
    assert torch.equal(face.mix(a, b, range(6)).ws, b.ws) and torch.equal(face.mix(a, b, [], amount).ws, a.ws)
    mixed = face.mix(a, b, chosen)
    assert torch.equal(mixed.ws, face.mix(b, a, others).ws)  # what one keeps the other takes
    assert torch.equal(face.mix(mixed, a, chosen).ws, a.ws)  # and back
    part = face.mix(a, b, chosen, amount).ws
    assert torch.equal(part[:, others], a.ws[:, others])
    expected = a.ws + amount * (b.ws - a.ws)
    bar = 1e-5 * max(1.0, float(expected.abs().max()), float((b.ws - a.ws).abs().max()))
    assert torch.allclose(part[:, chosen], expected[:, chosen], rtol=1e-5, atol=bar)


def test_noise_of_a_mix_follows_the_layers():
    torch.manual_seed(0)
    for kind in ("stylegan1", "stylegan2"):
        G = Generator(Config(kind, 16, channel_base=256)).freeze()
        ws, own = torch.zeros(1, G.num_ws, 512), face.own_noise(G)
        c, s = [m + 1 for m in own], [m + 2 for m in own]
        assert face.mix(face.Face(ws), face.Face(ws), [1]).noise is None
        for content, style in ((c, s), (None, s), (c, None)):
            mixed = face.mix(face.Face(ws, content), face.Face(ws, style), [1, 3], G=G).noise
            for i, m in enumerate(mixed):
                assert torch.equal(m, ((style or own) if i in (1, 3) else (content or own))[i])
            for amount, end in ((2, 1), (-1, 0)):  # beyond the ends the noise stays: more of it is grain
                beyond = face.mix(face.Face(ws, content), face.Face(ws, style), [1, 3], amount, G).noise
                assert all(map(torch.equal, beyond, face.mix(face.Face(ws, content), face.Face(ws, style), [1, 3], end, G).noise))


# --- faces, by layer -----------------------------------------------------------------------------------------------


def test_one_content_in_one_style(run, tmp_path, G):
    """With the bundled generator, as a person runs it."""
    for name, ws in zip(("one", "two"), sample(G, 2, 7), strict=True):
        face.write(tmp_path / f"{name}.npy", ws[None], {"generator_hash": G.meta["hash"]})
    done = run("image_crossover.py", "--latent-file1", "one.npy", "--latent_file2", "two.npy", "--precision", "fp32", cwd=tmp_path)
    name = os.path.join("save_image", "crossover", "one_x_two")
    assert done.returncode == 0 and done.stderr == "" and done.stdout.split() == [f"{name}.png", f"{name}.npy"], done.stderr
    ws, half = np.load(tmp_path / f"{name}.npy"), G.num_ws // 2
    one, two = np.load(tmp_path / "one.npy"), np.load(tmp_path / "two.npy")
    assert np.array_equal(ws[:, :half], one[:, :half]) and np.array_equal(ws[:, half:], two[:, half:])
    assert np.array_equal(pixels(tmp_path / f"{name}.png"), next(render.pictures(G, torch.from_numpy(ws))))
    said = json.loads((tmp_path / f"{name}.json").read_text())
    assert said["layers"] == list(range(half, G.num_ws)) and said["generator_hash"] == G.meta["hash"]


def test_several_of_each_make_a_file_for_each_pair_and_a_sheet(cross, of, tiny):
    out = cross(*of("ac", "abd"), "--quiet")
    assert check_pairs(out, tiny) == ["a_x_a", "a_x_b", "a_x_d", "c_x_a", "c_x_b", "c_x_d"]
    assert np.array_equal(pixels(out / "a_x_a.png"), pixels(tiny.folder / "a.png"))  # with itself, noise and all
    sheets = [path for path in files.visible(out, "*.png") if "_more" in path.name]
    assert len(sheets) == 1 and sheets[0].name.startswith("a_and_1_more_x_a_and_2_more_")
    page = Image.open(sheets[0])
    head = [None, *(tiny.folder / f"{name}.png" for name in "abd")]
    body = [[tiny.folder / f"{one}.png", *(out / f"{one}_x_{other}.png" for other in "abd")] for one in "ac"]
    cells = [[path and ImageOps.contain(Image.open(path), (128, 128), Image.Resampling.LANCZOS) for path in row] for row in (head, *body)]
    wanted = images.sheet(cells, ["content \\ style", *"abd"], ["", *"ac"], 128)
    assert np.array_equal(np.array(page), np.array(wanted)) and page.width > 4 * 128
    cross(*of("ac", "abd"), "--quiet")  # the same again: the same names
    cross(*of("ac", "bd"), "--quiet")  # others: another sheet
    assert len([path for path in files.visible(out, "*.png") if "_more" in path.name]) == 2


def test_a_list_skips_what_is_done(cross, of, tiny, monkeypatch, capsys):
    def lines():
        return sorted((line["name"], line["state"]) for line in folder.Journal(out).lines())

    def stamps():
        return {path.name: path.stat().st_mtime_ns for path in out.glob("[!.]*.png")}

    mix = face.mix
    monkeypatch.setattr(face, "mix", lambda one, other, *rest, **more: 1 / 0 if one.name == "a" else mix(one, other, *rest, **more))
    with pytest.raises(ZeroDivisionError):  # killed on the way
        cross(*of("ca", "bd"), "--quiet")
    out = Path("save_image/crossover")
    assert lines() == [("c_x_b", "done"), ("c_x_d", "done")]

    def bad(one, other, *rest, **more):
        raise ValueError("bad")

    before, usual = stamps(), ["--weight_file", tiny.weights, "--precision", "fp32"]
    monkeypatch.setattr(face, "mix", bad)
    for words, count in (((), 4), ((), 4), (("--retry",), 6)):
        assert image_crossover.main([str(w) for w in [*usual, *of("ca", "bd"), "--quiet", *words]]) == 1
        assert len(lines()) == count and stamps() == before
    monkeypatch.setattr(face, "mix", mix)
    for shard in ("1/2", "2/2"):
        cross(*of("ca", "bd"), "--quiet", "--retry", "--shard", shard)
    assert {name: stamp for name, stamp in stamps().items() if name in before} == before and len(stamps()) == 4, "no sheet of a part"
    cross(*of("ca", "bd"), "--quiet")
    after = stamps()
    assert len(after) == 5
    capsys.readouterr()
    cross(*of("ca", "bd"))
    assert stamps() == after and capsys.readouterr().err == "4 of 4 are done already\n"
    cross(*of("ca", "bd"), "--quiet", "--no_saved_noise")
    assert all(stamp != after[name] for name, stamp in stamps().items()), "the sheet, too"
    after = stamps()
    cross(*of("ca", "bd"), "--quiet", "--no_saved_noise", "--redo")
    assert all(stamp != after[name] for name, stamp in stamps().items())


def test_a_folder_and_a_file_of_several_mean_their_faces(cross, tiny, tmp_path):
    (tmp_path / "some").mkdir()
    several = torch.cat([face.read(tiny.folder / f"{name}.npy").ws for name in "cd"])
    face.write(tmp_path / "some" / "two.npy", several, {"generator_hash": tiny.G.meta["hash"]})
    out = cross("--latent_file1", "some", "--latent_file2", tiny.folder / "b.npy", "--quiet")
    assert check_pairs(out, tiny) == ["two_0_x_b", "two_1_x_b"]
    single = cross("--latent_file1", tiny.folder / "d.npy", "--latent_file2", tiny.folder / "b.npy", "--quiet")
    assert np.array_equal(np.load(out / "two_1_x_b.npy"), np.load(single / "d_x_b.npy"))


def test_results_never_replace_others(cross, of, tiny, tmp_path):
    for name in "xy":
        (tmp_path / name).mkdir()
        face.write(tmp_path / name / "a.npy", face.read(tiny.folder / f"{'cd'['xy'.index(name)]}.npy").ws)
    with pytest.raises(ValueError, match="both results would be"):
        cross("--latent_file1", "x/a.npy", "y/a.npy", "--latent_file2", tiny.folder / "b.npy")
    assert not (tmp_path / "save_image").exists()
    cross("--latent_file1", "x/a.npy", "--latent_file2", tiny.folder / "b.npy")
    with pytest.raises(ValueError, match="a_x_b.npy: holds the result of"):
        cross("--latent_file1", "y/a.npy", "--latent_file2", tiny.folder / "b.npy")
    with pytest.raises(ValueError, match="what the result is made of"):
        cross("--latent_file1", "x/a.npy", "--latent_file2", tiny.folder / "b.npy", "--out", "x/a.png")
    cross(*of("c", "d"), "--out", "mine")
    with pytest.raises(ValueError, match="mine.npy: holds the result of"):
        cross(*of("cd", "ab"), "--out", "mine")


def test_names_that_a_file_system_may_take_for_one_are_refused(cross, tiny, tmp_path):
    for names in (["a", "A"], ["\u00e9", "e\u0301"]):
        for name, place in zip(names, ("x", "y"), strict=True):
            face.write(tmp_path / place / f"{name}.npy", face.read(tiny.folder / "c.npy").ws)
        with pytest.raises(ValueError, match="both results would be"):
            cross("--latent_file1", *(f"{place}/{name}.npy" for name, place in zip(names, "xy", strict=True)),
                  "--latent_file2", tiny.folder / "b.npy")  # fmt: skip
    assert not (tmp_path / "save_image").exists()


# --- photographs, along a mask -------------------------------------------------------------------------------------


def test_two_photographs_are_joined_along_the_mask(tmp_path, G):
    x, y = pictures(G, sample(G, 2, 11))
    images.save(tmp_path / "x.png", x)
    images.save(tmp_path / "y.png", y)
    mask = np.zeros((G.resolution, G.resolution, 3), np.uint8)
    mask[:, : G.resolution // 2] = 255
    images.save(tmp_path / "mask.png", mask)
    words = ["--src_im1", "x.png", "--src_im2", tmp_path / "y.png", "--src_dir", tmp_path, "--mask", tmp_path / "mask.png"]
    words += ["--iteration", 30, "--noise_iteration", 20, "--out", tmp_path / "join", "--quiet", "--precision", "fp32"]
    assert image_crossover.main([str(word) for word in words]) is None
    target = images.load(tmp_path / "join_target.png", G.resolution)[0]
    half, quarter = G.resolution // 2, G.resolution // 4
    assert (target[:, :, :quarter] - x[:, :, :quarter]).abs().max() < 0.02
    assert (target[:, :, -quarter:] - y[:, :, -quarter:]).abs().max() < 0.02
    middle = target[:, :, half] - (x[:, :, half] + y[:, :, half]) / 2
    assert middle.abs().mean() < 0.5 * (x - y)[:, :, half].abs().mean()  # soft, not a step
    found = images.load(tmp_path / "join.png", G.resolution)[0]

    def error(a, b, part):
        return (a[:, :, part] - b[:, :, part]).square().mean().item()

    left, right = slice(0, quarter), slice(-quarter, None)
    assert error(found, x, left) < 0.5 * error(found, y, left) and error(found, y, right) < 0.5 * error(found, x, right)
    said = json.loads((tmp_path / "join.json").read_text())
    assert said["steps"] == 50 and said["complete"] is True and "noise" in said["files"]
    assert set(said["sources"]) == {"image1", "image2", "mask"}


def test_a_target_that_cannot_be_written_is_found_before_the_work(cross, photographs, monkeypatch, tmp_path):
    (tmp_path / "save_image" / "crossover" / "a_x_b_box-0-0-0.5-1_target.png").mkdir(parents=True)
    monkeypatch.setattr(projection, "project", None)
    with pytest.raises(OSError, match="a folder"):
        cross(*photographs)


def test_a_picture_where_the_target_goes_is_not_replaced(cross, photographs, tiny, monkeypatch, tmp_path):
    """But for an earlier run's own."""
    wanted = tmp_path / "mine_target.png"
    images.save(wanted, np.zeros((8, 8, 3), np.uint8))
    before = wanted.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(projection, "project", None)
        for _ in range(2):
            with pytest.raises(ValueError, match="mine_target.png: is there already, and no earlier run wrote it"):
                cross(*photographs, "--out", "./mine")
            assert wanted.read_bytes() == before
            (tmp_path / "other.npy").unlink(missing_ok=True)
            cross("--latent_file1", tiny.folder / "a.npy", "--latent_file2", tiny.folder / "b.npy", "--out", "./other")
            os.replace(tmp_path / "other.json", tmp_path / "mine.json")  # a record, but of no join
            said = json.loads((tmp_path / "mine.json").read_text()) | {"sources": None}
            (tmp_path / "mine.json").write_text(json.dumps(said))
    (tmp_path / "mine.json").unlink()
    wanted.unlink()
    for _ in range(2):
        cross(*photographs, "--out", "./mine", "--quiet")
    assert wanted.is_file() and wanted.read_bytes() != before


def test_ctrl_c_keeps_the_best_so_far(cross, photographs, tiny, monkeypatch, capfd):
    """Stopped in the 10th step; SIGTERM's exception comes out as it went in, so that the exit code is its own."""
    keep, count = projection.Best.keep, []

    def stopping(best, losses):
        count.append(1)
        if len(count) == 10:
            raise cli.Terminated
        return keep(best, losses)

    monkeypatch.setattr(projection.Best, "keep", stopping)
    with pytest.raises(cli.Terminated):
        cross(*photographs, "--iteration", 200)
    said = json.loads(open("save_image/crossover/a_x_b_box-0-0-0.5-1.json").read())
    assert said["stopped"] == "Ctrl-C" and said["complete"] is False and said["steps"] == 9
    assert "the best of 9 steps is in" in capfd.readouterr().err
    assert check_pairs("save_image/crossover", tiny) == ["a_x_b_box-0-0-0.5-1"]


def test_divergence_writes_nothing(cross, photographs, monkeypatch, tmp_path):
    monkeypatch.setattr(projection.fast_conv, "mean_squared_error", lambda a, b: (a - b).flatten(1).sum(1) * float("nan"))
    with pytest.raises(ValueError, match="stopped being finite"):
        cross(*photographs)
    assert not any((tmp_path / "save_image" / "crossover").iterdir())


# --- the flags, each by what it does to the result --------------------------------------------------------------------


@pytest.fixture
def mixed(cross, of):
    """mixed(*words) -> latent and picture of a in the style of b."""

    def mixed(*words):
        first = 2 * ("--latent_file1" in words)  # a list is given once
        out = cross(*of("a", "b")[first:], *words)
        return np.load(out / "a_x_b.npy"), pixels(out / "a_x_b.png")

    return mixed


@pytest.fixture
def joined(cross, photographs, tiny):
    """joined(*words) -> record, latent and target of a and b joined; what was written renders to its picture."""

    def joined(*words):
        out = cross(*photographs, *words)
        (latent,) = files.visible(out, "*.npy")
        check_pairs(out, tiny, *(["--precision", "bf16"] if "bf16" in words else []))
        found = json.loads(latent.with_suffix(".json").read_text()), np.load(latent), pixels(latent.with_name(f"{latent.stem}_target.png"))
        for path in out.iterdir():
            path.unlink()
        return found

    return joined


def parents(tiny):
    return (np.load(tiny.folder / f"{name}.npy") for name in "ab")


def check_layers(mixed, joined, tiny, capfd):
    one, two = parents(tiny)
    for words, chosen in (([], [3, 4, 5]), (["--layers", "0-1,3"], [0, 1, 3])):
        ws, _ = mixed(*words)
        others = [i for i in range(6) if i not in chosen]
        assert np.array_equal(ws[:, chosen], two[:, chosen]) and np.array_equal(ws[:, others], one[:, others])


def check_no_saved_noise(mixed, joined, tiny, capfd):
    assert not np.array_equal(mixed()[1], mixed("--no_saved_noise")[1])


def check_tuned_strength(mixed, joined, tiny, capfd):
    side = ["--latent_file1", tiny.tuned(tiny.folder.parent / "tuned_faces" / "a.npy", 1)]  # a by name
    pictures = [mixed(*side, "--tuned_strength", strength)[1] for strength in ("1", "0.5", "0")]
    assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[1], pictures[2])


def check_force(mixed, joined, tiny, capfd):
    other = ["--latent_file1", tiny.folder / "other.npy", "--out", "forced"]
    with pytest.raises(ValueError, match="another generator"):
        mixed(*other)
    with pytest.raises(FileNotFoundError):  # it went where --out says
        mixed(*other, "--force")
    assert np.array_equal(np.load("forced.npy")[:, :3], np.load(tiny.folder / "other.npy")[:, :3])


def check_sources(mixed, joined, tiny, capfd):
    _, _, target = joined("--blur", 0)
    a, b = (pixels(tiny.folder / f"{name}.png") for name in "ab")
    assert np.array_equal(target, np.concatenate([a[:, :8], b[:, 8:]], axis=1))


def check_invert_mask(mixed, joined, tiny, capfd):
    _, _, target = joined("--blur", 0, "--invert_mask")
    a, b = (pixels(tiny.folder / f"{name}.png") for name in "ab")
    assert np.array_equal(target, np.concatenate([b[:, :8], a[:, 8:]], axis=1))


def check_blur(mixed, joined, tiny, capfd):
    a, b = (pixels(tiny.folder / f"{name}.png") for name in "ab")
    sharp, soft = (joined("--blur", blur)[2] for blur in (0, 0.2))
    assert np.array_equal(sharp[:, 7], a[:, 7]) and not np.array_equal(soft[:, 7], a[:, 7])


def check_mask(mixed, joined, tiny, capfd):
    assert not np.array_equal(joined()[2], joined("--mask", "box:0,0,1,0.5")[2])


def check_iteration(mixed, joined, tiny, capfd):
    said, ws, _ = joined("--iteration", 0)
    assert said["steps"] == 0 and np.allclose(ws, tiny.G.w_avg.numpy()) and joined()[0]["loss"] < said["loss"]


def check_noise_iteration(mixed, joined, tiny, capfd):
    without, with_ = joined()[0], joined("--noise_iteration", 4)[0]
    assert without["steps"] == 3 and "noise" not in without["files"] and with_["steps"] == 7 and "noise" in with_["files"]


def check_perceptual(mixed, joined, tiny, capfd):
    (said, near, _), (other, far, _) = joined(), joined("--perceptual", "none")
    assert said["perceptual"] == "bundled" and other["perceptual"] == "none" and not np.array_equal(near, far)


def spied(joined, *words):
    """The settings.Config that `projection.project` gets."""
    seen, project = [], projection.project
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            projection, "project", lambda G, distance, goal, config, *a: seen.append(config) or project(G, distance, goal, config, *a)
        )
        patch.setattr(torch, "compile", lambda function, **options: function)
        joined(*words)
    return seen[0]


def check_compile(mixed, joined, tiny, capfd):
    assert not spied(joined).compile and spied(joined, "--compile", "on").compile


def check_low_memory(mixed, joined, tiny, capfd):
    assert not spied(joined).low_memory and spied(joined, "--low_memory").low_memory


def check_out(mixed, joined, tiny, capfd):
    for words in (["--out", "mine"], ["--out", "mine.png"]):
        with pytest.raises(FileNotFoundError):
            mixed(*words)
        assert os.path.exists("mine.npy") and os.path.exists("mine.png") and not os.path.exists("mine.png.npy")


def check_precision(mixed, joined, tiny, capfd):
    assert joined("--precision", "bf16")[0]["precision"] == "bfloat16"
    assert not np.array_equal(mixed()[1], mixed("--precision", "bf16")[1])


def check_recorded(name, value, said):
    def check(mixed, joined, tiny, capfd):
        assert joined(f"--{name}", value)[0][name] == said

    return check


def check_weight_file(mixed, joined, tiny, capfd):
    with pytest.raises(ValueError, match=r"takes \[1, 12, 512\]"):
        mixed("--weight_file", checkpoints.HERE / "weight_files" / "faces128.safetensors")


def check_quiet(mixed, joined, tiny, capfd):
    capfd.readouterr()
    joined("--quiet")
    assert capfd.readouterr() == ("", "")
    joined()
    assert len(capfd.readouterr().out.split()) == 3


def check_list(mixed, joined, tiny, capfd):
    with pytest.raises(SystemExit):
        image_crossover.main(["--list"])
    assert "part:NAME" in capfd.readouterr().out


EFFECTS = {
    "latent_file1": check_layers, "latent_file2": check_layers, "layers": check_layers, "src_im1": check_sources, "src_im2": check_sources,
    "src_dir": check_sources, "mask": check_mask, "invert_mask": check_invert_mask, "blur": check_blur, "iteration": check_iteration,
    "noise_iteration": check_noise_iteration, "perceptual": check_perceptual, "compile": check_compile, "low_memory": check_low_memory,
    "out": check_out, "no_saved_noise": check_no_saved_noise,
    "tuned_strength": check_tuned_strength, "force": check_force, "weight_file": check_weight_file,
    "device": check_recorded("device", "cpu", "cpu"), "precision": check_precision, "seed": check_recorded("seed", 7, 7),
    "quiet": check_quiet, "list": check_list,
}  # fmt: skip


def test_every_flag_has_a_test_of_its_effect():
    flags = {option for action in image_crossover.flags()._actions for option in action.option_strings if option.startswith("--")}
    assert flags == {f"--{name}" for name in EFFECTS} | {
        "--help",
        "--version",
        "--redo",
        "--retry",
        "--shard",
        "--class",
    }  # test_classes.py has it


@pytest.mark.parametrize("flag", EFFECTS)
def test_the_flag_acts(flag, mixed, joined, tiny, capfd):
    EFFECTS[flag](mixed, joined, tiny, capfd)


def test_aligned_images_are_found_in_the_default_folders(cross, tiny, tmp_path):
    for place, name in (("aligned_images", "a"), ("source_image", "b")):
        (tmp_path / place).mkdir()
        images.save(tmp_path / place / f"{name}.png", pixels(tiny.folder / f"{name}.png"))
    out = cross("--src_im1", "a.png", "--src_im2", "b.png", "--mask", "box:0,0,0.5,1", "--iteration", 1)
    assert json.loads((out / "a_x_b_box-0-0-0.5-1.json").read_text())["sources"]["image2"]["path"] == os.path.join("source_image", "b.png")


# --- bad calls --------------------------------------------------------------------------------------------------------


def test_bad_calls_say_so(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = ["--latent_file1", tiny.folder / "a.npy", "--latent_file2", tiny.folder / "b.npy"]
    photographs = ["--src_im1", tiny.folder / "a.png", "--src_im2", tiny.folder / "b.png"]
    box = ["--mask", "box:0,0,0.5,1"]
    (tmp_path / "empty").mkdir()
    for words, said in (
        ([], "give either two latents"),
        ([*pair, *photographs], "give either two latents"),
        (pair[:2], "give both"),
        (photographs, "needs --mask"),
        ([*photographs[:2], *box], "needs --src_im2"),
        ([*photographs, *box, "--layers", "1"], "--layers: goes with latents"),
        ([*photographs, *box, "--force"], "--force: goes with latents"),
        ([*pair, "--blur", 0.2], "--blur: goes with two images"),
        ([*pair, *box], "--mask: goes with two images"),
        ([*pair, "--noise_iteration", 5], "--noise_iteration: goes with two images"),
        ([*photographs, "--mask", "box:0,0,2,2"], "of one shade"),
        ([*photographs, "--mask", "no.png"], "no.png"),
        ([*photographs, *box, "--src_im2", "no.png"], "no.png: no such image, neither in aligned_images nor in source_image"),
        ([*photographs, *box, "--out", tmp_path / "empty" / ("x" * 300)], "File name too long"),
        ([*pair, "--layers", "3-6"], "0-5"),
        (["--latent_file1", tmp_path / "empty", *pair[2:]], "no .npy in this folder"),
        ([*photographs, *box, "--blur", "nan"], "--blur: nan: expected"),
        ([*photographs, *box, "--blur", 0.6], "--blur: 0.6: expected"),
        ([*photographs, *box, "--iteration", -1], "--iteration: -1: expected"),
        ([*photographs, *box, "--noise_iteration", "1e9"], "--noise_iteration: 1e9: expected"),
    ):
        with pytest.raises((ValueError, OSError, SystemExit)) as caught:
            image_crossover.main([str(word) for word in [*words, "--weight_file", tiny.weights, "--quiet"]])
        assert said in (capsys.readouterr().err if caught.type is SystemExit else str(caught.value)), words
    assert not (tmp_path / "save_image").exists() or not any((tmp_path / "save_image" / "crossover").iterdir())
