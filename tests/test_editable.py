"""encode_image.py as it is by default: one w, and the weights tuned around it; what presets say. The tuning itself: test_tuning.py."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import encode_image
from editor import checkpoints, face, render, session, settings, tuning
from tests.test_encode import latent, picture, said, stamps

TUNED = ["--src_im", "a.png", "--preset", "editable", "--w_iteration", 2, "--iteration", 0, "--tune", 4, "--tune_lr", 0.01]
TUNED += ["--lr", 0.1, "--quiet"]


def test_the_default_is_one_w_and_weights_tuned_around_it(encode, photographs, G):
    default = encode_image.settled(encode_image.flags().parse_args([]))
    assert (default.w_iteration, default.iteration, default.lambda_prior, default.batch_size) == (40, 0, 0.0, "auto")
    assert default.tune > 0 and default.lambda_cosine > 0
    assert encode(*TUNED) == 0
    found = face.read("w/a.npy", G)
    assert torch.equal(found.ws, found.ws[:, :1].expand_as(found.ws)) and found.info["steps"] == 6 and found.info["complete"]
    assert np.array_equal(render.one(G, found), picture("s/a.png")) and "tuned" in found.info["files"]
    assert not np.array_equal(render.one(G, dataclasses.replace(found, tuned=None)), picture("s/a.png"))
    difference = picture("s/a.png").astype(float) - picture("in/a.png")
    assert [step for step, _ in found.info["history"]] == [0, 1, 2, 5], "a curve for the report, through both stages"
    assert found.info["psnr"] == pytest.approx(10 * np.log10(255**2 / np.square(difference).mean()), abs=0.01)
    assert encode(*TUNED, "--resume", "--batch_size", 3) == 0 and "editable" in settings.PRESETS
    before = stamps("w", "s")
    assert encode(*TUNED[:-1], "--resume") == 0 and stamps("w", "s") == before
    assert encode("--src_im", "a.png", "--quiet") == 0 and face.read("w/a.npy", G).tuned is None  # its old weights are gone
    assert not Path("w/a.tuned.safetensors").exists()


def test_presets_are_defaults_of_flags():
    def chosen(*words):
        args = encode_image.settled(encode_image.flags().parse_args([str(word) for word in words]))
        return args.w_iteration, args.iteration, args.lambda_prior, args.tune, args.init, args.lr, args.schedule

    editable = chosen()
    assert chosen("--preset", "editable") == editable and editable[4:] == (None, 0.1, "cosine")
    assert chosen("--preset", "exact") == (0, 1000, 0.0, 0, None, 0.1, "cosine")
    assert chosen("--preset", "latenteditor") == (0, 1000, 0.0, 0, "zeros", 0.01, "constant")
    assert chosen("--tune", 7, "--w_iteration", 5, "--lambda_prior", 0.5, "--lr", 0.2)[:6] == (5, editable[1], 0.5, 7, None, 0.2)
    for words in (["--mask", "part:mouth"], ["--layers", "1"], ["--joint"], ["--init", "a.npy"]):
        assert chosen(*words)[:4] == (0, 1000, 0.0, 0), words
    assert chosen("--init", "zeros")[:4] == editable[:4]
    assert chosen("--space", "w")[:2] == (0, sum(editable[:2])) and chosen("--space", "z", "--iteration", 3)[:2] == (0, 3)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--preset", "exact", "--tune_lr", 0.1], "--tune_lr: needs --tune N"),
        (["--tune", 0, "--tune_together"], "--tune_together: needs --tune N"),
        (["--tune", 0, "--tune_form", "full"], "--tune_form: needs --tune N"),
        (["--space", "w", "--w_iteration", 3], "--w_iteration is of --space w"),
        (["--preset", "editable", "--layers", "1"], "--layers: of the steps after --w_iteration"),
        (["--preset", "editable", "--joint"], "--joint: of the steps after --w_iteration"),
        (["--preset", "editable", "--lambda_start", 1], "--lambda_start: of the steps after --w_iteration"),
    ],
)
def test_flags_that_cannot_act_with_the_preset_are_refused(words, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        encode_image.settled(encode_image.flags().parse_args([str(word) for word in words]))


def weights(name="a"):
    return {key: value for key, value in tuning.read(Path(f"w/{name}.tuned.safetensors"), checkpoints.load_generator(None, "cpu")).items()}


@pytest.mark.parametrize(
    "words",
    [["--tune", 8], ["--tune_form", "full"], ["--tune_lr", 0.003], ["--tune_locality", 50], ["--w_iteration", 3]],
    ids=lambda w: w[0],
)
def test_flags_of_the_tuning_change_the_weights(encode, photographs, words):
    assert encode(*TUNED) == 0
    before, ws = weights(), latent()
    assert encode(*TUNED, *words) == 0
    assert any(value.shape != before[name].shape or not torch.equal(value, before[name]) for name, value in weights().items())
    assert np.array_equal(latent(), ws) != (words[0] == "--w_iteration")
    kept = said()["settings"]
    assert kept["tuning"]["steps"] == (8 if words[0] == "--tune" else 4) and kept["tuning"].get(words[0][7:], words[1]) == words[1]


def test_tune_until_ends_early(encode, photographs):
    assert encode(*TUNED, "--tune", 30, "--tune_until", 5) == 0
    assert said()["stopped"] == "near enough" and said()["steps"] == 3 and said()["complete"]


def test_tune_together_makes_one_set_of_weights(encode, photographs, G):
    words = [word for word in TUNED if word not in ("--src_im", "a.png")]
    assert encode(*words, "--tune_together", "--noise_iteration", 1) == 0
    assert len({Path(f"w/{name}.tuned.safetensors").read_bytes() for name in "abc"}) == 1 and said("w/c.json")["steps"] == 7
    for name in "abc":
        assert np.array_equal(render.one(G, face.read(f"w/{name}.npy", G)), picture(f"s/{name}.png"))
    assert encode(*words) == 0
    assert len({Path(f"w/{name}.tuned.safetensors").read_bytes() for name in "abc"}) == 3


def test_a_mask_keeps_the_steps_that_were_given(encode, photographs):
    words = ["--src_im", "a.png", "--mask", "box:0,0,0.5,1", "--preset", "editable", "--w_iteration", 3, "--iteration", 2, "--tune", 2]
    assert encode(*words, "--quiet") == 0 and said("w/a_fill_box-0-0-0.5-1.json")["steps"] == 7


def test_a_tuning_that_helps_nothing_says_so_and_saves_none(encode, photographs, capsys):
    assert encode(*TUNED, "--tune_lr", 1e6) == 0
    assert "warning: w/a.npy: no step of the weights came nearer" in capsys.readouterr().err and not Path("w/a.tuned.safetensors").exists()


def test_shared_weights_are_resumed_together(encode, photographs, capsys):
    words = [word for word in TUNED if word not in ("--src_im", "a.png", "--quiet")] + ["--tune_together", "--resume"]
    Path("in/c.png").rename("c.png")
    assert encode(*words) == 0 and encode(*words) == 0
    assert "2 of 2 are done already" in capsys.readouterr().err
    Path("c.png").rename("in/c.png")
    assert encode(*words) == 0
    assert "0 of 3 are done already; to do: 2 done with other settings; 1 not done before" in capsys.readouterr().err
    assert len({Path(f"w/{name}.tuned.safetensors").read_bytes() for name in "abc"}) == 1
    Path("s/b.png").unlink()
    assert encode(*words) == 0
    assert "to do: 3 shares its weights with those to do" in capsys.readouterr().err
    Path("in/c.png").unlink()
    assert encode(*words) == 0 and "to do: 2 done with other settings" in capsys.readouterr().err


def test_other_tuned_weights_make_another_source(encode, photographs, G):
    assert encode(*TUNED) == 0
    before = session.origins({"latent": Path("w/a.npy")})
    Path("other").mkdir()
    for part in face.outputs("w/a.npy"):
        if part.exists():
            Path("other", part.name).write_bytes(part.read_bytes())
    assert session.origins({"latent": Path("other/a.npy")})["latent"]["parts"] == before["latent"]["parts"]
    found = face.read("w/a.npy", G)
    face.write(Path("other/a.npy"), found.ws, found.info, None, {name: value * 2 for name, value in found.tuned.items()})
    face.write(Path("result.npy"), found.ws, {"sources": before})
    session.claim(Path("result.npy"), {"latent": Path("w/a.npy")})
    with pytest.raises(ValueError, match="holds the result of w/a.npy"):
        session.claim(Path("result.npy"), {"latent": Path("other/a.npy")})
