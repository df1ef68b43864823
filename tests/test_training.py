"""training/: data, augmentation, heads, growing, a fine-tuned official network, and a run that is killed and goes on."""

import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import encode_image
import weight_convert
from editor import checkpoints, cli, images, render, session
from editor.files import file_hash
from stylegan_layers import Config, Discriminator, Generator, upsample
from tests.test_convert import Network, official_pickle  # noqa: F401 - Network is a fixture
from training import augment, data, grow, measure, projected, reconstruct, resume, ticks, train_generator, trainer
from training.settings import PRESETS
from training.settings import Config as Settings

ROOT = checkpoints.HERE


@pytest.fixture
def pictures(tmp_path):
    """32 pictures of 24x20 pixels, each with a colour of its own."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(32):
        smooth = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((24, 20), Image.Resampling.BICUBIC)
        smooth.save(folder / f"{i:02d}.png")
    return folder


def test_folder_zip_and_tar_give_the_same_images(pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as z, tarfile.open(tmp_path / "p.tar", "w") as t:
        for p in pictures.iterdir():
            z.write(p, p.name)
            t.add(p, p.name)
    names, images = data.load(pictures, 16)
    assert images.shape == (32, 3, 16, 16) and images.dtype == torch.uint8 and len(names) == 32
    for other in ("p.zip", "p.tar"):
        assert torch.equal(images, data.load(tmp_path / other, 16)[1])


def test_the_middle_of_a_picture_is_taken(tmp_path):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "high.png")
    assert (data.load(tmp_path, 8)[1] == 255).all()


def test_pictures_are_mirrored_left_to_right():
    picture = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    picture[..., 0, 0] = 255  # the corner on top, left
    shown = data.Batches(picture, torch.arange(1), 64)[0]
    left, right = shown[:, 0, 0, 0] == 1, shown[:, 0, 0, 3] == 1
    assert (left ^ right).all() and 16 < left.sum() < 48 and (shown[:, :, 1:] == -1).all()


def test_no_images_or_a_broken_one_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no pictures"):
        data.load(tmp_path, 16)
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match="a.png"):
        data.load(tmp_path, 16)
    with pytest.raises(ValueError, match="folder, .zip or .tar"):
        data.load(tmp_path / "a.png", 16)


def test_held_out_images_are_never_trained_on():
    train, held = data.split(100)
    assert len(held) == 10 and not set(train.tolist()) & set(held.tolist())
    images = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1).expand(-1, 3, 4, 4)
    source = data.Batches(images, train, 8)
    seen = {round((x[0, 0, 0].item() + 1) * 127.5) for i in range(50) for x in source[i]}
    assert seen == set(train.tolist())


def test_augmentation_with_p_0_changes_nothing_and_is_differentiable():
    torch.manual_seed(0)
    x = torch.rand(8, 3, 16, 16) * 2 - 1
    assert torch.equal(augment.augment(x, 0.0), x)
    x.requires_grad_(True)
    y = augment.augment(x, 1.0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.shape == x.shape and gradient.abs().sum() > 0 and not torch.equal(y, x)
    moved = augment._shifted(torch.eye(16).expand(2, 3, 16, 16))
    assert moved.shape == (2, 3, 16, 16) and moved.sum() <= 96  # only moved, with zeros coming in


def test_heads_fit_any_features_and_only_they_are_trained():
    torch.manual_seed(0)
    heads = projected.ProjectedHeads([6, 4, 8, 10], [32, 16, 8, 4])
    features = [torch.randn(3, c, s, s) for c, s in zip([6, 4, 8, 10], [32, 16, 8, 4], strict=True)]
    assert heads(features).shape == (3, 4)
    fixed = [m.weight.requires_grad for m in [*heads.mix, *heads.down]]
    assert not any(fixed)


def test_a_grown_generator_renders_the_same_picture_larger():
    torch.manual_seed(0)
    small = Generator(Config("stylegan2", 16, 128, 16, 2)).freeze()
    for layer in small.synthesis.layers():
        layer.bias.data.normal_()
    small.freeze()
    large = grow.grown_generator(small, 512, 32, 32).freeze()
    w = small.mapping(torch.randn(3, 512))[:, None]
    a, b = small.synthesis(w.repeat(1, small.num_ws, 1), "none"), large.synthesis(w.repeat(1, large.num_ws, 1), "none")
    assert large.config.channels(4) > small.config.channels(4)
    assert (upsample(a) - b).abs().max() < 1e-4 * a.abs().max()
    with pytest.raises(ValueError, match="narrower"):
        grow.grown_generator(small, 64, 8, 32)


def test_a_grown_discriminator_keeps_its_old_blocks():
    torch.manual_seed(0)
    D = Discriminator(Config("stylegan2", 8, 64, 8))
    images = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)
    new, left = grow.grown_discriminator(D, images, steps=150)
    assert torch.equal(new.b4.out.weight, D.b4.out.weight) and left < 0.5


def test_a_wider_discriminator_says_the_same_and_can_learn(tmp_path):
    torch.manual_seed(0)
    D = Discriminator(Config("stylegan2", 16, 128, 16))
    for p in D.parameters():
        p.data.normal_()
    checkpoints.save(tmp_path / "d.safetensors", D)
    grow.main(["--discriminator", str(tmp_path / "d.safetensors"), "--channel_base_d", "256", "--out", str(tmp_path)])
    wide, x = checkpoints.load_discriminator(tmp_path / "discriminator.safetensors"), torch.randn(4, 3, 16, 16)
    assert wide.config.channels(16) == 16 and D.config.channels(16) == 8
    assert (wide(x) - D(x)).abs().max() < 1e-4 * D(x).abs().max()
    wide.requires_grad_(True)(x).sum().backward()
    assert wide.b16.conv1.weight.grad[:, 8:].abs().max() > 0  # the new channels are not dead
    with pytest.raises(ValueError, match="widened"):
        grow.widened_discriminator(D, 64)
    with pytest.raises(ValueError, match="widened"):
        grow.widened_discriminator(Discriminator(Config("stylegan2", 16, 32, 16)), 64)


@pytest.mark.parametrize("kind", ["sg1", "sg2"])
def test_a_converted_official_network_is_fine_tuned(tmp_path, pictures, Network, kind):  # noqa: F811
    official_pickle(Network, tmp_path / "official.pkl", kind, 1)
    start, critic = tmp_path / "g.safetensors", tmp_path / "d.safetensors"
    weight_convert.main([str(tmp_path / "official.pkl"), "--out", str(start), "--discriminator", str(critic)])
    G, alignment = checkpoints.load_generator(start), {"scale": 0.7, "em_scale": 0.4}
    checkpoints.save(start, G, alignment=alignment, perceptual="bundled", source="a source", license="a licence")
    out = tmp_path / "run"
    extra = ["--heads", "1", "--augment", "ada", "--reconstruct", "20"] if kind == "sg2" else ["--path_length", "2", "--augment", "diff"]
    train_generator.main(["--data", str(pictures), "--init", str(start), "--init_d", str(critic), "--out", str(out), "--freeze_d", "2",
                          "--images", "80", "--batch", "4", "--tick", "40", "--r1_every", "4",
                          "--warm", "0", "--quiet", *extra])  # fmt: skip
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [40, 80]
    assert all(np.isfinite(v) for line in lines for v in line.values() if isinstance(v, float))
    before, after = checkpoints.load_discriminator(critic), checkpoints.load_discriminator(out / "discriminator.safetensors")
    assert torch.allclose(before.b128.conv0.weight, after.b128.conv0.weight, rtol=1e-3, atol=1e-4)  # frozen; stored as float16
    assert not torch.allclose(before.b4.conv.weight, after.b4.conv.weight, rtol=5e-3, atol=5e-3)
    before, G = G, checkpoints.load_generator(out / "generator.safetensors")
    if kind == "sg2":
        assert checkpoints.load_encoder(out / "encoder.safetensors", G)(torch.zeros(1, 3, 128, 128)).shape == (1, 12, 512)
    assert G.meta["alignment"] == alignment
    assert [G.meta[k] for k in ("perceptual", "source", "license")] == ["bundled", "a source", "a licence"]
    assert not torch.equal(G.w_avg, before.w_avg) and (G.w_avg - before.w_avg).norm() < 0.5 * before.w_avg.norm()
    Image.open(pictures / "00.png").resize((64, 64)).save(tmp_path / "square.png")
    code = encode_image.main(["--src_im", str(tmp_path / "square.png"), "--weight_file", str(out / "generator.safetensors"), "--iteration",
                              "3",
                              "--perceptual", "bundled", "--latent_dir", str(tmp_path / "w"), "--save_dir",
                              str(tmp_path / "s"), "--quiet"])  # fmt: skip
    assert not code and (tmp_path / "w" / "square.npy").is_file()


SMALL = ["--resolution", "16", "--channel_base", "128", "--channel_max", "16", "--mapping_layers", "2", "--batch", "8", "--device", "cpu"]


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def adam_steps(state):
    return {int(v["step"]) for v in state["opt_g"]["state"].values()}


@pytest.mark.parametrize("words, allowed", [([], True), (["--precision", "fp32"], False), (["--precision", "tf32"], True)])
def test_float32_is_promised_or_takes_tf32(tmp_path, pictures, monkeypatch, words, allowed):
    seen = []
    monkeypatch.setattr(session, "takes_tf32", lambda name, device: name != "fp32")  # as of a CUDA card
    monkeypatch.setattr(session, "allow_tf32", lambda said: seen.append(said))
    train_generator.main(["--data", str(pictures), *SMALL, "--images", "16", "--out", str(tmp_path), "--quiet", *words])
    assert seen == [allowed]


def test_a_killed_run_goes_on_from_its_last_tick(tmp_path, pictures):
    out = tmp_path / "run"
    words = ["--data", str(pictures), *SMALL, "--tick", "16", "--out", str(out), "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training.train_generator", *words], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    until = time.time() + 120
    while not ((out / "state.pt").is_file() and len((out / "log.jsonl").read_text().splitlines()) >= 3):
        assert process.poll() is None and time.time() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = torch.load(out / "state.pt", weights_only=True)
    checkpoints.load_generator(out / "generator.safetensors")
    assert state["step"] >= 4 and adam_steps(state) == {state["step"]}
    train_generator.main([*words, "--images", str(state["step"] * 8 + 32)])
    assert [line["images"] for line in log_of(out)] == list(range(16, state["step"] * 8 + 33, 16))
    after = torch.load(out / "state.pt", weights_only=True)
    assert after["step"] == state["step"] + 4 and adam_steps(after) == {after["step"]}  # the optimiser went on as well
    G = checkpoints.load_generator(out / "generator.safetensors")
    assert G.w_avg.abs().sum() > 0 and torch.equal(G.w_avg, after["ema"]["mapping.w_avg"].half().float())
    for flags, match in ((["--reconstruct", "1"], "without --reconstruct"), (["--batch", "4"], "with --batch 8"),
                         (["--channel_max", "8"], "size mismatch")):  # fmt: skip
        with pytest.raises(ValueError, match=f"state.pt: this run cannot go on from there: .*{match}"):
            train_generator.main([*words, *flags, "--images", "999"])


class Killed(BaseException):
    """What no code of ours catches."""


def test_a_run_killed_within_a_tick_makes_it_again(tmp_path, pictures, monkeypatch, capsys):
    out, save = tmp_path / "run", resume.save
    words = ["--data", str(pictures), *SMALL, "--tick", "8", "--out", str(out), "--images", "24"]

    def killed(path, state):
        if state["step"] == 2:
            raise Killed
        save(path, state)

    monkeypatch.setattr(resume, "save", killed)
    with pytest.raises(Killed):
        train_generator.main(words)
    assert [line["images"] for line in log_of(out)] == [8, 16] and torch.load(out / "state.pt", weights_only=True)["step"] == 1
    with open(out / "log.jsonl", "a") as f:
        f.write('{"images": 2')  # half a line
    monkeypatch.setattr(resume, "save", save)
    capsys.readouterr()
    train_generator.main(words)
    assert [line["images"] for line in log_of(out)] == [8, 16, 24]
    printed = capsys.readouterr()
    assert "32 images" in printed.err and "0.6 million parameters" in printed.err and "going on from" in printed.err
    lines = printed.out.splitlines()
    assert [json.loads(line)["images"] for line in lines[:2]] == [16, 24]
    files = ["sheet.png", "generator.safetensors", "discriminator.safetensors", "log.jsonl", "state.pt"]
    assert lines[2:] == [str(out / name) for name in [*files, "sheets"]] and all((out / name).is_file() for name in files)
    train_generator.main(words)
    assert "nothing to do: 24 images" in capsys.readouterr().err
    train_generator.main([*words, "--images", "32", "--quiet"])
    assert capsys.readouterr() == ("", "")


def test_a_stopped_run_saves_its_steps_and_goes_on_as_if_it_had_not(tmp_path, pictures, monkeypatch):
    """SIGTERM comes within a step, which is done first."""
    monkeypatch.setattr(ticks, "write_sheet", lambda *_: None)
    words = ["--data", str(pictures), *SMALL, "--tick", "32", "--images", "56", "--quiet", "--augment", "ada", "--ada_target", "-2"]
    train_generator.main([*words, "--out", str(tmp_path / "whole")])
    step = trainer.Trainer.step

    def interrupted(self, real):
        if self.step_count == 2:
            signal.raise_signal(signal.SIGTERM)
        step(self, real)

    before = signal.signal(signal.SIGTERM, cli.on_signal)
    try:
        with monkeypatch.context() as patch, pytest.raises(cli.Terminated) as stopped:
            patch.setattr(cli, "RUNNING", True)
            patch.setattr(trainer.Trainer, "step", interrupted)
            train_generator.main([*words, "--out", str(tmp_path / "parts")])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert str(stopped.value).startswith(f"after 24 images, of which 24 are saved; the same command goes on from {tmp_path}")
    assert [line["images"] for line in log_of(tmp_path / "parts")] == [24]
    train_generator.main([*words, "--out", str(tmp_path / "parts")])
    whole, parts = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts"))
    torch.testing.assert_close(whole, parts, rtol=0, atol=0)


def test_a_run_that_cannot_write_ends_with_the_tick_before(tmp_path, pictures, monkeypatch):
    words, save = ["--data", str(pictures), *SMALL, "--tick", "8", "--images", "24", "--quiet", "--out", str(tmp_path)], checkpoints.save

    def full(path, *rest, **more):
        if len(log_of(tmp_path)) == 1:
            raise OSError(28, "No space left on device", str(path))
        return save(path, *rest, **more)

    (tmp_path / "log.jsonl").touch()
    monkeypatch.setattr(ticks, "write_sheet", lambda *_: None)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(checkpoints, "save", full)
        train_generator.main(words)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 1
    train_generator.main(words)
    assert [line["images"] for line in log_of(tmp_path)] == [8, 16, 24]


def test_sheets_are_numbered_and_show_the_same_latents(tmp_path, pictures):
    train_generator.main(
        ["--data", str(pictures), *SMALL, "--images", "24", "--tick", "8", "--out", str(tmp_path), "--quiet", "--lr", "1e-9"]
    )
    sheets = sorted((tmp_path / "sheets").iterdir())
    assert [p.name for p in sheets] == ["000000008.jpg", "000000016.jpg", "000000024.jpg"]
    first, last = (np.asarray(Image.open(p)).astype(float) for p in (sheets[0], sheets[-1]))
    assert np.abs(first - last).mean() < 5 < first.std()


def test_the_best_generator_is_kept(tmp_path, pictures, monkeypatch):
    distances, asked = [3.0, 2.0, 5.0], []
    monkeypatch.setattr(ticks, "write_sheet", lambda *_: None)
    monkeypatch.setattr(ticks.Judge, "__call__", lambda self, G: distances[len(asked)] + 0 * (asked.append(G.w_avg.clone()) or 0))
    words = ["--data", str(pictures), *SMALL, "--tick", "8", "--out", str(tmp_path), "--quiet", "--frechet_every", "2"]
    train_generator.main([*words, "--images", "48"])
    assert [line.get("frechet") for line in log_of(tmp_path)] == [None, 3.0, None, 2.0, None, 5.0]
    assert torch.equal(checkpoints.load_generator(tmp_path / "best.safetensors").w_avg, asked[1].half().float())
    best = file_hash(tmp_path / "best.safetensors")
    distances[:] = [2.5, 1.0]
    asked.clear()
    train_generator.main([*words, "--images", "64"])
    assert file_hash(tmp_path / "best.safetensors") == best  # 2.5 is better than this run's others, and worse than the last run's best


def test_the_distance_is_that_of_measure(tmp_path, pictures, small_G):
    _, pixels = data.load(pictures, 16)
    judge = ticks.Judge(pixels, torch.arange(10, 30))
    network = checkpoints.load_attributes()
    real = measure.embed(network, measure.brought_to(pixels[10:30].float() / 127.5 - 1, 64))
    assert judge(small_G) == pytest.approx(measure.frechet(real, measure.embed(network, measure.samples(small_G, 100))), rel=1e-6)
    with pytest.raises(ValueError, match="two images or more"):
        ticks.Judge(pixels, torch.arange(1))


def test_a_preset_is_the_default_of_what_is_not_given():
    few = train_generator.parse(["--data", "x", "--preset", "few", "--lr", "0.25"])
    assert few.lr == 0.25 and few.augment == "ada" and {k: getattr(few, k) for k in PRESETS["few"]} == PRESETS["few"] | {"lr": 0.25}
    assert pathlib.Path(few.init) == checkpoints.BUNDLED["generator"] and few.fit_mapping > 0
    assert checkpoints.load_discriminator(few.init_d).config.resolution == checkpoints.load_generator(few.init).resolution
    checkpoints.load_encoder(few.init_encoder, checkpoints.load_generator(few.init))
    train_generator.settings(few)
    own = train_generator.parse(["--data", "x", "--preset", "few", "--init", "mine", "--init_d", "its"])
    assert (own.init, own.init_d, own.init_encoder, own.fit_mapping) == ("mine", "its", None, None)
    train_generator.settings(own)
    own = train_generator.parse(["--data", "x", "--preset", "few", "--init", "G", "--init_d", "D", "--init_encoder", "E"])
    assert own.init_encoder == "E" and own.fit_mapping > 0
    with pytest.raises(ValueError, match="--init_d brings them"):
        train_generator.settings(train_generator.parse(["--data", "x", "--preset", "few", "--init", "mine"]))
    usual = train_generator.parse(["--data", "x"])
    assert usual.init is None and train_generator.settings(usual) == Settings()


def test_the_first_line_comes_before_pytorch():
    code = "import sys; from editor import cli; cli.say = lambda words: sys.exit(f'{words} {\"torch\" in sys.modules}'); " \
           "from training import train_generator; train_generator.main(['--data', 'faces', '--out', 'run'])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == "training on faces into run, a sheet and a state every 2000 images of 200000 False"


def test_bad_pictures_do_not_stop_a_training(tmp_path, pictures, capsys):
    (pictures / "bad.png").write_text("no picture")
    (pictures / "._00.png").write_bytes(b"\0\5\x16\7")
    train_generator.main(["--data", str(pictures), *SMALL, "--images", "8", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert "bad.png: a text file" in said and "1 of 33 pictures are left out" in said and "32 images of" in said


def test_a_mapping_network_of_a_checkpoint_is_fitted(tiny):
    G = checkpoints.load_generator(tiny.weights)
    x = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    before = G.mapping(torch.ones(1, 512))
    reconstruct.fit_mapping(G, lambda x: x.flatten(1)[:, None, :512].repeat(1, G.num_ws, 1), x, steps=2, batch=4)
    assert not torch.equal(G.mapping(torch.ones(1, 512)), before)


def test_seed_and_flip_and_hold_out_do_something(tmp_path, pictures):
    hashes = {}
    for name, flags in {"a": [], "again": [], "seed": ["--seed", "1"], "flip": ["--no_flip"], "hold_out": ["--hold_out"]}.items():
        train_generator.main(["--data", str(pictures), *SMALL, "--images", "32", "--out", str(tmp_path / name), "--quiet", *flags])
        hashes[name] = file_hash(tmp_path / name / "generator.safetensors")
    assert hashes["a"] == hashes["again"] and len(set(hashes.values())) == 4


def test_two_processes_share_the_batches_and_one_writes(tmp_path, pictures):
    """That they train one network: tests/test_ranks.py."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "training.train_generator",
               "--data", str(pictures), *SMALL, "--images", "64", "--tick", "32", "--out", str(out), "--quiet"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line["images"] for line in log_of(out)] == [32, 64]
    assert adam_steps(torch.load(out / "state.pt", weights_only=True)) == {8}


def test_each_process_takes_its_share_of_a_batch(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(train_generator, "start_processes", lambda args, config: (0, 2, torch.device("cpu")))
    for name in ("all_reduce", "broadcast", "barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_: None)
    sizes, step = [], trainer.Trainer.step
    monkeypatch.setattr(trainer.Trainer, "step", lambda self, real: sizes.append(len(real)) or step(self, real))
    train_generator.main(["--data", str(pictures), *SMALL, "--images", "16", "--out", str(tmp_path), "--quiet"])
    assert sizes == [4, 4]


@pytest.mark.parametrize("ranks, flags, match", [
    ("3", [], "--batch 8: 3 processes share it"),
    ("8", ["--reconstruct", "1"], "--batch 8: 8 processes .* a multiple of 8 from 16 on"),
])  # fmt: skip
def test_processes_must_share_a_batch_evenly(monkeypatch, ranks, flags, match):
    monkeypatch.setenv("WORLD_SIZE", ranks)
    with pytest.raises(ValueError, match=match):
        train_generator.main(["--data", "x", *SMALL, *flags])


@pytest.mark.parametrize("device, match", [("cuda:0", "--device cuda:5: this machine shows 0 CUDA devices"), ("mps", "only one process")])
def test_each_process_needs_a_device(monkeypatch, device, match):
    """A machine that shows one device to the flag, and asks for the sixth."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "5")
    known = session.device
    monkeypatch.setattr(session, "device", lambda name: torch.device(name) if name == device else known(name))
    with pytest.raises(ValueError, match=match):
        train_generator.main(["--data", "x", *SMALL, "--device", device])


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, pictures, monkeypatch):
    """To the bit, with all that draws at random; it stops within a round of the data and within ADA's four steps."""
    words = ["--data", str(pictures), *SMALL, "--tick", "40", "--images", "120", "--augment", "ada", "--ada_target", "-2", "--quiet",
             "--path_length", "1", "--r1_every", "3"]  # fmt: skip
    save = resume.save

    def killed(path, state):
        save(path, state)
        if state["step"] == 5:
            raise Killed

    train_generator.main([*words, "--out", str(tmp_path / "whole")])
    monkeypatch.setattr(resume, "save", killed)
    with pytest.raises(Killed):
        train_generator.main([*words, "--out", str(tmp_path / "parts")])
    torch.rand(7)  # whatever else has been drawn
    train_generator.main([*words, "--out", str(tmp_path / "parts")])
    whole, parts = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["step"] == 15 and whole["p"] > 0
    torch.testing.assert_close(whole, parts, rtol=0, atol=0)
    lines = [[{k: v for k, v in line.items() if k not in ("seconds", "time")} for line in log_of(tmp_path / n)] for n in ("whole", "parts")]
    assert lines[0] == lines[1] and len(lines[0]) == 3


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04 cut", "list", "empty", "code"], ids=str)
def test_a_state_that_is_none_is_one_line(tmp_path, pictures, content):
    path = tmp_path / "state.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"list": [1, 2], "empty": {}, "code": {"step": pathlib.PurePosixPath("x")}}[content], path)
    with pytest.raises(ValueError, match="state.pt: this run cannot go on from there: .*remove the file to start anew") as caught:
        train_generator.main(["--data", str(pictures), *SMALL, "--out", str(tmp_path), "--quiet"])
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_a_full_disk_is_an_oserror_and_the_state_before_stays(tmp_path, monkeypatch):
    resume.save(tmp_path / "state.pt", {"step": 1})

    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="pos 64 vs 0") as error:
        resume.save(tmp_path / "state.pt", {"step": 2})
    assert str(error.value).count("is the disk full?") == 1 and error.value.filename == str(tmp_path / "state.pt")
    assert resume.load(tmp_path / "state.pt") == {"step": 1} and len(list(tmp_path.iterdir())) == 1


def test_a_diverged_training_writes_nothing(tmp_path):
    torch.manual_seed(0)
    size = Config("stylegan2", 8, 64, 8, 2)
    run = trainer.Trainer(Generator(size), Discriminator(size), Settings(batch=4))
    ticks.report(run, tmp_path, {}, 0)
    before = {p.name: file_hash(p) for p in tmp_path.rglob("*") if p.is_file()}
    run.note(loss_g=torch.tensor(float("nan")))
    for network, wrong in ((run.ema, float("nan")), (run.D, 1e6)):  # float16, in which they are written, does not hold 1e6
        weight = next(network.parameters()).data
        kept = weight.clone()
        weight.fill_(wrong)
        with pytest.raises(ValueError, match="diverged: after 0 images .* the files of the tick before are kept"):
            ticks.report(run, tmp_path, {}, 0)
        weight.copy_(kept)
    assert {p.name: file_hash(p) for p in tmp_path.rglob("*") if p.is_file()} == before
    assert run.tick()["loss_g"] is None  # NaN is no JSON


@pytest.mark.parametrize("flags, match", [
    (["--lr", "nan"], "--lr nan: expected a finite number above 0"),
    (["--tick", "0"], "--tick 0: expected a whole number at least 1"),
    (["--resolution", "100"], "power of two"),
    (["--channel_max", "0"], "--channel_max 0: expected"),
    (["--freeze_d", "3"], "--freeze_d keeps blocks .* as --init_d brings them"),
    (["--batch", "1", "--reconstruct", "1"], "half of each batch"),
    (["--alignment", "{}"], "--alignment {}: expected JSON"),
    (["--alignment", '{"scale": NaN, "em_scale": 0}'], "expected JSON"),
    (["--fit_mapping", "1.4"], "needs --init_encoder"),
    (["--fit_mapping", "nan", "--init_encoder", "x"], "--fit_mapping nan: expected"),
    (["--init_encoder", "x"], "used by --reconstruct and --fit_mapping only"),
    (["--init_encoder", "x", "--reconstruct", "1"], "give it with --init"),
    (["--init_d", "x"], "--init_d is the discriminator of --init"),
    (["--init", str(checkpoints.BUNDLED["generator"]), "--channel_max", "16"], "--channel_max 16: with --init, networks are as they are"),
    (["--data", "nowhere"], "nowhere"),
])  # fmt: skip
def test_flags_that_make_no_sense_are_one_line(tmp_path, pictures, flags, match):
    words = [] if "--init" in flags else SMALL
    with pytest.raises(ValueError, match=match) as caught:
        train_generator.main(["--data", str(pictures), *words, "--images", "1", "--out", str(tmp_path / "run"), *flags])
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "log.jsonl").exists()


COMMANDS = ["train_generator", "train_encoder", "train_attributes", "make_boundaries", "make_features", "measure", "grow", "widen"]


@pytest.mark.parametrize("module", COMMANDS)
def test_every_flag_has_help(module, monkeypatch):
    class Found(Exception):
        pass

    def parse_args(self, *_):
        raise Found(self)

    monkeypatch.setattr(cli.Parser, "parse_args", parse_args)
    with pytest.raises(Found) as found:
        importlib.import_module(f"training.{module}").main([])
    flags = {action.dest: action.help or "" for action in found.value.args[0]._actions}
    assert len(flags) > 3 and [name for name, text in flags.items() if len(text.split()) < 2] == []


@pytest.mark.parametrize("module", [name for name in COMMANDS if name != "grow"])
def test_every_training_has_device_and_names_one_that_is_not_there(module, tmp_path):
    words = {"train_generator": ["--data", "x"], "train_encoder": ["--data", "x"], "measure": ["--data", "x"], "make_boundaries": [],
             "train_attributes": ["--data", "x", "--labels", "y", "--out", "z"], "make_features": ["--faces", "x"],
             "widen": ["--data", "x"]}  # fmt: skip
    with pytest.raises(ValueError, match="--device tpu: unknown; use auto, cpu, cuda"):
        importlib.import_module(f"training.{module}").main([*words[module], "--device", "tpu"])


def test_psnr_of_known_differences():
    a = torch.zeros(2, 3, 4, 4)
    b = a + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1)
    assert render.psnr(a, b).tolist() == pytest.approx([20, 40], abs=1e-3)
    b[..., 2:] = 1.0
    left = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4)
    assert render.psnr(a, b, left).tolist() == pytest.approx([20, 40], abs=1e-3)
    assert render.psnr(a, b, left.flip(3).expand(2, 1, 4, 4)).tolist() == pytest.approx([6.0206] * 2, abs=1e-3)
    assert render.psnr(a, a).tolist() == [float("inf")] * 2


def test_the_average_of_a_trained_generator_does_not_forget_it():
    torch.manual_seed(0)
    size = Config("stylegan2", 8, 64, 8, 2)
    moved = []
    for trained in (True, False):
        run = trainer.Trainer(Generator(size), Discriminator(size), Settings(ema=1000, warm=0), trained=trained)
        before = run.ema.synthesis.b8.conv1.weight.clone()
        for _ in range(3):
            run.step(torch.rand(8, 3, 8, 8) * 2 - 1)
        now = run.G.synthesis.b8.conv1.weight
        moved.append(((run.ema.synthesis.b8.conv1.weight - before).norm() / (now - before).norm()).item())
    assert moved[0] < 0.05 < 0.5 < moved[1]


def test_most_of_the_reconstructions_lie_in_w():
    ws = torch.randn(5, 4, 8)
    flat = reconstruct.mostly_in_w(ws)
    assert torch.equal(flat[::4], ws[::4]) and torch.allclose(flat[1:4], ws[1:4].mean(1, keepdim=True).expand(3, 4, 8))


def test_a_mapping_network_is_fitted_to_an_encoders_latents():
    torch.manual_seed(0)
    G = Generator(Config("stylegan2", 8, 64, 8, 2, z_dim=16, w_dim=16))

    def encoder(x):  # three colours, three directions
        return 4 + (x.mean((2, 3)) @ torch.eye(3, 16))[:, None].repeat(1, G.num_ws, 1)

    images = torch.randint(0, 256, (400, 3, 1, 1), dtype=torch.uint8).expand(-1, -1, 8, 8).contiguous()
    assert reconstruct.fit_mapping(G, encoder, images, spread=2.0, steps=800) < 0.1
    w, known = G.mapping(torch.randn(1000, 16)).detach(), encoder(images.float() / 127.5 - 1).mean(1)
    assert (w.mean(0) - 4).abs().max() < 0.3 and (G.w_avg - known.mean(0)).abs().max() < 1e-4
    assert (w[:, :3].std(0) / known[:, :3].std(0) - 2).abs().max() < 0.5 and w[:, 3:].std(0).max() < 0.3


def test_training_in_bfloat16_follows_float32():
    size = Config("stylegan2", 8, 64, 8, 2)
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        run = trainer.Trainer(Generator(size), Discriminator(size), Settings(heads=0.1), dtype=dtype)
        for _ in range(4):
            run.step(torch.rand(8, 3, 8, 8) * 2 - 1)
        losses.append(run.tick()["loss_d"])
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 0.02
    assert run.D.b8.conv0.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_critic_learns_to_tell_latents_apart_and_can_be_fooled():
    torch.manual_seed(0)
    G = Generator(Config("stylegan2", 8, 64, 8, 2))
    critic = reconstruct.Critic(512).measure(G)
    known, guessed = G.mapping(torch.randn(64, 512)).detach(), (G.w_avg + torch.ones(64, 512)).requires_grad_(True)
    optimiser = torch.optim.Adam(critic.parameters(), lr=0.01)
    first = reconstruct.critic_loss(critic, known, guessed).item()
    for _ in range(100):
        optimiser.zero_grad()
        reconstruct.critic_loss(critic, known, guessed.detach()).backward()
        optimiser.step()
    assert reconstruct.critic_loss(critic, known, guessed).item() < first
    assert critic(known).mean() > 0.2 and critic(guessed).mean() < -0.2
    (gradient,) = torch.autograd.grad(reconstruct.loss_against_critic(critic, known, guessed), guessed)
    assert reconstruct.loss_against_critic(critic, known, guessed - gradient * 100) < reconstruct.loss_against_critic(
        critic, known, guessed
    )


def test_inception_is_asked_for_by_name_and_says_when_it_cannot_come(monkeypatch):
    import torchvision

    torch.manual_seed(0)
    state, asked = torchvision.models.inception_v3(weights=None, init_weights=False).state_dict(), []
    kind = torchvision.models.Inception_V3_Weights
    monkeypatch.setattr(kind, "get_state_dict", lambda *_, **options: asked.append(options) or state)
    assert measure.Inception()(torch.zeros(2, 3, 64, 64)).shape == (2, 2048)
    assert asked[0]["check_hash"] and asked[0]["weights_only"]
    for error in (OSError("no network"), RuntimeError('invalid hash value (expected "0cc3c7bd", got "x")'), EOFError()):

        def fails(*_, error=error, **__):
            raise error

        monkeypatch.setattr(kind, "get_state_dict", fails)
        with pytest.raises(OSError, match="leave --fid out"):
            measure.Inception()


def test_embedded_faces_are_measured(G):
    z = torch.randn(1, G.config.z_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        faces = G(z, truncation_psi=0.7).clamp(-1, 1)
    row, pairs = measure.inversion(G, session.load_distance("bundled"), faces, 2, init="mean")
    (wanted, made), error = pairs[0], (pairs[0][0].astype(float) - pairs[0][1]).__pow__(2).mean()
    assert np.array_equal(wanted, images.to_uint8(faces)[0]) and made.shape == wanted.shape
    assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3) and 0 < row["ssim"] < 1 and row["distance"] > 0


@pytest.mark.parametrize("words, match", [(["--count", "3"], "--count 3"), (["--steps", "5", "-1"], "--steps -1"),
                                          (["--starts", "w"], "a space"), (["--count", "10"], "10 are needed")])  # fmt: skip
def test_measure_says_what_it_needs(pictures, tmp_path, words, match):
    with pytest.raises(ValueError, match=match):
        measure.main(["--data", str(pictures), "--out", str(tmp_path / "m.json"), *words])


def test_faces_for_a_last_word_are_others(tmp_path, monkeypatch):
    colours = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 128, 128)
    monkeypatch.setattr(data, "read", lambda *_: ([], colours))
    compared = []
    monkeypatch.setattr(measure, "distribution", lambda G, real, *_: compared.append(real[:, 0, 0, 0].tolist()) or {})
    for skip in ("0", "12"):
        measure.main(["--data", "x", "--count", "12", "--skip", skip, "--out", str(tmp_path / "m.json")])
    first, others = ([round((value + 1) * 127.5) for value in values] for values in compared)
    assert first == list(range(9, 129, 10)) and others == list(range(129, 249, 10))


def test_frechet_and_kernel_distances_of_known_sets():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (4000, 3)), rng.normal([2, 0, 0], [1, 1, 2], (4000, 3))
    assert measure.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert measure.frechet(a, b) == pytest.approx(4 + 1, rel=0.1)  # |difference of means|^2 + (2 - 1)^2
    assert abs(measure.kernel_distance(a[:2000], a[2000:])) < 0.02 < measure.kernel_distance(a[:2000], b[:2000])


def test_precision_and_recall_of_a_generator_that_knows_half():
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(0, 1, (200, 2)), rng.normal(20, 1, (200, 2))])
    precision, recall = measure.precision_recall(real, rng.normal(0, 1, (200, 2)))
    assert precision > 0.9 and 0.4 < recall < 0.6
