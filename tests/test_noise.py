import json
import math

import numpy as np
import pytest
import torch

import stylegan_layers
from editor import face, images, projection, render, settings


@pytest.fixture(scope="module")
def target(G):
    """[1, 3, R, R] that no latent renders: a rendering with stripes."""
    with torch.no_grad():
        image = G(torch.randn(1, 512, generator=torch.Generator().manual_seed(5)), truncation_psi=0.7)
    return (image + 0.2 * torch.sin(torch.arange(G.resolution) * 1.5)).clamp(-1, 1)


def small(kind="stylegan1", strength=0.1):
    """A tiny generator whose noise strengths differ a hundredfold from layer to layer."""
    torch.manual_seed(0)
    G = stylegan_layers.Generator(stylegan_layers.Config(kind, resolution=16, channel_base=128))
    for i, layer in enumerate(G.synthesis.layers()):
        layer.noise_strength.data.fill_(strength * 10 ** -(i % 3))
    return G.freeze()


def psnr(G, ws, noise, target):
    with torch.no_grad():
        return -10 * math.log10(((G.synthesis(ws, noise=noise).clamp(-1, 1) - target) / 2).square().mean())


def test_noise_stage_raises_psnr_by_10_db_at_equal_steps(G, target):
    alone = projection.project(G, None, target, settings.Config(iteration=60))
    both = projection.project(G, None, target, settings.Config(iteration=30, noise_iteration=30))
    assert both.steps == alone.steps == 60 and alone.noise is None
    assert psnr(G, both.ws, both.noise, target) > psnr(G, alone.ws, "const", target) + 10
    assert both.noise_loss < 0.1 * alone.loss


@pytest.mark.parametrize("kind", ["stylegan1", "stylegan2"])
def test_maps_act_whatever_their_strength(kind):
    G, moved = small(kind), []
    aim = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.5
    found = projection.project(G, None, aim, settings.Config(iteration=0, noise_iteration=5, schedule="constant"))
    for m, layer in zip(found.noise, G.synthesis.layers(), strict=True):
        assert m.shape == (2, 1, layer.resolution, layer.resolution)
        moved.append(((m - layer.noise_const).abs().mean() * layer.noise_strength.abs().mean()).item())
    assert min(moved) > 0.2 * max(moved)  # what is added to the activations, not what the map holds
    assert (found.noise_loss < found.history[0][1]).all()


def test_only_chosen_maps_move(G, target):
    found = projection.project(G, None, target, settings.Config(iteration=0, noise_iteration=3, noise_layers=[2, 3]))
    changed = [not torch.equal(m[0, 0], layer.noise_const) for m, layer in zip(found.noise, G.synthesis.layers(), strict=True)]
    assert [i for i, c in enumerate(changed) if c] == [2, 3]


def test_where_the_mask_is_black_the_rendering_stays(G, target):
    mask = torch.zeros(1, 1, G.resolution, G.resolution)
    mask[..., : G.resolution // 2] = 1
    config = settings.Config(iteration=0, noise_iteration=60)
    found = projection.project(G, None, projection.Goal(target, mask), config)
    with torch.no_grad():
        before, after = G.synthesis(found.ws), G.synthesis(found.ws, noise=found.noise)
    error = [((a - b).square() * m).sum() for a, b in ((after, target), (before, target)) for m in (mask,)]
    assert error[0] < 0.1 * error[1]
    assert ((after - before).square() * (1 - mask)).sum() < 0.05 * error[1]


def test_regulariser_holds_the_maps(G, target):
    def drift(weight):
        config = settings.Config(iteration=0, noise_iteration=15, lambda_noise=weight)
        found = projection.project(G, None, target, config)
        layers = G.synthesis.layers()
        return sum(((m - y.noise_const) * y.noise_strength).square().sum().item() for m, y in zip(found.noise, layers, strict=True))

    assert drift(100.0) < 0.5 * drift(0.0)


def test_joint_moves_both(G, target):
    found = projection.project(G, None, target, settings.Config(iteration=10, joint=True))
    assert not torch.equal(found.ws[0], G.w_avg.expand(G.num_ws, -1))
    assert any(not torch.equal(m[0, 0], y.noise_const) for m, y in zip(found.noise, G.synthesis.layers(), strict=True))
    assert psnr(G, found.ws, found.noise, target) > psnr(G, found.ws, "const", target)


def test_a_batch_equals_singles_and_start_is_kept():
    G = small()
    aim = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.5
    config = settings.Config(iteration=3, noise_iteration=4)
    both, one = projection.project(G, None, aim, config), projection.project(G, None, aim[1:], config)
    assert torch.allclose(both.loss[1:], one.loss, rtol=1e-2) and torch.allclose(both.noise_loss[1:], one.noise_loss, rtol=1e-2)
    again = projection.project(G, None, aim[1:], settings.Config(iteration=0, init=one.ws, noise=one.noise, noise_iteration=1))
    assert torch.allclose(again.history[0][1], one.noise_loss)


def test_what_cannot_work_says_so():
    G = small(strength=0.0)
    aim = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match="cannot act"):
        projection.project(G, None, aim, settings.Config(iteration=0, noise_iteration=1))
    with pytest.raises(ValueError, match="random noise"):
        projection.project(small(), None, aim, settings.Config(iteration=0, noise_iteration=1, noise="random"))
    with pytest.raises(ValueError, match="0 to 5"):
        projection.project(small(), None, aim, settings.Config(iteration=0, noise_iteration=1, noise_layers=[6]))
    with pytest.raises(ValueError, match="mask of shape"):
        projection.project(small(), None, projection.Goal(aim, torch.ones(1, 1, 8, 8)), settings.Config(iteration=1))


# ---------------------------------------------------------------------------------------------------------------------
# The file


def written(path, G, noise=None, **info):
    """A face of the mean latent at `path`."""
    face.write(path, G.w_avg.expand(1, G.num_ws, -1), {"generator_hash": G.meta["hash"]} | info, noise)
    return path


def test_noise_file_round_trip(tmp_path, G):
    maps = [m.clone() for m in face.own_noise(G)]
    maps[2] = maps[2] * 1000
    path = written(tmp_path / "a.npy", G, face.changed(maps, G))
    with np.load(tmp_path / "a.noise.npz", allow_pickle=False) as data:
        assert list(data) == ["2"] and data["2"].dtype == np.float32
    assert all(torch.equal(a, b) for a, b in zip(face.read(path, G).noise, maps, strict=True))
    assert face.read(path, G, saved_noise=False).noise is None and face.read(path).noise is None
    assert face.changed(face.own_noise(G), G) is None and face.changed(None, G) is None


def test_a_new_latent_takes_the_old_noise_away(tmp_path, G):
    path = written(tmp_path / "a.npy", G, [torch.zeros(1, 1, 4, 4)] + [None] * (len(G.synthesis.layers()) - 1))
    assert face.read(path, G).noise[0].abs().max() == 0
    written(path, G)
    assert face.read(path, G).noise is None and sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.npy"]


@pytest.mark.parametrize(
    "arrays, said",
    [
        ({"99": np.zeros((1, 1, 4, 4), np.float32)}, "'99'"),
        ({"0": np.zeros((1, 1, 8, 8), np.float32)}, r"\[1, 1, 4, 4\]"),
        ({"0": np.full((1, 1, 4, 4), np.nan, np.float32)}, "NaN"),
        ({"w": np.zeros((1, 1, 4, 4), np.float32)}, "'w'"),
    ],
)
def test_other_noise_files_are_refused(tmp_path, G, arrays, said):
    path = written(tmp_path / "a.npy", G)
    np.savez(tmp_path / "a.noise.npz", **arrays)
    (tmp_path / "a.json").write_text('{"steps": 3}')  # an older toolkit's record, without hashes
    with pytest.raises(ValueError, match=said):
        face.read(path, G)


def test_damaged_noise_files_are_refused(tmp_path, G):
    path = written(tmp_path / "a.npy", G)
    (tmp_path / "a.json").write_text('{"steps": 3}')
    for content in (b"", b"PK\x03\x04 broken", b"no zip"):
        (tmp_path / "a.noise.npz").write_bytes(content)
        with pytest.raises(ValueError, match="not noise maps"):
            face.read(path, G)


def test_script_saves_noise_and_the_pictures_on_the_way(run, tmp_path, G, target):
    images.save(tmp_path / "in" / "face.png", target)
    words = ["--src_dir", tmp_path / "in", "--latent_dir", tmp_path, "--save_dir", tmp_path / "png", "--iteration", 4, "--preset", "exact",
             "--noise_iteration", 6, "--save_every", 5, "--save_video", tmp_path / "v.gif", "--compile", "off", "--quiet"]  # fmt: skip
    done = run("encode_image.py", *words)
    assert done.returncode == 0, done.stderr
    found = face.read(tmp_path / "face.npy", G)
    assert np.array_equal(render.one(G, found), np.asarray(images.open_image(tmp_path / "png" / "face.png")))
    assert json.loads((tmp_path / "face.json").read_text())["steps"] == 10
    assert sorted(p.name for p in (tmp_path / "png" / "face_steps").iterdir()) == ["00000.png", "00005.png"]
    assert (tmp_path / "v_face.gif").stat().st_size > 0
