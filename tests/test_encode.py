import json
from pathlib import Path

import numpy as np
import pytest
import torch

import encode_image
from editor import checkpoints, images, projection, session, settings

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def made(G):
    """Two images of known latents."""
    z = torch.randn(2, 512, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return G(z, truncation_psi=0.7)


def test_made_images_are_recovered_and_a_batch_equals_singles(G, made):
    config = settings.Config(iteration=100, lr=0.05)
    distance = checkpoints.load_features(checkpoints.BUNDLED["features"])
    both = projection.project(G, distance, made, config)

    def psnr(ws, target):
        with torch.no_grad():
            return -10 * ((G.synthesis(ws).clamp(-1, 1) - target.clamp(-1, 1)) / 2).square().mean().log10().item()

    assert psnr(both.ws[1:], made[1:]) > 27
    assert both.history[0][1].mean() > 5 * both.loss.mean()
    # what no latent can show ends the descent where photographs end it, not where rounding decides
    grain = 0.2 * torch.randn(made.shape, generator=torch.Generator().manual_seed(0))
    grainy = made + grain
    both, one = (projection.project(G, distance, part, config) for part in (grainy, grainy[1:]))
    assert abs(psnr(both.ws[1:], grainy[1:]) - psnr(one.ws, grainy[1:])) < 0.1


@pytest.mark.parametrize("space, init", [("w", "mean"), ("z", "z"), ("w+", "zeros"), ("w+", "uniform"), ("w+", "z")])
def test_spaces_and_starts_lower_the_loss(G, made, space, init):
    found = projection.project(G, None, made, settings.Config(iteration=15, space=space, init=init, lr=0.05))
    assert (found.loss < found.history[0][1]).all() and found.ws.shape == (2, G.num_ws, 512)
    if space != "w+":
        assert torch.equal(found.ws[:, 0], found.ws[:, -1])


def test_bfloat16_finds_about_the_same(G, made):
    full = projection.project(G, None, made, settings.Config(iteration=10, lr=0.02))  # not chaotic yet, as at 0.1
    half = projection.project(G, None, made, settings.Config(iteration=10, lr=0.02, dtype=torch.bfloat16))
    assert torch.allclose(half.loss, full.loss, rtol=0.05) and not torch.equal(half.ws, full.ws)


def test_number_format_and_compiling_are_chosen_by_what_the_machine_has(monkeypatch):
    cpu = torch.device("cpu")
    for amx, avx512, side, best in ((0, 0, 1024, "float32"), (1, 0, 128, "bfloat16"), (0, 1, 1024, "bfloat16"), (0, 1, 128, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: bool(amx))
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx512=avx512: bool(avx512))
        assert session.dtype("auto", cpu, side) == getattr(torch, best)
    assert session.dtype("bf16", cpu) == torch.bfloat16
    monkeypatch.setattr(session.shutil, "which", lambda name: "/usr/bin/" + name)
    assert session.compiles("auto", cpu, torch.bfloat16, 1024, 1000)
    assert not session.compiles("auto", cpu, torch.bfloat16, 1024, 100) and not session.compiles("auto", cpu, torch.float32, 1024, 1000)
    assert session.compiles("on", cpu, torch.float32, 64, 1) and not session.compiles(
        "off", torch.device("cuda"), torch.bfloat16, 1024, 1000
    )
    monkeypatch.setattr(session.shutil, "which", lambda name: None)
    assert not session.compiles("auto", cpu, torch.bfloat16, 1024, 1000)


def test_only_chosen_layers_move(G, made):
    found = projection.project(G, None, made, settings.Config(iteration=5, layers=[2, 3]))
    moved = (found.ws - G.w_avg).abs().amax(dim=(0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == [2, 3]


def test_divergence_keeps_the_best(G, made):
    found = projection.project(G, None, made, settings.Config(iteration=40, lr=1e30, schedule="constant"))
    assert found.ws.isfinite().all() and found.loss.isfinite().all()


def test_interruption_keeps_the_best(G, made):
    def stop(step, losses):
        if step >= 20:
            raise KeyboardInterrupt

    found = projection.project(G, None, made, settings.Config(iteration=500), stop)
    assert found.stopped == "Ctrl-C" and (found.loss < found.history[0][1]).all()


def test_script_writes_what_it_says_and_repeats_itself(run, tmp_path, G, made):
    (tmp_path / "in").mkdir()
    images.save(tmp_path / "in" / "face.png", images.to_uint8(made[:1])[0])
    (tmp_path / "in" / "text.png").write_text("no image")
    outputs = []
    for name in ("a", "b"):
        place = tmp_path / name
        done = run(
            "encode_image.py",
            "--src-dir",
            tmp_path / "in",
            "--latent_dir",
            place,
            "--save_dir",
            place / "png",
            "--iteration",
            12,
            "--quiet",
        )
        assert done.returncode == 1 and "text.png" in done.stderr, done.stderr
        outputs.append((place / "face.npy").read_bytes())
    assert outputs[0] == outputs[1]
    ws = np.load(tmp_path / "a" / "face.npy", allow_pickle=False)
    assert ws.shape == (1, G.num_ws, 512) and ws.dtype == np.float32
    said = json.loads((tmp_path / "a" / "face.json").read_text())
    assert said["generator_hash"] == G.meta["hash"] and said["psnr"] > 5
    with torch.no_grad():
        again = images.to_uint8(G.synthesis(torch.from_numpy(ws)))[0]
    shown = images.to_uint8(images.load(tmp_path / "a" / "png" / "face.png", G.resolution))[0]
    assert np.array_equal(again, shown)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--src_im", "missing.png"], "missing.png"),
        (["--src_dir", "missing_folder"], "missing_folder"),
        (["--src_im", "README.md"], "README.md"),
        (["--iterations", "5"], "unrecognized"),
        (["--weight_file", "nothing.safetensors", "--src_im", "README.md"], "nothing.safetensors"),
    ],
)
def test_bad_calls_say_so_in_one_line(run, words, said):
    done = run("encode_image.py", *words, "--quiet")
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_batch_that_does_not_fit_is_halved(tmp_path, monkeypatch, capsys):

    for name in "abc":
        images.save(tmp_path / f"{name}.png", np.full((64, 64, 3), 90, np.uint8))
    project, sizes = projection.project, []

    def small_memory(G, distance, goal, config, *rest):
        sizes.append(len(goal.image))
        if len(goal.image) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return project(G, distance, goal, config, *rest)

    monkeypatch.setattr(projection, "project", small_memory)
    words = ["--src_dir", str(tmp_path), "--iteration", "1", "--latent_dir", str(tmp_path / "w"), "--save_dir", str(tmp_path / "s")]
    assert encode_image.main([*words, "--batch_size", "auto", "--quiet"]) == 0
    assert sizes == [3, 2, 1, 1, 1] and "going on with 1" in capsys.readouterr().err
    assert len(list((tmp_path / "w").glob("*.npy"))) == 3
