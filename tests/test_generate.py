"""generate.py: seeds -> faces, as NVIDIA draws them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import generate
import train_boundary
from editor import boundaries, checkpoints, cli, face, render
from stylegan_layers import Config, Generator

OUT = Path("save_image/generate")


@pytest.fixture
def place(tmp_path, monkeypatch, G):
    monkeypatch.chdir(tmp_path)
    load = checkpoints.load_generator
    monkeypatch.setattr(checkpoints, "load_generator", lambda path=None, device="cpu": G if path is None else load(path, device))
    return tmp_path


def call(*words, quiet=True):
    return generate.main(["--device", "cpu", "--precision", "fp32", *["--quiet"] * quiet, *map(str, words)])


def pixels(path):
    return np.asarray(Image.open(path))


def names(folder=OUT):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_lists_of_seeds():
    assert generate.seeds("0-3,7, 5-6") == [0, 1, 2, 3, 7, 5, 6] and generate.seeds("4,4") == [4]
    assert generate.seeds(str(2**32 - 1)) == [2**32 - 1]


def test_seeds_give_the_faces_that_nvidias_code_gives(place, G, capsys):
    """z from NumPy's RandomState, one seed at a time; truncated towards w_avg."""
    assert call("--seeds", "0-1,7", "--trunc", 0.7, quiet=False) == 0
    assert names() == sorted(
        [f"seed000{seed}.{ending}" for seed in (0, 1, 7) for ending in ("json", "npy", "png")]
        + ["all/seeds_0-1_7.json", "all/seeds_0-1_7.npy"]
    )
    for seed in (0, 7):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, 512).astype(np.float32))
        found = face.read_one(OUT / f"seed{seed:04}.npy", G)
        assert torch.equal(found.ws, G.w_avg + 0.7 * (G.mapping(z)[:, None].repeat(1, G.num_ws, 1) - G.w_avg)) and found.noise is None
        assert np.array_equal(pixels(OUT / f"seed{seed:04}.png"), render.one(G, found))
    assert found.info["z_seed"] == 7 and found.info["settings"]["trunc"] == 0.7
    assert torch.equal(face.read(OUT / "all/seeds_0-1_7.npy", G).ws[2:], found.ws)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [str(OUT / "seed0000.png"), str(OUT / "seed0000.npy")] and printed[-1] == str(OUT / "all/seeds_0-1_7.npy")


def test_truncation_may_end_at_a_layer(place, G):
    call("--seeds", 3, "--out_dir", "whole")
    call("--seed", 3, "--trunc", 0.5, "--trunc-cutoff", 4, "--outdir", "cut")  # NVIDIA's spellings
    whole, cut = (face.read_one(f"{folder}/seed0003.npy", G).ws for folder in ("whole", "cut"))
    assert torch.allclose(whole[:, 4:], cut[:, 4:], atol=1e-6) and not torch.allclose(whole[:, :4], cut[:, :4], atol=0.01)
    assert torch.allclose(cut[:, :4], G.w_avg + 0.5 * (whole - G.w_avg)[:, :4], atol=1e-6)


@pytest.mark.parametrize("mode", ["random", "none"])
def test_a_face_renders_to_its_picture_whatever_its_noise(place, G, mode):
    for folder in ("once", "again"):
        assert call("--seeds", "5-6", "--noise-mode", mode, "--out_dir", folder) == 0
    first, second = (face.read_one(f"once/seed000{seed}.npy", G) for seed in (5, 6))
    assert np.array_equal(pixels("once/seed0005.png"), render.one(G, first)) and first.noise is not None
    assert not np.array_equal(pixels("once/seed0005.png"), render.one(G, face.Face(first.ws)))
    assert all((m == 0).all() for m in first.noise) if mode == "none" else not torch.equal(first.noise[0], second.noise[0])
    assert Path("once/seed0005.noise.npz").read_bytes() == Path("again/seed0005.noise.npz").read_bytes()


def test_boundaries_are_trained_from_the_file_of_all(place, G):
    assert call("--seeds", "0-23", "--trunc", 0.7) == 0
    ws = face.read(OUT / "all/seeds_0-23.npy", G).ws
    np.save("scores.npy", ws.mean(1)[:, 3].numpy())
    for latents in (OUT / "all/seeds_0-23.npy", OUT):  # a folder's latents are each face once
        words = ["--latents", latents, "--scores", "scores.npy", "--ratio", "0.4", "--quiet", "--out", f"{latents.stem}_b.npy"]
        assert train_boundary.main([str(word) for word in words]) == 0
    found = [boundaries.load(f"{name}_b.npy", G) for name in ("seeds_0-23", "generate")]
    assert torch.equal(found[0].normal, found[1].normal) and found[0].info["generator_hash"] == G.meta["hash"]


def test_a_seed_with_other_settings_is_not_replaced(place, G):
    assert call("--seeds", "0", "--trunc", 0.7) == 0 and call("--seeds", "0-1", "--trunc", 0.7) == 0
    before = (OUT / "seed0000.npy").read_bytes()
    with pytest.raises(ValueError, match="seed 0 with other settings"):
        call("--seeds", "0-1", "--trunc", 0.5)
    assert (OUT / "seed0000.npy").read_bytes() == before


def test_another_generators_faces_are_not_replaced(place, G):
    torch.manual_seed(0)
    checkpoints.save("small.safetensors", Generator(Config("stylegan2", 8, 64)))
    assert call("--seeds", "0", "--weight_file", "small.safetensors") == 0 and pixels(OUT / "seed0000.png").shape == (8, 8, 3)
    before = {name: (OUT / name).read_bytes() for name in names()}
    with pytest.raises(ValueError, match="holds the result of small.safetensors"):
        call("--seeds", "0-1")
    assert {name: (OUT / name).read_bytes() for name in names()} == before
    for path in OUT.glob("seed*"):
        path.unlink()
    with pytest.raises(ValueError, match="seeds_0.npy: holds the result of small.safetensors"):
        call("--seeds", "0")


def test_what_cannot_be_written_is_found_before_a_face_is_drawn(place, monkeypatch):
    OUT.mkdir(parents=True)
    (OUT / "all").write_text("")
    monkeypatch.setattr(render, "one", lambda *_: pytest.fail("drawn before"))
    with pytest.raises(OSError, match="all"):
        call("--seeds", "0-3")
    assert names() == ["all"]


def test_long_lists_have_short_names(place):
    words = ",".join(str(2 * i) for i in range(40))
    args = [generate.flags().parse_args(["--seeds", text]) for text in (words, words + ",99", "5")]
    first, second, one = (generate.file_of_all(a).name for a in args)
    assert first.startswith("seeds_0_and_39_more_") and first != second and len(first) < 50 and one == "seeds_5.npy"


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "--seeds"),
        (["--seeds", "a"], "--seeds"),
        (["--seeds", "3-1"], "--seeds"),
        (["--seeds", "-1"], "--seeds"),
        (["--seeds", "0-99999999"], "more than 20000"),
        (["--seeds", str(2**32)], "--seeds"),
        (["--seeds", "9" * 5000], "--seeds"),
        (["--seed", "0", "--seeds", "2"], "--seeds is given twice"),
        (["--seeds", "0", "--trunc", "nan"], "--trunc"),
        (["--seeds", "0", "--trunc", "1e300"], "--trunc"),
        (["--seeds", "0", "--trunc_cutoff", "-1"], "--trunc_cutoff"),
        (["--seeds", "0", "--trunc_cutoff", "13"], "has 12 layers"),
        (["--seeds", "0", "--noise_mode", "loud"], "--noise_mode"),
        (["--seeds", "0", "--out_dir", "/proc/none"], "/proc"),
        (["--seeds", "0", "--weight_file", "none"], "none: no such file"),
        (["--seeds", "0", "--device", "cuda:99"], "--device"),
    ],
)
def test_bad_calls_say_so_in_one_line(place, monkeypatch, capsys, words, said):
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli, "open_streams", lambda: None)
    monkeypatch.setattr("sys.argv", ["generate.py"])
    with pytest.raises(SystemExit) as left:
        cli.run(lambda _: call(*words))
    error = capsys.readouterr().err
    assert left.value.code == 2 and said in error and len(error.strip().splitlines()) == 1, error
    assert not OUT.exists()


def test_as_a_process_of_its_own(place, run):
    done = run("generate.py", "--seeds", "2", "--trunc", "0.7", cwd=place)
    assert done.returncode == 0 and done.stdout.splitlines()[0] == f"{OUT}/seed0002.png", done.stderr
