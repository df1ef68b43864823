"""Files that weight_convert refuses: what they name is not run, what they declare is not made; and where it writes."""

import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

import weight_convert
from editor import checkpoints, dialects, downloads, pickles
from stylegan_layers import Config, Generator
from tests.golden.formats import equal, golden_values, lernapparat


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
        "place": b"\x80\x04K\x00K\x09\x86Q.",
        "tensor": hostile_tensor(marker),
        "set": b"\x80\x04cbuiltins\nset\n]]a\x85R.",
    }


def hostile_tensor(marker):
    """A StyleGAN2-ADA-PyTorch pickle whose one tensor has a command where its numbers should be: it is read late."""
    inner = pickle.dumps(Evil(os.system, (f"touch {marker}",)))
    storage = Evil(torch.storage._load_from_bytes, (inner + b"\0" * 2000,))
    tensor = Evil(torch._utils._rebuild_tensor_v2, (storage, 0, (1,), (1,), False, {}))
    meta = pickle.dumps({"class_name": "Generator", "state": {"_parameters": {"synthesis.b4.const": tensor}}}, protocol=2)[2:-1]
    return b"\x80\x02}X\5\0\0\0G_emactorch_utils.persistence\n_reconstruct_persistent_obj\n" + meta + b"\x85Rs."


@pytest.mark.parametrize("name", list(hostile("")))
def test_hostile_pickles_run_nothing(tmp_path, name):
    (tmp_path / "x.pkl").write_bytes(hostile(tmp_path / "marker")[name])
    with pytest.raises(ValueError) as error:
        weight_convert.convert(tmp_path / "x.pkl")
    assert not (tmp_path / "marker").exists() and "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("call", [os.system, eval])
def test_hostile_pt_files_run_nothing(tmp_path, zipped, call):
    marker = tmp_path / "marker"
    command = f"touch {marker}" if call is os.system else f"open({str(marker)!r}, 'w')"
    torch.save({"g_ema": Evil(call, (command,))}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=f"it names .*{call.__name__}, which no StyleGAN file needs") as error:
        weight_convert.convert(tmp_path / "x.pt")
    assert not marker.exists() and "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_pt_that_is_cut_off(tmp_path, zipped, part):
    torch.save(
        {"g_ema": {f"style.{i}.weight": torch.zeros(99, 99) for i in range(20)}}, tmp_path / "x", _use_new_zipfile_serialization=zipped
    )
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ValueError, match="cut off"):
        weight_convert.convert(tmp_path / "x.pt")


@pytest.mark.parametrize("data", [{"model": torch.zeros(3)}, [1, 2], torch.zeros(3), {}, {1: 2}])
def test_a_pt_of_something_else(tmp_path, data):
    torch.save(data, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="no StyleGAN"):
        weight_convert.convert(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "content, said",
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"", "empty"),
        (b"hello", "neither"),
        (b"PK\x05\x06" + bytes(18), "x.pkl: "),
        (pickle.dumps({"a": 1}), "no StyleGAN"),
        (pickle.dumps([1] * 1000)[:-20], "cut off"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, said):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        weight_convert.convert(tmp_path / "x.pkl")


def small(path, **save):
    """A lernapparat file in the zip format with the golden weights, and what it converts to."""
    values = golden_values("sg1", 1)
    G, _ = lernapparat(values)
    torch.save(G | {"truncation.avg_latent": values["dlatent_avg"]}, path, **save)
    return weight_convert.convert(path)[0]


def repacked(path, out, compressed=(), change=lambda name, raw: raw):
    with zipfile.ZipFile(path) as a, zipfile.ZipFile(out, "w") as b:
        for info in a.infolist():
            packing = zipfile.ZIP_DEFLATED if compressed == "all" or info.filename in compressed else zipfile.ZIP_STORED
            b.writestr(info.filename, change(info.filename, a.read(info)), packing)
    return out


def test_a_pt_that_a_zip_tool_repacked(tmp_path):
    G = small(tmp_path / "n.pt")
    for compressed in ((), "all", ("n/data/3",)):
        assert equal(weight_convert.convert(repacked(tmp_path / "n.pt", tmp_path / "r.pt", compressed))[0], G)
    raw = bytearray((tmp_path / "n.pt").read_bytes())
    raw[len(raw) // 2] ^= 1  # one bit of one weight
    (tmp_path / "n.pt").write_bytes(raw)
    with pytest.raises(ValueError, match="cut off or damaged.*Bad CRC-32 for file 'n/data/"):
        weight_convert.convert(tmp_path / "n.pt")
    cut = repacked(tmp_path / "r.pt", tmp_path / "s.pt", change=lambda name, raw: raw[:-4] if name == "n/data/3" else raw)
    with pytest.raises(ValueError, match="a storage has .* bytes where .* are declared"):
        weight_convert.convert(cut)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_read_as_pytorch_reads_them(tmp_path, dtype, zipped):
    """Types, views, expanded and shared storages, empty tensors: against torch.load."""
    torch.manual_seed(0)
    x = (torch.randn(6, 8) * 50).to(dtype)
    data = {"a": x, "b": x.t(), "c": x[1:, ::2], "d": x[:, :1].expand(6, 5), "e": x[0, 0], "f": x[:0]}
    data["g"] = torch.nn.Parameter(torch.ones(3))
    torch.save(data, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    ours, theirs = pickles.read_pt(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt", weights_only=True)
    for name, value in theirs.items():
        assert np.array_equal(dialects.as_numpy(ours[name]), value.detach().float().numpy()), name


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def mapping(**values):
    return b"}(" + b"".join(text(k) + v for k, v in values.items()) + b"u"


def tensorflow(static=b"}", variables=b"]", own=b"]"):
    """A pickle of (G, D, Gs), by hand."""
    name = b"cdnnlib.tflib.network\nNetwork\n)\x81"
    parts = mapping(synthesis=name + mapping(variables=variables, static_kwargs=static) + b"b", mapping=name + b"}b")
    return b"\x80\x03(" + (name + b"}b") * 2 + name + mapping(components=parts, variables=own) + b"bt."


def modules(inner):
    """A pickle of {"G_ema": module}, whose `_modules` are `inner`."""
    module = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
    return b"\x80\x03" + mapping(G_ema=module + mapping(class_name=text("Generator"), state=mapping(_modules=inner)) + b"\x85R") + b"."


def dag(levels):
    """t = (t, t), again and again: two bytes more, twice the size."""
    return b"K\x01" + b"2\x86" * levels


EXPENSIVE = {
    "key": b"\x80\x02}" + dag(60) + b"K\x01s.",
    "keys": b"\x80\x02}(" + dag(60) + b"K\x01u.",
    "dict": b"\x80\x02(" + dag(60) + b"K\x01d.",
    "memo": b"\x80\x02K\x01q\x00" + b"h\x00h\x00\x86q\x000" * 60 + b"}h\x00K\x01s.",
    "set": b"\x80\x02cbuiltins\nset\n]" + dag(60) + b"a\x85R.",
    "additems": b"\x80\x04\x8f(" + dag(60) + b"\x90.",
    "ordered": b"\x80\x02ccollections\nOrderedDict\n]" + dag(60) + b"K\x01\x86a\x85R.",
    "variables": tensorflow(variables=b"](" + dag(60) + b"K\x01\x86e"),
    "value": tensorflow(variables=b"]" + text("4x4/Const/bias") + dag(60) + b"\x86a"),
    "repr": tensorflow(static=mapping(label_size=dag(40))),
    "settings": tensorflow(static=b"}" + (b"q\x01}(" + b"".join(text(k + "_kwargs") + b"h\x01" for k in "abcde") + b"u") * 10),
    "noise": tensorflow(variables=b"]" + text("noise60000000000") + b"K\x01\x86a"),
    "digits": tensorflow(variables=b"]" + text("noise" + "9" * 5000) + b"K\x01\x86a"),
    "self": modules(b"}q\x01(" + text("a") + b"h\x01u"),
    "number": b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".",
    "steps": b"\x80\x02]" + b"N0" * 20_000 + b".",
    "deep": b"\x80\x02}" + b")" + b"\x85" * 15_000 + b"K\x01s.",
    "dag": b"\x80\x02" + dag(200) + b".",
}


def within(count, calls):
    """A pickle that reads a PyTorch storage of before 2020, whose own pickles take `count` steps each, `calls` times."""
    steps = b"N0" * count
    inner = pickles.LEGACY_PT + steps + b"K\x01." + steps + b"}X\r\0\0\0little_endian\x88s." + steps + b"N." + steps + b"]."
    call = b"\x80\x04ctorch.storage\n_load_from_bytes\nq\x00B" + struct.pack("<I", len(inner)) + inner + b"\x85q\x010"
    return call + b"h\x00h\x01R0" * calls + b"N."


def scalars(size, calls):
    """A pickle that makes a number of a text of `size`, `calls` times."""
    raw = b"X" + struct.pack("<I", size) + b"a" * size
    kind = b"cnumpy.core.multiarray\nscalar\nq\x00cnumpy\ndtype\nX\x02\0\0\0f4\x85Rq\x01"
    return b"\x80\x04" + kind + raw + b"\x86q\x020" + b"h\x00h\x02R0" * calls + b"N."


def test_pickles_within_pickles_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MOST_STEPS", 20_000)
    for program, said in ((within(900, 9), "more than 20,000 steps"), (scalars(100, 9), "a number of more than 64 bytes")):
        (tmp_path / "x.pkl").write_bytes(program)
        with pytest.raises(ValueError, match=said):
            weight_convert.convert(tmp_path / "x.pkl")


@pytest.mark.parametrize("name", EXPENSIVE)
def test_a_small_file_costs_little(tmp_path, monkeypatch, name):
    monkeypatch.setattr(pickles, "MOST_STEPS", 20_000)
    (tmp_path / "x.pkl").write_bytes(EXPENSIVE[name])
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as error:
            weight_convert.convert(tmp_path / "x.pkl")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 10 and str(error.value).isprintable() and len(str(error.value)) < 600


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_repeat_their_numbers_are_paid_for(tmp_path, zipped):
    """A stride of 0 makes gigabytes of a number; small ones add up. The mean latent of some files is repeated so, and is read."""
    many = {f"style.{i}.weight": torch.zeros(1).expand(512, 512) for i in range(1, 50)}
    for state in ({"style.1.weight": torch.zeros(1).expand(40_000, 40_000)}, many):
        torch.save({"g_ema": state}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        tracemalloc.start()
        with pytest.raises(ValueError, match="many times as large as the file"):
            weight_convert.convert(tmp_path / "x.pt")
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()


def test_text_from_files_cannot_reach_the_terminal(tmp_path):
    for name in ("\x1b[31m", "a\nb", "\u202e", "x" * 10_000):
        torch.save({"g_ema": {"style.1.weight": torch.zeros(2, 2), name: torch.zeros(1)}}, tmp_path / "x.pt")
        with pytest.raises(ValueError) as error:
            weight_convert.convert(tmp_path / "x.pt")
        assert str(error.value).isprintable() and len(str(error.value)) < 400


# ---------------------------------------------------------------------------------------------------------------------
# Where it goes


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A weight_files folder of the test's own, with a bundled encoder, and the function that converts into it."""
    folder = tmp_path / "weight_files"
    folder.mkdir()
    (folder / "encoder.safetensors").write_bytes(b"bundled")
    monkeypatch.setattr(checkpoints, "HERE", tmp_path)
    monkeypatch.setattr(checkpoints, "PROTECTED", [folder / "encoder.safetensors"])
    G = Generator(Config("stylegan2", 8, 64, 8, 1, 16, 16))

    def convert(name, *words):
        torch.save(G.state_dict(), tmp_path / name)
        return weight_convert.main([str(tmp_path / name), *map(str, words)])

    return convert, folder, tmp_path


def test_nothing_of_the_project_is_replaced(house, monkeypatch):
    convert, folder, tmp_path = house
    monkeypatch.setattr(weight_convert, "convert", lambda *_: pytest.fail("nothing may be read before"))
    (folder / "link.safetensors").symlink_to(folder / "encoder.safetensors")
    (tmp_path / "photo.safetensors").write_bytes(b"a photograph")
    source, ours = tmp_path / "n.pt", folder / "encoder.safetensors"
    for name, words, said in [
        ("encoder.pt", [], "comes with the project.*choose another name with --out"),
        ("n.pt", ["--out", ours], "comes with the project"),
        ("n.pt", ["--out", folder / "link.safetensors"], "comes with the project"),
        ("n.pt", ["--out", folder / ".." / "weight_files" / "encoder.safetensors"], "comes with the project"),
        ("n.pt", ["--discriminator", ours], "comes with the project.*--discriminator"),
        ("n.pt", ["--out", source], "ends in .safetensors"),
        ("s.safetensors", ["--out", tmp_path / "s.safetensors"], "is the source itself"),
        ("s.safetensors", ["--out", tmp_path / "a.safetensors", "--discriminator", tmp_path / "s.safetensors"], "is the source itself"),
        ("n.pt", ["--out", tmp_path / "photo.safetensors"], "is no checkpoint of this toolkit"),
        ("n.pt", ["--out", tmp_path / "a.safetensors", "--discriminator", tmp_path / "a.safetensors"], "the same file"),
        ("n.pt", ["--out", tmp_path / "n.pt" / "a.safetensors"], "Not a directory"),
        ("n.pt", ["--out", tmp_path / ("x" * 300 + ".safetensors")], "name too long"),
    ]:
        with pytest.raises((ValueError, OSError), match=said):
            convert(name, *words)
    assert ours.read_bytes() == b"bundled" and (tmp_path / "photo.safetensors").read_bytes() == b"a photograph"
    assert checkpoints.PROTECTED and not list(folder.glob(".*"))


def test_a_download_keeps_what_is_known_of_it(house, monkeypatch):
    convert, folder, tmp_path = house
    convert("me.pt", "--quiet")
    monkeypatch.setattr(downloads, "fetch", lambda name, report: tmp_path / "me.pt")
    assert weight_convert.main(["stylegan2-ffhq-256", "--quiet"]) == 0
    said, item = checkpoints.read_metadata(folder / "stylegan2-ffhq-256.safetensors"), downloads.DOWNLOADS["stylegan2-ffhq-256"]
    assert (said["license"], said["source"], said["perceptual"]) == (item.license, item.url, "vgg16")
    assert said["alignment"] == {"scale": 1.0, "em_scale": 0.1}  # FFHQ's


def test_what_comes_with_the_project_is_protected():
    assert set(checkpoints.PROTECTED) == set((checkpoints.HERE / "weight_files").glob("*.safetensors")) >= set(checkpoints.BUNDLED.values())


def test_a_checkpoint_that_is_there_is_not_replaced(house, capsys):
    """Two runs of NVIDIA's training give their snapshots the same names."""
    convert, folder, tmp_path = house
    assert convert("me.pt") == 0
    said = capsys.readouterr()
    assert said.out == f"{folder}/me.safetensors\n" and "stylegan2, 8x8, 4 layers" in said.err
    before = (folder / "me.safetensors").read_bytes()
    for words in (["me.pt"], ["me.pth", "--out", folder / "me.safetensors"], ["me.pt", "--out", folder / "new.safetensors",
                  "--discriminator", folder / "me.safetensors"]):  # fmt: skip
        with pytest.raises(ValueError, match="me.safetensors: exists; remove it, or choose another name with --out FILE.safetensors"):
            convert(*words)
    with pytest.raises(ValueError, match="was made from me.pt; choose another name with --out"):
        convert("me.pth")
    assert (folder / "me.safetensors").read_bytes() == before and not (folder / "new.safetensors").exists()
    assert convert("me.pth", "--out", folder / "new.safetensors", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
