"""Pickles of the official formats, written here, must give the official networks' outputs (tests/golden)."""

import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest
import torch

import model_zoo
import weight_convert
from tests.golden import official, seeded


def named(module, name):
    """A class that pickles under a module path that is not there when the file is read."""
    cls = type(name, (), {"__module__": module})
    path = ""
    for part in module.split("."):
        path = f"{path}.{part}".lstrip(".")
        sys.modules.setdefault(path, types.ModuleType(path))
    setattr(sys.modules[module], name, cls)
    return cls


@pytest.fixture
def Network():
    before = set(sys.modules)
    yield named("dnnlib.tflib.network", "Network")
    for name in set(sys.modules) - before:
        if name.startswith("dnnlib"):
            del sys.modules[name]


def variables(shapes, prefix, seed):
    return {k: seeded.value(prefix + k, s, seed) for k, s in shapes.items()}


def network(Network, values, components=None, version=2):
    n = Network()
    n.__dict__.update(version=version, name="x", static_kwargs={"num_channels": 3}, components=components or {}, build_module_src="import os",
                      build_func_name="f", variables=list(values.items()))  # fmt: skip
    return n


def official_pickle(Network, path, kind, seed, protocol=4):
    size = (128, 1024, 64)
    if kind == "sg1":
        shapes, critic, prefix = official.sg1_synthesis(*size), official.sg1_discriminator(*size), "Gs/"
    else:
        shapes, critic, prefix = official.sg2_synthesis(*size), official.sg2_discriminator(*size), ""
    parts = {
        "synthesis": network(Network, variables(shapes, prefix + "G_synthesis/", seed)),
        "mapping": network(Network, variables(official.mapping(""), prefix + "G_mapping/", seed)),
    }
    own = {"lod": np.float32(0), "dlatent_avg": seeded.value("Gs/dlatent_avg", (512,), seed)}
    Gs = network(Network, own, parts)
    D = network(Network, variables(critic, "D/", seed))
    with open(path, "wb") as f:
        pickle.dump((network(Network, {}), D, Gs), f, protocol=protocol)
    return path


@pytest.mark.parametrize("kind, seed, protocol", [("sg1", 1, 2), ("sg1", 1, 4), ("sg2", 2, 4)])
def test_parity_with_the_official_networks(tmp_path, Network, kind, seed, protocol):
    path = official_pickle(Network, tmp_path / "n.pkl", kind, seed, protocol)
    del sys.modules["dnnlib.tflib.network"]  # reading must not need it
    assert weight_convert.main([str(path), "--out", str(tmp_path / "g.safetensors"), "--discriminator", str(tmp_path / "d.safetensors")]) == 0
    G = model_zoo.load_generator(tmp_path / "g.safetensors")
    D = model_zoo.load_discriminator(tmp_path / "d.safetensors")
    golden = np.load(os.path.join(os.path.dirname(__file__), "golden", f"{kind}_128_small.npz"), allow_pickle=False)
    rng = np.random.RandomState(seed)
    z = torch.from_numpy(rng.standard_normal((2, 512)).astype(np.float32))
    ws = torch.from_numpy(rng.standard_normal((2, G.num_ws, 512)).astype(np.float32))
    img = (rng.uniform(-1, 1, (4, 3, 128, 128)) * np.array([0.1, 0.4, 0.7, 1]).reshape(4, 1, 1, 1)).astype(np.float32)
    with torch.no_grad():
        image = G.synthesis(ws).numpy()
        got = {
            "w": G.mapping(z).numpy(),
            "image": image[:, :, 2::8, 4::8],
            "corner": image[:, :, -4:, -4:],
            "image_trunc": G(z, truncation_psi=0.7, truncation_cutoff=8).numpy()[:, :, 2::8, 4::8],
            "score": D(torch.from_numpy(img)).numpy(),
        }
    for key, value in got.items():
        bar = 1e-4 * (1 if key == "score" else max(golden[key].std(), 1e-9))
        error = np.abs(value - golden[key].reshape(value.shape)).max()
        print(kind, key, error / bar)
        assert error <= bar, f"{key}: {error / bar:.2f} of what is allowed"


def test_our_own_bundled_weights_have_native_names(tmp_path):
    from safetensors.torch import save_file

    G = model_zoo.load_generator()
    state = {k: v.contiguous() for k, v in G.state_dict().items()}
    k = torch.tensor([1.0, 3, 3, 1])
    state["synthesis.b8.conv0.resample_filter"] = torch.outer(k, k) / 64
    save_file(state, tmp_path / "a.safetensors", {"names": "stylegan2-ada-pytorch", "kind": "stylegan2", "license": "CC BY 4.0"})
    weight_convert.main([str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "b.safetensors")])
    H = model_zoo.load_generator(tmp_path / "b.safetensors")
    assert H.config == G.config and torch.equal(H(torch.ones(1, 512)), G(torch.ones(1, 512)))
    state["synthesis.b8.conv0.resample_filter"] = torch.ones(4, 4)
    save_file(state, tmp_path / "a.safetensors", {"names": "stylegan2-ada-pytorch"})
    with pytest.raises(ValueError, match="filter"):
        weight_convert.convert(tmp_path / "a.safetensors")


@pytest.mark.parametrize("change, said", [("drop", "missing"), ("extra", "left over"), ("shape", "not")])
def test_wrong_variables_are_named(tmp_path, Network, change, said):
    values = variables(official.sg1_synthesis(8, 64, 8), "s/", 0)
    if change == "drop":
        del values["8x8/Conv1/bias"]
    elif change == "extra":
        values["8x8/Conv9/other"] = np.zeros(3, np.float32)
    else:
        values["8x8/Conv1/bias"] = np.zeros(5, np.float32)
    parts = {"synthesis": network(Network, values), "mapping": network(Network, variables(official.mapping("", 2), "m/", 0))}
    Gs = network(Network, {"dlatent_avg": np.zeros(512, np.float32)}, parts)
    with open(tmp_path / "n.pkl", "wb") as f:
        pickle.dump((Gs, network(Network, variables(official.sg1_discriminator(8, 64, 8), "d/", 0)), Gs), f)
    with pytest.raises(ValueError, match=said) as error:
        weight_convert.convert(tmp_path / "n.pkl")
    assert "Conv" in str(error.value) or "conv1" in str(error.value)


class Evil:
    def __init__(self, *reduce):
        self.reduce = reduce

    def __reduce__(self):
        return self.reduce


def hostile(marker):
    touch = f"touch {marker}"
    zipped = pickle.dumps(Evil(os.system, (touch,)))
    deep = b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b"."
    return {
        "system": pickle.dumps(Evil(os.system, (touch,))),
        "eval": pickle.dumps(Evil(eval, (f"open({str(marker)!r}, 'w')",))),
        "nested": pickle.dumps({"G_ema": [Evil(exec, (f"open({str(marker)!r}, 'w')",))]}),
        "inner": b"\x80\x04ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(zipped)) + zipped + b"tR.",
        "attribute": b"\x80\x04cdnnlib.tflib.network\nNetwork\n(N}\x8c\x01a\x8c\x01bsttb.",
        "memo": b"\x80\x04Nr\xff\xff\xff\xff.",
        "count": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
        "deep": deep,
        "getattr": b"\x80\x04cbuiltins\ngetattr\n.",
        "pid": b"\x80\x04\x8c\x01aQ.",
    }


@pytest.mark.parametrize("name", list(hostile("")))
def test_hostile_pickles_run_nothing(tmp_path, name):
    (tmp_path / "x.pkl").write_bytes(hostile(tmp_path / "marker")[name])
    with pytest.raises(ValueError) as error:
        weight_convert.convert(tmp_path / "x.pkl")
    assert not (tmp_path / "marker").exists() and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"", "empty"),
        (b"hello", "neither"),
        (pickle.dumps({"a": 1}), "no StyleGAN"),
        (pickle.dumps([1] * 1000)[:-20], "cut off"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, said):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        weight_convert.convert(tmp_path / "x.pkl")
