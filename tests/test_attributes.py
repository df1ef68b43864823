"""The attribute network that comes with the project, and its training script on 32 made-up images."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from editor import checkpoints
from editor.networks import AttributeConfig, AttributeNet
from training import train_attributes

SHIPPED = checkpoints.HERE / "weight_files" / "attributes.safetensors"


def load(path):
    net = AttributeNet(AttributeConfig(kind="attributes", **checkpoints.read_metadata(path)["config"]))
    checkpoints.load_strictly(net, path)
    return net.eval()


@pytest.fixture(scope="module")
def shipped():
    return load(SHIPPED)


def test_shipped_network_is_small_and_says_where_it_comes_from():
    meta = checkpoints.read_metadata(SHIPPED)
    assert meta["kind"] == "attributes" and "FairFace" in meta["license"] and meta["source"]
    assert SHIPPED.stat().st_size <= 6e6
    with safe_open(SHIPPED, "pt") as f:
        assert {f.get_slice(name).get_dtype() for name in f.keys()} == {"F16"}


def test_scores_have_one_number_an_image(shipped):
    scores = shipped.scores(torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert set(scores) == {"gender", "age", "yaw", "smile", "glasses"}
    assert all(s.shape == (3,) and s.isfinite().all() for s in scores.values())
    assert ((scores["age"] >= 25) & (scores["age"] <= 75)).all()


def test_layers_by_name(shipped):
    assert shipped.layers[:3] == ["conv1_1", "conv1_2", "conv2_1"] and shipped.layers[-1] == "conv5_2"
    images = torch.zeros(1, 3, 64, 64)
    late, early = shipped.features(images, ["conv3_2", "conv1_1"])
    assert late.shape == (1, 64, 16, 16) and early.shape == (1, 16, 64, 64) and early.min() >= 0
    assert torch.equal(shipped.features(images, ["conv1_1"], relu=False)[0].relu(), early)
    with pytest.raises(ValueError, match="conv9_9.*conv1_1, conv1_2"):
        shipped.features(images, ["conv9_9"])
    with pytest.raises(ValueError, match="128, 128"):
        shipped(images)


def test_folding_batch_norm_changes_nothing():
    torch.manual_seed(0)
    trainee = train_attributes.Trainee(AttributeConfig(channels=(8, 8, 8, 8, 8), hidden=8))
    for norm in trainee.norms.values():
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            torch.nn.init.uniform_(values, 0.5, 1.5)
    images, trainee = torch.randn(2, 3, 128, 128), trainee.eval()
    with torch.no_grad():
        wanted, found = trainee(images), trainee.folded()(images)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-4)


def test_a_flip_turns_the_yaw_and_unknown_labels_count_nothing():
    raw = {"gender": torch.zeros(2, 1), "age": torch.zeros(2, 5), "yaw": torch.tensor([[0.5], [-0.5]])}
    raw |= {"smile": torch.zeros(2, 1), "glasses": torch.tensor([[9.0], [0.0]])}
    target = {"gender": torch.ones(2), "age": torch.ones(2, 5), "yaw": torch.tensor([0.5, torch.nan])}
    target |= {"smile": torch.full((2,), torch.nan), "glasses": torch.tensor([torch.nan, 1.0])}
    before = train_attributes.loss_of(raw, target)
    raw["glasses"][0], raw["smile"][:], raw["yaw"][1] = -9.0, 5.0, 7.0
    assert torch.equal(train_attributes.loss_of(raw, target), before) and before.isfinite()


@pytest.fixture
def made_up(tmp_path):
    """A zip of 32 noise images and a table of labels in the form of FairFace's."""
    rng = np.random.default_rng(0)
    rows = []
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for i in range(32):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (128, 128, 3), np.uint8)).save(picture, "png")
            archive.writestr(f"{i}.png", picture.getvalue())
            age, gender = train_attributes.AGES[i % 6], ("Male", "Female")[i % 2]
            row = {"file": f"{i}.png", "age": age, "gender": gender, "yaw": i / 32 - 0.5, "glasses_edge": i / 10, "happy": i % 2}
            rows.append(row)
    with open(tmp_path / "labels.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def arguments(folder, epochs):
    named = {"data": "faces.zip", "labels": "labels.csv", "out": "net.safetensors", "state": "state.pt"}
    paths = [part for flag, name in named.items() for part in (f"--{flag}", str(folder / name))]
    return [*paths, "--epochs", str(epochs), "--small_epochs", "1", "--batch", "16"]


def test_training_goes_on_where_it_stopped(made_up, capsys):
    train_attributes.main([*arguments(made_up, 2), "--minutes", "0"])
    assert not (made_up / "state.pt").exists()  # no time, no epoch
    train_attributes.main(arguments(made_up, 1))
    train_attributes.main(arguments(made_up, 2))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["epoch"] for line in lines] == [1, 2] and all(np.isfinite(line["loss"]) for line in lines)
    assert load(made_up / "net.safetensors").scores(torch.zeros(1, 3, 128, 128))["age"].shape == (1,)


def test_a_resumed_training_equals_an_uninterrupted_one(made_up):
    """To the bit: the dropout of an epoch depends on its number, not on what was drawn before."""
    faces = train_attributes.read_faces(made_up / "faces.zip", made_up / "labels.csv")
    options = train_attributes.Config(epochs=2, small_epochs=2, batch=16)
    none = torch.zeros(0, dtype=torch.long)

    def stop(line):
        raise KeyboardInterrupt

    train_attributes.train(faces, none, options, made_up / "whole.pt", lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        train_attributes.train(faces, none, options, made_up / "parts.pt", stop)
    train_attributes.train(faces, none, options, made_up / "parts.pt", lambda line: None)
    whole, parts = (torch.load(made_up / f"{name}.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["epoch"] == 2 and whole.pop("run") == parts.pop("run")
    torch.testing.assert_close(whole, parts, rtol=0, atol=0, equal_nan=True)


HEAD = "file,age,gender,yaw,glasses_edge,happy\n"


@pytest.mark.parametrize("table, match", [
    (b"file,age\n0.png,20-29\n", "no column gender, glasses_edge, happy, yaw"),
    (b"", "no rows"),
    (b"\xff\xfe\x00", "not a readable CSV"),
    (HEAD.encode() + b"0.png,12,Male,0,0,0\n", "unknown label 12"),
    (HEAD.encode() + b"0.png\n", "unknown label None"),
    (HEAD.encode() + b"0.png,20-29,Male,east,0,0\n", "0.png: yaw is 'east', not a number"),
    (HEAD.encode() + b"x.png,20-29,Male,0,0,0\n", "no image x.png, which .*labels.csv names"),
    (HEAD.encode() + b"0.png,20-29,Male,0,0,0\n", "1 images; give 10 or more"),
    (HEAD.encode() + b"0.png," + b"2" * 200_000 + b",Male,0,0,0\n", "not a readable CSV"),
])  # fmt: skip
def test_errors_name_what_is_wrong(made_up, table, match):
    (made_up / "labels.csv").write_bytes(table)
    with pytest.raises(ValueError, match=match):
        train_attributes.main(arguments(made_up, 1))


@pytest.mark.parametrize("table, match", [
    ("file,attribute\n0.png,smile\n", "no column value"),
    ("file,attribute,value\n0.png,smile,yes\n", "0.png: smile, yes: expected"),
    ("file,attribute,value\n0.png,hat,1\n", "0.png: hat, 1: expected"),
    ("file,attribute,value\na/0.png,smile,1\n", "none of the 32 labelled images; they are called like 0.png"),
])  # fmt: skip
def test_hand_labels_say_what_is_wrong(made_up, table, match):
    (made_up / "hand.csv").write_text(table)
    with pytest.raises(ValueError, match=match):
        train_attributes.main([*arguments(made_up, 1), "--hand_labels", str(made_up / "hand.csv")])


def test_images_are_found_by_name(made_up):
    rows = (made_up / "labels.csv").read_text().splitlines()
    (made_up / "labels.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")
    faces = train_attributes.read_faces(made_up / "faces.zip", made_up / "labels.csv")
    with zipfile.ZipFile(made_up / "faces.zip") as archive:
        for i, name in ((0, "31.png"), (30, "1.png")):
            picture = np.asarray(Image.open(io.BytesIO(archive.read(name))))
            assert faces.names[i] == name and np.array_equal(faces.pixels[i].permute(1, 2, 0).numpy(), picture)


@pytest.mark.parametrize("state", [b"no state", {}, {"trainee": {}}, "other images"], ids=["text", "empty", "foreign", "other images"])
def test_a_state_that_does_not_fit_is_one_line(made_up, state):
    path = made_up / "state.pt"
    if state == "other images":
        train_attributes.main(arguments(made_up, 1))
        rows = (made_up / "labels.csv").read_text().splitlines()
        (made_up / "labels.csv").write_text("\n".join(rows[:-1]) + "\n")
    elif isinstance(state, bytes):
        path.write_bytes(state)
    else:
        torch.save(state, path)
    with pytest.raises(ValueError, match="state.pt: this run cannot go on from there: .*remove the file"):
        train_attributes.main(arguments(made_up, 2))


@pytest.mark.parametrize("flag", ["--epochs 0", "--batch 1", "--lr nan", "--minutes -1", "--small_epochs -1"])
def test_senseless_settings_are_refused(made_up, flag):
    with pytest.raises(ValueError, match=f"{flag}[.0]*: expected"):
        train_attributes.main([*arguments(made_up, 1), *flag.split()])


def test_an_image_that_cannot_be_read_is_named_and_its_row_left_out(made_up, capsys):
    whole = train_attributes.read_faces(made_up / "faces.zip", made_up / "labels.csv")
    with zipfile.ZipFile(made_up / "faces.zip") as archive:
        pictures = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(made_up / "faces.zip", "w") as archive:
        for name, content in pictures.items():
            archive.writestr(name, content[:40] if name == "3.png" else content)
    faces = train_attributes.read_faces(made_up / "faces.zip", made_up / "labels.csv")
    assert "faces.zip: 3.png: " in capsys.readouterr().err
    kept = [i for i, name in enumerate(whole.names) if name != "3.png"]
    assert faces.names == [whole.names[i] for i in kept] and torch.equal(faces.pixels[:], whole.pixels[kept])
    assert torch.equal(faces.targets["gender"].nan_to_num(9), whole.targets["gender"][kept].nan_to_num(9))


def test_an_edge_strength_that_is_not_known_is_no_pair_of_glasses():
    row = {"file": "a", "age": "20-29", "gender": "Male", "yaw": "", "happy": "0.5"}
    targets = train_attributes.read_targets([row | {"glasses_edge": str(i or "")} for i in range(40)], "labels.csv")
    assert targets["glasses"][0].isnan() and targets["glasses"][39] == 1 and targets["glasses"][1] == 0
    with pytest.raises(ValueError, match="a: yaw is 'inf'; leave it empty"):
        train_attributes.read_targets([row | {"yaw": "inf", "glasses_edge": "1"}], "labels.csv")


def test_a_folder_and_a_table_of_a_spreadsheet_are_read(made_up):
    zipfile.ZipFile(made_up / "faces.zip").extractall(made_up / "faces")
    (made_up / "labels.csv").write_text((made_up / "labels.csv").read_text(), encoding="utf-8-sig")
    faces = train_attributes.read_faces(made_up / "faces", made_up / "labels.csv")
    zipped = train_attributes.read_faces(made_up / "faces.zip", made_up / "labels.csv")
    assert faces.names == zipped.names and torch.equal(faces.pixels, zipped.pixels)


def test_rows_of_no_image_and_second_rows_are_named(made_up):
    table = (made_up / "labels.csv").read_text()
    with zipfile.ZipFile(made_up / "faces.zip", "a") as archive:
        archive.writestr("bad.png", b"none")  # it must not excuse the row of another
    for row, match in (("typo.png", "no image typo.png"), ("31.png", "2 rows of 31.png")):
        (made_up / "labels.csv").write_text(table + row + ",20-29,Male,0,0,0\n")
        with pytest.raises(ValueError, match=match):
            train_attributes.read_faces(made_up / "faces.zip", made_up / "labels.csv")


def test_a_state_of_other_pictures_is_not_the_result(made_up):
    train_attributes.main(arguments(made_up, 1))
    with zipfile.ZipFile(made_up / "faces.zip") as archive:
        pictures = [archive.read(f"{i}.png") for i in range(32)]
    with zipfile.ZipFile(made_up / "faces.zip", "w") as archive:
        for i, content in enumerate(reversed(pictures)):
            archive.writestr(f"{i}.png", content)
    with pytest.raises(ValueError, match="state.pt: .*another --data;"):
        train_attributes.main(arguments(made_up, 1))
    with pytest.raises(ValueError, match="holds encoder, not attributes"):
        train_attributes.main([*arguments(made_up, 1), "--out", str(checkpoints.BUNDLED["encoder"])])
