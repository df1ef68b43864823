"""The restricted reader: what it reads of honest files, and what that costs. Hostile ones: test_hostile.py, test_hundred.py."""

import io
import pickle
import sys
import tracemalloc
import types

import numpy as np
import pytest
import torch

import weight_convert
from editor import pickles
from stylegan_layers import Config, Generator


def others(module, name):
    """An nn.Module class of another project, which is not there when the file is read."""
    path = ""
    for part in module.split("."):
        path = f"{path}.{part}".lstrip(".")
        sys.modules.setdefault(path, types.ModuleType(path))
    setattr(sys.modules[module], name, cls := type(name, (torch.nn.Module,), {"__module__": module}))
    return cls


def rebuilt(network, cls, inner):
    """A network of ours as a module of other classes."""
    module = cls()
    module._parameters.update(network._parameters)
    module._buffers.update({k: v for k, v in network._buffers.items() if k not in network._non_persistent_buffers_set})
    module._modules.update({k: rebuilt(v, inner, inner) for k, v in network._modules.items()})
    return module


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return Generator(Config("stylegan2", 8, 64, 8, 1, 16, 16))


@pytest.fixture
def whole(source):
    """A generator of someone's own class, with what such modules carry beside tensors."""
    G = rebuilt(source, others("training.networks_stylegan2", "Generator"), others("training.networks_stylegan2", "SynthesisLayer"))
    G.device, G.dtype, G.act, G.sizes = torch.device("cpu"), torch.float32, torch.nn.LeakyReLU(0.2), torch.Size([3, 4])
    G.function, G.array, G.number = torch.nn.functional.relu, np.ones(3), np.float64(2)
    yield G
    for name in ("training.networks_stylegan2", "training"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_whole_modules_of_unknown_classes(tmp_path, source, whole, protocol, form):
    """torch.save(G): G's class is never looked for, its tensors are read."""
    if form == "pickle":
        (tmp_path / "x.pt").write_bytes(pickle.dumps({"G_ema": whole}, protocol))
    elif form == "zip":
        torch.save(whole, tmp_path / "x.pt", pickle_protocol=protocol)
    else:
        with pytest.warns(UserWarning, match="source code"):
            torch.save(whole, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "training" and not hasattr(sys.modules[name], "__file__")]:
        del sys.modules[name]
    G, _ = weight_convert.convert(tmp_path / "x.pt")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in G.state_dict().items())


def test_a_module_says_what_it_was(tmp_path, whole):
    torch.save(whole, tmp_path / "x.pt")
    found = pickles.read_pt(tmp_path / "x.pt")
    assert (found.class_name, found.origin) == ("Generator", "training.networks_stylegan2.Generator")
    act = found.state["_modules"]["act"]
    assert act.origin == "torch.nn.modules.activation.LeakyReLU" and act.state["negative_slope"] == 0.2
    assert {"", "synthesis.", "synthesis.b8.conv1.affine."} < {prefix for prefix, _ in found.parts()} and repr(found) == "<Module>"
    assert found.state["number"] == 2 and list(found.state["array"].read()) == [1, 1, 1]


@pytest.mark.parametrize("call", [b"ccopy_reg\n_reconstructor\n", b"ccopyreg\n_reconstructor\n", b"ccopyreg\n__newobj__\n"])
def test_objects_by_copyreg(tmp_path, call):
    """How persistence.py, and pickles of protocol 0 and 1, make an object."""
    arguments = b"codd.place\nOdd\n" + (b"\x85" if b"newobj" in call else b"c__builtin__\nobject\nN\x87")
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + call + arguments + b"R}X\1\0\0\0aK\x05sb.")
    found = pickles.Reader(tmp_path / "x.pkl").load()
    assert (type(found), found.origin, found.state) == (pickles.Module, "odd.place.Odd", {"a": 5})


def test_a_storage_of_many_tensors_is_read_once(tmp_path, monkeypatch):
    """Faces that are slices of one array, as e4e's latents are saved: their storage is one, and as large as all of them."""
    faces = torch.randn(2000, 4, 64, generator=torch.Generator().manual_seed(0))
    torch.save({str(i): face for i, face in enumerate(faces)}, tmp_path / "x.pt")
    found = pickles.read_pt(tmp_path / "x.pt")
    assert all(np.array_equal(found[str(i)].read(), faces[i]) for i in range(2000))


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_not_asked_for_stays_in_the_file(tmp_path, protocol):
    """Three networks of 4 MB: the reader alone takes 3% of them, in text too (protocol 2)."""
    torch.manual_seed(0)
    networks = {name: [torch.randn(1000, 100) for _ in range(10)] for name in ("G", "D", "G_ema")}
    stream = io.BytesIO()
    pickle.dump(networks, stream, protocol)
    (tmp_path / "x.pkl").write_bytes(stream.getvalue())
    tracemalloc.start()
    found = pickles.Reader(tmp_path / "x.pkl").load()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(found["D"][7].read(), networks["D"][7])
    assert kept < 0.03 * stream.tell() and peak < (0.03 if protocol == 4 else 0.25) * stream.tell()
