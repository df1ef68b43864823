"""encode_image.py: what each flag does, what a run leaves, what it refuses. The optimiser itself: test_projection.py."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import encode_image
from editor import animation, checkpoints, cli, face, files, images, projection, render, session


def test_script_writes_what_it_says_and_repeats_itself(run, tmp_path, G, portraits):
    images.save(tmp_path / "in" / "face.png", portraits[0])
    (tmp_path / "in" / "text.png").write_text("no image")
    outputs = []
    for name in ("a", "b"):
        words = ["--src-dir", "in", "--latent_dir", name, "--save_dir", f"{name}/png", "--preset", "exact", "--iteration", 12]
        done = run("encode_image.py", *words, cwd=tmp_path)
        assert done.returncode == 1 and "failed: in/text.png: a text file" in done.stderr, done.stderr
        assert done.stdout.splitlines() == [f"{name}/face.npy", f"{name}/png/face.png"]
        outputs.append((tmp_path / name / "face.npy").read_bytes())
    assert outputs[0] == outputs[1]
    found = face.read(tmp_path / "a" / "face.npy", G)
    said = found.info
    assert found.ws.shape == (1, G.num_ws, 512) and said["generator_hash"] == G.meta["hash"] and said["complete"] and said["steps"] == 12
    assert np.array_equal(render.one(G, found), picture(tmp_path / "a" / "png" / "face.png"))
    difference = render.one(G, found).astype(float) - portraits[0]
    assert said["psnr"] == pytest.approx(10 * np.log10(255**2 / np.square(difference).mean()), abs=0.01) and said["psnr"] > 15


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
def test_bad_calls_say_so_in_one_line(run, words, said, tmp_path):
    done = run("encode_image.py", *words, "--quiet", "--save_dir", tmp_path / "s", "--latent_dir", tmp_path / "w")
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_batch_that_does_not_fit_is_halved(encode, photographs, monkeypatch, capsys):
    monkeypatch.setattr(session, "ONE_THREAD_UP_TO", 0)  # as on a GPU
    project, sizes = projection.project, []

    def small_memory(G, distance, goal, config, *rest):
        sizes.append(len(goal.image))
        if len(goal.image) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return project(G, distance, goal, config, *rest)

    monkeypatch.setattr(projection, "project", small_memory)
    assert encode("--batch_size", "auto", "--quiet") == 0
    assert sizes == [3, 2, 1, 1, 1] and "going on with 1" in capsys.readouterr().err
    assert sorted(p.name for p in Path("w").glob("*.npy")) == ["a.npy", "b.npy", "c.npy"]


# ---------------------------------------------------------------------------------------------------------------------
# The command in this process: a, b and c in in/, latents in w/, pictures in s/


def picture(path):
    return np.asarray(images.open_image(path))


def latent(name="w/a.npy"):
    return np.load(name, allow_pickle=False)


def said(name="w/a.json"):
    return json.loads(Path(name).read_text())


def rows():
    return [line.split(",")[0] for line in Path("s/metrics.csv").read_text().splitlines()]


def stamps(*folders):
    found = [path for folder in folders for path in Path(folder).rglob("*") if path.name not in ("metrics.csv", "runs.jsonl")]
    return {str(path): path.stat().st_mtime_ns for path in found}


BUNDLED = ("--perceptual", "bundled")
Z = ("--init", "z")


@pytest.mark.parametrize(
    "usual, words",
    [
        ((), ["--iteration", 3]),
        ((), ["--lr", 0.01]),
        ((), ["--schedule", "constant"]),
        (BUNDLED, ["--lambda_mse", 0]),
        (BUNDLED, ["--lambda_percep", 0.01]),
        ((), ["--perceptual", "bundled"]),
        ((), ["--space", "w"]),
        ((), ["--init", "zeros"]),
        (Z, ["--seed", 1]),
        ((), ["--layers", "2-3"]),
        ((), ["--lambda_start", 1000]),
        ((), ["--lambda_prior", 1000]),
        ((), ["--lambda_cosine", 1000]),
        (("--iteration", 4), ["--joint"]),
        ((), ["--precision", "bf16"]),
        ((), ["--mask", "box:0,0,0.5,1"]),
        (("--mask", "box:0,0,0.5,1", "--iteration", 6), ["--invert_mask"]),
        (("--mask", "box:0,0,0.5,1", "--iteration", 6), ["--layers", "0-11"]),
    ],
    ids=lambda words: str(words[0]) if isinstance(words, list) else None,
)
def test_flags_change_the_latent(encode, photographs, usual, words):
    name = "w/a_fill_box-0-0-0.5-1.npy" if "--mask" in [*usual, *words] else "w/a.npy"
    assert encode("--src_im", "a.png", "--quiet", *usual) == 0
    before = latent(name) if "--mask" in usual else latent()
    assert encode("--src_im", "a.png", "--quiet", *usual, *words) == 0
    assert np.abs(latent(name) - before).max() > 1e-4
    assert encode("--src_im", "a.png", "--quiet", *usual, *words, "--latent_dir", "again", "--save_dir", "again") == 0
    assert np.array_equal(latent(name), latent(name.replace("w/", "again/")))


def test_layers_say_which_may_move(encode, photographs, G):
    assert encode("--src_im", "a.png", "--layers", "2-3,7", "--quiet") == 0
    moved = np.abs(latent() - G.w_avg.numpy()).max(axis=(0, 2)) > 0
    assert np.flatnonzero(moved).tolist() == [2, 3, 7]


@pytest.mark.parametrize(
    "words",
    [["--noise_iteration", 3], ["--noise_lr", 0.004], ["--noise_layers", "2-3"], ["--lambda_noise", 1e9]],
    ids=lambda words: words[0],
)
def test_flags_of_the_noise_change_the_noise_alone(encode, photographs, words, G):
    usual = {"--noise_iteration": 2, "--noise_lr": 0.002}
    assert encode("--src_im", "a.png", "--quiet", *sum(usual.items(), ())) == 0
    ws, before = face.read("w/a.npy", G).ws, face.read("w/a.npy", G).noise
    assert encode("--src_im", "a.png", "--quiet", *sum((usual | {words[0]: words[1]}).items(), ())) == 0
    found = face.read("w/a.npy", G)
    found.noise = found.noise or face.own_noise(G)  # none is written where none moved
    assert torch.equal(found.ws, ws) and any(not torch.equal(a, b) for a, b in zip(found.noise, before, strict=True))
    if words[0] == "--noise_layers":
        assert [i for i, (a, b) in enumerate(zip(found.noise, face.own_noise(G), strict=True)) if not torch.equal(a, b)] == [2, 3]
    if words[0] == "--lambda_noise":
        far = [sum((a - b).square().sum() for a, b in zip(maps, face.own_noise(G), strict=True)) for maps in (found.noise, before)]
        assert far[0] < far[1]


@pytest.mark.parametrize("words", [["--noise_layers", "2"], ["--lambda_noise", "1"], ["--composite"], ["--invert_mask"]])
def test_flags_that_would_do_nothing_are_refused(encode, photographs, words):
    with pytest.raises(ValueError, match=f"{words[0]} needs"):
        encode(*words)


def test_early_stop(encode, photographs):
    words = ["--src_im", "a.png", "--iteration", 250, "--coarse", 0, "--lambda_mse", 0, "--quiet"]  # nothing falls
    assert encode(*words, "--early_stop") == 0 and said()["steps"] == 201 and said()["stopped"] == "the loss no longer falls"
    assert said()["complete"]


def test_flags_that_change_no_number_reach_their_place(encode, photographs, G, monkeypatch):
    seen, project, synthesis = {}, projection.project, G.synthesis.forward

    def watched(G, distance, goal, config, *rest):
        seen.update(compile=config.compile, count=len(goal.image))
        return project(G, distance, goal, dataclasses.replace(config, compile=False), *rest)

    def drawn(ws, **options):
        seen.setdefault("recompute_from", []).append(options.get("recompute_from"))
        return synthesis(ws, **options)

    monkeypatch.setattr(projection, "project", watched)
    monkeypatch.setattr(G.synthesis, "forward", drawn)
    assert encode("--batch_size", 2, "--compile", "on", "--low_memory", "--device", "cpu", "--resolution", 128, "--quiet") == 0
    assert seen["compile"] is True and seen["count"] == 1 and 128 in seen["recompute_from"] and said()["device"] == "cpu"
    with pytest.raises(ValueError, match="--resolution 256: this generator makes 128x128"):
        encode("--resolution", 256)


def test_batch_size_is_how_many_are_optimised_together(encode, photographs, monkeypatch):
    monkeypatch.setattr(session, "ONE_THREAD_UP_TO", 0)  # as on a GPU
    project, sizes = projection.project, []

    def watched(G, distance, goal, *rest):
        sizes.append(len(goal.image))
        return project(G, distance, goal, *rest)

    monkeypatch.setattr(projection, "project", watched)
    assert encode("--batch_size", 2, "--quiet") == 0
    assert sizes == [2, 1]


def test_quiet_and_what_is_said_otherwise(encode, photographs, capsys):
    assert encode("--src_im", "a.png", "--quiet") == 0 and capsys.readouterr() == ("", "")
    assert encode("--src_im", "in/a.png") == 0
    shown = capsys.readouterr()
    assert shown.out == "w/a.npy\ns/a.png\n" and "a: PSNR" in shown.err and "cpu: float32, compile off, batches of 1" in shown.err


def test_weight_file_and_force(encode, photographs, G, monkeypatch):
    assert encode("--src_im", "a.png", "--quiet", "--weight_file", checkpoints.BUNDLED["generator"]) == 0
    record = said() | {"generator_hash": "0" * 64}
    Path("w/a.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="made by another generator.*--force"):
        encode("--src_im", "b.png", "--init", "w/a.npy", "--quiet")
    assert encode("--src_im", "b.png", "--init", "w/a.npy", "--iteration", 0, "--force", "--quiet") == 0
    assert np.array_equal(latent("w/b.npy"), latent("w/a.npy"))
    with pytest.raises((ValueError, OSError), match="nothing.safetensors"):
        encode("--weight_file", "nothing.safetensors")


# ---------------------------------------------------------------------------------------------------------------------
# --init FILE


def test_init_starts_with_the_files_noise_and_the_result_keeps_it(encode, photographs, G):
    maps = [m.clone() for m in face.own_noise(G)]
    maps[5] += 3
    face.write("start.npy", G.w_avg.expand(1, G.num_ws, -1), {"generator_hash": G.meta["hash"]}, face.changed(maps, G))
    assert encode("--src_im", "a.png", "--init", "start.npy", "--iteration", 0, "--quiet") == 0
    found = face.read("w/a.npy", G)
    assert torch.equal(found.ws[0], G.w_avg.expand(G.num_ws, -1)) and torch.equal(found.noise[5], maps[5])
    assert np.array_equal(render.one(G, found), picture("s/a.png"))
    assert encode("--src_im", "a.png", "--init", "start.npy", "--iteration", 0, "--no_saved_noise", "--quiet") == 0
    assert face.read("w/a.npy", G).noise is None
    assert encode("--src_im", "a.png", "--init", "start.npy", "--iteration", 0, "--noise_iteration", 1, "--quiet") == 0
    assert (face.read("w/a.npy", G).noise[5] - maps[5]).abs().max() < 1.5  # from there


def test_init_of_several_latents_is_one_line(encode, photographs, G):
    np.save("three.npy", np.zeros((3, G.num_ws, 512), np.float32))
    with pytest.raises(ValueError, match="three.npy: holds 3 latents, and one is wanted"):
        encode("--init", "three.npy", "--batch_size", 2)
    assert not Path("w").exists() or not list(Path("w").glob("*.npy"))


# ---------------------------------------------------------------------------------------------------------------------
# --resume and the table


def test_resume_skips_what_is_done_and_says_why_the_rest_is_not(encode, photographs, capsys):
    assert encode("--src_im", "a.png", "--quiet") == 0
    before = stamps("w", "s")
    assert encode("--resume") == 0
    assert "1 of 3 are done already; to do: 2 not done before" in capsys.readouterr().err
    after = stamps("w", "s")
    assert {name: after[name] for name in before} == before and rows() == ["name", "a", "b", "c"]
    assert encode("--resume", "--quiet") == 0 and stamps("w", "s") == after and capsys.readouterr().err == ""


def change_record(**more):
    Path("w/a.json").write_text(json.dumps(said() | more))


def paint():
    images.save("in/a.png", 255 - picture("in/a.png"))


@pytest.mark.parametrize(
    "change, words, why",
    [
        (None, ["--iteration", 3], "3 done with other settings"),
        (None, ["--lr", 0.05], "3 done with other settings"),
        (None, ["--seed", 1], "3 done with other settings"),
        (None, ["--lambda_noise", 1, "--joint"], "3 done with other settings"),
        (None, ["--perceptual", "bundled"], "3 done with other settings"),
        (None, ["--precision", "bf16"], "3 done with other settings"),
        (lambda: Path("w/a.npy").write_bytes(b""), [], "1 unfinished, damaged or of another generator"),
        (lambda: Path("w/a.npy").unlink(), [], "1 not done before"),
        (lambda: Path("w/a.json").unlink(), [], "1 done with other settings"),
        (lambda: Path("w/a.json").write_text("["), [], "1 unfinished, damaged"),
        (lambda: Path("w/a.json").write_text("[]"), [], "1 unfinished, damaged"),
        (lambda: change_record(generator_hash="0" * 64), [], "1 unfinished, damaged or of another generator"),
        (lambda: change_record(complete=False), [], "1 stopped before its end"),
        (lambda: change_record(sources=[]), [], "1 the photograph changed"),
        (lambda: change_record(sources={"image": 3}), [], "1 the photograph changed"),
        (lambda: change_record(picture=[1]), [], "1 its picture is gone or changed"),
        (paint, [], "1 the photograph changed"),
        (lambda: Path("s/a.png").unlink(), [], "1 its picture is gone"),
        (lambda: images.save("s/a.png", 255 - picture("s/a.png")), [], "1 its picture is gone or changed"),
    ],
)
def test_resume_asks_the_record(encode, photographs, capsys, change, words, why):
    assert encode("--batch_size", 3, "--quiet") == 0
    before = stamps("w", "s")
    if change:
        change()
    assert encode("--batch_size", 3, "--resume", *words) == 0
    assert why in capsys.readouterr().err
    again = {name for name, stamp in stamps("w", "s").items() if before.get(name) != stamp and not name.endswith(".npz")}
    names = "a" if change else "abc"
    assert again >= {f"w/{n}.{ending}" for n in names for ending in ("npy", "json")} | {f"s/{n}.png" for n in names}
    assert len(again) == 3 * len(names) and said()["complete"]


def test_resume_takes_any_number_format_unless_one_is_asked_for(encode, photographs, capsys):
    assert encode("--src_im", "a.png", "--precision", "bf16", "--quiet") == 0
    assert encode("--src_im", "a.png", "--precision", "auto", "--resume") == 0 and "1 of 1 are done" in capsys.readouterr().err


def test_resume_sees_that_the_start_changed(encode, photographs, G, capsys):
    def start(noise):
        maps = [m + noise for m in face.own_noise(G)]
        face.write("start.npy", G.w_avg.expand(1, G.num_ws, -1), {"generator_hash": G.meta["hash"]}, face.changed(maps, G))

    start(0.1)
    assert encode("--src_im", "a.png", "--init", "start.npy", "--quiet") == 0
    assert encode("--src_im", "a.png", "--init", "start.npy", "--resume") == 0 and "1 of 1 are done" in capsys.readouterr().err
    start(0.2)  # other noise, the same latent
    assert encode("--src_im", "a.png", "--init", "start.npy", "--resume") == 0 and "other settings" in capsys.readouterr().err


def interrupt(monkeypatch, after):
    """Ctrl-C in the `after`-th evaluation of the run."""
    keep, left = projection.Best.keep, [after]

    def stops(best, losses):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return keep(best, losses)

    monkeypatch.setattr(projection.Best, "keep", stops)


def test_ctrl_c_keeps_the_best_so_far_and_resume_does_it_again(encode, photographs, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 5)  # a takes 3 evaluations, b is in its second step
        with pytest.raises(KeyboardInterrupt, match="best so far is in w, and the same command goes on"):
            encode("--quiet")
    assert said("w/a.json")["complete"] and not said("w/b.json")["complete"] and said("w/b.json")["stopped"] == "Ctrl-C"
    assert not Path("w/c.npy").exists() and rows() == ["name", "a", "b"]
    assert (
        encode("--resume") == 0 and "1 of 3 are done already; to do: 1 stopped before its end; 1 not done before" in capsys.readouterr().err
    )
    assert all(said(f"w/{n}.json")["complete"] for n in "abc") and rows() == ["name", "a", "b", "c"]


def test_of_two_that_were_stopped_the_one_that_came_further_stays(encode, photographs, monkeypatch, capsys):
    def stopped(after, *words):
        with monkeypatch.context() as patch:
            interrupt(patch, after)
            with pytest.raises(KeyboardInterrupt) as caught:
                encode("--src_im", "a.png", "--iteration", 20, *words)
        return said("w/a.json")["steps"], str(caught.value), capsys.readouterr().err

    steps, _, _ = stopped(9)
    before = Path("w/a.npy").read_bytes()
    again, words, told = stopped(4)
    assert steps == again and Path("w/a.npy").read_bytes() == before
    assert "one that came further of an earlier run stays" in told and "nothing new was written" in words
    further, _, told = stopped(13)
    assert further > steps and "replaces" not in told  # it goes on with it, so that is no surprise
    assert "stopped before its end" in face.read("w/a.npy").remarks[0]
    assert stopped(3, "--lr", 0.03)[0] < steps  # other settings: another result
    Image.open("in/b.png").save("in/a.png")
    assert encode("--src_im", "a.png") == 0 and not face.read("w/a.npy").remarks


def test_a_run_that_is_stopped_does_not_replace_what_an_earlier_one_finished(encode, photographs, monkeypatch, capsys):
    assert encode("--src_im", "a.png", "--quiet") == 0
    before = {path: path.read_bytes() for path in (Path("w/a.npy"), Path("w/a.json"), Path("s/a.png"))}
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            encode("--src_im", "a.png", "--iteration", 9)
    assert all(path.read_bytes() == data for path, data in before.items())
    assert "the finished one of an earlier run stays" in capsys.readouterr().err


def test_the_table_holds_all_results_of_its_folder_whatever_the_lines_say(encode, photographs, tmp_path, monkeypatch):
    assert encode("--src_im", "a.png", "--quiet") == 0
    line = json.loads(Path("s/runs.jsonl").read_text())
    absurd = [[], {}, 3, {"name": 3}, line | {"name": "../x"}, line | {"name": "\0"}, line | {"state": "x"}, line | {"latent": None}]
    absurd += [line | {"name": "a", "command": "local_edit.py"}, line | {"name": "gone"}, line | {"name": "odd\udce9", "psnr": [1]}]
    with open("s/runs.jsonl", "a") as f:
        f.write("\n".join(map(json.dumps, absurd)) + '\n{"name": "torn", "sta')
    Path("s/odd\udce9.png").write_bytes(Path("s/a.png").read_bytes())
    monkeypatch.chdir(tmp_path / "in")  # the same folders, called otherwise
    assert encode("--src_dir", ".", "--src_im", "b.png", "--latent_dir", "../w", "--save_dir", "../s", "--quiet") == 0
    monkeypatch.chdir(tmp_path)
    assert rows() == ["name", "a", "b", "odd\\udce9"]
    assert encode("--src_im", "c.png", "--save_dir", "elsewhere", "--quiet") == 0
    assert len(rows()) == 4 and len(Path("elsewhere/metrics.csv").read_text().splitlines()) == 2
    Path("s/runs.jsonl").unlink()  # an older toolkit's folder has a table alone
    assert encode("--src_im", "c.png", "--quiet") == 0 and rows() == ["name", "a", "b", "c"]


# ---------------------------------------------------------------------------------------------------------------------
# --mask


def test_a_fill_in_never_replaces_the_embedding(encode, photographs, G):
    assert encode("--src_im", "a.png", "--quiet") == 0
    before = stamps("w", "s")
    for folder, side in (("m", 0), ("n", 1)):  # two masks of one name
        mask = np.zeros((128, 128, 3), np.uint8)
        mask[:, side * 64 : side * 64 + 64] = 255
        images.save(f"{folder}/half.png", mask)
    words = ["--src_im", "a.png", "--composite", "--iteration", 4, "--quiet"]
    assert encode(*words, "--mask", "m/half.png") == 0
    assert {name: stamp for name, stamp in stamps("w", "s").items() if name in before and name not in ("w", "s")} == {
        name: stamp for name, stamp in before.items() if name not in ("w", "s")
    }
    shown, photograph, drawn = picture("s/a_fill_half.png"), picture("in/a.png"), render.one(G, face.read("w/a_fill_half.npy", G))
    assert np.array_equal(shown[:, :64], photograph[:, :64]) and not np.array_equal(shown[:, 64:], photograph[:, 64:])
    error = np.square(drawn[:, :64].astype(float) - photograph[:, :64]).mean()  # what the mask shows, and not the rest
    assert said("w/a_fill_half.json")["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=0.01)
    with pytest.raises(ValueError, match="a_fill_half.npy: holds the result of .*m/half.png"):
        encode(*words, "--mask", "n/half.png")
    assert encode(*words, "--mask", "m/half.png", "--invert_mask") == 0
    shown = picture("s/a_fill_half.png")
    assert np.array_equal(shown[:, 64:], photograph[:, 64:]) and not np.array_equal(shown[:, :64], photograph[:, :64])
    assert said("w/a_fill_half.json")["settings"]["lambda_start"] == 1
    plain = ["--src_im", "a.png", "--mask", "m/half.png", "--lambda_start", 0, "--quiet"]  # nought is a weight, too
    assert encode(*plain) == 0 and said("w/a_fill_half.json")["settings"]["lambda_start"] == 0
    assert np.array_equal(picture("s/a_fill_half.png"), render.one(G, face.read("w/a_fill_half.npy", G)))  # not a composite


def test_masks_have_names_of_their_own():
    def name(mask):
        return encode_image.result_name(Path("in/a.png"), encode_image.flags().parse_args(["--mask", mask]))

    assert name("part:mouth") == "a_fill_mouth" and name("ellipse:0.5,0.5,0.1,0.1") != name("ellipse:-0.5,0.5,0.1,0.1")
    long = "+".join(["box:0.1,0.1,0.2,0.2"] * 9)
    assert name(long) != name(long + "+part:nose") and len(name(long)) < 80


# ---------------------------------------------------------------------------------------------------------------------
# Pictures on the way


def test_pictures_and_animations_on_the_way(encode, photographs):
    animation.save_step("s/a.png", 77, np.zeros((8, 8, 3), np.uint8))
    images.save("s/a_steps/mine.png", np.zeros((8, 8, 3), np.uint8))
    words = ["--batch_size", 2, "--iteration", 4, "--save_every", 2, "--save_video", "v/x.gif", "--quiet"]
    assert encode(*words) == 0
    assert sorted(p.name for p in Path("s/a_steps").iterdir()) == ["00000.png", "00002.png", "mine.png"]
    assert sorted(p.name for p in Path("v").iterdir()) == ["x_a.gif", "x_b.gif", "x_c.gif"]
    for n in "abc":
        with Image.open(f"v/x_{n}.gif") as movie:
            assert movie.n_frames == 2 and movie.size == (512, 256)
    Path("w/b.npy").unlink()
    Path("v/x_b.gif").unlink()
    assert encode(*words, "--resume") == 0 and Path("v/x_b.gif").is_file() and not Path("v/x.gif").exists()  # one image of a folder
    assert encode("--src_im", "a.png", "--save_video", "v/y.gif", "--quiet") == 0 and Path("v/y.gif").is_file()


def test_pictures_called_as_those_on_the_way_stay(encode, photographs, monkeypatch):
    """A folder of FFHQ's names them so, too; ours say who wrote them."""
    images.save("s/c_steps/00077.png", np.zeros((8, 8, 3), np.uint8))
    with monkeypatch.context() as patched, pytest.raises(ValueError, match="00077.png: would be removed by --save_every"):
        patched.setattr(session, "open", None)
        encode("--save_every", 1, "--quiet")
    assert encode("--src_im", "a.png", "--save_every", 1, "--quiet") == 0 and encode("--quiet") == 0
    assert sorted(p.name for p in Path("s").rglob("0*.png")) == ["00000.png", "00001.png", "00077.png"]


@pytest.mark.parametrize("after, frames", [(1, 0), (3, 2)])
def test_an_animation_that_is_stopped_costs_no_latents(encode, photographs, monkeypatch, after, frames):
    interrupt(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        encode("--src_im", "a.png", "--save_video", "x.gif", "--iteration", 9, "--quiet")
    assert latent().shape == (1, 12, 512) and not said()["complete"] and Path("x.gif").exists() == bool(frames)
    if frames:
        with Image.open("x.gif") as movie:
            assert movie.n_frames == frames


def test_an_animation_that_fails_costs_no_latents(encode, photographs, monkeypatch, capsys):
    from editor import animation

    def full(self, frame):
        raise OSError(28, "No space left on device", "v_a.gif")

    monkeypatch.setattr(animation.Animation, "add", full)
    assert encode("--save_video", "v.gif", "--quiet") == 1
    assert sorted(p.name for p in Path("w").glob("*.npy")) == ["a.npy", "b.npy", "c.npy"] and rows() == ["name", "a", "b", "c"]
    assert capsys.readouterr().err.count("failed: v.gif: v_a.gif: No space left") == 3


# ---------------------------------------------------------------------------------------------------------------------
# What is refused before the work, and what fails alone


@pytest.mark.parametrize(
    "words, said",
    [
        (["--save_dir", "in"], "--save_dir in: the folder of a.png"),
        (["--latent_dir", "in/../in"], "--latent_dir .*: the folder of a.png"),
        (["--save_dir", "link"], "--save_dir link: the folder of"),
        (["--save_dir", "in/a.png/x"], "Not a directory"),
        (["--latent_dir", "in/a.png"], "File exists|Not a directory"),
        (["--save_video", "x.avi"], "cannot write .avi"),
        (["--src_im", "a.png", "--save_video", "in/a.png"], "would replace a photograph"),
        (["--src_im", "a.png", "--save_video", "s/a.png"], "would replace a photograph, or its picture"),
        (["--save_video", "in/a.png/x.gif"], "Not a directory"),
        (["--save_video", "in/v.png"], "v_a.png: in the photographs' folder, and would be taken for one"),
        (["--src_im", "a.png", "--save_video", "in/v.webp"], "v.webp: in the photographs' folder"),
        (["--src_im", "a.png", "--mask", "mask.gif", "--save_video", "mask.gif"], "would replace .* the mask"),
        (["--src_im", "a.png", "--save_video", "mask.gif"], "mask.gif: exists and is no animation"),
        (["--save_video", "mask.gif"], "mask_b.gif: exists and is no animation"),
        (["--mask", "in/none.png"], "none.png"),
        (["--mask", "box:0,0,1,1", "--invert_mask"], "leaves nothing that must match"),
        (["--space", "z", "--init", "mean"], "starts from --init z"),
        (["--layers", "12"], "not within 0-11"),
        (["--layers", "1", "--space", "w"], "needs --space w"),
        (["--noise_layers", "12", "--joint"], "not within 0-11"),
        (["--init", "none.npy"], "none.npy"),
        (["--init", "x"], "--init x"),
        (["--device", "meta"], "--device meta"),
        (["--src_im", "pipe.png"], "pipe"),
        (["--src_im", "in"], "folder|directory"),
    ],
)
def test_senseless_calls_end_before_the_work(encode, photographs, monkeypatch, words, said):
    os.mkfifo("pipe.png")
    for name in ("mask.gif", "mask_b.gif"):
        shutil.copy("in/b.png", name)
    os.symlink("in", "link")
    before = {path: files.file_hash(path) for path in Path("in").iterdir()}
    monkeypatch.setattr(projection, "descend", None)
    with pytest.raises((ValueError, OSError)) as raised:
        encode(*words)
    assert re.search(said, str(raised.value)), raised.value
    assert {path: files.file_hash(path) for path in Path("in").iterdir()} == before


@pytest.mark.parametrize("flag", ["lr", "noise_lr", *(f"lambda_{what}" for what in ("mse", "percep", "start", "prior", "cosine", "noise"))])
@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_senseless_rates_and_weights_are_refused(flag, value, capsys):
    with pytest.raises(SystemExit) as ended:
        encode_image.flags().parse_args([f"--{flag}={value}"])
    assert ended.value.code == 2 and f"--{flag}: {value}: expected a finite number" in capsys.readouterr().err


def test_two_photographs_of_one_name_are_refused(encode, photographs, portraits):
    images.save("in/A.jpg", portraits[3])
    with pytest.raises(ValueError, match="A.jpg and in/a.png|a.png and in/A.jpg"):
        encode()
    assert not Path("w").exists()


@pytest.mark.parametrize("flag", ["--latent_dir", "--save_dir"])
def test_results_do_not_replace_links_to_photographs(encode, photographs, flag):
    Path("links").mkdir()
    Path("links/a.png").symlink_to(Path("in/a.png").absolute())
    with pytest.raises(ValueError, match=f"{flag} links: the folder of a.png, whose files results would replace"):
        encode("--src_dir", "links", flag, "links", "--quiet")
    assert Path("links/a.png").is_symlink()


def test_another_photographs_result_is_not_replaced(encode, photographs, portraits, capsys):
    assert encode("--src_im", "a.png", "--quiet") == 0
    images.save("other/a.png", portraits[3])
    images.save("other/d.png", portraits[3])
    assert encode("--src_dir", "other", "--quiet") == 1
    assert "failed: other/a.png: w/a.npy: holds the result of in/a.png" in capsys.readouterr().err and Path("w/d.npy").exists()


def test_a_picture_of_another_folders_latent_is_not_replaced(encode, photographs, portraits, capsys):
    assert encode("--src_im", "a.png", "--quiet") == 0
    before = Path("s/a.png").read_bytes()
    images.save("other/a.png", portraits[3])
    images.save("other/d.png", portraits[3])
    elsewhere = ["--src_dir", "other", "--latent_dir", "w2", "--quiet"]
    assert encode(*elsewhere) == 1
    assert f"failed: other/a.png: s/a.png: the picture of {Path('w/a.npy').absolute()}; give" in capsys.readouterr().err
    assert Path("s/a.png").read_bytes() == before and not Path("w2/a.npy").exists() and Path("w2/d.npy").exists()
    assert rows() == ["name", "a", "d"], "the table holds the pictures of both"
    assert encode(*elsewhere, "--save_dir", "s2") == 0  # a whole result of its own, with its picture there
    assert encode(*elsewhere) == 1 and Path("s/a.png").read_bytes() == before
    Path("w/a.npy").unlink()  # the owner is gone
    assert encode(*elsewhere) == 0 and Path("s/a.png").read_bytes() == Path("s2/a.png").read_bytes()
    assert "warning: s/a.png: replaces " in capsys.readouterr().err


def test_what_is_done_again_with_other_settings_says_so(encode, photographs, capsys):
    assert encode("--src_im", "a.png") == 0
    assert encode("--src_im", "a.png") == 0
    assert "replaces" not in capsys.readouterr().err
    assert encode("--src_im", "a.png", "--iteration", 3, "--quiet") == 0
    assert capsys.readouterr().err == "warning: s/a.png: replaces what an earlier run made of the same files with other settings\n"


def test_a_table_that_is_no_table_of_ours_is_replaced(encode, photographs):
    for text in ("", "name,loss\na,1\n", "name,psnr,ssim,loss,steps,seconds,latent\n../x,1\n\0,1,1,1,1,1,1\n", '"' + "x" * 200_000):
        Path("s").mkdir(exist_ok=True)
        Path("s/metrics.csv").write_text(text)
        assert encode("--src_im", "a.png", "--quiet") == 0 and rows() == ["name", "a"]


def test_a_table_of_somebody_elses_is_not_replaced(encode, photographs, monkeypatch):
    Path("s").mkdir()
    table = Path("s/metrics.csv")
    with monkeypatch.context() as patched:
        patched.setattr(session, "open", None)
        for text in ("face,score\na,1\n", "name,psnr\n", "\n\0", '"' + "x" * 200_000):
            table.write_text(text)
            with pytest.raises(ValueError, match="metrics.csv: a table that this command did not write"):
                encode("--src_im", "a.png", "--quiet")
            assert table.read_text() == text
        table.unlink()
        os.mkfifo(table)
        with pytest.raises(ValueError, match="metrics.csv: a pipe"):
            encode("--src_im", "a.png", "--quiet")
    table.unlink()
    table.write_text("name,psnr,ssim,loss,steps,seconds\nx,1,1,1,1,1\n")  # an older toolkit's
    assert encode("--src_im", "a.png", "--quiet") == 0 and rows() == ["name", "a"]


def test_one_bad_image_of_a_folder_fails_alone(encode, photographs, portraits, capsys):
    names = ["l" * 246 + ".png", "x\x1b[31m\n.png", "latin\udce9.png"]
    for name in names:
        images.save("in/z.png", portraits[3])
        os.rename("in/z.png", f"in/{name}")
    Path("in/t.png").write_text("<html>")
    assert encode("--quiet") == 1
    failed = capsys.readouterr().err.splitlines()
    assert len(failed) == 2 and any("t.png: a web page" in line for line in failed) and any("File name too long" in line for line in failed)
    assert len(list(Path("w").glob("*.npy"))) == 5 and len(rows()) >= 6
    assert encode("--quiet", "--resume") == 1  # one bad image stays one of a batch
    assert face.read("w/latin\udce9.npy").info["name"] == "latin\udce9"


def test_what_diverged_is_not_written(encode, photographs, monkeypatch, capsys):
    write = images.load

    def spoiled(path, side):
        return write(path, side) * (np.nan if path.name == "b.png" else 1)

    monkeypatch.setattr(images, "load", spoiled)
    assert encode("--batch_size", 3, "--quiet") == 1
    assert "failed: in/b.png: the loss stopped being finite" in capsys.readouterr().err
    assert sorted(p.name for p in Path("w").iterdir()) == ["a.json", "a.npy", "c.json", "c.npy"] and not Path("s/b.png").exists()
    with pytest.raises(ValueError, match="stopped being finite"):
        encode("--src_im", "b.png", "--quiet")


def test_ctrl_c_while_a_result_is_written_keeps_the_others(encode, photographs, monkeypatch, capsys):
    import signal

    write, told = encode_image.write, []

    def stopping(photo, *rest):
        if not told:
            told.append(signal.getsignal(signal.SIGINT))
            cli.stand_ready()
            os.kill(os.getpid(), signal.SIGINT)
        return write(photo, *rest)

    monkeypatch.setattr(encode_image, "write", stopping)
    monkeypatch.setattr(cli, "RUNNING", True)
    try:
        with pytest.raises(KeyboardInterrupt, match="the best so far is in w"):
            encode("--iteration", 30, "--batch_size", "auto")
    finally:
        signal.signal(signal.SIGINT, told[0])
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    kept = sorted(path.stem for path in Path("w").glob("*.npy"))
    assert kept[0] == "a" and face.read("w/a.npy").info["complete"] is True and len(kept) >= (2 if torch.get_num_threads() > 1 else 1)
