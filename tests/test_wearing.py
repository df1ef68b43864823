"""Every command carries the weights that were tuned around a face: what it writes renders to its picture, at every strength."""

import numpy as np
import pytest
import torch

from editor import boundaries, face, images

STRENGTHS = ["1", "0.5", "0"]


@pytest.fixture
def place(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("t", "u")):
        tiny.tuned(f"{name}.npy", seed)
    images.save("t.png", tiny.render("t.npy"))
    direction = torch.randn(1, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boundaries.save("smile.npy", boundaries.Boundary(direction / direction.norm(), 0.0, info={"generator_hash": tiny.G.meta["hash"]}))
    drawn = images.open_image("t.png").resize((64, 64))
    drawn.paste((250, 20, 20), (20, 40, 40, 50))
    drawn.save("drawn.png")


EDIT = ["--latent_file", "t.npy", "--boundary_dir", ".", "--out_dir", "out"]
LOCAL = ["--perceptual", "none", "--iteration", "2", "--noise_iteration", "2", "--out", "out/"]
COMMANDS = {  # command -> words, {latent: picture} of its results
    "semantic_edit": [*EDIT, "--edit", "smile=2"],
    "semantic_edit strip": [*EDIT, "--boundary", "smile", "--steps", "1", "--save_latents"],
    "drag_edit": ["--latent_file", "t.npy", "--drag", "6,6>9,8", "--find", "features", "--iteration", "2", "--out", "out/d"],
    "image_crossover": ["--latent_file1", "t.npy", "--latent_file2", "u.npy", "--out", "out/x"],
    "facial_exchange": ["--latent_file1", "t.npy", "--latent_file2", "u.npy", "--out_dir", "out"],
    "local_edit scribble": ["scribble", "--latent_file", "t.npy", "--scribble", "drawn.png", *LOCAL],
    "local_edit style": ["style", "--latent_file", "t.npy", "--style_im", "drawn.png", "--mask", "box:0,0,1,0.5", "--perceptual", "bundled",
                         *LOCAL[2:]],
    "local_edit transfer": ["transfer", "--latent_file1", "t.npy", "--latent_file2", "u.npy", "--mask", "box:0,0,1,0.5", "--embed", *LOCAL],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_carries_the_weights(name, place, tiny):
    """(image_morphing: test_morph.py.)"""
    import importlib
    from pathlib import Path

    seen = []
    for strength in STRENGTHS:
        words = [*COMMANDS[name], "--weight_file", tiny.weights, "--tuned_strength", strength, "--precision", "fp32", "--quiet"]
        assert not importlib.import_module(name.split()[0]).main([str(word) for word in words])
        latents = sorted(Path("out").glob("*.npy"))
        assert latents
        for latent in latents:
            found, shown = face.read(latent, tiny.G), np.asarray(images.open_image(latent.with_suffix(".png")))
            assert (found.tuned is None) == (strength == "0") and np.array_equal(tiny.render(latent), shown), latent
        seen.append(shown)
        for path in Path("out").iterdir():
            path.unlink()
    assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[1], seen[2])


def test_parts_of_another_face_come_with_its_weights(tiny, place):
    """What is copied is as it is in the picture it comes from."""
    import local_edit

    a, b = (face.read(f"{name}.npy", tiny.G) for name in "tu")
    everywhere = torch.ones(1, 1, 16, 16)
    found = local_edit.blend_activations(tiny.G, a, b, everywhere, [4, 8, 16])
    from editor import tuning

    both = {name: (a if name.startswith("torgb") else b).tuned[name] for name in a.tuned}
    with torch.no_grad():
        wanted = tuning.worn(tiny.G, both).synthesis(b.ws, noise=b.maps)
    assert torch.allclose(found, wanted, atol=1e-5)
