"""A training of a generator replaces only its own files, goes on only as the run that it was, and holds its folder; others, too."""

import json
import multiprocessing
import os
import shutil
import tempfile

import numpy as np
import pytest
import torch

from editor import checkpoints, files, images
from stylegan_layers import Config, Discriminator, Generator
from training import data, make_boundaries, measure, ticks, train_encoder, train_generator

TICK = {"images": 8, "seconds": 1.0}
ROOT = checkpoints.HERE


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with twelve pictures in faces/, other ones in others/, and a pair g.safetensors and d.safetensors; the folder one is in."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("faces", "others")):
        for i, value in enumerate(np.random.default_rng(seed).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)):
            images.save(tmp_path / name / f"{i:05}.png", value)
    torch.manual_seed(0)
    for seed in ("", "2"):
        checkpoints.save(tmp_path / f"g{seed}.safetensors", Generator(Config("stylegan2", 8, 64, 8, 1)), perceptual="bundled")
        checkpoints.save(tmp_path / f"d{seed}.safetensors", Discriminator(Config("stylegan2", 8, 64, 8)))
    return tmp_path


def train(*words, out="run", init="g", init_d="d", images=8, data="faces"):
    train_generator.main(["--data", data, "--out", str(out), "--init", f"{init}.safetensors", "--init_d", f"{init_d}.safetensors",
                          "--batch", "4", "--tick", "8", "--images", str(images), "--device", "cpu", "--quiet", *words])  # fmt: skip


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(path, value=b"mine"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())


REFUSED = {
    "the project's": ({}, {"out": ROOT / "weight_files"}, "holds networks that come with the project"),
    "a file": ({"run": b""}, {}, "a file, expected a folder"),
    "its own generator": ({}, {"init": "run/generator"}, "run/generator.safetensors: this run reads it, and would replace it; choose"),
    "its own discriminator": ({}, {"init_d": "run/discriminator"}, "run/discriminator.safetensors: this run reads it"),
    "another generator": ({"run/generator.safetensors": b"x"}, {}, "run/generator.safetensors: exists, and is not of a training"),
    "another best": ({"run/best.safetensors": b"x"}, {"words": ["--frechet_every", "1"]}, "run/best.safetensors: exists, and is not"),
    "a folder": ({"run/discriminator.safetensors/x": b""}, {}, "run/discriminator.safetensors: exists, and is not"),
    "a picture": ({"run/sheet.png": b"x", "run/sheets/000001.jpg": b""}, {}, "run/sheet.png: exists, and is not of a training"),
    "another log": ({"run/log.jsonl": TICK}, {}, "run/log.jsonl: exists, and is not of a training"),
    "notes": ({"run/log.jsonl": b"a note", "run/sheets/000000008.jpg": b""}, {}, "run/log.jsonl: not the log of a training"),
    "notes of a run that goes on": ({"run/log.jsonl": b"a note", "run/state.pt": b""}, {}, "run/log.jsonl: not the log of a training"),
    "the pictures": ({}, {"out": "faces"}, "faces: its sheets would be written among the pictures of --data"),
    "among the pictures": ({"faces/run/state.pt": b""}, {"out": "faces/run"}, "faces/run: its sheets would be written among"),
    "sheets as pictures": ({"run/sheets/1.png": b"x"}, {"data": "run/sheets"}, "run: its sheets would be written among"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_training_replaces_nothing_else(home, monkeypatch, case):
    there, words, match = REFUSED[case]
    for name, value in there.items():
        written(home / name, value)
    for flag in ("init", "init_d"):
        if words.get(flag, "").startswith("run"):
            (home / "run").mkdir()
            shutil.copy("g.safetensors" if flag == "init" else "d.safetensors", f"{words[flag]}.safetensors")
    monkeypatch.setattr(data, "read", lambda *_: pytest.fail("it is seen before the pictures are read"))
    before = contents(home)
    with pytest.raises(ValueError, match=match) as error:
        train(*words.pop("words", ()), **words)
    assert "\n" not in str(error.value) and contents(home) == before


def test_what_it_does_not_write_is_no_matter(home):
    written(home / "run" / "encoder.safetensors")
    written(home / "run" / "best.safetensors")
    train()
    assert contents(home / "run").keys() >= {"state.pt"} and (home / "run" / "encoder.safetensors").read_bytes() == b"mine"


class Killed(BaseException):
    """What no code of ours catches."""


@pytest.mark.parametrize("last", ["sheet.png", "generator.safetensors", "discriminator.safetensors", "state.pt"])
def test_a_run_killed_within_its_first_tick_begins_again(home, monkeypatch, last):
    atomic = files.atomic

    def killed(path):
        if path.name == last:
            raise Killed
        return atomic(path)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(files, "atomic", killed)
        train()
    assert [path.name for path in (home / "run" / "sheets").iterdir()] == ["000000008.jpg"] and not (home / "run" / last).exists()
    train()
    assert [json.loads(line)["images"] for line in (home / "run" / "log.jsonl").read_text().splitlines()] == [8]


ANOTHER = {
    "data": ([], {"data": "others"}),
    "init": ([], {"init": "g2"}),
    "init_d": ([], {"init_d": "d2"}),
    "seed": (["--seed", "1"], {}),
    "hold_out": (["--hold_out"], {}),
    "fit_mapping": (["--fit_mapping", "1.5", "--init_encoder", str(checkpoints.BUNDLED["encoder"])], {"init_encoder": "x"}),
}


def test_another_run_does_not_go_on(home, monkeypatch):
    train()
    before = contents(home)
    for flag, (words, other) in ANOTHER.items():
        if other.pop("init_encoder", None):
            monkeypatch.setattr(checkpoints, "load_encoder", lambda path, G: None)
        with pytest.raises(ValueError, match=f"run/state.pt: this run cannot go on from there: .*another --{flag}") as error:
            train(*words, **other, images=16)
        assert "\n" not in str(error.value) and contents(home) == before
    assert "another --init_encoder" in str(error.value)
    with pytest.raises(ValueError, match="it was started with --batch 4, not 2"):
        train("--batch", "2", images=16)


def test_the_same_run_goes_on_with_other_rates(home):
    train()
    (home / "faces").rename(home / "moved")
    (home / "g.safetensors").rename(home / "renamed.safetensors")
    train("--lr", "0.001", "--tick", "4", "--fall", "0", "--augment", "diff", data="moved", init="renamed", images=16)
    assert torch.load("run/state.pt", weights_only=True)["step"] == 4


def test_a_state_of_an_older_version_goes_on(home):
    """Also one that began with what lies in its own --out, as it then could: that is no longer what it was."""
    train()
    state = torch.load("run/state.pt", weights_only=True)
    assert len(state.pop("run")) == 7
    torch.save(state, "run/state.pt")
    for count in (16, 24):
        train(init="run/generator", init_d="run/discriminator", images=count)
    assert torch.load("run/state.pt", weights_only=True)["step"] == 6


@pytest.mark.parametrize("last", ["", "\n", '{"images": 16, "sec', "{", '{"images"'])
def test_a_log_may_end_in_half_a_line(tmp_path, last):
    for before in (0, 2):
        (tmp_path / "log.jsonl").write_text((json.dumps(TICK) + "\n") * before + last)
        ticks.check_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("text", ["note", "{}\n", "note\nTICK", "TICK\nnote", '{"step": 1}\nTICK', 'TICK\n{"images": 1\nTICK', "[" * 99999])
def test_what_is_no_log_is_not_replaced(tmp_path, text):
    (tmp_path / "log.jsonl").write_text(text.replace("TICK", json.dumps(TICK)))
    with pytest.raises(ValueError, match="log.jsonl: not the log of a training, and would be replaced; move it away, or choose"):
        ticks.check_log(tmp_path / "log.jsonl")


def hold(folder, ready, go):
    with files.alone_in(folder, "busy"):
        ready.set()
        go.wait(60)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot lock a folder")
def test_two_trainings_never_share_a_folder(home):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=hold, args=(home / "run", ready, go))
    other.start()
    assert ready.wait(60)
    try:
        with pytest.raises(ValueError, match="run: another training is writing there; wait for its end, or choose another --out"):
            train()
        assert not any((home / "run").iterdir())
    finally:
        other.kill()  # as kill -9: nothing is left that would stop the next one
        other.join()
    train()
    assert (home / "run" / "state.pt").is_file()


def test_a_folder_that_cannot_be_written_to_is_named(home, monkeypatch):
    def refused(dir):
        raise PermissionError(13, "Permission denied", f"{dir}/tmpmk8q052o")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(PermissionError) as error:
        train()
    assert str(error.value) == "[Errno 13] Permission denied: 'run'"


# ---------------------------------------------------------------------------------------------------------------------
# Boundaries, encoders, measures


OURS = {"offset": 1.0, "scorer_hash": "x"}
BOUNDARIES = {
    "a page": ({"README.md": b"# My boundaries\n"}, "README.md"),
    "a picture": ({"strips.jpg": b"mine", "age.json": OURS, "age.npy": b"x"}, "strips.jpg"),
    "a boundary": ({"age.json": {"offset": 1.0, "made_by": "train_boundary.py"}, "age.npy": b"x"}, "age.npy"),
    "one without a record": ({"smile.npy": b"x"}, "smile.npy"),
    "a record": ({"pose.json": 3}, "pose.json"),
    "no record": ({"pose.json": b"mine"}, "pose.json: not JSON .*"),
}


@pytest.mark.parametrize("case", BOUNDARIES)
def test_boundaries_of_others_are_not_replaced(tmp_path, monkeypatch, case):
    there, name = BOUNDARIES[case]
    for path, value in there.items():
        written(tmp_path / path, value)
    before = contents(tmp_path)
    monkeypatch.setattr(make_boundaries, "scored_faces", lambda *_: pytest.fail("it is seen before the scoring"))
    with pytest.raises(ValueError, match=f"{name}.* not of this command, and would be replaced; choose another --out"):
        make_boundaries.main(["--out", str(tmp_path), "--quiet"])
    assert contents(tmp_path) == before


def test_boundaries_of_its_own_are_replaced(tmp_path):
    make_boundaries.check_out(ROOT / "boundaries")
    for name in make_boundaries.ATTRIBUTES:
        written(tmp_path / f"{name}.npy")
        written(tmp_path / f"{name}.json", OURS)
    written(tmp_path / "strips.jpg")  # stopped before the page
    make_boundaries.check_out(tmp_path)
    written(tmp_path / "README.md", (ROOT / "boundaries" / "README.md").read_bytes())
    (tmp_path / "age.json").unlink()
    (tmp_path / "age.npy").unlink()
    make_boundaries.check_out(tmp_path)


def test_an_encoder_s_sheet_replaces_no_picture(home):
    words = ["--data", "faces", "--generator", "g.safetensors", "--out", "e.safetensors", "--batch", "2", "--quiet", "--state"]
    before = contents(home)
    with pytest.raises(ValueError, match="faces/00000.png: exists, and no 00000.pt beside it says what it is; .* another --state"):
        train_encoder.main([*words, "faces/00000.pt", "--steps", "3"])
    assert contents(home) == before
    for steps in ("3", "3", "4"):  # fewer than EVERY: its state is there all the same, by which its sheet is known
        train_encoder.main([*words, "e.pt", "--steps", steps])
    assert torch.load("e.pt", weights_only=True)["step"] == 4 and (home / "e.png").is_file()


FACE = {"made_by": "encode_image.py", "generator_hash": "x", "seconds": 1.0}
MEASURED = {"generator": "g", "hash": "x", "seconds": 1}
MEASURES = [
    ({"x.json": FACE}, "x.json: exists and holds something else than the measures"),
    ({"x.json": b"mine"}, "x.json: not JSON .* not the measures of a generator; choose another --out"),
    ({"x.json": [1]}, "x.json: exists and holds something else"),
    ({"x.png": b"mine"}, "x.png: exists, and no x.json beside it says what it is"),
    ({"x.png": b"mine", "x.json": MEASURED}, "x.png: exists, and no x.json beside it says"),
]


@pytest.mark.parametrize("there, match", MEASURES)
def test_measures_replace_no_face(home, there, match):
    for path, value in there.items():
        written(home / path, value)
    before = contents(home)
    with pytest.raises(ValueError, match=match):
        measure.main(["--data", "faces", "--generator", "g.safetensors", "--out", "x.json", "--inversion", "1"])
    assert contents(home) == before


def test_measures_replace_their_own(home, monkeypatch):
    monkeypatch.setattr(data, "split", lambda count: (torch.arange(count), torch.arange(count)))
    monkeypatch.setattr(measure, "inversions", lambda *_: ({"w mean": {}}, [(np.zeros((8, 8, 3), np.uint8),) * 2]))
    for _ in range(2):
        measure.main(["--data", "faces", "--generator", "g.safetensors", "--out", "x.json", "--count", "0", "--inversion", "1"])
    assert "inversion" in json.loads((home / "x.json").read_text()) and (home / "x.png").is_file()
