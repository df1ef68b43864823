"""Boundaries: reading them, projecting them, and training them on latents whose attribute is known."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import train_boundary
from editor import boundaries, checkpoints, cli, face
from stylegan_layers import Config, Generator
from training import make_boundaries

ROOT = Path(__file__).resolve().parent.parent
QUICK = settings(deadline=None, max_examples=40)  # no deadline: a busy machine is no failure


def unit(seed, rows=1):
    d = torch.randn(rows, 512, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return d / boundaries.length(d)


@pytest.fixture(scope="module")
def faces():
    """2000 latents whose attribute is known: the score is their place along a direction, with some noise."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((2000, 512)).astype(np.float32)
    w[:, 0] += 5  # the plane does not pass the origin
    truth = unit(1)
    return w, w @ truth[0].numpy() + 0.1 * rng.standard_normal(2000), truth


# ---------------------------------------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize("per_layer, scale, flat", [(False, 1, False), (False, 1, True), (True, 1, False), (False, 3, False)])
def test_boundaries_are_read_and_made_length_one(tmp_path, G, per_layer, scale, flat):
    normal = unit(0, G.num_ws if per_layer else 1)
    np.save(tmp_path / "b.npy", scale * (normal[0] if flat else normal).numpy())
    found = boundaries.load(tmp_path / "b.npy", G)
    assert found.normal.dtype == torch.float64 and found.offset == 0 and found.norm == pytest.approx(scale)
    assert torch.allclose(found.normal, normal, rtol=0, atol=1e-15)


def test_saved_boundaries_keep_every_bit_and_their_offset(tmp_path):
    boundary = boundaries.Boundary(unit(3), 0.25, info={"generator_hash": "a" * 64})
    boundaries.save(tmp_path / "b.npy", boundary)
    found = boundaries.load(tmp_path / "b.npy")
    assert torch.allclose(found.normal, boundary.normal, rtol=0, atol=1e-16) and found.offset == 0.25
    assert np.load(tmp_path / "b.npy").dtype == np.float64 and found.info["generator_hash"] == "a" * 64


@pytest.mark.parametrize(
    "array, said",
    [
        (np.ones((1, 100)), "shape"),
        (np.ones((18, 512)), "another generator"),
        (np.ones((2, 4, 512)), "shape"),
        (np.zeros((1, 512)), "length zero"),
        (np.full((1, 512), np.inf), "NaN or infinity"),
        (np.full((1, 512), 1e300), "too large"),
        (np.array(["a"]), "not numbers"),
        (np.array([{}], dtype=object), "array of objects"),
    ],
)
def test_bad_boundaries_are_refused(tmp_path, G, array, said):
    np.save(tmp_path / "b.npy", array)
    with pytest.raises(ValueError, match=said):
        boundaries.load(tmp_path / "b.npy", G)


def test_boundary_of_another_generator_needs_force(tmp_path, G):
    boundaries.save(tmp_path / "b.npy", boundaries.Boundary(unit(0), info={"generator_hash": "0" * 64}))
    with pytest.raises(ValueError, match="another generator.*--force"):
        boundaries.load(tmp_path / "b.npy", G)
    assert boundaries.load(tmp_path / "b.npy", G, force=True).normal.shape == (1, 512)
    (tmp_path / "b.json").write_text('{"offset": "far"}')
    with pytest.raises(ValueError, match="offset"):
        boundaries.load(tmp_path / "b.npy", G)


# ---------------------------------------------------------------------------------------------------------------------
# Projection


def test_a_direction_and_another_ones_record_are_never_used_together(tmp_path):
    for name in "ab":
        boundaries.save(tmp_path / f"{name}.npy", boundaries.Boundary(unit(ord(name)), 0.5))
    os.replace(tmp_path / "a.npy", tmp_path / "b.npy")  # as if killed before b.json
    with pytest.raises(ValueError, match="an unfinished write: b.json is of another direction"):
        boundaries.load(tmp_path / "b.npy")


def test_one_condition_is_the_papers_formula():
    # so are the official *_c_* files: 3.8e-17 apart, measured by hand on stylegan_ffhq_age_c_eyeglasses_boundary.npy
    n1, n2 = unit(1) + 0.5 * unit(2), unit(2)
    expected = n1 - (n1 @ n2.T) * n2
    found = boundaries.conditioned(n1, [n2])
    assert (found - expected / expected.norm()).abs().max() < 1e-12


@QUICK
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([1e-8, 1e-3, 1.0]), st.booleans())
def test_conditions_are_all_orthogonal_and_projection_is_idempotent(seed, count, apart, per_layer):
    base, rows = unit(seed), 6 if per_layer else 1
    others = [base + apart * unit(seed + i + 1) for i in range(count)]  # nearly parallel: hard for one-by-one projection
    others = [o / boundaries.length(o) for o in others]
    found = boundaries.conditioned(unit(seed + 9, rows), others)
    assert max(abs(boundaries.cosine(found, o)) for o in others) < 1e-10
    assert boundaries.length(found) == pytest.approx(1, abs=1e-12)
    assert torch.allclose(boundaries.conditioned(found, others), found, rtol=0, atol=1e-10)


def test_no_condition_changes_nothing_and_its_own_leaves_nothing():
    assert torch.equal(boundaries.conditioned(unit(1), []), unit(1) / boundaries.length(unit(1)))
    with pytest.raises(ValueError, match="nothing is left"):
        boundaries.conditioned(unit(1) + unit(2), [unit(2), unit(1)])


# ---------------------------------------------------------------------------------------------------------------------
# Training


def test_the_known_direction_is_found(faces):
    w, scores, truth = faces
    found = train_boundary.train_by_scores(w[:, None], scores, train_boundary.Config(ratio=0.2))
    assert boundaries.cosine(found.normal, truth) > 0.8
    assert found.normal.shape == (1, 512) and boundaries.length(found.normal) == pytest.approx(1, abs=1e-12)
    assert found.info["held_out_accuracy"] > 0.97 and found.info["accuracy_on_all"] > 0.8
    assert found.info["held_out"] + found.info["trained_on"] == 800
    distance = boundaries.signed_distance(w[:, None], found)
    assert abs((distance > 0).double().mean() - 0.5) < 0.1  # half of them lie on either side: the offset is right


def test_shuffled_scores_teach_nothing(faces):
    w, scores, _ = faces
    shuffled = np.random.default_rng(1).permutation(scores)
    info = train_boundary.train_by_scores(w[:, None], shuffled, train_boundary.Config(ratio=0.2)).info
    assert 0.35 < info["held_out_accuracy"] < 0.65 < info["train_accuracy"]


def test_conditions_hold_in_training(faces):
    w, scores, _ = faces
    conditions = [unit(5), unit(6), unit(7)]
    found = train_boundary.train_by_scores(w[:, None], scores, train_boundary.Config(ratio=0.2), conditions)
    assert max(abs(boundaries.cosine(found.normal, c)) for c in conditions) < 1e-10
    assert found.info["held_out_accuracy"] > 0.95


def test_the_plane_is_put_between_the_classes_again(faces):
    """Conditioned, the normal turns, and the plane's old place means nothing; here all latents are far from the origin."""
    w, scores, _ = faces
    found = train_boundary.train_by_scores(w[:, None] + 20, scores, train_boundary.Config(ratio=0.2), [unit(5)])
    assert found.info["held_out_accuracy"] > 0.95 and found.info["accuracy_on_all"] > 0.75


def test_the_plane_follows_the_scale_and_minds_no_larger_class(faces):
    """Latents five times as large: the same normal, the offset five times as far. Ten times the faces on one side: it stays between."""
    rng = np.random.default_rng(0)
    high, low = (rng.standard_normal((200, 1, 8)) * wide + side for wide, side in ((0.3, 1.5), (3, -1.5)))
    normal, offset = train_boundary.svm(high, low, train_boundary.Config(cost=0.1))
    five, further = train_boundary.svm(5 * high, 5 * low, train_boundary.Config(cost=0.1))
    assert torch.allclose(five, normal, atol=1e-6) and further == pytest.approx(5 * offset, rel=1e-4) and abs(offset) > 0.1
    high, low = (rng.standard_normal((200, 1, 8)) + side for side in (0.6, -0.6))
    _, uneven = train_boundary.svm(high, low[:20], train_boundary.Config())
    assert abs(uneven) < 0.6 * 8**0.5  # between the middles of the two


def test_the_seed_draws_the_split(faces):
    w, scores, _ = faces
    found = [train_boundary.train_by_scores(w[:, None], scores, train_boundary.Config(ratio=0.1, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(found[0].normal, found[1].normal) and not torch.equal(found[0].normal, found[2].normal)


def test_a_direction_a_layer_finds_the_layers_that_matter(faces):
    _, _, truth = faces
    ws = np.random.default_rng(2).standard_normal((3000, 4, 512)).astype(np.float32)
    scores = ws[:, 2] @ truth[0].numpy()  # only layer 2 knows
    one = train_boundary.train_by_scores(ws, scores, train_boundary.Config(ratio=0.3))
    each = train_boundary.train_by_scores(ws, scores, train_boundary.Config(ratio=0.3, per_layer=True))
    lengths = each.normal.norm(dim=1)
    assert one.normal.shape == (1, 512) and each.normal.shape == (4, 512) and lengths.argmax() == 2
    assert boundaries.length(each.normal) == pytest.approx(1, abs=1e-12)
    assert each.info["held_out_accuracy"] > one.info["held_out_accuracy"]
    # W latents, repeated for each layer, are parted like W latents
    flat = train_boundary.train_by_scores(ws[:, 2:3], scores, train_boundary.Config(ratio=0.1))
    broad = train_boundary.train_by_scores(np.repeat(ws[:, 2:3], 4, 1), scores, train_boundary.Config(ratio=0.1))
    assert boundaries.cosine(flat.normal, broad.normal) > 0.999999 and flat.offset == pytest.approx(broad.offset, abs=1e-5)


@pytest.mark.parametrize(
    "scores, ratio, said",
    [
        (np.arange(100.0), 0.02, "leaves 2 on each side"),
        (np.ones(1000), 0.02, "one class only"),
        (np.r_[np.ones(10), np.zeros(990)], 0.02, "at most --ratio 0.01"),
    ],
)
def test_extremes_that_are_none(scores, ratio, said):
    with pytest.raises(ValueError, match=said):
        train_boundary.extremes(scores, ratio)


@QUICK
@given(st.integers(0, 10**6), st.floats(0.02, 0.5))
def test_extremes_are_the_ends(seed, ratio):
    scores = np.random.default_rng(seed).random(400)
    high, low = train_boundary.extremes(scores, ratio)
    assert len(high) == len(low) == int(ratio * 400) and not set(high) & set(low)
    rest = np.setdiff1d(np.arange(400), np.r_[high, low])
    if len(rest):
        assert scores[high].min() > scores[rest].max() and scores[low].max() < scores[rest].min()


@pytest.mark.parametrize("setting", [{"ratio": 0}, {"ratio": 0.6}, {"split": 1}, {"cost": 0}])
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match="--"):
        train_boundary.Config(**setting)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def call(*words):
    return train_boundary.main([str(word) for word in words])


@pytest.fixture
def place(tmp_path, monkeypatch, faces):
    """A folder with w.npy and its scores s.npy, and table.csv that holds them in a column."""
    monkeypatch.chdir(tmp_path)
    w, scores, _ = faces
    np.save("w.npy", w[:400])
    np.save("s.npy", scores[:400])
    with open("table.csv", "w", newline="") as f:
        csv.writer(f).writerows([["name", "smile"], *([i, s] for i, s in enumerate(scores[:400]))])
    return tmp_path


SCORED = ("--latents", "w.npy", "--scores", "s.npy", "--ratio", 0.2)


def test_from_scores_it_repeats_itself_and_reports(place, G, faces, capsys):
    boundaries.save("other.npy", boundaries.Boundary(unit(5)))
    command = ["--latents", "w.npy", "--scores", "table.csv", "--column", "smile", "--ratio", 0.2, "--condition", "other.npy"]
    written = []
    for name in ("a", "b"):
        assert call(*command, "--weight-file", checkpoints.BUNDLED["generator"], "--out", f"{name}/smile.npy") == 0
        said = capsys.readouterr()
        assert said.out == f"{name}/smile.npy\n"
        assert "held out" in said.err and "on all" in said.err and "cosine to other.npy" in said.err and "warning" not in said.err
        written.append(Path(name, "smile.npy").read_bytes())
    assert written[0] == written[1]
    found = boundaries.load("a/smile.npy", G)
    assert boundaries.cosine(found.normal, faces[2]) > 0.5 and abs(boundaries.cosine(found.normal, unit(5))) < 1e-10
    assert found.info["generator_hash"] == G.meta["hash"] and found.info["conditions"] == ["other"] and found.info["ratio"] == 0.2
    assert {role: s["path"] for role, s in found.info["sources"].items()} == {"latents": "w.npy", "scores": "table.csv"}


def test_flags_change_the_boundary(place, faces, capsys):
    """Each flag of the training, by what becomes of the result."""
    flags = {"": [], "ratio": ["--ratio", 0.3], "split": ["--split", 0.5], "cost": ["--cost", 1], "seed": ["--seed", 1]}
    for name, words in flags.items():
        assert call(*SCORED, *words, "--quiet", "--out", f"{name or 'plain'}.npy") == 0
    plain = boundaries.load("plain.npy")
    for name in list(flags)[1:]:
        found = boundaries.load(f"{name}.npy")
        assert not torch.equal(found.normal, plain.normal), name
    assert boundaries.load("split.npy").info["held_out"] == 80 and plain.info["held_out"] == 48 and plain.info["trained_on"] == 112
    assert boundaries.load("ratio.npy").info["trained_on"] == 168
    assert capsys.readouterr().out == ""
    np.save("wp.npy", np.repeat(np.load("w.npy")[:, None], 3, 1))
    assert call("--latents", "wp.npy", *SCORED[2:], "--per_layer", "--quiet", "--out", "layers.npy") == 0
    assert boundaries.load("layers.npy").normal.shape == (3, 512)


def folders(w, scores, generator_hash="b" * 64):
    order = scores.argsort()
    for folder, chosen in (("without", order[:30]), ("with", order[-30:])):
        for i in chosen:
            face.write(f"{folder}/{i}.npy", torch.from_numpy(w[i])[None, None].repeat(1, 4, 1), {"generator_hash": generator_hash})


def test_from_two_folders(place, faces, run):
    """As a process of its own; what a killed run left in a folder is no latent."""
    folders(*faces[:2])
    some = next(Path("with").glob("*.npy"))
    Path("with/.tmp-0.npy").write_bytes(b"")
    Path("with/.whole.npy").write_bytes(some.read_bytes())
    done = run("train_boundary.py", "--positive", "with", "--negative", "without", "--out", "b.npy", cwd=place)
    assert done.returncode == 0 and "held out (18 latents)" in done.stderr and done.stdout == "b.npy\n", done.stderr
    found = boundaries.load("b.npy")
    assert boundaries.cosine(found.normal, faces[2]) > 0.3 and found.info["generator_hash"] == "b" * 64
    assert found.info["trained_on"] == 42
    face.write("with/other.npy", torch.ones(1, 4, 512), {"generator_hash": "c" * 64})
    with pytest.raises(ValueError, match="latents of different generators"):
        call("--positive", "with", "--negative", "without", "--out", "c.npy")


def test_latents_may_be_a_folder_or_flattened(place, faces, G, capsys):
    ws = np.random.default_rng(0).standard_normal((40, G.num_ws, 512)).astype(np.float32)
    scores = ws.mean(1) @ faces[2][0].numpy()
    np.save("s.npy", scores)
    np.save("whole.npy", ws)
    np.save("flat.npy", ws.reshape(40, -1))
    for i, w in enumerate(ws):
        face.write(f"many/{i:02}.npy", torch.from_numpy(w)[None], {"generator_hash": G.meta["hash"]})
    for name, words in {"whole": [], "flat": ["--weight_file", checkpoints.BUNDLED["generator"]], "many": []}.items():
        latents = name if name == "many" else f"{name}.npy"
        assert call("--latents", latents, "--scores", "s.npy", "--ratio", 0.4, *words, "--out", f"of_{name}.npy", "--quiet") == 0
    found = {name: boundaries.load(f"of_{name}.npy") for name in ("whole", "flat", "many")}
    assert torch.equal(found["whole"].normal, found["flat"].normal) and torch.equal(found["whole"].normal, found["many"].normal)
    assert found["flat"].info["generator_hash"] == found["many"].info["generator_hash"] == G.meta["hash"]
    assert "of_whole.npy: nothing says which generator" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"12 layers of 512, flattened.*reshape\(-1, 12, 512\)"):
        call("--latents", "flat.npy", "--scores", "s.npy", "--ratio", 0.4, "--out", "x.npy")


def test_a_boundary_never_replaces_another(place, faces):
    bundled = ROOT / "boundaries" / "smile.npy"
    before = bundled.read_bytes()
    with pytest.raises(ValueError, match="is there already"):
        call(*SCORED, "--out", bundled)
    assert bundled.read_bytes() == before
    assert call(*SCORED, "--quiet", "--out", "b.npy") == 0 == call(*SCORED, "--split", 0.5, "--quiet", "--out", "b.npy")  # anew
    np.save("s2.npy", -np.load("s.npy"))
    with pytest.raises(ValueError, match="holds the result of w.npy, s.npy"):
        call("--latents", "w.npy", "--scores", "s2.npy", "--ratio", 0.2, "--out", "b.npy")
    with pytest.raises(ValueError, match="is there already"):
        call(*SCORED, "--out", "w.npy")
    os.mkfifo("fifo.npy")
    with pytest.raises(ValueError, match="a pipe"):  # compared with what b.npy was made of: not by reading it
        call("--latents", "fifo.npy", *SCORED[2:], "--out", "b.npy")
    folders(*faces[:2])
    two = ["--positive", "with", "--negative", "without", "--quiet"]
    assert call(*two, "--out", "f.npy") == 0 == call(*two, "--out", "f.npy")
    with pytest.raises(ValueError, match="holds the result of with, without"):
        call("--positive", "without", "--negative", "with", "--out", "f.npy")


def test_cosines_are_to_boundaries_alone(place, capsys):
    """Latents lie in the same folder, and look the same: [1, 512]."""
    rng = np.random.default_rng(0)
    np.save("latent.npy", rng.standard_normal((1, 512)))
    face.write("face.npy", torch.randn(1, 1, 512)[0])
    np.save("official.npy", unit(3).numpy())
    boundaries.save("ours.npy", boundaries.Boundary(unit(4)))
    Path("bad.npy").write_text("no array")
    assert call(*SCORED, "--out", "b.npy") == 0
    said = capsys.readouterr().err
    assert "cosine to official:" in said and "cosine to ours:" in said and said.count("cosine") == 2, said


@pytest.mark.parametrize(
    "words, said",
    [
        (["--latents", "w.npy"], "--positive and --negative"),
        (["--latents", "w.npy", "--scores", "s.npy", "--positive", "empty"], "--positive and --negative"),
        (["--latents", "none.npy", "--scores", "s.npy"], "none.npy: no such file"),
        (["--latents", "text.npy", "--scores", "s.npy"], "a text file"),
        (["--latents", "lying.npy", "--scores", "s.npy"], "cannot hold"),
        (["--latents", "fifo.npy", "--scores", "s.npy"], "a pipe"),
        (["--latents", "w.npy", "--scores", "fifo.csv"], "a pipe"),
        (["--latents", "w.npy", "--scores", "short.npy"], "7 scores for the 40 latents"),
        (["--latents", "w.npy", "--scores", "nan.npy"], "score 2 of 40"),
        (["--latents", "w.npy", "--scores", "s.npy", "--column", "a"], "--column"),
        (["--latents", "w.npy", "--scores", "table.csv"], "--column, one of a, b"),
        (["--latents", "w.npy", "--scores", "table.csv", "--column", "c"], "no column c"),
        (["--latents", "w.npy", "--scores", "twice.csv", "--column", "a"], "2 columns are called a"),
        (["--latents", "w.npy", "--scores", "words.csv"], "line 3"),
        (["--latents", "w.npy", "--scores", "nan.csv"], "score 1"),
        (["--latents", "w.npy", "--scores", "huge.csv"], "score 1"),
        (["--latents", "w.npy", "--scores", "null.csv"], "null.csv"),
        (["--latents", "w.npy", "--scores", "long.csv"], "not readable as a table"),
        (["--latents", "w.npy", "--scores", "utf16.csv"], "UTF-8"),
        (["--latents", "w.npy", "--scores", "empty.csv"], "empty file"),
        (["--latents", "deep.npy", "--scores", "s.npy"], "deep.json"),
        (["--latents", "list.npy", "--scores", "s.npy"], "list.json"),
        (["--latents", "w.npy", "--scores", "s.npy"], "leaves 0 on each side"),
        (["--latents", "w.npy", "--scores", "same.npy", "--ratio", "0.4"], "one class only"),
        (["--latents", "w.npy", "--scores", "s.npy", "--ratio", "0.4", "--condition", "wrong.npy"], "cannot condition"),
        (["--latents", "w.npy", "--scores", "s.npy", "--ratio", "0.4", "--per_layer"], "--per_layer needs W+"),
        (["--latents", "w.npy", "--scores", "s.npy", "--ratio", "nan"], "--ratio"),
        (["--latents", "w.npy", "--scores", "s.npy", "--cost", "-1"], "--cost"),
        (["--latents", "w.npy", "--scores", "s.npy", "--split", "1"], "--split"),
        (["--latents", "w.npy", "--scores", "s.npy", "--seed", "-1"], "--seed"),
        (["--latents", "w.npy", "--scores", "s.npy", "--out", "x.png"], "ends in .npy"),
        (["--latents", "w.npy", "--scores", "s.npy", "--out", "w.npy/x.npy"], "w.npy"),
        (["--latents", "w.npy", "--scores", "s.npy", "--weight_file", "none"], "none: no such file"),
        (["--latents", "z.npy", "--scores", "s.npy", "--weight_file", str(checkpoints.BUNDLED["generator"])], "latents of the generator"),
        (["--positive", "empty", "--negative", "empty"], "no .npy"),
        (["--positive", "mixed", "--negative", "mixed"], "of one generator only"),
        (["--positive", "w.npy", "--negative", "empty"], "a file"),
    ],
)
def test_bad_calls_say_so_in_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "mixed"):
        Path(folder).mkdir()
    rng, scores = np.random.default_rng(0), np.arange(40.0)
    arrays = {
        "w": rng.standard_normal((40, 512)), "wrong": np.ones((1, 100)), "s": scores, "short": scores[:7], "same": np.ones(40),
        "nan": np.where(scores == 1, np.nan, scores), "deep": np.ones((40, 512)), "list": np.ones((40, 512)), "z": np.ones((40, 100)),
        "mixed/a": np.ones((1, 4, 512)), "mixed/b": np.ones((1, 6, 512)),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    texts = {
        "text.npy": "words", "table.csv": "a,b\n1,2\n", "twice.csv": "a,a\n1,2\n", "words.csv": "score\n1\nx\n", "nan.csv": "nan\n" * 40,
        "huge.csv": f"{'9' * 5000}\n" * 40, "null.csv": "a\n\0\n", "long.csv": "x" * 200_000, "empty.csv": "", "list.json": "[1]",
        "deep.json": '{"a":' * 100_000,
    }  # fmt: skip
    for name, text in texts.items():
        Path(name).write_text(text)
    Path("utf16.csv").write_bytes("score\n1\n".encode("utf-16"))
    Path("lying.npy").write_bytes(Path("w.npy").read_bytes()[:200].replace(b"(40, 512)", b"(40, 999)"))
    for name in ("fifo.npy", "fifo.csv"):
        os.mkfifo(name)
    words = words if "--out" in words else [*words, "--out", "out.npy"]
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli, "open_streams", lambda: None)
    monkeypatch.setattr("sys.argv", ["train_boundary.py", *words])
    with pytest.raises(SystemExit) as left:
        cli.run(train_boundary.main)
    error = capsys.readouterr().err
    assert left.value.code == 2 and said in error and len(error.strip().splitlines()) == 1, error
    assert not Path("out.npy").exists()


# ---------------------------------------------------------------------------------------------------------------------
# The bundled boundaries


def test_bundled_boundaries_are_of_the_bundled_generator(G):
    for name in make_boundaries.ATTRIBUTES:
        found = boundaries.load(ROOT / "boundaries" / f"{name}.npy", G)
        assert found.normal.shape == (1, 512) and found.norm == pytest.approx(1, abs=1e-9)
        assert found.info["generator_hash"] == G.meta["hash"]  # not missing, which `load` would let pass


def test_following_a_bundled_boundary_moves_its_score(G):
    net = make_boundaries.load_scorer(ROOT / "weight_files" / "attributes.safetensors")
    names = list(make_boundaries.ATTRIBUTES)
    found = {name: boundaries.load(ROOT / "boundaries" / f"{name}.npy", G) for name in names}
    faces = make_boundaries.random_w(G, 8, 0.7, seed=77)[:, None].expand(-1, G.num_ws, -1)
    before = make_boundaries.score(G, net, faces)
    for i, direction in enumerate(make_boundaries.directions(found, "conditioned").values()):
        change = make_boundaries.score(G, net, make_boundaries.follow(faces, direction, 3.0)) - before
        assert (change[:, i] > 0).mean() >= 0.75, names[i]


def test_making_boundaries_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """The whole command, on a random generator and few faces: same files with and without a stop."""
    torch.manual_seed(0)
    monkeypatch.setattr(make_boundaries, "CHUNK", 20)
    checkpoints.save(tmp_path / "g.safetensors", Generator(Config("stylegan2", 8, 64)))
    command = ["--weight_file", tmp_path / "g.safetensors", "--count", 60, "--ratio", 0.3, "--faces", 4, "--quiet"]
    results = []
    for name in ("a", "b"):
        words = [*command, "--out", tmp_path / name, "--cache", tmp_path / "cache"]
        make_boundaries.main([str(x) for x in words])
        results.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir() if p.name != "README.md"})
        (chunk,) = (tmp_path / "cache").glob("*/0001.npz")
        chunk.unlink()  # as if stopped there
    assert results[0] == results[1] and len(results[0]) == 11
    text = (tmp_path / "a" / "README.md").read_text()
    assert "Cosines" in text and "conditioned, -3" in text and str(tmp_path / "g.safetensors") in text
