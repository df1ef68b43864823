"""Checkpoints of ours that lie: each is one line that names the file, before anything of the size that it declares is made."""

import json
import struct
import time

import pytest
import torch

from editor import checkpoints, networks
from perceptual_model import FeatureConfig, Features
from stylegan_layers import Config, Discriminator, Generator

LOAD = {
    "generator": lambda path, G: checkpoints.load_generator(path),
    "discriminator": lambda path, G: checkpoints.load_discriminator(path),
    "encoder": lambda path, G: checkpoints.load_encoder(path, G),
    "attributes": lambda path, G: checkpoints.load_attributes(path),
    "features": lambda path, G: checkpoints.load_features(path),
}
STAGES = [{"expand": 0, "out": 4, "kernel": 3, "stride": 2}] + [{"expand": 8, "out": 4, "kernel": 3, "stride": 2}] * 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small checkpoint of each role: {role: path}, and the generator that the encoder belongs to."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whole")
    config = Config("stylegan2", 8, 64, 8, 1, 16, 16)
    features = {"kind": networks.FEATURES, "size": 32, "stages": STAGES, "taps": [0, 1, 2, 3]}
    made = {
        "generator": Generator(config),
        "discriminator": Discriminator(config),
        "encoder": networks.Encoder(networks.EncoderConfig(features, 4, 16, (4, 4, 4), 8, (4, 4))),
        "attributes": networks.AttributeNet(networks.AttributeConfig(resolution=32, channels=(2, 2, 2, 2, 2), hidden=4)),
        "features": Features(FeatureConfig(**features)),
    }
    paths = {role: folder / f"{role}.safetensors" for role in made}
    said = {"generator_hash": checkpoints.save(paths["generator"], made["generator"], alignment={"scale": 0.7, "em_scale": 0.4})}
    for role, network in made.items():
        if role != "generator":
            checkpoints.save(paths[role], network, **said if role == "encoder" else {})
    return paths, checkpoints.load_generator(paths["generator"]), made


def parts(path):
    """Header (dict) and tensors (bytes) of a .safetensors file."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def rewritten(path, out, change):
    """The checkpoint with its header changed in place by `change(metadata, config, header)`; a text becomes the config as it is."""
    header, tensors = parts(path)
    config = json.loads(header["__metadata__"]["config"])
    text = change(header["__metadata__"], config, header)
    if "config" in header["__metadata__"]:
        header["__metadata__"]["config"] = text if isinstance(text, str) else json.dumps(config)
    raw = json.dumps(header).encode()
    out.write_bytes(struct.pack("<Q", len(raw)) + raw + tensors)
    return out


def refused(load, path, said, *arguments):
    """The one line with which `load` refuses the file; in less than two seconds."""
    began = time.process_time()
    with pytest.raises((ValueError, OSError), match=said) as error:
        load(path, *arguments)
    text = str(error.value)
    assert str(path) in text and text.isprintable() and len(text) < 600 and time.process_time() - began < 2
    return text


@pytest.mark.parametrize("role", LOAD)
def test_each_role_is_read_back_as_it_was(whole, role):
    paths, G, made = whole
    network = LOAD[role](paths[role], G)
    wanted = made[role].state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())
    assert not any(value.is_meta for value in [*network.parameters(), *network.buffers()])
    with pytest.raises(ValueError, match="holds an? "):
        LOAD[role](paths["features" if role == "generator" else "generator"], G)


def put(**values):
    return lambda meta, config, header: config.update(values)


CONFIGS = {  # what a config says -> what the message names
    "generator": [
        (put(mapping_layers=10**4), "mapping_layers 10000"),
        (put(mapping_layers=0), "mapping_layers 0"),
        (put(mapping_layers=2), "mapping.fc1.weight is missing"),
        (put(w_dim=10**6), "w_dim 1000000"),
        (put(w_dim=4096), "affine.weight is"),
        (put(z_dim=10**30), "z_dim 1000"),
        (put(z_dim=-1), "z_dim -1"),
        (put(z_dim=True), "z_dim True"),
        (put(z_dim=16.0), r"z_dim 16\.0"),
        (put(channel_base=10**9), "channel_base 1000000000"),
        (put(channel_base=4), "no channels"),
        (put(channel_max=8192), "affine.weight is|left over|is \\["),
        (put(resolution=12), "resolution 12; it must be a power of two"),
        (put(resolution=1 << 40), "resolution 1099511627776"),
        (put(resolution="8"), "resolution '8'"),
        (put(resolution=[[[8]]]), "resolution"),
        (put(resolution=1024), "channel_base 64 leaves no channels at 1024x1024"),
        (put(resolution=1024, channel_base=1 << 24, channel_max=8192), "and .* more"),
        (put(conv_clamp="x"), "conv_clamp 'x'"),
        (put(conv_clamp=-1), "conv_clamp -1"),
        (put(conv_clamp=[]), r"conv_clamp \[\]"),
        (put(other=1), "knows no setting other; a stylegan2 has resolution, channel_base"),
        (put(**{"\x1b[31m\n": 1}), r"knows no setting \\x1b\[31m\\n"),
        (put(kind="stylegan1"), "knows no setting kind"),
        (lambda meta, config, header: config.pop("resolution"), "misses resolution"),
        (lambda meta, config, header: "[1]", "not a dict"),
        (lambda meta, config, header: "null", "not a dict"),
        (lambda meta, config, header: "{", "no JSON"),
        (lambda meta, config, header: "[" * 100_000, "no JSON"),
        (lambda meta, config, header: '{"resolution": ' + "9" * 5000 + "}", "no JSON"),
        (lambda meta, config, header: '{"resolution": NaN, "channel_base": 64}', "no JSON"),
        (lambda meta, config, header: '{"resolution": 8, "resolution": 8}', "a key twice"),
    ],
    "discriminator": [(put(channel_max=4), "is \\["), (put(resolution=4), "left over"), (put(resolution=0), "resolution 0")],
    "attributes": [
        (put(channels=[2] * 6), "channels"),
        (put(channels=[2, 2, 2, 2, 10**9]), "1000000000"),
        (put(channels="abcde"), "channels"),
        (put(resolution=10**6), "resolution 1000000"),
        (put(hidden=None), "hidden None"),
        (put(hidden=8), "fc1.bias is"),
    ],
    "features": [
        (put(size=0), "size 0"),
        (put(stages=[]), "stages"),
        (put(stages=STAGES * 1000), "stages"),
        (put(stages=[1]), "the stage 1"),
        (put(stages=[{**STAGES[0], "out": 1 << 50}]), "stages: out"),
        (put(stages=[{**STAGES[0], "more": 1}]), "the stage"),
        (put(taps=[3, 2]), "taps"),
        (put(taps=[9]), "taps 9"),
        (put(taps=[[0]]), "taps"),
        (lambda meta, config, header: config.pop("taps"), "misses taps"),
    ],
    "encoder": [
        (put(features={}), "features must have"),
        (put(features={"kind": networks.FEATURES, "size": 32, "stages": STAGES, "taps": [0]}), "4 taps"),
        (put(num_ws=10**6), "num_ws 1000000"),
        (put(w_dim=10**6), "w_dim 1000000"),
        (put(w_dim=8), "fc2.bias is"),
        (put(channels=[1, 2]), "channels"),
        (put(ranks=[10**12, 1]), "ranks"),
        (put(hidden=10**12), "hidden"),
    ],
}


@pytest.mark.parametrize("role, i", [(role, i) for role, rows in CONFIGS.items() for i in range(len(rows))])
def test_a_config_that_lies_is_refused_by_name(tmp_path, whole, role, i):
    change, said = CONFIGS[role][i]
    paths, G, _ = whole
    refused(LOAD[role], rewritten(paths[role], tmp_path / "x.safetensors", change), said, G)


def meta(**values):
    return lambda said, config, header: said.update(values)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda said, config, header: said.pop("format"), "no checkpoint of this toolkit"),
        (lambda said, config, header: said.pop("kind"), "have no kind"),
        (lambda said, config, header: said.pop("config"), "have no config"),
        (lambda said, config, header: header.pop("__metadata__") and None, "no checkpoint of this toolkit"),
        (meta(format="2\x1b]0;x\x07"), r"format 2\\x1b\]0;x\\x07; this version reads 1"),
        (meta(kind="\x1b[2J" * 1000), r"holds a \\x1b\[2J"),
        (meta(format="pt"), "no checkpoint of this toolkit"),
        (meta(alignment="[1, 2]"), "alignment is"),
        (meta(alignment='{"scale": 1}'), "em_scale None"),
        (meta(alignment='{"scale": 0, "em_scale": 0.1}'), "scale 0"),
        (meta(alignment='{"scale": 1e999, "em_scale": 0.1}'), "scale inf"),
        (meta(alignment='{"scale": [], "em_scale": 0.1}'), r"scale \[\]"),
        (meta(alignment="{" * 100_000), "no JSON"),
    ],
)
def test_metadata_that_lie_are_refused_by_name(tmp_path, whole, change, said):
    paths, _, _ = whole
    header, tensors = parts(paths["generator"])
    config = json.loads(header["__metadata__"]["config"])
    change(header["__metadata__"], config, header)
    raw = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + tensors)
    refused(checkpoints.load_generator, tmp_path / "x.safetensors", said)


CONST = "synthesis.b4.const"


def tensor(**values):
    return lambda said, config, header: header[CONST].update(values) and None


@pytest.mark.parametrize(
    "change",
    [
        tensor(shape=[1 << 40, 1 << 40]),
        tensor(shape=[9, 4, 4]),
        tensor(shape=[-1]),
        tensor(dtype="F65"),
        tensor(data_offsets=[0, 1 << 62]),
        tensor(data_offsets=[4, 0]),
        tensor(dtype="I32"),
        tensor(shape=[128]),
        tensor(shape=[8, 4, 4, 1]),
        lambda said, config, header: header.update({"more": header[CONST]}),
        lambda said, config, header: header.update({"y" * 5000: header.pop(CONST)}),
        lambda said, config, header: header.pop(CONST) and None,
    ],
)
def test_tensors_that_lie_are_refused(tmp_path, whole, change):
    paths, _, _ = whole
    refused(checkpoints.load_generator, rewritten(paths["generator"], tmp_path / "x.safetensors", change), "const|not a readable|y{50}")


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 3000, -1])
def test_a_checkpoint_that_is_cut_off(tmp_path, whole, keep):
    raw = whole[0]["generator"].read_bytes()
    (tmp_path / "x.safetensors").write_bytes(raw[:keep])
    refused(checkpoints.load_generator, tmp_path / "x.safetensors", "is it whole|empty file")


@pytest.mark.parametrize("length", [0, 1, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_a_header_whose_length_lies(tmp_path, whole, length):
    raw = whole[0]["generator"].read_bytes()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + raw[8:])
    refused(checkpoints.load_generator, tmp_path / "x.safetensors", "is it whole|no checkpoint of this toolkit")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("role", LOAD)
def test_weights_that_are_not_finite_are_refused(tmp_path, whole, role, half, value):
    """A NaN in one weight makes every picture black, or only some of them, without a word."""
    paths, G, made = whole
    network = made[role]
    name = list(network.state_dict())[-1]
    old, new = (network.state_dict()[name].clone() for _ in range(2))
    new.view(-1)[-1] = value
    network.load_state_dict({name: new}, strict=False)
    try:
        checkpoints.save(tmp_path / "x.safetensors", network, half=half, **{"generator_hash": G.meta["hash"]} if role == "encoder" else {})
    finally:
        network.load_state_dict({name: old}, strict=False)
    refused(LOAD[role], tmp_path / "x.safetensors", f"{name} holds NaN or infinity", G)


def test_a_key_twice_is_refused():
    with pytest.raises(ValueError, match="a key twice"):
        checkpoints.parse_dict('{"resolution": 8, "resolution": 16}', "config")


def test_an_encoder_of_another_generator_is_refused(tmp_path, whole):
    paths, G, _ = whole
    path = rewritten(paths["encoder"], tmp_path / "x.safetensors", meta(generator_hash="\x1b[31m" * 50))
    assert "\\x1b" in refused(LOAD["encoder"], path, "another generator", G)


def test_a_frozen_generator_takes_new_weights(whole, tmp_path):
    """What `freeze` derived from the old weights goes with them; reading a checkpoint into a network must not leave it behind."""
    _, G, made = whole
    torch.manual_seed(1)
    other = Generator(G.config)
    z = torch.ones(1, 16)
    frozen = Generator(G.config).freeze()
    frozen(z)
    frozen.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert torch.allclose(frozen(z), other(z), atol=1e-5)
    checkpoints.save(tmp_path / "o.safetensors", made["generator"])
    checkpoints.load_strictly(frozen, tmp_path / "o.safetensors")
    with torch.no_grad():
        assert torch.allclose(frozen(z), made["generator"](z), atol=1e-5)


def test_a_checkpoint_is_its_own_memory(whole, tmp_path):
    """The file may be replaced, or cut, while the network is used."""
    (tmp_path / "x.safetensors").write_bytes(whole[0]["generator"].read_bytes())
    G = checkpoints.load_generator(tmp_path / "x.safetensors")
    before = G.synthesis.b8.conv1.weight.clone()
    with open(tmp_path / "x.safetensors", "r+b") as f:
        f.seek(8 + int.from_bytes(f.read(8), "little"))
        f.write(bytes(100_000))
    assert torch.equal(G.synthesis.b8.conv1.weight, before)


@pytest.mark.parametrize("name", ["faces128", "faces128_discriminator", "encoder"])
def test_a_bundled_file_is_what_saving_it_again_makes(name, tmp_path):
    """A generator that went through --to and back must have the hash that boundaries, latents and the encoder know."""
    bundled, path = checkpoints.HERE / "weight_files" / f"{name}.safetensors", tmp_path / "copy.safetensors"
    path.write_bytes(bundled.read_bytes())
    checkpoints.sort_metadata(path)
    assert path.read_bytes() == bundled.read_bytes()
