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
