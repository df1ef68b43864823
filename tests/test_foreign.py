"""Latents and directions as other projects save them: the right numbers, or one line that says what the file is."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import semantic_edit
from editor import boundaries, face, foreign, scored
from editor import session as sessions


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unit(*shape, seed=0):
    rows = random(*shape, seed=seed).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def names(found):
    return [one.name for one in found.split()]


# ---------------------------------------------------------------------------------------------------------------------
# Latents


def test_e4es_tensor_of_all_faces(tmp_path, small_G):
    ws = random(3, 6, 512)
    torch.save(torch.from_numpy(ws), tmp_path / "latents.pt")
    found = face.read(tmp_path / "latents.pt", small_G)
    assert found.ws.numpy().tobytes() == ws.tobytes() and names(found) == ["latents_0", "latents_1", "latents_2"]


def test_boundaries_are_trained_from_a_dict_of_tensors(tmp_path):
    ws = random(40, 6, 512)
    torch.save({f"{i}.png": torch.from_numpy(w[None]) for i, w in enumerate(ws)}, tmp_path / "latents.pt")
    assert np.array_equal(scored.read_latents(tmp_path / "latents.pt")[0], ws)


@pytest.mark.parametrize("shape", [(6, 512), (1, 6, 512), (512,), (1, 512)])
def test_a_dict_of_tensors_keeps_its_names(tmp_path, small_G, shape):
    held = {"photos/me.jpg": random(*shape), "you": random(*shape, seed=1), "../a b?.png": random(*shape, seed=2)}
    torch.save({name: torch.from_numpy(w) for name, w in held.items()}, tmp_path / "latents.pt")
    found = face.read(tmp_path / "latents.pt", small_G)
    assert names(found) == ["latents_me", "latents_you", "latents_a_b_"]
    for one, w in zip(found.split(), held.values(), strict=True):
        assert np.array_equal(one.ws.numpy()[0], np.broadcast_to(w.reshape(-1, 512), (6, 512))) and one.path.parent == tmp_path


def test_names_that_are_alike_are_numbered():
    assert foreign.labels(["a/me.png", "b/ME.jpg"]) == ["0", "1"] and foreign.labels([".", "x"]) == ["0", "1"]
    assert foreign.labels(["é" * 300 + ".png", "y\udcff"]) == ["é" * 40, "y_"]


def test_ptis_tensor_and_nvidias_projection(tmp_path, small_G):
    w = random(1, 6, 512)
    (tmp_path / "me").mkdir()
    torch.save(torch.nn.Parameter(torch.from_numpy(w)), tmp_path / "me/0.pt")
    np.savez(tmp_path / "projected_w.npz", w=w)
    for path in ("me/0.pt", "projected_w.npz"):
        assert face.read_one(tmp_path / path, small_G).ws.numpy().tobytes() == w.tobytes()


def projector(G, plus, count, shared=False):
    """The `.pt` of rosinality's projector.py for `count` images, and its parts."""
    ws = [random(6, 512, seed=i) if plus else random(512, seed=i) for i in range(count)]
    maps = [[random(*m.shape, seed=100 * i + k) for k, m in enumerate(face.own_noise(G))] for i in range(1 if shared else count)]
    made = {"noises": [torch.from_numpy(m) for m in maps[0]]} if shared else {}
    for i, w in enumerate(ws):
        one = {"img": torch.zeros(3, 16, 16), "latent": torch.from_numpy(w)}
        made[f"in/face{i}.png"] = one if shared else one | {"noise": [torch.from_numpy(m) for m in maps[i]]}
    return made, ws, maps


@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_rosinalitys_projections_come_with_their_noise(tmp_path, small_G, plus, shared, count):
    made, ws, maps = projector(small_G, plus, count, shared)
    torch.save(made, tmp_path / "p.pt")
    found = face.read(tmp_path / "p.pt", small_G)
    assert names(found) == (["p"] if count == 1 else ["p_face0", "p_face1"])
    for i, one in enumerate(found.split()):
        assert np.array_equal(one.ws.numpy()[0], np.broadcast_to(ws[i].reshape(-1, 512), (6, 512)))
        assert all(np.array_equal(a.numpy(), b) for a, b in zip(one.maps, maps[0 if shared else i], strict=True))
        together = small_G.synthesis(found.ws, noise=found.maps)[i : i + 1]
        assert torch.allclose(small_G.synthesis(one.ws, noise=one.maps), together, atol=1e-5)
    assert face.read(tmp_path / "p.pt", small_G, saved_noise=False).noise is None


def test_projections_that_do_not_fit_are_named(tmp_path, small_G):
    made, _, _ = projector(small_G, True, 1)
    one = made["in/face0.png"]
    for wrong, said in (
        (one["noise"][:-1], "5 noise maps a face; this generator has 6"),
        ([*one["noise"][:-1], torch.zeros(1, 1, 8, 8)], r"map 5 is float32 \[1, 1, 8, 8\]"),
        ([*one["noise"][:-1], torch.full((1, 1, 16, 16), torch.nan)], "map 5 holds NaN"),
        ("loud", "no list of maps"),
        ([torch.zeros([])] * 6, "p.pt: "),
    ):
        torch.save({"a": one | {"noise": wrong}}, tmp_path / "p.pt")
        with pytest.raises(ValueError, match=said):
            face.read(tmp_path / "p.pt", small_G)
    torch.save(made | {"more": 3}, tmp_path / "p.pt")
    with pytest.raises(ValueError, match="not as rosinality's projector saves it"):
        face.read(tmp_path / "p.pt", small_G)


REFUSED = {
    "sefa.pt": ({"ckpt": "g.pt", "eigvec": torch.eye(512)}, "directions of SeFa .*, not latents; semantic_edit.py --boundary .*sefa.pt:0"),
    "net.pt": ({"style.1.weight": torch.ones(2, 2), "b": torch.ones(2)}, "the weights of a network.*weight_convert.py"),
    "unlike.pt": ({"a": torch.ones(6, 512), "b": torch.ones(5, 512)}, r"b is \[5, 512\], and its first \[6, 512\]"),
    "words.pt": ({"a": torch.ones(6, 512), "b": "x"}, "neither one tensor.* nor a dict of them"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_latent_is_named(tmp_path, small_G, name):
    held, said = REFUSED[name]
    torch.save(held, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: not readable as numbers: .*{said}"):
        face.read(tmp_path / name, small_G)


def test_directions_given_as_latents_are_named(tmp_path, small_G):
    np.savez(tmp_path / "g.npz", act_comp=unit(80, 1, 512), act_stdev=np.ones(80))
    with pytest.raises(ValueError, match="components of GANSpace, not latents; semantic_edit.py --boundary .*g.npz:0"):
        face.read(tmp_path / "g.npz", small_G)
    np.save(tmp_path / "i.npy", {"boundary": unit(1, 512), "meta_data": {}}, allow_pickle=True)
    with pytest.raises(ValueError, match="a boundary of idinvert; semantic_edit.py --boundary .*i.npy"):
        face.read(tmp_path / "i.npy", small_G)
    np.save(tmp_path / "b.npy", unit(1, 512))
    assert "of length 1, as boundaries are" in face.read(tmp_path / "b.npy", small_G).remarks[0]
    boundaries.save(tmp_path / "ours.npy", boundaries.Boundary(torch.from_numpy(unit(1, 512))))
    with pytest.raises(ValueError, match="a boundary by its record, not a latent"):
        face.read(tmp_path / "ours.npy", small_G)


def test_as_many_rows_as_layers_may_be_either(tmp_path, small_G):
    np.save(tmp_path / "a.npy", random(6, 512))
    found = face.read(tmp_path / "a.npy", small_G)
    assert found.ws.shape == (1, 6, 512) and "if these are 6 faces of W, write them as [6, 1, 512]" in found.remarks[0]
    np.save(tmp_path / "c.npy", random(4, 512))
    with pytest.raises(ValueError, match="of side 8: .*, or, if these are 4 faces of W, write them as .4, 1, 512., which numpy.load"):
        face.read(tmp_path / "c.npy", small_G)
    np.save(tmp_path / "d.npy", random(3, 6 * 512))
    with pytest.raises(ValueError, match=r"so many numbers in a row: numpy.load\(...\).reshape\(-1, 6, 512\)"):
        face.read(tmp_path / "d.npy", small_G)
    np.save(tmp_path / "b.npy", random(6, 512)[:, None])
    assert face.read(tmp_path / "b.npy", small_G).ws.shape == (6, 6, 512) and not face.read(tmp_path / "b.npy").remarks


# ---------------------------------------------------------------------------------------------------------------------
# Directions


def test_sefas_columns_are_directions(tmp_path, small_G):
    vectors = torch.linalg.svd(torch.from_numpy(random(700, 512)))[2].T.contiguous()
    torch.save({"ckpt": "stylegan2.pt", "eigvec": vectors}, tmp_path / "factor.pt")
    for number in (0, 7, 511):
        found = boundaries.load(f"{tmp_path}/factor.pt:{number}", small_G)
        assert np.allclose(found.normal[0], vectors[:, number], atol=1e-6) and found.name == f"factor_{number}" and found.unit == 1
    with pytest.raises(ValueError, match="512 directions of SeFa .*; choose one: .*factor.pt:0 to .*factor.pt:511"):
        boundaries.load(tmp_path / "factor.pt", small_G)
    with pytest.raises(ValueError, match="factor.pt:512: it holds 512 directions"):
        boundaries.load(tmp_path / "factor.pt:512", small_G)


@pytest.mark.parametrize("layer", ["style", "conv"])
def test_ganspaces_components_count_in_their_deviation(tmp_path, small_G, layer):
    comp, stdev, mean = unit(80, 512), np.linspace(9, 1, 80), random(512)
    held = {"lat_comp": comp.reshape(80, 1, 512), "lat_stdev": stdev, "lat_mean": mean.reshape(1, 1, 512)}
    if layer == "style":  # its activations are w
        held = {"act_comp": comp.reshape(80, 1, 512), "act_stdev": stdev, "act_mean": mean[None], "lat_comp": np.ones((80, 1, 512))}
    else:
        held |= {"act_comp": random(80, 8, 4, 4), "act_stdev": np.ones(80), "act_mean": random(1, 8, 4, 4)}
    np.savez(tmp_path / "g.npz", **held, var_ratio=np.ones(80))
    found = boundaries.load(tmp_path / "g.npz:3", small_G)
    assert np.allclose(found.normal[0], comp[3]) and found.unit == stdev[3]
    assert np.allclose(boundaries.signed_distance(mean[None, None], found), 0, atol=1e-5)
    ws = torch.from_numpy(random(1, 6, 512)).double()
    assert np.allclose(boundaries.moved(ws, [(found, 2.0)]) - ws, 2 * stdev[3] * comp[3])
    there = boundaries.moved(ws, [(found, 2.0)], absolute=True)
    assert np.allclose(boundaries.signed_distance(there, found), 2.0)
    assert "component's standard deviation, 8.7 of W" in boundaries.read([f"{tmp_path}/g.npz:3"], tmp_path, small_G)[1][0]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("layers, rows", [("4-5", 1), ([4, 5], 1), ("4,5", 6)])
def test_idinverts_layers_alone_move(tmp_path, small_G, protocol, layers, rows):
    normal = unit(rows, 512)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    held = {"boundary": normal if rows == 1 else normal[None], "meta_data": {"manipulate_layers": layers, "attribute": "age"}}
    body = pickle.dumps(np.array(held, object), protocol)
    (tmp_path / "age.npy").write_bytes(head.getvalue() + body)
    assert np.load(tmp_path / "age.npy", allow_pickle=True)[()]["meta_data"] == held["meta_data"]
    found = boundaries.load(tmp_path / "age.npy", small_G)
    assert found.layers == [4, 5] and np.allclose(found.normal, normal)
    ws = torch.from_numpy(random(1, 6, 512)).double()
    away = (boundaries.moved(ws, [(found, 3.0)]) - ws)[0]
    assert (away[:4] == 0).all() and np.allclose(away[4:], 3 * np.broadcast_to(normal, (6, 512))[4:])
    two = (boundaries.moved(ws, [(found, 3.0), (boundaries.Boundary(torch.from_numpy(normal)), 1.0)]) - ws)[0]
    assert np.allclose(two - away, normal) or rows > 1
    there = boundaries.moved(ws, [(found, 2.0)], absolute=True)
    assert np.allclose(boundaries.signed_distance(there, found, [4, 5]), 2.0)
    assert (boundaries.moved(ws, [(found, 3.0)], layers=[0, 4]) - ws)[0, 0].abs().max() == 0


def test_idinverts_layers_of_another_generator_are_named(tmp_path, small_G):
    for layers, said in (
        ("4-9", "manipulate_layers, layers '4-9': 4-9 is not within 0-5"),
        ({"a": 1}, "manipulate_layers is .*not such as 4-5"),
    ):
        np.save(tmp_path / "a.npy", {"boundary": unit(1, 512), "meta_data": {"manipulate_layers": layers}}, allow_pickle=True)
        with pytest.raises(ValueError, match=said):
            boundaries.load(tmp_path / "a.npy", small_G)


class Touch:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("held", [Touch(), {"boundary": Touch()}, {"boundary": 3}, [1, 2], {"boundary": np.array([Touch()], object)}])
def test_pickles_of_anything_else_run_nothing(tmp_path, small_G, monkeypatch, held):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", np.array(held, object), allow_pickle=True)
    for read in (boundaries.load, face.read):
        with pytest.raises(ValueError, match="a.npy: not readable as numbers: ") as raised:
            read(tmp_path / "a.npy", small_G)
        assert len(str(raised.value)) < 500
    assert os.listdir(tmp_path) == ["a.npy"]


NO_DIRECTIONS = {
    "none.pt": {"eigvec": torch.ones(512, 0)},
    "flat.pt": {"eigvec": torch.ones(512)},
    "whole.pt": {"eigvec": torch.ones(512, 512, dtype=torch.long)},
    "text.pt": {"eigvec": "x"},
    "nan.pt": {"eigvec": torch.full((512, 4), torch.nan)},
    "none.npz": {"act_comp": np.ones((0, 1, 512))},
    "one.npz": {"act_comp": np.array(3.0)},
    "text.npz": {"act_comp": unit(4, 512), "act_stdev": np.array(["a", "b", "c", "d"])},
    "short.npz": {"act_comp": unit(4, 512), "act_stdev": np.ones(3)},
    "zero.npz": {"act_comp": unit(4, 512), "act_stdev": np.zeros(4)},
    "minus.npz": {"act_comp": unit(4, 512), "act_stdev": -np.ones(4)},
    "far.npz": {"act_comp": unit(4, 512), "act_mean": np.full(512, np.inf)},
    "objects.npz": {"act_comp": np.array([{}], object)},
    "words.npz": {"act_comp": np.array([["a"] * 512])},
    "flat.npy": {"boundary": np.array(3.0)},
    "none.npy": {"boundary": np.ones((0, 512))},
    "words.npy": {"boundary": "x"},
    "deep.npy": {"boundary": np.ones((1, 512)), "meta_data": {"manipulate_layers": [["4"]]}},
}


@pytest.mark.parametrize("name", NO_DIRECTIONS)
@pytest.mark.parametrize("number", ["", ":0", ":2"])
def test_absurd_directions_are_one_line(tmp_path, small_G, name, number):
    held, path = NO_DIRECTIONS[name], tmp_path / name
    if path.suffix == ".pt":
        torch.save(held, path)
    elif path.suffix == ".npz":
        np.savez(path, **held)
    else:
        np.save(path, held, allow_pickle=True)
    with pytest.raises(ValueError, match=name) as raised:
        boundaries.load(f"{path}{number}", small_G)
    assert len(str(raised.value)) < 500


def test_boundaries_in_other_wrappings(tmp_path, small_G):
    normal = unit(1, 512)
    torch.save(torch.from_numpy(normal), tmp_path / "age.pt")  # e4e's and InterFaceGAN's in PyTorch
    np.savez(tmp_path / "b.npz", boundary=normal)
    np.save(tmp_path / "c.npy", normal)
    np.save(tmp_path / "d.npy", np.repeat(normal, 6, 0)[None])
    for name in ("age.pt", "b.npz", "c.npy", "d.npy"):
        assert np.allclose(boundaries.load(tmp_path / name, small_G).normal, normal)
    np.save(tmp_path / "rows.npy", unit(9, 512))
    assert np.allclose(boundaries.load(tmp_path / "rows.npy:4", small_G).normal, unit(9, 512)[4:5])
    with pytest.raises(ValueError, match="if these are 9 directions, .*rows.npy:0 is the first"):
        boundaries.load(tmp_path / "rows.npy", small_G)
    np.save(tmp_path / "face.npy", random(1, 6, 512))
    with pytest.raises(ValueError, match="shape"):  # a latent
        boundaries.load(tmp_path / "face.npy", small_G)


def test_semantic_edit_follows_a_component(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vectors = torch.from_numpy(unit(512, 512).T.copy()).float()  # columns of length 1
    torch.save({"ckpt": "g.pt", "eigvec": vectors}, "factor.pt")
    np.save("age.npy", {"boundary": unit(1, 512, seed=3), "meta_data": {"manipulate_layers": "1-2"}}, allow_pickle=True)
    words = ["--latent_file", str(tiny.folder / "c.npy"), "--weight_file", str(tiny.weights), "--device", "cpu", "--quiet"]
    before = np.load(tiny.folder / "c.npy")[0]
    assert semantic_edit.main([*words, "--edit", "factor.pt:3=2", "age.npy=1"]) == 0
    away = np.load("save_image/boundary/c_factor_3+2_age+1.npy")[0] - before
    first, age = 2 * vectors[:, 3].numpy(), unit(1, 512, seed=3)[0]
    assert (
        np.allclose(away[0], first, atol=1e-5)
        and np.allclose(away[1:3], first + age, atol=1e-5)
        and np.allclose(away[3:], first, atol=1e-5)
    )
    assert semantic_edit.main([*words, "--edit", "age.npy=1", "--layers", "0,1"]) == 0
    away = np.load("save_image/boundary/c_age+1.npy")[0] - before
    assert np.allclose(away[:2], age, atol=1e-5) and (away[2:] == 0).all()
    assert semantic_edit.main([*words, "--boundary", "factor.pt:3", "factor.pt:4", "--steps", "2"]) == 0
    assert {"c_factor_3.png", "c_factor_4.png"} <= set(os.listdir("save_image/boundary"))
    assert face.record(Path("save_image/boundary/c_factor_3.png"))["sources"]["boundary factor_3"]["sha256"] == sessions.content_hash(
        "factor.pt"
    )
