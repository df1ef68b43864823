"""A face on disk: what is read, what is refused, how its parts stay together."""

import io
import json
import os
import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editor import face


def write(path, array):
    np.save(path, array)
    return path


def test_round_trip_is_exact(tmp_path, G):
    ws = torch.randn(1, G.num_ws, 512, generator=torch.Generator().manual_seed(0))
    face.write(tmp_path / "a.npy", ws, {"generator_hash": G.meta["hash"]})
    raw = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert raw.dtype == np.float32 and raw.shape == (1, G.num_ws, 512)
    assert torch.equal(face.read(tmp_path / "a.npy", G).ws, ws)


@pytest.mark.parametrize("shape", [(512,), (1, 512), ("L", 512), (3, "L", 512), (5, 512), (40, 512), (18, 1, 512)])
def test_other_shapes_are_read(tmp_path, G, shape):
    shape = [G.num_ws if n == "L" else n for n in shape]
    ws = face.read(write(tmp_path / "a.npy", np.ones(shape, np.float64)), G).ws
    assert ws.shape == (1 if shape in ([512], [G.num_ws, 512]) else shape[0], G.num_ws, 512) and ws.dtype == torch.float32


def test_an_array_in_fortrans_order_is_read_as_it_was(tmp_path, small_G):
    ws = np.random.default_rng(0).standard_normal((2, 6, 512)).astype(np.float32)
    assert np.array_equal(face.read(write(tmp_path / "a.npy", np.asfortranarray(ws)), small_G).ws, ws)


@pytest.mark.parametrize(
    "array, said",
    [
        (np.ones((18, 512), np.float32), "side 1024.*18 faces of W, write them as .18, 1, 512"),
        (np.full((10, 512), np.nan, np.float32), "NaN"),
        (np.array([{"a": 1}], dtype=object), "array of objects"),
        (np.array(["w"]), "not numbers"),
        (np.ones((0, 512), np.float32), "shape"),
    ],
)
def test_bad_latents_are_refused(tmp_path, G, array, said):
    with pytest.raises(ValueError, match=said):
        face.read(write(tmp_path / "a.npy", array), G)


def test_latent_of_another_generator_needs_force(tmp_path, G):
    face.write(tmp_path / "a.npy", G.w_avg.expand(1, G.num_ws, -1), {"generator_hash": "0" * 64})
    with pytest.raises(ValueError, match="--force"):
        face.read(tmp_path / "a.npy", G)
    assert face.read(tmp_path / "a.npy", G, force=True).ws.shape == (1, G.num_ws, 512)


@given(st.sets(st.integers(0, 17), min_size=1))
def test_layer_lists_read_back(layers):
    assert face.layer_range(",".join(map(str, layers)), 18) == sorted(layers)


@pytest.mark.parametrize("text", ["0-18", "5-3", "", "a", "1-", "-1"])
def test_bad_layer_ranges(text):
    with pytest.raises(ValueError, match="layers"):
        face.layer_range(text, 18)


# ---------------------------------------------------------------------------------------------------------------------
# What others wrote


def header(text, version=1):
    text = text.encode("latin1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def array_of(shape, dtype="'<f4'", order="False"):
    return header(f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}}}\n")


def zipped(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


ABSURD = {
    "empty": b"",
    "text": b"0.1, 0.2\n",
    "a pickle": b"\x80\x04N.",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "half a magic": b"\x93NUM",
    "no header": b"\x93NUMPY\x01\x00",
    "version 9": header("{}", 1).replace(b"\x01\x00", b"\x09\x00", 1),
    "a header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
    "code in the header": header("__import__('os').system('touch pwned')\n"),
    "deep header": header("(" * 5000),
    "gigabytes": array_of("(1, 10, 512000000)") + bytes(64),
    "2**70": array_of(f"({2**70}, 10, 512)"),
    "negative": array_of("(-1, 10, 512)"),
    "negative twice": array_of("(-1, -10, 512)"),
    "nothing wide": array_of("(1, 10, 512)", "'V0'"),
    "many of nothing": array_of(f"({10**12},)", "'S0'"),
    "words for sizes": array_of("('a', 'b')"),
    "objects": array_of("(1,)", "'|O'") + b"\x80\x04N.",
    "times": array_of("(512,)", "'<M8[s]'") + bytes(4096),
    "complex": array_of("(512,)", "'<c8'") + bytes(4096),
    "fields": array_of("(256,)", "[('a', '<f4'), ('b', '<f4')]") + bytes(4096),
    "cut": array_of("(1, 10, 512)") + bytes(1000),
    "half precision, huge": array_of("(512,)", "'<f8'") + np.full(512, 1e300).tobytes(),
    "a zip of nothing": b"PK\x05\x06" + bytes(18),
    "half a zip": b"PK\x03\x04" + bytes(50),
    "5 axes": array_of("(1, 1, 1, 10, 512)") + bytes(20480),
    "no axes": array_of("()") + bytes(4),
}


@pytest.mark.parametrize("name", ABSURD)
@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt"])
def test_absurd_latents_are_one_line(tmp_path, small_G, name, ending, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"a{ending}"
    path.write_bytes(ABSURD[name])
    began = time.time()
    with pytest.raises(ValueError, match=f"a{ending}: ") as raised:
        face.read(path, small_G)
    assert len(str(raised.value)) < 600 and time.time() - began < 5 and os.listdir(tmp_path) == [path.name]


def test_archives_are_read_no_further_than_they_should(tmp_path, small_G):
    good = io.BytesIO()
    np.save(good, np.ones((1, 6, 512), np.float32))
    zipped(tmp_path / "good.npz", w=good.getvalue())
    assert torch.equal(face.read(tmp_path / "good.npz", small_G).ws, torch.ones(1, 6, 512))
    zipped(tmp_path / "other.npz", v=good.getvalue())
    with pytest.raises(ValueError, match="it holds v, and no `w`"):
        face.read(tmp_path / "other.npz", small_G)
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        zipped(tmp_path / "bomb.npz", compression, w=array_of("(2001, 512)") + bytes(4 * 512 * 2001))
        assert (tmp_path / "bomb.npz").stat().st_size < 2_000  # 4 MB
        with pytest.raises(ValueError, match="a way that NumPy does not use"):
            face.read(tmp_path / "bomb.npz", small_G)
    zipped(tmp_path / "lie.npz", w=array_of("(1000000, 6, 512)") + bytes(100))
    with pytest.raises(ValueError, match="cannot hold"):
        face.read(tmp_path / "lie.npz", small_G)


@pytest.mark.parametrize("held", [lambda w: w, lambda w: [w], lambda w: {"latent": w}, lambda w: {"a": [w]}, lambda w: w.half()])
def test_a_pt_with_one_tensor_is_a_latent(tmp_path, small_G, held):
    torch.save(held(torch.ones(1, 6, 512)), tmp_path / "a.pt")
    assert torch.equal(face.read(tmp_path / "a.pt", small_G).ws, torch.ones(1, 6, 512))


@pytest.mark.parametrize(
    "held",
    [
        {"a": torch.ones(3), "b": torch.ones(3)},
        [],
        "text",
        torch.ones(1, 6, 512).to_sparse(),
        torch.zeros(1, 1, 1).expand(10_000, 10_000, 512),
        torch.ones(1, 6, 512, dtype=torch.complex64),
        torch.ones(1, 6, 512, dtype=torch.bool),
        torch.nn.Linear(2, 2),
    ],
)
def test_a_pt_of_something_else_is_one_line(tmp_path, small_G, held):
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a.pt: not readable as numbers|a.pt: holds bool|a.pt: shape .2, 1, 3."):
        face.read(tmp_path / "a.pt", small_G)


RECORDS = {
    "a list": "[]", "text": '"a"', "a number": "3", "null": "null", "nothing": "", "deep": "[" * 100_000, "cut": '{"a": ',
    "NaN": '{"psnr": NaN}',
    "a huge number": '{"steps": ' + "9" * 5000 + "}", "hash of another type": '{"generator_hash": 3}',
    "hash of many": '{"generator_hash": ["a"]}',
    "files of another type": '{"files": "x"}', "no files": '{"files": {}}', "files in files": '{"files": {"latent": {}}}',
    "files without the latent": '{"files": {"noise": "x"}}', "30 MB": '{"a": "' + "x" * 30_000_000 + '"}',
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_absurd_records_are_one_line(tmp_path, small_G, name):
    write(tmp_path / "a.npy", np.ones((1, 6, 512), np.float32))
    (tmp_path / "a.json").write_text(RECORDS[name])
    with pytest.raises(ValueError, match="a.json|unfinished") as raised:
        face.read(tmp_path / "a.npy", small_G)
    assert len(str(raised.value)) < 600


def test_records_of_others_and_binary_ones(tmp_path, small_G):
    write(tmp_path / "a.npy", np.ones((1, 6, 512), np.float32))
    for content in (
        b'{"attributes": {"age": [1, 2]}, "generator_hash": null, "files": null}',
        b"{}",
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
    ):
        (tmp_path / "a.json").write_bytes(content)
        assert face.read(tmp_path / "a.npy", small_G).ws.shape == (1, 6, 512)
    for content in (bytes(100), b"\xff\xfe\xfd", b"\x80abc"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(ValueError, match="a.json: not JSON"):
            face.read(tmp_path / "a.npy", small_G)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
@pytest.mark.parametrize("which", ["a.npy", "a.json", "a.noise.npz"])
def test_pipes_are_never_waited_for(tmp_path, small_G, which):
    if which != "a.npy":
        face.write(tmp_path / "a.npy", torch.ones(1, 6, 512), {}, [m + 1 for m in face.own_noise(small_G)])
        (tmp_path / which).unlink()
    os.mkfifo(tmp_path / which)
    with pytest.raises(ValueError, match="pipe|are gone"):
        face.read(tmp_path / "a.npy", small_G)


# ---------------------------------------------------------------------------------------------------------------------
# The parts


def face_with_noise(small_G, path, value=1.0):
    maps = [m + value for m in face.own_noise(small_G)]
    face.write(path, torch.full((1, 6, 512), value), {"steps": value}, maps)
    return maps


def test_parts_of_two_faces_are_never_used_together(tmp_path, small_G):
    face_with_noise(small_G, tmp_path / "a.npy", 1.0)
    face_with_noise(small_G, tmp_path / "b.npy", 2.0)
    for part in ("a.npy", "a.noise.npz"):
        kept = (tmp_path / part).read_bytes()
        (tmp_path / part).write_bytes((tmp_path / part.replace("a.", "b.")).read_bytes())
        with pytest.raises(ValueError, match="an unfinished write"):
            face.read(tmp_path / "a.npy", small_G)
        (tmp_path / part).write_bytes(kept)
    assert face.read(tmp_path / "a.npy", small_G).info["steps"] == 1.0
    (tmp_path / "a.noise.npz").unlink()
    with pytest.raises(ValueError, match="its noise maps .a.noise.npz. are gone"):
        face.read(tmp_path / "a.npy", small_G)
    assert face.read(tmp_path / "a.npy", small_G, saved_noise=False).noise is None


def test_noise_that_no_record_names(tmp_path, small_G):
    face_with_noise(small_G, tmp_path / "a.npy")
    (tmp_path / "a.json").unlink()
    with pytest.raises(ValueError, match="no a.json says that it belongs to a.npy"):
        face.read(tmp_path / "a.npy", small_G)
    face.write(tmp_path / "b.npy", torch.ones(1, 6, 512), {})
    os.rename(tmp_path / "a.noise.npz", tmp_path / "b.noise.npz")
    found = face.read(tmp_path / "b.npy", small_G)
    assert found.noise is None and len(found.remarks) == 1 and "left out" in found.remarks[0]


def test_a_z_given_as_w_is_remarked_upon(tmp_path, G):
    z = torch.randn(64, 512, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        w, cut = G.mapping(z), G.w_avg + 0.7 * (G.mapping(z) - G.w_avg)
    for array, remarks in ((z[:1], 1), (z, 1), (z[:1, None].repeat(1, G.num_ws, 1), 1), (w, 0), (w[:1], 0), (cut, 0), (G.w_avg, 0)):
        found = face.read(write(tmp_path / "a.npy", array.numpy()), G)
        assert len(found.remarks) == remarks and all("is it a z?" in remark for remark in found.remarks)


def test_a_folder_means_its_latents_in_order(tmp_path):
    for name in ("b.npy", "a.npy", ".hidden.npy", "a.noise.npz", "a.json"):
        (tmp_path / name).write_bytes(b"")
    assert face.expand([tmp_path, "x.npy"]) == [tmp_path / "a.npy", tmp_path / "b.npy", type(tmp_path)("x.npy")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no .npy in this folder"):
        face.expand([tmp_path / "empty"])


def test_several_faces_are_split_by_name(tmp_path, small_G):
    face.write(tmp_path / "a.npy", torch.arange(3.0)[:, None, None].expand(3, 6, 512), {"steps": 3})
    whole = face.read(tmp_path / "a.npy", small_G)
    assert [(one.name, one.ws.mean().item(), one.info["steps"]) for one in whole.split()] == [("a_0", 0, 3), ("a_1", 1, 3), ("a_2", 2, 3)]
    with pytest.raises(ValueError, match="holds 3 latents"):
        face.read_one(tmp_path / "a.npy", small_G)


def test_layers_are_mixed_with_their_noise(small_G):
    a = face.Face(torch.zeros(1, 6, 512), [torch.zeros_like(m) for m in face.own_noise(small_G)])
    b = face.Face(torch.ones(1, 6, 512), [torch.ones_like(m) for m in face.own_noise(small_G)])
    mixed = face.mix(a, b, [1, 4])
    assert mixed.ws[0, :, 0].tolist() == [0, 1, 0, 0, 1, 0] and [m.mean().item() for m in mixed.noise] == [0, 1, 0, 0, 1, 0]
    half = face.mix(a, b, [1], 0.5)
    assert half.ws[0, 1, 0] == 0.5 and half.noise[1].mean() == 0.5
    plain = face.Face(torch.ones(1, 6, 512))
    mixed = face.mix(a, plain, [1], G=small_G)  # a face without maps of its own has the generator's
    assert torch.equal(mixed.noise[1], face.own_noise(small_G)[1]) and mixed.noise[0].abs().max() == 0
    assert face.mix(plain, plain, [0]).noise is None


def test_only_npy_is_written(tmp_path):
    with pytest.raises(ValueError, match="written as .npy"):
        face.write(tmp_path / "a.png", torch.ones(1, 6, 512))
    assert os.listdir(tmp_path) == []
    face.write(tmp_path / "a.b.npy", torch.ones(1, 6, 512), {"é": "\udce9"})
    assert json.loads((tmp_path / "a.b.json").read_text())["é"] == "\udce9"
    assert [path.name for path in face.outputs(tmp_path / "a.b.npy")] == ["a.b.npy", "a.b.noise.npz", "a.b.tuned.safetensors", "a.b.json"]
